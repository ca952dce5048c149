#pragma once

#include <cstddef>
#include <optional>
#include <span>
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
#include <twoheads/text/token_template.hpp>
#include <twoheads/text/unicode.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// What tokenizers of every kind share: all but how a word becomes pieces.
class TextParts {
 public:
  /// Tokens of the model, of which some may have no piece.
  [[nodiscard]] Index vocabulary() const { return pieces_.vocabulary(); }

  /// The id of a piece, if there is one.
  [[nodiscard]] std::optional<int> id_of(std::string_view piece) const { return pieces_.find(piece); }

  /// A token's piece as the file has it, empty where it has none. Throws SpecError if there is no such token.
  [[nodiscard]] std::string piece(int token) const {
    const std::string* found = pieces_.find(token);
    return found == nullptr ? std::string() : *found;
  }

  /// Whether decoding leaves the token out. Throws nothing.
  [[nodiscard]] bool is_special(int token) const { return added_.special(token); }

  /// The token that begins a text: what the tokenizer's settings name, else the first that `encode` sets before it.
  [[nodiscard]] std::optional<int> start_token() const {
    if (start_ || template_.before.empty()) return start_;
    return template_.before.front();
  }

  /// The token that ends a text: what the tokenizer's settings name, else the last that `encode` sets after it.
  [[nodiscard]] std::optional<int> end_token() const {
    if (end_ || template_.after.empty()) return end_;
    return template_.after.back();
  }

  void set_start_token(int token) { start_ = checked(token); }  ///< the token before a text
  void set_end_token(int token) { end_ = checked(token); }      ///< the token after a text

  /// The text of a sequence of ids.
  ///
  ///   Corner   tokens without a piece add nothing. Bytes that are no UTF-8 are written as they are.
  ///   Throws   SpecError that names an id outside the vocabulary
  [[nodiscard]] std::string decode(std::span<const int> ids, bool skip_special = true) const {
    std::string text;
    detail::PieceDecoder::State state;
    for (const int id : ids) text += decode_next(id, skip_special, state);
    return text;
  }

  /// What `token` adds to the text of those before it.
  [[nodiscard]] std::string decode_next(int token, bool skip_special, detail::PieceDecoder::State& state) const {
    const std::string* piece = pieces_.find(token);
    if (piece == nullptr || (skip_special && added_.special(token))) return {};
    return decoder_(*piece, state);
  }

 protected:
  /// From a vocabulary; the rest is set by the reader of the folder.
  explicit TextParts(detail::PieceTable pieces) : pieces_(std::move(pieces)) {}

  /// Reads all of a tokenizer.json but the model, whose vocabulary becomes the pieces.
  ///
  ///   Throws   FormatError that names the field
  TextParts(const detail::TextDocument& document, Index vocabulary) : pieces_(vocabulary) {
    const detail::JsonField root(document.tree, document.name);
    root.allow({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
                "decoder", "model"});
    if (const auto version = root.find("version"); version && version->string() != "1.0")
      throw version->error("is ", version->shown(), ", expected \"1.0\"");
    pieces_.add(document.vocabulary, document.name);
    if (const auto field = root.find("normalizer")) normalizer_ = detail::TextNormalizer::read(*field);
    if (const auto field = root.find("pre_tokenizer")) pre_tokenizer_ = detail::PreTokenizer::read(*field);
    if (const auto field = root.find("added_tokens"))
      add_tokens(detail::AddedTokens::read_all(*field, vocabulary), document.name);
    if (const auto field = root.find("post_processor")) template_ = detail::TokenTemplate::read(*field, pieces_);
    if (const auto field = root.find("decoder")) decoder_ = detail::PieceDecoder::read(*field);
  }

  /// Adds tokens that are cut out of a text; `file` is for messages.
  void add_tokens(const std::vector<AddedToken>& tokens, const std::string& file) {
    added_ = detail::AddedTokens(tokens, normalizer_, pieces_, file);
  }

  /// Ids of a text; `encode_word(word, ids)` appends those of a word.
  template <class EncodeWord>
  [[nodiscard]] std::vector<int> encode_words(std::string_view text, bool special,
                                              const EncodeWord& encode_word) const {
    std::vector<int> ids;
    if (special) ids = template_.before;
    for (const detail::TokenRange& range : added_.in_given().split(text)) {
      if (range.id) {
        ids.push_back(*range.id);
        continue;
      }
      const std::string normal = normalizer_(text.substr(range.begin, range.end - range.begin));
      for (const detail::TokenRange& inner : added_.in_normalized().split(normal)) {
        if (inner.id) {
          ids.push_back(*inner.id);
          continue;
        }
        detail::TextPart part{normal.substr(inner.begin, inner.end - inner.begin),
                              range.begin == 0 && inner.begin == 0};
        for (const std::string& word : pre_tokenizer_(std::move(part))) encode_word(word, ids);
      }
    }
    if (special) ids.insert(ids.end(), template_.after.begin(), template_.after.end());
    return ids;
  }

  detail::PieceTable pieces_;           ///< the vocabulary
  detail::AddedTokens added_;           ///< tokens that are cut out
  detail::TextNormalizer normalizer_;   ///< what a text passes first
  detail::PreTokenizer pre_tokenizer_;  ///< what splits it into words
  detail::TokenTemplate template_;      ///< tokens before and after it
  detail::PieceDecoder decoder_;        ///< pieces to text

 private:
  [[nodiscard]] int checked(int token) const {
    static_cast<void>(pieces_.find(token));
    return token;
  }

  std::optional<int> start_, end_;
};

/// Writes the text of tokens as they come, never a part of a UTF-8 character. The tokenizer must outlive it.
///
///   Laws     all that add() and finish() return, joined, is the text that decode() gives
///   Corner   bytes that no later byte can make a character are written at once, as they are
///   Throws   SpecError that names an id outside the vocabulary
class TextStream {
 public:
  explicit TextStream(const TextParts& parts, bool skip_special = true) : parts_(&parts), skip_special_(skip_special) {}

  /// The text that is complete now.
  [[nodiscard]] std::string add(int token) {
    held_ += parts_->decode_next(token, skip_special_, state_);
    const std::size_t open = detail::open_bytes(held_);
    std::string complete = held_.substr(0, held_.size() - open);
    held_.erase(0, complete.size());
    return complete;
  }

  /// What is still held back: the beginning of a character that never ended. Then the stream is new.
  [[nodiscard]] std::string finish() {
    state_ = {};
    return std::exchange(held_, {});
  }

 private:
  const TextParts* parts_;
  bool skip_special_;
  detail::PieceDecoder::State state_;
  std::string held_;
};

}  // namespace twoheads
