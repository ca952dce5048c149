// Hand-built transformers whose answers are known exactly: counting, function evaluation, n-gram look-up and induction
// heads, with logits up to 1e4, give the exact whole numbers on every row of a simulation.

#include <gtest/gtest.h>

#include <set>

#include "support/hard_cases.hpp"
#include "support/instances.hpp"
#include "support/sanitized.hpp"

namespace {

using namespace twoheads;
using programs::HardCase;
using programs::Problem;
using programs::Reading;
using programs::Text;
using programs::Verdict;

/// The oracles that can evaluate a mask.
std::vector<OracleKind> kinds_for(const HardCase& c) {
  if (c.model.spec.attention.mask.kind == MaskKind::causal) return {OracleKind::causal};
  return {OracleKind::plain, OracleKind::causal};
}

OracleLimits limits_of(OracleKind kind, Index rows) {
  OracleLimits limits;
  limits.kind = kind;
  limits.rows = rows;
  return limits;
}

template <class Scalar>
Verdict verdict_of(const HardCase& c, const OracleLimits& limits, const SimulationOptions& options) {
  SmallTransformer<Scalar> oracle(limits);
  GridAttention<SmallTransformer<Scalar>> attend(oracle, options);
  return programs::judge(c, forward(cast_model<Scalar>(c.model), c.x.cast<Scalar>().eval(), attend));
}

/// Simulates, and expects the exact answer on every row, as close as the bound on roundings says.
template <class Scalar>
void expect_exact(const HardCase& c, const OracleLimits& limits, const SimulationOptions& options) {
  const Verdict verdict = verdict_of<Scalar>(c, limits, options);
  const std::string place = detail::text(c.name, ", ", c.tokens(), " tokens, ", name(limits.kind), " oracle of ",
                                         limits.rows, " rows, ", name(options.anchor), ", ", sizeof(Scalar), " bytes");
  EXPECT_EQ(verdict.numbers, c.tokens() * static_cast<Index>(c.answers.front().size())) << place;
  EXPECT_EQ(verdict.wrong, 0) << place;
  const double bound = programs::rounding_bound<Scalar>(c, limits.rows, options.anchor);
  EXPECT_LT(bound, 0.5) << place;
  EXPECT_LE(verdict.farthest, bound) << place;
}

/// Reads the scores of visible keys: the largest |score|, and the least distance of a row's largest from
/// the next other one.
class ScoreReader {
 public:
  explicit ScoreReader(const HardCase& c) : least_gap_(c.logit) {}

  void operator()(const AttentionInput<double>& input, MatrixSpan<double> out) {
    for (Index row = 0; row < input.queries(); ++row) {
      std::set<double> scores;
      const VisibleKeys visible = input.spec.mask.visible_keys(row, input.keys());
      for (Index key = visible.keys.begin; key < visible.keys.end; ++key) {
        const double score = input.q.row(row).dot(input.k.row(key));
        scores.insert(score);
        largest_ = std::max(largest_, std::abs(score));
        whole_ = whole_ && score == std::round(score);
      }
      if (scores.size() > 1) least_gap_ = std::min(least_gap_, *scores.rbegin() - *std::next(scores.rbegin()));
    }
    DirectAttention<double>()(input, out);
  }

  [[nodiscard]] double largest() const { return largest_; }
  [[nodiscard]] double least_gap() const { return least_gap_; }
  [[nodiscard]] bool whole() const { return whole_; }

