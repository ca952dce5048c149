#pragma once

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <string>
#include <twoheads/train/training_state.hpp>

namespace programs {

using twoheads::Index;

/// What a run says of itself on standard error: a line that changes on a terminal, else a line every so many steps.
class TrainingProgress {
 public:
  explicit TrainingProgress(Index steps) : steps_(steps), terminal_(::isatty(STDERR_FILENO) != 0) {}
  ~TrainingProgress() { end_line(); }
  TrainingProgress(const TrainingProgress&) = delete;
  TrainingProgress& operator=(const TrainingProgress&) = delete;

  /// A step is done; `speed` is in tokens a second.
  void step(const twoheads::TrainingPoint& point, double speed, double seconds_left) {
    const bool last = point.step == steps_;
    if (!terminal_ && !last && !std::isfinite(point.held_out) && point.step % quiet_steps != 0) return;
    std::string words = "step " + std::to_string(point.step) + " of " + std::to_string(steps_) + ", loss " +
                        fixed(point.loss, 4) + " nats, " + fixed(speed, 0) + " tokens/s, " + time(seconds_left) +
                        " left";
    if (std::isfinite(point.held_out)) held_out_ = ", held out " + fixed(point.held_out, 4) + " bits a byte";
    words += held_out_;
    if (!terminal_) {
      std::cerr << words << "\n";
      held_out_.clear();
      return;
    }
    std::cerr << "\r" << words << std::string(longest_ > words.size() ? longest_ - words.size() : 0, ' ') << std::flush;
    longest_ = std::max(longest_, words.size());
  }

  /// Before anything else is said.
  void end_line() {
    if (longest_ > 0) std::cerr << "\n";
    longest_ = 0;
  }

 private:
  static constexpr Index quiet_steps = 50;

  static std::string fixed(double value, int digits) {
    char buffer[64];
    std::snprintf(buffer, sizeof(buffer), "%.*f", digits, value);
    return buffer;
  }
  static std::string time(double seconds) {
    const auto whole = static_cast<long long>(std::min(seconds, 3.0e8));
    const auto two = [](long long number) { return (number < 10 ? "0" : "") + std::to_string(number); };
    return std::to_string(whole / 3600) + ":" + two(whole / 60 % 60) + ":" + two(whole % 60);
  }

  Index steps_;
  bool terminal_;
  std::size_t longest_ = 0;
  std::string held_out_;
};

}  // namespace programs
