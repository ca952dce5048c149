#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <istream>
#include <limits>
#include <ostream>
#include <string>
#include <string_view>
#include <twoheads/base/matrix.hpp>
#include <twoheads/base/write_file.hpp>
#include <twoheads/model/input_file.hpp>
#include <twoheads/model/llama2c_layout.hpp>
#include <twoheads/model/weights.hpp>
#include <utility>

namespace twoheads {
namespace detail {

/// The header that a model needs, if the format can hold the model at all.
template <RealScalar Scalar>
[[nodiscard]] Llama2cHeader llama2c_header_of(const LanguageModel<Scalar>& model, Index positions) {
  const ModelSpec& spec = model.body.spec;
  const AttentionSpec& a = spec.attention;
  const auto require = [](bool met, std::string_view expected) {
    if (!met) throw SpecError(text("a llama2.c file cannot hold this model: expected ", expected));
  };
  // To float32's precision, in which llama2.c computes.
  const auto equals = [](double value, double fixed) { return std::abs(value - fixed) <= 1e-6 * fixed; };
  require_valid(model.body);
  require(spec.norm == NormKind::rms && equals(spec.norm_epsilon, 1e-5), "RMS norms with epsilon 1e-5");
  require(spec.final_norm && spec.residual && !model.body.input_mlp, "a final norm, residual sums and no input MLP");
  require(spec.mlp == MlpKind::swiglu, "a SwiGLU MLP");
  require(a.mask == Mask{MaskKind::causal}, "a causal mask");
  require(a.rope && a.rope->pairing == RopePairing::interleaved && equals(a.rope->theta, 10000.0),
          "interleaved RoPE with theta 10000");
  require(a.output_projection && a.head_input == HeadInput::whole,
          "an output projection and heads that see whole rows");
  require(a.head_dim == a.value_dim && a.heads * a.head_dim == spec.width, "head_dim = value_dim = width / heads");
  require(equals(a.score_scale, 1.0 / std::sqrt(static_cast<double>(a.head_dim))), "score_scale 1 / sqrt(head_dim)");
  for (const LayerWeights<Scalar>& layer : model.body.layers)
    require(layer.mlp.b_in.size() == 0 && layer.mlp.b_out.size() == 0, "an MLP without biases");
  const Llama2cHeader h{spec.width, spec.hidden,        spec.layers, a.heads,
                        a.kv_heads, model.vocabulary(), positions,   model.output.size() == 0};
  for (const Index value : {h.dim, h.hidden_dim, h.n_layers, h.n_heads, h.n_kv_heads, h.vocab_size, h.seq_len})
    require(value >= 1 && value <= std::numeric_limits<std::int32_t>::max(),
            "sizes from 1 to 2147483647: " + describe(h));
  require_shape("the embedding", model.embedding, h.vocab_size, h.dim);
  if (!h.tied_output) require_shape("the output", model.output, h.vocab_size, h.dim);
  for_each_llama2c_tensor(
      model, h,
      [](const std::string& name, const auto& values, Index, Index, bool) {
        const Index row = first_row_not_finite(values.template cast<float>().eval());
        if (row >= 0) throw InputError(text(name, ", row ", row, ": a weight is NaN, infinite or beyond float32"));
      },
      [] {});
  return h;
}

/// Writes a model that the format can hold, as llama2c_header_of has found.
template <RealScalar Scalar>
void write_llama2c(std::ostream& out, const LanguageModel<Scalar>& model, const Llama2cHeader& h) {
  const auto write = [&](const auto* values, Index count) {
    out.write(reinterpret_cast<const char*>(values), static_cast<std::streamsize>(sizeof(*values)) * count);
    if (!out) throw FileError("writing a llama2.c model failed: the stream takes no more bytes");
  };
  std::array<std::int32_t, 7> field{};
  std::size_t next = 0;
  for (const Index value : {h.dim, h.hidden_dim, h.n_layers, h.n_heads, h.n_kv_heads,
                            h.tied_output ? h.vocab_size : -h.vocab_size, h.seq_len})
    field[next++] = static_cast<std::int32_t>(value);
  write(field.data(), 7);
  Matrix<float> block;
  const auto tensor = [&](const std::string&, const auto& values, Index rows, Index cols, bool transposed) {
    const Index step = llama2c_block_rows(rows, cols);
    for (Index first = 0; first < rows; first += step) {
      const Index count = std::min(step, rows - first);
      if (transposed)
        block = values.middleCols(first, count).transpose().template cast<float>();
      else
        block = values.middleRows(first, count).template cast<float>();
      write(block.data(), block.size());
    }
  };
  const auto tables = [&] {
    const Index pairs = h.head_size() / 2;
    block.resize(1, pairs);
    for (const bool imaginary : {false, true}) {
      for (Index position = 0; position < h.seq_len; ++position) {
        for (Index pair = 0; pair < pairs; ++pair) {
          const double angle = static_cast<double>(position) *
                               std::pow(10000.0, -2.0 * static_cast<double>(pair) / static_cast<double>(h.head_size()));
          block(0, pair) = static_cast<float>(imaginary ? std::sin(angle) : std::cos(angle));
        }
        write(block.data(), pairs);
      }
    }
  };
  for_each_llama2c_tensor(model, h, tensor, tables);
}

}  // namespace detail

/// Reads a llama2.c model from a stream of `size` bytes; see the overload for files. `name` stands in error messages.
template <RealScalar Scalar>
[[nodiscard]] LanguageModel<Scalar> read_llama2c(std::istream& in, std::uint64_t size,
                                                 std::string name = "llama2.c stream") {
  detail::ByteReader file(in, size, std::move(name));
  const Llama2cHeader header = detail::read_llama2c_header(file);
  LanguageModel<Scalar> model;
  model.body.spec = detail::llama2c_spec(header);
  model.body.layers.resize(static_cast<std::size_t>(header.n_layers));
  Matrix<float> block;
  detail::for_each_llama2c_tensor(
      model, header,
      [&](const std::string& tensor, auto& values, Index rows, Index cols, bool transposed) {
        values.resize(transposed ? cols : rows, transposed ? rows : cols);
        const Index step = detail::llama2c_block_rows(rows, cols);
        for (Index first = 0; first < rows; first += step) {
          block.resize(std::min(step, rows - first), cols);
          file.read(block.data(), static_cast<std::uint64_t>(block.size()));
          const Index row = detail::first_row_not_finite(block);
          if (row >= 0)
            throw InputError(
                detail::text(file.name(), ": ", tensor, ", row ", first + row, ": a weight is NaN or infinite"));
          if (transposed)
            values.middleCols(first, block.rows()) = block.transpose().template cast<Scalar>();
          else
            values.middleRows(first, block.rows()) = block.template cast<Scalar>();
        }
      },
      [&] { file.skip(sizeof(float) * static_cast<std::uint64_t>(header.seq_len * header.head_size())); });
  return model;
}

/// Reads a llama2.c model file (version 0: float32, little endian), one tensor after another.
///
///   Shapes   the file keeps weights as (out, in), y = W x; the model keeps them as (in, out), y = x W
///   Math     RMS norm with epsilon 1e-5; interleaved RoPE with theta 10000; causal; score_scale = 1 / sqrt(head_dim);
///            MLP w2 (silu(w1 x) * w3 x), so w_gate = w1^T, w_in = w3^T, w_out = w2^T
///   Corner   the RoPE tables of the file are skipped: angles are computed
///   Throws   FileError where it cannot be read; FormatError that names the file, what it holds and what was expected,
///            before any allocation; InputError that names the file, tensor, layer and the file's row of a weight that
///            is NaN or infinite
///   Source   karpathy/llama2.c, run.c (memory_map_weights) and export.py (legacy_export)
template <RealScalar Scalar>
[[nodiscard]] LanguageModel<Scalar> read_llama2c(const std::filesystem::path& path) {
  detail::InputFile file = detail::open_input(path);
  return read_llama2c<Scalar>(file.stream, file.size, path.string());
}

/// Reads the header of a llama2.c model file alone and holds it against the file's length.
/// Throws FileError, FormatError.
[[nodiscard]] inline Llama2cHeader read_llama2c_header(const std::filesystem::path& path) {
  detail::InputFile file = detail::open_input(path);
  detail::ByteReader reader(file.stream, file.size, path.string());
  return detail::read_llama2c_header(reader);
}

/// Writes a model as llama2.c reads it; see the overload for files.
template <RealScalar Scalar>
void write_llama2c(std::ostream& out, const LanguageModel<Scalar>& model, Index positions) {
  detail::write_llama2c(out, model, detail::llama2c_header_of(model, positions));
}

/// Writes a model as a llama2.c file (version 0) with RoPE tables for `positions` positions; llama2.c runs no further.
///
///   Laws     read_llama2c(write_llama2c(model)) has the same weights, each rounded to float32 once
///   Throws   SpecError, ShapeError or InputError before the file is touched, where the format cannot hold the model;
///            FileError where the file cannot be written, which leaves the old one as it was
template <RealScalar Scalar>
void write_llama2c(const std::filesystem::path& path, const LanguageModel<Scalar>& model, Index positions) {
  const Llama2cHeader header = detail::llama2c_header_of(model, positions);
  detail::write_file(path, [&](std::ostream& out) { detail::write_llama2c(out, model, header); });
}

}  // namespace twoheads
