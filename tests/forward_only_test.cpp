// Gradients by calls of run() alone, and masks with queries and keys exchanged.

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <twoheads/oracle/small_transformer.hpp>
#include <twoheads/train/forward_only.hpp>
#include <vector>

#include "support/attention_problem.hpp"
#include "support/instances.hpp"
#include "support/message_of.hpp"

namespace {

using namespace twoheads;
using namespace attention_problem;

// --- the transposed mask ---------------------------------------------------------------------------------------------

/// Whether query j of a transposed mask sees key i, both by their own numbers.
naive::Visible seen_by(const TransposedMask& turned, Index queries, Index keys) {
  return [turned, queries, keys, sees = naive::visible(turned.mask)](Index key, Index query) {
    return sees(turned.place(key, keys), turned.place(query, queries));
  };
}

TEST(TransposedMask, ShowsEachKeyTheQueriesThatSeeIt) {
  std::vector<Mask> all = masks();
  all.push_back(Mask::sliding_window(100));
  all.push_back(Mask::sliding_window(1));
  all.push_back(Mask::window_and_sinks(30, 2));
  all.push_back(Mask::window_and_sinks(1, 40));
  all.push_back(Mask::window_and_sinks(std::numeric_limits<Index>::max(), 1));
  all.push_back(Mask::band(0, 7));
  all.push_back(Mask::band(9, 0));
  all.push_back(Mask::documents({23}, true));
  all.push_back(Mask::pairs(23, 23, [](Index, Index) { return false; }));
  for (const Mask& mask : all) {
    SCOPED_TRACE(name(mask.kind));
    const TransposedMask turned = transposed_mask(mask, 23, 23);
    EXPECT_NO_THROW(turned.mask.require_defined(23, 23));
    const naive::Visible sees = naive::visible(mask), seen = seen_by(turned, 23, 23);
    for (Index i = 0; i < 23; ++i)
      for (Index j = 0; j < 23; ++j) EXPECT_EQ(seen(j, i), sees(i, j)) << "query " << i << ", key " << j;
  }
}

TEST(TransposedMask, OfOtherKeysThanQueriesHasTheirNumbersExchanged) {
  const Mask mask = Mask::pairs(9, 14, [](Index i, Index j) { return (i + 2 * j) % 3 == 0 || j == 13; });
  const TransposedMask turned = transposed_mask(mask, 9, 14);
  EXPECT_NO_THROW(turned.mask.require_defined(14, 9));
  const naive::Visible sees = naive::visible(mask), seen = seen_by(turned, 9, 14);
  for (Index i = 0; i < 9; ++i)
    for (Index j = 0; j < 14; ++j) EXPECT_EQ(seen(j, i), sees(i, j)) << "query " << i << ", key " << j;
  EXPECT_EQ(transposed_mask(Mask::full(), 9, 14).mask, Mask::full());
  EXPECT_THROW(static_cast<void>(transposed_mask(Mask::causal(), 9, 14)), SpecError);
}

// --- gradients -------------------------------------------------------------------------------------------------------

/// An oracle that can be called, and no more. One type for all tests: it is compiled once.
class RunOracle {
 public:
  using Scalar = double;

  explicit RunOracle(const OracleLimits& limits) : inner_(limits) {}
  [[nodiscard]] OracleLimits limits() const { return inner_.limits(); }
  [[nodiscard]] Matrix<double> run(const OracleCall<double>& call) {
    ++runs;
    return inner_.run(call);
  }
  Index runs = 0;

 private:
  SmallTransformer<double> inner_;
};

static_assert(Oracle<RunOracle> && !HasVjp<RunOracle>);
static_assert(TrainableAttention<ForwardOnlyGrid<RunOracle>, double>);

void expect_close(const Found& found, const naive::AttentionBackward& truth, Real differences, Real exact = 1e-12L) {
  EXPECT_LE(error_of(found.gradient.q, truth.q), differences);
  EXPECT_LE(error_of(found.gradient.k, truth.k), differences);
  EXPECT_LE(error_of(found.gradient.v, truth.v), exact);
  if (truth.sinks.empty()) {
    EXPECT_EQ(found.gradient.sinks.size(), 0);
  } else {
    EXPECT_LE(error_of(found.gradient.sinks, {truth.sinks}), 1e-11L);
  }
}

std::vector<Case> cases() {
  std::vector<Case> cases;
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal}) {
    const std::string of = std::string(", ") + name(kind);
    for (const Mask& mask : masks()) cases.push_back({name(mask.kind) + of, mask, limits_of(kind, 8)});
    const auto add = [&](const char* what, const auto& change) {
      Case c{what + of, Mask::causal(), limits_of(kind, 8)};
      change(c);
      cases.push_back(c);
    };
    add("fits one call", [](Case& c) { c.limits.rows = 23; });
    add("grouped heads", [](Case& c) { c.heads = 6, c.kv_heads = 2; });
    add("learned sinks", [](Case& c) { c.sinks = true; });
    add("learned sinks and a window", [](Case& c) { c.sinks = true, c.mask = Mask::window_and_sinks(4, 2); });
    add("ALiBi", [](Case& c) { c.alibi = true, c.kv_heads = 2; });
    add("residual", [](Case& c) { c.limits.heads = 2, c.limits.layers = 2, c.limits.residual = true; });
    add("gibbs", [](Case& c) { c.options.anchor = Anchor::gibbs; });
    add("score scale", [](Case& c) { c.limits.score_scale = 0.25; });
    add("cross-attention", [](Case& c) { c.mask = Mask::full(), c.tokens = 9, c.keys = 31; });
    add("one query", [](Case& c) { c.mask = Mask::full(), c.tokens = 1, c.keys = 31; });
    add("one key", [](Case& c) { c.mask = Mask::full(), c.tokens = 9, c.keys = 1; });
    add("one token", [](Case& c) { c.tokens = c.keys = 1; });
  }
  return cases;
}

