#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <twoheads/attention/partial.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/codec/layout.hpp>
#include <twoheads/codec/slot_map.hpp>
#include <twoheads/oracle/rounding.hpp>
#include <vector>

namespace twoheads {

/// Where an answer belongs, for messages.
struct JobPlace {
  Index layer = 0;  ///< of the model
  Index head = 0;   ///< of the layer
};

namespace detail {

[[nodiscard]] inline std::string place(const JobPlace& job, const Tile& tile, Index query) {
  return text("layer ", job.layer, ", head ", job.head, ", ", tile, ", row ", tile.queries.begin + query);
}

}  // namespace detail

/// Least share of r or p for each key behind it that still carries the digits of its scalar: far enough above the
/// smallest normal number that neither a flush to zero nor an exponential that clamps its argument (Eigen's ends at
/// 5.6e-309 in float64, also for -1e30) is mistaken for a weight.
template <RealScalar Scalar>
[[nodiscard]] constexpr double least_weight() {
  return 16.0 * static_cast<double>(std::numeric_limits<Scalar>::min());
}

/// Which shares of real and synthetic keys still carry the digits of an oracle's precision.
///
///   Math     where weights and answers are as wide as the scalar: least_weight() a key. Where they are narrower, at
///            least the least normal number of theirs for a copy of the synthetic key, whose roundings are all alike,
///            and sqrt(n) of it for n real keys, whose roundings cancel; values that came with a factor r as well.
template <RealScalar Scalar>
class LeastShare {
 public:
  /// `trace` is the most that an identity head leaves of other rows in a column (StackLayout::trace).
  explicit LeastShare(const OraclePrecision& precision, double trace = 0.0) {
    // What other rows left in a share must be lost in its rounding.
    least_ = least_weight<Scalar>() + trace / static_cast<double>(std::numeric_limits<Scalar>::epsilon());
    unit_ = static_cast<double>(std::numeric_limits<Scalar>::epsilon());
    for (const Precision rounding : {precision.weights, precision.answers}) {
      const PrecisionFacts facts = facts_of(rounding);
      narrow_ = narrow_ || facts.least_normal > 16 * least_weight<Scalar>();
      least_ = std::max(least_, facts.least_normal);
      unit_ = std::max(unit_, 2 * facts.unit_roundoff);
    }
  }

  /// Whether r has lost its digits, with so many real keys behind it.
  [[nodiscard]] bool real_too_small(double share, double keys) const {
    return share / (narrow_ ? std::sqrt(keys) : keys) < least_;
  }
  /// Whether p has, with so many copies.
  [[nodiscard]] bool synthetic_too_small(double share, double copies) const { return share / copies < least_; }
  /// Values that came with a factor `share`: the largest of a row.
  [[nodiscard]] bool values_lost(double share, double largest, double keys) const {
    return narrow_ ? share < 0.5 && largest < 16 * least_ : share < unit_ && largest / keys < least_;
  }

 private:
  double least_ = 0;
  double unit_ = 0;
  bool narrow_ = false;
};

/// Where a row's anchor lies: too low if the synthetic key's weight p underflows, too high if the real keys' r does.
enum class Drift : signed char { none, too_low, too_high };

/// What one job's rows of an answer say.
///
///   Shapes   partial: (query rows of the tile); expected_keys (query rows, m and terms) where the kind has them
///   Corner   a query that sees no key of the tile: zero value, log weight -inf. A row whose drift is not none
///            has no log weight yet; if its anchor lies too high, no value and no expected key either.
template <RealScalar Scalar>
struct Decoded {
  Partial<Scalar> partial;
  Matrix<Scalar> expected_keys;
  std::vector<Drift> drift;  ///< one for each query row

  /// The first row whose anchor is off, or -1.
  [[nodiscard]] Index first_unsafe() const {
    return first([](Drift d) { return d != Drift::none; });
  }
  /// The first row without a value, or -1.
  [[nodiscard]] Index first_without_value() const {
    return first([](Drift d) { return d == Drift::too_high; });
  }

