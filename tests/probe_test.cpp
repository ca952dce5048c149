#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <twoheads/model/random.hpp>
#include <twoheads/oracle/any_oracle.hpp>
#include <twoheads/oracle/core.hpp>
#include <twoheads/oracle/probe.hpp>
#include <twoheads/oracle/rounding.hpp>
#include <twoheads/oracle/small_transformer.hpp>

#include "support/instances.hpp"
#include "support/probed_oracles.hpp"
#include "support/seed.hpp"

namespace {

using namespace twoheads;
using namespace probed_oracles;

// --- honest oracles --------------------------------------------------------------------------------------------------

class HonestOracle : public testing::TestWithParam<OracleKind> {
 protected:
  OracleLimits limits = rows_of(GetParam());
};

TEST_P(HonestOracle, OfFloatAndOfDoubleIsFoundSo) {
  AnyOracle<float> single = eigen_oracle<float>(limits);
  EXPECT_EQ(probe(single).weights.precision, Precision::float32);
  EXPECT_EQ(probe(single).tokens.unit_roundoff, 0x1p-24);
  expect_honest(single);
  AnyOracle<double> twice = eigen_oracle<double>(limits);
  const ProbeReport report = probe(twice);
  for (const MeasuredRounding& found : {report.tokens, report.scores, report.weights, report.answers})
    EXPECT_EQ(found.precision, Precision::float64);
  EXPECT_EQ(report.answers.unit_roundoff, 0x1p-53);
  expect_honest(twice);
}

TEST_P(HonestOracle, OfFixedRowsOrOfRowCountsIsAskedOnlyForThose) {
  limits.fixed_rows = true;
  expect_honest(eigen_oracle<float>(limits));
  limits.fixed_rows = false;
  limits.row_counts = {16, 32, 48, 65};
  expect_honest(eigen_oracle<float>(limits));
  AnyOracle<float> oracle = eigen_oracle<float>(limits);
  EXPECT_EQ(probe(oracle).row_counts, limits.row_counts);
}

TEST_P(HonestOracle, WithAResidualStreamHeadsLayersAndAnotherScale) {
  limits.residual = true;
  expect_honest(eigen_oracle<double>(limits));
  limits.heads = 3;
  limits.layers = 4;
  limits.score_scale = 1 / std::sqrt(24.0);
  expect_honest(eigen_oracle<double>(limits));
  limits.residual = false;
  expect_honest(eigen_oracle<float>(limits));
  limits.score_scale = 37.5;
  expect_honest(eigen_oracle<float>(limits));
}

TEST_P(HonestOracle, OfLowPrecisionIsMeasured) {
  for (const Precision low : {Precision::half, Precision::bfloat16}) {
    limits.precision = mixed_precision(low);
    expect_honest(rounding_oracle<float>(limits));
    expect_honest(rounding_oracle<double>(limits));
    AnyOracle<float> oracle = rounding_oracle<float>(limits);
    const ProbeReport report = probe(oracle);
    EXPECT_EQ(report.tokens.unit_roundoff, facts_of(low).unit_roundoff);
    EXPECT_EQ(report.answers.unit_roundoff, facts_of(low).unit_roundoff);
    EXPECT_EQ(report.tokens.precision, low);
    EXPECT_EQ(report.weights.precision, low);
    EXPECT_EQ(report.answers.precision, low);
    EXPECT_EQ(report.scores.precision, Precision::float32);
  }
}

TEST_P(HonestOracle, ThatIsMorePreciseThanDeclaredIsNoLiar) {
  limits.precision = mixed_precision(Precision::half);
  expect_honest(eigen_oracle<float>(limits));
}

TEST_P(HonestOracle, ThatClampsScoresWhereItSaysSo) {
  for (const double largest : {6.0, 20.0, 1000.0}) {
    limits.largest_score = largest;
    expect_honest(rounding_oracle<float>(limits));
    expect_honest(rounding_oracle<double>(limits));
  }
  limits.largest_score = 15;
  limits.precision = {Precision::half, Precision::half, Precision::half, Precision::half};
  expect_honest(rounding_oracle<float>(limits));
}

INSTANTIATE_TEST_SUITE_P(Kinds, HonestOracle, testing::Values(OracleKind::plain, OracleKind::causal),
                         [](const auto& kind) { return name(kind.param); });

// --- attention with something wrong ----------------------------------------------------------------------------------

TEST(HonestCore, WithColumnsThatArePaddedIsFoundSo) {
  OracleLimits limits = rows_of(OracleKind::plain, 128);
  limits.fixed_rows = true;
  expect_honest(core_with(limits, {}));
  limits.key_cols = 16;
  limits.value_cols = 8;
  expect_honest(core_with(limits, {}));
  limits.kind = OracleKind::causal;
  limits.value_cols = 2;
  expect_honest(core_with(limits, {.causal = true}), 40);
}

TEST(HonestOracle, OfManyRowsMayRoundItsSums) {
  for (const Index rows : {900, 2000}) {
    OracleLimits limits = rows_of(OracleKind::plain, rows);
    limits.fixed_rows = true;
    expect_honest(rounding_oracle<double>(limits));
  }
  for (const Index rows : {128, 300})
    for (const double most : {10.0, 16.0}) {
      OracleLimits limits = rows_of(OracleKind::plain, rows);
      limits.fixed_rows = true;
      limits.largest_score = most;
      AnyOracle<float> oracle = rounding_oracle<float>(limits);
      EXPECT_NO_THROW(require_honest(oracle)) << rows << " rows, scores to " << most;
    }
}

TEST(LiarOfColumns, OfQueriesAndKeysIsFound) {
  OracleLimits limits = rows_of(OracleKind::plain, 65);
  limits.key_cols = 24;
  for (const Index used : {4, 16, 23}) {
    AnyOracle<float> oracle([limits, used] {
      return core_oracle<float>(
          limits, [used](const MatrixView<float>& q, const MatrixView<float>& k, const MatrixView<float>& v) {
            return attend(block_view(q, {0, q.rows()}, 0, used), block_view(k, {0, k.rows()}, 0, used), v, {});
          });
    });
    EXPECT_FALSE(probe(oracle).honest()) << used << " of 24 columns";
  }
}

TEST(HonestBatch, AnsweredFromTheLastCallToTheFirst) {
  OracleLimits limits = rows_of(OracleKind::causal);
  limits.batch = 5;
  expect_honest(changed(limits, limits, {}), 26);
}

// --- liars -----------------------------------------------------------------------------------------------------------

#define EXPECT_SAYS(oracle, words)                                         \
  do {                                                                     \
    const std::string told = the_fault(oracle);                            \
    EXPECT_NE(told.find(words), std::string::npos) << "it said: " << told; \
  } while (false)

class Liar : public testing::TestWithParam<OracleKind> {
 protected:
  OracleLimits limits = rows_of(GetParam());
  bool causal = GetParam() == OracleKind::causal;
};

TEST_P(Liar, OfMoreRowsThanItAttendsTo) {
  EXPECT_SAYS(core_with(limits, {.causal = causal, .attended = 48}),
              "declares 65 rows, and the keys from row 48 on are not attended to");
  limits.value_cols = 13;
  EXPECT_SAYS(core_with(limits, {.causal = causal, .attended = 50}),
              "declares 65 rows, and the keys from row 50 on are not attended to");
}

TEST_P(Liar, OfMoreRowsThanItAnswers) {
  EXPECT_SAYS(core_with(limits, {.causal = causal, .answered = 64}),
              "declares 65 rows, and the rows from row 64 on are answered as zeros");
  const ProbeReport report = [&] {
    AnyOracle<float> oracle = core_with(limits, {.causal = causal, .attended = 32, .answered = 32});
    return probe(oracle);
  }();
  EXPECT_EQ(report.rows, 32);
  EXPECT_NE(joined(report.faults).find("from row 32 on are answered as zeros"), std::string::npos);
}

TEST_P(Liar, OfItsKind) {
  EXPECT_SAYS(core_with(limits, {.causal = !causal}), causal ? "declared causal and is plain" : "a hidden causal mask");
}

TEST_P(Liar, OfItsScale) {
  for (const double scale : {0.125, 0.99, 3.0}) {
    EXPECT_SAYS(core_with(limits, {.causal = causal, .scale = scale}),
                detail::text("the score scale is ", scale, ", declared is 1"));
  }
  limits.precision = mixed_precision(Precision::half);
  EXPECT_SAYS(core_with(limits, {.causal = causal, .scale = 1.1}), "the score scale is 1.1");
}

TEST_P(Liar, WhoseAnswersDependOnPosition) {
  EXPECT_SAYS(core_with(limits, {.causal = causal, .rotary = true}), "(rotary positions)");
  EXPECT_SAYS(core_with(limits, {.causal = causal, .slope = 0.25}), "depend on position: with all scores 0");
  EXPECT_SAYS(core_with(limits, {.causal = causal, .slope = 0.004}), "depend on position: with all scores 0");
  // Learned positions, added to every column of the tokens.
  EXPECT_SAYS(changed(limits, limits, {},
                      [](const Matrix<float>& rows) {
                        Matrix<float> moved = rows;
                        for (Index row = 0; row < rows.rows(); ++row)
                          moved.row(row).array() += std::sin(0.3F * static_cast<float>(row * row));
                        return moved;
                      }),
              "something is added to the tokens or to the answer (learned positions, a bias)");
}

TEST_P(Liar, ThatClampsOrCapsScores) {
  for (const double size : {12.0, 50.0, 3000.0})
    EXPECT_SAYS(core_with(limits, {.causal = causal, .clamp = size}), "scores are clamped or lost beyond about");
  for (const double size : {20.0, 50.0, 300.0})
    EXPECT_SAYS(core_with(limits, {.causal = causal, .soft_cap = size}), "scores have a soft cap");
  EXPECT_SAYS(core_with(limits, {.causal = causal, .naive = true}), "scores are clamped or lost beyond about");
  limits.largest_score = 100;
  EXPECT_SAYS(core_with(limits, {.causal = causal, .clamp = 50}), "scores of up to 100 are declared");
  AnyOracle<float> capped = core_with(limits, {.causal = causal, .soft_cap = 50});
  EXPECT_NEAR(probe(capped).soft_cap.value_or(0), 50, 2);
}

TEST_P(Liar, OfItsPrecision) {
  const auto hidden = [&](const OraclePrecision& precision) {
    OracleLimits inner = limits;
    inner.precision = precision;
    const OracleLimits declared = limits;
    return AnyOracle<float>([inner, declared] {
      auto oracle = std::make_shared<RoundingTransformer<float>>(inner);
      return MadeOracle{declared, [oracle](const OracleCall<float>& call) { return oracle->run(call); }};
    });
  };
  for (const Precision low : {Precision::half, Precision::bfloat16}) {
    AnyOracle<float> all = hidden(mixed_precision(low));
    const std::string said = joined(probe(all).faults);
    for (const char* what : {"tokens are rounded to ", "answers are rounded to ", "attention weights are rounded to "})
      EXPECT_NE(said.find(what + std::string(name(low))), std::string::npos) << said;
    EXPECT_SAYS(hidden({low, {}, {}, {}}), std::string("tokens are rounded to ") + name(low));
    EXPECT_SAYS(hidden({{}, {}, low, {}}), std::string("attention weights are rounded to ") + name(low));
    EXPECT_SAYS(hidden({{}, {}, {}, low}), std::string("answers are rounded to ") + name(low));
  }
  AnyOracle<float> scores = hidden({{}, Precision::half, {}, {}});
  EXPECT_NE(joined(probe(scores).faults).find("scores are rounded to about half"), std::string::npos);
  EXPECT_SAYS(core_with(limits, {.causal = causal, .weights = Precision::int8}),
              "attention weights are rounded to int8");
  limits.precision = mixed_precision(Precision::half);
  AnyOracle<float> coarser = hidden(mixed_precision(Precision::bfloat16));
  EXPECT_NE(joined(probe(coarser).faults).find("tokens are rounded to bfloat16"), std::string::npos);
}

TEST_P(Liar, WithAResidualStreamOrWithoutOne) {
  EXPECT_SAYS(changed(limits, limits, [](const OracleCall<float>& call, Matrix<float>& rows) { rows += call.rows; }),
              "a hidden residual stream");
  OracleLimits declared = limits;
  declared.residual = true;
  EXPECT_SAYS(changed(declared, limits, {}), "declares a residual stream, and the tokens are not in its answer");
}

TEST_P(Liar, WithANormAroundTheAttention) {
  const auto norm = [](const Matrix<float>& rows) {
    Matrix<float> normed = rows;
    for (Index row = 0; row < rows.rows(); ++row)
      normed.row(row) /= std::sqrt(rows.row(row).squaredNorm() / static_cast<float>(rows.cols()) + 1e-5F);
    return normed;
  };
  EXPECT_SAYS(changed(limits, limits, {}, norm), "not linear in the values");
  EXPECT_SAYS(changed(limits, limits, [norm](const OracleCall<float>&, Matrix<float>& rows) { rows = norm(rows); }),
              "not linear in the values");
}

TEST(Liar, ThatPadsZeroKeysInSilence) {
  OracleLimits limits = rows_of(OracleKind::plain);
  EXPECT_SAYS(core_with(limits, {.padded_to = 65}), "about 1 keys of score 0 and value 0 are padded in silence");
  limits.fixed_rows = true;
  EXPECT_SAYS(core_with(limits, {.padded_to = 128}), "about 63 keys of score 0 and value 0 are padded in silence");
  limits.fixed_rows = false;
  limits.row_counts = {16, 65};
  EXPECT_SAYS(core_with(limits, {.padded_to = 65}), "of a call of 16 rows");
  limits.precision = mixed_precision(Precision::bfloat16);
  EXPECT_SAYS(core_with(limits, {.padded_to = 65}), "padded in silence");
}

TEST_P(Liar, WhoseBatchesAreSwapped) {
  const OracleLimits declared = limits;
  const AnyOracle<float> swapped([declared] {
    auto oracle = std::make_shared<SmallTransformer<float>>(declared);
    return MadeOracle{declared, [oracle](const OracleCall<float>& call) { return oracle->run(call); },
                      [](std::size_t call, std::size_t calls) { return (call + 1) % calls; }};
  });
  EXPECT_SAYS(swapped, "answers of a batch are swapped");
}

TEST_P(Liar, ThatKeepsStateBetweenCalls) {
  const auto last = std::make_shared<Matrix<float>>();
  EXPECT_SAYS(changed(limits, limits,
                      [last](const OracleCall<float>&, Matrix<float>& rows) {
                        const Matrix<float> own = rows;
                        if (last->rows() == rows.rows() && last->cols() == rows.cols())
                          rows = 0.9F * rows + 0.1F * *last;
                        *last = own;
                      }),
              "keeps state between calls");
}

TEST_P(Liar, WhoseRowsOrHeadsAreOutOfPlace) {
  AnyOracle<float> reversed = core_with(limits, {.causal = causal, .reversed = true});
  EXPECT_SAYS(reversed, "rows are out of order: ");
  limits.heads = 4;
  EXPECT_SAYS(changed(limits, limits,
                      [](const OracleCall<float>& call, Matrix<float>& rows) {
                        const auto& heads = call.weights->layers.front().heads;
                        if (heads.size() == 4) rows.middleCols(heads[3].output_begin, heads[3].wv.cols()).setZero();
                      }),
              "in head 3");
}

TEST_P(Liar, ThatThrowsOrAnswersNonsense) {
  const OracleLimits declared = limits;
  const auto made = [&](const std::function<Matrix<float>(const OracleCall<float>&)>& answer) {
    return AnyOracle<float>([declared, answer] { return MadeOracle{declared, answer}; });
  };
  AnyOracle<float> throwing = made([](const OracleCall<float>&) -> Matrix<float> { throw std::runtime_error("gone"); });
  EXPECT_NE(joined(probe(throwing).faults).find("failed: gone"), std::string::npos);
  AnyOracle<float> odd = made([](const OracleCall<float>&) -> Matrix<float> { throw 7; });
  EXPECT_NE(joined(probe(odd).faults).find("what is no exception"), std::string::npos);
  AnyOracle<float> narrow = made([](const OracleCall<float>&) { return Matrix<float>(Matrix<float>::Ones(3, 2)); });
  EXPECT_FALSE(probe(narrow).honest());
  AnyOracle<float> nan = made([](const OracleCall<float>& call) {
    return Matrix<float>(Matrix<float>::Constant(call.rows.rows(), call.weights->output_width(), std::nanf("")));
  });
  EXPECT_NE(joined(probe(nan).faults).find("NaN or infinity in row 0"), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Kinds, Liar, testing::Values(OracleKind::plain, OracleKind::causal),
                         [](const auto& kind) { return name(kind.param); });

// --- many honest limits ----------------------------------------------------------------------------------------------

template <class S>
void expect_no_liar(const OracleLimits& limits, bool rounds) {
  AnyOracle<S> oracle = rounds ? rounding_oracle<S>(limits) : eigen_oracle<S>(limits);
  const ProbeReport report = probe(oracle);
  EXPECT_TRUE(report.honest()) << to_text(report);
  EXPECT_LE(report.calls, 45);
}

TEST(HonestOracle, OfRandomLimitsIsNeverCalledALiar) {
  Random random(seed_or(5));
  const auto one_of = [&](auto... values) {
    const std::array all{values...};
    return all[static_cast<std::size_t>(random.uniform() * 0.999999 * static_cast<double>(all.size()))];
  };
  for (int trial = 0; trial < 300; ++trial) {
    OracleLimits limits;
    limits.kind = one_of(OracleKind::plain, OracleKind::causal);
    limits.rows = 2 + static_cast<Index>(std::exp(random.uniform() * 4.5));
    limits.fixed_rows = random.uniform() < 0.3;
    if (!limits.fixed_rows && random.uniform() < 0.3) limits.row_counts = {limits.rows / 2 + 1, limits.rows};
    if (limits.row_counts.size() == 2 && limits.row_counts[0] >= limits.row_counts[1]) limits.row_counts.clear();
    limits.heads = one_of(1, 1, 2, 5);
    limits.layers = one_of(1, 1, 2, 3);
    limits.residual = random.uniform() < 0.3;
    limits.width = one_of(OracleLimits::unlimited, Index{8}, Index{12}, Index{40}, Index{100});
    limits.key_cols = one_of(OracleLimits::unlimited, Index{2}, Index{3}, Index{16});
    limits.value_cols = one_of(OracleLimits::unlimited, Index{2}, Index{5}, Index{24});
    limits.score_scale = one_of(1.0, 1 / std::sqrt(8.0), 0.125, std::exp(6 * random.uniform() - 3));
    limits.batch = one_of(1, 2, 9);
    limits.largest_score = one_of(std::numeric_limits<double>::infinity(), 4.0, 10 + 1e3 * random.uniform());
    const Precision low = one_of(Precision::own, Precision::half, Precision::bfloat16, Precision::float32);
    if (low != Precision::own) limits.precision = mixed_precision(low);
    const bool rounds = low != Precision::own || std::isfinite(limits.largest_score);
    SCOPED_TRACE(trial);
    if (random.uniform() < 0.5)
      expect_no_liar<float>(limits, rounds);
    else
      expect_no_liar<double>(limits, rounds);
  }
}

}  // namespace
