#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <ostream>
#include <span>
#include <twoheads/codec/anchors.hpp>
#include <twoheads/codec/codes.hpp>
#include <twoheads/codec/decode.hpp>
#include <twoheads/codec/encode.hpp>
#include <twoheads/codec/head_weights.hpp>
#include <twoheads/codec/slot_map.hpp>
#include <twoheads/codec/stack.hpp>
#include <utility>
#include <vector>

#include "support/instances.hpp"
#include "support/tile_truth.hpp"

/// Tiles of a small made-up layer in one call that encodes them, runs the Eigen small transformer and decodes the
/// answer, held against the truth about them. Uses none of the library's attention.
namespace tiles {

using namespace twoheads;

// --- one call --------------------------------------------------------------------------------------------------------

struct TileOfHead {
  Tile tile;
  Index head = 0;
};

struct Setting {
  OracleKind oracle = OracleKind::plain;
  bool straight = false;
  TokenEncoding encoding = TokenEncoding::projected;
  bool residual = false;
  Index padding = 0;
  double oracle_scale = 1.0;
};

inline std::ostream& operator<<(std::ostream& out, const Setting& s) {
  return out << name(s.oracle) << (s.straight ? ", straight, " : ", ") << name(s.encoding)
             << (s.residual ? ", residual" : "") << ", " << s.padding << " rows of padding, oracle scale "
             << s.oracle_scale;
}

using Anchors = std::vector<Vector<double>>;

/// Tiles of one head that share its place in a call.
struct SlotOfHead {
  std::vector<Tile> tiles;
  Index head = 0;
};

template <class Scalar>
struct Asked {
  InstanceLayout layout;      ///< of each instance
  StackLayout columns;        ///< where each instance has its columns
  std::vector<SlotMap> maps;  ///< one for each slot
  Matrix<Scalar> rows, answer;
  std::vector<Decoded<Scalar>> found;  ///< one for each tile, slot after slot
};

/// How far hidden scores of a slot must lie below the real ones.
template <class Scalar>
double gap_of(const AttentionInput<Scalar>& input, const SlotOfHead& slot, double oracle_scale) {
  ScoreBound bound;
  for (const Tile& tile : slot.tiles) {
    bound.add_queries(input.query_rows(slot.head, tile.queries));
    bound.add_keys(input.key_rows(slot.head, tile.keys));
    bound.add_keys(input.key_rows(slot.head, tile.sinks));
  }
  return bound.gap(input.spec.score_scale / oracle_scale, head_dim, oracle_scale);
}

/// One call that carries the slots side by side. Anchors are logits, one column for each tile, slot after slot; the
/// call's longest slot gets the setting's padding.
template <class Scalar>
Asked<Scalar> ask_slots(const Layer<Scalar>& layer, const Setting& s, CallKind kind,
                        const std::vector<SlotOfHead>& slots, const Anchors& logits) {
  const AttentionInput<Scalar> input = layer.input();
  OracleLimits limits;
  limits.kind = s.oracle;
  limits.rows = 2;
  limits.heads = static_cast<Index>(slots.size());
  limits.residual = s.residual;
  limits.score_scale = s.oracle_scale;
  std::size_t most = 1;
  std::vector<SlotMap> maps;
  for (const SlotOfHead& slot : slots) {
    maps.emplace_back(std::span<const Tile>(slot.tiles), s.oracle, s.straight);
    limits.rows = std::max(limits.rows, maps.back().rows() + s.padding);
    most = std::max(most, slot.tiles.size());
  }
  const Codes codes(static_cast<Index>(most));
  const InstanceLayout layout{kind, s.encoding, head_dim, value_dim, input_width, codes.columns()};
  const StackLayout stacked(limits, Packing::residual, layout.width(), layout.answer_cols(), limits.rows);
  Asked<Scalar> asked{layout, stacked, std::move(maps), {}, {}, {}};
  const double factor = layer.spec.score_scale / s.oracle_scale;
  std::vector<SmallHead<Scalar>> instances;
  std::vector<Vector<Scalar>> anchors;
  for (const Vector<double>& of_tile : logits) anchors.push_back((of_tile / s.oracle_scale).template cast<Scalar>());
  asked.rows.setZero(limits.rows, stacked.width());
  std::size_t first = 0;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    EncodeSettings<Scalar> settings{static_cast<Scalar>(factor), Scalar(1), &codes};
    const double gap = gap_of(input, slots[i], s.oracle_scale);
    if (codes.columns() > 0) settings.amplitude = code_amplitude<Scalar>(gap, codes.columns());
    std::vector<const Vector<Scalar>*> columns;
    for (std::size_t job = first; job < first + slots[i].tiles.size(); ++job) {
      if (!layout.has_synthetic()) anchors[job].setOnes();
      columns.push_back(&anchors[job]);
    }
    if (!layout.has_synthetic()) settings.synthetic = dead_key<Scalar>(gap);
    encode(asked.rows, stacked.input_begin(static_cast<Index>(i)), layout, asked.maps[i], input, slots[i].head,
           std::span<const Vector<Scalar>* const>(columns), settings);
    instances.push_back(s.encoding == TokenEncoding::projected
                            ? selector_head<Scalar>(layout)
                            : block_head(layout, input, slots[i].head, static_cast<Scalar>(factor)));
    first += slots[i].tiles.size();
  }
  const SmallWeights<Scalar> weights = stack(stacked, instances);
  SmallTransformer<Scalar> oracle(limits);
  asked.answer = oracle.run({&weights, asked.rows});
  std::size_t number = 0;
  for (std::size_t i = 0; i < slots.size(); ++i)
    for (std::size_t job = 0; job < slots[i].tiles.size(); ++job, ++number)
      asked.found.push_back(decode(asked.answer, stacked.answer_begin(static_cast<Index>(i)), layout, asked.maps[i],
                                   static_cast<Index>(job), {0, slots[i].head}, anchors[number], s.oracle_scale));
  return asked;
}

