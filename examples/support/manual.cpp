#include "support/manual.hpp"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <csignal>
#include <cstddef>
#include <fstream>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <twoheads/base/version.hpp>

namespace programs {
namespace {

constexpr std::string_view examples_title = "Examples:";

/// Words that a flag takes, of a type name such as full|causal or INT|auto: places for a value are in capitals.
std::vector<std::string> words_of(const std::string& type) {
  std::vector<std::string> words;
  std::istringstream parts(type);
  for (std::string word; std::getline(parts, word, '|');)
    if (!word.empty() && std::islower(static_cast<unsigned char>(word.front())) != 0) words.push_back(word);
  return words;
}

bool takes_file(const std::string& type) { return type == "FILE" || type == "FOLDER"; }

std::vector<std::string> names_of(const CLI::Option& option) {
  std::vector<std::string> names;
  for (const std::string& name : option.get_snames()) names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) names.push_back("--" + name);
  return names;
}

std::string joined(const std::vector<std::string>& words, const char* between) {
  std::string all;
  for (const std::string& word : words) all += (all.empty() ? "" : between) + word;
  return all;
}

/// A text as troff shows it as it is.
std::string escaped(const std::string& text) {
  std::string found;
  for (const char c : text) {
    if (c == '\\')
      found += "\\e";
    else if (c == '-')
      found += "\\-";
    else if (c == '\'' && found.empty())
      found += "\\(aq";
    else if (c == '.' && found.empty())
      found += "\\&.";
    else
      found += c;
  }
  return found;
}

// What the handler writes: made before, since a handler may neither ask for memory nor lock.
char interrupted[1024];
std::size_t interrupted_size = 0;

void end_of_interrupted(int number) {
  // Where nothing can be written, nothing can be done about it either.
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, interrupted, interrupted_size);
  // Again, and this time as if nobody had watched: who started the program sees that a signal ended it.
  std::signal(number, SIG_DFL);
  std::raise(number);
}

}  // namespace

void add_examples(CLI::App& app, const std::vector<std::string>& lines) {
  std::string all(examples_title);
  for (const std::string& line : lines) all += "\n  " + line;
  app.footer(all);
}

std::string bash_completion(const CLI::App& app) {
  const std::string& name = app.get_name();
  std::ostringstream out;
  std::vector<std::string> flags;
  std::ostringstream cases;
  for (const CLI::Option* option : app.get_options()) {
    const std::vector<std::string> names = names_of(*option);
    flags.insert(flags.end(), names.begin(), names.end());
    if (option->get_items_expected_max() == 0) continue;
    const std::string type = option->get_type_name();
    cases << "    " << joined(names, " | ") << ")\n";
    if (takes_file(type))
      cases << "      compopt -o filenames 2>/dev/null\n      COMPREPLY=($(compgen -f -- \"$word\"))\n";
    else
      cases << "      COMPREPLY=($(compgen -W '" << joined(words_of(type), " ") << "' -- \"$word\"))\n";
    cases << "      return\n      ;;\n";
  }
  out << "# Completion of " << name << " " << twoheads::version << " for bash, and for zsh behind bashcompinit.\n_"
      << name << "() {\n  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}\n"
      << "  COMPREPLY=()\n  case $before in\n"
      << cases.str() << "  esac\n  COMPREPLY=($(compgen -W '" << joined(flags, " ") << "' -- \"$word\"))\n}\n"
      << "complete -F _" << name << " " << name << "\n";
  return out.str();
}

std::string manual_page(const CLI::App& app) {
  const std::string& name = app.get_name();
  std::string title = name;
  std::transform(title.begin(), title.end(), title.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  std::ostringstream out;
  out << ".TH " << title << " 1 \"\" \"twoheads " << twoheads::version << "\" \"User Commands\"\n.SH NAME\n"
      << name << " \\- " << escaped(app.get_description()) << "\n.SH SYNOPSIS\n.B " << name << "\n[\\fIoptions\\fR]\n"
      << ".SH OPTIONS\n";
  for (const CLI::Option* option : app.get_options()) {
    out << ".TP\n\\fB" << escaped(joined(names_of(*option), ", ")) << "\\fR";
    if (option->get_items_expected_max() != 0) out << " \\fI" << escaped(option->get_type_name()) << "\\fR";
    if (option->get_required()) out << " (required)";
    out << "\n" << escaped(option->get_description()) << "\n";
  }
  std::istringstream lines(app.get_footer());
  std::string line;
  if (std::getline(lines, line) && line == examples_title) {
    out << ".SH EXAMPLES\n.nf\n";
    while (std::getline(lines, line)) out << escaped(line.substr(line.find_first_not_of(' '))) << "\n";
    out << ".fi\n";
  }
  out << ".SH EXIT STATUS\n0 where all went well, 1 where the run failed, 2 where the command line cannot be meant.\n"
      << ".SH SEE ALSO\nThe pages in docs of the source, from its README on.\n";
  return out.str();
}

bool answer_for_packages(const CLI::App& app, int argc, char** argv) {
  if (argc != 2 && argc != 3) return false;
  const std::string_view flag = argv[1];
  if (flag != "--print-completion" && flag != "--print-manual") return false;
  const std::string page = flag == "--print-manual" ? manual_page(app) : bash_completion(app);
  if (argc == 2) {
    std::cout << page;
    return true;
  }
  std::ofstream file(argv[2], std::ios::trunc);
  if (!(file << page << std::flush)) throw std::runtime_error(std::string(argv[2]) + ": cannot be written");
  return true;
}

void say_when_interrupted(const CLI::App& app, const std::string& what_stays) {
  const std::string line =
      "\n" + app.get_name() + ": interrupted" + (what_stays.empty() ? "" : "; " + what_stays) + "\n";
  interrupted_size = std::min(line.size(), sizeof(interrupted));
  std::copy_n(line.begin(), interrupted_size, interrupted);
  std::signal(SIGINT, end_of_interrupted);
  std::signal(SIGTERM, end_of_interrupted);
}

}  // namespace programs
