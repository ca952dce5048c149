// The backends of the tile kernel: every operation lane by lane against plain arithmetic.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <twoheads/attention/simd.hpp>

#include "support/seed.hpp"

namespace {

using namespace twoheads;

template <class Backend>
struct Simd : testing::Test {
  using Number = typename Backend::Scalar;
  using Numbers = std::array<Number, Backend::lanes>;
  static constexpr Number nan = std::numeric_limits<Number>::quiet_NaN();
  static constexpr Number infinite = std::numeric_limits<Number>::infinity();

  static auto load(const Numbers& numbers) {
    alignas(128) Numbers aligned = numbers;
    return Backend::load(aligned.data());
  }
  static Numbers numbers(const typename Backend::Vector& x) {
    alignas(128) Numbers result;
    Backend::store(result.data(), x);
    return result;
  }
  static Numbers random_numbers(std::uint64_t seed) {
    std::mt19937_64 bits(seed);
    std::normal_distribution<double> normal;
    Numbers result;
    std::generate(result.begin(), result.end(), [&] { return static_cast<Number>(normal(bits)); });
    return result;
  }
  /// 2^x of one number, whichever the lane.
  static Number exp2(Number x) {
    const Numbers result = numbers(Backend::exp2(Backend::broadcast(x)));
    for (const Number lane : result) EXPECT_TRUE(lane == result[0] || std::isnan(lane));
    return result[0];
  }
};

using Backends = testing::Types<VectorExtension<float>, VectorExtension<double>, VectorExtension<float, 16, 16>,
                                EigenSimd<float>, EigenSimd<double>, EigenSimd<float, 16>>;
TYPED_TEST_SUITE(Simd, Backends);

TYPED_TEST(Simd, ArithmeticIsThatOfEachLane) {
  using Scalar = typename TypeParam::Scalar;
  const auto a = this->random_numbers(seed_or(31));
  const auto b = this->random_numbers(seed_or(32));
  const auto c = this->random_numbers(seed_or(33));
  const auto x = this->load(a);
  const auto y = this->load(b);
  const auto z = this->load(c);
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(this->numbers(TypeParam::add(x, y))[i], a[i] + b[i]);
    EXPECT_EQ(this->numbers(TypeParam::subtract(x, y))[i], a[i] - b[i]);
    EXPECT_EQ(this->numbers(TypeParam::multiply(x, y))[i], a[i] * b[i]);
    EXPECT_EQ(this->numbers(TypeParam::divide(x, y))[i], a[i] / b[i]);
    EXPECT_EQ(this->numbers(TypeParam::max(x, y))[i], std::max(a[i], b[i]));
    // Rounded once or twice, as the target does.
    const Scalar size = std::abs(a[i] * b[i]) + std::abs(c[i]);
    EXPECT_NEAR(this->numbers(TypeParam::multiply_add(x, y, z))[i], a[i] * b[i] + c[i],
                std::numeric_limits<Scalar>::epsilon() * size);
  }
}

TYPED_TEST(Simd, SelectKeepsLanesWhoseRangeHoldsThePlace) {
  using Scalar = typename TypeParam::Scalar;
  typename Simd<TypeParam>::Numbers first, last;
  for (std::size_t i = 0; i < first.size(); ++i) {
    first[i] = static_cast<typename TypeParam::Scalar>(i % 3);
    last[i] = static_cast<typename TypeParam::Scalar>(i % 5);
  }
  for (int place = 0; place < 6; ++place) {
    // A NaN that is not selected leaves no trace.
    const auto kept = this->numbers(TypeParam::select(TypeParam::broadcast(this->nan), TypeParam::broadcast(7),
                                                      TypeParam::broadcast(static_cast<Scalar>(place)),
                                                      this->load(first), this->load(last)));
    for (std::size_t i = 0; i < first.size(); ++i) {
      const bool inside = static_cast<int>(i % 3) <= place && place < static_cast<int>(i % 5);
      EXPECT_EQ(std::isnan(kept[i]), inside) << "lane " << i << ", place " << place;
      if (!inside) {
        EXPECT_EQ(kept[i], Scalar(7));
      }
    }
  }
}

TYPED_TEST(Simd, Exp2IsRightToTwoUnitsInTheLastPlace) {
  using Scalar = typename TypeParam::Scalar;
  const Scalar least = std::is_same_v<Scalar, float> ? Scalar(-126) : Scalar(-1022);
  long double worst = 0;
  for (int step = 0; step <= 200'000; ++step) {
    const Scalar x = least * static_cast<Scalar>(step) / Scalar(200'000);
    const long double truth = std::exp2(static_cast<long double>(x));
    worst = std::max(worst, std::abs(static_cast<long double>(this->exp2(x)) / truth - 1));
  }
  EXPECT_LE(worst, 1.01L * std::numeric_limits<Scalar>::epsilon());
}

TYPED_TEST(Simd, Exp2OfZeroIsExactlyOne) {
  using Scalar = typename TypeParam::Scalar;
  EXPECT_EQ(this->exp2(Scalar(0)), Scalar(1));
  EXPECT_EQ(this->exp2(-Scalar(0)), Scalar(1));
  for (int n = 1; n < 126; ++n) EXPECT_EQ(this->exp2(static_cast<Scalar>(-n)), std::ldexp(Scalar(1), -n)) << n;
}

TYPED_TEST(Simd, Exp2EndsAtZeroAndHidesNoNaN) {
  using Scalar = typename TypeParam::Scalar;
  EXPECT_TRUE(std::isnan(this->exp2(this->nan)));
  EXPECT_EQ(this->exp2(-this->infinite), Scalar(0));
  EXPECT_EQ(this->exp2(std::numeric_limits<Scalar>::lowest()), Scalar(0));
  EXPECT_EQ(this->exp2(std::is_same_v<Scalar, float> ? Scalar(-127) : Scalar(-1023)), Scalar(0));
}

}  // namespace
