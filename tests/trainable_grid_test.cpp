// Gradients through oracle calls: of the small transformer itself, and of attention by run() and vjp() alone.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <twoheads/model/random.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <twoheads/train/trainable_grid.hpp>
#include <vector>

#include "support/attention_problem.hpp"
#include "support/instances.hpp"
#include "support/message_of.hpp"
#include "support/trainable_cases.hpp"

namespace {

using namespace twoheads;
using namespace attention_problem;
using namespace trainable_cases;

// --- the small transformer -------------------------------------------------------------------------------------------

TEST(SmallTransformerVjp, IsTheDerivativeOfItsRun) {
  Random random(seed_or(3));
  for (const SmallCase& c : std::vector<SmallCase>{{},
                                                   {OracleKind::causal},
                                                   {OracleKind::plain, 2, 2, false, true},
                                                   {OracleKind::causal, 3, 2, true, false},
                                                   {OracleKind::causal, 2, 1, false, true, 1},
                                                   {OracleKind::plain, 0, 1, false, false},
                                                   {OracleKind::causal, 1, 2, false, true, 90},
                                                   {OracleKind::plain, 1, 1, false, false, 330}}) {
    OracleLimits limits;
    limits.kind = c.kind;
    limits.rows = std::max<Index>(c.rows, 2);
    limits.heads = c.heads;
    limits.layers = std::max<Index>(c.layers, 1);
    limits.residual = c.residual;
    limits.score_scale = 0.7;
    SmallTransformer<double> oracle(limits);
    const SmallWeights<double> weights = weights_of(c, random);
    OracleCall<double> call{&weights, random.matrix<double>(c.rows, 8, 0.5)};
    const Matrix<double> d_answer = random.matrix<double>(c.rows, weights.output_width());
    const Matrix<double> found = oracle.vjp(call, d_answer);
    ASSERT_EQ(found.rows(), c.rows);
    ASSERT_EQ(found.cols(), 8);
    const double step = 1e-5;
    for (Index row = 0; row<c.rows; row += c.rows> 20 ? 17 : 1)
      for (Index col = 0; col < 8; ++col) {
        double sides = 0;
        for (const double side : {step, -step}) {
          OracleCall<double> moved = call;
          moved.rows(row, col) += side;
          sides += (oracle.run(moved).array() * d_answer.array()).sum() / (2 * side);
        }
        EXPECT_NEAR(found(row, col), sides, 1e-8 * std::max(1.0, found.cwiseAbs().maxCoeff()))
            << "row " << row << ", column " << col << ", layers " << c.layers;
      }
  }
}

TEST(SmallTransformerVjp, RefusesALayerMlp) {
  OracleLimits limits;
  limits.rows = 4;
  SmallTransformer<double> oracle(limits);
  SmallWeights<double> weights;
  weights.width = 2;
  weights.layers.push_back({{}, 2, RowFunction([](Index, auto&) {})});
  const OracleCall<double> call{&weights, Matrix<double>::Zero(3, 2)};
  EXPECT_THROW((void)oracle.vjp(call, Matrix<double>::Zero(3, 2)), SpecError);
  EXPECT_THROW((void)oracle.vjp(call, Matrix<double>::Zero(3, 1)), ShapeError);
}

// --- attention -------------------------------------------------------------------------------------------------------

TEST(TrainableGrid, HasTheGradientOfDenseAttention) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    const Problem problem(c);
    const naive::AttentionBackward truth = problem.truth();
    BareOracle oracle(c.limits);
    TrainableGrid<BareOracle> attend(oracle, c.options);
    const Found found = found_by(attend, problem);
    EXPECT_LE(error_of(found.out, truth.out), tolerance_of(truth));
    expect_right(found, truth, tolerance_of(truth));
  }
}

TEST(TrainableGrid, TakesTwoCallsForEachPlannedOneOrOneWhereAllFitOne) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    const Problem problem(c);
    BareOracle oracle(c.limits);
    TrainableGrid<BareOracle> attend(oracle, c.options);
    static_cast<void>(found_by(attend, problem));
    const Plan plan({c.mask,
                     c.tokens,
                     c.keys,
                     c.heads,
                     1,
                     c.limits,
                     Anchor::mean_key,
                     c.options.packing,
                     {},
                     c.options.block,
                     0,
                     c.sinks || c.options.log_weights});
    const GridTrainingCounts counts = attend.counts();
    EXPECT_EQ(counts.vjps, plan.calls());
    EXPECT_EQ(counts.runs, plan.straight() ? 0 : plan.calls());
    EXPECT_EQ(counts.planned, counts.runs + counts.vjps);
    EXPECT_EQ(oracle.vjps, counts.vjps);
    EXPECT_EQ(oracle.runs, counts.runs + counts.forward.calls);
    EXPECT_EQ(plan.calls(), ceil_div(plan.slots_per_layer(), plan.slots_per_call()));
  }
}

