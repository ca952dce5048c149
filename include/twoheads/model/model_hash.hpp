#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <twoheads/base/byte_hash.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/model/weights.hpp>
#include <vector>

// Hashes by which a file knows what it was written for; digest() of base/digest.hpp is for reports.

namespace twoheads::detail {

template <RealScalar Scalar>
void add_rows(ByteHash& hash, const MatrixView<Scalar>& rows) {
  hash.add(static_cast<std::uint64_t>(rows.rows()));
  hash.add(static_cast<std::uint64_t>(rows.cols()));
  for (Index row = 0; row < rows.rows(); ++row)
    hash.add(std::as_bytes(std::span(rows.data() + row * rows.outerStride(), static_cast<std::size_t>(rows.cols()))));
}

[[nodiscard]] inline std::uint64_t digest_of(const AttentionSpec& spec) {
  ByteHash hash;
  const Mask& mask = spec.mask;
  for (const Index number : {spec.heads, spec.kv_heads, spec.head_dim, spec.value_dim, static_cast<Index>(mask.kind),
                             mask.window, mask.sinks, mask.left, mask.right, Index{mask.causal_documents},
                             static_cast<Index>(spec.head_input), Index{spec.output_projection}})
    hash.add(static_cast<std::uint64_t>(number));
  for (const double number : {spec.score_scale, spec.soft_cap}) hash.add(std::bit_cast<std::uint64_t>(number));
  hash.add(std::as_bytes(std::span(mask.ends)));
  for (const std::vector<Rows>& ranges : mask.shown) {
    hash.add(static_cast<std::uint64_t>(ranges.size()));
    hash.add(std::as_bytes(std::span(ranges)));
  }
  hash.add(std::as_bytes(std::span(spec.alibi)));
  return hash.value();
}

inline void add_numbers(ByteHash& hash, const RopeSpec& rope) {
  std::vector<double> numbers{rope.theta, static_cast<double>(rope.pairing), rope.linear_factor, rope.ntk_factor,
                              static_cast<double>(rope.rotated_dim)};
  if (const std::optional<RopeStretch>& s = rope.stretch)
    numbers.insert(numbers.end(), {s->factor, s->low_factor, s->high_factor, s->positions});
  hash.add(std::as_bytes(std::span(numbers)));
}

/// Of what is computed, and of the bytes of all weights; functions of rows cannot be told apart.
template <RealScalar Scalar>
[[nodiscard]] std::uint64_t digest_of(const Model<Scalar>& model) {
  const ModelSpec& spec = model.spec;
  ByteHash hash(sizeof(Scalar));
  for (Index layer = 0; layer < spec.layers; ++layer) hash.add(digest_of(spec.attention_of(layer)));
  if (spec.attention.rope) add_numbers(hash, *spec.attention.rope);
  for (const Index number :
       {spec.layers, spec.width, spec.hidden, static_cast<Index>(spec.norm), static_cast<Index>(spec.norm_place),
        static_cast<Index>(spec.mlp), Index{spec.residual}, Index{spec.final_norm}, Index{spec.attention.head_norm}})
    hash.add(static_cast<std::uint64_t>(number));
  for (const double number : {spec.norm_epsilon, spec.attention.head_norm_epsilon})
    hash.add(std::bit_cast<std::uint64_t>(number));
  for_each_array(model, [&](const std::string&, const auto& values) { add_rows(hash, view(values)); });
  return hash.value();
}

/// The same with what makes rows of tokens, and logits of rows.
template <RealScalar Scalar>
[[nodiscard]] std::uint64_t digest_of(const LanguageModel<Scalar>& model) {
  ByteHash hash(digest_of(model.body));
  hash.add(static_cast<std::uint64_t>(model.first_position));
  for (const double number : {model.embedding_scale, model.logit_cap}) hash.add(std::bit_cast<std::uint64_t>(number));
  const auto add = [&](const auto& values) { add_rows(hash, view(values)); };
  add(model.embedding);
  add(model.output);
  add(model.positions);
  add(model.token_types);
  add(model.embedding_norm.gain);
  add(model.embedding_norm.shift);
  add(model.output_bias);
  return hash.value();
}

}  // namespace twoheads::detail
