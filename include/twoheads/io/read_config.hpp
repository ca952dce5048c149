#pragma once

#include <filesystem>
#include <string>
#include <twoheads/base/errors.hpp>
#include <twoheads/io/config_encoders.hpp>
#include <twoheads/io/config_fields.hpp>
#include <twoheads/io/config_gated.hpp>
#include <twoheads/io/config_gpt.hpp>
#include <twoheads/io/mapped_file.hpp>
#include <twoheads/io/model_config.hpp>

namespace twoheads {

/// Reads the config.json of a model's folder. Every field of it is used, known to change nothing, or an error.
///
///   Corner   absent fields have the values that transformers gives them, but for sizes, which have to be there
///   Throws   FileError for a file that cannot be read; FormatError for what is no such file; SpecError for a family, a
///            field or a value that is not read, with the reason
///   Source   the configuration and modelling files of each family in huggingface/transformers
[[nodiscard]] inline ModelConfig read_model_config(const std::filesystem::path& path) {
  const detail::MappedFile file(path);
  detail::ConfigFields fields(file.text_at(0, file.bytes().size()), file.name());
  ModelConfig config;
  const std::string type = config.model_type = fields.word("model_type");
  if (type == "llama")
    detail::read_llama(fields, config);
  else if (type == "mistral")
    detail::read_mistral(fields, config);
  else if (type == "qwen2" || type == "qwen3")
    detail::read_qwen(fields, config);
  else if (type == "gemma" || type == "gemma2")
    detail::read_gemma(fields, config);
  else if (type == "gpt2")
    detail::read_gpt2(fields, config);
  else if (type == "bloom")
    detail::read_bloom(fields, config);
  else if (type == "bert" || type == "roberta")
    detail::read_bert(fields, config);
  else if (type == "distilbert")
    detail::read_distilbert(fields, config);
  else if (type == "gpt_neox" || type == "phi" || type == "gptj")
    throw SpecError(detail::text(file.name(), ": the model_type ", type,
                                 " adds attention and MLP of the same rows, which ModelSpec has not"));
  else
    throw SpecError(detail::text(file.name(), ": the model_type is '", detail::excerpt(type),
                                 "', expected llama, mistral, qwen2, qwen3, gemma, gemma2, gpt2, bloom, bert, roberta "
                                 "or distilbert"));
  detail::pass_common_fields(fields);
  if (config.encoder)
    fields.expect_flag("is_decoder", false, "this family is read as an encoder");
  else
    fields.pass({"is_decoder"});
  fields.require_nothing_left();
  return config;
}

}  // namespace twoheads
