#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <deque>
#include <limits>
#include <mutex>
#include <optional>
#include <span>
#include <twoheads/attention/direct.hpp>
#include <twoheads/attention/forward.hpp>
#include <twoheads/attention/grouped_query.hpp>
#include <twoheads/attention/reordered_keys.hpp>
#include <twoheads/exec/execute.hpp>
#include <twoheads/exec/executor.hpp>
#include <twoheads/exec/oracle_engine.hpp>
#include <twoheads/merge/error_bars.hpp>
#include <twoheads/merge/merger.hpp>
#include <twoheads/plan/one_query.hpp>
#include <twoheads/plan/plan.hpp>
#include <twoheads/plan/shares.hpp>
#include <type_traits>
#include <utility>
#include <vector>

namespace twoheads {

/// How a simulation makes its calls.
struct SimulationOptions {
  Anchor anchor = Anchor::adaptive;                   ///< how a row's anchor is found
  TokenEncoding encoding = TokenEncoding::projected;  ///< what a row of a call carries
  Packing packing = Packing::residual;                ///< of instances over the oracle's layers
  Sampling sampling = {};                             ///< with samples >= 1 the rows are estimates: see SampledTiling
  double error_bar_level = 0;                         ///< such as 0.9; 0: no error bars, and no memory for them
  Index block = 0;                                    ///< real tokens of a call, as PlanRequest::block
  Index oracle_heads = 0;   ///< heads and layers of the oracle that are used, as a PlanChoice has them; 0: all
  Index oracle_layers = 0;  ///< as oracle_heads
  bool checksums = false;   ///< calls carry a number and a checksum, by which a wrong answer is known
  /// Whether to keep the log weights of the last layer: see GridAttention::log_weights().
  bool log_weights = false;
};

/// What a simulation took.
struct SimulationCounts {
  Index calls = 0;    ///< oracle calls as made, repeats included
  Index repeats = 0;  ///< calls beyond the planned ones: tiles whose anchor was unsafe
  Index rounds = 0;   ///< calls of a round need nothing from each other
  Index jobs = 0;     ///< tiles of single heads
};

namespace detail {

/// The plan of a layer on an oracle with these limits, as far as the options use them. `log_weights` where what the
/// calls find is joined with what they do not.
[[nodiscard]] inline PlanRequest grid_request(const SimulationOptions& options, OracleLimits limits,
                                              const AttentionSpec& spec, Index layer, Rows queries, Index keys,
                                              bool log_weights) {
  require_no_soft_cap(spec);
  const auto use = [](const char* what, Index wanted, Index& has) {
    if (wanted < 0 || wanted > has)
      throw LimitError(text(wanted, " ", what, " of an oracle are to be used, it has ", has));
    if (wanted > 0) has = wanted;
  };
  use("heads", options.oracle_heads, limits.heads);
  use("layers", options.oracle_layers, limits.layers);
  Sampling sampling = options.sampling;
  sampling.layer = layer;
  return {spec.mask,       queries.size(), keys,          spec.heads,    1,          std::move(limits), options.anchor,
          options.packing, sampling,       options.block, queries.begin, log_weights};
}

/// What is thrown for a row of a head that holds NaN or infinity; it stands at a position in the sequence.
[[nodiscard]] inline InputError not_finite(Index layer, Index head, Index position, const char* what) {
  return InputError(text("layer ", layer, ", head ", head, ", row ", position, ": the ", what, " is NaN or infinite"));
}

/// The oracle of each thread of an executor: a copy, made when it is first asked for and kept. Where there is one
/// thread, the oracle itself.
template <Oracle O, Executor Exec>
class OracleCopies {
 public:
  explicit OracleCopies(O& oracle) : oracle_(oracle) {}

  /// Of several threads one at a time asks.
  [[nodiscard]] O& of(std::size_t thread) {
    if constexpr (Exec::concurrent) {
      while (copies_.size() <= thread) copies_.emplace_back(std::as_const(oracle_));
      return copies_[thread];
    } else {
      return oracle_;
    }
  }
  [[nodiscard]] OracleLimits limits() const { return oracle_.limits(); }

