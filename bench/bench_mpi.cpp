// Attention on ranks, from rows that each rank makes for itself: time, bytes moved and memory. Run it under mpirun;
// rank 0 prints one JSON object.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <twoheads/base/matrix.hpp>
#include <twoheads/exec/threads.hpp>
#include <twoheads/model/random.hpp>
#include <twoheads/mpi/kernel_on_ranks.hpp>
#include <twoheads/plan/scaling.hpp>
#include <vector>

#include "support/memory.hpp"
#include "support/stopwatch.hpp"

namespace {

using namespace twoheads;

struct Settings {
  Index tokens = 16384;
  Index heads = 8;
  Index kv_heads = 8;
  Index head_dim = 64;
  std::string mask = "causal";
  Index window = 256;
  Index threads = 1;
  Index rows = 0;
  Index repeats = 1;
  Index work = RankOptions{}.work_bytes;
};

AttentionSpec spec_of(const Settings& settings) {
  AttentionSpec spec;
  spec.heads = settings.heads;
  spec.kv_heads = settings.kv_heads;
  spec.head_dim = spec.value_dim = settings.head_dim;
  spec.score_scale = 1 / std::sqrt(static_cast<double>(settings.head_dim));
  spec.mask = settings.mask == "full"     ? Mask::full()
              : settings.mask == "window" ? Mask::sliding_window(settings.window)
                                          : Mask::causal();
  return spec;
}

/// The same from run to run; whose rows they are does not matter for time.
Matrix<float> random_rows(Index rows, Index cols, std::uint64_t seed) {
  Random random(seed);
  Matrix<float> block = random.matrix<float>(std::min<Index>(rows, 256), cols);
  Matrix<float> result(rows, cols);
  for (Index row = 0; row < rows; ++row) result.row(row) = block.row(row % block.rows());
  return result;
}

/// What plan/scaling.hpp says of the same run.
ScalePrediction predicted(const Settings& settings, const AttentionSpec& spec, Index ranks) {
  const Plan plan(kernel_request({.rows = settings.rows}, spec, 0, {0, settings.tokens}, settings.tokens));
  ScaleRequest request;
  request.ranks = ranks;
  request.head_dim = request.value_dim = settings.head_dim;
  request.kv_heads = settings.kv_heads;
  request.work_bytes = settings.work;
  request.threads = settings.threads;
  return predict_scale(plan, request);
}

nlohmann::json measure(Ranks& ranks, const Settings& settings) {
  const AttentionSpec spec = spec_of(settings);
  KernelOnRanks<float, Threads> attend(ranks, {.rows = settings.rows}, Threads(settings.threads),
                                       {.work_bytes = settings.work});
  const RowShares shares = attend.share(spec, settings.tokens, settings.tokens);
  const Index own = shares.size(ranks.rank());
  const auto seed = static_cast<std::uint64_t>(ranks.rank());
  const Matrix<float> q = random_rows(own, spec.heads * spec.head_dim, 3 * seed + 1);
  const Matrix<float> k = random_rows(spec.kv_heads * own, spec.head_dim, 3 * seed + 2);
  const Matrix<float> v = random_rows(spec.kv_heads * own, spec.value_dim, 3 * seed + 3);
  Matrix<float> out = Matrix<float>::Zero(own, spec.heads * spec.value_dim);
  const RankInput<float> input{spec, 0, shares, shares, view(q), view(k), view(v)};

  std::vector<double> seconds;
  std::int64_t peak = 0;
  for (Index repeat = 0; repeat < settings.repeats; ++repeat) {
    const programs::PeakMemory memory;
    static_cast<void>(ranks.sum(0));  // all begin at the same time
    const programs::Stopwatch watch;
    attend(input, span(out));
    seconds.push_back(ranks.largest(watch.seconds()));
    peak = std::max(peak, memory.bytes());
  }
  std::sort(seconds.begin(), seconds.end());
  const double pairs = detail::visible_pairs(spec.mask, {0, settings.tokens}, settings.tokens);
  const double flops = 4 * pairs * static_cast<double>(spec.heads * spec.head_dim);
  const auto repeats = static_cast<std::uint64_t>(settings.repeats);
  const auto held = static_cast<std::uint64_t>(q.size() + k.size() + v.size() + out.size()) * sizeof(float);
  return {{"ranks", ranks.size()},
          {"tokens", settings.tokens},
          {"seconds", seconds[seconds.size() / 2]},
          {"gflops", flops / seconds[seconds.size() / 2] / 1e9},
          {"bytes_moved", ranks.sum(attend.counts().moved.bytes) / repeats},
          {"most_bytes_moved", ranks.largest(attend.counts().moved.bytes) / repeats},
          {"predicted_bytes_moved", predicted(settings, spec, ranks.size()).bytes_moved},
          {"messages", ranks.sum(attend.counts().moved.messages) / repeats},
          {"fetch_seconds", ranks.largest(attend.counts().fetch_seconds)},
          {"held_bytes", ranks.largest(held)},
          {"peak_bytes", ranks.largest(static_cast<std::uint64_t>(peak))}};
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  CLI::App app("Attention on ranks: time, bytes moved and memory beside the rows. Run it under mpirun.", "bench_mpi");
  app.add_option("--tokens", settings.tokens, "tokens (default 16384)")->check(CLI::PositiveNumber);
  app.add_option("--heads", settings.heads, "query heads (default 8)")->check(CLI::PositiveNumber);
  app.add_option("--kv-heads", settings.kv_heads, "key/value heads (default 8)")->check(CLI::PositiveNumber);
  app.add_option("--head-dim", settings.head_dim, "columns of a head (default 64)")->check(CLI::PositiveNumber);
  app.add_option("--mask", settings.mask, "full, causal or window (default causal)")
      ->check(CLI::IsMember({"full", "causal", "window"}));
  app.add_option("--window", settings.window, "keys of a window (default 256)")->check(CLI::PositiveNumber);
  app.add_option("--threads", settings.threads, "threads of a rank (default 1)")->check(CLI::PositiveNumber);
  app.add_option("--rows", settings.rows, "queries of a block, 0: chosen (default 0)");
  app.add_option("--work", settings.work, "bytes for queries that a thread works on (default 3 MiB)")
      ->check(CLI::PositiveNumber);
  app.add_option("--repeats", settings.repeats, "runs, of which the median is printed (default 1)")
      ->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
  int code = 0;
  {
    Ranks ranks;
    try {
      const nlohmann::json found = measure(ranks, settings);
      if (ranks.rank() == 0) std::cout << found.dump(2) << "\n";
    } catch (const std::exception& error) {
      std::cerr << "bench_mpi: " << error.what() << "\n";
      if (!ranks.all_failed()) MPI_Abort(MPI_COMM_WORLD, 1);
      code = 1;
    }
  }
  MPI_Finalize();
  return code;
}
