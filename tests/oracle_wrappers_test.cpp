#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <exception>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <twoheads/oracle/oracle.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <twoheads/oracle/wrappers.hpp>
#include <utility>
#include <vector>

#include "support/instances.hpp"
#include "support/message_of.hpp"

namespace {

using namespace twoheads;
using Call = OracleCall<float>;
using Calls = std::vector<Call>;

// --- concepts: types that pass, and types that fail by one thing -----------------------------------------------------

struct Least {
  using Scalar = float;
  OracleLimits limits() const;
  Matrix<float> run(const OracleCall<float>& call);
};
static_assert(HasScalar<Least> && HasLimits<Least> && HasRun<Least> && Oracle<Least>);
static_assert(!HasRunBatch<Least>);
static_assert(Oracle<SmallTransformer<float>> && Oracle<SmallTransformer<double>>);
static_assert(!HasRunBatch<SmallTransformer<float>>);
static_assert(Oracle<CountingOracle<Least>> && !HasRunBatch<CountingOracle<Least>>);
static_assert(Oracle<CheckingOracle<Least>> && !HasRunBatch<CheckingOracle<Least>>);

struct NoScalar {
  OracleLimits limits() const;
  Matrix<float> run(const OracleCall<float>& call);
};
static_assert(!HasScalar<NoScalar> && HasLimits<NoScalar> && !HasRun<NoScalar> && !Oracle<NoScalar>);
struct WholeNumbers : Least {
  using Scalar = int;
};
static_assert(!HasScalar<WholeNumbers> && !Oracle<WholeNumbers>);
struct NoLimits {
  using Scalar = float;
  Matrix<float> run(const OracleCall<float>& call);
};
static_assert(HasScalar<NoLimits> && !HasLimits<NoLimits> && HasRun<NoLimits> && !Oracle<NoLimits>);
struct ChangingLimits : NoLimits {
  OracleLimits limits();
};
static_assert(!HasLimits<ChangingLimits> && !Oracle<ChangingLimits>);
struct LimitsByNumber : NoLimits {
  Index limits() const;
};
static_assert(!HasLimits<LimitsByNumber> && !Oracle<LimitsByNumber>);
struct NoRun {
  using Scalar = float;
  OracleLimits limits() const;
};
static_assert(HasScalar<NoRun> && HasLimits<NoRun> && !HasRun<NoRun> && !Oracle<NoRun>);
struct RunsAway : NoRun {
  void run(const OracleCall<float>& call);
};
static_assert(!HasRun<RunsAway> && !Oracle<RunsAway>);
struct WritesIntoTheCall : NoRun {
  Matrix<float> run(OracleCall<float>& call);
};
static_assert(!HasRun<WritesIntoTheCall> && !Oracle<WritesIntoTheCall>);
struct RunsDouble : NoRun {
  Matrix<float> run(const OracleCall<double>& call);
};
static_assert(!HasRun<RunsDouble> && !Oracle<RunsDouble>);
struct AnswersDouble : NoRun {
  Matrix<double> run(const OracleCall<float>& call);
};
static_assert(!HasRun<AnswersDouble> && !Oracle<AnswersDouble>);
struct BatchOfVectors : Least {
  void run_batch(Calls& calls, const Answer<float>& answer);
};
static_assert(Oracle<BatchOfVectors> && !HasRunBatch<BatchOfVectors>);

// --- oracles to wrap -------------------------------------------------------------------------------------------------

OracleLimits small_limits() {
  OracleLimits limits;
  limits.rows = 4;
  limits.heads = 2;
  limits.layers = 2;
  limits.width = 5;
  return limits;
}

/// One layer of one head that copies 2 columns of 3.
SmallWeights<float> small_weights(Index heads = 1, Index layers = 1) {
  const auto two = Projection<float>::selector(0, 2);
  SmallWeights<float> weights;
  weights.width = 3;
  for (Index l = 0; l < layers; ++l) {
    SmallLayer<float> layer{{}, 2, {}};
    for (Index h = 0; h < heads; ++h) layer.heads.push_back({two, two, two, 0});
    weights.layers.push_back(layer);
  }
  return weights;
}

/// Answers call after call with rows that carry the calls' first number; can be told to answer another shape.
struct Echo {
  using Scalar = float;
  OracleLimits declared = small_limits();
  Index extra_rows = 0;
  Index extra_cols = 0;
  Index seen = 0;

  OracleLimits limits() const { return declared; }
  Matrix<float> run(const Call& call) {
    ++seen;
    return Matrix<float>::Constant(call.rows.rows() + extra_rows, call.weights->output_width() + extra_cols,
                                   call.rows(0, 0));
  }
};

/// The same, and it answers the calls of a batch in the given order of indices.
struct BatchEcho : Echo {
  std::function<std::vector<std::size_t>(std::size_t)> order;
  Index batches = 0;

