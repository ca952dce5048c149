#pragma once

#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <system_error>
#include <twoheads/base/write_file.hpp>
#include <utility>
#include <vector>

namespace programs {

/// All bytes of a file. Throws std::runtime_error that names it if it cannot be read.
[[nodiscard]] inline std::string read_text(const std::string& path) {
  std::error_code ignored;
  const auto kind = std::filesystem::status(path, ignored).type();
  if (kind == std::filesystem::file_type::not_found) throw std::runtime_error(path + ": no such file");
  if (kind == std::filesystem::file_type::directory) throw std::runtime_error(path + ": a folder, expected a file");
  // Opening a pipe would wait for its other end.
  if (kind != std::filesystem::file_type::regular) throw std::runtime_error(path + ": no file of bytes");
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error(path + ": cannot be read");
  return {std::istreambuf_iterator<char>(in), {}};
}

/// What became of a file that a flag names and that takes no more bytes; errno, if it is not 0, tells the cause.
[[nodiscard]] inline std::runtime_error unwritable(const std::string& flag, const std::string& path) {
  return std::runtime_error(twoheads::detail::unwritable(flag + " " + path));
}

/// Throws std::runtime_error that names flag and file where a run's result could not be written there in the end.
/// Writes nothing itself; no path, no file.
inline void require_writable(const std::string& flag, const std::string& path) {
  if (path.empty()) return;
  const std::string folder = std::filesystem::path(path).parent_path().string();
  const auto refuse = [&](const std::string& why) {
    throw std::runtime_error(flag + " " + path + ": cannot be written: " + why);
  };
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) refuse("it is a folder");
  if (!folder.empty() && !std::filesystem::is_directory(folder, ignored)) refuse("there is no folder " + folder);
  const bool there = std::filesystem::exists(path, ignored);
  // Results are written beside their place and moved there.
  if (there && !std::filesystem::is_regular_file(path, ignored)) refuse("it is no file that could be replaced");
  const std::string& asked = there ? path : folder;
  if (::access(asked.empty() ? "." : asked.c_str(), W_OK) != 0) refuse(std::generic_category().message(errno));
}

namespace detail {

/// The JSON list in a file, with no more than `depth` lists in each other: what lies deeper is not even built.
[[nodiscard]] inline nlohmann::json read_list(const std::string& path, int depth, const char* expected) {
  bool deeper = false;
  const auto flat = [&](int level, nlohmann::json::parse_event_t event, nlohmann::json&) {
    const bool list = event == nlohmann::json::parse_event_t::array_start;
    const bool inner = (list && level >= depth) || event == nlohmann::json::parse_event_t::object_start;
    deeper = deeper || inner;
    return !inner;
  };
  nlohmann::json list = nlohmann::json::parse(read_text(path), flat, false);
  if (deeper || !list.is_array() || list.empty())
    throw std::runtime_error(path + ": expected a JSON list of " + expected);
  return list;
}

[[nodiscard]] inline int read_id(const nlohmann::json& id, const std::string& entry) {
  if (!id.is_number_integer() || id.get<std::int64_t>() < 0 || id.get<std::int64_t>() > std::numeric_limits<int>::max())
    throw std::runtime_error(entry + " is " + id.dump() + ", expected a token id");
  return id.get<int>();
}

}  // namespace detail

/// A JSON list of whole numbers from 0 on, one or more.
[[nodiscard]] inline std::vector<int> read_ids(const std::string& path) {
  std::vector<int> ids;
  for (const nlohmann::json& id : detail::read_list(path, 1, "one or more token ids"))
    ids.push_back(detail::read_id(id, path + ": entry " + std::to_string(ids.size())));
  return ids;
}

/// A JSON list of lists of whole numbers from 0 on, none of them empty.
[[nodiscard]] inline std::vector<std::vector<int>> read_id_lists(const std::string& path) {
  std::vector<std::vector<int>> lists;
  for (const nlohmann::json& list : detail::read_list(path, 2, "one or more lists of numbers")) {
    const std::string entry = path + ": entry " + std::to_string(lists.size());
    if (!list.is_array() || list.empty()) throw std::runtime_error(entry + ": expected a list of one or more numbers");
    std::vector<int> ids;
    for (const nlohmann::json& id : list)
      ids.push_back(detail::read_id(id, entry + ": number " + std::to_string(ids.size())));
    lists.push_back(std::move(ids));
  }
  return lists;
}

}  // namespace programs
