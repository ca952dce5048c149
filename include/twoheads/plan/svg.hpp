#pragma once

#include <algorithm>
#include <optional>
#include <ostream>
#include <string>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/plan/plan.hpp>
#include <twoheads/plan/print.hpp>
#include <twoheads/plan/svg_raster.hpp>
#include <twoheads/plan/svg_tiles.hpp>
#include <vector>

namespace twoheads {
namespace detail {

constexpr double svg_width = 980;
constexpr double svg_grid = 560;    ///< longer side of the grid
constexpr double svg_legend = 668;  ///< where the legend begins
constexpr double svg_column = 280;  ///< its width
constexpr const char* svg_grey = "fill=\"#5a6470\"";
constexpr const char* svg_bold = "font-weight=\"600\"";

/// True where each tile can be drawn and seen: not too many of them, and no mask thinner than a few pixels.
[[nodiscard]] inline bool draws_tiles(const Plan& plan) {
  constexpr Index most_tiles = 4096;
  constexpr double least_width = 4;
  const Index longest = std::max(plan.tokens(), plan.keys());
  const double seen = static_cast<double>(plan.request().mask.most_visible(plan.keys())) / static_cast<double>(longest);
  return plan.tiles() <= most_tiles && seen * svg_grid >= least_width;
}

/// Cuts text at blanks into lines of at most `most` characters, as far as its words allow.
[[nodiscard]] inline std::vector<std::string> svg_lines(const std::string& text, std::size_t most) {
  std::vector<std::string> lines(1);
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find(' ', begin), text.size());
    const std::string word = text.substr(begin, end - begin);
    if (!lines.back().empty() && lines.back().size() + 1 + word.size() > most) lines.emplace_back();
    lines.back() += (lines.back().empty() ? "" : " ") + word;
    begin = end + 1;
  }
  return lines;
}

/// The background, frame, axes and ends of a grid.
inline void draw_svg_axes(std::string& svg, const SvgFrame& frame, double size) {
  const double right = frame.x + frame.width;
  const double bottom = frame.y + frame.height;
  const double middle = frame.y + frame.height / 2;
  const std::string end = std::string(svg_grey) + " text-anchor=\"end\"";
  const std::string centre = std::string(svg_grey) + " text-anchor=\"middle\"";
  svg += svg_text(frame.x, frame.y - 8, size, svg_count(frame.keys.begin), svg_grey);
  svg += svg_text(frame.x + frame.width / 2, frame.y - 8, size, "keys \xE2\x86\x92", centre);
  svg += svg_text(right, frame.y - 8, size, svg_count(frame.keys.end), end);
  svg += svg_text(frame.x - 7, frame.y + size, size, svg_count(frame.queries.begin), end);
  svg += svg_text(frame.x - 7, bottom, size, svg_count(frame.queries.end), end);
  svg += svg_text(frame.x - 10, middle, size, "\xE2\x86\x90 queries",
                  centre + " transform=\"rotate(-90 " + svg_number(frame.x - 10) + " " + svg_number(middle) + ")\"");
}

inline void draw_svg_background(std::string& svg, const SvgFrame& frame) {
  svg += svg_rect(frame.x, frame.y, frame.width, frame.height, "fill=\"" + std::string(hidden_colour) + "\"");
}

inline void draw_svg_border(std::string& svg, const SvgFrame& frame, const char* colour, const char* width) {
  svg += svg_rect(frame.x, frame.y, frame.width, frame.height,
                  text("fill=\"none\" stroke=\"", colour, "\" stroke-width=\"", width, "\""));
}

/// The column beside the grid; y is where its next part begins.
struct SvgLegend {
  std::string& svg;
  double y;  ///< base line of what comes next

  void heading(const std::string& words) {
    y += 12;
    svg += svg_text(svg_legend, y, 13, words, svg_bold);
    y += 21;
  }

  void note(const std::string& words) {
    for (const std::string& line : svg_lines(words, 46)) {
      svg += svg_text(svg_legend, y, 12, line, svg_grey);
      y += 17;
    }
  }

  void fact(const std::string& name, const std::string& value) {
    svg += svg_text(svg_legend, y, 12.5, name, svg_grey);
    svg += svg_text(svg_legend + svg_column, y, 12.5, value, "text-anchor=\"end\"");
    y += 19;
  }

