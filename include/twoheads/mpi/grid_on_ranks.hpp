#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <iomanip>
#include <mutex>
#include <optional>
#include <string>
#include <twoheads/exec/execute.hpp>
#include <twoheads/exec/executor.hpp>
#include <twoheads/exec/oracle_engine.hpp>
#include <twoheads/merge/merger.hpp>
#include <twoheads/mpi/grid_work.hpp>
#include <twoheads/mpi/rank_input.hpp>
#include <twoheads/mpi/ranks.hpp>
#include <twoheads/mpi/shared_keys.hpp>
#include <twoheads/plan/shares.hpp>
#include <twoheads/simulate.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// GridAttention whose queries, keys and values lie on several ranks: each makes the calls of its own queries on an
/// oracle of its own, and fetches the keys that the next ones read while these are answered.
///
///   Laws     rows have the bits of GridAttention with the same options on one rank, and all ranks together make its
///            calls, for any number of ranks, threads and calls of a batch. Memory beside the rank's own rows: the keys
///            of the calls in work, and of those after them.
///   Corner   all ranks call it together, with the same spec, shares and options, on oracles with the same limits. On
///            several threads MPI must provide MPI_THREAD_SERIALIZED. One query is the rank's that has it, which then
///            holds all keys.
///   Throws   on every rank, as Ranks::together(): what GridAttention throws; SpecError for raw tokens, error bars, and
///            samples of single keys, which are not evaluated on ranks, and for shares that cut a call
///   Source   as GridAttention
template <Oracle O, Executor Exec = Serial>
class GridOnRanks {
 public:
  using Scalar = typename O::Scalar;

  GridOnRanks(Ranks& ranks, O& oracle, const SimulationOptions& options = {}, const RankOptions& rank_options = {},
              const Exec& exec = Exec())
      : ranks_(ranks), oracle_(oracle), oracles_(oracle), options_(options), rank_options_(rank_options), exec_(exec) {}

  [[nodiscard]] Ranks& ranks() const { return ranks_; }  ///< those that it runs on

  /// How the queries of a layer are best shared; those of other layers may be shared alike where their calls end at
  /// the same rows.
  [[nodiscard]] RowShares share(const AttentionSpec& spec, Index queries, Index keys) const {
    return share_rows(Plan(request(spec, 0, queries, keys, false)), ranks_.size());
  }

  /// Where the rows of a layer may be cut without a change of any call: see atoms_of.
  [[nodiscard]] std::vector<Index> atoms(const RankInput<Scalar>& input) const {
    const Index queries = input.query_shares.rows();
    if (queries == 1) return {1};
    const bool log_weights = input.sink_logits.size() > 0;
    return atoms_of(Plan(request(input.spec, input.layer, queries, input.key_shares.rows(), log_weights)));
  }

  /// What decides plan and bits, in words that ranks compare.
  [[nodiscard]] std::string words() const {
    const OracleLimits limits = oracles_.limits();
    const Sampling& sampling = options_.sampling;
    std::string counts;
    for (const Index rows : limits.row_counts) counts += detail::text(" ", rows);
    return detail::text("a ", name(limits.kind), " oracle of ", limits.rows, limits.fixed_rows ? " fixed" : "", " rows",
                        counts, ", ", limits.heads, " heads (", options_.oracle_heads, "), ", limits.layers,
                        " layers (", options_.oracle_layers, "), width ", limits.width, ", columns ", limits.key_cols,
                        " ", limits.value_cols, ", scale ", std::setprecision(17), limits.score_scale, ", scores to ",
                        limits.largest_score, ", ", name(limits.precision.tokens), " ", name(limits.precision.scores),
                        " ", name(limits.precision.weights), " ", name(limits.precision.answers),
                        limits.residual ? ", residual" : "", ", packing ", name(options_.packing), ", anchor ",
                        name(options_.anchor), ", blocks of ", options_.block,
                        options_.checksums ? ", checksums, " : ", ", sampling.samples, " samples, near ", sampling.near,
                        ", sinks ", sampling.sinks, ", seed ", sampling.seed, sampling.permute ? ", permuted" : "");
  }

  /// Where GridAttention ends the parts of a layer: see AttendInParts.
  [[nodiscard]] std::vector<Index> part_ends(const AttentionSpec& spec, Index layer, Index tokens, Index least,
                                             bool log_weights) const {
    return detail::part_ends_of(GridAttention<O>(oracle_, options_), spec, layer, tokens, least, log_weights);
  }

