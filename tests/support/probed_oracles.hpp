#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <twoheads/oracle/any_oracle.hpp>
#include <twoheads/oracle/core.hpp>
#include <twoheads/oracle/probe.hpp>
#include <twoheads/oracle/rounding.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <vector>

#include "support/instances.hpp"

/// Oracles to probe, honest ones and such that have something wrong, and what a probe is to say of them.
namespace probed_oracles {

using namespace twoheads;

inline OracleLimits rows_of(OracleKind kind, Index rows = 65) {
  OracleLimits limits;
  limits.kind = kind;
  limits.rows = rows;
  return limits;
}

template <class S>
AnyOracle<S> eigen_oracle(const OracleLimits& limits) {
  return AnyOracle<S>([limits] { return SmallTransformer<S>(limits); });
}

template <class S>
AnyOracle<S> rounding_oracle(const OracleLimits& limits) {
  return AnyOracle<S>([limits] { return RoundingTransformer<S>(limits); });
}

inline std::string joined(const std::vector<std::string>& texts) {
  std::string all;
  for (const std::string& text : texts) all += text + "\n";
  return all;
}

template <class S>
void expect_honest(AnyOracle<S> oracle, Index most_calls = 24) {
  const OracleLimits limits = oracle.limits();
  const ProbeReport report = probe(oracle);
  EXPECT_TRUE(report.honest()) << joined(report.faults);
  EXPECT_NO_THROW(require_honest(oracle));
  EXPECT_LE(report.calls, most_calls);
  EXPECT_EQ(report.kind, limits.kind);
  EXPECT_EQ(report.rows, limits.rows);
  ASSERT_TRUE(report.score_scale && report.largest_score && report.weights.precision);
  EXPECT_NEAR(*report.score_scale / limits.score_scale, 1, limits.precision == OraclePrecision{} ? 1e-6 : 1e-2);
  EXPECT_LE(*report.largest_score, limits.largest_score * 1.01);
  EXPECT_GE(*report.largest_score, std::min(1e4, 0.6 * limits.largest_score));
  EXPECT_EQ(report.residual, limits.residual);
  EXPECT_FALSE(report.soft_cap);
  EXPECT_EQ(report.depends_on_position, false);
}

/// What an attention core does beside what it should.
struct Lies {
  bool causal = false;
  double scale = 1;
  Index attended = OracleLimits::unlimited;  ///< keys
  Index answered = OracleLimits::unlimited;  ///< rows
  Index padded_to = 0;                       ///< rows; the others hold zeros
  bool rotary = false;
  double slope = 0;  ///< of a score that falls with distance
  double clamp = std::numeric_limits<double>::infinity();
  double soft_cap = 0;
  Precision weights = Precision::own;
  bool reversed = false;
  bool naive = false;  ///< exponentials of scores as they are, which overflow
};

inline Matrix<float> attend(MatrixView<float> q_rows, MatrixView<float> k_rows, const MatrixView<float>& v,
                            const Lies& lies) {
  const Index rows = v.rows();
  Matrix<float> q = q_rows;
  Matrix<float> k = k_rows;
  if (lies.rotary)
    for (Matrix<float>* turned : {&q, &k})
      for (Index row = 0; row < rows; ++row) {
        const auto angle = static_cast<float>(row);
        const float x = (*turned)(row, 0);
        const float y = (*turned)(row, 1);
        (*turned)(row, 0) = x * std::cos(angle) - y * std::sin(angle);
        (*turned)(row, 1) = x * std::sin(angle) + y * std::cos(angle);
      }
  const Index keys = std::max(rows, lies.padded_to);
  Matrix<float> out = Matrix<float>::Zero(rows, v.cols());
  std::vector<float> weights(static_cast<std::size_t>(keys));
  for (Index row = 0; row < std::min(rows, lies.answered); ++row) {
    const auto hidden = [&](Index key) { return (lies.causal && key > row) || key >= lies.attended; };
    float most = -std::numeric_limits<float>::infinity();
    for (Index key = 0; key < keys; ++key) {
      double score = 0;
      if (key < rows)
        score = lies.scale * static_cast<double>(q.row(row).dot(k.row(key))) -
                lies.slope * static_cast<double>(std::abs(row - key));
      if (lies.soft_cap > 0) score = lies.soft_cap * std::tanh(score / lies.soft_cap);
      score = std::clamp(score, -lies.clamp, lies.clamp);
      weights[static_cast<std::size_t>(key)] = static_cast<float>(score);
      if (!hidden(key)) most = std::max(most, static_cast<float>(score));
    }
    float sum = 0;
    for (Index key = 0; key < keys; ++key) {
      float& weight = weights[static_cast<std::size_t>(key)];
      weight = hidden(key) ? 0.0F : std::exp(lies.naive ? weight : weight - most);
      sum += weight;
    }
    for (Index key = 0; key < rows; ++key)
      out.row(lies.reversed ? rows - 1 - row : row) +=
          rounded(weights[static_cast<std::size_t>(key)] / sum, lies.weights) * v.row(key);
  }
  return out;
}

inline AnyOracle<float> core_with(const OracleLimits& limits, const Lies& lies) {
  return AnyOracle<float>([limits, lies] {
    return core_oracle<float>(limits, [lies](const MatrixView<float>& q, const MatrixView<float>& k,
                                             const MatrixView<float>& v) { return attend(q, k, v, lies); });
  });
}

/// An oracle made of functions, which keeps what it likes.
struct MadeOracle {
  using Scalar = float;
  OracleLimits declared;
  std::function<Matrix<float>(const OracleCall<float>&)> answer;
  std::function<std::size_t(std::size_t call, std::size_t calls)> place = [](std::size_t call, std::size_t) {
    return call;
  };

  OracleLimits limits() const { return declared; }
  Matrix<float> run(const OracleCall<float>& call) { return answer(call); }
  void run_batch(std::span<const OracleCall<float>> calls, const Answer<float>& take) {
    for (std::size_t i = calls.size(); i-- > 0;) take(place(i, calls.size()), answer(calls[i]));
  }
};

/// A small transformer whose calls or answers are changed on the way.
inline AnyOracle<float> changed(const OracleLimits& limits, const OracleLimits& inner,
                                const std::function<void(const OracleCall<float>&, Matrix<float>&)>& after,
                                const std::function<Matrix<float>(const Matrix<float>&)>& before = {}) {
  return AnyOracle<float>([=] {
    auto oracle = std::make_shared<SmallTransformer<float>>(inner);
    return MadeOracle{limits, [=](const OracleCall<float>& call) {
                        Matrix<float> rows = oracle->run({call.weights, before ? before(call.rows) : call.rows});
                        if (after) after(call, rows);
                        return rows;
                      }};
  });
}

/// The one fault that an oracle is found to have, whichever other oracle is left alone.
inline std::string the_fault(AnyOracle<float> oracle) {
  const ProbeReport report = probe(oracle);
  EXPECT_EQ(report.faults.size(), 1U) << joined(report.faults);
  EXPECT_THROW(require_honest(oracle), OracleError);
  EXPECT_LE(report.calls, 30);
  return joined(report.faults);
}

}  // namespace probed_oracles
