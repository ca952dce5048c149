#pragma once

#include <algorithm>
#include <cfenv>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/oracle/oracle.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// How a pool of oracles treats calls that fail. Times of 0 mean none, unless said otherwise.
struct PoolOptions {
  using Time = std::chrono::milliseconds;  ///< what options are given in

  Index workers = 2;         ///< threads, each with an oracle of its own
  Index attempts = 4;        ///< of a call, the first one included
  Time first_back_off{10};   ///< a worker's wait after a failure; doubles with each further one in a row
  Time most_back_off{2000};  ///< longest wait of a worker
  Time deadline{0};          ///< of a call; several calls handed over at once have as many times this
  Time make_deadline{0};     ///< of making an oracle
  /// Calls that an oracle with run_batch is handed at once; 0: its limits' batch.
  /// A call that failed is handed over alone.
  Index calls_at_once = 0;
  /// An idle worker also runs the oldest call that has been out for so long, and the first answer counts; none: never.
  std::optional<Time> hedge_after = {};
  Time grace{1000};  ///< how long the destructor waits for workers that are inside an oracle

  /// Throws SpecError that names the first option out of range.
  void require_valid() const {
    const auto require = [](bool holds, const char* what, auto found, const char* expected) {
      if (!holds) throw SpecError(detail::text("a pool's ", what, " is ", found, ", expected ", expected));
    };
    require(workers >= 1 && workers <= 4096, "number of workers", workers, "1 to 4096");
    require(attempts >= 1, "number of attempts", attempts, "1 or more");
    require(calls_at_once >= 0, "number of calls at once", calls_at_once, "0 or more");
    const std::pair<const char*, Time> times[] = {{"first back-off", first_back_off},
                                                  {"longest back-off", most_back_off},
                                                  {"deadline", deadline},
                                                  {"deadline for making an oracle", make_deadline},
                                                  {"hedging time", hedge_after.value_or(Time(0))},
                                                  {"time of grace", grace}};
    for (const std::pair<const char*, Time>& time : times)
      require(time.second.count() >= 0 && time.second <= std::chrono::hours(24 * 365), time.first, time.second.count(),
              "0 ms to a year");
  }
};

/// What a pool has done so far.
struct PoolCounts {
  Index calls = 0;     ///< handed to oracles, repeats included
  Index threw = 0;     ///< failures by kind, in calls: the oracle threw, or left the call of a batch without an answer
  Index late = 0;      ///< no answer before the deadline
  Index wrong = 0;     ///< the answer had a fault
  Index not_made = 0;  ///< there was no oracle: making it failed
  Index retries = 0;   ///< calls that went back to the front of the queue
  Index oracles = 0;   ///< oracles made
  Index hedged = 0;    ///< calls that a second worker ran at the same time
  Index given_up = 0;  ///< workers that were inside an oracle at its deadline, and were replaced

  [[nodiscard]] Index failures() const { return threw + late + wrong + not_made; }  ///< failures of all kinds
};

namespace detail {

/// Causes of failures, a line for each, and one for several that follow each other and are the same.
[[nodiscard]] inline std::string numbered_lines(const std::vector<std::string>& causes) {
  std::string lines;
  for (std::size_t i = 0; i < causes.size();) {
    std::size_t end = i + 1;
    while (end < causes.size() && causes[end] == causes[i]) ++end;
    lines += text("\n  ", i + 1, ".", end > i + 1 ? text(" to ", end, ".") : std::string(), " ", causes[i]);
    i = end;
  }
  return lines;
}

/// What the threads of a pool share. Threads hold it by shared pointers: one that never comes back from its oracle
/// finds it intact. All of it is guarded by `mutex`, except what is constant.
///
///   Laws   a worker reads the caller's calls only while it is counted as a guest or holds the mutex, and the caller
///          leaves only when there is no guest: an oracle itself works on copies
template <Oracle O>
struct PoolWork {
  using Scalar = typename O::Scalar;
  using Clock = std::chrono::steady_clock;
  using Moment = Clock::time_point;
  static constexpr Moment never = Moment::max();

  enum class Fault { none, threw, late, wrong, not_made };

  /// A call of the batch on its way to an answer.
  struct Call {
    std::vector<std::string> causes;  ///< of its failures
    Index running = 0;                ///< workers that are about it
    Moment begun = {};                ///< by the first of them
    bool answered = false;
  };

  struct Batch {
    explicit Batch(std::span<const OracleCall<Scalar>> c) : given(c), calls(c.size()) {
      for (std::size_t index = 0; index < c.size(); ++index) queue.push_back(index);
      std::fegetenv(&environment);
    }
    std::span<const OracleCall<Scalar>> given;
    std::fenv_t environment;  ///< rounding mode and treatment of subnormal numbers
    std::vector<Call> calls;
    std::deque<std::size_t> queue;
    std::deque<std::pair<std::size_t, Matrix<Scalar>>> found;  ///< answers to be handed on
    std::optional<std::size_t> lost;                           ///< a call that failed too often
    std::exception_ptr refused;                                ///< what the caller is to blame for
    Index guests = 0;
    Index running = 0;  ///< workers that are about its calls
    bool over = false;  ///< nothing of it is begun any more, and no answer is wanted
  };

