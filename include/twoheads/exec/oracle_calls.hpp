#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <twoheads/attention/input.hpp>
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
#include <twoheads/codec/score_terms.hpp>
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
  TokenEncoding encoding = TokenEncoding::projected;  ///< what a row of a call carries
  bool checksums = false;          ///< calls carry a number and a checksum, by which a wrong answer is known
  std::uint64_t first_number = 0;  ///< of the engine's first call
};

namespace detail {

/// Makes the calls of one layer: their columns, rows and weights.
///
///   Throws   LimitError, SpecError as OracleEngine says
template <RealScalar Scalar>
class OracleCalls {
 public:
  OracleCalls(const Plan& plan, const AttentionInput<Scalar>& input, const OracleEngineOptions& options)
      : plan_(plan),
        input_(input),
        options_(options),
        limits_(plan.oracle()),
        next_number_(options.first_number),
        instances_(std::min(plan.slots_per_call(), plan.slots_per_layer())),
        codes_(plan.jobs_per_slot()),
        term_cols_(ScoreTerms<Scalar>::columns(
            input, plan.straight() ? plan.tokens() : std::min(plan.block(), plan.tokens()))) {
    if (options_.encoding == TokenEncoding::raw) {
      require_tokens(input_);
      if (input_.spec.rope)
        throw SpecError("raw tokens cannot carry rotary positions, which differ by row: expected projected tokens");
      if (term_cols_ > 0)
        throw SpecError("raw tokens carry nothing that is added to scores, ALiBi or a bias: expected projected tokens");
      if (options_.checksums) throw SpecError("raw tokens carry no checksums: expected projected tokens");
    }
    if (term_cols_ > 0 && plan.sampled() != nullptr)
      throw SpecError("a sample of scores to which ALiBi or a bias adds is not drawn: expected samples 0");
    if (term_cols_ > 0 && facts_of(limits_.precision.tokens).unit_roundoff > facts_of(Precision::float32).unit_roundoff)
      throw LimitError(text("tokens of ", name(limits_.precision.tokens),
                            " would round what ALiBi or a bias adds to scores: expected tokens of float32 or wider"));
    require_exact_queries<Scalar>(factor(), limits_.precision);
    // The first call of a job is the widest.
    const InstanceLayout first = layout(first_call(plan.straight(), plan.anchor()));
    static_cast<void>(checked_product("the width of a call", first.width() + first.answer_cols(), instances_));
    if (std::string fault = call_fault(first, columns_of_calls(first), limits_); !fault.empty()) {
      if (term_cols_ > 1) fault += text("; a bias that differs by query takes a column for each of ", term_cols_);
      throw LimitError(fault);
    }
  }

  [[nodiscard]] const OracleLimits& limits() const { return limits_; }
  [[nodiscard]] Index instances() const { return instances_; }
  [[nodiscard]] JobPlace place(const Task<Scalar>& task) const { return {input_.layer, task.job.head}; }

  [[nodiscard]] InstanceLayout layout(CallKind kind) const {
    const AttentionSpec& spec = input_.spec;
    InstanceLayout found{kind, options_.encoding, spec.head_dim, spec.value_dim, input_.weights.wq.rows()};
    found.code_cols = codes_.columns();
    found.anchor_cols = anchor_cols(limits_.precision);
    found.term_cols = term_cols_;
    found.checked = options_.checksums;
    return found;
  }

  /// The instances of a call, one after the other or layer over layer.
  [[nodiscard]] StackLayout columns_of_calls(const InstanceLayout& instance) const {
    return StackLayout(limits_, plan_.request().packing, instance.width(), instance.answer_cols(), limits_.rows,
                       instances_);
  }

  /// Rows of a call with these slots.
  [[nodiscard]] Index call_rows(const SlotGroup<Scalar>& group) const {
    Index needed = 0;
    for (const Slot<Scalar>* slot : group) needed = std::max(needed, slot->map.rows());
    return limits_.call_rows(needed);
  }

  /// One call for each group; they last until the next are made.
  [[nodiscard]] std::span<const OracleCall<Scalar>> make(const InstanceLayout& columns, const StackLayout& stacked,
                                                         const std::vector<SlotGroup<Scalar>>& groups) {
    const bool raw = options_.encoding == TokenEncoding::raw;
    block_weights_.resize(raw ? groups.size() : 0);
    if (calls_.size() < groups.size()) calls_.resize(groups.size());
    const std::span<OracleCall<Scalar>> calls = std::span(calls_).first(groups.size());
    for (std::size_t i = 0; i < groups.size(); ++i) {
      if (raw) {
        block_weights_[i] = block_weights(columns, stacked, groups[i]);
        calls[i].weights = &block_weights_[i];
      } else {
        calls[i].weights = &selector_weights(columns, stacked);
      }
      const auto number = CallNumber<Scalar>::of(next_number_++, limits_.precision);
      fill(calls[i].rows, columns, stacked, groups[i], number);
      if (!options_.checksums) continue;
      std::vector<CheckedColumns> checked;
      for (Index at = 0; at < static_cast<Index>(groups[i].size()); ++at)
        checked.push_back(checked_columns(calls[i].rows, stacked.input_begin(at), stacked.answer_begin(at), columns));
      calls[i].fault = fault_by_checks<Scalar>(std::move(checked), columns, number, limits_.precision);
    }
    return calls;
  }

 private:
  [[nodiscard]] double factor() const { return input_.spec.score_scale / limits_.score_scale; }

