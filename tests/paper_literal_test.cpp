// The paper's printed constructions: every pair once, exactly the printed calls, and no construction for what has none.

#include <gtest/gtest.h>

#include <map>
#include <twoheads/model/random.hpp>
#include <twoheads/paper/paper_attention.hpp>

#include "support/instances.hpp"
#include "support/naive.hpp"
#include "support/paper_tasks.hpp"

namespace {

using namespace twoheads;
using namespace paper_tasks;

// --- laws of the terms: integers only --------------------------------------------------------------------------------

/// Adds `sign` to every pair that a call shows to a wanted query.
void count_pairs(const std::vector<CallRow>& rows, const PaperTerm& term, OracleKind kind,
                 std::map<std::pair<Index, Index>, int>& seen) {
  for (std::size_t x = 0; x < rows.size(); ++x) {
    if (!term.queries.contains(rows[x].query)) continue;
    for (std::size_t y = 0; y < (kind == OracleKind::causal ? x + 1 : rows.size()); ++y)
      if (rows[y].key != CallRow::none) seen[{rows[x].query, rows[y].key}] += term.sign;
  }
}

TEST(PaperTerms, SumToEveryVisiblePairOnceInDenominatorsAndInRatios) {
  for (const PaperTask& task : all_tasks()) {
    std::map<std::pair<Index, Index>, int> by_denominator, by_ratio;
    Index terms = 0;
    for_each_paper_term(task, 1, [&](const PaperTerm& term) {
      ++terms;
      count_pairs(term.denominator, term, task.oracle.kind, by_denominator);
      count_pairs(term.ratio, term, task.oracle.kind, by_ratio);
      EXPECT_LE(static_cast<Index>(term.denominator.size()), task.oracle.rows) << say(task);
      EXPECT_LE(static_cast<Index>(term.ratio.size()), task.oracle.rows) << say(task);
    });
    EXPECT_EQ(terms, paper_terms(task)) << say(task);
    const naive::Visible visible = sees(task.mask);
    for (Index i = 0; i < task.tokens; ++i)
      for (Index j = 0; j < task.tokens; ++j) {
        const int expected = visible(i, j) ? 1 : 0;
        ASSERT_EQ((by_denominator[{i, j}]), expected) << say(task) << ", query " << i << ", key " << j;
        ASSERT_EQ((by_ratio[{i, j}]), expected) << say(task) << ", query " << i << ", key " << j;
      }
  }
}

TEST(PaperTerms, ShowEachCountingQueryOneSyntheticRowInDenominatorCalls) {
  for (const PaperTask& task : all_tasks())
    for_each_paper_term(task, 1, [&](const PaperTerm& term) {
      for (std::size_t x = 0; x < term.denominator.size(); ++x) {
        if (!term.queries.contains(term.denominator[x].query)) continue;
        const std::size_t end = task.oracle.kind == OracleKind::causal ? x + 1 : term.denominator.size();
        int synthetic = 0;
        for (std::size_t y = 0; y < end; ++y) synthetic += term.denominator[y].key == CallRow::none ? 1 : 0;
        EXPECT_GE(synthetic, 1) << say(task);
        if (task.mask.kind != MaskKind::full) {
          EXPECT_EQ(synthetic, 1) << say(task);
        }
      }
    });
}

TEST(PaperTerms, AsPrintedWouldCountTheLocalDiagonalTwice) {
  // The print's numerator call of the upper triangle: both sides reversed, no shift, no synthetic row.
  const Rows queries{4, 8}, keys{0, 4};
  const PaperTerm lower = detail::lower_term(1, queries.begin, keys.begin, 4, queries);
  PaperTerm printed = detail::upper_term(queries, keys);
  printed.ratio.clear();
  for (Index x = 0; x < 4; ++x) printed.ratio.push_back({queries.end - 1 - x, keys.end - 1 - x});
  std::map<std::pair<Index, Index>, int> seen, mended;
  for (auto* pairs : {&seen, &mended}) count_pairs(lower.ratio, lower, OracleKind::causal, *pairs);
  count_pairs(printed.ratio, printed, OracleKind::causal, seen);
  const PaperTerm upper = detail::upper_term(queries, keys);
  count_pairs(upper.ratio, upper, OracleKind::causal, mended);
  for (Index i = 0; i < 4; ++i)
    for (Index j = 0; j < 4; ++j) {
      EXPECT_EQ((seen[{4 + i, j}]), i == j ? 2 : 1);
      EXPECT_EQ((mended[{4 + i, j}]), 1);
    }
}

// --- counts ----------------------------------------------------------------------------------------------------------

TEST(PaperCalls, AreTheClosedFormsAndAreMade) {
  for (PaperTask task : all_tasks()) {
    for (const auto& [heads, oracle_heads] : std::vector<std::pair<Index, Index>>{{1, 1}, {3, 1}, {3, 2}, {2, 5}}) {
      task.heads = heads;
      task.oracle.heads = oracle_heads;
      task.layers = 2;
      SmallTransformer<double> small(task.oracle);
      Counted<double> oracle(small);
      PaperAttention<Counted<double>> attend(oracle);
      static_cast<void>(forward(model_of(task), tokens_of(task.tokens, 3 * heads), attend));
      EXPECT_EQ(oracle.calls(), paper_calls(task)) << say(task);
      EXPECT_EQ(attend.counts().calls, oracle.calls()) << say(task);
      EXPECT_EQ(attend.counts().rounds, 2);
      EXPECT_LE(oracle.longest(), task.oracle.rows) << say(task);
    }
  }
}

TEST(PaperCalls, AreThePrintedNumbers) {
  const auto calls = [](const PaperTask& task) { return paper_calls(task).value_or(-1); };
  // T = 32: 2 T^2 = 2048; twice that for 2 heads, a quarter on an oracle of 4 heads.
  EXPECT_EQ(calls(task_of(Mask::full(), 4096, 129)), 2048);
  EXPECT_EQ(calls(task_of(Mask::full(), 4096, 129, 2)), 4096);
  EXPECT_EQ(calls(task_of(Mask::full(), 4096, 129, 1, 4)), 512);
  EXPECT_EQ(calls(task_of(Mask::causal(), 4096, 129)), 2048);
  // The example of Theorem 3.4: N 4096, H 8, L 4, H' 4, L' 2.
  PaperTask task = task_of(Mask::full(), 4096, 129, 8, 4);
  task.layers = 4;
  task.oracle.layers = 2;
  EXPECT_EQ(calls(task), 8192);
  task.oracle.rows = 128;
  EXPECT_EQ(calls(task), 8712);
  // The ceiling that the print omits: never fewer calls than layers.
  task.oracle.heads = 1000000;
  EXPECT_EQ(calls(task), 4);
  // 4 ceil((N - r) / (b - r)) + 2.
  EXPECT_EQ(calls(task_of(Mask::sliding_window(16), 256, 65)), 4 * 5 + 2);
  EXPECT_EQ(calls(task_of(Mask::sliding_window(16), 16, 65)), 2);
  EXPECT_EQ(calls(task_of(Mask::window_and_sinks(16, 4), 256, 65)), 4 * 5 + 2 + 4 * 4);
  // Cross-attention: 2 T_q T_k.
  task = task_of(Mask::full(), 100, 11);
  task.keys = 35;
  EXPECT_EQ(calls(task), 2 * 10 * 4);
  // The average case.
  task = task_of(Mask::full(), 100, 11, 3);
  task.average = true;
  EXPECT_EQ(calls(task), 2 * 10 * 3);
  EXPECT_EQ(paper_lookups(task), 10 * 3);
}

TEST(PaperCalls, BeyondSixtyFourBitsAreAnError) {
  PaperTask task = task_of(Mask::full(), Index{1} << 40, 2);
  EXPECT_THROW(static_cast<void>(paper_calls(task)), SpecError);
}

TEST(PaperCalls, DoNotDependOnTheBatch) {
  for (PaperTask task : {task_of(Mask::causal(), 33, 6, 3, 2), task_of(Mask::full(), 33, 6, 3, 4)}) {
    Matrix<double> first;
    for (const Index batch : {1, 2, 1000}) {
      task.oracle.batch = batch;
      SmallTransformer<double> small(task.oracle);
      Counted<double> oracle(small);
      PaperAttention<Counted<double>> attend(oracle);
      const Matrix<double> found = forward(model_of(task), tokens_of(task.tokens, 9), attend);
      if (batch == 1) first = found;
      EXPECT_EQ(oracle.calls(), paper_calls(task)) << say(task);
      EXPECT_EQ(found, first) << say(task) << ", batch " << batch;
    }
  }
}

// --- what the paper has no construction for --------------------------------------------------------------------------

template <class E>
void expect_refused(const Mask& mask, OracleLimits limits, const std::string& words, const PaperOptions& options = {},
                    Index memory_rows = 0) {
  PaperTask task{mask, 20, memory_rows, 1, 1, limits, options.average};
  EXPECT_FALSE(paper_calls(task).has_value()) << words;
  SmallTransformer<double> oracle(limits);
  PaperAttention<SmallTransformer<double>> attend(oracle, options);
  const Matrix<double> x = tokens_of(20, 3);
  const Matrix<double> memory = tokens_of(memory_rows, 3);
  try {
    static_cast<void>(forward(model_of({mask, 20}), x, attend, memory_rows > 0 ? &memory : nullptr));
    ADD_FAILURE() << "nothing was thrown: " << words;
  } catch (const E& error) {
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
  }
}

TEST(PaperConstructions, ThatDoNotExistAreRefusedInPlainWords) {
  const OracleLimits plain = limits_of(Mask::full(), 10);
  const OracleLimits causal = limits_of(Mask::causal(), 10);
  expect_refused<SpecError>(Mask::band(2, 2), causal, "no construction for a band mask");
  expect_refused<SpecError>(Mask::documents({12, 8}, true), causal, "no construction for a documents mask");
  expect_refused<LimitError>(Mask::full(), causal, "full mask on a causal oracle: expected a plain one");
  expect_refused<LimitError>(Mask::causal(), plain, "causal mask on a plain oracle: expected a causal one");
  expect_refused<LimitError>(Mask::sliding_window(3), plain, "window mask on a plain oracle");
  expect_refused<LimitError>(Mask::sliding_window(9), causal, "window of 9 tokens needs more tokens in a call than 9");
  expect_refused<LimitError>(Mask::window_and_sinks(5, 5), causal, "need r < b and r + s <= b");
  expect_refused<SpecError>(Mask::causal(), causal, "average case is of full attention", {TokenEncoding::raw, true});
  expect_refused<SpecError>(Mask::full(), plain, "average case is of full attention", {TokenEncoding::raw, true}, 30);
  OracleLimits residual = plain;
  residual.residual = true;
  expect_refused<LimitError>(Mask::full(), residual, "adds no residual");
}

TEST(PaperConstructions, RefuseRotaryPositionsInRawTokensOnly) {
  ModelSpec spec = paper_layer(1, 4, 1, Mask::full(), MlpKind::none, 0);
  spec.attention.rope = RopeSpec{};
  const Model<double> model = random_model<double>(spec, 1);
  const Matrix<double> x = tokens_of(20, 4);
  SmallTransformer<double> oracle(limits_of(Mask::full(), 8));
  PaperAttention<SmallTransformer<double>> raw(oracle);
  EXPECT_THROW(static_cast<void>(forward(model, x, raw)), SpecError);
  PaperAttention<SmallTransformer<double>> projected(oracle, {TokenEncoding::projected});
  const Matrix<double> found = forward(model, x, projected);
  EXPECT_LE((found - forward(model, x, DirectAttention<double>())).cwiseAbs().maxCoeff<Eigen::PropagateNaN>(), 1e-12);
}

TEST(PaperConstructions, RefuseCallsWiderThanTheOracle) {
  OracleLimits limits = limits_of(Mask::full(), 8);
  limits.width = 7;  // two heads of width 3: tokens of 2 * 3 + 2 columns
  SmallTransformer<double> oracle(limits);
  PaperAttention<SmallTransformer<double>> attend(oracle);
  EXPECT_THROW(static_cast<void>(forward(model_of({Mask::full(), 20}), tokens_of(20, 3), attend)), LimitError);
}

}  // namespace
