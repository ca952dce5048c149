#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <exception>
#include <optional>
#include <span>
#include <string>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/model/random.hpp>
#include <twoheads/oracle/oracle.hpp>
#include <twoheads/oracle/probe_calls.hpp>
#include <twoheads/oracle/probe_report.hpp>
#include <twoheads/oracle/probe_rounding.hpp>
#include <twoheads/oracle/probe_scores.hpp>
#include <twoheads/oracle/probe_session.hpp>
#include <twoheads/oracle/probe_structure.hpp>
#include <utility>
#include <vector>

namespace twoheads {
namespace detail {

/// Several heads and layers, the order of rows, batches, and whether later calls change what a call is answered.
template <Oracle O>
class ProbeCalls {
 public:
  using Scalar = typename O::Scalar;

  explicit ProbeCalls(ProbeSession<O>& session) : s_(session), random_(1) {}

  /// Whether each row's answer stands in its row, as far as answers are those of some row.
  void examine_row_order() {
    const CraftedCall<Scalar> call = s_.craft_one("random rows", random_head(2));
    const std::optional<Matrix<double>> answer = s_.ask(call);
    if (!answer) return;
    const Matrix<double> truth = evaluate_in_double(s_.limits, call.call);
    const double error = amplitude() * allowed(truth.rows());
    if (const auto rows = other_rows(s_.head_of(call, *answer), s_.head_of(call, truth), error); rows)
      s_.fault("rows are out of order: row ", rows->first, " holds the answer to row ", rows->second);
  }

  /// Random calls against the declared attention in float64.
  void examine_values() {
    const Index heads = heads_that_fit();
    std::vector<ProbeHead> several;
    for (Index head = 0; head < heads; ++head) several.push_back(random_head(2));
    if (heads < s_.limits.heads)
      s_.note("of ", s_.limits.heads, " heads, ", heads, " were tried at once: more do not fit the width");
    compare(craft<Scalar>(text("random rows, ", heads, heads == 1 ? " head" : " heads"), s_.limits, several), 1);
    // All columns of queries and keys that are declared, where these are so few that a call can have them.
    const Index keyed = s_.limits.key_cols;
    if (keyed > 2 && keyed <= 256 && (s_.limits.width - value_count * (s_.limits.residual ? 2 : 1)) / 2 >= keyed)
      compare(s_.craft_one(text("random rows of ", keyed, " columns of queries and keys"), random_head(keyed)), 1);
    const Index layers = std::min<Index>(s_.limits.layers, 8);
    if (layers == 1 || !s_.report.honest()) return;
    ProbeHead deep = random_head(2);
    const Index cols = s_.limits.residual ? (s_.limits.width - 4) / (1 + layers) : deep.v.cols();
    if (cols < 1) {
      s_.note("layers beyond the first were not tried: the width is too small");
      return;
    }
    deep.v = deep.v.leftCols(std::min<Index>(cols, deep.v.cols())).eval();
    compare(craft<Scalar>(text("random rows, ", layers, " layers"), s_.limits, std::span(&deep, 1), layers), layers);
  }

  /// The same calls one by one, together, and one by one again.
  void examine_order() {
    std::vector<CraftedCall<Scalar>> crafted;
    for (int i = 0; i < 3; ++i) crafted.push_back(s_.craft_one("random rows", random_head(2)));
    std::vector<Matrix<double>> alone;
    for (const CraftedCall<Scalar>& call : crafted) {
      const std::optional<Matrix<double>> answer = s_.ask(call);
      if (!answer) return;
      alone.push_back(*answer);
    }
    const std::optional<Matrix<double>> again = s_.ask(crafted.front());
    if (!again) return;
    if (!same(*again, alone.front())) {
      s_.fault("the same call was answered otherwise after other calls, by up to ",
               (*again - alone.front()).cwiseAbs().maxCoeff(), ": the oracle keeps state between calls");
      return;
    }
    if constexpr (HasRunBatch<O>) examine_batch(crafted, alone);
  }

 private:
  static constexpr Index value_count = 4;

  [[nodiscard]] Index heads_that_fit() const {
    const Index each = 4 + (s_.limits.residual ? 2 : 1) * std::min(value_count, s_.value_cols(value_count));
    return std::max<Index>(1, std::min({s_.limits.heads, s_.limits.width / each, Index{64}}));
  }

  /// How large queries, keys and values are, so that scores stay near 1 even where values become queries and keys.
  [[nodiscard]] double amplitude() const {
    const double score = std::min(1.0, 0.4 * s_.limits.largest_score);
    return power_of_two_below(std::min(1.0, std::sqrt(score / (2 * s_.limits.score_scale))));
  }

  /// Numbers of three bits: every declared precision holds them.
  [[nodiscard]] ProbeHead random_head(Index keyed) {
    const Index rows = s_.few_rows();
    const auto draw = [&](Index cols, double size) {
      Matrix<double> numbers(rows, cols);
      for (Index i = 0; i < numbers.size(); ++i)
        numbers.data()[i] = size * std::ldexp(std::floor(random_.uniform() * 15.99) - 8.0, -3);
      return numbers;
    };
    const double size = amplitude();
    ProbeHead head{draw(keyed, 1), draw(keyed, 1), draw(s_.value_cols(value_count), size)};
    const double score = std::min(1.0, 0.4 * s_.limits.largest_score);
    head.q *= power_of_two_below(score / (static_cast<double>(keyed) * s_.limits.score_scale));
    return head;
  }

  /// What rounding may do to an answer, in parts of the values' size.
  [[nodiscard]] double allowed(Index rows) const { return s_.unit.share(rows) + 8 * (s_.unit.scores + s_.unit.tokens); }

