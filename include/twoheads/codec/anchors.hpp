#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <twoheads/base/matrix.hpp>
#include <twoheads/codec/decode.hpp>
#include <twoheads/oracle/rounding.hpp>
#include <twoheads/plan/precision.hpp>
#include <twoheads/plan/tile.hpp>

namespace twoheads {

/// Columns of a token that an anchor takes: two where tokens have fewer digits than scores,
/// so that it keeps twice theirs.
[[nodiscard]] constexpr Index anchor_cols(const OraclePrecision& precision) {
  const double tokens = facts_of(precision.tokens).unit_roundoff;
  const bool narrow = tokens > facts_of(Precision::float32).unit_roundoff;
  return narrow && tokens > facts_of(precision.scores).unit_roundoff ? 2 : 1;
}

/// An anchor as the columns of a token hold it, and so as the oracle sees it.
template <RealScalar Scalar>
[[nodiscard]] Scalar held_anchor(Scalar anchor, const OraclePrecision& precision) {
  const Scalar high = rounded(anchor, precision.tokens);
  return anchor_cols(precision) > 1 ? high + rounded(anchor - high, precision.tokens) : high;
}

/// Anchors c of a tile's query rows from the mean of the keys that each row sees.
///
///   Shapes   queries (rows, m), keys (n, m) of the tile, sinks (s, m); result (rows)
///   Units    logits
///   Math     c_i = scale q_i . mean(k_j : j visible to i) + ln(number of visible keys) <= log-sum-exp_i
///   Corner   a row that sees no key of the tile gets 0
template <RealScalar Scalar>
[[nodiscard]] Vector<double> mean_key_anchors(const Tile& tile, const MatrixView<Scalar>& queries,
                                              const MatrixView<Scalar>& keys, const MatrixView<Scalar>& sinks,
                                              double scale) {
  const Index rows = tile.queries.size();
  Vector<double> anchors = Vector<double>::Zero(rows);
  RowVector<double> sum = RowVector<double>::Zero(keys.cols());
  // Casts by plain loops: Eigen 3.4 casts float to double one by one.
  const auto add = [&](const MatrixView<Scalar>& from, Index row) {
    const Scalar* const key = from.data() + row * from.outerStride();
    for (Index col = 0; col < sum.size(); ++col) sum[col] += static_cast<double>(key[col]);
  };
  for (Index sink = 0; sink < sinks.rows(); ++sink) add(sinks, sink);
  RowVector<double> query(keys.cols());
  Rows summed{0, 0};
  double count = 0;
  double log_count = 0;
  const auto visit = [&](Index i) {
    const Rows seen = tile.visible_keys(i);
    const Rows wanted{seen.begin - tile.keys.begin, seen.end - tile.keys.begin};
    if (tile.keys_seen(i) == 0) return;
    // Neighbouring rows differ by one key, so the sum grows and is never recomputed.
    if (summed.empty()) summed = {wanted.begin, wanted.begin};
    for (; summed.end < wanted.end; ++summed.end) add(keys, summed.end);
    for (; summed.begin > wanted.begin; --summed.begin) add(keys, summed.begin - 1);
    if (const auto now = static_cast<double>(tile.keys_seen(i)); now != count) {
      count = now;
      log_count = std::log(count);
    }
    const Scalar* const from = queries.data() + i * queries.outerStride();
    for (Index col = 0; col < query.size(); ++col) query[col] = static_cast<double>(from[col]);
    anchors[i] = scale * query.dot(sum) / count + log_count;
  };
  if (tile.shape == TileShape::strict_upper)
    for (Index i = rows - 1; i >= 0; --i) visit(i);
  else
    for (Index i = 0; i < rows; ++i) visit(i);
  return anchors;
}

/// The same where a term is added to each score: keys weigh as the terms alone would have them.
///
///   Shapes   term(i, key): of query i of the tile and the key at a position; by_query: whether it depends on i
///   Math     w_j = exp(t_ij), W = sum of w_j; c_i = scale q_i . (sum of w_j k_j) / W + ln W <= log-sum-exp_i
///   Corner   a term of -infinity hides its key; a row that sees no key of the tile gets 0
///   Source   Jensen's inequality; not in the paper
template <RealScalar Scalar, class Term>
[[nodiscard]] Vector<double> mean_key_anchors(const Tile& tile, const MatrixView<Scalar>& queries,
                                              const MatrixView<Scalar>& keys, const MatrixView<Scalar>& sinks,
                                              double scale, bool by_query, const Term& term) {
  constexpr double hidden = -std::numeric_limits<double>::infinity();
  Vector<double> anchors = Vector<double>::Zero(tile.queries.size());
  RowVector<double> sum(keys.cols());
  double weight = 0;        // of the keys in the sum, over exp(largest)
  double largest = hidden;  // term
  const auto add = [&](const MatrixView<Scalar>& from, Index row, double added) {
    if (added == hidden) return;
    if (added > largest) {
      const double smaller = std::exp(largest - added);
      sum *= smaller;
      weight *= smaller;
      largest = added;
    }
    const double factor = std::exp(added - largest);
    weight += factor;
    const Scalar* const key = from.data() + row * from.outerStride();
    for (Index col = 0; col < sum.size(); ++col) sum[col] += factor * static_cast<double>(key[col]);
  };
  Rows summed{0, 0};
  const auto begin = [&](Index i) {
    sum.setZero();
    weight = 0;
    largest = hidden;
    summed = {0, 0};
    for (Index sink = 0; sink < sinks.rows(); ++sink) add(sinks, sink, term(i, tile.sinks.begin + sink));
  };
  const auto visit = [&](Index i) {
    const Rows seen = tile.visible_keys(i);
    if (by_query) begin(i);
    const Rows wanted{seen.begin - tile.keys.begin, seen.end - tile.keys.begin};
    // Neighbouring rows differ by one key, so the sum grows and is never recomputed.
    if (summed.empty()) summed = {wanted.begin, wanted.begin};
    for (; summed.end < wanted.end; ++summed.end) add(keys, summed.end, term(i, tile.keys.begin + summed.end));
    for (; summed.begin > wanted.begin; --summed.begin)
      add(keys, summed.begin - 1, term(i, tile.keys.begin + summed.begin - 1));
    if (weight == 0) return;
    double product = 0;
    const Scalar* const query = queries.data() + i * queries.outerStride();
    for (Index col = 0; col < sum.size(); ++col) product += static_cast<double>(query[col]) * sum[col];
    anchors[i] = scale * product / weight + largest + std::log(weight);
  };
  const Index rows = anchors.size();
  begin(0);
  if (tile.shape == TileShape::strict_upper)
    for (Index i = rows - 1; i >= 0; --i) visit(i);
  else
    for (Index i = 0; i < rows; ++i) visit(i);
  return anchors;
}

/// Anchors c of a tile's query rows from the key that each row expects under its own attention.
///
///   Shapes   queries (rows, m), expected_keys (rows, m or more, of which the first m count); result (rows)
///   Units    logits
///   Math     c_i = scale q_i . E_i[k] + ln(n_i) / 2; the log-sum-exp is E_i[logit] + H_i with 0 <= H_i <= ln n_i, so
///            c_i is within ln(n_i) / 2 of it and r, p >= 1 / (1 + sqrt(n_i)). Of copies(i) synthetic keys each takes
///            its share of that: c_i is lower by their logarithm.
///   Corner   a row that sees no key of the tile gets 0
///   Source   the Gibbs variational identity; not in the paper
template <RealScalar Scalar, class Copies>
[[nodiscard]] Vector<double> gibbs_anchors(const Tile& tile, const MatrixView<Scalar>& queries,
                                           const Matrix<Scalar>& expected_keys, double scale, const Copies& copies) {
  Vector<double> anchors = Vector<double>::Zero(tile.queries.size());
  for (Index i = 0; i < anchors.size(); ++i) {
    const Index seen = tile.keys_seen(i);
    if (seen < 1) continue;
    const auto expected = expected_keys.row(i).head(queries.cols());
    anchors[i] = scale * queries.row(i).template cast<double>().dot(expected.template cast<double>()) +
                 0.5 * std::log(static_cast<double>(seen)) - std::log(static_cast<double>(copies(i)));
  }
  return anchors;
}

/// The same with one synthetic key.
template <RealScalar Scalar>
[[nodiscard]] Vector<double> gibbs_anchors(const Tile& tile, const MatrixView<Scalar>& queries,
                                           const Matrix<Scalar>& expected_keys, double scale) {
  return gibbs_anchors(tile, queries, expected_keys, scale, [](Index) { return Index{1}; });
}

/// Finds an anchor that keeps a row's r and p in range, from the side on which each try fell off.
///
///   Math     steps that double until both sides are known, then bisection: the interval ends at neighbouring
///            scalars, one of which is the rounded score that dominates the row
template <RealScalar Scalar>
class AnchorSearch {
 public:
  /// Doubling crosses the exponents of a scalar, bisection its digits; no search takes as many tries.
  static constexpr int most_tries = 4 * std::numeric_limits<Scalar>::max_exponent;

  /// The anchor to try next, after `anchor` drifted so; an anchor that did not drift stays.
  [[nodiscard]] Scalar next(Scalar anchor, Drift drift) {
    if (drift == Drift::none) return anchor;
    (drift == Drift::too_low ? low_ : high_) = anchor;
    const bool bracketed = std::isfinite(low_) && std::isfinite(high_);
    // Written so that nothing overflows up to the largest scalar.
    if (bracketed) return low_ / Scalar(2) + high_ / Scalar(2);
    constexpr Scalar most = std::numeric_limits<Scalar>::max();
    step_ = std::max(Scalar(2) * step_, Scalar(4) * std::numeric_limits<Scalar>::epsilon() * std::abs(anchor));
    return std::clamp(drift == Drift::too_low ? anchor + step_ : anchor - step_, -most, most);
  }

 private:
  Scalar low_ = -std::numeric_limits<Scalar>::infinity();
  Scalar high_ = std::numeric_limits<Scalar>::infinity();
  Scalar step_ = Scalar(16);
};

}  // namespace twoheads
