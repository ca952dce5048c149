#pragma once

#include <algorithm>
#include <twoheads/attention/input.hpp>
#include <twoheads/attention/reordered_keys.hpp>
#include <twoheads/attention/tile_backward.hpp>
#include <twoheads/exec/block_kernel.hpp>
#include <twoheads/exec/kernel_attention.hpp>
#include <twoheads/plan/plan.hpp>
#include <twoheads/train/attention_gradient.hpp>
#include <twoheads/train/trainable.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// Attention by the tile kernel that can be differentiated: the fast engine of training.
///
///   Shapes   as TrainableAttention says
///   Laws     forward() is KernelAttention. Bits are the same for any executor: a piece of work is a key/value head and
///            a share of the query blocks, cut by the problem alone, with sums of
///            its own for the keys that it sees, and these are added in the order of the shares. There are about 8
///            pieces, and 4 shares of a head at most, so that memory stays within that of a few more k and v.
///   Corner   with samples the gradient is that of the estimate, the sample held fixed
///   Throws   SpecError for keys of which some are not held, or are to be rounded; otherwise as KernelAttention
template <RealScalar S, Executor Exec = Serial, SimdBackend Simd = DefaultSimd<S>>
class TrainableKernel {
 public:
  using Scalar = S;

  explicit TrainableKernel(const KernelOptions& options = {}, Exec exec = {})
      : options_(with_log_weights(options)), exec_(std::move(exec)), forward_(options_, exec_) {}

  void forward(const AttentionInput<Scalar>& input, MatrixSpan<Scalar> out, Matrix<double>& log_weights) {
    forward_(input, out);
    log_weights = forward_.log_weights();
  }

  [[nodiscard]] AttentionGradient<Scalar> backward(const AttentionInput<Scalar>& input, const MatrixView<Scalar>& out,
                                                   const Matrix<double>& log_weights, const MatrixView<Scalar>& d_out) {
    const AttentionSpec& spec = input.spec;
    detail::require_rows_of_sequence(input, "a kernel's derivative");
    detail::require_backward_shapes(input, out, log_weights, d_out);
    KernelOptions options = options_;
    if (options.rows == 0) options.rows = std::min(kernel_rows(input.queries(), spec), most_rows);
    const Plan plan(kernel_request(options_.sampling.samples > 0 ? options_ : options, spec, input.layer,
                                   input.query_positions(), input.key_positions()));
    const ReorderedKeys<Scalar> reordered(input, plan.key_order());
    const AttentionInput<Scalar> ordered = reordered.input();

    const Matrix<double> means = detail::output_products(out, d_out, spec);
    AttentionGradient<Scalar> found;
    found.q.setZero(input.q.rows(), input.q.cols());
    const std::vector<Rows> shares = shares_of(plan, spec);
    std::vector<Piece> pieces;
    for (Index kv = 0; kv < spec.kv_heads; ++kv)
      for (const Rows& blocks : shares) pieces.push_back({kv, blocks, keys_of(plan, blocks), {}, {}});
    struct Local {
      TileBackward<Scalar, Simd> kernel;
      Vector<double> log_weights, means;
    };
    exec_.for_each(
        static_cast<Index>(pieces.size()),
        [&] {
          return Local{{spec.head_dim, spec.value_dim, score_rule(input)}, {}, {}};
        },
        [&](Local& local, Index number) {
          // The last shares of a causal mask are begun first: they see most.
          Piece& piece = pieces[pieces.size() - 1 - static_cast<std::size_t>(number)];
          piece.d_keys.setZero(piece.keys.size(), spec.head_dim);
          piece.d_values.setZero(piece.keys.size(), spec.value_dim);
          const Index group = spec.heads / spec.kv_heads;
          for (Index head = piece.kv_head * group; head < (piece.kv_head + 1) * group; ++head)
            for (Index block = piece.blocks.begin; block < piece.blocks.end; ++block) {
              const Rows queries = plan.queries_of(block);
              const Rows held = input.held.query_place(queries);
              local.log_weights = log_weights.col(head).segment(held.begin, held.size());
              local.means = means.col(head).segment(held.begin, held.size());
              local.kernel.begin(ordered.query_rows(head, queries),
                                 block_view(d_out, held, head * spec.value_dim, spec.value_dim),
                                 local.log_weights.data(), local.means.data());
              plan.for_each_joined_tile(
                  block, head, [&](const Tile& tile) { add(local.kernel, ordered, tile, head, queries, piece); });
              local.kernel.finish(block_span(span(found.q), held, head * spec.head_dim, spec.head_dim));
            }
        });
    join(spec, plan.key_order(), pieces, input.keys(), found);
    found.sinks = detail::sink_gradient(input, log_weights, means);
    return found;
  }

