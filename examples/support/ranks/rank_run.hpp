#pragma once

#include <cstdint>
#include <twoheads/exec/kernel_attention.hpp>
#include <twoheads/model/weights.hpp>
#include <twoheads/mpi/ranks.hpp>
#include <twoheads/plan/limits.hpp>
#include <twoheads/simulate.hpp>

#include "support/any_run.hpp"

namespace programs {

/// What a run on several ranks took.
template <class Scalar>
struct RankRun {
  twoheads::Simulation<Scalar> simulation;  ///< rows on rank 0 alone; counts of all ranks
  std::uint64_t bytes_moved = 0;            ///< keys and values that ranks took from each other
  std::int64_t peak_bytes = 0;              ///< of the rank that needed most, its own rows not counted
  double seconds = 0;
  double fetch_seconds = 0;  ///< for keys of others, of the rank that took longest
};

/// The forward pass on the ranks of a launch: by the kernel, by the small transformer on Eigen, or by any oracle, of
/// which each rank has one. Every rank passes all rows and keeps its own. With a checkpoint the run goes on from what
/// its files hold, of any number of ranks.
template <class Scalar>
[[nodiscard]] RankRun<Scalar> kernel_on_ranks(twoheads::Ranks& ranks, const twoheads::Model<Scalar>& model,
                                              twoheads::Matrix<Scalar> x, const twoheads::KernelOptions& options,
                                              twoheads::Index threads, twoheads::Matrix<Scalar> memory,
                                              const Checkpoint& checkpoint);
template <class Scalar>
[[nodiscard]] RankRun<Scalar> grid_on_ranks(twoheads::Ranks& ranks, const twoheads::Model<Scalar>& model,
                                            twoheads::Matrix<Scalar> x, const twoheads::OracleLimits& limits,
                                            const twoheads::SimulationOptions& options, twoheads::Index threads,
                                            twoheads::Matrix<Scalar> memory, const Checkpoint& checkpoint);
template <class Scalar>
[[nodiscard]] RankRun<Scalar> any_on_ranks(twoheads::Ranks& ranks, const twoheads::Model<Scalar>& model,
                                           twoheads::Matrix<Scalar> x, twoheads::AnyOracle<Scalar>& oracle,
                                           const twoheads::SimulationOptions& options, twoheads::Matrix<Scalar> memory,
                                           const Checkpoint& checkpoint);

}  // namespace programs
