#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <twoheads/exec/choose_plan.hpp>
#include <twoheads/exec/execute.hpp>
#include <twoheads/merge/merger.hpp>
#include <twoheads/model/random.hpp>
#include <utility>
#include <vector>

#include "support/contains.hpp"
#include "support/instances.hpp"
#include "support/message_of.hpp"
#include "support/plan_problems.hpp"
#include "support/seed.hpp"

namespace {

using namespace twoheads;
using namespace plan_problems;

TEST(ChoosePlan, IsNeverWorseThanTheBestOfAllHandMadeChoices) {
  Cases cases(seed_or(1));
  Index looked_at = 0;
  Index shorter_blocks = 0;
  for (int i = 0; i < 200; ++i) {
    SCOPED_TRACE(i);
    // Long inputs and long calls are tried with each other now and then.
    const bool large = i % 10 == 0;
    const PlanProblem problem = cases.problem(large ? 2000 : i % 2 == 0 ? 300 : 60, large ? 300 : 60);
    const PlanChoice choice = choose_plan(problem);
    const std::vector<Anchor> anchors = anchors_at_hand(problem, problem.oracles[choice.chosen.oracle]);
    const Least least = least_price(problem, anchors, choice.price * (1 + 1e-9));
    looked_at += least.looked_at;
    EXPECT_NEAR(choice.price, least.price, 1e-9 * least.price) << choice.reason();
    for (const PlanOption& other : choice.others) EXPECT_GE(other.price, choice.price * (1 - 1e-9));
    if (choice.chosen.block + 1 < problem.oracles[choice.chosen.oracle].rows) ++shorter_blocks;

    const Plan plan(choice.request);
    EXPECT_EQ(plan.calls(), choice.calls);
    EXPECT_EQ(plan.slots_per_layer() > 0, true);
    EXPECT_NEAR(price_of(plan, plan.slots_per_call(), problem.price), choice.price, 1e-9 * choice.price);
  }
  EXPECT_GT(looked_at, 10000);
  EXPECT_GT(shorter_blocks, 50);
}

// --- what calls count ------------------------------------------------------------------------------------------------

struct Counts {
  Index calls = 0;
  Index rows = 0;
  Index longest = 0;
  Index bytes_in = 0;
  Index bytes_out = 0;
};

/// Counts calls, rows and bytes of a small transformer, which refuses calls beyond its limits.
class CountedTransformer {
 public:
  using Scalar = float;

  CountedTransformer(const OracleLimits& limits, std::shared_ptr<Counts> counts)
      : oracle_(limits), counts_(std::move(counts)) {}

  [[nodiscard]] OracleLimits limits() const { return oracle_.limits(); }
  [[nodiscard]] Matrix<float> run(const OracleCall<float>& call) {
    Matrix<float> answer = oracle_.run(call);
    ++counts_->calls;
    counts_->rows += call.rows.rows();
    counts_->longest = std::max<Index>(counts_->longest, call.rows.rows());
    counts_->bytes_in += call.rows.size() * 4;
    counts_->bytes_out += answer.size() * 4;
    return answer;
  }

