#pragma once

#include <concepts>
#include <span>
#include <twoheads/attention/partial.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/plan/plan.hpp>
#include <vector>

namespace twoheads {

/// Evaluates tiles: jobs in, a partial for each out, in the same order.
template <class E, class Scalar>
concept Engine = requires(E& engine, std::span<const Job> jobs) {
  { engine.jobs_at_once() } -> std::same_as<Index>;
  { engine.evaluate(jobs) } -> std::same_as<std::vector<Partial<Scalar>>>;
};

/// Takes the partials of a layer in the plan's order of jobs.
template <class S, class Scalar>
concept PartialSink = requires(S& sink, const Job& job, const Partial<Scalar>& partial) {
  sink(job, partial);
};

/// Runs all jobs of one layer of a plan on one thread and hands their partials to the sink in the plan's order.
///
///   Laws   never more than engine.jobs_at_once() jobs are held: the plan is enumerated, not stored
template <RealScalar Scalar, Engine<Scalar> E, PartialSink<Scalar> Sink>
void execute_serial(const Plan& plan, E& engine, Sink& sink) {
  const auto most = static_cast<std::size_t>(engine.jobs_at_once());
  std::vector<Job> jobs;
  const auto flush = [&] {
    const std::vector<Partial<Scalar>> partials = engine.evaluate(jobs);
    TWOHEADS_ASSERT(partials.size() == jobs.size());
    for (std::size_t i = 0; i < jobs.size(); ++i) sink(jobs[i], partials[i]);
    jobs.clear();
  };
  plan.for_each_job([&](const Job& job) {
    jobs.push_back(job);
    if (jobs.size() == most) flush();
  });
  if (!jobs.empty()) flush();
}

}  // namespace twoheads
