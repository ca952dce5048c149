#pragma once

#include <gtest/gtest.h>

#include <string>
#include <twoheads/attention/input.hpp>
#include <twoheads/model/random.hpp>
#include <twoheads/simulate.hpp>
#include <twoheads/train/trainable.hpp>
#include <vector>

#include "support/bounds.hpp"
#include "support/naive_attention_backward.hpp"
#include "support/seed.hpp"

/// Attention whose gradient is asked for, and how far what is found lies from the gradient of dense attention.
namespace attention_problem {

using namespace twoheads;
using naive::at;
using naive::Real;

struct Case {
  std::string name = {};
  Mask mask = {};
  OracleLimits limits = {};
  Index tokens = 23;
  Index keys = 23;
  Index heads = 2;
  Index kv_heads = 1;
  double logits = 1.0;
  bool sinks = false;
  bool alibi = false;
  SimulationOptions options = {};
};

inline OracleLimits limits_of(OracleKind kind, Index rows) {
  OracleLimits limits;
  limits.kind = kind;
  limits.rows = rows;
  return limits;
}

/// The rows of a case, and a loss sum(d_out * out) of its attention.
struct Problem {
  explicit Problem(const Case& c) : options(c.options), keys(c.keys) {
    Random random(seed_or(5));
    spec.heads = c.heads;
    spec.kv_heads = c.kv_heads;
    spec.head_dim = 3;
    spec.value_dim = 2;
    spec.score_scale = 0.6;
    spec.mask = c.mask;
    if (c.alibi) spec.alibi = alibi_slopes(c.heads);
    q = random.matrix<double>(c.tokens, c.heads * 3);
    k = random.matrix<double>(c.keys, c.kv_heads * 3);
    v = random.matrix<double>(c.keys, c.kv_heads * 2);
    d_out = random.matrix<double>(c.tokens, c.heads * 2);
    if (c.sinks) sinks = random.matrix<double>(1, c.heads);
    if (c.logits != 1.0) q *= c.logits / 4.0;
  }

  [[nodiscard]] AttentionInput<double> input() const {
    AttentionInput<double> made = projected_input(spec, view(q), view(k), view(v));
    made.layer = 1;
    if (sinks.size() > 0) new (&made.sink_logits) MatrixView<double>(view(sinks));
    return made;
  }

  [[nodiscard]] naive::AttentionBackward truth(const naive::Term& term) const {
    return naive::attention_backward(spec, naive::plain(q), naive::plain(k), naive::plain(v), naive::plain(d_out), term,
                                     sinks.size() > 0 ? naive::plain(sinks).front() : naive::Row{});
  }
  [[nodiscard]] naive::AttentionBackward truth() const {
    const naive::Term hides = naive::hiding(naive::visible(spec.mask));
    return truth([&](Index head, Index i, Index j) {
      return hides(head, i, j) + (spec.alibi.empty() ? 0 : Real(spec.alibi[at(head)]) * Real(j - i));
    });
  }

  AttentionSpec spec;
  SimulationOptions options;
  Index keys;
  Matrix<double> q, k, v, d_out, sinks;
};

struct Found {
  Matrix<double> out, log_weights;
  AttentionGradient<double> gradient;
};

template <class Attend>
Found found_by(Attend& attend, const Problem& p, const AttentionInput<double>& input) {
  Found found;
  found.out.resize(p.q.rows(), p.d_out.cols());
  attend.forward(input, span(found.out), found.log_weights);
  found.gradient = attend.backward(input, view(found.out), found.log_weights, view(p.d_out));
  return found;
}
template <class Attend>
Found found_by(Attend& attend, const Problem& p) {
  return found_by(attend, p, p.input());
}

/// Largest error of all entries over the largest entry, of a matrix that must have the truth's shape.
inline Real error_of(const Matrix<double>& found, const naive::Table& truth) {
  return bounds::max_row_error(found, truth, naive::largest(truth));
}

/// Errors over the largest entry; where logits are large, over the terms that make it.
inline void expect_right(const Found& found, const naive::AttentionBackward& truth, Real tolerance) {
  const bool large = truth.largest_logit > 500;
  EXPECT_LE(bounds::max_row_error(found.gradient.q, truth.q, large ? truth.q_terms : naive::largest(truth.q)),
            tolerance);
  EXPECT_LE(bounds::max_row_error(found.gradient.k, truth.k, large ? truth.k_terms : naive::largest(truth.k)),
            tolerance);
  EXPECT_LE(error_of(found.gradient.v, truth.v), tolerance);
  if (truth.sinks.empty()) {
    EXPECT_EQ(found.gradient.sinks.size(), 0);
  } else {
    EXPECT_LE(error_of(found.gradient.sinks, {truth.sinks}), tolerance);
  }
}

inline std::vector<Mask> masks() {
  return {
      Mask::full(),
      Mask::causal(),
      Mask::sliding_window(5),
      Mask::window_and_sinks(4, 3),
      Mask::band(3, 2),
      Mask::documents({5, 1, 9, 8}, false),
      Mask::documents({5, 1, 9, 8}, true),
      Mask::pairs(23, 23, [](Index i, Index j) { return (i < 6 || i > 15) && (i * 5 + j * 3) % 4 != 0 && j != 11; })};
}

}  // namespace attention_problem
