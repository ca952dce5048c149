#pragma once

#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <twoheads/base/matrix.hpp>
#include <twoheads/codec/codes.hpp>
#include <twoheads/codec/layout.hpp>
#include <twoheads/oracle/weights.hpp>
#include <twoheads/plan/packing.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// Columns of a call that carries several single-head instances, each with its input and its answer columns.
///
///   one layer   [ input 0 | input 1 | ... ]                                     answers: [ answer 0 | answer 1 | ... ]
///   residual    [ input 0, answer 0 | input 1, answer 1 | ... ]                 answers: the same columns
///   identity    [ answer 0 | answer 1 | ... | codes | ... | input 1 | input 0 ] answers: [ answer 0 | answer 1 | ... ]
///               A layer reads the last inputs of the row and yields the row without them.
///   Laws        instance i runs in layer i / instances_per_layer(). The oracle adds answers to their columns: in a row
///               of a call, answer columns are zero. Columns of instances that a call leaves empty are zero.
///   Source      Yu & Alman, Lemma 3.3
class StackLayout {
 public:
  /// Columns for `instances` instances, in as few layers as they need.
  ///
  ///   Shapes   an instance reads input_cols columns and answers answer_cols; a call has at most `rows` rows
  ///   Throws   LimitError if the oracle carries fewer instances; SpecError for counts below 1
  StackLayout(const OracleLimits& limits, Packing packing, Index input_cols, Index answer_cols, Index rows,
              Index instances)
      : layers_(layers_for_instances(limits, packing, instances)),
        per_layer_(twoheads::instances_per_layer(limits, packing, layers_)),
        input_cols_(input_cols),
        answer_cols_(answer_cols),
        instances_(instances),
        residual_(limits.residual),
        score_scale_(limits.score_scale) {
    const auto positive = [](const char* what, Index value) {
      if (value < 1) throw SpecError(detail::text(what, " are ", value, ", expected 1 or more"));
    };
    positive("input columns of an instance", input_cols);
    positive("answer columns of an instance", answer_cols);
    positive("rows of a call", rows);
    // A single row has a code too: a head without query and key columns is more than an oracle need know.
    if (layers_ > 1 && !residual_) codes_.emplace(std::max<Index>(rows, 2));
  }

  /// Columns for as many instances as the oracle carries.
  StackLayout(const OracleLimits& limits, Packing packing, Index input_cols, Index answer_cols, Index rows)
      : StackLayout(limits, packing, input_cols, answer_cols, rows, instances_per_call(limits, packing)) {}

  [[nodiscard]] Index instances() const { return instances_; }            ///< instances of a call
  [[nodiscard]] Index layers() const { return layers_; }                  ///< layers that a call takes
  [[nodiscard]] Index instances_per_layer() const { return per_layer_; }  ///< instances of a layer
  [[nodiscard]] Index input_cols() const { return input_cols_; }          ///< columns of an instance in the rows
  [[nodiscard]] Index answer_cols() const { return answer_cols_; }        ///< columns of an instance's answer
  [[nodiscard]] bool residual() const { return residual_; }  ///< whether the oracle adds its answers to the rows
  /// Whether each layer has an identity head, and each row a code for it.
  [[nodiscard]] bool has_identity() const { return codes_.has_value(); }

  /// Columns of the rows of a call, and of its answer.
  [[nodiscard]] Index width() const { return has_identity() ? width_before(0) : instances_ * stride(); }
  /// Columns of a call's answer.
  [[nodiscard]] Index output_width() const { return residual_ ? width() : instances_ * answer_cols_; }

  /// Where the input columns of an instance begin in the rows of a call.
  [[nodiscard]] Index input_begin(Index instance) const {
    return has_identity() ? inputs_begin() + (instances_ - 1 - instance) * input_cols_ : instance * stride();
  }

  /// Where the answer columns of an instance begin in the answer, and in the rows of a call where it has them there.
  [[nodiscard]] Index answer_begin(Index instance) const {
    return residual_ ? input_begin(instance) + input_cols_ : instance * answer_cols_;
  }

  /// The instances that a layer runs.
  [[nodiscard]] Rows instances_of(Index layer) const { return block_rows(layer, per_layer_, instances_); }

  // --- the identity head; only where has_identity() ---

