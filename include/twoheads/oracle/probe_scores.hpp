#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <twoheads/base/matrix.hpp>
#include <twoheads/base/sort.hpp>
#include <twoheads/oracle/probe_session.hpp>
#include <utility>
#include <vector>

namespace twoheads::detail {

/// The score scale, and up to which size scores are right: clamps, soft caps and the rounding of scores.
///
///   Math     rows hold two keys in turn, (K, 1) and (K, -1); a query (s / (scale K), y) scores them s +- scale y, and
///            the logarithm of their shares' ratio is 2 scale y whatever s is
template <Oracle O>
class ProbeScores {
 public:
  using Scalar = typename O::Scalar;

  explicit ProbeScores(ProbeSession<O>& session) : s_(session) {}

  /// False where the scale is not the declared one, or cannot be told.
  [[nodiscard]] bool examine() {
    const double scale = s_.limits.score_scale;
    std::vector<Rung> rungs;
    const double most = std::min(6.0, 0.9 * s_.limits.largest_score);
    const double step = 1.375 * power_of_two_below(std::min(2.0, most) / (2 * scale * 1.375));
    for (double y = step; 2 * scale * y > 0.1; y /= 2) rungs.push_back({0, y, 2 * scale * y});
    if (2 * scale * step * 2 <= most) rungs.push_back({0, 2 * step, 4 * scale * step});
    const std::size_t flat = rungs.size();
    for (const Rung& rung : large_rungs(step)) rungs.push_back(rung);
    if (!ask(rungs)) return false;
    const std::vector<Rung> small(rungs.begin(), rungs.begin() + static_cast<std::ptrdiff_t>(flat));
    const std::vector<Rung> large(rungs.begin() + static_cast<std::ptrdiff_t>(flat), rungs.end());
    const bool capped = examine_size(small, large);
    return examine_scale(small, capped) && !capped;
  }

 private:
  static constexpr double key = 256;

  /// What one query asks, and what comes back.
  struct Rung {
    double q = 0, y = 0, expected = 0;
    double found = 0, error = 0;  ///< in nats; the error that is declared
    [[nodiscard]] double share() const { return found / expected; }
  };

  [[nodiscard]] double size_of(const Rung& rung) const { return std::abs(rung.q) * key * s_.limits.score_scale; }

  [[nodiscard]] Index first_usable() const { return s_.causal() ? 1 : 0; }

  /// Growing scores of both signs, as many as a few calls hold.
  [[nodiscard]] std::vector<Rung> large_rungs(double y) const {
    const double scale = s_.limits.score_scale;
    const double expected = 2 * scale * y;
    // Beyond, the declared rounding of scores would hide what is asked.
    double end = std::min(s_.limits.largest_score * 0.999 - expected, 0.02 * expected / s_.unit.scores);
    if (facts_of(s_.limits.precision.tokens).largest < 1e30) end = std::min(end, 32768 * key * scale);
    std::vector<Rung> all;
    for (double q = power_of_two_below(1 / (key * scale)); q * key * scale <= end; q *= 2)
      for (const double part : {1.0, 1.1875, 1.40625, 1.6875})
        if (part * q * key * scale <= end) all.push_back({part * q, y, expected});
    const Index usable = s_.few_rows() - first_usable();
    const std::size_t room = static_cast<std::size_t>(std::clamp<Index>(3 * usable - 7, 3, 200)) / 2 + 1;
    std::vector<Rung> chosen;
    const std::size_t count = std::min(room, all.size());
    for (std::size_t i = 0; i < count; ++i) {
      const Rung& rung = all[count == 1 ? all.size() - 1 : i * (all.size() - 1) / (count - 1)];
      for (const double sign : {1.0, -1.0}) chosen.push_back({sign * rung.q, rung.y, rung.expected});
    }
    return chosen;
  }

  [[nodiscard]] bool ask(std::vector<Rung>& rungs) {
    const Index rows = s_.few_rows();
    const Index usable = rows - first_usable();
    for (std::size_t begin = 0; begin < rungs.size(); begin += static_cast<std::size_t>(usable)) {
      ProbeHead head{Matrix<double>::Zero(rows, 2), Matrix<double>::Ones(rows, 2), Matrix<double>::Zero(rows, 2)};
      head.k.col(0).setConstant(key);
      for (Index row = 0; row < rows; ++row) {
        head.k(row, 1) = row % 2 == 0 ? 1 : -1;
        head.v(row, row % 2) = 1;
      }
      const std::size_t end = std::min(rungs.size(), begin + static_cast<std::size_t>(usable));
      for (std::size_t i = begin; i < end; ++i) {
        const Index row = first_usable() + static_cast<Index>(i - begin);
        head.q(row, 0) = rungs[i].q;
        head.q(row, 1) = rungs[i].y;
      }
      const CraftedCall<Scalar> call = s_.craft_one("a ladder of scores", std::move(head));
      const std::optional<Matrix<double>> answer = s_.ask(call, true);
      if (!answer) return false;
      const Matrix<double> shares = s_.head_of(call, *answer);
      for (std::size_t i = begin; i < end; ++i) {
        const Index row = first_usable() + static_cast<Index>(i - begin);
        const Index seen = s_.causal() ? row + 1 : rows;
        const double more = static_cast<double>(ceil_div(seen, 2)) / static_cast<double>(seen / 2);
        rungs[i].found = std::log(shares(row, 0) / shares(row, 1)) - std::log(more);
        const double least = 1 / (1 + std::exp(rungs[i].expected) * more);
        rungs[i].error = log_ratio_error(s_.unit, seen, least) +
                         4 * (s_.unit.scores + s_.unit.tokens) * rungs[i].expected +
                         4 * s_.unit.scores * size_of(rungs[i]);
      }
    }
    return true;
  }

