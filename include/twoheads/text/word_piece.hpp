#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/text/added_tokens.hpp>
#include <twoheads/text/json_document.hpp>
#include <twoheads/text/json_field.hpp>
#include <twoheads/text/normalizer.hpp>
#include <twoheads/text/piece_decoder.hpp>
#include <twoheads/text/pieces.hpp>
#include <twoheads/text/pre_tokenizer.hpp>
#include <twoheads/text/text_parts.hpp>
#include <twoheads/text/unicode.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// What a folder says of a WordPiece tokenizer beside its vocabulary.
struct WordPieceOptions {
  bool lower = true;                  ///< whether letters become small
  std::optional<bool> strip_accents;  ///< as `lower` where it is not given
  bool cjk_apart = true;              ///< whether each ideograph is a word
  std::string unknown = "[UNK]";      ///< in the place of words without pieces
  std::string start = "[CLS]";        ///< stands before a text
  std::string end = "[SEP]";          ///< stands after a text
};

/// WordPiece tokenizer of BERT.
///
///   Math     encode: [CLS]; the text cleaned, in lower case and without accents, split at spaces and punctuation; of
///            each word the longest piece it begins with, then the longest of the rest with ## before it, and so on, or
///            [UNK] for the whole word if some rest has none; [SEP]
///   Corner   a word of more than max_input_chars_per_word characters is [UNK]. Bytes that are no UTF-8 count as
///            U+FFFD, which cleaning drops. `truncation` and `padding` of a tokenizer.json are not applied.
///   Source   google-research/bert, tokenization.py; the format of huggingface/tokenizers
class WordPiece : public TextParts {
 public:
  /// Reads a vocab.txt, one piece a line in the order of ids.
  ///
  ///   Throws   FileError where the file cannot be read; FormatError that names file and piece: an empty line, no
  ///            UTF-8, a piece that stands twice, more pieces than the vocabulary, or none for [UNK], [CLS] or [SEP]
  [[nodiscard]] static WordPiece read_lines(const std::filesystem::path& path, Index vocabulary,
                                            const WordPieceOptions& options = {}) {
    WordPiece tokenizer{detail::PieceTable(vocabulary)};
    const std::string name = path.string();
    const std::string bytes = detail::read_text_file(path);
    Index line = 0;
    for (std::size_t begin = 0, end = 0; begin < bytes.size(); begin = end + 1, ++line) {
      end = std::min(bytes.find('\n', begin), bytes.size());
      std::string piece = bytes.substr(begin, end - begin);
      if (piece.ends_with('\r')) piece.pop_back();
      if (piece.empty()) throw FormatError(detail::text(name, ": line ", line + 1, " is empty, expected a piece"));
      if (!detail::is_utf8(piece)) throw FormatError(detail::text(name, ": line ", line + 1, " is no UTF-8"));
      tokenizer.pieces_.add(piece, line, name);
    }
    const auto known = [&](const std::string& piece) {
      const std::optional<int> id = tokenizer.pieces_.find(piece);
      if (!id) throw FormatError(detail::text(name, ": has no piece ", piece));
      return *id;
    };
    tokenizer.unknown_ = known(options.unknown);
    tokenizer.template_.before = {known(options.start)};
    tokenizer.template_.after = {known(options.end)};
    std::vector<AddedToken> special;
    for (const std::string& piece :
         {options.unknown, options.start, options.end, std::string("[PAD]"), std::string("[MASK]")}) {
      const std::optional<int> id = tokenizer.pieces_.find(piece);
      const bool stands =
          std::any_of(special.begin(), special.end(), [&](const AddedToken& token) { return token.content == piece; });
      if (!id || stands) continue;
      special.push_back({.content = piece, .id = *id, .special = true});
    }
    tokenizer.add_tokens(special, name);
    detail::BertCleaning cleaning;
    cleaning.lower = options.lower;
    cleaning.strip_accents = options.strip_accents.value_or(options.lower);
    cleaning.cjk_apart = options.cjk_apart;
    tokenizer.normalizer_ = detail::TextNormalizer({cleaning});
    tokenizer.pre_tokenizer_ = detail::PreTokenizer({detail::PreTokenizer::Words{true}});
    tokenizer.decoder_ = detail::PieceDecoder({detail::PieceDecoder::WordPiece{tokenizer.prefix_, true}});
    return tokenizer;
  }

  /// Reads a tokenizer.json; `vocabulary` is the model's.
  ///
  ///   Throws   FileError, FormatError that names file and field, as ByteLevelBpe::read; SpecError if vocabulary < 1
  [[nodiscard]] static WordPiece read(const std::filesystem::path& path, Index vocabulary) {
    return WordPiece(detail::read_document(path, "/model/vocab", "/model/merges"), vocabulary);
  }

  /// From a tokenizer.json that has been read.
  WordPiece(const detail::TextDocument& document, Index vocabulary) : TextParts(document, vocabulary) {
    const detail::JsonField model = detail::JsonField(document.tree, document.name).at("model");
    model.allow({"type", "unk_token", "continuing_subword_prefix", "max_input_chars_per_word", "vocab"});
    if (const auto type = model.find("type"); type && type->string() != "WordPiece")
      throw type->error("is ", type->shown(), ", expected \"WordPiece\"");
    const detail::JsonField unknown = model.at("unk_token");
    const std::optional<int> id = pieces_.find(unknown.string());
    if (!id) throw unknown.error("is ", unknown.shown(), ", which is no piece");
    unknown_ = *id;
    if (const auto prefix = model.find("continuing_subword_prefix")) prefix_ = prefix->string();
    if (const auto longest = model.find("max_input_chars_per_word"))
      longest_word_ = static_cast<std::size_t>(longest->integer(0, std::numeric_limits<std::int64_t>::max()));
  }

  /// Token ids of a text; `special` says whether the tokens that the tokenizer sets before and after it are there.
  [[nodiscard]] std::vector<int> encode(std::string_view text, bool special = true) const {
    return encode_words(text, special, [&](std::string_view word, std::vector<int>& ids) { encode_word(word, ids); });
  }

 private:
  explicit WordPiece(detail::PieceTable pieces) : TextParts(std::move(pieces)) {}

  void encode_word(std::string_view word, std::vector<int>& ids) const {
    std::vector<std::size_t> ends;  // of characters, in bytes
    detail::for_each_character(word, [&](const detail::Character& character) { ends.push_back(character.end); });
    const std::size_t before = ids.size();
    std::string piece;
    bool found = ends.size() <= longest_word_;
    for (std::size_t begin = 0; found && begin < word.size();) {
      piece.assign(begin == 0 ? "" : prefix_);
      const std::size_t prefix = piece.size();
      const std::size_t reach = pieces_.longest() < prefix ? begin : begin + (pieces_.longest() - prefix);
      auto end = std::upper_bound(ends.begin(), ends.end(), std::min(reach, word.size()));
      piece.append(word.substr(begin, std::min(reach, word.size()) - begin));
      found = false;
      while (end != ends.begin() && *(end - 1) > begin) {
        --end;
        piece.resize(prefix + (*end - begin));
        if (const std::optional<int> id = pieces_.find(piece)) {
          ids.push_back(*id);
          begin = *end;
          found = true;
          break;
        }
      }
    }
    if (found) return;
    ids.resize(before);
    ids.push_back(unknown_);
  }

  std::string prefix_ = "##";
  std::size_t longest_word_ = 100;
  int unknown_ = 0;
};

}  // namespace twoheads
