#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <twoheads/model/random.hpp>
#include <type_traits>
#include <vector>

#include "support/instances.hpp"
#include "support/naive.hpp"
#include "support/seed.hpp"
#include "support/text_of_mask.hpp"

/// Attention under a mask over rows of given logits, and its error by calls and by direct evaluation.
namespace window_problem {

using namespace twoheads;
using naive::Real;

inline std::uint64_t seed() { return seed_or(851); }

inline constexpr Index heads = 2, dim = 4;
inline constexpr double infinity = std::numeric_limits<double>::infinity();

/// Rows of q, k and v, rounded to float, so that one truth serves both scalars.
struct Inputs {
  Matrix<float> q, k, v;
};

/// Rows whose largest |q . k| of any pair is near `logit`.
inline Inputs inputs_of(Index tokens, double logit) {
  Random random(seed() + static_cast<std::uint64_t>(tokens));
  Inputs rows{random.matrix<float>(tokens, heads * dim), random.matrix<float>(tokens, heads * dim),
              random.matrix<float>(tokens, heads * dim)};
  float largest = 0;
  for (Index head = 0; head < heads; ++head)
    largest = std::max(
        largest,
        (rows.q.middleCols(head * dim, dim) * rows.k.middleCols(head * dim, dim).transpose()).cwiseAbs().maxCoeff());
  rows.q *= static_cast<float>(logit) / largest;
  return rows;
}

inline AttentionSpec spec_of(const Mask& mask) {
  AttentionSpec spec;
  spec.heads = spec.kv_heads = heads;
  spec.head_dim = spec.value_dim = dim;
  spec.mask = mask;
  return spec;
}

/// Largest ||row - truth|| / ||truth|| over some rows; a NaN makes it infinite.
template <class Scalar>
double row_error(const Matrix<Scalar>& found, const naive::Table& truth, Rows rows) {
  double worst = 0;
  for (Index row = rows.begin; row < rows.end; ++row) {
    Real error = 0, size = 0;
    for (Index col = 0; col < found.cols(); ++col) {
      const Real expected = truth.at(naive::at(row)).at(naive::at(col));
      error += (static_cast<Real>(found(row, col)) - expected) * (static_cast<Real>(found(row, col)) - expected);
      size += expected * expected;
    }
    const auto relative = static_cast<double>(std::sqrt(error / size));
    worst = relative <= std::numeric_limits<double>::max() ? std::max(worst, relative) : infinity;
  }
  return worst;
}

/// One layer's attention: what goes in, the truth, and the error of direct evaluation over the rows that are looked at.
template <class Scalar>
class Problem {
 public:
  Problem(const Mask& mask, const Inputs& rows, const naive::Table& truth, Rows checked, double max_logit)
      : mask_(mask),
        spec_(spec_of(mask)),
        q_(rows.q.template cast<Scalar>()),
        k_(rows.k.template cast<Scalar>()),
        v_(rows.v.template cast<Scalar>()),
        truth_(truth),
        checked_(checked) {
    DirectAttention<Scalar> direct;
    direct_error_ = row_error(attend(direct), truth_, checked_);
    max_logit_ = max_logit > 0 ? max_logit : direct.max_logit();
  }

  template <class A>
  [[nodiscard]] Matrix<Scalar> attend(A& attention) const {
    Matrix<Scalar> out = Matrix<Scalar>::Constant(q_.rows(), heads * dim, std::numeric_limits<Scalar>::quiet_NaN());
    attention(AttentionInput<Scalar>{spec_, 0, view(q_), view(k_), view(v_), view(q_), view(k_), weights_}, span(out));
    return out;
  }

  /// The bound that the programs promise: a few direct errors, a rounding of the largest logit, and the smallest error.
  [[nodiscard]] double bound() const {
    constexpr bool single = std::is_same_v<Scalar, float>;
    return 4 * direct_error_ + (single ? 6e-8 : 1.2e-16) * max_logit_ + (single ? 1e-6 : 1e-12);
  }

  /// Simulates and holds the error to the bound; made calls to the planned ones, which mean-key never exceeds.
  Matrix<Scalar> check(const OracleLimits& limits, Anchor anchor) const {
    const std::string place =
        detail::text(text_of(mask_), ", ", q_.rows(), " tokens on a ", name(limits.kind), " oracle of ", limits.rows,
                     " rows, ", name(anchor), ", largest logit ", max_logit_, ", ", sizeof(Scalar), " bytes");
    SmallTransformer<Scalar> oracle(limits);
    GridAttention<SmallTransformer<Scalar>> grid(oracle, {anchor});
    const Matrix<Scalar> found = attend(grid);
    EXPECT_LE(row_error(found, truth_, checked_), bound()) << place << ", direct error " << direct_error_;
    EXPECT_LT(detail::first_row_not_finite(found), 0) << place;
    const Plan plan({mask_, q_.rows(), 0, heads, 1, limits, anchor});
    EXPECT_EQ(grid.counts().calls - grid.counts().repeats, plan.calls()) << place;
    EXPECT_EQ(grid.counts().jobs, plan.jobs()) << place;
    if (anchor == Anchor::mean_key) {
      EXPECT_EQ(grid.counts().repeats, 0) << place;
      EXPECT_EQ(grid.counts().rounds, plan.rounds()) << place;
    }
    return found;
  }

 private:
  Mask mask_;
  AttentionSpec spec_;
  AttentionWeights<Scalar> weights_;
  Matrix<Scalar> q_, k_, v_;
  naive::Table truth_;
  Rows checked_;
  double direct_error_ = 0;
  double max_logit_ = 0;
};

/// The attention of every row, over the keys that its mask shows: windows need no pass over all pairs.
inline naive::Table truth_of(const Mask& mask, const Inputs& rows) {
  const naive::Table q = naive::plain(rows.q), k = naive::plain(rows.k), v = naive::plain(rows.v);
  const naive::Visible sees = naive::visible(mask);
  naive::Table truth = naive::zeros(rows.q.rows(), heads * dim);
  for (Index i = 0; i < rows.q.rows(); ++i) {
    std::vector<std::size_t> seen;
    for (Index j = 0; j < rows.k.rows(); ++j)
      if (sees(i, j)) seen.push_back(naive::at(j));
    for (Index head = 0; head < heads; ++head) {
      const std::size_t begin = naive::at(head * dim);
      std::vector<Real> logits;
      for (const std::size_t j : seen) {
        Real logit = 0;
        for (std::size_t c = begin; c < begin + dim; ++c) logit += q[naive::at(i)][c] * k[j][c];
        logits.push_back(logit);
      }
      const Real largest = *std::max_element(logits.begin(), logits.end());
      Real sum = 0;
      for (Real& logit : logits) sum += logit = std::exp(logit - largest);
      for (std::size_t n = 0; n < seen.size(); ++n)
        for (std::size_t c = begin; c < begin + dim; ++c) truth[naive::at(i)][c] += logits[n] / sum * v[seen[n]][c];
    }
  }
  return truth;
}

template <class Scalar>
Problem<Scalar> problem_of(const Mask& mask, const Inputs& rows) {
  return Problem<Scalar>(mask, rows, truth_of(mask, rows), {0, rows.q.rows()}, 0);
}

inline OracleLimits limits_of(OracleKind kind, Index rows) {
  OracleLimits limits;
  limits.kind = kind;
  limits.rows = rows;
  return limits;
}

inline constexpr OracleKind both[] = {OracleKind::plain, OracleKind::causal};

}  // namespace window_problem
