// Time, calls and error of the grid against the rows of a call, beside the direct transformer at the same N.

#include <benchmark/benchmark.h>

#include <string>
#include <twoheads/model/random.hpp>

#include "support/instances.hpp"
#include "support/memory.hpp"
#include "support/random_run.hpp"

namespace {

using namespace twoheads;

/// One head of 64, N tokens; the truth is computed once, in float64.
struct Problem {
  explicit Problem(MaskKind mask, Index tokens) {
    Model<double> wide = random_model<double>(paper_layer(1, 64, 1, Mask{mask}, MlpKind::none, 0), 1);
    const Matrix<double> wide_x = Random(2).matrix<double>(tokens, 64);
    programs::set_logit_scale(wide, wide_x, nullptr, 1.0);
    model = cast_model<float>(wide);
    x = wide_x.cast<float>();
    truth = forward(cast_model<double>(model), Matrix<double>(x.cast<double>()), DirectAttention<double>());
  }

  Model<float> model;
  Matrix<float> x;
  Matrix<double> truth;
};

const Problem& problem(MaskKind mask) {
  static const Problem full(MaskKind::full, 4096);
  static const Problem causal(MaskKind::causal, 4096);
  return mask == MaskKind::full ? full : causal;
}

/// A result further from the truth than this is wrong, not imprecise; timing it would be pointless.
constexpr double largest_error = 1e-5;

void simulate_grid(benchmark::State& state, MaskKind mask, Index rows, Anchor anchor) {
  const Problem& p = problem(mask);
  OracleLimits limits;
  limits.kind = mask == MaskKind::causal ? OracleKind::causal : OracleKind::plain;
  limits.rows = rows;
  SmallTransformer<float> oracle(limits);
  const programs::PeakMemory peak;
  const Simulation<float> checked = simulate(p.model, p.x, oracle, {anchor});
  const auto peak_bytes = static_cast<double>(peak.bytes());
  const double error = programs::max_row_error(checked.rows, p.truth);
  if (!(error < largest_error)) {
    state.SkipWithError("the simulation is wrong");
    return;
  }
  for (auto _ : state) benchmark::DoNotOptimize(simulate(p.model, p.x, oracle, {anchor}).rows.data());
  state.counters["calls"] = static_cast<double>(checked.counts.calls);
  state.counters["paper_calls"] =
      static_cast<double>(Plan({Mask{mask}, p.x.rows(), 0, 1, 1, limits, anchor}).paper_calls().value_or(0));
  state.counters["row_error"] = error;
  state.counters["peak_bytes"] = peak_bytes;
}

void evaluate_directly(benchmark::State& state, MaskKind mask) {
  const Problem& p = problem(mask);
  const double error = programs::max_row_error(forward(p.model, p.x, DirectAttention<float>()), p.truth);
  if (!(error < largest_error)) {
    state.SkipWithError("the direct transformer is wrong");
    return;
  }
  for (auto _ : state) benchmark::DoNotOptimize(forward(p.model, p.x, DirectAttention<float>()).data());
  state.counters["row_error"] = error;
}

void register_all() {
  for (const MaskKind mask : {MaskKind::full, MaskKind::causal}) {
    const std::string place = std::string("/") + name(mask) + "/N:4096";
    benchmark::RegisterBenchmark(("BM_Direct" + place).c_str(), evaluate_directly, mask)->Unit(benchmark::kMillisecond);
    for (const Index rows : {33, 65, 129, 257, 513, 1025})
      for (const Anchor anchor : {Anchor::mean_key, Anchor::adaptive, Anchor::gibbs})
        benchmark::RegisterBenchmark(
            ("BM_Simulate" + place + "/M:" + std::to_string(rows) + "/" + name(anchor)).c_str(), simulate_grid, mask,
            rows, anchor)
            ->Unit(benchmark::kMillisecond);
  }
}

}  // namespace

int main(int argc, char** argv) {
  register_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::AddCustomContext("eigen", std::to_string(EIGEN_WORLD_VERSION) + "." + std::to_string(EIGEN_MAJOR_VERSION) +
                                           "." + std::to_string(EIGEN_MINOR_VERSION));
  benchmark::AddCustomContext("simd", Eigen::SimdInstructionSetsInUse());
  benchmark::AddCustomContext("compiler", __VERSION__);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
