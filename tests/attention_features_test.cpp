// What today's models ask of attention, on the grid of oracle calls: learned sinks, any pairs as a mask, ALiBi, a bias
// of scores, one query at a time. Held against the definitions in long double, beside the error of direct evaluation in
// the same scalar.

#include <gtest/gtest.h>

#include <cstddef>
#include <string>
#include <twoheads/base/draws.hpp>
#include <twoheads/plan/one_query.hpp>
#include <vector>

#include "support/attention_features.hpp"
#include "support/ceil_of.hpp"
#include "support/instances.hpp"
#include "support/sanitized.hpp"

namespace {

using namespace twoheads;
using namespace attention_features;

/// Any pairs; every fifth query sees nothing, and neighbours often see the same.
Mask random_pairs(Index queries, Index keys, std::uint64_t number) {
  detail::Draws draws(seed() + number);
  std::vector<std::vector<bool>> rows;
  for (Index query = 0; query < queries; ++query) {
    if (query > 0 && draws.below(2) == 0) {
      rows.push_back(rows.back());
      continue;
    }
    std::vector<bool> row(static_cast<std::size_t>(keys), false);
    bool on = draws.below(2) == 0;
    for (std::size_t key = 0; key < row.size(); ++key) {
      if (draws.below(4) == 0) on = !on;
      row[key] = on;
    }
    if (draws.below(5) == 0) row.assign(row.size(), false);
    rows.push_back(row);
  }
  return Mask::pairs(queries, keys,
                     [&](Index i, Index j) { return rows[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)]; });
}

const std::vector<double> logits = sanitized ? std::vector<double>{1000} : std::vector<double>{1, 30, 300, 1000};

// --- laws ------------------------------------------------------------------------------------------------------------

TEST(AttentionFeatures, LearnedSinksAreAPartialMore) {
  for (const double logit : logits) {
    expect_all_near_direct({Mask::causal(), 21, 0, 2, 2, logit, true});
    expect_all_near_direct({Mask::full(), 6, 0, 4, 2, logit, true});
    expect_all_near_direct({Mask::window_and_sinks(5, 2), 30, 0, 2, 1, logit, true});
    expect_all_near_direct({Mask::full(), 1, 17, 4, 2, logit, true});
    expect_all_near_direct({random_pairs(19, 23, 3), 19, 0, 2, 1, logit, true, false, Bias::none, false, 23});
  }
}

TEST(AttentionFeatures, AnyPairsAreEvaluatedAndQueriesThatSeeNothingAreZero) {
  for (std::uint64_t number = 0; number < 6; ++number)
    for (const double logit : {4.0, 1000.0}) {
      const Index queries = 3 + static_cast<Index>(7 * number), keys = 40 - static_cast<Index>(5 * number);
      Case c{random_pairs(queries, keys, number), queries, 0, 2, 1, logit};
      c.keys = keys;
      expect_all_near_direct(c);
    }
  Case blind{Mask::pairs(5, 4, [](Index, Index) { return false; }), 5};
  blind.keys = 4;
  expect_all_near_direct(blind);
}

TEST(AttentionFeatures, AlibiIsAColumnOfKeys) {
  for (const double logit : logits) {
    expect_all_near_direct({Mask::causal(), 40, 0, 2, 1, logit, false, true});
    expect_all_near_direct({Mask::sliding_window(7), 50, 0, 3, 1, logit, false, true});
    expect_all_near_direct({Mask::window_and_sinks(6, 3), 50, 0, 2, 1, logit, true, true});
    expect_all_near_direct({Mask::causal(), 4, 30, 2, 2, logit, false, true});
    expect_all_near_direct({Mask::causal(), 1, 60, 4, 2, logit, false, true});
  }
}

