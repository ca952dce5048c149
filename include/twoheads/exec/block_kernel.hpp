#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <twoheads/attention/input.hpp>
#include <twoheads/attention/tile_kernel.hpp>
#include <twoheads/plan/tile.hpp>

namespace twoheads {

/// Keys of a tile that follow each other: its sinks, or the others.
struct TileKeys {
  Rows keys;     ///< positions in the sequence
  KeyBand band;  ///< which of them the tile's queries see
};

/// Calls use(keys) for the sinks of a tile and for its other keys, as far as it has them.
template <class Use>
void for_each_keys(const Tile& tile, const Use& use) {
  if (!tile.sinks.empty()) use(TileKeys{tile.sinks, KeyBand::all()});
  if (tile.keys.empty()) return;
  switch (tile.shape) {
    case TileShape::rectangle:
      return use(TileKeys{tile.keys, KeyBand::all()});
    case TileShape::lower:
      return use(TileKeys{tile.keys, KeyBand::lower()});
    case TileShape::strict_upper:
      return use(TileKeys{tile.keys, KeyBand::strict_upper()});
  }
}

/// Of the keys `part` that a tile shows, those between the first and the last that the queries `own` see.
[[nodiscard]] inline Rows seen_keys(const Tile& tile, const TileKeys& of, Rows part, Rows own) {
  const Rows queries{std::max(tile.queries.begin, own.begin), std::min(tile.queries.end, own.end)};
  if (queries.empty()) return {part.begin, part.begin};
  const Rows seen = of.band.seen_by_some({queries.begin - tile.queries.begin, queries.end - tile.queries.begin},
                                         {part.begin - of.keys.begin, part.end - of.keys.begin});
  if (seen.empty()) return {part.begin, part.begin};
  return {of.keys.begin + seen.begin, of.keys.begin + seen.end};
}

/// What is added to the scores of a tile's queries, for the keys of a head from position `first_key` on.
template <RealScalar Scalar>
[[nodiscard]] TileTerms<Scalar> tile_terms(const AttentionInput<Scalar>& input, Index head, const Tile& tile,
                                           Index first_key) {
  const AttentionSpec& spec = input.spec;
  TileTerms<Scalar> terms{spec.alibi.empty() ? 0.0 : spec.alibi[static_cast<std::size_t>(head)],
                          first_key - tile.queries.begin};
  if (const Scalar* const bias = input.bias_of(head, tile.queries.begin)) {
    terms.bias = bias + first_key;
    terms.bias_stride = input.bias.by_query ? input.bias.rows.outerStride() : 0;
  }
  return terms;
}

/// How the scores of an input are made.
template <RealScalar Scalar>
[[nodiscard]] ScoreRule score_rule(const AttentionInput<Scalar>& input) {
  return {input.spec.score_scale, input.spec.soft_cap, !input.spec.alibi.empty() || !input.bias.empty()};
}

/// One query block of one head in the tile kernel, or some of its rows: tiles and parts of tiles in, rows out.
///
///   Laws     bits depend on the block's tiles, their order and the rows alone; those of a row not on which rows of
///            the block are here
///   Corner   not for concurrent use. `finite_values` says whether all values that any tile shows are finite.
template <RealScalar S, SimdBackend Simd = DefaultSimd<S>>
class BlockKernel {
 public:
  using Scalar = S;

  BlockKernel(const AttentionInput<Scalar>& input, bool finite_values)
      : input_(input),
        finite_values_(finite_values),
        kernel_(input.spec.head_dim, input.spec.value_dim, score_rule(input)) {}

  /// Takes the queries `own` of a block.
  void begin(Index head, Rows block, Rows own) {
    head_ = head;
    block_ = block;
    own_ = own;
    kernel_.begin(input_.query_rows(head, own), own.begin - block.begin, block.size());
  }
  /// As above, where the block is all that is evaluated.
  void begin(Index head, Rows block) { begin(head, block, block); }

  /// Adds the keys `part` of what a tile shows: all of `of`, or some, cut as TileKernel::add says.
  ///
  ///   Shapes   keys (seen.size(), head_dim), values (seen.size(), value_dim): those of `part` that our queries see, or
  ///            more of them
  template <class Stored>
  void add(const Tile& tile, const TileKeys& of, Rows part, Rows seen, const MatrixView<Stored>& keys,
           const MatrixView<Stored>& values) {
    kernel_.add({tile.queries.begin - block_.begin, tile.queries.end - block_.begin}, part.size(),
                seen.begin - part.begin, keys, values, of.band.from_key(part.begin - of.keys.begin), tile.log_factor(),
                finite_values_, tile_terms(input_, head_, tile, part.begin));
  }

  /// Writes the rows, joined with a learned sink where there is one.
  ///
  ///   Shapes   out (own rows, value_dim); log_weights: as many, in nats, or none
  void finish(MatrixSpan<Scalar> out, double* log_weights = nullptr) {
    const double sink = input_.sink_logit(head_);
    if (std::isinf(sink)) return kernel_.finish(out, log_weights);
    sink_weights_.resize(own_.size());
    kernel_.finish(out, sink_weights_.data());
    for (Index row = 0; row < own_.size(); ++row) {
      const double keys = sink_weights_[row];
      // The share of the keys beside the sink, and their log-sum-exp together.
      if (keys > -std::numeric_limits<double>::infinity())
        out.row(row) *= static_cast<Scalar>(1.0 / (1.0 + std::exp(sink - keys)));
      if (log_weights != nullptr)
        log_weights[row] = std::max(sink, keys) + std::log1p(std::exp(-std::abs(sink - keys)));
    }
  }

  /// The rows as a partial, without the learned sink: that is joined once a row.
  [[nodiscard]] Partial<Scalar> finish_partial() { return kernel_.finish(); }

 private:
  const AttentionInput<Scalar>& input_;
  bool finite_values_;
  TileKernel<Scalar, Simd> kernel_;
  Index head_ = 0;
  Rows block_;
  Rows own_;
  Vector<double> sink_weights_;
};

}  // namespace twoheads
