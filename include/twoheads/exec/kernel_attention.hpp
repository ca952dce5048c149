#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <twoheads/attention/input.hpp>
#include <twoheads/attention/reordered_keys.hpp>
#include <twoheads/attention/row_kernel.hpp>
#include <twoheads/exec/executor.hpp>
#include <twoheads/exec/kernel_engine.hpp>
#include <twoheads/plan/plan.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// In which scalar the kernel reads keys and values: as they are given, or rounded once to 16 bits and widened again as
/// they are read: at 8 (bfloat16) or 11 (half) bits of precision, and keys or values above 65504 become infinite as
/// half. Less memory is read, but the rounded rows are a copy beside those given.
enum class KeyStorage { as_given, bfloat16, half };

/// How the kernel's attention is evaluated.
struct KernelOptions {
  Index rows = 0;                             ///< queries of a block, 2 or more; 0: kernel_rows() chooses
  KeyStorage storage = KeyStorage::as_given;  ///< how keys and values are held while they are read
  Sampling sampling = {};                     ///< with samples >= 1 the rows are estimates: see SampledTiling
  bool log_weights = false;                   ///< keep the log-sum-exp of each row
  /// Evaluates the plan of an oracle of `rows` rows instead of the kernel's own.
  std::optional<OracleKind> plan_for = {};
};

/// Queries of a block for a problem, whatever the number of threads, since bits depend on it. Long blocks read keys
/// less often (a page of memory holds few rows of many heads, and finding it costs as much as reading it); some 16
/// blocks and heads together keep several threads busy; a block's own numbers stay at 2^18. Whole panels of any vector
/// divide 128.
[[nodiscard]] inline Index kernel_rows(Index queries, const AttentionSpec& spec) {
  constexpr Index step = 128;
  constexpr Index shares = 16;
  constexpr Index numbers = Index{1} << 18;
  const Index most = std::max<Index>(numbers / (spec.head_dim + spec.value_dim) / step, 1) * step;
  return std::clamp<Index>(ceil_div(ceil_div(queries, shares) * spec.heads, step) * step, step, most);
}

/// What a kernel with these options plans for a layer.
[[nodiscard]] inline PlanRequest kernel_request(const KernelOptions& options, const AttentionSpec& spec, Index layer,
                                                Rows queries, Index keys) {
  if (options.rows < 0 || options.rows == 1)
    throw SpecError(detail::text("the rows of a kernel's block are ", options.rows,
                                 ", expected 2 or more, or 0 to have them chosen"));
  OracleLimits limits;
  limits.kind = options.plan_for.value_or(OracleKind::kernel);
  limits.rows = options.rows > 0 ? options.rows : kernel_rows(queries.size(), spec);
  Sampling sampling = options.sampling;
  sampling.layer = layer;
  return {spec.mask,         queries.size(), keys, spec.heads,   1, limits, Anchor::mean_key,
          Packing::residual, sampling,       0,    queries.begin};
}

/// Evaluates a layer's attention by the tile kernel, exactly and without an oracle: the fast engine. Hand it to
/// forward() in place of direct attention, or call it on projected_input(spec, q, k, v).
///
///   Laws     out equals direct attention up to rounding, with the same bits for any executor; with samples it is an
///            estimate, the same bits for the same seed. Memory: one query block a thread, not the scores.
///   Corner   NaN and infinity come out as IEEE direct evaluation gives them, in the rows that see them and no other
///   Throws   ShapeError if q, k, v or out do not fit the spec; SpecError, LimitError as Plan says
///   Source   Yu & Alman, Lemma 3.1 and Theorem 4.1 with the host as the small transformer; docs/architecture.md
template <RealScalar S, Executor Exec = Serial, SimdBackend Simd = DefaultSimd<S>>
class KernelAttention {
 public:
  using Scalar = S;

  explicit KernelAttention(const KernelOptions& options = {}, Exec exec = {})
      : options_(options), exec_(std::move(exec)) {}

  void operator()(const AttentionInput<Scalar>& input, MatrixSpan<Scalar> out) {
    require_shapes(input, out);
    if (one_row(input)) return decode(input, out);
    begin_layer(input.spec, input.layer, input.query_positions(), input.key_positions());
    (*this)(input, input.query_positions(), out);
    end_layer();
  }