  /// A line for each shape that is there, with their number unless that is negative.
  void shapes(const ShapeCounts& there, bool counted) {
    const auto shape = [&](const Tile& tile, Index count, const std::string& words) {
      if (count == 0) return;
      const SvgFrame icon{svg_legend + 1, y - 12, 15, 15, {0, 5}, {0, 5}};
      svg += "<path fill=\"#c4ccd4\" stroke=\"#333333\" stroke-width=\"0.8\" d=\"" + outline(tile, icon) + "\"/>\n";
      svg += svg_text(svg_legend + 26, y, 12.5, words);
      if (counted) svg += svg_text(svg_legend + svg_column, y, 12.5, svg_count(count), "text-anchor=\"end\"");
      y += 22;
    };
    shape({{0, 5}, {0, 5}}, there.rectangles, name(TileShape::rectangle));
    shape({{0, 5}, {0, 5}, TileShape::lower}, there.lowers, name(TileShape::lower));
    shape({{0, 5}, {0, 5}, TileShape::strict_upper}, there.uppers, name(TileShape::strict_upper));
    shape({{0, 5}, {0, 1}}, there.sinks, "that carry a strip of sinks too");
  }

  void swatches(Index calls) {
    const Index there = std::min(calls, static_cast<Index>(call_colours.size()));
    for (Index call = 0; call < there; ++call)
      svg += svg_rect(svg_legend + 23.5 * static_cast<double>(call), y - 12, 18, 13,
                      text("fill=\"", call_colour(call), "\" stroke=\"#333333\" stroke-width=\"0.6\""));
    y += 20;
  }

  void shades() {
    const auto line = [&](double x, const char* colour, const std::string& words) {
      svg += svg_rect(x, y - 12, 15, 15, text("fill=\"", colour, "\" stroke=\"#333333\" stroke-width=\"0.4\""));
      svg += svg_text(x + 22, y, 12.5, words);
    };
    for (std::size_t shade = 0; shade < share_shades.size() + 1; ++shade) {
      const double x = svg_legend + 94 * static_cast<double>(shade % 3);
      if (shade == 0)
        line(x, hidden_colour, "hidden");
      else
        line(x, share_shades[shade - 1].colour, share_shades[shade - 1].words);
      if (shade % 3 == 2) y += 22;
    }
  }
};

/// Tiles of each shape in all, where they are few enough to count one by one; none otherwise.
[[nodiscard]] inline ShapeCounts count_shapes(const Plan& plan) {
  constexpr Index most = 1'000'000;
  ShapeCounts counts;
  if (plan.tiles() > most) return counts;
  for (Index block = 0; block < plan.query_blocks(); ++block)
    plan.for_each_tile(block, [&](const Tile& tile) { counts.add(tile); });
  return counts;
}

inline void draw_svg_facts(SvgLegend& legend, const Plan& plan) {
  const PlanRequest& request = plan.request();
  const bool single = request.heads == 1 && request.layers == 1;
  legend.heading("Counts");
  legend.fact(single ? "tiles" : "tiles a head and layer", svg_count(plan.tiles()));
  legend.fact(single ? "slots" : "slots a head and layer", svg_count(plan.slots()));
  legend.fact("jobs", svg_count(plan.jobs()));
  legend.fact("calls of up to " + counted(plan.slots_per_call(), "slot"), svg_count(plan.calls()));
  legend.fact("rounds", svg_count(plan.rounds()));
  legend.fact("rows used", text(static_cast<int>(plan.rows_used() * 1000 + 0.5) / 10.0, " %"));
  legend.fact("exact", plan.exact() ? "yes" : "no");
  const std::optional<Index> paper = plan.paper_calls();
  legend.fact("the paper's calls", paper ? svg_count(*paper) : "no construction");
  legend.note("By: " + plan.theorem());
}

