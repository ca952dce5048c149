#pragma once

#include <algorithm>
#include <optional>
#include <twoheads/attention/input.hpp>
#include <twoheads/attention/rope.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/model/mask.hpp>

namespace twoheads {

/// Keys and values of one layer, as far as later tokens may see them.
///
///   Shapes   rows of kv_heads * head_dim and kv_heads * value_dim numbers, one a key
///   Laws     where the mask reaches no further than a window and sinks, memory is that of the sinks, twice the window
///            and `chunk` tokens, however many come; rows are moved once in a window or a chunk
///   Source   Xiao et al., "Efficient Streaming Language Models with Attention Sinks" (ICLR 2024), for what is kept
template <RealScalar Scalar>
class KeyCache {
 public:
  /// For a layer whose tokens come in chunks of at most `chunk`.
  KeyCache(const AttentionSpec& spec, Index chunk) {
    const Mask& mask = spec.mask;
    reach_ = mask.reach();
    if (reach_ ? reach_->right > 0 : mask.kind != MaskKind::causal)
      throw SpecError(detail::text("a session over a ", name(mask.kind),
                                   " mask: expected causal, window or sinks, where tokens see none that follow"));
    k_.resize(0, spec.kv_heads * spec.head_dim);
    v_.resize(0, spec.kv_heads * spec.value_dim);
    // A window or a chunk beyond what comes is memory for nothing: it is grown into.
    constexpr Index at_once = Index{1} << 16;
    if (reach_ && reach_->left < at_once && reach_->sinks < at_once)
      reserve(reach_->sinks + reach_->left + 1 + std::max(reach_->left, std::min(chunk, at_once)));
  }

  /// Positions after the last key, and which rows are held.
  [[nodiscard]] Index tokens() const { return tokens_; }
  /// Where the rows stand in the text, for queries from first_query on.
  [[nodiscard]] HeldRows held(Index first_query) const { return {first_query, sinks_, first_key_}; }
  /// (rows, kv_heads * head_dim).
  [[nodiscard]] MatrixView<Scalar> keys() const { return block_view(view(k_), {0, rows()}, 0, k_.cols()); }
  /// (rows, kv_heads * value_dim).
  [[nodiscard]] MatrixView<Scalar> values() const { return block_view(view(v_), {0, rows()}, 0, v_.cols()); }
  [[nodiscard]] Index rows() const { return tokens_ + sinks_ - first_key_; }  ///< tokens held

  /// Takes the keys and values of the next tokens. What no token from the first of them on will see may be dropped.
  void append(const Matrix<Scalar>& k, const Matrix<Scalar>& v) {
    const Index fresh = k.rows();
    if (rows() + fresh > k_.rows()) drop();
    if (rows() + fresh > k_.rows()) reserve(std::max(rows() + fresh, 2 * rows()));
    k_.middleRows(rows(), fresh) = k;
    v_.middleRows(rows(), fresh) = v;
    tokens_ += fresh;
  }

  /// Whether the cache can go back to the state after so many tokens.
  [[nodiscard]] bool reaches_back(Index tokens) const {
    return tokens >= 0 && tokens <= tokens_ && (first_key_ == 0 || first_needed(tokens) >= first_key_);
  }
  /// A cache that has fewer stays as it is.
  void go_back(Index tokens) {
    if (tokens >= tokens_) return;
    TWOHEADS_ASSERT(reaches_back(tokens));
    tokens_ = tokens;
  }

  /// The first keys, to be changed in place: those of sinks, where positions count what is held.
  [[nodiscard]] MatrixSpan<Scalar> first_keys(Index count) {
    return block_span(span(k_), {0, std::min(count, rows())}, 0, k_.cols());
  }

  /// Takes the place of what is held; shapes must fit.
  void restore(Index tokens, Index sinks, Index first_key, const Matrix<Scalar>& k, const Matrix<Scalar>& v) {
    tokens_ = sinks_ = first_key_ = 0;
    const Index count = tokens + sinks - first_key;
    if (count > k_.rows()) reserve(count);
    tokens_ = tokens;
    sinks_ = sinks;
    first_key_ = first_key;
    TWOHEADS_ASSERT(k.rows() == rows() && v.rows() == rows() && k.cols() == k_.cols() && v.cols() == v_.cols());
    k_.topRows(rows()) = k;
    v_.topRows(rows()) = v;
  }

 private:
  /// The first position beside the sinks that is held for a token at `tokens` or later: a tile of a window begins one
  /// before what its first query sees, as in KeyWindow.
  [[nodiscard]] Index first_needed(Index tokens) const {
    return reach_ ? std::max<Index>(tokens - reach_->left - 1, 0) : 0;
  }

  void drop() {
    const Index needed = first_needed(tokens_);
    if (!reach_ || needed <= std::max(first_key_, reach_->sinks)) return;
    const Index kept = tokens_ - needed;
    const Index from = rows() - kept;
    // Rows move towards the front, one by one, so that none is overwritten before it has moved.
    for (Matrix<Scalar>* matrix : {&k_, &v_})
      for (Index row = 0; row < kept; ++row) matrix->row(reach_->sinks + row) = matrix->row(from + row);
    sinks_ = reach_->sinks;
    first_key_ = needed;
  }

  /// Both grow, or none.
  void reserve(Index capacity) {
    Matrix<Scalar> k(capacity, k_.cols());
    Matrix<Scalar> v(capacity, v_.cols());
    k.topRows(rows()) = k_.topRows(rows());
    v.topRows(rows()) = v_.topRows(rows());
    k_.swap(k);
    v_.swap(v);
  }

  std::optional<MaskReach> reach_;
  Index tokens_ = 0;
  Index sinks_ = 0;      ///< first rows, of positions 0 .. sinks_ - 1
  Index first_key_ = 0;  ///< position of the row after them
  Matrix<Scalar> k_, v_;
};

}  // namespace twoheads
