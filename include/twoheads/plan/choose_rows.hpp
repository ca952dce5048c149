#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <limits>
#include <span>
#include <string>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/plan/plan.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// What a call of so many rows took.
struct CallTime {
  Index rows = 0;
  double seconds = 0;  ///< measured
};

/// Seconds of a call as its rows R go: fixed + per_row R + per_pair R^2, none of them below 0.
struct CallCost {
  double fixed = 0;
  double per_row = 0;
  double per_pair = 0;

  /// Seconds of a call of so many rows.
  [[nodiscard]] double operator()(Index rows) const {
    const auto r = static_cast<double>(rows);
    return fixed + (per_row + per_pair * r) * r;
  }
};

namespace detail {

/// Least squares of the relative errors with some of the terms 1, x, x^2 (bits of `terms`); false where the times do
/// not determine them or one would be below 0.
[[nodiscard]] inline bool fit_terms(std::span<const CallTime> times, double scale, unsigned terms,
                                    std::array<double, 3>& found) {
  std::array<std::array<double, 4>, 3> a{};  // normal equations, right side last
  for (const CallTime& time : times) {
    const double x = static_cast<double>(time.rows) / scale;
    const std::array<double, 3> row{1 / time.seconds, x / time.seconds, x * x / time.seconds};
    for (std::size_t i = 0; i < 3; ++i) {
      for (std::size_t j = 0; j < 3; ++j) a[i][j] += row[i] * row[j];
      a[i][3] += row[i];
    }
  }
  for (std::size_t i = 0; i < 3; ++i)
    if ((terms >> i & 1U) == 0) {
      for (std::size_t j = 0; j < 3; ++j) a[i][j] = a[j][i] = 0;
      a[i][i] = 1;
      a[i][3] = 0;
    }
  for (std::size_t col = 0; col < 3; ++col) {
    std::size_t pivot = col;
    for (std::size_t i = col; i < 3; ++i)
      if (std::abs(a[i][col]) > std::abs(a[pivot][col])) pivot = i;
    std::swap(a[col], a[pivot]);
    if (!(std::abs(a[col][col]) > 0)) return false;
    for (std::size_t i = 0; i < 3; ++i) {
      if (i == col) continue;
      const double factor = a[i][col] / a[col][col];
      for (std::size_t j = col; j < 4; ++j) a[i][j] -= factor * a[col][j];
    }
  }
  for (std::size_t i = 0; i < 3; ++i) {
    found[i] = a[i][3] / a[i][i];
    if (!(found[i] >= 0) || !std::isfinite(found[i])) return false;
  }
  return true;
}

}  // namespace detail

/// The cost that fits the times best, by the least sum of squared relative errors.
///
///   Corner   fewer row counts than terms: the fit with the fewest terms among those that are as good
///   Throws   SpecError for no time, and for a time that is not above 0
[[nodiscard]] inline CallCost fit_call_cost(std::span<const CallTime> times) {
  if (times.empty()) throw SpecError("the cost of a call from 0 times, expected 1 or more");
  double scale = 1;
  std::vector<Index> counts;
  for (const CallTime& time : times) {
    if (time.rows < 1 || !(time.seconds > 0) || !std::isfinite(time.seconds))
      throw SpecError(
          detail::text("a call of ", time.rows, " rows took ", time.seconds, " s, expected a time above 0"));
    scale = std::max(scale, static_cast<double>(time.rows));
    if (std::find(counts.begin(), counts.end(), time.rows) == counts.end()) counts.push_back(time.rows);
  }
  CallCost best;
  double least = std::numeric_limits<double>::infinity();
  // Fewer terms come first, so that more of them must do better by more than rounding.
  for (const unsigned terms : {1U, 4U, 2U, 5U, 3U, 6U, 7U}) {
    const auto taken = static_cast<std::size_t>((terms & 1U) + (terms >> 1 & 1U) + (terms >> 2));
    std::array<double, 3> found{};
    if (taken > counts.size() || !detail::fit_terms(times, scale, terms, found)) continue;
    const CallCost cost{found[0], found[1] / scale, found[2] / (scale * scale)};
    double error = 0;
    for (const CallTime& time : times) error += std::pow(cost(time.rows) / time.seconds - 1, 2);
    if (error < least - 1e-9) {
      least = error;
      best = cost;
    }
  }
  return best;
}

