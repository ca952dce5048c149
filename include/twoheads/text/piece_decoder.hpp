#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <twoheads/text/byte_characters.hpp>
#include <twoheads/text/json_field.hpp>
#include <twoheads/text/normalizer.hpp>
#include <twoheads/text/pre_tokenizer.hpp>
#include <utility>
#include <variant>
#include <vector>

namespace twoheads::detail {

/// The byte that a piece such as <0x0A> stands for, or -1.
[[nodiscard]] inline int byte_of_piece(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || !piece.ends_with('>')) return -1;
  int byte = 0;
  for (const char c : piece.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                             : -1;
    if (digit < 0) return -1;
    byte = 16 * byte + digit;
  }
  return byte;
}

/// The decoder of a tokenizer.json, as steps that need nothing but the pieces before: text can be written as it comes.
class PieceDecoder {
 public:
  struct ByteLevel {};
  struct ByteFallback {};
  struct Replace {
    TextPattern pattern;
    std::string content;
  };
  struct Strip {
    char content;
    std::size_t start, stop;
  };
  struct WordPiece {
    std::string prefix;
    bool cleanup;
  };
  /// Pieces with a space between.
  struct Join {};
  using Step = std::variant<ByteLevel, ByteFallback, Replace, Strip, Metaspace, WordPiece, Join>;

  /// What is known of the text so far.
  struct State {
    bool first = true;
    std::size_t stripped = 0;  // how many characters the last step has cut off
    bool text_begun = false;   // nothing more is cut off
  };

  /// Without a decoder pieces are written with a space between.
  PieceDecoder() : steps_{Join{}} {}
  explicit PieceDecoder(std::vector<Step> steps) : steps_(std::move(steps)) {}

  /// Throws FormatError that names a type or field that is not known, or an order that asks for text to come.
  [[nodiscard]] static PieceDecoder read(const JsonField& field) {
    PieceDecoder decoder{std::vector<Step>{}};
    bool fused = false;
    decoder.add(field, fused);
    return decoder;
  }

  /// What `piece` adds to the text.
  [[nodiscard]] std::string operator()(std::string piece, State& state) const {
    for (const Step& step : steps_)
      piece = std::visit([&](const auto& each) { return apply(each, std::move(piece), state); }, step);
    state.first = false;
    std::size_t cut = 0;
    while (!state.text_begun && cut < piece.size()) {
      if (state.stripped == strip_.start || piece[cut] != strip_.content) {
        state.text_begun = true;
      } else {
        ++cut;
        ++state.stripped;
      }
    }
    return cut == 0 ? piece : piece.substr(cut);
  }

 private:
  static std::string apply(ByteLevel, std::string&& piece, const State&) {
    std::optional<std::string> bytes = byte_characters().decode(piece);
    return bytes ? std::move(*bytes) : std::move(piece);
  }
  static std::string apply(ByteFallback, std::string&& piece, const State&) {
    const int byte = byte_of_piece(piece);
    return byte < 0 ? std::move(piece) : std::string(1, static_cast<char>(byte));
  }
  static std::string apply(const Replace& step, std::string&& piece, const State&) {
    return replace_all(piece, step.pattern, step.content);
  }
  static std::string apply(const Strip& step, std::string&& piece, const State&) {
    std::size_t begin = 0;
    std::size_t end = piece.size();
    while (begin < end && begin < step.start && piece[begin] == step.content) ++begin;
    while (end > begin && piece.size() - end < step.stop && piece[end - 1] == step.content) --end;
    return piece.substr(begin, end - begin);
  }
  static std::string apply(const Metaspace& step, std::string&& piece, const State& state) {
    const bool drop = state.first && step.prepend != Metaspace::Prepend::never;
    return replace_all(piece, TextPattern::literal(step.replacement), drop ? "" : " ");
  }
  static std::string apply(const WordPiece& step, std::string&& piece, const State& state) {
    if (!state.first) {
      if (!step.prefix.empty() && piece.starts_with(step.prefix))
        piece.erase(0, step.prefix.size());
      else
        piece.insert(0, 1, ' ');
    }
    if (!step.cleanup) return std::move(piece);
    constexpr std::array<std::array<const char*, 2>, 11> changes{{{" .", "."},
                                                                  {" ?", "?"},
                                                                  {" !", "!"},
                                                                  {" ,", ","},
                                                                  {" ' ", "'"},
                                                                  {" n't", "n't"},
                                                                  {" 'm", "'m"},
                                                                  {" do not", " don't"},
                                                                  {" 's", "'s"},
                                                                  {" 've", "'ve"},
                                                                  {" 're", "'re"}}};
    for (const auto& [from, to] : changes) piece = replace_all(piece, TextPattern::literal(from), to);
    return std::move(piece);
  }
  static std::string apply(Join, std::string&& piece, const State& state) {
    if (!state.first) piece.insert(0, 1, ' ');
    return std::move(piece);
  }

  /// `fused`: all pieces are one text from here on, of which only the beginning can still change.
  void add(const JsonField& field, bool& fused) {
    const JsonField type_field = field.at("type");
    const std::string& type = type_field.string();
    if (type == "Sequence") {
      field.allow({"type", "decoders"});
      for (const JsonField& element : field.at("decoders").elements()) add(element, fused);
      return;
    }
    if (type == "Fuse") {
      field.allow({"type"});
      fused = true;
      return;
    }
    if (type == "Strip") {
      field.allow({"type", "content", "start", "stop"});
      const std::string& content = field.at("content").string();
      if (content.size() != 1)
        throw field.at("content").error("is ", field.at("content").shown(), ", expected one ASCII character");
      constexpr std::int64_t most = 1 << 20;
      const Strip step{content.front(), static_cast<std::size_t>(field.at("start").integer(0, most)),
                       static_cast<std::size_t>(field.at("stop").integer(0, most))};
      if (!fused) {
        steps_.emplace_back(step);
      } else if (step.stop != 0 || strip_.start != 0) {
        throw field.error("cuts text that is not at the beginning after a Fuse, which is not done here");
      } else {
        strip_ = step;
      }
      return;
    }
    if (fused) throw type_field.error("is ", type_field.shown(), " after pieces are joined, expected Strip or Fuse");
    if (!steps_.empty() && std::holds_alternative<ByteFallback>(steps_.back()))
      throw type_field.error("is ", type_field.shown(), " after ByteFallback, expected Fuse");
    if (type == "ByteLevel") {
      field.allow({"type", "add_prefix_space", "trim_offsets", "use_regex"});
      steps_.emplace_back(ByteLevel{});
      fused = true;
    } else if (type == "ByteFallback") {
      field.allow({"type"});
      steps_.emplace_back(ByteFallback{});
    } else if (type == "Replace") {
      field.allow({"type", "pattern", "content"});
      steps_.emplace_back(Replace{pattern_of(field.at("pattern")), field.at("content").string()});
    } else if (type == "Metaspace") {
      steps_.emplace_back(Metaspace::read(field));
    } else if (type == "WordPiece") {
      field.allow({"type", "prefix", "cleanup"});
      steps_.emplace_back(WordPiece{field.at("prefix").string(), field.boolean_or("cleanup", true)});
    } else {
      throw type_field.error("is ", type_field.shown(), ", which is no decoder known here");
    }
  }

  std::vector<Step> steps_;
  Strip strip_{' ', 0, 0};
};

}  // namespace twoheads::detail
