#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

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
///   Math   a score is a sum of head_dim products, then scaled and shifted: off by (head_dim + 4) eps times `logit`, the
///          largest |scale| sum |q_c k_c|. exp turns that into a relative error of each share, and adds its own. Shares,
///          numerator and denominator each carry it, and sums of `keys` terms their (keys + 2) eps.
template <class Scalar>
constexpr Real attention_bound(Index keys, Index head_dim, Real logit) {
  const Real share = static_cast<Real>(head_dim + 4) * logit + 4;
  return eps<Scalar> * (2 * share + 2 * static_cast<Real>(keys + 2));
}

/// Error of the rows of the transformer over the largest entry met (naive::Extent::value).
///
///   Math   a relative error e of the rows that enter a layer leaves it as at most growth e + fresh, where
///          fresh = eps (lengths of the sums) (1 + logit) norm, and growth = (4 + 4 logit) norm^2: the residual sum,
///          values and MLP pass e on, q and k turn it into 2 e logit of each share, numerator and denominator have it
///          both, and each of the two norms enlarges it by at most `norm`.
template <class Scalar>
Real model_bound(const twoheads::ModelSpec& spec, Index keys, const naive::Extent& extent) {
  const Real lengths = static_cast<Real>(keys + 2 * spec.width + spec.hidden + spec.attention.head_dim +
                                         spec.attention.heads * spec.attention.value_dim + 32);
  const Real fresh = eps<Scalar> * lengths * (1 + extent.logit) * extent.norm;
  const Real growth = (4 + 4 * extent.logit) * extent.norm * extent.norm;
  Real error = 0;
  for (Index layer = 0; layer < spec.layers; ++layer) error = growth * error + fresh;
  return spec.final_norm ? 2 * extent.norm * error : error;
}

}  // namespace bounds
