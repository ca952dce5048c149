#pragma once

#include <twoheads/compiled.hpp>
#include <twoheads/oracle/any_oracle.hpp>

#include "support/executor.hpp"

// Programs and tests share one compilation of what takes a compiler long: what twoheads::compiled has, and beyond it
// long double, threads and oracles of any kind. A user of the headers needs none of this.

#ifdef TWOHEADS_WITH_THREADS
#define TWOHEADS_COMPILE_THREADS(prefix, Scalar)                               \
  TWOHEADS_COMPILE_GRID(prefix, SmallTransformer<Scalar>, programs::Executor); \
  TWOHEADS_COMPILE_KERNEL(prefix, Scalar, programs::Executor)
#else
#define TWOHEADS_COMPILE_THREADS(prefix, Scalar)
#endif

#define TWOHEADS_COMPILE_ALL(prefix)                       \
  TWOHEADS_COMPILE_PRODUCTS(prefix, float);                \
  TWOHEADS_COMPILE_PRODUCTS(prefix, double);               \
  TWOHEADS_COMPILE_PRODUCTS(prefix, long double);          \
  TWOHEADS_COMPILE_SIMULATION(prefix, float);              \
  TWOHEADS_COMPILE_SIMULATION(prefix, double);             \
  TWOHEADS_COMPILE_THREADS(prefix, float);                 \
  TWOHEADS_COMPILE_THREADS(prefix, double);                \
  prefix template class AnyOracle<float>;                  \
  prefix template class AnyOracle<double>;                 \
  prefix template class OracleEngine<AnyOracle<float>>;    \
  prefix template class OracleEngine<AnyOracle<double>>;   \
  TWOHEADS_COMPILE_GRID(prefix, AnyOracle<float>, Serial); \
  TWOHEADS_COMPILE_GRID(prefix, AnyOracle<double>, Serial)

namespace twoheads {
TWOHEADS_COMPILE_ALL(extern);
}  // namespace twoheads
