#pragma once

#include <algorithm>
#include <limits>
#include <twoheads/attention/input.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/codec/layout.hpp>
#include <twoheads/codec/row_map.hpp>

namespace twoheads {

/// An entry for the synthetic column of keys that no query may attend to.
///
///   Shapes   queries (rows, m), keys (n, m) of the tile
///   Math     below every real score by 1000 and by the scores' own bound m max |q| max |k|, so that its exponential is
///            0 beside theirs in any scalar; the queries' anchor column holds 1
template <RealScalar Scalar>
[[nodiscard]] Scalar dead_key(const MatrixView<Scalar>& queries, const MatrixView<Scalar>& keys, double factor,
                              double oracle_scale) {
  // In float64, since squares and products of floats may leave their range where the scores do not.
  const auto q = static_cast<double>(queries.cwiseAbs().maxCoeff());
  const auto k = static_cast<double>(keys.cwiseAbs().maxCoeff());
  const double depth = 2.0 * std::abs(factor) * static_cast<double>(queries.cols()) * q * k + 1000.0 / oracle_scale;
  return static_cast<Scalar>(-std::min(depth, static_cast<double>(std::numeric_limits<Scalar>::max())));
}

/// What the encoder needs beside the tokens.
template <RealScalar Scalar>
struct EncodeSettings {
  Scalar factor = Scalar(1);     ///< the model's score scale over the oracle's; multiplies projected queries
  Scalar synthetic = Scalar(1);  ///< entry of the synthetic column on rows without a real key
};

/// Writes one job's tile into the rows of a call.
///
///   Shapes   call (rows of the call, instances * layout.width()), zero before; anchors (query rows of the tile) in
///            units of the oracle's score; the instance has its columns from `begin`
///   Corner   rows beyond map.rows() are padding: copies of the synthetic key, that decoding divides out again
///   Source   Yu & Alman, Lemma 3.1 (plain), Claim B.6 and Theorem 3.5 (causal)
template <RealScalar Scalar>
void encode(Matrix<Scalar>& call, Index begin, const InstanceLayout& layout, const RowMap& map,
            const AttentionInput<Scalar>& input, Index head, const Vector<Scalar>& anchors,
            const EncodeSettings<Scalar>& settings) {
  const Tile& tile = map.tile();
  const bool raw = layout.encoding == TokenEncoding::raw;
  const bool slice = input.spec.head_input == HeadInput::slice;
  const auto tokens = [&](const MatrixView<Scalar>& all, Rows rows) {
    return block_view(all, rows, slice ? head * layout.input_width : 0, layout.input_width);
  };
  const MatrixView<Scalar> queries =
      raw ? tokens(input.query_tokens, tile.queries) : input.query_rows(head, tile.queries);
  const MatrixView<Scalar> keys = raw ? tokens(input.key_tokens, tile.keys) : input.key_rows(head, tile.keys);
  const MatrixView<Scalar> values = input.value_rows(head, tile.keys);
  // Raw tokens are scaled by the oracle's own query weights.
  const Scalar factor = raw ? Scalar(1) : settings.factor;

  for (Index row = 0; row < call.rows(); ++row) {
    auto columns = call.row(row).segment(begin, layout.width());
    if (const Index query = map.query_at(row); query != RowMap::none) {
      columns.head(layout.query_cols()) = factor * queries.row(query);
      columns[layout.anchor_at()] = anchors[query];
    }
    const Index key = map.key_at(row);
    const bool real = key != RowMap::none;
    if (real)
      columns.segment(layout.key_at(), layout.query_cols()) = keys.row(key);
    else
      columns[layout.synthetic_at()] = settings.synthetic;
    if (raw) {
      columns[layout.value_at()] = real ? Scalar(1) : Scalar(0);
      continue;
    }
    auto answer = columns.segment(layout.value_at(), layout.answer_cols());
    if (layout.has_state()) answer[real ? layout.r_at() : layout.p_at()] = Scalar(1);
    if (!real) continue;
    if (layout.has_values()) answer.head(layout.value_dim) = values.row(key);
    if (layout.has_keys()) answer.segment(layout.keys_at(), layout.head_dim) = keys.row(key);
  }
}

}  // namespace twoheads