  [[nodiscard]] const Codes& codes() const { return *codes_; }  ///< codes of the rows, for identity heads
  /// Where the codes of queries begin.
  [[nodiscard]] Index query_codes_begin() const { return instances_ * answer_cols_; }
  /// Where those of keys begin.
  [[nodiscard]] Index key_codes_begin() const { return query_codes_begin() + codes_->columns(); }
  /// Columns of a row when it comes to a layer.
  [[nodiscard]] Index width_before(Index layer) const {
    return inputs_begin() + (instances_ - layer * per_layer_) * input_cols_;
  }

  /// By how much the scores of an identity head lie apart, in units of q . k: exp(-1000) is 0 in every scalar, and no
  /// more than the least number of an exponential that does not reach 0.
  [[nodiscard]] double code_gap() const { return 1000.0 / score_scale_; }

  /// The most that identity heads leave of other rows in a column of entries up to 1, where the oracle's exponential
  /// does not reach 0 but ends below the normal numbers: a share r or p must be well above it to be one.
  template <RealScalar Scalar>
  [[nodiscard]] double trace() const {
    if (!has_identity()) return 0.0;
    return static_cast<double>(layers_) * static_cast<double>(codes_->instances()) *
           static_cast<double>(std::numeric_limits<Scalar>::min());
  }

 private:
  [[nodiscard]] Index stride() const { return input_cols_ + (residual_ ? answer_cols_ : 0); }
  [[nodiscard]] Index inputs_begin() const { return query_codes_begin() + 2 * codes_->columns(); }

  Index layers_;
  Index per_layer_;
  Index input_cols_;
  Index answer_cols_;
  Index instances_;
  bool residual_;
  double score_scale_;
  std::optional<Codes> codes_;
};

/// What of an oracle is too small for calls of such instances, or an empty text: its width, the columns of a head, of
/// an identity head too, or the range of scores that identity heads take.
[[nodiscard]] inline std::string call_fault(const InstanceLayout& instance, const StackLayout& stacked,
                                            const OracleLimits& limits) {
  std::string fault;
  const auto hold = [&](const std::string& what, Index needed, const char* unit, Index has, const char* advice) {
    if (fault.empty() && needed > has)
      fault = detail::text(what, " takes ", needed, " ", unit, ", the oracle has ", has, advice);
  };
  const char* const wider = ": one with more columns would do, those that are left are zero";
  const bool adaptive = instance.kind == CallKind::state_with_keys;
  hold("a head of a call", instance.head_cols(), "columns of queries and keys", limits.key_cols, wider);
  hold("a head of a call", instance.answer_cols(), "columns of values", limits.value_cols,
       adaptive ? ": the anchors mean-key and gibbs take fewer than adaptive" : wider);
  if (stacked.has_identity()) {
    const char* const alone = ": one layer a call would do";
    hold("an identity head", stacked.codes().columns(), "columns of queries and keys", limits.key_cols, alone);
    hold("an identity head", stacked.width_before(1), "columns of values", limits.value_cols, alone);
    const double depth = stacked.code_gap() * limits.score_scale;
    if (fault.empty() && !(limits.largest_score >= depth))
      fault = detail::text("identity heads take scores down to -", depth, ", the oracle's end at ",
                           limits.largest_score, alone);
  }
  hold(detail::text("a call of ", stacked.instances(), " instances"), std::max(stacked.width(), stacked.output_width()),
       "columns", limits.width, ": fewer heads a call, or fewer rows would do");
  return fault;
}

/// Writes the code of each row that an identity head tells it from the others by; nothing where the layout has none.
///
///   Shapes   call (at most the layout's rows, layout.width())
///   Throws   ShapeError for other shapes; LimitError where the products of codes would leave the range of the scalar
template <RealScalar Scalar>
void write_codes(Matrix<Scalar>& call, const StackLayout& layout) {
  detail::require_shape("the rows of a call", call, call.rows(), layout.width());
  if (!layout.has_identity()) return;
  const Codes& codes = layout.codes();
  if (call.rows() > codes.instances())
    throw ShapeError(detail::text("a call has ", call.rows(), " rows, its layout was made for ", codes.instances()));
  const Index columns = codes.columns();
  const auto amplitude = code_amplitude<Scalar>(layout.code_gap(), columns);
  for (Index row = 0; row < call.rows(); ++row) {
    codes.write_query(row, amplitude, call.row(row).segment(layout.query_codes_begin(), columns));
    codes.write_key(row, amplitude, call.row(row).segment(layout.key_codes_begin(), columns));
  }
}

