#pragma once

#include <array>
#include <filesystem>
#include <string>
#include <tuple>
#include <twoheads/io/encoder_folder.hpp>
#include <twoheads/io/model_folder.hpp>
#include <twoheads/io/read_config.hpp>
#include <vector>

#include "support/damage.hpp"
#include "support/shared_data.hpp"
#include "support/temp_folder.hpp"

/// Adds the readers of models from folders to a list of formats: config.json of all families by itself, and both files
/// of a decoder with sliding windows, of one with ALiBi, and of an encoder with its pooling.
template <class Format>
void add_family_formats(const TempFolder& folder, std::vector<Format>& all) {
  namespace fs = std::filesystem;
  const fs::path fixtures = fs::path(TWOHEADS_SOURCE_DIR) / "tests/data/families";
  std::vector<std::string> configs;
  for (const char* name : {"llama", "llama3_rope", "mistral", "qwen3", "gemma2", "gpt2", "bloom", "bert", "distilbert"})
    configs.push_back(read_bytes(fixtures / name / "config.json"));
  const auto add = [&](const std::string& name, const std::string& file, std::vector<std::string> seeds, auto read,
                       auto damage) {
    Format format{name, file, std::move(seeds), read, damage};
    format.only_format_errors = false;
    all.push_back(std::move(format));
  };
  add(
      "config.json", "config.json", configs,
      [](const fs::path& path) { std::ignore = twoheads::read_model_config(path); }, &Damage::of_file);
  for (const std::string name : {"gemma2", "bloom", "bert"}) {
    // A folder each, so that what is damaged in one is whole in the other.
    for (const std::string part : {"/config.json", "/model.safetensors"}) {
      const std::string own = name + part.substr(1, 1);
      fs::create_directory(folder / own);
      for (const char* file : {"config.json", "model.safetensors"})
        folder.write(own + "/" + file, read_bytes(fixtures / name / file));
      const bool encoder = name == "bert";
      add(
          name + part, own + part, {read_bytes(fixtures / name / part.substr(1))},
          [encoder](const fs::path& path) {
            if (encoder)
              std::ignore = twoheads::read_encoder<float>(path.parent_path());
            else
              std::ignore = twoheads::read_model<float>(path.parent_path());
          },
          part == "/config.json" ? &Damage::of_file : &Damage::of_safetensors);
    }
  }
  fs::create_directory(folder / "sentences");
  fs::create_directory(folder / "sentences/1_Pooling");
  folder.write("sentences/1_Pooling/config.json",
               R"({"pooling_mode_mean_tokens":true,"pooling_mode_cls_token":false})");
  add(
      "modules.json", "sentences/modules.json",
      {R"([{"idx":0,"name":"0","path":"","type":"sentence_transformers.models.Transformer"},)"
       R"({"idx":1,"name":"1","path":"1_Pooling","type":"sentence_transformers.models.Pooling"}])"},
      [](const fs::path& path) { std::ignore = twoheads::read_sentence_config(path.parent_path()); }, &Damage::of_file);
}
