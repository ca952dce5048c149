#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <twoheads/base/digest.hpp>
#include <twoheads/codec/converse.hpp>
#include <twoheads/model/random.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <twoheads/oracle/wrappers.hpp>
#include <vector>

#include "support/bounds.hpp"
#include "support/instances.hpp"
#include "support/naive.hpp"
#include "support/sanitized.hpp"
#include "support/seed.hpp"
#include "support/short_attentions.hpp"

namespace {

using namespace twoheads;
using namespace short_attentions;

std::uint64_t seed() { return seed_or(420); }

// --- the same bits ---------------------------------------------------------------------------------------------------

struct Case {
  OracleKind kind;
  std::vector<Index> rows;
  double score_scale = 0.25;
  double oracle_scale = 1;
  bool residual = false;
  Index padding = 0;
  double deviation = 1;
};

template <class Scalar>
void expect_same_bits(const Case& c, Random& random, const TogetherOptions& given = {}) {
  OracleLimits limits = limits_of(c.kind, total_of(c.rows) + c.padding, c.oracle_scale, c.residual);
  limits.fixed_rows = c.padding > 0;
  std::vector<ShortAttention<Scalar>> attentions = random_attentions<Scalar>(c.rows, random, c.deviation);
  for (std::size_t i = 1; i < attentions.size(); i += 2)
    attentions[i].mlp = RowFunction([i](Index first_row, auto& rows) {
      for (Index row = 0; row < rows.rows(); ++row) rows.row(row) *= static_cast<float>(i + 1 + first_row + row);
    });
  SmallTransformer<Scalar> oracle(limits, SumOrder::by_key);
  CheckingOracle checked(oracle);
  CountingOracle counted(checked);
  TogetherOptions options = given;
  options.score_scale = c.score_scale;
  const std::vector<Matrix<Scalar>> found = attend_together(counted, attentions, options);
  EXPECT_EQ(counted.calls(), 1);
  EXPECT_EQ(counted.rows(), limits.fixed_rows ? limits.rows : total_of(c.rows)) << "no row beside the attentions' own";
  ASSERT_EQ(found.size(), attentions.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    const Matrix<Scalar> truth = alone(attentions[i], limits, SumOrder::by_key, c.score_scale);
    ASSERT_EQ(found[i].rows(), truth.rows());
    ASSERT_EQ(found[i].cols(), truth.cols());
    EXPECT_EQ(digest(found[i]), digest(truth)) << "attention " << i;
    EXPECT_LE(error_in_eps(found[i], truth, attentions[i]), 0) << "attention " << i;
  }
}

TEST(Together, SumsInKeyOrderKeepEveryBitOfSeparateCalls) {
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  Random random(seed());
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal}) {
    SCOPED_TRACE(name(kind));
    const Case c{kind, std::vector<Index>(sanitized ? 8 : 64, 128)};
    expect_same_bits<float>(c, random);
    expect_same_bits<double>(c, random);
  }
}

TEST(Together, KeepsBitsForAnyLengthsScalesLogitsAndOracles) {
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  Random random(seed());
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
    for (const std::vector<Index>& rows :
         {std::vector<Index>{2}, {1, 1}, {5, 1, 9}, {1, 2, 3, 4, 5, 6, 7}, std::vector<Index>(30, 2)})
      for (const double oracle_scale : {1.0, 0.3})
        for (const bool residual : {false, true})
          for (const Index padding : {0, 3})
            for (const double deviation : {0.0, 1.0, 20.0}) {
              SCOPED_TRACE(testing::Message()
                           << name(kind) << ", " << rows.size() << " attentions, scale " << oracle_scale
                           << (residual ? ", residual" : "") << ", padding " << padding << ", deviation " << deviation);
              const Case c{kind, rows, 0.25, oracle_scale, residual, padding, deviation};
              expect_same_bits<float>(c, random);
              expect_same_bits<double>(c, random);
            }
}

TEST(Together, ALargerAmplitudeThanNeededKeepsTheBitsToo) {
  Random random(seed());
  const Case c{OracleKind::plain, {5, 1, 9}};
  for (const double amplitude : {100.0, 1e6, 1e15}) {
    expect_same_bits<float>(c, random, {1, amplitude});
    expect_same_bits<double>(c, random, {1, amplitude});
  }
}

// --- an oracle that sums in blocks -----------------------------------------------------------------------------------

/// What a call of blocked sums differs by from separate ones, in eps, and what its scores may differ by, in eps.
struct Blocked {
  naive::Real error = 0;
  naive::Real scores = 0;  ///< largest score_scale sum_c |q_c k_c| of an own key
};

