#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <optional>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/model/mask.hpp>
#include <vector>

namespace twoheads {

/// No norm, RMSNorm, or LayerNorm.
enum class NormKind { none, rms, layer };
/// Where a layer's norms stand: before what they feed, after the residual sum (as in the first transformer and BERT),
/// or before and once more on what is to be added (as in Gemma 2).
enum class NormPlace { before, after, both };
/// swiglu and geglu multiply by a gate of another projection: by its SiLU, or by its GELU in the tanh form.
enum class MlpKind { none, relu, gelu, gelu_tanh, swiglu, geglu, custom };

/// Whether an MLP has w_gate.
[[nodiscard]] constexpr bool has_gate(MlpKind kind) { return kind == MlpKind::swiglu || kind == MlpKind::geglu; }

/// What of a token row a head's weights see: all columns, as usual, or the head's own slice, as in the paper.
enum class HeadInput { whole, slice };

/// Which two numbers of a head rotate together: neighbours (2i, 2i + 1), or halves (i, i + head_dim / 2).
enum class RopePairing { interleaved, halves };

namespace detail {

inline void require_positive(const char* what, Index value) {
  if (value < 1) throw SpecError(text(what, " is ", value, ", expected 1 or more"));
}

}  // namespace detail

/// Llama 3's stretch of slow rotations: a pair whose wavelength is longer than positions / low_factor turns `factor`
/// times slower, one shorter than positions / high_factor as before, between the two by degrees.
struct RopeStretch {
  double factor = 8.0;
  double low_factor = 1.0;
  double high_factor = 4.0;
  double positions = 8192.0;  ///< that the model was first trained on
  friend bool operator==(const RopeStretch&, const RopeStretch&) = default;
};

/// Rotary positions: pair i of a row at position t turns by the angle t f_i.
///
///   Math     f_i = theta'^(-2 i / d) / linear_factor, d = rotated_dim or head_dim,
///            theta' = theta ntk_factor^(d / (d - 2))
struct RopeSpec {
  double theta = 10000.0;
  RopePairing pairing = RopePairing::interleaved;  ///< which columns make a pair
  double linear_factor = 1.0;                      ///< positions are divided by it
  double ntk_factor = 1.0;  ///< NTK-aware scaling: fast pairs turn as before, the slowest so many times slower
  Index rotated_dim = 0;    ///< first columns of a head that rotate; 0: all
  std::optional<RopeStretch> stretch = {};  ///< Llama 3's, where it has one

  /// Throws SpecError unless heads of so many columns can rotate so.
  void require_valid(Index head_dim) const {
    const Index rotated = rotated_dim == 0 ? head_dim : rotated_dim;
    if (rotated < 2 || rotated % 2 != 0 || rotated > head_dim)
      throw SpecError(detail::text(rotated_dim == 0 ? "head_dim is " : "rotated_dim is ", rotated,
                                   ", expected an even number for rotary positions, up to head_dim"));
    const auto above_zero = [](const char* what, double value) {
      if (!(value > 0 && std::isfinite(value))) throw SpecError(detail::text(what, " is ", value, ", expected > 0"));
    };
    above_zero("rope theta", theta);
    above_zero("rope linear_factor", linear_factor);
    above_zero("rope ntk_factor", ntk_factor);
    if (ntk_factor != 1.0 && rotated == 2)
      throw SpecError("rope ntk_factor has no meaning for a single pair: expected 1");
    if (!stretch) return;
    above_zero("rope stretch factor", stretch->factor);
    above_zero("rope stretch low_factor", stretch->low_factor);
    above_zero("rope stretch positions", stretch->positions);
    if (!(stretch->high_factor > stretch->low_factor && std::isfinite(stretch->high_factor)))
      throw SpecError(detail::text("rope stretch high_factor is ", stretch->high_factor,
                                   ", expected more than low_factor ", stretch->low_factor));
  }

  friend bool operator==(const RopeSpec&, const RopeSpec&) = default;
};

/// Masked multi-head attention. Query head h reads key/value head h / (heads / kv_heads).
///
///   Shapes   q (N, heads * head_dim), k (NK, kv_heads * head_dim), v (NK, kv_heads * value_dim),
///            output (N, heads * value_dim)
///   Math     score of query i and key j: score_scale q_i . k_j, capped where soft_cap is set, and then
///            alibi[head] (j - i) added where it is
struct AttentionSpec {
  Index heads = 1;
  Index kv_heads = 1;
  Index head_dim = 1;
  Index value_dim = 1;
  double score_scale = 1.0;
  double soft_cap = 0.0;                    ///< scores s become soft_cap tanh(s / soft_cap); 0: they stay
  Mask mask = {};                           ///< which pairs are visible
  std::optional<RopeSpec> rope = {};        ///< rotary positions, where there are any
  std::vector<double> alibi = {};           ///< a slope a head, or empty: see alibi_slopes()
  bool head_norm = false;                   ///< each head's queries and keys pass an RMS norm before they rotate
  double head_norm_epsilon = 1e-6;          ///< added under the root of head norms
  HeadInput head_input = HeadInput::whole;  ///< the columns that a head's weights see
  bool output_projection = true;            ///< whether heads pass through wo

  /// The key/value head of a query head.
  [[nodiscard]] Index kv_head_of(Index head) const { return head / (heads / kv_heads); }