  /// Whether large scores are lost before the declared size.
  [[nodiscard]] bool examine_size(const std::vector<Rung>& small, std::vector<Rung> large) {
    const double base = small.front().found;
    if (!(base > 0.2 * small.front().expected) || uneven(small)) {
      s_.note("the size of scores was not examined: small ones already disagree");
      return false;
    }
    sort_stably(large, [this](const Rung& a, const Rung& b) { return size_of(a) < size_of(b); });
    const auto share = [&](const Rung& rung) { return rung.found / base; };
    const auto good = [&](const Rung& rung) { return std::abs(share(rung) - 1) <= 0.1 + 2 * rung.error / base; };
    const auto first_bad = std::find_if_not(large.begin(), large.end(), good);
    double right = base / 2;
    for (auto rung = large.begin(); rung != first_bad; ++rung)
      if (first_bad == large.end() || size_of(*rung) < size_of(*first_bad)) right = std::max(right, size_of(*rung));
    const double scale_found = base / small.front().expected;
    s_.report.largest_score = right * scale_found;
    if (first_bad == large.end()) {
      if (0.2 * base / right <= 64 * s_.unit.scores)
        s_.report.scores = {precision_of(s_.unit.scores), s_.unit.scores};
      else
        s_.note("the rounding of scores cannot be told from scores of at most ", right);
      return false;
    }
    const double tried = s_.limits.largest_score;
    const std::string declared =
        std::isfinite(tried) ? text("scores of up to ", tried, " are declared") : std::string("no limit is declared");
    if (const double cap = soft_cap(large, base); cap > 0) {
      s_.report.soft_cap = cap * scale_found;
      s_.fault("scores have a soft cap, c tanh(s / c) with c of about ", *s_.report.soft_cap, ": ", declared);
      return true;
    }
    const bool erratic = std::any_of(first_bad, large.end(), [&](const Rung& rung) {
      return std::isfinite(share(rung)) && std::abs(share(rung)) > 0.15 && !good(rung);
    });
    if (erratic) {
      // A difference d is lost where the rounding of scores, u s, is as large as d / 4.
      const double unit = 0.2 * base / (right * scale_found);
      s_.report.scores = {precision_of(unit), unit};
      s_.fault("scores are rounded to about ", name(precision_of(unit)), ": differences of ", base,
               " are lost from scores of about ", right, " on; declared are ", name(s_.limits.precision.scores),
               " scores");
    } else {
      s_.fault("scores are clamped or lost beyond about ", *s_.report.largest_score, ": ", declared);
    }
    return false;
  }

  /// Whether small scores say different scales, by more than a soft cap of 20 would.
  [[nodiscard]] bool uneven(const std::vector<Rung>& small) const {
    for (const Rung& rung : small)
      if (!(std::abs(rung.share() - small.front().share()) <=
            0.06 * small.front().share() + 2 * rung.error / rung.expected))
        return true;
    return false;
  }

  /// c where the shares fall as the slope of c tanh(s / c), sech(s / c)^2, or 0.
  [[nodiscard]] double soft_cap(const std::vector<Rung>& large, double base) const {
    double cap = 0;
    for (const Rung& rung : large) {
      const double share = rung.found / base;
      if (cap == 0 && share > 0.1 && share < 0.9) cap = size_of(rung) / std::atanh(std::sqrt(1 - share));
    }
    if (cap == 0) return 0;
    int sloping = 0;
    for (const Rung& rung : large) {
      const double share = rung.found / base;
      const double slope = 1 / std::pow(std::cosh(std::min(size_of(rung) / cap, 300.0)), 2);
      if (!(std::abs(share - slope) <= 0.1 + 2 * rung.error / base)) return 0;
      if (slope > 0.05 && slope < 0.95) ++sloping;
    }
    return sloping >= 2 ? cap : 0;
  }

  /// Whether the logarithms are those of the declared scale: off by a common factor, or by rounding.
  [[nodiscard]] bool examine_scale(const std::vector<Rung>& small, bool capped) {
    double along = 0;
    double size = 0;
    for (const Rung& rung : small) {
      if (!std::isfinite(rung.found)) continue;
      along += rung.expected * rung.found;
      size += rung.expected * rung.expected;
    }
    if (!(size > 0)) {
      s_.fault("small scores leave no shares of attention to compare");
      return false;
    }
    const double factor = along / size;
    double least = 1;
    bool common = true;
    for (const Rung& rung : small) {
      if (!std::isfinite(rung.found)) continue;
      least = std::min(least, rung.error / rung.expected);
      if (std::abs(rung.found - factor * rung.expected) > rung.error * std::max(1.0, factor)) common = false;
    }
    s_.report.score_scale = factor * s_.limits.score_scale;
    if (capped || std::abs(factor - 1) <= 2 * least) return true;
    if (!common && std::abs(factor - 1) < 0.1) {
      if (s_.coarse.empty())
        s_.coarse = text("logarithms of shares of attention are off by up to ", std::abs(factor - 1));
      return true;
    }
    s_.fault("the score scale is ", *s_.report.score_scale, ", declared is ", s_.limits.score_scale);
    return false;
  }

  ProbeSession<O>& s_;
};

}  // namespace twoheads::detail
