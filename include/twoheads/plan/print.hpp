#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <ostream>
#include <string>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/plan/plan.hpp>
#include <twoheads/plan/visible.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// How the grid of a plan is drawn in characters.
struct GridStyle {
  bool utf8 = false;    ///< Unicode's blocks and triangles, else ASCII
  bool colour = false;  ///< a colour of the terminal for each mark
};

namespace detail {

/// "causal attention", "window attention (the last 64 keys)"
[[nodiscard]] inline std::string words_of(const Mask& mask) {
  const std::string kind = text(name(mask.kind), " attention");
  switch (mask.kind) {
    case MaskKind::full:
    case MaskKind::causal:
      break;
    case MaskKind::window:
      return text(kind, " (the last ", counted(mask.window, "key"), ")");
    case MaskKind::sinks:
      return text(kind, " (the first ", counted(mask.sinks, "key"), " and the last ", mask.window, ")");
    case MaskKind::band:
      return text(kind, " (", counted(mask.left, "key"), " before and ", mask.right, " after)");
    case MaskKind::documents:
      return text(kind, " (", counted(static_cast<Index>(mask.ends.size()), "document"),
                  mask.causal_documents ? ", causal inside)" : ")");
    case MaskKind::blocks:
      return text(kind, " (", counted(static_cast<Index>(mask.ends.size()), "group"), " of queries that see the same)");
  }
  return kind;
}

[[nodiscard]] constexpr Rows shifted(Rows rows, Index by) { return {rows.begin + by, rows.end + by}; }

/// Most marks a side of a grid in characters.
constexpr Index most_marks = 40;

/// Which tiles have visible pairs in a cell of the drawn grid.
struct GridCell {
  bool rectangle = false;
  bool lower = false;
  bool upper = false;
  bool sinks = false;
  bool sampled = false;
};

[[nodiscard]] inline char mark_of(const GridCell& cell, Sight sight) {
  const int shapes = (cell.rectangle ? 1 : 0) + (cell.lower ? 1 : 0) + (cell.upper ? 1 : 0);
  if (cell.sampled) return 's';
  if (shapes > 1) return 'X';
  if (cell.rectangle) return sight == Sight::wholly ? '#' : '+';
  if (cell.lower) return '\\';
  if (cell.upper) return '/';
  return cell.sinks ? '|' : '.';
}

/// One mark for each square of `side` x `side` pairs: a line a row of squares.
[[nodiscard]] inline std::vector<std::string> marks_of_tiles(const Plan& plan, Index side) {
  const Index first_query = plan.queries().begin;
  const auto columns = static_cast<std::size_t>(ceil_div(plan.keys(), side));
  const auto rows = static_cast<std::size_t>(ceil_div(plan.tokens(), side));
  std::vector<std::vector<GridCell>> cells(rows, std::vector<GridCell>(columns));
  const auto mark = [&](Index row, Index begin, Index end, bool GridCell::*what) {
    for (Index column = begin / side; column * side < end; ++column)
      cells[static_cast<std::size_t>(row)][static_cast<std::size_t>(column)].*what = true;
  };
  const auto mark_tile = [&](const Tile& tile) {
    const auto shape = tile.shape == TileShape::rectangle ? &GridCell::rectangle
                       : tile.shape == TileShape::lower   ? &GridCell::lower
                                                          : &GridCell::upper;
    for (Index begin = tile.queries.begin; begin < tile.queries.end;) {
      const Index row = (begin - first_query) / side;
      const Index end = std::min(tile.queries.end, first_query + (row + 1) * side);
      const Rows first = tile.visible_keys(begin - tile.queries.begin);
      const Rows last = tile.visible_keys(end - 1 - tile.queries.begin);
      mark(row, first.begin, std::max(first.end, last.end), shape);
      if (!tile.sinks.empty()) mark(row, tile.sinks.begin, tile.sinks.end, &GridCell::sinks);
      begin = end;
    }
  };
  for (Index block = 0; block < plan.query_blocks(); ++block) plan.for_each_tile(block, mark_tile);

  std::vector<std::string> lines(rows);
  for (std::size_t row = 0; row < rows; ++row)
    for (std::size_t column = 0; column < columns; ++column) {
      const Rows queries = shifted(block_rows(static_cast<Index>(row), side, plan.tokens()), first_query);
      const Rows keys = block_rows(static_cast<Index>(column), side, plan.keys());
      lines[row] += mark_of(cells[row][column], sight(plan.request().mask, queries, keys, plan.keys()));
    }
  return lines;
}

/// One mark for each pair of blocks of a sampled plan, whose blocks differ by a token at most.
[[nodiscard]] inline std::vector<std::string> marks_of_samples(const Plan& plan) {
  const Index columns = ceil_div(plan.keys(), plan.block());
  std::vector<std::string> lines;
  for (Index block = 0; block < plan.query_blocks(); ++block) {
    std::vector<GridCell> cells(static_cast<std::size_t>(columns));
    plan.for_each_tile(block, [&](const Tile& tile) {
      GridCell& cell = cells[static_cast<std::size_t>(tile.keys.begin * columns / plan.keys())];
      cell.sampled = cell.sampled || tile.sampled();
      cell.rectangle = cell.rectangle || tile.shape == TileShape::rectangle;
      cell.lower = cell.lower || tile.shape == TileShape::lower;
      cell.upper = cell.upper || tile.shape == TileShape::strict_upper;
    });
    std::string& line = lines.emplace_back();
    for (const GridCell& cell : cells) line += mark_of(cell, Sight::wholly);
  }
  return lines;
}

/// The mask on a coarse grid, each mark for the same number of queries and of keys, give or take one.
[[nodiscard]] inline std::vector<std::string> marks_of_mask(const Plan& plan, char partly) {
  const Index rows = std::min(most_marks, plan.tokens());
  const Index columns = std::min(most_marks, plan.keys());
  std::vector<std::string> lines(static_cast<std::size_t>(rows));
  for (Index row = 0; row < rows; ++row)
    for (Index column = 0; column < columns; ++column) {
      const Rows queries = shifted(even_rows(row, rows, plan.tokens()), plan.queries().begin);
      const Sight seen = sight(plan.request().mask, queries, even_rows(column, columns, plan.keys()), plan.keys());
      lines[static_cast<std::size_t>(row)] += seen == Sight::wholly ? '#' : seen == Sight::partly ? partly : '.';
    }
  return lines;
}

/// A mark in some style.
[[nodiscard]] inline std::string styled(char mark, const GridStyle& style) {
  struct Look {
    char mark;
    const char* utf8;
    const char* colour;
  };
  constexpr Look looks[]{{'#', "\u2588", "34"}, {'+', "\u2592", "36"}, {'\\', "\u25e3", "32"}, {'/', "\u25e5", "35"},
                         {'X', "\u25c6", "33"}, {'|', "\u2502", "31"}, {'.', "\u00b7", "90"},  {'s', "\u25cf", "36"}};
  for (const Look& look : looks) {
    if (look.mark != mark) continue;
    const std::string shape = style.utf8 ? std::string(look.utf8) : std::string(1, mark);
    return style.colour ? text("\33[", look.colour, "m", shape, "\33[0m") : shape;
  }
  return std::string(1, mark);
}

inline void draw(std::ostream& out, const std::vector<std::string>& lines, const GridStyle& style) {
  for (const std::string& line : lines) {
    out << "  ";
    for (const char mark : line) out << ' ' << styled(mark, style);
    out << "\n";
  }
  out << "\n";
}

/// Says what the marks in the lines mean, those that are there.
inline void explain(std::ostream& out, const std::vector<std::string>& lines, Index side, const GridStyle& style) {
  if (side == 1)
    out << "  each mark is a pair, and tells the tile that holds it:\n";
  else
    out << "  each mark is a square of up to " << side << " queries and keys, and tells which tiles meet it:\n";
  constexpr std::pair<char, const char*> meanings[]{
      {'s', "a block that was drawn at random"}, {'#', "rectangles, all visible"},
      {'+', "rectangles, partly hidden"},        {'\\', "a lower triangle"},
      {'/', "a strict upper triangle"},          {'X', "tiles of different shapes"},
      {'|', "sinks that ride with a triangle"},  {'.', "none: all hidden"}};
  for (const auto& [mark, meaning] : meanings)
    for (const std::string& line : lines)
      if (line.find(mark) != std::string::npos) {
        out << "    " << styled(mark, style) << "  " << meaning << "\n";
        break;
      }
}

inline void draw_grid(std::ostream& out, const Plan& plan, const GridStyle& style) {
  const auto styled = [&](char mark) { return detail::styled(mark, style); };
  constexpr Index most_tiles = 200'000;
  const MaskKind kind = plan.request().mask.simplified(plan.queries().end).kind;
  // Chunks after a past, and few queries on a causal oracle, are not cut into pairs of blocks.
  const bool few = plan.oracle().kind == OracleKind::causal && plan.tokens() <= plan.block();
  const bool whole = kind == MaskKind::full ? !few : kind == MaskKind::causal && plan.queries().begin == 0;
  const bool blocks = whole && plan.sampled() == nullptr;
  const Index longest = std::max(plan.tokens(), plan.keys());
  if (plan.straight()) {
    draw(out, marks_of_tiles(plan, longest), style);
    out << "  the input fits one call, no synthetic row is needed\n";
  } else if (plan.sampled() != nullptr &&
             std::max(plan.query_blocks(), ceil_div(longest, plan.block())) <= most_marks) {
    const std::vector<std::string> lines = marks_of_samples(plan);
    draw(out, lines, style);
    explain(out, lines, plan.block(), style);
  } else if (blocks && ceil_div(longest, plan.block()) <= most_marks) {
    const std::vector<std::string> lines = marks_of_tiles(plan, plan.block());
    draw(out, lines, style);
    if (kind == MaskKind::causal && plan.oracle().kind == OracleKind::plain)
      return explain(out, lines, plan.block(), style);
    out << "  each mark is a pair of blocks of up to " << plan.block() << " tokens: " << styled('#') << " a rectangle, "
        << styled('\\') << " a lower triangle, " << styled('X')
        << " a lower and a\n  reversed strict upper triangle (two jobs), " << styled('.') << " hidden\n";
  } else if (!blocks && plan.sampled() == nullptr && plan.tiles() <= most_tiles) {
    const Index side = ceil_div(longest, most_marks);
    const std::vector<std::string> lines = marks_of_tiles(plan, side);
    draw(out, lines, style);
    explain(out, lines, side, style);
  } else {
    const char partly = blocks ? '\\' : '+';
    draw(out, marks_of_mask(plan, partly), style);
    out << "  each mark stands for about " << ceil_div(plan.tokens(), most_marks)
        << (plan.tokens() <= most_marks ? " query" : " queries");
    if (plan.keys() != plan.tokens()) out << " and " << counted(ceil_div(plan.keys(), most_marks), "key");
    out << ": " << styled('#') << " visible, " << styled(partly) << " partly, " << styled('.') << " hidden\n";
  }
}

}  // namespace detail

