#include "support/ranks/rank_run.hpp"

#include <twoheads/mpi/checkpoint_on_ranks.hpp>
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

template <class Scalar, class AttendFn>
RankRun<Scalar> run_on_ranks(twoheads::Ranks& ranks, const twoheads::Model<Scalar>& model, Matrix<Scalar> x,
                             Matrix<Scalar> memory, AttendFn& attend) {
  const bool cross = memory.rows() > 0;
  const Index keys = cross ? memory.rows() : x.rows();
  const RowShares shares = attend.share(model.spec.attention_of(0), x.rows(), keys);
  const RowShares key_shares = cross ? twoheads::share_evenly(keys, ranks.size()) : shares;
  Matrix<Scalar> own = twoheads::own_rows(shares, ranks.rank(), x);
  x.resize(0, 0);
  const Matrix<Scalar> own_memory = cross ? twoheads::own_rows(key_shares, ranks.rank(), memory) : Matrix<Scalar>();
  memory.resize(0, 0);
  const twoheads::RankMemory<Scalar> sources{key_shares, own_memory};

  RankRun<Scalar> run;
  const PeakMemory peak;
  const Stopwatch watch;
  own = twoheads::forward_on_ranks(model, std::move(own), shares, attend, cross ? &sources : nullptr);
  run.seconds = ranks.largest(watch.seconds());
  run.peak_bytes = static_cast<std::int64_t>(ranks.largest(static_cast<std::uint64_t>(peak.bytes())));
  run.bytes_moved = ranks.sum(attend.counts().moved.bytes);
  run.fetch_seconds = ranks.largest(attend.counts().fetch_seconds);
  run.simulation.counts = attend.totals();
  run.simulation.rows = twoheads::gather_rows(ranks, shares, own);
  return run;
}

template <class Scalar, class AttendFn>
RankRun<Scalar> keep_or_run(twoheads::Ranks& ranks, const twoheads::Model<Scalar>& model, Matrix<Scalar> x,
                            Matrix<Scalar> memory, AttendFn& attend, const Checkpoint& checkpoint) {
  if (checkpoint.path.empty()) return run_on_ranks(ranks, model, std::move(x), std::move(memory), attend);
  return with_checkpoint([&] {
    twoheads::CheckpointOnRanks<AttendFn> kept(attend, checkpoint.path, checkpoint.key);
    return run_on_ranks(ranks, model, std::move(x), std::move(memory), kept);
  });
}

}  // namespace

template <class Scalar>
RankRun<Scalar> kernel_on_ranks(twoheads::Ranks& ranks, const twoheads::Model<Scalar>& model, Matrix<Scalar> x,
                                const twoheads::KernelOptions& options, Index threads, Matrix<Scalar> memory,
                                const Checkpoint& checkpoint) {
  twoheads::KernelOnRanks<Scalar, Executor> attend(ranks, options, Executor(threads));
  return keep_or_run(ranks, model, std::move(x), std::move(memory), attend, checkpoint);
}

template <class Scalar>
RankRun<Scalar> grid_on_ranks(twoheads::Ranks& ranks, const twoheads::Model<Scalar>& model, Matrix<Scalar> x,
                              const twoheads::OracleLimits& limits, const twoheads::SimulationOptions& options,
                              Index threads, Matrix<Scalar> memory, const Checkpoint& checkpoint) {
  twoheads::SmallTransformer<Scalar> oracle(limits);
  twoheads::GridOnRanks<twoheads::SmallTransformer<Scalar>, Executor> attend(ranks, oracle, options, {},
                                                                             Executor(threads));
  return keep_or_run(ranks, model, std::move(x), std::move(memory), attend, checkpoint);
}

template <class Scalar>
RankRun<Scalar> any_on_ranks(twoheads::Ranks& ranks, const twoheads::Model<Scalar>& model, Matrix<Scalar> x,
                             twoheads::AnyOracle<Scalar>& oracle, const twoheads::SimulationOptions& options,
                             Matrix<Scalar> memory, const Checkpoint& checkpoint) {
  twoheads::GridOnRanks<twoheads::AnyOracle<Scalar>> attend(ranks, oracle, options);
  return keep_or_run(ranks, model, std::move(x), std::move(memory), attend, checkpoint);
}

#define TWOHEADS_ON_RANKS(Scalar)                                                                                     \
  template RankRun<Scalar> kernel_on_ranks(twoheads::Ranks&, const twoheads::Model<Scalar>&, Matrix<Scalar>,          \
                                           const twoheads::KernelOptions&, Index, Matrix<Scalar>, const Checkpoint&); \
  template RankRun<Scalar> grid_on_ranks(twoheads::Ranks&, const twoheads::Model<Scalar>&, Matrix<Scalar>,            \
                                         const twoheads::OracleLimits&, const twoheads::SimulationOptions&, Index,    \
                                         Matrix<Scalar>, const Checkpoint&);                                          \
  template RankRun<Scalar> any_on_ranks(twoheads::Ranks&, const twoheads::Model<Scalar>&, Matrix<Scalar>,             \
                                        twoheads::AnyOracle<Scalar>&, const twoheads::SimulationOptions&,             \
                                        Matrix<Scalar>, const Checkpoint&)
TWOHEADS_ON_RANKS(float);
TWOHEADS_ON_RANKS(double);
#undef TWOHEADS_ON_RANKS

}  // namespace programs