 private:
  O& oracle_;
  std::deque<O> copies_;
};

/// Numbers of the calls of one engine: those of others are far, in either digit of a checksum.
constexpr std::uint64_t numbers_of_an_engine = 1009 * 307;

}  // namespace detail

/// Evaluates a layer's attention by a grid of oracle calls; hand it to forward() in place of direct attention.
///
/// On an executor of several threads each thread makes calls on a copy of the oracle, and none on the oracle itself.
/// Copies are made when a thread first needs one, and kept. What run() changes in one copy must be nothing to another.
///
///   Laws     out equals direct attention up to rounding, the same bits and the same calls for any batch, any order of
///            answers and any executor; with samples it is an estimate, the same bits for the same seed
///   Corner   one query whose scores are products is evaluated as GroupedQuery has it: the query heads of a key/value
///            head share a call, and errors name the key/value head, and the query head in it as the row
///   Throws   ShapeError if q, k, v or out do not fit the spec; InputError that names layer, head and row if q, k or
///            v hold NaN or infinity, before the first call (of the part that holds them: AttendInParts);
///            SpecError, LimitError as Plan and ErrorBars say; OracleError, AnchorError as OracleEngine says
///   Source   Yu & Alman, Theorems 3.4, 3.5, 4.1 and 5.1
template <Oracle O, Executor Exec = Serial>
class GridAttention {
  static_assert(!Exec::concurrent || std::copy_constructible<O>,
                "each thread takes a copy of the oracle: one without a copy constructor runs on Serial only");

 public:
  using Scalar = typename O::Scalar;

  explicit GridAttention(O& oracle, const SimulationOptions& options = {}, const Exec& exec = Exec())
      : oracles_(oracle), options_(options), exec_(exec) {}

  void operator()(const AttentionInput<Scalar>& input, MatrixSpan<Scalar> out) {
    require_shapes(input, out);
    if (heads_are_rows(input.queries(), input.key_positions(), options_.sampling, options_.log_weights) &&
        options_.encoding == TokenEncoding::projected && options_.error_bar_level == 0 &&
        GroupedQuery<Scalar>::fits(input))
      return evaluate_one(input, out);
    const bool log_weights = options_.log_weights || input.sink_logits.size() > 0;
    begin(input.spec, input.layer, input.query_positions(), input.key_positions(), log_weights);
    (*this)(input, input.query_positions(), out);
    end_layer();
  }

  /// Part by part, for long inputs whose queries see few keys: see AttendInParts. The parts of a layer take together
  /// the calls that the layer takes as a whole. `log_weights`: whether what calls find is joined with what they do not,
  /// a learned sink; then no call may go without its synthetic row.
  void begin_layer(const AttentionSpec& spec, Index layer, Rows queries, Index keys, bool log_weights = false) {
    begin(spec, layer, queries, keys, log_weights);
  }

  /// The first end of a query block from first + least on at which no call is left half full.
  [[nodiscard]] Index part_end(Index first, Index least) const {
    TWOHEADS_ASSERT(plan_);
    return detail::part_end(*plan_, next_block_, first, least);
  }

  /// In place of the evaluation of a part whose rows are known already.
  void skip_part(Rows queries) {
    TWOHEADS_ASSERT(plan_);
    next_block_ = plan_->blocks_until(next_block_, queries.end).end;
  }

  void operator()(const AttentionInput<Scalar>& input, Rows queries, MatrixSpan<Scalar> out) {
    TWOHEADS_ASSERT(plan_);
    const AttentionSpec& spec = input.spec;
    detail::require_shape("the output of a part", out, queries.size(), spec.heads * spec.value_dim);
    detail::require_score_terms(input);
    require_finite(input);
    evaluate(input, queries, out);
  }

