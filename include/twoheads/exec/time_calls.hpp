#pragma once

#include <algorithm>
#include <chrono>
#include <concepts>
#include <twoheads/attention/input.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/exec/oracle_engine.hpp>
#include <twoheads/plan/choose_rows.hpp>
#include <twoheads/plan/plan.hpp>
#include <vector>

namespace twoheads {
namespace detail {

[[nodiscard]] inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Numbers about 0, the same each time.
template <RealScalar Scalar>
[[nodiscard]] Matrix<Scalar> rows_to_time(Index rows, Index cols, Index step) {
  Matrix<Scalar> matrix(rows, cols);
  for (Index i = 0; i < matrix.size(); ++i)
    matrix.data()[i] = static_cast<Scalar>((i * step) % 101 - 50) / static_cast<Scalar>(100);
  return matrix;
}

}  // namespace detail

/// Times calls of a few row counts, the shortest first: medians of up to five, as many as fit into `budget` seconds.
/// `seconds_of(rows)` runs a call and says what it took; it may be of any engine.
///
///   Corner   the first row count is timed once at least, whatever it takes
template <std::invocable<Index> SecondsOf>
[[nodiscard]] std::vector<CallTime> time_calls(const SecondsOf& seconds_of, Index most, double budget = 0.25,
                                               std::vector<Index> counts = {9, 33, 129, 257, 513}) {
  std::erase_if(counts, [most](Index rows) { return rows > most; });
  if (counts.empty()) counts.push_back(most);

  std::vector<CallTime> times;
  const auto start = std::chrono::steady_clock::now();
  for (std::size_t i = 0; i < counts.size(); ++i) {
    if (i > 0) {
      // What the last row count took, were all of it pairs.
      const double growth = static_cast<double>(counts[i]) / static_cast<double>(counts[i - 1]);
      const double predicted = 8 * times.back().seconds * growth * growth;
      if (detail::seconds_since(start) + predicted > budget) break;
    }
    std::vector<double> taken;
    const double share = budget * static_cast<double>(i + 1) / static_cast<double>(counts.size());
    do taken.push_back(seconds_of(counts[i]));
    while (taken.size() < 5 && detail::seconds_since(start) < share);
    std::nth_element(taken.begin(), taken.begin() + static_cast<std::ptrdiff_t>(taken.size() / 2), taken.end());
    times.push_back({counts[i], taken[taken.size() / 2]});
  }
  return times;
}

/// Seconds of one full call of an oracle, with the host's work to encode and decode it; `make_oracle(limits)` makes an
/// oracle of so many rows.
///
///   Math     a plan of two blocks has four tiles, so four calls: the mean of these
///   Corner   the plain mask of the oracle's kind on numbers about 0: no call is repeated, whatever the anchor
template <RealScalar Scalar, class MakeOracle>
[[nodiscard]] double seconds_of_oracle_call(PlanRequest request, Index head_dim, Index value_dim,
                                            const MakeOracle& make_oracle, Index rows) {
  request.oracle.rows = rows;
  request.mask = Mask{request.oracle.kind == OracleKind::causal ? MaskKind::causal : MaskKind::full};
  request.tokens = request.keys = std::max(2 * (rows - 1), rows + 1);
  request.layers = 1;
  request.sampling = {};
  request.heads = instances_per_call(request.oracle, request.packing);
  const Plan plan(request);
  AttentionSpec spec;
  spec.heads = spec.kv_heads = request.heads;
  spec.head_dim = head_dim;
  spec.value_dim = value_dim;
  spec.score_scale = request.oracle.score_scale;
  spec.mask = request.mask;
  const Matrix<Scalar> q = detail::rows_to_time<Scalar>(request.tokens, request.heads * head_dim, 37);
  const Matrix<Scalar> k = detail::rows_to_time<Scalar>(request.tokens, request.heads * head_dim, 53);
  const Matrix<Scalar> v = detail::rows_to_time<Scalar>(request.tokens, request.heads * value_dim, 71);
  const AttentionWeights<Scalar> weights;
  const AttentionInput<Scalar> input{spec, 0, view(q), view(k), view(v), view(q), view(k), weights};
  std::vector<Job> jobs;
  plan.for_each_job([&](const Job& job) { jobs.push_back(job); });

  auto oracle = make_oracle(request.oracle);
  OracleEngine<decltype(oracle)> engine(oracle, plan, input);
  static_cast<void>(engine.evaluate(jobs));  // touches all memory first
  const Index before = engine.calls();
  const auto start = std::chrono::steady_clock::now();
  static_cast<void>(engine.evaluate(jobs));
  return detail::seconds_since(start) / static_cast<double>(engine.calls() - before);
}

/// Chooses the rows of a call for an oracle on this machine, from a few calls of its own that take about a quarter of a
/// second: see choose_rows().
///
///   Laws     times are those of one thread
///   Throws   LimitError where no plan works; what the oracle throws
template <RealScalar Scalar, class MakeOracle>
[[nodiscard]] RowsChoice choose_oracle_rows(const PlanRequest& request, Index head_dim, Index value_dim,
                                            const MakeOracle& make_oracle, Index most = OracleLimits::unlimited) {
  const std::vector<Index> candidates = candidate_rows(request, most);
  if (candidates.empty()) throw LimitError(detail::text("calls of at most ", most, " rows, expected 2 or more"));
  const auto seconds_of = [&](Index rows) {
    return seconds_of_oracle_call<Scalar>(request, head_dim, value_dim, make_oracle, rows);
  };
  const std::vector<CallTime> times = time_calls(seconds_of, candidates.back());
  return choose_rows(request, fit_call_cost(times), most);
}

}  // namespace twoheads