  /// Throws SpecError where the rows of a layer are shared in such a way that a call would be cut; calls no MPI.
  void require_shares(const AttentionSpec& spec, Index layer, const RowShares& queries, Index keys,
                      bool log_weights) const {
    if (queries.rows() > 1)
      detail::require_whole_calls(Plan(request(spec, layer, queries.rows(), keys, log_weights)), queries.shares(),
                                  layer);
  }

  void operator()(const RankInput<Scalar>& input, MatrixSpan<Scalar> out) {
    (*this)(input, out, RankWork::all(input.query_shares, ranks_.rank()));
  }

  /// The same for some of the rank's rows, cut where no call is; the others stay as they are. `work.finished` must
  /// leave MPI alone.
  void operator()(const RankInput<Scalar>& input, MatrixSpan<Scalar> out, const RankWork& work) {
    std::optional<Plan> plan;
    detail::NotFinite fault;
    const bool one_query = input.query_shares.rows() == 1;
    std::string what;
    ranks_.together([&] { what = detail::words_of(input, words()); });
    ranks_.require_same(what);
    ranks_.together([&] {
      detail::require_rank_rows(ranks_, input, out);
      require_options();
      detail::require_score_terms(detail::input_of_share(input, RowShare{}));
      fault = detail::first_not_finite(input, ranks_.rank());
      if (one_query) return;
      plan.emplace(request(input.spec, input.layer, input.query_shares.rows(), input.key_shares.rows(),
                           input.sink_logits.size() > 0));
      if (!plan->key_order().empty())
        throw SpecError(
            "samples of single keys are not drawn on ranks: expected Sampling::permute false, or no samples");
      detail::require_whole_calls(*plan, input.query_shares.shares(), input.layer);
      detail::require_whole_calls(*plan, work.wanted, input.layer);
    });
    const std::uint64_t first_fault = ~ranks_.largest(~fault.order);
    ranks_.together([&] {
      if (first_fault == fault.order && first_fault != detail::NotFinite::none)
        throw detail::not_finite(input.layer, fault.head, fault.position, fault.what);
    });
    const SharedKeys<Scalar> keys(ranks_, input.key_shares, input.k, input.v);
    SimulationCounts taken;
    ranks_.together(
        [&] { taken = one_query ? evaluate_one(input, work, keys, out) : evaluate(*plan, input, work, keys, out); });
    count(taken);
  }

  /// What this rank took.
  [[nodiscard]] const RankCounts& counts() const { return counts_; }
  /// What all ranks took together: the counts of GridAttention on one.
  [[nodiscard]] const SimulationCounts& totals() const { return totals_; }

 private:
  using Portion = detail::GridPortion<Scalar>;
  using Found = std::vector<std::vector<Partial<Scalar>>>;

  /// An engine, and the rows that it sees: those of one portion after the other.
  struct Worker {
    Worker(O& oracle, const Plan& plan, const AttentionInput<Scalar>& rows, const OracleEngineOptions& options)
        : input(rows), engine(oracle, plan, input, options) {}
    Worker(const Worker&) = delete;
    Worker& operator=(const Worker&) = delete;
    ~Worker() = default;
    AttentionInput<Scalar> input;
    OracleEngine<O> engine;
  };

  [[nodiscard]] PlanRequest request(const AttentionSpec& spec, Index layer, Index queries, Index keys,
                                    bool log_weights) const {
    return detail::grid_request(options_, oracles_.limits(), spec, layer, {0, queries}, keys, log_weights);
  }

  void require_options() const {
    if (options_.encoding == TokenEncoding::raw)
      throw SpecError("raw tokens are not shared among ranks: expected projected tokens");
    if (options_.error_bar_level != 0) throw SpecError("error bars are not kept on ranks: expected error_bar_level 0");
    if (rank_options_.piece_keys < 1)
      throw SpecError(detail::text("a piece has ", rank_options_.piece_keys, " keys, expected 1 or more"));
    if (exec_.threads() > 1) ranks_.require_serialized("oracle calls");
  }

  /// One query, by the rank that has it.
  [[nodiscard]] SimulationCounts evaluate_one(const RankInput<Scalar>& input, const RankWork& work,
                                              const SharedKeys<Scalar>& keys, MatrixSpan<Scalar>& out) {
    if (work.wanted.empty()) return {};
    GridAttention<O, Exec> attend(oracle_, options_, exec_);
    detail::attend_alone(input, keys, attend, out, counts_);
    detail::FinishedRows(work).all();
    return attend.counts();
  }

