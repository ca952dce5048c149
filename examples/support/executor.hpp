#pragma once

#include <twoheads/base/index.hpp>
#include <twoheads/exec/executor.hpp>

#ifdef TWOHEADS_WITH_THREADS
#include <optional>
#include <twoheads/exec/threads.hpp>
#endif

namespace programs {

using twoheads::Index;

#ifdef TWOHEADS_WITH_THREADS

/// What --threads n asks for: Serial for 1, else Threads(n). One type for both, so that what runs on it is compiled once.
class Executor {
 public:
  static constexpr bool concurrent = true;

  explicit Executor(Index threads) {
    if (threads > 1) threads_.emplace(threads);
  }

  [[nodiscard]] Index threads() const { return threads_ ? threads_->threads() : 1; }

  template <class... Parts>
  void for_each(const Parts&... parts) const {
    threads_ ? threads_->for_each(parts...) : twoheads::Serial().for_each(parts...);
  }
  template <class... Parts>
  void in_order(const Parts&... parts) const {
    threads_ ? threads_->in_order(parts...) : twoheads::Serial().in_order(parts...);
  }

 private:
  std::optional<twoheads::Threads> threads_;
};

#else

/// What --threads n asks for: only 1 can be had without oneTBB.
struct Executor : twoheads::Serial {
  explicit Executor(Index) {}
};

#endif

static_assert(twoheads::Executor<Executor>);

}  // namespace programs
