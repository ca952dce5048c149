#pragma once

#include <algorithm>
#include <cfenv>
#include <cstddef>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/exec/pool_work.hpp>
#include <twoheads/oracle/oracle.hpp>
#include <twoheads/oracle/weights.hpp>
#include <utility>
#include <vector>

namespace twoheads::detail {

/// What a thread of a pool does: it takes calls, makes an oracle where it has none,
/// runs them, and says what came of it.
template <Oracle O>
class PoolWorker {
  using Scalar = typename O::Scalar;
  using Work = PoolWork<O>;
  using Batch = typename Work::Batch;
  using Worker = typename Work::Worker;
  using Fault = typename Work::Fault;

 public:
  /// A worker's life. It owns what it touches, and shares the rest.
  static void serve(const std::shared_ptr<Work>& work, const std::shared_ptr<Worker>& me, std::unique_ptr<O> oracle) {
    std::unique_lock lock(work->mutex);
    while (!me->given_up && work->take(lock, *me)) {
      const std::shared_ptr<Batch> batch = me->batch;
      Outcome outcome(me->calls.size());
      std::exception_ptr refused;
      try {
        attempt(*work, *me, lock, oracle, outcome);
      } catch (...) {
        refused = std::current_exception();
      }
      if (!lock.owns_lock()) lock.lock();
      if (me->given_up) break;
      work->put_down(*me);
      if (refused) work->refused(*batch, refused);
      const bool sound = !refused && outcome.sound();
      for (std::size_t place = 0; !refused && place < me->calls.size(); ++place)
        if (outcome.kinds[place] == Fault::none)
          work->answered(*batch, me->calls[place], std::move(*outcome.rows[place]));
        else
          work->failed(*batch, me->calls[place], outcome.kinds[place], std::move(outcome.causes[place]));
      me->batch.reset();
      me->failures = sound || refused ? 0 : me->failures + 1;
      if (sound) continue;
      lock.unlock();
      oracle.reset();
      lock.lock();
    }
    if (lock.owns_lock()) lock.unlock();
    oracle.reset();
    lock.lock();
    me->exited = true;
    work->found.notify_all();
  }

 private:
  /// What came of the calls that a worker took.
  struct Outcome {
    explicit Outcome(std::size_t calls) : rows(calls), causes(calls), kinds(calls, Fault::none) {}

    void fail(std::size_t place, Fault kind, std::string cause) {
      kinds[place] = kind;
      causes[place] = std::move(cause);
    }
    void fail_all(Fault kind, const std::string& cause) {
      for (std::size_t place = 0; place < kinds.size(); ++place)
        if (kinds[place] == Fault::none && !rows[place]) fail(place, kind, cause);
    }
    [[nodiscard]] bool sound() const {
      return std::all_of(kinds.begin(), kinds.end(), [](Fault kind) { return kind == Fault::none; });
    }

    std::vector<std::optional<Matrix<Scalar>>> rows;
    std::vector<std::string> causes;
    std::vector<Fault> kinds;
  };

  /// Runs the calls that a worker took; throws what their caller is to blame for.
  static void attempt(Work& work, Worker& me, std::unique_lock<std::mutex>& lock, std::unique_ptr<O>& oracle,
                      Outcome& outcome) {
    // An oracle that hangs may read its calls when their owner is gone.
    const std::shared_ptr<Batch> batch = me.batch;
    const std::vector<std::size_t> taken = me.calls;
    std::vector<OracleCall<Scalar>> calls(taken.size());
    // Calls that share weights share the copy: an oracle may group them by its address.
    std::map<const SmallWeights<Scalar>*, SmallWeights<Scalar>> weights;
    for (std::size_t place = 0; place < taken.size(); ++place) {
      const OracleCall<Scalar>& call = batch->given[taken[place]];
      calls[place].rows = call.rows;
      if (call.weights != nullptr)
        calls[place].weights = &weights.try_emplace(call.weights, *call.weights).first->second;
    }
    std::fesetenv(&batch->environment);

    if (!oracle) {
      me.making = true;
      me.due = Work::from_now(work.options.make_deadline);
      lock.unlock();
      try {
        oracle = work.make(me.number);
      } catch (const std::exception& error) {
        outcome.fail_all(Fault::not_made, text("no oracle: ", error.what()));
      } catch (...) {
        outcome.fail_all(Fault::not_made, "no oracle: making it threw something that is no std::exception");
      }
      if (oracle && oracle->limits() != work.limits)
        throw LimitError("the oracles of a pool differ in their limits, expected the same of all");
      lock.lock();
      if (me.given_up || !oracle) return;
      ++work.counts.oracles;
      me.making = false;
    }

    work.counts.calls += static_cast<Index>(taken.size());
    me.due = Work::from_now(work.options.deadline, static_cast<Index>(taken.size()));
    const typename Work::Moment due = me.due;
    lock.unlock();
    try {
      ask(*oracle, calls, outcome);
    } catch (const LimitError&) {
      throw;
    } catch (const ShapeError&) {
      throw;
    } catch (const std::exception& error) {
      outcome.fail_all(Fault::threw, error.what());
    } catch (...) {
      outcome.fail_all(Fault::threw, "the oracle threw something that is no std::exception");
    }
    outcome.fail_all(Fault::threw, "the oracle did not answer a call of its batch");

    lock.lock();
    if (me.given_up) return;
    if (Work::Clock::now() >= due) {
      for (std::size_t place = 0; place < taken.size(); ++place)
        outcome.fail(place, Fault::late, work.late(taken.size()));
      return;
    }
    me.due = Work::never;
    if (batch->over) return;
    ++batch->guests;
    lock.unlock();
    std::exception_ptr thrown;
    try {
      judge(*batch, taken, outcome);
    } catch (...) {
      thrown = std::current_exception();
    }
    lock.lock();
    --batch->guests;
    if (thrown) std::rethrow_exception(thrown);
  }

  static void judge(const Batch& batch, const std::vector<std::size_t>& taken, Outcome& outcome) {
    for (std::size_t place = 0; place < taken.size(); ++place) {
      if (outcome.kinds[place] != Fault::none) continue;
      std::string fault = fault_of(batch.given[taken[place]], *outcome.rows[place]);
      if (!fault.empty()) outcome.fail(place, Fault::wrong, std::move(fault));
    }
  }

  static void ask(O& oracle, const std::vector<OracleCall<Scalar>>& calls, Outcome& outcome) {
    if constexpr (HasRunBatch<O>) {
      if (calls.size() > 1) {
        oracle.run_batch(std::span<const OracleCall<Scalar>>(calls), [&](std::size_t place, Matrix<Scalar> rows) {
          if (place >= calls.size() || outcome.rows[place])
            throw OracleError(text("the oracle answered call ", place, " of a batch of ", calls.size(),
                                   place < calls.size() ? " twice" : ""));
          outcome.rows[place] = std::move(rows);
        });
        return;
      }
    }
    for (std::size_t place = 0; place < calls.size(); ++place) outcome.rows[place] = oracle.run(calls[place]);
  }
};

}  // namespace twoheads::detail
