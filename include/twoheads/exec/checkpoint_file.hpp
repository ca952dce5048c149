#pragma once

#if !defined(__unix__) && !defined(__APPLE__)
#error "twoheads/exec/checkpoint_file.hpp needs POSIX files: open, flock, pread"
#endif

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <twoheads/base/byte_hash.hpp>
#include <twoheads/base/difference.hpp>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <vector>

namespace twoheads {

namespace detail {

static_assert(std::endian::native == std::endian::little, "checkpoint files hold numbers as they lie: little endian");

/// Which part a record holds, and what it was computed from.
struct PartRecord {
  std::uint64_t turn = 0;  ///< layers begun before it
  std::uint64_t layer = 0;
  std::uint64_t first = 0;
  std::uint64_t end = 0;
  std::uint64_t cols = 0;
  std::uint64_t inputs = 0;  ///< digest

  friend bool operator==(const PartRecord&, const PartRecord&) = default;
};

/// A record of a file: where its rows begin, how many bytes they are, and the checksum that theirs starts from.
struct RecordPlace {
  PartRecord part;
  std::uint64_t at = 0;
  std::uint64_t bytes = 0;
  std::uint64_t sum = 0;
};

enum class CheckpointAccess {
  run,    ///< by the only run that reads and writes it, which makes it where there is none
  fresh,  ///< by the run that makes it
  read    ///< whoever else has it open; what is torn stays
};

[[nodiscard]] inline std::string words_of(const PartRecord& part) {
  return text("layer ", part.layer, ", queries ", part.first, " to ", part.end, " of ", part.cols, " columns");
}

/// A log of finished parts: read from the front while it lasts, then written at its end.
/// `rows` of 0: of a run on ranks.
///
///   Laws     a last record that is not whole or not sound is cut off; bytes are appended only after all before them
///            were read and found sound. Each checksum starts from the one before,
///            so that no record can be left out or exchanged.
///   Throws   FormatError that names the file and the byte, for anything else that is wrong with it; FileError with the
///            system's reason, or where another process has it open
class CheckpointFile {
 public:
  CheckpointFile(const std::filesystem::path& path, const std::string& key, std::uint64_t scalar_bytes,
                 std::uint64_t rows, bool sync, CheckpointAccess access = CheckpointAccess::run)
      : name_(path.string()), sync_(sync), read_only_(access == CheckpointAccess::read) {
    const int made = O_RDWR | O_CREAT | (access == CheckpointAccess::fresh ? O_EXCL : 0);
    descriptor_ = ::open(path.c_str(), O_CLOEXEC | (read_only_ ? O_RDONLY : made), 0666);
    if (descriptor_ < 0) throw failure(read_only_ ? "cannot be opened" : "cannot be opened for reading and writing");
    try {
      if (!read_only_) lock();
      begin(path, key, scalar_bytes, rows);
    } catch (...) {
      ::close(descriptor_);
      throw;
    }
  }
  CheckpointFile(const CheckpointFile&) = delete;
  CheckpointFile& operator=(const CheckpointFile&) = delete;
  ~CheckpointFile() { ::close(descriptor_); }

  /// Whether no whole record is left to be read; one that is torn is cut off here.
  [[nodiscard]] bool at_end() {
    if (position_ == size_) return true;
    if (whole_record_left()) return false;
    if (!read_only_) cut();
    return true;
  }

  /// Steps over the next record, if not at_end(). Its rows are not read,
  /// but for those of the last one, which are checked.
  [[nodiscard]] RecordPlace skip() {
    const Head head = read_head();
    const RecordPlace place{head.part, position_ + sizeof(Head), head.bytes, head.sum};
    std::uint64_t sum = 0;
    read(std::as_writable_bytes(std::span(&sum, 1)), place.at + place.bytes);
    move_on(static_cast<std::size_t>(head.bytes), sum);
    return place;
  }

