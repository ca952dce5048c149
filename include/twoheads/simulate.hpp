#pragma once

#include <algorithm>
#include <optional>
#include <twoheads/attention/direct.hpp>
#include <twoheads/attention/forward.hpp>
#include <twoheads/attention/reordered_keys.hpp>
#include <twoheads/exec/oracle_engine.hpp>
#include <twoheads/exec/serial.hpp>
#include <twoheads/merge/error_bars.hpp>
#include <twoheads/merge/merger.hpp>
#include <twoheads/plan/plan.hpp>
#include <utility>
#include <vector>

namespace twoheads {

struct SimulationOptions {
  Anchor anchor = Anchor::adaptive;
  TokenEncoding encoding = TokenEncoding::projected;
  Sampling sampling = {};      ///< with samples >= 1 the rows are estimates: see SampledTiling
  double error_bar_level = 0;  ///< such as 0.9; 0: no error bars, and no memory for them
};

/// What a simulation took.
struct SimulationCounts {
  Index calls = 0;    ///< oracle calls as made, repeats included
  Index repeats = 0;  ///< calls beyond the planned ones: tiles whose anchor was unsafe
  Index rounds = 0;   ///< calls of a round need nothing from each other
  Index jobs = 0;     ///< tiles of single heads
};

/// Evaluates a layer's attention by a grid of oracle calls; hand it to forward() in place of direct attention.
///
///   Laws     out equals direct attention up to rounding, the same bits for any batch and any order of answers; with
///            samples it is an estimate, the same bits for the same seed
///   Throws   ShapeError if q, k, v or out do not fit the spec; InputError that names layer, head and row if q, k or
///            v hold NaN or infinity, before the first call; LimitError, OracleError, AnchorError as OracleEngine
///            says
///   Source   Yu & Alman, Theorems 3.4 and 3.5
template <Oracle O>
class GridAttention {
 public:
  using Scalar = typename O::Scalar;

  explicit GridAttention(O& oracle, const SimulationOptions& options = {}) : oracle_(oracle), options_(options) {}

  void operator()(const AttentionInput<Scalar>& input, MatrixSpan<Scalar> out) {
    const AttentionSpec& spec = input.spec;
    require_shapes(input, out);
    require_finite(input, "query", input.q, spec.head_dim);
    require_finite(input, "key", input.k, spec.head_dim);
    require_finite(input, "value", input.v, spec.value_dim);

    Sampling sampling = options_.sampling;
    sampling.layer = input.layer;
    const Plan plan(
        {spec.mask, input.queries(), input.keys(), spec.heads, 1, oracle_.limits(), options_.anchor, sampling});
    const ReorderedKeys<Scalar> keys(input, plan.key_order());
    const AttentionInput<Scalar> ordered = keys.input();
    OracleEngine<O> engine(oracle_, plan, ordered, options_.encoding);
    Merger<Scalar> merger(out, spec.value_dim);
    std::optional<ErrorBars<Scalar>> bars;
    if (options_.error_bar_level != 0)
      bars.emplace(input.queries(), spec.heads, spec.value_dim, options_.error_bar_level);
    const auto sink = [&](const Job& job, const Partial<Scalar>& partial) {
      merger(job, partial);
      if (bars) (*bars)(job, partial);
    };
    execute_serial<Scalar>(plan, engine, sink);
    merger.finish();
    if (bars) error_bars_.push_back(bars->finish());

    counts_.calls += engine.calls();
    counts_.repeats += engine.repeats();
    counts_.rounds += engine.rounds();
    counts_.jobs += plan.jobs();
  }

  [[nodiscard]] const SimulationCounts& counts() const { return counts_; }

  /// For each layer so far the error bars (N, heads) of its attention; empty unless error_bar_level was set.
  [[nodiscard]] const std::vector<Matrix<double>>& error_bars() const { return error_bars_; }

 private:
  static void require_finite(const AttentionInput<Scalar>& input, const char* what, const MatrixView<Scalar>& rows,
                             Index dim) {
    for (Index head = 0; head < rows.cols() / dim; ++head) {
      const Index row = detail::first_row_not_finite(rows.middleCols(head * dim, dim));
      if (row >= 0)
        throw InputError(
            detail::text("layer ", input.layer, ", head ", head, ", row ", row, ": the ", what, " is NaN or infinite"));
    }
  }

  O& oracle_;
  SimulationOptions options_;
  SimulationCounts counts_;
  std::vector<Matrix<double>> error_bars_;
};

/// The rows of the full-length transformer, and what they took.
template <RealScalar Scalar>
struct Simulation {
  Matrix<Scalar> rows;
  SimulationCounts counts;
  std::vector<Matrix<double>> error_bars = {};  ///< (N, heads) for each layer, where they were asked for
};

/// Runs a transformer over x on an oracle that takes at most limits().rows rows a call.
///
///   Shapes   x (N, width), memory (NK, width) or none; rows (N, width)
///   Laws     rows equal forward(model, x, DirectAttention) up to rounding
///   Throws   as require_valid(model), forward() and GridAttention say
template <RealScalar Scalar, Oracle O>
requires std::same_as<Scalar, typename O::Scalar>
[[nodiscard]] Simulation<Scalar> simulate(const Model<Scalar>& model, const Matrix<Scalar>& x, O& oracle,
                                          const SimulationOptions& options = {},
                                          const Matrix<Scalar>* memory = nullptr) {
  require_valid(model);
  GridAttention<O> attend(oracle, options);
  Matrix<Scalar> rows = forward(model, x, attend, memory);
  return {std::move(rows), attend.counts(), attend.error_bars()};
}

}  // namespace twoheads
