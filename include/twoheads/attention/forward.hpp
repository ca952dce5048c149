#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <twoheads/attention/input.hpp>
#include <twoheads/attention/mlp.hpp>
#include <twoheads/attention/norm.hpp>
#include <twoheads/attention/rope.hpp>
#include <twoheads/base/product.hpp>

namespace twoheads {
namespace detail {

/// tokens (n, width) times the weights of all heads; a head that sees its own slice multiplies that slice only.
template <RealScalar Scalar>
[[nodiscard]] Matrix<Scalar> project(const MatrixView<Scalar>& tokens, const Matrix<Scalar>& weights, HeadInput input,
                                     Index heads) {
  Matrix<Scalar> result(tokens.rows(), weights.cols());
  if (input == HeadInput::whole) {
    multiply(span(result), tokens, view(weights));
    return result;
  }
  const Index slice = weights.rows();
  const Index cols = weights.cols() / heads;
  const Rows all{0, tokens.rows()};
  for (Index head = 0; head < heads; ++head)
    multiply(block_span(span(result), all, head * cols, cols), block_view(tokens, all, head * slice, slice),
             block_view(view(weights), {0, slice}, head * cols, cols));
  return result;
}

/// x <- x + mlp(norm(x)) or mlp(norm(x)), some rows at a time: the hidden columns never exist for all rows at once.
template <RealScalar Scalar>
void mlp_in_place(const ModelSpec& spec, const LayerWeights<Scalar>& layer, Matrix<Scalar>& x) {
  constexpr Index block = 256;
  for (Index begin = 0; begin < x.rows(); begin += block) {
    const Index count = std::min(block, x.rows() - begin);
    auto rows = x.middleRows(begin, count);
    const Matrix<Scalar> input = normed(view(rows), layer.mlp_norm, spec.norm, spec.norm_epsilon);
    const Matrix<Scalar> output = mlp(view(input), layer.mlp, spec.mlp, begin);
    if (spec.residual)
      rows += output;
    else
      rows = output;
  }
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

  for (Index index = 0; index < spec.layers; ++index) {
    const LayerWeights<Scalar>& layer = model.layers[static_cast<std::size_t>(index)];
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
    if (a.output_projection) {
      Matrix<Scalar> projected(x.rows(), spec.width);
      detail::multiply(span(projected), view(mixed), view(layer.attention.wo));
      mixed = std::move(projected);
    }
    if (spec.residual)
      x += mixed;
    else
      x = std::move(mixed);
    if (spec.mlp != MlpKind::none) detail::mlp_in_place(spec, layer, x);
  }
  if (spec.final_norm) x = normed(view(x), model.final_norm, spec.norm, spec.norm_epsilon);
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
