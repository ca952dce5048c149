#pragma once

#include <algorithm>
#include <limits>
#include <twoheads/base/index.hpp>

namespace twoheads {

/// Which keys the rows of a tile see: row i those with i + from <= key < i + to, both counted from the tile's first.
struct KeyBand {
  static constexpr Index unlimited = std::numeric_limits<Index>::max() / 4;  ///< no end on a side
  Index from = -unlimited;
  Index to = unlimited;

  [[nodiscard]] static constexpr KeyBand all() { return {}; }  ///< every row sees every key
  /// Lower triangle: keys up to the row's own number.
  [[nodiscard]] static constexpr KeyBand lower() { return {-unlimited, 1}; }
  /// Strict upper triangle: keys after the row's own number.
  [[nodiscard]] static constexpr KeyBand strict_upper() { return {1, unlimited}; }

  /// What row i sees of `keys` keys.
  [[nodiscard]] constexpr Rows seen(Index i, Index keys) const {
    const Index begin = std::clamp<Index>(i + from, 0, keys);
    return {begin, std::clamp<Index>(i + to, begin, keys)};
  }
  /// Of a range of keys, those between the first and the last that one of some rows sees.
  [[nodiscard]] constexpr Rows seen_by_some(Rows rows, Rows keys) const {
    return {std::max(keys.begin, rows.begin + from), std::min(keys.end, rows.end - 1 + to)};
  }
  /// The same band with keys counted from a later one.
  [[nodiscard]] constexpr KeyBand from_key(Index first) const { return {from - first, to - first}; }
};

}  // namespace twoheads
