#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <twoheads/base/version.hpp>
#include <vector>

#include "support/contains.hpp"
#include "support/program.hpp"
#include "support/temp_folder.hpp"

// What packages and people ask programs for: help with examples, manual pages, completion, a clear end at Ctrl-C.

namespace {

namespace fs = std::filesystem;

/// Programs of this build: some need parts of the library that are optional.
std::vector<std::string> programs_here() {
  std::vector<std::string> found;
  for (const char* name : {"twoheads_plan", "twoheads_simulate", "twoheads_lm", "twoheads_embed", "twoheads_train",
                           "twoheads_recall", "twoheads_oracle", "twoheads_export"})
    if (fs::exists(fs::path(TWOHEADS_PROGRAM_DIR) / name)) found.emplace_back(name);
  return found;
}

/// The lines below "Examples:" of a program's help, without their indent.
std::vector<std::string> examples_of(const std::string& help) {
  std::vector<std::string> found;
  std::istringstream lines(help.substr(std::min(help.size(), help.find("Examples:"))));
  std::string line;
  std::getline(lines, line);
  while (std::getline(lines, line))
    if (const std::size_t begin = line.find_first_not_of(' '); begin != std::string::npos)
      found.push_back(line.substr(begin));
  return found;
}

TEST(EveryProgram, SaysItsVersion) {
  for (const std::string& name : programs_here()) {
    const ProgramRun run = run_line(name, "--version");
    EXPECT_EQ(run.exit_code, 0) << name;
    EXPECT_EQ(run.out, name + " " + twoheads::version + "\n");
  }
}

TEST(EveryProgram, HasExamplesOfFlagsThatItKnows) {
  const std::vector<std::string> programs = programs_here();
  ASSERT_GE(programs.size(), 6U);
  for (const std::string& name : programs) {
    const std::vector<std::string> examples = examples_of(run_line(name, "--help").out);
    EXPECT_GE(examples.size(), 1U) << name;
    for (const std::string& example : examples) {
      // Behind --oracle-command stands another program's line.
      std::istringstream parts(example);
      std::string program;
      parts >> program;
      if (std::find(programs.begin(), programs.end(), program) == programs.end()) continue;
      const std::string help = run_line(program, "--help").out;
      std::string word;
      while (parts >> word && word != "--oracle-command")
        if (word.substr(0, 2) == "--") {
          EXPECT_TRUE(contains(help, "\n  " + word + " ")) << example << ": " << word;
        }
    }
  }
}

TEST(EveryProgram, RunsItsExamplesThatNeedNoFilesAndTakeSeconds) {
  for (const std::string& name : programs_here()) {
    if (name != "twoheads_plan" && name != "twoheads_simulate" && name != "twoheads_oracle") continue;
    for (const std::string& example : examples_of(run_line(name, "--help").out)) {
      const TempFolder folder;
      const ProgramRun run = run_shell(example, folder / ".");
      EXPECT_EQ(run.exit_code, 0) << example << "\n" << run.err;
      EXPECT_FALSE(run.out.empty()) << example;
    }
  }
}

TEST(EveryProgram, HasAManualPageOfAllItsFlags) {
  for (const std::string& name : programs_here()) {
    const std::string page = run_line(name, "--print-manual").out;
    EXPECT_EQ(page.substr(0, 4), ".TH ") << name;
    std::istringstream help(run_line(name, "--help").out);
    for (std::string line; std::getline(help, line);) {
      if (line.substr(0, 4) != "  --") continue;
      std::string flag;
      for (const char c : line.substr(2, line.find_first_of(" ,", 2) - 2)) flag += c == '-' ? "\\-" : std::string(1, c);
      EXPECT_TRUE(contains(page, "fB" + flag + "\\fR")) << name << ": " << flag;
    }
    const TempFolder folder;
    if (run_shell("command -v groff", folder / ".").exit_code != 0) continue;
    const ProgramRun set = run_shell(name + " --print-manual | groff -ww -man -Tascii", folder / ".");
    EXPECT_EQ(set.err, "") << name;
    EXPECT_TRUE(contains(set.out, "0 where all went well")) << name;
  }
}

/// What bash offers for the last of some words of a command line.
std::set<std::string> completions(const std::string& program, const std::vector<std::string>& line,
                                  const fs::path& folder) {
  std::string shell = "source <(" + program + " --print-completion)\nCOMP_WORDS=(" + program;
  for (const std::string& word : line) shell += " '" + word + "'";
  shell += ")\nCOMP_CWORD=" + std::to_string(line.size()) + "\n_" + program + "\nprintf '%s\\n' \"${COMPREPLY[@]}\"";
  const ProgramRun run = run_shell(shell, folder);
  EXPECT_EQ(run.exit_code, 0);
  EXPECT_EQ(run.err, "");
  std::set<std::string> found;
  std::istringstream lines(run.out);
  for (std::string word; std::getline(lines, word);)
    if (!word.empty()) found.insert(word);
  return found;
}

TEST(Completion, OffersFlagsTheirWordsAndFiles) {
  using Words = std::set<std::string>;
  const TempFolder folder;
  std::ofstream(folder / "grid.svg") << "x";
  EXPECT_EQ(completions("twoheads_plan", {"--ma"}, folder / "."), Words{"--mask"});
  EXPECT_EQ(completions("twoheads_plan", {"--mask", "wi"}, folder / "."), Words{"window"});
  EXPECT_EQ(completions("twoheads_plan", {"--mask", "window", "--rows", "a"}, folder / "."), Words{"auto"});
  EXPECT_EQ(completions("twoheads_plan", {"--tokens", ""}, folder / "."), Words{});
  EXPECT_EQ(completions("twoheads_plan", {"--svg", "gr"}, folder / "."), Words{"grid.svg"});
  EXPECT_EQ(completions("twoheads_plan", {"--check", "--js"}, folder / "."), Words{"--json"});
}

// A run that would take minutes, and with a checkpoint says how to go on.
TEST(Interrupted, ProgramsSaySoAndWhatStays) {
  const std::string line = "twoheads_simulate --mask full --tokens 60000 --rows 33 --no-reference";
  for (const char* signal : {"INT", "TERM"})
    for (const bool checkpoint : {false, true}) {
      const TempFolder folder;
      const ProgramRun run =
          run_shell("set -m\n" + line + (checkpoint ? " --checkpoint run.bin" : "") + " &\nsleep 1\nkill -" + signal +
                        " $!\nwait $!\ncode=$?\n[ $code -gt 128 ] && exit 7\nexit $code",
                    folder / ".");
      EXPECT_EQ(run.exit_code, 7) << "a signal has ended it\n" << run.err;
      EXPECT_TRUE(contains(run.err, "twoheads_simulate: interrupted")) << run.err;
      EXPECT_EQ(contains(run.err, "the same command goes on from run.bin"), checkpoint) << run.err;
    }
}

}  // namespace
