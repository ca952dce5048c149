#pragma once

#include <algorithm>
#include <concepts>
#include <optional>
#include <span>
#include <twoheads/attention/partial.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/exec/executor.hpp>
#include <twoheads/plan/plan.hpp>
#include <type_traits>
#include <utility>
#include <vector>

namespace twoheads {

/// Evaluates tiles: the jobs of whole slots in, a partial for each job out, in the same order.
template <class E, class Scalar>
concept Engine = requires(E& engine, std::span<const Job> jobs) {
  { engine.evaluate(jobs) } -> std::same_as<std::vector<Partial<Scalar>>>;
};

/// Takes the partials of a layer in the plan's order of jobs.
template <class S, class Scalar>
concept PartialSink = requires(S& sink, const Job& job, const Partial<Scalar>& partial) {
  sink(job, partial);
};

namespace detail {

/// Gives the jobs of some query blocks of a layer in the plan's order, a batch of calls at a time.
///
///   Laws     a batch has the jobs of plan.slots_per_batch() slots, the last one those that are left; beside it, the
///            jobs of one head in one query block are held
class Batches {
 public:
  Batches(const Plan& plan, Rows blocks) : plan_(plan), end_(blocks.end), block_(blocks.begin) {}

  /// The next batch; empty after the last.
  [[nodiscard]] std::vector<Job> next() {
    std::vector<Job> batch;
    Index slots = 0;
    for (; next_ < jobs_.size() || refill(); ++next_) {
      const Job& job = jobs_[next_];
      if (batch.empty() || batch.back().slot != job.slot) {
        if (slots == plan_.slots_per_batch()) break;
        ++slots;
      }
      batch.push_back(job);
    }
    return batch;
  }

 private:
  bool refill() {
    jobs_.clear();
    next_ = 0;
    while (jobs_.empty() && block_ < end_) {
      plan_.for_each_job(block_, head_, slot_, [&](const Job& job) { jobs_.push_back(job); });
      if (++head_ < plan_.request().heads) continue;
      head_ = 0;
      ++block_;
    }
    return !jobs_.empty();
  }

  const Plan& plan_;
  Index end_;
  Index block_;  ///< block_, head_ and slot_ are of the jobs after those held
  Index head_ = 0;
  Index slot_ = 0;
  std::vector<Job> jobs_;
  std::size_t next_ = 0;
};

/// Batches that a thread takes at once: one, or several where calls are so short that handing them over would count,
/// as long as every thread has a few turns in a layer.
[[nodiscard]] inline Index batches_at_once(const Plan& plan, Index threads) {
  constexpr Index rows_worth_a_turn = 512;
  if (threads == 1) return 1;
  const Index calls = ceil_div(plan.slots_per_batch(), plan.slots_per_call());
  const Index batches = ceil_div(plan.slots_per_layer(), plan.slots_per_batch());
  const Index worth = ceil_div(rows_worth_a_turn, std::min(plan.oracle().rows, rows_worth_a_turn) * calls);
  return std::clamp<Index>(batches / (4 * threads), 1, worth);
}

}  // namespace detail

/// Runs the jobs of some query blocks of one layer of a plan and hands their partials to the sink in the plan's order.
/// `make_engine()` points to an engine for one thread, which must outlive the run.
///
///   Laws   an engine is handed whole batches, the same ones on any executor; few are held at once: the plan is
///          enumerated, not stored
template <RealScalar Scalar, Executor Exec, class MakeEngine, PartialSink<Scalar> Sink>
requires Engine<std::remove_pointer_t<std::invoke_result_t<const MakeEngine&>>, Scalar>
void execute(const Exec& exec, const Plan& plan, Rows blocks, const MakeEngine& make_engine, Sink& sink) {
  using Piece = std::vector<std::vector<Job>>;
  using Found = std::vector<std::vector<Partial<Scalar>>>;
  detail::Batches batches(plan, blocks);
  const auto at_once = static_cast<std::size_t>(detail::batches_at_once(plan, exec.threads()));

  const auto next = [&]() -> std::optional<Piece> {
    Piece piece;
    while (piece.size() < at_once) {
      std::vector<Job> batch = batches.next();
      if (batch.empty()) break;
      piece.push_back(std::move(batch));
    }
    if (piece.empty()) return std::nullopt;
    return piece;
  };
  const auto evaluate = [](auto* engine, const Piece& piece) {
    Found found;
    found.reserve(piece.size());
    for (const std::vector<Job>& jobs : piece) {
      found.push_back(engine->evaluate(jobs));
      TWOHEADS_ASSERT(found.back().size() == jobs.size());
    }
    return found;
  };
  const auto take = [&](const Piece& piece, const Found& found) {
    for (std::size_t batch = 0; batch < piece.size(); ++batch)
      for (std::size_t i = 0; i < piece[batch].size(); ++i) sink(piece[batch][i], found[batch][i]);
  };
  exec.in_order(make_engine, next, evaluate, take);
}

}  // namespace twoheads
