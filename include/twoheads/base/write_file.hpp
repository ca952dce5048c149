#pragma once

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <ios>
#include <random>
#include <string>
#include <system_error>
#include <twoheads/base/errors.hpp>

namespace twoheads::detail {

/// That a file takes no bytes, and why: errno tells, if it is not 0.
[[nodiscard]] inline std::string unwritable(const std::string& file) {
  return text(file, ": cannot be written", errno != 0 ? ": " + std::generic_category().message(errno) : "");
}

/// Writes a file under another name and gives it its own at the end, so that nobody finds half of it: a writer that is
/// killed leaves the old file, if there was one, and what it had written as `path`.partial-<number>.
///
///   Corner   the bytes are left to the system to bring to the disk: a power failure may still lose them
///            What a symbolic link leads to is written, not the link.
///   Throws   FileError that names the path, where it cannot be written, or is something else than a file, such as a
///            device; the half file is removed
template <class Write>
void write_file(const std::filesystem::path& given, const Write& write) {
  std::error_code ignored;
  std::filesystem::path path = given;
  if (std::filesystem::is_symlink(given, ignored)) path = std::filesystem::weakly_canonical(given, ignored);
  if (std::filesystem::exists(path, ignored) && !std::filesystem::is_regular_file(path, ignored))
    throw FileError(text(given.string(), ": cannot be written: it is no file that could be replaced"));
  std::filesystem::path partial = path;
  partial += text(".partial-", std::random_device{}());
  try {
    std::ofstream out(partial, std::ios::binary | std::ios::trunc);
    if (!out) throw FileError(unwritable(path.string()));
    errno = 0;
    try {
      write(out);
    } catch (const FileError& error) {
      // Whoever writes to a stream knows no path, nor why the stream takes no more.
      if (out) throw FileError(text(path.string(), ": ", error.what()));
    }
    out.close();
    if (!out) throw FileError(unwritable(path.string()));
    std::error_code failed;
    std::filesystem::rename(partial, path, failed);
    if (failed) throw FileError(text(path.string(), ": cannot be written: ", failed.message()));
  } catch (...) {
    std::filesystem::remove(partial, ignored);
    throw;
  }
}

}  // namespace twoheads::detail
