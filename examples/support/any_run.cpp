#include "support/any_run.hpp"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <twoheads/exec/checkpoint.hpp>
#include <twoheads/exec/pool.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <utility>

#include "support/attention_progress.hpp"
#include "support/instances.hpp"

namespace programs {
namespace {

using twoheads::Index;
using twoheads::Rows;

/// An oracle that belongs to someone else; progress is told of its answers.
template <class S>
struct Told {
  using Scalar = S;
  twoheads::AnyOracle<Scalar>* oracle;
  Progress* progress;

  [[nodiscard]] twoheads::OracleLimits limits() const { return oracle->limits(); }
  [[nodiscard]] twoheads::Matrix<Scalar> run(const twoheads::OracleCall<Scalar>& call) {
    twoheads::Matrix<Scalar> rows = oracle->run(call);
    progress->add(1);
    return rows;
  }
  void run_batch(std::span<const twoheads::OracleCall<Scalar>> calls, const twoheads::Answer<Scalar>& answer) {
    oracle->run_batch(calls, [&](std::size_t index, auto&& rows) {
      answer(index, std::forward<decltype(rows)>(rows));
      progress->add(1);
    });
  }
};

/// A grid whose parts may come from a file: progress is told that their calls need not be made.
template <class Scalar>
class SkippingGrid : public twoheads::GridAttention<twoheads::AnyOracle<Scalar>> {
 public:
  using Grid = twoheads::GridAttention<twoheads::AnyOracle<Scalar>>;

  SkippingGrid(twoheads::AnyOracle<Scalar>& oracle, const twoheads::SimulationOptions& options, Progress& progress)
      : Grid(oracle, options), limits_(oracle.limits()), options_(options), progress_(progress) {}

  void begin_layer(const twoheads::AttentionSpec& spec, Index layer, Rows queries, Index keys,
                   bool log_weights = false) {
    Grid::begin_layer(spec, layer, queries, keys, log_weights);
    if (!progress_.shown()) return;
    const twoheads::Plan plan(
        twoheads::detail::grid_request(options_, limits_, spec, layer, queries, keys, log_weights));
    first_ = queries.begin;
    causal_ = spec.mask.kind == twoheads::MaskKind::causal;
    calls_of_a_share_ = static_cast<double>(plan.calls()) / share(queries.end);
  }

  void skip_part(Rows queries) {
    Grid::skip_part(queries);
    if (progress_.shown()) progress_.skip(calls_of_a_share_ * (share(queries.end) - share(queries.begin)));
  }

 private:
  /// What the queries before a position see, in some unit.
  [[nodiscard]] double share(Index position) const {
    const auto queries = static_cast<double>(position - first_);
    return causal_ ? queries * queries : queries;
  }

  twoheads::OracleLimits limits_;
  twoheads::SimulationOptions options_;
  Progress& progress_;
  Index first_ = 0;
  bool causal_ = false;
  double calls_of_a_share_ = 0;
};

}  // namespace

template <class Scalar>
twoheads::Simulation<Scalar> simulate_on(twoheads::AnyOracle<Scalar>& oracle, const twoheads::Model<Scalar>& model,
                                         twoheads::Matrix<Scalar> x, const twoheads::SimulationOptions& options,
                                         const twoheads::Matrix<Scalar>* memory, const Checkpoint& checkpoint,
                                         Progress& progress) {
  std::optional<twoheads::AnyOracle<Scalar>> told;
  if (progress.shown()) told.emplace([&] { return Told<Scalar>{&oracle, &progress}; });
  SkippingGrid<Scalar> grid(told ? *told : oracle, options, progress);
  begin_calls(progress, model.spec, x.rows(), memory != nullptr ? memory->rows() : x.rows(), oracle.limits(), options);
  twoheads::Matrix<Scalar> rows;
  if (checkpoint.path.empty()) {
    rows = twoheads::forward(model, std::move(x), static_cast<typename SkippingGrid<Scalar>::Grid&>(grid), memory);
  } else {
    // Some dozens of parts: what is lost with a run is one of them.
    twoheads::CheckpointOptions parts;
    parts.rows = std::max<Index>(x.rows() / 64, 1);
    rows = with_checkpoint([&] {
      twoheads::CheckpointedAttention<SkippingGrid<Scalar>> kept(grid, checkpoint.path, checkpoint.key, parts);
      return twoheads::forward(model, std::move(x), kept, memory);
    });
  }
  progress.finish();
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

#define TWOHEADS_ANY_RUN(Scalar)                                                                                    \
  template twoheads::Simulation<Scalar> simulate_on(twoheads::AnyOracle<Scalar>&, const twoheads::Model<Scalar>&,   \
                                                    twoheads::Matrix<Scalar>, const twoheads::SimulationOptions&,   \
                                                    const twoheads::Matrix<Scalar>*, const Checkpoint&, Progress&); \
  template twoheads::AnyOracle<Scalar> own_oracle(const twoheads::OracleLimits&, twoheads::Index)

TWOHEADS_ANY_RUN(float);
TWOHEADS_ANY_RUN(double);

}  // namespace programs
