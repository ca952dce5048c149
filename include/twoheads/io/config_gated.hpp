#pragma once

#include <cmath>
#include <string>
#include <twoheads/base/errors.hpp>
#include <twoheads/io/config_common.hpp>
#include <twoheads/io/config_fields.hpp>
#include <twoheads/io/model_config.hpp>
#include <twoheads/io/rope_config.hpp>

namespace twoheads::detail {

/// What Llama, Mistral, Qwen and Gemma have in common. `head_dim` stands where the file has none; 0: width / heads.
inline void read_gated(ConfigFields& fields, ModelConfig& config, Index head_dim, double epsilon) {
  config.family = ModelFamily::gated;
  config.vocabulary = fields.size("vocab_size");
  ModelSpec& spec = config.spec;
  spec.layers = fields.size("num_hidden_layers");
  spec.hidden = fields.size("intermediate_size");
  const Index width = fields.size("hidden_size");
  const Index heads = fields.size("num_attention_heads");
  // Where it is absent, transformers takes the heads for Llama and some fixed number for the others.
  const bool as_heads = config.model_type == "llama" || fields.mentions("num_key_value_heads");
  const Index kv_heads = as_heads ? fields.size_or("num_key_value_heads", heads) : fields.size("num_key_value_heads");
  require_groups(fields, heads, kv_heads);
  if (head_dim == 0 && !fields.has("head_dim")) head_dim = share_of_head(fields, width, heads);
  set_heads(spec, width, heads, kv_heads, fields.size_or("head_dim", head_dim));
  spec.attention.mask = Mask::causal();
  spec.attention.rope = read_rope(fields);
  spec.norm = NormKind::rms;
  spec.norm_epsilon = fields.epsilon_or("rms_norm_eps", epsilon);
  spec.final_norm = true;
  fields.pass({"max_position_embeddings", "attention_dropout", "hidden_dropout"});
}

/// Biases of all four projections of attention, or of none.
inline void read_attention_bias(ConfigFields& fields, ModelConfig& config) {
  config.qkv_bias = config.output_bias = fields.flag_or("attention_bias", false);
}

inline void read_llama(ConfigFields& fields, ModelConfig& config) {
  read_gated(fields, config, 0, 1e-6);
  read_attention_bias(fields, config);
  config.mlp_bias = fields.flag_or("mlp_bias", false);
  config.spec.mlp = activation(fields, "hidden_act", fields.word_or("hidden_act", "silu"), true);
  config.tied_output = fields.flag_or("tie_word_embeddings", false);
  if (fields.size_or("pretraining_tp", 1) != 1)
    throw SpecError(text(fields.where(), ": pretraining_tp is ", fields.size("pretraining_tp"),
                         ", expected 1: products in parts are rounded otherwise"));
}

inline void read_mistral(ConfigFields& fields, ModelConfig& config) {
  read_gated(fields, config, 0, 1e-6);
  config.spec.mlp = activation(fields, "hidden_act", fields.word_or("hidden_act", "silu"), true);
  config.tied_output = fields.flag_or("tie_word_embeddings", false);
  // Absent and null are not the same here.
  if (!fields.mentions("sliding_window"))
    config.window = 4096;
  else if (fields.has("sliding_window"))
    config.window = fields.size("sliding_window");
}

/// Which layers of `layer_types` slide, where there is such a list.
inline void read_layer_types(ConfigFields& fields, ModelConfig& config) {
  if (!fields.has("layer_types")) return;
  config.sliding = fields.words_of_two("layer_types", "sliding_attention", "full_attention");
  if (static_cast<Index>(config.sliding.size()) != config.spec.layers)
    throw SpecError(text(fields.where(), ": layer_types has ", config.sliding.size(), " entries, expected ",
                         config.spec.layers, ", the layers"));
  for (const bool slides : config.sliding)
    if (slides && config.window == 0)
      throw SpecError(text(fields.where(), ": layer_types has a sliding layer, but there is no window"));
}

/// Qwen 2 and 3: the layers from max_window_layers on slide, if use_sliding_window says so.
inline void read_qwen(ConfigFields& fields, ModelConfig& config) {
  const bool third = config.model_type == "qwen3";
  read_gated(fields, config, third && !fields.mentions("head_dim") ? 128 : 0, 1e-6);
  config.spec.mlp = activation(fields, "hidden_act", fields.word_or("hidden_act", "silu"), true);
  config.tied_output = fields.flag_or("tie_word_embeddings", false);
  if (third) {
    read_attention_bias(fields, config);
    config.spec.attention.head_norm = true;
    config.spec.attention.head_norm_epsilon = config.spec.norm_epsilon;
  } else {
    config.qkv_bias = true;
  }
  const bool slides = fields.flag_or("use_sliding_window", false);
  if (slides && (fields.has("sliding_window") || !fields.mentions("sliding_window")))
    config.window = fields.size_or("sliding_window", 4096);
  config.first_sliding = fields.size_or("max_window_layers", 28, 0);
  fields.pass({"sliding_window"});
  read_layer_types(fields, config);
}

/// Gemma and Gemma 2: rows of the embedding are scaled, gains are kept as their distance from 1, the MLP is GeGLU.
///
///   Corner   hidden_act is a name from before hidden_activation, and ignored as transformers does: the models were
///            trained with the tanh form even where it says gelu
inline void read_gemma(ConfigFields& fields, ModelConfig& config) {
  const bool second = config.model_type == "gemma2";
  read_gated(fields, config, 256, 1e-6);
  ModelSpec& spec = config.spec;
  read_attention_bias(fields, config);
  config.tied_output = fields.flag_or("tie_word_embeddings", true);
  config.gain_offset = 1.0;
  config.embedding_scale = std::sqrt(static_cast<double>(spec.width));
  spec.mlp = activation(fields, "hidden_activation", fields.word_or("hidden_activation", "gelu_pytorch_tanh"), true);
  const std::string old = fields.word_or("hidden_act", "gelu");
  if (old != "gelu" && activation(fields, "hidden_act", old, true) != MlpKind::geglu)
    throw SpecError(text(fields.where(), ": hidden_act is ", old, ", expected a GELU: the models have no other"));
  fields.expect_flag("use_bidirectional_attention", false, "only causal attention is read for this family");
  if (!second) return;
  spec.norm_place = NormPlace::both;
  spec.attention.score_scale = 1.0 / std::sqrt(fields.positive_or("query_pre_attn_scalar", 256.0));
  const auto cap = [&](const char* name, double otherwise) {
    if (fields.has(name)) return fields.positive(name);
    return fields.mentions(name) ? 0.0 : otherwise;
  };
  spec.attention.soft_cap = cap("attn_logit_softcapping", 50.0);
  config.logit_cap = cap("final_logit_softcapping", 30.0);
  config.window = fields.mentions("sliding_window") ? fields.size("sliding_window") : 4096;
  config.sliding_step = 2;
  read_layer_types(fields, config);
}

}  // namespace twoheads::detail
