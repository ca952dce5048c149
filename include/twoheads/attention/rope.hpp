#pragma once

#include <cmath>
#include <twoheads/base/matrix.hpp>
#include <twoheads/model/spec.hpp>
#include <vector>

namespace twoheads {

/// Rotates the pairs of every head of every row by the row's position.
///
///   Shapes   rows (N, heads * head_dim), in place; row i stands at position first_position + i
///   Math     (a, b) <- (a cos t - b sin t, a sin t + b cos t), t = position * theta^(-2 i / head_dim) for pair i
///   Units    angles in radians, computed in float64 or wider for every scalar
template <RealScalar Scalar>
void rotate(MatrixSpan<Scalar> rows, Index head_dim, const RopeSpec& rope, Index first_position = 0) {
  using Angle = SumScalar<Scalar>;
  if (head_dim < 2 || head_dim % 2 != 0 || rows.cols() % head_dim != 0)
    throw ShapeError(detail::text("rows of ", rows.cols(), " columns cannot rotate in heads of ", head_dim,
                                  ": expected an even head_dim that divides the columns"));
  const Index pairs = head_dim / 2;
  const Index heads = rows.cols() / head_dim;
  const bool halves = rope.pairing == RopePairing::halves;
  std::vector<Angle> frequency(static_cast<std::size_t>(pairs));
  for (Index pair = 0; pair < pairs; ++pair)
    frequency[static_cast<std::size_t>(pair)] =
        std::pow(static_cast<Angle>(rope.theta), -static_cast<Angle>(2 * pair) / static_cast<Angle>(head_dim));

  for (Index row = 0; row < rows.rows(); ++row) {
    for (Index pair = 0; pair < pairs; ++pair) {
      const Angle angle = static_cast<Angle>(first_position + row) * frequency[static_cast<std::size_t>(pair)];
      const auto cosine = static_cast<Scalar>(std::cos(angle));
      const auto sine = static_cast<Scalar>(std::sin(angle));
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

}  // namespace twoheads