  void end_layer() {
    TWOHEADS_ASSERT(plan_);
    counts_.rounds += rounds_;
    counts_.jobs += plan_->jobs();
    if (bars_) error_bars_.push_back(bars_->finish());
    bars_.reset();
    plan_.reset();
  }

  [[nodiscard]] const SimulationCounts& counts() const { return counts_; }  ///< of all layers so far

  /// For each layer so far the error bars (N, heads) of its attention; empty unless error_bar_level was set.
  [[nodiscard]] const std::vector<Matrix<double>>& error_bars() const { return error_bars_; }

  /// Log weights (N, heads) of the last layer, learned sinks included;
  /// empty unless SimulationOptions::log_weights asked.
  ///
  ///   Units    nats
  ///   Corner   a query that sees no key has -infinity. NaN in a layer that was begun without them and fits one call:
  ///            without a synthetic row a call says none
  [[nodiscard]] const Matrix<double>& log_weights() const { return log_weights_; }

 private:
  /// One query, its heads packed.
  void evaluate_one(const AttentionInput<Scalar>& input, MatrixSpan<Scalar>& out) {
    require_finite(input);
    GroupedQuery<Scalar> query(input);
    if (!query.sees_keys()) {
      out.setZero();
      return;
    }
    const AttentionInput<Scalar> grouped = query.input();
    begin(grouped.spec, grouped.layer, grouped.query_positions(), grouped.key_positions(), false);
    evaluate(grouped, grouped.query_positions(), query.out());
    end_layer();
    query.write(out);
  }

  void begin(const AttentionSpec& spec, Index layer, Rows queries, Index keys, bool log_weights) {
    plan_.emplace(detail::grid_request(options_, oracles_.limits(), spec, layer, queries, keys, log_weights));
    if (options_.error_bar_level != 0 && plan_->sampled() != nullptr && !plan_->exact() &&
        options_.sampling.samples < 2)
      throw SpecError("error bars need the spread of 2 samples or more, the plan draws 1: expected more samples");
    if (options_.error_bar_level != 0)
      bars_.emplace(queries.size(), spec.heads, spec.value_dim, options_.error_bar_level);
    if (options_.log_weights)
      log_weights_.setConstant(queries.size(), spec.heads, -std::numeric_limits<double>::infinity());
    next_block_ = 0;
    rounds_ = 0;
  }

  void evaluate(const AttentionInput<Scalar>& input, Rows queries, MatrixSpan<Scalar> out) {
    const AttentionSpec& spec = input.spec;
    if (input.sink_logits.size() > 0 && plan_->straight())
      throw SpecError("learned sinks of a layer in parts that fits one call: expected the layer as a whole");
    if (input.sink_logits.size() > 0 && bars_)
      throw SpecError("error bars know no learned sinks: expected error_bar_level 0");
    // Queries that see no key have no job.
    if (spec.mask.kind == MaskKind::blocks) out.setZero();
    const Rows blocks = plan_->blocks_until(next_block_, queries.end);
    next_block_ = blocks.end;
    if (plan_->tiles() == 0) return;
    // Each key is read by about so many tiles of a head; from a few on, it pays to lay heads apart.
    const Index reads = plan_->tiles() / ceil_div(plan_->keys(), plan_->block());
    const bool by_head = reads >= 4 && spec.kv_heads > 1 && options_.encoding == TokenEncoding::projected;
    const ReorderedKeys<Scalar> keys(input, plan_->key_order(), by_head);
    const AttentionInput<Scalar> ordered = keys.input();
    // Engines live until their calls are counted.
    std::mutex mutex;
    std::deque<OracleEngine<O>> engines;
    const auto engine = [&] {
      const std::lock_guard lock(mutex);
      const OracleEngineOptions made{options_.encoding, options_.checksums, next_number_};
      next_number_ += detail::numbers_of_an_engine;
      return &engines.emplace_back(oracles_.of(engines.size()), *plan_, ordered, made);
    };
    MatrixSpan<double> log_weights = log_weights_of(queries);
    Merger<Scalar> merger(out, spec.value_dim, queries.begin, input.sink_logits, log_weights);
    const auto sink = [&](const Job& job, const Partial<Scalar>& partial) {
      merger(job, partial);
      if (bars_) (*bars_)(job, partial);
    };
    execute<Scalar>(exec_, *plan_, blocks, engine, sink);
    merger.finish();
    if (plan_->straight()) log_weights.setConstant(std::numeric_limits<double>::quiet_NaN());

    for (const OracleEngine<O>& used : engines) {
      counts_.calls += used.calls();
      counts_.repeats += used.repeats();
      rounds_ = std::max(rounds_, used.rounds());
    }
  }

