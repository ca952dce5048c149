#pragma once

#include <algorithm>
#include <concepts>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <twoheads/base/checked.hpp>
#include <twoheads/base/errors.hpp>
#include <twoheads/exec/pool_work.hpp>
#include <twoheads/exec/pool_worker.hpp>
#include <twoheads/oracle/oracle.hpp>
#include <type_traits>
#include <utility>
#include <vector>

namespace twoheads {
namespace detail {

/// What make(worker) or make() returns.
template <class Make>
struct MadeOracle : std::invoke_result<const Make&> {};
template <class Make>
requires std::is_invocable_v<const Make&, Index>
struct MadeOracle<Make> : std::invoke_result<const Make&, Index> {
};

}  // namespace detail

/// Several oracles that fail now and then, as one oracle that does not: each worker thread calls one of its own, and a
/// call that fails is made again before all that wait, by any worker, while its worker waits and makes a fresh oracle.
///
/// `make(worker)` or `make()` returns an oracle: another process, another session. It is called once here, and whenever
/// a worker is to run calls and has no oracle; several threads may call it at once. A call fails when the oracle
/// throws, when its answer does not come before the deadline (a late one is dropped), when the answer has another
/// shape, holds NaN or infinity, or OracleCall::fault speaks against it, and when no oracle can be made for it.
/// OracleCall::fault is asked by the workers; oracles work on copies of the calls, without it.
///
/// A worker that is inside its oracle at the deadline is replaced at once, for a thread cannot be ended from outside.
/// Where its oracle returns, its answer is dropped and the thread ends; where it never does, thread and oracle stay.
/// The destructor waits for such workers for a time of grace, then leaves them to themselves with what they hold; what
/// make() and the oracles refer to must outlive them. Without a deadline the pool waits for its oracles.
///
///   Laws     each call is answered exactly once, by the thread that called run_batch; bits depend neither on the
///            workers nor on failures or times, provided that equal oracles give equal bits
///   Corner   run_batch is called by one thread at a time. Where the C library keeps threads apart (glibc before 2.34),
///            programs link Threads::Threads.
///   Throws   OracleError that names the call and the causes, where a call has failed in every attempt; LimitError and
///            ShapeError of an oracle, which the call is to blame for, at once; LimitError if the oracles' limits
///            differ. The rest of the batch is then not begun, and no oracle works any more, except workers given up.
///            SpecError for options out of range.
template <Oracle O>
class OraclePool {
 public:
  using Scalar = typename O::Scalar;

  template <class Make>
  requires std::same_as<typename detail::MadeOracle<Make>::type, O>
  explicit OraclePool(Make make, const PoolOptions& options = {}) : work_(std::make_shared<Work>()) {
    options.require_valid();
    work_->options = options;
    // Made in place: an oracle need not be movable.
    work_->make = [make = std::move(make)](Index worker) {
      if constexpr (std::is_invocable_v<const Make&, Index>) {
        return std::unique_ptr<O>(new O(make(worker)));
      } else {
        static_cast<void>(worker);
        return std::unique_ptr<O>(new O(make()));
      }
    };
    first_ = make_first();
    work_->limits = first_->limits();
    work_->limits.require_valid();
    const Index batch = work_->limits.batch;
    work_->at_once = HasRunBatch<O> ? (options.calls_at_once > 0 ? options.calls_at_once : batch) : 1;
    limits_ = work_->limits;
    limits_.batch =
        detail::checked_product("the batch of a pool", std::max(batch, work_->at_once), 2 * options.workers);
    seats_.resize(static_cast<std::size_t>(options.workers));
  }
  OraclePool(const OraclePool&) = delete;
  OraclePool& operator=(const OraclePool&) = delete;
  ~OraclePool() {
    std::unique_lock lock(work_->mutex);
    work_->stop = true;
    work_->work.notify_all();
    for (Seat& seat : seats_)
      if (seat.worker) left_.push_back(std::move(seat));
    work_->found.wait_for(lock, work_->options.grace, [&] {
      return std::all_of(left_.begin(), left_.end(), [](const Seat& seat) { return seat.worker->exited; });
    });
    for (Seat& seat : left_)
      if (!seat.worker->exited) seat.thread.detach();
    lock.unlock();
    for (Seat& seat : left_)
      if (seat.thread.joinable()) seat.thread.join();
  }

  /// Those of the oracles, with room for each worker's next calls in a batch.
  [[nodiscard]] OracleLimits limits() const { return limits_; }

  /// What was done so far; for any thread.
  [[nodiscard]] PoolCounts counts() const {
    const std::lock_guard lock(work_->mutex);
    return work_->counts;
  }

  [[nodiscard]] Matrix<Scalar> run(const OracleCall<Scalar>& call) {
    Matrix<Scalar> found;
    run_batch(std::span(&call, 1), [&](std::size_t, Matrix<Scalar> rows) { found = std::move(rows); });
    return found;
  }

