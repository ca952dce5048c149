// Several tiles in one slot, kept apart by codes: encoded, run through the Eigen small transformer, decoded.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <vector>

#include "support/encoded_tile.hpp"
#include "support/message_of.hpp"
#include "support/seed.hpp"

namespace {

using namespace tiles;

std::uint64_t seed() { return seed_or(842); }

/// Slots of one, two, three and seven tiles that differ in shape and length; on a causal oracle some have sinks.
std::vector<SlotOfHead> slots_of(OracleKind oracle) {
  if (oracle == OracleKind::plain) {
    const auto tile = [](Rows queries, Rows keys) { return Tile{queries, keys, TileShape::rectangle}; };
    std::vector<Tile> pairs;
    for (Index i = 0; i < 7; ++i) pairs.push_back(tile({i, i + 1}, {9 - i, 10 - i}));
    return {{{tile({2, 9}, {1, 7}), tile({0, 3}, {5, 10}), tile({4, 5}, {3, 4})}, 0},
            {{tile({0, 9}, {0, 10})}, 1},
            {pairs, 1},
            {{tile({0, 1}, {2, 9}), tile({3, 9}, {4, 5})}, 0}};
  }
  const auto lower = [](Rows queries, Rows keys, Rows sinks) { return Tile{queries, keys, TileShape::lower, sinks}; };
  const auto upper = [](Rows queries, Rows keys) { return Tile{queries, keys, TileShape::strict_upper}; };
  std::vector<Tile> pairs;
  for (Index i = 0; i < 7; ++i) pairs.push_back(lower({i, i + 1}, {9 - i, 10 - i}, {0, 1}));
  return {{{lower({2, 5}, {4, 7}, {0, 2}), lower({0, 4}, {2, 10}, {0, 2}), lower({5, 9}, {3, 5}, {0, 2})}, 0},
          {{upper({2, 9}, {1, 7}), upper({0, 3}, {1, 9}), upper({3, 4}, {2, 4})}, 1},
          {pairs, 1},
          {{lower({0, 9}, {1, 10}, {0, 1})}, 0},
          {{lower({0, 3}, {0, 3}, {}), upper({0, 3}, {4, 9})}, 0}};
}

std::vector<TileOfHead> jobs_in(const std::vector<SlotOfHead>& slots) {
  std::vector<TileOfHead> jobs;
  for (const SlotOfHead& slot : slots)
    for (const Tile& tile : slot.tiles) jobs.push_back({tile, slot.head});
  return jobs;
}

template <class Visit>
void for_each_setting(const Visit& visit) {
  for (const OracleKind oracle : {OracleKind::plain, OracleKind::causal})
    for (const TokenEncoding encoding : {TokenEncoding::projected, TokenEncoding::raw})
      for (const bool residual : {false, true})
        for (const Index padding : {0, 5})
          for (const double scale : {1.0, 0.3}) visit(Setting{oracle, false, encoding, residual, padding, scale});
}

/// Holds what a slot's tiles yield together to the truth, and to what each of them yields in a slot of its own.
template <class Scalar>
void expect_as_alone(const Layer<Scalar>& layer, const Setting& s, CallKind kind, const std::vector<SlotOfHead>& slots,
                     const Anchors& anchors, const Asked<Scalar>& asked) {
  const std::vector<TileOfHead> jobs = jobs_in(slots);
  ASSERT_EQ(asked.found.size(), jobs.size());
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    SCOPED_TRACE(testing::Message() << jobs[i].tile << ", head " << jobs[i].head);
    const Truth truth = truth_of(layer, jobs[i].tile, jobs[i].head, s.encoding);
    const Drifts drifts = expect_truth(asked.found[i], truth, anchors[i], kind);
    EXPECT_EQ(drifts.too_low + drifts.too_high, 0);
    const Asked<Scalar> alone = ask(layer, s, kind, {jobs[i]}, {anchors[i]});
    const Partial<Scalar>& a = asked.found[i].partial;
    const Partial<Scalar>& b = alone.found[0].partial;
    for (Index row = 0; row < a.log_weight.size(); ++row) {
      const double allowed = 2 * bound<Scalar>(truth, anchors[i][row]);
      if (truth.rows[static_cast<std::size_t>(row)].seen > 0) {
        EXPECT_LE(std::abs(a.log_weight[row] - b.log_weight[row]), allowed) << "row " << row;
      } else {
        EXPECT_EQ(a.log_weight[row], b.log_weight[row]) << "row " << row;
      }
      for (Index c = 0; c < a.value.cols(); ++c)
        EXPECT_LE(std::abs(a.value(row, c) - b.value(row, c)), allowed * static_cast<double>(truth.value_size))
            << "row " << row;
    }
  }
}

