#pragma once

#include <cmath>
#include <cstdio>
#include <iostream>
#include <string>
#include <twoheads/train/training_state.hpp>

#include "support/progress.hpp"
#include "support/terminal.hpp"

namespace programs {

using twoheads::Index;

/// What a run says of itself on standard error: a line that changes on a terminal, else a line every so many steps.
class TrainingProgress {
 public:
  explicit TrainingProgress(Index steps) : steps_(steps), terminal_(standard_error_is_terminal()) {}
  ~TrainingProgress() { end_line(); }
  TrainingProgress(const TrainingProgress&) = delete;
  TrainingProgress& operator=(const TrainingProgress&) = delete;

  /// A step is done; `speed` is in tokens a second.
  void step(const twoheads::TrainingPoint& point, double speed, double seconds_left) {
    const bool last = point.step == steps_;
    if (!terminal_ && !last && !std::isfinite(point.held_out) && point.step % quiet_steps != 0) return;
    std::string words = "step " + std::to_string(point.step) + " of " + std::to_string(steps_) + ", loss " +
                        fixed(point.loss, 4) + " nats, " + fixed(speed, 0) + " tokens/s, " + clock_words(seconds_left) +
                        " left";
    if (std::isfinite(point.held_out)) held_out_ = ", held out " + fixed(point.held_out, 4) + " bits a byte";
    words += held_out_;
    if (!terminal_) {
      std::cerr << words << "\n";
      held_out_.clear();
      return;
    }
    line_.show(words);
  }

  /// Before anything else is said.
  void end_line() { line_.end(); }

 private:
  static constexpr Index quiet_steps = 50;

  static std::string fixed(double value, int digits) {
    char buffer[64];
    std::snprintf(buffer, sizeof(buffer), "%.*f", digits, value);
    return buffer;
  }

  Index steps_;
  bool terminal_;
  TerminalLine line_{std::cerr};
  std::string held_out_;
};

}  // namespace programs
