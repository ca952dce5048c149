#pragma once

#include <chrono>
#include <twoheads/attention/input.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/exec/kernel_attention.hpp>
#include <twoheads/exec/time_calls.hpp>
#include <twoheads/plan/choose_rows.hpp>
#include <vector>

namespace twoheads {

/// Seconds of one tile of `rows` queries and as many keys by the kernel, on rows of all heads as the model has them:
/// how far apart they lie is part of what they cost.
///
///   Math     one query block and the keys of four tiles, for each head: the mean of these
template <RealScalar Scalar>
[[nodiscard]] double seconds_of_kernel_tile(AttentionSpec spec, Index rows) {
  constexpr Index tiles = 4;
  spec.mask = Mask::full();
  const Matrix<Scalar> q = detail::rows_to_time<Scalar>(rows, spec.heads * spec.head_dim, 37);
  const Matrix<Scalar> k = detail::rows_to_time<Scalar>(tiles * rows, spec.kv_heads * spec.head_dim, 53);
  const Matrix<Scalar> v = detail::rows_to_time<Scalar>(tiles * rows, spec.kv_heads * spec.value_dim, 71);
  Matrix<Scalar> out(rows, spec.heads * spec.value_dim);
  KernelAttention<Scalar> kernel({.rows = rows});
  const AttentionInput<Scalar> input = projected_input(spec, view(q), view(k), view(v));
  kernel(input, span(out));  // touches all memory first
  const auto start = std::chrono::steady_clock::now();
  kernel(input, span(out));
  return detail::seconds_since(start) / static_cast<double>(tiles * spec.heads);
}

/// Chooses the block length of the kernel for a problem on this machine, from a few tiles of its own that take about a
/// quarter of a second: see choose_rows().
///
///   Laws     no more than 4096 rows; times are those of one thread
///   Corner   a triangle counts as a tile: what it saves is the same share of the work for all row counts
///   Throws   LimitError where no plan works
template <RealScalar Scalar>
[[nodiscard]] RowsChoice choose_kernel_rows(PlanRequest request, const AttentionSpec& spec) {
  const auto seconds_of = [&](Index rows) { return seconds_of_kernel_tile<Scalar>(spec, rows); };
  const std::vector<Index> candidates = candidate_rows(request, 1 << 12);
  const std::vector<CallTime> times = time_calls(seconds_of, candidates.back(), 0.25, {32, 128, 256, 512, 1024});
  const CallCost cost = fit_call_cost(times);
  // A block that is no multiple of a panel takes as long as the panels that it begins.
  constexpr Index panel = TileKernel<Scalar>::panel;
  const auto seconds_of_tile = [&](Index rows) {
    const double panels = static_cast<double>(ceil_div(rows, panel) * panel) / static_cast<double>(rows);
    return panels * cost(rows);
  };
  return choose_rows(request, seconds_of_tile, candidates.back());
}

}  // namespace twoheads
