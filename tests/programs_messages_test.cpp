// What programs say to who sits before them: how far they have come, and the grid in characters.

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <filesystem>
#include <latch>
#include <sstream>
#include <string>
#include <thread>
#include <twoheads/base/digest.hpp>
#include <twoheads/model/random.hpp>
#include <utility>
#include <vector>

#include "support/any_run.hpp"
#include "support/attention_progress.hpp"
#include "support/contains.hpp"
#include "support/executor.hpp"
#include "support/instances.hpp"
#include "support/program.hpp"
#include "support/progress.hpp"
#include "support/temp_folder.hpp"
#include "support/terminal_text.hpp"

namespace {

namespace fs = std::filesystem;
using programs::Progress;
using twoheads::Index;
using twoheads::Mask;
using twoheads::Matrix;
using namespace terminal_text;

// --- the line --------------------------------------------------------------------------------------------------------

TEST(ProgressLine, SaysShareAndTimeAndLeavesNothing) {
  std::ostringstream out;
  {
    Progress progress("work", out, 0, 0);
    progress.begin(4);
    progress.add(1);
    EXPECT_EQ(left_on_terminal(out.str()), "work: 25 %, 0:00:00 left");
    progress.skip(2);
    progress.add(1);
    EXPECT_EQ(left_on_terminal(out.str()), "work: 100 %, 0:00:00 left");
  }
  EXPECT_EQ(left_on_terminal(out.str()), "");
}

TEST(ProgressLine, WaitsForItsPatienceAndBetweenLines) {
  std::ostringstream patient;
  Progress waits("work", patient, 1000, 0);
  waits.begin(2);
  waits.add(1);
  EXPECT_EQ(patient.str(), "");

  std::ostringstream slow;
  Progress pauses("work", slow, 0, 1000);
  pauses.begin(4);
  for (int i = 0; i < 3; ++i) pauses.add(1);
  EXPECT_EQ(lines_of(slow.str()).size(), 1U);
}

TEST(ProgressLine, KnowsPiecesThatShrink) {
  std::ostringstream out;
  Progress progress("work", out, 0, 0);
  progress.begin(Progress::work_of_pieces(3, Progress::Pieces::shrinking), Progress::Pieces::shrinking);
  std::vector<std::string> shares;
  for (const char* share : {"work: 50 %", "work: 83 %", "work: 100 %"}) {
    progress.add_piece(static_cast<long long>(shares.size()), 3);
    shares.push_back(left_on_terminal(out.str()));
    EXPECT_TRUE(contains(shares.back(), share)) << shares.back();
  }
}

TEST(ProgressLine, SumsWhatSeveralThreadsDo) {
  constexpr int times = 500000;
  std::ostringstream out;
  // Threads that wrote lines would hardly ever add at once.
  Progress progress("work", out, 0.2, 0);
  progress.begin(4 * times + 1);
  std::latch together(4);
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread)
    threads.emplace_back([&] {
      together.arrive_and_wait();
      for (int i = 0; i < times; ++i) progress.add(1);
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(contains(out.str(), "100 %"));
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  progress.add(1);
  EXPECT_TRUE(contains(left_on_terminal(out.str()), "work: 100 %")) << left_on_terminal(out.str());
}

TEST(ProgressLine, HoursMinutesAndSeconds) {
  EXPECT_EQ(programs::clock_words(0.9), "0:00:00");
  EXPECT_EQ(programs::clock_words(3600 * 30 + 61), "30:01:01");
  EXPECT_EQ(programs::clock_words(-1), "0:00:00");
}

// --- of runs ---------------------------------------------------------------------------------------------------------

twoheads::ModelSpec small_spec(const Mask& mask) {
  twoheads::ModelSpec spec = twoheads::paper_layer(2, 8, 2, mask, twoheads::MlpKind::none, 0);
  spec.attention.score_scale = 0.1;
  return spec;
}

const std::vector<std::pair<const char*, Mask>> masks{{"full", Mask::full()},
                                                      {"causal", Mask::causal()},
                                                      {"window", Mask::sliding_window(20)},
                                                      {"sinks", Mask::window_and_sinks(20, 3)},
                                                      {"documents", Mask::documents({100, 150, 50}, true)}};

/// The last line says 100 %, and no other: what a run was expected to take is what it takes.
void expect_whole(const std::string& written, const std::string& what) {
  const std::vector<std::string> lines = lines_of(written);
  ASSERT_GE(lines.size(), 4U) << what;
  EXPECT_TRUE(contains(lines.back(), "100 %")) << what << ": " << lines.back();
  EXPECT_FALSE(contains(lines[lines.size() - 2], "100 %")) << what << ": " << lines[lines.size() - 2];
}

TEST(ProgressOfARun, EndsWithItsWork) {
  constexpr Index tokens = 300;
  for (const auto& [name, mask] : masks) {
    const auto model = twoheads::random_model<float>(small_spec(mask), 1);
    const Matrix<float> x = twoheads::Random(2).matrix<float>(tokens, 8);
    twoheads::OracleLimits limits;
    limits.rows = 17;
    limits.kind = twoheads::OracleKind::causal;
    limits.score_scale = model.spec.attention.score_scale;
    twoheads::SmallTransformer<float> oracle(limits);
    for (const Index threads : {1, 2}) {
#ifndef TWOHEADS_WITH_THREADS
      if (threads > 1) continue;
#endif
      const std::string what = std::string(name) + " on " + std::to_string(threads);
      std::ostringstream out;
      Progress progress("run", out, 0, 0);
      programs::begin_jobs(progress, model.spec, tokens, tokens, limits, {});
      static_cast<void>(twoheads::simulate(model, x, oracle, {}, nullptr, programs::Executor(threads, &progress)));
      expect_whole(out.str(), what + ", calls");

      std::ostringstream pieces;
      Progress of_pieces("run", pieces, 0, 0);
      const twoheads::KernelOptions options{.rows = 17};
      programs::begin_pieces(of_pieces, model.spec, tokens, tokens, options);
      twoheads::KernelAttention<float, programs::Executor> kernel(options, programs::Executor(threads, &of_pieces));
      static_cast<void>(twoheads::forward(model, x, kernel));
      // Two threads may end their last pieces at once, and one of them alone writes a line.
      if (threads == 1) expect_whole(pieces.str(), what + ", kernel");
    }
    std::ostringstream out;
    Progress progress("run", out, 0, 0);
    twoheads::AnyOracle<float> any = programs::own_oracle<float>(limits, 1);
    static_cast<void>(programs::simulate_on<float>(any, model, x, {}, nullptr, {}, progress));
    expect_whole(out.str(), std::string(name) + ", any oracle");
  }
}

TEST(ProgressOfARun, CountsNoCallsThatACheckpointHolds) {
  const TempFolder folder;
  const auto model = twoheads::random_model<float>(small_spec(Mask::causal()), 1);
  const Matrix<float> x = twoheads::Random(2).matrix<float>(300, 8);
  twoheads::OracleLimits limits;
  limits.rows = 17;
  limits.kind = twoheads::OracleKind::causal;
  limits.score_scale = model.spec.attention.score_scale;
  const programs::Checkpoint checkpoint{(folder / "run.bin").string(), "key"};
  const auto run = [&](std::ostringstream& out) {
    Progress progress("run", out, 0, 0);
    twoheads::AnyOracle<float> any = programs::own_oracle<float>(limits, 1);
    return programs::simulate_on<float>(any, model, x, {}, nullptr, checkpoint, progress);
  };
  std::ostringstream whole, rest;
  const twoheads::Simulation<float> first = run(whole);
  expect_whole(whole.str(), "a run from its beginning");
  fs::resize_file(checkpoint.path, fs::file_size(checkpoint.path) / 2);
  const twoheads::Simulation<float> second = run(rest);
  EXPECT_LT(second.counts.calls, first.counts.calls);
  EXPECT_EQ(twoheads::digest(second.rows), twoheads::digest(first.rows));
  const std::vector<std::string> lines = lines_of(rest.str());
  ASSERT_GE(lines.size(), 4U);
  const auto percent = [](const std::string& line) { return std::stoi(line.substr(line.find(": ") + 2)); };
  EXPECT_LT(percent(lines.front()), 20) << lines.front();
  // Which calls a part holds is known about.
  EXPECT_GE(percent(lines.back()), 95) << lines.back();
}

template <class Scalar>
void expect_bits(const twoheads::ModelSpec& spec, Index tokens, Index keys, const std::string& what) {
  const auto model = twoheads::random_model<Scalar>(spec, 3);
  const Matrix<Scalar> x = twoheads::Random(4).matrix<Scalar>(tokens, spec.width);
  const Matrix<Scalar> memory = twoheads::Random(5).matrix<Scalar>(keys, spec.width);
  const Matrix<Scalar>* const sources = keys > 0 ? &memory : nullptr;
  twoheads::DirectAttention<Scalar> direct;
  const Matrix<Scalar> expected = twoheads::forward(model, x, direct, sources);
  std::ostringstream out;
  Progress progress("run", out, 0, 0);
  double max_logit = 0;
  const Matrix<Scalar> found = programs::forward_directly(model, x, progress, sources, &max_logit);
  EXPECT_EQ(twoheads::digest(found), twoheads::digest(expected)) << what;
  EXPECT_EQ(max_logit, direct.max_logit()) << what;
  const std::vector<std::string> lines = lines_of(out.str());
  ASSERT_GE(lines.size(), 3U) << what;
  EXPECT_EQ(left_on_terminal(out.str()), "") << what;
}

TEST(ProgressOfARun, LeavesTheBitsOfDirectEvaluationAsTheyAre) {
  for (const auto& [name, mask] : masks) {
    Mask long_mask = mask;
    if (mask.kind == twoheads::MaskKind::documents) long_mask = Mask::documents({400, 150, 350}, true);
    expect_bits<float>(small_spec(long_mask), 900, 0, name);
    expect_bits<double>(small_spec(long_mask), 900, 0, name);
  }
  // Of so many keys a block has no 64 rows.
  expect_bits<float>(small_spec(Mask::full()), 600, 20000, "many keys");
}

// --- on a terminal ---------------------------------------------------------------------------------------------------

TEST(ProgressOnATerminal, IsShownThereAloneAndNotBesideJson) {
  const TempFolder folder;
  if (!has_terminals(folder / ".")) GTEST_SKIP() << "script of util-linux makes no terminal here";
  // Minutes of work, ended as soon as the first of them has shown a few lines.
  const std::string work = "twoheads_simulate --mask full --tokens 60000 --rows 33 --no-reference";
  const ProgramRun run = run_shell(
      "set -m\n"
      "script -qefc '" +
          work + " --json' json.txt >/dev/null & a=$!\n" + work +
          " >pipe.txt 2>&1 & b=$!\n"
          "script -qefc '" +
          work +
          "' shown.txt >/dev/null & c=$!\n"
          "for i in $(seq 600); do\n"
          "  [ $(tr '\\r' '\\n' <shown.txt | grep -c ' left') -gt 3 ] && break\n"
          "  sleep 0.1\ndone\n"
          "for p in $a $b $c; do kill -TERM -- -$p; done\nwait",
      folder / ".");
  const std::string shown = read_bytes(folder / "shown.txt");
  EXPECT_TRUE(contains(shown, "\rsimulation: ")) << shown;
  EXPECT_TRUE(contains(shown, " %, ") && contains(shown, " left")) << shown;
  EXPECT_FALSE(contains(read_bytes(folder / "json.txt"), "left"));
  EXPECT_FALSE(contains(read_bytes(folder / "pipe.txt"), "left"));
}

// --- the grid --------------------------------------------------------------------------------------------------------

const std::vector<std::string> grids{"--mask causal --tokens 100 --rows 11",
                                     "--mask causal --tokens 100 --rows 11 --oracle plain",
                                     "--mask sinks --window 9 --sinks 2 --tokens 60 --rows 11",
                                     "--mask window --window 30 --tokens 200 --rows 11",
                                     "--mask causal --tokens 100000 --rows 11",
                                     "--mask full --tokens 100 --rows 11 --samples 2"};

TEST(Grid, OfUtf8SaysWhatTheOneOfAsciiSays) {
  const std::vector<std::pair<const char*, const char*>> shapes{{"\u2588", "#"}, {"\u2592", "+"}, {"\u25e3", "\\"},
                                                                {"\u25e5", "/"}, {"\u25c6", "X"}, {"\u2502", "|"},
                                                                {"\u00b7", "."}, {"\u25cf", "s"}};
  for (const std::string& grid : grids) {
    const ProgramRun ascii = run_program("twoheads_plan", words(grid + " --grid ascii"));
    const ProgramRun utf8 = run_program("twoheads_plan", words(grid + " --grid utf8"));
    ASSERT_EQ(ascii.exit_code, 0) << grid << ascii.err;
    ASSERT_EQ(utf8.exit_code, 0) << grid << utf8.err;
    EXPECT_EQ(run_program("twoheads_plan", words(grid)).out, ascii.out) << "a pipe takes ASCII";
    EXPECT_TRUE(
        std::all_of(ascii.out.begin(), ascii.out.end(), [](char c) { return c == '\n' || (c >= ' ' && c < 127); }));
    EXPECT_NE(utf8.out, ascii.out) << grid;
    std::string back = utf8.out;
    for (const auto& [shape, mark] : shapes) back = replaced(back, shape, mark);
    EXPECT_EQ(back, ascii.out) << grid;
  }
}

TEST(Grid, IsColouredOnATerminalAlone) {
  const TempFolder folder;
  if (!has_terminals(folder / ".")) GTEST_SKIP() << "script of util-linux makes no terminal here";
  const std::string plan = "twoheads_plan " + grids[2];
  const ProgramRun run = run_shell(
      "unset LC_ALL LC_CTYPE NO_COLOR\n"
      "TERM=xterm LANG=C.UTF-8 script -qefc '" +
          plan +
          "' both >/dev/null\n"
          "TERM=xterm LANG=C script -qefc '" +
          plan +
          "' ascii >/dev/null\n"
          "TERM=xterm LANG=C.UTF-8 NO_COLOR=1 script -qefc '" +
          plan +
          "' plain >/dev/null\n"
          "TERM=dumb LANG=C script -qefc '" +
          plan +
          "' dumb >/dev/null\n"
          "TERM=xterm LANG=C.UTF-8 " +
          plan + " >pipe\n",
      folder / ".");
  EXPECT_EQ(run.exit_code, 0) << run.err;
  const auto shown = [&](const char* file) {
    // script adds a line of its own before and after.
    std::string text = replaced(read_bytes(folder / file), "\r\n", "\n");
    const std::size_t begin = text.find("sinks attention");
    return begin == std::string::npos ? text : text.substr(begin, text.find("the paper") - begin);
  };
  const std::string pipe = shown("pipe");
  EXPECT_FALSE(contains(pipe, "\33"));
  EXPECT_TRUE(contains(shown("both"), "\33[32m\u25e3\33[0m")) << shown("both");
  EXPECT_TRUE(contains(shown("ascii"), "\33[32m\\\33[0m")) << shown("ascii");
  EXPECT_EQ(without_colours(shown("ascii")), pipe);
  EXPECT_TRUE(contains(shown("plain"), "\u25e3")) << shown("plain");
  EXPECT_FALSE(contains(shown("plain"), "\33"));
  EXPECT_EQ(shown("dumb"), pipe);
}

}  // namespace
