#pragma once

#include <twoheads/base/index.hpp>
#include <twoheads/exec/executor.hpp>
#include <utility>
#include <vector>

#include "support/progress.hpp"

#ifdef TWOHEADS_WITH_THREADS
#include <optional>
#include <twoheads/exec/threads.hpp>
#endif

namespace programs {

using twoheads::Index;

namespace detail {

/// How much an item of work counts: batches of jobs as many as there are jobs.
template <class Item>
[[nodiscard]] double work_of(const Item&) {
  return 1;
}
template <class Job>
[[nodiscard]] double work_of(const std::vector<std::vector<Job>>& batches) {
  std::size_t jobs = 0;
  for (const std::vector<Job>& batch : batches) jobs += batch.size();
  return static_cast<double>(jobs);
}

}  // namespace detail

/// What --threads n asks for: Serial for 1, else Threads(n). One type for both, so that what runs on it is compiled
/// once. Progress, where there is one, is told of each piece that is done; it must outlive the executor.
class Executor {
 public:
#ifdef TWOHEADS_WITH_THREADS
  static constexpr bool concurrent = true;

  explicit Executor(Index threads, Progress* progress = nullptr) : progress_(progress) {
    if (threads > 1) threads_.emplace(threads);
  }

  [[nodiscard]] Index threads() const { return threads_ ? threads_->threads() : 1; }
#else
  static constexpr bool concurrent = false;

  /// Only 1 thread can be had without oneTBB.
  explicit Executor(Index, Progress* progress = nullptr) : progress_(progress) {}

  [[nodiscard]] Index threads() const { return 1; }
#endif

  template <class MakeLocal, class Body>
  void for_each(Index count, const MakeLocal& make_local, const Body& body) const {
    run([&](const auto& exec) {
      exec.for_each(count, make_local, [&](auto& local, Index piece) {
        body(local, piece);
        if (progress_ != nullptr) progress_->add_piece(piece, count);
      });
    });
  }

  template <class MakeLocal, class Next, class Work, class Take>
  void in_order(const MakeLocal& make_local, const Next& next, const Work& work, const Take& take) const {
    run([&](const auto& exec) {
      exec.in_order(make_local, next, work, [&](auto& item, auto&& result) {
        const double done = progress_ == nullptr ? 0 : detail::work_of(item);
        take(item, std::forward<decltype(result)>(result));
        if (progress_ != nullptr) progress_->add(done);
      });
    });
  }

 private:
  template <class Use>
  void run(const Use& use) const {
#ifdef TWOHEADS_WITH_THREADS
    if (threads_) return use(*threads_);
#endif
    use(twoheads::Serial());
  }

#ifdef TWOHEADS_WITH_THREADS
  std::optional<twoheads::Threads> threads_;
#endif
  Progress* progress_;
};

static_assert(twoheads::Executor<Executor>);

}  // namespace programs