template <class Scalar>
void expect_slots_as_tiles(Anchor anchor, double logits) {
  Random random(seed());
  for_each_setting([&](const Setting& s) {
    SCOPED_TRACE(testing::Message() << "seed " << seed() << ", " << s << ", anchor " << name(anchor) << ", logits "
                                    << logits << ", " << sizeof(Scalar) << " bytes");
    const Layer<Scalar> layer = make_layer<Scalar>(random, logits, s.padding > 0);
    const std::vector<SlotOfHead> slots = slots_of(s.oracle);
    const std::vector<TileOfHead> jobs = jobs_in(slots);
    if (anchor == Anchor::gibbs) {
      const Anchors zero = anchors_of<Scalar>(Anchor::zero, layer, jobs, nullptr);
      const Asked<Scalar> first = ask_slots(layer, s, CallKind::values_and_keys, slots, zero);
      expect_as_alone(layer, s, CallKind::values_and_keys, slots, zero, first);
      const Anchors anchors = anchors_of(anchor, layer, jobs, &first);
      expect_as_alone(layer, s, CallKind::weight, slots, anchors,
                      ask_slots(layer, s, CallKind::weight, slots, anchors));
      return;
    }
    const Anchors anchors = anchors_of<Scalar>(anchor, layer, jobs, nullptr);
    const CallKind kind = anchor == Anchor::adaptive ? CallKind::state_with_keys : CallKind::state;
    expect_as_alone(layer, s, kind, slots, anchors, ask_slots(layer, s, kind, slots, anchors));
  });
}

TEST(SlotCodec, TilesThatShareASlotYieldWhatEachYieldsByItself) {
  for (const Anchor anchor : {Anchor::zero, Anchor::mean_key, Anchor::adaptive})
    for (const double logits : {1.0, 25.0}) {
      expect_slots_as_tiles<float>(anchor, logits);
      expect_slots_as_tiles<double>(anchor, logits);
    }
}

TEST(SlotCodec, GibbsAnchorsDoSoAtEveryLogitSize) {
  for (const double logits : {1.0, 300.0, 1e4}) {
    expect_slots_as_tiles<float>(Anchor::gibbs, logits);
    expect_slots_as_tiles<double>(Anchor::gibbs, logits);
  }
}

// --- hidden keys -----------------------------------------------------------------------------------------------------

/// A value set on the rows of all other jobs' keys does not reach a job's answers: none of their digits changes. What
/// is left is the least that Eigen's exponential yields, which ends at 5.6e-309 in float64 and not at 0.
template <class Scalar>
void expect_others_get_nothing(OracleKind oracle, CallKind kind, double logits, double oracle_scale) {
  SCOPED_TRACE(testing::Message() << "seed " << seed() << ", " << name(oracle) << ", logits " << logits
                                  << ", oracle scale " << oracle_scale << ", " << sizeof(Scalar) << " bytes");
  Random random(seed());
  const Layer<Scalar> layer = make_layer<Scalar>(random, logits, false);
  const Setting setting{oracle, false, TokenEncoding::projected, false, 4, oracle_scale};
  OracleLimits limits;
  limits.kind = oracle;
  limits.score_scale = oracle_scale;
  Index spoilt_rows = 0;
  for (const SlotOfHead& slot : slots_of(oracle)) {
    const std::vector<TileOfHead> jobs = jobs_in({slot});
    const Asked<Scalar> asked =
        ask_slots(layer, setting, kind, {slot}, anchors_of<Scalar>(Anchor::mean_key, layer, jobs, nullptr));
    const SlotMap& map = asked.maps[0];
    limits.rows = asked.rows.rows();
    const SmallWeights<Scalar> weights = stack<Scalar>(asked.columns, {selector_head<Scalar>(asked.layout)});
    for (Index job = 0; job < map.jobs(); ++job) {
      Matrix<Scalar> rows = asked.rows;
      for (Index row = 0; row < rows.rows(); ++row) {
        const SlotMap::Row carried = map.row(row);
        if (carried.key == SlotMap::none || carried.job == job || carried.job == SlotMap::none) continue;
        rows.row(row).segment(asked.layout.value_at(), asked.layout.answer_cols()).setConstant(Scalar(1e6));
        ++spoilt_rows;
      }
      const Matrix<Scalar> answer = SmallTransformer<Scalar>(limits).run({&weights, rows});
      for (Index query = 0; query < map.tile(job).queries.size(); ++query) {
        const Index row = map.row_of(job, query);
        if (row == SlotMap::none) continue;
        const double least = 1e6 * static_cast<double>(rows.rows()) * std::numeric_limits<Scalar>::min();
        for (Index c = 0; c < answer.cols(); ++c)
          EXPECT_LE(std::abs(static_cast<double>(answer(row, c)) - static_cast<double>(asked.answer(row, c))), least)
              << map.tile(job) << ", query " << query;
      }
    }
  }
  EXPECT_GT(spoilt_rows, 0);
}

