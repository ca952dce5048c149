#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>
#include <string>
#include <twoheads/base/errors.hpp>
#include <twoheads/plan/svg_tiles.hpp>
#include <twoheads/train/training_state.hpp>
#include <utility>
#include <vector>

namespace programs {

using twoheads::Index;
using twoheads::TrainingPoint;

/// The curves of a run as a picture: bits a byte of the batches, as they were and in the mean of their neighbours, and
/// of held-out text.
class TrainingPlot {
 public:
  TrainingPlot(const std::vector<TrainingPoint>& curve, std::string title) : curve_(curve), title_(std::move(title)) {
    if (!curve.empty()) last_step_ = std::max<Index>(curve.back().step, 1);
    choose_range();
  }

  [[nodiscard]] std::string svg() const {
    std::string svg = twoheads::detail::text(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"860\" "
        "height=\"480\" viewBox=\"0 0 860 480\" font-family=\"Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', "
        "sans-serif\" fill=\"#1c2126\" role=\"img\" aria-label=\"",
        twoheads::detail::svg_escape(title_), "\">\n<rect width=\"860\" height=\"480\" rx=\"8\" fill=\"#ffffff\"/>\n");
    svg += words(left, 32, 17, title_, "font-weight=\"600\"");
    axes(svg);
    std::vector<std::pair<double, double>> batches;
    std::vector<std::pair<double, double>> held_out;
    for (const TrainingPoint& point : curve_) {
      batches.emplace_back(x(point.step), y(bits(point)));
      if (std::isfinite(point.held_out)) held_out.emplace_back(x(point.step), y(point.held_out));
    }
    line(svg, thinned(batches), "stroke=\"#b9d3ea\" stroke-width=\"1\"");
    line(svg, thinned(means()), "stroke=\"#2b74ab\" stroke-width=\"2\"");
    line(svg, held_out, "stroke=\"#d1632f\" stroke-width=\"2\"");
    for (const auto& [px, py] : held_out)
      svg += "<circle cx=\"" + number(px) + "\" cy=\"" + number(py) + "\" r=\"3\" fill=\"#d1632f\"/>\n";
    legend(svg);
    return svg + "</svg>\n";
  }

 private:
  static constexpr double left = 64;
  static constexpr double right = 832;
  static constexpr double top = 56;
  static constexpr double bottom = 424;
  static constexpr const char* grey = "fill=\"#5a6470\"";

  static std::string number(double value) { return twoheads::detail::svg_number(value); }
  static std::string words(double x, double y, double size, const std::string& text, const std::string& style) {
    return twoheads::detail::svg_text(x, y, size, text, style);
  }
  static double bits(const TrainingPoint& point) { return point.loss / std::numbers::ln2; }

  /// From the least to the largest value, in steps that people count in.
  void choose_range() {
    double least = std::numeric_limits<double>::infinity();
    double most = -least;
    for (const TrainingPoint& point : curve_)
      for (const double value : {bits(point), point.held_out}) {
        if (!std::isfinite(value)) continue;
        least = std::min(least, value);
        most = std::max(most, value);
      }
    if (!(least <= most)) return;
    tick_ = tick_for(most - least, 6);
    low_ = std::floor(least / tick_) * tick_;
    high_ = std::max(std::ceil(most / tick_) * tick_, low_ + tick_);
  }
  /// 1, 2 or 5 times a power of ten, such that a range has about so many steps or fewer.
  static double tick_for(double range, double count) {
    const double least = std::max(range / count, 1e-6);
    const double power = std::pow(10.0, std::floor(std::log10(least)));
    for (const double factor : {1.0, 2.0, 5.0})
      if (factor * power >= least) return factor * power;
    return 10 * power;
  }

  [[nodiscard]] double x(Index step) const {
    return left + (right - left) * static_cast<double>(step) / static_cast<double>(last_step_);
  }
  [[nodiscard]] double y(double value) const {
    return bottom - (bottom - top) * (std::clamp(value, low_, high_) - low_) / (high_ - low_);
  }

