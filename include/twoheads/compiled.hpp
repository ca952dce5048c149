#pragma once

#include <cstdint>
#include <twoheads/attention/direct.hpp>
#include <twoheads/attention/forward.hpp>
#include <twoheads/attention/mlp.hpp>
#include <twoheads/base/product.hpp>
#include <twoheads/exec/kernel_attention.hpp>
#include <twoheads/exec/oracle_engine.hpp>
#include <twoheads/model/random.hpp>
#include <twoheads/model/weights.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <twoheads/simulate.hpp>

// What takes a compiler long, compiled once: Eigen's product kernels and the whole path over SmallTransformer, for
// float and double. The headers alone need none of this. Where TWOHEADS_COMPILED is defined, as twoheads::compiled does
// for those that link it, these instances are left to that library; its one source defines TWOHEADS_COMPILED_HERE.

#define TWOHEADS_COMPILE_PRODUCTS(prefix, Scalar)                                                                  \
  prefix template void detail::multiply(MatrixSpan<Scalar>, const MatrixView<Scalar>&, const MatrixView<Scalar>&); \
  prefix template void detail::multiply_transposed(MatrixSpan<Scalar>, const MatrixView<Scalar>&,                  \
                                                   const MatrixView<Scalar>&);                                     \
  prefix template Matrix<Scalar> mlp(const MatrixView<Scalar>&, const MlpWeights<Scalar>&, MlpKind, Index);        \
  prefix template void require_shapes(const Model<Scalar>&);                                                       \
  prefix template void require_valid(const Model<Scalar>&);                                                        \
  prefix template Model<Scalar> random_model(const ModelSpec&, std::uint64_t);                                     \
  prefix template Matrix<Scalar> Random::matrix(Index, Index, double);                                             \
  prefix template class DirectAttention<Scalar>;                                                                   \
  prefix template Matrix<Scalar> forward(const Model<Scalar>&, Matrix<Scalar>, DirectAttention<Scalar>&,           \
                                         const Matrix<Scalar>*, const ScoreBias<Scalar>&);                         \
  prefix template Matrix<Scalar> forward(const Model<Scalar>&, Matrix<Scalar>, DirectAttention<Scalar>&&,          \
                                         const Matrix<Scalar>*, const ScoreBias<Scalar>&)

#define TWOHEADS_COMPILE_GRID(prefix, O, Exec)                                                                   \
  prefix template class GridAttention<O, Exec>;                                                                  \
  prefix template Matrix<O::Scalar> forward(const Model<O::Scalar>&, Matrix<O::Scalar>, GridAttention<O, Exec>&, \
                                            const Matrix<O::Scalar>*, const ScoreBias<O::Scalar>&);              \
  prefix template Simulation<O::Scalar> simulate(const Model<O::Scalar>&, Matrix<O::Scalar>, O&,                 \
                                                 const SimulationOptions&, const Matrix<O::Scalar>*, const Exec&)

#define TWOHEADS_COMPILE_KERNEL(prefix, Scalar, Exec)                                                          \
  prefix template class KernelAttention<Scalar, Exec>;                                                         \
  prefix template Matrix<Scalar> forward(const Model<Scalar>&, Matrix<Scalar>, KernelAttention<Scalar, Exec>&, \
                                         const Matrix<Scalar>*, const ScoreBias<Scalar>&)

#define TWOHEADS_COMPILE_SIMULATION(prefix, Scalar)                \
  prefix template class SmallTransformer<Scalar>;                  \
  prefix template class OracleEngine<SmallTransformer<Scalar>>;    \
  TWOHEADS_COMPILE_GRID(prefix, SmallTransformer<Scalar>, Serial); \
  TWOHEADS_COMPILE_KERNEL(prefix, Scalar, Serial)

#ifdef TWOHEADS_COMPILED
namespace twoheads {

namespace detail {

/// What a compiler's flags change in objects that cross from a program into the library: Eigen's alignment and packets.
constexpr int compiled_flags = EIGEN_MAX_ALIGN_BYTES * 4
#ifdef __AVX512F__
                               + 2
#endif
#ifdef __FMA__
                               + 1
#endif
    ;

/// Defined in the library for its own flags: a program that was compiled with others does not link.
template <int flags>
struct SameFlagsAsTwoheadsCompiled {
  static int number();
};
#ifdef TWOHEADS_COMPILED_HERE
template <>
int SameFlagsAsTwoheadsCompiled<compiled_flags>::number() {
  return compiled_flags;
}
#else
[[maybe_unused]] static const int flags_of_library = SameFlagsAsTwoheadsCompiled<compiled_flags>::number();
#endif

}  // namespace detail

#ifndef TWOHEADS_COMPILED_HERE
TWOHEADS_COMPILE_PRODUCTS(extern, float);
TWOHEADS_COMPILE_PRODUCTS(extern, double);
TWOHEADS_COMPILE_SIMULATION(extern, float);
TWOHEADS_COMPILE_SIMULATION(extern, double);
#else
TWOHEADS_COMPILE_PRODUCTS(, float);
TWOHEADS_COMPILE_PRODUCTS(, double);
TWOHEADS_COMPILE_SIMULATION(, float);
TWOHEADS_COMPILE_SIMULATION(, double);
#endif

}  // namespace twoheads
#endif
