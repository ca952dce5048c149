#pragma once

#include <algorithm>
#include <array>
#include <string>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/model/mask.hpp>
#include <twoheads/plan/plan.hpp>
#include <twoheads/plan/print.hpp>
#include <twoheads/plan/svg_tiles.hpp>
#include <twoheads/plan/visible.hpp>

namespace twoheads::detail {

/// Cells of a raster that have visible pairs are shaded by their share: to 1, 10, 50, 100 %, and all.
struct ShareShade {
  const char* colour;
  const char* words;
};
constexpr std::array<ShareShade, 5> share_shades{{{"#8fc4e6", "to 1 %"},
                                                  {"#68abd8", "to 10 %"},
                                                  {"#4690c5", "to 50 %"},
                                                  {"#2b74ab", "to 100 %"},
                                                  {"#154f80", "all"}}};
constexpr const char* hidden_colour = "#eef0f3";

[[nodiscard]] inline std::size_t shade_of(const Mask& mask, Sight seen, const Rows& queries, const Rows& keys,
                                          Index total) {
  if (seen == Sight::wholly) return 4;
  const double share = visible_share(mask, queries, keys, total);
  return share <= 0.01 ? 0 : share <= 0.1 ? 1 : share <= 0.5 ? 2 : 3;
}

/// The query block that holds a query.
[[nodiscard]] inline Index query_block_of(const Plan& plan, Index query) {
  Index low = 0;
  Index high = plan.query_blocks();
  while (high - low > 1) {
    const Index middle = low + (high - low) / 2;
    (plan.queries_of(middle).begin <= query ? low : high) = middle;
  }
  return low;
}

/// Draws the mask alone on a raster of `most` x `most` cells or fewer, in time that does not grow with the tokens.
inline void draw_svg_raster(std::string& svg, const Plan& plan, const SvgFrame& frame, Index most = 96) {
  const Mask& mask = plan.request().mask;
  const Index rows = std::min(most, plan.tokens());
  const Index columns = std::min(most, plan.keys());
  const double height = frame.height / static_cast<double>(rows);
  const double width = frame.width / static_cast<double>(columns);
  std::array<std::string, share_shades.size()> paths;
  std::string hovers;
  for (Index row = 0; row < rows; ++row) {
    const Rows queries = shifted(even_rows(row, rows, plan.tokens()), plan.queries().begin);
    const std::string y = svg_number(frame.y + height * static_cast<double>(row));
    // Neighbours of the same shade are one stroke of the path.
    constexpr std::size_t none = share_shades.size();
    std::size_t open = none;
    Index begin = 0;
    for (Index column = 0; column <= columns; ++column) {
      std::size_t shade = none;
      if (column < columns) {
        const Rows keys = even_rows(column, columns, plan.keys());
        const Sight seen = sight(mask, queries, keys, plan.keys());
        if (seen != Sight::hidden) shade = shade_of(mask, seen, queries, keys, plan.keys());
      }
      if (shade == open) continue;
      if (open != none)
        (paths[open] += "M") += svg_number(frame.x + width * static_cast<double>(begin)) + " " + y + "h" +
                                svg_number(width * static_cast<double>(column - begin)) + "v" + svg_number(height) +
                                "h" + svg_number(-width * static_cast<double>(column - begin)) + "Z";
      open = shade;
      begin = column;
    }
    const Index first = query_block_of(plan, queries.begin);
    const Index last = query_block_of(plan, queries.end - 1);
    hovers += "<path d=\"M" + svg_number(frame.x) + " " + y + "h" + svg_number(frame.width) + "v" + svg_number(height) +
              "h" + svg_number(-frame.width) + "Z\"><title>queries " +
              text(queries.begin, "..", queries.end - 1, "; query blocks ", first, "..", last) + "</title></path>\n";
  }
  // Without anti-aliasing no light seams show between cells.
  svg += "<g shape-rendering=\"crispEdges\">\n";
  for (std::size_t shade = 0; shade < paths.size(); ++shade)
    if (!paths[shade].empty())
      svg += "<path class=\"cells\" fill=\"" + std::string(share_shades[shade].colour) + "\" d=\"" + paths[shade] +
             "\"/>\n";
  svg += "</g>\n<g fill-opacity=\"0\">\n" + hovers + "</g>\n";
}

/// A corner of the grid that is worth a closer look: so many queries from the first on, and keys from one on.
struct ZoomCorner {
  Index queries = 0;
  Index keys = 0;
  Index first_key = 0;

