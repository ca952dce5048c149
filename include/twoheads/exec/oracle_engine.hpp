#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <twoheads/attention/input.hpp>
#include <twoheads/attention/partial.hpp>
#include <twoheads/base/checked.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/codec/anchors.hpp>
#include <twoheads/codec/checks.hpp>
#include <twoheads/codec/codes.hpp>
#include <twoheads/codec/decode.hpp>
#include <twoheads/codec/encode.hpp>
#include <twoheads/codec/head_weights.hpp>
#include <twoheads/codec/layout.hpp>
#include <twoheads/codec/score_bound.hpp>
#include <twoheads/codec/slot_map.hpp>
#include <twoheads/codec/stack.hpp>
#include <twoheads/exec/oracle_tasks.hpp>
#include <twoheads/oracle/oracle.hpp>
#include <twoheads/oracle/rounding.hpp>
#include <twoheads/plan/plan.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// How an engine makes its calls, beside what the plan says.
struct OracleEngineOptions {
  TokenEncoding encoding = TokenEncoding::projected;
  bool checksums = false;          ///< calls carry a number and a checksum, by which a wrong answer is known
  std::uint64_t first_number = 0;  ///< of the engine's first call
};

/// Evaluates the jobs of one layer through oracle calls: encode, run, decode, and repeat what the anchor left unsafe.
///
///   Laws     slots are cut into calls of H' L' in their order; a call's repeats depend on that call alone, so neither
///            bits nor the number of calls change with the batch. The oracle is touched through limits(), run() and
///            run_batch() only.
///   Throws   LimitError if the instances of a call are together wider than the oracle, a head is wider than its, the
///            products of codes would leave the range of the scalar, or scores may exceed the oracle's largest; SpecError
///            if raw tokens cannot express the model or carry checksums; OracleError, AnchorError that name layer, head,
///            tile and row
template <Oracle O>
class OracleEngine {
 public:
  using Scalar = typename O::Scalar;

  OracleEngine(O& oracle, const Plan& plan, const AttentionInput<Scalar>& input,
               const OracleEngineOptions& options = {})
      : oracle_(oracle),
        plan_(plan),
        input_(input),
        options_(options),
        limits_(plan.oracle()),
        next_number_(options.first_number),
        instances_(std::min(plan.slots_per_call(), plan.slots_per_layer())),
        codes_(plan.jobs_per_slot()) {
    if (options_.encoding == TokenEncoding::raw) {
      detail::require_tokens(input_);
      if (input_.spec.rope)
        throw SpecError("raw tokens cannot carry rotary positions, which differ by row: expected projected tokens");
      if (options_.checksums) throw SpecError("raw tokens carry no checksums: expected projected tokens");
    }
    require_exact_queries<Scalar>(factor(), limits_.precision);
    const InstanceLayout first = layout(first_kind());  // the widest of a job
    static_cast<void>(detail::checked_product("the width of a call", first.width() + first.answer_cols(), instances_));
    if (const std::string fault = call_fault(first, columns_of_calls(first), limits_); !fault.empty())
      throw LimitError(fault);
  }

  /// Calls made so far, repeats included, and the repeats alone.
  [[nodiscard]] Index calls() const { return calls_; }
  [[nodiscard]] Index repeats() const { return calls_ - planned_; }
  /// Most calls that had to wait for one another.
  [[nodiscard]] Index rounds() const { return rounds_; }

