// Programs whose oracles are other processes, which fail or are killed, and programs that are killed themselves: the
// digest is that of a clean run.

#include <gtest/gtest.h>
#include <signal.h>

#include <cstdint>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "support/contains.hpp"
#include "support/program.hpp"
#include "support/running_program.hpp"
#include "support/sanitized.hpp"
#include "support/seed.hpp"

namespace {

namespace fs = std::filesystem;

#ifndef TWOHEADS_WITH_REMOTE
#define TWOHEADS_NEEDS_REMOTE() GTEST_SKIP() << "built without Boost: no oracles in other processes"
#else
#define TWOHEADS_NEEDS_REMOTE() static_cast<void>(0)
#endif

std::string oracle_command(const std::string& more = "") {
  return std::string(TWOHEADS_PROGRAM_DIR) +
         "/twoheads_oracle --graph core --oracle causal --rows 33 --heads 4 --key-cols 16 --value-cols 24 " + more;
}

/// A simulation of one layer of 4 heads of 8 columns.
std::vector<std::string> simulation(int tokens, const std::string& more) {
  return words("--mask causal --rows 33 --width 32 --heads 4 --oracle-scale 1 --json --tokens " +
               std::to_string(tokens) + " " + more);
}

std::vector<std::string> with_processes(std::vector<std::string> line, const std::string& command, int processes) {
  for (const std::string& word : {std::string("--oracle-command"), command, std::string("--processes"),
                                  std::to_string(processes), std::string("--checksums"), std::string("--trust")})
    line.push_back(word);
  return line;
}

std::string digest_of(const ProgramRun& run) {
  return run.exit_code == 0 ? run.json().value("digest", "none") : "exit code " + std::to_string(run.exit_code);
}

TEST(ProcessesOfASimulation, FailInEachOfSevenWaysAndTheBitsAreThoseOfACleanRun) {
  TWOHEADS_NEEDS_REMOTE();
  const int tokens = sanitized ? 200 : 500;
  const ProgramRun clean =
      run_program("twoheads_simulate", with_processes(simulation(tokens, ""), oracle_command(), 1));
  ASSERT_EQ(clean.exit_code, 0) << clean.err;
  EXPECT_EQ(clean.json()["failures"], 0);
  for (const char* fault : {"throw", "hang", "exit", "late", "size", "nan", "other"}) {
    const std::string faulty =
        oracle_command(std::string("--batch 1 --late-ms 1500 --seed 4 --fault ") + fault + ":0.1");
    const ProgramRun run =
        run_program("twoheads_simulate", with_processes(simulation(tokens, "--attempts 12 --deadline 0.4"), faulty, 3));
    EXPECT_EQ(digest_of(run), digest_of(clean)) << fault << ": " << run.err;
    if (run.exit_code != 0) continue;
    EXPECT_GT(run.json()["failures"], 0) << fault;
    EXPECT_EQ(run.json()["failures"], run.json()["retries"]) << fault << ": each failed call was made again";
  }
}

TEST(ProcessesOfASimulation, ThatAlwaysFailAreOneErrorThatNamesTheCall) {
  TWOHEADS_NEEDS_REMOTE();
  const ProgramRun run = run_program(
      "twoheads_simulate", with_processes(simulation(100, "--attempts 3"), oracle_command("--fault throw:1"), 2));
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_TRUE(run.out.empty()) << run.out;
  EXPECT_TRUE(contains(run.err, "failed 3 times") && contains(run.err, "call ")) << run.err;
  EXPECT_TRUE(contains(run.err, "a process of --oracle-command has failed, another one takes its place\n")) << run.err;
}

TEST(ProcessesOfASimulation, AreProbedUnlessTheyAreTrusted) {
  TWOHEADS_NEEDS_REMOTE();
  std::vector<std::string> line = with_processes(simulation(100, ""), oracle_command("--score-scale 0.5"), 1);
  line.pop_back();
  const ProgramRun run = run_program("twoheads_simulate", line);
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_TRUE(contains(run.err, "score scale is 0.5")) << run.err;
}

// --- killed from outside ---------------------------------------------------------------------------------------------

#ifdef __linux__

TEST(ProcessesOfASimulation, AreKilledOneAfterTheOtherAndTheBitsAreThoseOfACleanRun) {
  TWOHEADS_NEEDS_REMOTE();
  const int tokens = sanitized ? 600 : 2500;
  const std::vector<std::string> line = with_processes(simulation(tokens, "--attempts 20"), oracle_command(), 2);
  const ProgramRun clean = run_program("twoheads_simulate", line);
  ASSERT_EQ(clean.exit_code, 0) << clean.err;
  const TempFolder folder;
  RunningProgram run("twoheads_simulate", line, folder / "out", folder / "err");
  int killed = 0;
  while (!run.ended() && killed < 6) {
    pause(60);
    const std::vector<pid_t> children = run.ended() ? std::vector<pid_t>() : run.children();
    if (children.empty()) continue;
    ::kill(children[static_cast<std::size_t>(killed) % children.size()], SIGKILL);
    ++killed;
  }
  const int exit_code = run.wait();
  const ProgramRun found{exit_code, read_bytes(folder / "out"), ""};
  EXPECT_EQ(digest_of(found), digest_of(clean)) << read_bytes(folder / "err");
  EXPECT_GE(killed, 2) << "the run was over before";
}

#endif

TEST(ASimulation, KilledAtRandomMomentsAndResumedHasTheBitsOfACleanRun) {
  for (const bool processes : {false, true}) {
#ifndef TWOHEADS_WITH_REMOTE
    if (processes) continue;
#endif
    const int tokens = sanitized ? 500 : 2000;
    std::vector<std::string> line = simulation(tokens, processes ? "" : "--threads 2");
    if (processes) line = with_processes(line, oracle_command(), 2);
    const ProgramRun clean = run_program("twoheads_simulate", line);
    ASSERT_EQ(clean.exit_code, 0) << clean.err;

    const TempFolder folder;
    const fs::path file = folder / "checkpoint";
    line.push_back("--checkpoint");
    line.push_back(file.string());
    std::mt19937_64 random(seed_or(11));
    int killed = 0;
    std::uintmax_t grown = 0;
    int exit_code = -1;
    for (int most = 40; exit_code != 0; most += most / 4) {
      RunningProgram run("twoheads_simulate", line, folder / "out", folder / "err");
      const int moment = static_cast<int>(random() % static_cast<std::uint64_t>(most));
      for (int waited = 0; waited < moment && !run.ended(); waited += 5) pause(5);
      if (!run.ended()) run.send(SIGKILL);
      exit_code = run.wait();
      ASSERT_TRUE(exit_code == 0 || exit_code == -1) << read_bytes(folder / "err");
      if (exit_code == -1) ++killed;
      const std::uintmax_t size = fs::exists(file) ? fs::file_size(file) : 0;
      EXPECT_GE(size + 70000, grown) << "only a torn record is cut off";
      grown = size;
    }
    const ProgramRun found{0, read_bytes(folder / "out"), ""};
    EXPECT_EQ(digest_of(found), digest_of(clean));
    EXPECT_GE(killed, 3);
    EXPECT_LT(found.json()["calls"].get<int>(), clean.json()["calls"].get<int>()) << "parts came from the file";
  }
}

}  // namespace
