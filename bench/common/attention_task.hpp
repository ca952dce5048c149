#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <tuple>
#include <twoheads/base/index.hpp>
#include <twoheads/base/matrix.hpp>
#include <utility>
#include <vector>

/// The attention that every benchmark of bench_attention.cpp evaluates: shapes, seeded inputs, and sampled rows of the
/// answer in float64. Nothing here is shared with what is measured: the pairs that are visible, the scores and the sums
/// are written out once more, plainly.
namespace benches {

using twoheads::Index;
using twoheads::Matrix;
using twoheads::Rows;

enum class Pattern { full, causal, window, sinks };

inline constexpr Pattern all_patterns[] = {Pattern::full, Pattern::causal, Pattern::window, Pattern::sinks};

[[nodiscard]] inline const char* name(Pattern pattern) {
  constexpr const char* names[] = {"full", "causal", "window", "sinks"};
  return names[static_cast<int>(pattern)];
}

/// Self-attention of one layer, batch 1. Windows count the query itself.
struct Task {
  static constexpr Index window = 1024;
  static constexpr Index sinks = 4;

  Pattern pattern = Pattern::full;
  Index tokens = 0;
  Index heads = 8;
  Index head_dim = 64;
  Index value_dim = 64;

  [[nodiscard]] double scale() const { return 1.0 / std::sqrt(static_cast<double>(head_dim)); }

  /// First key that a query sees, the sinks apart.
  [[nodiscard]] Index first_key(Index query) const {
    const bool bounded = pattern == Pattern::window || pattern == Pattern::sinks;
    return bounded ? std::max<Index>(query - window + 1, 0) : 0;
  }
  [[nodiscard]] Index end_key(Index query) const { return pattern == Pattern::full ? tokens : query + 1; }
  /// Sinks that lie before first_key().
  [[nodiscard]] Index far_sinks(Index query) const {
    return pattern == Pattern::sinks ? std::min(sinks, first_key(query)) : 0;
  }

  /// Multiplications and additions of both products. A causal mask counts as half of a full one, as is usual; windows
  /// count their visible pairs.
  [[nodiscard]] double flops() const {
    const auto n = static_cast<double>(tokens);
    double pairs = pattern == Pattern::full ? n * n : n * n / 2;
    if (pattern == Pattern::window || pattern == Pattern::sinks) {
      pairs = 0;
      for (Index i = 0; i < tokens; ++i) pairs += static_cast<double>(far_sinks(i) + end_key(i) - first_key(i));
    }
    return 2.0 * pairs * static_cast<double>((head_dim + value_dim) * heads);
  }

