#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <twoheads/base/errors.hpp>
#include <utility>
#include <vector>

// Whoever defines it as 0 has files read into memory of their own, where tools see a read beyond the end.
#ifndef TWOHEADS_HAS_MMAP
#if defined(__unix__) || defined(__APPLE__)
#define TWOHEADS_HAS_MMAP 1
#else
#define TWOHEADS_HAS_MMAP 0
#endif
#endif

#if TWOHEADS_HAS_MMAP
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#else
#include <twoheads/model/input_file.hpp>
#endif

namespace twoheads::detail {

/// The bytes of a file, mapped into memory where the system has mmap, else read at once.
///
///   Corner   a file that another process cuts short while it is mapped ends ours with a bus error on most systems; no
///            check of ours can prevent that. Replace files by renaming a new one over them.
///   Throws   FileError that names the path, where there is no such file or it cannot be read
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path) : name_(path.string()) {
#if TWOHEADS_HAS_MMAP
    // Without O_NONBLOCK the open of a pipe would wait for a writer.
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) {
      if (errno == ENOENT) throw FileError(text(name_, ": no such file"));
      throw FileError(text(name_, ": cannot be opened for reading: ", std::generic_category().message(errno)));
    }
    struct stat facts {};
    const bool known = ::fstat(descriptor, &facts) == 0;
    const auto size = known ? static_cast<std::size_t>(facts.st_size) : 0;
    void* memory = nullptr;
    const bool regular = known && S_ISREG(facts.st_mode);
    if (regular && size > 0) memory = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    const int reason = errno;
    ::close(descriptor);
    if (known && S_ISDIR(facts.st_mode)) throw FileError(text(name_, ": a directory, expected a file"));
    if (!regular) throw FileError(text(name_, ": not a regular file"));
    if (memory == MAP_FAILED)
      throw FileError(text(name_, ": cannot be mapped into memory: ", std::generic_category().message(reason)));
    bytes_ = {static_cast<const std::byte*>(memory), size};
#else
    InputFile file = open_input(path);
    ByteReader reader(file.stream, file.size, name_);
    owned_.resize(static_cast<std::size_t>(file.size));
    reader.read(owned_.data(), file.size);
    bytes_ = owned_;
#endif
  }

  MappedFile(MappedFile&& other) noexcept { swap(other); }
  MappedFile& operator=(MappedFile&& other) noexcept {
    swap(other);
    return *this;
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  ~MappedFile() {
#if TWOHEADS_HAS_MMAP
    if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
#endif
  }

  [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }
  [[nodiscard]] std::string_view text_at(std::size_t at, std::size_t length) const {
    return {reinterpret_cast<const char*>(bytes_.data()) + at, length};
  }
  [[nodiscard]] const std::string& name() const { return name_; }

 private:
  void swap(MappedFile& other) noexcept {
    std::swap(name_, other.name_);
    std::swap(bytes_, other.bytes_);
    std::swap(owned_, other.owned_);
  }

  std::string name_;
  std::span<const std::byte> bytes_;
  std::vector<std::byte> owned_;
};

}  // namespace twoheads::detail
