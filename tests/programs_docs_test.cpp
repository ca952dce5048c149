// What the pages say is so: code compiles or is that of a file, output is what the programs print, programs and flags
// exist, and so does what links and paths name.

#include <gtest/gtest.h>

#include <filesystem>

#include "support/documents.hpp"
#include "support/page_faults.hpp"
#include "support/program.hpp"

namespace {

namespace fs = std::filesystem;
using namespace page_faults;

const std::vector<Page>& pages() {
  static const std::vector<Page> all = all_pages(project);
  return all;
}

TEST(Docs, PagesAreWellFormed) {
  ASSERT_GE(pages().size(), 10u);
  for (const Page& page : pages())
    for (const std::string& fault : page.faults) ADD_FAILURE() << fault;
}

TEST(Docs, CodeThatNamesAFileIsThatOfTheFile) {
  int found = 0;
  for (const Page& page : pages())
    for (const FencedBlock& block : page.blocks)
      if (block.marked("file")) {
        ++found;
        const fs::path file = project / block.marks.at("file");
        ASSERT_TRUE(fs::exists(file)) << block.where() << ": " << file;
        EXPECT_TRUE(lies_in(block, read_bytes(file))) << block.where() << " is not part of " << file;
      }
  EXPECT_GE(found, 5);
}

TEST(Docs, OtherCodeCompiles) {
  std::string faults, said;
  const std::string code = code_of(pages(), faults);
  EXPECT_EQ(faults, "");
  EXPECT_NE(code.find("block_4"), std::string::npos) << "few blocks: are they read?";
  EXPECT_TRUE(compiles(code, said)) << said;
}

TEST(Docs, OutputIsWhatTheProgramsPrint) {
  // Models and texts are named from the project's folder.
  const fs::path before = fs::current_path();
  fs::current_path(project);
  int found = 0;
  for (const Page& page : pages())
    for (const FencedBlock& block : page.blocks)
      if (block.marked("output")) {
        ++found;
        std::vector<std::string> line = words(block.marks.at("output"));
        const std::string program = line.front();
        line.erase(line.begin());
        const ProgramRun run = run_program(program, line);
        EXPECT_EQ(run.exit_code, 0) << block.where() << "\n" << run.err;
        EXPECT_EQ(fault_of_output(block.lines, run.out), "") << block.where();
      }
  fs::current_path(before);
  EXPECT_GE(found, 5);
}

TEST(Docs, CommandsNameProgramsFlagsScriptsAndPresetsThatThereAre) {
  int found = 0;
  for (const Page& page : pages())
    for (const std::string& command : commands_of(page)) {
      found += command.find("--") != std::string::npos ? 1 : 0;
      EXPECT_EQ(fault_of_command(command), "") << page.name << ": " << command;
    }
  EXPECT_GE(found, 20);
}

TEST(Docs, LinksAndPathsNameFilesThatThereAre) {
  for (const Page& page : pages())
    for (const std::string& missing : missing_paths(page)) ADD_FAILURE() << page.name << " names " << missing;
}

// --- and that each of these can fail ---------------------------------------------------------------------------------

TEST(Docs, OutputThatDiffersIsAFault) {
  EXPECT_EQ(fault_of_output({"$ hello", "calls:  512", "error:  <= 1e-5"}, "calls:  512\nerror:  3.5e-06\n"), "");
  EXPECT_EQ(fault_of_output({"loss 2.71 nats", "...", "end"}, "loss 2.72 nats\nx\ny\nend\n"), "");
  EXPECT_NE(fault_of_output({"calls:  512"}, "calls:  513\n"), "");
  EXPECT_NE(fault_of_output({"error:  <= 1e-5"}, "error:  2e-05\n"), "");
  EXPECT_NE(fault_of_output({"error:  <= 1e-5"}, "error:  nan\n"), "");
  EXPECT_NE(fault_of_output({"loss 2.71 nats"}, "loss 3.71 nats\n"), "");
  EXPECT_NE(fault_of_output({"a"}, "a\nb\n"), "");
  EXPECT_NE(fault_of_output({"a", "b"}, "a\n"), "");
  EXPECT_NE(fault_of_output({"a", "...", "c"}, "a\nb\n"), "");
}

TEST(Docs, CodeThatIsElsewhereOrDoesNotCompileIsAFault) {
  const Page page = page_of("x.md",
                            "<!-- file: y.cpp -->\n```cpp\nint a;\nint b;\n```\n\n<!-- given: int model -->\n"
                            "```cpp\nRows rows{model, missing};\n```\n");
  ASSERT_EQ(page.blocks.size(), 2u);
  EXPECT_TRUE(lies_in(page.blocks[0], "// y\nint a;\nint b;\nint c;\n"));
  EXPECT_FALSE(lies_in(page.blocks[0], "int a;\n\nint b;\n"));
  EXPECT_FALSE(lies_in(page.blocks[0], "int a;\nint b;  // b\n"));
  std::string faults;
  const std::string code = code_of({page}, faults);
  EXPECT_NE(code.find("(int model) {{\n#line 9 \"x.md\"\nRows rows{model, missing};\n}}"), std::string::npos) << code;
  // The same on index.hpp alone, which is read in no time.
  const auto alone = [&](const std::string& word) {
    std::string body = "#include <twoheads/base/index.hpp>\n" + code.substr(code.find("using namespace"));
    body.replace(body.find("missing"), 7, word);
    std::string said;
    const bool good = compiles(body, said);
    EXPECT_TRUE(good || said.find("x.md:9") != std::string::npos) << said;
    return good;
  };
  EXPECT_TRUE(alone("model"));
  EXPECT_FALSE(alone("missing"));
  EXPECT_EQ(page_of("x.md", "<!-- file: y.cpp -->\n\n```cpp\n```\n").faults.size(), 1u);
  EXPECT_EQ(page_of("x.md", "```cpp\n").faults.size(), 1u);
}

TEST(Docs, CommandsThatDoNotExistAreFaults) {
  EXPECT_EQ(fault_of_command("twoheads_plan --mask causal --tokens 10 --rows 4"), "");
  EXPECT_EQ(fault_of_command("build/release/examples/twoheads_plan --svg=x"), "");
  EXPECT_EQ(fault_of_command("cmake --preset release && ctest --preset release"), "");
  EXPECT_EQ(fault_of_command("twoheads_simulate --oracle-command \"ssh host twoheads_plan --choose\" --seed 1"), "");
  EXPECT_NE(fault_of_command("twoheads_simulate --oracle-command \"ssh host twoheads_plan --choose\" --choose"), "");
  EXPECT_NE(fault_of_command("twoheads_plan --mas causal"), "");
  EXPECT_NE(fault_of_command("twoheads_plans --mask causal"), "");
  EXPECT_NE(fault_of_command("scripts/none.sh"), "");
  EXPECT_NE(fault_of_command("cmake --preset none"), "");
}

TEST(Docs, PathsThatDoNotExistAreFaults) {
  const auto missing = [](const std::string& line) { return missing_paths(page_of("docs/x.md", line + "\n")).size(); };
  EXPECT_EQ(
      missing(
          "[a](architecture.md), [b](../README.md#training), [c](https://example.org), `plan/full.hpp`, `plan_test`"),
      0u);
  EXPECT_EQ(missing("[a](architecture.md#what-precision-to-expect-and-where-it-ends)"), 0u);
  EXPECT_EQ(missing("[a](architecture.md#none)"), 1u);
  EXPECT_EQ(missing("[a](none.md)"), 1u);
  EXPECT_EQ(missing("`plan/none.hpp`"), 1u);
  EXPECT_EQ(missing("`none.hpp`"), 1u);
  EXPECT_EQ(missing("`none_test`"), 1u);
  EXPECT_EQ(missing("`tests/none.cpp`"), 1u);
}

}  // namespace
