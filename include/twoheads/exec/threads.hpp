#pragma once

#include <tbb/global_control.h>
#include <tbb/info.h>
#include <tbb/parallel_for.h>
#include <tbb/parallel_pipeline.h>
#include <tbb/partitioner.h>
#include <tbb/task_arena.h>
#include <tbb/task_group.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/exec/executor.hpp>
#include <type_traits>
#include <utility>
#include <vector>

namespace twoheads {
namespace detail {

/// While it lives, oneTBB may run so many threads, also where the machine has fewer cores. A limit that the program
/// has set itself with tbb::global_control stays: the lowest one counts.
///
/// Several of these must not limit each other, so one control stands for all of them.
class RoomForThreads {
 public:
  explicit RoomForThreads(Index count) : count_(count) {
    Shared& all = shared();
    const std::lock_guard lock(all.mutex);
    all.counts.insert(count_);
    all.renew();
  }
  ~RoomForThreads() {
    Shared& all = shared();
    const std::lock_guard lock(all.mutex);
    all.counts.erase(all.counts.find(count_));
    all.renew();
  }
  RoomForThreads(const RoomForThreads&) = delete;
  RoomForThreads& operator=(const RoomForThreads&) = delete;

 private:
  struct Shared {
    std::mutex mutex;
    std::multiset<Index> counts;
    std::unique_ptr<tbb::global_control> control;

    void renew() {
      const Index most = counts.empty() ? 0 : *counts.rbegin();
      std::unique_ptr<tbb::global_control> next;
      // A control of no more than the cores would take threads from everyone else.
      if (most > tbb::info::default_concurrency())
        next = std::make_unique<tbb::global_control>(tbb::global_control::max_allowed_parallelism,
                                                     static_cast<std::size_t>(most));
      control = std::move(next);
    }
  };
  static Shared& shared() {
    static Shared all;
    return all;
  }

  Index count_;
};

/// Locals that no piece of work uses at the moment.
template <class Local>
class LocalPool {
 public:
  template <class MakeLocal>
  [[nodiscard]] std::unique_ptr<Local> take(const MakeLocal& make_local) {
    {
      const std::lock_guard lock(mutex_);
      if (!free_.empty()) {
        std::unique_ptr<Local> local = std::move(free_.back());
        free_.pop_back();
        return local;
      }
    }
    return std::unique_ptr<Local>(new Local(make_local()));
  }
  void give_back(std::unique_ptr<Local> local) {
    const std::lock_guard lock(mutex_);
    free_.push_back(std::move(local));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Local>> free_;
};

}  // namespace detail

/// Runs pieces of work on oneTBB's threads. Copies share their threads.
///
///   Laws     those of Executor. Rounding mode and treatment of subnormal numbers are those of the caller on every
///            thread. A body or work() that uses oneTBB itself is handed no other piece while it waits; work of the
///            caller that is cancelled does not cancel these pieces.
///   Corner   more threads than cores are really so many, unless the program limits them by a tbb::global_control.
///            in_order() holds two items a thread.
///   Throws   SpecError for fewer than 1 thread, or more than 4096
class Threads {
 public:
  static constexpr bool concurrent = true;

  /// Threads of its own, the caller's among them.
  explicit Threads(Index count) : own_(std::make_shared<Own>(require_count(count))) {}

  /// The threads of the tbb::task_arena in which the pieces of work are asked for: that of the user, or oneTBB's own.
  [[nodiscard]] static Threads of_caller() { return Threads(); }

  /// Pieces of work that may run at once.
  [[nodiscard]] Index threads() const { return own_ ? own_->count : tbb::this_task_arena::max_concurrency(); }

  template <class MakeLocal, class Body>
  void for_each(Index count, const MakeLocal& make_local, const Body& body) const {
    if (count < 1) return;
    std::atomic<Index> next = 0;
    const auto one_thread = [&](Index) {
      Index piece = next++;
      if (piece >= count) return;
      try {
        auto local = make_local();
        for (; piece < count; piece = next++) tbb::this_task_arena::isolate([&] { body(local, piece); });
      } catch (...) {
        next = count;
        throw;
      }
    };
    run([&](tbb::task_group_context& context) {
      tbb::parallel_for(Index{0}, std::min(threads(), count), one_thread, tbb::simple_partitioner(), context);
    });
  }

  template <class MakeLocal, class Next, class Work, class Take>
  void in_order(const MakeLocal& make_local, const Next& next, const Work& work, const Take& take) const {
    using Local = std::decay_t<std::invoke_result_t<const MakeLocal&>>;
    using Given = std::decay_t<std::invoke_result_t<const Next&>>;
    using Result = std::decay_t<std::invoke_result_t<const Work&, Local&, decltype(*std::declval<Given&>())>>;
    struct Piece {
      explicit Piece(Given g) : given(std::move(g)) {}
      Given given;
      std::optional<Result> result;
    };
    // Items leave in the order in which they come, so those in flight have places of their own in a ring. Items that
    // the pipeline owned itself would be lost, not destroyed, when something throws.
    std::vector<std::optional<Piece>> ring(static_cast<std::size_t>(2 * threads()));
    std::size_t count = 0;
    using Token = std::optional<Piece>*;

    detail::LocalPool<Local> locals;
    const auto source = [&](tbb::flow_control& flow) -> Token {
      Given given = tbb::this_task_arena::isolate([&] { return next(); });
      if (!given) {
        flow.stop();
        return nullptr;
      }
      const Token token = &ring[count++ % ring.size()];
      token->emplace(std::move(given));
      return token;
    };
    const auto worked = [&](Token token) {
      tbb::this_task_arena::isolate([&] {
        Piece& piece = **token;
        std::unique_ptr<Local> local = locals.take(make_local);
        piece.result.emplace(work(*local, *piece.given));
        locals.give_back(std::move(local));
      });
      return token;
    };
    const auto sink = [&](Token token) {
      tbb::this_task_arena::isolate([&] { take(*(*token)->given, std::move(*(*token)->result)); });
      token->reset();
    };
    using tbb::filter_mode;
    run([&](tbb::task_group_context& context) {
      tbb::parallel_pipeline(ring.size(),
                             tbb::make_filter<void, Token>(filter_mode::serial_in_order, source) &
                                 tbb::make_filter<Token, Token>(filter_mode::parallel, worked) &
                                 tbb::make_filter<Token, void>(filter_mode::serial_in_order, sink),
                             context);
    });
  }

 private:
  struct Own {
    explicit Own(Index n) : count(n), arena(static_cast<int>(n)) {
      if (n > tbb::info::default_concurrency()) room.emplace(n);
    }
    Index count;
    std::optional<detail::RoomForThreads> room;
    tbb::task_arena arena;
  };

  Threads() = default;

  static Index require_count(Index count) {
    constexpr Index most = 4096;
    if (count < 1 || count > most)
      throw SpecError(detail::text("the number of threads is ", count, ", expected 1 to ", most));
    return count;
  }

  template <class Start>
  void run(const Start& start) const {
    // Isolated: what cancels a group of the caller's around us would end our pieces without a word.
    using tbb::task_group_context;
    task_group_context context(task_group_context::isolated,
                               task_group_context::default_traits | task_group_context::fp_settings);
    if (own_)
      own_->arena.execute([&] { start(context); });
    else
      start(context);
  }

  std::shared_ptr<Own> own_;  ///< none: the caller's
};

static_assert(Executor<Threads>);

}  // namespace twoheads
