// A pool of oracles that fail gives the bits of one that does not.

#include <gtest/gtest.h>

#include <atomic>
#include <cfenv>
#include <chrono>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <twoheads/exec/pool.hpp>
#include <twoheads/model/random.hpp>
#include <twoheads/oracle/any_oracle.hpp>
#include <vector>

#include "support/contains.hpp"
#include "support/faulty_oracle.hpp"
#include "support/instances.hpp"
#include "support/message_of.hpp"
#include "support/pool_oracles.hpp"
#include "support/seed.hpp"

namespace {

using namespace twoheads;
using std::chrono::milliseconds;
using namespace pool_oracles;

// --- a simulation through oracles that fail --------------------------------------------------------------------------

OracleLimits small_limits() {
  OracleLimits limits;
  limits.kind = OracleKind::causal;
  limits.rows = 9;
  limits.batch = 3;
  return limits;
}

/// Whatever fails now and then, among them the answers of other calls.
struct Case {
  const char* name;
  FaultShares shares;
  Index PoolCounts::*counted;
  Index workers = 3;
  Index calls_at_once = 1;
};

std::vector<Case> cases() {
  const FaultShares all{0.1, 0.05, 0.1, 0.05, 0.1, 0.1, 0.1};
  return {
      {"Throws", {.throws = 0.1}, &PoolCounts::threw},
      {"Hangs", {.hangs = 0.1}, &PoolCounts::given_up},
      {"Dies", {.dies = 0.1}, &PoolCounts::threw},
      {"Late", {.late = 0.1}, &PoolCounts::late},
      {"WrongSize", {.wrong_size = 0.1}, &PoolCounts::wrong},
      {"Nan", {.nan = 0.1}, &PoolCounts::wrong},
      {"AnotherCallsAnswer", {.another = 0.1}, &PoolCounts::wrong},
      {"AllOfThem", all, &PoolCounts::wrong},
      {"AllOfThemOneWorker", all, &PoolCounts::wrong, 1},
      {"AllOfThemSeveralCallsAtOnce", all, &PoolCounts::late, 2, 3},
  };
}

/// A pool that is kept elsewhere.
class LentPool {
 public:
  using Scalar = float;
  using Pool = OraclePool<FaultyOracle<SmallTransformer<float>>>;

  explicit LentPool(Pool& pool) : pool_(pool) {}
  [[nodiscard]] OracleLimits limits() const { return pool_.limits(); }
  [[nodiscard]] Matrix<float> run(const Call& call) { return pool_.run(call); }
  void run_batch(std::span<const Call> calls, const Answer<float>& answer) { pool_.run_batch(calls, answer); }

