#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "support/naive.hpp"

/// Tolerances from an error bound in eps and lengths, and a comparison that no NaN passes. None of it calls the code
/// under test.
namespace bounds {

using naive::Index;
using naive::Real;

template <class Scalar>
constexpr Real eps = std::numeric_limits<Scalar>::epsilon();

/// Largest |found - truth| of any entry over `scale`. Another shape, and a NaN on either side, is an infinite error.
///
///   Units   of `scale`: give what bounds the numbers that the entries are sums of
template <class Dense>
Real max_row_error(const Dense& found, const naive::Table& truth, Real scale) {
  constexpr Real infinite = std::numeric_limits<Real>::infinity();
  if (found.rows() != naive::rows(truth) || (found.rows() > 0 && found.cols() != naive::cols(truth))) return infinite;
  Real most = 0;
  for (Index i = 0; i < found.rows(); ++i)
    for (Index j = 0; j < found.cols(); ++j) {
      const Real error = std::abs(static_cast<Real>(found(i, j)) - truth[naive::at(i)][naive::at(j)]);
      if (!(error <= std::numeric_limits<Real>::max())) return infinite;
      most = std::max(most, error);
    }
  if (most == 0) return 0;
  return scale > 0 ? most / scale : infinite;
}

/// Error of a sum of `length` products, over the sum of their absolute values.
template <class Scalar>
constexpr Real sum_bound(Index length) {
  return eps<Scalar> * static_cast<Real>(length + 2);
}

/// Error of an attention row over the largest |value|, by softmax(s) v from given q, k, v.
///
///   Math   a score is a sum of head_dim products, then scaled and shifted: off by (head_dim + 4) eps times `logit`,
///          the largest |scale| sum |q_c k_c| (naive::Scores::absolute). exp turns that into a relative error of each
///          share, and adds its own. Numerator and denominator both carry it, and sums of `keys` terms their own.
template <class Scalar>
constexpr Real attention_bound(Index keys, Index head_dim, Real logit) {
  const Real share = static_cast<Real>(head_dim + 4) * logit + 4;
  return eps<Scalar> * (2 * share + 2 * static_cast<Real>(keys + 2));
}

/// A result, the largest entry met on the way to it, and how far it moves where every entry on the way moves.
struct Truth {
  naive::Table rows;
  Real scale = 0;
  /// Largest change of an entry of `rows`, over scale, where every entry on the way changes by a relative 1.
  Real growth = 0;
};

/// Evaluates `run(stage) -> rows` three times in long double: as it is, and with all entries on the way off by the
/// fraction 1e-9 up or down at random, so that logits, norms and depth enter the growth as they are,
/// not at their worst.
template <class Run>
Truth truth_of(const Run& run) {
  Truth truth;
  truth.rows = run([&](naive::Table& table) { truth.scale = std::max(truth.scale, naive::largest(table)); });
  truth.scale = std::max(truth.scale, naive::largest(truth.rows));
  constexpr Real step = 1e-9L;
  std::mt19937_64 bits(1);
  for (int repeat = 0; repeat < 2; ++repeat) {
    const naive::Table moved = run([&](naive::Table& table) {
      for (naive::Row& row : table)
        for (Real& x : row) x *= (bits() & 1) != 0 ? 1 + step : 1 - step;
    });
    for (std::size_t i = 0; i < moved.size(); ++i)
      for (std::size_t c = 0; c < moved[i].size(); ++c)
        truth.growth = std::max(truth.growth, std::abs(moved[i][c] - truth.rows[i][c]) / (step * truth.scale));
  }
  truth.growth += 1;
  return truth;
}

/// Error of `rows` over `scale` in a scalar, where the sums on the way have up to `length` terms.
///
///   Math   each entry on the way is off by at most (length + 2) eps of the terms that it sums; the size of those
///          terms over `scale`, a few at most, goes into the factor 4; `growth` carries that to the result
template <class Scalar>
Real error_bound(const Truth& truth, Index length) {
  return 4 * sum_bound<Scalar>(length) * truth.growth;
}

}  // namespace bounds
