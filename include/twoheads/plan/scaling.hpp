#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <twoheads/base/checked.hpp>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/plan/limits.hpp>
#include <twoheads/plan/other_splits.hpp>
#include <twoheads/plan/plan.hpp>
#include <twoheads/plan/shares.hpp>
#include <twoheads/plan/visits.hpp>
#include <vector>

namespace twoheads {

/// What a rank of a cluster can do; all ranks are alike.
struct RankMachine {
  double bandwidth = 1.25e9;  ///< bytes a second that a rank receives, and as many that it sends
  double latency = 5e-6;      ///< seconds that a message costs
  double flops = 5e10;        ///< floating-point operations a second
  double call_seconds = 0;    ///< seconds of an oracle's call; 0: its operations at `flops`
};

/// How a plan is to be spread over ranks.
struct ScaleRequest {
  Index ranks = 1;                        ///< that share the rows
  Index head_dim = 64;                    ///< columns of q and k
  Index value_dim = 64;                   ///< columns of v
  Index kv_heads = 0;                     ///< 0: as many as the plan has heads
  Index scalar_bytes = 4;                 ///< of a number
  Index piece = default_piece_keys;       ///< key rows that are fetched at once
  Index work_bytes = default_work_bytes;  ///< for blocks of queries that the kernel works on, for each thread
  Index threads = 1;                      ///< of a rank
  bool memory = false;                    ///< keys are another sequence's, also where they are as many as the queries
  RankMachine machine;                    ///< what a rank can do
  Index most_slots = Index{1} << 23;      ///< of an oracle's layer that are walked one by one, see predict_scale

  static constexpr Index most_ranks = Index{1} << 20;    ///< that are walked one by one
  static constexpr Index most_columns = Index{1} << 20;  ///< of a head
  static constexpr Index most_scalar_bytes = 64;         ///< of a number

  /// Throws SpecError for what makes no sense.
  void require_valid(Index heads) const {
    const auto at_least = [](const char* what, Index value, Index least) {
      if (value < least) throw SpecError(detail::text(what, " is ", value, ", expected ", least, " or more"));
    };
    at_least("the number of ranks", ranks, 1);
    at_least("the head dim", head_dim, 1);
    at_least("the value dim", value_dim, 1);
    at_least("the number of key/value heads", kv_heads, 0);
    at_least("the bytes of a scalar", scalar_bytes, 1);
    at_least("the rows of a piece", piece, 1);
    at_least("the slots that are walked", most_slots, 1);
    at_least("the bytes of work", work_bytes, 1);
    at_least("the number of threads", threads, 1);
    const auto at_most = [](const char* what, Index value, Index most) {
      if (value > most) throw SpecError(detail::text(what, " is ", value, ", expected ", most, " or less"));
    };
    at_most("the number of ranks", ranks, most_ranks);
    at_most("the head dim", head_dim, most_columns);
    at_most("the value dim", value_dim, most_columns);
    at_most("the bytes of a scalar", scalar_bytes, most_scalar_bytes);
    if (kv_heads > 0 && heads % kv_heads != 0)
      throw SpecError(detail::text(heads, " heads share ", kv_heads, " key/value heads, expected a divisor"));
    const auto above_zero = [](const char* what, double value) {
      if (!(value > 0)) throw SpecError(detail::text(what, " is ", value, ", expected a number above 0"));
    };
    above_zero("the bandwidth", machine.bandwidth);
    above_zero("the operations a second", machine.flops);
    if (!(machine.latency >= 0) || !(machine.call_seconds >= 0))
      throw SpecError("a message or a call takes less than no time, expected 0 or more");
  }
};

/// What one rank does in one layer.
struct RankScale {
  Index rows = 0;              ///< queries
  Index key_rows = 0;          ///< keys that it holds
  Index calls = 0;             ///< of an oracle
  double operations = 0;       ///< multiplications and additions
  Index bytes = 0;             ///< received from others
  Index messages = 0;          ///< received
  Index rank_bytes = 0;        ///< memory
  double compute_seconds = 0;  ///< it computes
  double hidden_seconds = 0;   ///< communication while it computes
  double exposed_seconds = 0;  ///< communication that it waits for

