// Plans of windows, sinks, bands, documents, and of causal attention on plain oracles: covers counted pair by pair.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <twoheads/plan/cover.hpp>
#include <twoheads/plan/plan.hpp>
#include <vector>

#include "support/exact_plans.hpp"
#include "support/in_shape.hpp"
#include "support/memory_limit.hpp"
#include "support/sanitized.hpp"

namespace {

using namespace twoheads;
using namespace exact_plans;

// --- covers and counts -----------------------------------------------------------------------------------------------

TEST(WindowPlan, CoversEveryWindowWithAndWithoutSinksExactlyAndCountsWhatItEnumerates) {
  int cases = 0;
  for_each_size([&](Index tokens, OracleKind oracle, Index rows) {
    for (const Index r : {1, 2, 15, 16, 17, 63, 64, 65, 2000})
      for (const Index s : {0, 1, 4, 20, 70}) {
        // Of a thousand tokens, each window meets two numbers of sinks.
        if (tokens == 1000 && s != 4 && s != (r % 2 == 0 ? 0 : 70)) continue;
        expect_exact(request_of(Mask::window_and_sinks(r, s), tokens, oracle, rows));
        ++cases;
      }
  });
  EXPECT_EQ(cases, sanitized ? 4 * 12 * 45 : 5 * 12 * 45 + 12 * 18);
}

TEST(WindowPlan, CoversBandsExactlyOnBothSidesAndToEitherEnd) {
  for_each_size([&](Index tokens, OracleKind oracle, Index rows) {
    for (const Index left : {0, 1, 15, 64, 2000})
      for (const Index right : {0, 1, 16, 63, 2000}) {
        if (tokens == 1000 && (left + right) % 2 != 0) continue;
        expect_exact(request_of(Mask::band(left, right), tokens, oracle, rows));
      }
  });
}

TEST(WindowPlan, CoversCausalAttentionExactlyOnAPlainOracle) {
  for_each_size([&](Index tokens, OracleKind oracle, Index rows) {
    if (oracle == OracleKind::causal) return;
    const PlanRequest request = request_of(Mask::causal(), tokens, oracle, rows);
    const TilingCounts found = expect_exact(request);
    // A rectangle for each pair of blocks, and for each block its levels of squares and its diagonal.
    const Index t = (tokens + rows - 2) / (rows - 1);
    const Index levels = static_cast<Index>(std::ceil(std::log2(static_cast<double>(rows - 1))));
    EXPECT_LE(found.slots, t * (t - 1) / 2 + t * levels + t) << text_of(request);
  });
}

TEST(ChunkPlan, CoversQueriesAfterAPastExactlyUnderAllMasksOfASequence) {
  for (const Index tokens : {1, 2, 5, 17, 40})
    for (const Index past : {1, 3, 16, 50})
      for (const Index rows : {2, 3, 9, 17, 64})
        for (const OracleKind oracle : {OracleKind::plain, OracleKind::causal}) {
          if (sanitized && tokens + past > 40) continue;
          const auto expect = [&](const Mask& mask, bool log_weights = false) {
            PlanRequest request = request_of(mask, tokens, oracle, rows);
            request.past = past;
            request.log_weights = log_weights;
            expect_exact_with_rows(request);
            EXPECT_FALSE(log_weights && Plan(request).straight()) << text_of(request);
          };
          for (const bool log_weights : {false, true}) {
            expect(Mask::full(), log_weights);
            expect(Mask::causal(), log_weights);
          }
          for (const Index r : {1, 4, 16, 90})
            for (const Index s : {0, 1, 5, 20}) expect(Mask::window_and_sinks(r, s));
          for (const Index left : {0, 3, 20, 90})
            for (const Index right : {0, 1, 8, 90}) expect(Mask::band(left, right));
        }
}

// --- any pairs -------------------------------------------------------------------------------------------------------

TEST(BlocksPlan, CoversAnyPairsExactly) {
  for (const Index queries : {1, 3, 20, 65})
    for (const Index keys : {1, 7, 50})
      for (const Index along : {1, 4, 16})
        for (const Index down : {0, 3, 16})
          for (const Index rows : {2, 3, 9, 40})
            for (const OracleKind oracle : {OracleKind::plain, OracleKind::causal}) {
              const auto number = static_cast<std::uint64_t>(queries + 100 * keys + 7 * along + down);
              PlanRequest request = request_of(random_pairs(queries, keys, along, down, number), queries, oracle, rows);
              request.keys = keys;
              expect_exact_with_rows(request);
            }
}

TEST(BlocksPlan, WholeBlocksAreSlotsOfTheirOwnAndHalvingFindsTriangles) {
  // Blocks of 16: one call each where calls take 16 tokens.
  const std::vector<std::pair<Index, Index>> pairs{{0, 0}, {1, 0}, {1, 3}, {3, 2}};
  PlanRequest request = request_of(Mask::block_pairs(64, 64, 16, pairs), 64, OracleKind::plain, 17);
  EXPECT_EQ(expect_exact(request), (TilingCounts{4, 4, 64, 1}));
  // Causal pairs, query by query: what halving a triangle takes.
  request.mask = Mask::pairs(64, 64, [](Index query, Index key) { return key <= query; });
  request.oracle.rows = 65;
  const Index slots = expect_exact(request).slots;
  request.mask = Mask::causal();
  EXPECT_LE(slots, expect_exact(request).slots + 1);
  EXPECT_EQ(Plan(request).paper_calls(), std::nullopt);
}

TEST(BlocksPlan, AMaskThatShowsNothingHasNoCall) {
  PlanRequest request = request_of(Mask::pairs(9, 9, [](Index, Index) { return false; }), 9, OracleKind::causal, 5);
  const Plan plan(request);
  EXPECT_EQ(check_cover(plan), "exact");
  EXPECT_EQ(plan.calls(), 0);
  EXPECT_EQ(plan.rows_used(), 0);
}

TEST(DocumentsPlan, CoversDocumentsExactlyWholeAndCausalInside) {
  for_each_size([&](Index tokens, OracleKind oracle, Index rows) {
    for (const std::vector<Index>& lengths : documents_of(tokens))
      for (const bool causal : {false, true})
        expect_exact(request_of(Mask::documents(lengths, causal), tokens, oracle, rows));
  });
}

TEST(DocumentsPlan, ShortDocumentsThatFitACallTogetherShareASlot) {
  // 32 documents of 2 tokens on 65 rows: one slot of whole documents on the oracle of their own kind.
  const Mask whole = Mask::documents(std::vector<Index>(32, 2), false);
  EXPECT_EQ(expect_exact(request_of(whole, 64, OracleKind::plain, 65)), (TilingCounts{32, 1, 64, 32}));
  // On a causal one a slot of lower triangles, and 32 upper ones of a row each that share another.
  EXPECT_EQ(expect_exact(request_of(whole, 64, OracleKind::causal, 65)), (TilingCounts{64, 2, 96, 32}));
  const Mask inside = Mask::documents(std::vector<Index>(32, 2), true);
  EXPECT_EQ(expect_exact(request_of(inside, 64, OracleKind::causal, 65)), (TilingCounts{32, 1, 64, 32}));
}

TEST(DocumentsPlan, AQueryBlockOfShortDocumentsHoldsThoseThatFitACallAndTheNextWouldNot) {
  const std::vector<Index> lengths{5, 3, 8, 1, 7, 7, 2, 16, 15, 1, 1, 9, 6, 4};
  for (const OracleKind oracle : {OracleKind::plain, OracleKind::causal}) {
    const Plan plan(request_of(Mask::documents(lengths, false), 85, oracle, 17));
    std::vector<Index> found;
    for (Index block = 0; block < plan.query_blocks(); ++block) found.push_back(plan.queries_of(block).size());
    EXPECT_EQ(found, (std::vector<Index>{16, 15, 2, 16, 16, 16, 4})) << name(oracle);
  }
}

TEST(WindowTiling, CountsEqualEnumerationAlsoWhereTheMaskCouldBeSimpler) {
  for (const Index tokens : {1, 2, 3, 7, 50, 120})
    for (const Index rows : {2, 3, 4, 9, 17, 64})
      for (const OracleKind oracle : {OracleKind::plain, OracleKind::causal}) {
        for (const Index r : {1, 2, 3, 8, 16, 49, 50, 500})
          for (const Index s : {0, 1, 2, 7, 20, 500}) {
            if (r > tokens && r != 500) continue;
            const PlanRequest request = request_of(Mask::window_and_sinks(r, s), tokens, oracle, rows);
            expect_counts(WindowTiling{tokens, r - 1, 0, s, rows, oracle}, request);
          }
        for (const Index left : {0, 3, 119})
          for (const Index right : {0, 1, 2, 15, 16, 49, 500})
            expect_counts(WindowTiling{tokens, left, right, 0, rows, oracle},
                          request_of(Mask::band(left, right), tokens, oracle, rows));
      }
}

// --- bounds on calls -------------------------------------------------------------------------------------------------

TEST(WindowPlan, CallsOfAShortWindowAreLinearInTheTokens) {
  // log2 of a window of 64 is 6: a plain oracle takes a slot a level and one for the diagonal.
  for (const OracleKind oracle : {OracleKind::causal, OracleKind::plain}) {
    const double each = oracle == OracleKind::causal ? 2.6 : 2.6 * (1 + 6);
    for (Index tokens = Index{1} << 14; tokens <= Index{1} << 20; tokens *= 2) {
      const Plan plan(request_of(Mask::window_and_sinks(64, 4), tokens, oracle, 512));
      const Plan twice(request_of(Mask::window_and_sinks(64, 4), 2 * tokens, oracle, 512));
      const auto calls = static_cast<double>(plan.calls());
      EXPECT_LE(calls, each * static_cast<double>(tokens) / 512) << name(oracle) << ", " << tokens << " tokens";
      EXPECT_LE(static_cast<double>(twice.calls()), 2.02 * calls) << name(oracle) << ", " << tokens << " tokens";
    }
  }
}

TEST(WindowPlan, OfACausalOracleTakesTwoSlotsForAllSegmentsThatFitACall) {
  // c = floor((R - 1 - s) / r) segments of r queries.
  for (const auto& [r, s, rows] :
       {std::array<Index, 3>{16, 0, 65}, {16, 4, 65}, {15, 3, 64}, {1, 0, 17}, {7, 8, 129}}) {
    const Index c = (rows - 1 - s) / r;
    const Index blocks = 9;
    const Index tokens = r + s + blocks * c * r;
    const Plan plan(request_of(Mask::window_and_sinks(r, s), tokens, OracleKind::causal, rows));
    const Plan first(request_of(Mask::causal(), r + s, OracleKind::causal, rows));
    EXPECT_EQ(first.slots(), 1);
    // A window of 1 has no strict upper triangle.
    EXPECT_EQ(plan.slots(), 1 + (r == 1 ? 1 : 2) * blocks) << "r " << r << ", s " << s << ", " << rows << " rows";
    EXPECT_EQ(plan.jobs_per_slot(), c) << "r " << r << ", s " << s << ", " << rows << " rows";
  }
}

TEST(WindowPlan, SinksRideInTheSlotsOfLowerTrianglesUpToHalfOfACausalOraclesRowsAndAreRectanglesBeyond) {
  for (const Index rows : {3, 17, 18, 65})
    for (const Index s : {1, 2, 7, 8, 9, 31, 32, 33})
      for (const OracleKind oracle : {OracleKind::plain, OracleKind::causal}) {
        const Plan plan(request_of(Mask::window_and_sinks(4, s), 200, oracle, rows));
        Index riding = 0;
        for (Index block = 0; block < plan.query_blocks(); ++block)
          plan.for_each_tile(block, [&](const Tile& tile) { riding = std::max(riding, tile.sinks.size()); });
        const bool ride = oracle == OracleKind::causal && s <= (rows - 1) / 2;
        EXPECT_EQ(riding, ride ? s : 0) << s << " sinks on a " << name(oracle) << " oracle of " << rows << " rows";
      }
}

TEST(WindowPlan, AThousandMillionTokensAreCountedWithoutEnumeration) {
  const MemoryLimit limit;
  const Index tokens = 1'000'000'000;
  const PlanRequest window = request_of(Mask::window_and_sinks(2, 1), tokens, OracleKind::causal, 4);
  const Plan plan(window);
  // Segments of 2 queries in slots of 2 rows beside sink and synthetic key: a lower triangle; the upper ones are of one
  // row. The first 3 queries are a block of their own.
  EXPECT_EQ(plan.slots(), 1 + 2 * 499'999'999);
  EXPECT_EQ(plan.query_blocks(), 1 + 499'999'999);
  Index slots = 0;
  for (const Index block : {Index{0}, Index{250'000'000}, plan.query_blocks() - 1})
    plan.for_each_slot(block, [&](std::span<const Tile> slot) {
      EXPECT_LE(slot.size(), 2U);
      ++slots;
    });
  EXPECT_EQ(slots, 1 + 2 + 2);
  for (const OracleKind oracle : {OracleKind::plain, OracleKind::causal})
    for (const Mask& mask : {Mask::sliding_window(5000), Mask::window_and_sinks(100, 7), Mask::band(1000, 30)})
      EXPECT_GT(Plan(request_of(mask, tokens, oracle, 65)).calls(), tokens / 65);
  EXPECT_GT(Plan(request_of(Mask::causal(), tokens, OracleKind::plain, 65)).calls(), tokens / 64 * (tokens / 130));
}

TEST(WindowPlan, EnumeratesAMillionTokensWithoutStoringTiles) {
  // Tiles of a window of 2 on three rows, stored, would be more than the process may have.
  if (sanitized) GTEST_SKIP() << "a sanitizer's own memory is not bounded";
  const MemoryLimit limit;
  const Plan plan(request_of(Mask::sliding_window(2), Index{1} << 24, OracleKind::causal, 3));
  Index tiles = 0;
  plan.for_each_job([&](const Job& job) { tiles += job.tile.keys.size() > 0 ? 1 : 0; });
  EXPECT_EQ(tiles, plan.tiles());
  EXPECT_GT(static_cast<double>(tiles) * static_cast<double>(sizeof(Job)), 1.5e9);
}

// --- the plain oracle's triangles ------------------------------------------------------------------------------------

TEST(HalvedTriangle, ItsSquaresItsDiagonalAndWhatLiesBesideItAreItsPairsOnce) {
  for (const TileShape shape : {TileShape::lower, TileShape::strict_upper})
    for (Index queries = 1; queries <= 20; ++queries)
      for (Index keys = 1; keys <= 20; ++keys) {
        const Tile tile{{100, 100 + queries}, {200, 200 + keys}, shape};
        const detail::HalvedTriangle triangle(tile);
        std::vector<int> times(static_cast<std::size_t>(queries * keys), 0);
        const auto add = [&](const Tile& part) {
          EXPECT_EQ(part.shape, TileShape::rectangle);
          for (Index query = part.queries.begin; query < part.queries.end; ++query)
            for (Index key = part.keys.begin; key < part.keys.end; ++key)
              ++times.at(static_cast<std::size_t>((query - 100) * keys + key - 200));
        };
        add(triangle.beside);
        for (Index level = 0; level < triangle.levels(); ++level) triangle.for_each_square(level, add);
        triangle.for_each_pair(add);
        for (Index i = 0; i < queries; ++i)
          for (Index j = 0; j < keys; ++j)
            ASSERT_EQ(times[static_cast<std::size_t>(i * keys + j)], in_shape(shape, i, j) ? 1 : 0)
                << tile << ", query " << i << ", key " << j;
        EXPECT_EQ(triangle.levels(), triangle.size < 2 ? 0 : std::ceil(std::log2(static_cast<double>(triangle.size))));
      }
}

TEST(SlotFiller, ClosesASlotWhereTheNextTileDoesNotFitOrHasOtherSinks) {
  std::vector<std::vector<Tile>> slots;
  auto visit = [&](std::span<const Tile> slot) { slots.emplace_back(slot.begin(), slot.end()); };
  const auto lower = [](Index n, Rows sinks = {}) { return Tile{{0, n}, {0, n}, TileShape::lower, sinks}; };
  detail::SlotFiller filler(10, visit);
  for (const Tile& tile : {lower(4), lower(5), lower(1), lower(2, {0, 2}), lower(5, {0, 2}), lower(1, {0, 2}), lower(1),
                           Tile{{0, 3}, {0, 1}, TileShape::strict_upper}, lower(0), lower(8)})
    filler.add(tile);
  filler.close();
  filler.close();
  const std::vector<std::vector<Tile>> expected{
      {lower(4), lower(5)}, {lower(1)}, {lower(2, {0, 2}), lower(5, {0, 2})}, {lower(1, {0, 2})}, {lower(1), lower(8)}};
  EXPECT_EQ(slots, expected) << "4 + 5 and the synthetic row fill a slot; tiles without rows are left out";
}

TEST(SlotFiller, CountsTheSameSlotsWithoutTheirTiles) {
  const Tile lower{{3, 40}, {3, 40}, TileShape::lower, {0, 2}};
  const Tile upper{{3, 40}, {43, 79}, TileShape::strict_upper};
  for (const Index rows : {3, 4, 17, 100})
    for (const OracleKind kind : {OracleKind::plain, OracleKind::causal, OracleKind::kernel}) {
      TilingCounts held, counted;
      std::vector<Index> rows_held, rows_counted;
      const auto hold = [&](std::span<const Tile> slot) {
        held.add_slot(slot);
        rows_held.push_back(rows_of_slot(slot));
      };
      const auto count = [&](const SlotFill& slot) {
        counted.add_slot(slot);
        rows_counted.push_back(slot.rows);
      };
      const std::vector<Tile> both{lower, upper};
      detail::visit_triangles(std::span<const Tile>(both), kind, rows, hold);
      detail::visit_triangles(std::span<const Tile>(both), kind, rows, count);
      EXPECT_EQ(held, counted) << rows << " rows";
      EXPECT_EQ(rows_held, rows_counted) << rows << " rows";
      EXPECT_GE(held.slots, kind == OracleKind::plain && rows == 100 ? 1 : 2);
    }
}

// --- check_cover finds planted faults --------------------------------------------------------------------------------

TEST(CheckCover, NamesTheFaultOfARowThatSeesSinks) {
  const auto fault = [](std::vector<Rows> shown) { return detail::cover_of_row(9, {{0, 3}, {6, 10}}, shown); };
  EXPECT_EQ(fault({{0, 3}, {6, 10}}), "");
  EXPECT_EQ(fault({{8, 10}, {1, 3}, {6, 8}, {0, 1}}), "") << "in any order";
  EXPECT_EQ(fault({}), "query 9: key 0 lies in no tile");
  EXPECT_EQ(fault({{0, 3}}), "query 9: key 6 lies in no tile") << "the window is missing";
  EXPECT_EQ(fault({{6, 10}}), "query 9: key 0 lies in no tile") << "the sinks are missing";
  EXPECT_EQ(fault({{0, 2}, {6, 10}}), "query 9: key 2 lies in no tile") << "the last sink is missing";
  EXPECT_EQ(fault({{1, 3}, {6, 10}}), "query 9: key 0 lies in no tile") << "the first sink is missing";
  EXPECT_EQ(fault({{0, 3}, {7, 10}}), "query 9: key 6 lies in no tile");
  EXPECT_EQ(fault({{0, 3}, {6, 9}}), "query 9: key 9 lies in no tile");
  EXPECT_EQ(fault({{0, 3}, {0, 3}, {6, 10}}), "query 9: key 0 lies in two tiles") << "sinks twice";
  EXPECT_EQ(fault({{0, 3}, {2, 3}, {6, 10}}), "query 9: key 2 lies in two tiles");
  EXPECT_EQ(fault({{0, 3}, {6, 10}, {8, 9}}), "query 9: key 8 lies in two tiles");
  EXPECT_EQ(fault({{0, 4}, {6, 10}}), "query 9: a tile shows hidden keys, 0..3") << "a hidden key between";
  EXPECT_EQ(fault({{0, 3}, {5, 10}}), "query 9: a tile shows hidden keys, 5..9");
  EXPECT_EQ(fault({{0, 3}, {4, 5}, {6, 10}}), "query 9: a tile shows hidden keys, 4..4");
  EXPECT_EQ(fault({{0, 10}}), "query 9: a tile shows hidden keys, 0..9");
  EXPECT_EQ(fault({{0, 3}, {6, 11}}), "query 9: a tile shows hidden keys, 6..10");
  // Sinks that touch the window are one range with it.
  std::vector<Rows> whole{{0, 8}};
  EXPECT_EQ(detail::cover_of_row(7, {{0, 3}, {3, 8}}, whole), "");
  std::vector<Rows> twice{{0, 8}, {0, 3}};
  EXPECT_EQ(detail::cover_of_row(7, {{0, 3}, {3, 8}}, twice), "query 7: key 0 lies in two tiles");
}

TEST(WindowPlan, CountsInputsThatNoSquareOfBlocksCould) {
  PlanRequest request;
  request.mask = Mask::window_and_sinks(64, 4);
  request.tokens = 100'000'000'000;
  request.oracle.kind = OracleKind::causal;
  request.oracle.rows = 512;
  EXPECT_LE(Plan(request).calls(), static_cast<Index>(2.6e11) / 512);
}

TEST(CheckCover, NamesTheFaultOfASlot) {
  const auto fault = [](OracleKind oracle, const std::vector<Tile>& slot) {
    const Plan plan(request_of(Mask::sliding_window(3), 50, oracle, 9));
    return detail::fault_of_slot(plan, std::span<const Tile>(slot));
  };
  const auto tile = [](TileShape shape, Index n, Rows sinks = {}) { return Tile{{0, n}, {0, n}, shape, sinks}; };
  const TileShape lower = TileShape::lower, upper = TileShape::strict_upper, rectangle = TileShape::rectangle;
  EXPECT_EQ(fault(OracleKind::causal, {tile(lower, 4), tile(upper, 5)}), "");
  EXPECT_EQ(fault(OracleKind::causal, {tile(lower, 3, {0, 1}), tile(lower, 4, {0, 1})}), "");
  EXPECT_EQ(fault(OracleKind::plain, {tile(rectangle, 4), tile(rectangle, 4)}), "");
  EXPECT_EQ(fault(OracleKind::plain, {}), "a slot holds no tile");
  EXPECT_EQ(fault(OracleKind::causal, {tile(lower, 4), tile(lower, 5)}), "a slot takes 10 rows, a call has 9");
  EXPECT_EQ(fault(OracleKind::causal, {tile(lower, 4, {0, 1}), tile(lower, 4, {0, 1})}),
            "a slot takes 10 rows, a call has 9");
  EXPECT_EQ(fault(OracleKind::plain, {tile(rectangle, 9)}), "a slot takes 10 rows, a call has 9");
  EXPECT_EQ(fault(OracleKind::plain, {tile(lower, 4)}),
            "a plain oracle cannot evaluate a lower triangle of queries 0..3 and keys 0..3");
  EXPECT_EQ(fault(OracleKind::plain, {tile(rectangle, 2), tile(upper, 2)}),
            "a plain oracle cannot evaluate a strict upper triangle of queries 0..1 and keys 0..1");
  EXPECT_EQ(fault(OracleKind::causal, {tile(rectangle, 4)}),
            "a causal oracle cannot evaluate a rectangle of queries 0..3 and keys 0..3");
  EXPECT_EQ(fault(OracleKind::causal, {tile(lower, 1, {0, 1}), tile(lower, 1)}),
            "tiles of other sinks than its first share a slot: a lower triangle of queries 0..0 and keys 0..0");
  // Keys that no query of a tile sees are read as well: that of a strict upper triangle which stands before its first.
  const Tile early{{3, 6}, {-1, 2}, upper};
  EXPECT_EQ(fault(OracleKind::causal, {early}),
            "a tile lies outside of 50 keys: a strict upper triangle of queries 3..5 and keys -1..1");
  EXPECT_EQ(fault(OracleKind::plain, {Tile{{0, 2}, {49, 51}, rectangle}}),
            "a tile lies outside of 50 keys: a rectangle of queries 0..1 and keys 49..50");
  // A straight call has no synthetic row.
  const Plan straight(request_of(Mask::full(), 9, OracleKind::plain, 9));
  const std::vector<Tile> whole{tile(rectangle, 9)};
  EXPECT_EQ(detail::fault_of_slot(straight, std::span<const Tile>(whole)), "");
}

}  // namespace
