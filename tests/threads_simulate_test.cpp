// Simulations have the same bits and the same counts on any number of threads, and the same faults.

#include <gtest/gtest.h>
#include <tbb/global_control.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <atomic>
#include <limits>
#include <span>
#include <string>
#include <twoheads/base/digest.hpp>
#include <twoheads/exec/threads.hpp>
#include <twoheads/model/random.hpp>
#include <vector>

#include "support/instances.hpp"
#include "support/message_of.hpp"
#include "support/seed.hpp"

namespace {

using namespace twoheads;

struct Case {
  const char* name;
  Mask mask;
  OracleKind kind = OracleKind::causal;
  Anchor anchor = Anchor::adaptive;
  Index tokens = 150;
  Index rows = 17;
  Index oracle_heads = 1;
  Index oracle_layers = 1;
  Index batch = 1;
  TokenEncoding encoding = TokenEncoding::projected;
  Packing packing = Packing::residual;
  Sampling sampling = {};
};

std::vector<Case> cases() {
  const auto plain = OracleKind::plain;
  const auto causal = OracleKind::causal;
  const auto adaptive = Anchor::adaptive;
  const auto raw = TokenEncoding::raw;
  const auto projected = TokenEncoding::projected;
  return {
      {"FullPlain", Mask::full(), plain},
      {"FullCausal", Mask::full(), causal},
      {"CausalPlain", Mask::causal(), plain},
      {"CausalCausal", Mask::causal(), causal},
      {"FullGibbs", Mask::full(), plain, Anchor::gibbs},
      {"CausalGibbs", Mask::causal(), causal, Anchor::gibbs},
      {"Window", Mask::sliding_window(9), causal},
      {"WindowPlain", Mask::sliding_window(9), plain},
      {"Sinks", Mask::window_and_sinks(6, 3), causal, Anchor::gibbs},
      {"Band", Mask::band(4, 11), plain},
      {"Documents", Mask::documents({5, 35, 1, 109}, true), causal},
      {"Straight", Mask::causal(), causal, adaptive, 17},
      {"TwoRows", Mask::full(), plain, adaptive, 40, 2},
      {"TinyCalls", Mask::full(), plain, adaptive, 400, 9},
      {"HeadsOfTheOracle", Mask::causal(), causal, adaptive, 150, 17, 4},
      {"MoreHeadsThanSlots", Mask::causal(), causal, adaptive, 17, 16, 64},
      {"HeadsAndLayers", Mask::full(), plain, adaptive, 150, 17, 2, 3},
      {"IdentityHeads", Mask::causal(), causal, adaptive, 150, 17, 3, 2, 1, projected, Packing::identity},
      {"Batches", Mask::causal(), causal, adaptive, 150, 17, 2, 1, 5},
      {"OneBatch", Mask::full(), plain, Anchor::gibbs, 150, 17, 1, 1, 100000},
      {"Raw", Mask::causal(), causal, adaptive, 150, 17, 2, 2, 1, raw},
      {"Sampled", Mask::full(), plain, adaptive, 300, 17, 1, 1, 1, projected, Packing::residual, {4, 0, 0, 5}},
      {"SampledNear", Mask::causal(), causal, adaptive, 300, 17, 2, 1, 2, projected, Packing::residual, {3, 20, 2, 5}},
  };
}

constexpr Index heads = 3;

OracleLimits limits_of(const Case& c) {
  OracleLimits limits;
  limits.kind = c.kind;
  limits.rows = c.rows;
  limits.heads = c.oracle_heads;
  limits.layers = c.oracle_layers;
  limits.residual = c.oracle_layers > 1 && c.packing == Packing::residual;
  limits.batch = c.batch;
  return limits;
}

/// Logits large enough that the adaptive anchor repeats some calls and not others.
template <class Scalar>
Model<Scalar> model_of(const Case& c) {
  auto model = random_model<Scalar>(paper_layer(2, 4 * heads, heads, c.mask, MlpKind::relu, 8), seed_or(7));
  for (LayerWeights<Scalar>& layer : model.layers) layer.attention.wq *= Scalar(30);
  return model;
}

template <class Scalar>
Matrix<Scalar> tokens_of(const Case& c) {
  return Random(seed_or(7) + 1).matrix<Scalar>(c.tokens, 4 * heads);
}

SimulationOptions options_of(const Case& c) {
  SimulationOptions options{c.anchor, c.encoding, c.packing, c.sampling};
  if (c.sampling.samples > 1) options.error_bar_level = 0.9;
  return options;
}

template <class Scalar>
void expect_same(const Simulation<Scalar>& found, const Simulation<Scalar>& expected, const std::string& where) {
  EXPECT_EQ(digest(found.rows), digest(expected.rows)) << where;
  EXPECT_EQ(found.counts.calls, expected.counts.calls) << where;
  EXPECT_EQ(found.counts.repeats, expected.counts.repeats) << where;
  EXPECT_EQ(found.counts.rounds, expected.counts.rounds) << where;
  EXPECT_EQ(found.counts.jobs, expected.counts.jobs) << where;
  ASSERT_EQ(found.error_bars.size(), expected.error_bars.size()) << where;
  for (std::size_t layer = 0; layer < found.error_bars.size(); ++layer)
    EXPECT_EQ(digest(found.error_bars[layer]), digest(expected.error_bars[layer])) << where;
}

class OnThreads : public testing::TestWithParam<Case> {};

TEST_P(OnThreads, BitsAndCountsAreThoseOfOne) {
  const Case& c = GetParam();
  const Model<float> model = model_of<float>(c);
  const Matrix<float> x = tokens_of<float>(c);
  SmallTransformer<float> oracle(limits_of(c));
  const Simulation<float> expected = simulate(model, x, oracle, options_of(c));
  EXPECT_GT(expected.counts.calls, 0);
  EXPECT_EQ(expected.error_bars.size(), c.sampling.samples > 1 ? 2U : 0U);
  for (const Index threads : {1, 2, 3, 8})
    expect_same(simulate(model, x, oracle, options_of(c), nullptr, Threads(threads)), expected,
                std::to_string(threads) + " threads");
}

INSTANTIATE_TEST_SUITE_P(All, OnThreads, testing::ValuesIn(cases()),
                         [](const auto& found) { return std::string(found.param.name); });

TEST(SimulationOnThreads, RepeatsCallsInSomeOfTheCases) {
  Index repeats = 0;
  for (const Case& c : cases()) {
    SmallTransformer<float> oracle(limits_of(c));
    repeats += simulate(model_of<float>(c), tokens_of<float>(c), oracle, options_of(c)).counts.repeats;
  }
  EXPECT_GT(repeats, 100);
}

TEST(SimulationOnThreads, HasTheBitsOfOneInDoubleAndAcrossAMemory) {
  const Case c{"", Mask::full(), OracleKind::plain};
  const Model<double> model = model_of<double>(c);
  const Matrix<double> x = tokens_of<double>(c);
  const Matrix<double> memory = Random(3).matrix<double>(70, 4 * heads);
  SmallTransformer<double> oracle(limits_of(c));
  expect_same(simulate(model, x, oracle, options_of(c), &memory, Threads(3)),
              simulate(model, x, oracle, options_of(c), &memory), "double");
}

// Parts of a long input are batches of their own; copies of the oracle go from part to part.
TEST(SimulationOnThreads, PartByPartHasTheBitsOfOne) {
  Case c{"", Mask::window_and_sinks(6, 3)};
  c.oracle_heads = 2;
  c.batch = 3;
  c.tokens = 700;
  const Model<float> model = model_of<float>(c);
  const auto run = [&](auto& attend) {
    Matrix<float> x = tokens_of<float>(c);
    for (Index layer = 0; layer < 2; ++layer)
      detail::layer_in_parts(model.spec, model.spec.attention, model.layers[static_cast<std::size_t>(layer)], layer,
                             detail::PartRule{*c.mask.reach(c.tokens), 40}, x, attend);
    return Simulation<float>{std::move(x), attend.counts()};
  };
  SmallTransformer<float> oracle(limits_of(c));
  GridAttention<SmallTransformer<float>> alone(oracle);
  const Simulation<float> expected = run(alone);
  for (const Index threads : {1, 2, 3, 8}) {
    GridAttention<SmallTransformer<float>, Threads> together(oracle, {}, Threads(threads));
    expect_same(run(together), expected, std::to_string(threads) + " threads");
  }
}

TEST(SimulationOnThreads, RunsInsideTheArenaAndTheLoopsOfTheCaller) {
  const Case c{"", Mask::causal()};
  const Model<float> model = model_of<float>(c);
  const Matrix<float> x = tokens_of<float>(c);
  SmallTransformer<float> oracle(limits_of(c));
  const Simulation<float> expected = simulate(model, x, oracle);
  const tbb::global_control room(tbb::global_control::max_allowed_parallelism, 3);
  tbb::task_arena arena(3);
  arena.execute([&] {
    expect_same(simulate(model, x, oracle, {}, nullptr, Threads::of_caller()), expected, "arena of the caller");
    tbb::parallel_for(0, 4, [&](int i) {
      SmallTransformer<float> own(limits_of(c));
      const Threads exec = i % 2 == 0 ? Threads::of_caller() : Threads(2);
      expect_same(simulate(model, x, own, {}, nullptr, exec), expected, "loop of the caller");
    });
  });
}

/// What several copies of an oracle do, seen from outside.
struct Watch {
  std::atomic<Index> calls = 0;
  std::atomic<Index> copies = 0;
  std::atomic<bool> shared = false;
  std::atomic<Index> largest_batch = 0;
  std::atomic<Index> fault_at = -1;  ///< the call at which an oracle fails
  enum class Fault { none, own_type, not_a_number, wrong_shape } fault = Fault::none;
};

/// Not derived from anything that a catch of the library would know.
struct Broken {
  Index call = 0;
};

/// An oracle that counts its copies and sees two threads in one of them.
class WatchedOracle {
 public:
  using Scalar = float;