 private:
  template <class Test>
  [[nodiscard]] Index first(const Test& test) const {
    const auto found = std::find_if(drift.begin(), drift.end(), test);
    return found == drift.end() ? -1 : static_cast<Index>(found - drift.begin());
  }
};

/// Reads one job's tile from the answer to a call, whose columns of the job's slot start at `begin`.
///
///   Shapes   answer (rows of the call, output width); anchors (query rows) as encoded, in units of the oracle's score
///   Math     value = O / r, log weight = c + ln r - ln(p / s), s copies of the synthetic key seen; nothing is
///            subtracted from 1. c = oracle_scale * anchor is rounded as the oracle rounds its scores.
///   Corner   a call without a synthetic key says no log weight: 0 stands for it
///   Throws   OracleError that names layer, head, tile and row for NaN, infinity, or weights that are no probabilities
///   Source   Yu & Alman, Lemma 3.1, whose A = r / (1 - r) loses all digits as r nears 1
template <RealScalar Scalar>
[[nodiscard]] Decoded<Scalar> decode(const Matrix<Scalar>& answer, Index begin, const InstanceLayout& layout,
                                     const SlotMap& map, Index job, const JobPlace& place,
                                     const Vector<Scalar>& anchors, double oracle_scale,
                                     const OraclePrecision& precision = {}, double trace = 0.0) {
  const Tile& tile = map.tile(job);
  const Index queries = tile.queries.size();
  Decoded<Scalar> found;
  found.partial = Partial<Scalar>::empty(queries, layout.has_values() ? layout.value_dim : 0);
  if (layout.has_keys()) found.expected_keys.setZero(queries, layout.score_cols());
  found.drift.assign(static_cast<std::size_t>(queries), Drift::none);
  const LeastShare<Scalar> least(precision, trace);

  for (Index query = 0; query < queries; ++query) {
    const Index row = map.row_of(job, query);
    if (row == SlotMap::none) continue;
    const auto columns = answer.row(row).segment(begin, layout.checks_at());
    if (detail::first_row_not_finite(columns) >= 0)
      throw OracleError(detail::place(place, tile, query) + ": the oracle answered NaN or infinity");
    if (layout.has_keys()) found.expected_keys.row(query) = columns.segment(layout.keys_at(), layout.score_cols());
    if (!layout.has_state()) {
      found.partial.value.row(query) = columns.head(layout.value_dim);
      found.partial.log_weight[query] = 0.0;
      continue;
    }
    const Scalar r = columns[layout.r_at()];
    const auto real = static_cast<double>(r);
    const auto synthetic = static_cast<double>(columns[layout.p_at()]);
    // Half precision still sums to 1 within a hundredth.
    if (real < 0 || synthetic < 0 || std::abs(real + synthetic - 1.0) > 0.05)
      throw OracleError(detail::text(detail::place(place, tile, query),
                                     ": the attention on real and synthetic keys is ", real, " and ", synthetic,
                                     ", expected two numbers >= 0 that sum to 1"));
    Drift& drift = found.drift[static_cast<std::size_t>(query)];
    const auto keys = static_cast<double>(tile.keys_seen(query));
    const auto copies = static_cast<double>(map.synthetic_seen(row, answer.rows()));
    // O carries r as a factor: where r is small, small values may have left the normal numbers.
    const bool no_values =
        layout.has_values() &&
        least.values_lost(real, static_cast<double>(columns.head(layout.value_dim).cwiseAbs().maxCoeff()), keys);
    if (no_values || least.real_too_small(real, keys))
      drift = Drift::too_high;
    else if (least.synthetic_too_small(synthetic, copies))
      drift = Drift::too_low;
    if (drift == Drift::none) {
      const Scalar anchor = rounded(static_cast<Scalar>(oracle_scale) * anchors[query], precision.scores);
      found.partial.log_weight[query] = static_cast<double>(anchor) + std::log(real) - std::log(synthetic / copies);
    }
    if (drift == Drift::too_high) continue;
    if (layout.has_values()) {
      found.partial.value.row(query) = columns.head(layout.value_dim) / r;
      if (detail::first_row_not_finite(found.partial.value.row(query)) >= 0)
        throw OracleError(detail::place(place, tile, query) + ": the oracle's answer exceeds the range of the scalar");
    }
    if (layout.has_keys()) found.expected_keys.row(query) /= r;
  }
  return found;
}

}  // namespace twoheads
