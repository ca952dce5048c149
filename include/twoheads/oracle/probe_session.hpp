#pragma once

#include <algorithm>
#include <cmath>
#include <exception>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/oracle/oracle.hpp>
#include <twoheads/oracle/probe_calls.hpp>
#include <twoheads/oracle/probe_report.hpp>
#include <utility>
#include <vector>

namespace twoheads::detail {

/// The largest power of two of at most so much.
[[nodiscard]] inline double power_of_two_below(double most) { return std::exp2(std::floor(std::log2(most))); }

/// What the steps of a probe share: the oracle, what it declares, and what was found so far.
template <Oracle O>
class ProbeSession {
 public:
  using Scalar = typename O::Scalar;

  explicit ProbeSession(O& own)
      : oracle(own), limits(own.limits()), unit(DeclaredRounding::of<Scalar>(limits.precision)) {
    report.declared = limits;
  }

  O& oracle;
  OracleLimits limits;
  DeclaredRounding unit;
  ProbeReport report;
  /// Answers are off by little, which rounding may explain: a fault unless a step finds which.
  std::string coarse;
  bool stateful = false;  ///< calls change what later calls are answered

  template <class... Parts>
  void fault(const Parts&... parts) {
    report.faults.push_back(text(parts...));
  }
  template <class... Parts>
  void note(const Parts&... parts) {
    report.notes.push_back(text(parts...));
  }

  [[nodiscard]] bool causal() const { return limits.kind == OracleKind::causal; }

  /// Columns of queries and keys where more than two are wanted.
  [[nodiscard]] Index key_cols() const { return limits.width < 24 ? 2 : std::min<Index>(4, limits.key_cols); }

  /// Columns of values that a head can have beside so many of queries and keys.
  [[nodiscard]] Index value_cols(Index wanted, Index keyed = 2) const {
    const Index left = limits.width == OracleLimits::unlimited ? wanted * 2 : limits.width - 2 * keyed;
    return std::min({wanted, limits.value_cols, limits.residual ? left / 2 : left});
  }

  /// Rows of calls that need few.
  [[nodiscard]] Index few_rows() const { return limits.call_rows(std::min<Index>(limits.rows, 34)); }

  /// Makes a call. Nothing comes back where it failed, which is a fault; NaN is one unless it is expected.
  [[nodiscard]] std::optional<Matrix<double>> ask(const CraftedCall<Scalar>& crafted, bool nan_expected = false) {
    ++report.calls;
    std::string why;
    try {
      const Matrix<Scalar> rows = oracle.run(crafted.call);
      require_answer(crafted.call, rows);
      if (const Index row = nan_expected ? -1 : first_row_not_finite(rows); row < 0)
        return rows.template cast<double>();
      else
        why = text("it answered NaN or infinity in row ", row);
    } catch (const std::exception& error) {
      why = error.what();
    } catch (...) {
      why = "it threw what is no exception";
    }
    fault("a call of ", crafted.call.rows.rows(), " rows that the limits allow (", crafted.name, ") failed: ", why);
    return std::nullopt;
  }

  /// The first head's columns of an answer.
  [[nodiscard]] static Matrix<double> head_of(const CraftedCall<Scalar>& crafted, const Matrix<double>& answer,
                                              std::size_t head = 0) {
    return answer.middleCols(crafted.answers[head].begin, crafted.answers[head].size());
  }

  [[nodiscard]] CraftedCall<Scalar> craft_one(std::string name, ProbeHead head) const {
    return craft<Scalar>(std::move(name), limits, std::span(&head, 1));
  }
};

/// The first row that holds the answer to another one, where each row holds the answer to a row of its own.
[[nodiscard]] inline std::optional<std::pair<Index, Index>> other_rows(const Matrix<double>& found,
                                                                       const Matrix<double>& truth, double error) {
  std::optional<std::pair<Index, Index>> moved;
  std::vector<bool> held(static_cast<std::size_t>(truth.rows()), false);
  const auto holds = [&](Index row, Index other) {
    return !held[static_cast<std::size_t>(other)] && (found.row(row) - truth.row(other)).cwiseAbs().maxCoeff() <= error;
  };
  for (Index row = 0; row < found.rows(); ++row) {
    Index other = row;
    if (!holds(row, row))
      for (other = 0; other < truth.rows() && !holds(row, other);) ++other;
    if (other == truth.rows()) return std::nullopt;
    held[static_cast<std::size_t>(other)] = true;
    if (other != row && !moved) moved = {row, other};
  }
  return moved;
}

/// How many nats an answer's logarithm of two shares may be off, each of at least so much.
[[nodiscard]] inline double log_ratio_error(const DeclaredRounding& unit, Index keys, double least_share) {
  return 2 * unit.share(keys) + 2 * (unit.least_weight * static_cast<double>(keys) + unit.least_answer) / least_share;
}

}  // namespace twoheads::detail
