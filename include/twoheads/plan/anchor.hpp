#pragma once

#include <twoheads/base/index.hpp>

namespace twoheads {

/// How the synthetic token's logit c is chosen for a row that sees n keys of its tile. The log weight of a row is
/// c + ln r - ln p, where r is the attention that its real keys got and p the synthetic key's: both must stay in range.
///
///   zero       c = 0: safe only while |log-sum-exp| of a row is small
///   mean_key   c = mean logit + ln n <= log-sum-exp (Jensen): r >= 1/2, only p can underflow; one call a tile
///   gibbs      c = E[logit] + (ln n) / 2, within (ln n) / 2 of the log-sum-exp at any logit size; two calls a
///              tile, and more where a logit's own rounding exceeds that window (beyond 1e8 in float)
///   adaptive   mean_key, and gibbs for the tiles where a row's r or p would underflow
///   Source     zero is the paper's (Lemma 3.1). Gibbs: log-sum-exp = E[logit] + H(P), 0 <= H(P) <= ln n.
enum class Anchor { zero, mean_key, gibbs, adaptive };

/// The name as programs take it.
[[nodiscard]] constexpr const char* name(Anchor anchor) {
  switch (anchor) {
    case Anchor::zero:
      return "zero";
    case Anchor::mean_key:
      return "mean-key";
    case Anchor::gibbs:
      return "gibbs";
    case Anchor::adaptive:
      return "adaptive";
  }
  return "";
}

/// Oracle rounds that a tile is planned to take; adaptive plans as mean_key, since its repeats depend on the data.
[[nodiscard]] constexpr Index planned_rounds(Anchor anchor) { return anchor == Anchor::gibbs ? 2 : 1; }

}  // namespace twoheads
