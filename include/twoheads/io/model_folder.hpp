#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <twoheads/attention/language.hpp>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/io/family_layers.hpp>
#include <twoheads/io/folder_weights.hpp>
#include <twoheads/io/model_config.hpp>
#include <twoheads/io/read_config.hpp>
#include <twoheads/model/weights.hpp>
#include <utility>

namespace twoheads {
namespace detail {

/// Whether a tensor that no layer asked for may stay unread: buffers that files carry along, and heads of an encoder,
/// which its rows do not depend on.
[[nodiscard]] inline bool harmless_tensor(const ModelConfig& config, std::string_view name) {
  const auto begins = [&](std::string_view with) { return name.substr(0, with.size()) == with; };
  const auto ends = [&](std::string_view with) {
    return name.size() >= with.size() && name.substr(name.size() - with.size()) == with;
  };
  switch (config.family) {
    case ModelFamily::gated:
      return ends(".rotary_emb.inv_freq");
    case ModelFamily::gpt2:
      return ends(".attn.bias") || ends(".attn.masked_bias");
    case ModelFamily::bloom:
      return false;
    case ModelFamily::bert:
    case ModelFamily::distilbert:
      break;
  }
  if (ends("embeddings.position_ids") || ends("embeddings.token_type_ids")) return true;
  for (const std::string_view head : {"cls.", "lm_head.", "classifier.", "pre_classifier.", "qa_outputs.",
                                      "vocab_transform.", "vocab_layer_norm.", "vocab_projector."})
    if (begins(head)) return true;
  return false;
}

/// Reads the rows of tokens, positions and types, and their norm.
template <RealScalar Scalar>
void read_embeddings(FolderWeights& file, const ModelConfig& config, LanguageModel<Scalar>& model) {
  const Index width = config.spec.width;
  const bool encoder = config.encoder;
  const char* tokens = config.family == ModelFamily::gated  ? "embed_tokens.weight"
                       : config.family == ModelFamily::gpt2 ? "wte.weight"
                       : encoder                            ? "embeddings.word_embeddings.weight"
                                                            : "word_embeddings.weight";
  switch (config.family) {
    case ModelFamily::gated:
      file.choose_prefix({"model.", ""}, tokens);
      break;
    case ModelFamily::gpt2:
    case ModelFamily::bloom:
      file.choose_prefix({"transformer.", ""}, tokens);
      break;
    case ModelFamily::bert:
    case ModelFamily::distilbert:
      file.choose_prefix({config.model_type + ".", ""}, tokens);
      break;
  }
  model.embedding = file.matrix<Scalar>(tokens, config.vocabulary, width);
  model.embedding_scale = config.embedding_scale;
  if (config.positions > 0)
    model.positions =
        file.matrix<Scalar>(encoder ? "embeddings.position_embeddings.weight" : "wpe.weight", config.positions, width);
  model.first_position = config.first_position;
  if (config.token_types > 0)
    model.token_types = file.matrix<Scalar>("embeddings.token_type_embeddings.weight", config.token_types, width);
  if (config.family == ModelFamily::bloom)
    model.embedding_norm = file.layer_norm<Scalar>("word_embeddings_layernorm", width);
  if (encoder) model.embedding_norm = file.layer_norm<Scalar>("embeddings.LayerNorm", width);
  if (config.encoder || config.tied_output) {
    // A file may hold the output and say that it is the embedding.
    if (!encoder && file.has_plain("lm_head.weight")) {
      if (!file.same_bytes("lm_head.weight", file.full_name(tokens)))
        throw FormatError(label_of(file.folder(), "lm_head.weight") +
                          " differs from the embedding, but tie_word_embeddings says that they are the same");
      file.pass("lm_head.weight");
    }
    return;
  }
  model.output = file.plain_matrix<Scalar>("lm_head.weight", config.vocabulary, width);
}

template <RealScalar Scalar>
[[nodiscard]] LayerWeights<Scalar> read_layer(FolderWeights& file, const ModelConfig& config, Index index) {
  switch (config.family) {
    case ModelFamily::gated:
      break;
    case ModelFamily::gpt2:
      return read_gpt2_layer<Scalar>(file, config, index);
    case ModelFamily::bloom:
      return read_bloom_layer<Scalar>(file, config, index);
    case ModelFamily::bert:
      return read_bert_layer<Scalar>(file, config, index);
    case ModelFamily::distilbert:
      return read_distilbert_layer<Scalar>(file, config, index);
  }
  return read_gated_layer<Scalar>(file, config, index);
}

/// Reads all weights of a config; what is left over is up to the caller.
template <RealScalar Scalar>
[[nodiscard]] LanguageModel<Scalar> read_weights(FolderWeights& file, const ModelConfig& config) {
  // Each layer has more tensors than that; so no number in config.json asks for more memory than the file has.
  if (config.spec.layers > file.count() / 8)
    throw FormatError(text(file.folder(), ": config.json speaks of ", config.spec.layers, " layers, but there are ",
                           file.count(), " tensors"));
  LanguageModel<Scalar> model;
  read_embeddings(file, config, model);
  model.body.layers.reserve(static_cast<std::size_t>(config.spec.layers));
  for (Index index = 0; index < config.spec.layers; ++index)
    model.body.layers.push_back(read_layer<Scalar>(file, config, index));
  if (config.family == ModelFamily::gated)
    model.body.final_norm = file.rms_norm<Scalar>("norm", config.spec.width, config.gain_offset);
  else if (!config.encoder)
    model.body.final_norm = file.layer_norm<Scalar>("ln_f", config.spec.width);
  model.logit_cap = config.logit_cap;
  model.body.spec = config.model_spec();
  require_shapes(model);
  return model;
}

}  // namespace detail

/// Reads a language model from a folder as Hugging Face lays it out: config.json, and model.safetensors or its shards.
///
///   Shapes   the file keeps linear weights as (out, in), but for GPT-2's; the model keeps them as (in, out)
///   Corner   all weights of the folder are used, or known buffers; what is left over is an error. Numbers of 16 bits
///            become the scalar's exactly. Encoders are read by read_encoder().
///   Throws   FileError, FormatError, SpecError or InputError that names the file, the field or tensor, what was found
///            and what was expected; no size is believed that the weights' file does not bear out
///   Source   huggingface/transformers, the modelling file of each family
template <RealScalar Scalar>
[[nodiscard]] LanguageModel<Scalar> read_model(const std::filesystem::path& folder) {
  const ModelConfig config = read_model_config(folder / "config.json");
  if (config.encoder)
    throw SpecError(
        detail::text(folder.string(), ": ", config.model_type,
                     " is an encoder, which yields no next token: expected a decoder; read_encoder() takes it"));
  detail::FolderWeights file(folder);
  LanguageModel<Scalar> model = detail::read_weights<Scalar>(file, config);
  file.require_nothing_left([&](std::string_view name) { return detail::harmless_tensor(config, name); });
  return model;
}

}  // namespace twoheads