  [[nodiscard]] std::vector<Partial<Scalar>> evaluate(std::span<const Job> jobs) {
    std::vector<Task> tasks;
    tasks.reserve(jobs.size());
    for (const Job& job : jobs) tasks.emplace_back(job);
    std::vector<Slot> slots;
    for (std::size_t begin = 0; begin < tasks.size();) {
      std::size_t end = begin + 1;
      while (end < tasks.size() && jobs[end].slot == jobs[begin].slot) ++end;
      slots.emplace_back(std::span<Task>(tasks).subspan(begin, end - begin),
                         slot_map(jobs.subspan(begin, end - begin)));
      begin = end;
    }
    std::vector<Group> groups(static_cast<std::size_t>(ceil_div(static_cast<Index>(slots.size()), instances_)));
    for (std::size_t i = 0; i < slots.size(); ++i)
      groups[i / static_cast<std::size_t>(instances_)].push_back(&slots[i]);

    depth_ = 0;
    planned_ += static_cast<Index>(groups.size()) * plan_.rounds_per_layer();
    for (Task& task : tasks) set_anchors(task, first_anchors(task));
    round(first_kind(), groups);
    if (!plan_.straight() && plan_.anchor() == Anchor::gibbs)
      weigh_by_gibbs(groups);
    else
      repeat_unsafe(groups);

    std::vector<Partial<Scalar>> partials;
    partials.reserve(tasks.size());
    for (Task& task : tasks) partials.push_back(std::move(task.found.partial));
    return partials;
  }

 private:
  using Task = detail::Task<Scalar>;
  using Slot = detail::Slot<Scalar>;
  using Group = detail::SlotGroup<Scalar>;

  [[nodiscard]] SlotMap slot_map(std::span<const Job> jobs) const {
    std::vector<Tile> tiles;
    tiles.reserve(jobs.size());
    for (const Job& job : jobs) tiles.push_back(job.tile);
    return SlotMap(std::span<const Tile>(tiles), limits_.kind, plan_.straight());
  }

  [[nodiscard]] CallKind first_kind() const { return first_call(plan_.straight(), plan_.anchor()); }

  [[nodiscard]] InstanceLayout layout(CallKind kind) const {
    const AttentionSpec& spec = input_.spec;
    InstanceLayout found{kind, options_.encoding, spec.head_dim, spec.value_dim, input_.weights.wq.rows()};
    found.code_cols = codes_.columns();
    found.anchor_cols = anchor_cols(limits_.precision);
    found.checked = options_.checksums;
    return found;
  }

  /// The instances of a call, one after the other or layer over layer.
  [[nodiscard]] StackLayout columns_of_calls(const InstanceLayout& instance) const {
    return StackLayout(limits_, plan_.request().packing, instance.width(), instance.answer_cols(), limits_.rows,
                       instances_);
  }

  [[nodiscard]] double factor() const { return input_.spec.score_scale / limits_.score_scale; }

  [[nodiscard]] Vector<double> first_anchors(const Task& task) const {
    const Tile& tile = task.job.tile;
    const bool by_mean = plan_.anchor() == Anchor::mean_key || plan_.anchor() == Anchor::adaptive;
    if (plan_.straight() || !by_mean) return Vector<double>::Zero(tile.queries.size());
    const Index head = task.job.head;
    return mean_key_anchors(tile, input_.query_rows(head, tile.queries), input_.key_rows(head, tile.keys),
                            input_.key_rows(head, tile.sinks), input_.spec.score_scale);
  }

  /// Anchors in logits become entries of the queries' anchor column, rounded to the scalar that the oracle will see.
  void set_anchors(Task& task, const Vector<double>& logits) const {
    task.anchors = (logits / limits_.score_scale).template cast<Scalar>();
    for (Index query = 0; query < task.anchors.size(); ++query) {
      task.anchors[query] = held_anchor(task.anchors[query], limits_.precision);
      if (!std::isfinite(task.anchors[query]))
        throw AnchorError(detail::text(detail::place(place(task), task.job.tile, query), ": logits of about ",
                                       logits[query], " exceed the range of the ",
                                       limits_.precision.tokens == Precision::own ? "scalar" : "oracle's tokens"));
    }
  }

  [[nodiscard]] JobPlace place(const Task& task) const { return {input_.layer, task.job.head}; }

