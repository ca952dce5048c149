#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/model/input_file.hpp>
#include <twoheads/model/spec.hpp>

namespace twoheads {

/// The seven numbers at the head of a llama2.c model file, under the names that llama2.c gives them.
///
///   Corner   the file negates vocab_size where the output rows are not tied to the embedding; here it is positive.
///            seq_len is the number of positions in the file's RoPE tables. It limits nothing: the tables are skipped,
///            and angles are computed for any position.
struct Llama2cHeader {
  Index dim = 0;         ///< width
  Index hidden_dim = 0;  ///< of MLPs
  Index n_layers = 0;    ///< layers
  Index n_heads = 0;     ///< query heads
  Index n_kv_heads = 0;  ///< key/value heads
  Index vocab_size = 0;
  Index seq_len = 0;
  bool tied_output = true;  ///< the output is the embedding

  [[nodiscard]] Index head_size() const { return dim / n_heads; }  ///< columns of a head
  friend bool operator==(const Llama2cHeader&, const Llama2cHeader&) = default;
};

namespace detail {

constexpr std::uint64_t llama2c_header_bytes = 7 * sizeof(std::int32_t);

[[nodiscard]] inline std::string describe(const Llama2cHeader& h) {
  return text("dim ", h.dim, ", hidden_dim ", h.hidden_dim, ", n_layers ", h.n_layers, ", n_heads ", h.n_heads,
              ", n_kv_heads ", h.n_kv_heads, ", vocab_size ", h.vocab_size, ", seq_len ", h.seq_len,
              h.tied_output ? ", tied output" : ", output not tied");
}

/// Bytes of the whole file that belongs to a header; detail::too_many where that is no number of 64 bits.
[[nodiscard]] inline std::uint64_t llama2c_file_bytes(const Llama2cHeader& h) {
  const auto product = [](auto... factors) {
    std::uint64_t result = 1;
    ((result = saturating_product(result, static_cast<std::uint64_t>(factors))), ...);
    return result;
  };
  const Index kv_dim = h.n_kv_heads * h.head_size();
  const Index outputs = h.tied_output ? 1 : 2;
  std::uint64_t floats = 0;
  for (const std::uint64_t part : {product(outputs, h.vocab_size, h.dim), product(2 * h.n_layers + 1, h.dim),
                                   product(2, h.n_layers, h.dim, h.dim), product(2, h.n_layers, kv_dim, h.dim),
                                   product(3, h.n_layers, h.hidden_dim, h.dim), product(h.seq_len, h.head_size())})
    floats = saturating_sum(floats, part);
  return saturating_sum(llama2c_header_bytes, saturating_product(floats, sizeof(float)));
}

/// Reads the header and holds it against the file's length, before anything is allocated.
[[nodiscard]] inline Llama2cHeader read_llama2c_header(ByteReader& file) {
  if (file.size() < llama2c_header_bytes)
    throw FormatError(
        text(file.name(), ": ", file.size(), " bytes, expected at least the header's ", llama2c_header_bytes));
  std::array<std::int32_t, 7> field{};
  file.read(field.data(), field.size());
  if (field[0] == 0x616b3432)  // "ak42"
    throw FormatError(text(file.name(), ": a llama2.c file of version ", field[1], ", expected version 0"));
  const auto positive = [&](const char* what, std::int32_t value) -> Index {
    if (value < 1) throw FormatError(text(file.name(), ": ", what, " is ", value, ", expected 1 or more"));
    return value;
  };
  Llama2cHeader h;
  h.dim = positive("dim", field[0]);
  h.hidden_dim = positive("hidden_dim", field[1]);
  h.n_layers = positive("n_layers", field[2]);
  h.n_heads = positive("n_heads", field[3]);
  h.n_kv_heads = positive("n_kv_heads", field[4]);
  if (field[5] == 0) throw FormatError(text(file.name(), ": vocab_size is 0, expected another number"));
  h.tied_output = field[5] > 0;
  h.vocab_size = h.tied_output ? Index{field[5]} : -Index{field[5]};
  h.seq_len = positive("seq_len", field[6]);
  if (h.dim % h.n_heads != 0)
    throw FormatError(text(file.name(), ": n_heads is ", h.n_heads, ", expected a divisor of dim ", h.dim));
  if (h.n_heads % h.n_kv_heads != 0)
    throw FormatError(
        text(file.name(), ": n_kv_heads is ", h.n_kv_heads, ", expected a divisor of n_heads ", h.n_heads));
  if (h.head_size() % 2 != 0)
    throw FormatError(text(file.name(), ": dim / n_heads is ", h.head_size(),
                           ", expected an even number: its numbers rotate in pairs"));
  const std::uint64_t expected = llama2c_file_bytes(h);
  if (expected != file.size())
    throw FormatError(text(file.name(), ": ", file.size(), " bytes, expected ", expected == too_many ? "at least " : "",
                           expected, " for its header: ", describe(h)));
  return h;
}

/// The spec that a header stands for; the rest of it is fixed by the format.
[[nodiscard]] inline ModelSpec llama2c_spec(const Llama2cHeader& h) {
  ModelSpec spec;
  spec.layers = h.n_layers;
  spec.width = h.dim;
  spec.attention.heads = h.n_heads;
  spec.attention.kv_heads = h.n_kv_heads;
  spec.attention.head_dim = spec.attention.value_dim = h.head_size();
  spec.attention.score_scale = 1.0 / std::sqrt(static_cast<double>(h.head_size()));
  spec.attention.mask = Mask{MaskKind::causal};
  spec.attention.rope = RopeSpec{10000.0, RopePairing::interleaved};
  spec.norm = NormKind::rms;
  spec.norm_epsilon = 1e-5;
  spec.mlp = MlpKind::swiglu;
  spec.hidden = h.hidden_dim;
  spec.final_norm = true;
  return spec;
}

/// Visits the arrays of a model in the file's order: the one place that knows it.
///
///   visit(name, values, rows, cols, transposed)   rows and cols as the file has them, (out, in); a transposed array is
///                                                 (in, out) in the model, because x is multiplied from the left
///   tables()                                      where the two RoPE tables lie
template <class AnyModel, class Visit, class Tables>
void for_each_llama2c_tensor(AnyModel& model, const Llama2cHeader& h, const Visit& visit, const Tables& tables) {
  const auto every_layer = [&](const char* name, Index rows, Index cols, bool transposed, const auto& part) {
    for (std::size_t layer = 0; layer < model.body.layers.size(); ++layer)
      visit(text("layer ", layer, ": ", name), *part(model.body.layers[layer]), rows, cols, transposed);
  };
  const Index kv_dim = h.n_kv_heads * h.head_size();
  visit(std::string("token_embedding"), model.embedding, h.vocab_size, h.dim, false);
  every_layer("rms_att", 1, h.dim, false, [](auto& l) { return &l.attention_norm.gain; });
  every_layer("wq", h.dim, h.dim, true, [](auto& l) { return &l.attention.wq; });
  every_layer("wk", kv_dim, h.dim, true, [](auto& l) { return &l.attention.wk; });
  every_layer("wv", kv_dim, h.dim, true, [](auto& l) { return &l.attention.wv; });
  every_layer("wo", h.dim, h.dim, true, [](auto& l) { return &l.attention.wo; });
  every_layer("rms_ffn", 1, h.dim, false, [](auto& l) { return &l.mlp_norm.gain; });
  every_layer("w1", h.hidden_dim, h.dim, true, [](auto& l) { return &l.mlp.w_gate; });
  every_layer("w2", h.dim, h.hidden_dim, true, [](auto& l) { return &l.mlp.w_out; });
  every_layer("w3", h.hidden_dim, h.dim, true, [](auto& l) { return &l.mlp.w_in; });
  visit(std::string("rms_final"), model.body.final_norm.gain, 1, h.dim, false);
  tables();
  if (!h.tied_output) visit(std::string("wcls"), model.output, h.vocab_size, h.dim, false);
}

/// Rows of `cols` floats that are read or written at a time: about 256 KiB, at least one row.
[[nodiscard]] constexpr Index llama2c_block_rows(Index rows, Index cols) {
  return std::clamp<Index>(65536 / cols, 1, rows);
}

}  // namespace detail
}  // namespace twoheads