TEST(TrainableGrid, KeepsTheLogWeightsOfTheRows) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    const Problem problem(c);
    const naive::AttentionBackward truth = problem.truth();
    BareOracle oracle(c.limits);
    TrainableGrid<BareOracle> attend(oracle, c.options);
    const Matrix<double> found = found_by(attend, problem).log_weights;
    ASSERT_EQ(found.rows(), c.tokens);
    ASSERT_EQ(found.cols(), c.heads);
    const bool straight = attend.counts().runs == 0;
    for (Index i = 0; i < c.tokens; ++i)
      for (Index h = 0; h < c.heads; ++h) {
        const auto wanted = static_cast<double>(truth.log_weights[at(i)][at(h)]);
        if (straight) {
          EXPECT_TRUE(std::isnan(found(i, h)));
        } else if (std::isinf(wanted)) {
          EXPECT_EQ(found(i, h), wanted);
        } else {
          EXPECT_NEAR(found(i, h), wanted, 1e-12 * std::max(1.0, static_cast<double>(truth.largest_logit)));
        }
      }
  }
}

TEST(TrainableGrid, ARowWhoseKeysABiasHidesHasNoDerivative) {
  for (const Index rows : {2, 3, 8}) {
    AttentionSpec spec;
    spec.mask = Mask::causal();
    Matrix<double> q(2, 1), k(2, 1), v(2, 1), bias = Matrix<double>::Zero(2, 2);
    q << 1, 2;
    k << 1, -1;
    v << 3, 5;
    bias(0, 0) = -std::numeric_limits<double>::infinity();
    const Matrix<double> d_out = Matrix<double>::Ones(2, 1);
    static const AttentionWeights<double> none;
    const AttentionInput<double> input{
        spec, 0,  view(q), view(k),           view(v),     no_rows<double>(), no_rows<double>(),
        none, {}, false,   no_rows<double>(), {view(bias)}};
    SmallTransformer<double> oracle(limits_of(OracleKind::causal, rows));
    TrainableGrid<SmallTransformer<double>> attend(oracle);
    Matrix<double> out(2, 1), log_weights;
    attend.forward(input, span(out), log_weights);
    const AttentionGradient<double> found = attend.backward(input, view(out), log_weights, view(d_out));
    // The second row has weights of exp(2) and exp(-2).
    const double share = 1 / (1 + std::exp(-4.0));
    EXPECT_NEAR(found.v(0, 0), share, 1e-14) << rows;
    EXPECT_NEAR(found.v(1, 0), 1 - share, 1e-14) << rows;
    EXPECT_EQ(found.q(0, 0), 0) << rows;
  }
}

TEST(TrainableGrid, HasTheDerivativeOfItsForward) {
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal}) {
    Case c{"", Mask::window_and_sinks(5, 2), limits_of(kind, 6), 9, 9};
    c.sinks = true;
    Problem problem(c);
    BareOracle oracle(c.limits);
    TrainableGrid<BareOracle> attend(oracle);
    const AttentionGradient<double> gradient = found_by(attend, problem).gradient;
    const auto loss = [&] {
      Matrix<double> out(problem.q.rows(), problem.d_out.cols()), log_weights;
      attend.forward(problem.input(), span(out), log_weights);
      return (out.array() * problem.d_out.array()).sum();
    };
    const auto expect_derivative = [&](Matrix<double>& rows, const Matrix<double>& found) {
      ASSERT_EQ(rows.size(), found.size());
      for (Index i = 0; i < rows.size(); ++i) {
        const double step = 1e-5, at = rows.data()[i];
        rows.data()[i] = at + step;
        const double above = loss();
        rows.data()[i] = at - step;
        const double below = loss();
        rows.data()[i] = at;
        EXPECT_NEAR(found.data()[i], (above - below) / (2 * step), 1e-8);
      }
    };
    expect_derivative(problem.q, gradient.q);
    expect_derivative(problem.k, gradient.k);
    expect_derivative(problem.v, gradient.v);
    expect_derivative(problem.sinks, gradient.sinks);
  }
}

