// A random transformer, simulated through small calls and held against its direct evaluation in a wider scalar.

#include <cmath>
#include <cstdint>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <twoheads/base/digest.hpp>
#include <twoheads/exec/kernel_attention.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <twoheads/simulate.hpp>
#include <type_traits>
#include <utility>

#include "support/any_run.hpp"
#include "support/attention_progress.hpp"
#include "support/executor.hpp"
#include "support/instances.hpp"
#include "support/json_results.hpp"
#include "support/launch.hpp"
#include "support/memory.hpp"
#include "support/plan_arguments.hpp"
#include "support/processes.hpp"
#include "support/progress.hpp"
#include "support/random_run.hpp"
#include "support/rows_choice.hpp"
#include "support/simulate_arguments.hpp"
#include "support/stopwatch.hpp"

#ifdef TWOHEADS_WITH_MPI
#include "support/ranks/rank_run.hpp"
#endif

namespace {

using programs::EngineWord;
using twoheads::Index;
using twoheads::Matrix;
using Settings = programs::SimulateSettings;

struct Outcome {
  twoheads::SimulationCounts counts;
  programs::ProcessCounts processes;
  programs::RowErrors row_errors;
  double direct_row_error = 0;
  Index bad_rows = 0;
  double max_logit = 0;
  std::string digest;
  double seconds = 0;
  double direct_seconds = 0;
  std::int64_t peak_bytes = 0;
  std::uint64_t bytes_moved = 0;  ///< between ranks
  double fetch_seconds = 0;       ///< for them, by the rank that took longest
};

twoheads::KernelOptions kernel_options(const twoheads::PlanRequest& request) {
  twoheads::KernelOptions options;
  options.rows = request.oracle.rows;
  options.plan_for = request.oracle.kind;
  options.sampling = request.sampling;
  return options;
}

/// The tiles of the plan by the kernel: no oracle is called.
template <class Scalar>
twoheads::Simulation<Scalar> by_kernel(const twoheads::Model<Scalar>& model, Matrix<Scalar> x,
                                       const twoheads::PlanRequest& request, Index threads,
                                       const Matrix<Scalar>* memory, programs::Progress& progress) {
  const twoheads::KernelOptions options = kernel_options(request);
  twoheads::KernelAttention<Scalar, programs::Executor> attend(options, programs::Executor(threads, &progress));
  programs::begin_pieces(progress, model.spec, request.tokens, request.keys, options);
  twoheads::Simulation<Scalar> result{twoheads::forward(model, std::move(x), attend, memory), {}};
  result.counts.jobs = attend.tiles();
  return result;
}

twoheads::SimulationOptions grid_options(const Settings& settings) {
  const twoheads::PlanRequest& request = settings.request;
  twoheads::SimulationOptions options{request.anchor, settings.encoding, request.packing, request.sampling};
  options.checksums = settings.processes.checksums;
  return options;
}

/// Calls of a process, or of the small transformer on Eigen by the chosen method.
template <class Scalar>
twoheads::Simulation<Scalar> by_oracle(const twoheads::Model<Scalar>& model, Matrix<Scalar> x, const Settings& settings,
                                       const Matrix<Scalar>* memory, programs::Processes<Scalar>* processes,
                                       programs::Progress& progress) {
  const twoheads::PlanRequest& request = settings.request;
  const twoheads::OracleLimits& limits = request.oracle;
  const twoheads::SimulationOptions options = grid_options(settings);
  if (processes != nullptr || !settings.checkpoint.empty()) {
    const programs::Checkpoint checkpoint{settings.checkpoint,
                                          programs::key_of(settings.processes.command, limits, options)};
    if (processes != nullptr)
      return programs::simulate_on(processes->oracle(), model, std::move(x), options, memory, checkpoint, progress);
    twoheads::AnyOracle<Scalar> own = programs::own_oracle<Scalar>(limits, settings.threads);
    return programs::simulate_on(own, model, std::move(x), options, memory, checkpoint, progress);
  }
  twoheads::SmallTransformer<Scalar> oracle(limits);
  if (settings.method != programs::Method::stable)
    return programs::run_paper(model, std::move(x), oracle, settings.method, settings.encoding, request.sampling,
                               memory);
  programs::begin_jobs(progress, model.spec, request.tokens, request.keys, limits, options);
  return twoheads::simulate(model, std::move(x), oracle, options, memory,
                            programs::Executor(settings.threads, &progress));
}

#ifdef TWOHEADS_WITH_MPI

/// The simulation on several ranks: its rows on rank 0.
template <class Scalar>
programs::RankRun<Scalar> on_ranks(twoheads::Ranks& ranks, const twoheads::Model<Scalar>& model, Matrix<Scalar> x,
                                   const Settings& settings, const Matrix<Scalar>& memory,
                                   programs::Processes<Scalar>* processes) {
  if (settings.engine == EngineWord::kernel)
    return programs::kernel_on_ranks(ranks, model, std::move(x), kernel_options(settings.request), settings.threads,
                                     memory, {settings.checkpoint, ""});
  const twoheads::OracleLimits& limits = settings.request.oracle;
  const twoheads::SimulationOptions options = grid_options(settings);
  const programs::Checkpoint checkpoint{settings.checkpoint,
                                        programs::key_of(settings.processes.command, limits, options)};
  if (processes != nullptr)
    return programs::any_on_ranks(ranks, model, std::move(x), processes->oracle(), options, memory, checkpoint);
  return programs::grid_on_ranks(ranks, model, std::move(x), limits, options, settings.threads, memory, checkpoint);
}

#endif

/// Refuses a scale of the logits that the weights of the queries do not hold.
template <class Scalar>
void require_finite_queries(const twoheads::Model<Scalar>& model, double logit_scale) {
  for (const twoheads::LayerWeights<Scalar>& layer : model.layers)
    if (twoheads::detail::first_row_not_finite(layer.attention.wq) >= 0)
      throw programs::ArgumentError("--logit-scale", twoheads::detail::text(logit_scale),
                                    "one that leaves the weights of the queries finite in --scalar " +
                                        std::string(sizeof(Scalar) == sizeof(float) ? "float" : "double"));
}

/// Says on standard error what bad rows come from.
void explain_bad_rows(const CLI::App& app, const Settings& settings, const Outcome& outcome) {
  if (outcome.bad_rows == 0) return;
  std::cerr << app.get_name() << ": " << twoheads::detail::counted(outcome.bad_rows, "row") << " of "
            << settings.request.tokens << " hold NaN or infinity: "
            << (settings.method == programs::Method::stable
                    ? "scores leave the range of the scalar; a smaller --logit-scale or --scalar double would do"
                    : "the printed sums leave the range of the scalar; --method stable does not at any size")
            << "\n";
}

/// Simulation, direct evaluation in the same scalar, and the reference in a wider one.
template <class Scalar>
Outcome run(const Settings& settings, programs::Processes<Scalar>* processes, programs::Launch& launch) {
  using Wider = std::conditional_t<std::is_same_v<Scalar, float>, double, long double>;
  const twoheads::PlanRequest& request = settings.request;
  const auto seed = static_cast<std::uint64_t>(settings.seed);
  const bool cross = request.keys != request.tokens;
  Matrix<Scalar> x;
  Matrix<Scalar> memory;
  twoheads::Model<Scalar> model;
  {
    twoheads::Random random(seed + 1);
    const Matrix<double> wide_x = random.matrix<double>(request.tokens, settings.width);
    const Matrix<double> wide_memory = cross ? random.matrix<double>(request.keys, settings.width) : Matrix<double>();
    twoheads::Model<double> wide = twoheads::random_model<double>(programs::make_spec(settings), seed);
    programs::set_logit_scale(wide, wide_x, cross ? &wide_memory : nullptr, settings.logit_scale);
    model = twoheads::cast_model<Scalar>(wide);
    x = wide_x.template cast<Scalar>();
    memory = wide_memory.template cast<Scalar>();
    require_finite_queries(model, settings.logit_scale);
  }

  Outcome outcome;
  twoheads::Simulation<Scalar> simulation;
  const Matrix<Scalar>* const sources = cross ? &memory : nullptr;
#ifdef TWOHEADS_WITH_MPI
  if (launch.ranks() != nullptr) {
    programs::RankRun<Scalar> found = on_ranks(*launch.ranks(), model, x, settings, memory, processes);
    simulation = std::move(found.simulation);
    outcome.seconds = found.seconds;
    outcome.peak_bytes = found.peak_bytes;
    outcome.bytes_moved = found.bytes_moved;
    outcome.fetch_seconds = found.fetch_seconds;
  } else
#endif
  {
    Matrix<Scalar> rows = x;  // becomes the output
    programs::Progress progress("simulation", !settings.json);
    const programs::PeakMemory peak;
    const programs::Stopwatch watch;
    simulation = settings.engine == EngineWord::kernel
                     ? by_kernel(model, std::move(rows), settings.request, settings.threads, sources, progress)
                     : by_oracle(model, std::move(rows), settings, sources, processes, progress);
    outcome.seconds = watch.seconds();
    outcome.peak_bytes = peak.bytes();
  }
  outcome.counts = simulation.counts;
  // The rows are there, and what they are compared with.
  if (!launch.first()) return outcome;
  if (processes != nullptr) outcome.processes = processes->counts();
  outcome.digest = twoheads::digest(simulation.rows);
  outcome.bad_rows = programs::bad_rows(simulation.rows);

  if (!settings.reference) return outcome;

  const programs::Stopwatch direct_watch;
  programs::Progress direct_progress("direct evaluation", !settings.json);
  const Matrix<Scalar> direct = programs::forward_directly(model, x, direct_progress, sources);
  outcome.direct_seconds = direct_watch.seconds();

  const Matrix<Wider> wide_memory = memory.template cast<Wider>();
  programs::Progress wide_progress("direct evaluation in a wider scalar", !settings.json);
  const Matrix<Wider> reference =
      programs::forward_directly(twoheads::cast_model<Wider>(model), Matrix<Wider>(x.template cast<Wider>()),
                                 wide_progress, cross ? &wide_memory : nullptr, &outcome.max_logit);
  outcome.row_errors = programs::row_errors(simulation.rows, reference);
  outcome.direct_row_error = programs::max_row_error(direct, reference);
  return outcome;
}

void print(const Settings& settings, const Outcome& outcome, bool ranks, const twoheads::GridStyle& style, double unit,
           double least) {
  const double bound = 4 * outcome.direct_row_error + unit * outcome.max_logit + least;
  const bool as_it_is =
      settings.engine == EngineWord::kernel || settings.encoding == twoheads::TokenEncoding::raw || ranks;
  if (settings.method == programs::Method::stable)
    programs::print_evaluated(std::cout, programs::make_plan(settings.request),
                              as_it_is ? std::nullopt : programs::one_query_plan(settings.request, settings.kv_heads),
                              style);
  else
    programs::print(std::cout, programs::paper_figures(settings.request, settings.method));
  std::cout << "\nsimulated\n  calls made     " << outcome.counts.calls;
  if (settings.engine == EngineWord::kernel)
    std::cout << ": the kernel took " << outcome.counts.jobs << " tiles";
  else
    std::cout << " (" << outcome.counts.repeats << " repeats)";
  if (!settings.processes.command.empty()) std::cout << "\n  processes      " << outcome.processes;
  if (!settings.reference) {
    std::cout << "\n  bad rows       " << outcome.bad_rows << "\n  seconds        " << outcome.seconds
              << "\n  peak memory    " << outcome.peak_bytes / 1024 << " KiB\n  digest         " << outcome.digest
              << "\n";
    return;
  }
  std::cout << "\n  largest logit  " << outcome.max_logit << "\n\n  largest relative row error against a wider scalar"
            << "\n    simulation   " << outcome.row_errors.max << "\n    direct       " << outcome.direct_row_error;
  if (settings.request.sampling.samples == 0)
    std::cout << "\n    bound        "
              << (!std::isfinite(bound)             ? "none: scores leave the range of the scalar"
                  : outcome.row_errors.max <= bound ? twoheads::detail::text(bound, "  (kept)")
                                                    : twoheads::detail::text(bound, "  (EXCEEDED)"));
  std::cout << "\n  mean row error " << outcome.row_errors.mean << "\n  bad rows       " << outcome.bad_rows
            << "\n  seconds        " << outcome.seconds << ", direct " << outcome.direct_seconds
            << "\n  peak memory    " << outcome.peak_bytes / 1024 << " KiB\n  digest         " << outcome.digest
            << "\n";
}

/// What was found, in the keys of --json.
nlohmann::ordered_json as_json(const Settings& settings, const Outcome& outcome) {
  nlohmann::ordered_json result{{"calls", outcome.counts.calls},   {"repeats", outcome.counts.repeats},
                                {"rounds", outcome.counts.rounds}, {"jobs", outcome.counts.jobs},
                                {"bad_rows", outcome.bad_rows},    {"digest", outcome.digest},
                                {"seconds", outcome.seconds},      {"peak_bytes", outcome.peak_bytes}};
  if (settings.reference) {
    result["max_row_error"] = programs::json_number(outcome.row_errors.max);
    result["mean_row_error"] = programs::json_number(outcome.row_errors.mean);
    result["direct_row_error"] = programs::json_number(outcome.direct_row_error);
    result["max_logit"] = programs::json_number(outcome.max_logit);
    result["direct_seconds"] = outcome.direct_seconds;
  }
  if (!settings.processes.command.empty()) programs::add_counts(result, outcome.processes);
  if (settings.request.sampling.samples > 0) result["samples"] = settings.request.sampling.samples;
  return result;
}

/// Starts the processes that --oracle-command asks for, if it does, and plans for what they take.
template <class Scalar>
std::optional<programs::Processes<Scalar>> start_processes(Settings& settings) {
  if (settings.processes.command.empty()) return std::nullopt;
  twoheads::OracleLimits& planned = settings.request.oracle;
  programs::Processes<Scalar> processes(settings.processes, planned.kind, planned.score_scale);
  const twoheads::OracleLimits limits = processes.limits();
  if (planned.rows != limits.rows)
    throw programs::ArgumentError("--rows", std::to_string(planned.rows),
                                  std::to_string(limits.rows) + ", the rows of the process");
  planned = limits;
  return processes;
}

}  // namespace

