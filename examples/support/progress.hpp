#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <iosfwd>
#include <mutex>
#include <string>

namespace programs {

/// Seconds as hours, minutes and seconds: 0:01:23.
[[nodiscard]] std::string clock_words(double seconds);

/// A line of a terminal that is written over again and again.
class TerminalLine {
 public:
  explicit TerminalLine(std::ostream& out) : out_(out) {}

  void show(const std::string& words);
  /// Leaves the words where they are; what is said next begins on a line of its own.
  void end();
  /// Leaves nothing.
  void clear();

 private:
  std::ostream& out_;
  std::size_t longest_ = 0;
};

/// How far a piece of work has come and what time is left, on a line of standard error that is gone in the end. There
/// is none where standard error is no terminal, and none of work that is done in two seconds.
///
///   Units    work in anything that takes about the same time each: calls, tiles, pairs of a query and a key
///   Laws     add() and add_piece() may be called by several threads at once,
///            and cost next to nothing between two lines
class Progress {
 public:
  /// Pieces that an executor runs: of about the same size, or each smaller than the one before by as much.
  enum class Pieces { even, shrinking };

  /// `what` stands before the figures; nothing is shown unless it is `wanted`.
  explicit Progress(std::string what, bool wanted = true);
  /// On another stream, whatever it is: first after `patience` seconds, then every `pause` seconds.
  Progress(std::string what, std::ostream& out, double patience, double pause);
  ~Progress() { finish(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Whether anybody looks on: what counts work need not be made where nobody does.
  [[nodiscard]] bool shown() const { return shown_; }

  /// Work begins, so much of it.
  void begin(double work, Pieces pieces = Pieces::even);
  /// So much more of it is done.
  void add(double work) {
    if (shown_) tell(work);
  }
  /// A piece is done, of so many.
  void add_piece(long long piece, long long count) {
    if (shown_) tell(pieces_ == Pieces::even ? 1.0 : static_cast<double>(count - piece));
  }
  /// What so many pieces come to, added one by one.
  [[nodiscard]] static double work_of_pieces(double count, Pieces pieces) {
    return pieces == Pieces::even ? count : count * (count + 1) / 2;
  }
  /// So much of it need not be done.
  void skip(double work);
  /// The work is done, or given up.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;

  void tell(double work);
  [[nodiscard]] double seconds() const { return std::chrono::duration<double>(Clock::now() - begun_).count(); }

  std::string what_;
  bool shown_;
  Pieces pieces_ = Pieces::even;
  double patience_;
  double pause_;
  Clock::time_point begun_ = Clock::now();
  std::atomic<double> work_ = 0;  ///< 0: none has begun
  std::atomic<double> done_ = 0;
  std::atomic<double> next_ = 0;  ///< seconds from the beginning at which a line is due
  std::mutex mutex_;
  TerminalLine line_;
};

}  // namespace programs