  [[nodiscard]] double seconds() const { return compute_seconds + exposed_seconds; }  ///< until it is done
};

/// What a plan comes to on so many ranks: times, bytes and messages of all layers, memory of one.
struct ScalePrediction {
  Index ranks = 1;             ///< as asked for
  double seconds = 0;          ///< of the rank that takes longest, and of it:
  double compute_seconds = 0;  ///< it computes
  double hidden_seconds = 0;   ///< it communicates and computes
  double exposed_seconds = 0;  ///< it waits
  Index bytes_moved = 0;       ///< of all ranks
  Index most_received = 0;     ///< bytes of the rank that receives most
  Index messages = 0;          ///< of all ranks
  Index rank_bytes = 0;        ///< memory of the rank that needs most
  double excess_work = 0;      ///< of the rank that has most beyond the mean, as a share of it
  /// Where all ranks keep step and ask the same few owners at the same time: no less than seconds.
  double contended_seconds = 0;
  bool exact_bytes = true;  ///< false: an estimate
};

namespace detail {

/// The model: who does what, summed over kinds of work.
class ScaleModel {
 public:
  ScaleModel(const Plan& plan, const ScaleRequest& request)
      : plan_(plan),
        request_(request),
        kv_heads_(request.kv_heads > 0 ? request.kv_heads : plan.request().heads),
        shares_(share_rows(plan, request.ranks)),
        key_shares_(request.memory || plan.keys() != plan.tokens() ? share_evenly(plan.keys(), request.ranks)
                                                                   : shares_),
        counter_(key_shares_, request.piece),
        ranks_(static_cast<std::size_t>(request.ranks)),
        fetched_(ranks_.size()),
        stretch_(request.piece) {
    if (plan.oracle().kind == OracleKind::kernel)
      count_kernel();
    else
      count_calls();
    for (Index rank = 0; rank < request.ranks; ++rank) finish(rank);
  }

  [[nodiscard]] const std::vector<RankScale>& ranks() const { return ranks_; }
  [[nodiscard]] bool exact() const { return exact_; }

  /// Seconds of one layer where all ranks keep step. They then ask for the same keys at the same time, and the owners
  /// of the next two pieces send to all of them. Where queries see few keys, neighbours ask and there is no crowd.
  [[nodiscard]] double contended_seconds() const {
    const MaskKind kind = plan_.request().mask.simplified(plan_.tokens()).kind;
    const bool crowd = kind == MaskKind::full || kind == MaskKind::causal || kind == MaskKind::blocks;
    const auto shares = static_cast<double>(key_shares_.shares().size());
    const double owners = std::clamp(2 * static_cast<double>(stretch_) * shares / static_cast<double>(plan_.keys()),
                                     1.0, static_cast<double>(request_.ranks));
    double bytes = 0;
    for (const RankScale& rank : ranks_) bytes += static_cast<double>(rank.bytes);
    const double sending = crowd ? bytes / (request_.machine.bandwidth * owners) : 0;
    double most = 0;
    for (const RankScale& rank : ranks_) most = std::max({most, rank.seconds(), sending});
    return most;
  }

 private:
  [[nodiscard]] Index columns() const { return request_.head_dim + request_.value_dim; }
  [[nodiscard]] RankScale& at(Index rank) { return ranks_[static_cast<std::size_t>(rank)]; }

  /// Adds memory for so many rows.
  static void add_bytes(RankScale& rank, Index rows, Index row_bytes) {
    const char* what = "the bytes of a rank";
    rank.rank_bytes = checked_sum(what, rank.rank_bytes, checked_product(what, rows, row_bytes));
  }