  /// One call for each group; what it finds is left in the tasks.
  void round(CallKind kind, const std::vector<Group>& groups) {
    const InstanceLayout columns = layout(kind);
    const StackLayout stacked = columns_of_calls(columns);
    const bool raw = options_.encoding == TokenEncoding::raw;
    std::vector<SmallWeights<Scalar>> weights(raw ? groups.size() : 0);
    if (calls_made_.size() < groups.size()) calls_made_.resize(groups.size());
    const std::span<OracleCall<Scalar>> calls = std::span(calls_made_).first(groups.size());
    for (std::size_t i = 0; i < groups.size(); ++i) {
      if (raw) {
        weights[i] = block_weights(columns, stacked, groups[i]);
        calls[i].weights = &weights[i];
      } else {
        calls[i].weights = &selector_weights(columns, stacked);
      }
      const auto number = CallNumber<Scalar>::of(next_number_++, limits_.precision);
      fill(calls[i].rows, columns, stacked, groups[i], number);
      if (options_.checksums) {
        std::vector<CheckedColumns> checked;
        for (Index at = 0; at < static_cast<Index>(groups[i].size()); ++at)
          checked.push_back(checked_columns(calls[i].rows, stacked.input_begin(at), stacked.answer_begin(at), columns));
        calls[i].fault = fault_by_checks<Scalar>(std::move(checked), columns, number, limits_.precision);
      }
    }
    detail::run_all_into(oracle_, std::span<const OracleCall<Scalar>>(calls), answers_, [&](std::size_t call) {
      const Task& first = groups[call].front()->tasks.front();
      return detail::place(place(first), first.job.tile, 0) + ": ";
    });
    calls_ += static_cast<Index>(groups.size());
    rounds_ = std::max(rounds_, ++depth_);
    for (std::size_t i = 0; i < groups.size(); ++i) read(answers_[i], calls[i], columns, stacked, groups[i]);
  }

  /// Rows of a call with these slots.
  [[nodiscard]] Index call_rows(const Group& group) const {
    Index needed = 0;
    for (const Slot* slot : group) needed = std::max(needed, slot->map.rows());
    return limits_.call_rows(needed);
  }

  void fill(Matrix<Scalar>& rows, const InstanceLayout& columns, const StackLayout& stacked, const Group& group,
            const CallNumber<Scalar>& number) const {
    rows.resize(call_rows(group), stacked.width());
    // Instances write all of their input columns; answer columns and those of empty instances are zero.
    if (stacked.residual() || stacked.has_identity() || static_cast<Index>(group.size()) < instances_) rows.setZero();
    write_codes(rows, stacked);
    for (std::size_t instance = 0; instance < group.size(); ++instance) {
      const Slot* slot = group[instance];
      EncodeSettings<Scalar> settings{.factor = static_cast<Scalar>(factor()),
                                      .codes = &codes_,
                                      .tokens = limits_.precision.tokens,
                                      .number = number};
      const bool dead = !columns.has_synthetic();
      const bool hides = dead || columns.code_cols > 0;
      if (hides || std::isfinite(limits_.largest_score)) {
        const double gap = gap_of(*slot, hides, rows.rows());
        if (dead) settings.synthetic = dead_key<Scalar>(gap, settings.tokens);
        if (columns.code_cols > 0) settings.amplitude = code_amplitude<Scalar>(gap, columns.code_cols, settings.tokens);
      }
      std::vector<Vector<Scalar>> same;
      if (dead)
        for (const Task& task : slot->tasks)
          same.push_back(Vector<Scalar>::Constant(task.anchors.size(), dead_query<Scalar>(settings.tokens)));
      std::vector<const Vector<Scalar>*> anchors;
      for (std::size_t job = 0; job < slot->tasks.size(); ++job)
        anchors.push_back(dead ? &same[job] : &slot->tasks[job].anchors);
      encode(rows, stacked.input_begin(static_cast<Index>(instance)), columns, slot->map, input_, slot->head(),
             std::span<const Vector<Scalar>* const>(anchors), settings);
    }
  }