template <class Scalar>
Blocked blocked_error(OracleKind kind, const std::vector<Index>& rows, Random& random, double score_scale) {
  const OracleLimits limits = limits_of(kind, total_of(rows));
  const std::vector<ShortAttention<Scalar>> attentions = random_attentions<Scalar>(rows, random);
  SmallTransformer<Scalar> oracle(limits);
  const std::vector<Matrix<Scalar>> found = attend_together(oracle, attentions, {score_scale, {}});
  Blocked blocked;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const ShortAttention<Scalar>& a = attentions[i];
    const Matrix<Scalar> truth = alone(a, limits, SumOrder::blocked, score_scale);
    const Matrix<Scalar> sizes = a.q.cwiseAbs() * a.k.cwiseAbs().transpose();
    blocked.error = std::max(blocked.error, error_in_eps(found[i], truth, a));
    blocked.scores = std::max<naive::Real>(blocked.scores, score_scale * static_cast<double>(sizes.maxCoeff()));
  }
  return blocked;
}

TEST(Together, BlockedSumsDifferFromSeparateCallsByAFewEps) {
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  Random random(seed());
  const std::vector<Index> rows(sanitized ? 8 : 64, 128);
  const auto hold = [&](const std::string& what, const Blocked& blocked, bool large) {
    RecordProperty(what, std::to_string(blocked.error));
    // Scores that differ by their own rounding turn weights by as much, so large logits are held to that.
    EXPECT_LE(blocked.error, large ? blocked.scores : 4) << what;
  };
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
    for (const bool large : {false, true}) {
      const double score_scale = large ? 1 : 0.25;  // logits of deviation 4, and 1 as after 1 / sqrt(head_dim)
      const std::string place = std::string("_eps_") + name(kind) + (large ? "_large_logits" : "");
      hold("float" + place, blocked_error<float>(kind, rows, random, score_scale), large);
      hold("double" + place, blocked_error<double>(kind, rows, random, score_scale), large);
    }
}

TEST(Together, TheErrorOfANaNIsInfinite) {
  Random random(seed());
  const ShortAttention<double> attention = random_attention<double>(3, random);
  const Matrix<double> truth = alone(attention, limits_of(OracleKind::plain, 3), SumOrder::blocked, 1);
  Matrix<double> broken = truth;
  broken(1, 2) = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(error_in_eps(truth, truth, attention), 0);
  EXPECT_TRUE(std::isinf(error_in_eps(broken, truth, attention)));
}

// --- the truth -------------------------------------------------------------------------------------------------------

TEST(Together, EqualsTheTripleLoopFromTokensAndWeightsOfTheirOwn) {
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  Random random(seed());
  constexpr Index width = 7;
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal}) {
    std::vector<ShortAttention<double>> attentions;
    std::vector<naive::Table> truths;
    for (const Index n : {4, 1, 11, 6}) {
      const Matrix<double> x = random.matrix<double>(n, width);
      const Matrix<double> wq = random.matrix<double>(width, head_dim, 0.3);
      const Matrix<double> wk = random.matrix<double>(width, head_dim, 0.3);
      const Matrix<double> wv = random.matrix<double>(width, value_dim, 0.3);
      attentions.push_back(short_attention(x, wq, wk, wv));
      const auto times = [&](const Matrix<double>& w) { return naive::product(naive::plain(x), naive::plain(w)); };
      truths.push_back(naive::softmax_mean(naive::logits(times(wq), times(wk), 1), times(wv),
                                           [&](Index q, Index k) { return kind == OracleKind::plain || k <= q; }));
    }
    for (const SumOrder order : {SumOrder::blocked, SumOrder::by_key}) {
      SmallTransformer<double> oracle(limits_of(kind, 30, 0.5), order);
      const std::vector<Matrix<double>> found = attend_together(oracle, attentions);
      for (std::size_t i = 0; i < found.size(); ++i)
        EXPECT_LE(bounds::max_row_error(found[i], truths[i], 1), 1e-14) << name(kind) << ", attention " << i;
    }
  }
}

TEST(Together, AnMlpSeesTheRowsOfItsOwnAttentionInPiecesToo) {
  Random random(seed());
  std::vector<ShortAttention<double>> attentions = random_attentions<double>({3, 4, 2}, random);
  for (const std::size_t i : {0U, 2U})
    attentions[i].mlp = RowFunction([i](Index first_row, auto& rows) {
      for (Index row = 0; row < rows.rows(); ++row)
        rows.row(row).setConstant(static_cast<float>(100 * (i + 1)) + static_cast<float>(first_row + row));
    });
  const RowFunction mlp = detail::mlp_by_rows(attentions);
  for (const Index piece : {1, 2, 4, 9}) {
    Matrix<double> rows = Matrix<double>::Constant(9, 1, -1);
    for (Index begin = 0; begin < 9; begin += piece)
      mlp(begin, block_span(span(rows), {begin, std::min<Index>(begin + piece, 9)}, 0, 1));
    Matrix<double> expected(9, 1);
    expected << 100, 101, 102, -1, -1, -1, -1, 300, 301;
    EXPECT_EQ(rows, expected) << "pieces of " << piece;
  }
  EXPECT_FALSE(detail::mlp_by_rows(random_attentions<double>({3, 4}, random)));
}

