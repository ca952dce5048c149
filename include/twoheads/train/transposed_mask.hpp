#pragma once

#include <algorithm>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/model/mask.hpp>
#include <vector>

namespace twoheads {

/// A mask with queries and keys exchanged, over rows in their order or, where `reversed`, from the last to the first.
struct TransposedMask {
  Mask mask;
  bool reversed = false;

  /// Where a row of so many stands.
  [[nodiscard]] Index place(Index row, Index rows) const { return reversed ? rows - 1 - row : row; }
};

namespace detail {

/// Of a window and sinks: key j is seen by the queries j .. j + window - 1, sinks by all from j on.
[[nodiscard]] inline Mask transposed_sinks(const Mask& mask, Index tokens) {
  Mask turned;
  turned.kind = MaskKind::blocks;
  for (Index key = 0; key < tokens; ++key) {
    turned.ends.push_back(key + 1);
    turned.shown.push_back({{key, key < mask.sinks ? tokens : key + std::min(mask.window, tokens - key)}});
  }
  return turned;
}

/// Of any pairs: keys between neighbouring ends of ranges are seen by the same groups of queries.
[[nodiscard]] inline Mask transposed_blocks(const Mask& mask, Index keys) {
  std::vector<Index> cuts{keys};
  for (const std::vector<Rows>& ranges : mask.shown)
    for (const Rows& range : ranges) {
      if (range.begin > 0) cuts.push_back(range.begin);
      cuts.push_back(range.end);
    }
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
  Mask turned;
  turned.kind = MaskKind::blocks;
  turned.ends = cuts;
  turned.shown.resize(cuts.size());
  for (std::size_t group = 0; group < mask.shown.size(); ++group) {
    const Rows queries{group == 0 ? 0 : mask.ends[group - 1], mask.ends[group]};
    for (const Rows& range : mask.shown[group]) {
      const auto first = std::upper_bound(cuts.begin(), cuts.end(), range.begin);
      for (auto cut = first; cut != cuts.end() && *cut <= range.end; ++cut) {
        std::vector<Rows>& seen = turned.shown[static_cast<std::size_t>(cut - cuts.begin())];
        if (!seen.empty() && seen.back().end == queries.begin)
          seen.back().end = queries.end;
        else
          seen.push_back(queries);
      }
    }
  }
  return turned;
}

}  // namespace detail

/// The mask of the transposed pairs: its query j sees key i where query i of `mask` sees key j.
///
///   Laws     transposed twice, the same pairs. Full masks, bands and documents turn into their own kind; causal masks,
///            windows and causal documents do so over reversed rows; sinks and blocks turn into blocks
///   Throws   SpecError where the mask is not defined for so many queries, from position 0 on, and keys
[[nodiscard]] inline TransposedMask transposed_mask(const Mask& mask, Index queries, Index keys) {
  mask.require_defined(queries, keys);
  const Mask plain = mask.simplified(queries);
  switch (plain.kind) {
    case MaskKind::full:
      break;
    case MaskKind::causal:
    case MaskKind::window:
      return {plain, true};
    case MaskKind::sinks:
      return {detail::transposed_sinks(plain, queries), false};
    case MaskKind::band:
      return {Mask::band(plain.right, plain.left), false};
    case MaskKind::documents: {
      if (!plain.causal_documents) return {plain, false};
      std::vector<Index> lengths;
      for (std::size_t d = plain.ends.size(); d-- > 0;)
        lengths.push_back(plain.ends[d] - (d == 0 ? 0 : plain.ends[d - 1]));
      return {Mask::documents(lengths, true), true};
    }
    case MaskKind::blocks:
      return {detail::transposed_blocks(plain, keys), false};
  }
  return {Mask::full(), false};
}

}  // namespace twoheads
