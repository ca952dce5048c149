// Tokens a second of a session: a text written token by token, and one that comes in pieces.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <iostream>
#include <span>
#include <string>
#include <twoheads/attention/language.hpp>
#include <twoheads/exec/sampler.hpp>
#include <twoheads/exec/session.hpp>
#include <twoheads/model/llama2c.hpp>
#include <twoheads/model/random.hpp>
#include <vector>

#include "common/kernel.hpp"
#include "common/llama_like.hpp"
#include "common/run_benches.hpp"
#include "support/instances.hpp"

namespace {

using namespace benches;
using namespace twoheads;

LanguageModel<float> random_subject() {
  const ModelSpec spec = llama_like(4);
  LanguageModel<float> model;
  model.body = random_model<float>(spec, 1);
  model.embedding = Random(2).matrix<float>(512, spec.width, 1.0);
  return model;
}

std::vector<int> random_text(Index tokens, Index vocabulary) {
  Random random(3);
  std::vector<int> ids(static_cast<std::size_t>(tokens));
  for (int& id : ids)
    id = static_cast<int>(
        std::min(static_cast<Index>(random.uniform() * static_cast<double>(vocabulary)), vocabulary - 1));
  return ids;
}

using Kernel = KernelAttention<float>;
using KernelSession = Session<float, Kernel>;

Kernel make_kernel() { return Kernel({.rows = 128}); }

/// Largest difference between the rows of a session and those of one pass.
double session_error(const LanguageModel<float>& model, Index chunk) {
  const std::vector<int> ids = random_text(150, model.vocabulary());
  Kernel kernel = make_kernel();
  KernelSession session(model, kernel, {.chunk = chunk});
  const Matrix<float> rows = session.append(ids);
  const Matrix<float> whole = forward(model.body, embed(model, ids), DirectAttention<float>());
  return static_cast<double>((rows - whole).cwiseAbs().maxCoeff<Eigen::PropagateNaN>() / whole.cwiseAbs().maxCoeff());
}

constexpr double largest_error = 1e-4;

void count_tokens(benchmark::State& state, Index tokens) {
  state.counters["tokens_per_second"] =
      benchmark::Counter(static_cast<double>(tokens), benchmark::Counter::kIsIterationInvariantRate);
}

void add_subject(const std::string& label, const LanguageModel<float>& model) {
  const LanguageModel<float>* const p = &model;
  add("BM_Generate/" + label + "/N:200/threads:1", [p](benchmark::State& state, const std::string& name) {
    if (!passes_check(state, name, largest_error, [&] { return Findings{{"row_error", session_error(*p, 1)}}; }))
      return;
    Kernel kernel = make_kernel();
    for (auto _ : state) {
      KernelSession session(*p, kernel);
      Sampler sampler;
      session.append(std::vector<int>{1});
      for (int token = 0; token < 200; ++token) {
        const int next = sampler(view(session.next_logits()));
        session.append(std::span(&next, 1));
      }
    }
    count_tokens(state, 200);
  });
  for (const Index chunk : {128, 1809})
    add("BM_Score/" + label + "/N:1809/chunk:" + std::to_string(chunk) + "/threads:1",
        [p, chunk](benchmark::State& state, const std::string& name) {
          if (!passes_check(state, name, largest_error, [&] {
                return Findings{{"row_error", session_error(*p, chunk)}};
              }))
            return;
          const std::vector<int> ids = random_text(1809, p->vocabulary());
          Kernel kernel = make_kernel();
          for (auto _ : state) {
            KernelSession session(*p, kernel, {.chunk = chunk});
            benchmark::DoNotOptimize(logits(*p, view(session.append(ids))).data());
          }
          count_tokens(state, 1809);
        });
}

}  // namespace

int main(int argc, char** argv) {
  try {
    static const LanguageModel<float> random = random_subject();
    add_subject("llama_like", random);
    const char* folder = std::getenv("TWOHEADS_SHARED_DIR");
    const std::filesystem::path path =
        std::filesystem::path(folder != nullptr ? folder : TWOHEADS_SHARED_DIR) / "data/stories260K/stories260K.bin";
    if (std::filesystem::is_regular_file(path)) {
      static const LanguageModel<float> trained = read_llama2c<float>(path);
      add_subject("stories260K", trained);
    } else {
      std::cerr << "no benchmarks of stories260K: its data folder is absent (set TWOHEADS_SHARED_DIR)\n";
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return run_benches(argc, argv);
}