 private:
  Pool& pool_;
};

class FailingCalls : public testing::TestWithParam<Case> {};

TEST_P(FailingCalls, LeaveTheBitsOfACleanRun) {
  const Case& c = GetParam();
  const Model<float> model = random_model<float>(paper_layer(1, 8, 2, Mask{MaskKind::causal}, MlpKind::none, 0), 3);
  const Matrix<float> tokens = Random(4).matrix<float>(39, 8);
  SmallTransformer<float> clean(small_limits());
  GridAttention<SmallTransformer<float>> attend_clean(clean, {.checksums = true});
  const Matrix<float> expected = forward(model, tokens, attend_clean);

  const milliseconds deadline(40);
  const auto faults = std::make_shared<Faults>(seed_or(21), c.shares, deadline + milliseconds(10));
  PoolOptions options;
  options.workers = c.workers;
  options.calls_at_once = c.calls_at_once;
  options.deadline = deadline;
  options.first_back_off = milliseconds(1);
  options.most_back_off = milliseconds(4);
  // A machine under load may be late with any call.
  options.attempts = 30;
  options.grace = std::chrono::minutes(1);
  LentPool::Pool pool([&] { return FaultyOracle(SmallTransformer<float>(small_limits()), faults); }, options);
  AnyOracle<float> oracle([&] { return LentPool(pool); });
  GridAttention<AnyOracle<float>> attend(oracle, {.checksums = true});
  const Matrix<float> rows = forward(model, tokens, attend);
  faults->release();

  EXPECT_EQ(rows, expected);
  EXPECT_EQ(attend.counts().calls, attend_clean.counts().calls);
  const PoolCounts counts = pool.counts();
  EXPECT_GT(counts.*c.counted, 0);
  EXPECT_EQ(counts.retries, counts.failures());
  EXPECT_EQ(counts.calls + counts.not_made, attend.counts().calls + counts.retries);
}

INSTANTIATE_TEST_SUITE_P(All, FailingCalls, testing::ValuesIn(cases()),
                         [](const auto& found) { return std::string(found.param.name); });

// --- batches of small calls ------------------------------------------------------------------------------------------

PoolOptions quick(Index workers, Index attempts = 4) {
  PoolOptions options;
  options.workers = workers;
  options.attempts = attempts;
  options.first_back_off = options.most_back_off = milliseconds(0);
  return options;
}

TEST(OraclePool, AnswersEachCallExactlyOnceWhateverTheWorkers) {
  const SmallCalls calls(23);
  for (const Index workers : {1, 2, 5, 40}) {
    OraclePool pool([] { return FunctionOracle(doubled); }, quick(workers));
    EXPECT_EQ(calls.answers_of(pool), std::vector<int>(23, 1)) << workers << " workers";
    EXPECT_EQ(SmallCalls(1).answers_of(pool), std::vector<int>(1, 1));
    EXPECT_EQ(SmallCalls(0).answers_of(pool), std::vector<int>());
    EXPECT_EQ(pool.run(calls.calls[2]), doubled(calls.calls[2]));
    EXPECT_EQ(pool.counts().calls, 25);
    EXPECT_LE(pool.counts().oracles, std::min<Index>(workers, 23));
    EXPECT_EQ(pool.counts().failures(), 0);
  }
}

TEST(OraclePool, CallsThatShareWeightsShareThemInABatch) {
  std::set<std::size_t> seen;
  std::mutex mutex;
  OraclePool<CountsWeights> pool([&] { return CountsWeights{&seen, &mutex}; }, {.workers = 2});
  SmallWeights<float> weights;
  weights.width = 3;
  std::vector<Call> calls(12);
  for (Call& call : calls) {
    call.weights = &weights;
    call.rows = Matrix<float>::Ones(4, 3);
  }
  pool.run_batch(std::span<const Call>(calls), [](std::size_t, const Matrix<float>&) {});
  EXPECT_EQ(seen, std::set<std::size_t>{1});
}

TEST(OraclePool, NamesTheCallThatFailsInEveryAttemptAndWorksOn) {
  const auto fails = std::make_shared<std::atomic<bool>>(true);
  OraclePool pool(
      [fails] {
        return FunctionOracle([fails](const Call& call) {
          if (*fails && is_number(call, 7)) throw std::runtime_error("no seven");
          return doubled(call);
        });
      },
      quick(2, 3));
  const SmallCalls calls(20);
  const std::string message = message_of<OracleError>([&] { calls.answers_of(pool); });
  EXPECT_TRUE(contains(message, "call 7 of a batch of 20 (4 rows of 3 columns) failed 3 times")) << message;
  EXPECT_TRUE(contains(message, "3. no seven")) << message;
  EXPECT_EQ(pool.counts().threw, 3);
  EXPECT_EQ(pool.counts().retries, 2);
  *fails = false;
  EXPECT_EQ(calls.answers_of(pool), std::vector<int>(20, 1));
}

TEST(OraclePool, GivesUpWithTheFirstCallsThatNeverComeBackHoweverManyWait) {
  const auto fails = [](const Call&) -> Matrix<float> { throw std::runtime_error("never"); };
  for (const Index workers : {1, 3}) {
    OraclePool pool([&] { return FunctionOracle(fails); }, quick(workers, 3));
    const std::string message = message_of<OracleError>([&] { SmallCalls(200).answers_of(pool); });
    EXPECT_TRUE(contains(message, "failed 3 times:\n  1. to 3. never")) << message;
    EXPECT_LE(pool.counts().calls, 3 * workers);
  }
}

TEST(OraclePool, HandsOnWhatACallIsToBlameFor) {
  OraclePool pool([] { return FunctionOracle(doubled, 6); }, quick(2));
  SmallCalls calls(6);
  calls.calls[3].rows.setZero(7, 3);
  EXPECT_TRUE(contains(message_of<LimitError>([&] { calls.answers_of(pool); }), "7 rows"));
  calls.calls[3].rows.setZero(4, 2);
  static_cast<void>(message_of<ShapeError>([&] { calls.answers_of(pool); }));
  calls.calls[3].rows.setZero(4, 3);
  calls.calls[3].weights = nullptr;
  static_cast<void>(message_of<ShapeError>([&] { calls.answers_of(pool); }));
  EXPECT_EQ(pool.counts().retries, 0);
  EXPECT_EQ(SmallCalls(6).answers_of(pool), std::vector<int>(6, 1));
}

TEST(OraclePool, PassesOnWhatAnswerThrows) {
  OraclePool pool([] { return FunctionOracle(doubled); }, quick(3));
  const SmallCalls calls(9);
  const auto refuse = [](std::size_t, const Matrix<float>&) { throw std::out_of_range("enough"); };
  EXPECT_EQ(message_of<std::out_of_range>([&] { pool.run_batch(calls.calls, refuse); }), "enough");
  EXPECT_EQ(calls.answers_of(pool), std::vector<int>(9, 1));
}

TEST(OraclePool, ASlowWorkerDoesNotHoldTheRestBack) {
  const auto gate = std::make_shared<Gate>();
  OraclePool pool(
      [gate] {
        return FunctionOracle([gate](const Call& call) {
          if (is_number(call, 0)) gate->wait();
          return doubled(call);
        });
      },
      quick(2));
  const SmallCalls calls(12);
  std::vector<std::size_t> order;
  pool.run_batch(calls.calls, [&](std::size_t index, const Matrix<float>&) {
    order.push_back(index);
    if (order.size() == 11) gate->open();
  });
  ASSERT_EQ(order.size(), 12u);
  EXPECT_EQ(order.back(), 0u);
}

TEST(OraclePool, IdleWorkersTakeOverTheOldestCall) {
  const auto hangs = std::make_shared<HangsOnce>();
  PoolOptions options = quick(2);
  options.hedge_after = milliseconds(0);
  options.grace = std::chrono::minutes(1);
  OraclePool pool([hangs] { return FunctionOracle([hangs](const Call& call) { return (*hangs)(call); }); }, options);
  const SmallCalls calls(5);
  EXPECT_EQ(calls.answers_of(pool), std::vector<int>(5, 1));
  EXPECT_GE(pool.counts().hedged, 1);
  // The other worker hangs still.
  EXPECT_EQ(calls.answers_of(pool), std::vector<int>(5, 1));
  hangs->gate.open();
  EXPECT_EQ(calls.answers_of(pool), std::vector<int>(5, 1));
  EXPECT_EQ(pool.counts().failures(), 0);
}

TEST(OraclePool, OneOfTwoWorkersOnACallIsEnough) {
  for (const bool first_throws : {false, true}) {
    const auto twins = std::make_shared<Twins>(first_throws);
    PoolOptions options = quick(3);
    options.hedge_after = milliseconds(0);
    OraclePool pool([twins] { return FunctionOracle([twins](const Call& call) { return (*twins)(call); }); }, options);
    EXPECT_EQ(SmallCalls(2).answers_of(pool), std::vector<int>(2, 1));
    EXPECT_EQ(pool.counts().threw, first_throws ? 1 : 0);
    EXPECT_EQ(pool.counts().retries, 0);
  }
}

TEST(OraclePool, NothingRunsWhenAnExceptionLeaves) {
  const auto gate = std::make_shared<Gate>();
  const auto ended = std::make_shared<std::atomic<bool>>(false);
  OraclePool pool(
      [gate, ended] {
        return FunctionOracle([gate, ended](const Call& call) {
          if (is_number(call, 1)) return doubled(call);
          gate->wait();
          std::this_thread::sleep_for(milliseconds(20));
          *ended = true;
          return doubled(call);
        });
      },
      quick(2));
  const SmallCalls calls(2);
  const auto refuse = [&](std::size_t, const Matrix<float>&) {
    gate->open();
    throw std::out_of_range("enough");
  };
  static_cast<void>(message_of<std::out_of_range>([&] { pool.run_batch(calls.calls, refuse); }));
  EXPECT_TRUE(*ended);
}

TEST(OraclePool, LeavesAWorkerThatDoesNotComeBackToItself) {
  const auto hangs = std::make_shared<HangsOnce>();
  struct Counted {
    explicit Counted(std::shared_ptr<HangsOnce> h) : hangs(std::move(h)) { ++hangs->alive; }
    Counted(const Counted& other) : hangs(other.hangs) { ++hangs->alive; }
    Counted& operator=(const Counted&) = delete;
    ~Counted() { --hangs->alive; }
    Matrix<float> operator()(const Call& call) const { return (*hangs)(call); }
    std::shared_ptr<HangsOnce> hangs;
  };
  {
    PoolOptions options = quick(1);
    options.deadline = milliseconds(100);
    options.attempts = 30;
    options.grace = milliseconds(1);
    OraclePool pool([hangs] { return FunctionOracle(Counted(hangs)); }, options);
    EXPECT_EQ(SmallCalls(4).answers_of(pool), std::vector<int>(4, 1));
    EXPECT_GE(pool.counts().given_up, 1);
    EXPECT_GE(pool.counts().late, 1);
  }
  EXPECT_EQ(hangs->alive, 1);
  hangs->gate.open();
  while (hangs->alive > 0) std::this_thread::yield();
}

TEST(OraclePool, CallsWaitForOraclesThatCannotBeMade) {
  const auto made = std::make_shared<std::atomic<int>>(0);
  OraclePool pool(
      [made](Index worker) {
        EXPECT_EQ(worker, 0);
        if ((*made)++ % 3 != 0) throw std::runtime_error("no room");
        return FunctionOracle([](const Call& call) {
          if (is_number(call, 3)) throw std::runtime_error("no three");
          return doubled(call);
        });
      },
      quick(1, 9));
  const SmallCalls calls(4);
  const std::string message = message_of<OracleError>([&] { static_cast<void>(pool.run(calls.calls[3])); });
  EXPECT_TRUE(contains(message, "1. no three\n  2. to 3. no oracle: no room\n  4. no three")) << message;
  EXPECT_EQ(pool.counts().not_made, 6);
  EXPECT_EQ(pool.counts().threw, 3);

  const auto never = []() -> FunctionOracle { throw std::runtime_error("no room at all"); };
  const std::string none = message_of<OracleError>([&] { OraclePool empty(never, quick(2, 3)); });
  EXPECT_TRUE(contains(none, "no oracle could be made in 3 attempts")) << none;
  EXPECT_TRUE(contains(none, "3. no room at all")) << none;
}

TEST(OraclePool, HasTheLimitsOfItsOraclesAndRefusesOthers) {
  OraclePool many([] { return SmallTransformer<float>(small_limits()); }, quick(4));
  EXPECT_EQ(many.limits().rows, 9);
  EXPECT_EQ(many.limits().batch, 3 * 2 * 4);

  const auto made = std::make_shared<std::atomic<Index>>(8);
  OraclePool pool([made] { return FunctionOracle([](const Call&) -> Matrix<float> { throw 1; }, (*made)++); },
                  quick(1));
  EXPECT_TRUE(contains(message_of<LimitError>([&] { SmallCalls(6).answers_of(pool); }), "differ in their limits"));
}

TEST(OraclePool, RoundsAsItsCallerDoes) {
  OraclePool pool([] {
    return FunctionOracle([](const Call& call) {
      return Matrix<float>(Matrix<float>::Constant(call.rows.rows(), 3, static_cast<float>(std::fegetround())));
    });
  });
  const SmallCalls calls(1);
  for (const int mode : {FE_UPWARD, FE_TONEAREST}) {
    std::fesetround(mode);
    const float found = pool.run(calls.calls[0])(0, 0);
    std::fesetround(FE_TONEAREST);
    EXPECT_EQ(found, static_cast<float>(mode));
  }
}

TEST(OraclePool, RefusesOptionsOutOfRange) {
  const auto refused = [](auto change) {
    PoolOptions options;
    change(options);
    return message_of<SpecError>([&] { OraclePool pool([] { return FunctionOracle(doubled); }, options); });
  };
  EXPECT_TRUE(contains(refused([](PoolOptions& o) { o.workers = 0; }), "workers is 0"));
  EXPECT_TRUE(contains(refused([](PoolOptions& o) { o.attempts = 0; }), "attempts is 0"));
  EXPECT_TRUE(contains(refused([](PoolOptions& o) { o.calls_at_once = -1; }), "at once is -1"));
  EXPECT_TRUE(contains(refused([](PoolOptions& o) { o.deadline = milliseconds(-5); }), "deadline is -5"));
  EXPECT_TRUE(contains(refused([](PoolOptions& o) { o.hedge_after = milliseconds(-1); }), "hedging time is -1"));
}

}  // namespace
