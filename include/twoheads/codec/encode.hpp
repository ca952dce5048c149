#pragma once

#include <algorithm>
#include <limits>
#include <span>
#include <twoheads/attention/input.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/codec/codes.hpp>
#include <twoheads/codec/layout.hpp>
#include <twoheads/codec/slot_map.hpp>

namespace twoheads {

/// By how much a score must lie below the real ones to have no weight beside them in any scalar.
///
///   Shapes   queries (rows, m), keys (n, m) of a slot
///   Units    of the oracle's products q . k, before its own scale
///   Math     1000 nats and twice the scores' own bound m max |q| max |k|
class ScoreBound {
 public:
  template <class Queries>
  void add_queries(const Queries& queries) {
    grow(query_, queries);
  }
  template <class Keys>
  void add_keys(const Keys& keys) {
    grow(key_, keys);
  }

  [[nodiscard]] double gap(double factor, Index head_dim, double oracle_scale) const {
    return 2.0 * std::abs(factor) * static_cast<double>(head_dim) * query_ * key_ + 1000.0 / oracle_scale;
  }

 private:
  // In float64, since squares and products of floats may leave their range where the scores do not.
  template <class Rows>
  static void grow(double& largest, const Rows& rows) {
    if (rows.size() > 0) largest = std::max(largest, static_cast<double>(rows.cwiseAbs().maxCoeff()));
  }

  double query_ = 0;
  double key_ = 0;
};

/// An entry for the synthetic column of keys that no query may attend to; the queries' anchor column holds 1.
template <RealScalar Scalar>
[[nodiscard]] Scalar dead_key(double gap) {
  return static_cast<Scalar>(-std::min(gap, static_cast<double>(std::numeric_limits<Scalar>::max())));
}

/// What the encoder needs beside the tokens.
template <RealScalar Scalar>
struct EncodeSettings {
  Scalar factor = Scalar(1);     ///< the model's score scale over the oracle's; multiplies projected queries
  Scalar synthetic = Scalar(1);  ///< entry of the synthetic column on rows without a real key
  const Codes* codes = nullptr;  ///< what keeps the jobs of a slot apart, where the layout has columns for them
  Scalar amplitude = Scalar(0);  ///< of the codes
};

/// Writes the tiles of one slot into the rows of a call.
///
///   Shapes   call (rows of the call, all columns), zero before; the slot has layout.width() of them from `begin`;
///            anchors: (query rows) of each tile, in units of the oracle's score
///   Corner   rows beyond map.rows() are padding: copies of the synthetic key, that decoding divides out again. The
///            synthetic key and sinks carry no code, so that every job sees them.
///   Source   Yu & Alman, Lemma 3.1 (plain), Claim B.6 and Theorem 3.5 (causal), Theorem 4.2 (codes)
template <RealScalar Scalar>
void encode(Matrix<Scalar>& call, Index begin, const InstanceLayout& layout, const SlotMap& map,
            const AttentionInput<Scalar>& input, Index head, std::span<const Vector<Scalar>* const> anchors,
            const EncodeSettings<Scalar>& settings) {
  const bool raw = layout.encoding == TokenEncoding::raw;
  const bool slice = input.spec.head_input == HeadInput::slice;
  const auto tokens = [&](const MatrixView<Scalar>& all, Rows rows) {
    return block_view(all, rows, slice ? head * layout.input_width : 0, layout.input_width);
  };
  // Raw tokens are scaled by the oracle's own query weights.
  const Scalar factor = raw ? Scalar(1) : settings.factor;

  for (Index row = 0; row < call.rows(); ++row) {
    auto columns = call.row(row).segment(begin, layout.width());
    const SlotMap::Row carried = map.row(row);
    if (carried.query != SlotMap::none) {
      const Tile& tile = map.tile(carried.job);
      const Index query = tile.queries.begin + carried.query;
      columns.head(layout.query_cols()) =
          factor * (raw ? tokens(input.query_tokens, input.held.query_place({query, query + 1}))
                        : input.query_rows(head, {query, query + 1}));
      columns[layout.anchor_at()] = (*anchors[static_cast<std::size_t>(carried.job)])[carried.query];
      if (layout.code_cols > 0)
        settings.codes->write_query(carried.job, settings.amplitude,
                                    columns.segment(layout.query_code_at(), layout.code_cols));
    }
    const Index key = carried.key;
    const bool real = key != SlotMap::none;
    if (real)
      columns.segment(layout.key_at(), layout.query_cols()) =
          raw ? tokens(input.key_tokens, input.held.key_place({key, key + 1})) : input.key_rows(head, {key, key + 1});
    else
      columns[layout.synthetic_at()] = settings.synthetic;
    if (real && layout.code_cols > 0 && carried.job != SlotMap::none)
      settings.codes->write_key(carried.job, settings.amplitude,
                                columns.segment(layout.key_code_at(), layout.code_cols));
    if (raw) {
      columns[layout.value_at()] = real ? Scalar(1) : Scalar(0);
      continue;
    }
    auto answer = columns.segment(layout.value_at(), layout.answer_cols());
    if (layout.has_state()) answer[real ? layout.r_at() : layout.p_at()] = Scalar(1);
    if (!real) continue;
    if (layout.has_values()) answer.head(layout.value_dim) = input.value_rows(head, {key, key + 1});
    if (layout.has_keys()) answer.segment(layout.keys_at(), layout.head_dim) = input.key_rows(head, {key, key + 1});
  }
}

}  // namespace twoheads
