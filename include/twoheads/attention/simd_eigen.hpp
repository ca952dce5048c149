#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstring>
#include <twoheads/attention/exp2_parts.hpp>
#include <twoheads/base/compiler.hpp>
#include <type_traits>

namespace twoheads {

/// Short vectors as Eigen arrays of a fixed size, for compilers without vector extensions; see SimdBackend.
///
///   Corner   Eigen's own expressions become vector instructions from -O3 on; on AVX2 clang needs -ffp-contract=fast
///            besides, or sums and products stay apart.
template <class S, int Bytes = std::max(EIGEN_MAX_STATIC_ALIGN_BYTES, 16)>
struct EigenSimd {
  using Scalar = S;
  using Parts = detail::Exp2Parts<S>;
  static constexpr int lanes = Bytes / static_cast<int>(sizeof(S));
  static constexpr int registers = Bytes >= 64 ? 32 : 16;
  using Vector = Eigen::Array<S, lanes, 1>;

  static TWOHEADS_ALWAYS_INLINE Vector load(const S* from) { return Eigen::Map<const Vector, Eigen::AlignedMax>(from); }
  static TWOHEADS_ALWAYS_INLINE void store(S* to, const Vector& x) {
    Eigen::Map<Vector, Eigen::AlignedMax> target(to);
    target = x;
  }
  static TWOHEADS_ALWAYS_INLINE Vector broadcast(S x) { return Vector::Constant(x); }
  static TWOHEADS_ALWAYS_INLINE Vector add(const Vector& a, const Vector& b) { return a + b; }
  static TWOHEADS_ALWAYS_INLINE Vector subtract(const Vector& a, const Vector& b) { return a - b; }
  static TWOHEADS_ALWAYS_INLINE Vector multiply(const Vector& a, const Vector& b) { return a * b; }
  static TWOHEADS_ALWAYS_INLINE Vector divide(const Vector& a, const Vector& b) { return a / b; }
  static TWOHEADS_ALWAYS_INLINE Vector multiply_add(const Vector& a, const Vector& b, const Vector& c) {
    // Eigen keeps a * b + c apart, and clang then does not fuse it: a third of the speed. Eigen's own name for a fused
    // product is internal: pmadd.
    using Packet = typename Eigen::internal::find_best_packet<S, lanes>::type;
    constexpr int size = Eigen::internal::unpacket_traits<Packet>::size;
    Vector r;
    TWOHEADS_UNROLL
    for (int i = 0; i < lanes; i += size)
      Eigen::internal::pstore(r.data() + i, Eigen::internal::pmadd(Eigen::internal::pload<Packet>(a.data() + i),
                                                                   Eigen::internal::pload<Packet>(b.data() + i),
                                                                   Eigen::internal::pload<Packet>(c.data() + i)));
    return r;
  }
  static TWOHEADS_ALWAYS_INLINE Vector max(const Vector& a, const Vector& b) { return a.max(b); }

  static TWOHEADS_ALWAYS_INLINE Vector select(const Vector& x, const Vector& other, const Vector& at,
                                              const Vector& first, const Vector& last) {
    return (first <= at && at < last).select(x, other);
  }

  static TWOHEADS_ALWAYS_INLINE Vector exp2(const Vector& x) {
    // NaN must come out as NaN: of max(a, b), Eigen yields a where one of the two is NaN, as std::max does.
    const Vector clamped = x.max(Vector::Constant(Parts::least));
    const Vector rounder = Vector::Constant(Parts::rounder);
    Vector whole = clamped + rounder;
    const Vector rest = clamped - (whole - rounder);
    std::make_unsigned_t<typename Parts::Bits> bits[lanes];
    std::memcpy(bits, whole.data(), sizeof(bits));
    for (int i = 0; i < lanes; ++i) bits[i] <<= Parts::mantissa_bits;
    std::memcpy(whole.data(), bits, sizeof(bits));
    Vector p = Vector::Constant(Parts::coefficients[0]);
    TWOHEADS_UNROLL
    for (std::size_t i = 1; i < Parts::coefficients.size(); ++i)
      p = multiply_add(p, rest, Vector::Constant(Parts::coefficients[i]));
    return p * whole;
  }
};

}  // namespace twoheads
