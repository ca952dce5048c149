#pragma once

#include <twoheads/attention/simd.hpp>
#include <twoheads/exec/executor.hpp>
#include <twoheads/exec/kernel_attention.hpp>
#include <twoheads/simulate.hpp>
#ifdef TWOHEADS_BENCH_THREADS
#include <twoheads/exec/threads.hpp>
#endif

namespace benches {

/// Calls body(executor) with the executor of so many threads; with none where the library has none.
template <class Body>
void with_executor(twoheads::Index threads, const Body& body) {
  if (threads == 1) return body(twoheads::Serial());
#ifdef TWOHEADS_BENCH_THREADS
  body(twoheads::Threads(threads));
#endif
}

template <class O, class Exec>
[[nodiscard]] auto make_grid(O& oracle, [[maybe_unused]] const Exec& executor) {
#ifdef TWOHEADS_BENCH_THREADS
  return twoheads::GridAttention<O, Exec>(oracle, {}, executor);
#else
  return twoheads::GridAttention<O>(oracle);
#endif
}

/// The kernel, with query blocks of so many rows, or of its own choice where that is 0.
template <class Scalar, class Simd = twoheads::DefaultSimd<Scalar>, class Exec>
[[nodiscard]] auto make_kernel(const Exec& executor, twoheads::Index rows = 0) {
  return twoheads::KernelAttention<Scalar, Exec, Simd>({.rows = rows}, executor);
}

}  // namespace benches
