// What programs say of command lines and files that they cannot take: what it is, what they got, what they expect.

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "support/contains.hpp"
#include "support/program.hpp"
#include "support/temp_folder.hpp"

namespace {

namespace fs = std::filesystem;

struct Wrong {
  const char* program;
  const char* line;
  int exit_code;
  const char* says;
};

TEST(WrongCommandLines, AreToldWithFlagValueAndWhatIsExpected) {
  const std::string model = shipped_model().string();
  const TempFolder folder;
  folder.write("empty", "");
  folder.write("broken", "hello");
  folder.write("text", "In the beginning was the word.\n");
  const std::vector<Wrong> cases{
      {"twoheads_plan", "", 2, "--mask is required, it takes full|causal|window|sinks|band|documents"},
      {"twoheads_plan", "--mask full --tokens 9 --rows", 2, "--rows has no value, it takes INT|auto"},
      {"twoheads_plan", "--mask full --tokns 9 --rows 4", 2, "--tokns is no flag of this program; --tokens is one"},
      {"twoheads_plan", "--mask full --tok 9 --rows 4", 2, "--tok is no flag of this program; --tokens is one"},
      {"twoheads_plan", "--mask full --tokens 9 --rows 4 --colour", 2, "--colour is no flag of this program\n"},
      {"twoheads_plan", "--mask full --tokens 9 --rows 4 more", 2, "'more' stands behind no flag that takes it"},
      {"twoheads_plan", "--mask full --tokens 9 --tokens 8 --rows 4", 2, "--tokens is given 2 times, expected once"},
      {"twoheads_plan", "--mask full --tokens 9", 2, "twoheads_plan: --rows or --row-counts is required"},
      {"twoheads_plan", "--mask full --tokens 99999999999999999999 --rows 4", 2,
       "--tokens is '99999999999999999999', it takes a whole number of 1 or more, up to 9223372036854775807"},
      {"twoheads_plan", "--mask documents --lengths 5,,5 --tokens 10 --rows 4", 2,
       "--lengths is '5,,5', it takes whole numbers of 1 or more with one comma between them"},
      {"twoheads_plan", "--mask documents --lengths 9223372036854775807,1 --tokens 10 --rows 4", 2, "--lengths: "},
      {"twoheads_simulate", "--mask full --tokens 9 --rows 4 --width 8 --logit-scale 1e300", 2,
       "--logit-scale is '1e+300', it takes one that leaves the weights of the queries finite in --scalar float"},
      {"twoheads_simulate", "--mask full --tokens 9 --rows 4 --width 8 --engine kernel --logit-scale 1e300", 2,
       "--logit-scale is '1e+300'"},
      {"twoheads_simulate", "--mask full --tokens 9 --rows 4 --layers 1000000000000", 2,
       "--layers is '1000000000000', it takes 1 to 1048576"},
      {"twoheads_simulate", "--mask full --tokens 9 --rows 4 --processes 2", 2,
       "twoheads_simulate: --processes requires --oracle-command"},
      {"twoheads_lm", "--model MODEL", 2, "twoheads_lm: one of --generate n, --score FILE and --score-ids FILE"},
      {"twoheads_lm", "--model none --generate 3", 1, "--model none: no such file or folder"},
      {"twoheads_lm", "--model MODEL --score HERE/empty", 1, "empty: 0 tokens to score"},
      {"twoheads_lm", "--model MODEL --score HERE", 1, ": a folder, expected a file"},
      {"twoheads_lm", "--model MODEL --score HERE/none", 1, "none: no such file"},
      {"twoheads_lm", "--model MODEL --generate 3 --positions in-cache", 2,
       "--positions is 'in-cache', it takes original"},
      {"twoheads_lm", "--model MODEL --score HERE/text --logits /dev/full", 1,
       "cannot be written: it is no file that could be replaced"},
      {"twoheads_lm", "--model MODEL --score HERE/text --generate 3", 2, "--generate excludes --score"},
      {"twoheads_lm", "--model MODEL --score HERE/text --logits HERE/none/x", 1,
       "none/x: cannot be written: there is no folder"},
      {"twoheads_lm", "--model MODEL --score HERE/text --logits HERE", 1, "cannot be written: it is a folder"},
      {"twoheads_lm", "--model MODEL --generate 3 --session HERE/broken", 1,
       "expected a session that this model has written, or no file yet"},
      {"twoheads_lm", "--model MODEL --generate 3 --session HERE/none/x", 1,
       "x: cannot be written: there is no folder"},
      {"twoheads_lm", "--model MODEL --generate 3 --session HERE", 1, "cannot be written: it is a folder"},
      {"twoheads_train", "--text HERE/text --steps 1", 1,
       "text: a text of 31 bytes to learn, expected more than the "
       "context of 256; a shorter one is asked for by --context"},
      {"twoheads_train", "--text HERE/text --held-out-share 1", 2, "--held-out-share is '1', it takes 0 (none)"},
      {"twoheads_recall", "--width 63 --heads 2", 2, "--heads is '2', it takes a divisor of --width 63"},
  };
  for (const Wrong& wrong : cases) {
    std::vector<std::string> arguments = words(wrong.line);
    for (std::string& word : arguments) {
      if (word == "MODEL") word = model;
      if (word.substr(0, 4) == "HERE") word = (folder / ".").string() + word.substr(4);
    }
    const ProgramRun run = run_program(wrong.program, arguments);
    EXPECT_EQ(run.exit_code, wrong.exit_code) << wrong.program << " " << wrong.line;
    EXPECT_EQ(run.out, "") << wrong.line;
    EXPECT_EQ(run.err.substr(0, run.err.find(':')), wrong.program) << wrong.line << "\n" << run.err;
    EXPECT_TRUE(contains(run.err, wrong.says)) << wrong.program << " " << wrong.line << "\n" << run.err;
  }
}

TEST(WrongCommandLines, OfTheTutorialAreNoAborts) {
  const std::string model = shipped_model().string();
  const TempFolder folder;
  const std::string empty = folder.write("empty", "").string();
  for (const std::string& text : {empty, (folder / "none").string(), (folder / ".").string()}) {
    const ProgramRun run = run_program("3_long_text", {model, text});
    EXPECT_EQ(run.exit_code, 1) << text << "\n" << run.err;
    EXPECT_NE(run.err, "") << text;
  }
  EXPECT_EQ(run_program("3_long_text", {empty, empty}).exit_code, 1);
}

// What changes nothing is said to, and the run goes on.
TEST(WrongCommandLines, ThatChangeNothingAreNoted) {
  const std::string model = shipped_model().string();
  const ProgramRun run = run_program("twoheads_lm", words("--model " + model + " --generate 1 --top-k 5"));
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_TRUE(contains(run.err, "--top-k changes nothing here: without --temperature nothing is drawn")) << run.err;
}

TEST(WrongCommandLines, OfAnotherRunsCheckpointNameTheDifference) {
  const TempFolder folder;
  const std::string begun = "--mask causal --tokens 60 --width 8 --no-reference --checkpoint ";
  const std::string file = (folder / "run.bin").string();
  ASSERT_EQ(run_line("twoheads_simulate", begun + file + " --rows 9").exit_code, 0);
  const ProgramRun run = run_line("twoheads_simulate", begun + file + " --rows 17");
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_EQ(run.err, "twoheads_simulate: --checkpoint " + file +
                         ": of another computation: it says 'rows 9', expected 'rows 17'; expected the file of a run "
                         "with the same flags, or no file yet\n");
}

TEST(WrongCommandLines, OfAProcessSayWhatWasDeclared) {
#ifdef TWOHEADS_WITH_REMOTE
  const std::string line = "--mask full --tokens 20 --rows 9 --oracle-command ";
  const ProgramRun many = run_line("twoheads_simulate", line + "true --processes 1000000");
  EXPECT_EQ(many.exit_code, 2);
  EXPECT_TRUE(contains(many.err, "--processes is '1000000', it takes 1 to 4096")) << many.err;
  for (const char* deadline : {"0", "-1", "nan", "1e7", "1s"}) {
    const ProgramRun run = run_line("twoheads_simulate", line + "true --deadline " + deadline);
    EXPECT_EQ(run.exit_code, 2) << deadline;
    EXPECT_TRUE(contains(run.err, std::string("--deadline is '") + deadline + "', it takes 0.001 to 1e6 seconds"))
        << run.err;
  }
  const std::string oracle = (fs::path(TWOHEADS_PROGRAM_DIR) / "twoheads_oracle").string();
  std::vector<std::string> wider = words(line);
  wider.push_back(oracle + " --rows 9 --scalar double");
  EXPECT_TRUE(contains(run_program("twoheads_simulate", wider).err, "its numbers are to be those of --scalar"));
  std::vector<std::string> blank = words(line);
  blank.emplace_back(" ");
  EXPECT_TRUE(contains(run_program("twoheads_simulate", blank).err, "it takes a shell command"));
  const ProgramRun run = run_program("twoheads_simulate", {"--mask", "full", "--tokens", "20", "--rows", "9",
                                                           "--oracle-command", oracle + " --rows 9"});
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_TRUE(contains(run.err, "the score scale is 1, declared is 0.125; what is declared comes from")) << run.err;
  EXPECT_TRUE(contains(run.err, "--oracle-scale")) << run.err;
#else
  GTEST_SKIP() << "built without Boost";
#endif
}

}  // namespace
