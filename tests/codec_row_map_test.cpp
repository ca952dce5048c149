#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <set>
#include <stdexcept>
#include <string>
#include <twoheads/codec/layout.hpp>
#include <twoheads/codec/row_map.hpp>
#include <twoheads/codec/stack.hpp>
#include <vector>

#include "support/in_shape.hpp"

namespace {

using namespace twoheads;

// --- rows ------------------------------------------------------------------------------------------------------------

struct Case {
  Tile tile;
  OracleKind oracle = OracleKind::plain;
  bool straight = false;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.tile << " on a " << name(c.oracle) << " oracle" << (c.straight ? ", straight" : "");
}

/// All orders of rows that there are, for all small numbers of queries and keys; positions start away from 0.
std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (Index queries = 1; queries <= 9; ++queries)
    for (Index keys = 1; keys <= 9; ++keys) {
      const auto tile = [&](TileShape shape) { return Tile{{100, 100 + queries}, {200, 200 + keys}, shape}; };
      cases.push_back({tile(TileShape::rectangle), OracleKind::plain, false});
      cases.push_back({tile(TileShape::rectangle), OracleKind::plain, true});
      cases.push_back({tile(TileShape::lower), OracleKind::causal, false});
      cases.push_back({tile(TileShape::lower), OracleKind::causal, true});
      cases.push_back({tile(TileShape::strict_upper), OracleKind::causal, false});
      Tile last = tile(TileShape::rectangle);
      last.queries_last = true;
      cases.push_back({last, OracleKind::causal, false});
    }
  return cases;
}

/// Calls visit(map, rows) for calls of just the rows that the map needs, and of more.
template <class Visit>
void for_each_call(const Case& c, const Visit& visit) {
  const RowMap map(c.tile, c.oracle, c.straight);
  for (const Index padding : {0, 1, 5}) visit(map, map.rows() + padding);
}

/// Rows that a row of a call sees: all of them on a plain oracle, itself and those before it on a causal one.
Rows seen_by(Index row, OracleKind oracle, Index call_rows) {
  return {0, oracle == OracleKind::plain ? call_rows : row + 1};
}

TEST(RowMap, TheRowOfAQuerySeesExactlyTheKeysOfTheTileThatTheQuerySees) {
  for (const Case& c : all_cases())
    for_each_call(c, [&](const RowMap& map, Index call_rows) {
      for (Index query = 0; query < c.tile.queries.size(); ++query) {
        std::set<Index> expected;
        for (Index key = 0; key < c.tile.keys.size(); ++key)
          if (in_shape(c.tile.shape, query, key)) expected.insert(key);
        const Index row = map.row_of(query);
        if (row == RowMap::none) {
          EXPECT_TRUE(expected.empty()) << c << ", query " << query << " has no row";
          continue;
        }
        ASSERT_GE(row, 0) << c;
        ASSERT_LT(row, map.rows()) << c;
        EXPECT_FALSE(expected.empty()) << c << ", query " << query << " sees no key, yet has a row";
        std::set<Index> keys;
        Index copies = 0;
        const Rows seen = seen_by(row, c.oracle, call_rows);
        for (Index other = seen.begin; other < seen.end; ++other) {
          const Index key = map.key_at(other);
          if (key == RowMap::none)
            ++copies;
          else
            EXPECT_TRUE(keys.insert(key).second) << c << ", key " << key << " twice";
        }
        EXPECT_EQ(keys, expected) << c << ", query " << query << " of a call of " << call_rows << " rows";
        if (!c.straight) {
          EXPECT_GE(copies, 1) << c << ", query " << query;
        }
      }
    });
}

