// Tokens a second of a whole model whose attention is evaluated directly, by the kernel, or by a grid of oracle calls.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <iostream>
#include <map>
#include <optional>
#include <string>
#include <twoheads/attention/language.hpp>
#include <twoheads/model/llama2c.hpp>
#include <twoheads/model/random.hpp>
#include <utility>
#include <vector>

#include "common/kernel.hpp"
#include "common/llama_like.hpp"
#include "common/run_benches.hpp"
#include "support/instances.hpp"
#include "support/memory.hpp"
#include "support/random_run.hpp"

namespace {

using namespace benches;
using namespace twoheads;

/// A model and as many rows as any benchmark of it takes.
struct Subject {
  Model<float> model;
  Matrix<float> x;
};

/// Causal, so what is true of the first rows is true of them at every length.
struct Truths {
  std::map<Index, Matrix<double>> known;

  const Matrix<double>& of(const Subject& subject, Index tokens) {
    const auto longer = known.lower_bound(tokens);
    if (longer != known.end()) return longer->second;
    const Matrix<double> x = subject.x.topRows(tokens).cast<double>();
    return known.emplace(tokens, forward(cast_model<double>(subject.model), x, DirectAttention<double>()))
        .first->second;
  }
};

const Subject& random_subject() {
  static const Subject made{cast_model<float>(random_model<double>(llama_like(2), 1)),
                            Random(2).matrix<float>(8192, llama_like(2).width)};
  return made;
}

/// The trained model of the data folder, over seeded token ids.
const Subject* trained_subject() {
  static const std::optional<Subject> read = []() -> std::optional<Subject> {
    const char* folder = std::getenv("TWOHEADS_SHARED_DIR");
    const std::filesystem::path path =
        std::filesystem::path(folder != nullptr ? folder : TWOHEADS_SHARED_DIR) / "data/stories260K/stories260K.bin";
    if (!std::filesystem::is_regular_file(path)) {
      std::cerr << "no benchmarks of stories260K: its data folder is absent (set TWOHEADS_SHARED_DIR)\n";
      return std::nullopt;
    }
    const LanguageModel<float> model = read_llama2c<float>(path);
    Random random(3);
    std::vector<Index> ids(512);
    for (Index& id : ids)
      id = std::min(static_cast<Index>(random.uniform() * static_cast<double>(model.vocabulary())),
                    model.vocabulary() - 1);
    Matrix<float> x = embed(model, ids);
    return Subject{model.body, std::move(x)};
  }();
  return read ? &*read : nullptr;
}

/// Float32 through two to five layers: further from float64 than this is wrong, not imprecise.
constexpr double largest_error = 1e-4;

template <class MakeAttend>
void run_model(benchmark::State& state, const std::string& name, const Subject& subject, Index tokens,
               const MakeAttend& make_attend) {
  static std::map<const Subject*, Truths> truths;
  const Matrix<float> x = subject.x.topRows(tokens);
  auto attend = make_attend();
  const auto check = [&]() -> Findings {
    const Matrix<double> truth = truths[&subject].of(subject, tokens).topRows(tokens);
    const programs::PeakMemory peak;
    const Matrix<float> rows = forward(subject.model, x, attend);
    const auto peak_bytes = static_cast<double>(peak.bytes());
    return {{"row_error", programs::max_row_error(rows, truth)}, {"peak_bytes", peak_bytes}};
  };
  if (!passes_check(state, name, largest_error, check)) return;
  for (auto _ : state) benchmark::DoNotOptimize(forward(subject.model, x, attend).data());
  state.counters["tokens_per_second"] =
      benchmark::Counter(static_cast<double>(tokens), benchmark::Counter::kIsIterationInvariantRate);
}

void add_subject(const std::string& label, const Subject& subject, Index tokens) {
  const std::string place = "/" + label + "/N:" + std::to_string(tokens);
  const Subject* const p = &subject;
  add("BM_ModelDirect" + place + "/threads:1", [p, tokens](benchmark::State& state, const std::string& name) {
    run_model(state, name, *p, tokens, [] { return DirectAttention<float>(); });
  });
  for (const Index threads : {1, 2}) {
    const std::string on = "/threads:" + std::to_string(threads);
    with_executor(threads, [&](auto executor) {
      add("BM_ModelKernel" + place + on, [p, tokens, executor](benchmark::State& state, const std::string& name) {
        run_model(state, name, *p, tokens, [&] { return make_kernel<float>(executor); });
      });
      for (const Index rows : {129, 513}) {
        if (rows * 32 < tokens) continue;  // Thousands of calls, which say no more.
        add("BM_ModelGrid" + place + "/M:" + std::to_string(rows) + on,
            [p, tokens, rows, executor](benchmark::State& state, const std::string& name) {
              OracleLimits limits;
              limits.kind = OracleKind::causal;
              limits.rows = rows;
              SmallTransformer<float> oracle(limits);
              run_model(state, name, *p, tokens, [&] { return make_grid(oracle, executor, Anchor::adaptive); });
            });
      }
    });
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    for (const Index tokens : {512, 2048, 8192}) add_subject("llama_like", random_subject(), tokens);
    if (const Subject* trained = trained_subject()) add_subject("stories260K", *trained, trained->x.rows());
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return run_benches(argc, argv);
}