TEST(TrainableGrid, HasTheGradientOfASampleThatIsHeldFixed) {
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
    for (const Index near : {0, 5}) {
      Case c{"", Mask::full(), limits_of(kind, 6), 40, 40};
      if (near > 0) c.mask = Mask::causal();
      c.options.sampling.samples = 2;
      c.options.sampling.near = near;
      c.options.sampling.permute = true;
      c.options.sampling.seed = 9;
      SCOPED_TRACE(std::string(name(kind)) + (near > 0 ? ", near" : ""));
      const Problem problem(c);
      Sampling sampling = c.options.sampling;
      sampling.layer = problem.input().layer;
      const Plan plan({c.mask, c.tokens, c.keys, c.heads, 1, c.limits, Anchor::mean_key, Packing::residual, sampling});
      ASSERT_FALSE(plan.exact());
      if (near == 0) {
        ASSERT_FALSE(plan.key_order().empty());
      }
      const naive::AttentionBackward truth = problem.truth(drawn_by(plan, c.heads, c.tokens, c.keys));
      BareOracle oracle(c.limits);
      TrainableGrid<BareOracle> attend(oracle, c.options);
      const Found found = found_by(attend, problem);
      EXPECT_LE(error_of(found.out, truth.out), 1e-12L);
      expect_right(found, truth, 1e-11L);
    }
}

TEST(TrainableGrid, TakesABiasAsAConstantAlsoWhereItHidesKeys) {
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
    for (const bool by_query : {false, true}) {
      Case c{"", Mask::full(), limits_of(kind, 8), 12, 19};
      const Problem problem(c);
      Matrix<double> bias = Random(seed_or(8)).matrix<double>(by_query ? c.tokens : 1, c.keys);
      for (Index i = 0; i < bias.size(); i += 5) bias.data()[i] = -std::numeric_limits<double>::infinity();
      if (by_query) bias.row(3).setConstant(-std::numeric_limits<double>::infinity());
      AttentionInput<double> input = problem.input();
      new (&input.bias) ScoreBias<double>{view(bias), false, by_query};
      const naive::AttentionBackward truth =
          problem.truth([&](Index, Index i, Index j) { return Real(bias(by_query ? i : 0, j)); });
      BareOracle oracle(c.limits);
      TrainableGrid<BareOracle> attend(oracle);
      expect_right(found_by(attend, problem, input), truth, 1e-11L);
    }
}

TEST(TrainableGrid, TakesQueriesOfAChunkAfterOthers) {
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal}) {
    const Case c{"", Mask::causal(), limits_of(kind, 8), 12, 30};
    const Problem problem(c);
    AttentionInput<double> input = problem.input();
    input.held.first_query = 18;
    const naive::AttentionBackward truth = problem.truth(naive::hiding([](Index i, Index j) { return j <= i + 18; }));
    BareOracle oracle(c.limits);
    TrainableGrid<BareOracle> attend(oracle);
    expect_right(found_by(attend, problem, input), truth, 1e-11L);
  }
}

TEST(TrainableGrid, KeepsAnchorsWithinTheScoresOfAnOracleWhereALearnedSinkIsBeyond) {
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal}) {
    Case c{"", Mask::causal(), limits_of(kind, 8)};
    c.limits.largest_score = 60;
    c.sinks = true;
    Problem problem(c);
    problem.sinks.setConstant(90);
    BareOracle oracle(c.limits);
    TrainableGrid<BareOracle> attend(oracle);
    expect_right(found_by(attend, problem), problem.truth(), 1e-11L);
    EXPECT_GT(oracle.runs, 0);
    EXPECT_LE(oracle.largest_score, 60);
  }
}

