// The programs' contract: flags, JSON keys, exit codes. Outside scripts rely on it.

#include <gtest/gtest.h>

#include <cstdlib>
#include <set>

#include "support/json_keys.hpp"
#include "support/program.hpp"
#include "support/sanitized.hpp"

namespace {

std::string text(long number) { return std::to_string(number); }

TEST(PlanProgram, PrintsOneJsonObjectWithTheKeysOfTheContract) {
  const ProgramRun run =
      run_line("twoheads_plan", "--mask causal --tokens 1000 --rows 129 --heads 4 --layers 2 --check --json");
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const nlohmann::json json = run.json();
  ASSERT_TRUE(json.is_object()) << run.out;
  EXPECT_EQ(keys_of(json), (std::set<std::string>{"calls", "rounds", "jobs", "tiles", "rows_used", "exact", "theorem",
                                                  "paper_calls", "cover"}));
  EXPECT_EQ(json["tiles"], 64);
  EXPECT_EQ(json["jobs"], 512);
  EXPECT_EQ(json["calls"], 512);
  EXPECT_EQ(json["rounds"], 2);
  EXPECT_EQ(json["exact"], true);
  EXPECT_EQ(json["cover"], "exact");
  EXPECT_EQ(json["paper_calls"], 1024);
  EXPECT_GT(json["rows_used"].get<double>(), 0.9);
  EXPECT_LE(json["rows_used"].get<double>(), 1.0);
}

TEST(PlanProgram, ChoosesAndSaysWhy) {
  const ProgramRun run =
      run_line("twoheads_plan",
               "--mask window --window 10 --tokens 1000 --row-counts 32,64 --heads 2 --oracle-heads 2 --choose "
               "--call-cost 100 --row-cost 1 --precision half --check --json");
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const nlohmann::json json = run.json();
  for (const char* key : {"rows", "block", "anchor", "packing", "oracle", "price", "expected_error", "wasted_rows",
                          "bytes_in", "bytes_out", "reason"})
    EXPECT_TRUE(json.contains(key)) << key;
  EXPECT_EQ(json["cover"], "exact");
  EXPECT_EQ(json["rows"], 64);
  EXPECT_EQ(json["anchor"], "gibbs");
  EXPECT_EQ(json["oracle"], "causal");
  EXPECT_NEAR(json["expected_error"].get<double>(), 2e-3, 1e-4);
  // Without --json the same in words; --oracle and --anchor are taken as they are.
  const ProgramRun words = run_line("twoheads_plan",
                                    "--mask causal --tokens 100 --rows 33 --fixed-rows --choose "
                                    "--oracle plain --anchor mean-key");
  ASSERT_EQ(words.exit_code, 0) << words.err;
  EXPECT_NE(words.out.find("a plain oracle"), std::string::npos) << words.out;
  EXPECT_NE(words.out.find("anchor mean-key"), std::string::npos) << words.out;
  EXPECT_NE(words.out.find("calls of 33 rows"), std::string::npos) << words.out;
}

TEST(PlanProgram, CoversEveryMaskExactlyForEveryLengthAndRowCount) {
  int runs = 0;
  const std::vector<const char*> masks{"--mask full",
                                       "--mask full --oracle causal",
                                       "--mask causal",
                                       "--mask causal --oracle plain",
                                       "--mask window --window 16",
                                       "--mask window --window 100 --oracle plain",
                                       "--mask sinks --window 16 --sinks 4",
                                       "--mask sinks --window 5",
                                       "--mask sinks --window 63 --sinks 70 --oracle plain",
                                       "--mask band --left 7 --right 3",
                                       "--mask band --left 20 --oracle plain",
                                       "--mask band --right 80"};
  for (const char* mask : masks) {
    for (const long tokens : {1, 2, 63, 64, 65, 300, 1000}) {
      for (const long rows : {2, 3, 17, 64, 65, 129}) {
        if (sanitized && tokens > 65) continue;
        const std::string line =
            std::string(mask) + " --tokens " + text(tokens) + " --rows " + text(rows) + " --check --json";
        const ProgramRun run = run_line("twoheads_plan", line);
        ASSERT_EQ(run.exit_code, 0) << line << "\n" << run.err;
        EXPECT_EQ(run.json().value("cover", ""), "exact") << line;
        ++runs;
      }
    }
  }
  EXPECT_EQ(runs, 12 * (sanitized ? 5 : 7) * 6);
}

TEST(PlanProgram, CoversDocumentsExactlyWholeOrCausalInside) {
  for (const char* flags : {"", " --causal-documents"})
    for (const char* oracle : {"plain", "causal"})
      for (const char* rows : {"2", "17", "65"}) {
        const std::string line =
            std::string("--mask documents --lengths 1,40,3,16,17,200,1,22 --tokens 300 --oracle ") + oracle +
            " --rows " + rows + flags + " --check --json";
        const ProgramRun run = run_line("twoheads_plan", line);
        ASSERT_EQ(run.exit_code, 0) << line << "\n" << run.err;
        EXPECT_EQ(run.json().value("cover", ""), "exact") << line;
      }
}

TEST(PlanProgram, AWindowsCallsAreThoseOfItsSegmentsAndItsJobsShareSlots) {
  // 16 keys a window on 65 rows: 4 segments a slot, a slot of lower and one of upper triangles for 64 queries.
  const ProgramRun run = run_line("twoheads_plan", "--mask window --window 16 --tokens 656 --rows 65 --json");
  ASSERT_EQ(run.exit_code, 0) << run.err;
  // The first 16 queries are one triangle; 640 more are 10 blocks of 2 slots and 8 tiles.
  EXPECT_EQ(run.json()["calls"], 21);
  EXPECT_EQ(run.json()["tiles"], 81);
  EXPECT_EQ(run.json()["jobs"], 81);
}

TEST(PlanProgram, PlansASampleBesideAnExactNearField) {
  const auto planned = [](const std::string& line) {
    const ProgramRun run = run_line("twoheads_plan", line + " --check --json");
    EXPECT_EQ(run.exit_code, 0) << line << "\n" << run.err;
    return run.json();
  };
  const nlohmann::json full = planned("--mask full --tokens 4096 --rows 256 --samples 4 --seed 3");
  EXPECT_EQ(full["calls"], 4 * 17);
  EXPECT_EQ(full["exact"], false);
  EXPECT_EQ(full["theorem"], "Theorem 4.1");
  EXPECT_EQ(full["cover"].get<std::string>().substr(0, 9), "a sample:");
  const nlohmann::json all = planned("--mask full --tokens 4096 --rows 256 --samples 17");
  EXPECT_EQ(all["exact"], true);
  EXPECT_EQ(all["cover"], "exact");
  // 17 diagonal blocks, 16 beside them, and two draws of each of the blocks from the third on but one.
  const nlohmann::json causal = planned("--mask causal --tokens 4096 --rows 256 --samples 2 --near 200");
  EXPECT_EQ(causal["calls"], 17 + 2 * 16 + 2 * (1 + 2 * 14));
  EXPECT_EQ(causal["cover"].get<std::string>().substr(0, 9), "a sample:");
  EXPECT_EQ(planned("--mask causal --tokens 400 --rows 33 --samples 2 --near 20 --sinks 4 --oracle plain")["exact"],
            false);
}

TEST(PlanProgram, DrawsTheGridWithoutJson) {
  const ProgramRun run = run_line("twoheads_plan", "--mask causal --tokens 300 --rows 65");
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_NE(run.out.find("\\ . . . ."), std::string::npos) << run.out;
  EXPECT_NE(run.out.find("X X X X \\"), std::string::npos) << run.out;
  EXPECT_NE(run.out.find("calls      25"), std::string::npos) << run.out;
  EXPECT_EQ(run.err, "");
}

TEST(PlanProgram, HelpEndsWithZero) {
  for (const char* program : {"twoheads_plan", "twoheads_simulate", "twoheads_lm"}) {
    const ProgramRun run = run_line(program, "--help");
    EXPECT_EQ(run.exit_code, 0) << program;
    EXPECT_NE(run.out.find("--rows"), std::string::npos) << program;
  }
}

struct BadLine {
  const char* program;
  const char* line;
  std::vector<std::string> says;
};

TEST(BadArguments, EndWithTwoAndNameTheFlagWhatItGotAndWhatItTakes) {
  const std::vector<BadLine> cases{
      {"twoheads_plan", "--mask causal --rows 64", {"--tokens"}},
      {"twoheads_plan", "--mask causal --tokens 100", {"--rows"}},
      {"twoheads_plan", "--tokens 100 --rows 64", {"--mask"}},
      {"twoheads_plan", "--mask causal --tokens 100 --row-counts 64,32", {"--row-counts", "64,32", "increasing"}},
      {"twoheads_plan", "--mask causal --tokens 100 --rows 9 --row-counts 4,8", {"--rows", "'9'", "8"}},
      {"twoheads_plan", "--mask causal --tokens 100 --row-counts 4,8 --fixed-rows", {"--fixed-rows", "--row-counts"}},
      {"twoheads_plan", "--mask causal --tokens 100 --rows auto --fixed-rows", {"--rows auto", "--fixed-rows"}},
      {"twoheads_plan", "--mask causal --tokens 100 --rows 9 --fixed-rows --method paper", {"--method stable"}},
      {"twoheads_plan", "--mask causal --tokens 100 --rows 9 --precision half", {"--precision", "--choose"}},
      {"twoheads_plan", "--mask causal --tokens 100 --rows 9 --row-cost 1", {"--row-cost", "--choose"}},
      {"twoheads_plan", "--mask causal --tokens 100 --rows 9 --choose --call-cost 0", {"--call-cost", "above 0"}},
      {"twoheads_plan", "--mask causal --tokens 100 --rows 9 --choose --precision int4", {"--precision", "half"}},
      {"twoheads_plan", "--mask causal --tokens 100 --rows 9 --choose --precision int8", {"--precision", "int8"}},
      {"twoheads_plan",
       "--mask causal --tokens 100 --rows 9 --choose --precision half --scores-precision half",
       {"--scores-precision", "float32 scores"}},
      {"twoheads_plan", "--mask causal --tokens 100 --rows 9 --choose --method paper", {"--choose", "--method stable"}},
      {"twoheads_plan", "--mask causal --tokens 0 --rows 64", {"--tokens", "'0'", "1 or more"}},
      {"twoheads_plan", "--mask causal --tokens 12x --rows 64", {"--tokens", "'12x'", "1 or more"}},
      {"twoheads_plan", "--mask causal --tokens 99999999999999999999 --rows 64", {"--tokens", "1 or more"}},
      {"twoheads_plan", "--mask causal --tokens 100 --rows 1", {"--rows", "'1'", "2 or more"}},
      {"twoheads_plan", "--mask causal --tokens 100 --rows -5", {"--rows", "-5"}},
      {"twoheads_plan", "--mask diagonal --tokens 100 --rows 64", {"--mask", "diagonal", "full|causal"}},
      {"twoheads_plan", "--mask causal --tokens 100 --rows 64 --keys 50", {"--keys", "50", "number of tokens"}},
      {"twoheads_plan", "--mask full --tokens 100 --rows 64 --heads 0", {"--heads", "'0'"}},
      {"twoheads_plan", "--mask full --tokens 100 --rows 64 --heads 4 --kv-heads 3", {"--kv-heads", "3", "4"}},
      {"twoheads_plan", "--mask full --tokens 9000000000000000000 --rows 2", {"64 bits"}},
      {"twoheads_plan", "--mask full --tokens 100 --rows 64 --anchor median", {"--anchor", "median", "gibbs"}},
      {"twoheads_plan", "--mask full --tokens 100 --rows 64 --nonsense", {"--nonsense"}},
      {"twoheads_plan", "--mask full --tokens 10 --rows 4 --layers 9223372036854775807", {"64 bits"}},
      {"twoheads_plan", "--mask full --tokens 10 --rows 4 --layers 4611686018427387904", {"64 bits"}},
      {"twoheads_plan", "--mask window --tokens 100 --rows 64", {"--mask window", "needs --window"}},
      {"twoheads_plan", "--mask window --window 0 --tokens 100 --rows 64", {"--window", "'0'", "1 or more"}},
      {"twoheads_plan", "--mask window --window 5 --sinks 2 --tokens 100 --rows 64", {"--mask window", "no --sinks"}},
      {"twoheads_plan", "--mask sinks --tokens 100 --rows 64", {"--mask sinks", "needs --window"}},
      {"twoheads_plan", "--mask sinks --sinks 4 --tokens 100 --rows 64", {"--mask sinks", "needs --window"}},
      {"twoheads_plan", "--mask sinks --window 5 --sinks -1 --tokens 100 --rows 64", {"--sinks", "-1"}},
      {"twoheads_plan", "--mask band --tokens 100 --rows 64", {"--mask band", "--left", "--right"}},
      {"twoheads_plan", "--mask band --left -1 --tokens 100 --rows 64", {"--left", "-1"}},
      {"twoheads_plan", "--mask documents --tokens 100 --rows 64", {"--mask documents", "needs --lengths"}},
      {"twoheads_plan", "--mask documents --lengths 50,49 --tokens 100 --rows 64", {"--lengths", "99", "100"}},
      {"twoheads_plan", "--mask documents --lengths 50,51 --tokens 100 --rows 64", {"--lengths", "101", "100"}},
      {"twoheads_plan", "--mask documents --lengths 100,0 --tokens 100 --rows 64", {"--lengths", "'0'", "1 or more"}},
      {"twoheads_plan", "--mask documents --lengths 50,,50 --tokens 100 --rows 64", {"--lengths", "1 or more"}},
      {"twoheads_plan", "--mask causal --window 5 --tokens 100 --rows 64", {"--mask causal", "no --window"}},
      {"twoheads_plan", "--mask causal --sinks 5 --tokens 100 --rows 64", {"--mask causal", "no --sinks"}},
      {"twoheads_plan", "--mask full --left 5 --tokens 100 --rows 64", {"--mask full", "no --left"}},
      {"twoheads_plan", "--mask window --window 5 --right 5 --tokens 100 --rows 64", {"no --right"}},
      {"twoheads_plan", "--mask full --lengths 100 --tokens 100 --rows 64", {"--mask full", "no --lengths"}},
      {"twoheads_plan", "--mask causal --causal-documents --tokens 100 --rows 64", {"no --causal-documents"}},
      {"twoheads_plan", "--mask window --window 5 --tokens 100 --rows 64 --keys 50", {"--keys", "50"}},
      {"twoheads_simulate", "--mask window --tokens 100 --rows 64", {"--mask window", "needs --window"}},
      {"twoheads_simulate", "--mask causal --window 5 --tokens 100 --rows 64", {"--mask causal", "no --window"}},
      {"twoheads_simulate", "--mask documents --lengths 3,4 --tokens 8 --rows 64", {"--lengths", "7", "8"}},
      {"twoheads_lm", "--model m --tokenizer t --generate 3 --sinks 4", {"--sinks", "--window"}},
      {"twoheads_lm", "--model m --tokenizer t --generate 3 --window 0", {"--window", "'0'", "1 or more"}},
      {"twoheads_plan", "--mask full --tokens 20 --rows 5 --method paper --samples 2", {"--samples 1"}},
      {"twoheads_plan", "--mask full --tokens 20 --rows 5 --method paper --check", {"--check", "--method stable"}},
      {"twoheads_plan", "--mask band --left 2 --tokens 20 --rows 5 --method paper", {"band"}},
      {"twoheads_plan", "--mask full --tokens 20 --rows 5 --method paper --oracle-layers 2", {"--oracle-layers"}},
      {"twoheads_simulate", "--mask full --tokens 8 --rows 8 --method strict", {"--layer paper"}},
      {"twoheads_simulate", "--mask full --tokens 8 --keys 20 --rows 8 --method strict --layer paper", {"keys", "20"}},
      {"twoheads_plan", "--mask full --tokens 100 --rows 26 --samples 0", {"--samples", "'0'", "1 or more"}},
      {"twoheads_plan", "--mask full --tokens 100 --rows 26 --samples 5", {"--samples", "'5'", "1 to 4"}},
      {"twoheads_simulate", "--mask causal --tokens 100 --rows 26 --samples 5", {"--samples", "'5'", "1 to 4"}},
      {"twoheads_plan", "--mask full --tokens 100 --rows 26 --near 5", {"--near", "--samples"}},
      {"twoheads_plan", "--mask causal --tokens 100 --rows 26 --samples 2 --near -1", {"--near", "0 or more"}},
      {"twoheads_plan", "--mask window --window 30 --tokens 100 --rows 26 --samples 2", {"window", "full or causal"}},
      {"twoheads_simulate", "--mask full --tokens 100 --rows 64 --width 10 --heads 3", {"--width", "10", "3"}},
      {"twoheads_simulate", "--mask full --tokens 10 --rows 4 --width 9223372036854775807", {"--width", "1048576"}},
      {"twoheads_lm", "--model m --tokenizer t --generate 3 --logits l", {"--logits", "--generate"}},
      {"twoheads_simulate",
       "--mask full --tokens 100 --rows 64 --logit-scale nan",
       {"--logit-scale", "nan", "above 0"}},
      {"twoheads_simulate", "--mask full --tokens 100 --rows 64 --logit-scale 0", {"--logit-scale", "'0'", "above 0"}},
      {"twoheads_simulate", "--mask full --tokens 100 --rows 64 --scalar half", {"--scalar", "half", "float|double"}},
      {"twoheads_simulate", "--mask full --tokens 100 --rows 64 --heads 4 --kv-heads 2 --layer paper", {"--kv-heads"}},
      {"twoheads_simulate", "--mask full --tokens 100 --rows 64 --threads 0", {"--threads", "'0'", "1 or more"}},
      {"twoheads_simulate", "--mask full --tokens 100 --rows 64 --threads 4097", {"--threads", "'4097'"}},
      {"twoheads_lm", "--tokenizer t --generate 3", {"--model"}},
      {"twoheads_lm", "--model m --tokenizer t", {"--generate", "--score"}},
      {"twoheads_lm", "--model m --tokenizer t --generate 0", {"--generate", "'0'", "1 or more"}},
  };
  for (const BadLine& bad : cases) {
    const ProgramRun run = run_line(bad.program, bad.line);
    EXPECT_EQ(run.exit_code, 2) << bad.program << " " << bad.line << "\n" << run.err;
    EXPECT_EQ(run.out, "") << bad.line;
    for (const std::string& word : bad.says)
      EXPECT_NE(run.err.find(word), std::string::npos) << bad.line << "\nsays: " << run.err << "lacks: " << word;
  }
}

TEST(RowsAuto, SaysHowManyAndWhy) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {"twoheads_plan", "--mask window --window 20 --tokens 5000 --rows auto"},
      {"twoheads_plan", "--mask causal --tokens 1 --rows auto --head-dim 3"},
      {"twoheads_simulate", "--mask causal --tokens 100 --heads 4 --width 32 --rows auto --scalar double"},
      {"twoheads_simulate", "--mask window --window 30 --tokens 300 --rows auto --engine kernel"},
  };
  for (const auto& [program, line] : cases) {
    const ProgramRun words = run_line(program, line);
    EXPECT_EQ(words.exit_code, 0) << line << "\nsays: " << words.err;
    EXPECT_NE(words.out.find("rows are predicted to take"), std::string::npos) << words.out;
    const ProgramRun run = run_line(program, line + " --json");
    EXPECT_EQ(run.exit_code, 0) << line << "\nsays: " << run.err;
    const nlohmann::json result = nlohmann::json::parse(run.out);
    EXPECT_GE(result.at("rows").get<int>(), 2) << line;
    EXPECT_LE(result.at("rows").get<int>(), 5001) << line;
    EXPECT_NE(result.at("rows_reason").get<std::string>().find(std::to_string(result.at("rows").get<int>()) + " rows"),
              std::string::npos);
  }
  for (const std::string more : {"--samples 2", "--method paper"}) {
    const ProgramRun run = run_line("twoheads_plan", "--mask full --tokens 100 --rows auto " + more);
    EXPECT_EQ(run.exit_code, 2) << more;
    EXPECT_NE(run.err.find("--rows auto"), std::string::npos) << run.err;
  }
}

