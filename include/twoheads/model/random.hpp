#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>
#include <random>
#include <twoheads/base/matrix.hpp>
#include <twoheads/model/weights.hpp>
#include <utility>

namespace twoheads {

/// Normal numbers from a seed, the same everywhere up to the last bit of log and cos; std::normal_distribution is not.
class Random {
 public:
  explicit Random(std::uint64_t seed) : bits_(seed) {}

  /// Uniform in (0, 1].
  [[nodiscard]] double uniform() { return (static_cast<double>(bits_() >> 11) + 1.0) * 0x1.0p-53; }

  /// Mean 0, variance 1 (Box-Muller).
  [[nodiscard]] double normal() {
    const double radius = std::sqrt(-2.0 * std::log(uniform()));
    return radius * std::cos(2.0 * std::numbers::pi * uniform());
  }

  /// Matrix of independent normal numbers of standard deviation `deviation`.
  template <RealScalar Scalar>
  [[nodiscard]] Matrix<Scalar> matrix(Index rows, Index cols, double deviation = 1.0) {
    Matrix<Scalar> result(rows, cols);
    for (Index row = 0; row < rows; ++row)
      for (Index col = 0; col < cols; ++col) result(row, col) = static_cast<Scalar>(deviation * normal());
    return result;
  }

 private:
  std::mt19937_64 bits_;
};

/// A model of the given spec with random weights: each projection keeps the size of its input, gains lie around 1.
///
///   Laws   the same for the same spec and seed; float weights are the rounded double weights
template <RealScalar Scalar>
[[nodiscard]] Model<Scalar> random_model(const ModelSpec& spec, std::uint64_t seed) {
  spec.require_valid();
  Random random(seed);
  const AttentionSpec& a = spec.attention;
  const auto weights = [&](Index inputs, Index outputs) {
    return random.matrix<Scalar>(inputs, outputs, 1.0 / std::sqrt(static_cast<double>(inputs)));
  };
  const auto gain = [&](Index size) -> RowVector<Scalar> {
    return (random.matrix<double>(1, size, 0.1).array() + 1.0).template cast<Scalar>();
  };
  const auto norm = [&] {
    NormWeights<Scalar> n;
    if (spec.norm == NormKind::none) return n;
    n.gain = gain(spec.width);
    if (spec.norm == NormKind::layer) n.shift = random.matrix<Scalar>(1, spec.width, 0.1);
    return n;
  };
  Model<Scalar> model;
  model.spec = spec;
  for (Index index = 0; index < spec.layers; ++index) {
    LayerWeights<Scalar> layer;
    const Index input = spec.head_input_width();
    layer.attention_norm = norm();
    layer.attention.wq = weights(input, a.heads * a.head_dim);
    layer.attention.wk = weights(input, a.kv_heads * a.head_dim);
    layer.attention.wv = weights(input, a.kv_heads * a.value_dim);
    if (a.output_projection) layer.attention.wo = weights(a.heads * a.value_dim, spec.width);
    layer.mlp_norm = norm();
    if (spec.mlp != MlpKind::none && spec.mlp != MlpKind::custom) {
      layer.mlp.w_in = weights(spec.width, spec.hidden);
      if (has_gate(spec.mlp)) layer.mlp.w_gate = weights(spec.width, spec.hidden);
      layer.mlp.w_out = weights(spec.hidden, spec.width);
    }
    if (a.head_norm) layer.attention.q_norm = gain(a.head_dim);
    if (a.head_norm) layer.attention.k_norm = gain(a.head_dim);
    if (spec.norm_place == NormPlace::both) layer.attention_end_norm = norm();
    if (spec.norm_place == NormPlace::both && spec.mlp != MlpKind::none) layer.mlp_end_norm = norm();
    model.layers.push_back(std::move(layer));
  }
  if (spec.final_norm) model.final_norm = norm();
  return model;
}

}  // namespace twoheads
