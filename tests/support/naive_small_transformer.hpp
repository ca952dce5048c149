#pragma once

#include <cstddef>
#include <twoheads/oracle/weights.hpp>
#include <twoheads/plan/limits.hpp>
#include <utility>
#include <vector>

#include "support/naive.hpp"

/// The small transformer, written a second time: in long double, on plain vectors, by loops over single numbers. Its
/// weights come in through plain(); nothing else of the library is called.
namespace naive {

struct SmallHead {
  Table wq, wk, wv;  ///< over whole rows
  Index output_begin = 0;
};

struct SmallLayer {
  std::vector<SmallHead> heads;
  Index output_width = 0;
  RowRule mlp;
};

/// The weights of a small transformer, projections as matrices over whole rows. A test says its row functions again.
template <class Scalar>
std::vector<SmallLayer> plain(const twoheads::SmallWeights<Scalar>& weights) {
  std::vector<SmallLayer> layers;
  Index width = weights.width;
  for (const twoheads::SmallLayer<Scalar>& layer : weights.layers) {
    layers.push_back({{}, layer.output_width, {}});
    for (const twoheads::SmallHead<Scalar>& head : layer.heads)
      layers.back().heads.push_back({plain(head.wq.to_matrix(width)), plain(head.wk.to_matrix(width)),
                                     plain(head.wv.to_matrix(width)), head.output_begin});
    width = layer.output_width;
  }
  return layers;
}

inline Table small_transformer(const std::vector<SmallLayer>& layers, const twoheads::OracleLimits& limits, Table x,
                               const Stage& stage = {}) {
  const bool causal = limits.kind == twoheads::OracleKind::causal;
  const Visible sees = [causal](Index query, Index key) { return !causal || key <= query; };
  const auto staged = [&](Table table) {
    if (stage) stage(table);
    return table;
  };
  for (const SmallLayer& layer : layers) {
    Table output = limits.residual ? x : zeros(rows(x), layer.output_width);
    for (const SmallHead& head : layer.heads) {
      twoheads::AttentionSpec one;
      one.head_dim = cols(head.wq);
      one.value_dim = cols(head.wv);
      one.score_scale = limits.score_scale;
      const Table part = staged(
          attention(one, staged(product(x, head.wq)), staged(product(x, head.wk)), staged(product(x, head.wv)), sees));
      for (std::size_t i = 0; i < part.size(); ++i)
        for (std::size_t c = 0; c < part[i].size(); ++c) output[i][at(head.output_begin) + c] += part[i][c];
    }
    for (Index i = 0; layer.mlp && i < rows(output); ++i) layer.mlp(i, output[at(i)]);
    x = staged(std::move(output));
  }
  return x;
}

}  // namespace naive