 private:
  /// Query blocks of a key/value head, and what they add to the keys that they see.
  struct Piece {
    Index kv_head = 0;
    Rows blocks;
    Rows keys;
    Matrix<Scalar> d_keys, d_values;
  };

  static constexpr Index most_rows = 512;
  static constexpr Index wanted_pieces = 8;
  static constexpr Index most_shares = 4;

  static KernelOptions with_log_weights(KernelOptions options) {
    if (options.storage != KeyStorage::as_given)
      throw SpecError("keys rounded to 16 bits have no derivative here: expected KeyStorage::as_given");
    options.log_weights = true;
    return options;
  }

  /// Consecutive query blocks that see about equally many pairs.
  [[nodiscard]] static std::vector<Rows> shares_of(const Plan& plan, const AttentionSpec& spec) {
    const Index wanted =
        std::clamp<Index>(ceil_div(wanted_pieces, spec.kv_heads), 1, std::min(most_shares, plan.query_blocks()));
    std::vector<double> pairs;
    double all = 0;
    for (Index block = 0; block < plan.query_blocks(); ++block) {
      double count = 1;
      plan.for_each_joined_tile(block, 0, [&](const Tile& tile) {
        const double area = static_cast<double>(tile.queries.size()) * static_cast<double>(tile.keys.size());
        count += tile.shape == TileShape::rectangle ? area : area / 2;
      });
      pairs.push_back(count);
      all += count;
    }
    std::vector<Rows> shares;
    double done = 0;
    Index begin = 0;
    for (Index block = 0; block < plan.query_blocks(); ++block) {
      done += pairs[static_cast<std::size_t>(block)];
      const auto share = static_cast<double>(shares.size() + 1);
      if (done < all * share / static_cast<double>(wanted) && block + 1 < plan.query_blocks()) continue;
      shares.push_back({begin, block + 1});
      begin = block + 1;
    }
    return shares;
  }

  /// The keys between the first and the last that some query blocks see in any head.
  [[nodiscard]] static Rows keys_of(const Plan& plan, Rows blocks) {
    Rows keys{plan.keys(), 0};
    const auto add = [&](Rows more) {
      if (!more.empty()) keys = {std::min(keys.begin, more.begin), std::max(keys.end, more.end)};
    };
    const Index heads = plan.sampled() != nullptr ? plan.request().heads : 1;
    for (Index block = blocks.begin; block < blocks.end; ++block)
      for (Index head = 0; head < heads; ++head)
        plan.for_each_joined_tile(block, head, [&](const Tile& tile) {
          add(tile.keys);
          add(tile.sinks);
        });
    return keys.begin < keys.end ? keys : Rows{0, 0};
  }

  static void add(TileBackward<Scalar, Simd>& kernel, const AttentionInput<Scalar>& input, const Tile& tile, Index head,
                  Rows block, Piece& piece) {
    const AttentionSpec& spec = input.spec;
    for_each_keys(tile, [&](const TileKeys& of) {
      const Rows own{of.keys.begin - piece.keys.begin, of.keys.end - piece.keys.begin};
      kernel.add({tile.queries.begin - block.begin, tile.queries.end - block.begin}, input.key_rows(head, of.keys),
                 input.value_rows(head, of.keys), of.band, tile.log_factor(),
                 tile_terms(input, head, tile, of.keys.begin), block_span(span(piece.d_keys), own, 0, spec.head_dim),
                 block_span(span(piece.d_values), own, 0, spec.value_dim));
    });
  }

  /// Adds the pieces in their order; keys that a plan has put in another order go back to theirs.
  static void join(const AttentionSpec& spec, const std::vector<Index>& order, const std::vector<Piece>& pieces,
                   Index keys, AttentionGradient<Scalar>& found) {
    found.k.setZero(keys, spec.kv_heads * spec.head_dim);
    found.v.setZero(keys, spec.kv_heads * spec.value_dim);
    for (const Piece& piece : pieces)
      for (Index row = 0; row < piece.keys.size(); ++row) {
        const Index at = piece.keys.begin + row;
        const Index key = order.empty() ? at : order[static_cast<std::size_t>(at)];
        found.k.row(key).segment(piece.kv_head * spec.head_dim, spec.head_dim) += piece.d_keys.row(row);
        found.v.row(key).segment(piece.kv_head * spec.value_dim, spec.value_dim) += piece.d_values.row(row);
      }
  }

  KernelOptions options_;
  Exec exec_;
  KernelAttention<Scalar, Exec, Simd> forward_;
};

static_assert(TrainableAttention<TrainableKernel<float>, float>);

}  // namespace twoheads
