#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/plan/limits.hpp>

namespace twoheads {

/// By how much a score must lie below the real ones to have no weight beside them in any scalar.
///
///   Shapes   queries (rows, m), keys (n, m) of a slot
///   Units    of the oracle's products q . k, before its own scale
///   Math     `silence` nats and twice the scores' own bound: m max |q_c| max |k_c| over entries, or, where the range
///            is tight, max ||q|| max ||k|| over rows
class ScoreBound {
 public:
  explicit ScoreBound(bool tight = false) : tight_(tight) {}

  /// Takes more queries into account.
  template <class Queries>
  void add_queries(const Queries& queries) {
    grow(query_, queries);
  }
  /// Takes more keys into account.
  template <class Keys>
  void add_keys(const Keys& keys) {
    grow(key_, keys);
  }

  /// What is added to scores has at most this size.
  void add_terms(double size) { terms_ = std::max(terms_, size); }

  /// Most that |factor q . k| can be, with the terms.
  [[nodiscard]] double most(double factor, Index head_dim) const {
    return std::abs(factor) * (tight_ ? 1.0 : static_cast<double>(head_dim)) * query_ * key_ + terms_;
  }

  /// How far hidden scores must lie below the others.
  [[nodiscard]] double gap(double factor, Index head_dim, double oracle_scale, double silence = 1000.0) const {
    return 2.0 * most(factor, head_dim) + silence / oracle_scale;
  }

 private:
  // In float64, since squares and products of floats may leave their range where the scores do not.
  template <class Rows>
  void grow(double& largest, const Rows& rows) const {
    if (rows.size() == 0) return;
    const double found = tight_ ? rows.template cast<double>().rowwise().norm().maxCoeff()
                                : static_cast<double>(rows.cwiseAbs().maxCoeff());
    largest = std::max(largest, found);
  }

  bool tight_;
  double query_ = 0;
  double key_ = 0;
  double terms_ = 0;
};

/// What a call takes of an oracle's range of scores beside the real ones: the anchor lies up to ln n above them, and
/// hidden keys must lie so far below that they weigh together less than a rounding of the row.
///
///   Units    nats
[[nodiscard]] inline double nats_beside(const OraclePrecision& precision, double scalar_epsilon, bool hides,
                                        Index call_rows) {
  const auto n = static_cast<double>(call_rows);
  double unit = scalar_epsilon;
  for (const Precision rounding : {precision.weights, precision.answers})
    unit = std::max(unit, facts_of(rounding).unit_roundoff);
  return std::log(n) + (hides ? std::log(4 * n / unit) : 0.0);
}

/// How far the hidden scores of a slot lie below the real ones, on an oracle whose scores end at some size.
///
///   Units    as ScoreBound; `most` is its bound of the real scores, `gap` what would be enough without an end
///   Math     hidden keys weigh together less than a rounding of the row; the gap fills the range as far as that goes
///   Throws   LimitError where the real scores, the anchor beside them, or what must lie below may exceed the range
template <RealScalar Scalar>
[[nodiscard]] double gap_within(const OracleLimits& limits, double most, double gap, bool hides, Index call_rows) {
  constexpr auto epsilon = static_cast<double>(std::numeric_limits<Scalar>::epsilon());
  const double anchor = nats_beside(limits.precision, epsilon, false, call_rows);
  const double least = nats_beside(limits.precision, epsilon, hides, call_rows) - anchor;
  const double real = most * limits.score_scale + anchor;
  if (!(real + least <= limits.largest_score)) {
    const std::string below = hides ? detail::text(", and those of hidden keys must lie ", least, " below") : "";
    throw LimitError(detail::text("scores may reach ", real, below, "; the oracle's end at ", limits.largest_score));
  }
  return std::max(std::min(gap, (limits.largest_score - real) / limits.score_scale),
                  (2 * real + least) / limits.score_scale);
}

/// What a query's anchor column holds where keys are dead: tokens of 16 bits have no range to leave to one side.
template <RealScalar Scalar>
[[nodiscard]] Scalar dead_query(Precision tokens = Precision::own) {
  return facts_of(tokens).unit_roundoff > facts_of(Precision::float32).unit_roundoff ? Scalar(256) : Scalar(1);
}

/// An entry for the synthetic column of keys that no query may attend to; the queries' hold dead_query().
///
///   Throws   LimitError where tokens narrower than the scalar cannot hold it
template <RealScalar Scalar>
[[nodiscard]] Scalar dead_key(double gap, Precision tokens = Precision::own) {
  const double entry = gap / static_cast<double>(dead_query<Scalar>(tokens));
  if (entry > facts_of(tokens).largest)
    throw LimitError(detail::text("keys that no query may attend to need the entry ", -entry, ", beyond tokens of ",
                                  name(tokens), ": smaller scores or wider tokens would do"));
  return static_cast<Scalar>(-std::min(entry, static_cast<double>(std::numeric_limits<Scalar>::max())));
}

}  // namespace twoheads