TEST(AttentionFeatures, AlibiKeepsItsDigitsFarFromTheBeginning) {
  const Case c{Mask::sliding_window(20), 6, 120'000, 2, 1, 4, false, true};
  const Problem<float> problem(c);
  for (const Setting& s : settings()) expect_near_direct(problem, s, text_of(c));
}

TEST(AttentionFeatures, ABiasIsAddedAndItsInfinityHides) {
  for (const double logit : logits)
    for (const Bias bias : {Bias::by_key, Bias::by_query, Bias::by_head})
      for (const bool hides : {false, true}) {
        expect_all_near_direct({Mask::full(), 12, 0, 2, 1, logit, false, false, bias, hides});
        expect_all_near_direct({Mask::causal(), 24, 0, 2, 2, logit, false, false, bias, hides});
        expect_all_near_direct({Mask::full(), 3, 0, 2, 1, logit, false, false, bias, hides, 50});
      }
}

TEST(AttentionFeatures, AnchorsCountWhatABiasAdds) {
  for (const double raised : {-400.0, 400.0})
    for (const Bias bias : {Bias::by_key, Bias::by_query})
      for (const Anchor anchor : {Anchor::mean_key, Anchor::gibbs}) {
        const Case c{Mask::full(), 12, 0, 2, 1, 4, false, false, bias, false, 20, raised};
        const SimulationCounts counts =
            expect_near_direct(Problem<float>(c), {OracleKind::plain, 9, 1, 1, anchor}, text_of(c));
        EXPECT_EQ(counts.repeats, 0) << text_of(c) << ", anchor " << name(anchor);
      }
}

TEST(AttentionFeatures, AllOfThemAtOnce) {
  for (const double logit : logits)
    for (const Bias bias : {Bias::by_key, Bias::by_query, Bias::by_head}) {
      expect_all_near_direct({Mask::causal(), 15, 9, 4, 2, logit, true, true, bias});
      for (const bool hides : {false, true})
        expect_all_near_direct({Mask::window_and_sinks(5, 2), 20, 0, 2, 1, logit, true, true, bias, hides});
      Case c{random_pairs(14, 20, 5), 14, 0, 2, 1, logit, true, false, bias};
      c.keys = 20;
      expect_all_near_direct(c);
    }
}

// --- one query at a time ---------------------------------------------------------------------------------------------

struct Seen {
  Mask mask;
  Index keys = 0;  ///< that the last of 71 tokens sees
};

TEST(AttentionFeatures, TheQueryHeadsOfOneQueryShareACall) {
  const std::vector<Seen> masks{{Mask::causal(), 71},           {Mask::full(), 71},
                                {Mask::sliding_window(20), 20}, {Mask::window_and_sinks(10, 4), 14},
                                {Mask::band(8, 3), 9},          {Mask::window_and_sinks(2, 1), 3}};
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
    for (const Index heads : {1, 2, 3})
      for (const Index rows : {9, 33})
        for (const Index group : {1, 4})
          for (const Seen& seen : masks) {
            const Case c{seen.mask, 1, 70, 2 * group, 2};
            const Setting s{kind, rows, heads};
            const std::string what = text_of(c);
            const SimulationCounts counts = expect_near_direct(Problem<double>(c), s, what);
            const bool straight = kind == OracleKind::plain && seen.keys <= rows;
            const Index room = kind == OracleKind::plain ? rows - 1 : rows - group;
            const Index tiles = straight ? 1 : ceil_of(seen.keys, room);
            EXPECT_EQ(counts.calls - counts.repeats, ceil_of(tiles * 2, heads)) << what << text_of(s);
            EXPECT_EQ(counts.jobs, tiles * 2) << what << text_of(s);
            PlanRequest request{c.mask, 1, 71, c.heads, 1, limits_of(s)};
            request.past = 70;
            const Plan plan(one_query_request(request, c.kv_heads));
            EXPECT_EQ(counts.calls - counts.repeats, plan.calls()) << what << text_of(s);
            EXPECT_EQ(counts.jobs, plan.jobs()) << what << text_of(s);
          }
}

TEST(AttentionFeatures, OneQueryIsNearDirectForAllSizesOfLogits) {
  for (const double logit : logits) {
    expect_all_near_direct({Mask::causal(), 1, 40, 6, 2, logit});
    expect_all_near_direct({Mask::window_and_sinks(9, 3), 1, 40, 6, 3, logit});
    expect_all_near_direct({random_pairs(1, 40, 2), 1, 0, 4, 1, logit, false, false, Bias::none, false, 40});
  }
  const Mask nothing = Mask::pairs(1, 4, [](Index, Index) { return false; });
  expect_all_near_direct({nothing, 1, 0, 2, 1, 1, false, false, Bias::none, false, 4});
}

TEST(AttentionFeatures, OneQueryIsEvaluatedOverKeysThatAreHeldInPart) {
  const Case c{Mask::window_and_sinks(6, 3), 1, 50, 4, 2};
  const Problem<double> problem(c);
  const AttentionInput<double> all = problem.input();
  const Index first = 40, late = 51 - first;
  Matrix<double> k(3 + late, all.k.cols()), v(3 + late, all.v.cols());
  k << all.k.topRows(3), all.k.bottomRows(late);
  v << all.v.topRows(3), all.v.bottomRows(late);
  const AttentionInput<double> part{all.spec,          0,           all.q,         view(k), view(v), no_rows<double>(),
                                    no_rows<double>(), all.weights, {50, 3, first}};
  SmallTransformer<double> oracle(limits_of({OracleKind::plain, 5}));
  GridAttention<SmallTransformer<double>, Serial> attend(oracle);
  Matrix<double> out(1, problem.spec().heads * value_dim);
  attend(part, span(out));
  EXPECT_LE(problem.error(out), 1e-12);
}

// --- calls and refusals ----------------------------------------------------------------------------------------------

TEST(AttentionFeatures, CallsAreThoseOfAPlanThatHasLogWeightsWhereSinksAreJoined) {
  for (const bool sinks : {false, true})
    for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
      for (const Index keys : {12, 40}) {
        const Case c{Mask::full(), 4, 0, 2, 1, 4, sinks, false, Bias::by_query, true, keys};
        const Setting s{kind, 12, 2};
        const SimulationCounts counts = expect_near_direct(Problem<double>(c), s, text_of(c));
        PlanRequest request{c.mask, c.queries, keys, c.heads, 1, limits_of(s)};
        request.log_weights = sinks;
        const Plan plan(request);
        EXPECT_EQ(counts.calls - counts.repeats, plan.calls());
        EXPECT_EQ(plan.straight(), !sinks && kind == OracleKind::plain && keys == 12);
      }
}

TEST(AttentionFeatures, ChecksumsGoOnWorking) {
  SimulationOptions options;
  options.checksums = true;
  for (const Bias bias : {Bias::by_key, Bias::by_query})
    for (const OracleKind kind : {OracleKind::plain, OracleKind::causal}) {
      const Case c{Mask::causal(), 20, 0, 2, 1, 30, true, true, bias};
      expect_near_direct(Problem<float>(c), {kind, 9, 2}, text_of(c), options);
      const Case one{Mask::causal(), 1, 30, 4, 1, 30};
      expect_near_direct(Problem<float>(one), {kind, 9, 2}, text_of(one), options);
    }
}

std::string refusal(const Case& c, const OracleLimits& limits, const SimulationOptions& options = {}) {
  const Problem<float> problem(c);
  SmallTransformer<float> oracle(limits);
  GridAttention<SmallTransformer<float>, Serial> attend(oracle, options);
  Matrix<float> out(problem.rows(), problem.spec().heads * value_dim);
  try {
    attend(problem.input(), span(out));
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(AttentionFeatures, WhatCannotBeDoneIsRefusedWithTheReason) {
  const OracleLimits limits = limits_of({OracleKind::plain, 9});
  const Case biased{Mask::full(), 12, 0, 2, 1, 4, false, false, Bias::by_query};
  const auto expect = [&](const std::string& found, const std::string& part) {
    EXPECT_NE(found.find(part), std::string::npos) << found;
  };
  SimulationOptions sampled;
  sampled.sampling.samples = 1;
  expect(refusal(biased, limits, sampled), "expected samples 0");
  SimulationOptions barred;
  barred.error_bar_level = 0.9;
  expect(refusal({Mask::full(), 12, 0, 2, 1, 4, true}, limits, barred), "expected error_bar_level 0");
  OracleLimits narrow = limits;
  narrow.precision.tokens = Precision::bfloat16;
  narrow.precision.scores = Precision::float32;
  expect(refusal(biased, narrow), "expected tokens of float32 or wider");
  OracleLimits few = limits;
  few.key_cols = 8;
  expect(refusal(biased, few), "takes a column for each of 8");
  EXPECT_EQ(refusal({Mask::full(), 12, 0, 2, 1, 4, false, false, Bias::by_key}, few), "");
}

}  // namespace
