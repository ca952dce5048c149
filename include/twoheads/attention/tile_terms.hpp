#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <twoheads/attention/key_band.hpp>
#include <twoheads/base/compiler.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/base/matrix.hpp>

namespace twoheads {

/// How scores are made of q . k.
///
///   Math   s = score_scale q . k, or soft_cap tanh(score_scale q . k / soft_cap) where soft_cap > 0
struct ScoreRule {
  double score_scale = 1.0;
  double soft_cap = 0.0;  ///< 0: none
  bool terms = false;     ///< whether tiles come with TileTerms

  /// Whether scores are more than products that are scaled.
  [[nodiscard]] bool changes_scores() const { return soft_cap > 0 || terms; }
};

/// What is added to the scores of a tile: row i, key j, both counted from the tile's first.
///
///   Math   slope (distance + j - i) + bias[i * bias_stride + j]; a bias of -infinity hides the pair
template <RealScalar Scalar>
struct TileTerms {
  double slope = 0.0;
  Index distance = 0;  ///< position of the tile's first key less that of its first query
  const Scalar* bias = nullptr;
  Index bias_stride = 0;

  /// Whether the bias hides a pair.
  [[nodiscard]] bool hides(Index i, Index j) const {
    return bias != nullptr && bias[i * bias_stride + j] == -std::numeric_limits<Scalar>::infinity();
  }
  /// Whether row i sees none of these keys.
  [[nodiscard]] bool hides_all(Index i, Rows keys) const {
    for (Index j = keys.begin; j < keys.end; ++j)
      if (!hides(i, j)) return false;
    return true;
  }
};

namespace detail {

/// How scores are held while they are made: as nats where a cap or terms change them, otherwise as products without
/// their scale, so that queries are not rounded; of a scale below 0 with the other sign, so that their order is right.
template <RealScalar Scalar>
struct ScoreUnit {
  explicit ScoreUnit(const ScoreRule& rule)
      : sign(static_cast<Scalar>(rule.score_scale > 0   ? 1
                                 : rule.score_scale < 0 ? -1
                                                        : 0)),
        nats(rule.changes_scores() || rule.score_scale == 0 ? 1.0 : std::abs(rule.score_scale)),
        powers(static_cast<Scalar>(std::clamp<double>(nats * log2_e, std::numeric_limits<Scalar>::min(),
                                                      std::numeric_limits<Scalar>::max()))) {}

  static constexpr double log2_e = 1.4426950408889634074;

  Scalar sign;    ///< of a held score: that of the scale
  double nats;    ///< of a held score of 1
  Scalar powers;  ///< of two, the same; neither 0 nor infinite: a hidden score is -inf, and a difference may be 0
};

// Loops of the tile kernel for what few tiles have: away from the loop that counts. Scores are (keys, panel), those of
// a panel's queries side by side.

/// Where the lanes of a panel stand in a tile: lane 0 is row `first` of the tile, which has `rows` of them.
struct PanelPlace {
  Index first = 0;
  Index rows = 0;

  [[nodiscard]] bool has(Index lane) const { return first + lane >= 0 && first + lane < rows; }
};

/// Caps scores that are held unscaled.
template <RealScalar Scalar>
TWOHEADS_NOINLINE void cap_scores(Scalar* scores, Index count, const ScoreRule& rule) {
  const auto cap = static_cast<Scalar>(rule.soft_cap);
  const auto scale = static_cast<Scalar>(
      std::min<double>(std::abs(rule.score_scale) / rule.soft_cap, std::numeric_limits<Scalar>::max()));
  for (Index at = 0; at < count; ++at) scores[at] = cap * std::tanh(scores[at] * scale);
}

/// Multiplies scores by `scale` and adds the terms of keys [keys.begin, keys.end) of a tile.
template <Index panel, RealScalar Scalar>
TWOHEADS_NOINLINE void add_terms(Scalar* scores, PanelPlace place, Rows keys, Scalar scale,
                                 const TileTerms<Scalar>& terms) {
  double lanes[panel];
  for (Index lane = 0; lane < panel; ++lane) lanes[lane] = static_cast<double>(lane);
  for (Index j = keys.begin; j < keys.end; ++j) {
    // Rounded once from the distance itself: a row has the same bits in any lane.
    const auto first = static_cast<double>(terms.distance + j - place.first);
    Scalar* const at = scores + (j - keys.begin) * panel;
    for (Index lane = 0; lane < panel; ++lane)
      at[lane] = scale * at[lane] + static_cast<Scalar>(terms.slope * (first - lanes[lane]));
  }
  if (terms.bias == nullptr) return;
  for (Index lane = 0; lane < panel; ++lane) {
    if (!place.has(lane)) continue;
    const Scalar* const bias = terms.bias + (place.first + lane) * terms.bias_stride;
    for (Index j = keys.begin; j < keys.end; ++j) {
      Scalar& score = scores[(j - keys.begin) * panel + lane];
      // A score that is not finite stays away where it is hidden.
      constexpr Scalar hidden = -std::numeric_limits<Scalar>::infinity();
      score = bias[j] == hidden ? hidden : score + bias[j];
    }
  }
}

/// For each lane the first and last + 1 of the keys that it sees, counted from keys.begin; bounds (2, panel).
template <Index panel, RealScalar Scalar>
void set_seen_bounds(Scalar* bounds, PanelPlace place, Rows keys, const KeyBand& band) {
  for (Index lane = 0; lane < panel; ++lane) {
    Rows seen{0, 0};
    if (place.has(lane)) {
      const Index i = place.first + lane;
      seen = {std::clamp(i + band.from, keys.begin, keys.end) - keys.begin,
              std::clamp(i + band.to, keys.begin, keys.end) - keys.begin};
    }
    bounds[lane] = static_cast<Scalar>(seen.begin);
    bounds[panel + lane] = static_cast<Scalar>(seen.end);
  }
}

/// sums (value_dim, panel) = sums * rescale + values^T weights, each lane over the keys that it sees alone.
///
///   Shapes   values (keys, value_dim), `stride` apart; weights (keys, panel); bounds as set_seen_bounds() has them
template <Index panel, RealScalar Scalar>
void sum_seen_values(const Scalar* values, Index stride, Index value_dim, const Scalar* weights, Scalar* sums,
                     const Scalar* rescale, const Scalar* bounds, PanelPlace place, Rows keys,
                     const TileTerms<Scalar>& terms) {
  for (Index lane = 0; lane < panel; ++lane) {
    const auto first = static_cast<Index>(bounds[lane]);
    const auto last = static_cast<Index>(bounds[panel + lane]);
    for (Index col = 0; col < value_dim; ++col) {
      Scalar sum = 0;
      for (Index j = first; j < last; ++j)
        if (!terms.hides(place.first + lane, keys.begin + j))
          sum += weights[j * panel + lane] * values[j * stride + col];
      Scalar& total = sums[col * panel + lane];
      total = total * rescale[lane] + sum;
    }
  }
}

}  // namespace detail
}  // namespace twoheads