TEST(PlanProgram, PredictsWhatRanksTakeAndMove) {
  const std::set<std::string> own{"calls", "rounds", "jobs", "tiles", "rows_used", "exact", "theorem", "paper_calls"};
  std::set<std::string> all = own;
  for (const char* key :
       {"ranks", "predicted_seconds", "compute_seconds", "communication_seconds", "exposed_seconds",
        "contended_seconds", "bytes_moved", "most_received", "messages", "rank_bytes", "excess_work", "exact_bytes",
        "bytes_moved_ring", "rank_bytes_ring", "bytes_moved_ulysses", "rank_bytes_ulysses"})
    all.insert(key);
  const std::string line = "--mask causal --tokens 16384 --rows 2048 --heads 8 --layers 2 --engine kernel --ranks 4";
  const ProgramRun run =
      run_line("twoheads_plan", line + " --bandwidth 1e9 --latency 1e-6 --flops 1e10 --head-dim 32 --json");
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const nlohmann::json json = run.json();
  ASSERT_TRUE(json.is_object()) << run.out;
  EXPECT_EQ(keys_of(json), all);
  EXPECT_EQ(json["ranks"], 4);
  EXPECT_EQ(json["exact_bytes"], true);
  // Two passes over 64 columns for each of 2 layers, 8 heads and pairs, a quarter a rank.
  const double pairs = 16384.0 * 16385 / 2;
  EXPECT_NEAR(json["compute_seconds"].get<double>(), 2 * 8 * pairs * 2 * 64 / 4 / 1e10, 0.05);
  EXPECT_EQ(json["bytes_moved_ring"], 2L * 3 * 16384 * 8 * 64 * 4);
  EXPECT_EQ(json["bytes_moved_ulysses"], 2L * 3 * 16384 / 4 * 8 * 128 * 4);
  // The machine changes the time, not what is moved; without --json the same in words.
  const nlohmann::json fast = run_line("twoheads_plan", line + " --flops 1e12 --head-dim 32 --json").json();
  EXPECT_LT(fast["predicted_seconds"].get<double>(), json["predicted_seconds"].get<double>());
  EXPECT_EQ(fast["bytes_moved"], json["bytes_moved"]);
  const ProgramRun words = run_line("twoheads_plan", line);
  ASSERT_EQ(words.exit_code, 0) << words.err;
  for (const char* word : {"on 4 ranks", "of communication", "Ring", "Ulysses"})
    EXPECT_NE(words.out.find(word), std::string::npos) << words.out;
  // More ranks than heads and than tokens.
  const ProgramRun many = run_line("twoheads_plan", "--mask full --tokens 100 --rows 64 --ranks 200 --json");
  ASSERT_EQ(many.exit_code, 0) << many.err;
  EXPECT_TRUE(many.json()["bytes_moved_ring"].is_null());
  EXPECT_TRUE(many.json()["bytes_moved_ulysses"].is_null());

  const std::vector<std::pair<std::string, std::string>> refused{{"--bandwidth 1e9", "needs --ranks"},
                                                                 {"--ranks 0", "'0'"},
                                                                 {"--ranks 2 --past 5", "--past"},
                                                                 {"--ranks 2 --samples 1", "--samples"},
                                                                 {"--ranks 2 --flops 0", "above 0"},
                                                                 {"--ranks 2000000", "1 to"},
                                                                 {"--ranks 2 --method paper", "--method stable"},
                                                                 {"--engine kernel --method paper", "--engine kernel"}};
  for (const auto& [flags, says] : refused) {
    const ProgramRun bad = run_line("twoheads_plan", "--mask full --tokens 100 --rows 64 " + flags);
    EXPECT_EQ(bad.exit_code, 2) << flags;
    EXPECT_NE(bad.err.find(says), std::string::npos) << flags << "\nsays: " << bad.err;
  }
}

