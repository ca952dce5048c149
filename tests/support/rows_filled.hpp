#pragma once

#include <algorithm>
#include <twoheads/plan/tile.hpp>

/// Rows of a call that a tile fills, the synthetic one and sinks apart: a causal call needs one row for each query of a
/// lower triangle, and one for each key but the first of a strict upper one.
[[nodiscard]] inline twoheads::Index rows_filled(const twoheads::Tile& tile) {
  if (tile.shape == twoheads::TileShape::lower) return tile.queries.size();
  if (tile.shape == twoheads::TileShape::strict_upper) return tile.keys.size() - 1;
  // The first query shares the row of the last key.
  if (tile.queries_last) return tile.queries.size() + tile.keys.size() - 1;
  return std::max(tile.queries.size(), tile.keys.size());
}
