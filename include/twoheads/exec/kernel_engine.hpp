#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <twoheads/attention/input.hpp>
#include <twoheads/attention/tile_kernel.hpp>
#include <twoheads/plan/plan.hpp>
#include <vector>

namespace twoheads {

/// Where the rows of keys and values of a layer are found, by head and position: AttentionInput, or a copy of its keys
/// and values in a narrower scalar.
template <class K>
concept KeySource = requires(const K& source, Index head, Rows rows) {
  source.key_rows(head, rows);
  source.value_rows(head, rows);
};

/// Evaluates the tiles of one layer of a plan by the tile kernel, without an oracle: any plan, also one made for an
/// oracle.
///
///   Laws     bits depend on the plan and the rows alone
///   Corner   not for concurrent use: each thread takes an engine of its own. `finite_values` says whether all values
///            of the layer that are held are finite.
template <RealScalar S, SimdBackend Simd = DefaultSimd<S>, KeySource Keys = AttentionInput<S>>
class KernelEngine {
 public:
  using Scalar = S;

  KernelEngine(const Plan& plan, const AttentionInput<Scalar>& input, const Keys& keys, bool finite_values)
      : plan_(plan),
        input_(input),
        keys_(keys),
        finite_values_(finite_values),
        kernel_(input.spec.head_dim, input.spec.value_dim,
                {input.spec.score_scale, input.spec.soft_cap, has_terms(input)}) {}

  /// One query block of one head: its tiles are joined in place.
  ///
  ///   Shapes   out (rows of the block, value_dim); log_weights: as many, in nats, with a learned sink, or none
  void evaluate_block(Index block, Index head, MatrixSpan<Scalar> out, double* log_weights = nullptr) {
    const Rows queries = plan_.queries_of(block);
    kernel_.begin(input_.query_rows(head, queries));
    // Rectangles over neighbouring keys are one: the kernel has its own blocks of keys.
    Tile pending;
    const auto flush = [&] {
      if (!pending.keys.empty()) add(pending, head, queries.begin);
      pending = {};
    };
    plan_.for_each_slot(block, head, [&](std::span<const Tile> slot) {
      for (const Tile& tile : slot) {
        const bool joins = tile.shape == TileShape::rectangle && pending.shape == TileShape::rectangle &&
                           tile.queries == pending.queries && tile.keys.begin == pending.keys.end &&
                           tile.sinks.empty() && !tile.sampled() && !pending.sampled();
        if (joins) {
          pending.keys.end = tile.keys.end;
        } else {
          flush();
          pending = tile;
        }
      }
    });
    flush();
    const double sink = input_.sink_logit(head);
    if (std::isinf(sink)) return kernel_.finish(out, log_weights);
    sink_weights_.resize(queries.size());
    kernel_.finish(out, sink_weights_.data());
    for (Index row = 0; row < queries.size(); ++row) {
      const double keys = sink_weights_[row];
      // The share of the keys beside the sink, and their log-sum-exp together.
      if (keys > -std::numeric_limits<double>::infinity())
        out.row(row) *= static_cast<Scalar>(1.0 / (1.0 + std::exp(sink - keys)));
      if (log_weights != nullptr)
        log_weights[row] = std::max(sink, keys) + std::log1p(std::exp(-std::abs(sink - keys)));
    }
  }

  /// As an Engine: tiles in, partials out, for those who merge keys from several places. Learned sinks are theirs to
  /// join, once a row.
  [[nodiscard]] std::vector<Partial<Scalar>> evaluate(std::span<const Job> jobs) {
    std::vector<Partial<Scalar>> partials;
    partials.reserve(jobs.size());
    for (const Job& job : jobs) {
      kernel_.begin(input_.query_rows(job.head, job.tile.queries));
      Tile tile = job.tile;
      tile.drawn = tile.stands_for = 1;  // whoever merges partials weighs them
      add(tile, job.head, tile.queries.begin);
      partials.push_back(kernel_.finish());
    }
    return partials;
  }

 private:
  [[nodiscard]] static bool has_terms(const AttentionInput<Scalar>& input) {
    return !input.spec.alibi.empty() || !input.bias.empty();
  }

  void add(const Tile& tile, Index head, Index first_query) {
    const Rows rows{tile.queries.begin - first_query, tile.queries.end - first_query};
    const double log_factor = tile.log_factor();
    const AttentionSpec& spec = input_.spec;
    const auto add_keys = [&](Rows keys, const KeyBand& band) {
      TileTerms<Scalar> terms{spec.alibi.empty() ? 0.0 : spec.alibi[static_cast<std::size_t>(head)],
                              keys.begin - tile.queries.begin};
      if (const Scalar* const bias = input_.bias_of(head, tile.queries.begin)) {
        terms.bias = bias + keys.begin;
        terms.bias_stride = input_.bias.by_query ? input_.bias.rows.outerStride() : 0;
      }
      kernel_.add(rows, keys_.key_rows(head, keys), keys_.value_rows(head, keys), band, log_factor, finite_values_,
                  terms);
    };
    if (!tile.sinks.empty()) add_keys(tile.sinks, KeyBand::all());
    switch (tile.shape) {
      case TileShape::rectangle:
        return add_keys(tile.keys, KeyBand::all());
      case TileShape::lower:
        return add_keys(tile.keys, KeyBand::lower());
      case TileShape::strict_upper:
        return add_keys(tile.keys, KeyBand::strict_upper());
    }
  }

  const Plan& plan_;
  const AttentionInput<Scalar>& input_;
  const Keys& keys_;
  bool finite_values_;
  TileKernel<Scalar, Simd> kernel_;
  Vector<double> sink_weights_;
};

}  // namespace twoheads
