#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/text/added_tokens.hpp>
#include <twoheads/text/json_document.hpp>
#include <twoheads/text/json_field.hpp>
#include <twoheads/text/piece_decoder.hpp>
#include <twoheads/text/pieces.hpp>
#include <twoheads/text/text_parts.hpp>
#include <twoheads/text/unicode.hpp>
#include <unordered_map>
#include <utility>
#include <vector>

namespace twoheads {

namespace detail {

/// Merges of a byte-pair tokenizer by rank, and what becomes of characters without a piece.
class PairMerges {
 public:
  bool byte_fallback = false;  ///< bytes as pieces <0x00> to <0xFF>
  bool fuse_unknown = false;   ///< neighbours without a piece are one unknown token
  bool ignore_merges = false;  ///< a word that is a piece is that piece
  std::optional<int> unknown;

  /// Ranks are positions in `merges`.
  ///
  ///   Throws   FormatError that names file and merge, where a piece or the joined piece is unknown, or it stands twice
  void set(const std::vector<Merge>& merges, const PieceTable& pieces, const std::string& file) {
    merges_.reserve(merges.size());
    std::string joined;
    for (std::size_t rank = 0; rank < merges.size(); ++rank) {
      const auto& [left, right] = merges[rank];
      const auto known = [&](const std::string& piece) {
        const std::optional<int> id = pieces.find(piece);
        if (!id) throw FormatError(text(file, ": merge ", rank, ": \"", piece.substr(0, 60), "\" is no piece"));
        return *id;
      };
      const int left_id = known(left);
      const int right_id = known(right);
      joined.assign(left).append(right);
      const Joined entry{static_cast<std::uint32_t>(rank), known(joined)};
      if (!merges_.emplace(key(left_id, right_id), entry).second)
        throw FormatError(text(file, ": merge ", rank, " of \"", left.substr(0, 60), "\" and \"", right.substr(0, 60),
                               "\" stands twice"));
    }
  }

  /// Looks for the pieces of bytes; those that are missing leave their characters unknown.
  void find_bytes(const PieceTable& pieces) {
    const char* digits = "0123456789ABCDEF";
    for (std::size_t byte = 0; byte < 256; ++byte) {
      std::string piece = "<0x";
      piece += digits[byte / 16];
      piece += digits[byte % 16];
      bytes_[byte] = pieces.find(piece += '>');
    }
  }

  /// Appends the ids of a word.
  ///
  ///   Math     while some neighbours may join, the pair of the lowest rank does, the leftmost of equals; n characters
  ///            take O(n log n) steps
  ///   Throws   SpecError where a character has no piece, no bytes stand for it and there is no unknown token
  void encode(std::string_view word, const PieceTable& pieces, std::vector<int>& ids) const {
    if (ignore_merges) {
      if (const std::optional<int> whole = pieces.find(word)) {
        ids.push_back(*whole);
        return;
      }
    }
    const std::size_t begin = ids.size();
    append_characters(word, pieces, ids);
    join_pairs(ids, begin);
  }

 private:
  struct Joined {
    std::uint32_t rank;
    int id;
  };

  /// Two neighbours that may join. It is out of date once ids[at] is not `left`, or the next is not `right`.
  struct Pair {
    std::uint32_t rank;
    std::size_t at;
    int left, right, joined;
    friend bool operator<(const Pair& a, const Pair& b) {  // the first to join is the largest
      return a.rank > b.rank || (a.rank == b.rank && a.at > b.at);
    }
  };

  [[nodiscard]] static std::uint64_t key(int left, int right) {
    return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32) | static_cast<std::uint32_t>(right);
  }

  void append_characters(std::string_view word, const PieceTable& pieces, std::vector<int>& ids) const {
    bool pending = false;  // an unknown token that may still take in the next one
    const auto flush = [&] {
      if (pending) ids.push_back(*unknown);
      pending = false;
    };
    for_each_character(word, [&](const Character& character) {
      const std::string_view piece = word.substr(character.begin, character.end - character.begin);
      if (const std::optional<int> id = pieces.find(piece)) {
        flush();
        ids.push_back(*id);
        return;
      }
      if (byte_fallback &&
          std::all_of(piece.begin(), piece.end(), [&](char byte) { return byte_id(byte).has_value(); })) {
        for (const char byte : piece) ids.push_back(*byte_id(byte));
        return;
      }
      if (!unknown) throw SpecError(text("the character \"", piece, "\" has no piece, and there is no unknown token"));
      if (!fuse_unknown) flush();
      pending = true;
    });
    flush();
  }

