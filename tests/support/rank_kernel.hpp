#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <twoheads/base/digest.hpp>
#include <twoheads/exec/kernel_attention.hpp>
#include <twoheads/mpi/kernel_on_ranks.hpp>
#include <utility>
#include <vector>

#include "support/all_ranks.hpp"
#include "support/own_rows.hpp"
#include "support/rank_layer.hpp"

/// Layers whose attention ranks evaluate together by the kernel: cases of masks and of scores,
/// and a rank's rows of them.
namespace rank_kernel {

using namespace twoheads;

struct Case {
  std::string name;
  Mask mask;
  Index queries;
  Index keys;
  Index heads = 2;
  Index kv_heads = 1;
  Index rows = 0;
  Sampling sampling = {};
  std::optional<OracleKind> plan_for = {};
  double soft_cap = 0;
  bool alibi = false;
  bool learned_sinks = false;
};

inline std::vector<Case> masks() {
  const Index n = 1337;
  return {
      {"full", Mask::full(), n, n},
      {"full, blocks of 300", Mask::full(), n, n, 4, 2, 300},
      {"cross", Mask::full(), 300, 5000, 2, 2},
      {"causal", Mask::causal(), n, n},
      {"causal, long", Mask::causal(), 9001, 9001, 1, 1, 0},
      {"causal, several blocks a visit", Mask::causal(), 3000, 3000, 2, 1, 256},
      {"full, several blocks a visit", Mask::full(), 3001, 3001, 2, 2, 384},
      {"causal, blocks of 100", Mask::causal(), n, n, 2, 2, 100},
      {"window", Mask::sliding_window(100), n, n},
      {"window longer than a block", Mask::sliding_window(700), n, n, 2, 1, 256},
      {"window beyond a join", Mask::sliding_window(6000), 9001, 9001, 1, 1, 2048},
      {"sinks", Mask::window_and_sinks(33, 5), n, n},
      {"band", Mask::band(50, 170), n, n},
      {"documents", Mask::documents({700, 1, 36, 600}, true), n, n},
      {"documents, whole inside", Mask::documents({700, 1, 36, 600}, false), n, n, 2, 1, 64},
      {"blocks", Mask::block_pairs(n, n, 64, std::vector<std::pair<Index, Index>>{{0, 3}, {1, 1}, {7, 20}, {20, 0}}), n,
       n},
      {"fewer tokens than ranks", Mask::causal(), 3, 3},
      {"one token", Mask::causal(), 1, 1},
  };
}

/// What is evaluated other than masks: samples, plans of oracles, and terms of scores.
inline std::vector<Case> more() {
  const Index n = 700;
  std::vector<Case> cases;
  const auto add = [&](const char* name, const Mask& mask, const auto& change) {
    Case c{name, mask, n, n, 4, 2};
    change(c);
    cases.push_back(c);
  };
  add("samples", Mask::full(), [](Case& c) { c.sampling = {2, 0, 0, 5, false}; });
  add("samples, small blocks", Mask::full(), [](Case& c) {
    c.sampling = {3, 0, 0, 5, false};
    c.rows = 100;
  });
  add("samples, exact near, causal", Mask::causal(), [](Case& c) {
    c.sampling = {1, 200, 3, 5, false};
    c.rows = 128;
  });
  add("as many samples as there are", Mask::causal(), [](Case& c) {
    c.sampling = {3, 0, 0, 5, false};
    c.rows = 256;
  });
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal}) {
    add("plan for an oracle, full", Mask::full(), [&](Case& c) {
      c.plan_for = kind;
      c.rows = 65;
      c.heads = 2;
    });
    add("plan for an oracle, causal", Mask::causal(), [&](Case& c) {
      c.plan_for = kind;
      c.rows = 257;
    });
    add("plan for an oracle, window and sinks", Mask::window_and_sinks(60, 3), [&](Case& c) {
      c.plan_for = kind;
      c.rows = 64;
    });
    add("samples of a plan for an oracle", Mask::causal(), [&](Case& c) {
      c.plan_for = kind;
      c.rows = 200;
      c.sampling = {1, 0, 0, 7, false};
    });
  }
  add("ALiBi, blocks that begin in the middle of a panel", Mask::causal(), [](Case& c) {
    c.alibi = true;
    c.rows = 100;
  });
  add("ALiBi, small blocks, a window and sinks", Mask::window_and_sinks(150, 4), [](Case& c) {
    c.alibi = true;
    c.rows = 100;
  });
  add("soft cap", Mask::full(), [](Case& c) { c.soft_cap = 0.8; });
  add("learned sinks", Mask::causal(), [](Case& c) { c.learned_sinks = true; });
  add("all terms of scores", Mask::causal(), [](Case& c) {
    c.soft_cap = 1.5;
    c.alibi = c.learned_sinks = true;
    c.rows = 256;
  });
  add("one query of all terms", Mask::full(), [](Case& c) {
    c.soft_cap = 1.5;
    c.learned_sinks = true;
    c.queries = 1;
  });
  return cases;
}

