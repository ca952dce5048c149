#pragma once

#include <algorithm>
#include <limits>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/plan/precision.hpp>
#include <vector>

namespace twoheads {

/// What a plan is evaluated by: an oracle whose rows see every row (plain) or themselves and the rows before them
/// (causal); or our own tile kernel, which takes rectangles and triangles as they are and needs no synthetic row.
enum class OracleKind { plain, causal, kernel };

/// The name as programs take it.
[[nodiscard]] constexpr const char* name(OracleKind kind) {
  switch (kind) {
    case OracleKind::plain:
      return "plain";
    case OracleKind::causal:
      return "causal";
    case OracleKind::kernel:
      return "kernel";
  }
  return "";
}

/// What an oracle declares: all that a planner may know of it.
struct OracleLimits {
  static constexpr Index unlimited = std::numeric_limits<Index>::max();  ///< as many as one likes
  /// Most that the rounding of scores may change a weight, relative.
  static constexpr double largest_score_error = 0.01;

  OracleKind kind = OracleKind::plain;  ///< which rows see which
  Index rows = 0;                       ///< most rows of a call, the synthetic one included
  bool fixed_rows = false;              ///< every call must have exactly `rows` rows
  Index heads = 1;                      ///< heads of a layer, H'
  Index layers = 1;                     ///< layers, L'
  Index width = unlimited;              ///< most columns of a token row
  bool residual = false;                ///< a layer adds its heads' outputs to the row instead of replacing it
  double score_scale = 1.0;  ///< what the oracle multiplies q . k by; queries are multiplied by the model's over it
  Index batch = 1;           ///< calls that it likes to be handed at once
  /// The only row counts that a call may have, in increasing order, `rows` the last; empty: all from 1 to rows.
  std::vector<Index> row_counts = {};
  Index key_cols = unlimited;      ///< most columns of a head's queries and keys
  Index value_cols = unlimited;    ///< most columns of a head's values
  OraclePrecision precision = {};  ///< what it rounds to, and where
  /// Scores of a larger size, after the oracle's scale, are clamped or lost.
  double largest_score = std::numeric_limits<double>::infinity();

  /// Throws LimitError that names the first limit that no plan can work with.
  void require_valid() const {
    const auto at_least = [](const char* what, Index value, Index least) {
      if (value < least)
        throw LimitError(detail::text("an oracle's ", what, " is ", value, ", expected ", least, " or more"));
    };
    at_least("rows", rows, 2);
    at_least("heads", heads, 1);
    at_least("layers", layers, 1);
    at_least("width", width, 1);
    at_least("batch", batch, 1);
    at_least("key columns", key_cols, 2);
    at_least("value columns", value_cols, 2);
    require_row_counts();
    require_precision();
    if (!(largest_score > 0))
      throw LimitError(detail::text("an oracle's largest score is ", largest_score, ", expected a number above 0"));
    // Far beyond, anchors and dead keys would leave the range of a float.
    if (!(score_scale >= 1e-9 && score_scale <= 1e9))
      throw LimitError(detail::text("an oracle's score scale is ", score_scale, ", expected 1e-9 to 1e9"));
  }

  friend bool operator==(const OracleLimits&, const OracleLimits&) = default;

  /// The least row count of a call that holds so many rows; more than `rows` is none.
  [[nodiscard]] constexpr Index call_rows(Index needed) const {
    if (fixed_rows) return rows;
    for (const Index count : row_counts)
      if (count >= needed) return count;
    return needed;
  }

  /// Whether a call may have exactly so many rows.
  [[nodiscard]] constexpr bool takes_rows(Index count) const {
    return count >= 1 && count <= rows && call_rows(count) == count;
  }

 private:
  void require_row_counts() const {
    if (row_counts.empty()) return;
    for (std::size_t i = 0; i < row_counts.size(); ++i)
      if (row_counts[i] < (i == 0 ? 1 : row_counts[i - 1] + 1))
        throw LimitError(detail::text("an oracle's row counts hold ", row_counts[i], " in place ", i,
                                      ", expected increasing counts of 1 or more"));
    if (row_counts.back() != rows)
      throw LimitError(detail::text("an oracle's row counts end with ", row_counts.back(),
                                    ", expected its largest number of rows, ", rows));
    if (fixed_rows && row_counts.size() > 1)
      throw LimitError("an oracle has fixed rows and several row counts, expected one of the two");
  }

  /// Refuses what no anchor can mend.
  void require_precision() const {
    if (precision.weights == Precision::int8 || precision.scores == Precision::int8 ||
        precision.tokens == Precision::int8 || precision.answers == Precision::int8)
      throw LimitError(detail::text(
          "an oracle rounds ", precision.weights == Precision::int8 ? "attention weights" : "numbers",
          " to int8, steps of 1/255: keys of "
          "less weight vanish, and rows were wrong by 15 % and more whatever the anchor; half or bfloat16 would do"));
    if (precision.scores != Precision::half && precision.scores != Precision::bfloat16) return;
    // A score s is off by u |s|, and its weight by the factor exp(u |s|).
    const double error = facts_of(precision.scores).unit_roundoff * largest_score;
    if (!(error <= largest_score_error))
      throw LimitError(detail::text("an oracle rounds scores to ", name(precision.scores),
                                    ": a weight of score s is "
                                    "off by ",
                                    facts_of(precision.scores).unit_roundoff, " s, and scores up to ", largest_score,
                                    " are declared, expected float32 scores, or a largest_score of at "
                                    "most ",
                                    largest_score_error / facts_of(precision.scores).unit_roundoff));
  }
};

}  // namespace twoheads
