#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <thread>
#include <twoheads/exec/executor.hpp>
#include <twoheads/exec/kernel_attention.hpp>
#include <twoheads/mpi/kernel_work.hpp>
#include <twoheads/mpi/rank_input.hpp>
#include <twoheads/mpi/ranks.hpp>
#include <twoheads/mpi/shared_keys.hpp>
#include <twoheads/plan/shares.hpp>
#include <twoheads/simulate.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// KernelAttention whose queries, keys and values lie on several ranks: each evaluates its own queries, and fetches the
/// keys that these see, piece by piece, while it works on the piece before.
///
///   Laws     rows have the bits of KernelAttention with the same options on one rank, for any number of ranks,
///            threads and pieces. Memory beside the rank's own rows: two pieces, and the blocks in work.
///   Corner   all ranks call it together, with the same spec, shares and options. Threads beside MPI's own need no
///            more of it than MPI_THREAD_FUNNELED.
///   Throws   on every rank, as Ranks::together(): ShapeError, SpecError where rows do not fit; SpecError for a storage
///            in 16 bits, log weights, and samples whose keys are drawn one by one, which are not evaluated on ranks
///   Source   as KernelAttention
template <RealScalar S, Executor Exec = Serial, SimdBackend Simd = DefaultSimd<S>>
class KernelOnRanks {
 public:
  using Scalar = S;

  explicit KernelOnRanks(Ranks& ranks, const KernelOptions& options = {}, Exec exec = {},
                         const RankOptions& rank_options = {})
      : ranks_(ranks), options_(options), exec_(std::move(exec)), rank_options_(rank_options) {}

  [[nodiscard]] Ranks& ranks() const { return ranks_; }  ///< those that it runs on

  /// How the queries of a layer are best shared; those of other layers may be shared alike, whatever their masks.
  [[nodiscard]] RowShares share(const AttentionSpec& spec, Index queries, Index keys) const {
    return share_rows(Plan(kernel_request(options_, spec, 0, {0, queries}, keys)), ranks_.size());
  }

  /// Where the rows of a layer may be cut without a change of any bit: see atoms_of.
  [[nodiscard]] std::vector<Index> atoms(const RankInput<Scalar>& input) const {
    const Rows queries{0, input.query_shares.rows()};
    return atoms_of(Plan(kernel_request(options_, input.spec, input.layer, queries, input.key_shares.rows())));
  }

  /// What decides the bits, in words that ranks compare.
  [[nodiscard]] std::string words() const {
    const Sampling& sampling = options_.sampling;
    return detail::text("the kernel, blocks of ", options_.rows, " rows, plan for ",
                        options_.plan_for ? name(*options_.plan_for) : "itself", ", ", sampling.samples,
                        " samples, near ", sampling.near, ", sinks ", sampling.sinks, ", seed ", sampling.seed);
  }

  /// Where KernelAttention ends the parts of a layer: see AttendInParts.
  [[nodiscard]] std::vector<Index> part_ends(const AttentionSpec& spec, Index layer, Index tokens, Index least,
                                             bool log_weights) const {
    return detail::part_ends_of(KernelAttention<Scalar, Serial, Simd>(options_), spec, layer, tokens, least,
                                log_weights);
  }

  /// Any shares will do.
  void require_shares(const AttentionSpec&, Index, const RowShares&, Index, bool) const {}

  void operator()(const RankInput<Scalar>& input, MatrixSpan<Scalar> out) {
    (*this)(input, out, RankWork::all(input.query_shares, ranks_.rank()));
  }