inline KernelOptions options_of(const Case& c) {
  KernelOptions options;
  options.rows = c.rows;
  options.sampling = c.sampling;
  options.plan_for = c.plan_for;
  return options;
}

inline AttentionSpec spec_of(const Case& c) {
  AttentionSpec spec;
  spec.heads = c.heads;
  spec.kv_heads = c.kv_heads;
  spec.head_dim = 12;
  spec.value_dim = 9;
  spec.score_scale = 0.4;
  spec.soft_cap = c.soft_cap;
  spec.mask = c.mask;
  // No powers of two: their products would be exact in any order.
  if (c.alibi)
    for (Index head = 0; head < c.heads; ++head) spec.alibi.push_back(0.03 / static_cast<double>(head + 1));
  return spec;
}

/// The rows of a case's layer.
template <class Scalar>
struct Layer : RankLayer<Scalar> {
  using RankLayer<Scalar>::spec, RankLayer<Scalar>::q, RankLayer<Scalar>::k, RankLayer<Scalar>::v,
      RankLayer<Scalar>::sinks;

  explicit Layer(const Case& c) : RankLayer<Scalar>(spec_of(c), c.queries, c.keys, c.learned_sinks) {}

  /// All rows by one rank.
  [[nodiscard]] Matrix<Scalar> serial(const KernelOptions& options) const {
    Matrix<Scalar> out(q.rows(), spec.heads * spec.value_dim);
    const AttentionWeights<Scalar> none;
    KernelAttention<Scalar> attend(options);
    attend({spec, layer, view(q), view(k), view(v), no_rows<Scalar>(), no_rows<Scalar>(), none, {}, false, view(sinks)},
           span(out));
    return out;
  }

  static constexpr Index layer = 3;
};

/// The rows of a layer that one rank has, and those that it finds.
template <class Scalar>
struct Own {
  Own(const Layer<Scalar>& all, RowShares query_shares, RowShares key_shares, Index rank)
      : layer(all),
        queries(std::move(query_shares)),
        keys(std::move(key_shares)),
        q(own_rows(all.q, queries, rank)),
        k(own_rows_by_head(all.k, keys, rank, all.spec.kv_heads)),
        v(own_rows_by_head(all.v, keys, rank, all.spec.kv_heads)),
        out(Matrix<Scalar>::Constant(q.rows(), all.spec.heads * all.spec.value_dim, Scalar(7))) {}

  [[nodiscard]] RankInput<Scalar> input() const {
    return {layer.spec, layer.layer, queries, keys, view(q), view(k), view(v), view(layer.sinks)};
  }

  const Layer<Scalar>& layer;
  RowShares queries, keys;
  Matrix<Scalar> q, k, v, out;
};

/// Rows as an engine likes them shared; keys lie with their queries, or evenly.
template <class Scalar, class Attend>
Own<Scalar> own_of(const Layer<Scalar>& all, const Attend& attend) {
  const Ranks& ranks = attend.ranks();
  RowShares queries = attend.share(all.spec, all.q.rows(), all.k.rows());
  RowShares keys = all.k.rows() == all.q.rows() ? queries : share_evenly(all.k.rows(), ranks.size());
  return Own<Scalar>(all, std::move(queries), std::move(keys), ranks.rank());
}

/// With one NaN for all: which of them comes out is nobody's promise.
template <class Scalar>
std::string digest_of_numbers(const Matrix<Scalar>& rows) {
  return digest(Matrix<Scalar>(
      rows.unaryExpr([](Scalar x) { return std::isnan(x) ? std::numeric_limits<Scalar>::quiet_NaN() : x; })));
}

template <class Scalar>
void expect_bits(const Matrix<Scalar>& found, const Matrix<Scalar>& wanted) {
  ASSERT_EQ(found.rows(), wanted.rows());
  EXPECT_EQ(digest_of_numbers(found), digest_of_numbers(wanted))
      << "rank " << all_ranks().rank() << ", largest difference " << (found - wanted).cwiseAbs().maxCoeff();
}

}  // namespace rank_kernel