  /// How far hidden scores of a slot must lie below the real ones, where it hides any.
  [[nodiscard]] double gap_of(const Slot& slot, bool hides, Index call_rows) const {
    const bool ends = std::isfinite(limits_.largest_score);
    const bool narrow = anchor_cols(limits_.precision) > 1;
    ScoreBound bound(narrow || ends);
    const Index head = slot.head();
    for (const Task& task : slot.tasks) {
      bound.add_queries(input_.query_rows(head, task.job.tile.queries));
      bound.add_keys(input_.key_rows(head, task.job.tile.keys));
    }
    bound.add_keys(input_.key_rows(head, slot.tasks.front().job.tile.sinks));
    // Weights of exp(-120) are 0 in float, whatever its sums; tokens of 16 bits have no range to spare.
    const double silence = narrow ? 120.0 : 1000.0;
    const double gap = bound.gap(factor(), input_.spec.head_dim, limits_.score_scale, silence);
    if (!ends) return gap;
    try {
      return gap_within<Scalar>(limits_, bound.most(factor(), input_.spec.head_dim), gap, hides, call_rows);
    } catch (const LimitError& error) {
      const Task& task = slot.tasks.front();
      throw LimitError(detail::place(place(task), task.job.tile, 0) + ": " + error.what());
    }
  }

  void read(const Matrix<Scalar>& answer, const OracleCall<Scalar>& call, const InstanceLayout& columns,
            const StackLayout& stacked, const Group& group) const {
    const Task& first = group.front()->tasks.front();
    const auto for_what = [&] { return detail::place(place(first), first.job.tile, 0) + ": "; };
    detail::require_answer(call, answer, for_what);
    if (call.fault)
      if (const std::string fault = call.fault(answer); !fault.empty()) throw OracleError(for_what() + fault);
    for (std::size_t instance = 0; instance < group.size(); ++instance) {
      const Slot& slot = *group[instance];
      const Index begin = stacked.answer_begin(static_cast<Index>(instance));
      for (std::size_t job = 0; job < slot.tasks.size(); ++job) {
        Task& task = slot.tasks[job];
        Decoded<Scalar> found =
            decode(answer, begin, columns, slot.map, static_cast<Index>(job), place(task), task.anchors,
                   limits_.score_scale, limits_.precision, stacked.template trace<Scalar>());
        if (columns.kind == CallKind::weight) {
          task.found.partial.log_weight = std::move(found.partial.log_weight);
          task.found.drift = std::move(found.drift);
        } else {
          task.found = std::move(found);
        }
      }
    }
  }

  /// The second call of the Gibbs anchor: the values are known, r and p are asked for.
  void weigh_by_gibbs(const std::vector<Group>& groups) {
    for (const Group& group : groups) {
      const Index rows = call_rows(group);
      for (Slot* slot : group)
        for (std::size_t job = 0; job < slot->tasks.size(); ++job) {
          Task& task = slot->tasks[job];
          const auto copies = [&](Index query) {
            const Index row = slot->map.row_of(static_cast<Index>(job), query);
            return row == SlotMap::none ? Index{1} : std::max<Index>(slot->map.synthetic_seen(row, rows), 1);
          };
          set_anchors(task, gibbs_anchors(task.job.tile, input_.query_rows(task.job.head, task.job.tile.queries),
                                          task.found.expected_keys, input_.spec.score_scale, copies));
        }
    }
    round(CallKind::weight, groups);
    search_anchors(groups);
  }

  /// Rows that are unsafe even with a Gibbs anchor have logits so large (beyond 1e8 in float) that their rounding is
  /// larger than the anchor's window. The anchor is then searched for: the drift of a row says on which side it lies.
  void search_anchors(std::vector<Group> groups) {
    for (int tries = 0; tries < AnchorSearch<Scalar>::most_tries; ++tries) {
      // A call keeps all its slots while one of them is searched for: with fewer rows the oracle might round the
      // scores otherwise, and what is known of an anchor would no longer hold.
      std::erase_if(groups, [](const Group& group) {
        return std::none_of(group.begin(), group.end(), [](const Slot* slot) { return slot->first_unsafe(); });
      });
      if (groups.empty()) return;
      detail::for_each_task(groups, [this](Task& task) {
        if (task.searches.empty()) task.searches.resize(task.found.drift.size());
        for (std::size_t row = 0; row < task.searches.size(); ++row) {
          Scalar& anchor = task.anchors[static_cast<Index>(row)];
          const Scalar next = held_anchor(task.searches[row].next(anchor, task.found.drift[row]), limits_.precision);
          // Neighbours of the precision enclose what would be right, or its range ends.
          if (task.found.drift[row] != Drift::none && (next == anchor || !std::isfinite(next))) fail_search(task);
          anchor = next;
        }
      });
      round(CallKind::weight, groups);
    }
    for (const Group& group : groups)
      for (const Slot* slot : group)
        if (const Task* task = slot->first_unsafe()) fail_search(*task);
  }

