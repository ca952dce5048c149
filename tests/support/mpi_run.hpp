#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "support/shared_data.hpp"
#include "support/temp_folder.hpp"

/// How a program that ran on several ranks ended and what its ranks wrote.
struct MpiRun {
  /// The launcher's; 128 + its number where a signal ended the launcher, and -1 where the deadline passed.
  int exit_code = -1;
  std::string out;
  std::string err;
  /// Of processors, by all ranks and the launcher: waiting for a loaded machine is not part of it.
  double processor_seconds = 0;

  /// Standard output as JSON; `discarded` if it is not one JSON value and nothing else.
  [[nodiscard]] nlohmann::json json() const { return nlohmann::json::parse(out, nullptr, false); }
};

namespace mpi_run_detail {

/// What processes that have ended and were waited for, and theirs, have taken.
inline double processor_seconds_of_children() {
  rusage used{};
  getrusage(RUSAGE_CHILDREN, &used);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(used.ru_utime) + seconds(used.ru_stime);
}

/// Becomes the launcher, in a process group of its own.
[[noreturn]] inline void become(std::vector<std::string> command, const std::map<std::string, std::string>& environment,
                                const std::string& out, const std::string& err) {
  setpgid(0, 0);
  for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
  const int in_file = open("/dev/null", O_RDONLY);
  const int out_file = open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  const int err_file = open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  if (in_file < 0 || out_file < 0 || err_file < 0) _exit(126);
  dup2(in_file, STDIN_FILENO);
  dup2(out_file, STDOUT_FILENO);
  dup2(err_file, STDERR_FILENO);
  std::vector<char*> words;
  words.reserve(command.size() + 1);
  for (std::string& word : command) words.push_back(word.data());
  words.push_back(nullptr);
  execvp(words[0], words.data());
  _exit(127);
}

/// Waits for a child until a point in time.
[[nodiscard]] inline bool ends_before(pid_t child, std::chrono::steady_clock::time_point until, int& status) {
  for (;;) {
    if (waitpid(child, &status, WNOHANG) == child) return true;
    if (std::chrono::steady_clock::now() >= until) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

}  // namespace mpi_run_detail

/// Runs one of our programs, or any by its full path, on that many ranks of this machine, with variables added to its
/// environment. A run that outlives the deadline is ended and fails the test.
[[nodiscard]] inline MpiRun run_on_ranks(int ranks, const std::string& program,
                                         const std::vector<std::string>& arguments,
                                         const std::map<std::string, std::string>& environment = {},
                                         std::chrono::seconds deadline = std::chrono::seconds(60)) {
  // The launcher and its flags up to the one that the number of ranks follows, with bars between them.
  std::vector<std::string> command(1);
  for (const char c : std::string(TWOHEADS_MPI_LAUNCH)) {
    if (c == '|')
      command.emplace_back();
    else
      command.back() += c;
  }
  command.push_back(std::to_string(ranks));
  command.push_back((std::filesystem::path(TWOHEADS_PROGRAM_DIR) / program).string());
  command.insert(command.end(), arguments.begin(), arguments.end());

  const TempFolder folder;
  const std::filesystem::path out = folder / "out";
  const std::filesystem::path err = folder / "err";
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  const double before = mpi_run_detail::processor_seconds_of_children();
  const pid_t child = fork();
  if (child == 0) mpi_run_detail::become(command, environment, out.string(), err.string());

  MpiRun run;
  int status = 0;
  if (child < 0) {
    ADD_FAILURE() << "fork failed";
  } else if (mpi_run_detail::ends_before(child, start + deadline, status)) {
    run.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  } else {
    // Asked first, the launcher ends its ranks, which are in process groups of their own.
    kill(child, SIGTERM);
    if (!mpi_run_detail::ends_before(child, Clock::now() + std::chrono::seconds(5), status)) {
      kill(-child, SIGKILL);
      waitpid(child, &status, 0);
    }
    ADD_FAILURE() << program << " on " << ranks << " ranks had not ended after " << deadline.count() << " s\n"
                  << read_bytes(out) << read_bytes(err);
  }
  run.processor_seconds = mpi_run_detail::processor_seconds_of_children() - before;
  run.out = read_bytes(out);
  run.err = read_bytes(err);
  return run;
}
