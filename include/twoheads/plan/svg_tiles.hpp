#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <string>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/plan/plan.hpp>
#include <twoheads/plan/tile.hpp>

namespace twoheads::detail {

/// A length as SVG writes it: at most two decimals, whatever the locale.
[[nodiscard]] inline std::string svg_number(double value) {
  const auto hundredths = static_cast<long long>(std::llround(value * 100));
  std::string result = (hundredths < 0 ? "-" : "") + std::to_string(std::abs(hundredths) / 100);
  const auto rest = static_cast<int>(std::abs(hundredths) % 100);
  if (rest == 0) return result;
  result += '.';
  result += static_cast<char>('0' + rest / 10);
  if (rest % 10 != 0) result += static_cast<char>('0' + rest % 10);
  return result;
}

/// A count with a no-break space between groups of three digits.
[[nodiscard]] inline std::string svg_count(Index count) {
  std::string digits = std::to_string(count);
  if (count < 10'000) return digits;
  for (std::size_t end = digits.size(); end > 3; end -= 3) digits.insert(end - 3, "\xC2\xA0");
  return digits;
}

/// Text between tags or in an attribute.
[[nodiscard]] inline std::string svg_escape(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == '&')
      result += "&amp;";
    else if (c == '<')
      result += "&lt;";
    else if (c == '>')
      result += "&gt;";
    else if (c == '"')
      result += "&quot;";
    else
      result += c;
  }
  return result;
}

[[nodiscard]] inline std::string svg_rect(double x, double y, double width, double height, const std::string& style) {
  return "<rect x=\"" + svg_number(x) + "\" y=\"" + svg_number(y) + "\" width=\"" + svg_number(width) + "\" height=\"" +
         svg_number(height) + "\" " + style + "/>\n";
}

/// `style` is further attributes, such as fill="#333".
[[nodiscard]] inline std::string svg_text(double x, double y, double size, const std::string& text,
                                          const std::string& style = "") {
  return "<text x=\"" + svg_number(x) + "\" y=\"" + svg_number(y) + "\" font-size=\"" + svg_number(size) + "\"" +
         (style.empty() ? "" : " ") + style + ">" + svg_escape(text) + "</text>\n";
}

/// Where queries and keys lie on the page.
struct SvgFrame {
  double x = 0;
  double y = 0;
  double width = 0;
  double height = 0;
  Rows queries;
  Rows keys;

  /// A frame of at most `most` a side: square pairs, unless one side would then be too narrow to read.
  [[nodiscard]] static SvgFrame fit(double x, double y, double most, const Rows& queries, const Rows& keys) {
    constexpr double least = 90;
    const double unit = most / static_cast<double>(std::max(queries.size(), keys.size()));
    const auto side = [&](const Rows& rows) { return std::max(unit * static_cast<double>(rows.size()), least); };
    return {x, y, side(keys), side(queries), queries, keys};
  }

  [[nodiscard]] double key_unit() const { return width / static_cast<double>(keys.size()); }
  [[nodiscard]] double query_unit() const { return height / static_cast<double>(queries.size()); }
  [[nodiscard]] double across(Index key) const { return x + static_cast<double>(key - keys.begin) * key_unit(); }
  [[nodiscard]] double down(Index query) const { return y + static_cast<double>(query - queries.begin) * query_unit(); }
};

/// A fill for each call, in turn: neighbours in the turn differ in hue and in lightness, also to the colour-blind.
constexpr std::array<const char*, 12> call_colours{"#77aadd", "#eedd88", "#44bb99", "#ffaabb", "#aaaa00", "#99ddff",
                                                   "#ee8866", "#bb99dd", "#bbcc33", "#cc6677", "#55aaaa", "#ddbb99"};

[[nodiscard]] inline const char* call_colour(Index call) {
  return call_colours[static_cast<std::size_t>(call) % call_colours.size()];
}

/// The outline of a tile as path data: steps where a token is wide enough to see them, else straight lines.
[[nodiscard]] inline std::string outline(const Tile& tile, const SvgFrame& frame) {
  constexpr double least_step = 3;
  const bool steps = std::min(frame.key_unit(), frame.query_unit()) >= least_step;
  const auto across = [&](Index key) { return svg_number(frame.across(key)); };
  const auto down = [&](Index query) { return svg_number(frame.down(query)); };
  const auto rectangle = [&](const Rows& keys) {
    return "M" + across(keys.begin) + " " + down(tile.queries.begin) + "H" + across(keys.end) + "V" +
           down(tile.queries.end) + "H" + across(keys.begin) + "Z";
  };
  const Index first = tile.queries.begin;
  std::string path;
  if (tile.shape == TileShape::rectangle) {
    path = rectangle(tile.keys);
  } else if (tile.shape == TileShape::lower) {
    const Index size = std::min(tile.queries.size(), tile.keys.size());
    path = "M" + across(tile.keys.begin) + " " + down(first);
    if (steps)
      for (Index i = 0; i < size; ++i) path += "H" + across(tile.visible_keys(i).end) + "V" + down(first + i + 1);
    else
      path += "L" + across(tile.keys.begin + size) + " " + down(first + size);
    path += "V" + down(tile.queries.end) + "H" + across(tile.keys.begin) + "Z";
  } else if (steps) {
    const Index size = std::min(tile.queries.size(), tile.keys.size() - 1);
    path =
        "M" + across(tile.keys.begin + 1) + " " + down(first) + "H" + across(tile.keys.end) + "V" + down(first + size);
    for (Index i = size - 1; i >= 0; --i) path += "H" + across(tile.visible_keys(i).begin) + "V" + down(first + i);
    path += "Z";
  } else {
    const Index size = std::min(tile.queries.size(), tile.keys.size());
    path = "M" + across(tile.keys.begin) + " " + down(first) + "H" + across(tile.keys.end) + "V" + down(first + size) +
           "H" + across(tile.keys.begin + size) + "Z";
  }
  return tile.sinks.empty() ? path : path + rectangle(tile.sinks);
}