 private:
  SmallTransformer<float> oracle_;
  std::shared_ptr<Counts> counts_;
};

/// Evaluates the layers of a choice, each on the same random rows, and returns the largest error of the last one.
double run_choice(const PlanProblem& problem, const PlanChoice& choice, Counts& counts) {
  Random random(seed_or(7));
  const Index keys = problem.keys > 0 ? problem.keys : problem.tokens;
  AttentionSpec spec;
  spec.heads = problem.heads;
  spec.kv_heads = problem.kv_heads > 0 ? problem.kv_heads : problem.heads;
  spec.head_dim = problem.head_dim;
  spec.value_dim = problem.value_dim > 0 ? problem.value_dim : problem.head_dim;
  spec.mask = problem.mask;
  const Index width = std::max<Index>(problem.input_width, 3);
  AttentionWeights<float> weights;
  weights.wq = random.matrix<float>(width, spec.heads * spec.head_dim);
  weights.wk = random.matrix<float>(width, spec.kv_heads * spec.head_dim);
  weights.wv = random.matrix<float>(width, spec.kv_heads * spec.value_dim);
  const Matrix<float> x = 0.2F * random.matrix<float>(problem.tokens, width);
  const Matrix<float> memory = 0.2F * random.matrix<float>(keys, width);
  const Matrix<float>& source = problem.mask.kind == MaskKind::full ? memory : x;
  const Matrix<float> q = x * weights.wq;
  const Matrix<float> k = source * weights.wk;
  const Matrix<float> v = source * weights.wv;
  const AttentionInput<float> input{spec, 0, view(q), view(k), view(v), view(x), view(source), weights};

  Matrix<float> expected(problem.tokens, spec.heads * spec.value_dim);
  DirectAttention<float> direct;
  direct(input, span(expected));

  const auto counted = std::make_shared<Counts>();
  const OracleLimits limits = problem.oracles[choice.chosen.oracle];
  AnyOracle<float> oracle([&] { return CountedTransformer(limits, counted); });
  const Plan plan(choice.request);
  Matrix<float> out(problem.tokens, spec.heads * spec.value_dim);
  for (Index layer = 0; layer < problem.layers; ++layer) {
    OracleEngine<AnyOracle<float>> engine(oracle, plan, input, {.encoding = problem.encoding});
    Merger<float> merger(span(out), spec.value_dim);
    execute<float>(
        Serial(), plan, {0, plan.query_blocks()}, [&] { return &engine; }, merger);
    merger.finish();
    EXPECT_EQ(engine.repeats(), 0);
  }
  counts = *counted;
  return (out - expected).cwiseAbs().maxCoeff<Eigen::PropagateNaN>();
}

TEST(ChoosePlan, PredictsTheCallsRowsAndBytesThatAreCounted) {
  Cases cases(seed_or(2));
  for (int i = 0; i < 60; ++i) {
    SCOPED_TRACE(i);
    PlanProblem problem = cases.problem(i % 10 == 0 ? 200 : 40, 30);
    problem.value_dim = cases.number(1, 6);
    if (i % 3 == 0) {
      problem.encoding = TokenEncoding::raw;
      problem.input_width = cases.number(3, 7);
    }
    if (i % 4 == 0) problem.kv_heads = 1;
    if (i % 4 == 1) problem.anchors = {Anchor::mean_key};
    if (i % 5 == 0)
      for (OracleLimits& oracle : problem.oracles) oracle.width = cases.number(120, 200);
    const PlanChoice choice = choose_plan(problem);
    SCOPED_TRACE(choice.reason());
    Counts counts;
    EXPECT_LT(run_choice(problem, choice, counts), 1e-4);
    EXPECT_EQ(choice.calls, counts.calls);
    EXPECT_EQ(choice.rows, counts.rows);
    EXPECT_EQ(choice.call_rows, counts.longest);
    EXPECT_EQ(choice.bytes_in, counts.bytes_in);
    EXPECT_EQ(choice.bytes_out, counts.bytes_out);
    EXPECT_GE(choice.wasted_rows, 0);
    EXPECT_LT(choice.wasted_share, 1);
  }
}

TEST(ChoosePlan, CutsLongSequencesOfSlotsLikeShortOnes) {
  // Call rows come from runs of slots; here they are cut slot by slot.
  Cases cases(seed_or(3));
  for (int i = 0; i < 300; ++i) {
    SCOPED_TRACE(i);
    PlanRequest request;
    request.tokens = cases.number(1, 300);
    request.mask = cases.mask(request.tokens);
    request.keys = request.mask.kind == MaskKind::full ? cases.number(1, 300) : request.tokens;
    request.heads = cases.number(1, 6);
    request.oracle = cases.oracle(60);
    request.oracle.heads = cases.number(1, 9);
    request.oracle.layers = 1;
    request.block = cases.number(1, request.oracle.rows - 1);
    const Index key_blocks = ceil_div(request.keys, request.block);
    const bool samples = request.mask.kind == MaskKind::full || request.mask.kind == MaskKind::causal;
    if (samples && i % 3 == 0) request.sampling.samples = cases.number(1, key_blocks);
    std::optional<Plan> plan;
    try {
      plan.emplace(request);
    } catch (const LimitError&) {  // samples of blocks of 2 and 1 keys
      continue;
    }
    double rows = 0;
    double pairs = 0;
    Index calls = 0;
    for (const auto& [count, times] : call_rows(*plan)) {
      rows += static_cast<double>(count * times);
      pairs += static_cast<double>(count * count * times);
      calls += times;
    }
    const Index instances = std::min(plan->slots_per_call(), plan->slots_per_layer());
    EXPECT_EQ(calls, ceil_div(plan->slots_per_layer(), instances));
    EXPECT_DOUBLE_EQ(rows, price_of(*plan, instances, {0, 1, 0}));
    EXPECT_DOUBLE_EQ(pairs, price_of(*plan, instances, {0, 0, 1}));
  }
}

TEST(ChoosePlan, LooksAtEnoughBlocksWhereItCannotLookAtAll) {
  for (const Index rows : {600, 1025})
    for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
      for (const Mask& mask : {Mask::causal(), Mask::sliding_window(70), Mask::window_and_sinks(300, 90),
                               Mask::band(500, 20), Mask::documents({200, 20, 30, 900, 350}, true)}) {
        PlanProblem problem;
        problem.tokens = 1500;
        problem.mask = mask;
        problem.oracles = {OracleLimits{.kind = kind, .rows = rows}};
        problem.anchors = {Anchor::mean_key};
        for (const CallCost& price : {CallCost{1, 0, 0}, CallCost{1e4, 0, 1}}) {
          problem.price = price;
          const PlanChoice choice = choose_plan(problem);
          double least = choice.price;
          for (Index block = 1; block < rows; ++block) {
            PlanRequest request = choice.request;
            request.block = block;
            const Plan plan(request);
            // Prices are convex in the rows of a call, of which this is the mean.
            if (static_cast<double>(plan.calls()) * price(plan.slot_rows() / plan.slots()) > least) continue;
            least = std::min(least, price_of(plan, 1, price));
          }
          EXPECT_LE(choice.price, 1.02 * least) << rows << " rows, " << name(kind) << ", " << name(mask.kind);
        }
      }
}

// --- anchors, precision, refusals ------------------------------------------------------------------------------------

PlanProblem small_problem() {
  PlanProblem problem;
  problem.tokens = 100;
  problem.head_dim = 4;
  problem.oracles = {OracleLimits{.rows = 26}};
  return problem;
}

TEST(ChoosePlan, TakesAnAnchorThatIsSafeInThePrecision) {
  const auto anchor = [](Precision low, std::optional<double> largest_logit, Precision scalar = Precision::float32) {
    PlanProblem problem = small_problem();
    problem.scalar = scalar;
    problem.largest_logit = largest_logit;
    if (low != Precision::own) problem.oracles[0].precision = mixed_precision(low);
    return choose_plan(problem).chosen.anchor;
  };
  EXPECT_EQ(anchor(Precision::own, {}), Anchor::adaptive);
  EXPECT_EQ(anchor(Precision::own, 30.0), Anchor::mean_key);
  EXPECT_EQ(anchor(Precision::own, 50.0), Anchor::adaptive);
  EXPECT_EQ(anchor(Precision::own, 50.0, Precision::float64), Anchor::mean_key);
  EXPECT_EQ(anchor(Precision::float32, 50.0, Precision::float64), Anchor::adaptive);
  EXPECT_EQ(anchor(Precision::half, {}), Anchor::gibbs);
  EXPECT_EQ(anchor(Precision::half, 2.0), Anchor::mean_key);
  EXPECT_EQ(anchor(Precision::half, 5.0), Anchor::gibbs);
  EXPECT_EQ(anchor(Precision::bfloat16, {}), Anchor::gibbs);
  EXPECT_EQ(anchor(Precision::bfloat16, 30.0), Anchor::mean_key);
  // Never zero, unless the problem accepts it.
  PlanProblem accepted = small_problem();
  accepted.anchors = {Anchor::gibbs, Anchor::zero};
  EXPECT_EQ(choose_plan(accepted).chosen.anchor, Anchor::zero);
}

TEST(ChoosePlan, ExpectsTheErrorOfThePrecision) {
  EXPECT_DOUBLE_EQ(expected_error({}, Precision::float32, 0), 8 * 0x1p-24);
  EXPECT_DOUBLE_EQ(expected_error({}, Precision::float64, 100), 58 * 0x1p-53);
  EXPECT_DOUBLE_EQ(expected_error(mixed_precision(Precision::float32), Precision::float64, 0), 8 * 0x1p-24);
  EXPECT_NEAR(expected_error(mixed_precision(Precision::half), Precision::float32, 1000), 2e-3, 1e-4);
  EXPECT_NEAR(expected_error(mixed_precision(Precision::bfloat16), Precision::float32, 0), 1.6e-2, 1e-3);
}

TEST(ChoosePlan, RefusesWithWhatIsNeededAndWhatThereIs) {
  const auto refusal = [](const auto& change) {
    PlanProblem problem = small_problem();
    change(problem.oracles[0]);
    return message_of<LimitError>([&] { static_cast<void>(choose_plan(problem)); });
  };
  EXPECT_TRUE(contains(refusal([](OracleLimits& o) { o.precision.weights = Precision::int8; }), "int8"));
  EXPECT_TRUE(contains(refusal([](OracleLimits& o) { o.precision.scores = Precision::half; }), "float32 scores"));
  EXPECT_TRUE(contains(refusal([](OracleLimits& o) { o.width = 17; }), "18 columns, the oracle has 17"));
  EXPECT_TRUE(contains(refusal([](OracleLimits& o) { o.key_cols = 4; }), "5 columns of queries and keys"));
  EXPECT_TRUE(contains(refusal([](OracleLimits& o) { o.value_cols = 7; }), "8 columns of values, the oracle has 7"));
  EXPECT_TRUE(contains(refusal([](OracleLimits& o) { o.kind = OracleKind::kernel; }), "kernel"));

  PlanProblem large = small_problem();
  large.largest_logit = 100;
  large.oracles[0].largest_score = 50;
  EXPECT_TRUE(contains(message_of<LimitError>([&] { static_cast<void>(choose_plan(large)); }), "up to 50"));
}

TEST(ChoosePlan, TakesWhatFitsAndSaysWhatDoesNot) {
  PlanProblem problem = small_problem();
  problem.heads = 4;
  problem.oracles[0].heads = 4;
  problem.oracles[0].width = 50;  // an instance takes 20: 5 columns of queries, 5 of keys, 10 of answers
  problem.oracles.push_back(problem.oracles[0]);
  problem.oracles[1].precision.weights = Precision::int8;
  const PlanChoice choice = choose_plan(problem);
  EXPECT_EQ(choice.chosen.oracle, 0U);
  EXPECT_EQ(choice.chosen.instances, 2);
  EXPECT_EQ(choice.request.oracle.heads, 2);
  ASSERT_EQ(choice.refused.size(), 1U);
  EXPECT_TRUE(contains(choice.reason(), "No plan for oracle 2"));
  EXPECT_TRUE(contains(choice.reason(), "2 of 4 heads"));
}

TEST(ChoosePlan, RefusesProblemsThatMakeNoSense) {
  const auto refused = [](const auto& change) {
    PlanProblem problem = small_problem();
    change(problem);
    EXPECT_THROW(static_cast<void>(choose_plan(problem)), SpecError);
  };
  refused([](PlanProblem& p) { p.tokens = 0; });
  refused([](PlanProblem& p) { p.heads = 0; });
  refused([](PlanProblem& p) { p.kv_heads = 3; });
  refused([](PlanProblem& p) { p.layers = 0; });
  refused([](PlanProblem& p) { p.head_dim = 0; });
  refused([](PlanProblem& p) { p.oracles.clear(); });
  refused([](PlanProblem& p) { p.scalar = Precision::half; });
  refused([](PlanProblem& p) { p.price.per_row = -1; });
  refused([](PlanProblem& p) { p.price.fixed = NAN; });
  refused([](PlanProblem& p) { p.largest_logit = NAN; });
  refused([](PlanProblem& p) { p.encoding = TokenEncoding::raw; });
}

TEST(ChoosePlan, BlocksOfAPlanFitItsOracle) {
  PlanRequest request;
  request.tokens = request.keys = 100;
  request.oracle.rows = 26;
  for (const Index block : {-1, 26}) {
    request.block = block;
    EXPECT_THROW(static_cast<void>(Plan(request)), SpecError) << block;
  }
  // A shorter block is the plan of an oracle of so many rows and one.
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
    for (Index block = 1; block < 26; ++block) {
      request.oracle.kind = kind;
      request.oracle.rows = 26;
      request.block = block;
      const Plan shorter(request);
      request.oracle.rows = block + 1;
      request.block = 0;
      EXPECT_EQ(shorter.calls(), Plan(request).calls());
      EXPECT_EQ(shorter.block(), block);
    }
}

}  // namespace
