#pragma once

#include <string>
#include <string_view>
#include <twoheads/base/matrix.hpp>
#include <twoheads/model/row_function.hpp>
#include <twoheads/model/spec.hpp>
#include <vector>

namespace twoheads {

/// Gain of a norm, and its shift where it has one (empty: none). Shapes: (width).
template <RealScalar Scalar>
struct NormWeights {
  RowVector<Scalar> gain;  ///< what normed columns are multiplied by
  RowVector<Scalar> shift;
};

/// Weights of one attention: rows are multiplied from the left, q = x wq.
///
///   Shapes   wq (head input width, heads * head_dim), wk (head input width, kv_heads * head_dim),
///            wv (head input width, kv_heads * value_dim), wo (heads * value_dim, width) or empty; bq, bk, bv, bo: a
///            number for each column of these, or empty; q_norm, k_norm (head_dim): gains, where the spec has
///            head_norm; sinks (heads): learned sinks, or empty
///   Math     a learned sink is a logit of a head that takes its share of attention and has no value
template <RealScalar Scalar>
struct AttentionWeights {
  Matrix<Scalar> wq, wk, wv, wo;
  RowVector<Scalar> bq, bk, bv, bo;
  RowVector<Scalar> q_norm, k_norm;
  RowVector<Scalar> sinks;
};

/// Weights of an MLP.
///
///   Shapes   w_in (width, hidden), w_out (hidden, width), w_gate (width, hidden) where the MLP has a gate; b_in,
///            b_gate (hidden), b_out (width) or empty. `custom` is the whole MLP where the spec says so.
template <RealScalar Scalar>
struct MlpWeights {
  Matrix<Scalar> w_in, w_gate, w_out;
  RowVector<Scalar> b_in, b_gate, b_out;
  RowFunction custom;
};

/// Weights of one layer; norms that the spec does not have are empty.
template <RealScalar Scalar>
struct LayerWeights {
  NormWeights<Scalar> attention_norm;           ///< before attention, or after its sum
  AttentionWeights<Scalar> attention;           ///< of the layer
  NormWeights<Scalar> mlp_norm;                 ///< before the MLP, or after its sum
  MlpWeights<Scalar> mlp;                       ///< of the layer
  NormWeights<Scalar> attention_end_norm = {};  ///< of what is to be added: NormPlace::both alone
  NormWeights<Scalar> mlp_end_norm = {};        ///< the same for the MLP
};

/// The large transformer: spec and weights. Tokens in and out are rows of `spec.width` numbers.
template <RealScalar Scalar>
struct Model {
  ModelSpec spec;
  RowFunction input_mlp;                     ///< the paper's phi, applied to the rows first; may be empty
  std::vector<LayerWeights<Scalar>> layers;  ///< L of them
  NormWeights<Scalar> final_norm;            ///< where the spec has one
};

/// A model that reads token ids, and yields a score for each possible next token where it has an output.
///
///   Shapes   embedding (vocabulary, width); output (vocabulary, width), empty where it is tied to the embedding;
///            positions (number of positions, width), token_types (types, width): added to the rows, or empty;
///            embedding_norm (width) or empty; output_bias (vocabulary) or empty
///   Math     x = norm(embedding_scale embedding[id] + positions[first_position + place] + token_types[type]), the norm
///            that of the spec; scores are output . row + output_bias, or logit_cap tanh(that / logit_cap)
template <RealScalar Scalar>
struct LanguageModel {
  Model<Scalar> body;  ///< without embedding and output
  Matrix<Scalar> embedding;
  Matrix<Scalar> output;
  double embedding_scale = 1.0;
  Matrix<Scalar> positions = {};
  Index first_position = 0;  ///< row of `positions` that the first token takes
  Matrix<Scalar> token_types = {};
  NormWeights<Scalar> embedding_norm = {};
  RowVector<Scalar> output_bias = {};
  double logit_cap = 0.0;  ///< 0: none

