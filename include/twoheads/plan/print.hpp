#pragma once

#include <algorithm>
#include <optional>
#include <ostream>
#include <string>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/plan/plan.hpp>
#include <vector>

namespace twoheads {
namespace detail {

[[nodiscard]] inline std::string counted(Index count, const std::string& thing) {
  return text(count, " ", thing, count == 1 ? "" : "s");
}

/// What a cell of the drawn grid holds.
struct GridCell {
  Index rectangles = 0;
  Index lowers = 0;
  Index uppers = 0;
  bool sampled = false;
};

[[nodiscard]] inline char symbol(const GridCell& cell) {
  if (cell.sampled) return 's';
  if (cell.rectangles > 0) return '#';
  if (cell.lowers > 0 && cell.uppers > 0) return 'X';
  if (cell.lowers > 0) return '\\';
  if (cell.uppers > 0) return '/';
  return '.';
}

/// Draws one character for each pair of blocks.
inline void draw_tiles(std::ostream& out, const Plan& plan) {
  const Index side = plan.straight() ? std::max(plan.tokens(), plan.keys()) : plan.block();
  const Index columns = ceil_div(plan.keys(), side);
  for (Index block = 0; block < plan.query_blocks(); ++block) {
    std::vector<GridCell> cells(static_cast<std::size_t>(columns));
    plan.for_each_tile(block, [&](const Tile& tile) {
      // Blocks of a sampled plan have nearly one length, those of others all but the last.
      const Index column = plan.sampled() != nullptr ? tile.keys.begin * columns / plan.keys() : tile.keys.begin / side;
      GridCell& cell = cells[static_cast<std::size_t>(column)];
      cell.sampled = cell.sampled || tile.sampled();
      if (tile.shape == TileShape::rectangle) ++cell.rectangles;
      if (tile.shape == TileShape::lower) ++cell.lowers;
      if (tile.shape == TileShape::strict_upper) ++cell.uppers;
    });
    out << "  ";
    for (const GridCell& cell : cells) out << ' ' << symbol(cell);
    out << "\n";
  }
}

/// Draws the mask on a coarse grid of `cells` cells a side; each stands for several blocks.
inline void draw_mask(std::ostream& out, const Plan& plan, Index cells) {
  const Mask& mask = plan.request().mask;
  const auto edge = [cells](Index cell, Index total) {
    return static_cast<Index>(static_cast<double>(total) / static_cast<double>(cells) * static_cast<double>(cell));
  };
  for (Index row = 0; row < cells; ++row) {
    const Rows queries{edge(row, plan.tokens()), edge(row + 1, plan.tokens())};
    out << "  ";
    for (Index col = 0; col < cells; ++col) {
      const Rows keys{edge(col, plan.keys()), edge(col + 1, plan.keys())};
      const Rows first = mask.visible_keys(queries.begin, plan.keys()).keys;
      const Rows last = mask.visible_keys(queries.end - 1, plan.keys()).keys;
      const bool all = first.begin <= keys.begin && keys.end <= first.end;
      const bool none = last.end <= keys.begin || first.begin >= keys.end;
      out << ' ' << (all ? '#' : none ? '.' : '\\');
    }
    out << "\n";
  }
}

}  // namespace detail

/// Draws the plan's grid in characters, queries downwards and keys to the right, and says its counts in words.
inline void print(std::ostream& out, const Plan& plan) {
  constexpr Index most = 40;
  const PlanRequest& request = plan.request();
  out << name(request.mask.kind) << " attention over " << plan.tokens() << " tokens";
  if (plan.keys() != plan.tokens()) out << " and " << plan.keys() << " keys";
  out << " on a " << name(request.oracle.kind) << " oracle of " << request.oracle.rows << " rows\n\n";
  if (plan.straight()) {
    detail::draw_tiles(out, plan);
    out << "\n  the input fits one call, no synthetic row is needed\n";
  } else if (plan.query_blocks() <= most && ceil_div(plan.keys(), plan.block()) <= most) {
    detail::draw_tiles(out, plan);
    out << "\n  each mark is a pair of blocks of up to " << plan.block()
        << " tokens: # a rectangle, \\ a lower triangle, X a lower and a\n"
        << "  reversed strict upper triangle (two jobs), . hidden\n";
    if (plan.sampled() != nullptr)
      out << "  or not drawn; s drawn at random, one of " << request.sampling.samples
          << " in a row that stand for all that were not\n";
  } else {
    detail::draw_mask(out, plan, most);
    out << "\n  each mark stands for about " << (plan.tokens() + most - 1) / most
        << " queries: # visible, \\ partly, . hidden\n";
  }
  out << "\n  tiles      " << plan.tiles() << " a head and layer, in " << detail::counted(plan.slots(), "slot")
      << "\n  jobs       " << plan.jobs() << " of " << detail::counted(request.heads, "head") << " and "
      << detail::counted(request.layers, "layer") << "\n  calls      " << plan.calls() << " of up to "
      << detail::counted(plan.slots_per_call(), "slot") << ", anchor " << name(request.anchor) << "\n  rounds     "
      << plan.rounds() << "\n  rows used  " << static_cast<int>(plan.rows_used() * 1000 + 0.5) / 10.0
      << " % of the row slots carry tokens\n  exact      " << (plan.exact() ? "yes" : "no") << ", by " << plan.theorem()
      << "\n  the paper  ";
  if (const std::optional<Index> calls = plan.paper_calls())
    out << *calls << " calls for the same case\n";
  else
    out << "has no construction for this case\n";
}

}  // namespace twoheads
