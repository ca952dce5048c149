#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>
#include <twoheads/base/matrix.hpp>
#include <twoheads/model/spec.hpp>
#include <vector>

namespace twoheads {

namespace detail {

/// By what angle each pair of a head turns from one position to the next, in radians; see RopeSpec and RopeStretch.
template <RealScalar Angle>
[[nodiscard]] std::vector<Angle> rope_frequencies(const RopeSpec& rope, Index head_dim) {
  const Index rotated = rope.rotated_dim == 0 ? head_dim : rope.rotated_dim;
  const auto dim = static_cast<Angle>(rotated);
  auto theta = static_cast<Angle>(rope.theta);
  if (rope.ntk_factor != 1.0) theta *= std::pow(static_cast<Angle>(rope.ntk_factor), dim / (dim - 2));
  std::vector<Angle> frequencies;
  for (Index pair = 0; pair < rotated / 2; ++pair) {
    Angle frequency = std::pow(theta, -static_cast<Angle>(2 * pair) / dim);
    if (rope.linear_factor != 1.0) frequency /= static_cast<Angle>(rope.linear_factor);
    if (rope.stretch) {
      const RopeStretch& stretch = *rope.stretch;
      const auto turns = static_cast<Angle>(stretch.positions) * frequency / (2 * std::numbers::pi_v<Angle>);
      const auto low = static_cast<Angle>(stretch.low_factor);
      const auto high = static_cast<Angle>(stretch.high_factor);
      const Angle kept = std::clamp((turns - low) / (high - low), Angle(0), Angle(1));
      frequency = frequency * kept + frequency / static_cast<Angle>(stretch.factor) * (1 - kept);
    }
    frequencies.push_back(frequency);
  }
  return frequencies;
}

/// Rotates the pairs of every head of every row: by t for `direction` 1, back by t for -1.
template <RealScalar Scalar>
void rotate_towards(MatrixSpan<Scalar> rows, Index head_dim, const RopeSpec& rope, Index first_position,
                    int direction) {
  using Angle = SumScalar<Scalar>;
  rope.require_valid(head_dim);
  if (rows.cols() % head_dim != 0)
    throw ShapeError(text("rows of ", rows.cols(), " columns cannot rotate in heads of ", head_dim,
                          ": expected a head_dim that divides the columns"));
  const Index heads = rows.cols() / head_dim;
  const bool halves = rope.pairing == RopePairing::halves;
  const std::vector<Angle> frequency = rope_frequencies<Angle>(rope, head_dim);
  const auto pairs = static_cast<Index>(frequency.size());

  for (Index row = 0; row < rows.rows(); ++row) {
    for (Index pair = 0; pair < pairs; ++pair) {
      const Angle angle = static_cast<Angle>(first_position + row) * frequency[static_cast<std::size_t>(pair)];
      const auto cosine = static_cast<Scalar>(std::cos(angle));
      const auto sine = static_cast<Scalar>(direction * std::sin(angle));
      for (Index head = 0; head < heads; ++head) {
        const Index first = head * head_dim + (halves ? pair : 2 * pair);
        const Index second = first + (halves ? pairs : 1);
        const Scalar a = rows(row, first);
        const Scalar b = rows(row, second);
        rows(row, first) = a * cosine - b * sine;
        rows(row, second) = a * sine + b * cosine;
      }
    }
  }
}

}  // namespace detail

/// Rotates the pairs of every head of every row by the row's position.
///
///   Shapes   rows (N, heads * head_dim), in place; row i stands at position first_position + i
///   Math     (a, b) <- (a cos t - b sin t, a sin t + b cos t), t = position * f_i for pair i: see RopeSpec
///   Units    angles in radians, computed in float64 or wider for every scalar
template <RealScalar Scalar>
void rotate(MatrixSpan<Scalar> rows, Index head_dim, const RopeSpec& rope, Index first_position = 0) {
  detail::rotate_towards(rows, head_dim, rope, first_position, 1);
}

/// Undoes rotate(); it is also what derivatives by rotated rows become by the rows before.
template <RealScalar Scalar>
void rotate_back(MatrixSpan<Scalar> rows, Index head_dim, const RopeSpec& rope, Index first_position = 0) {
  detail::rotate_towards(rows, head_dim, rope, first_position, -1);
}

}  // namespace twoheads
