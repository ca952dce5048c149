// Laws of the whole path: calls as planned, the same bits for any batch and order of answers, faults named.

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <twoheads/base/digest.hpp>
#include <twoheads/model/random.hpp>
#include <twoheads/oracle/wrappers.hpp>

#include "support/instances.hpp"
#include "support/message_of.hpp"

namespace {

using namespace twoheads;

/// A call as some test wants to see or spoil it.
using Spoil = std::function<void(Index call, Matrix<float>& answer)>;

/// The Eigen small transformer handed to the simulation as a black box, with a batch answered in an order of the
/// test's choice and answers spoilt at will. One type for all tests: it is compiled once.
class TestOracle {
 public:
  using Scalar = float;

  explicit TestOracle(const OracleLimits& limits, unsigned shuffle_seed = 0) : inner_(limits), shuffle_(shuffle_seed) {}

  [[nodiscard]] OracleLimits limits() const { return inner_.limits(); }

  [[nodiscard]] Matrix<float> run(const OracleCall<float>& call) {
    Matrix<float> answer = inner_.run(call);
    if (spoil) spoil(calls, answer);
    ++calls;
    longest = std::max<Index>(longest, call.rows.rows());
    shortest = std::min<Index>(shortest, call.rows.rows());
    return answer;
  }

  void run_batch(std::span<const OracleCall<float>> batch, const Answer<float>& answer) {
    std::vector<std::size_t> order(batch.size());
    std::iota(order.begin(), order.end(), 0U);
    if (shuffle_ != 0) std::shuffle(order.begin(), order.end(), std::mt19937(shuffle_ + static_cast<unsigned>(calls)));
    largest_batch = std::max(largest_batch, batch.size());
    for (const std::size_t index : order) answer(index, run(batch[index]));
  }

  Spoil spoil;
  Index calls = 0;
  Index longest = 0;
  Index shortest = std::numeric_limits<Index>::max();
  std::size_t largest_batch = 0;