  [[nodiscard]] SimulationCounts evaluate(const Plan& plan, const RankInput<Scalar>& input, const RankWork& wanted,
                                          const SharedKeys<Scalar>& keys, MatrixSpan<Scalar>& out) {
    // Queries that see no key have no job.
    if (input.spec.mask.kind == MaskKind::blocks)
      for (const RowShare& share : wanted.wanted)
        block_span(out, {share.place, share.place + share.rows.size()}, 0, out.cols()).setZero();
    detail::FinishedRows finished(wanted);
    if (plan.tiles() == 0) {
      finished.all();
      return {};
    }
    const AttentionInput<Scalar> rows = detail::input_of_share(input, RowShare{});
    // Workers live until their calls are counted.
    std::mutex mutex;
    std::deque<Worker> workers;
    const auto make_worker = [&] {
      const std::lock_guard lock(mutex);
      const OracleEngineOptions made{options_.encoding, options_.checksums, next_number()};
      return &workers.emplace_back(oracles_.of(workers.size()), plan, rows, made);
    };
    const bool alone = exec_.threads() == 1;
    // A rank has its part of the plan's batches. Threads are not to wait for a piece to be full.
    const detail::GridPortionSize size{alone ? rank_options_.piece_keys : 0,
                                       alone ? 1 : detail::batches_at_once(plan, exec_.threads() * ranks_.size())};
    detail::GridWork<Scalar> work(plan, wanted.wanted, keys, input.spec, size, counts_);
    SimulationCounts taken;
    std::optional<Merger<Scalar>> merger;
    Index first_row = 0;  // of the merger
    Index block = -1;     // of the last job
    const auto evaluate_portion = [&](Worker* worker, const Portion& portion) {
      worker->input.held.first_query = first_row_of(portion.share);
      worker->input.lent = portion.keys->lent();
      Found found;
      found.reserve(portion.batches.size());
      for (const std::vector<Job>& jobs : portion.batches) {
        found.push_back(worker->engine.evaluate(jobs));
        work.poll();
      }
      return found;
    };
    const auto take = [&](Portion& portion, const Found& found) {
      work.give_back(portion);
      if (!merger || first_row != first_row_of(portion.share)) {
        if (merger) merger->finish();
        first_row = first_row_of(portion.share);
        merger.emplace(out, input.spec.value_dim, first_row, input.sink_logits);
      }
      for (std::size_t batch = 0; batch < found.size(); ++batch) {
        taken.jobs += static_cast<Index>(found[batch].size());
        for (std::size_t i = 0; i < found[batch].size(); ++i) {
          const Job& job = portion.batches[batch][i];
          // Slots of a share are counted from 0: the calls before this one's are complete.
          if (job.query_block != block && job.slot % plan.slots_per_call() == 0) {
            merger->finish();
            finished.until(job.block_queries.begin);
          }
          block = job.query_block;
          (*merger)(job, found[batch][i]);
        }
      }
    };
    exec_.in_order(
        make_worker, [&] { return work.next(); }, evaluate_portion, take);
    if (merger) merger->finish();
    finished.all();
    for (const Worker& worker : workers) {
      taken.calls += worker.engine.calls();
      taken.repeats += worker.engine.repeats();
      taken.rounds = std::max(taken.rounds, worker.engine.rounds());
    }
    return taken;
  }

  /// Where the sequence would begin, had the rank's own rows no gaps before the share.
  [[nodiscard]] static Index first_row_of(const RowShare& share) { return share.rows.begin - share.place; }

  /// Of the first call of the next engine: those of all engines of all ranks differ.
  [[nodiscard]] std::uint64_t next_number() {
    const auto engine =
        static_cast<std::uint64_t>(ranks_.rank()) + engines_++ * static_cast<std::uint64_t>(ranks_.size());
    return engine * detail::numbers_of_an_engine;
  }

  void count(const SimulationCounts& taken) {
    const auto sum = [&](Index number) { return static_cast<Index>(ranks_.sum(static_cast<std::uint64_t>(number))); };
    counts_.calls += taken.calls;
    counts_.repeats += taken.repeats;
    totals_.calls += sum(taken.calls);
    totals_.repeats += sum(taken.repeats);
    totals_.rounds += static_cast<Index>(ranks_.largest(static_cast<std::uint64_t>(taken.rounds)));
    totals_.jobs += sum(taken.jobs);
  }

  Ranks& ranks_;
  O& oracle_;
  detail::OracleCopies<O, Exec> oracles_;
  SimulationOptions options_;
  RankOptions rank_options_;
  Exec exec_;
  std::uint64_t engines_ = 0;  ///< made so far on this rank
  RankCounts counts_;
  SimulationCounts totals_;
};

}  // namespace twoheads
