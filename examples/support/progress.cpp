#include "support/progress.hpp"

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <utility>

#include "support/terminal.hpp"

namespace programs {

std::string clock_words(double seconds) {
  const auto whole = static_cast<long long>(std::clamp(seconds, 0.0, 3.0e8));
  char words[64];
  std::snprintf(words, sizeof(words), "%lld:%02lld:%02lld", whole / 3600, whole / 60 % 60, whole % 60);
  return words;
}

void TerminalLine::show(const std::string& words) {
  out_ << "\r" << words << std::string(longest_ > words.size() ? longest_ - words.size() : 0, ' ') << std::flush;
  longest_ = std::max(longest_, words.size());
}

void TerminalLine::end() {
  if (longest_ > 0) out_ << "\n" << std::flush;
  longest_ = 0;
}

void TerminalLine::clear() {
  if (longest_ > 0) out_ << "\r" << std::string(longest_, ' ') << "\r" << std::flush;
  longest_ = 0;
}

Progress::Progress(std::string what, bool wanted)
    : what_(std::move(what)),
      shown_(wanted && standard_error_is_terminal()),
      patience_(2),
      pause_(0.2),
      line_(std::cerr) {}

Progress::Progress(std::string what, std::ostream& out, double patience, double pause)
    : what_(std::move(what)), shown_(true), patience_(patience), pause_(pause), line_(out) {}

void Progress::begin(double work, Pieces pieces) {
  finish();
  pieces_ = pieces;
  begun_ = Clock::now();
  done_ = 0;
  next_ = patience_;
  work_ = work;
}

void Progress::skip(double work) { work_ = std::max(work_ - work, 0.0); }

void Progress::finish() {
  const std::lock_guard lock(mutex_);
  work_ = 0;
  line_.clear();
}

void Progress::tell(double work) {
  const double done = done_.fetch_add(work) + work;
  const double all = work_;
  const double now = seconds();
  if (!(all > 0) || now < next_) return;
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock() || now < next_) return;
  next_ = now + pause_;
  const double share = std::min(done / all, 1.0);
  line_.show(what_ + ": " + std::to_string(static_cast<int>(100 * share)) + " %, " +
             clock_words(now * (1 - share) / share) + " left");
}

}  // namespace programs