/// Draws the plan's grid in characters, queries downwards and keys to the right, and says its counts in words.
inline void print(std::ostream& out, const Plan& plan, const GridStyle& style = {}) {
  const PlanRequest& request = plan.request();
  out << detail::words_of(request.mask) << " over " << detail::counted(plan.tokens(), "token");
  if (request.past > 0) out << " after " << request.past;
  if (plan.keys() != plan.queries().end) out << " and " << detail::counted(plan.keys(), "key");
  const bool kernel = request.oracle.kind == OracleKind::kernel;
  if (kernel)
    out << " by the kernel, in blocks of " << request.oracle.rows << " rows\n\n";
  else
    out << " on a " << name(request.oracle.kind) << " oracle of " << request.oracle.rows << " rows\n\n";
  detail::draw_grid(out, plan, style);
  out << "\n  tiles      " << plan.tiles() << " a head and layer";
  if (!kernel) out << ", in " << detail::counted(plan.slots(), "slot");
  out << "\n  jobs       " << plan.jobs() << " of " << detail::counted(request.heads, "head") << " and "
      << detail::counted(request.layers, "layer");
  if (!kernel)
    out << "\n  calls      " << plan.calls() << " of up to " << detail::counted(plan.slots_per_call(), "slot")
        << ", anchor " << name(request.anchor) << "\n  rounds     " << plan.rounds() << "\n  rows used  "
        << static_cast<int>(plan.rows_used() * 1000 + 0.5) / 10.0 << " % of the row slots carry tokens";
  out << "\n  exact      " << (plan.exact() ? "yes" : "no") << ", by " << plan.theorem() << "\n";
  if (kernel) return;
  if (const std::optional<Index> calls = plan.paper_calls())
    out << "  the paper  " << *calls << " calls for the same case\n";
  else
    out << "  the paper  has no construction for this case\n";
}

}  // namespace twoheads
