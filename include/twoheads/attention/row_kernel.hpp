#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <twoheads/attention/partial.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/base/product.hpp>

namespace twoheads {

/// Attention of a few queries that see the same keys, as in decoding: the heads of a key/value head, say. The tile
/// kernel has a lane for each query; here columns are the lanes, so that one query is no waste.
///
///   Shapes   queries (G, head_dim), keys (n, head_dim), values (n, value_dim); result: G rows
///   Laws     bits depend on the queries, and on the keys that one add() is given, alone. Keys are read in blocks that
///            stay in the nearest cache for all G queries, and blocks are joined in SumScalar.
///   Corner   as TileKernel's partials: NaN and infinity as IEEE evaluation gives them, but a row that has found
///            nothing but scores of -infinity is zero with log weight -inf, as one that has seen no key
///   Source   Yu & Alman, Lemma 3.1 joins blocks
template <RealScalar S>
class RowKernel {
 public:
  using Scalar = S;
  static constexpr Index keys_at_once = 512;  ///< keys whose scores are held at once

  /// The partial of the queries over all these keys.
  void find(const MatrixView<Scalar>& queries, const MatrixView<Scalar>& keys, const MatrixView<Scalar>& values,
            double score_scale, Partial<SumScalar<Scalar>>& sum) {
    sum.value.setZero(queries.rows(), values.cols());
    sum.log_weight.setConstant(queries.rows(), -std::numeric_limits<double>::infinity());
    for (Index begin = 0; begin < keys.rows(); begin += keys_at_once) {
      const Rows part{begin, std::min(begin + keys_at_once, keys.rows())};
      weigh(queries, block_view(keys, part, 0, keys.cols()), block_view(values, part, 0, values.cols()), score_scale);
      merge_into(sum, found_);
    }
  }

 private:
  /// What a block of keys yields, in found_.
  void weigh(const MatrixView<Scalar>& queries, const MatrixView<Scalar>& keys, const MatrixView<Scalar>& values,
             double score_scale) {
    const Index count = queries.rows();
    weights_.resize(count, keys.rows());
    found_.value.resize(count, values.cols());
    found_.log_weight.resize(count);
    for (Index row = 0; row < count; ++row) {
      // A row at a time: products of one row are matrix-vector products, which need no packing.
      const Rows one{row, row + 1};
      detail::multiply_transposed(block_span(span(weights_), one, 0, keys.rows()),
                                  block_view(queries, one, 0, queries.cols()), keys);
      auto weights = weights_.row(row).array();
      weights *= static_cast<Scalar>(score_scale);
      const Scalar largest = weights.template maxCoeff<Eigen::PropagateNaN>();
      // Such keys have no weight beside others; that there are no others is for the caller to see.
      if (largest == -std::numeric_limits<Scalar>::infinity()) {
        found_.value.row(row).setZero();
        found_.log_weight[row] = -std::numeric_limits<double>::infinity();
        continue;
      }
      weights = (weights - largest).exp();
      const Scalar total = weights.sum();
      detail::multiply(block_span(span(found_.value), one, 0, values.cols()),
                       block_view(view(weights_), one, 0, keys.rows()), values);
      found_.value.row(row) /= total;
      found_.log_weight[row] = static_cast<double>(largest) + std::log(static_cast<double>(total));
    }
  }

  Matrix<Scalar> weights_;
  Partial<Scalar> found_;
};

}  // namespace twoheads