  WatchedOracle(const OracleLimits& limits, Watch& watch) : inner_(limits), watch_(watch) {}
  WatchedOracle(const WatchedOracle& other) : inner_(other.inner_), watch_(other.watch_) { ++watch_.copies; }
  WatchedOracle& operator=(const WatchedOracle&) = delete;

  [[nodiscard]] OracleLimits limits() const { return inner_.limits(); }
  [[nodiscard]] Matrix<float> run(const OracleCall<float>& call) {
    if (inside_++ != 0) watch_.shared = true;
    const Index number = watch_.calls++;
    ++calls_;
    Matrix<float> answer = inner_.run(call);
    if (number == watch_.fault_at) {
      if (watch_.fault == Watch::Fault::own_type) throw Broken{number};
      if (watch_.fault == Watch::Fault::not_a_number) answer.fill(std::numeric_limits<float>::quiet_NaN());
      if (watch_.fault == Watch::Fault::wrong_shape) answer.conservativeResize(1, 1);
    }
    --inside_;
    return answer;
  }
  void run_batch(std::span<const OracleCall<float>> calls, const Answer<float>& answer) {
    const auto size = static_cast<Index>(calls.size());
    Index most = watch_.largest_batch;
    while (most < size && !watch_.largest_batch.compare_exchange_weak(most, size)) {
    }
    for (std::size_t i = 0; i < calls.size(); ++i) answer(i, run(calls[i]));
  }
  [[nodiscard]] Index calls() const { return calls_; }

