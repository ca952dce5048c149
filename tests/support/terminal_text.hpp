#pragma once

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

#include "support/program.hpp"

/// What a terminal was sent: its lines, what it shows in the end, and its text without colours.
namespace terminal_text {

namespace fs = std::filesystem;

/// What was shown, one after the other.
inline std::vector<std::string> lines_of(const std::string& written) {
  std::vector<std::string> lines;
  std::istringstream parts(written);
  for (std::string line; std::getline(parts, line, '\r');) {
    const std::size_t end = line.find_last_not_of(' ');
    if (end != std::string::npos) lines.push_back(line.substr(0, end + 1));
  }
  return lines;
}

/// What a terminal shows in the end.
inline std::string left_on_terminal(const std::string& written) {
  std::string line;
  std::size_t column = 0;
  for (const char c : written) {
    if (c == '\r') {
      column = 0;
      continue;
    }
    line.resize(std::max(line.size(), column + 1), ' ');
    line[column++] = c;
  }
  return line.substr(0, line.find_last_not_of(' ') + 1);
}

/// Whether programs can be run on a terminal: script is here, and so are pseudo-terminals, which bare roots lack.
inline bool has_terminals(const fs::path& folder) {
  return run_shell("script -qefc true tried >/dev/null", folder).exit_code == 0;
}

/// Every occurrence of one text made another.
inline std::string replaced(std::string in, const std::string& from, const std::string& to) {
  for (std::size_t at = in.find(from); at != std::string::npos; at = in.find(from, at + to.size()))
    in.replace(at, from.size(), to);
  return in;
}

/// What a terminal was sent, without colours.
inline std::string without_colours(std::string sent) {
  for (std::size_t at = sent.find('\33'); at != std::string::npos; at = sent.find('\33', at))
    sent.erase(at, sent.find('m', at) + 1 - at);
  return sent;
}

}  // namespace terminal_text