  /// The same for some of the rank's rows; the others stay as they are.
  void operator()(const RankInput<Scalar>& input, MatrixSpan<Scalar> out, const RankWork& work) {
    std::optional<Plan> plan;
    bool finite = true;
    thread_ = std::this_thread::get_id();
    ranks_.require_same(detail::words_of(input, words()));
    ranks_.together([&] {
      detail::require_rank_rows(ranks_, input, out);
      detail::require_score_terms(detail::input_of_share(input, RowShare{}));
      require_options();
      plan.emplace(
          kernel_request(options_, input.spec, input.layer, {0, input.query_shares.rows()}, input.key_shares.rows()));
      if (plan->sampled() != nullptr)
        detail::require_plain_scores(detail::input_of_share(input, RowShare{}), "a sample");
      if (!plan->key_order().empty())
        throw SpecError("samples of single keys are not drawn on ranks: expected blocks, or no samples");
      finite = detail::first_row_not_finite(input.v) < 0;
    });
    finite = ranks_.largest(finite ? std::uint64_t{0} : std::uint64_t{1}) == 0;
    const SharedKeys<Scalar> keys(ranks_, input.key_shares, input.k, input.v);
    ranks_.together([&] {
      if (input.query_shares.rows() == 1) {
        if (work.wanted.empty()) return;
        detail::attend_alone(input, keys, KernelAttention<Scalar, Exec, Simd>(options_, exec_), out, counts_);
        if (work.finished) work.finished(work.wanted.front());
      } else {
        evaluate(*plan, input, work, keys, finite, out);
      }
    });
    totals_.jobs += plan->jobs();
  }

  /// What this rank took.
  [[nodiscard]] const RankCounts& counts() const { return counts_; }
  /// What all ranks took together: tiles of single heads as jobs, and no calls.
  [[nodiscard]] const SimulationCounts& totals() const { return totals_; }

 private:
  using Kernel = BlockKernel<Scalar, Simd>;

  /// Some rows of one block of a visit for one head, on one thread.
  struct Piece {
    Index block = 0;
    Index head = 0;
    RowShare own;
    std::optional<AttentionInput<Scalar>> input;
    std::optional<Kernel> kernel;
  };

  void require_options() const {
    if (options_.storage != KeyStorage::as_given)
      throw SpecError("keys and values in 16 bits are not shared among ranks: expected KeyStorage::as_given");
    if (options_.log_weights) throw SpecError("log weights are not kept on ranks: expected log_weights false");
    if (rank_options_.piece_keys < 1)
      throw SpecError(detail::text("a piece has ", rank_options_.piece_keys, " keys, expected 1 or more"));
    if (rank_options_.work_bytes < 1)
      throw SpecError(detail::text("queries in work have ", rank_options_.work_bytes, " bytes, expected 1 or more"));
    if (exec_.threads() > 1) ranks_.require_funneled("the kernel");
  }

  void evaluate(const Plan& plan, const RankInput<Scalar>& input, const RankWork& wanted,
                const SharedKeys<Scalar>& keys, bool finite, MatrixSpan<Scalar>& out) {
    const AttentionSpec& spec = input.spec;
    const Index lane = bytes_of_a_lane(spec.head_dim, spec.value_dim, spec.heads / spec.kv_heads, sizeof(Scalar));
    const Index most_rows = rows_of_a_visit(rank_options_.work_bytes, exec_.threads(), lane);
    detail::KernelWork work(plan, detail::visits_of(plan, wanted.wanted, most_rows), spec.heads / spec.kv_heads,
                            rank_options_.piece_keys, ranks_.rank() * spec.kv_heads / ranks_.size());
    KeyPiece<Scalar> rooms[2] = {KeyPiece<Scalar>(keys), KeyPiece<Scalar>(keys)};
    std::optional<detail::KernelPortion> portion = work.next();
    if (portion) rooms[0].start(portion->ranges, counts_.moved, counts_.fetch_seconds);
    std::deque<Piece> pieces;
    for (std::size_t room = 0; portion; room = 1 - room) {
      rooms[room].wait(counts_.fetch_seconds);
      std::optional<detail::KernelPortion> next = work.next();
      if (next) rooms[1 - room].start(next->ranges, counts_.moved, counts_.fetch_seconds);
      if (portion->first) begin(pieces, input, work.visits()[portion->visit], portion->heads, finite, plan);
      add(pieces, *portion, rooms[room]);
      if (portion->last) finish(pieces, spec, out);
      if (portion->ends_visit && wanted.finished) wanted.finished(work.visits()[portion->visit].own);
      portion = std::move(next);
    }
  }

