#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <iterator>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "support/shared_data.hpp"

namespace {

namespace fs = std::filesystem;

/// Headers by their path below include/twoheads.
using Tree = std::map<std::string, std::string>;

/// Folders and headers of ours that each folder may include, beside itself. Top-level headers may include anything.
const std::map<std::string, std::set<std::string>> table{
    {"base", {}},
    {"model", {"base"}},
    {"attention", {"base", "model"}},
    {"plan", {"base", "model/mask.hpp"}},
    {"oracle", {"base", "model", "attention", "plan/limits.hpp", "plan/precision.hpp"}},
    {"codec", {"base", "attention", "plan", "oracle"}},
    {"exec", {"base", "model", "attention", "plan", "oracle", "codec"}},
    {"merge", {"base", "attention", "plan"}},
    {"paper", {"base", "model", "attention", "plan", "oracle", "codec"}},
    {"train", {"base", "model", "attention", "plan", "oracle", "codec", "exec", "merge", "simulate.hpp"}},
};

/// Folders with dependencies of their own: they may include any of ours, nothing outside may include them.
const std::set<std::string> optional_folders{"io", "mpi", "onnx", "remote", "text"};

/// Single headers with dependencies of their own: the table holds for them, nothing else may include them.
const std::set<std::string> optional_headers{"exec/checkpoint.hpp", "exec/checkpoint_file.hpp", "exec/threads.hpp"};

constexpr std::size_t most_lines = 400;

bool starts_with(std::string_view text, std::string_view start) { return text.substr(0, start.size()) == start; }

/// "plan" for "plan/tile.hpp"; empty for a top-level header.
std::string folder_of(const std::string& header) {
  const std::size_t slash = header.find('/');
  return slash == std::string::npos ? std::string() : header.substr(0, slash);
}

bool in_optional_folder(const std::string& header) { return optional_folders.count(folder_of(header)) > 0; }

bool optional(const std::string& header) { return in_optional_folder(header) || optional_headers.count(header) > 0; }

std::vector<std::string> lines_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

/// What a text includes, with its brackets or quotes: <vector>, <twoheads/base/index.hpp>, "other.hpp".
std::vector<std::string> includes_of(const std::string& text) {
  std::vector<std::string> found;
  for (const std::string& line : lines_of(text)) {
    std::string dense;
    std::copy_if(line.begin(), line.end(), std::back_inserter(dense), [](char c) { return c != ' ' && c != '\t'; });
    constexpr std::string_view directive = "#include";
    if (!starts_with(dense, directive)) continue;
    const std::string rest = dense.substr(directive.size());
    const std::size_t end = rest.find_first_of(">\"", 1);
    found.push_back(end == std::string::npos ? rest : rest.substr(0, end + 1));
  }
  return found;
}

constexpr std::string_view ours = "<twoheads/";

/// The headers of ours that a text includes, as paths below include/twoheads.
std::vector<std::string> our_includes_of(const std::string& text) {
  std::vector<std::string> found;
  for (const std::string& include : includes_of(text))
    if (starts_with(include, ours)) found.push_back(include.substr(ours.size(), include.size() - ours.size() - 1));
  return found;
}

bool standard_header(const std::string& include) {
  return include.size() > 2 && include.front() == '<' && include.back() == '>' &&
         std::all_of(include.begin() + 1, include.end() - 1,
                     [](char c) { return ('a' <= c && c <= 'z') || ('0' <= c && c <= '9') || c == '_'; });
}

/// What is wrong with one include of a header, or nothing.
std::string fault_of_include(const std::string& header, const std::string& include) {
  const std::string folder = folder_of(header);
  if (starts_with(include, "\"")) return "a quoted include";
  if (!starts_with(include, ours)) {
    if (include.find("Eigen/") != std::string::npos && include != "<Eigen/Core>")
      return "Eigen other than <Eigen/Core>";
    if (folder == "plan" && include == "<Eigen/Core>") return "Eigen in plan/";
    if (include == "<Eigen/Core>" || standard_header(include) || optional(header)) return {};
    return "neither of ours, nor Eigen, nor standard";
  }
  const std::string target = include.substr(ours.size(), include.size() - ours.size() - 1);
  if (optional(target) && !optional(header)) return "an optional header";
  if (folder.empty() || folder_of(target) == folder || in_optional_folder(header)) return {};
  const auto row = table.find(folder);
  if (row == table.end()) return "the table has no row for the folder";
  if (folder == "plan" && target == "base/matrix.hpp") return "Eigen in plan/";
  if (row->second.count(folder_of(target)) == 0 && row->second.count(target) == 0) return "against the table";
  return {};
}

/// All faults of one header by itself.
std::vector<std::string> faults_of(const std::string& header, const std::string& text) {
  std::vector<std::string> faults;
  for (const std::string& include : includes_of(text))
    if (const std::string fault = fault_of_include(header, include); !fault.empty())
      faults.push_back(header + " includes " + include + ": " + fault);
  const std::vector<std::string> lines = lines_of(text);
  if (std::find(lines.begin(), lines.end(), "#pragma once") == lines.end())
    faults.push_back(header + ": no #pragma once");
  if (lines.size() > most_lines) faults.push_back(header + ": more than 400 lines");
  return faults;
}

/// Everything that a header reaches through its includes: headers of ours without brackets, others with them.
std::set<std::string> reach(const Tree& tree, const std::string& header) {
  std::set<std::string> reached;
  std::vector<std::string> open{header};
  while (!open.empty()) {
    const auto found = tree.find(open.back());
    open.pop_back();
    if (found == tree.end()) continue;
    for (const std::string& include : includes_of(found->second))
      if (!starts_with(include, ours)) reached.insert(include);
    for (const std::string& target : our_includes_of(found->second))
      if (reached.insert(target).second) open.push_back(target);
  }
  return reached;
}

/// All faults of a tree: of its headers one by one, and of what they reach.
std::vector<std::string> faults_of(const Tree& tree) {
  std::vector<std::string> faults;
  for (const auto& [header, text] : tree) {
    for (std::string& fault : faults_of(header, text)) faults.push_back(std::move(fault));
    for (const std::string& target : our_includes_of(text))
      if (tree.count(target) == 0) faults.push_back(header + " includes " + target + ": there is no such header");
    const std::set<std::string> reached = reach(tree, header);
    if (reached.count(header) > 0) faults.push_back(header + ": includes itself through others");
    const bool integers_only = folder_of(header) == "plan" || header == "model/mask.hpp";
    if (integers_only && (reached.count("<Eigen/Core>") > 0 || reached.count("base/matrix.hpp") > 0))
      faults.push_back(header + ": reaches Eigen");
  }
  const std::set<std::string> whole = reach(tree, "twoheads.hpp");
  for (const auto& [header, text] : tree)
    if (header != "twoheads.hpp" && !optional(header) && whole.count(header) == 0)
      faults.push_back(header + ": twoheads.hpp does not reach it");
  for (const std::string& reached : whole)
    if (reached.front() == '<' && reached != "<Eigen/Core>" && !standard_header(reached))
      faults.push_back("twoheads.hpp: reaches " + reached);
  return faults;
}

Tree our_tree() {
  const fs::path folder = fs::path(TWOHEADS_SOURCE_DIR) / "include" / "twoheads";
  Tree tree;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file())
      tree[entry.path().lexically_relative(folder).generic_string()] = read_bytes(entry.path());
  return tree;
}

