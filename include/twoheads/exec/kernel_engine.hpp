#pragma once

#include <span>
#include <twoheads/attention/input.hpp>
#include <twoheads/exec/block_kernel.hpp>
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

/// Evaluates the tiles of one layer of a plan by the tile kernel, without an oracle:
/// any plan, also one made for an oracle.
///
///   Laws     bits depend on the plan and the rows alone
///   Corner   not for concurrent use: each thread takes an engine of its own. `finite_values` says whether all values
///            of the layer that are held are finite.
template <RealScalar S, SimdBackend Simd = DefaultSimd<S>, KeySource Keys = AttentionInput<S>>
class KernelEngine {
 public:
  using Scalar = S;

  KernelEngine(const Plan& plan, const AttentionInput<Scalar>& input, const Keys& keys, bool finite_values)
      : plan_(plan), keys_(keys), block_(input, finite_values) {}

  /// One query block of one head: its tiles are joined in place.
  ///
  ///   Shapes   out (rows of the block, value_dim); log_weights: as many, in nats, with a learned sink, or none
  void evaluate_block(Index block, Index head, MatrixSpan<Scalar> out, double* log_weights = nullptr) {
    block_.begin(head, plan_.queries_of(block));
    plan_.for_each_joined_tile(block, head, [&](const Tile& tile) { add(tile, head); });
    block_.finish(out, log_weights);
  }

  /// As an Engine: tiles in, partials out, for those who merge keys from several places. Learned sinks are theirs to
  /// join, once a row.
  [[nodiscard]] std::vector<Partial<Scalar>> evaluate(std::span<const Job> jobs) {
    std::vector<Partial<Scalar>> partials;
    partials.reserve(jobs.size());
    for (const Job& job : jobs) {
      block_.begin(job.head, job.tile.queries);
      Tile tile = job.tile;
      tile.drawn = tile.stands_for = 1;  // whoever merges partials weighs them
      add(tile, job.head);
      partials.push_back(block_.finish_partial());
    }
    return partials;
  }

 private:
  void add(const Tile& tile, Index head) {
    for_each_keys(tile, [&](const TileKeys& of) {
      block_.add(tile, of, of.keys, of.keys, keys_.key_rows(head, of.keys), keys_.value_rows(head, of.keys));
    });
  }

  const Plan& plan_;
  const Keys& keys_;
  BlockKernel<Scalar, Simd> block_;
};

}  // namespace twoheads
