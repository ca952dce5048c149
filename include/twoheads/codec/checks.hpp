#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <twoheads/base/matrix.hpp>
#include <twoheads/codec/layout.hpp>
#include <twoheads/plan/precision.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// The number of a call, as two columns of values carry it: its digits in a base that the precision tells apart.
///
///   Math     1 + digit / (base + 1), so in [1, 2): attention over a column of equal numbers is that number
///   Laws     of calls whose numbers differ by less than base^2 no two carry the same columns
template <RealScalar Scalar>
struct CallNumber {
  Scalar high = Scalar(1);  ///< digit of base
  Scalar low = Scalar(1);   ///< digit of 1

  /// What digits count up to.
  [[nodiscard]] static Index base(const OraclePrecision& precision) { return coarse(precision) ? 31 : 1021; }

  /// The columns of a call of this number.
  [[nodiscard]] static CallNumber of(std::uint64_t number, const OraclePrecision& precision) {
    const auto digits = static_cast<std::uint64_t>(base(precision));
    const auto step = Scalar(1) / static_cast<Scalar>(digits + 1);
    return {Scalar(1) + static_cast<Scalar>(number / digits % digits) * step,
            Scalar(1) + static_cast<Scalar>(number % digits) * step};
  }

 private:
  [[nodiscard]] static bool coarse(const OraclePrecision& precision) {
    const auto low = [](Precision p) { return facts_of(p).unit_roundoff > 0x1p-16; };
    return low(precision.tokens) || low(precision.weights) || low(precision.answers);
  }
};

/// Writes the checks of one row, whose other answer columns are there: the number of the call, and the mean of all
/// columns before it. Attention mixes rows alike in all columns, so the mean of an answer's columns is the answer of
/// the means, whatever the weights.
template <RealScalar Scalar>
void write_checks(Scalar* answer, const InstanceLayout& layout, const CallNumber<Scalar>& number) {
  const Index at = layout.checks_at();
  answer[at] = number.high;
  answer[at + 1] = number.low;
  // Divided first, so that it stays in range.
  double mean = 0;
  for (Index col = 0; col < at + 2; ++col) mean += static_cast<double>(answer[col]) / static_cast<double>(at + 2);
  answer[at + 2] = static_cast<Scalar>(mean);
}

/// The columns of one instance in an answer, and the largest |value| that the call held in them.
struct CheckedColumns {
  Index begin = 0;  ///< first column of the instance's answer
  double largest = 0;
};

/// Shapes   rows of a call, the instance's columns from input_begin; its answer's from answer_begin
template <RealScalar Scalar>
[[nodiscard]] CheckedColumns checked_columns(const Matrix<Scalar>& rows, Index input_begin, Index answer_begin,
                                             const InstanceLayout& layout) {
  const auto values = rows.middleCols(input_begin + layout.value_at(), layout.answer_cols());
  return {answer_begin, static_cast<double>(values.cwiseAbs().maxCoeff())};
}

/// What the checks of one instance of an answer say against it, or an empty text.
///
///   Shapes   answer (rows of the call, output width)
///   Math     number: to the nearest digit. Mean: to 16 unit round-offs of what was rounded and 2 n of the
///            sums', of the largest value.
///   Corner   what attention mixed wrongly but alike in all columns is not found: it needs a probe, not a checksum
template <RealScalar Scalar>
[[nodiscard]] std::string check_fault(const Matrix<Scalar>& answer, const CheckedColumns& instance,
                                      const InstanceLayout& layout, const CallNumber<Scalar>& number,
                                      const OraclePrecision& precision) {
  const Index at = instance.begin + layout.checks_at();
  const double step = 1.0 / static_cast<double>(CallNumber<Scalar>::base(precision) + 1);
  const double own = static_cast<double>(std::numeric_limits<Scalar>::epsilon()) / 2;
  const double rounding =
      std::max({own, facts_of(precision.tokens).unit_roundoff, facts_of(precision.answers).unit_roundoff});
  const double sums = std::max(own, facts_of(precision.scores).unit_roundoff);
  const double tolerance = instance.largest * (16 * rounding + 2 * static_cast<double>(answer.rows()) * sums);
  for (Index row = 0; row < answer.rows(); ++row) {
    const auto found = [&](Index col) { return static_cast<double>(answer(row, col)); };
    if (!(std::abs(found(at) - static_cast<double>(number.high)) < step / 2) ||
        !(std::abs(found(at + 1) - static_cast<double>(number.low)) < step / 2))
      return detail::text("row ", row, " carries the number (", found(at), ", ", found(at + 1), "), expected (",
                          number.high, ", ", number.low, "): the answer to another call");
    double mean = 0;
    for (Index col = instance.begin; col < at + 2; ++col)
      mean += found(col) / static_cast<double>(layout.checks_at() + 2);
    if (!(std::abs(found(at + 2) - mean) <= tolerance))
      return detail::text("row ", row, " has the checksum ", found(at + 2), ", its columns ", mean,
                          ": the answer is damaged");
  }
  return {};
}

/// The same for all instances of a call, as OracleCall::fault.
template <RealScalar Scalar>
[[nodiscard]] std::function<std::string(const Matrix<Scalar>&)> fault_by_checks(std::vector<CheckedColumns> instances,
                                                                                const InstanceLayout& layout,
                                                                                const CallNumber<Scalar>& number,
                                                                                const OraclePrecision& precision) {
  return [instances = std::move(instances), layout, number, precision](const Matrix<Scalar>& answer) {
    for (const CheckedColumns& instance : instances) {
      std::string fault = check_fault(answer, instance, layout, number, precision);
      if (!fault.empty()) return fault;
    }
    return std::string();
  };
}

}  // namespace twoheads
