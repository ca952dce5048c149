#pragma once

#include <twoheads/exec/kernel_attention.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <twoheads/simulate.hpp>

// Programs and tests share one compilation of what takes a compiler long: Eigen's product kernels and the whole path
// over the Eigen small transformer, for each scalar. A user of the headers needs none of this.

#define TWOHEADS_PRODUCTS(prefix, Scalar)                                                                          \
  prefix template void detail::multiply(MatrixSpan<Scalar>, const MatrixView<Scalar>&, const MatrixView<Scalar>&); \
  prefix template void detail::multiply_transposed(MatrixSpan<Scalar>, const MatrixView<Scalar>&,                  \
                                                   const MatrixView<Scalar>&);                                     \
  prefix template Matrix<Scalar> mlp(const MatrixView<Scalar>&, const MlpWeights<Scalar>&, MlpKind, Index);        \
  prefix template class DirectAttention<Scalar>;                                                                   \
  prefix template Matrix<Scalar> forward(const Model<Scalar>&, Matrix<Scalar>, DirectAttention<Scalar>&,           \
                                         const Matrix<Scalar>*);                                                   \
  prefix template Matrix<Scalar> forward(const Model<Scalar>&, Matrix<Scalar>, DirectAttention<Scalar>&&,          \
                                         const Matrix<Scalar>*)

#define TWOHEADS_SIMULATION(prefix, Scalar)                                                              \
  prefix template class KernelAttention<Scalar>;                                                         \
  prefix template Matrix<Scalar> forward(const Model<Scalar>&, Matrix<Scalar>, KernelAttention<Scalar>&, \
                                         const Matrix<Scalar>*);                                         \
  prefix template class SmallTransformer<Scalar>;                                                        \
  prefix template class OracleEngine<SmallTransformer<Scalar>>;                                          \
  prefix template class GridAttention<SmallTransformer<Scalar>>;                                         \
  prefix template Matrix<Scalar> forward(const Model<Scalar>&, Matrix<Scalar>,                           \
                                         GridAttention<SmallTransformer<Scalar>>&, const Matrix<Scalar>*)

namespace twoheads {
TWOHEADS_PRODUCTS(extern, float);
TWOHEADS_PRODUCTS(extern, double);
TWOHEADS_PRODUCTS(extern, long double);
TWOHEADS_SIMULATION(extern, float);
TWOHEADS_SIMULATION(extern, double);
}  // namespace twoheads
