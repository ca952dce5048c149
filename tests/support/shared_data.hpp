#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

/// Path of a file in the shared data folder, or nothing where it is absent.
///
///   Corner   the folder's parent is the environment variable TWOHEADS_SHARED_DIR,
///   else the compile definition of that name
[[nodiscard]] inline std::optional<std::filesystem::path> shared_data(std::string_view relative) {
  std::filesystem::path folder;
#ifdef TWOHEADS_SHARED_DIR
  folder = TWOHEADS_SHARED_DIR;
#endif
  if (const char* given = std::getenv("TWOHEADS_SHARED_DIR")) folder = given;
  if (folder.empty()) return std::nullopt;
  std::filesystem::path path = folder / "data" / relative;
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return std::nullopt;
  return path;
}

/// All bytes of a file.
[[nodiscard]] inline std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot open " + path.string());
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}
