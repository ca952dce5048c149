#pragma once

#include <twoheads/attention/input.hpp>
#include <twoheads/exec/executor.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <twoheads/simulate.hpp>

// STOPGAP until the kernel and the threads are on main: DirectAttention stands in for the kernel, one thread.

namespace benches {

using twoheads::Index;

enum class KernelBackend { native, eigen_arrays };

template <class Scalar>
twoheads::AttentionInput<Scalar> projected_input(const twoheads::AttentionSpec& spec, twoheads::MatrixView<Scalar> q,
                                                 twoheads::MatrixView<Scalar> k, twoheads::MatrixView<Scalar> v) {
  static const twoheads::AttentionWeights<Scalar> none;
  return {spec, 0, q, k, v, q, k, none};
}

template <class Body>
void with_executor(Index threads, const Body& body) {
  if (threads == 1) body(twoheads::Serial());
}

template <class O, class Executor>
[[nodiscard]] auto make_grid(O& oracle, const Executor&) {
  return twoheads::GridAttention<O>(oracle);
}

template <class Scalar, KernelBackend, class Executor>
[[nodiscard]] auto make_kernel(const Executor&, Index = 256) {
  return twoheads::DirectAttention<Scalar>();
}

}  // namespace benches