  /// Throws SpecError that names the first field that contradicts another.
  void require_valid() const {
    detail::require_positive("heads", heads);
    detail::require_positive("kv_heads", kv_heads);
    detail::require_positive("head_dim", head_dim);
    detail::require_positive("value_dim", value_dim);
    if (heads % kv_heads != 0)
      throw SpecError(detail::text("heads is ", heads, ", expected a multiple of kv_heads ", kv_heads));
    if (!std::isfinite(score_scale) || score_scale == 0)
      throw SpecError(detail::text("score_scale is ", score_scale, ", expected a finite number other than 0"));
    if (!(soft_cap >= 0) || !std::isfinite(soft_cap))
      throw SpecError(detail::text("soft_cap is ", soft_cap, ", expected 0 (none) or a finite number above 0"));
    if (rope) rope->require_valid(head_dim);
    if (!alibi.empty() && static_cast<Index>(alibi.size()) != heads)
      throw SpecError(detail::text("there are ", alibi.size(), " ALiBi slopes, expected one for each of ", heads,
                                   " heads, or none"));
    for (const double slope : alibi)
      if (!std::isfinite(slope)) throw SpecError(detail::text("an ALiBi slope is ", slope, ", expected a number"));
    if (head_norm && !(head_norm_epsilon >= 0 && std::isfinite(head_norm_epsilon)))
      throw SpecError(detail::text("head_norm_epsilon is ", head_norm_epsilon, ", expected 0 or more"));
  }
};

/// The large transformer's shape: what is computed, without the weights.
///
///   Math     x <- phi(x);  each layer:  y = x + attend(norm(x)),  x <- y + mlp(norm(y));  x <- norm(x)
///            NormPlace::after:  y = norm(x + attend(x)),  x <- norm(y + mlp(y));
///            NormPlace::both:   y = x + norm'(attend(norm(x))),  x <- y + norm'(mlp(norm(y)));
///            where phi, norms, residual sums, output projection and MLP are there only if the spec has them.
///   Source   the usual pre-norm transformer; Definition 2.2 of the paper is paper_layer() below
struct ModelSpec {
  Index layers = 1;                    ///< of the model, L
  Index width = 1;                     ///< columns of a row
  AttentionSpec attention;             ///< of every layer
  std::vector<Mask> layer_masks = {};  ///< a mask a layer in place of attention.mask; empty: the same in all
  NormKind norm = NormKind::none;
  NormPlace norm_place = NormPlace::before;  ///< where norms stand
  double norm_epsilon = 1e-5;                ///< added under the root
  bool residual = true;
  MlpKind mlp = MlpKind::none;
  Index hidden = 0;         ///< columns inside an MLP
  bool final_norm = false;  ///< whether rows pass a norm after the last layer

  /// The attention of a layer: its mask may be its own.
  [[nodiscard]] AttentionSpec attention_of(Index layer) const {
    AttentionSpec own = attention;
    if (!layer_masks.empty()) own.mask = layer_masks[static_cast<std::size_t>(layer)];
    return own;
  }

  /// Columns of a token row that one head's weights see.
  [[nodiscard]] Index head_input_width() const {
    return attention.head_input == HeadInput::slice ? width / attention.heads : width;
  }

  /// Throws SpecError that names the first field that contradicts another.
  void require_valid() const {
    detail::require_positive("layers", layers);
    detail::require_positive("width", width);
    attention.require_valid();
    const AttentionSpec& a = attention;
    if (a.head_input == HeadInput::slice && (width % a.heads != 0 || a.kv_heads != a.heads))
      throw SpecError(detail::text("heads that see their own slice need heads (", a.heads, ") to divide the width (",
                                   width, ") and kv_heads (", a.kv_heads, ") equal to heads"));
    if (!a.output_projection && a.heads * a.value_dim != width)
      throw SpecError(detail::text("without an output projection heads * value_dim is ", a.heads * a.value_dim,
                                   ", expected the width ", width));
    if (!layer_masks.empty() && static_cast<Index>(layer_masks.size()) != layers)
      throw SpecError(
          detail::text("there are ", layer_masks.size(), " masks of layers, expected ", layers, " or none"));
    if (norm_place != NormPlace::before && norm == NormKind::none)
      throw SpecError("norms are to stand after the sums, but norm is none");
    if (norm_place == NormPlace::after && !residual)
      throw SpecError("norms are to stand after residual sums, but there are none");
    if (norm != NormKind::none && !(norm_epsilon >= 0 && std::isfinite(norm_epsilon)))
      throw SpecError(detail::text("norm_epsilon is ", norm_epsilon, ", expected 0 or more"));
    if (final_norm && norm == NormKind::none) throw SpecError("final_norm is set, but norm is none");
    const bool needs_hidden = mlp != MlpKind::none && mlp != MlpKind::custom;
    if (needs_hidden) detail::require_positive("hidden", hidden);
  }
};

/// The slopes of ALiBi as its authors choose them: 2^(-8 h / H) for head h = 1 .. H where H is a power of two; else
/// those of the power below, and then every second one of the power above.
///
///   Source   Press, Smith, Lewis, "Train Short, Test Long" (ICLR 2022)
[[nodiscard]] inline std::vector<double> alibi_slopes(Index heads) {
  const auto below = static_cast<Index>(std::bit_floor(static_cast<std::uint64_t>(heads)));
  std::vector<double> slopes;
  const auto slope = [](Index number, Index of) {
    return std::exp2(-8.0 * static_cast<double>(number) / static_cast<double>(of));
  };
  for (Index h = 1; h <= below; ++h) slopes.push_back(slope(h, below));
  for (Index h = 1; static_cast<Index>(slopes.size()) < heads; h += 2) slopes.push_back(slope(h, 2 * below));
  return slopes;
}

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