  /// Means over about a fiftieth of the run.
  [[nodiscard]] std::vector<std::pair<double, double>> means() const {
    const auto count = static_cast<Index>(curve_.size());
    const Index half = std::max<Index>(count / 100, 1);
    std::vector<std::pair<double, double>> result;
    double sum = 0;
    Index begin = 0;
    Index end = 0;
    for (Index i = 0; i < count; ++i) {
      for (; end < std::min(i + half + 1, count); ++end) sum += bits(curve_[static_cast<std::size_t>(end)]);
      for (; begin < i - half; ++begin) sum -= bits(curve_[static_cast<std::size_t>(begin)]);
      result.emplace_back(x(curve_[static_cast<std::size_t>(i)].step), y(sum / static_cast<double>(end - begin)));
    }
    return result;
  }

  /// No more points than pixels can show, the last one among them.
  static std::vector<std::pair<double, double>> thinned(const std::vector<std::pair<double, double>>& points) {
    constexpr std::size_t most = 1500;
    const std::size_t step = (points.size() + most - 1) / most;
    if (step <= 1) return points;
    std::vector<std::pair<double, double>> kept;
    for (std::size_t i = 0; i < points.size(); i += step) kept.push_back(points[i]);
    kept.push_back(points.back());
    return kept;
  }

  static void line(std::string& svg, const std::vector<std::pair<double, double>>& points, const char* style) {
    if (points.empty()) return;
    svg += "<polyline points=\"";
    for (const auto& [px, py] : points) svg += number(px) + "," + number(py) + " ";
    svg += std::string("\" fill=\"none\" ") + style + "/>\n";
  }

  void axes(std::string& svg) const {
    const std::string grid = "stroke=\"#e3e6ea\" stroke-width=\"1\"";
    const auto ticks = static_cast<int>(std::llround((high_ - low_) / tick_));
    for (int i = 0; i <= ticks; ++i) {
      const double value = low_ + i * tick_;
      line(svg, {{left, y(value)}, {right, y(value)}}, grid.c_str());
      svg += words(left - 8, y(value) + 4, 12, number(value), std::string(grey) + " text-anchor=\"end\"");
    }
    const auto step = static_cast<Index>(std::max(tick_for(static_cast<double>(last_step_), 8), 1.0));
    for (Index at = 0; at <= last_step_; at += step)
      svg +=
          words(x(at), bottom + 20, 12, twoheads::detail::svg_count(at), std::string(grey) + " text-anchor=\"middle\"");
    line(svg, {{left, top}, {left, bottom}, {right, bottom}}, "stroke=\"#5a6470\" stroke-width=\"1\"");
    svg += words((left + right) / 2, bottom + 42, 13, "steps", std::string(grey) + " text-anchor=\"middle\"");
    svg += words(18, (top + bottom) / 2, 13, "bits a byte",
                 twoheads::detail::text(grey, " text-anchor=\"middle\" transform=\"rotate(-90 18 ",
                                        number((top + bottom) / 2), ")\""));
  }

  void legend(std::string& svg) const {
    std::string last;
    for (const TrainingPoint& point : curve_)
      if (std::isfinite(point.held_out)) last = ", at last " + rounded(point.held_out);
    const std::array<std::array<std::string, 2>, 3> entries{
        {{"#b9d3ea", "batches"}, {"#2b74ab", "batches, mean of neighbours"}, {"#d1632f", "held-out text" + last}}};
    double at = top + 14;
    for (const auto& [colour, text] : entries) {
      svg += twoheads::detail::svg_rect(right - 240, at - 8, 18, 4, "fill=\"" + colour + "\"");
      svg += words(right - 214, at - 2, 12.5, text, grey);
      at += 20;
    }
  }
  static std::string rounded(double value) {
    const long long thousandths = std::llround(value * 1000);
    std::string digits = std::to_string(thousandths % 1000);
    return std::to_string(thousandths / 1000) + "." + std::string(3 - digits.size(), '0') + digits;
  }

  const std::vector<TrainingPoint>& curve_;
  std::string title_;
  Index last_step_ = 1;
  double low_ = 0;
  double high_ = 8;
  double tick_ = 1;
};

}  // namespace programs
