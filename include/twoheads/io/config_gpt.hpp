#pragma once

#include <string>
#include <twoheads/base/checked.hpp>
#include <twoheads/base/errors.hpp>
#include <twoheads/io/config_common.hpp>
#include <twoheads/io/config_fields.hpp>
#include <twoheads/io/model_config.hpp>

namespace twoheads::detail {

/// What GPT-2 and Bloom have in common: LayerNorms before and at the end, biases everywhere, one key head a query head.
inline void set_gpt(const ConfigFields& fields, ModelConfig& config, Index width, Index heads) {
  ModelSpec& spec = config.spec;
  set_heads(spec, width, heads, heads, share_of_head(fields, width, heads));
  spec.attention.mask = Mask::causal();
  spec.norm = NormKind::layer;
  spec.final_norm = true;
  config.qkv_bias = config.output_bias = config.mlp_bias = true;
}

inline void read_gpt2(ConfigFields& fields, ModelConfig& config) {
  config.family = ModelFamily::gpt2;
  config.vocabulary = fields.size("vocab_size");
  config.positions = fields.size({"n_positions", "max_position_embeddings"});
  const Index width = fields.size({"n_embd", "hidden_size"});
  config.spec.layers = fields.size({"n_layer", "num_hidden_layers"});
  set_gpt(fields, config, width, fields.size({"n_head", "num_attention_heads"}));
  config.spec.hidden = fields.size_or("n_inner", checked_product("the inner width", 4, width));
  config.spec.mlp = activation(fields, "activation_function", fields.word_or("activation_function", "gelu_new"), false);
  config.spec.norm_epsilon = fields.epsilon_or("layer_norm_epsilon", 1e-5);
  config.tied_output = fields.flag_or("tie_word_embeddings", true);
  if (!fields.flag_or("scale_attn_weights", true)) config.spec.attention.score_scale = 1.0;
  fields.expect_flag("scale_attn_by_inverse_layer_idx", false, "all layers have the same score scale here");
  // The last one is about the rounding of 16 bits alone.
  fields.pass({"attn_pdrop", "embd_pdrop", "resid_pdrop", "n_ctx", "summary_activation", "summary_first_dropout",
               "summary_proj_to_labels", "summary_type", "summary_use_proj", "reorder_and_upcast_attn"});
}

inline void read_bloom(ConfigFields& fields, ModelConfig& config) {
  config.family = ModelFamily::bloom;
  config.vocabulary = fields.size("vocab_size");
  const Index width = fields.size({"hidden_size", "n_embed"});
  config.spec.layers = fields.size({"n_layer", "num_hidden_layers"});
  set_gpt(fields, config, width, fields.size({"n_head", "num_attention_heads"}));
  config.alibi = true;
  config.spec.mlp = MlpKind::gelu_tanh;
  config.spec.hidden = checked_product("the inner width", 4, width);
  if (fields.size_or("n_inner", config.spec.hidden) != config.spec.hidden)
    throw SpecError(text(fields.where(), ": n_inner is ", fields.size("n_inner"), ", expected null or ",
                         config.spec.hidden, ", 4 times the width"));
  config.spec.norm_epsilon = fields.epsilon_or("layer_norm_epsilon", 1e-5);
  config.tied_output = fields.flag_or("tie_word_embeddings", true);
  fields.expect_flag("apply_residual_connection_post_layernorm", false, "residual sums take the rows before the norm");
  // How products are split or fused, which changes rounding alone; what offset_alibi adds, softmax takes away.
  fields.pass({"attention_dropout", "hidden_dropout", "attention_softmax_in_fp32", "bias_dropout_fusion",
               "masked_softmax_fusion", "offset_alibi", "pretraining_tp", "skip_bias_add", "skip_bias_add_qkv",
               "slow_but_exact", "seq_length"});
}

}  // namespace twoheads::detail
