#include "support/ranks/rank_run.hpp"

#include <twoheads/mpi/forward_on_ranks.hpp>
#include <twoheads/mpi/gather.hpp>
#include <twoheads/mpi/grid_on_ranks.hpp>
#include <twoheads/mpi/kernel_on_ranks.hpp>
#include <utility>

#include "support/executor.hpp"
#include "support/instances.hpp"
#include "support/memory.hpp"
#include "support/stopwatch.hpp"

namespace programs {
namespace {

using twoheads::Index;
using twoheads::Matrix;
using twoheads::RowShares;

/// A rank's rows of a matrix, which goes.
template <class Scalar>
Matrix<Scalar> keep_own(Matrix<Scalar> all, const RowShares& shares, Index rank) {
  Matrix<Scalar> own(shares.size(rank), all.cols());
  shares.for_each_own(rank, [&](const twoheads::RowShare& share) {
    own.middleRows(share.place, share.rows.size()) = all.middleRows(share.rows.begin, share.rows.size());
  });
  return own;
}

template <class Scalar, class AttendFn>
RankRun<Scalar> run_on_ranks(twoheads::Ranks& ranks, const twoheads::Model<Scalar>& model, Matrix<Scalar> x,
                             Matrix<Scalar> memory, AttendFn& attend) {
  const bool cross = memory.rows() > 0;
  const Index keys = cross ? memory.rows() : x.rows();
  const RowShares shares = attend.share(model.spec.attention_of(0), x.rows(), keys);
  const RowShares key_shares = cross ? twoheads::share_evenly(keys, ranks.size()) : shares;
  Matrix<Scalar> own = keep_own(std::move(x), shares, ranks.rank());
  const Matrix<Scalar> own_memory = cross ? keep_own(std::move(memory), key_shares, ranks.rank()) : Matrix<Scalar>();
  const twoheads::RankMemory<Scalar> sources{key_shares, own_memory};

  RankRun<Scalar> run;
  const PeakMemory peak;
  const Stopwatch watch;
  own = twoheads::forward_on_ranks(model, std::move(own), shares, attend, cross ? &sources : nullptr);
  run.seconds = ranks.largest(watch.seconds());
  run.peak_bytes = static_cast<std::int64_t>(ranks.largest(static_cast<std::uint64_t>(peak.bytes())));
  const twoheads::RankCounts& counts = attend.counts();
  const auto sum = [&](Index count) { return static_cast<Index>(ranks.sum(static_cast<std::uint64_t>(count))); };
  run.bytes_moved = ranks.sum(counts.moved.bytes);
  run.simulation.counts.calls = sum(counts.calls);
  run.simulation.counts.repeats = sum(counts.repeats);
  run.simulation.counts.jobs = counts.tiles;
  run.simulation.counts.rounds = static_cast<Index>(ranks.largest(static_cast<std::uint64_t>(counts.rounds)));
  run.simulation.rows = twoheads::gather_rows(ranks, shares, own);
  return run;
}

}  // namespace

template <class Scalar>
RankRun<Scalar> kernel_on_ranks(twoheads::Ranks& ranks, const twoheads::Model<Scalar>& model, Matrix<Scalar> x,
                                const twoheads::KernelOptions& options, Index threads, Matrix<Scalar> memory) {
  twoheads::KernelOnRanks<Scalar, Executor> attend(ranks, options, Executor(threads));
  return run_on_ranks(ranks, model, std::move(x), std::move(memory), attend);
}

template <class Scalar>
RankRun<Scalar> grid_on_ranks(twoheads::Ranks& ranks, const twoheads::Model<Scalar>& model, Matrix<Scalar> x,
                              const twoheads::OracleLimits& limits, const twoheads::SimulationOptions& options,
                              Index threads, Matrix<Scalar> memory) {
  twoheads::SmallTransformer<Scalar> oracle(limits);
  twoheads::GridOnRanks<twoheads::SmallTransformer<Scalar>, Executor> attend(ranks, oracle, options, {},
                                                                             Executor(threads));
  return run_on_ranks(ranks, model, std::move(x), std::move(memory), attend);
}

template <class Scalar>
RankRun<Scalar> any_on_ranks(twoheads::Ranks& ranks, const twoheads::Model<Scalar>& model, Matrix<Scalar> x,
                             twoheads::AnyOracle<Scalar>& oracle, const twoheads::SimulationOptions& options,
                             Matrix<Scalar> memory) {
  twoheads::GridOnRanks<twoheads::AnyOracle<Scalar>> attend(ranks, oracle, options);
  return run_on_ranks(ranks, model, std::move(x), std::move(memory), attend);
}

#define TWOHEADS_ON_RANKS(Scalar)                                                                                  \
  template RankRun<Scalar> kernel_on_ranks(twoheads::Ranks&, const twoheads::Model<Scalar>&, Matrix<Scalar>,       \
                                           const twoheads::KernelOptions&, Index, Matrix<Scalar>);                 \
  template RankRun<Scalar> grid_on_ranks(twoheads::Ranks&, const twoheads::Model<Scalar>&, Matrix<Scalar>,         \
                                         const twoheads::OracleLimits&, const twoheads::SimulationOptions&, Index, \
                                         Matrix<Scalar>);                                                          \
  template RankRun<Scalar> any_on_ranks(twoheads::Ranks&, const twoheads::Model<Scalar>&, Matrix<Scalar>,          \
                                        twoheads::AnyOracle<Scalar>&, const twoheads::SimulationOptions&,          \
                                        Matrix<Scalar>)
TWOHEADS_ON_RANKS(float);
TWOHEADS_ON_RANKS(double);
#undef TWOHEADS_ON_RANKS

}  // namespace programs
