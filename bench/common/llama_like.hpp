#pragma once

#include <cmath>
#include <twoheads/model/spec.hpp>

namespace benches {

/// Layers of the kind that language models are made of today, 3 million weights each.
[[nodiscard]] inline twoheads::ModelSpec llama_like(twoheads::Index layers) {
  using namespace twoheads;
  ModelSpec spec;
  spec.layers = layers;
  spec.width = 512;
  spec.attention.heads = 8;
  spec.attention.kv_heads = 2;
  spec.attention.head_dim = spec.attention.value_dim = 64;
  spec.attention.score_scale = 1.0 / std::sqrt(64.0);
  spec.attention.mask = Mask::causal();
  spec.attention.rope = RopeSpec{};
  spec.norm = NormKind::rms;
  spec.mlp = MlpKind::swiglu;
  spec.hidden = 1376;
  spec.final_norm = true;
  return spec;
}

}  // namespace benches