  /// Part by part, for long inputs whose queries see few keys: see AttendInParts.
  void begin_layer(const AttentionSpec& spec, Index layer, Rows queries, Index keys) {
    plan_.emplace(kernel_request(options_, spec, layer, queries, keys));
    if (options_.log_weights) log_weights_.resize(queries.size(), spec.heads);
    next_block_ = 0;
  }

  /// The first end of a query block from first + least on.
  [[nodiscard]] Index part_end(Index first, Index least) const {
    TWOHEADS_ASSERT(plan_);
    Index block = next_block_;
    while (block + 1 < plan_->query_blocks() && plan_->queries_of(block).end - first < least) ++block;
    return plan_->queries_of(block).end;
  }

  /// In place of the evaluation of a part whose rows are known already.
  void skip_part(Rows queries) {
    TWOHEADS_ASSERT(plan_);
    next_block_ = plan_->blocks_until(next_block_, queries.end).end;
  }

  void operator()(const AttentionInput<Scalar>& input, Rows queries, MatrixSpan<Scalar> out) {
    TWOHEADS_ASSERT(plan_);
    detail::require_shape("the output of a part", out, queries.size(), input.spec.heads * input.spec.value_dim);
    detail::require_score_terms(input);
    if (plan_->sampled() != nullptr) detail::require_plain_scores(input, "a sample");
    const Rows blocks = plan_->blocks_until(next_block_, queries.end);
    next_block_ = blocks.end;
    const ReorderedKeys<Scalar> keys(input, plan_->key_order());
    const AttentionInput<Scalar> ordered = keys.input();
    switch (options_.storage) {
      case KeyStorage::as_given:
        return evaluate(ordered, ordered, blocks, queries.begin, out);
      case KeyStorage::bfloat16:
        return evaluate(ordered, StoredKeys<Eigen::bfloat16>(ordered), blocks, queries.begin, out);
      case KeyStorage::half:
        return evaluate(ordered, StoredKeys<Eigen::half>(ordered), blocks, queries.begin, out);
    }
  }

  void end_layer() {
    TWOHEADS_ASSERT(plan_);
    tiles_ += plan_->jobs();
    plan_.reset();
  }

  /// Tiles of single heads evaluated so far.
  [[nodiscard]] Index tiles() const { return tiles_; }

  /// Log weights (N, heads) of the last layer, in nats, where the options ask for them.
  [[nodiscard]] const Matrix<double>& log_weights() const { return log_weights_; }

 private:
  /// Whether an input is one query that any mask shows a range of keys or two:
  /// a plan and lanes for more would be waste.
  [[nodiscard]] bool one_row(const AttentionInput<Scalar>& input) const {
    const AttentionSpec& spec = input.spec;
    return input.queries() == 1 && spec.mask.kind != MaskKind::blocks && spec.soft_cap == 0 && spec.alibi.empty() &&
           input.bias.empty() && options_.storage == KeyStorage::as_given && options_.sampling.samples == 0 &&
           !options_.plan_for && !options_.log_weights;
  }

  /// One query, as in decoding: pieces are a key/value head and a range of keys each, joined in the order of keys.
  void decode(const AttentionInput<Scalar>& input, MatrixSpan<Scalar>& out) {
    const AttentionSpec& spec = input.spec;
    const Index group = spec.heads / spec.kv_heads;
    const VisibleKeys seen = spec.mask.visible_keys(input.query_positions().begin, input.key_positions());
    std::vector<Rows> ranges;
    for (const Rows& range : {seen.sinks, seen.keys})
      for (Index begin = range.begin; begin < range.end; begin += keys_of_a_piece)
        ranges.push_back({begin, std::min(begin + keys_of_a_piece, range.end)});
    const auto pieces = static_cast<Index>(ranges.size());
    using Found = Partial<SumScalar<Scalar>>;
    std::vector<Found> found(static_cast<std::size_t>(spec.kv_heads * pieces));
    const auto find = [&](RowKernel<Scalar>& kernel, Index piece) {
      const Index head = piece / pieces * group;
      // The heads of a group lie side by side in the row: as rows of one head they are a matrix.
      const MatrixView<Scalar> queries(input.q.data() + head * spec.head_dim, group, spec.head_dim,
                                       Eigen::OuterStride<>(spec.head_dim));
      const Rows& keys = ranges[static_cast<std::size_t>(piece % pieces)];
      kernel.find(queries, input.key_rows(head, keys), input.value_rows(head, keys), spec.score_scale,
                  found[static_cast<std::size_t>(piece)]);
    };
    const auto local = [] { return RowKernel<Scalar>(); };
    // Handing a short row to threads takes longer than the row.
    if (input.keys() * spec.heads * (spec.head_dim + spec.value_dim) < work_for_threads)
      Serial().for_each(static_cast<Index>(found.size()), local, find);
    else
      exec_.for_each(static_cast<Index>(found.size()), local, find);
    for (Index kv = 0; kv < spec.kv_heads; ++kv) {
      Found& sum = found[static_cast<std::size_t>(kv * pieces)];
      for (Index piece = 1; piece < pieces; ++piece)
        merge_into(sum, found[static_cast<std::size_t>(kv * pieces + piece)]);
      for (Index row = 0; row < group; ++row) {
        const Index head = kv * group + row;
        // All its scores are -infinity: IEEE evaluation subtracts an infinity from itself.
        if (seen.size() > 0 && std::isinf(sum.log_weight[row]) && sum.log_weight[row] < 0)
          sum.value.row(row).setConstant(std::numeric_limits<SumScalar<Scalar>>::quiet_NaN());
        const double sink = input.sink_logit(head);
        const auto share = static_cast<SumScalar<Scalar>>(1.0 / (1.0 + std::exp(sink - sum.log_weight[row])));
        out.row(0).segment(head * spec.value_dim, spec.value_dim) =
            (sum.value.row(row) * share).template cast<Scalar>();
      }
    }
    tiles_ += static_cast<Index>(found.size());
  }

