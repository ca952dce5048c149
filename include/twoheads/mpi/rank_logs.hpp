#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/exec/checkpoint_file.hpp>
#include <utility>
#include <vector>

namespace twoheads::detail {

/// A record of one of the logs.
struct LoggedRows {
  Index log = 0;
  RecordPlace place;
};

/// The files of a checkpoint of runs on ranks: PATH, which a run locks, and a log for each rank that has written
/// anything, PATH.0, PATH.1, ... A record holds rows of one layer: how many ranges they are, the ranges, the rows.
///
///   Laws     a rank appends to a log that it made itself; those of earlier runs are only read
///   Throws   as CheckpointFile
class RankLogs {
 public:
  RankLogs(std::filesystem::path path, std::string key, std::uint64_t scalar_bytes, bool sync)
      : path_(std::move(path)), key_(std::move(key)), scalar_bytes_(scalar_bytes), sync_(sync) {}

  /// Locks PATH for as long as this lives, and makes it where there is none.
  void lock() { lock_.emplace(path_, key_, scalar_bytes_, 0, sync_); }

  /// Finds the records of all logs. Returns a number beyond those of all logs.
  [[nodiscard]] Index look() {
    if (!lock_) static_cast<void>(open(path_, CheckpointAccess::read));
    std::vector<Index> logs = numbers();
    std::sort(logs.begin(), logs.end());
    for (const Index log : logs) {
      CheckpointFile file = open(log_path(log), CheckpointAccess::read);
      while (!file.at_end()) {
        const RecordPlace place = file.skip();
        records_[place.part.turn].push_back({log, place});
      }
    }
    return logs.empty() ? 0 : logs.back() + 1;
  }

  /// The number of this rank's own log, or the first one behind that is free, `step` apart.
  void set_own(Index number, Index step) {
    own_ = number;
    step_ = step;
  }

  /// The records of a layer, in the order of the logs.
  [[nodiscard]] std::span<const LoggedRows> of_turn(std::uint64_t turn) const {
    const auto found = records_.find(turn);
    return found == records_.end() ? std::span<const LoggedRows>() : std::span<const LoggedRows>(found->second);
  }

  /// What is wrong with a record.
  [[nodiscard]] FormatError other(const LoggedRows& record, const std::string& what) {
    return opened(record.log).damage(record.place, what);
  }

  /// Which rows a record holds. They are known for certain only when it is read.
  [[nodiscard]] std::vector<Rows> ranges(const LoggedRows& record) {
    const CheckpointFile& file = opened(record.log);
    std::uint64_t count = 0;
    if (record.place.bytes >= sizeof(count))
      file.read_first(record.place, std::as_writable_bytes(std::span(&count, 1)));
    const std::uint64_t most = record.place.bytes / (2 * sizeof(std::uint64_t));
    bytes_.resize(static_cast<std::size_t>(sizeof(count) * (1 + 2 * std::min(count, most))));
    if (count == 0 || bytes_.size() > record.place.bytes) throw file.damage(record.place, "holds no rows");
    file.read_first(record.place, bytes_);
    return ranges_of(file, record);
  }

  /// Calls visit(rows, first scalar) for each range of a record.
  template <class Scalar, class Visit>
  void read(const LoggedRows& record, std::vector<Scalar>& room, const Visit& visit) {
    const CheckpointFile& file = opened(record.log);
    bytes_.resize(static_cast<std::size_t>(record.place.bytes));
    file.read_all(record.place, bytes_);
    const std::vector<Rows> ranges = ranges_of(file, record);
    const std::size_t front = sizeof(std::uint64_t) * (1 + 2 * ranges.size());
    room.resize((bytes_.size() - front) / sizeof(Scalar));
    std::memcpy(room.data(), bytes_.data() + front, room.size() * sizeof(Scalar));
    const auto cols = static_cast<Index>(record.place.part.cols);
    const Scalar* first = room.data();
    for (const Rows& rows : ranges) {
      visit(rows, first);
      first += rows.size() * cols;
    }
  }

  /// Begins a record of some ranges; its rows, so many bytes together, are to be added in their order.
  void begin(std::span<const Rows> ranges, std::size_t bytes) {
    bytes_.resize(sizeof(std::uint64_t) * (1 + 2 * ranges.size()) + bytes);
    filled_ = 0;
    add(std::uint64_t{ranges.size()});
    for (const Rows& rows : ranges) {
      add(static_cast<std::uint64_t>(rows.begin));
      add(static_cast<std::uint64_t>(rows.end));
    }
  }
  void add(std::span<const std::byte> row) {
    TWOHEADS_ASSERT(row.size() <= bytes_.size() - filled_);
    std::memcpy(bytes_.data() + filled_, row.data(), row.size());
    filled_ += row.size();
  }

