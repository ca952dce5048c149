#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "support/shared_data.hpp"

/// A fenced block of a page. Comments right above it say what it is held against:
///
///   <!-- file: examples/01_hello.cpp -->          its lines follow each other in that file
///   <!-- output: 01_hello -->                     what the program prints
///   <!-- given: const Model<float>& model -->     what C++ code finds declared, as parameters of a function
///   <!-- needs: mpi -->                           the optional part of the library that the code includes
struct FencedBlock {
  std::string page;
  std::size_t line = 0;  ///< of the first line inside the fence, from 1
  std::string language;
  std::map<std::string, std::string> marks = {};
  std::vector<std::string> lines = {};

  [[nodiscard]] std::string where() const { return page + ":" + std::to_string(line); }
  [[nodiscard]] bool marked(const std::string& mark) const { return marks.count(mark) > 0; }
  [[nodiscard]] std::string text() const {
    std::string all;
    for (const std::string& one : lines) all += one + "\n";
    return all;
  }
};

/// A page of the documentation: its fenced blocks, and the lines outside them.
struct Page {
  std::string name;  ///< path below the project's folder
  std::vector<FencedBlock> blocks = {};
  std::vector<std::string> prose = {};
  std::vector<std::string> faults = {};
};

[[nodiscard]] inline std::string trimmed(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(" \t\r");
  if (begin == std::string_view::npos) return {};
  return std::string(text.substr(begin, text.find_last_not_of(" \t\r") + 1 - begin));
}

/// "file" and "examples/01_hello.cpp" of <!-- file: examples/01_hello.cpp -->; empty strings for any other line.
[[nodiscard]] inline std::pair<std::string, std::string> mark_of(const std::string& line) {
  const std::string text = trimmed(line);
  if (text.rfind("<!-- ", 0) != 0 || text.size() < 9 || text.substr(text.size() - 4) != " -->") return {};
  const std::string inside = text.substr(5, text.size() - 9);
  const std::size_t colon = inside.find(':');
  const std::string mark = inside.substr(0, colon);
  if (mark != "file" && mark != "output" && mark != "given" && mark != "needs") return {};
  return {mark, trimmed(inside.substr(colon + 1))};
}

[[nodiscard]] inline Page page_of(const std::string& name, const std::string& text) {
  Page page{.name = name};
  std::map<std::string, std::string> marks;
  bool inside = false;
  std::size_t number = 0;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    ++number;
    const bool fence = trimmed(line).rfind("```", 0) == 0;
    if (inside) {
      if (fence)
        inside = false;
      else
        page.blocks.back().lines.push_back(line);
      continue;
    }
    if (fence) {
      page.blocks.push_back({name, number + 1, trimmed(trimmed(line).substr(3)), marks});
      marks.clear();
      inside = true;
      continue;
    }
    if (const auto [mark, value] = mark_of(line); !mark.empty()) {
      marks[mark] = value;
      continue;
    }
    if (!marks.empty()) page.faults.push_back(name + ":" + std::to_string(number) + ": a mark without a block");
    marks.clear();
    page.prose.push_back(line);
  }
  if (inside) page.faults.push_back(name + ": a fence that never closes");
  return page;
}

/// README.md, CONTRIBUTING.md, and all of docs/.
[[nodiscard]] inline std::vector<Page> all_pages(const std::filesystem::path& project) {
  namespace fs = std::filesystem;
  std::vector<std::string> names{"README.md", "CONTRIBUTING.md", "examples/models/bible/README.md"};
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(project / "docs"))
    if (entry.path().extension() == ".md") names.push_back(entry.path().lexically_relative(project).generic_string());
  std::vector<Page> pages;
  for (const std::string& name : names)
    if (fs::exists(project / name)) pages.push_back(page_of(name, read_bytes(project / name)));
  return pages;
}

/// The words of `inline code` in a page's prose; code that wraps over lines is joined.
[[nodiscard]] inline std::vector<std::string> inline_code(const Page& page) {
  std::string prose;
  for (const std::string& line : page.prose) prose += line + " ";
  std::vector<std::string> found;
  for (std::size_t at = prose.find('`'); at != std::string::npos;) {
    const std::size_t end = prose.find('`', at + 1);
    if (end == std::string::npos) break;
    found.push_back(prose.substr(at + 1, end - at - 1));
    at = prose.find('`', end + 1);
  }
  return found;
}