TEST(ForwardOnlyGrid, HasTheGradientOfDenseAttention) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    const Problem problem(c);
    const naive::AttentionBackward truth = problem.truth();
    for (const bool extrapolate : {false, true}) {
      RunOracle oracle(c.limits);
      ForwardOnlyGrid<RunOracle> attend(oracle, c.options, {0, extrapolate});
      const Found found = found_by(attend, problem);
      EXPECT_LE(error_of(found.out, truth.out), 1e-12L);
      if (c.keys == 1) {
        // One key has all the weight: the truth is 0.
        EXPECT_LE(found.gradient.q.cwiseAbs().maxCoeff(), 1e-8);
        EXPECT_LE(found.gradient.k.cwiseAbs().maxCoeff(), 1e-8);
        EXPECT_LE(error_of(found.gradient.v, truth.v), 1e-12L);
      } else {
        expect_close(found, truth, extrapolate ? 1e-9L : 1e-8L);
      }
      EXPECT_EQ(attend.counts().forward + attend.counts().backward, oracle.runs);
    }
  }
}

TEST(ForwardOnlyGrid, TakesThreeTransposedAndTwoTiltedEvaluations) {
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
    for (const Mask& mask : masks()) {
      SCOPED_TRACE(std::string(name(mask.kind)) + ", " + name(kind));
      Case c{"", mask, limits_of(kind, 8)};
      c.options.anchor = Anchor::mean_key;
      const Problem problem(c);
      const auto calls_of = [&](const Mask& own) {
        return Plan({own, 23, 23, c.heads, 1, c.limits, Anchor::mean_key}).calls();
      };
      const Index own = calls_of(mask), turned = calls_of(transposed_mask(mask, 23, 23).mask);
      for (const bool extrapolate : {false, true}) {
        RunOracle oracle(c.limits);
        ForwardOnlyGrid<RunOracle> attend(oracle, c.options, {0, extrapolate});
        static_cast<void>(found_by(attend, problem));
        EXPECT_EQ(attend.counts().forward, own);
        EXPECT_EQ(attend.counts().backward, extrapolate ? 4 * own + 5 * turned : 2 * own + 3 * turned);
      }
    }
}

TEST(ForwardOnlyGrid, DoesNotDependOnTheUnitsOfValuesAndDerivatives) {
  const Case c{"", Mask::causal(), limits_of(OracleKind::causal, 8)};
  for (const double by_values : {1e-120, 1.0, 1e90})
    for (const double by_derivatives : {1e-150, 1.0, 1e60}) {
      Problem problem(c);
      problem.v *= by_values;
      problem.d_out *= by_derivatives;
      // Some rows of the loss weigh little beside the others.
      problem.d_out.row(4) *= 1e-9;
      problem.d_out.row(5).setZero();
      const naive::AttentionBackward truth = problem.truth();
      RunOracle oracle(c.limits);
      ForwardOnlyGrid<RunOracle> attend(oracle);
      const Found found = found_by(attend, problem);
      expect_close(found, truth, 1e-8L);
      EXPECT_LE(error_of(found.gradient.q.row(4), {truth.q[4]}), 1e-8L);
      EXPECT_EQ(found.gradient.q.row(5).cwiseAbs().maxCoeff(), 0);
    }
}

TEST(ForwardOnlyGrid, HasNoGradientWhereNothingIsAskedFor) {
  Problem problem({"", Mask::causal(), limits_of(OracleKind::plain, 8)});
  problem.d_out.setZero();
  RunOracle oracle(limits_of(OracleKind::plain, 8));
  ForwardOnlyGrid<RunOracle> attend(oracle);
  const Found found = found_by(attend, problem);
  EXPECT_TRUE(found.gradient.q.isZero(0) && found.gradient.k.isZero(0) && found.gradient.v.isZero(0));
}