  void count_kernel() {
    const Mask& mask = plan_.request().mask;
    const Index heads = plan_.request().heads;
    // Of one query head 64 bits hold the bytes of any row.
    static_cast<void>(checked_product(
        "the bytes of a row of the kernel", heads / kv_heads_,
        bytes_of_a_lane(ScaleRequest::most_columns, ScaleRequest::most_columns, 1, ScaleRequest::most_scalar_bytes)));
    const Index lane_bytes =
        bytes_of_a_lane(request_.head_dim, request_.value_dim, heads / kv_heads_, request_.scalar_bytes);
    const Index most_rows = rows_of_a_visit(request_.work_bytes, request_.threads, lane_bytes);
    for (const RowShare& share : shares_.shares())
      for_each_visit(plan_, share.rows, most_rows, [&](const Visit& visit) {
        RankScale& rank = at(share.rank);
        fetched_[static_cast<std::size_t>(share.rank)] += fetched_of(plan_, counter_, share.rank, visit);
        // A product and a sum for each column of a key and of a value.
        rank.operations += 2 * visible_pairs(mask, visit.queries, plan_.keys()) * static_cast<double>(heads) *
                           static_cast<double>(columns());
        rank.rank_bytes =
            std::max(rank.rank_bytes, checked_product("the bytes of a rank", visit.queries.size(), lane_bytes));
      });
    for (std::size_t rank = 0; rank < ranks_.size(); ++rank) {
      Fetched& fetched = fetched_[rank];
      fetched = {checked_product("the rows fetched", fetched.rows, kv_heads_),
                 checked_product("the messages", fetched.ranges, kv_heads_)};
      if (fetched.rows > 0)
        add_bytes(ranks_[rank], std::min(request_.piece, plan_.keys()), 2 * columns() * request_.scalar_bytes);
    }
  }

  /// What a rank has to do for its query blocks.
  struct Calls {
    std::vector<Index> blocks;
    Index slots = 0;
    Index asking = 0;  ///< slots of blocks that need another's keys
    BatchCounter::Sum walked;
  };

  void count_calls() {
    std::vector<Calls> all(ranks_.size());
    BatchCounter counter(plan_, counter_, kv_heads_);
    Index asking = 0;
    for (const RowShare& share : shares_.shares())
      for_each_visit(plan_, share.rows, [&](const Visit& visit) {
        Calls& calls = all[static_cast<std::size_t>(share.rank)];
        const Index slots = counter.slots(visit.query_block);
        calls.blocks.push_back(visit.query_block);
        calls.slots += slots;
        if (counter.asks(share.rank, visit.query_block)) calls.asking += slots;
      });
    for (const Calls& calls : all) asking += calls.asking;
    exact_ = plan_.slots_per_layer() <= request_.most_slots;
    if (exact_)
      for (std::size_t rank = 0; rank < all.size(); ++rank)
        all[rank].walked = counter.count(static_cast<Index>(rank), all[rank].blocks, request_.piece);
    else
      walk_some(all, counter, asking);
    stretch_ = 1;
    for (std::size_t rank = 0; rank < all.size(); ++rank) finish_calls(all[rank], rank);
  }

  /// Walks one run of asking blocks in `step`, and puts what all would fetch in place of what these do.
  void walk_some(std::vector<Calls>& all, BatchCounter& counter, Index asking) const {
    const Index step = std::max<Index>(ceil_div(asking, request_.most_slots), 1);
    // Runs of some portions, so that few of them end where the run does.
    const double block_keys = static_cast<double>(plan_.slots_per_layer()) / static_cast<double>(plan_.query_blocks()) *
                              static_cast<double>(plan_.block());
    const Index portions = step == 1 ? plan_.query_blocks() : 8;
    const double blocks = static_cast<double>(portions) * static_cast<double>(request_.piece) / block_keys;
    const auto run = static_cast<std::size_t>(std::clamp(blocks, 1.0, static_cast<double>(plan_.query_blocks())));
    constexpr double golden_ratio = 1.6180339887498949;
    BatchCounter::Sum everywhere;
    Index number = 0;
    std::vector<Index> asked;
    for (std::size_t rank = 0; rank < all.size(); ++rank) {
      asked.clear();
      for (const Index block : all[rank].blocks)
        if (counter.asks(static_cast<Index>(rank), block)) asked.push_back(block);
      for (std::size_t begin = 0; begin < asked.size(); begin += run, ++number) {
        // Always the same place would meet the same part of each rank.
        if (number % step != static_cast<Index>(static_cast<double>(number / step) * golden_ratio) % step) continue;
        const auto some = std::span<const Index>(asked).subspan(begin, std::min(run, asked.size() - begin));
        const BatchCounter::Sum sum = counter.count(static_cast<Index>(rank), some, request_.piece);
        for (BatchCounter::Sum* to : {&all[rank].walked, &everywhere}) *to += sum;
      }
    }
    for (Calls& calls : all) {
      if (calls.walked.slots == 0) calls.walked = everywhere;
      BatchCounter::Sum& sum = calls.walked;
      const double times = sum.slots == 0 ? 0 : static_cast<double>(calls.asking) / static_cast<double>(sum.slots);
      for (Index* count : {&sum.fetched.rows, &sum.fetched.ranges})
        *count = static_cast<Index>(static_cast<double>(*count) * times + 0.5);
    }
  }

