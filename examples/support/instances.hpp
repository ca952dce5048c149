#pragma once

#include <twoheads/exec/kernel_attention.hpp>
#include <twoheads/oracle/any_oracle.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <twoheads/simulate.hpp>

#include "support/executor.hpp"

// Programs and tests share one compilation of what takes a compiler long: Eigen's product kernels and the whole path
// over the Eigen small transformer, for each scalar. A user of the headers needs none of this.

#define TWOHEADS_PRODUCTS(prefix, Scalar)                                                                          \
  prefix template void detail::multiply(MatrixSpan<Scalar>, const MatrixView<Scalar>&, const MatrixView<Scalar>&); \
  prefix template void detail::multiply_transposed(MatrixSpan<Scalar>, const MatrixView<Scalar>&,                  \
                                                   const MatrixView<Scalar>&);                                     \
  prefix template Matrix<Scalar> mlp(const MatrixView<Scalar>&, const MlpWeights<Scalar>&, MlpKind, Index);        \
  prefix template class DirectAttention<Scalar>;                                                                   \
  prefix template Matrix<Scalar> forward(const Model<Scalar>&, Matrix<Scalar>, DirectAttention<Scalar>&,           \
                                         const Matrix<Scalar>*, const ScoreBias<Scalar>&);                         \
  prefix template Matrix<Scalar> forward(const Model<Scalar>&, Matrix<Scalar>, DirectAttention<Scalar>&&,          \
                                         const Matrix<Scalar>*, const ScoreBias<Scalar>&)

#define TWOHEADS_GRID(prefix, O, Exec)                                                                           \
  prefix template class GridAttention<O, Exec>;                                                                  \
  prefix template Matrix<O::Scalar> forward(const Model<O::Scalar>&, Matrix<O::Scalar>, GridAttention<O, Exec>&, \
                                            const Matrix<O::Scalar>*, const ScoreBias<O::Scalar>&)

#define TWOHEADS_KERNEL(prefix, Scalar, Exec)                                                                  \
  prefix template class KernelAttention<Scalar, Exec>;                                                         \
  prefix template Matrix<Scalar> forward(const Model<Scalar>&, Matrix<Scalar>, KernelAttention<Scalar, Exec>&, \
                                         const Matrix<Scalar>*, const ScoreBias<Scalar>&)

#define TWOHEADS_SIMULATION(prefix, Scalar)                            \
  prefix template class SmallTransformer<Scalar>;                      \
  TWOHEADS_KERNEL(prefix, Scalar, Serial);                             \
  TWOHEADS_KERNEL(prefix, Scalar, programs::Executor);                 \
  prefix template class OracleEngine<SmallTransformer<Scalar>>;        \
  TWOHEADS_GRID(prefix, SmallTransformer<Scalar>, Serial);             \
  TWOHEADS_GRID(prefix, SmallTransformer<Scalar>, programs::Executor); \
  prefix template class AnyOracle<Scalar>;                             \
  prefix template class OracleEngine<AnyOracle<Scalar>>;               \
  TWOHEADS_GRID(prefix, AnyOracle<Scalar>, Serial)

namespace twoheads {
TWOHEADS_PRODUCTS(extern, float);
TWOHEADS_PRODUCTS(extern, double);
TWOHEADS_PRODUCTS(extern, long double);
TWOHEADS_SIMULATION(extern, float);
TWOHEADS_SIMULATION(extern, double);
}  // namespace twoheads
