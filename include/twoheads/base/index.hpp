#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <twoheads/base/compiler.hpp>

namespace twoheads {

/// Counts and positions: signed, so that differences and reversed orders need no casts.
using Index = std::ptrdiff_t;

static_assert(sizeof(Index) == 8, "twoheads counts pairs of tokens and needs a 64-bit index");

/// Half-open range of row positions [begin, end).
struct Rows {
  Index begin = 0;
  Index end = 0;

  [[nodiscard]] constexpr Index size() const { return end - begin; }   ///< how many rows
  [[nodiscard]] constexpr bool empty() const { return end <= begin; }  ///< whether there are none
  /// Whether a row is among them.
  [[nodiscard]] constexpr bool contains(Index row) const { return begin <= row && row < end; }
  friend constexpr bool operator==(const Rows&, const Rows&) = default;
};

/// Smallest number of parts of at most `part` that hold `total`; total >= 0, part >= 1.
[[nodiscard]] constexpr Index ceil_div(Index total, Index part) { return total / part + (total % part != 0 ? 1 : 0); }

/// The rows of block number `block` when `total` rows are cut into blocks of `length`; the last one may be short.
[[nodiscard]] constexpr Rows block_rows(Index block, Index length, Index total) {
  const Index begin = block * length;
  return {begin, begin + std::min(length, total - begin)};
}

/// The rows of block number `block` when `total` rows are cut into `count` blocks as long as each other, or the first
/// ones by one longer; count >= 1.
[[nodiscard]] constexpr Rows even_rows(Index block, Index count, Index total) {
  const Index length = total / count;
  const Index longer = total % count;
  const Index begin = block * length + std::min(block, longer);
  return {begin, begin + length + (block < longer ? 1 : 0)};
}

}  // namespace twoheads
