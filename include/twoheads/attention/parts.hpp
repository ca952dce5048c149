#pragma once

#include <algorithm>
#include <concepts>
#include <optional>
#include <twoheads/attention/input.hpp>
#include <twoheads/attention/norm.hpp>
#include <twoheads/attention/project.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/model/mask.hpp>
#include <twoheads/model/weights.hpp>
#include <utility>

namespace twoheads {

/// Attention that can take a layer's queries part by part, in order: begin_layer(spec, layer, queries, keys) with the
/// positions of the queries and the number of all keys, then
/// for each part attend(input, queries, out) on the rows that are held, where part_end(first, least) says at which
/// positions a part may end (the smallest from first + least on), then end_layer().
template <class A, class Scalar>
concept AttendInParts = Attend<A, Scalar> &&
    requires(A& attend, const AttentionSpec& spec, Index position, const AttentionInput<Scalar>& input, Rows queries,
             MatrixSpan<Scalar> out) {
  attend.begin_layer(spec, position, queries, position);
  { attend.part_end(position, position) } -> std::same_as<Index>;
  attend(input, queries, out);
  attend.end_layer();
};

namespace detail {

/// What a layer's attention projects of its rows: these normed, where a norm stands before.
template <RealScalar Scalar>
[[nodiscard]] Matrix<Scalar> attention_tokens(const ModelSpec& spec, const LayerWeights<Scalar>& layer,
                                              const MatrixView<Scalar>& rows) {
  if (spec.norm_place == NormPlace::after) return rows;
  return normed(rows, layer.attention_norm, spec.norm, spec.norm_epsilon);
}

/// Begins a layer; `log_weights` as GridAttention::begin_layer() has it, for attention that asks.
template <class A>
void begin_layer(A& attend, const AttentionSpec& spec, Index layer, Rows queries, Index keys, bool log_weights) {
  if constexpr (requires { attend.begin_layer(spec, layer, queries, keys, log_weights); })
    attend.begin_layer(spec, layer, queries, keys, log_weights);
  else
    attend.begin_layer(spec, layer, queries, keys);
}

/// How a layer is cut in parts.
struct PartRule {
  MaskReach reach;  ///< of its mask
  Index least = 0;  ///< rows of a part, or a few more
};

/// Where queries see few keys of many, a layer needs no more than a part of q, k and v at a time: a few MiB of tokens,
/// and long beside the reach, so that few keys are held twice. None where it is evaluated as a whole.
[[nodiscard]] inline std::optional<PartRule> part_rule(const Mask& mask, Index rows, Index width) {
  constexpr Index numbers = Index{1} << 18;
  const std::optional<MaskReach> reach = mask.reach(rows);
  if (!reach) return std::nullopt;
  const Index least = std::max<Index>({numbers / width, 2 * (reach->left + reach->right + reach->sinks), 64});
  if (rows / 4 <= least) return std::nullopt;
  return PartRule{*reach, least};
}

/// Keys and values of a layer as far as the next part of its queries sees them.
template <RealScalar Scalar>
class KeyWindow {
 public:
  KeyWindow(const ModelSpec& spec, const AttentionSpec& attention, const LayerWeights<Scalar>& layer,
            const MaskReach& reach)
      : spec_(spec), attention_(attention), layer_(layer), reach_(reach) {}

  [[nodiscard]] const HeldRows& held() const { return held_; }
  [[nodiscard]] MatrixView<Scalar> keys() const { return view(k_); }
  [[nodiscard]] MatrixView<Scalar> values() const { return view(v_); }
  [[nodiscard]] MatrixView<Scalar> tokens() const { return view(tokens_); }
  [[nodiscard]] MatrixView<Scalar> tokens_of(Rows rows) const {
    return block_view(view(tokens_), held_.key_place(rows), 0, tokens_.cols());
  }

  /// Moves on to what `queries` see; rows of x from the last end on must still be those that the layer began with.
  void move_to(Rows queries, const Matrix<Scalar>& x) {
    const AttentionSpec& a = attention_;
    HeldRows next{queries.begin, reach_.sinks, std::max<Index>(queries.begin - reach_.left - 1, 0)};
    if (next.first_key <= reach_.sinks) next.sinks = next.first_key = 0;
    const Index end = std::min(queries.end + reach_.right, x.rows());
    const Index kept = std::max<Index>(end_ - next.first_key, 0);
    const Index rows = next.sinks + end - next.first_key;
    const auto carry = [&](Matrix<Scalar>& matrix) {
      Matrix<Scalar> moved(rows, matrix.cols());
      moved.topRows(next.sinks) = matrix.topRows(next.sinks);
      moved.middleRows(next.sinks, kept) = matrix.middleRows(held_.sinks + next.first_key - held_.first_key, kept);
      matrix = std::move(moved);
    };
    if (end_ == 0) {
      tokens_.resize(0, spec_.width);
      k_.resize(0, a.kv_heads * a.head_dim);
      v_.resize(0, a.kv_heads * a.value_dim);
    }
    for (Matrix<Scalar>* matrix : {&tokens_, &k_, &v_}) carry(*matrix);
    const Rows fresh{end_, end};
    const Rows place{rows - fresh.size(), rows};
    const Matrix<Scalar> tokens = attention_tokens(spec_, layer_, block_view(view(x), fresh, 0, x.cols()));
    tokens_.middleRows(place.begin, place.size()) = tokens;
    k_.middleRows(place.begin, place.size()) = keys_of(a, layer_.attention, view(tokens), fresh.begin);
    v_.middleRows(place.begin, place.size()) = values_of(a, layer_.attention, view(tokens));
    held_ = next;
    end_ = end;
  }

 private:
  const ModelSpec& spec_;
  const AttentionSpec& attention_;
  const LayerWeights<Scalar>& layer_;
  MaskReach reach_;
  HeldRows held_;
  Index end_ = 0;  ///< position after the last key held
  Matrix<Scalar> tokens_, k_, v_;
};

}  // namespace detail
}  // namespace twoheads