  [[noreturn]] void fail_search(const Task& task) const {
    throw AnchorError(detail::place(place(task), task.job.tile, task.found.first_unsafe()) +
                      ": no anchor keeps the row's weight in range; a wider scalar would do");
  }

  /// Adaptive: slots with an unsafe row are asked again, the values too where r underflowed. Otherwise an unsafe row is
  /// an error.
  void repeat_unsafe(const std::vector<Group>& groups) {
    const std::vector<Group> unsafe =
        detail::only(groups, [](const Slot& slot) { return slot.first_unsafe() != nullptr; });
    if (unsafe.empty()) return;
    if (plan_.anchor() != Anchor::adaptive) {
      const Task& task = *unsafe.front().front()->first_unsafe();
      const Index row = task.found.first_unsafe();
      const bool high = task.found.drift[static_cast<std::size_t>(row)] == Drift::too_high;
      throw AnchorError(detail::text(detail::place(place(task), task.job.tile, row), ": with the anchor ",
                                     name(plan_.anchor()), " the weight of the row's ",
                                     high ? "real keys" : "synthetic key",
                                     " underflows; the anchor adaptive repeats such tiles"));
    }
    const std::vector<Group> without_value = detail::only(unsafe, [](const Slot& slot) { return slot.lacks_value(); });
    if (!without_value.empty()) round(CallKind::values_and_keys, without_value);
    weigh_by_gibbs(unsafe);
  }

  const SmallWeights<Scalar>& selector_weights(const InstanceLayout& columns, const StackLayout& stacked) {
    std::optional<SmallWeights<Scalar>>& kept = selectors_[static_cast<std::size_t>(columns.kind)];
    if (!kept)
      kept = stack(stacked, std::vector<SmallHead<Scalar>>(static_cast<std::size_t>(instances_),
                                                           selector_head<Scalar>(columns)));
    return *kept;
  }

  /// Each instance takes the weights of its own head; instances that a last call leaves empty take those of head 0.
  [[nodiscard]] SmallWeights<Scalar> block_weights(const InstanceLayout& columns, const StackLayout& stacked,
                                                   const Group& group) {
    auto& heads = blocks_[static_cast<std::size_t>(columns.kind)];
    if (heads.empty())
      for (Index head = 0; head < input_.spec.heads; ++head)
        heads.push_back(block_head(columns, input_, head, static_cast<Scalar>(factor())));
    std::vector<SmallHead<Scalar>> instances(static_cast<std::size_t>(instances_), heads.front());
    for (std::size_t i = 0; i < group.size(); ++i) instances[i] = heads[static_cast<std::size_t>(group[i]->head())];
    return stack(stacked, instances);
  }

  O& oracle_;
  const Plan& plan_;
  const AttentionInput<Scalar>& input_;
  OracleEngineOptions options_;
  OracleLimits limits_;
  std::uint64_t next_number_;
  Index instances_;  ///< of a call: H' L', or fewer where a layer has fewer slots
  Codes codes_;      ///< of the jobs that share a slot
  Index calls_ = 0;
  Index planned_ = 0;
  Index depth_ = 0;
  Index rounds_ = 0;
  // Memory that serves all rounds.
  std::vector<OracleCall<Scalar>> calls_made_;
  std::vector<Matrix<Scalar>> answers_;
  std::array<std::optional<SmallWeights<Scalar>>, 5> selectors_;
  std::array<std::vector<SmallHead<Scalar>>, 5> blocks_;
};

}  // namespace twoheads
