#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <twoheads/attention/input.hpp>
#include <twoheads/attention/reordered_keys.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/exec/execute.hpp>
#include <twoheads/exec/executor.hpp>
#include <twoheads/oracle/vjp.hpp>
#include <twoheads/plan/plan.hpp>
#include <twoheads/simulate.hpp>
#include <twoheads/train/grid_backward.hpp>
#include <twoheads/train/grid_gradient.hpp>
#include <twoheads/train/trainable.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// What training through an oracle took.
struct GridTrainingCounts {
  SimulationCounts forward;  ///< calls of forward passes
  Index runs = 0;            ///< of backward passes: calls of run()
  Index vjps = 0;            ///< of backward passes: calls of vjp()
  Index planned = 0;         ///< calls of either kind that backward passes were planned to take
};

/// Attention by a grid of oracle calls that can be differentiated: forward() is GridAttention, backward() asks the
/// oracle for run() and vjp() and for nothing else.
///
///   Math     see detail::GridBackwardEngine. With S slots a layer, backward() takes 2 ceil(S / (H' L')) calls, one of
///            run() and one of vjp() for each call of a plan of one round, and no repeats at any logit size; where all
///            rows fit one call, vjp() alone. No matrix larger than a call is held.
///   Laws     the same bits and the same calls for any batch, any order of answers and any executor; d_k and d_v are
///            summed in the plan's order of jobs. Masks, grouped heads, ALiBi, a bias, learned sinks, other keys than
///            queries and stacked, packed or padded calls as GridAttention has them; ALiBi and a bias are constants.
///            With samples the gradient is that of the estimate with the sample held fixed.
///   Corner   where all rows fit one call and no sink is learned, forward() takes the call without a synthetic row, as
///            GridAttention does: log weights are NaN there, and backward() reads none. With options.log_weights no
///            call goes without one.
///   Throws   SpecError for raw tokens, error bars, precisions below float32 and a soft cap; otherwise as GridAttention
///            and GridBackwardEngine
template <DifferentiableOracle O, Executor Exec = Serial>
class TrainableGrid {
 public:
  using Scalar = typename O::Scalar;

  explicit TrainableGrid(O& oracle, const SimulationOptions& options = {}, const Exec& exec = Exec())
      : oracles_(oracle), options_(options), exec_(exec), attend_(oracle, detail::keeping_log_weights(options), exec) {
    detail::require_trainable(options, oracles_.limits(), "the gradient through an oracle");
  }

  void forward(const AttentionInput<Scalar>& input, MatrixSpan<Scalar> out, Matrix<double>& log_weights) {
    detail::require_trainable_input(input, "the gradient through an oracle");
    require_shapes(input, out);
    attend_.begin_layer(input.spec, input.layer, input.query_positions(), input.key_positions(), weighs(input));
    attend_(input, input.query_positions(), out);
    attend_.end_layer();
    log_weights = attend_.log_weights();
  }

  [[nodiscard]] AttentionGradient<Scalar> backward(const AttentionInput<Scalar>& input, const MatrixView<Scalar>& out,
                                                   const Matrix<double>& log_weights, const MatrixView<Scalar>& d_out) {
    detail::require_trainable_input(input, "the gradient through an oracle");
    detail::require_finite_backward(input, out, log_weights, d_out);
    const AttentionSpec& spec = input.spec;
    SimulationOptions options = options_;
    options.anchor = Anchor::mean_key;  // one round; the anchors are the log weights
    const Plan plan(detail::grid_request(options, oracles_.limits(), spec, input.layer, input.query_positions(),
                                         input.key_positions(), weighs(input)));
    const Matrix<double> products = detail::output_products(out, d_out, spec);
    Sums sums(input);
    if (plan.tiles() > 0) {
      counts_.planned += plan.calls() * (plan.straight() ? 1 : 2);
      differentiate(plan, input, {d_out, log_weights, products}, sums);
    }
    return {sums.q.template cast<Scalar>(), sums.k.template cast<Scalar>(), sums.v.template cast<Scalar>(),
            detail::sink_gradient(input, log_weights, products)};
  }

