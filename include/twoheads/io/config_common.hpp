#pragma once

#include <cmath>
#include <string>
#include <string_view>
#include <twoheads/base/errors.hpp>
#include <twoheads/io/config_fields.hpp>
#include <twoheads/io/model_config.hpp>
#include <twoheads/model/spec.hpp>

namespace twoheads::detail {

/// Fields of any family that change nothing of what a trained model computes: training, output formats, names, token
/// ids and what generation takes for defaults.
inline void pass_common_fields(ConfigFields& fields) {
  fields.pass({"architectures",
               "model_type",
               "transformers_version",
               "torch_dtype",
               "dtype",
               "_name_or_path",
               "_commit_hash",
               "_attn_implementation_autoset",
               "use_cache",
               "cache_implementation",
               "gradient_checkpointing",
               "initializer_range",
               "tokenizer_class",
               "language",
               "finetuning_task",
               "id2label",
               "label2id",
               "num_labels",
               "_num_labels",
               "problem_type",
               "task_specific_params",
               "output_attentions",
               "output_hidden_states",
               "output_past",
               "return_dict",
               "return_dict_in_generate",
               "output_scores",
               "torchscript",
               "use_bfloat16",
               "tf_legacy_loss",
               "chunk_size_feed_forward",
               "bos_token_id",
               "eos_token_id",
               "pad_token_id",
               "sep_token_id",
               "cls_token_id",
               "unk_token_id",
               "mask_token_id",
               "decoder_start_token_id",
               "forced_bos_token_id",
               "forced_eos_token_id",
               "bad_words_ids",
               "suppress_tokens",
               "begin_suppress_tokens",
               "prefix",
               "max_length",
               "min_length",
               "do_sample",
               "early_stopping",
               "num_beams",
               "num_beam_groups",
               "diversity_penalty",
               "temperature",
               "top_k",
               "top_p",
               "typical_p",
               "repetition_penalty",
               "length_penalty",
               "no_repeat_ngram_size",
               "encoder_no_repeat_ngram_size",
               "num_return_sequences",
               "remove_invalid_values",
               "exponential_decay_length_penalty"});
  constexpr std::string_view decoder_of_encoder = "cross-attention to an encoder is not read";
  fields.expect_flag("is_encoder_decoder", false, decoder_of_encoder);
  fields.expect_flag("add_cross_attention", false, decoder_of_encoder);
  fields.expect_flag("tie_encoder_decoder", false, decoder_of_encoder);
  if (fields.has("pruned_heads") && fields.text_of("pruned_heads") != "{}")
    throw SpecError(text(fields.where(), ": pruned_heads is not empty: all layers have the same heads here"));
}

/// What an activation is called: without a gate, and with one.
[[nodiscard]] inline MlpKind activation(const ConfigFields& fields, std::string_view field, std::string_view word,
                                        bool gated) {
  const bool tanh = word == "gelu_new" || word == "gelu_pytorch_tanh" || word == "gelu_fast";
  if (gated) {
    if (word == "silu" || word == "swish") return MlpKind::swiglu;
    if (tanh) return MlpKind::geglu;
  } else {
    if (word == "relu") return MlpKind::relu;
    if (word == "gelu" || word == "gelu_python") return MlpKind::gelu;
    if (tanh) return MlpKind::gelu_tanh;
  }
  throw SpecError(text(fields.where(), ": ", field, " is '", excerpt(word), "', expected ",
                       gated ? "silu or gelu_pytorch_tanh" : "relu, gelu or gelu_new"));
}

/// Sets the width, the heads and their scale; the values of a head are as wide as its keys.
inline void set_heads(ModelSpec& spec, Index width, Index heads, Index kv_heads, Index head_dim) {
  spec.width = width;
  spec.attention.heads = heads;
  spec.attention.kv_heads = kv_heads;
  spec.attention.head_dim = spec.attention.value_dim = head_dim;
  spec.attention.score_scale = 1.0 / std::sqrt(static_cast<double>(head_dim));
}

/// width / heads, which has to be whole.
[[nodiscard]] inline Index share_of_head(const ConfigFields& fields, Index width, Index heads) {
  if (width % heads != 0) throw SpecError(text(fields.where(), ": ", heads, " heads do not divide the width ", width));
  return width / heads;
}

/// Every query head has a key/value head, and each of these as many query heads.
inline void require_groups(const ConfigFields& fields, Index heads, Index kv_heads) {
  if (heads % kv_heads != 0)
    throw SpecError(text(fields.where(), ": num_attention_heads is ", heads,
                         ", expected a multiple of num_key_value_heads ", kv_heads));
}

}  // namespace twoheads::detail