  [[nodiscard]] bool same(const Matrix<double>& a, const Matrix<double>& b) const {
    const double size = std::max(a.cwiseAbs().maxCoeff(), b.cwiseAbs().maxCoeff());
    return (a - b).cwiseAbs().maxCoeff() <= 2 * allowed(a.rows()) * size + 2 * s_.unit.least_answer;
  }

  void compare(const CraftedCall<Scalar>& call, Index layers) {
    const std::optional<Matrix<double>> answer = s_.ask(call);
    if (!answer) return;
    const Matrix<double> wanted = evaluate_in_double(s_.limits, call.call);
    const Index rows = wanted.rows();
    const double error = amplitude() * std::pow(4.0, static_cast<double>(layers - 1)) * allowed(rows) +
                         2 * s_.unit.least_answer + static_cast<double>(2 * rows) * s_.unit.least_weight;
    for (std::size_t head = 0; head < call.answers.size(); ++head) {
      const Matrix<double> found = s_.head_of(call, *answer, head);
      const Matrix<double> truth = s_.head_of(call, wanted, head);
      const double most = (found - truth).cwiseAbs().maxCoeff();
      if (most <= error) continue;
      const auto says = [&](const std::string& why) {
        s_.fault("the answer to ", call.name, " is off by up to ", most, " in head ", head, ", rounding allows ", error,
                 why);
      };
      for (std::size_t other = 0; other < call.answers.size(); ++other)
        if ((found - s_.head_of(call, wanted, other)).cwiseAbs().maxCoeff() <= error)
          return says(text(": it is head ", other, "'s"));
      if (found.cwiseAbs().maxCoeff() == 0) return says(": it is all zeros");
      return says("");
    }
  }

  void examine_batch(const std::vector<CraftedCall<Scalar>>& crafted, const std::vector<Matrix<double>>& alone) {
    const Index count = std::clamp<Index>(s_.limits.batch, 3, 8);
    std::vector<OracleCall<Scalar>> calls;
    for (Index i = 0; i < count; ++i) calls.push_back(crafted[static_cast<std::size_t>(i) % crafted.size()].call);
    s_.report.calls += count;
    std::vector<Matrix<Scalar>> answers;
    try {
      answers = run_all(s_.oracle, std::span<const OracleCall<Scalar>>(calls));
      for (std::size_t i = 0; i < calls.size(); ++i)
        if (const std::string why = fault_of(calls[i], answers[i]); !why.empty()) throw OracleError(why);
    } catch (const std::exception& error) {
      s_.fault("a batch of ", count, " calls that the limits allow failed: ", error.what());
      return;
    } catch (...) {
      s_.fault("a batch of ", count, " calls that the limits allow failed");
      return;
    }
    for (std::size_t i = 0; i < calls.size(); ++i) {
      const Matrix<double> found = answers[i].template cast<double>();
      if (same(found, alone[i % alone.size()])) continue;
      for (std::size_t other = 0; other < alone.size(); ++other)
        if (same(found, alone[other])) {
          s_.fault("answers of a batch are swapped: call ", i, " of ", count, " was given the answer to call ", other);
          return;
        }
      s_.fault("a call is answered otherwise in a batch of ", count, ", by up to ",
               (found - alone[i % alone.size()]).cwiseAbs().maxCoeff());
      return;
    }
  }

  ProbeSession<O>& s_;
  Random random_;
};

}  // namespace detail

/// Finds out by crafted calls what an oracle is, and compares it with what it declares.
///
///   Units    about 15 calls, up to 45 of an oracle of 2 columns of values a head or of 2 rows a call; most have 34
///            rows, where the limits allow so few, 4 have all rows
///   Laws     touches the oracle through limits(), run() and run_batch() only; an exception that it throws is a fault
///            in the report. What an honest oracle of the declared precision may round is no fault.
///   Corner   an oracle may be more precise than it declares. After a fault that would make the next steps misread
///            what comes back, these are left out, and a note says so.
template <Oracle O>
[[nodiscard]] ProbeReport probe(O& oracle) {
  ProbeReport nothing;
  try {
    nothing.declared = oracle.limits();
    nothing.declared.require_valid();
  } catch (const Error& error) {
    nothing.faults.push_back(error.what());
    return nothing;
  }
  if (nothing.declared.width < (nothing.declared.residual ? 8 : 6)) {
    nothing.notes.push_back(detail::text("a width of ", nothing.declared.width, " is too small to probe"));
    return nothing;
  }
  detail::ProbeSession<O> session(oracle);
  detail::ProbeCalls<O> calls(session);
  const bool readable = detail::ProbeStructure<O>(session).examine();
  if (readable) calls.examine_row_order();
  if (readable && session.report.honest()) {
    const bool scaled = detail::ProbeScores<O>(session).examine();
    if (scaled) detail::ProbeRounding<O>(session).examine();
    if (session.report.honest() && !session.coarse.empty()) session.fault(session.coarse);
  }
  if (session.report.honest())
    calls.examine_values();
  else
    session.note("not everything was examined: the faults hide it");
  if (!session.stateful) calls.examine_order();
  return session.report;
}

/// Throws OracleError that lists all that contradicts an oracle's declared limits.
template <Oracle O>
void require_honest(O& oracle) {
  const ProbeReport report = probe(oracle);
  if (report.honest()) return;
  std::string all = "an oracle is not what it declares";
  for (const std::string& fault : report.faults) all += detail::text("; ", fault);
  throw OracleError(all);
}

}  // namespace twoheads
