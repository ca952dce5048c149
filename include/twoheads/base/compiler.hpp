#pragma once

// What the library asks of a compiler beyond the language: hints for loops that must be unrolled or kept apart.

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) || \
    defined(__ASSOCIATIVE_MATH__) || defined(_M_FP_FAST)
#error "twoheads: -ffast-math and its like break roundings and the checks for NaN; build without them"
#endif

#if defined(_MSC_VER) && !defined(__clang__)
#define TWOHEADS_ALWAYS_INLINE __forceinline
#define TWOHEADS_NOINLINE __declspec(noinline)
#define TWOHEADS_UNROLL
#define TWOHEADS_UNROLL_TWICE
#else
#define TWOHEADS_ALWAYS_INLINE inline __attribute__((always_inline))
#define TWOHEADS_NOINLINE __attribute__((noinline))
#if defined(__clang__)
#define TWOHEADS_UNROLL _Pragma("clang loop unroll(full)")
#define TWOHEADS_UNROLL_TWICE _Pragma("clang loop unroll_count(2)")
#else
#define TWOHEADS_UNROLL _Pragma("GCC unroll 16")
#define TWOHEADS_UNROLL_TWICE _Pragma("GCC unroll 2")
#endif
#endif