  static constexpr Index keys_of_a_piece = 4096;
  static constexpr Index work_for_threads = Index{1} << 18;

  /// Keys and values in a narrower scalar.
  template <class Stored>
  struct StoredKeys {
    explicit StoredKeys(const AttentionInput<Scalar>& given)
        : input(given), k(given.k.template cast<Stored>()), v(given.v.template cast<Stored>()) {}

    [[nodiscard]] MatrixView<Stored> key_rows(Index head, Rows rows) const {
      return input.rows_of_head(view(k), head, rows, input.spec.head_dim);
    }
    [[nodiscard]] MatrixView<Stored> value_rows(Index head, Rows rows) const {
      return input.rows_of_head(view(v), head, rows, input.spec.value_dim);
    }

    const AttentionInput<Scalar>& input;
    Matrix<Stored> k, v;
  };

  [[nodiscard]] static bool all_finite(const AttentionInput<Scalar>& keys) {
    return detail::first_row_not_finite(keys.v) < 0;
  }
  /// Of the rounded values: half makes large ones infinite.
  template <class Stored>
  [[nodiscard]] static bool all_finite(const StoredKeys<Stored>& keys) {
    for (Index row = 0; row < keys.v.rows(); ++row)
      if (detail::first_row_not_finite(keys.v.row(row).template cast<Scalar>().eval()) >= 0) return false;
    return true;
  }

  template <class Keys>
  void evaluate(const AttentionInput<Scalar>& input, const Keys& keys, Rows blocks, Index first_query,
                MatrixSpan<Scalar>& out) {
    const AttentionSpec& spec = input.spec;
    const bool finite = all_finite(keys);
    // With log weights a thread needs room to put them side by side.
    struct Local {
      KernelEngine<Scalar, Simd, Keys> engine;
      Vector<double> log_weights;
    };
    exec_.for_each(
        blocks.size() * spec.heads,
        [&] {
          return Local{{*plan_, input, keys, finite}, {}};
        },
        [&](Local& local, Index piece) {
          // Causal masks have their longest blocks last: these are begun first.
          const Index head = piece % spec.heads;
          const Index block = blocks.end - 1 - piece / spec.heads;
          const Rows queries = plan_->queries_of(block);
          const MatrixSpan<Scalar> rows = block_span(out, {queries.begin - first_query, queries.end - first_query},
                                                     head * spec.value_dim, spec.value_dim);
          if (!options_.log_weights) return local.engine.evaluate_block(block, head, rows);
          local.log_weights.resize(queries.size());
          local.engine.evaluate_block(block, head, rows, local.log_weights.data());
          log_weights_.col(head).segment(queries.begin - plan_->queries().begin, queries.size()) = local.log_weights;
        });
  }

  KernelOptions options_;
  Exec exec_;
  std::optional<Plan> plan_;
  Index next_block_ = 0;
  Index tiles_ = 0;
  Matrix<double> log_weights_;
};

}  // namespace twoheads