 private:
  SmallTransformer<float> inner_;
  unsigned shuffle_;
};

static_assert(Oracle<TestOracle> && HasRunBatch<TestOracle>);

struct Case {
  MaskKind mask = MaskKind::causal;
  OracleKind kind = OracleKind::causal;
  Index tokens = 100;
  Index rows = 17;
  Index heads = 3;
  Anchor anchor = Anchor::adaptive;
};

Model<float> model_of(const Case& c, double logits = 1.0) {
  Model<float> model =
      random_model<float>(paper_layer(2, 4 * c.heads, c.heads, Mask{c.mask}, MlpKind::relu, 8), /*seed=*/7);
  for (LayerWeights<float>& layer : model.layers) layer.attention.wq *= static_cast<float>(logits);
  return model;
}

Matrix<float> tokens_of(const Case& c) { return Random(11).matrix<float>(c.tokens, 4 * c.heads); }

OracleLimits limits_of(const Case& c) {
  OracleLimits limits;
  limits.kind = c.kind;
  limits.rows = c.rows;
  return limits;
}

const std::vector<Case> cases{
    {MaskKind::full, OracleKind::plain},        {MaskKind::full, OracleKind::causal},
    {MaskKind::causal, OracleKind::causal},     {MaskKind::causal, OracleKind::causal, 65, 64},
    {MaskKind::full, OracleKind::plain, 50, 2}, {MaskKind::causal, OracleKind::causal, 16, 17},
    {MaskKind::causal, OracleKind::plain}};

TEST(SimulationBits, DoNotDependOnBatchOrOrderOfAnswersAndRepeat) {
  for (const Case& c : cases) {
    // Logits large enough that the adaptive anchor repeats some tiles and not others.
    const Model<float> model = model_of(c, 30.0);
    const Matrix<float> x = tokens_of(c);
    for (const Index oracle_heads : {1, 2}) {
      std::string digest_of_one;
      Index calls_of_one = 0;
      for (const auto& [batch, shuffle] :
           std::vector<std::pair<Index, unsigned>>{{1, 0}, {1, 0}, {4, 0}, {4, 5}, {7, 9}, {1000, 3}}) {
        OracleLimits limits = limits_of(c);
        limits.heads = oracle_heads;
        limits.batch = batch;
        TestOracle oracle(limits, shuffle);
        const Simulation<float> simulation = simulate(model, x, oracle);
        const std::string bits = digest(simulation.rows);
        if (digest_of_one.empty()) {
          digest_of_one = bits;
          calls_of_one = oracle.calls;
        }
        EXPECT_EQ(bits, digest_of_one) << "batch " << batch << ", shuffle " << shuffle << ", tokens " << c.tokens;
        EXPECT_EQ(oracle.calls, calls_of_one)
            << "batch " << batch << ", shuffle " << shuffle << ", tokens " << c.tokens;
        EXPECT_EQ(simulation.counts.calls, oracle.calls);
        EXPECT_LE(oracle.largest_batch, static_cast<std::size_t>(batch));
        if (batch == 4 && c.tokens == 100) {
          EXPECT_EQ(oracle.largest_batch, 4U);
        }
      }
    }
  }
}

TEST(SimulationCalls, AreThePlannedOnesAndNeverLongerThanTheLimit) {
  for (const Case& c : cases) {
    for (const Anchor anchor : {Anchor::zero, Anchor::mean_key, Anchor::gibbs}) {
      for (const Index oracle_heads : {1, 2, 5}) {
        OracleLimits limits = limits_of(c);
        limits.heads = oracle_heads;
        TestOracle oracle(limits);
        const Simulation<float> simulation = simulate(model_of(c), tokens_of(c), oracle, {anchor});
        const Plan plan({Mask{c.mask}, c.tokens, c.tokens, c.heads, 2, limits, anchor});
        EXPECT_EQ(oracle.calls, plan.calls());
        EXPECT_EQ(simulation.counts.calls, plan.calls());
        EXPECT_EQ(simulation.counts.rounds, plan.rounds());
        EXPECT_EQ(simulation.counts.jobs, plan.jobs());
        EXPECT_EQ(simulation.counts.repeats, 0);
        EXPECT_LE(oracle.longest, c.rows);
      }
    }
  }
}

TEST(SimulationOfShortInputs, PassesThroughInOneCallAHeadWithoutASyntheticRow) {
  const Case c{MaskKind::causal, OracleKind::causal, 17, 17};
  TestOracle oracle(limits_of(c));
  const Simulation<float> simulation = simulate(model_of(c), tokens_of(c), oracle, {Anchor::gibbs});
  EXPECT_EQ(simulation.counts.calls, 2 * c.heads);
  EXPECT_EQ(oracle.longest, 17);
}

TEST(FixedRows, EveryCallHasExactlySoManyAndPaddingChangesRoundingOnly) {
  for (const Case& c : cases) {
    for (const Anchor anchor : {Anchor::zero, Anchor::mean_key, Anchor::gibbs, Anchor::adaptive}) {
      OracleLimits limits = limits_of(c);
      TestOracle free(limits);
      const Matrix<float> expected = simulate(model_of(c), tokens_of(c), free, {anchor}).rows;
      limits.fixed_rows = true;
      TestOracle fixed(limits);
      const Matrix<float> found = simulate(model_of(c), tokens_of(c), fixed, {anchor}).rows;
      EXPECT_EQ(fixed.longest, limits.rows);
      EXPECT_EQ(fixed.shortest, limits.rows);
      if (c.tokens != 16 && c.tokens != 65 && c.rows > 2) {
        EXPECT_LT(free.shortest, limits.rows) << "no call was padded";
      }
      // Entries are of size 1 or less: a few roundings each.
      EXPECT_LE((found - expected).cwiseAbs().maxCoeff<Eigen::PropagateNaN>(), 5e-6F)
          << name(anchor) << ", tokens " << c.tokens;
    }
  }
}

TEST(SimulationCounts, RepeatsOnlyUnsafeTiles) {
  const Case c;
  TestOracle calm(limits_of(c));
  EXPECT_EQ(simulate(model_of(c), tokens_of(c), calm).counts.repeats, 0);
  TestOracle wild(limits_of(c));
  const SimulationCounts counts = simulate(model_of(c, 30.0), tokens_of(c), wild).counts;
  EXPECT_GT(counts.repeats, 0);
  EXPECT_LT(counts.repeats, counts.calls - counts.repeats);
  EXPECT_EQ(counts.calls, wild.calls);
}

void expect_words(const std::string& message, const std::vector<std::string>& words) {
  for (const std::string& word : words)
    EXPECT_NE(message.find(word), std::string::npos) << message << "\nlacks: " << word;
}

TEST(OracleFaults, AreNamedWithLayerHeadTileAndRow) {
  const Case c;
  // Call 0 is the first tile of head 0 of layer 0: query block 0 is a lower triangle.
  const std::vector<std::string> place{"layer 0", "head 0", "lower triangle", "row "};
  const auto run_spoilt = [&](const Spoil& spoil) {
    return message_of<OracleError>([&] {
      TestOracle oracle(limits_of(c));
      oracle.spoil = spoil;
      static_cast<void>(simulate(model_of(c), tokens_of(c), oracle));
    });
  };
  expect_words(run_spoilt([](Index, Matrix<float>& a) { a(3, 0) = std::numeric_limits<float>::quiet_NaN(); }), place);
  expect_words(run_spoilt([](Index, Matrix<float>& a) { a(3, 1) = std::numeric_limits<float>::infinity(); }), place);
  expect_words(run_spoilt([](Index, Matrix<float>& a) { a.conservativeResize(a.rows() - 1, a.cols()); }),
               {"layer 0", "head 0", "17 x"});
  expect_words(run_spoilt([](Index, Matrix<float>& a) { a.conservativeResize(a.rows(), a.cols() + 1); }),
               {"layer 0", "head 0", "17 x"});
  expect_words(run_spoilt([](Index, Matrix<float>& a) { a *= -1.0F; }), place);
  expect_words(run_spoilt([](Index, Matrix<float>& a) { a *= 1.5F; }), place);
  // The last call belongs to the last layer and head.
  const Index last = Plan({Mask{c.mask}, c.tokens, 0, c.heads, 2, limits_of(c)}).calls() - 1;
  expect_words(run_spoilt([&](Index call, Matrix<float>& a) {
                 if (call == last) a(2, 0) = std::numeric_limits<float>::quiet_NaN();
               }),
               {"layer 1", "head 2", "lower triangle", "row 97"});
}

TEST(OracleFaults, InRowsThatCarryNoQueryAreIgnored) {
  const Case c;
  TestOracle clean(limits_of(c));
  const std::string expected = digest(simulate(model_of(c), tokens_of(c), clean).rows);
  TestOracle oracle(limits_of(c));
  // Row 0 of every call on a causal oracle is the synthetic one.
  oracle.spoil = [](Index, Matrix<float>& a) { a.row(0).setConstant(std::numeric_limits<float>::quiet_NaN()); };
  EXPECT_EQ(digest(simulate(model_of(c), tokens_of(c), oracle).rows), expected);
}

TEST(UnsafeAnchors, AreErrorsThatNameTheRowAndSuggestAdaptive) {
  const Case c;
  for (const Anchor anchor : {Anchor::zero, Anchor::mean_key}) {
    const std::string message = message_of<AnchorError>([&] {
      TestOracle oracle(limits_of(c));
      static_cast<void>(simulate(model_of(c, 1000.0), tokens_of(c), oracle, {anchor}));
    });
    expect_words(message, {"layer 0", "head ", "row ", "underflows", name(anchor), "adaptive"});
  }
}

TEST(UnsafeAnchors, AreErrorsWhereTheValuesWouldLoseTheirDigits) {
  // Anchor zero and logits near -84: r is a normal float, r times a small value is not.
  ModelSpec spec = paper_layer(1, 2, 1, Mask{MaskKind::full}, MlpKind::none, 0);
  Model<float> model = random_model<float>(spec, 1);
  model.layers[0].attention.wq << 84.0F, 0.0F, 0.0F, 0.0F;
  model.layers[0].attention.wk << -1.0F, 0.0F, 0.0F, 0.0F;
  model.layers[0].attention.wv << 0.0F, 0.0F, 0.0F, 1e-8F;
  const Matrix<float> x = Matrix<float>::Ones(20, 2);
  OracleLimits limits;
  limits.rows = 9;
  TestOracle oracle(limits);
  expect_words(message_of<AnchorError>([&] { static_cast<void>(simulate(model, x, oracle, {Anchor::zero})); }),
               {"real keys", "adaptive"});
  const Matrix<float> found = simulate(model, x, oracle).rows;
  EXPECT_NEAR(found(7, 1), 1e-8F, 1e-14F);
}

TEST(AnchorSearches, EndForCallsOfSeveralHeadsAtLogitsBeyondAFloatsResolution) {
  // A call whose jobs left it as they were done had fewer rows, other roundings, and no end.
  Case c{MaskKind::full, OracleKind::causal, 46, 9, 3};
  OracleLimits limits = limits_of(c);
  limits.heads = 2;
  for (const double logits : {1e9, 1e11, 1e15})
    for (const Anchor anchor : {Anchor::gibbs, Anchor::adaptive}) {
      TestOracle oracle(limits);
      const Model<float> model = model_of(c, logits);
      const Matrix<float> found = simulate(model, tokens_of(c), oracle, {anchor}).rows;
      const Matrix<float> direct = forward(model, tokens_of(c), DirectAttention<float>());
      EXPECT_LE((found - direct).cwiseAbs().maxCoeff<Eigen::PropagateNaN>(), 1e-5F) << logits << " " << name(anchor);
    }
}

TEST(Answers, BeyondTheScalarAreOracleErrors) {
  const Case c;
  TestOracle oracle(limits_of(c));
  oracle.spoil = [](Index, Matrix<float>& a) { a.leftCols(1).setConstant(3e38F); };
  expect_words(message_of<OracleError>([&] { static_cast<void>(simulate(model_of(c), tokens_of(c), oracle)); }),
               {"layer 0", "head 0", "row "});
}

TEST(AttentionInputs, OfWrongShapesAreRefused) {
  const Case c;
  const Model<float> model = model_of(c);
  const Matrix<float> x = tokens_of(c);
  const Matrix<float> narrow = x.leftCols(7);
  Matrix<float> out(x.rows(), x.cols());
  TestOracle oracle(limits_of(c));
  GridAttention<TestOracle> grid(oracle);
  const AttentionInput<float> input{model.spec.attention,     0, view(x), view(narrow), view(x), view(x), view(x),
                                    model.layers[0].attention};
  expect_words(message_of<ShapeError>([&] { grid(input, span(out)); }), {"layer 0: k", "100 x 7", "100 x 12"});
  expect_words(message_of<ShapeError>([&] { DirectAttention<float>()(input, span(out)); }), {"layer 0: k", "100 x 7"});
  EXPECT_EQ(oracle.calls, 0);
}

TEST(BadInput, IsNamedBeforeTheFirstCall) {
  const Case c;
  TestOracle oracle(limits_of(c));
  Matrix<float> x = tokens_of(c);
  // Slice 1 of row 42 feeds head 1 alone.
  x(42, 5) = std::numeric_limits<float>::quiet_NaN();
  expect_words(message_of<InputError>([&] { static_cast<void>(simulate(model_of(c), x, oracle)); }),
               {"layer 0", "head 1", "row 42", "query"});
  Model<float> model = model_of(c);
  model.layers[1].attention.wk(2, 3) = std::numeric_limits<float>::infinity();
  expect_words(message_of<InputError>([&] { static_cast<void>(simulate(model, tokens_of(c), oracle)); }),
               {"layer 1", "wk", "row 2"});
  model = model_of(c);
  model.layers[1].attention.wv.resize(3, 3);
  expect_words(message_of<ShapeError>([&] { static_cast<void>(simulate(model, tokens_of(c), oracle)); }),
               {"layer 1", "wv", "3 x 3", "4 x 12"});
  expect_words(message_of<ShapeError>([&] { static_cast<void>(simulate(model_of(c), Matrix<float>(10, 5), oracle)); }),
               {"10 x 5", "10 x 12"});
  expect_words(message_of<SpecError>([&] { static_cast<void>(simulate(model_of(c), Matrix<float>(0, 12), oracle)); }),
               {"0", "1 or more"});
  EXPECT_EQ(oracle.calls, 0);
}

TEST(OracleLimitsThatDoNotDo, AreRefusedWithWhatWouldDo) {
  const Case c;
  OracleLimits narrow = limits_of(c);
  narrow.width = 10;
  TestOracle oracle(narrow);
  expect_words(message_of<LimitError>([&] { static_cast<void>(simulate(model_of(c), tokens_of(c), oracle)); }),
               {"20 columns", "has 10"});
  EXPECT_EQ(oracle.calls, 0);
  OracleLimits one = limits_of(c);
  one.rows = 1;
  expect_words(message_of<LimitError>([&] { const TestOracle refused(one); }), {"rows is 1", "2 or more"});
}

TEST(RawTokens, AreRefusedForRotaryPositions) {
  const Case c;
  Model<float> model = model_of(c);
  model.spec.attention.rope = RopeSpec{};
  TestOracle oracle(limits_of(c));
  expect_words(message_of<SpecError>([&] {
                 static_cast<void>(simulate(model, tokens_of(c), oracle, {Anchor::adaptive, TokenEncoding::raw}));
               }),
               {"rotary", "projected"});
}

TEST(CountingAndCheckingOracles, SeeTheSameCallsAndChangeNothing) {
  const Case c;
  SmallTransformer<float> bare(limits_of(c));
  const std::string expected = digest(simulate(model_of(c), tokens_of(c), bare).rows);
  TestOracle inner(limits_of(c));
  CheckingOracle<TestOracle> checked(inner);
  CountingOracle<CheckingOracle<TestOracle>> counted(checked);
  const Simulation<float> simulation = simulate(model_of(c), tokens_of(c), counted);
  EXPECT_EQ(digest(simulation.rows), expected);
  EXPECT_EQ(counted.calls(), simulation.counts.calls);
  EXPECT_EQ(counted.longest(), inner.longest);
}

}  // namespace
