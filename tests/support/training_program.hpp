#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/lines_of.hpp"
#include "support/program.hpp"
#include "support/temp_folder.hpp"

/// Runs of twoheads_train on a small text, and what they leave.
namespace training_program {

inline std::string some_text() {
  std::string text;
  for (int verse = 0; verse < 60; ++verse)
    text += std::to_string(verse) + " And the evening and the morning were the day " + std::to_string(verse) + ".\n";
  return text;
}

/// A run of a few steps of a small model.
struct SmallRun {
  TempFolder folder;
  std::vector<std::string> line = words("--layers 2 --width 16 --heads 2 --hidden 24 --context 24 --batch 3 --json");

  explicit SmallRun(const std::string& more = "--steps 12") {
    folder.write("text", some_text());
    add("--text " + (folder / "text").string() + " " + more);
  }
  /// Adds flags; one that is there already gets the new value.
  SmallRun& add(const std::string& more) {
    const std::vector<std::string> added = words(more);
    for (std::size_t i = 0; i < added.size(); ++i) {
      const auto old = std::find(line.begin(), line.end(), added[i]);
      if (added[i].rfind("--", 0) != 0 || old == line.end())
        line.push_back(added[i]);
      else
        *(old + 1) = added[++i];
    }
    return *this;
  }
  SmallRun& add_file(const std::string& flag, const std::string& name) {
    return add(flag + " " + (folder / name).string());
  }
  [[nodiscard]] ProgramRun run() const { return run_program("twoheads_train", line); }
};

inline nlohmann::json result_of(const ProgramRun& run) {
  EXPECT_EQ(run.exit_code, 0) << run.err;
  return run.json().is_object() ? run.json() : nlohmann::json::object();
}

/// Columns of a table but for the last, which holds seconds.
inline std::string without_seconds(const std::string& table) {
  std::string result;
  for (const std::string& line : lines_of(table)) result += line.substr(0, line.rfind(',')) + "\n";
  return result;
}

}  // namespace training_program
