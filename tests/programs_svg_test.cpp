// --svg: the picture that the programs write, and what they say when they cannot.

#include <gtest/gtest.h>

#include "support/program.hpp"

namespace {

TEST(SvgFlag, WritesThePictureBesideTheUsualOutput) {
  const TempFolder folder;
  for (const char* mask :
       {"--mask full", "--mask causal", "--mask window --window 9", "--mask sinks --window 9 --sinks 2",
        "--mask band --left 5 --right 3", "--mask documents --lengths 30,34"}) {
    const std::string line = std::string(mask) + " --tokens 64 --rows 17 --json";
    const std::string file = (folder / "grid.svg").string();
    const ProgramRun run = run_line("twoheads_plan", line + " --svg " + file);
    ASSERT_EQ(run.exit_code, 0) << run.err;
    EXPECT_EQ(run.err, "");
    EXPECT_EQ(run.out, run_line("twoheads_plan", line).out);
    const std::string svg = read_bytes(file);
    EXPECT_EQ(svg.rfind("<?xml", 0), 0U) << line;
    EXPECT_NE(svg.find("</svg>\n"), std::string::npos) << line;
  }
}

TEST(SvgFlag, SimulateDrawsTheSamePicture) {
  const TempFolder folder;
  const std::string line = "--mask causal --tokens 40 --rows 17 --anchor mean-key --json --svg ";
  ASSERT_EQ(run_line("twoheads_plan", line + (folder / "plan.svg").string()).exit_code, 0);
  ASSERT_EQ(run_line("twoheads_simulate", line + (folder / "simulate.svg").string()).exit_code, 0);
  EXPECT_EQ(read_bytes(folder / "plan.svg"), read_bytes(folder / "simulate.svg"));
}

TEST(SvgFlag, AFileThatCannotBeWrittenEndsWithOneAndTheCause) {
  const std::string line = "--mask full --tokens 64 --rows 17 --json --svg ";
  for (const char* program : {"twoheads_plan", "twoheads_simulate"}) {
    const ProgramRun missing = run_line(program, line + "/no/such/folder/grid.svg");
    EXPECT_EQ(missing.exit_code, 1) << program;
    EXPECT_EQ(missing.out, "") << program;
    for (const char* word : {"--svg", "/no/such/folder/grid.svg", "No such file"})
      EXPECT_NE(missing.err.find(word), std::string::npos) << missing.err;
    if (!std::filesystem::exists("/dev/full")) continue;
    const ProgramRun full = run_line(program, line + "/dev/full");
    EXPECT_EQ(full.exit_code, 1) << program;
    EXPECT_NE(full.err.find("No space left"), std::string::npos) << full.err;
  }
}

TEST(SvgFlag, AnEmptyNameIsABadArgument) {
  const ProgramRun run =
      run_program("twoheads_plan", {"--mask", "full", "--tokens", "64", "--rows", "17", "--svg", ""});
  EXPECT_EQ(run.exit_code, 2);
  EXPECT_NE(run.err.find("--svg"), std::string::npos) << run.err;
}

}  // namespace
