#pragma once

#include <string>
#include <twoheads/base/errors.hpp>
#include <twoheads/io/config_common.hpp>
#include <twoheads/io/config_fields.hpp>
#include <twoheads/io/model_config.hpp>

namespace twoheads::detail {

/// What encoders have in common: LayerNorms after the sums, biases everywhere, every token sees every other.
inline void set_encoder(const ConfigFields& fields, ModelConfig& config, Index width, Index heads) {
  ModelSpec& spec = config.spec;
  set_heads(spec, width, heads, heads, share_of_head(fields, width, heads));
  spec.norm = NormKind::layer;
  spec.norm_place = NormPlace::after;
  config.encoder = true;
  config.qkv_bias = config.output_bias = config.mlp_bias = true;
}

/// BERT, and RoBERTa, whose first token takes the position after the padding's id.
inline void read_bert(ConfigFields& fields, ModelConfig& config) {
  config.family = ModelFamily::bert;
  config.vocabulary = fields.size("vocab_size");
  config.positions = fields.size("max_position_embeddings");
  config.token_types = fields.size("type_vocab_size");
  if (config.model_type == "roberta") config.first_position = fields.size_or("pad_token_id", 1, 0) + 1;
  if (config.first_position >= config.positions)
    throw SpecError(text(fields.where(), ": max_position_embeddings is ", config.positions, ", expected more than ",
                         config.first_position, ", the first token's"));
  const Index width = fields.size("hidden_size");
  config.spec.layers = fields.size("num_hidden_layers");
  set_encoder(fields, config, width, fields.size("num_attention_heads"));
  config.spec.hidden = fields.size("intermediate_size");
  config.spec.mlp = activation(fields, "hidden_act", fields.word_or("hidden_act", "gelu"), false);
  config.spec.norm_epsilon = fields.epsilon_or("layer_norm_eps", 1e-12);
  const std::string kind = fields.word_or("position_embedding_type", "absolute");
  if (kind != "absolute")
    throw SpecError(text(fields.where(), ": position_embedding_type is '", excerpt(kind), "', expected absolute"));
  fields.pass({"attention_probs_dropout_prob", "hidden_dropout_prob", "classifier_dropout", "tie_word_embeddings",
               "directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers",
               "pooler_size_per_head", "pooler_type"});
}

/// DistilBERT: BERT without token types and pooler; sines are in the file as learned positions are.
inline void read_distilbert(ConfigFields& fields, ModelConfig& config) {
  config.family = ModelFamily::distilbert;
  config.vocabulary = fields.size("vocab_size");
  config.positions = fields.size("max_position_embeddings");
  const Index width = fields.size({"dim", "hidden_size"});
  config.spec.layers = fields.size({"n_layers", "num_hidden_layers"});
  set_encoder(fields, config, width, fields.size({"n_heads", "num_attention_heads"}));
  config.spec.hidden = fields.size("hidden_dim");
  config.spec.mlp = activation(fields, "activation", fields.word_or("activation", "gelu"), false);
  config.spec.norm_epsilon = 1e-12;
  fields.pass({"attention_dropout", "dropout", "qa_dropout", "seq_classif_dropout", "sinusoidal_pos_embds",
               "tie_weights_", "tie_word_embeddings"});
}

}  // namespace twoheads::detail
