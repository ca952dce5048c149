#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <set>
#include <twoheads/base/index.hpp>
#include <utility>
#include <vector>

namespace twoheads::detail {

/// Spreads the bits of a word over all 64: splitmix64's output function.
[[nodiscard]] constexpr std::uint64_t spread_bits(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31);
}

/// A seed for part number `part` of what `seed` stands for; parts of parts have seeds of their own.
[[nodiscard]] constexpr std::uint64_t seed_of_part(std::uint64_t seed, Index part) {
  return spread_bits(spread_bits(seed + 0x9E3779B97F4A7C15U) + static_cast<std::uint64_t>(part));
}

/// Whole numbers drawn from a seed: integers alone, so the same on every platform (splitmix64).
///
///   Source   G. Steele, D. Lea, C. Flood, Fast splittable pseudorandom number generators, OOPSLA 2014
class Draws {
 public:
  explicit constexpr Draws(std::uint64_t seed) : state_(seed) {}

  /// Uniform over 0 .. count - 1, count >= 1, with no bias: a word beyond the last whole multiple is drawn again.
  [[nodiscard]] constexpr Index below(Index count) {
    const auto n = static_cast<std::uint64_t>(count);
    const std::uint64_t excess = (std::numeric_limits<std::uint64_t>::max() % n + 1) % n;
    for (;;) {
      state_ += 0x9E3779B97F4A7C15U;
      const std::uint64_t word = spread_bits(state_);
      if (word <= std::numeric_limits<std::uint64_t>::max() - excess) return static_cast<Index>(word % n);
    }
  }

  /// `count` distinct numbers of 0 .. total - 1, each set of them as likely as any other. Memory O(count).
  ///
  ///   Source   R. Floyd; J. Bentley, Programming Pearls: a sample of brilliance, CACM 1987
  [[nodiscard]] std::set<Index> distinct(Index count, Index total) {
    std::set<Index> drawn;
    for (Index last = total - count; last < total; ++last)
      if (!drawn.insert(below(last + 1)).second) drawn.insert(last);
    return drawn;
  }

  /// 0 .. count - 1 in an order of which each is as likely as any other (Fisher and Yates).
  [[nodiscard]] std::vector<Index> order(Index count) {
    std::vector<Index> result(static_cast<std::size_t>(count));
    std::iota(result.begin(), result.end(), Index{0});
    for (Index left = count; left > 1; --left)
      std::swap(result[static_cast<std::size_t>(left - 1)], result[static_cast<std::size_t>(below(left))]);
    return result;
  }

 private:
  std::uint64_t state_;
};

}  // namespace twoheads::detail