  void fill(Matrix<Scalar>& rows, const InstanceLayout& columns, const StackLayout& stacked,
            const SlotGroup<Scalar>& group, const CallNumber<Scalar>& number) const {
    rows.resize(call_rows(group), stacked.width());
    // Instances write all of their input columns; answer columns and those of empty instances are zero.
    if (stacked.residual() || stacked.has_identity() || static_cast<Index>(group.size()) < instances_) rows.setZero();
    write_codes(rows, stacked);
    for (std::size_t instance = 0; instance < group.size(); ++instance) {
      const Slot<Scalar>* slot = group[instance];
      EncodeSettings<Scalar> settings{.factor = static_cast<Scalar>(factor()),
                                      .codes = &codes_,
                                      .tokens = limits_.precision.tokens,
                                      .number = number,
                                      .terms = &slot->terms,
                                      .term_query = static_cast<Scalar>(1.0 / limits_.score_scale)};
      const bool dead = !columns.has_synthetic();
      const bool hides = dead || columns.code_cols > 0 || slot->terms.hides();
      if (hides || std::isfinite(limits_.largest_score)) {
        const double gap = gap_of(*slot, hides, rows.rows());
        if (dead) settings.synthetic = dead_key<Scalar>(gap, settings.tokens);
        if (columns.code_cols > 0) settings.amplitude = code_amplitude<Scalar>(gap, columns.code_cols, settings.tokens);
        if (slot->terms.hides()) settings.hidden = hidden_entry(gap, columns);
      }
      std::vector<Vector<Scalar>> same;
      if (dead)
        for (const Task<Scalar>& task : slot->tasks)
          same.push_back(Vector<Scalar>::Constant(task.anchors.size(), dead_query<Scalar>(settings.tokens)));
      std::vector<const Vector<Scalar>*> anchors;
      for (std::size_t job = 0; job < slot->tasks.size(); ++job)
        anchors.push_back(dead ? &same[job] : &slot->tasks[job].anchors);
      encode(rows, stacked.input_begin(static_cast<Index>(instance)), columns, slot->map, input_, slot->head(),
             std::span<const Vector<Scalar>* const>(anchors), settings);
    }
  }

  /// How far hidden scores of a slot must lie below the real ones, where it hides any.
  [[nodiscard]] double gap_of(const Slot<Scalar>& slot, bool hides, Index call_rows) const {
    const bool ends = std::isfinite(limits_.largest_score);
    const bool narrow = anchor_cols(limits_.precision) > 1;
    ScoreBound bound(narrow || ends);
    const Index head = slot.head();
    for (const Task<Scalar>& task : slot.tasks) {
      bound.add_queries(input_.query_rows(head, task.job.tile.queries));
      bound.add_keys(input_.key_rows(head, task.job.tile.keys));
    }
    bound.add_keys(input_.key_rows(head, slot.tasks.front().job.tile.sinks));
    bound.add_terms(slot.terms.largest() / limits_.score_scale);
    // Weights of exp(-120) are 0 in float, whatever its sums; tokens of 16 bits have no range to spare.
    const double silence = narrow ? 120.0 : 1000.0;
    const double gap = bound.gap(factor(), input_.spec.head_dim, limits_.score_scale, silence);
    if (!ends) return gap;
    try {
      return gap_within<Scalar>(limits_, bound.most(factor(), input_.spec.head_dim), gap, hides, call_rows);
    } catch (const LimitError& error) {
      const Task<Scalar>& task = slot.tasks.front();
      throw LimitError(detail::place(place(task), task.job.tile, 0) + ": " + error.what());
    }
  }

  /// What a key that a bias hides has in the column of its term.
  [[nodiscard]] Scalar hidden_entry(double gap, const InstanceLayout& columns) const {
    const auto most = static_cast<double>(std::numeric_limits<Scalar>::max());
    if (!(gap * std::max(limits_.score_scale, 1.0) < most / 4))
      throw LimitError(text("keys that a bias hides must lie ", gap,
                            " below the others, which exceeds the range of the scalar: smaller scores would do"));
    if (std::isfinite(limits_.largest_score) && columns.code_cols > 0)
      throw LimitError(text("a bias that hides keys and jobs that share a slot are together beyond scores that end at ",
                            limits_.largest_score, ": an oracle without an end would do"));
    return static_cast<Scalar>(-gap * limits_.score_scale);
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
                                                   const SlotGroup<Scalar>& group) {
    auto& heads = blocks_[static_cast<std::size_t>(columns.kind)];
    if (heads.empty())
      for (Index head = 0; head < input_.spec.heads; ++head)
        heads.push_back(block_head(columns, input_, head, static_cast<Scalar>(factor())));
    std::vector<SmallHead<Scalar>> instances(static_cast<std::size_t>(instances_), heads.front());
    for (std::size_t i = 0; i < group.size(); ++i) instances[i] = heads[static_cast<std::size_t>(group[i]->head())];
    return stack(stacked, instances);
  }

  const Plan& plan_;
  const AttentionInput<Scalar>& input_;
  OracleEngineOptions options_;
  OracleLimits limits_;
  std::uint64_t next_number_;
  Index instances_;  ///< of a call: H' L', or fewer where a layer has fewer slots
  Codes codes_;      ///< of the jobs that share a slot
  Index term_cols_;
  // Memory that serves all rounds.
  std::vector<OracleCall<Scalar>> calls_;
  std::vector<SmallWeights<Scalar>> block_weights_;
  std::array<std::optional<SmallWeights<Scalar>>, 5> selectors_;
  std::array<std::vector<SmallHead<Scalar>>, 5> blocks_;
};

}  // namespace detail
}  // namespace twoheads
