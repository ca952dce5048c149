#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <thread>
#include <twoheads/attention/input.hpp>
#include <twoheads/model/random.hpp>
#include <twoheads/oracle/any_oracle.hpp>
#include <twoheads/oracle/core.hpp>
#include <twoheads/remote/remote_core.hpp>
#include <twoheads/remote/remote_transformer.hpp>
#include <twoheads/remote/serve.hpp>
#include <vector>

#include "support/contains.hpp"
#include "support/eigen_core.hpp"
#include "support/instances.hpp"
#include "support/message_of.hpp"
#include "support/no_child_is_left.hpp"
#include "support/program.hpp"
#include "support/seed.hpp"

namespace {

using namespace twoheads;
using namespace std::chrono_literals;

std::uint64_t seed() { return seed_or(61); }

const std::string small_core = "--rows 9 --heads 2 --key-cols 20 --value-cols 16 --batch 3 --score-scale 0.5 ";
const CoreGraph small_core_graph{3, 2, 9, 20, 16};

/// The command of our own oracle.
std::vector<std::string> oracle(const std::string& arguments) {
  std::vector<std::string> command = words(arguments);
  command.insert(command.begin(), std::string(TWOHEADS_PROGRAM_DIR) + "/twoheads_oracle");
  return command;
}

/// Heads of random rows.
template <class Scalar>
struct Heads {
  explicit Heads(std::size_t count, const CoreGraph& graph = small_core_graph) {
    Random random(seed());
    for (std::size_t i = 0; i < 3 * count; ++i)
      rows.push_back(
          random.matrix<float>(graph.rows, i % 3 < 2 ? graph.key_cols : graph.value_cols).template cast<Scalar>());
    for (std::size_t i = 0; i < count; ++i)
      calls.push_back({view(rows[3 * i]), view(rows[3 * i + 1]), view(rows[3 * i + 2])});
  }
  std::vector<Matrix<Scalar>> rows;
  std::vector<CoreCall<Scalar>> calls;

