#pragma once

#include <cctype>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "support/documents.hpp"
#include "support/lines_of.hpp"
#include "support/program.hpp"
#include "support/temp_folder.hpp"

/// What is wrong with pages of the documentation: output, code, commands and paths,
/// held against the project and its programs.
namespace page_faults {

namespace fs = std::filesystem;

inline const fs::path project = TWOHEADS_SOURCE_DIR;

// --- output ----------------------------------------------------------------------------------------------------------

/// A number, if the whole word is one.
inline std::optional<double> number(const std::string& word) {
  char* end = nullptr;
  const double value = std::strtod(word.c_str(), &end);
  if (word.empty() || end != word.c_str() + word.size() || std::isalpha(static_cast<unsigned char>(word.front())))
    return std::nullopt;
  return value;
}

/// What is wrong with a printed line, or nothing. Words and whole numbers are equal; a number with a point on the page
/// is met within 5 %; "<= 1e-5" on the page stands for any number of that size or less, NaN excluded.
inline std::string fault_of_line(const std::string& page, const std::string& printed) {
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
inline std::string fault_of_output(const std::vector<std::string>& page, const std::string& printed) {
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

// --- code ------------------------------------------------------------------------------------------------------------

/// Whether the lines follow each other in a file, literally.
inline bool lies_in(const FencedBlock& block, const std::string& file) {
  const std::string text = block.text();
  return file.starts_with(text) || file.find(std::string("\n").append(text)) != std::string::npos;
}

/// Code without a mark of its own finds these.
inline const std::string given_by_default =
    "const LanguageModel<double>& model, const std::vector<int>& ids, const std::vector<int>& targets";

/// One file with all code that is in no file of its own: each block a function, its includes above.
inline std::string code_of(const std::vector<Page>& all, std::string& faults) {
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
inline bool compiles(const std::string& code, std::string& said) {
  const TempFolder folder;
  const fs::path source = folder.write("docs.cpp", code);
  const fs::path log = folder / "log";
  const std::string command = std::string(TWOHEADS_CXX) + " -std=c++20 -fsyntax-only -w @" + TWOHEADS_DOCS_FLAGS + " " +
                              source.string() + " >" + log.string() + " 2>&1";
  const bool good = std::system(command.c_str()) == 0;
  said = read_bytes(log).substr(0, 4000);
  return good;
}

// --- commands --------------------------------------------------------------------------------------------------------

inline bool is_program(const std::string& word) {
  return word.rfind("twoheads_", 0) == 0 || (word.size() > 3 && std::isdigit(static_cast<unsigned char>(word[0])) &&
                                             fs::exists(project / "examples" / (word + ".cpp")));
}

/// What a program's --help says; nothing where the program is not built for want of a library.
inline std::optional<std::string> help_of(const std::string& program) {
  static std::map<std::string, std::optional<std::string>> known;
  const auto at = known.find(program);
  if (at != known.end()) return at->second;
  std::optional<std::string> text;
  if (fs::exists(fs::path(TWOHEADS_PROGRAM_DIR) / program)) text = run_program(program, {"--help"}).out;
  return known[program] = text;
}

/// Whether the help has the flag, and not one that only begins like it.
inline bool has_flag(const std::string& help, const std::string& flag) {
  for (std::size_t at = help.find(flag); at != std::string::npos; at = help.find(flag, at + 1)) {
    const char next = at + flag.size() < help.size() ? help[at + flag.size()] : ' ';
    if (!std::isalnum(static_cast<unsigned char>(next)) && next != '-') return true;
  }
  return false;
}

/// What is wrong with a command line, or nothing: programs of ours that do not exist, flags that they do not take,
/// scripts and presets that are not there.
inline std::string fault_of_command(const std::string& line) {
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
inline std::vector<std::string> commands_of(const Page& page) {
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

// --- paths -----------------------------------------------------------------------------------------------------------

/// Whether a header is one of the library's or of the tests': by its path, or by its name alone.
inline bool is_header(const std::string& code) {
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
inline std::set<std::string> headings_of(const std::string& text) {
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
inline std::vector<std::string> missing_paths(const Page& page) {
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

}  // namespace page_faults