  void run_batch(std::span<const OracleCall<Scalar>> calls, const Answer<Scalar>& answer) {
    if (calls.empty()) return;
    const auto batch = std::make_shared<Batch>(calls);
    std::unique_lock lock(work_->mutex);
    if (work_->batch) throw LimitError("a pool of oracles was handed a batch while it runs another");
    try {
      work_->batch = batch;
      start(static_cast<Index>(calls.size()));
      work_->work.notify_all();
      for (std::size_t handed = 0; handed < calls.size();) {
        wait(lock, true, [&] { return !batch->found.empty() || batch->over; });
        if (batch->over) throw_failure(*batch);
        auto [index, rows] = std::move(batch->found.front());
        batch->found.pop_front();
        lock.unlock();
        answer(index, std::move(rows));
        lock.lock();
        ++handed;
      }
    } catch (...) {
      if (!lock.owns_lock()) lock.lock();
      batch->over = true;
      wait(lock, false, [&] { return batch->running == 0; });
      work_->batch.reset();
      throw;
    }
    // Workers that lost to a faster one may still be inside their oracles, on copies.
    batch->over = true;
    wait(lock, false, [&] { return batch->guests == 0; });
    work_->batch.reset();
  }

 private:
  using Work = detail::PoolWork<O>;
  using Batch = typename Work::Batch;
  using Worker = typename Work::Worker;
  using Fault = typename Work::Fault;

  struct Seat {
    std::shared_ptr<Worker> worker;
    std::thread thread;
  };

  [[nodiscard]] std::unique_ptr<O> make_first() {
    std::vector<std::string> causes;
    for (Index attempt = 1;; ++attempt) {
      try {
        std::unique_ptr<O> made = work_->make(0);
        ++work_->counts.oracles;
        return made;
      } catch (const LimitError&) {
        throw;  // what an oracle is does not change by waiting
      } catch (const std::exception& error) {
        causes.emplace_back(error.what());
      } catch (...) {
        causes.emplace_back("it threw something that is no std::exception");
      }
      ++work_->counts.not_made;
      if (attempt >= work_->options.attempts)
        throw OracleError(detail::text("no oracle could be made in ", detail::counted(attempt, "attempt"), ":",
                                       detail::numbered_lines(causes)));
      std::this_thread::sleep_for(work_->back_off(attempt));
    }
  }

  /// Threads for so many calls; the mutex is held.
  void start(Index calls) {
    std::erase_if(left_, [](Seat& seat) {
      if (seat.worker->exited) seat.thread.join();
      return seat.worker->exited;
    });
    const Index needed = work_->options.hedge_after ? work_->options.workers : calls;
    for (std::size_t i = 0; i < seats_.size() && static_cast<Index>(i) < needed; ++i)
      if (!seats_[i].worker) sit_down(i, 0);
  }

  void sit_down(std::size_t place, Index failures) {
    auto worker = std::make_shared<Worker>();
    worker->number = static_cast<Index>(place);
    worker->failures = failures;
    seats_[place].thread = std::thread(detail::PoolWorker<O>::serve, work_, worker, std::move(first_));
    seats_[place].worker = std::move(worker);
  }

  /// Waits, with an eye on the deadlines. Workers given up are replaced at once if the batch is to go on.
  template <class Done>
  void wait(std::unique_lock<std::mutex>& lock, bool replace, const Done& done) {
    while (!done()) {
      // Whatever is begun from now on is due later than this.
      const PoolOptions& options = work_->options;
      typename Work::Moment next = std::min(Work::from_now(options.deadline), Work::from_now(options.make_deadline));
      for (const Seat& seat : seats_)
        if (seat.worker) next = std::min(next, seat.worker->due);
      if (next == Work::never)
        work_->found.wait(lock);
      else
        work_->found.wait_until(lock, next);
      for (std::size_t place = 0; place < seats_.size(); ++place)
        if (seats_[place].worker && seats_[place].worker->due <= Work::Clock::now()) give_up(place, replace);
    }
  }

  void give_up(std::size_t place, bool replace) {
    Worker& worker = *seats_[place].worker;
    worker.given_up = true;
    ++work_->counts.given_up;
    work_->put_down(worker);
    for (const std::size_t index : worker.calls)
      if (worker.making)
        work_->failed(*worker.batch, index, Fault::not_made,
                      detail::text("no oracle was made within ", work_->options.make_deadline.count(), " ms"));
      else
        work_->failed(*worker.batch, index, Fault::late, work_->late(worker.calls.size()));
    const Index failures = worker.failures + 1;
    left_.push_back(std::exchange(seats_[place], Seat()));
    if (replace) sit_down(place, failures);
  }

  [[noreturn]] static void throw_failure(const Batch& batch) {
    if (batch.refused) std::rethrow_exception(batch.refused);
    const std::size_t index = *batch.lost;
    const std::vector<std::string>& causes = batch.calls[index].causes;
    throw OracleError(detail::text("call ", index, " of a batch of ", batch.calls.size(), " (",
                                   batch.given[index].rows.rows(), " rows of ", batch.given[index].rows.cols(),
                                   " columns) failed ", detail::counted(static_cast<Index>(causes.size()), "time"), ":",
                                   detail::numbered_lines(causes)));
  }

  std::shared_ptr<Work> work_;
  OracleLimits limits_;
  std::unique_ptr<O> first_;  ///< made here, for the first worker
  std::vector<Seat> seats_;
  std::vector<Seat> left_;  ///< workers given up
};

/// The oracle is what the function makes.
template <class Make>
OraclePool(Make) -> OraclePool<typename detail::MadeOracle<Make>::type>;
/// The oracle is what the function makes.
template <class Make>
OraclePool(Make, const PoolOptions&) -> OraclePool<typename detail::MadeOracle<Make>::type>;

}  // namespace twoheads