TEST(TrainableGrid, HasTheSameBitsForAnyBatch) {
  for (Case c : std::vector<Case>{
           {"causal", Mask::causal(), limits_of(OracleKind::causal, 6), 50, 50, 4, 2},
           {"plain", Mask::full(), limits_of(OracleKind::plain, 6), 50, 50, 4, 2},
           {"documents", Mask::documents({2, 3, 30, 15}, true), limits_of(OracleKind::causal, 6), 50, 50, 4, 2}}) {
    c.limits.heads = 3;
    SCOPED_TRACE(c.name);
    const Problem problem(c);
    BareOracle oracle(c.limits);
    TrainableGrid<BareOracle> attend(oracle);
    const AttentionGradient<double> first = found_by(attend, problem).gradient;
    const auto expect_same = [&](const AttentionGradient<double>& other) {
      EXPECT_TRUE(first.q == other.q && first.k == other.k && first.v == other.v);
    };
    for (const Index batch : {2, 7, 1000}) {
      OracleLimits limits = c.limits;
      limits.batch = batch;
      BareOracle batched(limits);
      TrainableGrid<BareOracle> other(batched);
      expect_same(found_by(other, problem).gradient);
      EXPECT_EQ(batched.vjps, oracle.vjps);
      EXPECT_EQ(batched.runs, oracle.runs);
    }
  }
}

TEST(TrainableGrid, HasAFloatGradientOfAllItsDigits) {
  Case c{"", Mask::causal(), limits_of(OracleKind::causal, 8)};
  const Problem problem(c);
  const Matrix<float> q = problem.q.cast<float>(), k = problem.k.cast<float>(), v = problem.v.cast<float>();
  const Matrix<float> d_out = problem.d_out.cast<float>();
  const naive::AttentionBackward truth = problem.truth();
  SmallTransformer<float> oracle(c.limits);
  TrainableGrid<SmallTransformer<float>> attend(oracle);
  const AttentionInput<float> input = projected_input(problem.spec, view(q), view(k), view(v));
  Matrix<float> out(q.rows(), d_out.cols());
  Matrix<double> log_weights;
  attend.forward(input, span(out), log_weights);
  const AttentionGradient<float> found = attend.backward(input, view(out), log_weights, view(d_out));
  EXPECT_LE(bounds::max_row_error(found.q, truth.q, naive::largest(truth.q)), 3e-6L);
  EXPECT_LE(bounds::max_row_error(found.k, truth.k, naive::largest(truth.k)), 3e-6L);
  EXPECT_LE(bounds::max_row_error(found.v, truth.v, naive::largest(truth.v)), 3e-6L);
}

TEST(TrainableGrid, RefusesWhatHasNoGradientAndSaysWhy) {
  const OracleLimits limits = limits_of(OracleKind::causal, 8);
  BareOracle oracle(limits);
  SimulationOptions raw;
  raw.encoding = TokenEncoding::raw;
  EXPECT_THROW((TrainableGrid<BareOracle>(oracle, raw)), SpecError);
  SimulationOptions bars;
  bars.error_bar_level = 0.9;
  EXPECT_THROW((TrainableGrid<BareOracle>(oracle, bars)), SpecError);
  OracleLimits low = limits;
  low.precision = mixed_precision(Precision::half);
  BareOracle rounding(low);
  EXPECT_THROW((TrainableGrid<BareOracle>(rounding)), SpecError);

  Problem problem({"", Mask::causal(), limits});
  TrainableGrid<BareOracle> attend(oracle);
  Found found = found_by(attend, problem);
  problem.spec.soft_cap = 20;
  EXPECT_THROW(static_cast<void>(found_by(attend, problem)), SpecError);
  problem.spec.soft_cap = 0;
  const auto backward = [&](const Matrix<double>& log_weights, const Matrix<double>& d_out) {
    return message_of<Error>(
        [&] { static_cast<void>(attend.backward(problem.input(), view(found.out), log_weights, view(d_out))); });
  };
  EXPECT_THROW(
      static_cast<void>(attend.backward(problem.input(), view(found.out), Matrix<double>(3, 2), view(problem.d_out))),
      ShapeError);
  Matrix<double> wrong = problem.d_out;
  wrong(4, 1) = std::numeric_limits<double>::infinity();
  EXPECT_NE(backward(found.log_weights, wrong).find("row 4: the derivatives by the output are NaN"), std::string::npos);
  Matrix<double> none = found.log_weights;
  none.array() -= 2000;
  EXPECT_NE(backward(none, problem.d_out).find("it is not what the forward pass found"), std::string::npos);
  none.setConstant(std::numeric_limits<double>::quiet_NaN());
  EXPECT_NE(backward(none, problem.d_out).find("or none was found"), std::string::npos);
  oracle.spoil = true;
  EXPECT_NE(backward(found.log_weights, problem.d_out).find("derivatives hold NaN"), std::string::npos);
}

}  // namespace
