#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/io/config_fields.hpp>
#include <twoheads/io/mapped_file.hpp>
#include <twoheads/model/spec.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// How a folder names its tensors: gated is Llama, Mistral, Qwen and Gemma; bert is RoBERTa as well.
enum class ModelFamily { gated, gpt2, bloom, bert, distilbert };

/// What the config.json of a model's folder says. It takes no memory that grows with the numbers in it.
///
///   Corner   `spec` lacks what grows with layers and heads, the masks of layers and ALiBi's slopes: see model_spec()
struct ModelConfig {
  std::string model_type;                   ///< as the file has it
  ModelFamily family = ModelFamily::gated;  ///< how tensors are named
  ModelSpec spec;
  Index vocabulary = 0;            ///< ids that it knows
  bool encoder = false;            ///< no mask and no output
  bool tied_output = true;         ///< the output is the embedding
  bool qkv_bias = false;           ///< of projections of queries, keys and values
  bool output_bias = false;        ///< of attention's output projection
  bool mlp_bias = false;           ///< of MLPs
  double gain_offset = 0.0;        ///< added to the gains of norms as they stand in the file
  double embedding_scale = 1.0;    ///< rows are multiplied by it
  double logit_cap = 0.0;          ///< as LanguageModel has it
  Index positions = 0;             ///< learned ones; 0: none
  Index first_position = 0;        ///< row of the first token's position
  Index token_types = 0;           ///< rows of added token types
  bool alibi = false;              ///< whether it has ALiBi's slopes
  Index window = 0;                ///< of layers with a sliding window; 0: no layer has one
  std::vector<bool> sliding = {};  ///< whether a layer has it; empty: as the next two say
  Index first_sliding = 0;         ///< layers before it see everything
  Index sliding_step = 1;          ///< 2: every second layer

  /// Whether a layer has the sliding window.
  [[nodiscard]] bool slides(Index layer) const {
    if (window == 0) return false;
    if (!sliding.empty()) return sliding[static_cast<std::size_t>(layer)];
    return layer >= first_sliding && (layer - first_sliding) % sliding_step == 0;
  }

  /// The whole spec.
  [[nodiscard]] ModelSpec model_spec() const {
    ModelSpec whole = spec;
    if (alibi) whole.attention.alibi = alibi_slopes(spec.attention.heads);
    Index count = 0;
    for (Index layer = 0; layer < spec.layers; ++layer) count += slides(layer) ? 1 : 0;
    if (count == spec.layers) {
      whole.attention.mask = Mask::sliding_window(window);
    } else if (count > 0) {
      whole.layer_masks.assign(static_cast<std::size_t>(spec.layers), spec.attention.mask);
      for (Index layer = 0; layer < spec.layers; ++layer)
        if (slides(layer)) whole.layer_masks[static_cast<std::size_t>(layer)] = Mask::sliding_window(window);
    }
    whole.require_valid();
    return whole;
  }
};

}  // namespace twoheads