TEST(SlotCodec, KeysOfOtherJobsGetNoAttentionAtAnyLogitSize) {
  for (const OracleKind oracle : {OracleKind::plain, OracleKind::causal})
    for (const CallKind kind : {CallKind::state, CallKind::values_and_keys})
      for (const double scale : {1.0, 0.01, 30.0}) {
        for (const double logits : {0.0, 1.0, 300.0, 1e4, 1e12, 1e30}) {
          expect_others_get_nothing<float>(oracle, kind, logits, scale);
          expect_others_get_nothing<double>(oracle, kind, logits, scale);
        }
        expect_others_get_nothing<double>(oracle, kind, 1e200, scale);
      }
}

TEST(SlotCodec, LogitsWhoseCodesLeaveTheScalarAreALimitError) {
  Random random(seed());
  const Layer<float> layer = make_layer<float>(random, 1e37, false);
  for (const OracleKind oracle : {OracleKind::plain, OracleKind::causal}) {
    const SlotOfHead slot = slots_of(oracle).front();
    const Anchors zero = anchors_of<float>(Anchor::zero, layer, jobs_in({slot}), nullptr);
    const Setting setting{oracle};
    const std::string message = message_of<LimitError>(
        [&] { static_cast<void>(ask_slots(layer, setting, CallKind::values_and_keys, {slot}, zero)); });
    EXPECT_NE(message.find("wider scalar"), std::string::npos) << message;
    // A tile by itself takes no codes.
    EXPECT_NO_THROW(static_cast<void>(
        ask(layer, setting, CallKind::values_and_keys, {{slot.tiles.front(), slot.head}}, {zero.front()})));
  }
}

// --- codes in the rows of a call -------------------------------------------------------------------------------------

TEST(SlotCodec, TheSyntheticKeySinksAndPaddingCarryNoCodeAndQueriesMeetTheirOwnKeysWithZeros) {
  Random random(seed());
  const Layer<float> layer = make_layer<float>(random, 3.0, false);
  for (const OracleKind oracle : {OracleKind::plain, OracleKind::causal})
    for (const TokenEncoding encoding : {TokenEncoding::projected, TokenEncoding::raw})
      for (const SlotOfHead& slot : slots_of(oracle)) {
        const Setting setting{oracle, false, encoding, false, 3};
        const Anchors zero = anchors_of<float>(Anchor::zero, layer, jobs_in({slot}), nullptr);
        const Asked<float> asked = ask_slots(layer, setting, CallKind::state, {slot}, zero);
        const InstanceLayout& layout = asked.layout;
        EXPECT_EQ(layout.code_cols, Codes::columns_for(static_cast<Index>(slot.tiles.size())));
        const auto u = [&](Index row) { return asked.rows.row(row).segment(layout.query_code_at(), layout.code_cols); };
        const auto w = [&](Index row) { return asked.rows.row(row).segment(layout.key_code_at(), layout.code_cols); };
        const double gap = gap_of(layer.input(), slot, 1.0);
        for (Index row = 0; row < asked.rows.rows(); ++row) {
          const SlotMap::Row mine = asked.maps[0].row(row);
          if (mine.key == SlotMap::none || mine.job == SlotMap::none) {
            EXPECT_TRUE((w(row).array() == 0).all()) << row;
          }
          if (mine.query == SlotMap::none) {
            EXPECT_TRUE((u(row).array() == 0).all()) << row;
            continue;
          }
          for (Index other = 0; other < asked.rows.rows(); ++other) {
            const SlotMap::Row its = asked.maps[0].row(other);
            const bool hidden = its.key != SlotMap::none && its.job != SlotMap::none && its.job != mine.job;
            const double product = static_cast<double>(u(row).dot(w(other)));
            EXPECT_TRUE(hidden ? product <= -gap : product == 0) << product << ", rows " << row << " and " << other;
          }
        }
      }
}

}  // namespace
