#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <twoheads/attention/input.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/codec/anchors.hpp>
#include <twoheads/codec/decode.hpp>
#include <twoheads/codec/layout.hpp>
#include <twoheads/codec/stack.hpp>
#include <twoheads/exec/oracle_calls.hpp>
#include <twoheads/exec/oracle_tasks.hpp>
#include <twoheads/oracle/oracle.hpp>
#include <twoheads/oracle/vjp.hpp>
#include <twoheads/plan/plan.hpp>
#include <vector>

namespace twoheads::detail {

/// What one job adds to the derivatives by its queries, keys and values; sinks that jobs of a slot share are with the
/// first of them.
///
///   Shapes   q (query rows, m), k (keys, m), v (keys, m_v); sink_k (sinks, m), sink_v (sinks, m_v)
template <RealScalar Scalar>
struct JobGradient {
  JobGradient(const Tile& tile, Index sinks, const AttentionSpec& spec)
      : q(Matrix<Scalar>::Zero(tile.queries.size(), spec.head_dim)),
        k(Matrix<Scalar>::Zero(tile.keys.size(), spec.head_dim)),
        v(Matrix<Scalar>::Zero(tile.keys.size(), spec.value_dim)),
        sink_k(Matrix<Scalar>::Zero(sinks, spec.head_dim)),
        sink_v(Matrix<Scalar>::Zero(sinks, spec.value_dim)) {}

  Matrix<Scalar> q, k, v, sink_k, sink_v;
};

/// What the backward pass knows of each query row.
///
///   Shapes   d_out (N, heads * value_dim); log_weights, mean (N, heads): mean_i = d_out_i . out_i of the final rows
template <RealScalar Scalar>
struct RowsOfBackward {
  MatrixView<Scalar> d_out;
  const Matrix<double>& log_weights;
  const Matrix<double>& mean;
};

/// Differentiates the jobs of one layer through oracle calls: two for each call of a plan of one round, its answer and
/// its vector-Jacobian product; where the plan is straight, the latter alone.
///
///   Math     the anchor of a row is its log weight W over all keys, c as a token holds it, so that a call's share of
///            the synthetic key is p >= 1/2 for one copy of it, at any logit size: no call is repeated. With s copies,
///            P' the call's own shares, g = d_out, D = g . out and kappa = exp(c - W),
///            times what a drawn tile stands for:
///              P_ij = kappa (s / p) P'_ij
///            The derivatives that the answer's columns [O, r, p] are given,
///              a = kappa (s / p) g,   b = -kappa (s / p) D,   e = -(a . O + b r) / p,
///            have the mean a . O + b r + e p = 0, and so
///              d_score_ij = P'_ij (a . v_j + b) = P_ij (g . v_j - D),   d_v_j = sum_i P'_ij a_i = sum_i P_ij g_i
///   Corner   the derivatives by anchors, codes and the synthetic key are those of constants: they are not read
///   Throws   as OracleEngine for its calls; OracleError for a vector-Jacobian product of another shape,
///            NaN or infinity
template <DifferentiableOracle O>
class GridBackwardEngine {
 public:
  using Scalar = typename O::Scalar;

  GridBackwardEngine(O& oracle, const Plan& plan, const AttentionInput<Scalar>& input,
                     const OracleEngineOptions& options, const RowsOfBackward<Scalar>& rows)
      : oracle_(oracle), plan_(plan), input_(input), made_(plan, input, options), rows_(rows) {}

  /// Calls of run() and of vjp() so far.
  [[nodiscard]] Index runs() const { return runs_; }
  [[nodiscard]] Index vjps() const { return vjps_; }

  [[nodiscard]] std::vector<JobGradient<Scalar>> evaluate(std::span<const Job> jobs) {
    GroupedTasks<Scalar> made(jobs, plan_, input_, made_.instances());
    for (Slot& slot : made.slots)
      for (std::size_t job = 0; job < slot.tasks.size(); ++job) set_anchors(slot, job);
    const InstanceLayout columns = made_.layout(plan_.straight() ? CallKind::straight : CallKind::state);
    const StackLayout stacked = made_.columns_of_calls(columns);
    const std::span<const OracleCall<Scalar>> calls = made_.make(columns, stacked, made.groups);
    if (!plan_.straight()) {
      run_all_into(oracle_, calls, answers_, [&](std::size_t call) { return place_of(made.groups[call]); });
      runs_ += static_cast<Index>(calls.size());
    }
    std::vector<JobGradient<Scalar>> gradients;
    gradients.reserve(jobs.size());
    for (std::size_t i = 0; i < calls.size(); ++i) {
      const Group& group = made.groups[i];
      require_right(calls[i], i, group);
      d_answer_.setZero(calls[i].rows.rows(), calls[i].weights->output_width());
      for (std::size_t instance = 0; instance < group.size(); ++instance)
        weigh(columns, stacked.answer_begin(static_cast<Index>(instance)), *group[instance], answer_of(i));
      const Matrix<Scalar> d_rows = oracle_.vjp(calls[i], d_answer_);
      ++vjps_;
      if (d_rows.rows() != calls[i].rows.rows() || d_rows.cols() != calls[i].rows.cols())
        throw OracleError(text(place_of(group), "the oracle's derivatives by a call are ", d_rows.rows(), " x ",
                               d_rows.cols(), ", expected ", calls[i].rows.rows(), " x ", calls[i].rows.cols()));
      for (std::size_t instance = 0; instance < group.size(); ++instance)
        read(d_rows, columns, stacked.input_begin(static_cast<Index>(instance)), *group[instance], gradients);
    }
    return gradients;
  }

