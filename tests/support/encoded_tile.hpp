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
#include <twoheads/model/random.hpp>
#include <utility>
#include <vector>

#include "support/in_shape.hpp"
#include "support/instances.hpp"

/// Tiles of a small made-up layer: the truth about them by the definitions in long double, and one call that encodes
/// them, runs the Eigen small transformer and decodes the answer. Uses none of the library's attention.
namespace tiles {

using namespace twoheads;
using Real = long double;
using RealMatrix = std::vector<std::vector<Real>>;

inline constexpr Index queries = 9, keys = 10, heads = 2, head_dim = 3, value_dim = 2, input_width = 4;

// --- a layer's tokens ------------------------------------------------------------------------------------------------

/// What a layer hands to its attention, with its owners. Two heads of different keys, or of the same keys and values.
template <class Scalar>
struct Layer {
  AttentionSpec spec;
  AttentionWeights<Scalar> weights;
  Matrix<Scalar> query_tokens, key_tokens, q, k, v;
  Index hottest = 0;  ///< the head of the largest logit

  [[nodiscard]] AttentionInput<Scalar> input() const {
    return {spec, 0, view(q), view(k), view(v), view(query_tokens), view(key_tokens), weights};
  }
};

template <class Scalar>
RealMatrix to_real(const Matrix<Scalar>& values, Index begin, Index count) {
  RealMatrix result;
  for (Index row = 0; row < values.rows(); ++row) {
    result.emplace_back();
    for (Index col = begin; col < begin + count; ++col) result.back().push_back(static_cast<Real>(values(row, col)));
  }
  return result;
}

inline RealMatrix product(const RealMatrix& a, const RealMatrix& b) {
  RealMatrix result(a.size(), std::vector<Real>(b.front().size(), 0));
  for (std::size_t row = 0; row < a.size(); ++row)
    for (std::size_t col = 0; col < b.front().size(); ++col)
      for (std::size_t n = 0; n < b.size(); ++n) result[row][col] += a[row][n] * b[n][col];
  return result;
}

inline RealMatrix absolute(RealMatrix values) {
  for (auto& row : values)
    for (Real& value : row) value = std::abs(value);
  return values;
}

inline Real dot(const std::vector<Real>& a, const std::vector<Real>& b) {
  Real sum = 0;
  for (std::size_t n = 0; n < a.size(); ++n) sum += a[n] * b[n];
  return sum;
}

/// Tokens times the weights that one head applies to them; `part` numbers the head or the key/value head.
template <class Scalar>
RealMatrix projected(const Layer<Scalar>& layer, const Matrix<Scalar>& tokens, const Matrix<Scalar>& weights,
                     Index part, Index dim, bool sizes) {
  const bool slice = layer.spec.head_input == HeadInput::slice;
  const RealMatrix x = to_real(tokens, slice ? part * input_width : 0, input_width);
  const RealMatrix w = to_real(weights, part * dim, dim);
  return sizes ? product(absolute(x), absolute(w)) : product(x, w);
}

template <class Scalar>
void project(const Layer<Scalar>& layer, const Matrix<Scalar>& tokens, const Matrix<Scalar>& weights, Index parts,
             Index dim, Matrix<Scalar>& result) {
  result.resize(tokens.rows(), parts * dim);
  for (Index part = 0; part < parts; ++part) {
    const RealMatrix rows = projected(layer, tokens, weights, part, dim, false);
    for (Index row = 0; row < tokens.rows(); ++row)
      for (Index col = 0; col < dim; ++col)
        result(row, part * dim + col) =
            static_cast<Scalar>(rows[static_cast<std::size_t>(row)][static_cast<std::size_t>(col)]);
  }
}

/// A layer whose logits, over all pairs and heads, lie in -largest..largest and reach its end.
template <class Scalar>
Layer<Scalar> make_layer(Random& random, double largest, bool slice) {
  Layer<Scalar> layer;
  layer.spec.heads = heads;
  layer.spec.kv_heads = slice ? heads : 1;
  layer.spec.head_dim = head_dim;
  layer.spec.value_dim = value_dim;
  layer.spec.score_scale = 0.6;
  layer.spec.head_input = slice ? HeadInput::slice : HeadInput::whole;
  const Index kv_heads = layer.spec.kv_heads;
  const Index width = slice ? heads * input_width : input_width;
  layer.query_tokens = random.matrix<Scalar>(queries, width);
  layer.key_tokens = random.matrix<Scalar>(keys, width);
  layer.weights.wq = random.matrix<Scalar>(input_width, heads * head_dim);
  layer.weights.wk = random.matrix<Scalar>(input_width, kv_heads * head_dim);
  layer.weights.wv = random.matrix<Scalar>(input_width, kv_heads * value_dim);
  Real found = 0;
  for (Index head = 0; head < heads; ++head)
    for (const auto& q : projected(layer, layer.query_tokens, layer.weights.wq, head, head_dim, false))
      for (const auto& k : projected(layer, layer.key_tokens, layer.weights.wk, slice ? head : 0, head_dim, false)) {
        const Real logit = Real(layer.spec.score_scale) * dot(q, k);
        if (std::abs(logit) <= std::abs(found)) continue;
        found = logit;
        layer.hottest = head;
      }
  layer.weights.wq *= static_cast<Scalar>(Real(largest) / found);
  project(layer, layer.query_tokens, layer.weights.wq, heads, head_dim, layer.q);
  project(layer, layer.key_tokens, layer.weights.wk, kv_heads, head_dim, layer.k);
  project(layer, layer.key_tokens, layer.weights.wv, kv_heads, value_dim, layer.v);
  return layer;
}

// --- the truth, by the definitions, in long double -------------------------------------------------------------------

struct TruthRow {
  Index seen = 0;
  Real log_sum = -std::numeric_limits<Real>::infinity();
  std::vector<Real> value, expected_key;
};

struct Truth {
  std::vector<TruthRow> rows;
  Real logit_size = 0;  ///< largest sum of the absolute products of a logit: what its rounding is relative to
  Real value_size = 0, key_size = 0;
};

inline Real largest_entry(const RealMatrix& values) {
  Real largest = 0;
  for (const auto& row : values)
    for (const Real value : row) largest = std::max(largest, value);
  return largest;
}

template <class Scalar>
Truth truth_of(const Layer<Scalar>& layer, const Tile& tile, Index head, TokenEncoding encoding) {
  const Index kv_head = layer.spec.kv_heads == 1 ? 0 : head;
  const auto rows_of = [&](const Matrix<Scalar>& tokens, const Matrix<Scalar>& weights, const Matrix<Scalar>& done,
                           Index part, Index dim, bool sizes) {
    if (encoding == TokenEncoding::raw) return projected(layer, tokens, weights, part, dim, sizes);
    const RealMatrix rows = to_real(done, part * dim, dim);
    return sizes ? absolute(rows) : rows;
  };
  RealMatrix q, k, v, q_size, k_size, v_size;
  for (const bool sizes : {false, true}) {
    (sizes ? q_size : q) = rows_of(layer.query_tokens, layer.weights.wq, layer.q, head, head_dim, sizes);
    (sizes ? k_size : k) = rows_of(layer.key_tokens, layer.weights.wk, layer.k, kv_head, head_dim, sizes);
    (sizes ? v_size : v) = rows_of(layer.key_tokens, layer.weights.wv, layer.v, kv_head, value_dim, sizes);
  }
  Truth truth;
  truth.value_size = largest_entry(v_size);
  truth.key_size = largest_entry(k_size);
  const Real scale = layer.spec.score_scale;
  for (Index i = 0; i < tile.queries.size(); ++i) {
    TruthRow row;
    row.value.assign(value_dim, 0);
    row.expected_key.assign(head_dim, 0);
    const auto query = static_cast<std::size_t>(tile.queries.begin + i);
    std::vector<Real> logits;
    std::vector<std::size_t> visible;
    for (Index j = 0; j < tile.keys.size(); ++j)
      if (in_shape(tile.shape, i, j)) visible.push_back(static_cast<std::size_t>(tile.keys.begin + j));
    for (Index sink = tile.sinks.begin; sink < tile.sinks.end; ++sink)
      visible.push_back(static_cast<std::size_t>(sink));
    for (const std::size_t key : visible) {
      logits.push_back(scale * dot(q[query], k[key]));
      truth.logit_size = std::max(truth.logit_size, scale * dot(q_size[query], k_size[key]));
    }
    row.seen = static_cast<Index>(logits.size());
    if (row.seen > 0) {
      const Real largest = *std::max_element(logits.begin(), logits.end());
      Real sum = 0;
      for (const Real logit : logits) sum += std::exp(logit - largest);
      row.log_sum = largest + std::log(sum);
    }
    for (std::size_t n = 0; n < visible.size(); ++n) {
      const Real weight = std::exp(logits[n] - row.log_sum);
      for (std::size_t c = 0; c < value_dim; ++c) row.value[c] += weight * v[visible[n]][c];
      for (std::size_t c = 0; c < head_dim; ++c) row.expected_key[c] += weight * k[visible[n]][c];
    }
    truth.rows.push_back(row);
  }
  return truth;
}

/// How far attention weights may lie from the truth, relative; and log weights, absolutely. A logit of these lengths
/// carries at most head_dim + 2 * input_width roundings of its size, its anchor one of its own; exp, sums and quotients
/// carry few more.
template <class Scalar>
double bound(const Truth& truth, double anchor) {
  const double eps = static_cast<double>(std::numeric_limits<Scalar>::epsilon());
  const double logit =
      (head_dim + 2.0 * input_width + 8.0) * (static_cast<double>(truth.logit_size) + std::abs(anchor));
  return 4.0 * eps * (logit + static_cast<double>(keys) + 16.0);
}

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