namespace detail {

/// The MLP of a layer: each instance's function on its answer columns, nothing elsewhere.
[[nodiscard]] inline RowFunction mlp_by_columns(const StackLayout& layout, Index layer,
                                                const std::vector<RowFunction>& mlps) {
  struct Part {
    Index begin;
    RowFunction mlp;
  };
  std::vector<Part> parts;
  const Rows instances = layout.instances_of(layer);
  for (Index i = instances.begin; i < std::min(instances.end, static_cast<Index>(mlps.size())); ++i)
    if (const RowFunction& mlp = mlps[static_cast<std::size_t>(i)]) parts.push_back({layout.answer_begin(i), mlp});
  if (parts.empty()) return {};
  return RowFunction([parts, cols = layout.answer_cols()](Index first_row, auto& rows) {
    for (const Part& part : parts) part.mlp(first_row, block_span(rows, {0, rows.rows()}, part.begin, cols));
  });
}

}  // namespace detail

/// Weights that run independent single-head instances in one call, over the layers of the oracle.
///
///   Shapes   heads: one for each instance, at most layout.instances(); each reads columns from 0 on of its
///            input_cols() and yields answer_cols(). mlps: none, or one for each instance, on (n, answer_cols())
///   Math     identity head: softmax(scale U W^T) with the row codes U, W, which is the identity: a row's own score is
///            exactly 0, any other at most -1000
///   Laws     the answer of an instance is that of a call of its own. An identity head copies a column exactly where
///            the oracle's exp(-1000) is 0. Where that ends at some least number t instead (Eigen's at 5.6e-309 in
///            float64, 4e-39 in float), each layer adds t times the other rows' entries of the column: that is lost in
///            rounding except in entries of that size, such as a 0: see StackLayout::trace().
///   Corner   fewer heads than layout.instances(): the other instances are left empty, the columns are the same. An
///            MLP must keep the entries of a layer that others follow finite, since 0 * inf is NaN in all rows.
///   Throws   ShapeError if a head or the MLPs do not fit the layout
///   Source   Yu & Alman, Lemma 3.3, with the instances carried past a layer as docs/paper_map.md mends it
template <RealScalar Scalar>
[[nodiscard]] SmallWeights<Scalar> stack(const StackLayout& layout, const std::vector<SmallHead<Scalar>>& heads,
                                         const std::vector<RowFunction>& mlps = {}) {
  using P = Projection<Scalar>;
  const auto given = static_cast<Index>(heads.size());
  if (given > layout.instances())
    throw ShapeError(detail::text(given, " instances, the layout has columns for ", layout.instances()));
  if (!mlps.empty() && mlps.size() != heads.size())
    throw ShapeError(detail::text(mlps.size(), " MLPs for ", given, " instances, expected none or one for each"));
  SmallWeights<Scalar> weights;
  weights.width = layout.width();
  for (Index l = 0; l < layout.layers(); ++l) {
    SmallLayer<Scalar> layer;
    const bool last = l + 1 == layout.layers();
    layer.output_width = last || !layout.has_identity() ? layout.output_width() : layout.width_before(l + 1);
    const Rows instances = layout.instances_of(l);
    for (Index i = instances.begin; i < std::min(instances.end, given); ++i) {
      const SmallHead<Scalar>& head = heads[static_cast<std::size_t>(i)];
      for (const P* p : {&head.wq, &head.wk, &head.wv})
        if (p->begin() < 0 || p->end() > layout.input_cols())
          throw ShapeError(detail::text("instance ", i, " reads columns ", p->begin(), " to ", p->end(), " of its ",
                                        layout.input_cols()));
      if (head.wv.cols() != layout.answer_cols())
        throw ShapeError(
            detail::text("instance ", i, " answers ", head.wv.cols(), " columns, expected ", layout.answer_cols()));
      const Index offset = layout.input_begin(i);
      layer.heads.push_back(
          {head.wq.shifted(offset), head.wk.shifted(offset), head.wv.shifted(offset), layout.answer_begin(i)});
    }
    if (layout.has_identity()) {
      const Index columns = layout.codes().columns();
      layer.heads.push_back({P::selector(layout.query_codes_begin(), columns),
                             P::selector(layout.key_codes_begin(), columns), P::selector(0, layer.output_width), 0});
    }
    layer.mlp = detail::mlp_by_columns(layout, l, mlps);
    weights.layers.push_back(std::move(layer));
  }
  return weights;
}

}  // namespace twoheads