/// What a plan with so many rows a call would take.
struct RowsCandidate {
  Index rows = 0;
  Index calls = 0;     ///< of the whole plan
  double seconds = 0;  ///< predicted, of the whole plan
};

/// The row count that was chosen, and all that were looked at, fewest rows first.
struct RowsChoice {
  RowsCandidate chosen;
  std::vector<RowsCandidate> candidates;  ///< all that were looked at
  OracleKind kind = OracleKind::plain;    ///< of the oracle

  /// The choice in words: its predicted time and those of its neighbours.
  [[nodiscard]] std::string reason() const {
    const bool kernel = kind == OracleKind::kernel;
    const auto seconds = [](double value) {
      std::array<char, 32> digits{};
      const bool small = value < 1;
      std::snprintf(digits.data(), digits.size(), "%.3g %s", small ? value * 1e3 : value, small ? "ms" : "s");
      return std::string(digits.data());
    };
    std::string words =
        detail::text(kernel ? "blocks of " : "calls of ", chosen.rows, " rows are predicted to take ",
                     seconds(chosen.seconds), " on one thread (", chosen.calls, kernel ? " tiles)" : " calls)");
    for (std::size_t i = 0; i < candidates.size(); ++i) {
      const bool neighbour = (i + 1 < candidates.size() && candidates[i + 1].rows == chosen.rows) ||
                             (i > 0 && candidates[i - 1].rows == chosen.rows);
      if (neighbour)
        words += detail::text(", of ", candidates[i].rows, " rows ", seconds(candidates[i].seconds), " (",
                              candidates[i].calls, ")");
    }
    return words;
  }
};

/// Row counts worth a look: powers of two and one for the synthetic key (which the kernel has none of), the input as a
/// whole with the synthetic key and without, none beyond `most`.
[[nodiscard]] inline std::vector<Index> candidate_rows(const PlanRequest& request, Index most) {
  const Index whole = std::max(request.tokens, request.keys);
  const Index synthetic = request.oracle.kind == OracleKind::kernel ? 0 : 1;
  std::vector<Index> rows;
  for (Index block = 2 - synthetic; block < whole; block *= 2) {
    rows.push_back(block + synthetic);
    if (block > std::numeric_limits<Index>::max() / 4) break;
  }
  rows.push_back(std::max<Index>(whole, 2));
  rows.push_back(std::max<Index>(whole, 2) + 1);
  std::sort(rows.begin(), rows.end());
  rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  std::erase_if(rows, [&](Index count) { return count > most; });
  return rows;
}

/// Chooses the rows of a call for a problem; `seconds_of(rows)` says what one call takes on the machine at hand.
///
///   Laws     the least calls(rows) * seconds_of(rows) among candidate_rows(request, most), ties to fewer rows;
///            predictions within 2 % of the least are ties, since times are no more exact than that. Row counts that no
///            plan works with are left out.
///   Corner   request.oracle.rows is not read
///   Throws   LimitError where nothing is left
template <class SecondsOf>
[[nodiscard]] RowsChoice choose_rows(PlanRequest request, const SecondsOf& seconds_of,
                                     Index most = OracleLimits::unlimited) {
  RowsChoice choice;
  choice.kind = request.oracle.kind;
  for (const Index rows : candidate_rows(request, most)) {
    request.oracle.rows = rows;
    try {
      const Index calls = Plan(request).calls();
      choice.candidates.push_back({rows, calls, static_cast<double>(calls) * seconds_of(rows)});
    } catch (const SpecError&) {  // such as counts beyond 64 bits
    } catch (const LimitError&) {
    }
  }
  if (choice.candidates.empty())
    throw LimitError(detail::text("no plan for ", request.tokens, " tokens with calls of at most ", most, " rows"));
  double least = std::numeric_limits<double>::infinity();
  for (const RowsCandidate& candidate : choice.candidates) least = std::min(least, candidate.seconds);
  choice.chosen = *std::find_if(choice.candidates.begin(), choice.candidates.end(),
                                [&](const RowsCandidate& candidate) { return candidate.seconds <= 1.02 * least; });
  return choice;
}

}  // namespace twoheads
