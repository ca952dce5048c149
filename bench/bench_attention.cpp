// Attention by the library's kernel and by its grid of oracle calls, beside the same attention by others.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <twoheads/simulate.hpp>
#include <twoheads/train/trainable_direct.hpp>
#include <twoheads/train/trainable_kernel.hpp>
#include <type_traits>
#include <vector>

#include "common/attention_task.hpp"
#include "common/kernel.hpp"
#include "common/peers_eigen.hpp"
#include "common/run_benches.hpp"
#include "support/instances.hpp"
#include "support/memory.hpp"
#ifdef TWOHEADS_BENCH_ONEDNN
#include "common/peers_onednn.hpp"
#endif

namespace {

using namespace benches;
using namespace twoheads;

/// A result further from float64 than this is wrong, not imprecise; timing it would be pointless.
template <class Scalar>
constexpr double largest_error = std::is_same_v<Scalar, float> ? 1e-5 : 1e-13;

/// Checks sampled rows and measures memory in one run, then times others. `make()` gives a function without arguments
/// that writes `out`, and owns its workspace; `at(head, query, column)` reads `out`.
template <class Scalar, class Make, class At>
void measure(benchmark::State& state, const std::string& name, const Task& task, Matrix<Scalar>& out, const Make& make,
             const At& at) {
  const auto check = [&]() -> Findings {
    // What is not written stays NaN; and the memory of inputs and answer is there before it is measured.
    out.setConstant(std::numeric_limits<Scalar>::quiet_NaN());
    const programs::PeakMemory peak;
    {
      auto run = make();
      run();
    }
    return {{"peak_bytes", static_cast<double>(peak.bytes())}, {"row_error", sampled_row_error<Scalar>(task, at)}};
  };
  if (!passes_check(state, name, largest_error<Scalar>, check)) return;
  auto run = make();
  // The first touch of a workspace is not what a short run is about; in a long one it does not show.
  if (task.flops() < 1e11) run();
  for (auto _ : state) {
    run();
    benchmark::ClobberMemory();
  }
  state.counters["gflops"] = benchmark::Counter(task.flops() * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

AttentionSpec spec_of(const Task& task) {
  AttentionSpec spec;
  spec.heads = spec.kv_heads = task.heads;
  spec.head_dim = task.head_dim;
  spec.value_dim = task.value_dim;
  spec.score_scale = task.scale();
  switch (task.pattern) {
    case Pattern::full:
      spec.mask = Mask::full();
      break;
    case Pattern::causal:
      spec.mask = Mask::causal();
      break;
    case Pattern::window:
      spec.mask = Mask::sliding_window(Task::window);
      break;
    case Pattern::sinks:
      spec.mask = Mask::window_and_sinks(Task::window, Task::sinks);
      break;
  }
  return spec;
}

/// An Attend of the library over rows of all heads; `make_attend()` gives it.
template <class Scalar, class MakeAttend>
void measure_ours(benchmark::State& state, const std::string& name, const Task& task, const MakeAttend& make_attend) {
  const Inputs<Scalar>& in = inputs_of<Scalar>(task);
  static_cast<void>(reference_of<Scalar>(task));
  const AttentionSpec spec = spec_of(task);
  Matrix<Scalar> out(task.tokens, task.heads * task.value_dim);
  const auto make = [&] {
    return [&, attend = make_attend()]() mutable {
      attend(projected_input(spec, view(in.q), view(in.k), view(in.v)), span(out));
    };
  };
  measure(state, name, task, out, make,
          [&](Index head, Index query, Index column) { return out(query, head * task.value_dim + column); });
}

/// Largest error of the derivative of a few tokens by the kernel, against direct evaluation in float64.
double backward_error(const AttentionSpec& spec, Index tokens) {
  const auto gradient = [&](auto& attend) {
    using Scalar = typename std::remove_reference_t<decltype(attend)>::Scalar;
    const auto rows = [&](Index cols, std::uint64_t seed) -> Matrix<Scalar> {
      return seeded_rows<float>(tokens, cols, seed).template cast<Scalar>();
    };
    const Matrix<Scalar> q = rows(spec.heads * spec.head_dim, 1);
    const Matrix<Scalar> k = rows(spec.kv_heads * spec.head_dim, 2);
    const Matrix<Scalar> v = rows(spec.kv_heads * spec.value_dim, 3);
    const Matrix<Scalar> d_out = rows(spec.heads * spec.value_dim, 4);
    const AttentionInput<Scalar> input = projected_input<Scalar>(spec, view(q), view(k), view(v));
    Matrix<Scalar> out(tokens, d_out.cols());
    Matrix<double> log_weights;
    attend.forward(input, span(out), log_weights);
    return attend.backward(input, view(out), log_weights, view(d_out));
  };
  TrainableKernel<float> kernel;
  TrainableDirect<double> direct;
  const AttentionGradient<float> found = gradient(kernel);
  const AttentionGradient<double> truth = gradient(direct);
  const auto error = [](const Matrix<float>& own, const Matrix<double>& right) {
    return (own.cast<double>() - right).cwiseAbs().maxCoeff<Eigen::PropagateNaN>() / right.cwiseAbs().maxCoeff();
  };
  const double worst = std::max(error(found.q, truth.q), error(found.k, truth.k));
  return worst > error(found.v, truth.v) || std::isnan(worst) ? worst : error(found.v, truth.v);
}

/// The derivative by the kernel: five products where forward has two.
template <class Exec>
void measure_backward(benchmark::State& state, const std::string& name, const Task& task, const Exec& executor) {
  const AttentionSpec spec = spec_of(task);
  if (!passes_check(state, name, largest_error<float>, [&] {
        return Findings{{"row_error", backward_error(spec, 300)}};
      }))
    return;
  const Inputs<float>& in = inputs_of<float>(task);
  const AttentionInput<float> input = projected_input<float>(spec, view(in.q), view(in.k), view(in.v));
  const Matrix<float> d_out = seeded_rows<float>(task.tokens, task.heads * task.value_dim, 4);
  Matrix<float> out(task.tokens, d_out.cols());
  Matrix<double> log_weights;
  TrainableKernel<float, Exec> attend({}, executor);
  attend.forward(input, span(out), log_weights);
  for (auto _ : state) benchmark::DoNotOptimize(attend.backward(input, view(out), log_weights, view(d_out)).q.data());
  state.counters["gflops"] =
      benchmark::Counter(2.5 * task.flops() * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

/// A peer over the rows of one head after those of another.
template <class Peer>
void measure_peer(benchmark::State& state, const std::string& name, const Task& task, Index threads) {
  const Inputs<float>& in = inputs_by_head(task);
  static_cast<void>(reference_of<float>(task));
  Matrix<float> out(task.heads * task.tokens, task.value_dim);
  const auto make = [&] { return [&, peer = Peer(task, threads)]() mutable { peer(in, out); }; };
  measure(state, name, task, out, make,
          [&](Index head, Index query, Index column) { return out(head * task.tokens + query, column); });
}

#ifdef TWOHEADS_BENCH_ONEDNN
/// The product that the others are held against: 2048 x 2048 x 2048.
void measure_sgemm(benchmark::State& state, const std::string& name, int threads) {
  constexpr Index n = 2048;
  if (!set_onednn_threads(threads)) return state.SkipWithError("oneDNN runs on no OpenMP here");
  static const Matrix<float> a = seeded_rows<float>(n, n, 1);
  static const Matrix<float> b = seeded_rows<float>(n, n, 2);
  Matrix<float> c(n, n);
  const Product product{a.data(), n, b.data(), n, false, c.data(), n, n, n, n};
  const auto check = [&]() -> Findings {
    c.setConstant(std::numeric_limits<float>::quiet_NaN());
    product();
    double worst = 0;
    for (Index row = 0; row < n; row += n / 8) {
      const Eigen::RowVectorXd expected = a.row(row).cast<double>() * b.cast<double>();
      const double error = (c.row(row).cast<double>() - expected).norm() / expected.norm();
      if (std::isnan(error)) return {{"row_error", std::numeric_limits<double>::infinity()}};
      worst = std::max(worst, error);
    }
    return {{"row_error", worst}};
  };
  if (!passes_check(state, name, largest_error<float>, check)) return;
  product();
  for (auto _ : state) {
    product();
    benchmark::ClobberMemory();
  }
  state.counters["gflops"] =
      benchmark::Counter(2e-9 * static_cast<double>(n * n * n), benchmark::Counter::kIsIterationInvariantRate);
}
#endif

std::vector<Index> lengths(Pattern pattern) {
  if (pattern == Pattern::full || pattern == Pattern::causal) return {1024, 4096, 16384};
  return {16384, 32768, 65536, 131072};
}

/// The largest scores of the naive peer that are made unasked: 64 MB a thread.
constexpr Index naive_tokens = 4096;

template <class Peer>
void add_peer(const std::string& prefix, const Task& task, Index threads, const std::string& place) {
  add(prefix + place,
      [=](benchmark::State& state, const std::string& name) { measure_peer<Peer>(state, name, task, threads); });
}

void add_oracle_grid(const Task& task, Index rows, Index threads) {
  OracleLimits limits;
  limits.kind = task.pattern == Pattern::full ? OracleKind::plain : OracleKind::causal;
  limits.rows = rows;
  with_executor(threads, [&](auto executor) {
    add(std::string("BM_OracleGrid/") + name(task.pattern) + "/N:" + std::to_string(task.tokens) +
            "/M:" + std::to_string(rows) + "/threads:" + std::to_string(threads),
        [=](benchmark::State& state, const std::string& name) {
          SmallTransformer<float> oracle(limits);
          measure_ours<float>(state, name, task, [&] { return make_grid(oracle, executor, Anchor::mean_key); });
        });
  });
}

template <class Scalar, class Simd = DefaultSimd<Scalar>>
void add_kernel(const std::string& label, const Task& task, Index threads) {
  with_executor(threads, [&](auto executor) {
    add("BM_Kernel/" + label + "/N:" + std::to_string(task.tokens) + "/threads:" + std::to_string(threads),
        [=](benchmark::State& state, const std::string& name) {
          measure_ours<Scalar>(state, name, task, [&] { return make_kernel<Scalar, Simd>(executor); });
        });
  });
}

void register_all(bool naive_16384) {
  for (const Index threads : {1, 2}) {
    const std::string on = "/threads:" + std::to_string(threads);
    for (const Pattern pattern : all_patterns) {
      for (const Index tokens : lengths(pattern)) {
        const Task task{pattern, tokens};
        const std::string place = std::string("/") + name(pattern) + "/N:" + std::to_string(tokens) + on;
        add_kernel<float>(name(pattern), task, threads);
        for (const Index rows : {257, 1025}) add_oracle_grid(task, rows, threads);
        const bool naive = pattern == Pattern::full || pattern == Pattern::causal;
        if (naive && (tokens <= naive_tokens || naive_16384))
          add_peer<EigenNaive>("BM_EigenNaive", task, threads, place);
        add_peer<EigenBlocks>("BM_EigenBlocks", task, threads, place);
#ifdef TWOHEADS_BENCH_ONEDNN
        add_peer<OneDnnStrips>("BM_OneDnnStrips", task, threads, place);
#endif
      }
    }
    for (const Pattern pattern : {Pattern::full, Pattern::causal, Pattern::window})
      for (const Index tokens : {1024, 4096, 16384})
        with_executor(threads, [&](auto executor) {
          add(std::string("BM_KernelBackward/") + name(pattern) + "/N:" + std::to_string(tokens) + on,
              [=](benchmark::State& state, const std::string& bench) {
                measure_backward(state, bench, {pattern, tokens}, executor);
              });
        });
    const Task plain{Pattern::full, 4096};
    for (const Index head_dim : {32, 80, 128, 256})
      add_kernel<float>("head_dim:" + std::to_string(head_dim), {Pattern::full, 4096, 8, head_dim, head_dim}, threads);
    add_kernel<float>("value_dim:96", {Pattern::full, 4096, 8, 64, 96}, threads);
    add_kernel<double>("double", plain, threads);
    add_kernel<float, EigenSimd<float>>("eigen_arrays", plain, threads);
#ifdef TWOHEADS_BENCH_ONEDNN
    add("BM_OneDnnSgemm/2048" + on, [threads](benchmark::State& state, const std::string& name) {
      measure_sgemm(state, name, static_cast<int>(threads));
    });
#endif
  }
}

}  // namespace

/// One flag beside those of Google Benchmark: --naive-16384 has the naive peer make scores of 1 GB a thread.
int main(int argc, char** argv) {
  bool naive_16384 = false;
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    if (std::string_view(argv[i]) == "--naive-16384")
      naive_16384 = true;
    else
      argv[kept++] = argv[i];
  }
  argv[kept] = nullptr;
  register_all(naive_16384);
  return run_benches(kept, argv);
}
