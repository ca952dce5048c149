#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "support/contains.hpp"
#include "support/mpi_run.hpp"
#include "support/program.hpp"
#include "support/shared_data.hpp"
#include "support/temp_folder.hpp"

namespace {

/// How often a text has another in it.
int count(const std::string& text, const std::string& part) {
  int found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

MpiRun fault(int ranks, const std::string& kind, int rank, int piece) {
  return run_on_ranks(ranks, TWOHEADS_MPI_FAULT_PROGRAM, {kind, std::to_string(rank), std::to_string(piece)});
}

/// All ranks are to end soon after one of them does: left alone, they would work for more than a minute. Seconds of
/// processors, which three ranks share.
constexpr double soon = 20;

TEST(ProgramsOnRanks, DigestsAreThoseOfOneProcess) {
  for (const std::string line :
       {"--mask causal --tokens 333 --rows 33 --heads 4 --kv-heads 2 --oracle-heads 3 --layers 2 --json",
        "--mask sinks --window 30 --sinks 3 --tokens 400 --rows 65 --logit-scale 300 --scalar double --json",
        "--mask causal --tokens 333 --rows 64 --heads 4 --kv-heads 2 --layers 2 --engine kernel --json",
        "--mask window --window 40 --tokens 300 --rows 32 --engine kernel --scalar double --json",
        "--mask full --tokens 100 --keys 170 --rows 30 --engine kernel --json"}) {
    const ProgramRun alone = run_line("twoheads_simulate", line);
    ASSERT_EQ(alone.exit_code, 0) << alone.err;
    for (const int ranks : {2, 3}) {
      const MpiRun run = run_on_ranks(ranks, "twoheads_simulate", words(line));
      ASSERT_EQ(run.exit_code, 0) << line << ": " << run.err;
      const nlohmann::json found = run.json();
      ASSERT_FALSE(found.is_discarded()) << run.out;
      EXPECT_EQ(found["digest"], alone.json()["digest"]) << line;
      for (const char* key : {"calls", "repeats", "jobs", "max_row_error"})
        EXPECT_EQ(found[key], alone.json()[key]) << key;
      EXPECT_EQ(found["ranks"], ranks);
      EXPECT_GT(found["bytes_moved"], 0);
    }
  }
}

TEST(ProgramsOnRanks, ATextIsScoredAsByOneProcess) {
  const auto shared = shared_data("stories260K");
  if (!shared) GTEST_SKIP() << "the shared data folder is absent: the trained model stories260K is not tested on ranks";
  const TempFolder folder;
  std::ofstream(folder / "ids.json") << "[1,403,407,261,378,31,285,68,276,33,319,51,426,337,31,285,68,276,35,426,337]";
  std::vector<std::string> line{"--model",     (*shared / "stories260K.bin").string(),
                                "--score-ids", (folder / "ids.json").string(),
                                "--rows",      "9",
                                "--tokenizer", (*shared / "tok512.bin").string(),
                                "--json"};
  for (const std::string engine : {"oracle", "kernel"}) {
    std::vector<std::string> arguments = line;
    arguments.insert(arguments.end(), {"--engine", engine});
    const ProgramRun alone = run_program("twoheads_lm", arguments);
    const MpiRun run = run_on_ranks(3, "twoheads_lm", arguments);
    ASSERT_EQ(run.exit_code, 0) << run.err;
    for (const char* key : {"digest", "calls", "nll", "max_logit_error"})
      EXPECT_EQ(run.json()[key], alone.json()[key]) << engine << " " << key;
  }
}

TEST(ProgramsOnRanks, WhatNoRankCanReadIsSaidOnce) {
  const MpiRun run = run_on_ranks(3, "twoheads_lm", words("--model nowhere.bin --score-ids nowhere.json"));
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_EQ(count(run.err, "twoheads_lm: "), 1) << run.err;
}

TEST(ProgramsOnRanks, TheExampleHasTheBitsOfOneRank) {
  const MpiRun run = run_on_ranks(3, "05_on_ranks", {});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(run.out, "ranks:                 3\nthe bits of one rank:  yes\n");
}

TEST(ProgramsOnRanks, MoreRanksThanTokensIsARunLikeOthers) {
  const std::string line = "--mask causal --tokens 3 --rows 4 --engine kernel --json";
  const ProgramRun alone = run_line("twoheads_simulate", line);
  const MpiRun run = run_on_ranks(7, "twoheads_simulate", words(line));
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(run.json()["digest"], alone.json()["digest"]);
}

TEST(ProgramsOnRanks, BadArgumentsAreSaidOnceAndEndAllRanks) {
  const MpiRun run = run_on_ranks(3, "twoheads_simulate", words("--mask causal --tokens 100 --rows 0 --engine kernel"));
  EXPECT_EQ(run.exit_code, 2);
  EXPECT_EQ(count(run.err, "--rows"), 1) << run.err;
  EXPECT_EQ(run.out, "");
}

TEST(ProgramsOnRanks, AnExceptionOfOneRankIsSoonEveryRanks) {
  // The last one in the second layer.
  for (const int piece : {0, 40, 215}) {
    const MpiRun run = fault(3, "throw", 1, piece);
    EXPECT_NE(run.exit_code, 0);
    EXPECT_LT(run.processor_seconds, soon);
    EXPECT_EQ(count(run.err, "OracleErrorE: rank 1: the oracle has burnt out"), 3) << run.err;
  }
}

TEST(ProgramsOnRanks, AnExceptionThatIsNoneOfOursReachesAllToo) {
  const MpiRun run = fault(2, "throw_int", 0, 3);
  EXPECT_NE(run.exit_code, 0);
  EXPECT_EQ(count(run.err, "rank 0: an exception that is no std::exception"), 2) << run.err;
}

TEST(ProgramsOnRanks, ARankThatExitsOrIsKilledEndsAll) {
  for (const std::string kind : {"exit_0", "exit_3", "kill", "segv"}) {
    const MpiRun run = fault(3, kind, 1, 7);
    EXPECT_NE(run.exit_code, 0) << kind;
    EXPECT_LT(run.processor_seconds, soon) << kind;
    EXPECT_EQ(count(run.err, "is done"), 0) << run.err;
    EXPECT_FALSE(run.err.empty()) << kind;
  }
}

TEST(ProgramsOnRanks, RanksThatRunDifferentThingsRefuseEachOther) {
  const MpiRun scalars = fault(3, "scalar", 2, 0);
  EXPECT_NE(scalars.exit_code, 0);
  EXPECT_EQ(count(scalars.err, "SpecErrorE: ranks run different things"), 3) << scalars.err;
  EXPECT_TRUE(contains(scalars.err, "32-bit rows")) << scalars.err;
  EXPECT_TRUE(contains(scalars.err, "64-bit rows")) << scalars.err;
  const MpiRun models = fault(3, "model", 1, 0);
  EXPECT_EQ(count(models.err, "SpecErrorE: ranks run different things"), 3) << models.err;
}

TEST(ProgramsOnRanks, WithoutMpiInitThereIsAClearError) {
  const MpiRun run = fault(2, "no_init", 0, 0);
  EXPECT_NE(run.exit_code, 0);
  EXPECT_EQ(count(run.err, "MPI is not running: expected MPI_Init"), 2) << run.err;
  const ProgramRun alone = run_program(TWOHEADS_MPI_FAULT_PROGRAM, {"no_init", "0", "0"});
  EXPECT_EQ(alone.exit_code, 1);
}

}  // namespace