TEST(RowMap, AQueryAndItsRowNameEachOther) {
  for (const Case& c : all_cases())
    for_each_call(c, [&](const RowMap& map, Index call_rows) {
      for (Index query = 0; query < c.tile.queries.size(); ++query)
        if (const Index row = map.row_of(query); row != RowMap::none) {
          EXPECT_EQ(map.query_at(row), query) << c;
        }
      for (Index row = 0; row < call_rows; ++row)
        if (const Index query = map.query_at(row); query != RowMap::none) {
          EXPECT_TRUE(0 <= query && query < c.tile.queries.size()) << c << ", row " << row;
          EXPECT_EQ(map.row_of(query), row) << c;
        }
    });
}

TEST(RowMap, EachKeyIsCarriedAtMostOnceAndPaddingCarriesNothing) {
  for (const Case& c : all_cases())
    for_each_call(c, [&](const RowMap& map, Index call_rows) {
      std::set<Index> keys;
      for (Index row = 0; row < call_rows; ++row) {
        const Index key = map.key_at(row);
        if (key == RowMap::none) continue;
        EXPECT_TRUE(0 <= key && key < c.tile.keys.size()) << c;
        EXPECT_TRUE(keys.insert(key).second) << c << ", key " << key << " twice";
        EXPECT_LT(row, map.rows()) << c << ", padding carries key " << key;
      }
      for (Index row = map.rows(); row < call_rows; ++row) EXPECT_EQ(map.query_at(row), RowMap::none) << c;
    });
}

TEST(RowMap, TakesTheRowsOfTheTileAndOneSyntheticOne) {
  for (const Case& c : all_cases()) {
    const RowMap map(c.tile, c.oracle, c.straight);
    const Index longer = std::max(c.tile.queries.size(), c.tile.keys.size());
    EXPECT_LE(map.rows(), longer + (c.straight ? 0 : 1)) << c;
    Index filled = 0;
    for (Index row = 0; row < map.rows(); ++row)
      if (map.key_at(row) != RowMap::none || map.query_at(row) != RowMap::none) ++filled;
    if (c.straight) {
      EXPECT_EQ(map.rows(), longer) << c;
      EXPECT_EQ(filled, longer) << c;
    } else {
      EXPECT_EQ(map.rows(), filled + 1) << c;
      EXPECT_EQ(c.tile.token_rows(), filled) << c;
    }
  }
}

TEST(RowMap, AShapeThatTheOracleCannotShowIsABrokenInvariant) {
  const auto tile = [](TileShape shape) { return Tile{{0, 3}, {0, 3}, shape}; };
  EXPECT_THROW(RowMap(tile(TileShape::lower), OracleKind::plain, false), std::logic_error);
  EXPECT_THROW(RowMap(tile(TileShape::strict_upper), OracleKind::plain, false), std::logic_error);
  EXPECT_THROW(RowMap(tile(TileShape::rectangle), OracleKind::causal, false), std::logic_error);
  EXPECT_THROW(RowMap(tile(TileShape::lower), OracleKind::plain, true), std::logic_error);
  EXPECT_THROW(RowMap(tile(TileShape::rectangle), OracleKind::causal, true), std::logic_error);
  EXPECT_THROW(RowMap(tile(TileShape::strict_upper), OracleKind::causal, true), std::logic_error);
}

// --- columns ---------------------------------------------------------------------------------------------------------

/// How often each column of a range was given away.
class Columns {
 public:
  explicit Columns(Index count) : given_(static_cast<std::size_t>(count), 0) {}

  void give(Index begin, Index count) {
    for (Index column = begin; column < begin + count; ++column) ++given_.at(static_cast<std::size_t>(column));
  }
  [[nodiscard]] bool each_once() const {
    return std::all_of(given_.begin(), given_.end(), [](int times) { return times == 1; });
  }

 private:
  std::vector<int> given_;
};

struct KindColumns {
  CallKind kind;
  bool values, state, keys;
};

constexpr KindColumns kinds[] = {{CallKind::straight, true, false, false},
                                 {CallKind::state, true, true, false},
                                 {CallKind::state_with_keys, true, true, true},
                                 {CallKind::values_and_keys, true, false, true},
                                 {CallKind::weight, false, true, false}};