/// The number of a call where its tile has room for it; empty where it has not.
[[nodiscard]] inline std::string call_label(const Tile& tile, Index call, const SvgFrame& frame) {
  const bool triangle = tile.shape != TileShape::rectangle;
  // Of a triangle that is cut off, the part that is a triangle.
  const Index side = std::min(tile.keys.size(), tile.queries.size());
  const Index keys = tile.shape == TileShape::lower ? side : tile.keys.size();
  const double width = frame.key_unit() * static_cast<double>(keys);
  const double height = frame.query_unit() * static_cast<double>(triangle ? side : tile.queries.size());
  const std::string number = std::to_string(call);
  const double room = (triangle ? 0.5 : 0.8) * std::min(width, 2 * height);
  if (std::min(width, height) < (triangle ? 30 : 18) || room < 6.2 * static_cast<double>(number.size())) return {};
  const double third = tile.shape == TileShape::lower ? 1.0 / 3 : 2.0 / 3;
  const double x = frame.across(tile.keys.begin) + width * (triangle ? third : 0.5);
  const double y = frame.down(tile.queries.begin) + height * (triangle ? 1 - third : 0.5);
  if (x > frame.x + frame.width - 6 || y > frame.y + frame.height - 6) return {};
  return svg_text(x, y + 3.5, 10, number);
}

/// How many tiles of each shape there are.
struct ShapeCounts {
  Index rectangles = 0;
  Index lowers = 0;
  Index uppers = 0;
  Index sinks = 0;  ///< tiles that see sinks beside their other keys

  void add(const Tile& tile) {
    ++(tile.shape == TileShape::rectangle ? rectangles : tile.shape == TileShape::lower ? lowers : uppers);
    if (!tile.sinks.empty()) ++sinks;
  }
};

/// Calls visit(tile, slot) for the tiles of the first head that have queries and keys in the frame, which begins at the
/// first query; `slot` counts those of all heads, in the order in which calls take them.
template <class Visit>
void for_each_framed_tile(const Plan& plan, const Rows& queries, const Rows& keys, Visit&& visit) {
  Index slot = 0;
  for (Index block = 0; block < plan.query_blocks() && plan.queries_of(block).begin < queries.end; ++block) {
    const Index first = slot;
    plan.for_each_slot(block, [&](std::span<const Tile> tiles) {
      for (const Tile& tile : tiles)
        if (tile.queries.begin < queries.end &&
            ((tile.keys.begin < keys.end && tile.keys.end > keys.begin) || !tile.sinks.empty()))
          visit(tile, slot);
      ++slot;
    });
    slot += (slot - first) * (plan.request().heads - 1);
  }
}

/// Draws the tiles in their true shapes, each in the colour of its call; returns the shapes that it drew.
inline ShapeCounts draw_svg_tiles(std::string& svg, const Plan& plan, const SvgFrame& frame) {
  ShapeCounts drawn;
  std::string labels;
  double thinnest = std::max(frame.width, frame.height);
  Index tiles = 0;
  for_each_framed_tile(plan, frame.queries, frame.keys, [&](const Tile& tile, Index) {
    ++tiles;
    thinnest = std::min(thinnest, frame.query_unit() * static_cast<double>(tile.queries.size()));
  });
  const char* stroke = thinnest >= 4 && tiles <= 1500 ? "0.8" : "0.3";
  svg += "<g stroke=\"#333333\" stroke-linejoin=\"round\" stroke-width=\"" + std::string(stroke) + "\">\n";
  for_each_framed_tile(plan, frame.queries, frame.keys, [&](const Tile& tile, Index slot) {
    drawn.add(tile);
    const Index call = slot / plan.slots_per_call();
    svg += "<path class=\"tile\" fill=\"" + std::string(call_colour(call)) + "\" d=\"" + outline(tile, frame) +
           "\"><title>" + svg_escape(text(tile, "; slot ", slot, ", call ", call)) + "</title></path>\n";
    labels += call_label(tile, call, frame);
  });
  svg += "</g>\n";
  if (!labels.empty())
    svg += "<g fill=\"#222222\" text-anchor=\"middle\" pointer-events=\"none\">\n" + labels + "</g>\n";
  return drawn;
}

}  // namespace twoheads::detail