  [[nodiscard]] Index vocabulary() const { return embedding.rows(); }  ///< ids that it knows
  /// The output, tied or not.
  [[nodiscard]] const Matrix<Scalar>& output_rows() const { return output.size() > 0 ? output : embedding; }
};

namespace detail {

/// Calls visit(name, values) for each array of the model; `Model` may be const.
template <class AnyModel, class Visit>
void for_each_array(AnyModel& model, const Visit& visit) {
  for (std::size_t index = 0; index < model.layers.size(); ++index) {
    auto& layer = model.layers[index];
    const std::string prefix = text("layer ", index, ": ");
    visit(prefix + "attention norm gain", layer.attention_norm.gain);
    visit(prefix + "attention norm shift", layer.attention_norm.shift);
    visit(prefix + "wq", layer.attention.wq);
    visit(prefix + "wk", layer.attention.wk);
    visit(prefix + "wv", layer.attention.wv);
    visit(prefix + "wo", layer.attention.wo);
    visit(prefix + "bq", layer.attention.bq);
    visit(prefix + "bk", layer.attention.bk);
    visit(prefix + "bv", layer.attention.bv);
    visit(prefix + "bo", layer.attention.bo);
    visit(prefix + "q_norm", layer.attention.q_norm);
    visit(prefix + "k_norm", layer.attention.k_norm);
    visit(prefix + "sinks", layer.attention.sinks);
    visit(prefix + "MLP norm gain", layer.mlp_norm.gain);
    visit(prefix + "MLP norm shift", layer.mlp_norm.shift);
    visit(prefix + "MLP w_in", layer.mlp.w_in);
    visit(prefix + "MLP w_gate", layer.mlp.w_gate);
    visit(prefix + "MLP w_out", layer.mlp.w_out);
    visit(prefix + "MLP b_in", layer.mlp.b_in);
    visit(prefix + "MLP b_gate", layer.mlp.b_gate);
    visit(prefix + "MLP b_out", layer.mlp.b_out);
    visit(prefix + "attention end norm gain", layer.attention_end_norm.gain);
    visit(prefix + "attention end norm shift", layer.attention_end_norm.shift);
    visit(prefix + "MLP end norm gain", layer.mlp_end_norm.gain);
    visit(prefix + "MLP end norm shift", layer.mlp_end_norm.shift);
  }
  visit(std::string("final norm gain"), model.final_norm.gain);
  visit(std::string("final norm shift"), model.final_norm.shift);
}

/// Checks a row of numbers that a model may have or not; empty stands for none.
template <RealScalar Scalar>
void require_row_or_none(const std::string& name, const RowVector<Scalar>& row, Index size) {
  if (row.size() > 0) require_shape(name, row, 1, size);
}

template <RealScalar Scalar>
void require_norm(const std::string& name, const NormWeights<Scalar>& norm, NormKind kind, Index width) {
  if (kind == NormKind::none) return;
  require_shape(name + " gain", norm.gain, 1, width);
  if (norm.shift.size() > 0 && kind == NormKind::rms) throw SpecError(name + " shift is set, but an RMS norm has none");
  if (norm.shift.size() > 0) require_shape(name + " shift", norm.shift, 1, width);
}

template <RealScalar Scalar>
void require_mlp(const std::string& name, const MlpWeights<Scalar>& mlp, const ModelSpec& spec) {
  if (spec.mlp == MlpKind::none) return;
  if (spec.mlp == MlpKind::custom) {
    if (!mlp.custom) throw SpecError(name + " is custom, but no row function is set");
    return;
  }
  require_shape(name + " w_in", mlp.w_in, spec.width, spec.hidden);
  require_shape(name + " w_out", mlp.w_out, spec.hidden, spec.width);
  if (has_gate(spec.mlp)) require_shape(name + " w_gate", mlp.w_gate, spec.width, spec.hidden);
  if (!has_gate(spec.mlp) && (mlp.w_gate.size() > 0 || mlp.b_gate.size() > 0))
    throw SpecError(name + " w_gate is set, but only SwiGLU and GeGLU have one");
  require_row_or_none(name + " b_in", mlp.b_in, spec.hidden);
  require_row_or_none(name + " b_gate", mlp.b_gate, spec.hidden);
  require_row_or_none(name + " b_out", mlp.b_out, spec.width);
}

/// Checks one attention whose queries come of rows of `width` columns, keys and values of rows of `memory_width`, and
/// whose rows come out with `out_width`.
template <RealScalar Scalar>
void require_attention(const std::string& prefix, const AttentionWeights<Scalar>& weights, const AttentionSpec& a,
                       Index width, Index memory_width, Index out_width) {
  const bool slice = a.head_input == HeadInput::slice;
  const Index input = slice ? width / a.heads : width;
  const Index memory_input = slice ? memory_width / a.heads : memory_width;
  const Index mixed = a.heads * a.value_dim;
  require_shape(prefix + "wq", weights.wq, input, a.heads * a.head_dim);
  require_shape(prefix + "wk", weights.wk, memory_input, a.kv_heads * a.head_dim);
  require_shape(prefix + "wv", weights.wv, memory_input, a.kv_heads * a.value_dim);
  if (a.output_projection) require_shape(prefix + "wo", weights.wo, mixed, out_width);
  require_row_or_none(prefix + "bq", weights.bq, a.heads * a.head_dim);
  require_row_or_none(prefix + "bk", weights.bk, a.kv_heads * a.head_dim);
  require_row_or_none(prefix + "bv", weights.bv, a.kv_heads * a.value_dim);
  require_row_or_none(prefix + "bo", weights.bo, a.output_projection ? out_width : 0);
  require_row_or_none(prefix + "sinks", weights.sinks, a.heads);
  if (a.head_norm) {
    require_shape(prefix + "q_norm", weights.q_norm, 1, a.head_dim);
    require_shape(prefix + "k_norm", weights.k_norm, 1, a.head_dim);
  } else if (weights.q_norm.size() > 0 || weights.k_norm.size() > 0) {
    throw SpecError(prefix + "gains of head norms are set, but the spec has no head_norm");
  }
}

}  // namespace detail

/// Checks that every array has the shape that the spec asks for.
///
///   Throws   SpecError or ShapeError that names the array, what it was and what was expected
template <RealScalar Scalar>
void require_shapes(const Model<Scalar>& model) {
  const ModelSpec& spec = model.spec;
  spec.require_valid();
  if (static_cast<Index>(model.layers.size()) != spec.layers)
    throw SpecError(detail::text("the model has weights for ", model.layers.size(), " layers, expected ", spec.layers));
  for (Index index = 0; index < spec.layers; ++index) {
    const LayerWeights<Scalar>& layer = model.layers[static_cast<std::size_t>(index)];
    const std::string prefix = detail::text("layer ", index, ": ");
    detail::require_attention(prefix, layer.attention, spec.attention, spec.width, spec.width, spec.width);
    detail::require_norm(prefix + "attention norm", layer.attention_norm, spec.norm, spec.width);
    if (spec.mlp != MlpKind::none) detail::require_norm(prefix + "MLP norm", layer.mlp_norm, spec.norm, spec.width);
    detail::require_mlp(prefix + "MLP", layer.mlp, spec);
    const NormKind end = spec.norm_place == NormPlace::both ? spec.norm : NormKind::none;
    detail::require_norm(prefix + "attention end norm", layer.attention_end_norm, end, spec.width);
    if (spec.mlp != MlpKind::none) detail::require_norm(prefix + "MLP end norm", layer.mlp_end_norm, end, spec.width);
  }
  if (spec.final_norm) detail::require_norm("final norm", model.final_norm, spec.norm, spec.width);
}

/// Checks that every array has the shape that the spec asks for and holds finite numbers only.
///
///   Throws   SpecError, ShapeError or InputError that names the array, what it was and what was expected
template <RealScalar Scalar>
void require_valid(const Model<Scalar>& model) {
  require_shapes(model);
  detail::for_each_array(model, [](const std::string& name, const auto& values) {
    const Index row = detail::first_row_not_finite(values);
    if (row >= 0) throw InputError(detail::text(name, ", row ", row, ": a weight is NaN or infinite"));
  });
}

namespace detail {

template <RealScalar To, RealScalar From>
[[nodiscard]] NormWeights<To> cast_norm(const NormWeights<From>& norm) {
  return {norm.gain.template cast<To>(), norm.shift.template cast<To>()};
}

}  // namespace detail

/// The same model in another scalar: each weight is rounded once.
template <RealScalar To, RealScalar From>
[[nodiscard]] Model<To> cast_model(const Model<From>& model) {
  const auto cast = [](const auto& values) { return values.template cast<To>().eval(); };
  Model<To> result;
  result.spec = model.spec;
  result.input_mlp = model.input_mlp;
  for (const LayerWeights<From>& layer : model.layers) {
    const AttentionWeights<From>& a = layer.attention;
    const MlpWeights<From>& m = layer.mlp;
    result.layers.push_back(
        {detail::cast_norm<To>(layer.attention_norm),
         {cast(a.wq), cast(a.wk), cast(a.wv), cast(a.wo), cast(a.bq), cast(a.bk), cast(a.bv), cast(a.bo),
          cast(a.q_norm), cast(a.k_norm), cast(a.sinks)},
         detail::cast_norm<To>(layer.mlp_norm),
         {cast(m.w_in), cast(m.w_gate), cast(m.w_out), cast(m.b_in), cast(m.b_gate), cast(m.b_out), m.custom},
         detail::cast_norm<To>(layer.attention_end_norm),
         detail::cast_norm<To>(layer.mlp_end_norm)});
  }
  result.final_norm = detail::cast_norm<To>(model.final_norm);
  return result;
}

/// The same language model in another scalar: each weight is rounded once.
template <RealScalar To, RealScalar From>
[[nodiscard]] LanguageModel<To> cast_model(const LanguageModel<From>& model) {
  return {cast_model<To>(model.body),
          model.embedding.template cast<To>(),
          model.output.template cast<To>(),
          model.embedding_scale,
          model.positions.template cast<To>(),
          model.first_position,
          model.token_types.template cast<To>(),
          detail::cast_norm<To>(model.embedding_norm),
          model.output_bias.template cast<To>(),
          model.logit_cap};
}

}  // namespace twoheads