/// Calls visit(layout, kind) for all kinds and encodings, with three different lengths.
template <class Visit>
void for_each_layout(const Visit& visit) {
  for (const KindColumns& kind : kinds)
    for (const TokenEncoding encoding : {TokenEncoding::projected, TokenEncoding::raw})
      for (const Index code_cols : {0, 4}) {
        SCOPED_TRACE(testing::Message() << "kind " << static_cast<int>(kind.kind) << ", " << name(encoding) << ", "
                                        << code_cols << " columns of codes");
        visit(InstanceLayout{kind.kind, encoding, 3, 5, 7, code_cols}, kind);
      }
}

TEST(InstanceLayout, AnswerColumnsAreValueThenStateThenExpectedKeyAsFarAsTheKindHasThem) {
  for_each_layout([](const InstanceLayout& layout, const KindColumns& kind) {
    EXPECT_EQ(layout.has_values(), kind.values);
    EXPECT_EQ(layout.has_state(), kind.state);
    EXPECT_EQ(layout.has_keys(), kind.keys);
    EXPECT_EQ(layout.has_synthetic(), kind.state);
    Columns columns(layout.answer_cols());
    if (kind.values) columns.give(0, layout.value_dim);
    if (kind.state) columns.give(layout.r_at(), 1);
    if (kind.state) columns.give(layout.p_at(), 1);
    if (kind.keys) columns.give(layout.keys_at(), layout.head_dim);
    EXPECT_TRUE(columns.each_once());
    EXPECT_EQ(layout.answer_cols(), (kind.values ? 5 : 0) + (kind.state ? 2 : 0) + (kind.keys ? 3 : 0));
  });
}

TEST(InstanceLayout, InputColumnsDoNotOverlapAndLeaveNoGap) {
  for_each_layout([](const InstanceLayout& layout, const KindColumns&) {
    const bool raw = layout.encoding == TokenEncoding::raw;
    const Index token = raw ? 7 : 3;
    EXPECT_EQ(layout.query_cols(), token);
    Columns columns(layout.width());
    columns.give(0, token);
    columns.give(layout.anchor_at(), 1);
    columns.give(layout.query_code_at(), layout.code_cols);
    columns.give(layout.key_at(), token);
    columns.give(layout.synthetic_at(), 1);
    columns.give(layout.key_code_at(), layout.code_cols);
    columns.give(layout.value_at(), raw ? 1 : layout.answer_cols());
    EXPECT_TRUE(columns.each_once());
    const Index codes = 2 * layout.code_cols;
    EXPECT_EQ(layout.width(), codes + (raw ? 2 * 7 + 3 : 2 * 3 + 2 + layout.answer_cols()));
    // A query's anchor meets the synthetic column of a key at the same place.
    EXPECT_EQ(layout.synthetic_at() - layout.key_at(), layout.anchor_at());
    // And so do their codes; what is compared ends with them.
    EXPECT_EQ(layout.key_code_at() - layout.key_at(), layout.query_code_at());
    EXPECT_EQ(layout.keyed_cols(), layout.query_code_at() + layout.code_cols);
  });
}

TEST(InstanceLayout, AnswersOfInstancesSideBySideDoNotOverlap) {
  for_each_layout([](const InstanceLayout& layout, const KindColumns&) {
    for (const bool residual : {false, true})
      for (const Index instances : {1, 4}) {
        OracleLimits limits;
        limits.rows = 9;
        limits.heads = instances;
        limits.residual = residual;
        const StackLayout stacked(limits, Packing::residual, layout.width(), layout.answer_cols(), limits.rows);
        Columns columns(stacked.output_width());
        for (Index instance = 0; instance < instances; ++instance) {
          columns.give(stacked.answer_begin(instance), layout.answer_cols());
          // What a residual oracle passes through stays beside it.
          if (residual) columns.give(stacked.input_begin(instance), layout.width());
        }
        EXPECT_TRUE(columns.each_once()) << instances << " instances" << (residual ? ", residual" : "");
      }
  });
}

}  // namespace
