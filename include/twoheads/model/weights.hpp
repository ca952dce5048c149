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
  RowVector<Scalar> gain;
  RowVector<Scalar> shift;
};

/// Weights of one attention: rows are multiplied from the left, q = x wq.
///
///   Shapes   wq (head input width, heads * head_dim), wk (head input width, kv_heads * head_dim),
///            wv (head input width, kv_heads * value_dim), wo (heads * value_dim, width) or empty
template <RealScalar Scalar>
struct AttentionWeights {
  Matrix<Scalar> wq, wk, wv, wo;
};

/// Weights of an MLP.
///
///   Shapes   w_in (width, hidden), w_out (hidden, width), w_gate (width, hidden) for SwiGLU only; b_in (hidden),
///            b_out (width) or empty. `custom` is the whole MLP where the spec says so.
template <RealScalar Scalar>
struct MlpWeights {
  Matrix<Scalar> w_in, w_gate, w_out;
  RowVector<Scalar> b_in, b_out;
  RowFunction custom;
};

template <RealScalar Scalar>
struct LayerWeights {
  NormWeights<Scalar> attention_norm;
  AttentionWeights<Scalar> attention;
  NormWeights<Scalar> mlp_norm;
  MlpWeights<Scalar> mlp;
};

/// The large transformer: spec and weights. Tokens in and out are rows of `spec.width` numbers.
template <RealScalar Scalar>
struct Model {
  ModelSpec spec;
  RowFunction input_mlp;  ///< the paper's phi, applied to the rows first; may be empty
  std::vector<LayerWeights<Scalar>> layers;
  NormWeights<Scalar> final_norm;
};

/// A model that reads token ids and yields a score for each possible next token.
///
///   Shapes   embedding (vocabulary, width); output (vocabulary, width), empty where it is tied to the embedding
template <RealScalar Scalar>
struct LanguageModel {
  Model<Scalar> body;
  Matrix<Scalar> embedding;
  Matrix<Scalar> output;

  [[nodiscard]] Index vocabulary() const { return embedding.rows(); }
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
    visit(prefix + "MLP norm gain", layer.mlp_norm.gain);
    visit(prefix + "MLP norm shift", layer.mlp_norm.shift);
    visit(prefix + "MLP w_in", layer.mlp.w_in);
    visit(prefix + "MLP w_gate", layer.mlp.w_gate);
    visit(prefix + "MLP w_out", layer.mlp.w_out);
    visit(prefix + "MLP b_in", layer.mlp.b_in);
    visit(prefix + "MLP b_out", layer.mlp.b_out);
  }
  visit(std::string("final norm gain"), model.final_norm.gain);
  visit(std::string("final norm shift"), model.final_norm.shift);
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
  if (spec.mlp == MlpKind::swiglu) require_shape(name + " w_gate", mlp.w_gate, spec.width, spec.hidden);
  if (spec.mlp != MlpKind::swiglu && mlp.w_gate.size() > 0)
    throw SpecError(name + " w_gate is set, but only SwiGLU has one");
  if (mlp.b_in.size() > 0) require_shape(name + " b_in", mlp.b_in, 1, spec.hidden);
  if (mlp.b_out.size() > 0) require_shape(name + " b_out", mlp.b_out, 1, spec.width);
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
  const AttentionSpec& a = spec.attention;
  for (Index index = 0; index < spec.layers; ++index) {
    const LayerWeights<Scalar>& layer = model.layers[static_cast<std::size_t>(index)];
    const std::string prefix = detail::text("layer ", index, ": ");
    const Index input = spec.head_input_width();
    detail::require_shape(prefix + "wq", layer.attention.wq, input, a.heads * a.head_dim);
    detail::require_shape(prefix + "wk", layer.attention.wk, input, a.kv_heads * a.head_dim);
    detail::require_shape(prefix + "wv", layer.attention.wv, input, a.kv_heads * a.value_dim);
    if (a.output_projection)
      detail::require_shape(prefix + "wo", layer.attention.wo, a.heads * a.value_dim, spec.width);
    detail::require_norm(prefix + "attention norm", layer.attention_norm, spec.norm, spec.width);
    if (spec.mlp != MlpKind::none) detail::require_norm(prefix + "MLP norm", layer.mlp_norm, spec.norm, spec.width);
    detail::require_mlp(prefix + "MLP", layer.mlp, spec);
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

/// The same model in another scalar: each weight is rounded once.
template <RealScalar To, RealScalar From>
[[nodiscard]] Model<To> cast_model(const Model<From>& model) {
  const auto norm = [](const NormWeights<From>& n) {
    return NormWeights<To>{n.gain.template cast<To>(), n.shift.template cast<To>()};
  };
  Model<To> result;
  result.spec = model.spec;
  result.input_mlp = model.input_mlp;
  for (const LayerWeights<From>& layer : model.layers) {
    const AttentionWeights<From>& a = layer.attention;
    const MlpWeights<From>& m = layer.mlp;
    result.layers.push_back(
        {norm(layer.attention_norm),
         {a.wq.template cast<To>(), a.wk.template cast<To>(), a.wv.template cast<To>(), a.wo.template cast<To>()},
         norm(layer.mlp_norm),
         {m.w_in.template cast<To>(), m.w_gate.template cast<To>(), m.w_out.template cast<To>(),
          m.b_in.template cast<To>(), m.b_out.template cast<To>(), m.custom}});
  }
  result.final_norm = norm(model.final_norm);
  return result;
}

/// The same language model in another scalar: each weight is rounded once.
template <RealScalar To, RealScalar From>
[[nodiscard]] LanguageModel<To> cast_model(const LanguageModel<From>& model) {
  return {cast_model<To>(model.body), model.embedding.template cast<To>(), model.output.template cast<To>()};
}

}  // namespace twoheads
