#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <twoheads/attention/tile_kernel.hpp>
#include <twoheads/model/random.hpp>
#include <vector>

#include "support/bounds.hpp"
#include "support/naive.hpp"
#include "support/seed.hpp"

/// One block of queries over tiles of any shape: what the tile kernel finds, and the same by naive loops.
namespace tile_problem {

using namespace twoheads;
using bounds::Real;

inline constexpr double unseen = -std::numeric_limits<double>::infinity();

/// A tile of some rows of a block, and what its rows see: said a second time, pair by pair.
struct Part {
  Rows rows;
  Rows keys;
  KeyBand band;

  [[nodiscard]] bool sees(Index row, Index key) const {
    if (!rows.contains(row) || !keys.contains(key)) return false;
    const Index i = row - rows.begin;
    const Index j = key - keys.begin;
    return j >= i + band.from && j < i + band.to;
  }
};

struct Problem {
  Index rows, keys, head_dim, value_dim;
  std::vector<Part> parts;
  double score_scale = 0.3;
  double soft_cap = 0;
};

template <class Scalar>
struct Found {
  Matrix<Scalar> value;
  std::vector<double> log_weight;
};

/// Rows that lie `gap` entries further apart than they are long, with NaN between them: nothing there may be read.
template <class Scalar>
Matrix<Scalar> with_gaps(const Matrix<Scalar>& rows, Index gap) {
  Matrix<Scalar> wide =
      Matrix<Scalar>::Constant(rows.rows(), rows.cols() + gap, std::numeric_limits<Scalar>::quiet_NaN());
  wide.leftCols(rows.cols()) = rows;
  return wide;
}

template <class Backend, class Scalar = typename Backend::Scalar>
Found<Scalar> evaluate(const Problem& p, const Matrix<float>& q, const Matrix<float>& k, const Matrix<float>& v,
                       Index gap = 0, bool finite_values = true) {
  const Matrix<Scalar> wide_q = with_gaps<Scalar>(q.cast<Scalar>(), gap);
  const Matrix<Scalar> wide_k = with_gaps<Scalar>(k.cast<Scalar>(), gap);
  const Matrix<Scalar> wide_v = with_gaps<Scalar>(v.cast<Scalar>(), gap);
  TileKernel<Scalar, Backend> kernel(p.head_dim, p.value_dim, {p.score_scale, p.soft_cap});
  kernel.begin(block_view(view(wide_q), {0, p.rows}, 0, p.head_dim));
  for (const Part& part : p.parts)
    kernel.add(part.rows, block_view(view(wide_k), part.keys, 0, p.head_dim),
               block_view(view(wide_v), part.keys, 0, p.value_dim), part.band, 0, finite_values);
  Found<Scalar> found{Matrix<Scalar>(p.rows, p.value_dim), std::vector<double>(static_cast<std::size_t>(p.rows))};
  found.value.setConstant(std::numeric_limits<Scalar>::quiet_NaN());
  kernel.finish(span(found.value), found.log_weight.data());
  return found;
}

struct Truth {
  naive::Table value;
  std::vector<Real> log_weight;
  Real logit = 0;  ///< largest scale sum |q_c k_c|
};

inline Truth truth_of(const Problem& p, const Matrix<float>& q, const Matrix<float>& k, const Matrix<float>& v) {
  const naive::Visible sees = [&](Index row, Index key) {
    for (const Part& part : p.parts)
      if (part.sees(row, key)) return true;
    return false;
  };
  naive::Table s = naive::logits(naive::plain(q), naive::plain(k), p.score_scale);
  Truth truth;
  for (Index i = 0; i < p.rows; ++i)
    for (Index j = 0; j < p.keys; ++j) {
      Real& score = s[naive::at(i)][naive::at(j)];
      if (p.soft_cap > 0) score = p.soft_cap * std::tanh(score / p.soft_cap);
      Real sum = 0;
      for (Index c = 0; c < p.head_dim; ++c) sum += std::abs(static_cast<Real>(q(i, c)) * static_cast<Real>(k(j, c)));
      truth.logit = std::max(truth.logit, sum * std::abs(static_cast<Real>(p.score_scale)));
    }
  truth.value = naive::softmax_mean(s, naive::plain(v), sees);
  for (Index i = 0; i < p.rows; ++i) truth.log_weight.push_back(naive::log_sum_exp(s[naive::at(i)], i, sees));
  return truth;
}

struct Numbers {
  Matrix<float> q, k, v;
};

inline Numbers random_numbers(const Problem& p) {
  Random random(seed_or(77));
  return {random.matrix<float>(p.rows, p.head_dim), random.matrix<float>(p.keys, p.head_dim),
          random.matrix<float>(p.keys, p.value_dim)};
}

template <class Backend>
void expect_right(const Problem& p, const std::string& what, Index gap = 0) {
  using Scalar = typename Backend::Scalar;
  const Numbers n = random_numbers(p);
  const Found<Scalar> found = evaluate<Backend>(p, n.q, n.k, n.v, gap);
  const Truth truth = truth_of(p, n.q, n.k, n.v);
  const Real bound = bounds::attention_bound<Scalar>(p.keys, p.head_dim, truth.logit);
  EXPECT_LE(bounds::max_row_error(found.value, truth.value, naive::largest(naive::plain(n.v))), bound) << what;
  for (std::size_t row = 0; row < truth.log_weight.size(); ++row) {
    if (std::isinf(truth.log_weight[row])) {
      EXPECT_EQ(found.log_weight[row], unseen) << what << ", row " << row;
      continue;
    }
    EXPECT_NEAR(found.log_weight[row], static_cast<double>(truth.log_weight[row]), static_cast<double>(bound))
        << what << ", row " << row;
  }
}

}  // namespace tile_problem
