// What the library is for: time, calls and error against the rows of a call and the instances that it carries, beside
// the direct transformer and the kernel at the same N.

#include <benchmark/benchmark.h>

#include <map>
#include <string>
#include <twoheads/model/random.hpp>
#include <utility>

#include "common/kernel.hpp"
#include "common/run_benches.hpp"
#include "support/instances.hpp"
#include "support/memory.hpp"
#include "support/random_run.hpp"

namespace {

using namespace benches;
using namespace twoheads;

constexpr Index tokens = 4096;
constexpr Index window = 1024;

Mask mask_of(MaskKind kind) { return kind == MaskKind::window ? Mask::sliding_window(window) : Mask{kind}; }

/// One head of 64; the truth is computed once, in float64.
struct Problem {
  /// Estimates are asked for rows of mean `mean` other than 0: where values cancel, nothing is left to estimate.
  Problem(MaskKind mask, double mean) {
    Model<double> wide = random_model<double>(paper_layer(1, 64, 1, mask_of(mask), MlpKind::none, 0), 1);
    const Matrix<double> wide_x = Random(2).matrix<double>(tokens, 64).array() + mean;
    programs::set_logit_scale(wide, wide_x, nullptr, 1.0);
    model = cast_model<float>(wide);
    x = wide_x.cast<float>();
    truth = forward(cast_model<double>(model), Matrix<double>(x.cast<double>()), DirectAttention<double>());
  }

  Model<float> model;
  Matrix<float> x;
  Matrix<double> truth;
};

const Problem& problem(MaskKind mask, double mean = 0) {
  static std::map<std::pair<MaskKind, double>, Problem> made;
  const auto found = made.find({mask, mean});
  return found != made.end() ? found->second : made.emplace(std::pair(mask, mean), Problem(mask, mean)).first->second;
}

/// A result further from the truth than this is wrong, not imprecise; timing it would be pointless.
constexpr double largest_error = 1e-5;
/// A sample of the keys is an estimate: a row that is off by its own size has not seen the right keys.
constexpr double largest_estimate_error = 1.0;

struct Grid {
  MaskKind mask = MaskKind::full;
  Index rows = 0;
  Anchor anchor = Anchor::adaptive;
  Index heads = 1;   ///< H'
  Index layers = 1;  ///< L'
  Index samples = 0;

  [[nodiscard]] OracleLimits limits() const {
    OracleLimits limits;
    limits.kind = mask == MaskKind::full ? OracleKind::plain : OracleKind::causal;
    limits.rows = rows;
    limits.heads = heads;
    limits.layers = layers;
    limits.residual = layers > 1;
    return limits;
  }

  [[nodiscard]] SimulationOptions options() const {
    SimulationOptions options;
    options.anchor = anchor;
    options.sampling.samples = samples;
    return options;
  }

  [[nodiscard]] std::string label() const {
    const auto field = [](const char* key, Index value) { return key + std::to_string(value); };
    return std::string(name(mask)) + field("/N:", tokens) + field("/M:", rows) + "/" + name(anchor) +
           (heads * layers > 1 ? field("/heads:", heads) + field("/layers:", layers) : "") +
           (samples > 0 ? field("/samples:", samples) : "");
  }
};

void simulate_grid(benchmark::State& state, const std::string& name, const Grid& grid) {
  const Problem& p = problem(grid.mask, grid.samples > 0 ? 1 : 0);
  SmallTransformer<float> oracle(grid.limits());
  const auto check = [&]() -> Findings {
    const programs::PeakMemory peak;
    const Simulation<float> found = simulate(p.model, p.x, oracle, grid.options());
    const auto peak_bytes = static_cast<double>(peak.bytes());
    const programs::RowErrors errors = programs::row_errors(found.rows, p.truth);
    PlanRequest request{mask_of(grid.mask), tokens, 0, 1, 1, grid.limits(), grid.anchor};
    request.sampling = grid.options().sampling;
    const Plan plan(request);
    Findings findings{{"calls", static_cast<double>(found.counts.calls)},
                      {"planned_calls", static_cast<double>(plan.calls())},
                      {"row_error", errors.max},
                      {"mean_row_error", errors.mean},
                      {"peak_bytes", peak_bytes}};
    if (plan.paper_calls()) findings["paper_calls"] = static_cast<double>(*plan.paper_calls());
    return findings;
  };
  const double allowed = grid.samples > 0 ? largest_estimate_error : largest_error;
  if (!passes_check(state, name, allowed, check)) return;
  for (auto _ : state) benchmark::DoNotOptimize(simulate(p.model, p.x, oracle, grid.options()).rows.data());
}

/// Attention that makes no calls: direct, or by the kernel.
template <class MakeAttend>
void run_whole(benchmark::State& state, const std::string& name, MaskKind mask, const MakeAttend& make_attend) {
  const Problem& p = problem(mask);
  auto attend = make_attend();
  const auto check = [&]() -> Findings {
    const programs::PeakMemory peak;
    const Matrix<float> rows = forward(p.model, p.x, attend);
    const auto peak_bytes = static_cast<double>(peak.bytes());
    const programs::RowErrors errors = programs::row_errors(rows, p.truth);
    return {{"row_error", errors.max}, {"mean_row_error", errors.mean}, {"peak_bytes", peak_bytes}};
  };
  if (!passes_check(state, name, largest_error, check)) return;
  for (auto _ : state) benchmark::DoNotOptimize(forward(p.model, p.x, attend).data());
}

void add_grid(const Grid& grid) {
  add("BM_Simulate/" + grid.label(),
      [grid](benchmark::State& state, const std::string& name) { simulate_grid(state, name, grid); });
}

void register_all() {
  for (const MaskKind mask : {MaskKind::full, MaskKind::causal, MaskKind::window}) {
    const std::string place = std::string("/") + name(mask) + "/N:" + std::to_string(tokens);
    add("BM_Direct" + place, [mask](benchmark::State& state, const std::string& name) {
      run_whole(state, name, mask, [] { return DirectAttention<float>(); });
    });
    // The kernel's query blocks: the rows that it holds at a time.
    for (const Index rows : {32, 64, 128, 256, 512, 1024})
      add("BM_KernelRows" + place + "/rows:" + std::to_string(rows),
          [mask, rows](benchmark::State& state, const std::string& name) {
            run_whole(state, name, mask, [rows] { return make_kernel<float>(Serial(), rows); });
          });
    // A power of two of tokens, and the synthetic row.
    for (const Index rows : {33, 65, 129, 257, 513, 1025}) add_grid({mask, rows});
    for (const Anchor anchor : {Anchor::mean_key, Anchor::gibbs}) add_grid({mask, 257, anchor});
    for (const Index heads : {2, 4, 8}) add_grid({mask, 257, Anchor::adaptive, heads});
    for (const Index layers : {2, 4}) add_grid({mask, 257, Anchor::adaptive, 1, layers});
  }
  // The average case: each query block meets some of the key blocks.
  for (const MaskKind mask : {MaskKind::full, MaskKind::causal})
    for (const Index samples : {1, 2, 4})
      for (const Index rows : {65, 129, 257, 513, 1025})
        if (samples < tokens / (rows - 1)) add_grid({mask, rows, Anchor::adaptive, 1, 1, samples});
}

}  // namespace

int main(int argc, char** argv) {
  register_all();
  return run_benches(argc, argv);
}