  /// Where the log weights of a part go; nowhere unless they are kept.
  [[nodiscard]] MatrixSpan<double> log_weights_of(Rows queries) {
    const Index first = plan_->queries().begin;
    const Rows kept = options_.log_weights ? Rows{queries.begin - first, queries.end - first} : Rows{0, 0};
    return block_span(span(log_weights_), kept, 0, log_weights_.cols());
  }

  static void require_finite(const AttentionInput<Scalar>& input) {
    const auto query_at = [&](Index row) { return input.held.query_at(row); };
    const auto key_at = [&](Index row) { return input.held.key_at(row); };
    require_finite(input, "query", input.q, input.spec.head_dim, query_at);
    require_finite(input, "key", input.k, input.spec.head_dim, key_at);
    require_finite(input, "value", input.v, input.spec.value_dim, key_at);
  }

  /// `position(row)` is where a row of the held rows stands in the sequence.
  template <class Position>
  static void require_finite(const AttentionInput<Scalar>& input, const char* what, const MatrixView<Scalar>& rows,
                             Index dim, const Position& position) {
    for (Index head = 0; head < rows.cols() / dim; ++head) {
      const Index row = detail::first_row_not_finite(rows.middleCols(head * dim, dim));
      if (row >= 0) throw detail::not_finite(input.layer, head, position(row), what);
    }
  }

  detail::OracleCopies<O, Exec> oracles_;
  SimulationOptions options_;
  Exec exec_;
  SimulationCounts counts_;
  std::optional<Plan> plan_;
  Index next_block_ = 0;
  std::uint64_t next_number_ = 0;  ///< of the first call of the next engine
  Index rounds_ = 0;
  std::optional<ErrorBars<Scalar>> bars_;
  std::vector<Matrix<double>> error_bars_;
  Matrix<double> log_weights_;
};

/// The rows of the full-length transformer, and what they took.
template <RealScalar Scalar>
struct Simulation {
  Matrix<Scalar> rows;
  SimulationCounts counts;                      ///< what they took
  std::vector<Matrix<double>> error_bars = {};  ///< (N, heads) for each layer, where they were asked for
};

/// Runs a transformer over x on an oracle that takes at most limits().rows rows a call.
///
///   Shapes   x (N, width), memory (NK, width) or none; rows (N, width)
///   Laws     rows equal forward(model, x, DirectAttention) up to rounding; with samples they are an estimate
///   Throws   as require_valid(model), forward() and GridAttention say
template <RealScalar Scalar, Oracle O, Executor Exec = Serial>
requires std::same_as<Scalar, typename O::Scalar>
[[nodiscard]] Simulation<Scalar> simulate(const Model<Scalar>& model, Matrix<Scalar> x, O& oracle,
                                          const SimulationOptions& options = {},
                                          const Matrix<std::type_identity_t<Scalar>>* memory = nullptr,
                                          const Exec& exec = Exec()) {
  require_valid(model);
  GridAttention<O, Exec> attend(oracle, options, exec);
  Matrix<Scalar> rows = forward(model, std::move(x), attend, memory);
  return {std::move(rows), attend.counts(), attend.error_bars()};
}

}  // namespace twoheads
