#include <gtest/gtest.h>

#include <algorithm>
#include <span>
#include <tuple>
#include <twoheads/plan/cover.hpp>
#include <twoheads/plan/plan.hpp>
#include <vector>

#include "support/ceil_of.hpp"
#include "support/in_shape.hpp"
#include "support/plan_cases.hpp"
#include "support/rows_filled.hpp"

namespace {

using namespace twoheads;
using namespace plan_cases;

// --- what the laws are held against, written by hand -----------------------------------------------------------------

std::vector<Tile> tiles_of(const Plan& plan, Index block) {
  std::vector<Tile> tiles;
  plan.for_each_tile(block, [&](const Tile& tile) { tiles.push_back(tile); });
  return tiles;
}

std::vector<std::vector<Tile>> slots_of(const Plan& plan, Index block) {
  std::vector<std::vector<Tile>> slots;
  plan.for_each_slot(block, [&](std::span<const Tile> slot) { slots.emplace_back(slot.begin(), slot.end()); });
  return slots;
}

// --- laws ------------------------------------------------------------------------------------------------------------

TEST(Tile, ShowsTheKeysThatItsShapeSays) {
  for (const TileShape shape : {TileShape::rectangle, TileShape::lower, TileShape::strict_upper})
    for (Index queries = 1; queries <= 6; ++queries)
      for (Index keys = 1; keys <= 6; ++keys) {
        const Tile tile{{10, 10 + queries}, {20, 20 + keys}, shape};
        for (Index i = 0; i < queries; ++i) {
          const Rows shown = tile.visible_keys(i);
          for (Index j = -1; j <= keys; ++j)
            EXPECT_EQ(shown.contains(20 + j), 0 <= j && j < keys && in_shape(shape, i, j))
                << tile << ", " << i << ", " << j;
        }
        EXPECT_EQ(tile.token_rows(), rows_filled(tile)) << tile;
      }
}

TEST(Plan, EveryVisiblePairLiesInExactlyOneTileAndNoHiddenPairInAny) {
  for (const Case& c : all_cases()) {
    const Plan plan(c.request());
    EXPECT_EQ(enumerate(plan, c).fault, "") << c;
    EXPECT_EQ(check_cover(plan), "exact") << c;
  }
}

TEST(Plan, CountsEqualEnumeration) {
  for (const Case& c : all_cases()) {
    const Enumerated found = enumerate(Plan(c.request()), c);
    for (const auto& [heads, layers, oracle_heads] :
         {std::tuple<Index, Index, Index>{1, 1, 1}, {3, 2, 1}, {8, 1, 3}, {5, 4, 64}})
      for (const Anchor anchor : {Anchor::zero, Anchor::mean_key, Anchor::gibbs, Anchor::adaptive}) {
        PlanRequest request = c.request();
        request.heads = heads;
        request.layers = layers;
        request.oracle.heads = oracle_heads;
        request.anchor = anchor;
        const Plan plan(request);
        const Index rounds = anchor == Anchor::gibbs && !c.fits_one_call() ? 2 : 1;
        // A call takes the next jobs of its layer until it is full.
        const Index calls = ceil_of(found.tiles * heads, oracle_heads) * rounds * layers;
        ASSERT_EQ(plan.tiles(), found.tiles) << c;
        ASSERT_EQ(plan.jobs_per_layer(), found.tiles * heads) << c;
        ASSERT_EQ(plan.jobs(), found.tiles * heads * layers) << c;
        ASSERT_EQ(plan.slots(), found.tiles) << c << ": each tile has a slot of its own";
        ASSERT_EQ(plan.slots_per_layer(), found.tiles * heads) << c;
        ASSERT_EQ(plan.jobs_per_slot(), 1) << c;
        ASSERT_EQ(plan.slots_per_call(), oracle_heads) << c;
        ASSERT_EQ(plan.rounds_per_layer(), rounds) << c << ", " << name(anchor);
        ASSERT_EQ(plan.rounds(), rounds * layers) << c << ", " << name(anchor);
        ASSERT_EQ(plan.calls(), calls) << c << ", " << name(anchor);
        const auto slots = static_cast<double>(calls * oracle_heads * c.rows);
        ASSERT_NEAR(plan.rows_used(), static_cast<double>(found.rows * heads * rounds * layers) / slots, 1e-12) << c;
      }
  }
}

TEST(Plan, TilesAreTheClosedFormsOfTheTheorems) {
  for (const Case& c : all_cases()) {
    const Plan plan(c.request());
    const Index block = c.rows - 1;
    const Index t = ceil_of(c.tokens, block);
    const Index u = ceil_of(c.keys, block);
    Index tiles = 0;
    if (c.fits_one_call())
      tiles = 1;
    else if (c.mask == MaskKind::causal)
      tiles = block == 1 ? t + t * (t - 1) / 2 : t * t;
    else if (c.oracle == OracleKind::plain)
      tiles = t * u;
    else if (block == 1)
      tiles = t * u;
    else
      tiles = 2 * t * u - (c.keys % block == 1 ? t : 0);
    // Few queries stand after the keys of a causal oracle where that takes fewer calls.
    if (c.mask == MaskKind::full && c.oracle == OracleKind::causal && c.tokens <= block)
      tiles = std::min(tiles, ceil_of(c.keys, c.rows - c.tokens));
    EXPECT_EQ(plan.tiles(), tiles) << c;
    EXPECT_EQ(plan.straight(), c.fits_one_call()) << c;
  }
}

TEST(Plan, AnInputThatFitsTheOracleTakesOneInstanceAHeadAndLayerWhateverTheAnchor) {
  for (const auto& [mask, oracle] :
       {std::pair{MaskKind::full, OracleKind::plain}, {MaskKind::causal, OracleKind::causal}})
    for (const Anchor anchor : {Anchor::zero, Anchor::mean_key, Anchor::gibbs, Anchor::adaptive})
      for (const Index tokens : {1, 63, 64}) {
        PlanRequest request = Case{mask, oracle, tokens, tokens, 64}.request();
        request.heads = 6;
        request.layers = 5;
        request.anchor = anchor;
        EXPECT_EQ(Plan(request).calls(), 6 * 5);
        EXPECT_EQ(Plan(request).rounds(), 5);
        request.oracle.heads = 4;
        EXPECT_EQ(Plan(request).calls(), 2 * 5);
        EXPECT_EQ(tiles_of(Plan(request), 0),
                  std::vector<Tile>(
                      {{{0, tokens}, {0, tokens}, mask == MaskKind::full ? TileShape::rectangle : TileShape::lower}}));
      }
  // One token more, or an oracle of the other kind, takes synthetic rows.
  EXPECT_FALSE(Plan(Case{MaskKind::full, OracleKind::plain, 65, 65, 64}.request()).straight());
  EXPECT_FALSE(Plan(Case{MaskKind::full, OracleKind::plain, 2, 65, 64}.request()).straight());
  EXPECT_FALSE(Plan(Case{MaskKind::full, OracleKind::plain, 65, 2, 64}.request()).straight());
  EXPECT_FALSE(Plan(Case{MaskKind::full, OracleKind::causal, 2, 2, 64}.request()).straight());
}

TEST(Plan, PaperCallsAreTwoForEachTileOfThePaperOverTheInstancesOfACall) {
  for (const Case& c : all_cases()) {
    PlanRequest request = c.request();
    const Index pairs = ceil_of(c.tokens, c.rows - 1) * ceil_of(c.keys, c.rows - 1);
    // Full attention on a causal oracle is not in the paper.
    const bool treated = c.mask != MaskKind::full || c.oracle == OracleKind::plain;
    const auto calls = [&] { return Plan(request).paper_calls().value_or(0); };
    EXPECT_EQ(Plan(request).paper_calls().has_value(), treated) << c;
    EXPECT_EQ(calls(), treated ? 2 * pairs : 0) << c;
    request.heads = 8;
    request.layers = 4;
    request.oracle.heads = 4;
    request.oracle.layers = 2;
    request.oracle.residual = true;
    EXPECT_EQ(calls(), treated ? 4 * 2 * pairs : 0) << c;
    request.heads = 3;
    EXPECT_EQ(calls(), treated ? 4 * ceil_of(6 * pairs, 8) : 0) << c;
  }
  // The example of docs/paper_map.md (Lemma 3.3): N = 4096, 129 rows, H = 8, L = 4, H' = 4, L' = 2.
  PlanRequest request = Case{MaskKind::full, OracleKind::plain, 4096, 4096, 129}.request();
  request.heads = 8;
  request.layers = 4;
  request.oracle.heads = 4;
  request.oracle.layers = 2;
  request.oracle.residual = true;
  EXPECT_EQ(Plan(request).paper_calls(), 8192);
  EXPECT_EQ(Plan(request).calls(), 4096);
  request.oracle.residual = false;
  request.oracle.heads = 5;
  request.packing = Packing::identity;
  EXPECT_EQ(Plan(request).calls(), 4096);
}

TEST(Plan, EveryTileFitsTheRowsOfACall) {
  for (const Case& c : all_cases()) {
    const Plan plan(c.request());
    EXPECT_LE(enumerate(plan, c).widest + (plan.straight() ? 0 : 1), c.rows) << c;
  }
}

TEST(Plan, QueryBlocksFollowOneAnotherAndTheirTilesHoldTheirQueriesAlone) {
  for (const Case& c : all_cases()) {
    const Plan plan(c.request());
    Index next = 0;
    for (Index block = 0; block < plan.query_blocks(); ++block) {
      const Rows queries = plan.queries_of(block);
      ASSERT_EQ(queries.begin, next) << c;
      ASSERT_GT(queries.size(), 0) << c;
      for (const Tile& tile : tiles_of(plan, block)) ASSERT_EQ(tile.queries, queries) << c;
      next = queries.end;
    }
    EXPECT_EQ(next, c.tokens) << c;
  }
}

TEST(Plan, JobsComeByQueryBlockThenHeadThenSlotThenTile) {
  for (const Case& c : {Case{MaskKind::full, OracleKind::plain, 50, 30, 17},
                        {MaskKind::full, OracleKind::causal, 50, 33, 17},
                        {MaskKind::causal, OracleKind::causal, 50, 50, 17},
                        {MaskKind::causal, OracleKind::causal, 9, 9, 17},
                        {MaskKind::causal, OracleKind::plain, 50, 50, 17}}) {
    PlanRequest request = c.request();
    request.heads = 3;
    request.layers = 2;
    const Plan plan(request);
    std::vector<std::tuple<Index, Index, Index, Rows, Tile>> jobs;
    plan.for_each_job(
        [&](const Job& job) { jobs.emplace_back(job.query_block, job.head, job.slot, job.block_queries, job.tile); });
    std::vector<std::tuple<Index, Index, Index, Rows, Tile>> expected;
    Index slot = 0;
    for (Index block = 0; block < plan.query_blocks(); ++block)
      for (Index head = 0; head < 3; ++head)
        for (const std::vector<Tile>& tiles : slots_of(plan, block)) {
          for (const Tile& tile : tiles) expected.emplace_back(block, head, slot, plan.queries_of(block), tile);
          ++slot;
        }
    EXPECT_EQ(jobs, expected) << c;
    EXPECT_EQ(static_cast<Index>(jobs.size()), plan.jobs_per_layer()) << c;
  }
}

// --- counts without enumeration --------------------------------------------------------------------------------------

static_assert(FullTiling{1000, 1000, 16, OracleKind::plain}.tiles() == 63 * 63);
static_assert(FullTiling{1000, 993, 16, OracleKind::causal}.tiles() == 2 * 63 * 63 - 63);
static_assert(CausalTiling{1000, 16}.tiles() == 63 * 63);
static_assert([] {
  Index tiles = 0;
  CausalTiling{1000, 16}.for_each_slot(2,
                                       [&](std::span<const Tile> slot) { tiles += static_cast<Index>(slot.size()); });
  return tiles;
}() == 5);

TEST(Plan, AKernelWithoutALimitOfRowsHasThePlanOfOneWithMoreRowsThanTokens) {
  for (const MaskKind mask : {MaskKind::full, MaskKind::causal, MaskKind::window}) {
    PlanRequest request = Case{mask, OracleKind::kernel, 1000, 1000, Index{1} << 40}.request();
    request.mask.window = 10;
    const Plan limited(request);
    request.oracle.rows = twoheads::OracleLimits::unlimited;
    const Plan plan(request);
    ASSERT_EQ(plan.query_blocks(), limited.query_blocks());
    for (Index block = 0; block < plan.query_blocks(); ++block)
      EXPECT_EQ(tiles_of(plan, block), tiles_of(limited, block));
  }
}

TEST(Plan, AMillionTokensAreCountedWithoutEnumeration) {
  // On three rows there are a quarter of a million million tiles: whatever enumerates or stores them never gets here.
  const Index tokens = 1'000'000;
  const Index t = 500'000;
  PlanRequest request = Case{MaskKind::full, OracleKind::plain, tokens, tokens, 3}.request();
  request.heads = 32;
  request.layers = 48;
  request.oracle.heads = 4;
  request.anchor = Anchor::gibbs;
  EXPECT_EQ(Plan(request).tiles(), t * t);
  EXPECT_EQ(Plan(request).calls(), 2 * 48 * (t * t * 8));
  EXPECT_EQ(Plan(request).rounds(), 96);
  EXPECT_DOUBLE_EQ(Plan(request).rows_used(), 2.0 / 3.0);

  request.mask.kind = MaskKind::causal;
  request.oracle.kind = OracleKind::causal;
  const Plan plan(request);
  EXPECT_EQ(plan.tiles(), t * t);
  EXPECT_EQ(plan.query_blocks(), t);
  EXPECT_EQ(plan.queries_of(250'000), (Rows{500'000, 500'002}));
  // T + T (T - 1) / 2 lower triangles of two rows, T (T - 1) / 2 strict upper ones of one.
  const double rows = 2.0 * (500'000.0 + 500'000.0 * 499'999.0 / 2) + 500'000.0 * 499'999.0 / 2;
  EXPECT_NEAR(plan.rows_used(), rows / (3.0 * 500'000.0 * 500'000.0), 1e-12);
  // Blocks are enumerated one by one: the first has a single tile.
  EXPECT_EQ(tiles_of(plan, 0), std::vector<Tile>({{{0, 2}, {0, 2}, TileShape::lower}}));
}

// --- check_cover -----------------------------------------------------------------------------------------------------

TEST(CheckCover, NamesTheFaultOfARow) {
  const auto fault = [](std::vector<Rows> shown) { return detail::cover_of_row(7, {{0, 0}, {2, 10}}, shown); };
  EXPECT_EQ(fault({{2, 10}}), "");
  EXPECT_EQ(fault({{2, 3}, {3, 9}, {9, 10}}), "");
  EXPECT_EQ(fault({{9, 10}, {2, 3}, {3, 9}}), "") << "in any order";
  EXPECT_EQ(fault({{2, 5}, {6, 10}}), "query 7: key 5 lies in no tile") << "a gap";
  EXPECT_EQ(fault({{3, 10}}), "query 7: key 2 lies in no tile") << "a missing beginning";
  EXPECT_EQ(fault({{2, 9}}), "query 7: key 9 lies in no tile") << "a missing end";
  EXPECT_EQ(fault({}), "query 7: key 2 lies in no tile");
  EXPECT_EQ(fault({{2, 6}, {5, 10}}), "query 7: key 5 lies in two tiles") << "an overlap";
  EXPECT_EQ(fault({{2, 10}, {2, 10}}), "query 7: key 2 lies in two tiles");
  EXPECT_EQ(fault({{2, 10}, {4, 5}}), "query 7: key 4 lies in two tiles") << "one inside another";
  EXPECT_EQ(fault({{1, 10}}), "query 7: a tile shows hidden keys, 1..9") << "hidden before";
  EXPECT_EQ(fault({{2, 11}}), "query 7: a tile shows hidden keys, 2..10") << "hidden behind";
  EXPECT_EQ(fault({{2, 10}, {10, 12}}), "query 7: a tile shows hidden keys, 10..11");
}

// What the line of twoheads_plan --check is counted by.
TEST(CheckCover, TellsOfEachQueryBlockOnceInOrder) {
  for (const Index samples : {0, 2}) {
    PlanRequest request;
    request.mask = Mask::causal();
    request.tokens = request.keys = 300;
    request.heads = 3;
    request.oracle.rows = 17;
    request.oracle.kind = OracleKind::causal;
    request.sampling.samples = samples;
    const Plan plan(request);
    std::vector<Index> told, expected;
    static_cast<void>(check_cover(plan, [&](Index block) { told.push_back(block); }));
    for (Index head = 0; head < (samples > 0 ? 3 : 1); ++head)
      for (Index block = 0; block < plan.query_blocks(); ++block) expected.push_back(block);
    EXPECT_EQ(told, expected) << samples;
  }
}

// --- the concept -----------------------------------------------------------------------------------------------------

struct NoCounts {
  [[nodiscard]] Index query_blocks() const { return 1; }
  [[nodiscard]] Rows queries_of(Index) const { return {0, 1}; }
  [[nodiscard]] Index alike_until(Index b) const { return b + 1; }
  template <class Visit>
  void for_each_slot(Index, Visit&&) const {}
  template <class Visit>
  void for_each_run(Index, Visit&&) const {}
};
struct WholeTiling : NoCounts {
  [[nodiscard]] TilingCounts counts() const { return {}; }
};
struct CountsAsIndex : NoCounts {
  [[nodiscard]] Index counts() const { return 1; }
};
struct CountsNotConst : NoCounts {
  [[nodiscard]] TilingCounts counts() { return {}; }
};
struct NoVisit : WholeTiling {
  void for_each_slot(Index) const {}
};
struct VisitsNothing : WholeTiling {
  void for_each_slot(Index, int) const {}
};
struct VisitsTiles : WholeTiling {
  void for_each_slot(Index, void (*)(const Tile&)) const {}
};
struct NoRuns : WholeTiling {
  void for_each_run(Index) const {}
};
struct AlikeForever : WholeTiling {
  void alike_until(Index) const {}
};
struct QueriesAsCount : WholeTiling {
  [[nodiscard]] Index queries_of(Index) const { return 1; }
};
static_assert(Tiling<StraightTiling> && Tiling<FullTiling> && Tiling<CausalTiling> && Tiling<WholeTiling>);
static_assert(Tiling<WindowTiling> && Tiling<DocumentsTiling>);
static_assert(!Tiling<NoCounts> && !Tiling<CountsAsIndex> && !Tiling<CountsNotConst> && !Tiling<NoVisit>);
static_assert(!Tiling<VisitsNothing> && !Tiling<VisitsTiles> && !Tiling<QueriesAsCount> && !Tiling<int>);
static_assert(!Tiling<NoRuns> && !Tiling<AlikeForever>);
static_assert(!Tiling<Plan>);

}  // namespace