 private:
  double largest_ = 0;
  double least_gap_;
  bool whole_ = true;
};

TEST(HardAnswers, AreThoseWorkedOutByHand) {
  // The text        a  b  a  a  b  b  a
  const Text text{0, 1, 0, 0, 1, 1, 0};
  using Table = programs::Table;
  EXPECT_EQ(programs::counts_of_symbols(text, 2, true),
            (Table{{1, 0}, {1, 1}, {2, 1}, {3, 1}, {3, 2}, {3, 3}, {4, 3}}));
  EXPECT_EQ(programs::counts_of_symbols(text, 2, false), Table(7, {4, 3}));
  EXPECT_EQ(programs::values_of({2, 0, 1}, {1, 1, 0}), (Table{{0}, {0}, {2}}));
  EXPECT_EQ(programs::counts_of_followers(text, 2),
            (Table{{0, 0}, {0, 0}, {0, 0}, {0, 1}, {1, 1}, {1, 0}, {1, 1}, {1, 2}}));
  EXPECT_EQ(programs::tokens_before(text), (Table{{0}, {0}, {1}, {2}, {1}, {1}, {2}, {2}}));
  // The last a came before b; the last b, at its second of two in a row, before b itself.
  EXPECT_EQ(programs::follower_of_context(text, 1), (Table{{0}, {0}, {0}, {2}, {1}, {1}, {2}, {2}}));
  // ab was followed by a before; no other pair has come again.
  EXPECT_EQ(programs::follower_of_context(text, 2), (Table{{0}, {0}, {0}, {0}, {0}, {1}, {0}, {1}}));
}

TEST(HardTexts, HoldEveryContextTwiceAtMost) {
  for (const Index length : {1, 2, 3, 16, 100, 257, 4096}) {
    std::map<Index, int> symbols;
    for (const Index symbol : programs::text_of_twins(length, 5)) ++symbols[symbol];
    for (const auto& [symbol, count] : symbols) EXPECT_EQ(count, 2 * symbol + 1 == length ? 1 : 2) << symbol;
    EXPECT_EQ(static_cast<Index>(symbols.size()), (length + 1) / 2);

    Index vocabulary = 2;
    while (vocabulary * vocabulary < length) ++vocabulary;
    const Text text = programs::text_of_twin_pairs(length, vocabulary, 5);
    ASSERT_EQ(static_cast<Index>(text.size()), length);
    std::map<std::pair<Index, Index>, int> pairs;
    for (std::size_t i = 1; i < text.size(); ++i) ++pairs[{text[i - 1], text[i]}];
    int twice = 0;
    for (const auto& [pair, count] : pairs) {
      EXPECT_LE(count, 2);
      twice += count == 2 ? 1 : 0;
    }
    if (length >= 100) {
      EXPECT_GT(twice, length / 10) << "hardly anything to be looked up";
    }
  }
}

TEST(Verdicts, TakeANaNAndAHalfForWrong) {
  const HardCase c = programs::make_case(Problem::induction, 10, 1);
  Matrix<float> rows = forward(cast_model<float>(c.model), c.x.cast<float>().eval(), DirectAttention<float>());
  EXPECT_EQ(programs::judge(c, rows).wrong, 0);
  rows(3, c.answer) = std::numeric_limits<float>::quiet_NaN();
  rows(4, c.answer) += 0.5F;
  EXPECT_EQ(programs::judge(c, rows).wrong, 2);
  EXPECT_EQ(programs::judge(c, rows).farthest, std::numeric_limits<double>::infinity());
}

TEST(HardModels, HaveTheScoresAndMarginsThatTheyDocument) {
  for (const Problem problem : programs::problems)
    for (const Index tokens : {1, 2, 3, 17, 64, 130, 300}) {
      if (sanitized && tokens > 130) continue;
      const HardCase c = programs::make_case(problem, tokens, 3);
      ScoreReader scores(c);
      const Matrix<double> rows = forward(c.model, c.x, scores);
      EXPECT_EQ(programs::judge(c, rows).wrong, 0) << c.name << ", " << tokens << " tokens";
      EXPECT_LE(scores.largest(), static_cast<double>(c.logit)) << c.name << ", " << tokens << " tokens";
      EXPECT_TRUE(scores.whole()) << c.name << ", " << tokens << " tokens";
      EXPECT_LE(c.logit, programs::largest_logit);
      if (c.logit == 0 || tokens < 64) continue;
      EXPECT_EQ(scores.largest(), static_cast<double>(c.logit)) << c.name;
      EXPECT_EQ(scores.least_gap(), static_cast<double>(c.margin)) << c.name;
      EXPECT_GT(c.logit, 9980) << c.name;
    }
}

template <class Scalar>
void check_every_row_count() {
  for (const Problem problem : programs::problems)
    for (const Index tokens : {1, 2, 3, 16, 63, 65, 130, 257, 301, 1000})
      for (const Index rows : {2, 3, 17, 64, 257}) {
        // So many rows meet so many others that blocks of one or two would only take long.
        if (tokens / rows > 60 || (sanitized && tokens > 130)) continue;
        const HardCase c = programs::make_case(problem, tokens, 11);
        for (const OracleKind kind : kinds_for(c))
          for (const Anchor anchor : {Anchor::gibbs, Anchor::adaptive})
            expect_exact<Scalar>(c, limits_of(kind, rows), {anchor});
      }
}

TEST(HardCases, AreExactOnEveryRowInFloat) { check_every_row_count<float>(); }
TEST(HardCases, AreExactOnEveryRowInDouble) { check_every_row_count<double>(); }

TEST(HardCases, AreExactForManyTexts) {
  for (const Problem problem : programs::problems)
    for (std::uint64_t seed = 1; seed <= (sanitized ? 3 : 40); ++seed) {
      const Index tokens = 2 + static_cast<Index>(seed * 7919 % 90);
      const HardCase c = programs::make_case(problem, tokens, seed);
      for (const OracleKind kind : kinds_for(c)) expect_exact<float>(c, limits_of(kind, 9), {});
    }
}

TEST(HardCases, AreExactHoweverTheOracleIsMade) {
  for (const Problem problem : programs::problems) {
    const HardCase c = programs::make_case(problem, 70, 2);
    for (const OracleKind kind : kinds_for(c))
      for (const TokenEncoding encoding : {TokenEncoding::projected, TokenEncoding::raw}) {
        OracleLimits limits = limits_of(kind, 17);
        expect_exact<float>(c, limits, {Anchor::adaptive, encoding});
        limits.fixed_rows = true;
        limits.heads = 3;
        limits.batch = 4;
        expect_exact<float>(c, limits, {Anchor::adaptive, encoding});
        limits.residual = true;
        // A power of two: matches that were equal bits stay equal bits.
        limits.score_scale = 0.125;
        expect_exact<float>(c, limits, {Anchor::adaptive, encoding});
      }
  }
}

TEST(FunctionEvaluation, ReadsPairsFromAMemory) {
  // Queries of another number than pairs: rows of the case ask, all rows of the case answer.
  const HardCase c = programs::make_case(Problem::function_evaluation, 100, 4);
  const Model<float> model = cast_model<float>(c.model);
  const Matrix<float> memory = c.x.cast<float>();
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
    for (const Index queries : {1, 7, 64}) {
      SmallTransformer<float> oracle(limits_of(kind, 9));
      GridAttention<SmallTransformer<float>> attend(oracle);
      const Verdict verdict = programs::judge(c, forward(model, memory.topRows(queries).eval(), attend, &memory));
      EXPECT_EQ(verdict.numbers, queries);
      EXPECT_EQ(verdict.wrong, 0);
    }
}

TEST(CopyAfterMatch, CopiesItsOwnSymbolWhereTheMatchIsTheRowBefore) {
  // aabb: the second a has an earlier a, which was followed by the second a.
  for (const Index context : {1, 2}) {
    const Text text = context == 1 ? Text{0, 0, 1, 1} : Text{0, 0, 0, 1};
    const HardCase c = programs::copy_after_match(text, 2, context);
    EXPECT_EQ(c.answers[static_cast<std::size_t>(context) + 1], std::vector<Index>{1});
    for (const Index rows : {2, 3, 4, 5}) expect_exact<float>(c, limits_of(OracleKind::causal, rows), {});
  }
}

TEST(PreviousToken, UnderAWindowOfTwoIsExactInDirectEvaluation) {
  for (const Index tokens : {1, 2, 3, 64, 257, 65536}) {
    const HardCase c = programs::previous_token(programs::random_text(tokens - 1, 65535, 6));
    DirectAttention<float> direct;
    const Verdict verdict = programs::judge(c, forward(cast_model<float>(c.model), c.x.cast<float>().eval(), direct));
    EXPECT_EQ(verdict.numbers, tokens);
    EXPECT_EQ(verdict.wrong, 0);
    EXPECT_LE(verdict.farthest, programs::rounding_bound<float>(c, 3, Anchor::adaptive));
    EXPECT_EQ(direct.max_logit(), static_cast<double>(c.logit));
  }
}

TEST(ThreeGrams, NeedTheSecondSymbol) {
  // Every symbol has occurred before in most rows, most pairs have not: context 1 would answer where context 2 may not.
  const HardCase c = programs::make_case(Problem::trigram, 301, 11);
  Index found = 0;
  for (const std::vector<Index>& answer : c.answers) found += answer[0] > 0 ? 1 : 0;
  EXPECT_GT(found, 30);
  EXPECT_LT(found, 200);
}

TEST(Counting, IsExactInFloatWithTheAnchorZeroAndInDoubleWithAny) {
  const HardCase c = programs::make_case(Problem::counting_causal, 1000, 1);
  for (const Index rows : {17, 64, 257}) {
    expect_exact<float>(c, limits_of(OracleKind::causal, rows), {Anchor::zero});
    for (const Anchor anchor : {Anchor::zero, Anchor::mean_key, Anchor::gibbs, Anchor::adaptive})
      expect_exact<double>(c, limits_of(OracleKind::causal, rows), {anchor});
  }
  // At full length, a bound on float's roundings holds for the anchor zero alone, whose sums are whole numbers; the
  // other anchors sum up to 256 rounded exponentials.
  HardCase longest;
  longest.x.resize(65536, 1);
  longest.answers = {{65536}};
  longest.reading = Reading::share;
  longest.most_keys = 65536;
  EXPECT_LT(programs::rounding_bound<float>(longest, 256, Anchor::zero), 0.05);
  EXPECT_GT(programs::rounding_bound<float>(longest, 256, Anchor::adaptive), 0.5);
  EXPECT_LT(programs::rounding_bound<double>(longest, 256, Anchor::adaptive), 1e-6);
}

TEST(UnsafeAnchors, NeverGiveAWrongAnswer) {
  for (const Problem problem : programs::problems)
    for (const Index tokens : {3, 17, 65, 130})
      for (const Index rows : {2, 3, 17, 64, 257})
        for (const Anchor anchor : {Anchor::zero, Anchor::mean_key}) {
          const HardCase c = programs::make_case(problem, tokens, 8);
          for (const OracleKind kind : kinds_for(c)) {
            const std::string place = detail::text(c.name, ", ", tokens, " tokens, ", name(kind), " oracle of ", rows,
                                                   " rows, ", name(anchor));
            // One call shows every key; tiles of one key have that key's logit as their mean; equal logits suit any.
            const bool safe = c.logit == 0 || (tokens <= rows && kinds_for(c).front() == kind) ||
                              (anchor == Anchor::mean_key && rows == 2);
            try {
              EXPECT_EQ((verdict_of<float>(c, limits_of(kind, rows), {anchor}).wrong), 0) << place;
              EXPECT_TRUE(safe || tokens <= 3) << place << ": no AnchorError";
            } catch (const AnchorError& error) {
              EXPECT_FALSE(safe) << place;
              EXPECT_NE(std::string(error.what()).find("adaptive"), std::string::npos) << error.what();
            }
          }
        }
}

TEST(LongHardCases, AreExactThroughCallsOf256Rows) {
  const Index tokens = sanitized ? 600 : 8192;
  for (const Problem problem : programs::problems) {
    const HardCase c = programs::make_case(problem, tokens, 1);
    for (const OracleKind kind : kinds_for(c)) expect_exact<float>(c, limits_of(kind, 256), {});
  }
}

TEST(LongHardCases, CountOver65536TokensThroughCallsOf256Rows) {
  const Index tokens = sanitized ? 1000 : 65536;
  const HardCase c = programs::make_case(Problem::counting_full, tokens, 1);
  expect_exact<float>(c, limits_of(OracleKind::plain, 256), {Anchor::zero});
}

}  // namespace
