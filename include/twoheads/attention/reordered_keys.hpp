#pragma once

#include <twoheads/attention/input.hpp>
#include <twoheads/base/matrix.hpp>
#include <vector>

namespace twoheads {

/// An attention input whose keys and values stand in another order; without an order, the input as it is.
///
///   Laws     row j of k, v and key_tokens is row order[j] of the input's; attention of a full mask does not change
///   Corner   the input's own rows must outlive it. Memory: a copy of k, v and key_tokens, none where order is empty
template <RealScalar Scalar>
class ReorderedKeys {
 public:
  ReorderedKeys(const AttentionInput<Scalar>& input, const std::vector<Index>& order)
      : input_(input),
        k_(gather(input.k, order)),
        v_(gather(input.v, order)),
        key_tokens_(gather(input.key_tokens, order)),
        reordered_(!order.empty()) {}

  [[nodiscard]] AttentionInput<Scalar> input() const {
    if (!reordered_) return input_;
    return {input_.spec, input_.layer,        input_.q,          view(k_),
            view(v_),    input_.query_tokens, view(key_tokens_), input_.weights};
  }

 private:
  [[nodiscard]] static Matrix<Scalar> gather(const MatrixView<Scalar>& rows, const std::vector<Index>& order) {
    Matrix<Scalar> result(static_cast<Index>(order.size()), rows.cols());
    for (Index row = 0; row < result.rows(); ++row) result.row(row) = rows.row(order[static_cast<std::size_t>(row)]);
    return result;
  }

  const AttentionInput<Scalar>& input_;
  Matrix<Scalar> k_, v_, key_tokens_;
  bool reordered_;
};

}  // namespace twoheads