  friend bool operator<(const Task& a, const Task& b) {
    const auto key = [](const Task& t) { return std::tie(t.pattern, t.tokens, t.heads, t.head_dim, t.value_dim); };
    return key(a) < key(b);
  }
};

/// Nearly normal numbers of mean 0 and variance 1, cheap enough for long inputs: sums of four uniform ones.
template <class Scalar>
[[nodiscard]] Matrix<Scalar> seeded_rows(Index rows, Index cols, std::uint64_t seed) {
  Matrix<Scalar> result(rows, cols);
  std::uint64_t state = seed;
  for (Index i = 0; i < result.size(); ++i) {
    // SplitMix64.
    std::uint64_t bits = state += 0x9e3779b97f4a7c15U;
    bits = (bits ^ (bits >> 30U)) * 0xbf58476d1ce4e5b9U;
    bits = (bits ^ (bits >> 27U)) * 0x94d049bb133111ebU;
    bits ^= bits >> 31U;
    const std::uint64_t sum = (bits & 0xffffU) + (bits >> 16U & 0xffffU) + (bits >> 32U & 0xffffU) + (bits >> 48U);
    result.data()[i] = static_cast<Scalar>((static_cast<double>(sum + 2) / 65536.0 - 2.0) * std::sqrt(3.0));
  }
  return result;
}

/// Rows of all heads, (N, heads * dim): what the library takes.
template <class Scalar>
struct Inputs {
  Matrix<Scalar> q, k, v;
};

/// The inputs of a task, made once; tasks that differ in their mask alone share them.
template <class Scalar>
[[nodiscard]] const Inputs<Scalar>& inputs_of(const Task& task) {
  static std::map<std::tuple<Index, Index, Index>, Inputs<Scalar>> made;
  const auto [place, is_new] = made.try_emplace({task.tokens, task.head_dim, task.value_dim});
  if (is_new) {
    place->second.q = seeded_rows<Scalar>(task.tokens, task.heads * task.head_dim, 1);
    place->second.k = seeded_rows<Scalar>(task.tokens, task.heads * task.head_dim, 2);
    place->second.v = seeded_rows<Scalar>(task.tokens, task.heads * task.value_dim, 3);
  }
  return place->second;
}

/// Head after head, (heads * N, dim).
template <class Scalar>
[[nodiscard]] Matrix<Scalar> head_by_head(const Matrix<Scalar>& rows, Index heads) {
  const Index dim = rows.cols() / heads;
  Matrix<Scalar> result(heads * rows.rows(), dim);
  for (Index head = 0; head < heads; ++head)
    result.middleRows(head * rows.rows(), rows.rows()) = rows.middleCols(head * dim, dim);
  return result;
}

/// The same inputs with the rows of each head together: what suits libraries of matrix products.
[[nodiscard]] inline const Inputs<float>& inputs_by_head(const Task& task) {
  static std::map<Index, Inputs<float>> made;
  const auto [place, is_new] = made.try_emplace(task.tokens);
  if (is_new) {
    const Inputs<float>& rows = inputs_of<float>(task);
    place->second = {head_by_head(rows.q, task.heads), head_by_head(rows.k, task.heads),
                     head_by_head(rows.v, task.heads)};
  }
  return place->second;
}

/// One row of one head of the answer.
struct ReferenceRow {
  Index head = 0;
  Index query = 0;
  std::vector<double> values;
};

/// Sampled rows of the answer, first and last among them, evaluated pair by pair in float64; made once a task.
template <class Scalar>
[[nodiscard]] const std::vector<ReferenceRow>& reference_of(const Task& task) {
  static std::map<Task, std::vector<ReferenceRow>> made;
  std::vector<ReferenceRow>& rows = made[task];
  if (!rows.empty()) return rows;
  const Inputs<Scalar>& in = inputs_of<Scalar>(task);
  constexpr Index samples = 32;
  for (Index sample = 0; sample < samples; ++sample) {
    ReferenceRow row{sample % task.heads, sample * (task.tokens - 1) / (samples - 1), {}};
    std::vector<Index> keys;
    for (Index key = 0; key < task.far_sinks(row.query); ++key) keys.push_back(key);
    for (Index key = task.first_key(row.query); key < task.end_key(row.query); ++key) keys.push_back(key);
    std::vector<double> weights;
    for (const Index key : keys) {
      double score = 0;
      for (Index d = 0; d < task.head_dim; ++d)
        score += static_cast<double>(in.q(row.query, row.head * task.head_dim + d)) *
                 static_cast<double>(in.k(key, row.head * task.head_dim + d));
      weights.push_back(score * task.scale());
    }
    const double largest = *std::max_element(weights.begin(), weights.end());
    double sum = 0;
    for (double& weight : weights) sum += weight = std::exp(weight - largest);
    row.values.resize(static_cast<std::size_t>(task.value_dim));
    for (std::size_t i = 0; i < keys.size(); ++i)
      for (Index d = 0; d < task.value_dim; ++d)
        row.values[static_cast<std::size_t>(d)] +=
            weights[i] / sum * static_cast<double>(in.v(keys[i], row.head * task.value_dim + d));
    rows.push_back(std::move(row));
  }
  return rows;
}

/// Largest ||y - ref|| / ||ref|| over the sampled rows; infinite where a number is NaN. `at(head, query, column)` reads
/// the answer.
template <class Scalar, class At>
[[nodiscard]] double sampled_row_error(const Task& task, const At& at) {
  double worst = 0;
  for (const ReferenceRow& row : reference_of<Scalar>(task)) {
    double error = 0;
    double size = 0;
    for (Index d = 0; d < task.value_dim; ++d) {
      const double expected = row.values[static_cast<std::size_t>(d)];
      const double difference = static_cast<double>(at(row.head, row.query, d)) - expected;
      error += difference * difference;
      size += expected * expected;
    }
    const double relative = std::sqrt(error / size);
    if (std::isnan(relative)) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, relative);
  }
  return worst;
}

}  // namespace benches
