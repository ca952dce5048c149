#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace programs {

/// Gives --help and the manual page some command lines, one a text.
void add_examples(CLI::App& app, const std::vector<std::string>& lines);

/// Completion of a program's flags, of the words that they take, and of files: a script for bash, which zsh reads
/// behind bashcompinit.
[[nodiscard]] std::string bash_completion(const CLI::App& app);

/// A program's manual page in the macros of man(7).
[[nodiscard]] std::string manual_page(const CLI::App& app);

/// Answers --print-completion and --print-manual, by which packages are made, on standard output or in the file that
/// follows. False where there is neither of them.
[[nodiscard]] bool answer_for_packages(const CLI::App& app, int argc, char** argv);

/// From here on Ctrl-C and SIGTERM end the program with a line on standard error that names it, and says what stays.
void say_when_interrupted(const CLI::App& app, const std::string& what_stays = {});

/// What an interrupted run leaves in its checkpoint: empty where it has none.
[[nodiscard]] inline std::string what_stays(const std::string& checkpoint) {
  return checkpoint.empty() ? std::string() : "the same command goes on from " + checkpoint;
}

}  // namespace programs