  void finish_calls(const Calls& calls, std::size_t number) {
    RankScale& rank = ranks_[number];
    fetched_[number] = calls.walked.fetched;
    stretch_ = std::max(stretch_, calls.walked.most_rows);
    if (calls.slots == 0) return;
    const Index call_rows =
        plan_.oracle().call_rows(plan_.straight() ? std::max(plan_.tokens(), plan_.keys()) : plan_.block() + 1);
    const Index in_call = std::min(plan_.slots_per_call(), plan_.slots_per_layer());
    rank.calls = ceil_div(calls.slots, in_call) * plan_.rounds_per_layer();
    // Scores and weighted values of all rows.
    const auto rows = static_cast<double>(call_rows);
    rank.operations = 2 * static_cast<double>(rank.calls * in_call) * rows * rows * static_cast<double>(columns());
    // Keys of two batches, and the rows of one with their answers.
    const Index batch = std::min(plan_.slots_per_batch(), calls.slots);
    const char* what = "the bytes of a rank";
    const Index batch_rows =
        checked_sum(what, calls.walked.most_rows, checked_product("the rows of a batch", batch, call_rows));
    rank.rank_bytes = checked_product(what, batch_rows, 2 * columns() * request_.scalar_bytes);
  }

  /// Bytes, memory and times from what has been counted.
  void finish(Index number) {
    RankScale& rank = at(number);
    const RankMachine& machine = request_.machine;
    const Fetched& fetched = fetched_[static_cast<std::size_t>(number)];
    rank.rows = shares_.size(number);
    rank.key_rows = key_shares_.size(number);
    rank.bytes = checked_product("the bytes moved", fetched.rows, columns() * request_.scalar_bytes);
    rank.messages = checked_product("the messages", fetched.ranges, 2);
    for (const Index head_rows : {checked_product("the rows of a rank", rank.rows, plan_.request().heads),
                                  checked_product("the rows of a rank", rank.key_rows, kv_heads_)})
      add_bytes(rank, head_rows, columns() * request_.scalar_bytes);
    rank.compute_seconds = machine.call_seconds > 0 && plan_.oracle().kind != OracleKind::kernel
                               ? machine.call_seconds * static_cast<double>(rank.calls)
                               : rank.operations / machine.flops;
    const auto transfer = [&](double bytes, double messages) {
      return bytes / machine.bandwidth + messages * machine.latency;
    };
    const double all = transfer(static_cast<double>(rank.bytes), static_cast<double>(rank.messages));
    if (fetched.rows == 0) return;
    // Nothing is computed before the first piece is there.
    const auto piece = static_cast<double>(std::min(stretch_, fetched.rows));
    const double share = piece / static_cast<double>(fetched.rows);
    const double first = all * share;
    rank.exposed_seconds = first + std::max(all - first - rank.compute_seconds, 0.0);
    rank.hidden_seconds = all - rank.exposed_seconds;
  }