  /// Reads the first bytes of a record's rows, unchecked.
  void read_first(const RecordPlace& place, std::span<std::byte> bytes) const {
    TWOHEADS_ASSERT(bytes.size() <= place.bytes);
    read(bytes, place.at);
  }

  /// Reads all rows of a record that skip() found.
  void read_all(const RecordPlace& place, std::span<std::byte> bytes) const {
    TWOHEADS_ASSERT(bytes.size() == place.bytes);
    read(bytes, place.at);
    std::uint64_t sum = 0;
    read(std::as_writable_bytes(std::span(&sum, 1)), place.at + place.bytes);
    if (sum != hash_of(bytes, place.sum)) throw damage(place, "holds rows that do not fit their checksum");
  }

  [[nodiscard]] FormatError damage(const RecordPlace& place, const std::string& what) const {
    return damage(place.at - sizeof(Head), what);
  }

  /// Reads the next record, which must be of this part, into `bytes`.
  void take(const PartRecord& part, std::span<std::byte> bytes) {
    const Head head = read_head();
    if (head.part != part) {
      PartRecord same = head.part;
      same.inputs = part.inputs;
      throw damage(same == part
                       ? text("holds ", words_of(part), ", computed from other queries, keys, values or tokens")
                       : text("holds ", words_of(head.part), ", expected ", words_of(part)));
    }
    if (bytes_after(head) != bytes.size() + sizeof(std::uint64_t))
      throw damage(text("holds ", head.bytes, " bytes of rows, expected ", bytes.size()));
    read(bytes, position_ + sizeof(Head));
    std::uint64_t sum = 0;
    read(std::as_writable_bytes(std::span(&sum, 1)), position_ + sizeof(Head) + bytes.size());
    if (sum != hash_of(bytes, head.sum)) throw damage("holds rows that do not fit their checksum");
    move_on(bytes.size(), sum);
  }

  /// Writes a record; where that fails, the file stays as it was.
  void append(const PartRecord& part, std::span<const std::byte> bytes) {
    TWOHEADS_ASSERT(position_ == size_);
    Head head{record_mark, part, bytes.size(), 0};
    head.sum = sum_of(head);
    const std::uint64_t sum = hash_of(bytes, head.sum);
    try {
      write(std::as_bytes(std::span(&head, 1)), position_);
      write(bytes, position_ + sizeof(Head));
      write(std::as_bytes(std::span(&sum, 1)), position_ + sizeof(Head) + bytes.size());
      flush();
    } catch (const FileError&) {
      // What is left of the record would be cut off by the next reader in any case.
      static_cast<void>(::ftruncate(descriptor_, static_cast<off_t>(position_)) == 0);
      throw;
    }
    size_ += sizeof(Head) + bytes.size() + sizeof(sum);
    move_on(bytes.size(), sum);
  }

 private:
  static constexpr std::string_view magic = "2HEADSCP";
  static constexpr std::uint64_t version = 1;
  static constexpr std::uint64_t record_mark = 0x5452415044414532ULL;

  /// Words without a gap between them.
  struct Head {
    std::uint64_t mark = 0;
    PartRecord part;
    std::uint64_t bytes = 0;
    std::uint64_t sum = 0;
  };
  static_assert(sizeof(Head) == 9 * sizeof(std::uint64_t));

  void lock() {
    while (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
      if (errno == EINTR) continue;
      if (errno == EWOULDBLOCK) throw FileError(text(name_, ": in use by another run, expected one run a file"));
      throw failure("cannot be locked");
    }
  }

