#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <ostream>
#include <set>
#include <span>
#include <stdexcept>
#include <twoheads/codec/slot_map.hpp>
#include <vector>

#include "support/in_shape.hpp"

namespace {

using namespace twoheads;

struct Case {
  std::vector<Tile> tiles;
  OracleKind oracle = OracleKind::plain;
  bool straight = false;

  [[nodiscard]] SlotMap map() const { return SlotMap(std::span<const Tile>(tiles), oracle, straight); }
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  out << "on a " << name(c.oracle) << " oracle" << (c.straight ? ", straight" : "");
  for (const Tile& tile : c.tiles) out << "; " << tile;
  return out;
}

/// Slots of one tile of all shapes and small lengths, and of several that differ in shape and length; with sinks on
/// causal oracles.
std::vector<Case> all_cases() {
  std::vector<Case> cases;
  const auto tile = [](TileShape shape, Index queries, Index keys, Index sinks = 0, Index from = 0) {
    return Tile{{100 + from, 100 + from + queries}, {200 + from, 200 + from + keys}, shape, {7, 7 + sinks}};
  };
  for (Index queries = 1; queries <= 5; ++queries)
    for (Index keys = 1; keys <= 5; ++keys) {
      cases.push_back({{tile(TileShape::rectangle, queries, keys)}, OracleKind::plain, false});
      cases.push_back({{tile(TileShape::rectangle, queries, keys)}, OracleKind::plain, true});
      cases.push_back({{tile(TileShape::lower, queries, keys)}, OracleKind::causal, true});
      for (const Index sinks : {0, 1, 3})
        for (const TileShape shape : {TileShape::lower, TileShape::strict_upper})
          cases.push_back({{tile(shape, queries, keys, sinks)}, OracleKind::causal, false});
      // A tile in the middle of others, and at either end.
      const Tile one = tile(TileShape::rectangle, queries, keys, 0, 10);
      cases.push_back({{one, tile(TileShape::rectangle, 2, 3), tile(TileShape::rectangle, 1, 1)}, OracleKind::plain});
      cases.push_back({{tile(TileShape::rectangle, 4, 2), one, tile(TileShape::rectangle, 2, 4)}, OracleKind::plain});
      for (const Index sinks : {0, 2})
        for (const TileShape shape : {TileShape::lower, TileShape::strict_upper}) {
          const Tile other = tile(shape, queries, keys, sinks, 10);
          const Tile lower = tile(TileShape::lower, 3, 2, sinks, 20);
          const Tile upper = tile(TileShape::strict_upper, 2, 4, sinks, 30);
          cases.push_back({{other, lower, upper}, OracleKind::causal});
          cases.push_back({{lower, other, upper, lower}, OracleKind::causal});
          cases.push_back({{upper, lower, other}, OracleKind::causal});
          Tile last = tile(TileShape::rectangle, queries, keys, sinks, 40);
          last.queries_last = true;
          cases.push_back({{lower, last, other}, OracleKind::causal});
        }
    }
  return cases;
}

/// Calls visit(map, rows) for calls of just the rows that the map needs, and of more.
template <class Visit>
void for_each_call(const Case& c, const Visit& visit) {
  const SlotMap map = c.map();
  for (const Index padding : {0, 1, 5}) visit(map, map.rows() + padding);
}

TEST(SlotMap, TheRowOfAQueryMeetsTheKeysOfItsTileAndTheSinksOnceAndCountsTheCopiesOfTheSyntheticKey) {
  for (const Case& c : all_cases())
    for_each_call(c, [&](const SlotMap& map, Index call_rows) {
      ASSERT_EQ(map.jobs(), static_cast<Index>(c.tiles.size())) << c;
      for (Index job = 0; job < map.jobs(); ++job) {
        const Tile& tile = c.tiles[static_cast<std::size_t>(job)];
        ASSERT_EQ(map.tile(job), tile) << c;
        for (Index query = 0; query < tile.queries.size(); ++query) {
          std::multiset<Index> expected;
          for (Index key = 0; key < tile.keys.size(); ++key)
            if (in_shape(tile.shape, query, key)) expected.insert(tile.keys.begin + key);
          const bool none_of_its_keys = expected.empty();
          for (Index sink = tile.sinks.begin; sink < tile.sinks.end; ++sink) expected.insert(sink);
          const Index row = map.row_of(job, query);
          if (row == SlotMap::none) {
            EXPECT_TRUE(none_of_its_keys) << c << ", job " << job << ", query " << query << " has no row";
            continue;
          }
          ASSERT_GE(row, 0) << c;
          ASSERT_LT(row, map.rows()) << c;
          // Codes hide the keys of other jobs; the synthetic key and sinks, of no job, are seen by all.
          std::multiset<Index> keys;
          Index copies = 0;
          for (Index other = 0; other < (c.oracle == OracleKind::plain ? call_rows : row + 1); ++other) {
            const SlotMap::Row carried = map.row(other);
            if (carried.key == SlotMap::none)
              ++copies;
            else if (carried.job == job || carried.job == SlotMap::none)
              keys.insert(carried.key);
          }
          EXPECT_EQ(keys, expected) << c << ", job " << job << ", query " << query << " of " << call_rows << " rows";
          EXPECT_EQ(map.synthetic_seen(row, call_rows), copies)
              << c << ", job " << job << ", query " << query << ", " << call_rows << " rows";
          if (!c.straight) {
            EXPECT_GE(copies, 1) << c << ", job " << job << ", query " << query;
          }
        }
      }
    });
}

TEST(SlotMap, AQueryAndItsRowNameEachOther) {
  for (const Case& c : all_cases())
    for_each_call(c, [&](const SlotMap& map, Index call_rows) {
      for (Index job = 0; job < map.jobs(); ++job)
        for (Index query = 0; query < map.tile(job).queries.size(); ++query)
          if (const Index row = map.row_of(job, query); row != SlotMap::none) {
            EXPECT_EQ(map.row(row).job, job) << c;
            EXPECT_EQ(map.row(row).query, query) << c;
          }
      for (Index row = 0; row < call_rows; ++row) {
        const SlotMap::Row carried = map.row(row);
        if (carried.query == SlotMap::none) continue;
        ASSERT_TRUE(0 <= carried.job && carried.job < map.jobs()) << c << ", row " << row;
        ASSERT_TRUE(0 <= carried.query && carried.query < map.tile(carried.job).queries.size()) << c << ", row " << row;
        EXPECT_EQ(map.row_of(carried.job, carried.query), row) << c;
      }
    });
}

TEST(SlotMap, TakesTheRowsOfItsTilesItsSinksAndOneSyntheticRow) {
  for (const Case& c : all_cases())
    for_each_call(c, [&](const SlotMap& map, Index call_rows) {
      Index expected = c.straight ? 0 : 1 + c.tiles.front().sinks.size();
      for (const Tile& tile : c.tiles)
        expected += c.straight ? std::max(tile.queries.size(), tile.keys.size()) : tile.token_rows();
      EXPECT_EQ(map.rows(), expected) << c;
      for (Index row = map.rows(); row < call_rows; ++row) {
        EXPECT_EQ(map.row(row).job, SlotMap::none) << c << ": padding carries nothing";
        EXPECT_EQ(map.row(row).query, SlotMap::none) << c;
        EXPECT_EQ(map.row(row).key, SlotMap::none) << c;
      }
    });
}

TEST(SlotMap, StandsInTheOrderThatItSays) {
  const Rows sinks{3, 5};
  const SlotMap map =
      Case{{{{10, 12}, {20, 22}, TileShape::lower, sinks}, {{30, 32}, {40, 43}, TileShape::strict_upper, sinks}},
           OracleKind::causal}
          .map();
  const std::vector<SlotMap::Row> expected{{-1, -1, -1}, {-1, -1, 3}, {-1, -1, 4}, {0, 0, 20},
                                           {0, 1, 21},   {1, 1, 42},  {1, 0, 41}};
  ASSERT_EQ(map.rows(), static_cast<Index>(expected.size()));
  for (Index row = 0; row < map.rows(); ++row) {
    EXPECT_EQ(map.row(row).job, expected[static_cast<std::size_t>(row)].job) << row;
    EXPECT_EQ(map.row(row).query, expected[static_cast<std::size_t>(row)].query) << row;
    EXPECT_EQ(map.row(row).key, expected[static_cast<std::size_t>(row)].key) << row;
  }
}

TEST(SlotMap, SinksOnPlainOraclesOtherSinksThanTheFirstTilesAndSeveralStraightTilesAreBrokenInvariants) {
  const auto tile = [](TileShape shape, Rows sinks = {}) { return Tile{{0, 3}, {0, 3}, shape, sinks}; };
  const auto broken = [](const std::vector<Tile>& tiles, OracleKind oracle, bool straight = false) {
    EXPECT_THROW(SlotMap(std::span<const Tile>(tiles), oracle, straight), std::logic_error);
  };
  broken({}, OracleKind::plain);
  broken({tile(TileShape::rectangle, {0, 1})}, OracleKind::plain);
  broken({tile(TileShape::lower, {0, 1})}, OracleKind::causal, true);
  broken({tile(TileShape::lower, {0, 1}), tile(TileShape::lower, {0, 2})}, OracleKind::causal);
  broken({tile(TileShape::lower), tile(TileShape::lower, {0, 2})}, OracleKind::causal);
  broken({tile(TileShape::lower), tile(TileShape::lower)}, OracleKind::causal, true);
  broken({tile(TileShape::rectangle)}, OracleKind::causal);
  broken({tile(TileShape::lower)}, OracleKind::plain);
}

}  // namespace
