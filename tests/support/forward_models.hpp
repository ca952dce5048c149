#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <twoheads/attention/forward.hpp>
#include <twoheads/model/random.hpp>
#include <utility>
#include <vector>

#include "support/bounds.hpp"
#include "support/naive.hpp"
#include "support/seed.hpp"

/// Small models of every kind, each as the library has it and as plain tables.
namespace forward_models {

using namespace twoheads;
using bounds::Real;

inline std::uint64_t seed() { return seed_or(221); }

struct Shape {
  Index heads, kv_heads, head_dim, value_dim;
};

struct ModelCase {
  std::string name;
  ModelSpec spec;
  bool biases = false;
  bool input_mlp = false;
  /// Rows of the memory for N rows of x.
  Index (*memory)(Index) = nullptr;
};

// Two functions of a row and its position, each said once for the library and once for the triple loop.
inline const auto input_rule = [](Index first_row, auto& rows) {
  for (Index i = 0; i < rows.rows(); ++i) rows.row(i).array() += static_cast<float>((first_row + i) % 7) / 4;
};
inline void naive_input_rule(Index position, naive::Row& row) {
  for (Real& x : row) x += static_cast<Real>(position % 7) / 4;
}
inline const auto layer_rule = [](Index first_row, auto& rows) {
  for (Index i = 0; i < rows.rows(); ++i) {
    const auto first = rows(i, 0);
    for (Index c = 0; c + 1 < rows.cols(); ++c) rows(i, c) = std::max(rows(i, c), rows(i, c + 1)) / 2;
    rows(i, rows.cols() - 1) = first + static_cast<float>((first_row + i) % 5) / 8;
  }
};
inline void naive_layer_rule(Index position, naive::Row& row) {
  const Real first = row.front();
  for (std::size_t c = 0; c + 1 < row.size(); ++c) row[c] = std::max(row[c], row[c + 1]) / 2;
  row.back() = first + static_cast<Real>(position % 5) / 8;
}

inline ModelSpec spec_of(Index layers, Index width, Shape shape, MaskKind mask, NormKind norm, MlpKind mlp) {
  ModelSpec spec;
  spec.layers = layers;
  spec.width = width;
  spec.attention.heads = shape.heads;
  spec.attention.kv_heads = shape.kv_heads;
  spec.attention.head_dim = shape.head_dim;
  spec.attention.value_dim = shape.value_dim;
  spec.attention.score_scale = 1 / std::sqrt(static_cast<double>(shape.head_dim));
  spec.attention.mask.kind = mask;
  spec.norm = norm;
  spec.mlp = mlp;
  spec.hidden = mlp == MlpKind::none || mlp == MlpKind::custom ? 0 : width + 3;
  return spec;
}

inline std::vector<ModelCase> model_cases() {
  constexpr MaskKind full = MaskKind::full, causal = MaskKind::causal;
  const auto changed = [](ModelSpec spec, auto&& change) {
    change(spec);
    return spec;
  };
  const auto turning = [](RopePairing pairing) {
    return [pairing](ModelSpec& s) {
      s.attention.rope = RopeSpec{10000.0, pairing};
      s.final_norm = true;
    };
  };
  const auto replacing = [](ModelSpec& s) { s.residual = false; };
  const auto negative = [](ModelSpec& s) { s.attention.score_scale *= -1; };
  const auto unprojected = [](ModelSpec& s) { s.attention.output_projection = false; };
  return {
      {"Plain", spec_of(1, 4, {1, 1, 3, 2}, full, NormKind::none, MlpKind::none)},
      {"Llama",
       changed(spec_of(2, 8, {4, 2, 2, 2}, causal, NormKind::rms, MlpKind::swiglu), turning(RopePairing::interleaved))},
      {"Halves",
       changed(spec_of(2, 8, {2, 1, 4, 3}, causal, NormKind::rms, MlpKind::swiglu), turning(RopePairing::halves))},
      {"Gpt2", spec_of(2, 6, {2, 2, 3, 3}, causal, NormKind::layer, MlpKind::gelu_tanh), true},
      {"LayerNormGelu", changed(spec_of(2, 6, {3, 3, 1, 4}, full, NormKind::layer, MlpKind::gelu),
                                [](ModelSpec& s) { s.final_norm = true; })},
      {"GeluBiases", spec_of(1, 5, {2, 1, 8, 1}, full, NormKind::rms, MlpKind::gelu), true},
      {"ReluReplacing", changed(spec_of(2, 5, {2, 2, 2, 3}, causal, NormKind::none, MlpKind::relu), replacing), true},
      {"NormReplacing", changed(spec_of(2, 6, {2, 2, 2, 3}, full, NormKind::layer, MlpKind::none), replacing)},
      {"NegativeScale", changed(spec_of(1, 6, {3, 1, 2, 2}, causal, NormKind::rms, MlpKind::relu), negative)},
      {"NoProjection", changed(spec_of(2, 6, {3, 3, 4, 2}, causal, NormKind::rms, MlpKind::gelu), unprojected)},
      {"PaperFull", paper_layer(2, 6, 3, Mask{full}, MlpKind::relu, 4)},
      {"PaperCausal", paper_layer(3, 8, 2, Mask{causal}, MlpKind::custom, 0), false, true},
      {"CustomResidual", spec_of(2, 5, {2, 1, 3, 2}, full, NormKind::rms, MlpKind::custom), false, true},
      {"Memory", spec_of(2, 6, {4, 2, 3, 2}, full, NormKind::rms, MlpKind::swiglu), false, true,
       [](Index n) { return n + 5; }},
      {"MemoryOfOneRow", spec_of(1, 4, {1, 1, 2, 2}, full, NormKind::layer, MlpKind::none), false, false,
       [](Index) { return Index{1}; }},
      {"CausalMemory", spec_of(1, 4, {2, 2, 2, 3}, causal, NormKind::none, MlpKind::gelu), false, false,
       [](Index n) { return n; }},
      {"PaperMemory", paper_layer(2, 6, 2, Mask{full}, MlpKind::relu, 3), false, false, [](Index n) { return 2 * n; }},
  };
}

/// A model with float weights, which serve every scalar, and the same as plain tables.
inline std::pair<Model<float>, naive::Model> model_of(const ModelCase& kind) {
  Model<float> model = random_model<float>(kind.spec, seed());
  Random random(seed() + 1);
  if (kind.input_mlp) model.input_mlp = RowFunction(input_rule);
  for (LayerWeights<float>& layer : model.layers) {
    if (kind.spec.mlp == MlpKind::custom) layer.mlp.custom = RowFunction(layer_rule);
    if (!kind.biases) continue;
    layer.mlp.b_in = random.matrix<float>(1, kind.spec.hidden);
    layer.mlp.b_out = random.matrix<float>(1, kind.spec.width);
  }
  require_valid(model);
  naive::Model plain = naive::plain(model);
  if (kind.input_mlp) plain.input_mlp = naive_input_rule;
  if (kind.spec.mlp == MlpKind::custom)
    for (naive::Layer& layer : plain.layers) layer.mlp.custom = naive_layer_rule;
  return {model, plain};
}

}  // namespace forward_models
