#pragma once

#include <optional>
#include <string>
#include <twoheads/base/errors.hpp>
#include <twoheads/plan/limits.hpp>
#include <vector>

namespace twoheads {

/// A rounding that was measured, and the precision that rounds so; nothing where it could not be told.
struct MeasuredRounding {
  std::optional<Precision> precision;
  double unit_roundoff = 0;  ///< largest relative error that was seen
};

/// What crafted calls found of an oracle, beside what it declares.
struct ProbeReport {
  OracleLimits declared;                              ///< what the oracle says of itself
  Index calls = 0;                                    ///< calls made, those of batches included
  std::optional<OracleKind> kind;                     ///< which rows see which
  Index rows = 0;                                     ///< rows that are attended to and answered
  std::vector<Index> row_counts = {};                 ///< counts of rows that were tried and found right
  std::optional<bool> residual;                       ///< the tokens are added to the answer
  std::optional<double> score_scale;                  ///< what q . k is multiplied by
  std::optional<double> largest_score;                ///< scores up to this size were tried and found right
  std::optional<double> soft_cap;                     ///< c of scores c tanh(s / c)
  std::optional<bool> depends_on_position;            ///< the same queries and keys score otherwise in other rows
  MeasuredRounding tokens, scores, weights, answers;  ///< where OraclePrecision says
  std::vector<std::string> faults = {};               ///< what contradicts the declared limits
  std::vector<std::string> notes = {};                ///< what was not examined, or could not be told apart

  [[nodiscard]] bool honest() const { return faults.empty(); }  ///< whether nothing contradicts it
};

namespace detail {

/// The coarsest precision whose rounding is as small as what was measured.
[[nodiscard]] inline Precision precision_of(double unit_roundoff) {
  // Between the unit round-offs 2^-8, 2^-11, 2^-24 and 2^-53.
  if (unit_roundoff <= 0x1p-38) return Precision::float64;
  if (unit_roundoff <= 0x1p-17) return Precision::float32;
  if (unit_roundoff <= 0x1.4p-10) return Precision::half;
  if (unit_roundoff <= 0x1p-6) return Precision::bfloat16;
  return Precision::int8;
}

}  // namespace detail

/// A report in lines of text.
[[nodiscard]] inline std::string to_text(const ProbeReport& report) {
  std::string lines =
      detail::text("probed with ", report.calls, " calls: ", report.honest() ? "as declared" : "not as declared", "\n");
  const auto line = [&](const char* what, const auto& found) { lines += detail::text("  ", what, "  ", found, "\n"); };
  if (report.kind) line("kind         ", name(*report.kind));
  line("rows         ", report.rows);
  if (report.residual) line("residual     ", *report.residual ? "yes" : "no");
  if (report.score_scale) line("score scale  ", *report.score_scale);
  if (report.largest_score) line("scores right ", detail::text("up to ", *report.largest_score));
  if (report.soft_cap) line("soft cap     ", *report.soft_cap);
  const auto rounding = [&](const char* what, const MeasuredRounding& found) {
    if (found.precision) line(what, detail::text(name(*found.precision), ", unit round-off ", found.unit_roundoff));
  };
  rounding("tokens       ", report.tokens);
  rounding("scores       ", report.scores);
  rounding("weights      ", report.weights);
  rounding("answers      ", report.answers);
  for (const std::string& fault : report.faults) line("fault:", fault);
  for (const std::string& note : report.notes) line("note:", note);
  return lines;
}

}  // namespace twoheads