/// The corner of the grid in its true tiles, in the legend's column, and its mark in the grid.
inline void draw_svg_zoom(std::string& svg, SvgLegend& legend, const Plan& plan, const SvgFrame& grid,
                          const ZoomCorner& corner) {
  constexpr const char* mark = "#d1342b";
  const SvgFrame zoom =
      SvgFrame::fit(svg_legend + 34, legend.y + 20, svg_column - 36, corner.query_rows(plan), corner.key_rows());
  svg += "<clipPath id=\"zoom\">" + svg_rect(zoom.x, zoom.y, zoom.width, zoom.height, "") + "</clipPath>\n";
  draw_svg_background(svg, zoom);
  svg += "<g clip-path=\"url(#zoom)\">\n";
  const ShapeCounts drawn = draw_svg_tiles(svg, plan, zoom);
  svg += "</g>\n";
  draw_svg_border(svg, zoom, mark, "1.5");
  draw_svg_axes(svg, zoom, 11);
  const double width = std::clamp(grid.key_unit() * static_cast<double>(corner.keys), 7.0, grid.width);
  const double height = std::clamp(grid.query_unit() * static_cast<double>(corner.queries), 7.0, grid.height);
  const double left = std::min(grid.across(corner.first_key), grid.x + grid.width - width);
  svg += svg_rect(left, grid.y, width, height, text("fill=\"none\" stroke=\"", mark, "\" stroke-width=\"2\""));
  legend.y = zoom.y + zoom.height + 26;
  const ShapeCounts all = count_shapes(plan);
  const bool counted = all.rectangles + all.lowers + all.uppers > 0;
  legend.shapes(counted ? all : drawn, counted);
}

[[nodiscard]] inline std::string svg_page(const Plan& plan) {
  const PlanRequest& request = plan.request();
  std::string title = words_of(request.mask) + " over " + svg_count(plan.tokens()) + " tokens";
  if (request.past > 0) title += " after " + svg_count(request.past);
  if (plan.keys() != plan.queries().end) title += " and " + svg_count(plan.keys()) + " keys";
  title.front() = static_cast<char>(title.front() - 'a' + 'A');
  const std::string oracle =
      text("on a ", name(request.oracle.kind), " oracle of ", svg_count(request.oracle.rows), " rows and ",
           counted(request.oracle.heads, "head"), "; model of ", counted(request.heads, "head"), " and ",
           counted(request.layers, "layer"), "; anchor ", name(request.anchor));

  std::string svg = svg_text(28, 40, 20, title, svg_bold) + svg_text(28, 62, 13.5, oracle, svg_grey);
  const SvgFrame grid = SvgFrame::fit(76, 112, svg_grid, plan.queries(), {0, plan.keys()});
  SvgLegend legend{svg, 100};
  draw_svg_background(svg, grid);
  if (draws_tiles(plan)) {
    const ShapeCounts drawn = draw_svg_tiles(svg, plan, grid);
    draw_svg_border(svg, grid, "#333333", "1");
    legend.heading("Tiles by shape");
    legend.shapes(drawn, true);
    legend.heading("Colour: the call that carries the tile");
    const Index calls = ceil_div(plan.slots_per_layer(), plan.slots_per_call());
    legend.swatches(calls);
    legend.note(calls > static_cast<Index>(call_colours.size()) ? "calls 0, 1, 2, ...; twelve colours in turn"
                                                                : "calls 0, 1, 2, ...");
    if (request.heads > 1 || request.layers > 1) legend.note("shown: the first head of the first layer");
    draw_svg_facts(legend, plan);
  } else {
    draw_svg_raster(svg, plan, grid);
    draw_svg_border(svg, grid, "#333333", "1");
    legend.heading("Visible pairs of a cell");
    legend.shades();
    draw_svg_facts(legend, plan);
    const ZoomCorner corner = zoom_corner(plan);
    if (corner.queries > 0) {
      legend.heading("The corner, tile by tile; colour: the call");
      draw_svg_zoom(svg, legend, plan, grid, corner);
    }
  }
  draw_svg_axes(svg, grid, 12.5);

  const double height = std::max(grid.y + grid.height + 28, legend.y + 8);
  const std::string size = text("width=\"", svg_number(svg_width), "\" height=\"", svg_number(height), "\"");
  return text("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" ", size,
              " viewBox=\"0 0 ", svg_number(svg_width), " ", svg_number(height),
              "\" font-family=\"Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif\" fill=\"#1c2126\" "
              "role=\"img\" aria-label=\"",
              svg_escape(title), "\">\n<rect ", size, " rx=\"8\" fill=\"#ffffff\"/>\n", svg, "</svg>\n");
}

}  // namespace detail

/// Draws the plan's grid as a picture that needs no other file, queries downwards and keys to the right.
///
///   Laws     of few tiles, each is drawn once in its true shape and in the colour of the call that carries it; of
///            many, cells shaded by their share of visible pairs, and a corner tile by tile. At most about 1 MB.
///            Equal plans give equal bytes.
///   Corner   of several heads and layers, the calls of the first of both are shown. A stream that cannot be written
///            is left in its state of failure, as by any operator<<.
inline void write_svg(std::ostream& out, const Plan& plan) { out << detail::svg_page(plan); }

}  // namespace twoheads
