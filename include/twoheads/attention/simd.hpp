#pragma once

#include <concepts>
#include <twoheads/attention/simd_eigen.hpp>
#include <twoheads/attention/simd_vector.hpp>
#include <twoheads/base/matrix.hpp>

namespace twoheads {

/// Short vectors of numbers as the tile kernel needs them, one lane for each query.
///
///   lanes       numbers of a vector;   registers   vectors that the processor holds at once
///   max(a, b)   where one of the two is NaN, either of them
///   exp2(x)     2^x for x <= 0, correct to about one unit in the last place: exactly 1 for 0; 0 where 2^x is below the
///               normal numbers; NaN for NaN
///   select(x, other, at, first, last)
///               x where first <= at < last, else other, lane by lane
template <class B>
concept SimdBackend = requires(typename B::Scalar number, typename B::Vector x, const typename B::Scalar* from,
                               typename B::Scalar* to) {
  requires std::same_as<typename B::Scalar, float> || std::same_as<typename B::Scalar, double>;
  { B::lanes } -> std::convertible_to<int>;
  { B::registers } -> std::convertible_to<int>;
  { B::load(from) } -> std::same_as<typename B::Vector>;
  B::store(to, x);
  { B::broadcast(number) } -> std::same_as<typename B::Vector>;
  { B::add(x, x) } -> std::same_as<typename B::Vector>;
  { B::subtract(x, x) } -> std::same_as<typename B::Vector>;
  { B::multiply(x, x) } -> std::same_as<typename B::Vector>;
  { B::divide(x, x) } -> std::same_as<typename B::Vector>;
  { B::multiply_add(x, x, x) } -> std::same_as<typename B::Vector>;
  { B::max(x, x) } -> std::same_as<typename B::Vector>;
  { B::exp2(x) } -> std::same_as<typename B::Vector>;
  { B::select(x, x, x, x, x) } -> std::same_as<typename B::Vector>;
};

#if TWOHEADS_VECTOR_EXTENSIONS
static_assert(SimdBackend<VectorExtension<float>> && SimdBackend<VectorExtension<double>>);
/// The backend that the compiler allows: its vector extensions where it has them. To have Eigen's arrays everywhere,
/// define TWOHEADS_VECTOR_EXTENSIONS as 0 before the first include.
template <class Scalar>
using DefaultSimd = VectorExtension<Scalar>;
#else
template <class Scalar>
using DefaultSimd = EigenSimd<Scalar>;
#endif
static_assert(SimdBackend<EigenSimd<float>> && SimdBackend<EigenSimd<double>>);

}  // namespace twoheads
