#pragma once

#include <cmath>
#include <span>
#include <twoheads/attention/language.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/base/product.hpp>
#include <twoheads/model/weights.hpp>
#include <twoheads/train/norm_gradient.hpp>
#include <twoheads/train/parameters.hpp>
#include <twoheads/train/trainable.hpp>
#include <twoheads/train/training_pass.hpp>
#include <utility>
#include <vector>

namespace twoheads {
namespace detail {

template <RealScalar Scalar>
void require_targets(const LanguageModel<Scalar>& model, std::span<const int> ids, std::span<const int> targets) {
  if (targets.size() != ids.size())
    throw ShapeError(text("there are ", targets.size(), " targets for ", ids.size(), " tokens"));
  const Index outputs = model.output_rows().rows();
  for (std::size_t at = 0; at < targets.size(); ++at)
    if (targets[at] >= outputs || targets[at] < -1)
      throw SpecError(text("target ", at, " is ", targets[at], ", expected up to ", outputs - 1, ", or -1 for none"));
}

/// Logits of a few rows become the derivatives of their cross-entropies by them; returns the sum of these, in nats.
///
///   Shapes   logits (n, outputs); targets (n)
///   Math     -log softmax(logits)[target]; of capped logits c = cap tanh(z / cap), by z
template <RealScalar Scalar>
[[nodiscard]] double cross_entropy_gradient(Matrix<Scalar>& logits, std::span<const int> targets, double cap) {
  double sum = 0;
  RowVector<Scalar> row(logits.cols());
  RowVector<Scalar> slopes;
  for (Index i = 0; i < logits.rows(); ++i) {
    const int target = targets[static_cast<std::size_t>(i)];
    row = logits.row(i);
    if (cap != 0) slopes = Scalar(1) - (row.array() / static_cast<Scalar>(cap)).square();
    const Scalar largest = row.maxCoeff();
    const Scalar own = row[target] - largest;
    row.array() = (row.array() - largest).exp();
    const Scalar total = row.sum();
    sum += std::log(static_cast<double>(total)) - static_cast<double>(own);
    row /= total;
    row[target] -= Scalar(1);
    if (cap != 0) row.array() *= slopes.array();
    logits.row(i) = row;
  }
  return sum;
}

/// The rows of the model scored against targets: the sum of the cross-entropies in nats. With a gradient, `rows`
/// becomes `scale` times the derivatives by them, and the output's are added.
template <RealScalar Scalar>
[[nodiscard]] double score_rows(const LanguageModel<Scalar>& model, std::span<const int> targets, Matrix<Scalar>& rows,
                                LanguageModel<Scalar>* gradient, double scale) {
  std::vector<Index> counted;
  for (Index row = 0; row < rows.rows(); ++row)
    if (targets[static_cast<std::size_t>(row)] >= 0) counted.push_back(row);
  Matrix<Scalar> d_rows;
  if (gradient != nullptr) d_rows.setZero(rows.rows(), rows.cols());
  double sum = 0;
  for_each_rows(static_cast<Index>(counted.size()), [&](Rows block) {
    Matrix<Scalar> part(block.size(), rows.cols());
    std::vector<int> own;
    for (Index at = block.begin; at < block.end; ++at) {
      const Index row = counted[static_cast<std::size_t>(at)];
      part.row(at - block.begin) = rows.row(row);
      own.push_back(targets[static_cast<std::size_t>(row)]);
    }
    Matrix<Scalar> scores = logits(model, view(part));
    sum += cross_entropy_gradient(scores, std::span<const int>(own), model.logit_cap);
    if (gradient == nullptr) return;
    scores *= static_cast<Scalar>(scale);
    add_transposed_product(span(model.output.size() > 0 ? gradient->output : gradient->embedding), view(scores),
                           view(part));
    if (gradient->output_bias.size() > 0) gradient->output_bias += scores.colwise().sum();
    multiply(span(part), view(scores), view(model.output_rows()));
    for (Index at = block.begin; at < block.end; ++at)
      d_rows.row(counted[static_cast<std::size_t>(at)]) = part.row(at - block.begin);
  });
  if (gradient != nullptr) rows = std::move(d_rows);
  return sum;
}

/// The derivative of embed() for tokens from position 0 on, all of type 0.
template <RealScalar Scalar>
void add_embedding_gradient(const LanguageModel<Scalar>& model, std::span<const int> ids, Matrix<Scalar> d_rows,
                            LanguageModel<Scalar>& gradient) {
  if (model.embedding_norm.gain.size() > 0) {
    const Matrix<Scalar> before = embedded_rows(model, ids, 0, {});
    const ModelSpec& spec = model.body.spec;
    d_rows = add_norm_gradient(view(before), model.embedding_norm, spec.norm, spec.norm_epsilon, view(d_rows),
                               gradient.embedding_norm);
  }
  for (Index row = 0; row < d_rows.rows(); ++row)
    gradient.embedding.row(ids[static_cast<std::size_t>(row)]) +=
        static_cast<Scalar>(model.embedding_scale) * d_rows.row(row);
  if (gradient.positions.size() > 0) gradient.positions.middleRows(model.first_position, d_rows.rows()) += d_rows;
  if (gradient.token_types.size() > 0) gradient.token_types.row(0) += d_rows.colwise().sum();
}

}  // namespace detail

/// The sum of the cross-entropies of a sequence's targets, in nats.
///
///   Shapes   ids (N) from position 0 on; targets (N): what each row should score highest, or -1 where none counts
template <RealScalar Scalar, TrainableAttention<Scalar> AttendFn>
[[nodiscard]] double loss(const LanguageModel<Scalar>& model, std::span<const int> ids, std::span<const int> targets,
                          AttendFn& attend) {
  detail::require_targets(model, ids, targets);
  TrainingPass<Scalar> pass(model.body);
  Matrix<Scalar> rows = pass.forward(embed(model, ids), attend);
  return detail::score_rows<Scalar>(model, targets, rows, nullptr, 1.0);
}

/// The same, and `scale` times its derivative by every number of the model, added to `gradient`.
///
///   Shapes   gradient: arrays of the model's shapes, as zero_like() makes them
///   Throws   ShapeError, SpecError as require_shapes(), embed() and TrainingPass say
template <RealScalar Scalar, TrainableAttention<Scalar> AttendFn>
double add_gradient(const LanguageModel<Scalar>& model, std::span<const int> ids, std::span<const int> targets,
                    AttendFn& attend, LanguageModel<Scalar>& gradient, double scale = 1.0) {
  detail::require_targets(model, ids, targets);
  detail::require_same_arrays("a gradient", parameters(model), parameters(gradient));
  TrainingPass<Scalar> pass(model.body);
  Matrix<Scalar> rows = pass.forward(embed(model, ids), attend);
  const double sum = detail::score_rows<Scalar>(model, targets, rows, &gradient, scale);
  detail::add_embedding_gradient(model, ids, pass.backward(std::move(rows), attend, gradient.body), gradient);
  return sum;
}

}  // namespace twoheads