  /// A thread's seat in the pool.
  struct Worker {
    Index number = 0;
    Index failures = 0;  ///< in a row
    std::shared_ptr<Batch> batch;
    std::vector<std::size_t> calls;  ///< of the batch, on which it works
    Moment due = never;
    bool making = false;
    bool given_up = false;
    bool exited = false;
  };

  std::mutex mutex;
  std::condition_variable work;   ///< for workers: there are calls, or the end
  std::condition_variable found;  ///< for the caller: an answer, a failure, or the end of one of them
  std::shared_ptr<Batch> batch;
  bool stop = false;
  PoolCounts counts;

  // Constant.
  PoolOptions options;
  std::function<std::unique_ptr<O>(Index)> make;
  OracleLimits limits;
  Index at_once = 1;

  [[nodiscard]] PoolOptions::Time back_off(Index failures) const {
    PoolOptions::Time wait = options.first_back_off;
    for (Index i = 1; i < failures && wait < options.most_back_off; ++i) wait *= 2;
    return std::min(wait, options.most_back_off);
  }

  [[nodiscard]] static Moment from_now(PoolOptions::Time time, Index times = 1) {
    if (time.count() == 0) return never;
    // A clock of 64 bits ends after some centuries.
    const PoolOptions::Time most = std::chrono::hours(24 * 365);
    return Clock::now() + (time > most / times ? most : time * times);
  }

  [[nodiscard]] std::string late(std::size_t calls) const {
    std::string words = text("no answer within ", options.deadline.count(), " ms");
    if (calls > 1) words += text(" a call, of ", calls, " calls at once");
    return words;
  }

  /// Waits for calls and takes them; false: the pool ends.
  [[nodiscard]] bool take(std::unique_lock<std::mutex>& lock, Worker& me) {
    if (me.failures > 0) work.wait_until(lock, Clock::now() + back_off(me.failures), [&] { return stop; });
    for (;;) {
      if (stop) return false;
      Moment look_again = never;
      if (batch && !batch->over) {
        if (take_queued(me) || take_hedged(me, look_again)) return true;
      }
      if (look_again == never)
        work.wait(lock);
      else
        work.wait_until(lock, look_again);
    }
  }

  /// Ends what a worker is about: its calls are nobody's then.
  void put_down(Worker& me) {
    for (const std::size_t index : me.calls) --me.batch->calls[index].running;
    --me.batch->running;
    me.due = never;
    found.notify_all();
  }

  /// A sound answer to a call; the first one counts.
  void answered(Batch& of, std::size_t index, Matrix<Scalar> rows) {
    if (of.over || of.calls[index].answered) return;
    of.calls[index].answered = true;
    of.found.emplace_back(index, std::move(rows));
    found.notify_all();
  }

  /// A failure of a call that was put down: it is the next to be made, unless a second worker is about it still. Where
  /// no call comes back, the first one that was begun has soon used up its attempts, however many wait behind it.
  void failed(Batch& of, std::size_t index, Fault kind, std::string cause) {
    ++(kind == Fault::threw   ? counts.threw
       : kind == Fault::late  ? counts.late
       : kind == Fault::wrong ? counts.wrong
                              : counts.not_made);
    Call& call = of.calls[index];
    if (of.over || call.answered) return;
    call.causes.push_back(std::move(cause));
    if (call.running > 0) return;
    if (static_cast<Index>(call.causes.size()) >= options.attempts) {
      of.lost = index;
      of.over = true;
      found.notify_all();
    } else {
      ++counts.retries;
      of.queue.push_front(index);
      work.notify_all();
    }
  }

  void refused(Batch& of, std::exception_ptr why) {
    if (of.over) return;
    of.refused = std::move(why);
    of.over = true;
    found.notify_all();
  }

 private:
  void begin(Worker& me, std::size_t index) {
    Call& call = batch->calls[index];
    if (call.running++ == 0) call.begun = Clock::now();
    me.calls.push_back(index);
  }

  void begin_all(Worker& me) {
    me.batch = batch;
    ++batch->running;
  }

  [[nodiscard]] bool take_queued(Worker& me) {
    std::deque<std::size_t>& queue = batch->queue;
    if (queue.empty()) return false;
    me.calls.clear();
    const auto fresh = [&] { return batch->calls[queue.front()].causes.empty(); };
    // The end of a batch is shared out evenly.
    const Index most = fresh() ? std::min(at_once, ceil_div(static_cast<Index>(queue.size()), options.workers)) : 1;
    do {
      begin(me, queue.front());
      queue.pop_front();
    } while (static_cast<Index>(me.calls.size()) < most && !queue.empty() && fresh());
    begin_all(me);
    return true;
  }

  [[nodiscard]] bool take_hedged(Worker& me, Moment& look_again) {
    if (!options.hedge_after) return false;
    std::optional<std::size_t> oldest;
    for (std::size_t index = 0; index < batch->calls.size(); ++index) {
      const Call& call = batch->calls[index];
      if (call.running != 1 || call.answered) continue;
      if (!oldest || call.begun < batch->calls[*oldest].begun) oldest = index;
    }
    if (!oldest) return false;
    const Moment ripe = batch->calls[*oldest].begun + *options.hedge_after;
    if (Clock::now() < ripe) {
      look_again = ripe;
      return false;
    }
    me.calls.clear();
    begin(me, *oldest);
    begin_all(me);
    ++counts.hedged;
    return true;
  }
};

}  // namespace detail
}  // namespace twoheads
