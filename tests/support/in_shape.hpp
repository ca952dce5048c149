#pragma once

#include <twoheads/plan/tile.hpp>

/// Whether query i and key j of a tile, counted inside it, are one of its pairs. Sinks are pairs of their own.
[[nodiscard]] inline bool in_shape(twoheads::TileShape shape, twoheads::Index i, twoheads::Index j) {
  if (shape == twoheads::TileShape::lower) return j <= i;
  if (shape == twoheads::TileShape::strict_upper) return j > i;
  return true;
}
