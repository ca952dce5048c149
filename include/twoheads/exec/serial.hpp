#pragma once

#include <concepts>
#include <span>
#include <twoheads/attention/partial.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/plan/plan.hpp>
#include <vector>

namespace twoheads {

/// Evaluates tiles: the jobs of whole slots in, a partial for each job out, in the same order.
template <class E, class Scalar>
concept Engine = requires(E& engine, std::span<const Job> jobs) {
  { engine.slots_at_once() } -> std::same_as<Index>;
  { engine.evaluate(jobs) } -> std::same_as<std::vector<Partial<Scalar>>>;
};

/// Takes the partials of a layer in the plan's order of jobs.
template <class S, class Scalar>
concept PartialSink = requires(S& sink, const Job& job, const Partial<Scalar>& partial) {
  sink(job, partial);
};

/// Runs the jobs of some query blocks of one layer of a plan on one thread and hands their partials to
/// the sink in the plan's order.
///
///   Laws   never more than the jobs of engine.slots_at_once() slots are held: the plan is enumerated, not stored
template <RealScalar Scalar, Engine<Scalar> E, PartialSink<Scalar> Sink>
void execute_serial(const Plan& plan, Rows blocks, E& engine, Sink& sink) {
  const Index most = engine.slots_at_once();
  std::vector<Job> jobs;
  Index slots = 0;
  const auto flush = [&] {
    const std::vector<Partial<Scalar>> partials = engine.evaluate(jobs);
    TWOHEADS_ASSERT(partials.size() == jobs.size());
    for (std::size_t i = 0; i < jobs.size(); ++i) sink(jobs[i], partials[i]);
    jobs.clear();
    slots = 0;
  };
  plan.for_each_job(blocks, [&](const Job& job) {
    if (jobs.empty() || jobs.back().slot != job.slot) {
      if (slots == most) flush();
      ++slots;
    }
    jobs.push_back(job);
  });
  if (!jobs.empty()) flush();
}

/// The same for all query blocks.
template <RealScalar Scalar, Engine<Scalar> E, PartialSink<Scalar> Sink>
void execute_serial(const Plan& plan, E& engine, Sink& sink) {
  execute_serial<Scalar>(plan, {0, plan.query_blocks()}, engine, sink);
}

}  // namespace twoheads
