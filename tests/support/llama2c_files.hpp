#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <sstream>
#include <string>
#include <twoheads/model/llama2c.hpp>

#include "support/append.hpp"

/// Small model files of llama2.c, and random models to write as such.
namespace llama2c_files {

using namespace twoheads;

using Fields = std::array<std::int32_t, 7>;
inline const std::array<const char*, 7> field_names{"dim",        "hidden_dim", "n_layers", "n_heads",
                                                    "n_kv_heads", "vocab_size", "seq_len"};

/// Small and all different where the format lets them be; the output is not tied.
inline constexpr Fields small{4, 3, 2, 2, 1, -5, 6};
inline constexpr std::size_t small_floats = 5 * 4 + 2 * (4 + 16 + 8 + 8 + 16 + 4 + 12 + 12 + 12) + 4 + 6 * 2 + 5 * 4;

/// A file whose weights are 0, 1, 2, ... in the order of the file.
inline std::string counting_file(const Fields& fields, std::size_t floats) {
  std::string bytes;
  for (const std::int32_t field : fields) append(bytes, field);
  for (std::size_t i = 0; i < floats; ++i) append(bytes, static_cast<float>(i));
  return bytes;
}

template <class Scalar = float>
LanguageModel<Scalar> read(const std::string& bytes) {
  std::istringstream in(bytes);
  return read_llama2c<Scalar>(in, bytes.size(), "made.bin");
}

template <class Scalar>
std::string written(const LanguageModel<Scalar>& model, Index positions) {
  std::ostringstream out;
  write_llama2c(out, model, positions);
  return out.str();
}

inline LanguageModel<float> random_model(std::mt19937_64& random) {
  const auto pick = [&](Index low, Index high) { return std::uniform_int_distribution<Index>(low, high)(random); };
  Llama2cHeader h;
  h.n_kv_heads = pick(1, 3);
  h.n_heads = h.n_kv_heads * pick(1, 3);
  h.dim = h.n_heads * 2 * pick(1, 4);
  h.hidden_dim = pick(1, 20);
  h.n_layers = pick(1, 4);
  h.vocab_size = pick(1, 40);
  h.seq_len = 1;
  h.tied_output = pick(0, 1) == 0;
  LanguageModel<float> model;
  model.body.spec = detail::llama2c_spec(h);
  model.body.layers.resize(static_cast<std::size_t>(h.n_layers));
  // Any finite bits: denormal numbers, both zeros, the largest numbers.
  const auto fill = [&](auto& values, Index rows, Index cols) {
    values.resize(rows, cols);
    for (Index i = 0; i < values.size(); ++i) {
      do {
        values.data()[i] = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
      } while (!std::isfinite(values.data()[i]));
    }
  };
  const Index kv_dim = h.n_kv_heads * h.head_size();
  fill(model.embedding, h.vocab_size, h.dim);
  if (!h.tied_output) fill(model.output, h.vocab_size, h.dim);
  fill(model.body.final_norm.gain, 1, h.dim);
  for (LayerWeights<float>& layer : model.body.layers) {
    fill(layer.attention_norm.gain, 1, h.dim);
    fill(layer.attention.wq, h.dim, h.dim);
    fill(layer.attention.wk, h.dim, kv_dim);
    fill(layer.attention.wv, h.dim, kv_dim);
    fill(layer.attention.wo, h.dim, h.dim);
    fill(layer.mlp_norm.gain, 1, h.dim);
    fill(layer.mlp.w_in, h.dim, h.hidden_dim);
    fill(layer.mlp.w_gate, h.dim, h.hidden_dim);
    fill(layer.mlp.w_out, h.hidden_dim, h.dim);
  }
  return model;
}

}  // namespace llama2c_files
