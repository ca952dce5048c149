#include "support/any_run.hpp"

#include <algorithm>
#include <twoheads/exec/checkpoint.hpp>
#include <twoheads/exec/pool.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <utility>

#include "support/instances.hpp"

namespace programs {

template <class Scalar>
twoheads::Simulation<Scalar> simulate_on(twoheads::AnyOracle<Scalar>& oracle, const twoheads::Model<Scalar>& model,
                                         twoheads::Matrix<Scalar> x, const twoheads::SimulationOptions& options,
                                         const twoheads::Matrix<Scalar>* memory, const Checkpoint& checkpoint) {
  using Grid = twoheads::GridAttention<twoheads::AnyOracle<Scalar>>;
  Grid grid(oracle, options);
  if (checkpoint.path.empty()) {
    twoheads::Matrix<Scalar> rows = twoheads::forward(model, std::move(x), grid, memory);
    return {std::move(rows), grid.counts(), grid.error_bars()};
  }
  // Some dozens of parts: what is lost with a run is one of them.
  twoheads::CheckpointOptions parts;
  parts.rows = std::max<twoheads::Index>(x.rows() / 64, 1);
  twoheads::CheckpointedAttention<Grid> kept(grid, checkpoint.path, checkpoint.key, parts);
  twoheads::Matrix<Scalar> rows = twoheads::forward(model, std::move(x), kept, memory);
  return {std::move(rows), grid.counts(), grid.error_bars()};
}

template <class Scalar>
twoheads::AnyOracle<Scalar> own_oracle(const twoheads::OracleLimits& limits, twoheads::Index threads) {
  using Small = twoheads::SmallTransformer<Scalar>;
  if (threads == 1) return twoheads::AnyOracle<Scalar>([limits] { return Small(limits); });
  twoheads::PoolOptions options;
  options.workers = threads;
  options.attempts = 1;
  return twoheads::AnyOracle<Scalar>(
      [limits, options] { return twoheads::OraclePool<Small>([limits] { return Small(limits); }, options); });
}

std::string key_of(const std::string& command, const twoheads::OracleLimits& limits,
                   const twoheads::SimulationOptions& options) {
  using twoheads::detail::text;
  std::string counts;
  for (const twoheads::Index count : limits.row_counts) counts += text(" ", count);
  const twoheads::OraclePrecision& precision = limits.precision;
  return text("oracle ", command.empty() ? "own" : "'" + command + "'", " ", name(limits.kind), " rows ", limits.rows,
              limits.fixed_rows ? " fixed" : "", counts, " heads ", limits.heads, " layers ", limits.layers, " width ",
              limits.width, " columns ", limits.key_cols, " ", limits.value_cols, limits.residual ? " residual" : "",
              " scale ", limits.score_scale, " to ", limits.largest_score, " precision ", name(precision.tokens), " ",
              name(precision.scores), " ", name(precision.weights), " ", name(precision.answers), ", anchor ",
              name(options.anchor), " encoding ", name(options.encoding), " packing ", name(options.packing), " block ",
              options.block, " of ", options.oracle_heads, " heads ", options.oracle_layers, " layers, samples ",
              options.sampling.samples, " near ", options.sampling.near, " sinks ", options.sampling.sinks, " seed ",
              options.sampling.seed, options.checksums ? " checksums" : "");
}

#define TWOHEADS_ANY_RUN(Scalar)                                                                                  \
  template twoheads::Simulation<Scalar> simulate_on(twoheads::AnyOracle<Scalar>&, const twoheads::Model<Scalar>&, \
                                                    twoheads::Matrix<Scalar>, const twoheads::SimulationOptions&, \
                                                    const twoheads::Matrix<Scalar>*, const Checkpoint&);          \
  template twoheads::AnyOracle<Scalar> own_oracle(const twoheads::OracleLimits&, twoheads::Index)

TWOHEADS_ANY_RUN(float);
TWOHEADS_ANY_RUN(double);

}  // namespace programs