/// One call that carries the jobs side by side, each in a slot of its own.
template <class Scalar>
Asked<Scalar> ask(const Layer<Scalar>& layer, const Setting& s, CallKind kind, const std::vector<TileOfHead>& jobs,
                  const Anchors& logits) {
  std::vector<SlotOfHead> slots;
  for (const TileOfHead& job : jobs) slots.push_back({{job.tile}, job.head});
  return ask_slots(layer, s, kind, slots, logits);
}

/// Jobs of two heads that differ in shape and length, so that all but the longest are padded.
inline std::vector<TileOfHead> jobs_of(OracleKind oracle, bool straight) {
  if (oracle == OracleKind::plain)
    return {{{{2, 9}, {1, 7}, TileShape::rectangle}, 0},
            {{{0, 3}, {5, 10}, TileShape::rectangle}, 1},
            {{{4, 5}, {3, 4}, TileShape::rectangle}, 1}};
  if (straight) return {{{{1, 8}, {2, 9}, TileShape::lower}, 0}, {{{0, 6}, {5, 8}, TileShape::lower}, 1}};
  return {{{{2, 9}, {1, 7}, TileShape::lower}, 1},
          {{{2, 9}, {1, 7}, TileShape::strict_upper}, 0},
          {{{0, 3}, {1, 9}, TileShape::strict_upper}, 1},
          {{{3, 6}, {2, 10}, TileShape::lower}, 0},
          {{{3, 4}, {2, 3}, TileShape::strict_upper}, 1}};
}

