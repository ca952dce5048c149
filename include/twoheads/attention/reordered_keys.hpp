#pragma once

#include <twoheads/attention/input.hpp>
#include <twoheads/base/matrix.hpp>
#include <vector>

namespace twoheads {

/// Rows of all heads side by side, as projections have them, laid head after head.
///
///   Shapes   rows (n, heads * dim), result (heads * n, dim)
///   Throws   ShapeError where the rows have other columns
template <RealScalar Scalar>
[[nodiscard]] Matrix<Scalar> rows_by_head(const MatrixView<Scalar>& rows, Index heads, Index dim) {
  detail::require_shape("rows of all heads", rows, rows.rows(), heads * dim);
  Matrix<Scalar> result(heads * rows.rows(), dim);
  for (Index head = 0; head < heads; ++head)
    result.middleRows(head * rows.rows(), rows.rows()) = rows.middleCols(head * dim, dim);
  return result;
}

/// An attention input whose keys and values stand in another order, or head after head;
/// without either, the input as it is.
///
///   Laws     row j of k, v and key_tokens is row order[j] of the input's; attention of a full mask does not change.
///            With `by_head` the rows of a head stand together, see AttentionInput::by_head: no bit changes.
///   Corner   the input's own rows must outlive it. Memory: a copy of k and v, and of key_tokens where there is an
///            order; none where order is empty and by_head is false
template <RealScalar Scalar>
class ReorderedKeys {
 public:
  ReorderedKeys(const AttentionInput<Scalar>& input, const std::vector<Index>& order, bool by_head = false)
      : input_(input), reordered_(!order.empty()), by_head_(by_head) {
    if (!reordered_ && !by_head_) return;
    const AttentionSpec& spec = input.spec;
    k_ = gather(input.k, order, by_head_ ? spec.head_dim : input.k.cols());
    v_ = gather(input.v, order, by_head_ ? spec.value_dim : input.v.cols());
    // Rows that came projected have no tokens.
    if (reordered_ && input.key_tokens.size() > 0)
      key_tokens_ = gather(input.key_tokens, order, input.key_tokens.cols());
  }

  /// The input with its keys in that order.
  [[nodiscard]] AttentionInput<Scalar> input() const {
    if (!reordered_ && !by_head_) return input_;
    return {input_.spec,
            input_.layer,
            input_.q,
            view(k_),
            view(v_),
            input_.query_tokens,
            reordered_ ? view(key_tokens_) : input_.key_tokens,
            input_.weights,
            reordered_ ? HeldRows{} : input_.held,
            by_head_,
            input_.sink_logits,
            input_.bias};
  }

 private:
  /// Blocks of `cols` columns one below the other, each with its rows in order.
  [[nodiscard]] static Matrix<Scalar> gather(const MatrixView<Scalar>& rows, const std::vector<Index>& order,
                                             Index cols) {
    const Index blocks = rows.cols() / cols;
    if (order.empty()) return rows_by_head(rows, blocks, cols);
    const auto count = static_cast<Index>(order.size());
    Matrix<Scalar> result(blocks * count, cols);
    for (Index row = 0; row < count; ++row)
      for (Index block = 0; block < blocks; ++block)
        result.row(block * count + row) = rows.row(order[static_cast<std::size_t>(row)]).segment(block * cols, cols);
    return result;
  }

  const AttentionInput<Scalar>& input_;
  Matrix<Scalar> k_, v_, key_tokens_;
  bool reordered_;
  bool by_head_;
};

}  // namespace twoheads
