#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <ostream>
#include <string>
#include <twoheads/oracle/any_oracle.hpp>
#include <twoheads/plan/limits.hpp>

#include "support/arguments.hpp"

namespace programs {

/// Oracles in other processes, as the flags of a program ask for them.
struct ProcessFlags {
  std::string command;     ///< none: the program's own oracle
  double score_scale = 0;  ///< of either; 0: the model's
  Index processes = 1;
  Index attempts = 4;
  twoheads::Precision precision = twoheads::Precision::own;
  double deadline = 60;  ///< seconds without an answer
  bool checksums = false;
  bool trust = false;  ///< no probe before the first call
};

/// What came of the calls to the processes.
struct ProcessCounts {
  Index failures = 0;
  Index retries = 0;
  Index started = 0;
};

inline std::ostream& operator<<(std::ostream& out, const ProcessCounts& counts) {
  return out << counts.started << " processes started, " << counts.failures << " calls failed, " << counts.retries
             << " made again";
}

/// Adds --oracle-command and what goes with it.
inline void add_processes(CLI::App& app, ProcessFlags& flags) {
  const auto read = [&flags](const std::string& text) {
#ifdef TWOHEADS_WITH_REMOTE
    if (text.find_first_not_of(" \t\n") == std::string::npos)
      throw ArgumentError("--oracle-command", text, "a shell command");
    flags.command = text;
#else
    static_cast<void>(flags);
    throw ArgumentError("--oracle-command", text,
                        "nothing in this build, which was made without Boost: install libboost-dev "
                        "(Debian) and build again");
#endif
  };
  CLI::Option* const command =
      app.add_option_function<std::string>("--oracle-command", read,
                                           "command line of a process that is the oracle, such as twoheads_oracle "
                                           "--graph core; it says how many rows, heads and columns it takes")
          ->type_name("COMMAND");
  add_positive(app, "--oracle-scale", flags.score_scale, "what the oracle multiplies scores by (default: the model's)");
  add_count(app, "--processes", flags.processes, 1, "so many of them at once (default 1)", most_workers)
      ->needs(command);
  add_count(app, "--attempts", flags.attempts, 1, "runs of a call that fails, each on a fresh process (default 4)")
      ->needs(command);
  const auto read_deadline = [&flags](const std::string& text) {
    constexpr double most = 1e6;
    if (!read_number(text, flags.deadline) || !(flags.deadline >= 1e-3 && flags.deadline <= most))
      throw ArgumentError("--deadline", text, "0.001 to 1e6 seconds");
  };
  app.add_option_function<std::string>(
         "--deadline", read_deadline,
         "seconds that a call may take (default 60), and, if more than 10, that a process may take to begin")
      ->type_name("NUMBER")
      ->needs(command);
  add_choice<twoheads::Precision>(app, "--oracle-precision", flags.precision,
                                  {{"half", twoheads::Precision::half},
                                   {"bfloat16", twoheads::Precision::bfloat16},
                                   {"float32", twoheads::Precision::float32}},
                                  "what the process rounds tokens, weights and answers to; its scores are float32");
  app.add_flag("--trust", flags.trust, "do not probe the process before the first call")->needs(command);
  app.add_flag("--checksums", flags.checksums, "calls carry a number and a checksum, by which a wrong answer is known");
}

/// Refuses flags that leave to nobody what the processes decide: their rows, and how many of them run.
inline void require_left_to_process(const ProcessFlags& flags, Index threads, Index rows) {
  if (flags.command.empty()) return;
  if (threads > 1) throw ArgumentError("--oracle-command runs on as many threads as --processes: leave --threads out");
  if (rows == auto_rows)
    throw ArgumentError("--oracle-command takes the rows that its process has: --rows auto has no choice");
}

/// Processes that run a command, as one oracle; a call that fails is made again, on a fresh process.
template <class Scalar>
class Processes {
 public:
  Processes(const ProcessFlags& flags, twoheads::OracleKind kind, double score_scale);
  Processes(Processes&&) noexcept;
  ~Processes();

  /// Good as long as this is.
  [[nodiscard]] twoheads::AnyOracle<Scalar>& oracle();
  [[nodiscard]] twoheads::OracleLimits limits() const;
  [[nodiscard]] ProcessCounts counts() const;

 private:
  struct Pool;
  std::unique_ptr<Pool> pool_;
};

}  // namespace programs
