#pragma once

#include <twoheads/base/matrix.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <twoheads/oracle/weights.hpp>
#include <utility>

namespace programs {

/// The attention of the small transformer on Eigen, as a core.
///
///   Shapes   q, k (rows, key columns), v (rows, value columns), the answer as v
template <class Scalar>
class EigenCore {
 public:
  /// Of the limits the kind, the rows and the score scale count.
  explicit EigenCore(twoheads::OracleLimits limits) : transformer_(one_head(std::move(limits))) {}

  [[nodiscard]] twoheads::Matrix<Scalar> operator()(const twoheads::MatrixView<Scalar>& q,
                                                    const twoheads::MatrixView<Scalar>& k,
                                                    const twoheads::MatrixView<Scalar>& v) {
    using Columns = twoheads::Projection<Scalar>;
    twoheads::SmallWeights<Scalar> weights;
    weights.width = q.cols() + k.cols() + v.cols();
    weights.layers = {{{{Columns::selector(0, q.cols()), Columns::selector(q.cols(), k.cols()),
                         Columns::selector(q.cols() + k.cols(), v.cols()), 0}},
                       v.cols(),
                       {}}};
    twoheads::Matrix<Scalar> rows(q.rows(), weights.width);
    rows << q, k, v;
    return transformer_.run({&weights, std::move(rows)});
  }

 private:
  [[nodiscard]] static twoheads::OracleLimits one_head(twoheads::OracleLimits limits) {
    limits.heads = limits.layers = 1;
    limits.width = limits.key_cols = limits.value_cols = twoheads::OracleLimits::unlimited;
    return limits;
  }

  twoheads::SmallTransformer<Scalar> transformer_;
};

}  // namespace programs
