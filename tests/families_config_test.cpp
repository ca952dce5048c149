// config.json of the families that people have: what is read, what changes nothing, and what is refused.

#include <gtest/gtest.h>

#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <twoheads/io/read_config.hpp>
#include <utility>
#include <vector>

#include "support/contains.hpp"
#include "support/families.hpp"
#include "support/message_of.hpp"
#include "support/temp_folder.hpp"

namespace {

using namespace twoheads;
namespace fs = std::filesystem;
using nlohmann::json;
using namespace families;

ModelConfig read_config(const std::string& name, const json& changes) {
  const TempFolder folder;
  return read_model_config(folder.write("config.json", config_with(name, changes)));
}

TEST(ModelConfig, WhatMayChangeTheResultAndIsNotReadIsRefused) {
  struct Refusal {
    const char* family;
    json changes;
    const char* message;
  };
  const std::vector<Refusal> refusals{
      {"llama",
       {{"rope_interleaved", true}},
       "the field 'rope_interleaved' is not known to this reader, and may change"},
      {"gpt2", {{"use_parallel_residual", true}}, "the field 'use_parallel_residual' is not known"},
      {"bloom", {{"sliding_window", 4}}, "the field 'sliding_window' is not known"},
      {"bert", {{"rope_theta", 10000.0}}, "the field 'rope_theta' is not known"},
      {"distilbert", {{"type_vocab_size", 2}}, "the field 'type_vocab_size' is not known"},
      {"llama", {{"quantization_config", json::object()}}, "the field 'quantization_config' is not known"},
      {"llama", {{"model_type", "mamba"}}, "the model_type is 'mamba', expected llama, "},
      {"gpt_neox", json::object(), "adds attention and MLP of the same rows"},
      {"llama", {{"pretraining_tp", 2}}, "pretraining_tp is 2, expected 1"},
      {"llama", {{"hidden_act", "relu"}}, "hidden_act is 'relu', expected silu or gelu_pytorch_tanh"},
      {"bert", {{"hidden_act", "silu"}}, "hidden_act is 'silu', expected relu, gelu or gelu_new"},
      {"gemma", {{"hidden_activation", "gelu"}}, "hidden_activation is 'gelu', expected"},
      {"gemma", {{"use_bidirectional_attention", true}}, "only causal attention"},
      {"llama", {{"partial_rotary_factor", 0.5}}, "partial_rotary_factor is 0.5, expected 1"},
      {"llama", {{"rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}}}, "angles that change with the length"},
      {"llama", {{"rope_scaling", {{"rope_type", "yarn"}, {"factor", 2.0}}}}, "'yarn' scales the attention logits"},
      {"llama", {{"rope_scaling", {{"type", "longrope"}}}}, "'longrope' has a factor for each pair"},
      {"llama", {{"rope_scaling", {{"type", "linear"}}}}, "rope_scaling: factor is not there"},
      {"llama", {{"rope_scaling", {{"type", "linear"}, {"factor", 0.0}}}}, "factor is 0.0, expected a number above 0"},
      {"llama", {{"rope_scaling", {{"type", "linear"}, {"factor", 2.0}, {"beta_fast", 1}}}}, "the field 'beta_fast'"},
      {"llama", {{"rope_scaling", {{"type", "linear"}, {"rope_type", "ntk"}}}}, "expected one word for both"},
      {"llama", {{"rope_scaling", {{"factor", 2.0}}}}, "neither rope_type nor type"},
      {"llama", {{"rope_scaling", "linear"}}, "rope_scaling is \"linear\", expected an object"},
      {"qwen2", {{"layer_types", {"full_attention"}}}, "layer_types has 1 entries, expected 2"},
      {"qwen2", {{"layer_types", {"full_attention", "sliding_attention"}}}, "but there is no window"},
      {"qwen2", {{"layer_types", {"full_attention", "chunked_attention"}}}, "layer_types has 'chunked_attention'"},
      {"gpt2", {{"scale_attn_by_inverse_layer_idx", true}}, "all layers have the same score scale"},
      {"gpt2", {{"add_cross_attention", true}}, "cross-attention"},
      {"gpt2", {{"hidden_size", 25}}, "n_embd and hidden_size are 24 and 25, expected one value for both"},
      {"bloom", {{"apply_residual_connection_post_layernorm", true}}, "residual sums take the rows before the norm"},
      {"bloom", {{"n_inner", 10}}, "n_inner is 10, expected null or 72"},
      {"bert", {{"position_embedding_type", "relative_key"}}, "'relative_key', expected absolute"},
      {"bert", {{"is_decoder", true}}, "read as an encoder"},
      {"bert", {{"pruned_heads", {{"0", {1}}}}}, "pruned_heads is not empty"},
      {"roberta", {{"pad_token_id", 40}}, "max_position_embeddings is 32, expected more than 41"},
      {"llama", {{"hidden_size", "absent"}}, "hidden_size is not there"},
      {"llama", {{"hidden_size", nullptr}}, "hidden_size is null"},
      {"llama", {{"hidden_size", -24}}, "hidden_size is -24, expected a whole number from 1 to 2147483647"},
      {"llama", {{"hidden_size", 24.5}}, "hidden_size is 24.5, expected a whole number"},
      {"llama", {{"hidden_size", 4294967296}}, "expected a whole number"},
      {"llama", {{"vocab_size", "64"}}, "vocab_size is \"64\", expected a whole number"},
      {"llama", {{"attention_bias", 1}}, "attention_bias is 1, expected true or false"},
      {"llama", {{"rms_norm_eps", "small"}}, "rms_norm_eps is \"small\", expected a number"},
      {"llama", {{"rms_norm_eps", -1e-5}}, "expected a number of 0 or more"},
      {"llama", {{"num_key_value_heads", 3}}, "num_attention_heads is 4, expected a multiple of num_key_value_heads 3"},
      {"qwen2", {{"num_attention_heads", 5}, {"num_key_value_heads", 5}}, "5 heads do not divide the width 24"},
      {"mistral", {{"num_key_value_heads", "absent"}}, "num_key_value_heads is not there"},
      {"llama", {{"model_type", "absent"}}, "model_type is not there"},
  };
  for (const Refusal& refusal : refusals) {
    const std::string message =
        message_of<Error>([&] { static_cast<void>(read_config(refusal.family, refusal.changes)); });
    EXPECT_TRUE(contains(message, refusal.message)) << refusal.family << " " << refusal.changes << ": " << message;
    EXPECT_TRUE(contains(message, "config.json")) << message;
  }
  const TempFolder folder;
  for (const auto& [text, message] : std::vector<std::pair<std::string, std::string>>{
           {R"({"model_type":"llama","model_type":"llama"})", "'model_type' appears twice"},
           {R"([1])", "expected an object"},
           {R"({"model_type":"llama"} x)", "expected the end"},
           {"", "expected an object"}}) {
    const fs::path path = folder.write("config.json", text);
    const std::string found = message_of<FormatError>([&] { static_cast<void>(read_model_config(path)); });
    EXPECT_TRUE(contains(found, message)) << text << ": " << found;
  }
}

TEST(ModelConfig, FieldsThatChangeNothingArePassed) {
  const json nothing{{"torch_dtype", "float16"}, {"use_cache", false},       {"attention_dropout", 0.5},
                     {"temperature", 0.7},       {"_name_or_path", "a/b"},   {"id2label", {{"0", "LABEL_0"}}},
                     {"bos_token_id", {1, 2}},   {"architectures", {"Any"}}, {"some_new_field", nullptr}};
  for (const char* name : {"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gpt2", "bloom", "bert"}) {
    json changes = nothing;
    if (std::string(name) == "gpt2" || std::string(name) == "bert") changes.erase("attention_dropout");
    EXPECT_NO_THROW(static_cast<void>(read_config(name, changes))) << name;
  }
}

TEST(ModelConfig, WindowsAreThoseOfTheFamily) {
  const Index none = 0;
  struct Case {
    const char* family;
    json changes;
    std::vector<Index> windows;  ///< of each layer; 0: all keys before it
  };
  const std::vector<Case> cases{
      {"llama", json::object(), {none, none}},
      {"mistral", json::object(), {7, 7}},
      {"mistral", {{"sliding_window", nullptr}}, {none, none}},
      {"mistral", {{"sliding_window", "absent"}}, {4096, 4096}},
      {"qwen2", json::object(), {none, none}},
      {"qwen2", {{"use_sliding_window", true}}, {none, none}},
      {"qwen2", {{"use_sliding_window", true}, {"max_window_layers", 1}}, {none, 5}},
      {"qwen2", {{"use_sliding_window", true}, {"max_window_layers", 0}}, {5, 5}},
      {"qwen2", {{"use_sliding_window", true}, {"sliding_window", nullptr}, {"max_window_layers", 0}}, {none, none}},
      {"qwen3",
       {{"use_sliding_window", true}, {"sliding_window", 3}, {"layer_types", "absent"}, {"max_window_layers", 1}},
       {none, 3}},
      {"qwen3",
       {{"use_sliding_window", true}, {"sliding_window", 3}, {"layer_types", {"sliding_attention", "full_attention"}}},
       {3, none}},
      {"gemma2", json::object(), {5, none}},
      {"gemma2", {{"layer_types", {"full_attention", "sliding_attention"}}}, {none, 5}},
      {"gemma2", {{"num_hidden_layers", 3}}, {5, none, 5}},
  };
  for (const Case& one : cases) {
    const ModelSpec spec = read_config(one.family, one.changes).model_spec();
    ASSERT_EQ(spec.layers, static_cast<Index>(one.windows.size()));
    for (Index layer = 0; layer < spec.layers; ++layer) {
      const Index window = one.windows[static_cast<std::size_t>(layer)];
      EXPECT_EQ(spec.attention_of(layer).mask, window == none ? Mask::causal() : Mask::sliding_window(window))
          << one.family << " " << one.changes << ", layer " << layer;
    }
  }
}

TEST(ModelConfig, RotationsAreThoseOfTheFile) {
  const auto rope = [](const json& changes) { return *read_config("llama", changes).spec.attention.rope; };
  RopeSpec plain;
  plain.pairing = RopePairing::halves;
  EXPECT_EQ(rope(json::object()), plain);
  EXPECT_EQ(rope({{"rope_scaling", {{"rope_type", "default"}, {"factor", 3.0}}}}), plain);
  EXPECT_EQ(rope({{"rope_theta", "absent"}}), plain);
  RopeSpec linear = plain;
  linear.linear_factor = 2.5;
  EXPECT_EQ(rope({{"rope_scaling", {{"type", "linear"}, {"factor", 2.5}}}}), linear);
  RopeSpec ntk = plain;
  ntk.theta = 500.0;
  ntk.ntk_factor = 4.0;
  EXPECT_EQ(rope({{"rope_theta", 500}, {"rope_scaling", {{"type", "ntk"}, {"factor", 4}}}}), ntk);
  RopeSpec stretched = plain;
  stretched.stretch = RopeStretch{8.0, 1.5, 4.5, 64.0};
  EXPECT_EQ(rope({{"rope_theta", "absent"},
                  {"rope_scaling", "absent"},
                  {"rope_parameters",
                   {{"rope_theta", 10000.0},
                    {"rope_type", "llama3"},
                    {"factor", 8.0},
                    {"low_freq_factor", 1.5},
                    {"high_freq_factor", 4.5},
                    {"original_max_position_embeddings", 64}}}}),
            stretched);
}

}  // namespace
