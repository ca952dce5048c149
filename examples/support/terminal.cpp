#include "support/terminal.hpp"

#include <unistd.h>

#include <cstdlib>
#include <string>

namespace programs {
namespace {

/// A variable of the environment; empty where it is missing, too.
std::string variable(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

bool standard_error_is_terminal() { return ::isatty(STDERR_FILENO) != 0; }
bool standard_output_is_terminal() { return ::isatty(STDOUT_FILENO) != 0; }

bool terminal_takes_colour() {
  const std::string kind = variable("TERM");
  return standard_output_is_terminal() && variable("NO_COLOR").empty() && !kind.empty() && kind != "dumb";
}

bool terminal_takes_utf8() {
  if (!standard_output_is_terminal()) return false;
  // The first that says anything decides.
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const std::string locale = variable(name);
    if (locale.empty()) continue;
    for (const char* coding : {"UTF-8", "utf-8", "UTF8", "utf8"})
      if (locale.find(coding) != std::string::npos) return true;
    return false;
  }
  return false;
}

}  // namespace programs
