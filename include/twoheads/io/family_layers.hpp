#pragma once

#include <string>
#include <twoheads/base/checked.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/io/folder_weights.hpp>
#include <twoheads/io/model_config.hpp>
#include <twoheads/model/weights.hpp>

namespace twoheads::detail {

/// Where a layer's linear projections stand: query, key, value, output, and the MLP's.
struct LinearNames {
  const char* query;
  const char* key;
  const char* value;
  const char* output;
  const char* in;
  const char* gate;  ///< or nothing
  const char* out;
};

/// Reads the projections of a layer whose query, key and value weights stand apart.
template <RealScalar Scalar>
void read_linears(FolderWeights& file, const ModelConfig& config, const std::string& prefix, const LinearNames& names,
                  LayerWeights<Scalar>& layer) {
  const AttentionSpec& a = config.spec.attention;
  const Index width = config.spec.width;
  const Index hidden = config.spec.hidden;
  const Index queries = a.heads * a.head_dim;
  const Index keys = a.kv_heads * a.head_dim;
  const auto linear = [&](const char* name, Index in, Index out, bool biased, Matrix<Scalar>& weight,
                          RowVector<Scalar>& bias) {
    weight = file.linear<Scalar>(prefix + name, in, out);
    bias = file.bias<Scalar>(prefix + name, out, biased);
  };
  AttentionWeights<Scalar>& attention = layer.attention;
  linear(names.query, width, queries, config.qkv_bias, attention.wq, attention.bq);
  linear(names.key, width, keys, config.qkv_bias, attention.wk, attention.bk);
  linear(names.value, width, keys, config.qkv_bias, attention.wv, attention.bv);
  linear(names.output, queries, width, config.output_bias, attention.wo, attention.bo);
  MlpWeights<Scalar>& mlp = layer.mlp;
  linear(names.in, width, hidden, config.mlp_bias, mlp.w_in, mlp.b_in);
  if (names.gate != nullptr) linear(names.gate, width, hidden, config.mlp_bias, mlp.w_gate, mlp.b_gate);
  linear(names.out, hidden, width, config.mlp_bias, mlp.w_out, mlp.b_out);
}

template <RealScalar Scalar>
[[nodiscard]] LayerWeights<Scalar> read_gated_layer(FolderWeights& file, const ModelConfig& config, Index index) {
  const std::string prefix = text("layers.", index, ".");
  const ModelSpec& spec = config.spec;
  const auto norm = [&](const char* name) {
    return file.rms_norm<Scalar>(prefix + name, spec.width, config.gain_offset);
  };
  LayerWeights<Scalar> layer;
  read_linears(file, config, prefix,
               {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj",
                "mlp.gate_proj", "mlp.down_proj"},
               layer);
  if (spec.attention.head_norm) {
    layer.attention.q_norm = file.row<Scalar>(prefix + "self_attn.q_norm.weight", spec.attention.head_dim);
    layer.attention.k_norm = file.row<Scalar>(prefix + "self_attn.k_norm.weight", spec.attention.head_dim);
  }
  layer.attention_norm = norm("input_layernorm");
  if (spec.norm_place == NormPlace::both) {
    layer.attention_end_norm = norm("post_attention_layernorm");
    layer.mlp_norm = norm("pre_feedforward_layernorm");
    layer.mlp_end_norm = norm("post_feedforward_layernorm");
  } else {
    layer.mlp_norm = norm("post_attention_layernorm");
  }
  return layer;
}

/// GPT-2: weights stand as (in, out), queries, keys and values side by side.
template <RealScalar Scalar>
[[nodiscard]] LayerWeights<Scalar> read_gpt2_layer(FolderWeights& file, const ModelConfig& config, Index index) {
  const std::string prefix = text("h.", index, ".");
  const Index width = config.spec.width;
  const Index hidden = config.spec.hidden;
  LayerWeights<Scalar> layer;
  layer.attention_norm = file.layer_norm<Scalar>(prefix + "ln_1", width);
  layer.mlp_norm = file.layer_norm<Scalar>(prefix + "ln_2", width);
  const auto weight = [&](const char* name, Index in, Index out) {
    return file.matrix<Scalar>(prefix + name + ".weight", in, out);
  };
  const auto bias = [&](const char* name, Index out) { return file.row<Scalar>(prefix + name + ".bias", out); };
  AttentionWeights<Scalar>& attention = layer.attention;
  const Matrix<Scalar> fused = weight("attn.c_attn", width, 3 * width);
  const RowVector<Scalar> fused_bias = bias("attn.c_attn", 3 * width);
  attention.wq = fused.leftCols(width);
  attention.wk = fused.middleCols(width, width);
  attention.wv = fused.rightCols(width);
  attention.bq = fused_bias.head(width);
  attention.bk = fused_bias.segment(width, width);
  attention.bv = fused_bias.tail(width);
  attention.wo = weight("attn.c_proj", width, width);
  attention.bo = bias("attn.c_proj", width);
  layer.mlp.w_in = weight("mlp.c_fc", width, hidden);
  layer.mlp.b_in = bias("mlp.c_fc", hidden);
  layer.mlp.w_out = weight("mlp.c_proj", hidden, width);
  layer.mlp.b_out = bias("mlp.c_proj", width);
  return layer;
}

/// Bloom: a head's query, key and value rows follow each other, then those of the next head.
template <RealScalar Scalar>
[[nodiscard]] LayerWeights<Scalar> read_bloom_layer(FolderWeights& file, const ModelConfig& config, Index index) {
  const std::string prefix = text("h.", index, ".");
  const AttentionSpec& a = config.spec.attention;
  const Index width = config.spec.width;
  const Index hidden = config.spec.hidden;
  LayerWeights<Scalar> layer;
  layer.attention_norm = file.layer_norm<Scalar>(prefix + "input_layernorm", width);
  layer.mlp_norm = file.layer_norm<Scalar>(prefix + "post_attention_layernorm", width);
  const std::string fused_name = prefix + "self_attention.query_key_value";
  const Matrix<Scalar> fused = file.matrix<Scalar>(fused_name + ".weight", 3 * width, width);
  const RowVector<Scalar> fused_bias = file.row<Scalar>(fused_name + ".bias", 3 * width);
  AttentionWeights<Scalar>& attention = layer.attention;
  const auto part = [&](Index number, Matrix<Scalar>& weight, RowVector<Scalar>& bias) {
    weight.resize(width, width);
    bias.resize(width);
    for (Index head = 0; head < a.heads; ++head) {
      const Index from = (3 * head + number) * a.head_dim;
      weight.middleCols(head * a.head_dim, a.head_dim) = fused.middleRows(from, a.head_dim).transpose();
      bias.segment(head * a.head_dim, a.head_dim) = fused_bias.segment(from, a.head_dim);
    }
  };
  part(0, attention.wq, attention.bq);
  part(1, attention.wk, attention.bk);
  part(2, attention.wv, attention.bv);
  const auto linear = [&](const char* name, Index in, Index out, Matrix<Scalar>& weight, RowVector<Scalar>& bias) {
    weight = file.linear<Scalar>(prefix + name, in, out);
    bias = file.bias<Scalar>(prefix + name, out, true);
  };
  linear("self_attention.dense", width, width, attention.wo, attention.bo);
  linear("mlp.dense_h_to_4h", width, hidden, layer.mlp.w_in, layer.mlp.b_in);
  linear("mlp.dense_4h_to_h", hidden, width, layer.mlp.w_out, layer.mlp.b_out);
  return layer;
}

template <RealScalar Scalar>
[[nodiscard]] LayerWeights<Scalar> read_bert_layer(FolderWeights& file, const ModelConfig& config, Index index) {
  const std::string prefix = text("encoder.layer.", index, ".");
  LayerWeights<Scalar> layer;
  read_linears(file, config, prefix,
               {"attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
                "intermediate.dense", nullptr, "output.dense"},
               layer);
  layer.attention_norm = file.layer_norm<Scalar>(prefix + "attention.output.LayerNorm", config.spec.width);
  layer.mlp_norm = file.layer_norm<Scalar>(prefix + "output.LayerNorm", config.spec.width);
  return layer;
}

template <RealScalar Scalar>
[[nodiscard]] LayerWeights<Scalar> read_distilbert_layer(FolderWeights& file, const ModelConfig& config, Index index) {
  const std::string prefix = text("transformer.layer.", index, ".");
  LayerWeights<Scalar> layer;
  read_linears(
      file, config, prefix,
      {"attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "ffn.lin1", nullptr, "ffn.lin2"},
      layer);
  layer.attention_norm = file.layer_norm<Scalar>(prefix + "sa_layer_norm", config.spec.width);
  layer.mlp_norm = file.layer_norm<Scalar>(prefix + "output_layer_norm", config.spec.width);
  return layer;
}

}  // namespace twoheads::detail