  [[nodiscard]] std::vector<Matrix<Scalar>> expected(const OracleLimits& limits) const {
    programs::EigenCore<Scalar> core(limits);
    std::vector<Matrix<Scalar>> found;
    for (const CoreCall<Scalar>& call : calls) found.push_back(core(call.q, call.k, call.v));
    return found;
  }
};

using CoreAnswers = std::vector<Matrix<float>>;

CoreAnswers ask(RemoteCore<float>& core, const Heads<float>& heads) {
  return core(std::span<const CoreCall<float>>(heads.calls));
}

/// A run of our oracle's attention core, which takes two heads at most.
template <class Scalar>
std::vector<Matrix<Scalar>> answers_with(const std::string& faults, std::size_t heads = 2,
                                         std::chrono::milliseconds patience = 60s) {
  RemoteCore<Scalar> core(RemoteSession(oracle(small_core + faults), {.call = patience}));
  const Heads<Scalar> given(heads);
  return core(std::span<const CoreCall<Scalar>>(given.calls));
}

TEST(RemoteCore, AnswersAnyNumberOfHeadsInTheirOrder) {
  RemoteCore<float> core(RemoteSession(oracle(small_core), {.in_flight = 3}));
  const OracleLimits limits = core.limits(OracleKind::plain, 0.5);
  EXPECT_EQ(core.graph(), small_core_graph);
  EXPECT_EQ(limits.batch, 9);
  EXPECT_TRUE(limits.fixed_rows);
  for (const std::size_t count : {0U, 1U, 6U, 7U, 40U}) {
    const Heads<float> heads(count);
    EXPECT_EQ(ask(core, heads), heads.expected(limits)) << count;
  }
  const Matrix<float> little = Matrix<float>::Zero(9, 19);
  const std::vector<CoreCall<float>> wrong{{view(little), view(little), view(little)}};
  EXPECT_THROW(static_cast<void>(core(std::span<const CoreCall<float>>(wrong))), LimitError);
}

TEST(RemoteCore, WritesAndReadsMoreAtOnceThanAChannelHolds) {
  const CoreGraph graph{16, 4, 65, 32, 32};
  RemoteCore<float> core(
      RemoteSession(oracle("--rows 65 --heads 4 --key-cols 32 --value-cols 32 --batch 16"), {.in_flight = 4}));
  const Heads<float> heads(5 * 64, graph);
  EXPECT_EQ(ask(core, heads), heads.expected(core.limits(OracleKind::plain, 1)));
}

TEST(RemoteCore, EachFaultIsAnErrorThatNamesItsCause) {
  const auto said = [](const std::string& faults, std::chrono::milliseconds patience = 60s) {
    const std::string message =
        message_of<OracleError>([&] { static_cast<void>(answers_with<float>(faults, 2, patience)); });
    EXPECT_TRUE(no_child_is_left());
    return message;
  };
  EXPECT_PRED2(contains, said("--fault throw"), "a run failed: a fault that was asked for");
  EXPECT_PRED2(contains, said("--fault exit"), "ended with exit status 3");
  EXPECT_PRED2(contains, said("--fault hang", 100ms), "no answer within 0.1 s");
  EXPECT_PRED2(contains, said("--fault late --late-ms 60000", 100ms), "no answer within 0.1 s");
  EXPECT_PRED2(contains, said("--fault size"), "3 x 2 x 9, expected o, float32, 3 x 2 x 9 x 16");
  EXPECT_NO_THROW(static_cast<void>(answers_with<float>("--fault late --late-ms 1")));
  EXPECT_FALSE(answers_with<float>("--fault nan").front().allFinite());
  EXPECT_FALSE(answers_with<double>("--scalar double --fault nan").front().allFinite());
  // Two runs: the second one has the numbers of the first.
  const CoreAnswers other = answers_with<float>("--fault other", 12);
  EXPECT_EQ(other.back(), other[5]);
  EXPECT_NE(answers_with<float>("", 12).back(), other[5]);
}

TEST(RemoteCore, FaultsComeAtTheirShareAndTheSameForASeed) {
  const auto failures = [](const std::string& faults) {
    RemoteCore<float> core(RemoteSession(oracle(small_core + faults)));
    const Heads<float> heads(1);
    std::string found;
    for (int i = 0; i < 60; ++i) {
      try {
        static_cast<void>(ask(core, heads));
        found += '.';
      } catch (const OracleError&) {
        found += 'x';
      }
    }
    return found;
  };
  const std::string quarter = failures("--fault throw:0.25 --seed 4");
  const auto count = std::count(quarter.begin(), quarter.end(), 'x');
  EXPECT_TRUE(count > 4 && count < 30) << quarter;
  EXPECT_EQ(failures("--fault throw:0.25 --seed 4"), quarter);
  EXPECT_NE(failures("--fault throw:0.25 --seed 5"), quarter);
  EXPECT_EQ(failures("--fault throw:0"), std::string(60, '.'));
}

TEST(RemoteCore, FindsOutThatItsProcessWasKilledWhileAnotherLives) {
  RemoteCore<float> first(RemoteSession{oracle(small_core)}), second(RemoteSession{oracle(small_core)});
  const Heads<float> heads(2);
  const CoreAnswers before = ask(first, heads);
  ASSERT_EQ(::kill(first.session().pid().value(), SIGKILL), 0);
  EXPECT_PRED2(contains, message_of<OracleError>([&] { static_cast<void>(ask(first, heads)); }),
               "was ended by signal 9 (SIGKILL)");
  EXPECT_EQ(first.session().pid(), std::nullopt) << "its number may be another's";
  EXPECT_THROW(static_cast<void>(ask(first, heads)), OracleError);
  EXPECT_EQ(ask(second, heads), before);
}

TEST(RemoteCore, StartsAndRunsOnSeveralThreadsAtOnce) {
  const Heads<float> heads(13);
  const CoreAnswers expected = heads.expected(limits_of(small_core_graph, OracleKind::plain, 0.5));
  std::array<CoreAnswers, 4> found;
  std::vector<std::thread> threads;
  for (CoreAnswers& answers : found)
    threads.emplace_back([&answers, &heads] {
      RemoteCore<float> core(RemoteSession{oracle(small_core)});
      answers = ask(core, heads);
    });
  for (std::thread& thread : threads) thread.join();
  for (const CoreAnswers& answers : found) EXPECT_EQ(answers, expected);
  EXPECT_TRUE(no_child_is_left());
}

TEST(RemoteCore, RefusesAGraphThatIsNone) {
  const auto said = [](const std::string& arguments) {
    return message_of<LimitError>([&] { RemoteCore<float>(RemoteSession(oracle(arguments))); });
  };
  EXPECT_PRED2(contains, said("--graph transformer"), "the graph has 4 inputs and 1 outputs, expected 3 and 1");
  EXPECT_PRED2(contains, said("--scalar double"), "float64, 4 x 4 x 65 x 32, expected float32");
  Description description = describe(small_core_graph, TensorType::float32);
  const auto refused = [&](const std::function<void(Description&)>& change) {
    Description changed = description;
    change(changed);
    return message_of<LimitError>([&] { static_cast<void>(core_graph(changed, TensorType::float32)); });
  };
  EXPECT_EQ(core_graph(description, TensorType::float32), small_core_graph);
  EXPECT_PRED2(contains, refused([](Description& d) { d.inputs[1].name = "keys"; }),
               "no input 'k', it has: q, float32");
  EXPECT_PRED2(contains, refused([](Description& d) { d.inputs[1].dims[2] = 8; }),
               "expected k, float32, 3 x 2 x 9 x 20");
  EXPECT_PRED2(contains, refused([](Description& d) { d.inputs[0].dims[0] = 0; }),
               "any x 2 x 9 x 20, expected float32");
  EXPECT_PRED2(contains, refused([](Description& d) { d.outputs[0].dims[3] = 20; }), "expected 3 x 2 x 9 x 16");
  EXPECT_PRED2(contains, refused([](Description& d) { d.inputs[2].dims.pop_back(); }), "4 fixed dimensions");
}

// --- whole attention -------------------------------------------------------------------------------------------------

/// Runs a graph in this process, the last run first.
struct RunsHere {
  Description described;
  GraphRun graph;
  RemoteSessionOptions given = {};