  [[nodiscard]] std::optional<int> byte_id(char byte) const { return bytes_[static_cast<std::uint8_t>(byte)]; }

  /// Joins the ids from `begin` on. Positions are those before any join, so lower means further left.
  void join_pairs(std::vector<int>& ids, std::size_t begin) const {
    constexpr int gone = -1;
    const std::size_t end = ids.size();
    if (end - begin < 2) return;
    std::vector<std::size_t> next(end - begin), previous(end - begin);
    std::vector<Pair> heap;
    const auto find_pair = [&](std::size_t at) {
      const int left = ids[at];
      const int right = ids[next[at - begin]];
      const auto found = merges_.find(key(left, right));
      if (found == merges_.end()) return false;
      heap.push_back({found->second.rank, at, left, right, found->second.id});
      return true;
    };
    for (std::size_t at = begin; at < end; ++at) {
      next[at - begin] = at + 1;
      previous[at - begin] = at - 1;  // never read at the first
    }
    for (std::size_t at = begin; at + 1 < end; ++at) static_cast<void>(find_pair(at));
    std::make_heap(heap.begin(), heap.end());
    while (!heap.empty()) {
      std::pop_heap(heap.begin(), heap.end());
      const Pair pair = heap.back();
      heap.pop_back();
      const std::size_t right = next[pair.at - begin];
      if (ids[pair.at] != pair.left || right == end || ids[right] != pair.right) continue;
      ids[pair.at] = pair.joined;
      ids[right] = gone;
      const std::size_t after = next[pair.at - begin] = next[right - begin];
      if (after < end) {
        previous[after - begin] = pair.at;
        if (find_pair(pair.at)) std::push_heap(heap.begin(), heap.end());
      }
      if (pair.at > begin && find_pair(previous[pair.at - begin])) std::push_heap(heap.begin(), heap.end());
    }
    ids.erase(std::remove(ids.begin() + static_cast<std::ptrdiff_t>(begin), ids.end(), gone), ids.end());
  }

  std::unordered_map<std::uint64_t, Joined> merges_;
  std::array<std::optional<int>, 256> bytes_{};
};

}  // namespace detail

/// What a folder says of a byte-level tokenizer beside its vocabulary and merges.
struct ByteLevelOptions {
  bool add_prefix_space = false;     ///< a text begins with a blank, added where it does not
  std::vector<AddedToken> added;     ///< cut out before the text is split
  std::vector<std::string> special;  ///< pieces that are special tokens where the vocabulary has them
};

/// Byte-pair tokenizer of GPT-2 and of the models after it: bytes as characters, or SentencePiece's spaces and byte
/// pieces, as its tokenizer.json says.
///
///   Math     encode: added tokens are cut out; the rest is normalized and split into words; a word's characters become
///            ids, and while some neighbours may join, the pair whose merge stands first does, the leftmost of equals
///   Laws     byte-level without normalizer and added tokens: decode(encode(text)) is the text, byte by byte
///   Corner   bytes that are no UTF-8 count as U+FFFD where words are split. `truncation` and `padding` of a
///            tokenizer.json are not applied: how much of a text is given is the caller's.
///   Source   openai/gpt-2, encoder.py; the format of huggingface/tokenizers
class ByteLevelBpe : public TextParts {
 public:
  /// Reads a tokenizer.json; `vocabulary` is the model's.
  ///
  ///   Throws   FileError where a file cannot be read; FormatError that names file and field: no JSON, another type
  ///            than BPE, a field or type not known here, a piece or id that stands twice, an id outside the
  ///            vocabulary, a merge of unknown pieces; SpecError if vocabulary < 1
  [[nodiscard]] static ByteLevelBpe read(const std::filesystem::path& path, Index vocabulary) {
    return ByteLevelBpe(detail::read_document(path, "/model/vocab", "/model/merges"), vocabulary);
  }

