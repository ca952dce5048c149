#pragma once

#include <cmath>
#include <optional>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/model/mask.hpp>

namespace twoheads {

enum class NormKind { none, rms, layer };
enum class MlpKind { none, relu, gelu, gelu_tanh, swiglu, custom };

/// What of a token row a head's weights see: all columns, as usual, or the head's own slice, as in the paper.
enum class HeadInput { whole, slice };

/// Which two numbers of a head rotate together: neighbours (2i, 2i + 1), or halves (i, i + head_dim / 2).
enum class RopePairing { interleaved, halves };

/// Rotary positions: pair i of a row at position t turns by the angle t * theta^(-2 i / head_dim).
struct RopeSpec {
  double theta = 10000.0;
  RopePairing pairing = RopePairing::interleaved;
  friend bool operator==(const RopeSpec&, const RopeSpec&) = default;
};

/// Masked multi-head attention. Query head h reads key/value head h / (heads / kv_heads).
///
///   Shapes   q (N, heads * head_dim), k (NK, kv_heads * head_dim), v (NK, kv_heads * value_dim),
///            output (N, heads * value_dim)
struct AttentionSpec {
  Index heads = 1;
  Index kv_heads = 1;
  Index head_dim = 1;
  Index value_dim = 1;
  double score_scale = 1.0;
  double soft_cap = 0.0;  ///< scores s become soft_cap tanh(s / soft_cap); 0: they stay
  Mask mask;
  std::optional<RopeSpec> rope;
  HeadInput head_input = HeadInput::whole;
  bool output_projection = true;

  [[nodiscard]] Index kv_head_of(Index head) const { return head / (heads / kv_heads); }
};

/// The large transformer's shape: what is computed, without the weights.
///
///   Math     x <- phi(x);  each layer:  y = x + attend(norm(x)),  x <- y + mlp(norm(y));  x <- norm(x)
///            where phi, norms, residual sums, output projection and MLP are there only if the spec has them.
///   Source   the usual pre-norm transformer; Definition 2.2 of the paper is paper_layer() below
struct ModelSpec {
  Index layers = 1;
  Index width = 1;
  AttentionSpec attention;
  NormKind norm = NormKind::none;
  double norm_epsilon = 1e-5;
  bool residual = true;
  MlpKind mlp = MlpKind::none;
  Index hidden = 0;
  bool final_norm = false;

  /// Columns of a token row that one head's weights see.
  [[nodiscard]] Index head_input_width() const {
    return attention.head_input == HeadInput::slice ? width / attention.heads : width;
  }

  /// Throws SpecError that names the first field that contradicts another.
  void require_valid() const {
    const auto positive = [](const char* what, Index value) {
      if (value < 1) throw SpecError(detail::text(what, " is ", value, ", expected 1 or more"));
    };
    positive("layers", layers);
    positive("width", width);
    positive("heads", attention.heads);
    positive("kv_heads", attention.kv_heads);
    positive("head_dim", attention.head_dim);
    positive("value_dim", attention.value_dim);
    const AttentionSpec& a = attention;
    if (a.heads % a.kv_heads != 0)
      throw SpecError(detail::text("heads is ", a.heads, ", expected a multiple of kv_heads ", a.kv_heads));
    if (!std::isfinite(a.score_scale) || a.score_scale == 0)
      throw SpecError(detail::text("score_scale is ", a.score_scale, ", expected a finite number other than 0"));
    if (!(a.soft_cap >= 0) || !std::isfinite(a.soft_cap))
      throw SpecError(detail::text("soft_cap is ", a.soft_cap, ", expected 0 (none) or a finite number above 0"));
    if (a.head_input == HeadInput::slice && (width % a.heads != 0 || a.kv_heads != a.heads))
      throw SpecError(detail::text("heads that see their own slice need heads (", a.heads, ") to divide the width (",
                                   width, ") and kv_heads (", a.kv_heads, ") equal to heads"));
    if (!a.output_projection && a.heads * a.value_dim != width)
      throw SpecError(detail::text("without an output projection heads * value_dim is ", a.heads * a.value_dim,
                                   ", expected the width ", width));
    if (a.rope && a.head_dim % 2 != 0)
      throw SpecError(detail::text("head_dim is ", a.head_dim, ", expected an even number for rotary positions"));
    if (a.rope && !(a.rope->theta > 0 && std::isfinite(a.rope->theta)))
      throw SpecError(detail::text("rope theta is ", a.rope->theta, ", expected > 0"));
    if (norm != NormKind::none && !(norm_epsilon >= 0 && std::isfinite(norm_epsilon)))
      throw SpecError(detail::text("norm_epsilon is ", norm_epsilon, ", expected 0 or more"));
    if (final_norm && norm == NormKind::none) throw SpecError("final_norm is set, but norm is none");
    const bool needs_hidden = mlp != MlpKind::none && mlp != MlpKind::custom;
    if (needs_hidden) positive("hidden", hidden);
  }
};

/// The paper's own layer: every head sees its slice of the row, heads are concatenated, scores are not scaled, there is
/// no residual sum and no norm, and the layer MLP is any function of a row.
///
///   Source   Definition 2.2 (the print applies the layer MLP twice and writes W_V for W_K; meant is once, and W_K)
[[nodiscard]] inline ModelSpec paper_layer(Index layers, Index width, Index heads, Mask mask, MlpKind mlp,
                                           Index hidden) {
  if (heads < 1 || width % heads != 0)
    throw SpecError(detail::text("heads is ", heads, ", expected a divisor of the width ", width));
  ModelSpec spec;
  spec.layers = layers;
  spec.width = width;
  spec.attention.heads = spec.attention.kv_heads = heads;
  spec.attention.head_dim = spec.attention.value_dim = width / heads;
  spec.attention.score_scale = 1.0;
  spec.attention.mask = mask;
  spec.attention.head_input = HeadInput::slice;
  spec.attention.output_projection = false;
  spec.residual = false;
  spec.mlp = mlp;
  spec.hidden = hidden;
  spec.require_valid();
  return spec;
}

}  // namespace twoheads