 private:
  using Task = detail::Task<Scalar>;
  using Slot = detail::Slot<Scalar>;
  using Group = SlotGroup<Scalar>;

  [[nodiscard]] std::string place_of(const Group& group) const {
    const Task& first = group.front()->tasks.front();
    return place(made_.place(first), first.job.tile, 0) + ": ";
  }

  /// The log weight of a query of a tile, without what the terms leave out of its logits.
  [[nodiscard]] double log_weight(const Slot& slot, std::size_t job, Index query) const {
    const Task& task = slot.tasks[job];
    const double weight = rows_.log_weights(held(task, query), task.job.head);
    return slot.terms.empty() ? weight : weight - slot.terms.shift(static_cast<Index>(job), query);
  }
  [[nodiscard]] Index held(const Task& task, Index query) const {
    return input_.held.query_place(task.job.tile.queries).begin + query;
  }

  void set_anchors(Slot& slot, std::size_t job) const {
    Task& task = slot.tasks[job];
    const OracleLimits& limits = made_.limits();
    task.anchors.setZero(task.job.tile.queries.size());
    if (plan_.straight()) return;
    for (Index query = 0; query < task.anchors.size(); ++query) {
      const double weight = log_weight(slot, job, query);
      // A row that sees no key at all has no weight, and no derivatives.
      if (weight == -std::numeric_limits<double>::infinity()) continue;
      const double anchor = std::clamp(weight, -limits.largest_score, limits.largest_score) / limits.score_scale;
      task.anchors[query] = held_anchor(static_cast<Scalar>(anchor), limits.precision);
      if (!std::isfinite(task.anchors[query]))
        throw AnchorError(text(place(made_.place(task), task.job.tile, query), ": the log weight ", weight,
                               " exceeds the range of the scalar, or none was found"));
    }
  }

  void require_right(const OracleCall<Scalar>& call, std::size_t number, const Group& group) const {
    if (plan_.straight()) return;
    require_answer(call, answers_[number], [&] { return place_of(group); });
    if (call.fault)
      if (const std::string fault = call.fault(answers_[number]); !fault.empty())
        throw OracleError(place_of(group) + fault);
  }
  [[nodiscard]] const Matrix<Scalar>* answer_of(std::size_t call) const {
    return plan_.straight() ? nullptr : &answers_[call];
  }

  /// Writes the derivatives by the answer columns of one slot.
  void weigh(const InstanceLayout& columns, Index begin, const Slot& slot, const Matrix<Scalar>* answer) {
    const Index dim = columns.value_dim;
    for (std::size_t job = 0; job < slot.tasks.size(); ++job) {
      const Task& task = slot.tasks[job];
      const Tile& tile = task.job.tile;
      for (Index query = 0; query < tile.queries.size(); ++query) {
        const Index row = slot.map.row_of(static_cast<Index>(job), query);
        if (row == SlotMap::none) continue;
        const Index held_row = held(task, query);
        const Scalar* const given = rows_.d_out.data() + held_row * rows_.d_out.outerStride() + task.job.head * dim;
        Scalar* const wanted = d_answer_.data() + row * d_answer_.cols() + begin;
        if (answer == nullptr) {
          // A row whose keys a bias hides, all of them, is zero and has no derivative.
          const bool hidden = slot.terms.hides() && slot.terms.hides_all(static_cast<Index>(job), query);
          if (!hidden) std::copy_n(given, dim, wanted);
          continue;
        }
        const double weight = log_weight(slot, job, query);
        if (weight == -std::numeric_limits<double>::infinity()) continue;
        const Scalar* const found = answer->data() + row * answer->cols() + begin;
        const auto copies = static_cast<double>(slot.map.synthetic_seen(row, answer->rows()));
        const double p = share_of_synthetic(found, columns, task, query, copies);
        const Scalar anchor = static_cast<Scalar>(made_.limits().score_scale) * task.anchors[query];
        const double factor = std::exp(static_cast<double>(anchor) - weight + tile.log_factor()) * copies / p;
        double mean = 0;
        for (Index col = 0; col < dim; ++col) {
          const double a = factor * static_cast<double>(given[col]);
          wanted[col] = static_cast<Scalar>(a);
          mean += a * static_cast<double>(found[col]);
        }
        const double b = -factor * rows_.mean(held_row, task.job.head);
        mean += b * static_cast<double>(found[columns.r_at()]);
        wanted[columns.r_at()] = static_cast<Scalar>(b);
        wanted[columns.p_at()] = static_cast<Scalar>(-mean / p);
      }
    }
  }

