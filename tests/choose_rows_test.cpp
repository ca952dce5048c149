#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <twoheads/exec/time_calls.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <twoheads/plan/choose_rows.hpp>
#include <vector>

#include "support/instances.hpp"

namespace {

using namespace twoheads;

PlanRequest request_of(MaskKind mask, Index tokens, Index heads = 1) {
  PlanRequest request;
  request.mask = Mask{mask, 10};
  request.tokens = request.keys = tokens;
  request.heads = heads;
  request.oracle.kind = mask == MaskKind::full ? OracleKind::plain : OracleKind::causal;
  return request;
}

const std::vector<CallCost> costs{{1e-5, 0, 0}, {0, 1e-6, 0}, {0, 0, 1e-8}, {1e-4, 1e-6, 1e-9}, {1e-6, 2e-7, 3e-8}};

TEST(CallCost, IsFoundAgainFromItsOwnTimes) {
  for (const CallCost& cost : costs) {
    std::vector<CallTime> times;
    for (const Index rows : {9, 33, 129, 513}) times.push_back({rows, cost(rows)});
    const CallCost fitted = fit_call_cost(times);
    for (const Index rows : {2, 65, 4097}) EXPECT_NEAR(fitted(rows) / cost(rows), 1.0, 1e-4) << rows;
  }
}

TEST(CallCost, HasNoTermBelowZero) {
  // A parabola through these would begin far below 0.
  const CallCost cost = fit_call_cost(std::vector<CallTime>{{10, 1e-6}, {100, 1e-3}, {200, 1.1e-3}});
  EXPECT_GE(cost.fixed, 0);
  EXPECT_GE(cost.per_row, 0);
  EXPECT_GE(cost.per_pair, 0);
  EXPECT_GT(cost(50), 0);
}

TEST(CallCost, OfASingleTimeGivesThatTime) {
  EXPECT_NEAR(fit_call_cost(std::vector<CallTime>{{7, 3e-5}})(7), 3e-5, 1e-12);
  EXPECT_NEAR(fit_call_cost(std::vector<CallTime>{{7, 3e-5}, {7, 3e-5}})(7), 3e-5, 1e-12);
}

TEST(CallCost, RefusesTimesThatAreNone) {
  EXPECT_THROW(static_cast<void>(fit_call_cost({})), SpecError);
  EXPECT_THROW(static_cast<void>(fit_call_cost(std::vector<CallTime>{{7, 0.0}})), SpecError);
  EXPECT_THROW(static_cast<void>(fit_call_cost(std::vector<CallTime>{{7, NAN}})), SpecError);
  EXPECT_THROW(static_cast<void>(fit_call_cost(std::vector<CallTime>{{0, 1.0}})), SpecError);
}

TEST(ChooseRows, TakesTheLeastPredictedTotalAndTiesToFewerRows) {
  for (const MaskKind mask : {MaskKind::full, MaskKind::causal, MaskKind::window})
    for (const Index tokens : {1, 2, 3, 100, 1000, 65536})
      for (const CallCost& cost : costs) {
        const RowsChoice choice = choose_rows(request_of(mask, tokens, 3), cost);
        ASSERT_FALSE(choice.candidates.empty());
        Index before = 0;
        for (const RowsCandidate& candidate : choice.candidates) {
          EXPECT_GT(candidate.rows, before);
          before = candidate.rows;
          PlanRequest request = request_of(mask, tokens, 3);
          request.oracle.rows = candidate.rows;
          EXPECT_EQ(candidate.calls, Plan(request).calls());
          EXPECT_DOUBLE_EQ(candidate.seconds, static_cast<double>(candidate.calls) * cost(candidate.rows));
          if (candidate.rows < choice.chosen.rows) {
            EXPECT_GT(candidate.seconds, choice.chosen.seconds / 1.02) << candidate.rows;
          }
          EXPECT_LE(choice.chosen.seconds, 1.02 * candidate.seconds) << candidate.rows;
        }
      }
  // Calls that cost nothing are all alike.
  EXPECT_EQ(choose_rows(request_of(MaskKind::full, 1000), CallCost{}).chosen.rows, 2);
}

TEST(ChooseRows, FollowsTheCost) {
  // Where calls cost the same whatever their rows, one call is best; where pairs cost, a window wants short calls.
  EXPECT_EQ(choose_rows(request_of(MaskKind::full, 1000), CallCost{1e-5, 0, 0}).chosen.rows, 1000);
  EXPECT_LE(choose_rows(request_of(MaskKind::window, 65536), CallCost{1e-7, 0, 1e-8}).chosen.rows, 33);
}

TEST(ChooseRows, StaysWithinTheLimit) {
  for (const Index most : {2, 3, 64, 65, 500})
    for (const CallCost& cost : costs) {
      const RowsChoice choice = choose_rows(request_of(MaskKind::causal, 1000), cost, most);
      for (const RowsCandidate& candidate : choice.candidates) EXPECT_LE(candidate.rows, most);
      EXPECT_LE(choice.chosen.rows, most);
    }
  EXPECT_THROW(static_cast<void>(choose_rows(request_of(MaskKind::causal, 1000), CallCost{}, 1)), LimitError);
}

TEST(ChooseRows, DoesNotReadTheRowsOfTheRequest) {
  PlanRequest request = request_of(MaskKind::causal, 1000);
  const Index rows = choose_rows(request, costs[3]).chosen.rows;
  request.oracle.rows = 17;
  EXPECT_EQ(choose_rows(request, costs[3]).chosen.rows, rows);
}

TEST(ChooseRows, SaysWhyWithTheNeighbours) {
  RowsChoice choice;
  choice.candidates = {{9, 100, 3.0}, {17, 50, 2.0}, {33, 20, 0.5}, {65, 10, 0.75}, {129, 5, 9.0}};
  choice.chosen = choice.candidates[2];
  EXPECT_EQ(choice.reason(),
            "calls of 33 rows are predicted to take 500 ms on one thread (20 calls), of 17 rows 2 s (50), of 65 rows "
            "750 ms (10)");
}

TEST(TimeCalls, TakesMediansOfShortCallsFirst) {
  std::vector<Index> asked;
  const auto seconds_of = [&](Index rows) {
    asked.push_back(rows);
    return asked.size() % 5 == 1 ? 1e-3 : 1e-9 * static_cast<double>(rows);  // every fifth call is disturbed
  };
  const std::vector<CallTime> times = time_calls(seconds_of, 200);
  ASSERT_EQ(times.size(), 3U);
  for (const CallTime& time : times) EXPECT_NEAR(time.seconds, 1e-9 * static_cast<double>(time.rows), 1e-15);
  EXPECT_TRUE(std::is_sorted(asked.begin(), asked.end()));
  EXPECT_LE(asked.back(), 200);
}

TEST(TimeCalls, StopsWhereTheBudgetDoes) {
  int calls = 0;
  const auto slow = [&](Index) {
    ++calls;
    return 1.0;
  };
  EXPECT_EQ(time_calls(slow, 1000, 0.0).size(), 1U);
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(time_calls(slow, 3, 0.0).front().rows, 3);
}

TEST(ChooseOracleRows, AsksTheOracleForNoMoreThanItsLimit) {
  for (const Anchor anchor : {Anchor::mean_key, Anchor::adaptive, Anchor::gibbs})
    for (const MaskKind mask : {MaskKind::full, MaskKind::causal, MaskKind::window})
      for (const Index most : {2, 40}) {
        PlanRequest request = request_of(mask, 300, 2);
        request.anchor = anchor;
        request.oracle.heads = 2;
        Index longest = 0;
        const auto make_oracle = [&](const OracleLimits& limits) {
          longest = std::max(longest, limits.rows);
          return SmallTransformer<float>(limits);
        };
        const RowsChoice choice = choose_oracle_rows<float>(request, 4, 4, make_oracle, most);
        EXPECT_LE(choice.chosen.rows, most);
        EXPECT_LE(longest, most);
        EXPECT_GT(choice.chosen.seconds, 0);
      }
}

}  // namespace
