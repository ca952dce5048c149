#pragma once

#include <algorithm>
#include <limits>
#include <memory>
#include <string>
#include <twoheads/model/random.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <twoheads/train/trainable_grid.hpp>
#include <utility>
#include <vector>

#include "support/attention_problem.hpp"

/// What gradients through calls are asked for: small transformers, attention under every mask, an oracle of run() and
/// vjp() alone.
namespace trainable_cases {

using namespace twoheads;
using namespace attention_problem;

struct SmallCase {
  OracleKind kind = OracleKind::plain;
  Index layers = 1;
  Index heads = 1;
  bool residual = false;
  bool dense = false;
  Index rows = 7;
};

inline SmallWeights<double> weights_of(const SmallCase& c, Random& random) {
  using P = Projection<double>;
  SmallWeights<double> weights;
  weights.width = 8;
  for (Index l = 0; l < c.layers; ++l) {
    SmallLayer<double> layer;
    layer.output_width = c.residual ? 8 : 8 - l;
    const Index width = c.residual || l == 0 ? 8 : 9 - l;
    for (Index h = 0; h < c.heads; ++h) {
      // Heads overlap in what they read and in what they write.
      const auto read = [&](Index begin, Index cols) {
        if (!c.dense) return P::selector(begin, cols);
        return P::dense(begin, std::make_shared<Matrix<double>>(random.matrix<double>(width - begin, cols, 0.6)));
      };
      layer.heads.push_back({read(h, 2), read(2, 2), read(1, 3), h});
    }
    weights.layers.push_back(std::move(layer));
  }
  return weights;
}

/// An oracle of which nothing is known but its limits, run() and vjp(). One type for all tests: it is compiled once.
class BareOracle {
 public:
  using Scalar = double;

  explicit BareOracle(const OracleLimits& limits) : inner_(limits) {}
  [[nodiscard]] OracleLimits limits() const { return inner_.limits(); }
  [[nodiscard]] Matrix<double> run(const OracleCall<double>& call) {
    ++runs;
    Matrix<double> q, k;
    for (const SmallLayer<double>& layer : call.weights->layers)
      for (const SmallHead<double>& head : layer.heads) {
        head.wq.apply(call.rows, q);
        head.wk.apply(call.rows, k);
        largest_score = std::max(largest_score, (q * k.transpose()).maxCoeff());
      }
    return inner_.run(call);
  }
  [[nodiscard]] Matrix<double> vjp(const OracleCall<double>& call, const Matrix<double>& d_answer) {
    ++vjps;
    require_within(inner_.limits(), call);
    Matrix<double> found = inner_.vjp(call, d_answer);
    if (spoil) found.bottomRows(1).setConstant(std::numeric_limits<double>::quiet_NaN());
    return found;
  }

  Index runs = 0;
  Index vjps = 0;
  double largest_score = 0;
  bool spoil = false;

 private:
  SmallTransformer<double> inner_;
};

static_assert(DifferentiableOracle<BareOracle> && !HasRunInto<BareOracle> && !HasRunBatch<BareOracle>);
static_assert(TrainableAttention<TrainableGrid<BareOracle>, double>);

inline std::vector<Case> cases() {
  std::vector<Case> cases;
  for (const Mask& mask : masks())
    for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
      cases.push_back({std::string(name(mask.kind)) + ", " + name(kind), mask, limits_of(kind, 8)});
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal}) {
    const Mask own = kind == OracleKind::plain ? Mask::full() : Mask::causal();
    const std::string of = std::string(", ") + name(kind);
    const auto add = [&](const char* what, const auto& change) {
      Case c{what + of, own, limits_of(kind, 8)};
      change(c);
      cases.push_back(c);
    };
    add("fits one call", [](Case& c) { c.limits.rows = 23; });
    add("fits one call of more rows",
        [](Case& c) { c.limits = limits_of(c.limits.kind, 30), c.limits.fixed_rows = true; });
    add("fits one call, weighed", [](Case& c) { c.limits.rows = 24, c.options.log_weights = true; });
    add("two rows", [](Case& c) { c.limits.rows = c.limits.kind == OracleKind::plain ? 2 : 3; });
    add("fixed rows", [](Case& c) { c.limits.fixed_rows = true; });
    add("row counts", [](Case& c) { c.limits.row_counts = {3, 5, 8}; });
    add("smaller blocks", [](Case& c) { c.options.block = 4; });
    add("grouped heads", [](Case& c) { c.heads = 6, c.kv_heads = 2; });
    add("score scale", [](Case& c) { c.limits.score_scale = 0.25; });
    add("learned sinks", [](Case& c) { c.sinks = true; });
    add("learned sinks in one call", [](Case& c) { c.sinks = true, c.limits.rows = 24; });
    add("checksums", [](Case& c) { c.options.checksums = true, c.limits.heads = 2; });
    add("heads", [](Case& c) { c.limits.heads = 3, c.heads = 4; });
    add("residual", [](Case& c) { c.limits.heads = 2, c.limits.layers = 3, c.limits.residual = true, c.heads = 3; });
    add("identity",
        [](Case& c) { c.limits.heads = 3, c.limits.layers = 2, c.options.packing = Packing::identity, c.heads = 3; });
    add("one query and one key", [](Case& c) { c.tokens = c.keys = 1; });
    add("small blocks of documents", [](Case& c) { c.mask = Mask::documents({2, 3, 1, 2, 3, 4, 2, 6}, true); });
    for (const Anchor anchor : {Anchor::zero, Anchor::mean_key, Anchor::gibbs})
      add(name(anchor), [&](Case& c) { c.options.anchor = anchor; });
    for (const double logits : {1e3, 1e4}) add("large logits", [&](Case& c) { c.logits = logits; });
    add("large logits and sinks",
        [](Case& c) { c.logits = 1e4, c.sinks = true, c.mask = Mask::window_and_sinks(6, 2); });
    add("end of scores", [](Case& c) { c.limits.largest_score = 40; });
    Case cross{"cross-attention" + of, Mask::full(), limits_of(kind, 8), 9, 31};
    cases.push_back(cross);
    cross = {"one query" + of, Mask::full(), limits_of(kind, 8), 1, 31};
    cases.push_back(cross);
    Case alibi{"ALiBi" + of, Mask::causal(), limits_of(kind, 8)};
    alibi.alibi = true;
    cases.push_back(alibi);
  }
  return cases;
}

/// The rounding of logits moves each weight by so much, relative.
inline Real tolerance_of(const naive::AttentionBackward& truth) {
  return 1e-11L + 16 * bounds::eps<double> * truth.largest_logit;
}

/// Of what the jobs of a plan show each query: how often a key counts, as a logarithm.
inline naive::Term drawn_by(const Plan& plan, Index heads, Index queries, Index keys) {
  std::vector<Matrix<double>> counts(at(heads),
                                     Matrix<double>::Constant(queries, keys, -std::numeric_limits<double>::infinity()));
  const std::vector<Index> order = plan.key_order();
  plan.for_each_job(Rows{0, plan.query_blocks()}, [&](const Job& job) {
    for (Index i = 0; i < job.tile.queries.size(); ++i) {
      const Rows seen = job.tile.visible_keys(i);
      for (Index j = seen.begin; j < seen.end; ++j)
        counts[at(job.head)](job.tile.queries.begin + i, order.empty() ? j : order[at(j)]) = job.tile.log_factor();
    }
  });
  return [counts](Index head, Index i, Index j) { return Real(counts[at(head)](i, j)); };
}

}  // namespace trainable_cases