TEST(Programs, AFileBeyondTheLimitOfFilesIsAFailureNotASignal) {
  const TempFolder folder;
  const std::string lines = "ulimit -f 1\n";
  const ProgramRun picture = run_shell(
      lines +
          "twoheads_plan --mask causal --tokens 4000 --rows 33 --json --svg grid.svg | cat >&2\nexit ${PIPESTATUS[0]}",
      folder / ".");
  EXPECT_EQ(picture.exit_code, 1) << picture.err;
  EXPECT_NE(picture.err.find("grid.svg"), std::string::npos) << picture.err;
  const ProgramRun kept = run_shell(lines +
                                        "twoheads_simulate --mask causal --tokens 400 --rows 33 --no-reference "
                                        "--checkpoint run.bin --json | cat >&2\n"
                                        "exit ${PIPESTATUS[0]}",
                                    folder / ".");
  EXPECT_EQ(kept.exit_code, 1) << kept.err;
  EXPECT_NE(kept.err.find("run.bin"), std::string::npos) << kept.err;
}

TEST(Programs, AFullDiskIsAFailureNotASilentLoss) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "this system has no /dev/full";
  for (const std::string command : {"twoheads_plan", "twoheads_simulate"}) {
    const std::string line = std::string("'") + TWOHEADS_PROGRAM_DIR + "/" + command +
                             "' --mask full --tokens 10 --rows 4 --json >/dev/full 2>/dev/null";
    const int status = std::system(line.c_str());
    EXPECT_EQ(WEXITSTATUS(status), 1) << command;
    const std::string help =
        std::string("'") + TWOHEADS_PROGRAM_DIR + "/" + command + "' --help >/dev/full 2>/dev/null";
    EXPECT_EQ(WEXITSTATUS(std::system(help.c_str())), 1) << command;
  }
}

TEST(HelloProgram, PrintsCallsAndASmallDifference) {
  const ProgramRun run = run_line("01_hello", "");
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_NE(run.out.find("512"), std::string::npos) << run.out;
}

}  // namespace