// --- the rule of the gap ---------------------------------------------------------------------------------------------

TEST(CodeGap, TheSpreadBoundsEveryScoreBetweenAttentions) {
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  Random random(seed());
  for (const double deviation : {0.0, 0.5, 3.0})
    for (const double scale : {1.0, -0.7, 0.01}) {
      std::vector<ShortAttention<double>> attentions = random_attentions<double>({3, 8, 1, 5}, random, deviation);
      attentions[1].k *= 4;
      double most = 0;
      for (const ShortAttention<double>& own : attentions)
        for (Index i = 0; i < own.q.rows(); ++i)
          for (const ShortAttention<double>& other : attentions)
            if (&own != &other)
              for (Index j = 0; j < other.k.rows(); ++j)
                most =
                    std::max(most, scale * own.q.row(i).dot(other.k.row(j)) - scale * own.q.row(i).dot(own.k.row(i)));
      const double spread = logit_spread(attentions, scale);
      EXPECT_GE(spread, most);
      EXPECT_LE(spread, 20 * most + 1e-12) << "far above what is needed";
    }
}

TEST(CodeGap, TheSpreadIsReachedWhereAnOwnKeyIsOppositeAndAnotherOneIsNot) {
  Matrix<double> e = Matrix<double>::Zero(1, head_dim);
  e(0, 3) = 3;
  const Matrix<double> v = Matrix<double>::Zero(1, value_dim);
  const std::vector<ShortAttention<double>> attentions{{e, -e, v, {}}, {e, e, v, {}}};
  for (const double scale : {2.0, -2.0}) {
    EXPECT_GE(logit_spread(attentions, scale), 36) << scale;
    EXPECT_LE(logit_spread(attentions, scale), 36.0001) << scale;
  }
}

template <class Scalar>
void expect_least_amplitude() {
  Random random(seed());
  for (const double oracle_scale : {1.0, 0.25}) {
    const std::vector<Index> rows{9, 9, 9, 9};
    const std::vector<ShortAttention<Scalar>> attentions = random_attentions<Scalar>(rows, random);
    const double spread = logit_spread(attentions, 0.5);
    const double least = std::sqrt(least_gap<Scalar>(spread, total_of(rows)) / oracle_scale);
    SmallTransformer<Scalar> oracle(limits_of(OracleKind::plain, 40, oracle_scale), SumOrder::by_key);
    const std::vector<Matrix<Scalar>> found = attend_together(oracle, attentions, {0.5, least * 1.001});
    for (std::size_t i = 0; i < found.size(); ++i) {
      const Matrix<Scalar> truth = alone(attentions[i], oracle.limits(), SumOrder::by_key, 0.5);
      EXPECT_LE(error_in_eps(found[i], truth, attentions[i]), 4) << "attention " << i;
    }
    EXPECT_THROW(static_cast<void>(attend_together(oracle, attentions, {0.5, least * 0.999})), SpecError);
    EXPECT_GT(silent_gap<Scalar>(spread), least_gap<Scalar>(spread, Index{1} << 20));
    EXPECT_EQ(std::exp(static_cast<Scalar>(spread - silent_gap<Scalar>(spread))), Scalar(0));
  }
}

TEST(CodeGap, TheLeastAmplitudeIsEnoughAndLessIsRefused) {
  expect_least_amplitude<float>();
  expect_least_amplitude<double>();
}

/// Expects an error that holds a text.
template <class Error, class F>
void expect_error(const F& f, const std::string& text) {
  try {
    static_cast<void>(f());
    ADD_FAILURE() << "no error; expected " << text;
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
  }
}

TEST(CodeGap, AnAmplitudeThatIsTooSmallIsToldTheRule) {
  Random random(seed());
  const std::vector<ShortAttention<float>> attentions = random_attentions<float>({4, 4}, random);
  SmallTransformer<float> oracle(limits_of(OracleKind::plain, 8, 0.5));
  for (const double amplitude : {1.0, 0.0, -1000.0, std::numeric_limits<double>::quiet_NaN()})
    expect_error<SpecError>(
        [&] {
          return attend_together(oracle, attentions, {1, amplitude});
        },
        "expected B^2 >= (logit spread + ln(N / u)) / score scale of the oracle");
  for (const double amplitude : {1e19, std::numeric_limits<double>::infinity()})
    expect_error<LimitError>(
        [&] {
          return attend_together(oracle, attentions, {1, amplitude});
        },
        "exceed the range of the scalar");
  std::vector<ShortAttention<float>> large = attentions;
  for (ShortAttention<float>& attention : large) attention.q *= 1e37F;
  expect_error<LimitError>([&] { return attend_together(oracle, large); }, "exceed the range of the scalar");
  // One attention has no codes.
  EXPECT_EQ(attend_together(oracle, std::vector(1, attentions.front()), {1, 1e-9}).size(), 1U);
}

