#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <istream>
#include <limits>
#include <queue>
#include <span>
#include <string>
#include <string_view>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/model/input_file.hpp>
#include <unordered_map>
#include <utility>
#include <vector>

namespace twoheads {

/// Byte-pair tokenizer of llama2.c: the same text gives the same ids, and the same ids the same text.
///
///   Math     encode: start token; a space if the text is not empty; then each UTF-8 code point's token, or its bytes
///            as tokens byte + 3. While some neighbours' pieces joined are a piece too, the pair whose piece scores
///            best is joined, the leftmost of equals. n bytes take O(n log n) steps, where llama2.c takes O(n^2).
///   Corner   bytes that are no UTF-8 become byte tokens, in groups of up to four as llama2.c forms them. A NUL is a
///            byte as any other; llama2.c ends there. Of two tokens with the same piece the lower id is taken. The
///            start token joins like any other, if the vocabulary has such a piece.
///            Scores of -1e10 and below never join.
///   Source   karpathy/llama2.c, run.c (build_tokenizer, encode, decode) and tokenizer.py (export)
class Tokenizer {
 public:
  static constexpr int start_token = 1;       ///< stands before a text
  static constexpr int first_byte_token = 3;  ///< of byte 0; the others follow

  /// Token i has pieces[i] and scores[i].
  ///
  ///   Throws   SpecError if these differ in number or are fewer than 2; InputError that names a token with a NaN score
  Tokenizer(std::vector<std::string> pieces, std::vector<float> scores)
      : pieces_(std::move(pieces)), scores_(std::move(scores)) {
    if (pieces_.size() != scores_.size())
      throw SpecError(detail::text("a tokenizer of ", pieces_.size(), " pieces has ", scores_.size(), " scores"));
    require_vocabulary(vocabulary());
    for (std::size_t token = 0; token < pieces_.size(); ++token) {
      ids_.emplace(pieces_[token], static_cast<int>(token));
      longest_ = std::max(longest_, pieces_[token].size());
      if (scores_[token] != scores_[token]) throw InputError(detail::text("token ", token, ": its score is NaN"));
    }
  }

  /// Reads a tokenizer.bin; `vocabulary` is the model's, since the file does not say how many tokens it holds.
  ///
  ///   Throws   FileError where the file cannot be read; FormatError that names the file and token, where a length is
  ///            negative, beyond the file's largest or beyond its end, or where tokens are missing or left over;
  ///            SpecError if vocabulary < 2
  [[nodiscard]] static Tokenizer read(const std::filesystem::path& path, Index vocabulary) {
    detail::InputFile file = detail::open_input(path);
    return read(file.stream, file.size, vocabulary, path.string());
  }

  /// The same from a stream of `size` bytes. `name` stands in error messages.
  [[nodiscard]] static Tokenizer read(std::istream& in, std::uint64_t size, Index vocabulary,
                                      std::string name = "tokenizer stream") {
    require_vocabulary(vocabulary);
    detail::ByteReader file(in, size, std::move(name));
    const std::uint64_t smallest = 4 + 8 * static_cast<std::uint64_t>(vocabulary);
    if (size < smallest)
      throw FormatError(
          detail::text(file.name(), ": ", size, " bytes, expected ", smallest, " or more for ", vocabulary, " tokens"));
    const auto longest = file.read<std::int32_t>();
    if (longest < 0)
      throw FormatError(detail::text(file.name(), ": the largest token length is ", longest, ", expected 0 or more"));
    std::vector<std::string> pieces(static_cast<std::size_t>(vocabulary));
    std::vector<float> scores(pieces.size());
    for (std::size_t token = 0; token < pieces.size(); ++token) {
      const auto fail = [&](const auto&... what) {
        return FormatError(detail::text(file.name(), ": token ", token, " of ", vocabulary, ": ", what...));
      };
      if (file.remaining() < 8) throw fail("the file ends after ", size, " bytes, expected more");
      scores[token] = file.read<float>();
      if (scores[token] != scores[token]) throw fail("its score is NaN");
      const auto length = file.read<std::int32_t>();
      if (length < 0 || length > longest) throw fail("its length is ", length, ", expected 0 to ", longest);
      if (static_cast<std::uint64_t>(length) > file.remaining())
        throw fail("its length is ", length, ", but only ", file.remaining(), " bytes follow");
      pieces[token].resize(static_cast<std::size_t>(length));
      file.read(pieces[token].data(), pieces[token].size());
    }
    if (file.remaining() != 0)
      throw FormatError(detail::text(file.name(), ": ", file.remaining(), " bytes follow the last of ", vocabulary,
                                     " tokens, expected none: the file is of another vocabulary"));
    return {std::move(pieces), std::move(scores)};
  }

  [[nodiscard]] Index vocabulary() const { return static_cast<Index>(pieces_.size()); }  ///< pieces

  /// A token's piece as the file has it. Throws SpecError if there is no such token.
  [[nodiscard]] const std::string& piece(int token) const { return pieces_[position_of(token)]; }

  /// Token ids of a text, the start token first.
  ///
  ///   Throws   SpecError where a byte without a piece has no byte token either (a vocabulary below 259)
  [[nodiscard]] std::vector<int> encode(std::string_view text) const {
    std::vector<int> ids{start_token};
    ids.reserve(text.size() + 2);
    if (!text.empty()) append_code_point(" ", ids);
    const auto continues = [&](std::size_t at) { return at < text.size() && (text[at] & 0xC0) == 0x80; };
    for (std::size_t begin = 0, end = 0; begin < text.size(); begin = end) {
      end = begin + 1;
      while (end - begin < 4 && continues(end)) ++end;
      append_code_point(text.substr(begin, end - begin), ids);
    }
    join_pairs(ids);
    return ids;
  }

