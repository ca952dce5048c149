#pragma once

// What the library asks of a compiler: a language, flags that it can work with, and hints for loops that must be
// unrolled or kept apart. Every header includes this one.

#if (defined(_MSVC_LANG) ? _MSVC_LANG : __cplusplus) < 202002L
#error "twoheads: needs C++20: build with -std=c++20, or with CMAKE_CXX_STANDARD 20 or above"
#endif

#if !defined(__cpp_exceptions) && !defined(_CPPUNWIND)
#error "twoheads: needs exceptions, by which it refuses what it cannot compute; build without -fno-exceptions"
#endif

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