  /// Writes it to this rank's log.
  void append(const PartRecord& part) {
    TWOHEADS_ASSERT(filled_ == bytes_.size());
    if (!log_) {
      while (std::filesystem::exists(log_path(own_))) own_ += step_;
      log_.emplace(log_path(own_), key_, scalar_bytes_, 0, sync_, CheckpointAccess::fresh);
    }
    log_->append(part, bytes_);
  }

 private:
  [[nodiscard]] CheckpointFile open(const std::filesystem::path& path, CheckpointAccess access) const {
    return CheckpointFile(path, key_, scalar_bytes_, 0, sync_, access);
  }

  [[nodiscard]] std::filesystem::path log_path(Index log) const {
    std::filesystem::path path = path_;
    path += text(".", log);
    return path;
  }

  /// Of the logs that there are.
  [[nodiscard]] std::vector<Index> numbers() const {
    const std::string front = path_.filename().string() + ".";
    const std::filesystem::path folder = path_.has_parent_path() ? path_.parent_path() : std::filesystem::path(".");
    std::vector<Index> found;
    std::error_code failed;
    std::filesystem::directory_iterator entry(folder, failed);
    for (; !failed && entry != std::filesystem::directory_iterator(); entry.increment(failed)) {
      const std::string name = entry->path().filename().string();
      if (name.size() <= front.size() || name.size() > front.size() + 18 || name.compare(0, front.size(), front) != 0)
        continue;
      const std::string_view digits = std::string_view(name).substr(front.size());
      if (digits.find_first_not_of("0123456789") != std::string_view::npos) continue;
      if (digits.size() > 1 && digits[0] == '0') continue;
      Index number = 0;
      for (const char digit : digits) number = 10 * number + (digit - '0');
      found.push_back(number);
    }
    if (failed) throw FileError(text(folder.string(), ": cannot be listed: ", failed.message()));
    return found;
  }

  [[nodiscard]] const CheckpointFile& opened(Index log) {
    if (!reading_ || reading_log_ != log) {
      reading_.emplace(log_path(log), key_, scalar_bytes_, 0, sync_, CheckpointAccess::read);
      reading_log_ = log;
    }
    return *reading_;
  }

  /// The ranges at the front of a record's bytes.
  [[nodiscard]] std::vector<Rows> ranges_of(const CheckpointFile& file, const LoggedRows& record) const {
    const PartRecord& part = record.place.part;
    const auto word = [&](std::uint64_t at) {
      std::uint64_t value = 0;
      std::memcpy(&value, bytes_.data() + at * sizeof(value), sizeof(value));
      return value;
    };
    const auto refuse = [&] { return file.damage(record.place, "holds other rows than it says"); };
    if (bytes_.size() < sizeof(std::uint64_t) || word(0) > (bytes_.size() / sizeof(std::uint64_t) - 1) / 2)
      throw refuse();
    std::vector<Rows> ranges;
    std::uint64_t count = 0;
    for (std::uint64_t range = 0; range < word(0); ++range) {
      const std::uint64_t begin = word(1 + 2 * range);
      const std::uint64_t end = word(2 + 2 * range);
      if (begin < part.first || begin >= end || end > part.end) throw refuse();
      ranges.push_back({static_cast<Index>(begin), static_cast<Index>(end)});
      count += end - begin;
    }
    if (record.place.bytes != sizeof(std::uint64_t) * (1 + 2 * word(0)) + count * part.cols * scalar_bytes_)
      throw refuse();
    return ranges;
  }

  void add(std::uint64_t word) { add(std::as_bytes(std::span(&word, 1))); }

  std::filesystem::path path_;
  std::string key_;
  std::uint64_t scalar_bytes_;
  bool sync_;
  std::optional<CheckpointFile> lock_;
  std::map<std::uint64_t, std::vector<LoggedRows>> records_;  ///< of earlier runs, by turn
  std::optional<CheckpointFile> reading_;
  Index reading_log_ = 0;
  std::optional<CheckpointFile> log_;  ///< this rank's own, when it has written anything
  Index own_ = 0;
  Index step_ = 1;
  std::vector<std::byte> bytes_;  ///< of the record in work
  std::size_t filled_ = 0;        ///< of these, when it is to be written
};

}  // namespace twoheads::detail