  void begin(std::deque<Piece>& pieces, const RankInput<Scalar>& input, const detail::OwnVisit& visit, Rows heads,
             bool finite, const Plan& plan) {
    pieces.clear();
    for_each_block(plan, visit.visit, [&](Index block, Rows own) {
      // Lanes are cut where one piece a head would leave threads idle.
      const Index atoms = ceil_div(own.size(), detail::rows_of_a_kernel_atom);
      const Index wanted = exec_.threads() > 1 ? 2 * exec_.threads() : 1;
      const Index parts = std::clamp<Index>(ceil_div(wanted, heads.size()), 1, atoms);
      for (Index head = heads.begin; head < heads.end; ++head)
        for (Index part = 0; part < parts; ++part) {
          const Rows cut = even_rows(part, parts, atoms);
          const Rows rows{own.begin + cut.begin * detail::rows_of_a_kernel_atom,
                          std::min(own.begin + cut.end * detail::rows_of_a_kernel_atom, own.end)};
          Piece& piece = pieces.emplace_back();
          piece.block = block;
          piece.head = head;
          piece.own = {rows, visit.own.rank, visit.own.place + rows.begin - visit.own.rows.begin};
          piece.input.emplace(detail::input_of_share(input, piece.own));
          piece.kernel.emplace(*piece.input, finite);
        }
    });
    for_each(pieces,
             [&](Piece& piece) { piece.kernel->begin(piece.head, plan.queries_of(piece.block), piece.own.rows); });
  }

  void add(std::deque<Piece>& pieces, const detail::KernelPortion& portion, const KeyPiece<Scalar>& room) {
    for_each(pieces, [&](Piece& piece) {
      for (const detail::KernelStep& step : portion.steps) {
        if (step.block != piece.block) continue;
        const KeyRange range{portion.kv_head, step.seen};
        if (step.seen.empty()) {
          const MatrixView<Scalar> none_k(nullptr, 0, piece.input->spec.head_dim, Eigen::OuterStride<>(0));
          const MatrixView<Scalar> none_v(nullptr, 0, piece.input->spec.value_dim, Eigen::OuterStride<>(0));
          piece.kernel->add(step.tile, step.of, step.part, step.seen, none_k, none_v);
        } else {
          piece.kernel->add(step.tile, step.of, step.part, step.seen, room.key_rows(range), room.value_rows(range));
        }
        poll();
      }
    });
  }

  void finish(std::deque<Piece>& pieces, const AttentionSpec& spec, MatrixSpan<Scalar>& out) {
    for_each(pieces, [&](Piece& piece) {
      const Rows place{piece.own.place, piece.own.place + piece.own.rows.size()};
      piece.kernel->finish(block_span(out, place, piece.head * spec.value_dim, spec.value_dim));
    });
  }

  template <class Use>
  void for_each(std::deque<Piece>& pieces, const Use& use) const {
    exec_.for_each(
        static_cast<Index>(pieces.size()), [] { return 0; },
        [&](int&, Index piece) { use(pieces[static_cast<std::size_t>(piece)]); });
  }

  /// MPI is this thread's; the others leave it alone.
  void poll() {
    if (std::this_thread::get_id() == thread_) ranks_.poll();
  }

  Ranks& ranks_;
  KernelOptions options_;
  Exec exec_;
  RankOptions rank_options_;
  std::thread::id thread_;  ///< that called: MPI is its
  RankCounts counts_;
  SimulationCounts totals_;
};

}  // namespace twoheads
