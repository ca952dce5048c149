#pragma once

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <twoheads/attention/language.hpp>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/io/safetensors_writer.hpp>
#include <twoheads/io/tensor_reads.hpp>
#include <twoheads/model/weights.hpp>
#include <utility>
#include <vector>

namespace twoheads {
namespace detail {

/// How config.json spells a dtype of weights.
[[nodiscard]] inline const char* torch_name(Dtype dtype) {
  switch (dtype) {
    case Dtype::f64:
      return "float64";
    case Dtype::f32:
      return "float32";
    case Dtype::f16:
      return "float16";
    case Dtype::bf16:
      return "bfloat16";
    default:
      throw SpecError(text("weights as ", name(dtype), ", expected F64, F32, F16 or BF16"));
  }
}

/// Collects the tensors of a folder under the names of a family, in one dtype.
template <RealScalar Scalar>
requires TensorNumber<Scalar>
class FamilyWriter {
 public:
  FamilyWriter(const LanguageModel<Scalar>& model, Dtype dtype) : model_(model), dtype_(dtype) {
    writer_.metadata("format", "pt");
  }

  void matrix(const std::string& name, const Matrix<Scalar>& values) {
    require_in_range(name, values);
    writer_.add(name, values, dtype_);
  }
  /// A linear layer (in, out), as (out, in).
  void linear(const std::string& name, const Matrix<Scalar>& weight) { matrix(name + ".weight", weight.transpose()); }
  /// A row, or as many `otherwise` where the model has none.
  void row(const std::string& name, const RowVector<Scalar>& values, Index size, double otherwise = 0.0) {
    const RowVector<Scalar> all =
        values.size() > 0 ? values : RowVector<Scalar>::Constant(size, static_cast<Scalar>(otherwise));
    require_in_range(name, all);
    with_type_of(dtype_, [&]<class To>(To) {
      std::vector<To> rounded;
      for (Index i = 0; i < all.size(); ++i) rounded.push_back(static_cast<To>(all[i]));
      writer_.add_values(name, rounded, {size});
    });
  }

  void write(const std::filesystem::path& folder, nlohmann::ordered_json config) const {
    config["vocab_size"] = model_.vocabulary();
    config["tie_word_embeddings"] = model_.output.size() == 0;
    config["torch_dtype"] = torch_name(dtype_);
    std::error_code failed;
    std::filesystem::create_directories(folder, failed);
    if (failed) throw FileError(text(folder.string(), ": no folder can be made: ", failed.message()));
    writer_.write(folder / "model.safetensors");
    const std::string json = config.dump(2) + "\n";
    write_file(folder / "config.json",
               [&](std::ostream& out) { out.write(json.data(), static_cast<std::streamsize>(json.size())); });
  }

 private:
  /// Of the dtypes half alone has a range that weights may leave.
  template <class Derived>
  void require_in_range(const std::string& name, const Eigen::DenseBase<Derived>& values) const {
    constexpr double most = 65504;
    if (dtype_ != Dtype::f16 || values.size() == 0) return;
    const auto largest = static_cast<double>(values.derived().cwiseAbs().maxCoeff());
    if (!(largest <= most))
      throw SpecError(text(name, " holds ", largest, ", expected at most ", most, " for float16"));
  }