  /// Reads the header, or writes one into a file that is new.
  void begin(const std::filesystem::path& path, const std::string& key, std::uint64_t scalar_bytes,
             std::uint64_t rows) {
    struct stat facts {};
    if (::fstat(descriptor_, &facts) != 0) throw failure("cannot be examined");
    if (!S_ISREG(facts.st_mode)) throw FileError(text(name_, ": not a regular file"));
    size_ = static_cast<std::uint64_t>(facts.st_size);

    const std::string expected = header(key, scalar_bytes, rows);
    std::string found(std::min<std::uint64_t>(size_, expected.size()), ' ');
    read(std::as_writable_bytes(std::span(found)), 0);
    if (size_ < expected.size() && expected.compare(0, found.size(), found) == 0) {
      if (read_only_) {
        position_ = size_;
        return;
      }
      write(std::as_bytes(std::span(expected)), 0);
      flush();
      flush_folder(path);
      size_ = expected.size();
    } else if (found != expected) {
      explain_header(key, scalar_bytes, rows);
    }
    position_ = expected.size();
    std::memcpy(&sum_, expected.data() + expected.size() - sizeof(sum_), sizeof(sum_));
  }

  [[nodiscard]] static std::string header(const std::string& key, std::uint64_t scalar_bytes, std::uint64_t rows) {
    std::string bytes(magic);
    const auto add = [&](std::uint64_t number) {
      bytes.append(reinterpret_cast<const char*>(&number), sizeof(number));
    };
    for (const std::uint64_t number : {version, scalar_bytes, rows, std::uint64_t{key.size()}}) add(number);
    bytes += key;
    add(hash_of(std::as_bytes(std::span(bytes)), 0));
    return bytes;
  }

  /// Says in what a header differs from the one expected.
  [[noreturn]] void explain_header(const std::string& key, std::uint64_t scalar_bytes, std::uint64_t rows) const {
    constexpr std::uint64_t fixed = magic.size() + 4 * sizeof(std::uint64_t);
    const auto wrong = [&](const std::string& what) { throw FormatError(name_ + ": " + what); };
    std::array<char, magic.size()> mark{};
    std::array<std::uint64_t, 4> numbers{};
    if (size_ < fixed) wrong(text("not a checkpoint: ", size_, " bytes"));
    read(std::as_writable_bytes(std::span(mark)), 0);
    read(std::as_writable_bytes(std::span(numbers)), magic.size());
    if (std::string_view(mark.data(), mark.size()) != magic) wrong("not a checkpoint");
    if (numbers[0] != version) wrong(text("a checkpoint of version ", numbers[0], ", expected ", version));
    // Another run's key is shown, and is a line of words: what is longer has no place in memory.
    constexpr std::uint64_t longest_key = std::uint64_t{1} << 20;
    if (numbers[3] > std::min(size_ - fixed, longest_key)) wrong("the header is damaged");
    std::string found(numbers[3], ' ');
    read(std::as_writable_bytes(std::span(found)), fixed);
    const std::string whole = header(found, numbers[1], numbers[2]);
    std::string bytes(std::min<std::uint64_t>(whole.size(), size_), ' ');
    read(std::as_writable_bytes(std::span(bytes)), 0);
    if (bytes != whole) wrong("the header is damaged");
    if (found != key) wrong("of another computation: " + difference_of(found, key));
    if (numbers[1] != scalar_bytes)
      wrong(text("holds numbers of ", numbers[1], " bytes, expected ", scalar_bytes, " bytes"));
    if (numbers[2] == 0) wrong("of a run on ranks of MPI, expected one of a run without");
    if (rows == 0) wrong("of a run without ranks of MPI, expected one of a run on ranks");
    wrong(text("holds parts of ", numbers[2], " rows or more, expected ", rows));
    throw std::logic_error("unreachable");
  }

  /// Whether there is a record, and it is not the last one that a machine that stopped left half written: too short, of
  /// zeros where its bytes did not reach the disk, or the last and with a wrong checksum.
  [[nodiscard]] bool whole_record_left() const {
    if (size_ - position_ < sizeof(Head)) return false;
    Head head;
    read(std::as_writable_bytes(std::span(&head, 1)), position_);
    const bool sound = head.mark == record_mark && head.sum == sum_of(head);
    if (!sound && only_zeros(position_ + sizeof(Head))) return false;
    head = read_head();
    const std::uint64_t left = size_ - position_ - sizeof(Head);
    if (left != bytes_after(head)) return left > bytes_after(head);
    std::vector<std::byte> bytes(static_cast<std::size_t>(head.bytes));
    read(bytes, position_ + sizeof(Head));
    std::uint64_t sum = 0;
    read(std::as_writable_bytes(std::span(&sum, 1)), size_ - sizeof(sum));
    return sum == hash_of(bytes, head.sum);
  }