  /// Checks what an answer says of one row.
  [[nodiscard]] double share_of_synthetic(const Scalar* found, const InstanceLayout& columns, const Task& task,
                                          Index query, double copies) const {
    const auto fault = [&](const auto&... what) {
      return text(place(made_.place(task), task.job.tile, query), ": ", what...);
    };
    for (Index col = 0; col < columns.checks_at(); ++col)
      if (!std::isfinite(found[col])) throw OracleError(fault("the oracle answered NaN or infinity"));
    const auto r = static_cast<double>(found[columns.r_at()]);
    const auto p = static_cast<double>(found[columns.p_at()]);
    if (r < 0 || p < 0 || std::abs(r + p - 1.0) > 0.05)
      throw OracleError(fault("the attention on real and synthetic keys is ", r, " and ", p,
                              ", expected two numbers >= 0 that sum to 1"));
    if (p / copies < least_weight<Scalar>())
      throw AnchorError(
          fault("the synthetic key's weight underflows beside the row's log weight: it is not what the "
                "forward pass found, or logits are beyond the digits of the scalar"));
    return p;
  }

  /// Adds to `gradients` what the columns of one slot say of its jobs.
  void read(const Matrix<Scalar>& d_rows, const InstanceLayout& columns, Index begin, const Slot& slot,
            std::vector<JobGradient<Scalar>>& gradients) const {
    const AttentionSpec& spec = input_.spec;
    const std::size_t first = gradients.size();
    for (std::size_t job = 0; job < slot.tasks.size(); ++job) {
      const Tile& tile = slot.map.tile(static_cast<Index>(job));
      gradients.emplace_back(tile, job == 0 ? tile.sinks.size() : 0, spec);
    }
    const auto factor = static_cast<Scalar>(spec.score_scale / made_.limits().score_scale);
    for (Index row = 0; row < slot.map.rows(); ++row) {
      const SlotMap::Row carried = slot.map.row(row);
      const auto part = [&](Index at, Index count) { return d_rows.row(row).segment(begin + at, count); };
      if (carried.query != SlotMap::none)
        gradients[first + static_cast<std::size_t>(carried.job)].q.row(carried.query) = factor * part(0, spec.head_dim);
      if (carried.key == SlotMap::none) continue;
      const bool sink = carried.job == SlotMap::none;
      JobGradient<Scalar>& gradient = gradients[first + (sink ? 0 : static_cast<std::size_t>(carried.job))];
      const Tile& tile = slot.map.tile(sink ? 0 : carried.job);
      const Index key = carried.key - (sink ? tile.sinks.begin : tile.keys.begin);
      (sink ? gradient.sink_k : gradient.k).row(key) = part(columns.key_at(), spec.head_dim);
      (sink ? gradient.sink_v : gradient.v).row(key) = part(columns.value_at(), spec.value_dim);
    }
    for (std::size_t job = first; job < gradients.size(); ++job)
      for (const Matrix<Scalar>* found :
           {&gradients[job].q, &gradients[job].k, &gradients[job].v, &gradients[job].sink_k, &gradients[job].sink_v})
        if (first_row_not_finite(*found) >= 0) {
          const Task& task = slot.tasks[job - first];
          throw OracleError(place(made_.place(task), task.job.tile, 0) +
                            ": the oracle's derivatives hold NaN or infinity");
        }
  }

  O& oracle_;
  const Plan& plan_;
  const AttentionInput<Scalar>& input_;
  OracleCalls<Scalar> made_;
  RowsOfBackward<Scalar> rows_;
  Index runs_ = 0;
  Index vjps_ = 0;
  std::vector<Matrix<Scalar>> answers_;  // memory that serves all calls
  Matrix<Scalar> d_answer_;
};

}  // namespace twoheads::detail