  const Plan& plan_;
  const ScaleRequest& request_;
  Index kv_heads_;
  RowShares shares_;
  RowShares key_shares_;
  FetchCounter counter_;
  std::vector<RankScale> ranks_;
  std::vector<Fetched> fetched_;
  Index stretch_;  ///< key rows that are fetched at once
  bool exact_ = true;
};

inline void require_scalable(const Plan& plan, const ScaleRequest& request) {
  request.require_valid(plan.request().heads);
  if (plan.sampled() != nullptr)
    throw SpecError("a plan that draws a sample is not shared among ranks: expected samples 0");
}

}  // namespace detail

/// What each rank does in one layer: see predict_scale.
[[nodiscard]] inline std::vector<RankScale> predict_ranks(const Plan& plan, const ScaleRequest& request) {
  detail::require_scalable(plan, request);
  return detail::ScaleModel(plan, request).ranks();
}

/// Predicts time, bytes moved and memory of a plan whose queries, keys and values are shared among ranks.
///
/// Queries are shared by share_rows(), keys and values by the same shares, those of a memory evenly. In the tile kernel
/// a rank fetches for each visit and each key/value head the keys that its rows see and others hold, tile by tile; with
/// an oracle for each portion of batches of calls, of a piece of keys or more, the keys of their tiles, once.
///
///   Math     kernel: 2 pairs heads (head_dim + value_dim) operations. Oracle: calls, each of call_seconds, or of 2
///            rows^2 (head_dim + value_dim) operations a slot. Communication: bytes / bandwidth + messages * latency,
///            a message for keys and one for values for each range of a share that a piece holds. The first piece is
///            waited for, the others are hidden as far as there is something to compute.
///            seconds = layers * max over ranks of (compute + exposed); contended_seconds takes all bytes over what
///            the owners of two pieces send, where that is more
///   Laws     bytes are exact for one thread a rank; under masks other than full and causal, the kernel may fetch keys
///            that tiles of a visit share once instead of twice, and moves less. They are not for oracles with more
///            than most_slots slots a layer: there some of the query blocks that need others' keys are walked, a run of
///            them as if it were a share, and a rank has their bytes a slot (those of all ranks where it has none of
///            them): exact_bytes tells. Bytes and messages do not depend on the machine.
///   Corner   attention alone: projections, norms and MLPs are local and not counted. One rank moves nothing
///   Throws   SpecError for ranks, columns or a machine that make no sense, for a plan of a chunk or of a sample, or
///            counts beyond 64 bits
[[nodiscard]] inline ScalePrediction predict_scale(const Plan& plan, const ScaleRequest& request) {
  detail::require_scalable(plan, request);
  const detail::ScaleModel model(plan, request);
  ScalePrediction found;
  found.ranks = request.ranks;
  found.exact_bytes = model.exact();
  const RankScale* slowest = &model.ranks().front();
  double work = 0;
  double most_work = 0;
  for (const RankScale& rank : model.ranks()) {
    if (rank.seconds() > slowest->seconds()) slowest = &rank;
    found.bytes_moved = detail::checked_sum("the bytes moved", found.bytes_moved, rank.bytes);
    found.messages = detail::checked_sum("the messages", found.messages, rank.messages);
    found.most_received = std::max(found.most_received, rank.bytes);
    found.rank_bytes = std::max(found.rank_bytes, rank.rank_bytes);
    work += rank.operations;
    most_work = std::max(most_work, rank.operations);
  }
  const Index layers = plan.request().layers;
  for (Index* count : {&found.bytes_moved, &found.most_received, &found.messages})
    *count = detail::checked_product("the bytes or messages of all layers", *count, layers);
  const auto times = static_cast<double>(layers);
  found.compute_seconds = times * slowest->compute_seconds;
  found.hidden_seconds = times * slowest->hidden_seconds;
  found.exposed_seconds = times * slowest->exposed_seconds;
  found.seconds = found.compute_seconds + found.exposed_seconds;
  found.contended_seconds = times * model.contended_seconds();
  if (work > 0) found.excess_work = most_work * static_cast<double>(request.ranks) / work - 1;
  return found;
}

/// The case of a plan, one layer of it, for ring_cost and ulysses_cost.
[[nodiscard]] inline SplitCase split_case(const Plan& plan, const ScaleRequest& request) {
  const Index heads = plan.request().heads;
  return {
      plan.tokens(),     plan.keys(),         heads, request.kv_heads > 0 ? request.kv_heads : heads, request.head_dim,
      request.value_dim, request.scalar_bytes};
}

}  // namespace twoheads
