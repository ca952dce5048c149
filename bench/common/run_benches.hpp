#pragma once

#include <benchmark/benchmark.h>

#include <map>
#include <string>

namespace benches {

/// Runs what has been registered, with what the figures depend on in the context of the report. Returns the exit code.
int run_benches(int argc, char** argv);

/// Registers a benchmark that is timed by the clock on the wall: other threads' work counts.
template <class Body>
void add(const std::string& name, Body body) {
  benchmark::RegisterBenchmark(name.c_str(), [name, body](benchmark::State& state) { body(state, name); })
      ->Unit(benchmark::kMillisecond)
      ->UseRealTime();
}

/// What checking a benchmark found, kept for its repetitions: the check is made once a process.
using Findings = std::map<std::string, double>;

/// Runs `check` the first time that the named benchmark runs, and hands its findings to the counters. False, and the
/// benchmark is skipped with an error, where row_error is not below `largest_error`.
template <class Check>
[[nodiscard]] bool passes_check(benchmark::State& state, const std::string& name, double largest_error,
                                const Check& check) {
  static std::map<std::string, Findings> known;
  const auto [place, is_new] = known.try_emplace(name);
  if (is_new) place->second = check();
  for (const auto& [counter, value] : place->second) state.counters[counter] = value;
  const double error = place->second.at("row_error");
  // A NaN fails.
  if (error < largest_error) return true;
  state.SkipWithError(("the result is wrong: its row error is " + std::to_string(error)).c_str());
  return false;
}

}  // namespace benches
