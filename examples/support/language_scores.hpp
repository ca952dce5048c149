#pragma once

#include <cmath>
#include <cstddef>
#include <limits>
#include <stdexcept>
#include <string>
#include <twoheads/base/matrix.hpp>
#include <vector>

namespace programs {

using twoheads::Index;
using twoheads::Matrix;

/// Throws if a row holds a NaN or an infinity: the model's own numbers have left the range of the scalar.
template <class Scalar>
void require_finite_logits(const Matrix<Scalar>& logits) {
  const Index row = twoheads::detail::first_row_not_finite(logits);
  if (row >= 0)
    throw std::runtime_error("the logits of token " + std::to_string(row) +
                             " hold NaN or infinity: the model exceeds the scalar");
}

/// Negative log-likelihood of a token by the logits of the one before it, in nats.
inline double nats_of(const twoheads::RowVector<double>& logits, Index id) {
  const double largest = logits.maxCoeff();
  return largest + std::log((logits.array() - largest).exp().sum()) - logits[id];
}

/// Mean negative log-likelihood of each next token, in nats.
inline double mean_nll(const Matrix<double>& logits, const std::vector<int>& ids) {
  double sum = 0;
  for (Index row = 0; row + 1 < logits.rows(); ++row)
    sum += nats_of(logits.row(row), ids[static_cast<std::size_t>(row + 1)]);
  return logits.rows() > 1 ? sum / static_cast<double>(logits.rows() - 1) : 0.0;
}

/// Largest absolute difference, infinite if either holds a NaN.
inline double max_difference(const Matrix<double>& a, const Matrix<double>& b) {
  if (twoheads::detail::first_row_not_finite(a) >= 0 || twoheads::detail::first_row_not_finite(b) >= 0)
    return std::numeric_limits<double>::infinity();
  return (a - b).cwiseAbs().maxCoeff();
}

/// Share of rows whose most likely token changed, those whose best two differ by less than 1e-4 in the reference apart.
inline double share_of_changed(const Matrix<double>& logits, const Matrix<double>& reference) {
  Index changed = 0;
  for (Index row = 0; row < logits.rows(); ++row) {
    Index best = 0;
    Index found = 0;
    const double most = reference.row(row).maxCoeff(&best);
    logits.row(row).maxCoeff(&found);
    if (best == found) continue;
    Matrix<double> others = reference.row(row);
    others(0, best) = -std::numeric_limits<double>::infinity();
    if (most - others.maxCoeff() >= 1e-4) ++changed;
  }
  return static_cast<double>(changed) / static_cast<double>(logits.rows());
}

}  // namespace programs
