#pragma once

#include <twoheads/attention/exp2_parts.hpp>
#include <twoheads/base/compiler.hpp>

#ifndef TWOHEADS_VECTOR_EXTENSIONS
#if defined(__GNUC__) || defined(__clang__)
#define TWOHEADS_VECTOR_EXTENSIONS 1
#else
#define TWOHEADS_VECTOR_EXTENSIONS 0
#endif
#endif

#if TWOHEADS_VECTOR_EXTENSIONS

namespace twoheads {
namespace detail {

// The width comes from the target: wider vectors than its registers are taken apart, at a fifth of the speed. Not
// inline: translation units compiled for different targets may meet in one program.
#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
constexpr int vector_registers = 32;
#elif defined(__AVX__)
constexpr int vector_bytes = 32;
constexpr int vector_registers = 16;
#elif defined(__aarch64__)
constexpr int vector_bytes = 16;
constexpr int vector_registers = 32;
#else
constexpr int vector_bytes = 16;
constexpr int vector_registers = 16;
#endif

}  // namespace detail

/// Short vectors by the vector extensions of GCC and clang; see SimdBackend.
template <class S, int Bytes = detail::vector_bytes, int Registers = detail::vector_registers>
struct VectorExtension {
  using Scalar = S;
  using Parts = detail::Exp2Parts<S>;
  typedef S Vector __attribute__((vector_size(Bytes), may_alias));        ///< of scalars
  typedef typename Parts::Bits Bits __attribute__((vector_size(Bytes)));  ///< of as many integers
  static constexpr int lanes = Bytes / static_cast<int>(sizeof(S));
  static constexpr int registers = Registers;

  static TWOHEADS_ALWAYS_INLINE Vector load(const S* from) { return *reinterpret_cast<const Vector*>(from); }
  static TWOHEADS_ALWAYS_INLINE void store(S* to, Vector x) { *reinterpret_cast<Vector*>(to) = x; }
  static TWOHEADS_ALWAYS_INLINE Vector broadcast(S x) { return x - Vector{}; }
  static TWOHEADS_ALWAYS_INLINE Vector add(Vector a, Vector b) { return a + b; }
  static TWOHEADS_ALWAYS_INLINE Vector subtract(Vector a, Vector b) { return a - b; }
  static TWOHEADS_ALWAYS_INLINE Vector multiply(Vector a, Vector b) { return a * b; }
  static TWOHEADS_ALWAYS_INLINE Vector divide(Vector a, Vector b) { return a / b; }
  static TWOHEADS_ALWAYS_INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return a * b + c; }
  static TWOHEADS_ALWAYS_INLINE Vector max(Vector a, Vector b) { return a > b ? a : b; }

  static TWOHEADS_ALWAYS_INLINE Vector select(Vector x, Vector other, Vector at, Vector first, Vector last) {
    return ((first <= at) & (at < last)) ? x : other;
  }

  static TWOHEADS_ALWAYS_INLINE Vector exp2(Vector x) {
    // Written so that NaN is not below the least: it must come out as NaN.
    const Vector least = broadcast(Parts::least);
    x = least > x ? least : x;
    const Vector rounder = broadcast(Parts::rounder);
    const Vector whole = x + rounder;
    const Vector rest = x - (whole - rounder);
    const auto power = reinterpret_cast<Vector>(reinterpret_cast<Bits>(whole) << Parts::mantissa_bits);
    Vector p = broadcast(Parts::coefficients[0]);
    TWOHEADS_UNROLL
    for (std::size_t i = 1; i < Parts::coefficients.size(); ++i)
      p = multiply_add(p, rest, broadcast(Parts::coefficients[i]));
    return p * power;
  }
};

}  // namespace twoheads

#endif