 private:
  SmallTransformer<float> inner_;
  Watch& watch_;
  std::atomic<int> inside_ = 0;
  Index calls_ = 0;
};

TEST(OracleOnThreads, EachThreadHasACopyOfItsOwnForAllLayers) {
  Case c{"", Mask::causal()};
  c.rows = 9;
  c.batch = 3;
  for (const Index threads : {1, 2, 8}) {
    Watch watch;
    WatchedOracle oracle(limits_of(c), watch);
    const Simulation<float> found =
        simulate(model_of<float>(c), tokens_of<float>(c), oracle, {}, nullptr, Threads(threads));
    EXPECT_EQ(watch.calls, found.counts.calls);
    EXPECT_EQ(oracle.calls(), 0) << "the caller's own oracle is not called";
    EXPECT_GE(watch.copies, 1);
    EXPECT_LE(watch.copies, threads);
    EXPECT_FALSE(watch.shared);
    EXPECT_EQ(watch.largest_batch, 3);
  }
  Watch watch;
  WatchedOracle oracle(limits_of(c), watch);
  const Simulation<float> found = simulate(model_of<float>(c), tokens_of<float>(c), oracle);
  EXPECT_EQ(oracle.calls(), found.counts.calls);
  EXPECT_EQ(watch.copies, 0) << "one thread calls the caller's own oracle";
}

TEST(FaultsOnThreads, ArriveWithTheirTypeAndTheNextRunWorks) {
  const Case c{"", Mask::causal()};
  const Model<float> model = model_of<float>(c);
  const Matrix<float> x = tokens_of<float>(c);
  SmallTransformer<float> clean(limits_of(c));
  const Simulation<float> expected = simulate(model, x, clean);
  for (const Index threads : {1, 2, 3, 8}) {
    const Threads exec(threads);
    for (const Index fault_at : {0, 1, 40, static_cast<int>(expected.counts.calls) - 1}) {
      Watch watch;
      WatchedOracle oracle(limits_of(c), watch);
      const auto run = [&](Watch::Fault fault) {
        watch.calls = 0;
        watch.fault_at = fault_at;
        watch.fault = fault;
        return simulate(model, x, oracle, {}, nullptr, exec);
      };
      EXPECT_THROW(static_cast<void>(run(Watch::Fault::own_type)), Broken);
      for (const Watch::Fault fault : {Watch::Fault::not_a_number, Watch::Fault::wrong_shape}) {
        const std::string message = message_of<OracleError>([&] { static_cast<void>(run(fault)); });
        EXPECT_NE(message.find("layer"), std::string::npos) << message;
      }
      expect_same(run(Watch::Fault::none), expected, "after faults");
    }
  }
}

TEST(FaultsOnThreads, OfInputAndPlanHaveTheWordsOfOneThread) {
  const Case c{"", Mask::causal()};
  const Model<float> model = model_of<float>(c);
  const Matrix<float> x = tokens_of<float>(c);
  const auto same_words = [&]<class ErrorType>(const ErrorType*, const Model<float>& m, const Matrix<float>& tokens,
                                               const OracleLimits& limits, const SimulationOptions& options) {
    SmallTransformer<float> oracle(limits);
    const std::string expected =
        message_of<ErrorType>([&] { static_cast<void>(simulate(m, tokens, oracle, options)); });
    EXPECT_EQ(
        message_of<ErrorType>([&] { static_cast<void>(simulate(m, tokens, oracle, options, nullptr, Threads(3))); }),
        expected);
  };
  Matrix<float> bad = x;
  bad(77, 0) = std::numeric_limits<float>::infinity();
  same_words(static_cast<InputError*>(nullptr), model, bad, limits_of(c), {});
  OracleLimits narrow = limits_of(c);
  narrow.width = 5;
  same_words(static_cast<LimitError*>(nullptr), model, x, narrow, {});
  Model<float> rope = model;
  rope.spec.attention.rope = RopeSpec{};
  same_words(static_cast<SpecError*>(nullptr), rope, x, limits_of(c), {Anchor::adaptive, TokenEncoding::raw});
  // Which of several unsafe rows is named may differ.
  SmallTransformer<float> oracle(limits_of(c));
  Model<float> hot = model;
  for (LayerWeights<float>& layer : hot.layers) layer.attention.wq *= 100.0F;
  EXPECT_THROW(static_cast<void>(simulate(hot, x, oracle, {Anchor::zero}, nullptr, Threads(3))), AnchorError);
}

}  // namespace
