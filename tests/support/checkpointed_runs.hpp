#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <twoheads/exec/checkpoint.hpp>
#include <twoheads/model/random.hpp>
#include <utility>

#include "support/instances.hpp"
#include "support/temp_folder.hpp"

/// Computations of two layers in parts that a checkpoint holds, by attentions of several kinds.
namespace checkpointed_runs {

using namespace twoheads;
namespace fs = std::filesystem;

/// Attention row by row, whose parts end at multiples of 4; parts that are skipped out of turn are noticed.
template <class S>
class RowByRow {
 public:
  using Scalar = S;
  std::function<void()> before_part = [] {};

  void operator()(const AttentionInput<S>& input, MatrixSpan<S> out) {
    begin_layer(input.spec, input.layer, input.query_positions(), input.key_positions());
    (*this)(input, input.query_positions(), out);
    end_layer();
  }
  void begin_layer(const AttentionSpec&, Index, Rows queries, Index keys) {
    queries_ = queries.end;
    keys_ = keys;
    next_ = 0;
  }
  [[nodiscard]] Index part_end(Index first, Index least) const {
    EXPECT_EQ(first, next_);
    return std::min(ceil_div(first + least, Index{4}) * 4, queries_);
  }
  void skip_part(Rows queries) {
    EXPECT_EQ(queries.begin, next_);
    next_ = queries.end;
  }
  void operator()(const AttentionInput<S>& input, Rows queries, MatrixSpan<S> out) {
    before_part();
    skip_part(queries);
    for (Index head = 0; head < input.spec.heads; ++head)
      for (Index query = queries.begin; query < queries.end; ++query) {
        const MatrixView<S> q = input.query_rows(head, {query, query + 1});
        S sum = 0;
        RowVector<S> row = RowVector<S>::Zero(input.spec.value_dim);
        for (Index key = 0; key < keys_; ++key) {
          if (!input.spec.mask.visible_keys(query, keys_).contains(key)) continue;
          const MatrixView<S> k = input.key_rows(head, {key, key + 1});
          const S weight = std::exp(static_cast<S>(input.spec.score_scale) * q.row(0).dot(k.row(0)));
          sum += weight;
          row += weight * input.value_rows(head, {key, key + 1}).row(0);
        }
        out.row(query - queries.begin).segment(head * input.spec.value_dim, input.spec.value_dim) = row / sum;
      }
  }
  void end_layer() { EXPECT_EQ(next_, queries_); }

 private:
  Index queries_ = 0;
  Index keys_ = 0;
  Index next_ = 0;
};

inline ModelSpec spec_of(const Mask& mask) {
  ModelSpec spec;
  spec.layers = 2;
  spec.width = 6;
  spec.attention.heads = spec.attention.kv_heads = 2;
  spec.attention.head_dim = spec.attention.value_dim = 3;
  spec.attention.score_scale = 0.5;
  spec.attention.mask = mask;
  spec.norm = NormKind::rms;
  return spec;
}

inline CheckpointOptions parts_of(Index rows) { return {.rows = rows, .sync = false}; }

/// A computation of two layers in five parts each.
template <class A>
struct Computation {
  using Scalar = typename A::Scalar;
  using MakeAttention = std::function<std::unique_ptr<A>()>;

  TempFolder folder;
  MakeAttention make = [] { return std::make_unique<A>(); };
  Model<Scalar> model = random_model<Scalar>(spec_of(Mask::causal()), 3);
  Matrix<Scalar> tokens = Random(4).matrix<Scalar>(37, 6);
  Index rows = 8;
  std::string key = "two layers";

  struct Result {
    Matrix<Scalar> rows;
    CheckpointCounts counts;
  };

  [[nodiscard]] Result run(const fs::path& path) const {
    const std::unique_ptr<A> inner = make();
    CheckpointedAttention<A> attend(*inner, path, key, parts_of(rows));
    Matrix<Scalar> found = forward(model, tokens, attend);
    return {std::move(found), attend.counts()};
  }
  [[nodiscard]] Matrix<Scalar> run_without() const {
    const std::unique_ptr<A> inner = make();
    return forward(model, tokens, *inner);
  }
};

struct GridOracle {
  SmallTransformer<float> oracle{OracleLimits{.kind = OracleKind::causal, .rows = 9, .heads = 2}};
};
struct Grid : private GridOracle, public GridAttention<SmallTransformer<float>> {
  explicit Grid(const SimulationOptions& options = {.checksums = true}) : GridAttention(oracle, options) {}
};
struct Kernel : public KernelAttention<float> {
  explicit Kernel(const KernelOptions& options = {.rows = 8}) : KernelAttention(options) {}
};

}  // namespace checkpointed_runs
