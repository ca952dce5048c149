#pragma once

#include <algorithm>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <twoheads/text/json_field.hpp>
#include <twoheads/text/normalizer.hpp>
#include <twoheads/text/pieces.hpp>
#include <twoheads/text/unicode.hpp>
#include <unordered_set>
#include <utility>
#include <vector>

namespace twoheads {

/// A token that is cut out of the text before it is split.
struct AddedToken {
  std::string content;       ///< as it stands in a text
  int id = 0;                ///< of the token
  bool single_word = false;  ///< not beside a letter, digit or _
  bool left_strip = false;   ///< takes the white space before it
  bool right_strip = false;  ///< and after it
  bool normalized = false;   ///< looked for in the normalized text, else in the text as given
  bool special = false;      ///< left out where a text is shown without special tokens
};

namespace detail {

/// Part [begin, end) of a text, and the added token that stands there if it is one.
struct TokenRange {
  std::size_t begin = 0;
  std::size_t end = 0;
  std::optional<int> id;
};

/// Finds added tokens in a text: leftmost first, of those that begin together the longest.
class TokenFinder {
 public:
  void add(const AddedToken& token, std::string content) {
    first_.set(static_cast<unsigned char>(content.front()));
    tokens_.push_back({std::move(content), token});
  }

  /// Call once, when all are added. Of equal contents the lowest id is found.
  void finish() {
    std::sort(tokens_.begin(), tokens_.end(), [](const Entry& a, const Entry& b) {
      return std::tie(a.content, a.token.id) < std::tie(b.content, b.token.id);
    });
  }

  /// Cuts a text into ranges; those without a token are not empty.
  [[nodiscard]] std::vector<TokenRange> split(std::string_view text) const {
    std::vector<TokenRange> ranges;
    std::size_t done = 0;
    for (std::size_t at = 0; at < text.size() && !tokens_.empty();) {
      const Entry* found = longest_at(text, at);
      if (found == nullptr) {
        ++at;
        continue;
      }
      std::size_t begin = at;
      std::size_t end = at += found->content.size();
      const AddedToken& token = found->token;
      if (token.single_word && (word_before(text, begin) || word_at(text, end))) continue;
      if (token.left_strip)
        while (begin > done && space_before(text, begin)) begin = before(text, begin);
      if (token.right_strip)
        while (end < text.size() && is_white_space(character_at(text, end).value)) end = character_at(text, end).end;
      if (done < begin) ranges.push_back({done, begin, std::nullopt});
      ranges.push_back({begin, end, token.id});
      done = end;
      at = std::max(at, done);
    }
    if (done < text.size()) ranges.push_back({done, text.size(), std::nullopt});
    return ranges;
  }

 private:
  struct Entry {
    std::string content;
    AddedToken token;
  };

  /// Narrows the sorted contents byte by byte to those that begin as the text does.
  [[nodiscard]] const Entry* longest_at(std::string_view text, std::size_t at) const {
    if (!first_.test(static_cast<unsigned char>(text[at]))) return nullptr;
    const Entry* longest = nullptr;
    auto low = tokens_.begin();
    auto high = tokens_.end();
    for (std::size_t length = 0; at + length < text.size() && low != high; ++length) {
      const auto byte = static_cast<int>(static_cast<unsigned char>(text[at + length]));
      const auto byte_of = [&](const Entry& entry) {
        return length < entry.content.size() ? static_cast<int>(static_cast<unsigned char>(entry.content[length])) : -1;
      };
      low = std::partition_point(low, high, [&](const Entry& entry) { return byte_of(entry) < byte; });
      high = std::partition_point(low, high, [&](const Entry& entry) { return byte_of(entry) == byte; });
      if (low != high && low->content.size() == length + 1) longest = &*low;
    }
    return longest;
  }

  [[nodiscard]] static std::size_t before(std::string_view text, std::size_t end) {
    std::size_t begin = end - 1;
    while (begin > 0 && end - begin < 4 && (text[begin] & 0xC0) == 0x80) --begin;
    return character_at(text, begin).end == end ? begin : end - 1;
  }
  [[nodiscard]] static bool space_before(std::string_view text, std::size_t end) {
    return end > 0 && is_white_space(character_at(text, before(text, end)).value);
  }
  [[nodiscard]] static bool word_before(std::string_view text, std::size_t end) {
    return end > 0 && is_word_character(character_at(text, before(text, end)).value);
  }
  [[nodiscard]] static bool word_at(std::string_view text, std::size_t begin) {
    return begin < text.size() && is_word_character(character_at(text, begin).value);
  }

  std::vector<Entry> tokens_;
  std::bitset<256> first_;
};

/// The added tokens of a tokenizer, in two groups: those looked for in the text as given, and those in the normalized.
class AddedTokens {
 public:
  AddedTokens() = default;

  /// Enters what is new into `pieces`. Throws FormatError where a token contradicts them or another.
  AddedTokens(const std::vector<AddedToken>& tokens, const TextNormalizer& normalizer, PieceTable& pieces,
              const std::string& file) {
    std::unordered_set<int> seen;
    for (const AddedToken& token : tokens) {
      const auto fail = [&](const auto&... what) {
        return FormatError(text(file, ": the added token \"", token.content.substr(0, 60), "\" ", what...));
      };
      if (token.content.empty()) throw fail("is empty");
      const std::optional<int> known = pieces.find(token.content);
      if (!known) {
        pieces.add(token.content, token.id, file);
      } else if (*known != token.id) {
        throw fail("has the id ", token.id, ", but its piece has ", *known);
      }
      if (!seen.insert(token.id).second) throw fail("stands twice");
      if (token.special) special_.insert(token.id);
      std::string content = token.content;
      try {
        if (token.normalized) content = normalizer(content);
      } catch (const SpecError& error) {
        throw fail("cannot be normalized: ", error.what());
      }
      if (content.empty()) throw fail("is empty once normalized");
      (token.normalized ? in_normalized_ : in_given_).add(token, content);
    }
    in_given_.finish();
    in_normalized_.finish();
  }

  [[nodiscard]] const TokenFinder& in_given() const { return in_given_; }
  [[nodiscard]] const TokenFinder& in_normalized() const { return in_normalized_; }
  [[nodiscard]] bool special(int id) const { return special_.count(id) > 0; }

  /// One token of an `added_tokens` list; `id` is the file's.
  [[nodiscard]] static AddedToken read(const JsonField& field, int id) {
    field.allow({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
    AddedToken token;
    token.content = field.at("content").string();
    token.id = id;
    token.single_word = field.boolean_or("single_word", false);
    token.left_strip = field.boolean_or("lstrip", false);
    token.right_strip = field.boolean_or("rstrip", false);
    token.special = field.boolean_or("special", false);
    token.normalized = field.boolean_or("normalized", !token.special);
    return token;
  }

  /// The list of a tokenizer.json.
  [[nodiscard]] static std::vector<AddedToken> read_all(const JsonField& field, Index vocabulary) {
    std::vector<AddedToken> tokens;
    for (const JsonField& element : field.elements())
      tokens.push_back(read(element, static_cast<int>(element.at("id").integer(0, vocabulary - 1))));
    return tokens;
  }

 private:
  TokenFinder in_given_, in_normalized_;
  std::unordered_set<int> special_;
};

}  // namespace detail
}  // namespace twoheads