  [[nodiscard]] Rows query_rows(const Plan& plan) const { return shifted({0, queries}, plan.queries().begin); }
  [[nodiscard]] Rows key_rows() const { return shifted({0, keys}, first_key); }
};

/// An upper bound of the tiles that enumerating the query blocks of a corner visits, as far as `most`.
[[nodiscard]] inline Index tiles_to_visit(const Plan& plan, const ZoomCorner& corner, Index most) {
  const Mask& mask = plan.request().mask;
  if (mask.kind == MaskKind::blocks) return std::min(plan.tiles(), most);
  Index tiles = 0;
  for (Index block = 0; block < plan.query_blocks() && tiles < most; ++block) {
    const Rows queries = plan.queries_of(block);
    if (queries.begin >= corner.query_rows(plan).end) break;
    const Index begin = mask.visible_keys(queries.begin, plan.keys()).keys.begin;
    const VisibleKeys last = mask.visible_keys(queries.end - 1, plan.keys());
    const Index keys = last.keys.end - begin + last.sinks.size();
    // A triangle that is halved has at most twice as many tiles as queries.
    tiles += 2 * (keys / plan.block() + 2) + 4 * std::min(queries.size(), most);
  }
  return std::min(tiles, plan.tiles());
}

/// The corner whose tiles are drawn one by one beside the raster: some query blocks, and of a narrow mask so much that
/// its far side is seen. Empty where even that would be too many tiles to go through.
[[nodiscard]] inline ZoomCorner zoom_corner(const Plan& plan) {
  constexpr Index most_visits = 20'000'000;
  constexpr Index most_drawn = 700;
  const Mask mask = plan.request().mask.simplified(plan.queries().end);
  const bool wide = mask.kind == MaskKind::full || mask.kind == MaskKind::causal;
  const Index reach = std::min(mask.most_visible(plan.keys()), plan.tokens());
  const Index wanted = reach + reach / 2 + reach;
  const Index least_blocks = mask.kind == MaskKind::documents ? 4 : 2;
  const Index most_blocks = wide ? 6 : 64;
  ZoomCorner corner;
  for (Index block = 0; block < std::min(plan.query_blocks(), most_blocks); ++block) {
    corner.queries = plan.queries_of(block).end - plan.queries().begin;
    if (!wide && block + 1 >= least_blocks && corner.queries >= wanted) break;
  }
  // Of a chunk after a past, a narrow mask shows the last keys alone.
  const Index past = plan.queries().begin;
  if (!wide && past > 0) corner.first_key = mask.visible_keys(past, plan.keys()).keys.begin;
  const Index shown = corner.queries + past - std::min(past, corner.first_key);
  corner.keys =
      std::min(wide ? std::max(corner.queries, most_blocks * plan.block()) : shown, plan.keys() - corner.first_key);
  const auto drawn = [&] {
    Index count = 0;
    for_each_framed_tile(plan, corner.query_rows(plan), corner.key_rows(), [&](const Tile&, Index) { ++count; });
    return count;
  };
  for (;;) {
    // Where tiles fill the corner, their number grows with the square of its side.
    Index divisor = 2;
    if (tiles_to_visit(plan, corner, most_visits) < most_visits) {
      const Index count = drawn();
      if (count <= most_drawn) return corner;
      while (divisor * divisor * most_drawn < count) ++divisor;
    }
    if (corner.queries == 1 && corner.keys == 1) return {};
    corner.queries = std::max<Index>(corner.queries / divisor, 1);
    corner.keys = std::max<Index>(corner.keys / divisor, 1);
  }
}

}  // namespace twoheads::detail
