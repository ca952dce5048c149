#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <twoheads/base/matrix.hpp>

namespace twoheads {

/// Hash of a matrix's bytes, row by row, as 16 hexadecimal digits: equal digests stand for equal bits.
///
///   Math     64-bit FNV-1a over the bytes of each scalar in memory order
///   Corner   -0 and +0 differ, as their bits do
template <RealScalar Scalar>
[[nodiscard]] std::string digest(const Matrix<Scalar>& values) {
  static_assert(!std::same_as<Scalar, long double>, "long double carries padding bytes without a meaning");
  std::uint64_t hash = 0xcbf29ce484222325ULL;
  for (Index row = 0; row < values.rows(); ++row) {
    for (Index col = 0; col < values.cols(); ++col) {
      unsigned char bytes[sizeof(Scalar)];
      std::memcpy(bytes, &values(row, col), sizeof(Scalar));
      for (const unsigned char byte : bytes) hash = (hash ^ byte) * 0x100000001b3ULL;
    }
  }
  std::string digits(16, '0');
  for (int place = 15; place >= 0; --place, hash >>= 4)
    digits[static_cast<std::size_t>(place)] = "0123456789abcdef"[hash & 15];
  return digits;
}

}  // namespace twoheads