  const LanguageModel<Scalar>& model_;
  Dtype dtype_;
  SafetensorsWriter writer_;
};

inline void require_writable_part(bool met, std::string_view expected) {
  if (!met) throw SpecError(text("no folder of ours can hold this model: expected ", expected));
}

/// What every family asks for.
template <RealScalar Scalar>
void require_common_parts(const LanguageModel<Scalar>& model) {
  const ModelSpec& spec = model.body.spec;
  const AttentionSpec& a = spec.attention;
  require_valid(model.body);
  require_shapes(model);
  const auto require = require_writable_part;
  require(spec.norm_place == NormPlace::before && spec.final_norm && spec.residual && !model.body.input_mlp,
          "norms before attention and MLP, a final norm, residual sums and no input MLP");
  require(a.output_projection && a.head_input == HeadInput::whole && a.head_dim == a.value_dim,
          "an output projection, heads that see whole rows, and values as wide as keys");
  require(std::abs(a.score_scale * std::sqrt(static_cast<double>(a.head_dim)) - 1.0) < 1e-12,
          "score_scale 1 / sqrt(head_dim)");
  require(a.soft_cap == 0 && a.alibi.empty() && !a.head_norm, "no soft cap, ALiBi or norms of heads");
  for (const LayerWeights<Scalar>& layer : model.body.layers)
    require(layer.attention.sinks.size() == 0, "no learned sinks");
  require(model.embedding_scale == 1.0 && model.token_types.size() == 0 && model.embedding_norm.gain.size() == 0 &&
              model.output_bias.size() == 0 && model.logit_cap == 0,
          "an embedding with no scale, token types or norm, and an output with no bias or cap");
  for (Index layer = 1; layer < spec.layers; ++layer)
    require(spec.attention_of(layer).mask == spec.attention_of(0).mask, "one mask for all layers");
}

/// The columns of heads whose neighbours rotate together, in the order of halves: exact, and scores stay what they are.
template <class Values>
[[nodiscard]] Values in_halves(const Values& columns, const RopeSpec& rope, Index head_dim) {
  if (rope.pairing == RopePairing::halves || columns.size() == 0) return columns;
  Values result = columns;
  for (Index head = 0; head < columns.cols(); head += head_dim)
    for (Index pair = 0; pair < head_dim / 2; ++pair) {
      result.col(head + pair) = columns.col(head + 2 * pair);
      result.col(head + head_dim / 2 + pair) = columns.col(head + 2 * pair + 1);
    }
  return result;
}

/// rope_theta and rope_scaling; a static NTK factor is another theta.
inline void write_rope(nlohmann::ordered_json& config, const RopeSpec& rope, Index head_dim) {
  const auto dim = static_cast<double>(head_dim);
  const double theta = rope.ntk_factor == 1.0 ? rope.theta : rope.theta * std::pow(rope.ntk_factor, dim / (dim - 2));
  config["rope_theta"] = theta;
  config["rope_scaling"] = nullptr;
  if (rope.linear_factor != 1.0) config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", rope.linear_factor}};
  if (rope.stretch)
    config["rope_scaling"] = {{"rope_type", "llama3"},
                              {"factor", rope.stretch->factor},
                              {"low_freq_factor", rope.stretch->low_factor},
                              {"high_freq_factor", rope.stretch->high_factor},
                              {"original_max_position_embeddings", rope.stretch->positions}};
}

/// Llama, or Mistral where all layers have a sliding window.
template <RealScalar Scalar>
void write_gated(const std::filesystem::path& folder, const LanguageModel<Scalar>& model, Index positions,
                 Dtype dtype) {
  const ModelSpec& spec = model.body.spec;
  const AttentionSpec& a = spec.attention;
  const auto require = require_writable_part;
  const Mask mask = spec.attention_of(0).mask;
  const bool window = mask == Mask::sliding_window(mask.window);
  require(window || mask == Mask::causal(), "causal masks or sliding windows");
  require(spec.norm == NormKind::rms && has_gate(spec.mlp) && model.positions.size() == 0,
          "RMS norms, rotary positions and an MLP with a gate");
  require(a.rope->rotated_dim == 0 || a.rope->rotated_dim == a.head_dim, "heads that rotate as a whole");
  require(!a.rope->stretch || a.rope->linear_factor == 1.0, "one scaling of rotations");
  bool attention_bias = false;
  bool mlp_bias = false;
  for (const LayerWeights<Scalar>& layer : model.body.layers) {
    const AttentionWeights<Scalar>& w = layer.attention;
    attention_bias = attention_bias || w.bq.size() + w.bk.size() + w.bv.size() + w.bo.size() > 0;
    mlp_bias = mlp_bias || layer.mlp.b_in.size() + layer.mlp.b_gate.size() + layer.mlp.b_out.size() > 0;
  }
  require(!window || (!attention_bias && !mlp_bias), "no biases beside sliding windows");

  nlohmann::ordered_json config{{"architectures", {window ? "MistralForCausalLM" : "LlamaForCausalLM"}},
                                {"model_type", window ? "mistral" : "llama"},
                                {"hidden_size", spec.width},
                                {"intermediate_size", spec.hidden},
                                {"num_hidden_layers", spec.layers},
                                {"num_attention_heads", a.heads},
                                {"num_key_value_heads", a.kv_heads},
                                {"head_dim", a.head_dim},
                                {"hidden_act", spec.mlp == MlpKind::swiglu ? "silu" : "gelu_pytorch_tanh"},
                                {"rms_norm_eps", spec.norm_epsilon},
                                {"max_position_embeddings", positions}};
  write_rope(config, *a.rope, a.head_dim);
  if (window) {
    config["sliding_window"] = mask.window;
  } else {
    config["attention_bias"] = attention_bias;
    config["mlp_bias"] = mlp_bias;
  }

  FamilyWriter<Scalar> out(model, dtype);
  out.matrix("model.embed_tokens.weight", model.embedding);
  const auto linear = [&](const std::string& name, const Matrix<Scalar>& weight, const RowVector<Scalar>& bias,
                          bool biased) {
    out.linear(name, weight);
    if (biased) out.row(name + ".bias", bias, weight.cols());
  };
  for (Index index = 0; index < spec.layers; ++index) {
    const LayerWeights<Scalar>& layer = model.body.layers[static_cast<std::size_t>(index)];
    const AttentionWeights<Scalar>& w = layer.attention;
    const std::string prefix = text("model.layers.", index, ".");
    linear(prefix + "self_attn.q_proj", in_halves(w.wq, *a.rope, a.head_dim), in_halves(w.bq, *a.rope, a.head_dim),
           attention_bias);
    linear(prefix + "self_attn.k_proj", in_halves(w.wk, *a.rope, a.head_dim), in_halves(w.bk, *a.rope, a.head_dim),
           attention_bias);
    linear(prefix + "self_attn.v_proj", w.wv, w.bv, attention_bias);
    linear(prefix + "self_attn.o_proj", w.wo, w.bo, attention_bias);
    linear(prefix + "mlp.up_proj", layer.mlp.w_in, layer.mlp.b_in, mlp_bias);
    linear(prefix + "mlp.gate_proj", layer.mlp.w_gate, layer.mlp.b_gate, mlp_bias);
    linear(prefix + "mlp.down_proj", layer.mlp.w_out, layer.mlp.b_out, mlp_bias);
    out.row(prefix + "input_layernorm.weight", layer.attention_norm.gain, spec.width);
    out.row(prefix + "post_attention_layernorm.weight", layer.mlp_norm.gain, spec.width);
  }
  out.row("model.norm.weight", model.body.final_norm.gain, spec.width);
  if (model.output.size() > 0) out.matrix("lm_head.weight", model.output);
  out.write(folder, std::move(config));
}

template <RealScalar Scalar>
void write_gpt2(const std::filesystem::path& folder, const LanguageModel<Scalar>& model, Dtype dtype) {
  const ModelSpec& spec = model.body.spec;
  const AttentionSpec& a = spec.attention;
  const auto require = require_writable_part;
  require(spec.attention_of(0).mask == Mask::causal(), "a causal mask");
  require(spec.norm == NormKind::layer && model.positions.size() > 0 && model.first_position == 0,
          "LayerNorms and learned positions from the first on, where there are no rotary ones");
  require(spec.mlp == MlpKind::relu || spec.mlp == MlpKind::gelu || spec.mlp == MlpKind::gelu_tanh,
          "an MLP with ReLU or GELU");
  require(a.kv_heads == a.heads && a.heads * a.head_dim == spec.width,
          "as many key heads as query heads, and heads * head_dim = width");
  const nlohmann::ordered_json config{{"architectures", {"GPT2LMHeadModel"}},
                                      {"model_type", "gpt2"},
                                      {"n_embd", spec.width},
                                      {"n_inner", spec.hidden},
                                      {"n_layer", spec.layers},
                                      {"n_head", a.heads},
                                      {"n_positions", model.positions.rows()},
                                      {"layer_norm_epsilon", spec.norm_epsilon},
                                      {"activation_function", spec.mlp == MlpKind::relu   ? "relu"
                                                              : spec.mlp == MlpKind::gelu ? "gelu"
                                                                                          : "gelu_new"}};
  FamilyWriter<Scalar> out(model, dtype);
  const Index width = spec.width;
  out.matrix("transformer.wte.weight", model.embedding);
  out.matrix("transformer.wpe.weight", model.positions);
  const auto norm = [&](const std::string& name, const NormWeights<Scalar>& weights) {
    out.row(name + ".weight", weights.gain, width);
    out.row(name + ".bias", weights.shift, width);
  };
  const auto conv = [&](const std::string& name, const Matrix<Scalar>& weight, const RowVector<Scalar>& bias) {
    out.matrix(name + ".weight", weight);
    out.row(name + ".bias", bias, weight.cols());
  };
  for (Index index = 0; index < spec.layers; ++index) {
    const LayerWeights<Scalar>& layer = model.body.layers[static_cast<std::size_t>(index)];
    const AttentionWeights<Scalar>& w = layer.attention;
    const std::string prefix = text("transformer.h.", index, ".");
    Matrix<Scalar> fused(width, 3 * width);
    fused << w.wq, w.wk, w.wv;
    RowVector<Scalar> fused_bias = RowVector<Scalar>::Zero(3 * width);
    Index at = 0;
    for (const RowVector<Scalar>* bias : {&w.bq, &w.bk, &w.bv}) {
      if (bias->size() > 0) fused_bias.segment(at, width) = *bias;
      at += width;
    }
    conv(prefix + "attn.c_attn", fused, fused_bias);
    conv(prefix + "attn.c_proj", w.wo, w.bo);
    conv(prefix + "mlp.c_fc", layer.mlp.w_in, layer.mlp.b_in);
    conv(prefix + "mlp.c_proj", layer.mlp.w_out, layer.mlp.b_out);
    norm(prefix + "ln_1", layer.attention_norm);
    norm(prefix + "ln_2", layer.mlp_norm);
  }
  norm("transformer.ln_f", model.body.final_norm);
  if (model.output.size() > 0) out.matrix("lm_head.weight", model.output);
  out.write(folder, config);
}

}  // namespace detail

/// Writes a model as a folder that read_model() and transformers read: config.json and model.safetensors, in the
/// model's scalar or rounded to another dtype. With rotary positions it becomes a Llama, or a Mistral where it has
/// sliding windows; with learned positions a GPT-2.
///
///   Math     columns of heads whose neighbours rotate together are brought into the order of halves, which changes no
///            score but for the order of its sum; biases that some layers lack become zeros
///   Laws     read_model(write_model(model)) gives the logits of the model, its weights rounded to `dtype`, up to the
///            rounding of sums
///   Corner   `positions` is what config.json says of the longest input; nothing here is bound by it
///   Throws   SpecError, ShapeError or InputError before a file is touched, where no family can hold the model, where
///            `dtype` is none of real numbers, or where a weight exceeds float16; FileError where a file cannot be
///            written, which may leave the weights without their config.json
template <RealScalar Scalar>
void write_model(const std::filesystem::path& folder, const LanguageModel<Scalar>& model, Index positions = 2048,
                 Dtype dtype = dtype_of<Scalar>()) {
  static_cast<void>(detail::torch_name(dtype));
  detail::require_common_parts(model);
  if (model.body.spec.attention.rope)
    detail::write_gated(folder, model, positions, dtype);
  else
    detail::write_gpt2(folder, model, dtype);
}

}  // namespace twoheads
