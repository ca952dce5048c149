// Rows shared among ranks, and what ranks fetch of each other.

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <random>
#include <span>
#include <string>
#include <twoheads/base/sort.hpp>
#include <twoheads/plan/shares.hpp>
#include <twoheads/plan/visits.hpp>
#include <utility>
#include <vector>

#include "support/seed.hpp"
#include "support/shared_plans.hpp"

namespace {

using twoheads::Fetched;
using twoheads::Index;
using twoheads::Mask;
using twoheads::MaskKind;
using twoheads::OracleKind;
using twoheads::Plan;
using twoheads::PlanRequest;
using twoheads::Rows;
using twoheads::RowShare;
using twoheads::RowShares;
using twoheads::SpecError;
using twoheads::Tile;
using twoheads::Visit;
using namespace shared_plans;

// --- shares ----------------------------------------------------------------------------------------------------------

TEST(RowShares, GiveEveryRowToOneRankAndPlacesAreDense) {
  for_each_case([](const Plan& plan) {
    for (const Index ranks : {1, 2, 3, 7, 1000}) {
      const RowShares shares = share_rows(plan, ranks);
      EXPECT_EQ(shares.ranks(), ranks);
      EXPECT_EQ(shares.rows(), plan.tokens());
      std::vector<Index> next(static_cast<std::size_t>(ranks), 0);
      Index end = 0;
      Index before = -1;
      for (const RowShare& share : shares.shares()) {
        ASSERT_EQ(share.rows.begin, end);
        ASSERT_GT(share.rows.size(), 0);
        ASSERT_NE(share.rank, before) << "neighbours of one rank are one share";
        Index& place = next.at(static_cast<std::size_t>(share.rank));
        ASSERT_EQ(share.place, place);
        place += share.rows.size();
        end = share.rows.end;
        before = share.rank;
      }
      EXPECT_EQ(end, plan.tokens());
      for (Index rank = 0; rank < ranks; ++rank) ASSERT_EQ(shares.size(rank), next[static_cast<std::size_t>(rank)]);
    }
  });
}

TEST(RowShares, EndWhereAtomsOfThePlanEnd) {
  for_each_case([](const Plan& plan) {
    const std::vector<Index> ends = atoms_of(plan);
    ASSERT_EQ(ends.back(), plan.tokens());
    EXPECT_TRUE(std::is_sorted(ends.begin(), ends.end()));
    for (const Index ranks : {2, 5}) {
      const RowShares shares = share_rows(plan, ranks);
      for (const RowShare& share : shares.shares())
        EXPECT_TRUE(std::binary_search(ends.begin(), ends.end(), share.rows.end)) << share.rows.end;
    }
    // In the kernel whole panels; else whole blocks.
    for (const Index end : ends) {
      if (end == plan.tokens()) continue;
      if (plan.oracle().kind == OracleKind::kernel) {
        EXPECT_EQ(end % 128, 0);
        continue;
      }
      Index block = 0;
      while (plan.queries_of(block).end < end) ++block;
      EXPECT_EQ(end, plan.queries_of(block).end);
    }
  });
}

TEST(RowShares, LeaveNoCallHalfFullBetweenAtoms) {
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
    for (const Mask& mask : masks_of(400)) {
      PlanRequest request;
      request.mask = mask;
      request.tokens = 400;
      request.heads = 3;
      request.oracle.kind = kind;
      request.oracle.rows = 17;
      request.oracle.heads = 4;
      const Plan plan(request);
      Index slots = 0;
      Index block = 0;
      for (const Index end : atoms_of(plan)) {
        for (; block < plan.query_blocks() && plan.queries_of(block).end <= end; ++block)
          for (Index head = 0; head < 3; ++head)
            plan.for_each_slot(block, head, [&](std::span<const Tile>) { ++slots; });
        EXPECT_TRUE(slots % 4 == 0 || end == plan.tokens()) << name(mask.kind) << " at " << end;
      }
      EXPECT_EQ(slots, plan.slots_per_layer());
    }
}

/// Pairs of the rank that has most beyond the mean of all.
double excess_pairs(const Plan& plan, const RowShares& shares) {
  const Mask& mask = plan.request().mask;
  std::vector<double> pairs(static_cast<std::size_t>(shares.ranks()), 0);
  double all = 0;
  for (const RowShare& share : shares.shares())
    for (Index query = share.rows.begin; query < share.rows.end; ++query) {
      const auto seen = static_cast<double>(mask.visible_keys(query, plan.keys()).size());
      pairs[static_cast<std::size_t>(share.rank)] += seen;
      all += seen;
    }
  return *std::max_element(pairs.begin(), pairs.end()) * static_cast<double>(shares.ranks()) / all - 1;
}

TEST(RowShares, BalancePairsWithinFivePercent) {
  constexpr Index tokens = 16384;
  for (const Mask& mask : {Mask::causal(), Mask::full(), Mask::sliding_window(256), Mask::sliding_window(4000),
                           Mask::window_and_sinks(256, 4), Mask::band(100, 30)})
    for (const auto& [kind, rows] :
         {std::pair{OracleKind::kernel, 2048}, std::pair{OracleKind::causal, 128}, std::pair{OracleKind::plain, 128}})
      for (const Index ranks : {2, 3, 4, 7}) {
        const Plan plan = plan_for(mask, tokens, kind, rows);
        const RowShares shares = share_rows(plan, ranks);
        EXPECT_LT(excess_pairs(plan, shares), 0.05)
            << name(mask.kind) << " " << mask.window << ", " << name(kind) << ", " << ranks << " ranks";
        // A rank's rows lie side by side where queries see few keys.
        const bool few_keys = mask.kind != MaskKind::causal && mask.kind != MaskKind::full && mask.window < 4000;
        EXPECT_TRUE(!few_keys || static_cast<Index>(shares.shares().size()) == ranks) << name(mask.kind);
        // Of full masks they are one share where rows divide, which visits keys least often.
        const bool even = mask.kind == MaskKind::full && kind == OracleKind::kernel && (ranks == 2 || ranks == 4);
        EXPECT_TRUE(!even || static_cast<Index>(shares.shares().size()) == ranks);
        Index most = 0;
        for (Index rank = 0; rank < ranks; ++rank) most = std::max(most, shares.size(rank));
        EXPECT_LT(static_cast<double>(most * ranks), 1.25 * tokens) << name(mask.kind) << ", " << ranks << " ranks";
      }
}

TEST(RowShares, AreTheSameOnRepeatedCalls) {
  for_each_case([](const Plan& plan) {
    const RowShares first = share_rows(plan, 5);
    const RowShares second = share_rows(Plan(plan.request()), 5);
    ASSERT_EQ(first.shares().size(), second.shares().size());
    for (std::size_t i = 0; i < first.shares().size(); ++i) {
      EXPECT_EQ(first.shares()[i].rows, second.shares()[i].rows);
      EXPECT_EQ(first.shares()[i].rank, second.shares()[i].rank);
    }
  });
}

TEST(RowShares, FindWhatRanksHaveOfARange) {
  const RowShares shares(std::vector<Index>{4, 6, 9, 15, 16}, std::vector<Index>{1, 0, 1, 1, 2}, 4);
  EXPECT_EQ(shares.size(1), 13);
  EXPECT_EQ(shares.size(3), 0);
  std::map<Index, std::pair<Index, Index>> found;
  shares.for_each_own(1, [&](const RowShare& share) {
    for (Index i = 0; i < share.rows.size(); ++i) found[share.rows.begin + i] = {1, share.place + i};
  });
  EXPECT_EQ(found.size(), 13U);
  for (Index begin = 0; begin <= 16; ++begin)
    for (Index end = begin; end <= 16; ++end) {
      Index next = begin;
      shares.for_each_share({begin, end}, [&](const RowShare& share) {
        EXPECT_EQ(share.rows.begin, next);
        EXPECT_GT(share.rows.size(), 0);
        next = share.rows.end;
        if (share.rank != 1) return;
        for (Index i = 0; i < share.rows.size(); ++i) EXPECT_EQ(found.at(share.rows.begin + i).second, share.place + i);
      });
      EXPECT_EQ(next, end);
    }
}

TEST(RowShares, AreRefusedWhereTheyMakeNoSense) {
  const std::vector<Index> two{4, 6};
  EXPECT_THROW(RowShares(two, std::vector<Index>{0}, 2), SpecError);
  EXPECT_THROW(RowShares(two, std::vector<Index>{0, 2}, 2), SpecError);
  EXPECT_THROW(RowShares(two, std::vector<Index>{0, -1}, 2), SpecError);
  EXPECT_THROW(RowShares(two, std::vector<Index>{0, 0}, 0), SpecError);
  EXPECT_THROW(RowShares(std::vector<Index>{4, 4}, std::vector<Index>{0, 1}, 2), SpecError);
  EXPECT_THROW(RowShares({}, {}, 2), SpecError);
  EXPECT_THROW(static_cast<void>(share_rows(plan_for(Mask::causal(), 10, OracleKind::kernel, 4), 0)), SpecError);
  EXPECT_THROW(static_cast<void>(twoheads::share_evenly(5, 0)), SpecError);
  PlanRequest chunk = plan_for(Mask::causal(), 10, OracleKind::kernel, 4).request();
  chunk.past = 3;
  chunk.keys = 0;
  EXPECT_THROW(static_cast<void>(share_rows(Plan(chunk), 2)), SpecError);
}

TEST(RowShares, ShareAMemoryEvenlyAlsoAmongMoreRanksThanRows) {
  const RowShares shares = twoheads::share_evenly(11, 4);
  EXPECT_EQ((std::vector<Index>{shares.size(0), shares.size(1), shares.size(2), shares.size(3)}),
            (std::vector<Index>{3, 3, 3, 2}));
  const RowShares few = twoheads::share_evenly(2, 5);
  EXPECT_EQ(few.rows(), 2);
  EXPECT_EQ(few.ranks(), 5);
  EXPECT_EQ(few.size(4), 0);
}

// --- what is fetched -------------------------------------------------------------------------------------------------

TEST(Visits, AreTheOwnRowsOfEachQueryBlockInOrder) {
  for_each_case([](const Plan& plan) {
    const RowShares shares = share_rows(plan, 3);
    for (Index rank = 0; rank < 3; ++rank) {
      std::vector<Visit> expected;
      for (Index block = 0; block < plan.query_blocks(); ++block)
        shares.for_each_share(plan.queries_of(block), [&](const RowShare& share) {
          if (share.rank == rank) expected.push_back({block, share.rows});
        });
      std::vector<Visit> found;
      shares.for_each_own(rank, [&](const RowShare& share) {
        for_each_visit(plan, share.rows, share.rows.size(), [&](const Visit& visit) {
          for_each_block(plan, visit, [&](Index block, Rows queries) { found.push_back({block, queries}); });
        });
      });
      EXPECT_EQ(found, expected) << "rank " << rank;
    }
  });
}

/// The keys that some of the queries see, marked one by one.
std::vector<char> marked(const Mask& mask, Rows queries, Index keys) {
  std::vector<char> seen(static_cast<std::size_t>(keys), 0);
  for (Index query = queries.begin; query < queries.end; ++query)
    mask.for_each_range(query, keys, [&](Rows range) {
      for (Index key = range.begin; key < range.end; ++key) seen[static_cast<std::size_t>(key)] = 1;
    });
  return seen;
}

TEST(KeysSeen, AreThoseOfTheMask) {
  constexpr Index tokens = 151;
  for (const Mask& mask : masks_of(tokens))
    for (const Index length : {1, 2, 13, 64, 151})
      for (Index begin = 0; begin + length <= tokens; begin += 7) {
        const std::vector<char> expected = marked(mask, {begin, begin + length}, tokens);
        std::vector<char> found(expected.size(), 0);
        Index last = -1;
        for (const Rows& range : keys_seen(mask, {begin, begin + length}, tokens)) {
          EXPECT_GT(range.begin, last) << "a gap between ranges";
          EXPECT_FALSE(range.empty());
          for (Index key = range.begin; key < range.end; ++key) found.at(static_cast<std::size_t>(key)) = 1;
          last = range.end;
        }
        ASSERT_EQ(found, expected) << name(mask.kind) << " " << begin << " " << length;
      }
}

TEST(FetchCounter, CountsRowsOfOthersAndTheRangesTheyLieIn) {
  std::mt19937_64 draws(seed_or(11));
  std::vector<Index> ends;
  std::vector<Index> owners;
  for (Index end = 1; end < 120; end += 1 + static_cast<Index>(draws() % 17)) {
    ends.push_back(end);
    owners.push_back(static_cast<Index>(draws() % 4));
  }
  const RowShares shares(ends, owners, 5);
  for (const Index piece : {1, 4, 1000}) {
    const twoheads::FetchCounter counter(shares, piece);
    for (Index rank = 0; rank < 5; ++rank)
      for (Index begin = 0; begin < shares.rows(); ++begin)
        for (Index end = begin; end <= shares.rows(); ++end) {
          Fetched expected;
          shares.for_each_share({begin, end}, [&](const RowShare& share) {
            if (share.rank == rank) return;
            expected += {share.rows.size(), twoheads::ceil_div(share.rows.size(), piece)};
          });
          ASSERT_EQ(counter.fetched(rank, {begin, end}), expected) << rank << ": " << begin << ".." << end;
        }
  }
  EXPECT_THROW(twoheads::FetchCounter(shares, 0), SpecError);
}

// --- sorting ---------------------------------------------------------------------------------------------------------

TEST(SortStably, KeepsTheOrderOfEquals) {
  // Keys that come back, and where they stood.
  std::vector<std::pair<Index, Index>> items;
  for (Index place = 0; place < 1000; ++place) items.emplace_back(place * place % 13, place);
  std::vector<std::pair<Index, Index>> expected = items;
  std::sort(expected.begin(), expected.end());
  twoheads::detail::sort_stably(items, [](const auto& a, const auto& b) { return a.first < b.first; });
  EXPECT_EQ(items, expected);

  std::vector<std::string> none;
  twoheads::detail::sort_stably(none, std::less<>());
  EXPECT_TRUE(none.empty());
}

}  // namespace