// --- errors ----------------------------------------------------------------------------------------------------------

TEST(Together, RefusesWhatCannotShareACall) {
  Random random(seed());
  using Attentions = std::vector<ShortAttention<double>>;
  const OracleLimits limits = limits_of(OracleKind::plain, 12);
  SmallTransformer<double> oracle(limits);
  const auto run = [&](Attentions attentions) { return attend_together(oracle, attentions); };
  const Attentions sound = random_attentions<double>({5, 3}, random);
  const auto broken = [&](const auto& change) {
    Attentions attentions = sound;
    change(attentions[1]);
    return attentions;
  };
  using One = ShortAttention<double>;
  EXPECT_NO_THROW(run(sound));
  expect_error<SpecError>([&] { return run({}); }, "a call of 0 attentions, expected 1 or more");
  expect_error<ShapeError>([&] { return run(random_attentions<double>({5, 0, 2}, random)); }, "attention 1 has 0 rows");
  expect_error<ShapeError>([&] { return run(broken([](One& a) { a.q.resize(3, head_dim + 1); })); },
                           "q of attention 1 is 3 x 17, expected 3 x 16");
  expect_error<ShapeError>([&] { return run(broken([](One& a) { a.k.resize(4, head_dim); })); },
                           "k of attention 1 is 4 x 16, expected 3 x 16");
  expect_error<ShapeError>([&] { return run(broken([](One& a) { a.v.resize(3, value_dim - 1); })); },
                           "v of attention 1 is 3 x 5, expected 3 x 6");
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), -std::numeric_limits<double>::infinity()})
    expect_error<InputError>([&] { return run(broken([&](One& a) { a.k(2, 3) = bad; })); },
                             "k of attention 1, row 2: NaN or infinity");
  expect_error<LimitError>(
      [&] {
        return run(random_attentions<double>({6, 7}, random));
      },
      "2 attentions have 13 rows together, the oracle takes 12");
  OracleLimits narrow = limits;
  narrow.width = 20;
  SmallTransformer<double> narrow_oracle(narrow);
  expect_error<LimitError>([&] { return attend_together(narrow_oracle, sound); }, "the oracle takes 20");
  expect_error<SpecError>(
      [&] {
        return attend_together(oracle, sound, {std::numeric_limits<double>::infinity(), {}});
      },
      "score_scale");
  const Matrix<double> x = random.matrix<double>(3, 4), w = random.matrix<double>(4, 2);
  EXPECT_NO_THROW(static_cast<void>(short_attention(x, w, w, w)));
  const Matrix<double> tall = random.matrix<double>(5, 2), wide = random.matrix<double>(4, 3);
  expect_error<ShapeError>([&] { return short_attention(x, tall, w, w); }, "wq of a short attention is 5 x 2");
  expect_error<ShapeError>([&] { return short_attention(x, w, wide, w); }, "wk of a short attention is 4 x 3");
  expect_error<ShapeError>([&] { return short_attention(x, w, w, tall); }, "wv of a short attention is 5 x 2");
}

/// Answers as it is told to, whatever it is asked.
struct StubbornOracle {
  using Scalar = double;
  Matrix<double> answer;
  [[nodiscard]] static OracleLimits limits() { return limits_of(OracleKind::plain, 12); }
  [[nodiscard]] Matrix<double> run(const OracleCall<double>&) const { return answer; }
};

TEST(Together, RefusesAnswersThatAreNone) {
  Random random(seed());
  const std::vector<ShortAttention<double>> attentions = random_attentions<double>({5, 3}, random);
  StubbornOracle oracle{Matrix<double>::Zero(8, value_dim)};
  EXPECT_NO_THROW(static_cast<void>(attend_together(oracle, attentions)));
  oracle.answer(6, 1) = std::numeric_limits<double>::quiet_NaN();
  expect_error<OracleError>([&] { return attend_together(oracle, attentions); },
                            "attention 1, row 1: the oracle answered NaN or infinity");
  oracle.answer.setZero(8, value_dim + 1);
  expect_error<OracleError>([&] { return attend_together(oracle, attentions); },
                            "an oracle answered 8 x 7, expected 8 x 6");
}

}  // namespace