  [[nodiscard]] const Description& description() const { return described; }
  [[nodiscard]] const RemoteSessionOptions& options() const { return given; }
  void run(std::size_t count, const std::function<std::vector<Tensor>(std::size_t)>& make,
           const std::function<void(std::size_t, std::vector<Tensor>)>& take) const {
    while (count-- > 0) take(count, *graph(make(count)));
  }
};

const std::vector<Mask> masks{Mask{MaskKind::full}, Mask::causal(), Mask::sliding_window(7)};

/// Attention of three heads over 40 tokens, through calls of an oracle.
template <class Scalar>
Matrix<Scalar> attention(const Mask& mask, AnyOracle<Scalar> any, TokenEncoding encoding = TokenEncoding::projected) {
  AttentionSpec spec;
  spec.heads = 3;
  spec.kv_heads = 3;
  spec.head_dim = 5;
  spec.value_dim = 4;
  spec.mask = mask;
  Random random(seed());
  const Matrix<Scalar> q = random.matrix<float>(40, 15).template cast<Scalar>();
  const Matrix<Scalar> k = random.matrix<float>(40, 15).template cast<Scalar>();
  const Matrix<Scalar> v = random.matrix<float>(40, 12).template cast<Scalar>();
  Matrix<Scalar> out(40, 12);
  GridAttention<AnyOracle<Scalar>> attend(any, {.encoding = encoding});
  attend(projected_input(spec, view(q), view(k), view(v)), span(out));
  return out;
}

template <class Scalar>
std::string flags_of(OracleKind kind) {
  return std::string("--oracle ") + name(kind) + " --scalar " + (sizeof(Scalar) == 4 ? "float" : "double");
}

template <class Scalar>
void expect_same_bits_of_core(OracleKind kind) {
  const OracleLimits limits = limits_of(small_core_graph, kind, 0.5);
  const AnyOracle<Scalar> here([&] { return core_oracle<Scalar>(limits, programs::EigenCore<Scalar>(limits)); });
  const AnyOracle<Scalar> there(
      [&] { return remote_core_oracle<Scalar>(oracle(small_core + flags_of<Scalar>(kind)), kind, 0.5); });
  for (const Mask& mask : masks)
    EXPECT_EQ(attention(mask, there), attention(mask, here)) << name(kind) << ", " << name(mask.kind);
}

TEST(RemoteCore, GivesAttentionTheBitsOfTheSameCoreInThisProcess) {
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal}) {
    expect_same_bits_of_core<float>(kind);
    expect_same_bits_of_core<double>(kind);
  }
}