  /// So far.
  [[nodiscard]] GridTrainingCounts counts() const {
    GridTrainingCounts counts = counts_;
    counts.forward = attend_.counts();
    return counts;
  }

 private:
  using Sum = SumScalar<Scalar>;
  using Engine = detail::GridBackwardEngine<O>;

  /// The derivatives of a layer as jobs add to them.
  struct Sums {
    explicit Sums(const AttentionInput<Scalar>& input)
        : q(Matrix<Sum>::Zero(input.q.rows(), input.q.cols())),
          k(Matrix<Sum>::Zero(input.k.rows(), input.k.cols())),
          v(Matrix<Sum>::Zero(input.v.rows(), input.v.cols())) {}
    Matrix<Sum> q, k, v;
  };

  /// Whether no call of this input may go without its synthetic row.
  [[nodiscard]] bool weighs(const AttentionInput<Scalar>& input) const {
    return options_.log_weights || input.sink_logits.size() > 0;
  }

  void differentiate(const Plan& plan, const AttentionInput<Scalar>& input, const detail::RowsOfBackward<Scalar>& rows,
                     Sums& sums) {
    const std::vector<Index> order = plan.key_order();
    const ReorderedKeys<Scalar> keys(input, order);
    const AttentionInput<Scalar> ordered = keys.input();
    // Engines live until their calls are counted.
    std::mutex mutex;
    std::deque<Engine> engines;
    const auto engine = [&] {
      const std::lock_guard lock(mutex);
      const OracleEngineOptions made{options_.encoding, options_.checksums, next_number_};
      next_number_ += detail::numbers_of_an_engine;
      return &engines.emplace_back(oracles_.of(engines.size()), plan, ordered, made, rows);
    };
    detail::Batches batches(plan, {0, plan.query_blocks()});
    const auto next = [&]() -> std::optional<std::vector<Job>> {
      std::vector<Job> batch = batches.next();
      if (batch.empty()) return std::nullopt;
      return batch;
    };
    const auto evaluate = [](Engine* own, const std::vector<Job>& jobs) { return own->evaluate(jobs); };
    const auto take = [&](const std::vector<Job>& jobs, const std::vector<detail::JobGradient<Scalar>>& found) {
      for (std::size_t i = 0; i < jobs.size(); ++i) add(ordered, order, jobs[i], found[i], sums);
    };
    exec_.in_order(engine, next, evaluate, take);
    for (const Engine& used : engines) {
      counts_.runs += used.runs();
      counts_.vjps += used.vjps();
    }
  }

  static void add(const AttentionInput<Scalar>& input, const std::vector<Index>& order, const Job& job,
                  const detail::JobGradient<Scalar>& found, Sums& sums) {
    const AttentionSpec& spec = input.spec;
    const Index kv_head = spec.kv_head_of(job.head);
    const auto add_rows = [](const Matrix<Scalar>& from, Matrix<Sum>& to, Index col, const auto& row_of) {
      for (Index row = 0; row < from.rows(); ++row)
        to.row(row_of(row)).segment(col, from.cols()) += from.row(row).template cast<Sum>();
    };
    const auto key = [&](Index place) { return order.empty() ? place : order[static_cast<std::size_t>(place)]; };
    const Index first_query = input.held.query_place(job.tile.queries).begin;
    const auto query_row = [&](Index row) { return first_query + row; };
    const auto key_row = [&](Index row) { return key(job.tile.keys.begin + row); };
    const auto sink_row = [&](Index row) { return key(job.tile.sinks.begin + row); };
    add_rows(found.q, sums.q, job.head * spec.head_dim, query_row);
    add_rows(found.k, sums.k, kv_head * spec.head_dim, key_row);
    add_rows(found.v, sums.v, kv_head * spec.value_dim, key_row);
    add_rows(found.sink_k, sums.k, kv_head * spec.head_dim, sink_row);
    add_rows(found.sink_v, sums.v, kv_head * spec.value_dim, sink_row);
  }

  detail::OracleCopies<O, Exec> oracles_;
  SimulationOptions options_;
  Exec exec_;
  GridAttention<O, Exec> attend_;
  GridTrainingCounts counts_;
  std::uint64_t next_number_ = 0;
};

}  // namespace twoheads
