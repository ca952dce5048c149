#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
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

  [[nodiscard]] Ranks& ranks() const { return ranks_; }

  /// How the queries of a layer are best shared; those of other layers may be shared alike where their calls end at
  /// the same rows.
  [[nodiscard]] RowShares share(const AttentionSpec& spec, Index queries, Index keys) const {
    return share_rows(Plan(request(spec, 0, queries, keys, false)), ranks_.size());
  }

  void operator()(const RankInput<Scalar>& input, MatrixSpan<Scalar> out) {
    std::optional<Plan> plan;
    detail::NotFinite fault;
    const bool one_query = input.query_shares.rows() == 1;
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
      detail::require_whole_calls(*plan, input.query_shares, input.layer);
    });
    const std::uint64_t first_fault = ~ranks_.largest(~fault.order);
    ranks_.together([&] {
      if (first_fault == fault.order && first_fault != detail::NotFinite::none)
        throw detail::not_finite(input.layer, fault.head, fault.position, fault.what);
    });
    const SharedKeys<Scalar> keys(ranks_, input.key_shares, input.spec.kv_heads, input.k, input.v);
    SimulationCounts taken;
    ranks_.together([&] { taken = one_query ? evaluate_one(input, keys, out) : evaluate(*plan, input, keys, out); });
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

  /// One query, by the rank that has it: all its keys as GridAttention takes them.
  [[nodiscard]] SimulationCounts evaluate_one(const RankInput<Scalar>& input, const SharedKeys<Scalar>& keys,
                                              MatrixSpan<Scalar>& out) {
    if (input.q.rows() == 0) return {};
    const AttentionSpec& spec = input.spec;
    const Index count = input.key_shares.rows();
    // Keys that the query does not see stay 0: nobody reads them.
    Matrix<Scalar> k = Matrix<Scalar>::Zero(count, spec.kv_heads * spec.head_dim);
    Matrix<Scalar> v = Matrix<Scalar>::Zero(count, spec.kv_heads * spec.value_dim);
    KeyPiece<Scalar> piece(keys);
    for (Index head = 0; head < spec.kv_heads; ++head) {
      std::vector<KeyRange> ranges;
      spec.mask.for_each_range(0, count, [&](Rows seen) {
        if (!seen.empty()) ranges.push_back({head, seen});
      });
      piece.start(ranges, counts_.moved);
      piece.wait();
      for (const KeyRange& range : ranges) {
        k.block(range.keys.begin, head * spec.head_dim, range.keys.size(), spec.head_dim) = piece.key_rows(range);
        v.block(range.keys.begin, head * spec.value_dim, range.keys.size(), spec.value_dim) = piece.value_rows(range);
      }
    }
    const MatrixView<Scalar> none = no_rows<Scalar>();
    const AttentionInput<Scalar> own = detail::input_of_share(input, RowShare{});
    GridAttention<O, Exec> attend(oracle_, options_, exec_);
    attend({spec, input.layer, input.q, view(k), view(v), none, none, own.weights, {}, false, input.sink_logits}, out);
    return attend.counts();
  }

  [[nodiscard]] SimulationCounts evaluate(const Plan& plan, const RankInput<Scalar>& input,
                                          const SharedKeys<Scalar>& keys, MatrixSpan<Scalar>& out) {
    // Queries that see no key have no job.
    if (input.spec.mask.kind == MaskKind::blocks) out.setZero();
    if (plan.tiles() == 0) return {};
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
    detail::GridWork<Scalar> work(plan, input.query_shares, keys, input.spec, size, counts_.moved);
    SimulationCounts taken;
    std::optional<Merger<Scalar>> merger;
    Index first_row = 0;  // of the merger's share
    const auto evaluate_portion = [&, alone](Worker* worker, const Portion& portion) {
      worker->input.held.first_query = first_row_of(portion.share);
      worker->input.lent = portion.lent;
      Found found;
      found.reserve(portion.batches.size());
      for (const std::vector<Job>& jobs : portion.batches) {
        found.push_back(worker->engine.evaluate(jobs));
        if (alone) ranks_.poll();
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
        for (std::size_t i = 0; i < found[batch].size(); ++i) (*merger)(portion.batches[batch][i], found[batch][i]);
      }
    };
    exec_.in_order(
        make_worker, [&] { return work.next(); }, evaluate_portion, take);
    if (merger) merger->finish();
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
    counts_.tiles += taken.jobs;
    counts_.calls += taken.calls;
    counts_.repeats += taken.repeats;
    const auto rounds = static_cast<Index>(ranks_.largest(static_cast<std::uint64_t>(taken.rounds)));
    counts_.rounds += rounds;
    totals_.calls += sum(taken.calls);
    totals_.repeats += sum(taken.repeats);
    totals_.rounds += rounds;
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