  [[nodiscard]] bool only_zeros(std::uint64_t from) const {
    std::array<std::byte, 4096> bytes{};
    for (std::uint64_t at = from; at < size_; at += bytes.size()) {
      const std::span<std::byte> piece = std::span(bytes).first(std::min<std::uint64_t>(bytes.size(), size_ - at));
      read(piece, at);
      if (std::any_of(piece.begin(), piece.end(), [](std::byte byte) { return byte != std::byte{0}; })) return false;
    }
    return true;
  }

  [[nodiscard]] std::uint64_t sum_of(const Head& head) const {
    return hash_of(std::as_bytes(std::span(&head, 1)).first(sizeof(Head) - sizeof(head.sum)), sum_);
  }

  [[nodiscard]] Head read_head() const {
    Head head;
    read(std::as_writable_bytes(std::span(&head, 1)), position_);
    if (head.mark != record_mark || head.sum != sum_of(head)) throw damage("is not the beginning of a sound record");
    return head;
  }
  [[nodiscard]] static std::uint64_t bytes_after(const Head& head) {
    return std::min(head.bytes, std::numeric_limits<std::uint64_t>::max() / 2) + sizeof(std::uint64_t);
  }

  void move_on(std::size_t bytes, std::uint64_t sum) {
    position_ += sizeof(Head) + bytes + sizeof(sum);
    sum_ = sum;
  }

  void cut() {
    if (::ftruncate(descriptor_, static_cast<off_t>(position_)) != 0) throw failure("a torn record cannot be cut off");
    flush();
    size_ = position_;
  }

  void read(std::span<std::byte> bytes, std::uint64_t at) const {
    while (!bytes.empty()) {
      const ssize_t count = ::pread(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(at));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) throw failure("cannot be read");
      if (count == 0) throw FormatError(text(name_, ": ends at byte ", at, ", and was longer before"));
      bytes = bytes.subspan(static_cast<std::size_t>(count));
      at += static_cast<std::uint64_t>(count);
    }
  }

  void write(std::span<const std::byte> bytes, std::uint64_t at) const {
    while (!bytes.empty()) {
      const ssize_t count = ::pwrite(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(at));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) throw failure("cannot be written");
      bytes = bytes.subspan(static_cast<std::size_t>(count));
      at += static_cast<std::uint64_t>(count);
    }
  }

  void flush() const {
    if (sync_ && ::fsync(descriptor_) != 0) throw failure("cannot be flushed to the disk");
  }

  /// So that a new file is found again after a power failure.
  void flush_folder(const std::filesystem::path& path) const {
    if (!sync_) return;
    const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
    const int opened = ::open(folder.c_str(), O_RDONLY | O_CLOEXEC);
    if (opened < 0) return;
    static_cast<void>(::fsync(opened) == 0);
    ::close(opened);
  }

  [[nodiscard]] FileError failure(const char* what) const {
    return FileError(text(name_, ": ", what, ": ", std::generic_category().message(errno)));
  }
  [[nodiscard]] FormatError damage(const std::string& what) const { return damage(position_, what); }
  [[nodiscard]] FormatError damage(std::uint64_t at, const std::string& what) const {
    return FormatError(text(name_, ": what follows byte ", at, " ", what));
  }

  std::string name_;
  bool sync_;
  bool read_only_;
  int descriptor_ = -1;
  std::uint64_t size_ = 0;
  std::uint64_t position_ = 0;  ///< of the next record
  std::uint64_t sum_ = 0;       ///< the last checksum before it
};

}  // namespace detail
}  // namespace twoheads