std::string header_with(const std::string& include) { return "#pragma once\n\n#include " + include + "\n"; }

/// Three headers without a fault.
Tree sound_tree() {
  return {{"twoheads.hpp", "#pragma once\n#include <twoheads/plan/tile.hpp>\n#include <twoheads/base/matrix.hpp>\n"},
          {"plan/tile.hpp", "#pragma once\n#include <vector>\n"},
          {"base/matrix.hpp", "#pragma once\n#include <Eigen/Core>\n"}};
}

TEST(IncludeTable, HoldsForEveryHeader) {
  const Tree tree = our_tree();
  ASSERT_GT(tree.size(), 30u) << "headers are missing below " << TWOHEADS_SOURCE_DIR;
  for (const auto& row : tree) EXPECT_EQ(fs::path(row.first).extension(), ".hpp") << row.first;
  for (const std::string& fault : faults_of(tree)) ADD_FAILURE() << fault;
}

TEST(IncludeTable, HasARowForEveryFolder) {
  for (const auto& [header, text] : our_tree()) {
    const std::string folder = folder_of(header);
    EXPECT_TRUE(folder.empty() || optional(header) || table.count(folder) > 0) << header;
    EXPECT_TRUE(!folder.empty() || header == "simulate.hpp" || header == "compiled.hpp" || header == "twoheads.hpp")
        << header;
  }
}

