#pragma once

#include <string>
#include <twoheads/mpi/grid_on_ranks.hpp>
#include <twoheads/oracle/any_oracle.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <utility>
#include <vector>

#include "support/own_rows.hpp"
#include "support/rank_layer.hpp"

/// Layers whose attention ranks evaluate together by calls: cases of masks and of calls, and a rank's rows of them.
namespace rank_grid {

using namespace twoheads;

struct Case {
  std::string name;
  Mask mask;
  OracleKind kind = OracleKind::plain;
  Index rows = 17;
  Index queries = 149;
  Index keys = 149;
  Index heads = 2;
  Index kv_heads = 1;
  Index oracle_heads = 1;
  Index oracle_layers = 1;
  Packing packing = Packing::residual;
  Anchor anchor = Anchor::adaptive;
  Index batch = 1;
  double scale = 1;  ///< of the queries: large ones make calls be repeated
  Sampling sampling = {};
  bool learned_sinks = false;
  bool alibi = false;
  bool checksums = false;
};

inline std::vector<Case> masks() {
  const auto plain = OracleKind::plain;
  const auto causal = OracleKind::causal;
  const std::vector<std::pair<Index, Index>> pairs = {{0, 3}, {1, 1}, {2, 7}, {2, 8}, {7, 4}, {8, 0}};
  const Sampling blocks{2, 0, 0, 5, false};
  const Sampling near{2, 20, 2, 5};
  std::vector<Case> cases = {
      {"full", Mask::full(), plain},
      {"full, causal oracle", Mask::full(), causal},
      {"cross", Mask::full(), plain, 17, 75, 210},
      {"causal", Mask::causal(), causal},
      {"causal, plain oracle", Mask::causal(), plain},
      {"window", Mask::sliding_window(9), causal},
      {"window, plain oracle", Mask::sliding_window(9), plain},
      {"long window", Mask::sliding_window(40), causal},
      {"sinks", Mask::window_and_sinks(6, 3), causal},
      {"sinks, plain oracle", Mask::window_and_sinks(6, 3), plain},
      {"band", Mask::band(4, 11), plain},
      {"documents", Mask::documents({5, 35, 1, 108}, true), causal},
      {"documents, whole inside", Mask::documents({5, 35, 1, 108}, false), plain},
      {"blocks", Mask::block_pairs(149, 149, 16, pairs), plain},
      {"blocks, causal oracle", Mask::block_pairs(149, 149, 16, pairs), causal},
      {"no block", Mask::block_pairs(149, 149, 16, std::vector<std::pair<Index, Index>>{}), plain},
      {"samples", Mask::full(), plain},
      {"samples, exact near", Mask::causal(), causal},
      {"one call", Mask::causal(), causal, 33, 29, 29},
      {"fewer tokens than ranks", Mask::causal(), plain, 3, 3, 3},
      {"two tokens", Mask::full(), plain, 2, 2, 2},
      {"one token", Mask::causal(), causal, 9, 1, 1},
      {"one query", Mask::full(), plain, 17, 1, 90, 4, 2},
      {"one query, some blocks", Mask::block_pairs(1, 90, 16, std::vector<std::pair<Index, Index>>{{0, 1}, {0, 3}}),
       plain, 9, 1, 90, 4, 2},
      {"one query that sees nothing", Mask::block_pairs(1, 90, 16, std::vector<std::pair<Index, Index>>{}), plain, 9, 1,
       90},
  };
  for (Case& c : cases) {
    if (c.name == "samples") c.sampling = blocks;
    if (c.name == "samples, exact near") c.sampling = near;
  }
  return cases;
}

/// Calls of several slots, batches, repeats, and what is added to scores.
inline std::vector<Case> calls() {
  const auto plain = OracleKind::plain;
  const auto causal = OracleKind::causal;
  const auto identity = Packing::identity;
  std::vector<Case> cases = {
      {"heads of the oracle", Mask::causal(), causal, 17, 149, 149, 2, 1, 4},
      {"heads and layers", Mask::full(), plain, 17, 149, 149, 3, 3, 2, 2},
      {"slots of several blocks", Mask::causal(), plain, 9, 149, 149, 1, 1, 5},
      {"more heads than slots", Mask::causal(), causal, 16, 17, 17, 3, 3, 64},
      {"identity heads", Mask::causal(), causal, 17, 149, 149, 3, 1, 3, 2, identity},
      {"documents in several slots", Mask::documents({5, 35, 1, 108}, true), causal, 17, 149, 149, 1, 1, 3},
      {"grouped heads", Mask::full(), plain, 17, 149, 149, 6, 2},
  };
  const auto add = [&](const char* name, Case c, const auto& change) {
    c.name = name;
    change(c);
    cases.push_back(c);
  };
  const Case wide{"", Mask::causal(), causal, 17, 101, 101, 4, 2};
  add("batches", wide, [](Case& c) { c.batch = 5; });
  add("one batch", wide, [](Case& c) { c.batch = 100000; });
  add("Gibbs", wide, [](Case& c) { c.anchor = Anchor::gibbs; });
  add("Gibbs, large logits", wide, [](Case& c) {
    c.anchor = Anchor::gibbs;
    c.scale = 40;
  });
  add("repeats", wide, [](Case& c) { c.scale = 60; });
  add("repeats in calls of several slots", wide, [](Case& c) {
    c.scale = 60;
    c.oracle_heads = 2;
    c.batch = 3;
  });
  add("repeats over sinks", wide, [](Case& c) {
    c.mask = Mask::window_and_sinks(6, 3);
    c.scale = 60;
  });
  add("learned sinks", wide, [](Case& c) { c.learned_sinks = true; });
  add("learned sinks, one call", wide, [](Case& c) {
    c.learned_sinks = true;
    c.rows = 200;
  });
  add("learned sinks, one query", wide, [](Case& c) {
    c.learned_sinks = true;
    c.mask = Mask::full();
    c.kind = OracleKind::plain;
    c.queries = 1;
  });
  add("ALiBi", wide, [](Case& c) { c.alibi = true; });
  add("ALiBi over a window and sinks", wide, [](Case& c) {
    c.alibi = true;
    c.mask = Mask::window_and_sinks(6, 3);
    c.scale = 20;
  });
  add("checksums", wide, [](Case& c) { c.checksums = true; });
  return cases;
}

inline AttentionSpec spec_of(const Case& c) {
  AttentionSpec spec;
  spec.heads = c.heads;
  spec.kv_heads = c.kv_heads;
  spec.head_dim = 5;
  spec.value_dim = 3;
  spec.score_scale = 0.4;
  spec.mask = c.mask;
  if (c.alibi) spec.alibi = alibi_slopes(c.heads);
  return spec;
}

inline OracleLimits limits_of(const Case& c) {
  OracleLimits limits;
  limits.kind = c.kind;
  limits.rows = c.rows;
  limits.heads = c.oracle_heads;
  limits.layers = c.oracle_layers;
  limits.residual = c.oracle_layers > 1 && c.packing == Packing::residual;
  limits.batch = c.batch;
  return limits;
}

inline SimulationOptions options_of(const Case& c) {
  SimulationOptions options;
  options.anchor = c.anchor;
  options.packing = c.packing;
  options.sampling = c.sampling;
  options.checksums = c.checksums;
  return options;
}

/// The rows of a case's layer.
template <class Scalar>
struct Layer : RankLayer<Scalar> {
  explicit Layer(const Case& c) : RankLayer<Scalar>(spec_of(c), c.queries, c.keys, c.learned_sinks) {
    // Weights of float end where logits reach a hundred, those of double at seven times that.
    const double scale = sizeof(Scalar) == sizeof(float) ? c.scale : 8 * c.scale;
    this->q *= static_cast<Scalar>(scale);
  }
};

/// Evaluates a layer, and returns the rank's own rows.
template <class Scalar, class Attend>
Matrix<Scalar> run(const Layer<Scalar>& all, Attend& attend, const RowShares& queries, Index layer = 0) {
  const Ranks& ranks = attend.ranks();
  const RowShares keys = all.q.rows() == all.k.rows() ? queries : share_evenly(all.k.rows(), ranks.size());
  const Matrix<Scalar> q = own_rows(all.q, queries, ranks.rank());
  const Matrix<Scalar> k = own_rows_by_head(all.k, keys, ranks.rank(), all.spec.kv_heads);
  const Matrix<Scalar> v = own_rows_by_head(all.v, keys, ranks.rank(), all.spec.kv_heads);
  Matrix<Scalar> out = Matrix<Scalar>::Constant(q.rows(), all.spec.heads * all.spec.value_dim, Scalar(7));
  attend(RankInput<Scalar>{all.spec, layer, queries, keys, view(q), view(k), view(v), view(all.sinks)}, span(out));
  return out;
}

template <class Scalar>
AnyOracle<Scalar> oracle_of(const Case& c) {
  return AnyOracle<Scalar>([limits = limits_of(c)] { return SmallTransformer<Scalar>(limits); });
}

}  // namespace rank_grid
