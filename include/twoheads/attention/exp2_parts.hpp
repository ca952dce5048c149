#pragma once

#include <array>
#include <cstdint>

namespace twoheads::detail {

/// Constants of 2^x = p(x - n) * 2^n, n the whole number nearest to x.
///
///   Math   p(f) = 1 + c_1 f + ... + c_k f^k with the least largest relative error over |f| <= 1/2 (2.0e-9 for float,
///          3.4e-18 for double, before rounding). p(0) is exactly 1: otherwise the factor that rescales old sums when
///          the largest score stays would differ from 1, and errors would grow with the number of blocks.
template <class Scalar>
struct Exp2Parts;

template <>
struct Exp2Parts<float> {
  using Bits = std::int32_t;
  /// Adding it leaves x rounded to a whole number, plus the exponent's bias, in the lowest bits.
  static constexpr float rounder = 12582912.0f + 127.0f;
  static constexpr float least = -127.0f;  ///< 2^least has the bits of 0
  static constexpr int mantissa_bits = 23;
  /// c_k .. c_1, 1
  static constexpr std::array<float, 7> coefficients{0.00015353359143877284f,
                                                     0.00133988754413763053f,
                                                     0.00961843737699550676f,
                                                     0.05550332467873457000f,
                                                     0.24022647913338880405f,
                                                     0.69314720285712192641f,
                                                     1.0f};
};

template <>
struct Exp2Parts<double> {
  using Bits = std::int64_t;
  static constexpr double rounder = 6755399441055744.0 + 1023.0;
  static constexpr double least = -1023.0;
  static constexpr int mantissa_bits = 52;
  static constexpr std::array<double, 12> coefficients{
      4.4347711315661565621e-10, 7.0737833207326084096e-9, 1.0178199573161709385e-7, 1.3215435281817168198e-6,
      1.52527334931233431e-5,    0.00015403530457113263,   0.0013333558146774627,    0.0096181291075941190,
      0.055504108664820083,      0.24022650695910131,      0.69314718055994532581,   1.0};
};

}  // namespace twoheads::detail
