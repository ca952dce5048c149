// Models from folders: config.json and weights of the families that people have, against float64 logits of a program of
// another language (scripts/make_fixtures.py).

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <twoheads/attention/direct.hpp>
#include <twoheads/attention/forward.hpp>
#include <twoheads/attention/language.hpp>
#include <twoheads/io/encoder_folder.hpp>
#include <twoheads/io/model_folder.hpp>
#include <twoheads/io/model_writer.hpp>
#include <twoheads/io/safetensors.hpp>
#include <twoheads/model/llama2c.hpp>
#include <vector>

#include "support/contains.hpp"
#include "support/families.hpp"
#include "support/instances.hpp"
#include "support/message_of.hpp"
#include "support/shared_data.hpp"
#include "support/temp_folder.hpp"

namespace {

using namespace twoheads;
namespace fs = std::filesystem;
using nlohmann::json;
using namespace families;

Safetensors expected(const std::string& name) { return Safetensors::open(fixture(name) / "expected.safetensors"); }

std::vector<int> ints(const Safetensors& file, const std::string& name) {
  const std::vector<std::int32_t> values = file.values<std::int32_t>(name);
  return {values.begin(), values.end()};
}

/// Largest difference over the largest number expected; a NaN makes it infinite.
double error_of(const Matrix<double>& found, const Matrix<double>& wanted) {
  if (detail::first_row_not_finite(found) >= 0) return std::numeric_limits<double>::infinity();
  return (found - wanted).cwiseAbs().maxCoeff() / wanted.cwiseAbs().maxCoeff();
}

/// Attention by calls of at most 9 rows.
template <class Scalar>
GridAttention<SmallTransformer<Scalar>> small_calls(SmallTransformer<Scalar>& oracle) {
  return GridAttention<SmallTransformer<Scalar>>(oracle, {});
}

template <class Scalar>
SmallTransformer<Scalar> oracle_for(const ModelSpec& spec) {
  OracleLimits limits{.kind = spec.attention.mask.kind == MaskKind::full ? OracleKind::plain : OracleKind::causal,
                      .rows = 9};
  limits.score_scale = spec.attention.score_scale;
  return SmallTransformer<Scalar>(limits);
}

template <class Scalar, class AttendFn>
Matrix<double> logits_of(const LanguageModel<Scalar>& model, const std::vector<int>& ids, AttendFn&& attend) {
  const Matrix<Scalar> rows = forward(model.body, embed(model, ids), attend);
  return logits(model, view(rows)).template cast<double>();
}

template <class Scalar>
Matrix<double> direct_logits(const LanguageModel<Scalar>& model, const std::vector<int>& ids) {
  return logits_of(model, ids, DirectAttention<Scalar>());
}

/// A family's folder, and the engines beside direct evaluation that have what it needs.
struct Family {
  const char* name;
  bool kernel = true;
  bool oracle = true;
};
std::ostream& operator<<(std::ostream& out, const Family& family) { return out << family.name; }

std::string name_of(const testing::TestParamInfo<Family>& info) { return info.param.name; }

class Decoder : public testing::TestWithParam<Family> {};

TEST_P(Decoder, LogitsAreThoseOfTheReference) {
  const std::string name = GetParam().name;
  const Safetensors file = expected(name);
  const std::vector<int> ids = ints(file, "ids");
  const LanguageModel<double> model = read_model<double>(fixture(name));
  const Matrix<double> wanted = file.matrix<double>("logits", static_cast<Index>(ids.size()), model.vocabulary());
  EXPECT_LE(error_of(direct_logits(model, ids), wanted), 1e-12);
  EXPECT_LE(error_of(direct_logits(read_model<float>(fixture(name)), ids), wanted), 2e-6);
  if (GetParam().kernel) {
    EXPECT_LE(error_of(logits_of(model, ids, KernelAttention<double>()), wanted), 1e-12);
  }
  if (GetParam().oracle) {
    auto oracle = oracle_for<double>(model.body.spec);
    auto grid = small_calls(oracle);
    EXPECT_LE(error_of(logits_of(model, ids, grid), wanted), 1e-12);
    EXPECT_GT(grid.counts().calls, 0);
  }
}

// Calls of an oracle yield no scores that could be capped.
INSTANTIATE_TEST_SUITE_P(Families, Decoder,
                         testing::Values(Family{"llama"}, Family{"llama_tied_linear"}, Family{"llama3_rope"},
                                         Family{"mistral"}, Family{"qwen2"}, Family{"qwen3"}, Family{"gemma"},
                                         Family{"gemma2", true, false}, Family{"gpt2"}, Family{"bloom"}),
                         name_of);

class Encoder : public testing::TestWithParam<Family> {};

TEST_P(Encoder, RowsAndVectorsAreThoseOfTheReference) {
  const std::string name = GetParam().name;
  const Safetensors file = expected(name);
  const std::vector<int> ids = ints(file, "ids");
  const EncoderModel<double> encoder = read_encoder<double>(fixture(name));
  const EncoderModel<float> narrow = read_encoder<float>(fixture(name));
  const LanguageModel<double>& model = encoder.model;
  const Index width = model.body.spec.width;
  std::vector<int> types;
  if (file.contains("token_type_ids")) types = ints(file, "token_type_ids");
  const Matrix<double> wanted = file.matrix<double>("hidden", static_cast<Index>(ids.size()), width);
  const Matrix<double> x = embed(model, ids, 0, types);
  const Matrix<double> rows = forward(model.body, x, DirectAttention<double>());
  const Matrix<float> narrow_rows =
      forward(narrow.model.body, embed(narrow.model, ids, 0, types), DirectAttention<float>());
  EXPECT_LE(error_of(rows, wanted), 1e-12);
  EXPECT_LE(error_of(narrow_rows.cast<double>(), wanted), 2e-6);
  EXPECT_LE(error_of(forward(model.body, x, KernelAttention<double>()), wanted), 1e-12);
  auto oracle = oracle_for<double>(model.body.spec);
  EXPECT_LE(error_of(forward(model.body, x, small_calls(oracle)), wanted), 1e-12);
  for (const Pooling pooling : {Pooling::mean, Pooling::cls, Pooling::pooler}) {
    SCOPED_TRACE(twoheads::name(pooling));
    ASSERT_EQ(file.contains(twoheads::name(pooling)), pooling != Pooling::pooler || encoder.pooler.size() > 0);
    if (!file.contains(twoheads::name(pooling))) continue;
    const Matrix<double> vector = file.row<double>(twoheads::name(pooling), width);
    EXPECT_LE(error_of(pooled(encoder, view(rows), pooling), vector), 1e-12);
    EXPECT_LE(error_of(pooled(narrow, view(narrow_rows), pooling).cast<double>(), vector), 2e-6);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Encoder,
                         testing::Values(Family{"bert"}, Family{"bert_prefixed"}, Family{"roberta"},
                                         Family{"distilbert"}),
                         name_of);

// ---------------------------------------------------------------------------------------------------------------------
// The folder
// ---------------------------------------------------------------------------------------------------------------------

/// A family's folder with other fields and other tensors.
class EditedFolder {
 public:
  explicit EditedFolder(const std::string& name, const json& changes = json::object())
      : file_(Safetensors::open(fixture(name) / "model.safetensors")) {
    folder_.write("config.json", config_with(name, changes));
    for (const std::string& tensor : file_.names())
      tensors_.push_back({tensor, file_.info(tensor).dtype, file_.info(tensor).shape, file_.bytes(tensor)});
  }

  [[nodiscard]] TensorView& operator[](const std::string& name) {
    for (TensorView& tensor : tensors_)
      if (tensor.name == name) return tensor;
    throw std::logic_error("no tensor " + name);
  }
  EditedFolder& add(TensorView tensor) {
    tensors_.push_back(std::move(tensor));
    return *this;
  }
  EditedFolder& drop(const std::string& name) {
    std::erase_if(tensors_, [&](const TensorView& tensor) { return tensor.name == name; });
    return *this;
  }
  EditedFolder& rename(const std::function<std::string(const std::string&)>& name) {
    for (TensorView& tensor : tensors_) tensor.name = name(tensor.name);
    return *this;
  }
  const TempFolder& files() const { return folder_; }

  [[nodiscard]] fs::path written() const {
    write_safetensors(folder_ / "model.safetensors", tensors_);
    return folder_ / "";
  }

 private:
  Safetensors file_;
  TempFolder folder_;
  std::vector<TensorView> tensors_;
};

std::string refusal_of(const EditedFolder& folder) {
  return message_of<Error>([&] { static_cast<void>(read_model<float>(folder.written())); });
}

TEST(ModelFolder, TensorsThatDoNotFitAreRefusedByName) {
  const std::string key = "model.layers.1.self_attn.k_proj.weight";
  const std::string norm = "model.layers.0.input_layernorm.weight";
  const auto expect = [](const EditedFolder& folder, const std::string& message) {
    const std::string found = refusal_of(folder);
    EXPECT_TRUE(contains(found, message)) << found << "\nexpected: " << message;
  };
  EditedFolder extra("llama");
  TensorView bias = extra[norm];
  bias.name = "model.layers.0.self_attn.k_proj.bias";
  expect(extra.add(bias), "'model.layers.0.self_attn.k_proj.bias' is not a weight of the model");
  expect(EditedFolder("llama").drop(key), "tensor '" + key + "' is not there");
  expect(EditedFolder("llama", {{"num_hidden_layers", 1}}), "'model.layers.1.input_layernorm.weight' is not a weight");
  expect(EditedFolder("llama", {{"num_hidden_layers", 2000000000}}), "config.json speaks of 2000000000 layers");
  expect(EditedFolder("llama", {{"num_hidden_layers", 3}, {"layer_types", nullptr}}), "layers, but there are");
  expect(EditedFolder("llama", {{"vocab_size", 2000000000}}),
         "its shape is [64, 24], config.json asks for [2000000000, 24]");
  expect(EditedFolder("llama", {{"intermediate_size", 25}}), "its shape is [24, 24], config.json asks for [25, 24]");
  EditedFolder turned("llama");
  std::swap(turned[key].shape[0], turned[key].shape[1]);
  expect(turned, "'" + key + "': its shape is [24, 12], config.json asks for [12, 24]");
  EditedFolder whole("llama");
  whole[norm].dtype = Dtype::i32;
  expect(whole, "'" + norm + "': its dtype is I32, expected F64, F32, F16 or BF16");
  EditedFolder broken("llama");
  std::vector<float> numbers(24, 1.0F);
  numbers[7] = std::numeric_limits<float>::quiet_NaN();
  broken[norm].bytes = std::as_bytes(std::span(numbers));
  expect(broken, "'" + norm + "', row 0: a weight is NaN");
  expect(EditedFolder("llama").rename([](const std::string& name) { return "x." + name; }),
         "there is no tensor 'embed_tokens.weight'");
  expect(EditedFolder("llama").drop("lm_head.weight"), "'lm_head.weight' is not there");
  expect(EditedFolder("llama", {{"tie_word_embeddings", true}}), "differs from the embedding");
  expect(EditedFolder("bert"), "bert is an encoder");
  EXPECT_TRUE(contains(message_of<SpecError>([] { static_cast<void>(read_encoder<float>(fixture("llama"))); }),
                       "llama is a decoder"));
}

TEST(ModelFolder, BuffersAndPrefixesChangeNothing) {
  const std::vector<int> ids = ints(expected("llama"), "ids");
  const Matrix<double> wanted = direct_logits(read_model<double>(fixture("llama")), ids);
  EditedFolder with_buffer("llama");
  TensorView buffer = with_buffer["model.norm.weight"];
  buffer.name = "model.layers.0.self_attn.rotary_emb.inv_freq";
  EXPECT_EQ(direct_logits(read_model<double>(with_buffer.add(buffer).written()), ids), wanted);

  EditedFolder without_prefix("llama");
  without_prefix.rename([](const std::string& name) { return name.starts_with("model.") ? name.substr(6) : name; });
  EXPECT_EQ(direct_logits(read_model<double>(without_prefix.written()), ids), wanted);

  EditedFolder tied("llama_tied_linear");
  TensorView output = tied["model.embed_tokens.weight"];
  output.name = "lm_head.weight";
  const LanguageModel<double> model = read_model<double>(tied.add(output).written());
  EXPECT_EQ(model.output.size(), 0);
}

TEST(EncoderFolder, PoolingIsThatOfTheModulesFile) {
  const std::string transformer = R"({"idx":0,"name":"0","path":"","type":"sentence_transformers.models.Transformer"})";
  const std::string pooling =
      R"({"idx":1,"name":"1","path":"1_Pooling","type":"sentence_transformers.models.Pooling"})";
  const std::string normalize =
      R"({"idx":2,"name":"2","path":"2_Normalize","type":"sentence_transformers.models.Normalize"})";
  const TempFolder folder;
  fs::create_directory(folder / "1_Pooling");
  const auto read = [&](const std::string& modules, const json& pools) {
    folder.write("modules.json", modules);
    folder.write("1_Pooling/config.json", pools.dump());
    return read_sentence_config(folder / "");
  };
  const json mean{
      {"word_embedding_dimension", 24}, {"pooling_mode_mean_tokens", true}, {"pooling_mode_cls_token", false}};
  const json cls{
      {"pooling_mode_mean_tokens", false}, {"pooling_mode_cls_token", true}, {"pooling_mode_max_tokens", false}};
  EXPECT_EQ(read_sentence_config(folder / "").pooling, Pooling::mean);
  const SentenceConfig normal = read("[" + transformer + "," + pooling + "," + normalize + "]", mean);
  EXPECT_EQ(normal.pooling, Pooling::mean);
  EXPECT_TRUE(normal.normalize);
  const SentenceConfig first = read("[" + transformer + "," + pooling + "]", cls);
  EXPECT_EQ(first.pooling, Pooling::cls);
  EXPECT_FALSE(first.normalize);
  const auto refusal = [&](const std::string& modules, const json& pools) {
    return message_of<SpecError>([&] { static_cast<void>(read(modules, pools)); });
  };
  const std::string both = "[" + transformer + "," + pooling + "]";
  EXPECT_TRUE(contains(refusal(both, {{"pooling_mode_max_tokens", true}}), "only mean and cls are read"));
  EXPECT_TRUE(contains(refusal(both, json::object()), "none of pooling_mode_mean_tokens"));
  EXPECT_TRUE(
      contains(refusal(both, {{"pooling_mode_mean_tokens", true}, {"new_mode", 1}}), "'new_mode' is not known"));
  EXPECT_TRUE(contains(refusal("[" + transformer + "]", mean), "1 modules, expected"));
  EXPECT_TRUE(contains(refusal("[" + transformer + "," + normalize + "]", mean), "module 1 is"));
}

// ---------------------------------------------------------------------------------------------------------------------
// Writing
// ---------------------------------------------------------------------------------------------------------------------

TEST(WriteModel, AFolderReadWrittenAndReadAgainGivesTheSameBits) {
  for (const char* name : {"llama", "llama_tied_linear", "llama3_rope", "mistral", "qwen2", "gpt2"}) {
    const TempFolder folder;
    const LanguageModel<double> model = read_model<double>(fixture(name));
    write_model(folder / "made", model);
    const std::vector<int> ids = ints(expected(name), "ids");
    EXPECT_EQ(direct_logits(read_model<double>(folder / "made"), ids), direct_logits(model, ids)) << name;
  }
}

TEST(WriteModel, NeighboursThatRotateTogetherBecomeHalves) {
  LanguageModel<double> model = read_model<double>(fixture("llama3_rope"));
  model.body.spec.attention.rope->pairing = RopePairing::interleaved;
  const std::vector<int> ids = ints(expected("llama3_rope"), "ids");
  const TempFolder folder;
  write_model(folder / "made", model);
  const LanguageModel<double> again = read_model<double>(folder / "made");
  EXPECT_EQ(again.body.spec.attention.rope->pairing, RopePairing::halves);
  const Matrix<double> wanted = direct_logits(model, ids);
  EXPECT_LE(error_of(direct_logits(again, ids), wanted), 1e-13);
  EXPECT_GT(error_of(direct_logits(read_model<double>(fixture("llama3_rope")), ids), wanted), 1e-3);
}

TEST(WriteModel, WhatNoFamilyHoldsIsRefusedBeforeAFileIsTouched) {
  const TempFolder folder;
  for (const auto& [name, message] :
       std::vector<std::pair<std::string, std::string>>{{"qwen3", "no soft cap, ALiBi or norms of heads"},
                                                        {"gemma", "an embedding with no scale"},
                                                        {"gemma2", "norms before attention and MLP"},
                                                        {"bloom", "no soft cap, ALiBi"}}) {
    const LanguageModel<float> model = read_model<float>(fixture(name));
    EXPECT_TRUE(contains(message_of<SpecError>([&] { write_model(folder / "made", model); }), message)) << name;
  }
  const LanguageModel<float> encoder = read_encoder<float>(fixture("bert")).model;
  EXPECT_TRUE(contains(message_of<SpecError>([&] { write_model(folder / "made", encoder); }), "norms before"));
  EXPECT_FALSE(fs::exists(folder / "made"));
}

TEST(WriteModel, StoriesAsAFolderGiveTheReferenceLogits) {
  const auto data = shared_data("stories260K");
  if (!data) GTEST_SKIP() << "data/stories260K is absent (set TWOHEADS_SHARED_DIR to its shared folder)";
  const TempFolder folder;
  write_model(folder / "made", read_llama2c<float>(*data / "stories260K.bin"));
  const LanguageModel<float> model = read_model<float>(folder / "made");
  const Safetensors reference = Safetensors::open(*data / "reference_logits.safetensors");
  std::vector<int> ids = ints(reference, "ids");
  const std::vector<int> rows = ints(reference, "rows");
  const Matrix<double> full = reference.matrix<double>("full", static_cast<Index>(rows.size()), model.vocabulary());
  // Rows see no later token, so that the first ones are as good as all.
  constexpr std::size_t tokens = 300;
  ids.resize(tokens);
  const Matrix<double> found = direct_logits(model, ids);
  Index checked = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (rows[i] >= static_cast<int>(tokens)) continue;
    EXPECT_LE((found.row(rows[i]) - full.row(static_cast<Index>(i))).cwiseAbs().maxCoeff(), 1e-4) << "row " << rows[i];
    ++checked;
  }
  EXPECT_GE(checked, 5);
}

}  // namespace
