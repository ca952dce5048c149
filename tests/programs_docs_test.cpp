// What the pages say is so: code compiles or is that of a file, output is what the programs print, programs and flags
// exist, and so does what links and paths name.

#include <gtest/gtest.h>

#include <cctype>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>

#include "support/documents.hpp"
#include "support/program.hpp"
#include "support/temp_folder.hpp"

namespace {

namespace fs = std::filesystem;

const fs::path project = TWOHEADS_SOURCE_DIR;

const std::vector<Page>& pages() {
  static const std::vector<Page> all = all_pages(project);
  return all;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

// --- output -----------------------------------------------------------------------------------------------------------

/// A number, if the whole word is one.
std::optional<double> number(const std::string& word) {
  char* end = nullptr;
  const double value = std::strtod(word.c_str(), &end);
  if (word.empty() || end != word.c_str() + word.size() || std::isalpha(static_cast<unsigned char>(word.front())))
    return std::nullopt;
  return value;
}

/// What is wrong with a printed line, or nothing. Words and whole numbers are equal; a number with a point on the page
/// is met within 5 %; "<= 1e-5" on the page stands for any number of that size or less, NaN excluded.
std::string fault_of_line(const std::string& page, const std::string& printed) {
  const std::vector<std::string> expected = words(page);
  const std::vector<std::string> found = words(printed);
  std::size_t at = 0;
  const std::string both = "\"" + page + "\" on the page, \"" + printed + "\" printed";
  for (std::size_t i = 0; i < expected.size(); ++i, ++at) {
    if (at >= found.size()) return both;
    const bool bound = expected[i] == "<=" && i + 1 < expected.size() && found[at] != "<=";
    if (bound) ++i;
    const std::optional<double> wanted = number(expected[i]);
    const std::optional<double> value = number(found[at]);
    if (bound) {
      if (!wanted || !value || !(std::abs(*value) <= *wanted)) return both;
    } else if (wanted && value && expected[i].find('.') != std::string::npos) {
      if (!(std::abs(*value - *wanted) <= 0.05 * std::abs(*wanted))) return both;
    } else if (expected[i] != found[at]) {
      return both;
    }
  }
  return at == found.size() ? "" : both;
}

/// What is wrong with the output of a program, or nothing. On the page a line "..." stands for any lines, and lines of
/// commands ("$ ...") and empty ones at either end are not output.
std::string fault_of_output(const std::vector<std::string>& page, const std::string& printed) {
  std::vector<std::string> expected;
  for (const std::string& line : page)
    if (line.rfind("$ ", 0) != 0) expected.push_back(line);
  std::vector<std::string> found = lines_of(printed);
  const auto trim = [](std::vector<std::string>& lines) {
    while (!lines.empty() && trimmed(lines.back()).empty()) lines.pop_back();
    while (!lines.empty() && trimmed(lines.front()).empty()) lines.erase(lines.begin());
  };
  trim(expected);
  trim(found);
  std::size_t at = 0;
  bool skip = false;
  for (const std::string& line : expected) {
    if (trimmed(line) == "...") {
      skip = true;
      continue;
    }
    while (skip && at < found.size() && !fault_of_line(line, found[at]).empty()) ++at;
    skip = false;
    if (at == found.size()) return "\"" + line + "\" on the page, nothing more printed";
    if (const std::string fault = fault_of_line(line, found[at]); !fault.empty()) return fault;
    ++at;
  }
  return skip || at == found.size() ? "" : "\"" + found[at] + "\" printed, nothing more on the page";
}

// --- code -------------------------------------------------------------------------------------------------------------

/// Whether the lines follow each other in a file, literally.
bool lies_in(const FencedBlock& block, const std::string& file) {
  const std::string text = block.text();
  return file.starts_with(text) || file.find(std::string("\n").append(text)) != std::string::npos;
}

/// Code without a mark of its own finds these.
const std::string given_by_default =
    "const LanguageModel<double>& model, const std::vector<int>& ids, const std::vector<int>& targets";

/// One file with all code that is in no file of its own: each block a function, its includes above.
std::string code_of(const std::vector<Page>& all, std::string& faults) {
  std::string includes =
      "#include <iostream>\n#include <string>\n#include <twoheads/twoheads.hpp>\n#include <vector>\n"
      "#include <twoheads/io/model_folder.hpp>\n"
#ifdef TWOHEADS_WITH_THREADS
      "#include <twoheads/exec/threads.hpp>\n"
#endif
#ifdef TWOHEADS_WITH_TEXT
      "#include <twoheads/text/text_tokenizer.hpp>\n"
#endif
#ifdef TWOHEADS_DOCS_WITH_MPI
      "#include <twoheads/mpi/forward_on_ranks.hpp>\n#include <twoheads/mpi/kernel_on_ranks.hpp>\n"
#endif
      ;
  std::set<std::string> here{""};
#ifdef TWOHEADS_WITH_THREADS
  here.insert("threads");
#endif
#ifdef TWOHEADS_WITH_TEXT
  here.insert("text");
#endif
#ifdef TWOHEADS_DOCS_WITH_MPI
  here.insert("mpi");
#endif
  std::string code = "using namespace twoheads;\n";
  int count = 0;
  for (const Page& page : all)
    for (const FencedBlock& block : page.blocks) {
      if (block.language != "cpp" || block.marked("file")) continue;
      const std::string needs = block.marked("needs") ? block.marks.at("needs") : "";
      if (needs != "" && needs != "threads" && needs != "text" && needs != "mpi") {
        faults += block.where() + ": no part of the library is called " + needs + "\n";
        continue;
      }
      if (here.count(needs) == 0) continue;
      const std::string given = block.marked("given") ? block.marks.at("given") : given_by_default;
      // The second brace lets a block declare a name that it was given.
      code += "void block_" + std::to_string(++count) + "(" + given + ") {{\n#line " + std::to_string(block.line) +
              " \"" + block.page + "\"\n" + block.text() + "}}\n";
    }
  return includes + code;
}

/// Whether the code compiles; what the compiler says, if not.
bool compiles(const std::string& code, std::string& said) {
  const TempFolder folder;
  const fs::path source = folder.write("docs.cpp", code);
  const fs::path log = folder / "log";
  const std::string command = std::string(TWOHEADS_CXX) + " -std=c++20 -fsyntax-only -w @" + TWOHEADS_DOCS_FLAGS + " " +
                              source.string() + " >" + log.string() + " 2>&1";
  const bool good = std::system(command.c_str()) == 0;
  said = read_bytes(log).substr(0, 4000);
  return good;
}

// --- commands ---------------------------------------------------------------------------------------------------------

bool is_program(const std::string& word) {
  return word.rfind("twoheads_", 0) == 0 || (word.size() > 3 && std::isdigit(static_cast<unsigned char>(word[0])) &&
                                             fs::exists(project / "examples" / (word + ".cpp")));
}

/// What a program's --help says; nothing where the program is not built for want of a library.
std::optional<std::string> help_of(const std::string& program) {
  static std::map<std::string, std::optional<std::string>> known;
  const auto at = known.find(program);
  if (at != known.end()) return at->second;
  std::optional<std::string> text;
  if (fs::exists(fs::path(TWOHEADS_PROGRAM_DIR) / program)) text = run_program(program, {"--help"}).out;
  return known[program] = text;
}

/// Whether the help has the flag, and not one that only begins like it.
bool has_flag(const std::string& help, const std::string& flag) {
  for (std::size_t at = help.find(flag); at != std::string::npos; at = help.find(flag, at + 1)) {
    const char next = at + flag.size() < help.size() ? help[at + flag.size()] : ' ';
    if (!std::isalnum(static_cast<unsigned char>(next)) && next != '-') return true;
  }
  return false;
}

/// What is wrong with a command line, or nothing: programs of ours that do not exist, flags that they do not take,
/// scripts and presets that are not there.
std::string fault_of_command(const std::string& line) {
  std::string program;
  std::vector<std::string> outer;  // the program before a quoted command begins
  std::string before;
  for (std::string word : words(line)) {
    const bool opens = word.front() == '"';
    if (opens) {
      outer.push_back(program);
      word.erase(0, 1);
    }
    const bool closes = !word.empty() && word.back() == '"';
    while (!word.empty() && std::string("\",.;:").find(word.back()) != std::string::npos) word.pop_back();
    const std::string name = word.substr(word.rfind('/') == std::string::npos ? 0 : word.rfind('/') + 1);
    if (word == "|" || word == "&&" || word == ";") program.clear();
    if (before == "--preset") {
      if (read_bytes(project / "CMakePresets.json").find("\"name\": \"" + word + "\"") == std::string::npos)
        return "no preset " + word;
    } else if (word.rfind("scripts/", 0) == 0 && before.rfind("--", 0) != 0) {
      if (!fs::exists(project / word)) return "no script " + word;
      program.clear();
    } else if (before != "--target" && before != "cmake" && is_program(name)) {
      program = name;
      if (!fs::exists(project / "examples" / (name + ".cpp"))) return "no program " + name;
    } else if (word.rfind("--", 0) == 0 && word.size() > 2 && !program.empty()) {
      const std::string flag = word.substr(0, word.find('='));
      const std::optional<std::string> help = help_of(program);
      if (help && !has_flag(*help, flag)) return program + " has no flag " + flag;
    }
    before = word;
    if (closes && !outer.empty()) {
      program = outer.back();
      outer.pop_back();
    }
  }
  return "";
}

/// The commands of a page: lines of blocks that are no code, continued ones joined, and inline code with flags.
std::vector<std::string> commands_of(const Page& page) {
  std::vector<std::string> commands;
  for (const FencedBlock& block : page.blocks) {
    if (block.language != "" && block.language != "console" && block.language != "sh") continue;
    std::string whole;
    for (const std::string& line : block.lines) {
      whole += line.rfind("$ ", 0) == 0 ? line.substr(2) : line;
      if (!whole.empty() && whole.back() == '\\') {
        whole.pop_back();
        continue;
      }
      commands.push_back(whole);
      whole.clear();
    }
  }
  for (const std::string& code : inline_code(page))
    if (code.find("twoheads_") == 0 || code.find("scripts/") == 0 || code.find("cmake --preset") == 0)
      commands.push_back(code);
  return commands;
}

// --- paths ------------------------------------------------------------------------------------------------------------

/// Whether a header is one of the library's or of the tests': by its path, or by its name alone.
bool is_header(const std::string& code) {
  static const std::set<std::string> names = [] {
    std::set<std::string> found;
    for (const char* folder : {"include/twoheads", "include", "tests"})
      for (const fs::directory_entry& entry : fs::recursive_directory_iterator(project / folder)) {
        found.insert(entry.path().filename().string());
        found.insert(entry.path().lexically_relative(project / folder).generic_string());
      }
    return found;
  }();
  return names.count(code) > 0;
}

/// The headings of a page as links name them: small letters, blanks as hyphens, no other signs.
std::set<std::string> headings_of(const std::string& text) {
  std::set<std::string> found;
  for (const std::string& line : lines_of(text)) {
    if (line.empty() || line.front() != '#') continue;
    std::string name;
    for (const char c : trimmed(line.substr(line.find_first_not_of('#')))) {
      if (c == ' ' || c == '-') name += '-';
      if (std::isalnum(static_cast<unsigned char>(c)) || c == '_')
        name += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
    found.insert(name);
  }
  return found;
}

/// What a link or a path in inline code names, if it should be a file of the project.
std::vector<std::string> missing_paths(const Page& page) {
  std::vector<std::string> missing;
  std::string prose;
  for (const std::string& line : page.prose) prose += line + "\n";
  for (std::size_t at = prose.find("]("); at != std::string::npos; at = prose.find("](", at + 2)) {
    const std::string link = prose.substr(at + 2, prose.find(')', at + 2) - at - 2);
    if (link.find("://") != std::string::npos) continue;
    const std::string target = link.substr(0, link.find('#'));
    const fs::path file = target.empty() ? project / page.name : project / fs::path(page.name).parent_path() / target;
    if (!fs::exists(file))
      missing.push_back("a link to " + target);
    else if (target.size() < link.size() && headings_of(read_bytes(file)).count(link.substr(target.size() + 1)) == 0)
      missing.push_back("the heading " + link);
  }
  for (const std::string& code : inline_code(page)) {
    if (code.find_first_of(" *<>{}$") != std::string::npos) continue;
    const bool header = code.size() > 4 && code.substr(code.size() - 4) == ".hpp";
    const bool path = code.rfind("docs/", 0) == 0 || code.rfind("tests/", 0) == 0 || code.rfind("examples/", 0) == 0 ||
                      code.rfind("scripts/", 0) == 0 || code.rfind("cmake/", 0) == 0 || code.rfind("include/", 0) == 0;
    if (path && !fs::exists(project / code)) missing.push_back(code);
    if (!path && header && !is_header(code)) missing.push_back(code);
    const bool test = code.size() > 5 && code.substr(code.size() - 5) == "_test" && code.find('/') == std::string::npos;
    if (test && !fs::exists(project / "tests" / (code + ".cpp"))) missing.push_back(code);
  }
  return missing;
}

// --- the tests --------------------------------------------------------------------------------------------------------

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

// --- and that each of these can fail ----------------------------------------------------------------------------------

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
