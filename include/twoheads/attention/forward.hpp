#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <twoheads/attention/input.hpp>
#include <twoheads/attention/mlp.hpp>
#include <twoheads/attention/norm.hpp>
#include <twoheads/attention/parts.hpp>
#include <twoheads/attention/project.hpp>
#include <twoheads/attention/rope.hpp>
#include <twoheads/base/product.hpp>

namespace twoheads {
namespace detail {

/// x <- x + mlp(norm(x)) or mlp(norm(x)) for some rows, a few at a time: the hidden columns never exist for all rows at
/// once.
template <RealScalar Scalar>
void mlp_in_place(const ModelSpec& spec, const LayerWeights<Scalar>& layer, Rows part, Matrix<Scalar>& x) {
  constexpr Index block = 256;
  for (Index begin = part.begin; begin < part.end; begin += block) {
    const Index count = std::min(block, part.end - begin);
    auto rows = x.middleRows(begin, count);
    const Matrix<Scalar> input = normed(view(rows), layer.mlp_norm, spec.norm, spec.norm_epsilon);
    const Matrix<Scalar> output = mlp(view(input), layer.mlp, spec.mlp, begin);
    if (spec.residual)
      rows += output;
    else
      rows = output;
  }
}

/// The rest of a layer for some rows: output projection, residual sum and MLP, given what attention mixed.
template <RealScalar Scalar>
void finish_rows(const ModelSpec& spec, const LayerWeights<Scalar>& layer, Rows part, Matrix<Scalar> mixed,
                 Matrix<Scalar>& x) {
  if (spec.attention.output_projection) {
    Matrix<Scalar> projected(part.size(), spec.width);
    multiply(span(projected), view(mixed), view(layer.attention.wo));
    mixed = std::move(projected);
  }
  // Rows that are all of x are exchanged, not copied.
  if (spec.residual)
    x.middleRows(part.begin, part.size()) += mixed;
  else if (part.size() == x.rows())
    x = std::move(mixed);
  else
    x.middleRows(part.begin, part.size()) = mixed;
  if (spec.mlp != MlpKind::none) mlp_in_place(spec, layer, part, x);
}

/// A layer part by part, for masks that reach so many keys to each side: beside x, memory for one part of `least`
/// queries or a few more.
template <RealScalar Scalar, AttendInParts<Scalar> AttendFn>
void layer_in_parts(const ModelSpec& spec, const LayerWeights<Scalar>& layer, Index index, const MaskReach& reach,
                    Index least, Matrix<Scalar>& x, AttendFn& attend) {
  const AttentionSpec& a = spec.attention;
  KeyWindow<Scalar> window(spec, layer, reach);
  attend.begin_layer(a, index, x.rows(), x.rows());
  for (Index begin = 0; begin < x.rows();) {
    const Rows part{begin, attend.part_end(begin, least)};
    window.move_to(part, x);
    const MatrixView<Scalar> tokens = window.tokens_of(part);
    Matrix<Scalar> q = project(tokens, layer.attention.wq, a.head_input, a.heads);
    if (a.rope) rotate(span(q), a.head_dim, *a.rope, part.begin);
    Matrix<Scalar> mixed(part.size(), a.heads * a.value_dim);
    attend(AttentionInput<Scalar>{a, index, view(q), window.keys(), window.values(), tokens, window.tokens(),
                                  layer.attention, window.held()},
           part, span(mixed));
    finish_rows(spec, layer, part, std::move(mixed), x);
    begin = part.end;
  }
  attend.end_layer();
}

}  // namespace detail

/// Runs the large transformer over rows; how attention is evaluated is the caller's choice.
///
///   Shapes   x, result (N, width); memory (NK, width): keys and values come from it where it is given
///            (cross-attention), as it is: neither the input MLP nor a norm is applied to it
///   Math     see ModelSpec
///   Throws   SpecError, ShapeError if spec, weights, x or memory do not fit together, and whatever `attend` throws
///   Source   Yu & Alman, Definition 2.2 and the usual pre-norm transformer
template <RealScalar Scalar, Attend<Scalar> AttendFn>
[[nodiscard]] Matrix<Scalar> forward(const Model<Scalar>& model, Matrix<Scalar> x, AttendFn&& attend,
                                     const Matrix<Scalar>* memory = nullptr) {
  const ModelSpec& spec = model.spec;
  const AttentionSpec& a = spec.attention;
  require_shapes(model);
  a.mask.require_defined(x.rows(), memory != nullptr ? memory->rows() : x.rows());
  detail::require_shape("the input", x, x.rows(), spec.width);
  if (memory != nullptr) {
    detail::require_shape("the memory", *memory, memory->rows(), spec.width);
    if (a.rope) throw SpecError("rotary positions over a memory are undefined: expected a model without rope");
  }
  if (model.input_mlp) model.input_mlp(0, span(x));

  // Where queries see few keys of many, a layer needs no more than a part of q, k and v at a time.
  const std::optional<MaskReach> reach = a.mask.reach(x.rows());
  const Index part_rows = reach ? detail::rows_of_a_part(*reach, spec.width) : x.rows();
  const bool in_parts = memory == nullptr && x.rows() / 4 > part_rows;
  for (Index index = 0; index < spec.layers; ++index) {
    const LayerWeights<Scalar>& layer = model.layers[static_cast<std::size_t>(index)];
    if constexpr (AttendInParts<AttendFn, Scalar>) {
      if (in_parts) {
        detail::layer_in_parts(spec, layer, index, *reach, part_rows, x, attend);
        continue;
      }
    }
    Matrix<Scalar> mixed(x.rows(), a.heads * a.value_dim);
    {
      const Matrix<Scalar> tokens = normed(view(x), layer.attention_norm, spec.norm, spec.norm_epsilon);
      const Matrix<Scalar>& sources = memory != nullptr ? *memory : tokens;
      Matrix<Scalar> q = detail::project(view(tokens), layer.attention.wq, a.head_input, a.heads);
      Matrix<Scalar> k = detail::project(view(sources), layer.attention.wk, a.head_input, a.heads);
      const Matrix<Scalar> v = detail::project(view(sources), layer.attention.wv, a.head_input, a.heads);
      if (a.rope) {
        rotate(span(q), a.head_dim, *a.rope);
        rotate(span(k), a.head_dim, *a.rope);
      }
      attend(AttentionInput<Scalar>{a, index, view(q), view(k), view(v), view(tokens), view(sources), layer.attention},
             span(mixed));
    }
    detail::finish_rows(spec, layer, {0, x.rows()}, std::move(mixed), x);
  }
  if (spec.final_norm) {
    constexpr Index block = 256;
    for (Index begin = 0; begin < x.rows(); begin += block) {
      auto rows = x.middleRows(begin, std::min(block, x.rows() - begin));
      rows = normed(view(rows), model.final_norm, spec.norm, spec.norm_epsilon);
    }
  }
  return x;
}

/// Rows of the embedding for token ids.
///
///   Shapes   ids (N), result (N, width)
///   Throws   SpecError that names the place and the id if it is not in 0..vocabulary-1
template <RealScalar Scalar, class Ids>
[[nodiscard]] Matrix<Scalar> embed(const LanguageModel<Scalar>& model, const Ids& ids) {
  Matrix<Scalar> rows(static_cast<Index>(ids.size()), model.embedding.cols());
  Index place = 0;
  for (const auto id : ids) {
    if (id < 0 || id >= model.vocabulary())
      throw SpecError(detail::text("token ", place, " has the id ", id, ", expected 0 to ", model.vocabulary() - 1));
    rows.row(place++) = model.embedding.row(static_cast<Index>(id));
  }
  return rows;
}

/// Scores of every possible next token.
///
///   Shapes   rows (N, width), result (N, vocabulary)
template <RealScalar Scalar>
[[nodiscard]] Matrix<Scalar> logits(const LanguageModel<Scalar>& model, const MatrixView<Scalar>& rows) {
  detail::require_shape("the rows to be scored", rows, rows.rows(), model.output_rows().cols());
  Matrix<Scalar> result(rows.rows(), model.output_rows().rows());
  detail::multiply_transposed(span(result), rows, view(model.output_rows()));
  return result;
}

}  // namespace twoheads
