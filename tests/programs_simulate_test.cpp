// The contract of twoheads_simulate: counts, errors, bits and the keys of its JSON. Outside scripts rely on it.

#include <gtest/gtest.h>

#include <limits>
#include <set>
#include <string>
#include <vector>

#include "support/json_keys.hpp"
#include "support/program.hpp"
#include "support/sanitized.hpp"

namespace {

/// The error bound of the contract.
double bound(const nlohmann::json& json, bool single) {
  return 4 * json["direct_row_error"].get<double>() + (single ? 6e-8 : 1.2e-16) * json["max_logit"].get<double>() +
         (single ? 1e-6 : 1e-12);
}

TEST(SimulateProgram, MakesTheCallsOfThePrintedConstructions) {
  for (const char* line : {"--mask full --tokens 60 --rows 16 --heads 2", "--mask causal --tokens 60 --rows 16",
                           "--mask window --window 5 --tokens 60 --rows 16",
                           "--mask sinks --window 5 --sinks 2 --tokens 60 --rows 16 --heads 2 --oracle-heads 3",
                           "--mask full --tokens 60 --rows 16 --samples 1"}) {
    const std::string flags = std::string(line) + " --layers 2 --json --method paper";
    const ProgramRun plan = run_line("twoheads_plan", flags);
    ASSERT_EQ(plan.exit_code, 0) << flags << "\n" << plan.err;
    const ProgramRun run = run_line("twoheads_simulate", flags + " --width 8 --scalar double");
    ASSERT_EQ(run.exit_code, 0) << flags << "\n" << run.err;
    EXPECT_EQ(run.json()["calls"], plan.json()["calls"]) << flags;
    if (plan.json()["exact"] == true) {
      EXPECT_LE(run.json()["max_row_error"].get<double>(), 1e-10) << flags;
    }
  }
  const ProgramRun strict = run_line(
      "twoheads_simulate",
      "--mask full --tokens 60 --rows 16 --heads 2 --layers 2 --layer paper --method strict --scalar double --json");
  ASSERT_EQ(strict.exit_code, 0) << strict.err;
  EXPECT_EQ(strict.json()["calls"], 256);
  EXPECT_LE(strict.json()["max_row_error"].get<double>(), 1e-10);
}

TEST(SimulateProgram, MakesThePlannedCallsOfOneQueryAndNoneByTheKernel) {
  for (const char* line :
       {"--mask full --tokens 1 --rows 17 --keys 5 --heads 2 --kv-heads 1",
        "--mask full --tokens 1 --rows 9 --keys 33 --heads 4 --kv-heads 2",
        "--mask full --tokens 1 --rows 9 --keys 33 --heads 4 --kv-heads 2 --layers 3 --oracle-heads 5",
        "--mask full --tokens 1 --rows 9 --keys 33 --heads 4 --kv-heads 2 --oracle causal --anchor gibbs",
        "--mask full --tokens 1 --rows 9 --keys 1 --heads 4 --kv-heads 2",
        "--mask full --tokens 1 --rows 9 --keys 40 --samples 2 --heads 4 --kv-heads 2",
        "--mask full --tokens 7 --rows 9 --keys 33 --heads 4 --kv-heads 2 --engine kernel",
        "--mask causal --tokens 40 --rows 9 --heads 2 --engine kernel",
        "--mask causal --tokens 40 --rows 9 --heads 2 --engine kernel --oracle plain",
        "--mask causal --tokens 40 --rows 9 --heads 2 --engine kernel --oracle causal"}) {
    const std::string flags = std::string(line) + " --json";
    const ProgramRun plan = run_line("twoheads_plan", flags);
    ASSERT_EQ(plan.exit_code, 0) << flags << "\n" << plan.err;
    const ProgramRun run = run_line("twoheads_simulate", flags + " --width 16");
    ASSERT_EQ(run.exit_code, 0) << flags << "\n" << run.err;
    for (const char* key : {"calls", "rounds", "jobs"}) EXPECT_EQ(run.json()[key], plan.json()[key]) << flags << key;
  }
}

TEST(SimulateProgram, SaysWhatBadRowsComeFrom) {
  const std::string line = "--mask full --tokens 40 --rows 9 --width 8 ";
  const ProgramRun printed = run_line("twoheads_simulate", line + "--method paper --logit-scale 10000");
  EXPECT_EQ(printed.exit_code, 0) << printed.err;
  EXPECT_NE(printed.err.find("hold NaN or infinity: the printed sums"), std::string::npos) << printed.err;
  const ProgramRun kernel = run_line("twoheads_simulate", line + "--engine kernel --logit-scale 1e37");
  EXPECT_EQ(kernel.exit_code, 0) << kernel.err;
  EXPECT_NE(kernel.out.find("(kept)"), std::string::npos) << kernel.out;
  EXPECT_EQ(kernel.err, "") << "scores of 3e37 are in range";
}

TEST(Threads, LeaveDigestAndCountsAsTheyAre) {
  const std::string line = "--mask causal --tokens 300 --rows 33 --heads 2 --logit-scale 20 --json --threads ";
  const nlohmann::json one = run_line("twoheads_simulate", line + "1").json();
  ASSERT_FALSE(one.is_discarded());
#ifdef TWOHEADS_WITH_THREADS
  const nlohmann::json three = run_line("twoheads_simulate", line + "3").json();
  ASSERT_FALSE(three.is_discarded());
  for (const char* key : {"digest", "calls", "repeats", "rounds"}) EXPECT_EQ(three[key], one[key]) << key;
  const ProgramRun paper =
      run_line("twoheads_simulate", "--mask causal --tokens 100 --rows 33 --method paper --threads 2");
  EXPECT_EQ(paper.exit_code, 2);
  EXPECT_NE(paper.err.find("one thread"), std::string::npos) << paper.err;
  const ProgramRun direct = run_line("twoheads_lm", "--model m --tokenizer t --generate 3 --engine direct --threads 2");
  EXPECT_EQ(direct.exit_code, 2);
  EXPECT_NE(direct.err.find("one thread"), std::string::npos) << direct.err;
#else
  const ProgramRun refused = run_line("twoheads_simulate", line + "2");
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_NE(refused.err.find("libtbb-dev"), std::string::npos) << refused.err;
#endif
}

TEST(SimulateProgram, KeepsTheErrorBoundAndPrintsTheKeysOfTheContract) {
  const std::vector<std::string> lines{
      "--mask causal --tokens 300 --rows 65 --heads 4",
      "--mask causal --tokens 300 --rows 65 --heads 4 --scalar double",
      "--mask full --tokens 300 --rows 65 --heads 4 --kv-heads 2 --layers 2 --oracle-heads 3",
      "--mask full --tokens 300 --keys 77 --rows 33 --heads 2 --oracle causal",
      "--mask full --tokens 200 --rows 33 --heads 2 --layer paper --encoding raw",
      "--mask causal --tokens 200 --rows 33 --logit-scale 1000",
      "--mask causal --tokens 200 --rows 33 --logit-scale 1000 --anchor gibbs --scalar double",
      "--mask full --tokens 40 --rows 64",
      "--mask causal --tokens 300 --rows 65 --heads 4 --engine kernel",
      "--mask full --tokens 300 --keys 77 --rows 33 --heads 2 --kv-heads 1 --engine kernel --scalar double",
      "--mask sinks --window 50 --sinks 3 --tokens 500 --rows 64 --engine kernel --logit-scale 1000",
      "--mask band --left 9 --right 30 --tokens 300 --rows 40 --engine kernel --oracle causal",
      "--mask causal --tokens 200 --rows 33 --heads 2 --oracle plain",
      "--mask window --window 16 --tokens 300 --rows 65 --heads 4 --kv-heads 2",
      "--mask window --window 50 --tokens 300 --rows 33 --scalar double --oracle plain",
      "--mask sinks --window 16 --sinks 4 --tokens 300 --rows 65 --oracle-heads 3 --heads 2 --logit-scale 1000",
      "--mask band --left 9 --right 4 --tokens 200 --rows 33",
      "--mask documents --lengths 50,3,100,7,40 --tokens 200 --rows 33 --causal-documents",
      "--mask documents --lengths 50,3,100,7,40 --tokens 200 --rows 33 --layer paper --encoding raw",
  };
  for (const std::string& line : lines) {
    const ProgramRun run = run_line("twoheads_simulate", line + " --json");
    ASSERT_EQ(run.exit_code, 0) << line << "\n" << run.err;
    const nlohmann::json json = run.json();
    ASSERT_TRUE(json.is_object()) << run.out;
    EXPECT_EQ(keys_of(json), (std::set<std::string>{"calls", "repeats", "rounds", "jobs", "max_row_error",
                                                    "mean_row_error", "direct_row_error", "bad_rows", "max_logit",
                                                    "digest", "seconds", "direct_seconds", "peak_bytes"}));
    EXPECT_LE(json["max_row_error"].get<double>(), bound(json, line.find("double") == std::string::npos)) << line;
    EXPECT_EQ(json["bad_rows"], 0) << line;
    EXPECT_EQ(json["digest"].get<std::string>().size(), 16U) << line;
  }
}

TEST(SimulateProgram, ASampleErrsLessTheLargerItIsAndRepeatsItsBits) {
  const std::string line = "--mask full --tokens 600 --rows 33 --heads 2 --logit-scale 0.3 --json --samples ";
  double before = std::numeric_limits<double>::infinity();
  for (const int samples : {1, 4, 16}) {
    const ProgramRun run = run_line("twoheads_simulate", line + std::to_string(samples));
    ASSERT_EQ(run.exit_code, 0) << run.err;
    const nlohmann::json json = run.json();
    ASSERT_TRUE(json.is_object()) << run.out;
    EXPECT_EQ(json["samples"], samples);
    EXPECT_EQ(json["calls"], samples * 19 * 2);
    EXPECT_LT(json["mean_row_error"].get<double>(), 0.8 * before);
    EXPECT_LE(json["mean_row_error"].get<double>(), json["max_row_error"].get<double>());
    before = json["mean_row_error"].get<double>();
    EXPECT_EQ(json["digest"], run_line("twoheads_simulate", line + std::to_string(samples)).json()["digest"]);
  }
  const nlohmann::json all = run_line("twoheads_simulate", line + "19").json();
  EXPECT_LE(all["max_row_error"].get<double>(), bound(all, true));
}

TEST(SimulateProgram, TakesThePlansCheck) {
  const ProgramRun run = run_line("twoheads_simulate", "--mask causal --tokens 100 --rows 17 --check --json");
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(run.json().value("cover", ""), "exact");
}

TEST(SimulateProgram, LogitsLieBetweenOneAndTenAtScaleOne) {
  for (const char* line : {"--tokens 1 --mask full", "--tokens 1 --mask causal --width 1", "--tokens 2 --mask causal",
                           "--tokens 1000 --mask full --width 1", "--tokens 1000 --mask full --heads 8 --layers 3",
                           "--tokens 500 --mask causal --width 16 --layer paper --layers 2"}) {
    for (int seed = 1; seed <= 5; ++seed) {
      const ProgramRun run =
          run_line("twoheads_simulate", std::string(line) + " --rows 129 --json --seed " + std::to_string(seed));
      ASSERT_EQ(run.exit_code, 0) << run.err;
      const double largest = run.json()["max_logit"].get<double>();
      EXPECT_GE(largest, 1.0) << line << " seed " << seed;
      EXPECT_LE(largest, 10.0) << line << " seed " << seed;
    }
  }
}

TEST(SimulateProgram, MadeCallsArePlannedCallsAndRepeatTheirBits) {
  for (const char* flags : {"--mask full --tokens 300 --rows 65 --heads 3 --oracle-heads 2",
                            "--mask causal --tokens 129 --rows 17 --heads 3 --oracle-heads 4 --layers 2",
                            "--mask causal --tokens 129 --rows 17 --oracle plain",
                            "--mask window --window 8 --tokens 129 --rows 17 --heads 3 --oracle-heads 2",
                            "--mask sinks --window 8 --sinks 3 --tokens 129 --rows 33",
                            "--mask band --left 3 --right 2 --tokens 129 --rows 17",
                            "--mask documents --lengths 29,60,40 --tokens 129 --rows 33"}) {
    for (const char* anchor : {"zero", "mean-key", "gibbs"}) {
      const std::string line = std::string(flags) + " --json --anchor " + anchor;
      const nlohmann::json plan = run_line("twoheads_plan", line).json();
      const nlohmann::json first = run_line("twoheads_simulate", line + " --width 24").json();
      const nlohmann::json again = run_line("twoheads_simulate", line + " --width 24").json();
      ASSERT_TRUE(plan.is_object() && first.is_object() && again.is_object()) << line;
      EXPECT_EQ(first["calls"], plan["calls"]) << line;
      EXPECT_EQ(first["rounds"], plan["rounds"]) << line;
      EXPECT_EQ(first["repeats"], 0) << line;
      EXPECT_EQ(first["digest"], again["digest"]) << line;
    }
  }
}

TEST(SimulateProgram, AnUnsafeAnchorEndsWithOneAndSuggestsAdaptive) {
  const ProgramRun run =
      run_line("twoheads_simulate", "--mask full --tokens 200 --rows 33 --logit-scale 1000 --anchor mean-key --json");
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_EQ(run.out, "");
  for (const char* word : {"layer 0", "head 0", "row ", "mean-key", "adaptive"})
    EXPECT_NE(run.err.find(word), std::string::npos) << run.err;
}

TEST(SimulateProgram, MemoryStaysSmallForLongInputs) {
  if (sanitized) GTEST_SKIP() << "a sanitizer's own memory is not ours to measure";
  const ProgramRun run = run_line("twoheads_simulate", "--mask full --tokens 8192 --width 16 --rows 257 --json");
  ASSERT_EQ(run.exit_code, 0) << run.err;
  // 8192 x 8192 scores would be 256 MiB.
  EXPECT_LE(run.json()["peak_bytes"].get<double>(), 16.0 * 1024 * 1024);
  EXPECT_GT(run.json()["peak_bytes"].get<double>(), 0.0);
}

TEST(Programs, AnOracleMayHaveMoreHeadsAndRowsThanThereIsWork) {
  const ProgramRun run = run_line("twoheads_simulate",
                                  "--mask full --tokens 10 --rows 9223372036854775807 --oracle-heads "
                                  "9223372036854775807 --json");
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(run.json()["calls"], 1);
}

}  // namespace