  void run_batch(std::span<const Call> calls, const Answer<float>& answer) {
    ++batches;
    for (const std::size_t index : order(calls.size()))
      answer(index, index < calls.size() ? run(calls[index]) : Matrix<float>(1, 1));
  }
};
static_assert(Oracle<BatchEcho> && HasRunBatch<BatchEcho>);
static_assert(HasRunBatch<CountingOracle<BatchEcho>> && HasRunBatch<CheckingOracle<BatchEcho>>);

std::vector<std::size_t> forwards(std::size_t count) {
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  return order;
}

/// Calls of 1, 2, 3, 4, 1, ... rows; call number i holds i + 1.
Calls numbered(const SmallWeights<float>& weights, Index count) {
  Calls calls;
  for (Index i = 0; i < count; ++i)
    calls.push_back({&weights, Matrix<float>::Constant(1 + i % 4, 3, static_cast<float>(i + 1))});
  return calls;
}

// --- limits ----------------------------------------------------------------------------------------------------------

TEST(OracleLimits, NameWhatNoPlanCanWorkWith) {
  const auto message = [](auto&& change) {
    OracleLimits limits = small_limits();
    limits.require_valid();
    change(limits);
    EXPECT_THROW(SmallTransformer<float>{limits}, LimitError);
    Echo echo;
    echo.declared = limits;
    EXPECT_THROW(CheckingOracle<Echo>{echo}, LimitError);
    return message_of<LimitError>([&] { limits.require_valid(); });
  };
  using L = OracleLimits;
  EXPECT_EQ(message([](L& l) { l.rows = 1; }), "an oracle's rows is 1, expected 2 or more");
  EXPECT_EQ(message([](L& l) { l.heads = 0; }), "an oracle's heads is 0, expected 1 or more");
  EXPECT_EQ(message([](L& l) { l.layers = -1; }), "an oracle's layers is -1, expected 1 or more");
  EXPECT_EQ(message([](L& l) { l.width = 0; }), "an oracle's width is 0, expected 1 or more");
  EXPECT_EQ(message([](L& l) { l.batch = 0; }), "an oracle's batch is 0, expected 1 or more");
  for (const double scale : {0.0, -1.0, 9e-10, 1.1e9, std::numeric_limits<double>::infinity(), std::nan("")})
    EXPECT_TRUE(message([&](L& l) { l.score_scale = scale; }).ends_with(", expected 1e-9 to 1e9")) << scale;
}

/// What SmallTransformer and CheckingOracle both refuse, the latter before the oracle sees it.
template <class ErrorType>
std::string refusal(const OracleLimits& limits, const Call& call) {
  Echo echo;
  echo.declared = limits;
  CheckingOracle<Echo> checking(echo);
  const std::string checked = message_of<ErrorType>([&] { static_cast<void>(checking.run(call)); });
  EXPECT_EQ(echo.seen, 0);
  SmallTransformer<float> oracle(limits);
  EXPECT_EQ(message_of<ErrorType>([&] { static_cast<void>(oracle.run(call)); }), checked);
  return checked;
}

TEST(RequireWithin, RefusesACallBeyondTheLimitsAndSaysByHowMuch) {
  const OracleLimits limits = small_limits();
  const SmallWeights<float> weights = small_weights();
  const auto rows = [](Index count, Index cols = 3) { return Matrix<float>(Matrix<float>::Ones(count, cols)); };
  EXPECT_NO_THROW(require_within(limits, Call{&weights, rows(1)}));
  EXPECT_NO_THROW(require_within(limits, Call{&weights, rows(4)}));
  EXPECT_EQ(refusal<LimitError>(limits, {&weights, rows(5)}), "an oracle call has 5 rows, the oracle takes 1 to 4");
  EXPECT_EQ(refusal<LimitError>(limits, {&weights, rows(0)}), "an oracle call has 0 rows, the oracle takes 1 to 4");
  OracleLimits fixed = limits;
  fixed.fixed_rows = true;
  EXPECT_NO_THROW(require_within(fixed, Call{&weights, rows(4)}));
  for (const Index count : {1, 3, 5})
    EXPECT_EQ(refusal<LimitError>(fixed, {&weights, rows(count)}),
              "an oracle call has " + std::to_string(count) + " rows, the oracle takes exactly 4");

  SmallWeights<float> wide = weights;
  wide.width = 6;
  EXPECT_EQ(refusal<LimitError>(limits, {&wide, rows(2, 6)}), "an oracle call has 6 columns, the oracle takes 5");
  const SmallWeights<float> tall = small_weights(1, 3), many = small_weights(3);
  EXPECT_EQ(refusal<LimitError>(limits, {&tall, rows(2)}), "weights have 3 layers, the oracle has 2");
  EXPECT_EQ(refusal<LimitError>(limits, {&many, rows(2)}), "weights have 3 heads, the oracle has 2");
}

TEST(RequireWithin, RefusesRowsOfALayerThatAreWiderThanTheOracle) {
  const Matrix<float> rows = Matrix<float>::Ones(2, 3);
  SmallWeights<float> weights = small_weights(1, 2);
  weights.layers[0].output_width = 5;
  EXPECT_NO_THROW(require_within(small_limits(), Call{&weights, rows}));
  weights.layers[0].output_width = 6;
  EXPECT_EQ(refusal<LimitError>(small_limits(), {&weights, rows}), "a layer yields 6 columns, the oracle takes 5");
  weights.layers.pop_back();
  EXPECT_THROW(require_within(small_limits(), Call{&weights, rows}), LimitError) << "nor rows of the answer";
}

TEST(RequireWithin, RefusesWeightsThatDoNotFit) {
  const OracleLimits limits = small_limits();
  const auto message = [&](bool residual, auto&& change) {
    SmallWeights<float> weights = small_weights(2, 2);
    change(weights);
    OracleLimits own = limits;
    own.residual = residual;
    return refusal<ShapeError>(own, {&weights, Matrix<float>::Ones(2, 3)});
  };
  const auto two = Projection<float>::selector(0, 2);
  using W = SmallWeights<float>;
  EXPECT_EQ(refusal<ShapeError>(limits, {nullptr, Matrix<float>::Ones(2, 3)}), "an oracle call has no weights");
  EXPECT_EQ(message(false, [](W& w) { w.width = 4; }), "the rows of an oracle call is 2 x 3, expected 2 x 4");
  EXPECT_EQ(message(false, [](W& w) { w.layers[1].heads[0].wq = Projection<float>::selector(0, 1); }),
            "small transformer, layer 1, head 0: queries and keys differ in length");
  const std::string beyond = "small transformer, layer 1, head 1: a projection reads columns beyond the row";
  EXPECT_EQ(message(false, [&](W& w) { w.layers[1].heads[1].wq = two.shifted(1); }), beyond);
  EXPECT_EQ(message(false, [&](W& w) { w.layers[1].heads[1].wk = two.shifted(-1); }), beyond);
  EXPECT_EQ(message(false,
                    [&](W& w) {
                      w.layers[1].heads[1].wv =
                          Projection<float>::dense(0, std::make_shared<const Matrix<float>>(3, 2));
                    }),
            beyond);
  const std::string output = "small transformer, layer 0, head 1: the output lies beyond the row";
  EXPECT_EQ(message(false, [](W& w) { w.layers[0].heads[1].output_begin = 1; }), output);
  EXPECT_EQ(message(false, [](W& w) { w.layers[0].heads[1].output_begin = -1; }), output);
  EXPECT_EQ(message(true, [](W&) {}), "small transformer, layer 0: a residual layer yields 2 columns, expected 3");
}

// --- wrappers --------------------------------------------------------------------------------------------------------

TEST(CountingOracle, CountsCallsRowsAndTheLongestOne) {
  BatchEcho echo;
  echo.order = forwards;
  CountingOracle<BatchEcho> counting(echo);
  EXPECT_EQ(counting.calls() + counting.rows() + counting.longest(), 0);
  EXPECT_EQ(counting.limits().rows, 4);
  const SmallWeights<float> weights = small_weights();
  const std::vector<Matrix<float>> answers = run_all(counting, std::span<const Call>(numbered(weights, 3)));
  EXPECT_EQ(answers.at(2), Matrix<float>::Constant(3, 2, 3));
  EXPECT_EQ(counting.run({&weights, Matrix<float>::Ones(2, 3)}).rows(), 2);
  EXPECT_EQ(counting.calls(), 4);
  EXPECT_EQ(counting.rows(), 2 + 1 + 2 + 3);
  EXPECT_EQ(counting.longest(), 3);
  EXPECT_EQ(echo.batches, 1);
}

TEST(CheckingOracle, RefusesAnAnswerOfAnotherShape) {
  const SmallWeights<float> weights = small_weights();
  for (const auto& [extra_rows, extra_cols] : {std::pair<Index, Index>{1, 0}, {-1, 0}, {0, 1}, {0, -1}}) {
    BatchEcho echo;
    echo.order = forwards;
    echo.extra_rows = extra_rows;
    echo.extra_cols = extra_cols;
    CheckingOracle<BatchEcho> checking(echo);
    const std::string expected = "an oracle answered " + std::to_string(3 + extra_rows) + " x " +
                                 std::to_string(2 + extra_cols) + ", expected 3 x 2";
    const Calls calls{{&weights, Matrix<float>::Ones(3, 3)}};
    EXPECT_EQ(message_of<OracleError>([&] { static_cast<void>(checking.run(calls[0])); }), expected);
    EXPECT_EQ(message_of<OracleError>([&] { static_cast<void>(run_all(checking, std::span<const Call>(calls))); }),
              expected);
  }
}

TEST(CheckingOracle, ShowsNoCallOfABatchWhereOneIsBeyondTheLimits) {
  BatchEcho echo;
  echo.order = forwards;
  CheckingOracle<BatchEcho> checking(echo);
  const SmallWeights<float> weights = small_weights();
  Calls calls = numbered(weights, 3);
  EXPECT_EQ(run_all(checking, std::span<const Call>(calls)).at(2), Matrix<float>::Constant(3, 2, 3));
  EXPECT_EQ(echo.seen, 3);
  calls[2].rows = Matrix<float>::Ones(5, 3);
  EXPECT_EQ(message_of<LimitError>([&] { static_cast<void>(run_all(checking, std::span<const Call>(calls))); }),
            "an oracle call has 5 rows, the oracle takes 1 to 4");
  EXPECT_EQ(echo.seen, 3);
}

TEST(RunAll, ReturnsAnswersInTheOrderOfTheCallsWhateverTheOrderOfAnswers) {
  const SmallWeights<float> weights = small_weights();
  const Calls calls = numbered(weights, 6);
  Echo one_by_one;
  BatchEcho reverse, shuffled;
  const auto permuted = [](const std::vector<std::size_t>& order) {
    return [order](std::size_t count) { return count == order.size() ? order : std::vector<std::size_t>{}; };
  };
  reverse.order = permuted({5, 4, 3, 2, 1, 0});
  shuffled.order = permuted({3, 0, 5, 1, 4, 2});
  const auto expect_in_order = [&](auto& oracle) {
    const std::vector<Matrix<float>> answers = run_all(oracle, std::span<const Call>(calls));
    ASSERT_EQ(answers.size(), 6U);
    for (std::size_t i = 0; i < 6; ++i)
      EXPECT_EQ(answers[i], Matrix<float>::Constant(calls[i].rows.rows(), 2, static_cast<float>(i + 1))) << i;
    EXPECT_EQ(oracle.seen, 6);
    EXPECT_TRUE(run_all(oracle, std::span<const Call>()).empty());
  };
  expect_in_order(one_by_one);
  expect_in_order(reverse);
  expect_in_order(shuffled);
}

TEST(RunAll, RefusesACallAnsweredTwiceOrNeverOrUnasked) {
  const SmallWeights<float> weights = small_weights();
  const Calls calls = numbered(weights, 3);
  const auto message = [&](std::vector<std::size_t> order) {
    BatchEcho echo;
    echo.order = [order = std::move(order)](std::size_t) { return order; };
    CheckingOracle<BatchEcho> checking(echo);
    const std::string text =
        message_of<OracleError>([&] { static_cast<void>(run_all(echo, std::span<const Call>(calls))); });
    EXPECT_EQ(message_of<OracleError>([&] { static_cast<void>(run_all(checking, std::span<const Call>(calls))); }),
              text);
    return text;
  };
  EXPECT_EQ(message({0, 1, 1, 2}), "the oracle answered call 1 of a batch twice");
  EXPECT_EQ(message({2, 0, 1, 2}), "the oracle answered call 2 of a batch twice");
  EXPECT_EQ(message({2, 0}), "the oracle did not answer call 1 of a batch");
  EXPECT_EQ(message({}), "the oracle did not answer call 0 of a batch");
  EXPECT_EQ(message({0, 1, 2, 3}), "the oracle answered call 3 of a batch of 3");
  EXPECT_EQ(message({static_cast<std::size_t>(-1)}), "the oracle answered call 18446744073709551615 of a batch of 3");
  BatchEcho echo;
  echo.order = [](std::size_t) { return std::vector<std::size_t>{0, 2}; };
  EXPECT_EQ(message_of<OracleError>([&] {
              static_cast<void>(run_all(echo, std::span<const Call>(calls),
                                        [](std::size_t index) { return "call " + std::to_string(index) + ": "; }));
            }),
            "call 1: the oracle did not answer call 1 of a batch");
}

}  // namespace
