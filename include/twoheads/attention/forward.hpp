#pragma once

#include <algorithm>
#include <optional>
#include <twoheads/attention/input.hpp>
#include <twoheads/attention/mlp.hpp>
#include <twoheads/attention/norm.hpp>
#include <twoheads/attention/parts.hpp>
#include <twoheads/attention/project.hpp>
#include <type_traits>
#include <utility>

namespace twoheads {
namespace detail {

/// Ends a part of a layer, attention or MLP: what it yields is normed, added to its rows or put in their place, and the
/// sum is normed, as far as the spec has these.
template <RealScalar Scalar>
void add_to_rows(const ModelSpec& spec, const NormWeights<Scalar>& end_norm, const NormWeights<Scalar>& sum_norm,
                 const Matrix<Scalar>& added, MatrixSpan<Scalar> rows) {
  const auto norm = [&](const auto& values, const NormWeights<Scalar>& weights) {
    return normed(view(values), weights, spec.norm, spec.norm_epsilon);
  };
  const bool ends = spec.norm_place == NormPlace::both;
  if (spec.residual && ends)
    rows += norm(added, end_norm);
  else if (spec.residual)
    rows += added;
  else
    rows = ends ? norm(added, end_norm) : added;
  if (spec.norm_place == NormPlace::after) rows = norm(rows, sum_norm);
}

/// The MLP of a layer on its rows, a few at a time: the hidden columns never exist for all rows at once.
template <RealScalar Scalar>
void mlp_in_place(const ModelSpec& spec, const LayerWeights<Scalar>& layer, MatrixSpan<Scalar> x,
                  Index first_position) {
  for_each_rows(x.rows(), [&](Rows block) {
    MatrixSpan<Scalar> rows = block_span(x, block, 0, x.cols());
    Matrix<Scalar> input = rows;
    if (spec.norm_place != NormPlace::after) input = normed(view(rows), layer.mlp_norm, spec.norm, spec.norm_epsilon);
    const Matrix<Scalar> output = mlp(view(input), layer.mlp, spec.mlp, first_position + block.begin);
    add_to_rows(spec, layer.mlp_end_norm, layer.mlp_norm, output, rows);
  });
}

/// The rest of a layer for rows from a position on: output projection, residual sums, norms and MLP, given what
/// attention mixed.
template <RealScalar Scalar>
void finish_rows(const ModelSpec& spec, const LayerWeights<Scalar>& layer, Matrix<Scalar> mixed, Index first_position,
                 MatrixSpan<Scalar> x) {
  if (spec.attention.output_projection) {
    Matrix<Scalar> projected(mixed.rows(), spec.width);
    multiply_rows(span(projected), view(mixed), view(layer.attention.wo), view(layer.attention.bo));
    mixed = std::move(projected);
  }
  add_to_rows(spec, layer.attention_end_norm, layer.attention_norm, mixed, x);
  if (spec.mlp != MlpKind::none) mlp_in_place(spec, layer, x, first_position);
}

/// The norm after the last layer, where the spec has one.
template <RealScalar Scalar>
void final_norm_in_place(const Model<Scalar>& model, Matrix<Scalar>& x) {
  if (!model.spec.final_norm) return;
  for_each_rows(x.rows(), [&](Rows block) {
    auto rows = x.middleRows(block.begin, block.size());
    rows = normed(view(rows), model.final_norm, model.spec.norm, model.spec.norm_epsilon);
  });
}

/// What attention mixes of the values of all heads, before the output projection.
template <RealScalar Scalar, class AttendFn>
[[nodiscard]] Matrix<Scalar> mixed_rows(const AttentionSpec& spec, const AttentionWeights<Scalar>& weights,
                                        const MatrixView<Scalar>& tokens, AttendFn& attend, Index layer,
                                        const Matrix<Scalar>* memory, const ScoreBias<Scalar>& bias) {
  const MatrixView<Scalar> sources = memory == nullptr ? tokens : view(*memory);
  Matrix<Scalar> mixed(tokens.rows(), spec.heads * spec.value_dim);
  const Matrix<Scalar> q = queries_of(spec, weights, tokens);
  const Matrix<Scalar> k = keys_of(spec, weights, sources);
  const Matrix<Scalar> v = values_of(spec, weights, sources);
  attend(
      AttentionInput<Scalar>{
          spec, layer, view(q), view(k), view(v), tokens, sources, weights, {}, false, view(weights.sinks), bias},
      span(mixed));
  return mixed;
}

/// Checks what a forward pass is given.
template <RealScalar Scalar>
void require_forward(const Model<Scalar>& model, const Matrix<Scalar>& x, const Matrix<Scalar>* memory) {
  const ModelSpec& spec = model.spec;
  require_shapes(model);
  require_shape("the input", x, x.rows(), spec.width);
  if (memory != nullptr) {
    require_shape("the memory", *memory, memory->rows(), spec.width);
    if (spec.attention.rope)
      throw SpecError("rotary positions over a memory are undefined: expected a model without rope");
  }
  for (Index index = 0; index < spec.layers; ++index)
    spec.attention_of(index).mask.require_defined(x.rows(), memory != nullptr ? memory->rows() : x.rows());
}

/// A layer part by part: beside x, memory for one part.
template <RealScalar Scalar, AttendInParts<Scalar> AttendFn>
void layer_in_parts(const ModelSpec& spec, const AttentionSpec& a, const LayerWeights<Scalar>& layer, Index index,
                    const PartRule& rule, Matrix<Scalar>& x, AttendFn& attend) {
  KeyWindow<Scalar> window(spec, a, layer, rule.reach);
  begin_layer(attend, a, index, Rows{0, x.rows()}, x.rows(), layer.attention.sinks.size() > 0);
  for (Index begin = 0; begin < x.rows();) {
    const Rows part{begin, attend.part_end(begin, rule.least)};
    window.move_to(part, x);
    const MatrixView<Scalar> tokens = window.tokens_of(part);
    const Matrix<Scalar> q = queries_of(a, layer.attention, tokens, part.begin);
    Matrix<Scalar> mixed(part.size(), a.heads * a.value_dim);
    attend(AttentionInput<Scalar>{a, index, view(q), window.keys(), window.values(), tokens, window.tokens(),
                                  layer.attention, window.held(), false, view(layer.attention.sinks)},
           part, span(mixed));
    finish_rows(spec, layer, std::move(mixed), part.begin, block_span(span(x), part, 0, x.cols()));
    begin = part.end;
  }
  attend.end_layer();
}

}  // namespace detail

/// One attention over token rows, from their projection to its own: a block to build models of.
///
///   Shapes   tokens (N, d) normed as the model likes; memory (NK, d') or none: where keys and values come from in
///            place of the tokens (cross-attention), positions from 0 on; result (N, width of wo), or
///            (N, heads * value_dim) where the spec has no output projection
///   Throws   SpecError, ShapeError if spec, weights and rows do not fit together, and whatever `attend` throws
template <RealScalar Scalar, Attend<Scalar> AttendFn>
[[nodiscard]] Matrix<Scalar> attention(const AttentionSpec& spec, const AttentionWeights<Scalar>& weights,
                                       const MatrixView<std::type_identity_t<Scalar>>& tokens, AttendFn&& attend,
                                       Index layer = 0, const Matrix<std::type_identity_t<Scalar>>* memory = nullptr,
                                       const ScoreBias<std::type_identity_t<Scalar>>& bias = {}) {
  spec.require_valid();
  if (spec.head_input == HeadInput::slice && spec.kv_heads != spec.heads)
    throw SpecError("heads that see their own slice need kv_heads equal to heads");
  detail::require_attention(detail::text("layer ", layer, ": "), weights, spec, tokens.cols(),
                            memory == nullptr ? tokens.cols() : memory->cols(), weights.wo.cols());
  Matrix<Scalar> mixed = detail::mixed_rows(spec, weights, tokens, attend, layer, memory, bias);
  if (!spec.output_projection) return mixed;
  Matrix<Scalar> projected(mixed.rows(), weights.wo.cols());
  detail::multiply_rows(span(projected), view(mixed), view(weights.wo), view(weights.bo));
  return projected;
}

/// Runs the large transformer over rows; how attention is evaluated is the caller's choice.
///
///   Shapes   x, result (N, width); memory (NK, width): keys and values come from it where it is given
///            (cross-attention), as it is: neither the input MLP nor a norm is applied to it; bias: added to the scores
///            of all layers, see ScoreBias
///   Math     see ModelSpec
///   Throws   SpecError, ShapeError if spec, weights, x or memory do not fit together, and whatever `attend` throws
///   Source   Yu & Alman, Definition 2.2 and the usual pre-norm transformer
template <RealScalar Scalar, Attend<Scalar> AttendFn>
[[nodiscard]] Matrix<Scalar> forward(const Model<Scalar>& model, Matrix<Scalar> x, AttendFn&& attend,
                                     const Matrix<std::type_identity_t<Scalar>>* memory = nullptr,
                                     const ScoreBias<std::type_identity_t<Scalar>>& bias = {}) {
  const ModelSpec& spec = model.spec;
  detail::require_forward(model, x, memory);
  if (model.input_mlp) model.input_mlp(0, span(x));

  for (Index index = 0; index < spec.layers; ++index) {
    const LayerWeights<Scalar>& layer = model.layers[static_cast<std::size_t>(index)];
    const AttentionSpec a = spec.attention_of(index);
    if constexpr (AttendInParts<AttendFn, Scalar>) {
      const std::optional<detail::PartRule> parts = detail::part_rule(a.mask, x.rows(), spec.width);
      if (parts && memory == nullptr && bias.empty()) {
        detail::layer_in_parts(spec, a, layer, index, *parts, x, attend);
        continue;
      }
    }
    Matrix<Scalar> mixed;
    {
      const Matrix<Scalar> tokens = detail::attention_tokens(spec, layer, view(x));
      mixed = detail::mixed_rows(a, layer.attention, view(tokens), attend, index, memory, bias);
    }
    detail::finish_rows(spec, layer, std::move(mixed), 0, span(x));
  }
  detail::final_norm_in_place(model, x);
  return x;
}

}  // namespace twoheads
