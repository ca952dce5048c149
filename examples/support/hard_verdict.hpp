#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <twoheads/model/weights.hpp>
#include <twoheads/plan/anchor.hpp>
#include <vector>

#include "support/hard_answers.hpp"

namespace programs {

using twoheads::Anchor;
using twoheads::Mask;
using twoheads::Matrix;
using twoheads::Model;

/// How the output rows say whole numbers.
enum class Reading {
  share,   ///< the share of the keys seen: times their number
  ratio,   ///< the share of the matches: over the share of the start mark, which counts as one match
  number,  ///< the number itself
};

/// A hand-built model, its input, and the exact answer.
///
///   Shapes   x (N, width); answers: N rows of as many numbers as are read, in columns `answer`, answer + 1 ..; for
///            ratios the start mark's share stands in the column after them
struct HardCase {
  std::string name;
  Model<double> model;
  Matrix<double> x;
  Table answers;
  Reading reading = Reading::number;
  Index answer = 0;     ///< first column that is read
  Index logit = 0;      ///< largest |score|
  Index margin = 0;     ///< least distance of a head's largest score from the next other one; 0: all are equal
  Index most_keys = 1;  ///< keys that share a row's attention evenly, at most

  [[nodiscard]] Index tokens() const { return x.rows(); }
};

/// How far an output row may be from its whole number, by a bound on all roundings that needs no run.
///
///   Units    of the answer; below 1/2, rounding to the nearest whole number is exact
///   Math     u, the scalar's unit roundoff; R rows a call, T = ceil(N / (R - 1)) tiles a row, a the largest answer.
///            E = -ln(least normal number): what an exponential's argument is at most, so its rounding costs E u.
///            An exponential has (E + 4) u, a sum of R of them R u more: O, r and p have (R + E + 5) u each, a tile's
///            value O / r and its weight r / p twice that, and shares of merged tiles, a quotient of sums of weights
///            by values, six times. Merging in float64 adds 4 T (logit + 20) 2^-53.
///            Where one key alone has weight, O, r and their quotient are single roundings: 8 u in all.
///            Anchor zero at scores of 0: exponentials are 1, sums are whole numbers; O, r, p, O / r, r / p: 10 u.
template <twoheads::RealScalar Scalar>
[[nodiscard]] double rounding_bound(const HardCase& c, Index rows, Anchor anchor) {
  constexpr double u = static_cast<double>(std::numeric_limits<Scalar>::epsilon()) / 2;
  Index largest = 0;
  for (const std::vector<Index>& row : c.answers)
    largest = std::max(largest, *std::max_element(row.begin(), row.end()));
  const auto tiles = static_cast<double>(twoheads::ceil_div(c.tokens(), rows - 1));
  const double merging = 4.0 * tiles * static_cast<double>(c.logit + 20) * 0x1p-53;
  const double deepest = -std::log(static_cast<double>(std::numeric_limits<Scalar>::min()));
  double relative = 6.0 * (static_cast<double>(rows) + deepest + 5.0) * u + merging;
  if (c.most_keys == 1) relative = 8.0 * u;
  if (c.logit == 0 && anchor == Anchor::zero) relative = 10.0 * u + merging;
  return (c.reading == Reading::ratio ? 2.0 : 1.0) * relative * static_cast<double>(largest);
}

/// What is wrong with output rows.
struct Verdict {
  Index numbers = 0;    ///< read
  Index wrong = 0;      ///< that rounding does not take to the answer, NaN among them
  double farthest = 0;  ///< largest distance of a number from its answer before rounding; infinite for a NaN
};

/// Reads the first rows of a case's output, as many as are there, and compares them with the answers.
template <twoheads::RealScalar Scalar>
[[nodiscard]] Verdict judge(const HardCase& c, const Matrix<Scalar>& rows) {
  Verdict verdict;
  for (Index row = 0; row < rows.rows(); ++row) {
    const std::vector<Index>& answers = c.answers[at(row)];
    const auto count = static_cast<Index>(answers.size());
    double factor = 1.0;
    if (c.reading == Reading::ratio) factor = 1.0 / static_cast<double>(rows(row, c.answer + count));
    if (c.reading == Reading::share)
      factor = static_cast<double>(c.model.spec.attention.mask.visible_keys(row, c.tokens()).size());
    for (Index column = 0; column < count; ++column) {
      const double found = factor * static_cast<double>(rows(row, c.answer + column));
      const double distance = std::abs(found - static_cast<double>(answers[at(column)]));
      ++verdict.numbers;
      if (!(distance < 0.5)) ++verdict.wrong;
      if (!(distance <= verdict.farthest))
        verdict.farthest = std::isnan(distance) ? std::numeric_limits<double>::infinity() : distance;
    }
  }
  return verdict;
}

}  // namespace programs
