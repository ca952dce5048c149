#pragma once

#include <twoheads/codec/converse.hpp>
#include <twoheads/model/random.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <vector>

#include "support/bounds.hpp"
#include "support/naive.hpp"

/// Short attentions of random rows, and each in a call of its own.
namespace short_attentions {

using namespace twoheads;

inline constexpr Index head_dim = 16;
inline constexpr Index value_dim = 6;

inline OracleLimits limits_of(OracleKind kind, Index rows, double score_scale = 1, bool residual = false) {
  OracleLimits limits;
  limits.kind = kind;
  limits.rows = rows;
  limits.score_scale = score_scale;
  limits.residual = residual;
  return limits;
}

template <class Scalar>
ShortAttention<Scalar> random_attention(Index rows, Random& random, double deviation = 1) {
  return {random.matrix<float>(rows, head_dim, deviation).cast<Scalar>(),
          random.matrix<float>(rows, head_dim, deviation).cast<Scalar>(),
          random.matrix<float>(rows, value_dim).cast<Scalar>(),
          {}};
}

template <class Scalar>
std::vector<ShortAttention<Scalar>> random_attentions(const std::vector<Index>& rows, Random& random,
                                                      double deviation = 1) {
  std::vector<ShortAttention<Scalar>> attentions;
  for (const Index n : rows) attentions.push_back(random_attention<Scalar>(n, random, deviation));
  return attentions;
}

inline Index total_of(const std::vector<Index>& rows) {
  Index total = 0;
  for (const Index n : rows) total += n;
  return total;
}

/// A call of its own, without codes, by weights written here.
template <class Scalar>
Matrix<Scalar> alone(const ShortAttention<Scalar>& attention, const OracleLimits& limits, SumOrder order,
                     double score_scale) {
  using P = Projection<Scalar>;
  OracleLimits own = limits;
  own.residual = own.fixed_rows = false;
  SmallWeights<Scalar> weights;
  weights.width = 2 * head_dim + value_dim;
  weights.layers = {
      {{{P::selector(0, head_dim), P::selector(head_dim, head_dim), P::selector(2 * head_dim, value_dim), 0}},
       value_dim,
       attention.mlp}};
  Matrix<Scalar> rows(attention.q.rows(), weights.width);
  rows << attention.q * static_cast<Scalar>(score_scale / limits.score_scale), attention.k, attention.v;
  return SmallTransformer<Scalar>(own, order).run({&weights, rows});
}

/// Largest |found - truth| over the largest |value| of the attention, in eps of the scalar; infinite for NaN.
template <class Scalar>
naive::Real error_in_eps(const Matrix<Scalar>& found, const Matrix<Scalar>& truth,
                         const ShortAttention<Scalar>& attention) {
  return bounds::max_row_error(found, naive::plain(truth), naive::largest(naive::plain(attention.v))) /
         bounds::eps<Scalar>;
}

}  // namespace short_attentions