const std::string small_transformer =
    "--graph transformer --rows 9 --heads 2 --key-cols 20 --value-cols 16 --width 90 --batch 3 --score-scale 0.5 ";
const TransformerGraph small_transformer_graph{3, 2, 9, 90, 20, 16};

template <class Scalar>
void expect_same_bits_of_transformer(OracleKind kind) {
  OracleLimits limits = limits_of(small_transformer_graph, kind, 0.5);
  const RunsHere runs{describe(small_transformer_graph, tensor_type<Scalar>),
                      graph_run(small_transformer_graph, SmallTransformer<Scalar>(limits))};
  const AnyOracle<Scalar> here([&] { return RemoteTransformer<Scalar, RunsHere>(runs, kind, 0.5); });
  const AnyOracle<Scalar> there([&] {
    return RemoteTransformer<Scalar>(RemoteSession(oracle(small_transformer + flags_of<Scalar>(kind))), kind, 0.5);
  });
  // Sums in the order of columns and keys have the same bits with and without columns of zeros.
  const AnyOracle<Scalar> own([&] { return SmallTransformer<Scalar>(limits, SumOrder::by_key); });
  const AnyOracle<Scalar> by_key([&] {
    return RemoteTransformer<Scalar>(RemoteSession(oracle(small_transformer + "--by-key " + flags_of<Scalar>(kind))),
                                     kind, 0.5);
  });
  for (const Mask& mask : masks) {
    EXPECT_EQ(attention(mask, there), attention(mask, here)) << name(kind) << ", " << name(mask.kind);
    EXPECT_EQ(attention(mask, by_key), attention(mask, own)) << name(kind) << ", " << name(mask.kind);
  }
}

TEST(RemoteTransformer, GivesAttentionTheBitsOfTheSameTransformerInThisProcess) {
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal}) {
    expect_same_bits_of_transformer<float>(kind);
    expect_same_bits_of_transformer<double>(kind);
  }
}

TEST(RemoteTransformer, TakesCallsOfSeveralWeightsHeadsThatOverlapAndALayerMlp) {
  const OracleLimits limits = limits_of(small_transformer_graph, OracleKind::causal, 0.5);
  Random random(seed());
  const auto projection = [&](Index begin, Index count, Index cols) {
    return Projection<float>::dense(begin, std::make_shared<const Matrix<float>>(random.matrix<float>(count, cols)));
  };
  std::vector<SmallWeights<float>> weights(3);
  for (SmallWeights<float>& w : weights) {
    w.width = 7;
    w.layers.emplace_back();
    w.layers.front().output_width = 6;
    w.layers.front().heads.push_back({projection(1, 5, 3), projection(0, 7, 3), projection(2, 4, 4), 0});
    w.layers.front().heads.push_back({projection(0, 2, 4), projection(3, 4, 4), projection(0, 7, 4), 2});
  }
  weights[1].layers.front().heads.pop_back();
  weights[2].layers.front().mlp = RowFunction([](Index, auto& rows) { rows.array() += 1; });
  std::vector<OracleCall<float>> calls;
  for (const std::size_t w : {0, 0, 0, 0, 1, 2, 0}) calls.push_back({&weights[w], random.matrix<float>(9, 7)});

  RemoteTransformer<float> there(RemoteSession(oracle(small_transformer + "--by-key --oracle causal")),
                                 OracleKind::causal, 0.5);
  SmallTransformer<float> here(limits, SumOrder::by_key);
  EXPECT_EQ(run_all(there, std::span<const OracleCall<float>>(calls)),
            run_all(here, std::span<const OracleCall<float>>(calls)));
  EXPECT_EQ(there.run(calls[5]), here.run(calls[5]));
  weights[0].layers.emplace_back(weights[0].layers.front());
  EXPECT_THROW(static_cast<void>(there.run(calls[0])), LimitError);
  EXPECT_THROW(RemoteTransformer<double>(RemoteSession(oracle(small_transformer)), OracleKind::plain, 1), LimitError);
}

}  // namespace