TEST(IncludeTable, EachBrokenLineIsAFault) {
  const std::vector<std::pair<std::string, std::string>> broken{
      {"base/x.hpp", "<twoheads/model/mask.hpp>"},
      {"base/x.hpp", "<twoheads/plan/tile.hpp>"},
      {"model/x.hpp", "<twoheads/attention/partial.hpp>"},
      {"model/x.hpp", "<twoheads/plan/tile.hpp>"},
      {"attention/x.hpp", "<twoheads/plan/plan.hpp>"},
      {"plan/x.hpp", "<twoheads/model/spec.hpp>"},
      {"plan/x.hpp", "<twoheads/model/mask.hpp.hpp>"},
      {"plan/x.hpp", "<twoheads/base/matrix.hpp>"},
      {"plan/x.hpp", "<Eigen/Core>"},
      {"plan/x.hpp", "<twoheads/attention/partial.hpp>"},
      {"oracle/x.hpp", "<twoheads/plan/plan.hpp>"},
      {"oracle/x.hpp", "<twoheads/codec/layout.hpp>"},
      {"codec/x.hpp", "<twoheads/exec/execute.hpp>"},
      {"codec/x.hpp", "<twoheads/merge/merger.hpp>"},
      {"codec/x.hpp", "<twoheads/model/spec.hpp>"},
      {"exec/x.hpp", "<twoheads/merge/merger.hpp>"},
      {"exec/x.hpp", "<twoheads/simulate.hpp>"},
      {"merge/x.hpp", "<twoheads/exec/execute.hpp>"},
      {"merge/x.hpp", "<twoheads/oracle/oracle.hpp>"},
      {"paper/x.hpp", "<twoheads/exec/execute.hpp>"},
      {"paper/x.hpp", "<twoheads/merge/merger.hpp>"},
      {"paper/x.hpp", "<twoheads/simulate.hpp>"},
      {"codec/x.hpp", "<twoheads/paper/terms.hpp>"},
      {"exec/x.hpp", "<twoheads/paper/cells.hpp>"},
      {"base/x.hpp", "<twoheads/twoheads.hpp>"},
      {"unknown/x.hpp", "<twoheads/base/index.hpp>"},
      {"simulate.hpp", "<twoheads/io/safetensors.hpp>"},
      {"exec/x.hpp", "<twoheads/exec/threads.hpp>"},
      {"exec/threads.hpp", "<twoheads/simulate.hpp>"},
      {"simulate.hpp", "<twoheads/exec/threads.hpp>"},
      {"twoheads.hpp", "<twoheads/mpi/executor.hpp>"},
      {"base/x.hpp", "\"index.hpp\""},
      {"base/x.hpp", "\"twoheads/base/index.hpp\""},
      {"io/x.hpp", "\"y.hpp\""},
      {"base/x.hpp", "<base/index.hpp>"},
      {"base/x.hpp", "<Eigen/Dense>"},
      {"io/x.hpp", "<Eigen/Dense>"},
      {"base/x.hpp", "<unsupported/Eigen/CXX11/Tensor>"},
      {"exec/x.hpp", "<nlohmann/json.hpp>"},
      {"exec/x.hpp", "<tbb/parallel_for.h>"},
      {"exec/x.hpp", "<oneapi/tbb.h>"},
      {"simulate.hpp", "<mpi.h>"},
  };
  for (const auto& [header, include] : broken) {
    const std::vector<std::string> faults = faults_of(header, header_with(include));
    EXPECT_EQ(faults.size(), 1u) << header << " includes " << include;
    const std::string spaced = "#pragma once\n  #  include\t" + include + "  // why\n";
    EXPECT_EQ(faults_of(header, spaced), faults) << header << " includes " << include;
  }
}