/// The anchors of jobs; the Gibbs anchors are those that a first call found.
template <class Scalar>
Anchors anchors_of(Anchor anchor, const Layer<Scalar>& layer, const std::vector<TileOfHead>& jobs,
                   const Asked<Scalar>* first) {
  const AttentionInput<Scalar> input = layer.input();
  Anchors anchors;
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    const Tile& tile = jobs[i].tile;
    const auto q = input.query_rows(jobs[i].head, tile.queries);
    if (anchor == Anchor::gibbs)
      anchors.push_back(gibbs_anchors(tile, q, first->found[i].expected_keys, layer.spec.score_scale));
    else if (anchor == Anchor::zero)
      anchors.push_back(Vector<double>::Zero(tile.queries.size()));
    else
      anchors.push_back(mean_key_anchors(tile, q, input.key_rows(jobs[i].head, tile.keys),
                                         input.key_rows(jobs[i].head, tile.sinks), layer.spec.score_scale));
  }
  return anchors;
}

// --- what was found against the truth --------------------------------------------------------------------------------

/// How often rows drifted, so that no test passes for want of rows.
struct Drifts {
  Index none = 0, too_low = 0, too_high = 0;
};

/// Holds one job's rows against the truth. A row that drifted must have had its anchor far from its log-sum-exp, and no
/// other row.
template <class Scalar>
Drifts expect_truth(const Decoded<Scalar>& found, const Truth& truth, const Vector<double>& anchors, CallKind kind) {
  const bool state = kind == CallKind::state || kind == CallKind::state_with_keys || kind == CallKind::weight;
  const bool values = kind != CallKind::weight;
  const bool expected_keys = kind == CallKind::state_with_keys || kind == CallKind::values_and_keys;
  Drifts drifts;
  EXPECT_EQ(found.partial.log_weight.size(), anchors.size());
  EXPECT_EQ(found.partial.value.cols(), values ? value_dim : 0);
  EXPECT_EQ(found.drift.size(), truth.rows.size());
  for (Index i = 0; i < anchors.size(); ++i) {
    const TruthRow& row = truth.rows[static_cast<std::size_t>(i)];
    const Drift drift = found.drift[static_cast<std::size_t>(i)];
    const double allowed = bound<Scalar>(truth, state ? anchors[i] : 0);
    const double log_sum = static_cast<double>(row.log_sum);
    SCOPED_TRACE(testing::Message() << "row " << i << ", " << row.seen << " keys, anchor " << anchors[i]
                                    << ", log-sum-exp " << log_sum);
    if (row.seen == 0) {
      EXPECT_EQ(drift, Drift::none);
      EXPECT_EQ(found.partial.log_weight[i], -std::numeric_limits<double>::infinity());
      for (Index c = 0; c < found.partial.value.cols(); ++c) EXPECT_EQ(found.partial.value(i, c), 0);
      continue;
    }
    if (state) {
      // r / p is exp(log_sum - anchor), spread over at most 10 keys and 20 copies of the synthetic one.
      const double above = log_sum - anchors[i];
      const double range = -std::log(least_weight<Scalar>());
      const double slack = std::log(200.0) + allowed;
      const double least = drift == Drift::none ? 0 : range - slack;
      const double most = drift == Drift::none ? range + slack : std::numeric_limits<double>::infinity();
      const double distance = drift == Drift::too_high ? -above : drift == Drift::too_low ? above : std::abs(above);
      EXPECT_TRUE(least <= distance && distance <= most) << "drift " << static_cast<int>(drift);
    }
    ++(drift == Drift::none ? drifts.none : drift == Drift::too_low ? drifts.too_low : drifts.too_high);
    if (drift == Drift::none) {
      EXPECT_LE(std::abs(found.partial.log_weight[i] - (state ? log_sum : 0)), state ? allowed : 0);
    }
    if (drift == Drift::too_high) continue;
    for (Index c = 0; values && c < value_dim; ++c)
      EXPECT_LE(std::abs(static_cast<double>(Real(found.partial.value(i, c)) - row.value[static_cast<std::size_t>(c)])),
                allowed * static_cast<double>(truth.value_size));
    for (Index c = 0; expected_keys && c < head_dim; ++c)
      EXPECT_LE(std::abs(static_cast<double>(Real(found.expected_keys(i, c)) -
                                             row.expected_key[static_cast<std::size_t>(c)])),
                allowed * static_cast<double>(truth.key_size));
  }
  return drifts;
}

}  // namespace tiles