  /// Reads a vocab.json and a merges.txt, as GPT-2 has them.
  ///
  ///   Throws   as the other, for these files
  [[nodiscard]] static ByteLevelBpe read(const std::filesystem::path& vocabulary_file,
                                         const std::filesystem::path& merges_file, Index vocabulary,
                                         const ByteLevelOptions& options = {}) {
    const detail::TextDocument document = detail::read_document(vocabulary_file, "", "-");
    if (!document.tree.is_object()) throw FormatError(document.name + ": expected an object of pieces and ids");
    detail::PieceTable pieces(vocabulary);
    pieces.add(document.vocabulary, document.name);
    ByteLevelBpe tokenizer(std::move(pieces));
    tokenizer.pre_tokenizer_ = detail::PreTokenizer({detail::PreTokenizer::byte_level(options.add_prefix_space)});
    tokenizer.decoder_ = detail::PieceDecoder({detail::PieceDecoder::ByteLevel{}});
    tokenizer.merges_.set(read_merges(merges_file), tokenizer.pieces_, merges_file.string());
    std::vector<AddedToken> added = options.added;
    for (const std::string& piece : options.special)
      if (const std::optional<int> id = tokenizer.id_of(piece))
        added.push_back({.content = piece, .id = *id, .special = true});
    tokenizer.add_tokens(added, document.name);
    return tokenizer;
  }

  /// From a tokenizer.json that has been read.
  ByteLevelBpe(const detail::TextDocument& document, Index vocabulary) : TextParts(document, vocabulary) {
    const detail::JsonField model = detail::JsonField(document.tree, document.name).at("model");
    model.allow({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
                 "byte_fallback", "ignore_merges", "vocab", "merges"});
    if (const auto type = model.find("type"); type && type->string() != "BPE")
      throw type->error("is ", type->shown(), ", expected \"BPE\"");
    model.refuse("dropout");
    model.refuse("continuing_subword_prefix");
    model.refuse("end_of_word_suffix");
    static_cast<void>(model.at("merges").elements());
    merges_.byte_fallback = model.boolean_or("byte_fallback", false);
    merges_.fuse_unknown = model.boolean_or("fuse_unk", false);
    merges_.ignore_merges = model.boolean_or("ignore_merges", false);
    if (const auto unknown = model.find("unk_token")) {
      merges_.unknown = pieces_.find(unknown->string());
      if (!merges_.unknown) throw unknown->error("is ", unknown->shown(), ", which is no piece");
    }
    merges_.set(document.merges, pieces_, document.name);
    merges_.find_bytes(pieces_);
  }

  /// Token ids of a text; `special` says whether the tokens that the tokenizer sets before and after it are there.
  ///
  ///   Throws   SpecError where a character has no piece and there is no unknown token, or where a pattern takes too
  ///            many steps
  [[nodiscard]] std::vector<int> encode(std::string_view text, bool special = true) const {
    return encode_words(text, special,
                        [&](std::string_view word, std::vector<int>& ids) { merges_.encode(word, pieces_, ids); });
  }

 private:
  explicit ByteLevelBpe(detail::PieceTable pieces) : TextParts(std::move(pieces)) {}

  [[nodiscard]] static std::vector<detail::Merge> read_merges(const std::filesystem::path& path) {
    const std::string bytes = detail::read_text_file(path);
    std::vector<detail::Merge> merges;
    std::size_t number = 0;
    for (std::size_t begin = 0, end = 0; begin < bytes.size(); begin = end + 1) {
      end = std::min(bytes.find('\n', begin), bytes.size());
      std::string line = bytes.substr(begin, end - begin);
      if (line.ends_with('\r')) line.pop_back();
      ++number;
      if (line.starts_with("#version")) continue;
      merges.push_back(detail::merge_of(line, detail::text(path.string(), ": line ", number)));
    }
    return merges;
  }

  detail::PairMerges merges_;
};

}  // namespace twoheads
