#include "support/language_text.hpp"

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <twoheads/io/model_folder.hpp>
#include <twoheads/model/llama2c.hpp>
#include <twoheads/model/tokenizer.hpp>
#include <twoheads/train/example.hpp>
#include <utility>
#include <variant>

#ifdef TWOHEADS_WITH_TEXT
#include <twoheads/text/text_tokenizer.hpp>

#include "support/text_files.hpp"
#endif

namespace programs {

namespace fs = std::filesystem;

template <class Scalar>
twoheads::LanguageModel<Scalar> read_language_model(const std::string& path) {
  if (fs::is_directory(path)) return twoheads::read_model<Scalar>(fs::path(path));
  return twoheads::read_llama2c<Scalar>(fs::path(path));
}

template twoheads::LanguageModel<float> read_language_model(const std::string&);
template twoheads::LanguageModel<double> read_language_model(const std::string&);

namespace {

/// A model of bytes needs no tokenizer: ids are bytes. Those of a character that has not ended are held back.
class ByteText {
 public:
  /// What a text without a prompt begins with: the end of a line before it.
  static constexpr int start = '\n';

  [[nodiscard]] std::string add(int token) {
    const auto byte = static_cast<unsigned char>(token);
    const bool goes_on = (byte & 0xC0U) == 0x80U;
    // The beginning of a character that never ended.
    std::string complete = goes_on ? std::string() : std::exchange(held_, {});
    held_ += static_cast<char>(byte);
    const auto first = static_cast<unsigned char>(held_.front());
    const std::size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : first >= 0xC0 ? 2 : 1;
    if (held_.size() >= length) complete += std::exchange(held_, {});
    return complete;
  }
  [[nodiscard]] std::string finish() { return std::exchange(held_, {}); }

