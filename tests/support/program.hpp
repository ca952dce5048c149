#pragma once

#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/shared_data.hpp"
#include "support/temp_folder.hpp"

/// How a program ended and what it wrote.
struct ProgramRun {
  int exit_code = -1;
  std::string out;
  std::string err;

  /// Standard output as JSON; `discarded` if it is not one JSON value and nothing else.
  [[nodiscard]] nlohmann::json json() const { return nlohmann::json::parse(out, nullptr, false); }
};

/// The folder of the model that ships with the library.
[[nodiscard]] inline std::filesystem::path shipped_model() {
  return std::filesystem::path(TWOHEADS_SOURCE_DIR) / "examples" / "models" / "bible";
}

/// Runs a command of the shell without a terminal; what it writes goes through two files in a folder.
[[nodiscard]] inline ProgramRun run_command(const std::string& command, const std::filesystem::path& folder) {
  const std::filesystem::path out = folder / "out";
  const std::filesystem::path err = folder / "err";
  const int status = std::system((command + " >'" + out.string() + "' 2>'" + err.string() + "' </dev/null").c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_bytes(out), read_bytes(err)};
}

/// Runs some lines of bash in a folder, with our programs in the path.
[[nodiscard]] inline ProgramRun run_shell(const std::string& lines, const std::filesystem::path& folder) {
  std::ofstream(folder / "lines.sh") << "cd '" << folder.string() << "'\nexport PATH='" << TWOHEADS_PROGRAM_DIR
                                     << "':$PATH\n"
                                     << lines << "\n";
  return run_command("bash '" + (folder / "lines.sh").string() + "'", folder);
}

/// Runs one of our programs with the given arguments, without a terminal.
[[nodiscard]] inline ProgramRun run_program(const std::string& name, const std::vector<std::string>& arguments) {
  std::string command;
  const auto add = [&command](const std::string& before, const std::string& word) {
    command += before;
    command += '\'';
    for (const char c : word) {
      if (c == '\'')
        command += "'\\''";
      else
        command += c;
    }
    command += '\'';
  };
  const TempFolder folder;
  // A full path is another program's than ours.
  add("", (std::filesystem::path(TWOHEADS_PROGRAM_DIR) / name).string());
  for (const std::string& argument : arguments) add(" ", argument);
  return run_command(command, folder / ".");
}

/// Splits at blanks.
[[nodiscard]] inline std::vector<std::string> words(const std::string& line) {
  std::vector<std::string> result;
  std::string word;
  for (const char c : line + " ") {
    if (c != ' ') {
      word += c;
    } else if (!word.empty()) {
      result.push_back(word);
      word.clear();
    }
  }
  return result;
}

/// Runs one of our programs; its arguments are the words of a line.
[[nodiscard]] inline ProgramRun run_line(const std::string& name, const std::string& line) {
  return run_program(name, words(line));
}