TEST(ForwardOnlyGrid, LosesWithLargeLogitsWhatTheirRoundingTakes) {
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal}) {
    Case c{"", Mask::causal(), limits_of(kind, 8)};
    c.logits = 1e3;
    const Problem problem(c);
    const naive::AttentionBackward truth = problem.truth();
    RunOracle oracle(c.limits);
    ForwardOnlyGrid<RunOracle> attend(oracle, {}, {0, true});
    const Found found = found_by(attend, problem);
    EXPECT_LE(bounds::max_row_error(found.gradient.q, truth.q, truth.q_terms), 1e-7L);
    EXPECT_LE(bounds::max_row_error(found.gradient.k, truth.k, truth.k_terms), 1e-7L);
    EXPECT_LE(error_of(found.gradient.v, truth.v), 1e-11L);
  }
}

TEST(ForwardOnlyGrid, HasInFloatAGradientOfFourDigits) {
  const Case c{"", Mask::causal(), limits_of(OracleKind::causal, 8)};
  const Problem problem(c);
  const Matrix<float> q = problem.q.cast<float>(), k = problem.k.cast<float>(), v = problem.v.cast<float>();
  const Matrix<float> d_out = problem.d_out.cast<float>();
  const naive::AttentionBackward truth = problem.truth();
  SmallTransformer<float> oracle(c.limits);
  ForwardOnlyGrid<SmallTransformer<float>> attend(oracle, {}, {0, true});
  const AttentionInput<float> input = projected_input(problem.spec, view(q), view(k), view(v));
  Matrix<float> out(q.rows(), d_out.cols());
  Matrix<double> log_weights;
  attend.forward(input, span(out), log_weights);
  const AttentionGradient<float> found = attend.backward(input, view(out), log_weights, view(d_out));
  EXPECT_LE(bounds::max_row_error(found.q, truth.q, naive::largest(truth.q)), 1e-4L);
  EXPECT_LE(bounds::max_row_error(found.k, truth.k, naive::largest(truth.k)), 1e-4L);
  EXPECT_LE(bounds::max_row_error(found.v, truth.v, naive::largest(truth.v)), 3e-6L);
}

TEST(ForwardOnlyGrid, HasTheSameBitsForAnyBatch) {
  Case c{"", Mask::documents({2, 3, 30, 15}, true), limits_of(OracleKind::causal, 8), 50, 50, 4, 2};
  c.limits.heads = 3;
  const Problem problem(c);
  RunOracle oracle(c.limits);
  ForwardOnlyGrid<RunOracle> attend(oracle);
  const AttentionGradient<double> first = found_by(attend, problem).gradient;
  const auto expect_same = [&](const AttentionGradient<double>& other) {
    EXPECT_TRUE(first.q == other.q && first.k == other.k && first.v == other.v);
  };
  c.limits.batch = 7;
  RunOracle batched(c.limits);
  ForwardOnlyGrid<RunOracle> other(batched);
  expect_same(found_by(other, problem).gradient);
}

TEST(ForwardOnlyGrid, RefusesWhatItCannotTransposeAndSaysWhy) {
  const OracleLimits limits = limits_of(OracleKind::causal, 8);
  RunOracle oracle(limits);
  SimulationOptions sampled;
  sampled.sampling.samples = 2;
  EXPECT_THROW((ForwardOnlyGrid<RunOracle>(oracle, sampled)), SpecError);
  EXPECT_THROW((ForwardOnlyGrid<RunOracle>(oracle, {}, {1.5})), SpecError);
  EXPECT_THROW((ForwardOnlyGrid<RunOracle>(oracle, {}, {-1})), SpecError);
  Problem problem({"", Mask::causal(), limits});
  ForwardOnlyGrid<RunOracle> attend(oracle);
  const Found found = found_by(attend, problem);
  const auto backward = [&](const AttentionInput<double>& input, const Matrix<double>& log_weights) {
    return message_of<Error>(
        [&] { static_cast<void>(attend.backward(input, view(found.out), log_weights, view(problem.d_out))); });
  };
  Matrix<double> none = found.log_weights;
  none(3, 1) = std::numeric_limits<double>::quiet_NaN();
  EXPECT_NE(backward(problem.input(), none).find("the log weights hold NaN"), std::string::npos);
  AttentionInput<double> later = problem.input();
  later.held.first_query = 2;
  EXPECT_NE(backward(later, found.log_weights).find("over queries from position 2 on"), std::string::npos);
  const Matrix<double> bias = Matrix<double>::Zero(1, 23);
  AttentionInput<double> biased = problem.input();
  new (&biased.bias) ScoreBias<double>{view(bias), false, false};
  EXPECT_NE(backward(biased, found.log_weights).find("knows no bias"), std::string::npos);
  problem.spec.soft_cap = 20;
  EXPECT_NE(backward(problem.input(), found.log_weights).find("soft_cap is 20"), std::string::npos);
  problem.spec.soft_cap = 0;

  // A transposed call of differences is the widest.
  OracleLimits narrow = limits;
  narrow.key_cols = 7;
  RunOracle of_seven(narrow);
  ForwardOnlyGrid<RunOracle> too_wide(of_seven);
  EXPECT_THROW(static_cast<void>(found_by(too_wide, problem)), LimitError);
}

}  // namespace
