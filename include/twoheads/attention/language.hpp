#pragma once

#include <cmath>
#include <span>
#include <twoheads/attention/norm.hpp>
#include <twoheads/attention/project.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/base/product.hpp>
#include <twoheads/model/weights.hpp>

namespace twoheads {

/// Sines and cosines of positions, as in the first transformer: to be added to the rows of tokens.
///
///   Shapes   result (count, width), width even; row i is of position first + i
///   Math     column 2 c: sin(p 10000^(-2 c / width)), column 2 c + 1: its cosine
///   Source   Vaswani et al., "Attention Is All You Need" (2017)
template <RealScalar Scalar>
[[nodiscard]] Matrix<Scalar> sinusoidal_positions(Index first, Index count, Index width) {
  if (width < 2 || width % 2 != 0)
    throw ShapeError(detail::text("sinusoidal positions of ", width, " columns, expected an even number"));
  using Angle = SumScalar<Scalar>;
  Matrix<Scalar> rows(count, width);
  for (Index c = 0; c < width / 2; ++c) {
    const Angle frequency = std::pow(Angle(10000), -static_cast<Angle>(2 * c) / static_cast<Angle>(width));
    for (Index i = 0; i < count; ++i) {
      const Angle angle = static_cast<Angle>(first + i) * frequency;
      rows(i, 2 * c) = static_cast<Scalar>(std::sin(angle));
      rows(i, 2 * c + 1) = static_cast<Scalar>(std::cos(angle));
    }
  }
  return rows;
}

/// Checks that every array of a language model has the shape that it should have.
///
///   Throws   SpecError or ShapeError that names the array, what it was and what was expected
template <RealScalar Scalar>
void require_shapes(const LanguageModel<Scalar>& model) {
  require_shapes(model.body);
  const ModelSpec& spec = model.body.spec;
  const Index vocabulary = model.vocabulary();
  if (vocabulary < 1) throw SpecError("the model has no embedding");
  detail::require_shape("the embedding", model.embedding, vocabulary, spec.width);
  if (model.output.size() > 0) detail::require_shape("the output", model.output, vocabulary, spec.width);
  detail::require_row_or_none("the output bias", model.output_bias, vocabulary);
  if (model.positions.size() > 0)
    detail::require_shape("the positions", model.positions, model.positions.rows(), spec.width);
  if (model.first_position < 0 || (model.positions.size() == 0 && model.first_position != 0))
    throw SpecError(
        detail::text("the first token takes row ", model.first_position, " of ", model.positions.rows(), " positions"));
  if (model.token_types.size() > 0)
    detail::require_shape("the token types", model.token_types, model.token_types.rows(), spec.width);
  if (model.embedding_norm.gain.size() > 0 && spec.norm == NormKind::none)
    throw SpecError("the norm of the embedding is set, but norm is none");
  if (model.embedding_norm.gain.size() > 0)
    detail::require_norm("the norm of the embedding", model.embedding_norm, spec.norm, spec.width);
}

namespace detail {

/// embed() before its norm.
template <RealScalar Scalar, class Ids>
[[nodiscard]] Matrix<Scalar> embedded_rows(const LanguageModel<Scalar>& model, const Ids& ids, Index first,
                                           std::span<const int> types) {
  const auto count = static_cast<Index>(ids.size());
  if (first < 0) throw SpecError(text("the first token stands at position ", first, ", expected 0 or more"));
  Matrix<Scalar> rows(count, model.embedding.cols());
  Index place = 0;
  for (const auto id : ids) {
    if (id < 0 || static_cast<Index>(id) >= model.vocabulary())
      throw SpecError(text("token ", place, " has the id ", id, ", expected 0 to ", model.vocabulary() - 1));
    rows.row(place++) = model.embedding.row(static_cast<Index>(id));
  }
  if (model.embedding_scale != 1.0) rows *= static_cast<Scalar>(model.embedding_scale);
  if (model.positions.size() > 0) {
    const Index begin = model.first_position + first;
    if (begin > model.positions.rows() - count)
      throw SpecError(text("tokens at positions ", first, "..", first + count - 1, ": the model has ",
                           model.positions.rows() - model.first_position, " positions"));
    rows += model.positions.middleRows(begin, count);
  }
  if (!types.empty() && static_cast<Index>(types.size()) != count)
    throw ShapeError(text("there are ", types.size(), " token types for ", count, " tokens"));
  if (!types.empty() && model.token_types.size() == 0) throw SpecError("token types are given, but the model has none");
  if (model.token_types.size() > 0)
    for (Index token = 0; token < count; ++token) {
      const Index type = types.empty() ? 0 : types[static_cast<std::size_t>(token)];
      if (type < 0 || type >= model.token_types.rows())
        throw SpecError(
            text("token ", token, " has the type ", type, ", expected 0 to ", model.token_types.rows() - 1));
      rows.row(token) += model.token_types.row(type);
    }
  return rows;
}

}  // namespace detail

/// Rows of tokens as the model's first layer takes them: see LanguageModel.
///
///   Shapes   ids (N), the first of them at position `first`; types (N) or empty: all of type 0; result (N, width)
///   Throws   SpecError that names the place and the id, the type or the position that the model does not have
template <RealScalar Scalar, class Ids>
[[nodiscard]] Matrix<Scalar> embed(const LanguageModel<Scalar>& model, const Ids& ids, Index first = 0,
                                   std::span<const int> types = {}) {
  Matrix<Scalar> rows = detail::embedded_rows(model, ids, first, types);
  if (model.embedding_norm.gain.size() == 0) return rows;
  const ModelSpec& spec = model.body.spec;
  return normed(view(rows), model.embedding_norm, spec.norm, spec.norm_epsilon);
}

/// Scores of every possible next token.
///
///   Shapes   rows (N, width), result (N, vocabulary)
template <RealScalar Scalar>
[[nodiscard]] Matrix<Scalar> logits(const LanguageModel<Scalar>& model, const MatrixView<Scalar>& rows) {
  detail::require_shape("the rows to be scored", rows, rows.rows(), model.output_rows().cols());
  Matrix<Scalar> result(rows.rows(), model.output_rows().rows());
  detail::for_each_rows(rows.rows(), [&](Rows part) {
    detail::multiply_transposed(block_span(span(result), part, 0, result.cols()),
                                block_view(rows, part, 0, rows.cols()), view(model.output_rows()));
  });
  if (model.output_bias.size() > 0) result.rowwise() += model.output_bias;
  if (model.logit_cap != 0) {
    const auto cap = static_cast<Scalar>(model.logit_cap);
    result = (result.array() / cap).tanh() * cap;
  }
  return result;
}

}  // namespace twoheads
