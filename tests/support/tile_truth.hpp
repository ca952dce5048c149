#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <twoheads/codec/anchors.hpp>
#include <twoheads/codec/encode.hpp>
#include <twoheads/model/random.hpp>
#include <vector>

#include "support/in_shape.hpp"

/// A small made-up layer, and the truth about tiles of it by the definitions in long double.
/// Uses none of the library's attention.
namespace tiles {

using namespace twoheads;
using Real = long double;
using RealMatrix = std::vector<std::vector<Real>>;

inline constexpr Index queries = 9, keys = 10, heads = 2, head_dim = 3, value_dim = 2, input_width = 4;

// --- a layer's tokens ------------------------------------------------------------------------------------------------

/// What a layer hands to its attention, with its owners. Two heads of different keys, or of the same keys and values.
template <class Scalar>
struct Layer {
  AttentionSpec spec;
  AttentionWeights<Scalar> weights;
  Matrix<Scalar> query_tokens, key_tokens, q, k, v;
  Index hottest = 0;  ///< the head of the largest logit

  [[nodiscard]] AttentionInput<Scalar> input() const {
    return {spec, 0, view(q), view(k), view(v), view(query_tokens), view(key_tokens), weights};
  }
};

template <class Scalar>
RealMatrix to_real(const Matrix<Scalar>& values, Index begin, Index count) {
  RealMatrix result;
  for (Index row = 0; row < values.rows(); ++row) {
    result.emplace_back();
    for (Index col = begin; col < begin + count; ++col) result.back().push_back(static_cast<Real>(values(row, col)));
  }
  return result;
}

inline RealMatrix product(const RealMatrix& a, const RealMatrix& b) {
  RealMatrix result(a.size(), std::vector<Real>(b.front().size(), 0));
  for (std::size_t row = 0; row < a.size(); ++row)
    for (std::size_t col = 0; col < b.front().size(); ++col)
      for (std::size_t n = 0; n < b.size(); ++n) result[row][col] += a[row][n] * b[n][col];
  return result;
}

inline RealMatrix absolute(RealMatrix values) {
  for (auto& row : values)
    for (Real& value : row) value = std::abs(value);
  return values;
}

inline Real dot(const std::vector<Real>& a, const std::vector<Real>& b) {
  Real sum = 0;
  for (std::size_t n = 0; n < a.size(); ++n) sum += a[n] * b[n];
  return sum;
}

/// Tokens times the weights that one head applies to them; `part` numbers the head or the key/value head.
template <class Scalar>
RealMatrix projected(const Layer<Scalar>& layer, const Matrix<Scalar>& tokens, const Matrix<Scalar>& weights,
                     Index part, Index dim, bool sizes) {
  const bool slice = layer.spec.head_input == HeadInput::slice;
  const RealMatrix x = to_real(tokens, slice ? part * input_width : 0, input_width);
  const RealMatrix w = to_real(weights, part * dim, dim);
  return sizes ? product(absolute(x), absolute(w)) : product(x, w);
}

template <class Scalar>
void project(const Layer<Scalar>& layer, const Matrix<Scalar>& tokens, const Matrix<Scalar>& weights, Index parts,
             Index dim, Matrix<Scalar>& result) {
  result.resize(tokens.rows(), parts * dim);
  for (Index part = 0; part < parts; ++part) {
    const RealMatrix rows = projected(layer, tokens, weights, part, dim, false);
    for (Index row = 0; row < tokens.rows(); ++row)
      for (Index col = 0; col < dim; ++col)
        result(row, part * dim + col) =
            static_cast<Scalar>(rows[static_cast<std::size_t>(row)][static_cast<std::size_t>(col)]);
  }
}

/// A layer whose logits, over all pairs and heads, lie in -largest..largest and reach its end.
template <class Scalar>
Layer<Scalar> make_layer(Random& random, double largest, bool slice) {
  Layer<Scalar> layer;
  layer.spec.heads = heads;
  layer.spec.kv_heads = slice ? heads : 1;
  layer.spec.head_dim = head_dim;
  layer.spec.value_dim = value_dim;
  layer.spec.score_scale = 0.6;
  layer.spec.head_input = slice ? HeadInput::slice : HeadInput::whole;
  const Index kv_heads = layer.spec.kv_heads;
  const Index width = slice ? heads * input_width : input_width;
  layer.query_tokens = random.matrix<Scalar>(queries, width);
  layer.key_tokens = random.matrix<Scalar>(keys, width);
  layer.weights.wq = random.matrix<Scalar>(input_width, heads * head_dim);
  layer.weights.wk = random.matrix<Scalar>(input_width, kv_heads * head_dim);
  layer.weights.wv = random.matrix<Scalar>(input_width, kv_heads * value_dim);
  Real found = 0;
  for (Index head = 0; head < heads; ++head)
    for (const auto& q : projected(layer, layer.query_tokens, layer.weights.wq, head, head_dim, false))
      for (const auto& k : projected(layer, layer.key_tokens, layer.weights.wk, slice ? head : 0, head_dim, false)) {
        const Real logit = Real(layer.spec.score_scale) * dot(q, k);
        if (std::abs(logit) <= std::abs(found)) continue;
        found = logit;
        layer.hottest = head;
      }
  layer.weights.wq *= static_cast<Scalar>(Real(largest) / found);
  project(layer, layer.query_tokens, layer.weights.wq, heads, head_dim, layer.q);
  project(layer, layer.key_tokens, layer.weights.wk, kv_heads, head_dim, layer.k);
  project(layer, layer.key_tokens, layer.weights.wv, kv_heads, value_dim, layer.v);
  return layer;
}

// --- the truth, by the definitions, in long double -------------------------------------------------------------------

struct TruthRow {
  Index seen = 0;
  Real log_sum = -std::numeric_limits<Real>::infinity();
  std::vector<Real> value, expected_key;
};

struct Truth {
  std::vector<TruthRow> rows;
  Real logit_size = 0;  ///< largest sum of the absolute products of a logit: what its rounding is relative to
  Real value_size = 0, key_size = 0;
};

inline Real largest_entry(const RealMatrix& values) {
  Real largest = 0;
  for (const auto& row : values)
    for (const Real value : row) largest = std::max(largest, value);
  return largest;
}

template <class Scalar>
Truth truth_of(const Layer<Scalar>& layer, const Tile& tile, Index head, TokenEncoding encoding) {
  const Index kv_head = layer.spec.kv_heads == 1 ? 0 : head;
  const auto rows_of = [&](const Matrix<Scalar>& tokens, const Matrix<Scalar>& weights, const Matrix<Scalar>& done,
                           Index part, Index dim, bool sizes) {
    if (encoding == TokenEncoding::raw) return projected(layer, tokens, weights, part, dim, sizes);
    const RealMatrix rows = to_real(done, part * dim, dim);
    return sizes ? absolute(rows) : rows;
  };
  RealMatrix q, k, v, q_size, k_size, v_size;
  for (const bool sizes : {false, true}) {
    (sizes ? q_size : q) = rows_of(layer.query_tokens, layer.weights.wq, layer.q, head, head_dim, sizes);
    (sizes ? k_size : k) = rows_of(layer.key_tokens, layer.weights.wk, layer.k, kv_head, head_dim, sizes);
    (sizes ? v_size : v) = rows_of(layer.key_tokens, layer.weights.wv, layer.v, kv_head, value_dim, sizes);
  }
  Truth truth;
  truth.value_size = largest_entry(v_size);
  truth.key_size = largest_entry(k_size);
  const Real scale = layer.spec.score_scale;
  for (Index i = 0; i < tile.queries.size(); ++i) {
    TruthRow row;
    row.value.assign(value_dim, 0);
    row.expected_key.assign(head_dim, 0);
    const auto query = static_cast<std::size_t>(tile.queries.begin + i);
    std::vector<Real> logits;
    std::vector<std::size_t> visible;
    for (Index j = 0; j < tile.keys.size(); ++j)
      if (in_shape(tile.shape, i, j)) visible.push_back(static_cast<std::size_t>(tile.keys.begin + j));
    for (Index sink = tile.sinks.begin; sink < tile.sinks.end; ++sink)
      visible.push_back(static_cast<std::size_t>(sink));
    for (const std::size_t key : visible) {
      logits.push_back(scale * dot(q[query], k[key]));
      truth.logit_size = std::max(truth.logit_size, scale * dot(q_size[query], k_size[key]));
    }
    row.seen = static_cast<Index>(logits.size());
    if (row.seen > 0) {
      const Real largest = *std::max_element(logits.begin(), logits.end());
      Real sum = 0;
      for (const Real logit : logits) sum += std::exp(logit - largest);
      row.log_sum = largest + std::log(sum);
    }
    for (std::size_t n = 0; n < visible.size(); ++n) {
      const Real weight = std::exp(logits[n] - row.log_sum);
      for (std::size_t c = 0; c < value_dim; ++c) row.value[c] += weight * v[visible[n]][c];
      for (std::size_t c = 0; c < head_dim; ++c) row.expected_key[c] += weight * k[visible[n]][c];
    }
    truth.rows.push_back(row);
  }
  return truth;
}

/// How far attention weights may lie from the truth, relative; and log weights, absolutely. A logit of these lengths
/// carries at most head_dim + 2 * input_width roundings of its size, its anchor one of its own; exp, sums and quotients
/// carry few more.
template <class Scalar>
double bound(const Truth& truth, double anchor) {
  const double eps = static_cast<double>(std::numeric_limits<Scalar>::epsilon());
  const double logit =
      (head_dim + 2.0 * input_width + 8.0) * (static_cast<double>(truth.logit_size) + std::abs(anchor));
  return 4.0 * eps * (logit + static_cast<double>(keys) + 16.0);
}

}  // namespace tiles
