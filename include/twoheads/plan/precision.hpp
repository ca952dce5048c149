#pragma once

#include <limits>

namespace twoheads {

/// What numbers are rounded to; `own` stands for the scalar that an oracle is called in.
enum class Precision { own, float64, float32, bfloat16, half, int8 };

/// The name as programs take it.
[[nodiscard]] constexpr const char* name(Precision precision) {
  switch (precision) {
    case Precision::own:
      return "own";
    case Precision::float64:
      return "float64";
    case Precision::float32:
      return "float32";
    case Precision::bfloat16:
      return "bfloat16";
    case Precision::half:
      return "half";
    case Precision::int8:
      return "int8";
  }
  return "";
}

/// What a precision can hold.
///
///   Units    relative for unit_roundoff, but absolute for int8, which holds 1/255 apart
struct PrecisionFacts {
  double unit_roundoff = 0;  ///< largest relative error of rounding a normal number
  double least_normal = 0;   ///< smallest number with all its digits
  double largest = 0;        ///< largest finite number
};

/// Corner   `own` holds whatever the caller's scalar holds: no error of its own
[[nodiscard]] constexpr PrecisionFacts facts_of(Precision precision) {
  switch (precision) {
    case Precision::own:
      return {0, 0, std::numeric_limits<double>::infinity()};
    case Precision::float64:
      return {0x1p-53, 0x1p-1022, std::numeric_limits<double>::max()};
    case Precision::float32:
      return {0x1p-24, 0x1p-126, std::numeric_limits<float>::max()};
    case Precision::bfloat16:
      return {0x1p-8, 0x1p-126, 0x1.FEp127};
    case Precision::half:
      return {0x1p-11, 0x1p-14, 65504.0};
    case Precision::int8:
      return {1.0 / 255.0, 1.0 / 255.0, 1.0};
  }
  return {};
}

/// Where an oracle rounds, and to what.
struct OraclePrecision {
  Precision tokens = Precision::own;   ///< rows of a call, or q, k and v
  Precision scores = Precision::own;   ///< q . k, and the sums that make it
  Precision weights = Precision::own;  ///< attention weights, before they meet the values
  Precision answers = Precision::own;  ///< what an oracle hands back

  friend constexpr bool operator==(const OraclePrecision&, const OraclePrecision&) = default;
};

/// Half or bfloat16 in and out, scores and sums in float: what accelerators and their runtimes usually do.
[[nodiscard]] constexpr OraclePrecision mixed_precision(Precision low) { return {low, Precision::float32, low, low}; }

}  // namespace twoheads
