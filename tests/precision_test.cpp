#include <gtest/gtest.h>

#include <limits>
#include <set>
#include <string>
#include <twoheads/model/random.hpp>
#include <twoheads/oracle/any_oracle.hpp>
#include <twoheads/oracle/rounding.hpp>
#include <twoheads/paper/paper_attention.hpp>
#include <twoheads/simulate.hpp>
#include <vector>

#include "support/contains.hpp"
#include "support/instances.hpp"
#include "support/low_precision.hpp"
#include "support/message_of.hpp"
#include "support/naive.hpp"

namespace {

using namespace twoheads;
using namespace low_precision;

// --- half and bfloat16 in and out, float scores ----------------------------------------------------------------------

TEST(HalfPrecision, StaysWithin2e3AtAnyLogitSizeWithGibbs) {
  for (const double logit : {1.0, 10.0, 100.0, 1000.0, 30000.0}) {
    const Problem p = problem(200, logit, Precision::half);
    for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
      for (const bool fixed : {false, true})
        for (const Mask& mask : masks) {
          const Matrix<float> found = simulated(p, mask, limits_of(kind, Precision::half, fixed), Anchor::gibbs);
          EXPECT_LE(row_error(p, mask, found), 2e-3)
              << "logits to " << logit << ", " << name(kind) << (fixed ? ", fixed, " : ", ") << name(mask.kind);
        }
  }
}

TEST(HalfPrecision, StaysWithin2e3WithAdaptiveAnchorsToo) {
  for (const double logit : {1.0, 30.0, 1000.0}) {
    const Problem p = problem(200, logit, Precision::half);
    for (const Mask& mask : masks)
      EXPECT_LE(
          row_error(p, mask, simulated(p, mask, limits_of(OracleKind::causal, Precision::half), Anchor::adaptive)),
          2e-3)
          << "logits to " << logit << ", " << name(mask.kind);
  }
}

TEST(HalfPrecision, StaysWithin2e3OfSmallValues) {
  Problem p = problem(60, 1.0, Precision::half);
  for (const float size : {1e-2F, 1e-3F}) {
    Problem small = p;
    small.v *= size;
    round_in_place(small.v, Precision::half);
    for (const bool fixed : {false, true})
      for (const Mask& mask : masks) {
        const OracleLimits limits = limits_of(OracleKind::plain, Precision::half, fixed);
        EXPECT_LE(row_error(small, mask, simulated(small, mask, limits, Anchor::adaptive)), 2e-3)
            << "values of " << size << (fixed ? ", fixed, " : ", ") << name(mask.kind);
      }
  }
}

TEST(HalfPrecision, RefusesAScaleThatWouldRoundQueriesTwice) {
  const Problem p = problem(100, 100.0, Precision::half);
  OracleLimits limits = limits_of(OracleKind::plain, Precision::half);
  for (const double scale : {0.25, 1.0, 4.0}) {
    limits.score_scale = scale;
    EXPECT_LE(row_error(p, masks[0], simulated(p, masks[0], limits, Anchor::gibbs)), 2e-3) << scale;
  }
  limits.score_scale = 0.3;
  const std::string reason =
      message_of<LimitError>([&] { static_cast<void>(simulated(p, masks[0], limits, Anchor::gibbs)); });
  EXPECT_TRUE(contains(reason, "power of two")) << reason;
}

TEST(BrainFloat, StaysWithinFourRoundOffs) {
  for (const double logit : {1.0, 10.0, 1000.0}) {
    const Problem p = problem(200, logit, Precision::bfloat16);
    for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
      for (const Mask& mask : masks)
        EXPECT_LE(row_error(p, mask, simulated(p, mask, limits_of(kind, Precision::bfloat16), Anchor::gibbs)),
                  4 * facts_of(Precision::bfloat16).unit_roundoff)
            << "logits to " << logit << ", " << name(kind) << ", " << name(mask.kind);
  }
}

TEST(HalfPrecision, TheMeanKeyAnchorNamesTheRowThatLeavesItsRange) {
  const Problem p = problem(200, 100.0, Precision::half);
  const auto run = [&] {
    static_cast<void>(simulated(p, masks[0], limits_of(OracleKind::plain, Precision::half), Anchor::mean_key));
  };
  EXPECT_THROW(run(), AnchorError) << "half holds shares down to 6e-5: logits 10 nats apart leave it";
}

TEST(HalfPrecision, ThePapersMethodGivesNaN) {
  const Problem p = problem(200, 100.0, Precision::half);
  RoundingTransformer<float> oracle(limits_of(OracleKind::plain, Precision::half));
  PaperAttention<RoundingTransformer<float>> attend(oracle, {TokenEncoding::projected});
  Matrix<float> out(p.q.rows(), head_dim);
  const AttentionSpec spec = spec_of(masks[0]);
  attend(projected_input(spec, view(p.q), view(p.k), view(p.v)), span(out));
  Index bad = 0;
  for (Index row = 0; row < out.rows(); ++row) bad += out.row(row).allFinite() ? 0 : 1;
  EXPECT_GT(bad, 100) << "r rounds to 1, and r / (1 - r) is infinite";
}

// --- what would be garbage is refused, with the reason ---------------------------------------------------------------

TEST(Precisions, HalfScoresAreRefusedUnlessScoresAreSmall) {
  OracleLimits limits = limits_of(OracleKind::plain, Precision::half);
  limits.precision.scores = Precision::half;
  PlanRequest request;
  request.tokens = 100;
  request.oracle = limits;
  const std::string reason = message_of<LimitError>([&] { static_cast<void>(Plan(request)); });
  EXPECT_TRUE(contains(reason, "rounds scores to half")) << reason;
  EXPECT_TRUE(contains(reason, "largest_score")) << reason;
  request.oracle.largest_score = 16;
  EXPECT_NO_THROW(static_cast<void>(Plan(request)));
  request.oracle.largest_score = 30;
  EXPECT_THROW(static_cast<void>(Plan(request)), LimitError);
}

TEST(Precisions, EightBitWeightsAreRefused) {
  OracleLimits limits = limits_of(OracleKind::plain, Precision::half);
  limits.precision.weights = Precision::int8;
  const std::string reason = message_of<LimitError>([&] { limits.require_valid(); });
  EXPECT_TRUE(contains(reason, "int8")) << reason;
  EXPECT_TRUE(contains(reason, "1/255")) << reason;
}

TEST(Precisions, EightBitWeightsWouldBeWrongWhateverTheAnchor) {
  // What the refusal says, seen: an oracle that rounds so and hides it.
  const Problem p = problem(200, 10.0, Precision::half);
  OracleLimits honest = limits_of(OracleKind::plain, Precision::half);
  honest.precision.weights = Precision::int8;
  const auto found = [&]() -> double {
    struct Liar {
      using Scalar = float;
      explicit Liar(const OracleLimits& l) : inner(l) {}
      [[nodiscard]] OracleLimits limits() const {
        OracleLimits told = inner.limits();
        told.precision.weights = Precision::half;
        return told;
      }
      [[nodiscard]] Matrix<float> run(const OracleCall<float>& call) { return inner.run(call); }
      RoundingTransformer<float> inner;
    };
    AnyOracle<float> oracle([honest] { return Liar(honest); });
    GridAttention<AnyOracle<float>> grid(oracle, {.anchor = Anchor::gibbs});
    Matrix<float> out(p.q.rows(), head_dim);
    const AttentionSpec spec = spec_of(masks[0]);
    try {
      grid(projected_input(spec, view(p.q), view(p.k), view(p.v)), span(out));
    } catch (const Error&) {
      return std::numeric_limits<double>::infinity();  // shares that sum to no 1, or underflow
    }
    return row_error(p, masks[0], out);
  };
  EXPECT_GT(found(), 0.02);
}

// --- scores that end -------------------------------------------------------------------------------------------------

TEST(LargestScore, WithinItScoresMayBeClampedAndNothingChanges) {
  const Problem p = problem(200, 10.0, Precision::float32);
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
    for (const bool fixed : {false, true})
      for (const Mask& mask : masks) {
        OracleLimits limits = limits_of(kind, Precision::float32, fixed);
        limits.precision = {};
        // Norms bound scores by |q| |k|, which random vectors of 16 columns exceed their products by.
        limits.largest_score = 80;
        EXPECT_LE(row_error(p, mask, simulated(p, mask, limits, Anchor::gibbs)), 5e-6)
            << name(kind) << (fixed ? ", fixed, " : ", ") << name(mask.kind);
      }
}

TEST(LargestScore, BeyondItTheTileIsNamed) {
  const Problem p = problem(200, 50.0, Precision::float32);
  OracleLimits limits = limits_of(OracleKind::plain, Precision::float32);
  limits.precision = {};
  limits.largest_score = 40;
  const std::string reason =
      message_of<LimitError>([&] { static_cast<void>(simulated(p, masks[0], limits, Anchor::mean_key)); });
  EXPECT_TRUE(contains(reason, "head 0")) << reason;
  EXPECT_TRUE(contains(reason, "end at 40")) << reason;
}

TEST(LargestScore, IdentityHeadsNeedMoreThanItHas) {
  OracleLimits limits;
  limits.rows = 17;
  limits.heads = 3;
  limits.layers = 2;
  limits.largest_score = 500;
  const Problem p = problem(60, 1.0, Precision::float32);
  SmallTransformer<float> oracle(limits);
  SimulationOptions options;
  options.packing = Packing::identity;
  GridAttention<SmallTransformer<float>> grid(oracle, options);
  Matrix<float> out(p.q.rows(), head_dim);
  const AttentionSpec spec = spec_of(masks[0]);
  const auto run = [&] { grid(projected_input(spec, view(p.q), view(p.k), view(p.v)), span(out)); };
  EXPECT_TRUE(contains(message_of<LimitError>(run), "identity heads"));
}

TEST(KeyColumns, OfRawTokensAreThoseOfTheProjectedHead) {
  const ModelSpec spec = paper_layer(1, 32, 2, Mask{MaskKind::full}, MlpKind::none, 0);
  const Model<float> model = random_model<float>(spec, 1);
  OracleLimits limits;
  limits.rows = 9;
  limits.key_cols = 17;  // 16 of the head, one for the anchor
  SmallTransformer<float> oracle(limits);
  SimulationOptions options;
  options.encoding = TokenEncoding::raw;
  EXPECT_NO_THROW(static_cast<void>(simulate(model, Random(2).matrix<float>(30, 32), oracle, options)));
  limits.key_cols = 16;
  SmallTransformer<float> narrow(limits);
  EXPECT_THROW(static_cast<void>(simulate(model, Random(2).matrix<float>(30, 32), narrow, options)), LimitError);
}

// --- row counts ------------------------------------------------------------------------------------------------------

TEST(RowCounts, CallsHaveTheLeastCountThatHoldsThem) {
  const Problem p = problem(150, 5.0, Precision::float32);
  std::set<Index> seen;
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
    for (const Mask& mask : masks) {
      OracleLimits limits = limits_of(kind, Precision::float32);
      limits.precision = {};
      limits.row_counts = {24, 40, 65};
      struct Noting {
        using Scalar = float;
        [[nodiscard]] OracleLimits limits() const { return inner.limits(); }
        [[nodiscard]] Matrix<float> run(const OracleCall<float>& call) {
          seen->insert(call.rows.rows());
          return inner.run(call);
        }
        SmallTransformer<float> inner;
        std::set<Index>* seen;
      };
      AnyOracle<float> oracle([&] { return Noting{SmallTransformer<float>(limits), &seen}; });
      GridAttention<AnyOracle<float>> grid(oracle);
      Matrix<float> out(p.q.rows(), head_dim);
      const AttentionSpec spec = spec_of(mask);
      grid(projected_input(spec, view(p.q), view(p.k), view(p.v)), span(out));
      EXPECT_LE(row_error(p, mask, out), 4e-6) << name(kind) << ", " << name(mask.kind);
    }
  EXPECT_EQ(seen, (std::set<Index>{24, 40, 65}));
}

TEST(RowCounts, MustIncreaseAndEndWithTheRows) {
  OracleLimits limits = limits_of(OracleKind::plain, Precision::float32);
  for (const std::vector<Index>& counts : {std::vector<Index>{64}, {0, 65}, {30, 30, 65}, {65, 30}}) {
    limits.row_counts = counts;
    EXPECT_THROW(limits.require_valid(), LimitError);
  }
  limits.row_counts = {2, 65};
  EXPECT_NO_THROW(limits.require_valid());
  limits.fixed_rows = true;
  EXPECT_THROW(limits.require_valid(), LimitError);
}

// --- numbers and checksums -------------------------------------------------------------------------------------------

TEST(Checksums, ChangeNothing) {
  for (const Precision precision : {Precision::float32, Precision::half, Precision::bfloat16}) {
    const Problem p = problem(150, 20.0, precision);
    for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
      for (const Mask& mask : masks) {
        const OracleLimits limits = limits_of(kind, precision);
        const double plain = row_error(p, mask, simulated(p, mask, limits, Anchor::gibbs));
        const double checked = row_error(p, mask, simulated(p, mask, limits, Anchor::gibbs, true));
        EXPECT_LE(checked, 1.05 * plain + 1e-7) << name(precision) << ", " << name(kind) << ", " << name(mask.kind);
      }
  }
}

/// Answers each call with the numbers of the call before it, or with one number changed.
struct Wrong {
  using Scalar = float;
  [[nodiscard]] OracleLimits limits() const { return inner.limits(); }
  [[nodiscard]] Matrix<float> run(const OracleCall<float>& call) {
    Matrix<float> own = inner.run(call);
    ++calls;
    if (damages) {
      if (calls == 3) own(own.rows() / 2, 1) += 0.3F;
      return own;
    }
    if (calls % 3 == 0 && last.rows() == own.rows() && last.cols() == own.cols()) return last;
    last = own;
    return own;
  }
  SmallTransformer<float> inner;
  bool damages;
  Matrix<float> last = {};
  int calls = 0;
};

TEST(Checksums, FindAnotherCallsAnswerAndDamage) {
  const Problem p = problem(300, 5.0, Precision::float32);
  for (const bool damages : {false, true}) {
    AnyOracle<float> oracle([damages] {
      OracleLimits limits;
      limits.rows = 65;
      return Wrong{SmallTransformer<float>(limits), damages};
    });
    const auto run = [&](bool checksums) {
      SimulationOptions options;
      options.checksums = checksums;
      GridAttention<AnyOracle<float>> grid(oracle, options);
      Matrix<float> out(p.q.rows(), head_dim);
      const AttentionSpec spec = spec_of(masks[0]);
      grid(projected_input(spec, view(p.q), view(p.k), view(p.v)), span(out));
    };
    const std::string fault = message_of<OracleError>([&] { run(true); });
    EXPECT_TRUE(contains(fault, damages ? "the answer is damaged" : "the answer to another call")) << fault;
    EXPECT_TRUE(contains(fault, "layer 0, head 0")) << fault;
    EXPECT_NO_THROW(run(false)) << "without them it would go unseen";
  }
}

TEST(Checksums, NeedProjectedTokens) {
  const ModelSpec spec = paper_layer(1, 8, 1, Mask{MaskKind::full}, MlpKind::none, 0);
  const Model<float> model = random_model<float>(spec, 1);
  OracleLimits limits;
  limits.rows = 9;
  SmallTransformer<float> oracle(limits);
  SimulationOptions options;
  options.encoding = TokenEncoding::raw;
  options.checksums = true;
  EXPECT_THROW(static_cast<void>(simulate(model, Random(2).matrix<float>(30, 8), oracle, options)), SpecError);
}

}  // namespace