  /// What `token` adds to the text after `previous`: its piece, without a leading space after the start token; a piece
  /// such as <0x0A> stands for that byte.
  ///
  ///   Corner   only a whole piece of this form is a byte; llama2.c also takes pieces that merely begin like one
  ///   Throws   SpecError that names an id outside the vocabulary
  [[nodiscard]] std::string decode(int previous, int token) const {
    std::string_view piece = pieces_[position_of(token)];
    if (position_of(previous) == start_token && piece.starts_with(' ')) piece.remove_prefix(1);
    if (piece.size() == 6 && piece.starts_with("<0x") && piece.ends_with('>')) {
      const int high = hex_digit(piece[3]);
      const int low = hex_digit(piece[4]);
      if (high >= 0 && low >= 0) return std::string(1, static_cast<char>(16 * high + low));
    }
    return std::string(piece);
  }

  /// Text of a sequence of ids. The start token adds nothing, wherever it stands;
  /// llama2.c stops printing at a second one.
  ///
  ///   Throws   SpecError that names an id outside the vocabulary
  [[nodiscard]] std::string decode(std::span<const int> ids) const {
    std::string text;
    for (std::size_t at = 0; at < ids.size(); ++at)
      if (ids[at] != start_token) text += decode(at == 0 ? 0 : ids[at - 1], ids[at]);
    return text;
  }

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view piece) const { return std::hash<std::string_view>{}(piece); }
  };

  /// Two neighbours that may be joined. It is out of date once ids[at] is not `left`, or the next is not `right`.
  struct Pair {
    float score;
    std::size_t at;
    int left, right, joined;
    friend bool operator<(const Pair& a, const Pair& b) {
      return a.score < b.score || (a.score == b.score && a.at > b.at);
    }
  };

  static void require_vocabulary(Index vocabulary) {
    if (vocabulary <= start_token || vocabulary > std::numeric_limits<int>::max())
      throw SpecError(detail::text("the vocabulary is ", vocabulary, ", expected 2 to 2147483647"));
  }

  [[nodiscard]] std::size_t position_of(int token) const {
    if (token < 0 || token >= vocabulary())
      throw SpecError(detail::text("token ", token, " does not exist, expected 0 to ", vocabulary() - 1));
    return static_cast<std::size_t>(token);
  }

  [[nodiscard]] static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
  }

  void append_code_point(std::string_view bytes, std::vector<int>& ids) const {
    if (const auto found = ids_.find(bytes); found != ids_.end()) {
      ids.push_back(found->second);
      return;
    }
    for (const char c : bytes) {
      const int token = static_cast<unsigned char>(c) + first_byte_token;
      if (token >= vocabulary())
        throw SpecError(detail::text("byte ", token - first_byte_token, " has no piece, and its byte token ", token,
                                     " does not exist, expected 0 to ", vocabulary() - 1));
      ids.push_back(token);
    }
  }

  /// Joins the best pair until none is left. Positions are those before any join, so lower means further left.
  void join_pairs(std::vector<int>& ids) const {
    constexpr int gone = -1;
    constexpr float lowest = -1e10F;
    const std::size_t count = ids.size();
    std::vector<std::size_t> next(count), previous(count);
    std::vector<Pair> pairs;
    std::string joined;
    const auto find_pair = [&](std::size_t at, auto&& add) {
      const std::string& left = pieces_[static_cast<std::size_t>(ids[at])];
      const std::string& right = pieces_[static_cast<std::size_t>(ids[next[at]])];
      if (left.size() + right.size() > longest_) return;
      joined.assign(left).append(right);
      const auto found = ids_.find(joined);
      if (found == ids_.end()) return;
      const float score = scores_[static_cast<std::size_t>(found->second)];
      if (score > lowest) add(Pair{score, at, ids[at], ids[next[at]], found->second});
    };
    for (std::size_t at = 0; at < count; ++at) {
      next[at] = at + 1;
      previous[at] = at - 1;  // never read at 0
    }
    for (std::size_t at = 0; at + 1 < count; ++at) find_pair(at, [&](const Pair& pair) { pairs.push_back(pair); });
    std::priority_queue<Pair> best(std::less<Pair>{}, std::move(pairs));
    const auto push = [&](const Pair& pair) { best.push(pair); };
    while (!best.empty()) {
      const Pair pair = best.top();
      best.pop();
      const std::size_t right = next[pair.at];
      if (ids[pair.at] != pair.left || right == count || ids[right] != pair.right) continue;
      ids[pair.at] = pair.joined;
      ids[right] = gone;
      next[pair.at] = next[right];
      if (next[right] < count) {
        previous[next[right]] = pair.at;
        find_pair(pair.at, push);
      }
      if (pair.at > 0) find_pair(previous[pair.at], push);
    }
    std::erase(ids, gone);
  }

  std::vector<std::string> pieces_;
  std::vector<float> scores_;
  std::unordered_map<std::string, int, Hash, std::equal_to<>> ids_;
  std::size_t longest_ = 0;
};

}  // namespace twoheads