 private:
  std::string held_;
};

/// Whether a folder says nothing of how its model's text is cut.
bool has_no_tokenizer(const fs::path& folder) {
  for (const char* file : {"tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model"})
    if (fs::exists(folder / file)) return false;
  return true;
}

}  // namespace

/// A tokenizer of one of the kinds, and what it needs to write tokens as they come.
struct LanguageText::Body {
  explicit Body(twoheads::Tokenizer tokenizer) : kind(std::move(tokenizer)) {}
  explicit Body(ByteText text) : kind(std::move(text)) {}
  ByteText* bytes() { return std::get_if<ByteText>(&kind); }
  twoheads::Tokenizer* llama2c() { return std::get_if<twoheads::Tokenizer>(&kind); }
  int previous = 0;  ///< of llama2.c's tokenizer, whose pieces depend on it
#ifdef TWOHEADS_WITH_TEXT
  explicit Body(twoheads::TextTokenizer tokenizer) : kind(std::move(tokenizer)), stream(folder()->parts()) {}
  twoheads::TextTokenizer* folder() { return std::get_if<twoheads::TextTokenizer>(&kind); }
  std::variant<twoheads::Tokenizer, ByteText, twoheads::TextTokenizer> kind;
  std::optional<twoheads::TextStream> stream;
  std::set<int> ends;  ///< further tokens that end a text, as the model's folder says
#else
  std::variant<twoheads::Tokenizer, ByteText> kind;
#endif
};

#ifdef TWOHEADS_WITH_TEXT
namespace {

/// The ids that a folder's file calls eos_token_id: a number, or a list of them.
void add_ends(const fs::path& path, twoheads::Index vocabulary, std::set<int>& ends) {
  if (!fs::exists(path)) return;
  const nlohmann::json settings = nlohmann::json::parse(read_text(path.string()), nullptr, false);
  if (!settings.is_object()) throw std::runtime_error(path.string() + ": no JSON object");
  if (!settings.contains("eos_token_id")) return;
  const nlohmann::json& ids = settings["eos_token_id"];
  const auto add = [&](const nlohmann::json& id) {
    if (id.is_null()) return;
    if (!id.is_number_integer() || id.get<std::int64_t>() < 0 || id.get<std::int64_t>() >= vocabulary)
      throw std::runtime_error(path.string() + ": eos_token_id is " + ids.dump() + ", expected ids of 0 to " +
                               std::to_string(vocabulary - 1));
    ends.insert(id.get<int>());
  };
  if (ids.is_array())
    for (const nlohmann::json& id : ids) add(id);
  else
    add(ids);
}

}  // namespace
#endif

LanguageText::LanguageText(std::unique_ptr<Body> body) : body_(std::move(body)) {}
LanguageText::LanguageText(LanguageText&&) noexcept = default;
LanguageText::~LanguageText() = default;

LanguageText LanguageText::read(const std::string& path, twoheads::Index vocabulary) {
  constexpr twoheads::Index bytes = 256;
  if (vocabulary == bytes && fs::is_directory(path) && has_no_tokenizer(path))
    return LanguageText(std::make_unique<Body>(ByteText()));
  if (!fs::is_directory(path))
    return LanguageText(std::make_unique<Body>(twoheads::Tokenizer::read(fs::path(path), vocabulary)));
#ifdef TWOHEADS_WITH_TEXT
  auto body = std::make_unique<Body>(twoheads::TextTokenizer::read(path, vocabulary));
  for (const char* file : {"config.json", "generation_config.json"})
    add_ends(fs::path(path) / file, vocabulary, body->ends);
  return LanguageText(std::move(body));
#else
  throw std::runtime_error(path +
                           ": its tokenizer cannot be read by this build, which was made without ICU: install "
                           "libicu-dev (Debian) and build again");
#endif
}

std::vector<int> LanguageText::encode(const std::string& text) const {
  if (body_->bytes() != nullptr) return twoheads::byte_ids(text);
#ifdef TWOHEADS_WITH_TEXT
  if (const auto* folder = body_->folder()) return folder->encode(text);
#endif
  return body_->llama2c()->encode(text);
}

std::vector<int> LanguageText::encode_rest(const std::string& text) const {
  if (body_->bytes() != nullptr) return twoheads::byte_ids(text);
#ifdef TWOHEADS_WITH_TEXT
  if (const auto* folder = body_->folder()) return folder->encode(text, false);
#endif
  std::vector<int> ids = body_->llama2c()->encode(text);
  ids.erase(ids.begin());
  return ids;
}

std::vector<int> LanguageText::encode_prompt(const std::string& text) const {
  std::vector<int> ids = encode(text);
  if (body_->bytes() != nullptr && ids.empty()) ids.push_back(ByteText::start);
#ifdef TWOHEADS_WITH_TEXT
  if (const auto* folder = body_->folder()) {
    if (folder->end_token() && ids.size() > 1 && ids.back() == *folder->end_token()) ids.pop_back();
    // Models without a start token begin after the end of another text.
    if (ids.empty()) {
      const std::optional<int> start = folder->start_token() ? folder->start_token() : folder->end_token();
      if (!start) throw std::runtime_error("the tokenizer has no token to begin with: expected a --prompt");
      ids.push_back(*start);
    }
  }
#endif
  return ids;
}

bool LanguageText::ends(int token) const {
  if (body_->bytes() != nullptr) return false;
#ifdef TWOHEADS_WITH_TEXT
  if (const auto* folder = body_->folder())
    return folder->end_token() == token || folder->start_token() == token || body_->ends.count(token) > 0;
#endif
  return token == twoheads::Tokenizer::start_token;
}

std::string LanguageText::add(int token) {
  if (ByteText* const bytes = body_->bytes()) return bytes->add(token);
#ifdef TWOHEADS_WITH_TEXT
  if (body_->stream) return body_->stream->add(token);
#endif
  const int previous = std::exchange(body_->previous, token);
  return token == twoheads::Tokenizer::start_token ? std::string() : body_->llama2c()->decode(previous, token);
}

std::string LanguageText::finish() {
  if (ByteText* const bytes = body_->bytes()) return bytes->finish();
#ifdef TWOHEADS_WITH_TEXT
  if (body_->stream) return body_->stream->finish();
#endif
  return {};
}

}  // namespace programs
