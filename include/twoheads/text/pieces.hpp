#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/text/json_document.hpp>
#include <unordered_map>
#include <vector>

namespace twoheads::detail {

/// The pieces of a tokenizer and their ids, each piece and each id once. Ids may have gaps.
class PieceTable {
 public:
  /// Ids are those of a model of `vocabulary` tokens. Throws SpecError unless that is 1 to 2147483647.
  explicit PieceTable(Index vocabulary) : vocabulary_(vocabulary) {
    if (vocabulary < 1 || vocabulary > std::numeric_limits<int>::max())
      throw SpecError(text("the vocabulary is ", vocabulary, ", expected 1 to 2147483647"));
  }

  /// Throws FormatError that names the file and the piece, where the id is outside the vocabulary
  /// or either stands already.
  void add(const std::string& piece, std::int64_t id, const std::string& file) {
    const auto fail = [&](const auto&... what) {
      return FormatError(text(file, ": the piece \"", piece.substr(0, 60), "\" ", what...));
    };
    if (id < 0 || id >= vocabulary_) throw fail("has the id ", id, ", expected 0 to ", vocabulary_ - 1);
    const auto [stands, is_new] = ids_.emplace(piece, static_cast<int>(id));
    if (!is_new) throw fail("stands twice, with the ids ", stands->second, " and ", id);
    const auto [other, is_free] = pieces_.emplace(static_cast<int>(id), piece);
    if (!is_free) throw fail("has the id ", id, ", which \"", other->second.substr(0, 60), "\" has already");
    longest_ = std::max(longest_, piece.size());
  }

  void add(const std::vector<NamedId>& all, const std::string& file) {
    if (all.empty()) throw FormatError(text(file, ": the vocabulary is empty"));
    for (const NamedId& each : all) add(each.piece, each.id, file);
  }

  [[nodiscard]] Index vocabulary() const { return vocabulary_; }
  /// Bytes of the longest piece.
  [[nodiscard]] std::size_t longest() const { return longest_; }

  [[nodiscard]] std::optional<int> find(std::string_view piece) const {
    const auto found = ids_.find(piece);
    if (found == ids_.end()) return std::nullopt;
    return found->second;
  }

  /// The piece of an id, or null where the id is one of the vocabulary and has none.
  ///
  ///   Throws   SpecError that names an id outside the vocabulary
  [[nodiscard]] const std::string* find(int id) const {
    if (id < 0 || id >= vocabulary_)
      throw SpecError(text("token ", id, " does not exist, expected 0 to ", vocabulary_ - 1));
    const auto found = pieces_.find(id);
    return found == pieces_.end() ? nullptr : &found->second;
  }

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view piece) const { return std::hash<std::string_view>{}(piece); }
  };

  Index vocabulary_;
  std::size_t longest_ = 0;
  std::unordered_map<std::string, int, Hash, std::equal_to<>> ids_;
  std::unordered_map<int, std::string> pieces_;
};

}  // namespace twoheads::detail
