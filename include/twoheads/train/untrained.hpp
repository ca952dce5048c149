#pragma once

#include <cmath>
#include <cstdint>
#include <twoheads/base/draws.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/model/random.hpp>
#include <twoheads/model/spec.hpp>
#include <twoheads/model/weights.hpp>
#include <utility>

namespace twoheads {

/// A language model to be trained, its output tied to its embedding.
///
///   Math     matrices and embedding: normal, of deviation 1 / (2 sqrt(width)), which is 0.018 at width 768 (GPT-2's);
///            those whose rows are added to the residual stream, wo and w_out, smaller by sqrt(2 layers); gains are 1
///   Laws     the same for the same spec, vocabulary and seed; float weights are the rounded double weights
///   Source   Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), section 2.3
template <RealScalar Scalar>
[[nodiscard]] LanguageModel<Scalar> untrained_model(const ModelSpec& spec, Index vocabulary, std::uint64_t seed) {
  LanguageModel<Scalar> model;
  model.body = random_model<Scalar>(spec, seed);
  Random random(detail::seed_of_part(seed, 1));
  const double deviation = 0.5 / std::sqrt(static_cast<double>(spec.width));
  const double added = deviation / std::sqrt(2.0 * static_cast<double>(spec.layers));
  const auto draw = [&](Matrix<Scalar>& values, double size) {
    values = random.matrix<Scalar>(values.rows(), values.cols(), size);
  };
  const auto norm = [](NormWeights<Scalar>& weights) {
    weights.gain.setOnes();
    weights.shift.setZero();
  };
  for (LayerWeights<Scalar>& layer : model.body.layers) {
    for (NormWeights<Scalar>* weights :
         {&layer.attention_norm, &layer.mlp_norm, &layer.attention_end_norm, &layer.mlp_end_norm})
      norm(*weights);
    layer.attention.q_norm.setOnes();
    layer.attention.k_norm.setOnes();
    draw(layer.attention.wq, deviation);
    draw(layer.attention.wk, deviation);
    draw(layer.attention.wv, deviation);
    draw(layer.attention.wo, added);
    draw(layer.mlp.w_in, deviation);
    draw(layer.mlp.w_gate, deviation);
    draw(layer.mlp.w_out, added);
  }
  norm(model.body.final_norm);
  detail::require_positive("the vocabulary", vocabulary);
  model.embedding = random.matrix<Scalar>(vocabulary, spec.width, deviation);
  return model;
}

}  // namespace twoheads
