#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <istream>
#include <limits>
#include <string>
#include <system_error>
#include <twoheads/base/errors.hpp>
#include <type_traits>
#include <utility>

namespace twoheads::detail {

static_assert(std::endian::native == std::endian::little,
              "twoheads reads weight and tokenizer files as they lie: little endian, with no swap");

/// Sums and products of lengths that a file claims; what does not fit stays at the largest number.
constexpr std::uint64_t too_many = std::numeric_limits<std::uint64_t>::max();

[[nodiscard]] constexpr std::uint64_t saturating_sum(std::uint64_t a, std::uint64_t b) {
  return b > too_many - a ? too_many : a + b;
}

[[nodiscard]] constexpr std::uint64_t saturating_product(std::uint64_t a, std::uint64_t b) {
  return a != 0 && b > too_many / a ? too_many : a * b;
}

/// Bytes of a stream whose length is known before the first is read, so that lengths can be checked before memory is
/// asked for.
///
///   Units    lengths and positions in bytes
///   Throws   FileError that names the file, where the stream cannot be read; FormatError where it ends before its
///            stated length
class ByteReader {
 public:
  ByteReader(std::istream& in, std::uint64_t size, std::string name) : in_(in), size_(size), name_(std::move(name)) {}

  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] std::uint64_t size() const { return size_; }
  [[nodiscard]] std::uint64_t remaining() const { return size_ - position_; }

  /// Fills `count` values, which the caller has allocated.
  template <class Value>
  void read(Value* values, std::uint64_t count) {
    static_assert(std::is_trivially_copyable_v<Value>);
    advance(saturating_product(count, sizeof(Value)),
            [&](std::streamsize bytes) { in_.read(reinterpret_cast<char*>(values), bytes); });
  }

  template <class Value>
  [[nodiscard]] Value read() {
    Value value{};
    read(&value, 1);
    return value;
  }

  void skip(std::uint64_t bytes) {
    advance(bytes, [&](std::streamsize count) { in_.ignore(count); });
  }

 private:
  template <class Step>
  void advance(std::uint64_t bytes, const Step& step) {
    if (bytes > remaining())
      throw FormatError(text(name_, ": ", size_, " bytes, but ", bytes, " more are to follow byte ", position_));
    if (bytes == 0) return;
    step(static_cast<std::streamsize>(bytes));
    if (in_.bad()) throw FileError(text(name_, ": cannot be read"));
    if (!in_ || static_cast<std::uint64_t>(in_.gcount()) != bytes)
      throw FormatError(text(name_, ": reading ends at byte ", position_ + static_cast<std::uint64_t>(in_.gcount()),
                             ", expected ", size_, " bytes"));
    position_ += bytes;
  }

  std::istream& in_;
  std::uint64_t size_ = 0;
  std::uint64_t position_ = 0;
  std::string name_;
};

/// An open file and its length in bytes.
struct InputFile {
  std::ifstream stream;
  std::uint64_t size = 0;
};

/// Opens a regular file for reading.
///
///   Throws   FileError that names the path, where there is no such file or it cannot be read
[[nodiscard]] inline InputFile open_input(const std::filesystem::path& path) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) throw FileError(text(path.string(), ": no such file"));
  if (std::filesystem::is_directory(status)) throw FileError(text(path.string(), ": a directory, expected a file"));
  if (!std::filesystem::is_regular_file(status)) throw FileError(text(path.string(), ": not a regular file"));
  InputFile file;
  file.size = std::filesystem::file_size(path, error);
  if (error) throw FileError(text(path.string(), ": its size is unknown: ", error.message()));
  file.stream.open(path, std::ios::binary);
  if (!file.stream) throw FileError(text(path.string(), ": cannot be opened for reading"));
  return file;
}

}  // namespace twoheads::detail