int main(int argc, char** argv) {
  programs::Launch launch(argc, argv);
  CLI::App app("Simulates a random transformer through small calls and checks it against direct evaluation.",
               "twoheads_simulate");
  programs::SimulateArguments arguments(app);
  programs::add_examples(
      app, {"twoheads_simulate --mask causal --tokens 1000 --rows 129",
            "twoheads_simulate --mask window --window 64 --tokens 20000 --rows 257 --engine kernel --no-reference",
            "twoheads_simulate --mask full --tokens 500 --rows 65 --scalar double --checkpoint run.bin"});
  return launch.run(app, argc, argv, [&] {
    Settings settings = arguments.settings(launch.on_ranks(), launch.size());
    if (!launch.on_ranks()) programs::say_when_interrupted(app, programs::what_stays(settings.checkpoint));
    const bool single = arguments.scalar() == programs::ScalarWord::float32;
    const bool stable = settings.method == programs::Method::stable;
    const bool kernel = settings.engine == EngineWord::kernel;
    const twoheads::AttentionSpec attention = programs::make_spec(settings).attention;
    const auto choice = single ? programs::choose_rows_if_auto<float>(settings.request, attention, kernel)
                               : programs::choose_rows_if_auto<double>(settings.request, attention, kernel);
    auto single_processes = single ? start_processes<float>(settings) : std::optional<programs::Processes<float>>();
    auto double_processes = single ? std::optional<programs::Processes<double>>() : start_processes<double>(settings);
    const std::optional<twoheads::Plan> plan =
        stable ? std::optional(programs::make_plan(settings.request)) : std::nullopt;
    const std::string cover = stable ? arguments.plan().cover(*plan) : "";
    if (stable && launch.first()) arguments.plan().draw(*plan);
    const Outcome outcome = single ? run<float>(settings, single_processes ? &*single_processes : nullptr, launch)
                                   : run<double>(settings, double_processes ? &*double_processes : nullptr, launch);
    if (launch.first()) explain_bad_rows(app, settings, outcome);
    if (settings.json) {
      nlohmann::ordered_json result = as_json(settings, outcome);
      if (!cover.empty()) result["cover"] = cover;
      if (launch.size() > 1) result["ranks"] = launch.size();
      if (launch.size() > 1) result["bytes_moved"] = outcome.bytes_moved;
      if (launch.size() > 1) result["fetch_seconds"] = outcome.fetch_seconds;
      if (choice) result["rows"] = choice->chosen.rows;
      if (choice) result["rows_reason"] = choice->reason();
      std::cout << result.dump() << "\n";
    } else {
      print(settings, outcome, launch.on_ranks(), arguments.plan().grid_style(), single ? 6e-8 : 1.2e-16,
            single ? 1e-6 : 1e-12);
      if (launch.size() > 1)
        std::cout << "  ranks          " << launch.size() << ", " << outcome.bytes_moved / 1024
                  << " KiB of keys and values moved between them, " << outcome.fetch_seconds << " s for that\n";
      if (!cover.empty()) std::cout << "  cover          " << cover << "\n";
      if (choice) std::cout << "  rows           " << choice->reason() << "\n";
    }
  });
}
