#pragma once

#include <twoheads/attention/simd.hpp>
#include <twoheads/exec/executor.hpp>
#include <twoheads/exec/kernel_attention.hpp>
#include <twoheads/simulate.hpp>
#ifdef TWOHEADS_WITH_THREADS
#include <twoheads/exec/threads.hpp>
#endif

namespace benches {

/// Calls body(executor) with the executor of so many threads; with none where the library has none.
template <class Body>
void with_executor(twoheads::Index threads, const Body& body) {
  if (threads == 1) return body(twoheads::Serial());
#ifdef TWOHEADS_WITH_THREADS
  body(twoheads::Threads(threads));
#endif
}

/// The grid of calls.
template <class O, class Exec>
[[nodiscard]] auto make_grid(O& oracle, const Exec& executor, twoheads::Anchor anchor) {
  return twoheads::GridAttention<O, Exec>(oracle, {anchor}, executor);
}

/// The kernel, with query blocks of so many rows, or of its own choice where that is 0.
template <class Scalar, class Simd = twoheads::DefaultSimd<Scalar>, class Exec>
[[nodiscard]] auto make_kernel(const Exec& executor, twoheads::Index rows = 0) {
  return twoheads::KernelAttention<Scalar, Exec, Simd>({.rows = rows}, executor);
}

}  // namespace benches