TEST(IncludeTable, SoundLinesAreNoFault) {
  const std::vector<std::pair<std::string, std::string>> sound{
      {"base/x.hpp", "<twoheads/base/index.hpp>"},
      {"base/x.hpp", "<Eigen/Core>"},
      {"base/x.hpp", "<cstdint>"},
      {"plan/x.hpp", "<twoheads/model/mask.hpp>"},
      {"plan/x.hpp", "<twoheads/base/errors.hpp>"},
      {"oracle/x.hpp", "<twoheads/plan/limits.hpp>"},
      {"codec/x.hpp", "<twoheads/plan/plan.hpp>"},
      {"paper/x.hpp", "<twoheads/model/weights.hpp>"},
      {"paper/x.hpp", "<twoheads/codec/codes.hpp>"},
      {"io/x.hpp", "<nlohmann/json.hpp>"},
      {"io/x.hpp", "<twoheads/model/weights.hpp>"},
      {"exec/threads.hpp", "<tbb/parallel_for.h>"},
      {"exec/threads.hpp", "<twoheads/exec/executor.hpp>"},
      {"simulate.hpp", "<twoheads/exec/execute.hpp>"},
  };
  for (const auto& [header, include] : sound)
    EXPECT_EQ(faults_of(header, header_with(include)), std::vector<std::string>()) << header << " includes " << include;
  EXPECT_EQ(faults_of("base/x.hpp", "#pragma once\n// #include \"y.hpp\"\n"), std::vector<std::string>());
}

TEST(IncludeTable, AHeaderNeedsPragmaOnceAndEndsAt400Lines) {
  EXPECT_EQ(faults_of("base/x.hpp", "#include <vector>\n"), std::vector<std::string>{"base/x.hpp: no #pragma once"});
  const std::string longest = "#pragma once\n" + std::string(399, '\n');
  EXPECT_EQ(faults_of("base/x.hpp", longest), std::vector<std::string>());
  EXPECT_EQ(faults_of("base/x.hpp", longest + "\n"), std::vector<std::string>{"base/x.hpp: more than 400 lines"});
}

TEST(IncludeTable, FaultsOfAWholeTreeAreFound) {
  using Faults = std::vector<std::string>;
  EXPECT_EQ(faults_of(sound_tree()), Faults());

  Tree tree = sound_tree();
  tree["plan/lost.hpp"] = "#pragma once\n";
  EXPECT_EQ(faults_of(tree), Faults{"plan/lost.hpp: twoheads.hpp does not reach it"});

  tree = sound_tree();
  tree["io/reader.hpp"] = header_with("<nlohmann/json.hpp>");
  EXPECT_EQ(faults_of(tree), Faults());

  tree = sound_tree();
  tree["base/digest.hpp"] = header_with("<twoheads/base/matrix.hpp>");
  tree["plan/tile.hpp"] += "#include <twoheads/base/digest.hpp>\n";
  EXPECT_EQ(faults_of(tree), Faults{"plan/tile.hpp: reaches Eigen"});

  tree = sound_tree();
  tree["base/matrix.hpp"] += "#include <twoheads/base/gone.hpp>\n";
  EXPECT_EQ(faults_of(tree), Faults{"base/matrix.hpp includes base/gone.hpp: there is no such header"});

  tree = sound_tree();
  tree["plan/other.hpp"] = header_with("<twoheads/plan/tile.hpp>");
  tree["plan/tile.hpp"] += "#include <twoheads/plan/other.hpp>\n";
  EXPECT_EQ(faults_of(tree), (Faults{"plan/other.hpp: includes itself through others",
                                     "plan/tile.hpp: includes itself through others"}));

  tree = sound_tree();
  tree["io/reader.hpp"] = header_with("<nlohmann/json.hpp>");
  tree["twoheads.hpp"] += "#include <twoheads/io/reader.hpp>\n";
  EXPECT_EQ(faults_of(tree), (Faults{"twoheads.hpp includes <twoheads/io/reader.hpp>: an optional header",
                                     "twoheads.hpp: reaches <nlohmann/json.hpp>"}));
}

}  // namespace
