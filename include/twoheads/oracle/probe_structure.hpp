#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <twoheads/base/matrix.hpp>
#include <twoheads/oracle/probe_session.hpp>
#include <utility>
#include <vector>

namespace twoheads::detail {

/// Which rows see which, and what else stands in the answer: found from calls whose scores are all equal.
///
///   Math     with equal scores the share of a group of keys is (those of it that a row sees) / (all that it sees)
template <Oracle O>
class ProbeStructure {
 public:
  using Scalar = typename O::Scalar;

  explicit ProbeStructure(ProbeSession<O>& session) : s_(session) {}

  /// False where the other steps would misread what comes back.
  [[nodiscard]] bool examine() {
    const Index rows = s_.limits.rows;
    const CraftedCall<Scalar> plain = equal_scores(rows, 0, 1);
    const CraftedCall<Scalar> larger = equal_scores(rows, 0, 4);
    const std::optional<Matrix<double>> first = s_.ask(plain);
    if (!first) return false;
    const std::optional<Matrix<double>> scaled = s_.ask(larger);
    if (!scaled) return false;
    const std::optional<Matrix<double>> again = s_.ask(plain);
    if (!again) return false;
    if (!stateless(*first, *again) || !linear(*first, *scaled)) return false;
    if (!right(rows, plain, *first)) return false;
    s_.report.rows = rows;
    s_.report.row_counts = {rows};
    return s_.report.honest() && same_everywhere(rows, s_.head_of(plain, *first)) && other_counts();
  }

 private:
  /// All scores are `score`; values are one-hot rows, as far as there are columns for them.
  [[nodiscard]] CraftedCall<Scalar> equal_scores(Index rows, double score, double size) const {
    const Index keyed = s_.key_cols();
    ProbeHead head{Matrix<double>::Zero(rows, keyed), Matrix<double>::Zero(rows, keyed), {}};
    head.v = size * group_values(rows, groups(rows));
    if (score > 0)
      for (Index col = 0; col < keyed; ++col) {
        head.k.col(col).setConstant(col % 2 == 0 ? 1.0 : 0.5);
        head.q.col(col).setConstant((col < 2 ? 1.0 : 0.5) * power_of_two_below(score / (2.25 * s_.limits.score_scale)));
      }
    return s_.craft_one(score > 0 ? "equal keys" : "scores of 0", std::move(head));
  }

  [[nodiscard]] Index groups(Index rows) const { return s_.value_cols(std::min<Index>(rows, 256), s_.key_cols()); }

  [[nodiscard]] bool stateless(const Matrix<double>& first, const Matrix<double>& again) {
    const double most = (first - again).cwiseAbs().maxCoeff();
    if (most <= 4 * s_.unit.share(first.rows()) * first.cwiseAbs().maxCoeff()) return true;
    s_.stateful = true;
    s_.fault("the same call was answered otherwise after another call, by up to ", most,
             ": the oracle keeps state between calls");
    return false;
  }

  [[nodiscard]] bool linear(const Matrix<double>& first, const Matrix<double>& scaled) {
    const double size = 4 * first.cwiseAbs().maxCoeff();
    const double most = (scaled - 4 * first).cwiseAbs().maxCoeff();
    if (most <= 0.02 * size) return true;
    // What is added to tokens or answers keeps the differences between sizes; a norm undoes the sizes.
    const CraftedCall<Scalar> largest = equal_scores(first.rows(), 0, 16);
    const std::optional<Matrix<double>> third = s_.ask(largest);
    const double step = (scaled - first).cwiseAbs().maxCoeff();
    if (third && step * static_cast<double>(first.rows()) > 1 &&
        (*third - scaled - 4 * (scaled - first)).cwiseAbs().maxCoeff() <= 0.1 * step) {
      s_.fault(
          "something is added to the tokens or to the answer (learned positions, a bias): 4 times the values gave ",
          scaled.cwiseAbs().maxCoeff(), " where ", size, " was expected");
    } else {
      s_.fault("answers are not linear in the values: 4 times the values gave ", scaled.cwiseAbs().maxCoeff(),
               " where ", size, " was expected: a norm before or after the attention");
    }
    return false;
  }

  [[nodiscard]] Matrix<double> expected(OracleKind kind, Index rows) const {
    Matrix<double> shares = seen_of_groups(kind, rows, groups(rows));
    for (Index row = 0; row < rows; ++row) shares.row(row) /= shares.row(row).sum();
    return shares;
  }

  /// Whether shares are those expected, up to the declared rounding and so much more.
  [[nodiscard]] bool near(const Matrix<double>& found, const Matrix<double>& wanted, double more = 0) const {
    const double size = std::ceil(static_cast<double>(found.rows()) / static_cast<double>(found.cols()));
    // A value of 1 may leave a rounding of itself in other columns, where a norm was undone.
    const double lost = 2 * (size * s_.unit.least_weight + s_.unit.least_answer + s_.unit.scalar);
    const double relative = s_.unit.share(found.rows()) + more;
    return ((found - wanted).array().abs() <= relative * wanted.array().abs() + lost).all();
  }

  /// Whether the answer to a call with scores of 0 is right; otherwise says what it is instead.
  [[nodiscard]] bool right(Index rows, const CraftedCall<Scalar>& call, const Matrix<double>& answer) {
    const Matrix<double> shares = s_.head_of(call, answer);
    const Matrix<double> wanted = expected(s_.limits.kind, rows);
    if (near(shares, wanted)) {
      s_.report.kind = s_.limits.kind;
      return passes_on(call, answer);
    }
    if (const auto moved = other_rows(shares, wanted, s_.unit.share(rows) * wanted.maxCoeff()); moved) {
      s_.fault("rows are out of order: of ", rows, " rows, row ", moved->first, " holds the answer to row ",
               moved->second);
      return false;
    }
    const OracleKind other = s_.causal() ? OracleKind::plain : OracleKind::causal;
    if (near(shares, expected(other, rows))) {
      s_.report.kind = other;
      s_.fault("the oracle is declared ", name(s_.limits.kind), " and is ", name(other), ": of ", rows, " rows, row 0 ",
               s_.causal() ? "sees the rows behind it" : "does not see the rows behind it (a hidden causal mask)");
      return false;
    }
    const Matrix<double> values = group_values(rows, groups(rows));
    // A value of 1 beside a small share takes the digits of the share.
    if ((shares - values - wanted).cwiseAbs().maxCoeff() <= std::max(1e-3, 4 * s_.unit.share(rows))) {
      s_.report.residual = true;
      s_.fault("each row's own value is added to its answer: a hidden residual stream");
      return false;
    }
    if (cut_off(rows, shares, wanted) || padded(rows, shares, wanted)) return false;
    const double most =
        ((shares - wanted).array() / wanted.array().max(1.0 / static_cast<double>(rows))).abs().matrix().maxCoeff();
    const Vector<double> sums = shares.rowwise().sum();
    const bool adds_to_one = (sums.array() - 1).abs().maxCoeff() <= 2 * s_.unit.share(rows);
    if (most <= 0x1p-6 || (sums_differ_alone(shares, wanted, sums) && !adds_to_one)) {
      s_.coarse = text("shares of equal keys among ", rows, " rows are off by up to ", most, " of themselves");
      return true;
    }
    if (adds_to_one && (shares.array() >= 0).all()) {
      s_.report.depends_on_position = true;
      s_.fault("answers depend on position: with all scores 0, keys that a row sees have shares that differ by up to ",
               most, " of themselves among ", rows, " rows (ALiBi, learned positions, or a mask)");
    } else {
      s_.fault("with all scores 0 among ", rows, " rows, shares of attention are off by up to ", most,
               " of themselves and sum to ", sums.minCoeff(), " to ", sums.maxCoeff(), ", expected 1");
    }
    return false;
  }

  [[nodiscard]] static bool sums_differ_alone(const Matrix<double>& shares, const Matrix<double>& wanted,
                                              const Vector<double>& sums) {
    for (Index row = 0; row < shares.rows(); ++row)
      if ((shares.row(row) - sums[row] * wanted.row(row)).cwiseAbs().maxCoeff() > 0x1p-6 * wanted.row(row).maxCoeff())
        return false;
    return true;
  }

  /// The columns that no head writes: the tokens with a residual stream, zero without.
  [[nodiscard]] bool passes_on(const CraftedCall<Scalar>& call, const Matrix<double>& answer) {
    const Matrix<double> tokens = call.call.rows.template cast<double>();
    Matrix<double> rest = answer;
    Matrix<double> own = tokens;
    rest.middleCols(call.answers[0].begin, call.answers[0].size()).setZero();
    own.middleCols(call.answers[0].begin, call.answers[0].size()).setZero();
    const double size = own.cwiseAbs().maxCoeff();
    const double zero = rest.cwiseAbs().maxCoeff();
    const double kept = (rest - own).cwiseAbs().maxCoeff();
    const bool has = size > 0 && kept <= 0.05 * size;
    if (size > 0) s_.report.residual = has;
    if (s_.limits.residual ? has || size == 0 : zero <= 1e-6 * std::max(1.0, size)) return true;
    if (has)
      s_.fault("the tokens are added to the answer: a hidden residual stream");
    else if (s_.limits.residual && zero <= 0.05 * size)
      s_.fault("the oracle declares a residual stream, and the tokens are not in its answer");
    else
      s_.fault("columns that no head writes hold up to ", zero, ", expected ",
               s_.limits.residual ? "the tokens" : "zero");
    return false;
  }

  /// Rows from some row on answered as zeros, or keys from some row on without weight.
  [[nodiscard]] bool cut_off(Index rows, const Matrix<double>& shares, const Matrix<double>& wanted) {
    Index answered = rows;
    while (answered > 0 && shares.row(answered - 1).cwiseAbs().maxCoeff() == 0) --answered;
    if (answered == 0) {
      s_.fault("a call of ", rows, " rows was answered by zeros");
      return true;
    }
    Index attended = shares.cols();
    const auto blind = [&](Index group) {
      for (Index row = 0; row < answered; ++row)
        if (wanted(row, group) > 0 && shares(row, group) > 0.01 * wanted(row, group)) return false;
      return true;
    };
    // Of a causal oracle, rows that are not answered would be the ones to see the last keys.
    const Index seen = s_.causal() ? (answered * shares.cols()) / rows : shares.cols();
    while (attended > 0 && blind(attended - 1)) --attended;
    const Index keys = attended == 0 ? 0 : even_rows(attended - 1, shares.cols(), rows).end;
    if (answered < rows)
      s_.fault("the oracle declares ", rows, " rows, and the rows from row ", answered, " on are answered as zeros");
    if (attended < seen)
      s_.fault("the oracle declares ", rows, " rows, and the keys from row ", keys, " on are not attended to");
    s_.report.rows = std::min(answered, attended < seen ? keys : rows);
    return answered < rows || attended < seen;
  }

  /// Keys of score 0 and value 0 that nobody asked for: shares sum to n / (n + z), and to more where the scores of the
  /// n keys are larger.
  [[nodiscard]] bool padded(Index rows, const Matrix<double>& shares, const Matrix<double>& wanted) {
    const auto extra = [&](Index row, double sum) {
      const auto seen = static_cast<double>(s_.causal() ? row + 1 : rows);
      return seen / sum - seen;
    };
    const double last = extra(rows - 1, shares.row(rows - 1).sum());
    if (!(last > 0.5)) return false;
    for (Index row = 0; row < rows; ++row) {
      const double sum = shares.row(row).sum();
      if (!(sum > 0) ||
          std::abs(extra(row, sum) - last) > 0.05 * last + 4 * s_.unit.share(rows) * (last + static_cast<double>(rows)))
        return false;
      if ((shares.row(row) - sum * wanted.row(row)).cwiseAbs().maxCoeff() > 0x1p-6) return false;
    }
    const double score = equal_score();
    const CraftedCall<Scalar> equal = equal_scores(rows, score, 1);
    const std::optional<Matrix<double>> answer = s_.ask(equal);
    if (!answer) return true;
    // What rounding takes from the sum, it takes at any score.
    if (1 - s_.head_of(equal, *answer).row(rows - 1).sum() > 0.6 * (1 - shares.row(rows - 1).sum())) return false;
    s_.fault("of a call of ", rows, " rows shares of attention sum to ", shares.row(rows - 1).sum(), ": about ",
             std::round(last), " keys of score 0 and value 0 are padded in silence and attended to");
    return true;
  }

  [[nodiscard]] double equal_score() const { return std::min(4.0, 0.9 * s_.limits.largest_score); }

  /// Equal queries and equal keys, none of them zero: rotary positions would tell them apart.
  [[nodiscard]] bool same_everywhere(Index rows, const Matrix<double>& without_scores) {
    const CraftedCall<Scalar> call = equal_scores(rows, equal_score(), 1);
    const std::optional<Matrix<double>> answer = s_.ask(call);
    if (!answer) return false;
    const Matrix<double> shares = s_.head_of(call, *answer);
    // Weights that are rounded coarsely are so for any score.
    const Matrix<double> wanted = s_.coarse.empty() ? expected(s_.limits.kind, rows) : without_scores;
    const double most =
        ((shares - wanted).array() / wanted.array().max(1.0 / static_cast<double>(rows))).abs().matrix().maxCoeff();
    const bool bad = s_.coarse.empty() ? !near(shares, wanted, 32 * s_.unit.scores) : !(most <= 0.05);
    s_.report.depends_on_position = bad;
    if (bad)
      s_.fault("answers depend on position: equal queries score equal keys otherwise in other rows, by up to ", most,
               " of a weight among ", rows, " rows (rotary positions)");
    return !bad && passes_on(call, *answer);
  }

  /// Other counts of rows that a call may have: each is asked with scores of 0.
  [[nodiscard]] bool other_counts() {
    std::vector<Index> counts;
    const Index rows = s_.limits.rows;
    if (s_.limits.row_counts.empty()) {
      for (const Index count : {rows - 1, rows / 2 + 1, Index{2}, Index{1}}) counts.push_back(count);
    } else {
      const auto all = static_cast<Index>(s_.limits.row_counts.size());
      for (const Index place : {all - 2, all / 2, Index{1}, Index{0}})
        if (place >= 0 && place < all) counts.push_back(s_.limits.row_counts[static_cast<std::size_t>(place)]);
    }
    bool good = true;
    for (const Index count : counts) {
      std::vector<Index>& known = s_.report.row_counts;
      if (!s_.limits.takes_rows(count) || std::find(known.begin(), known.end(), count) != known.end()) continue;
      const CraftedCall<Scalar> call = equal_scores(count, 0, 1);
      const std::optional<Matrix<double>> answer = s_.ask(call);
      if (answer && right(count, call, *answer))
        known.push_back(count);
      else
        good = false;
      if (!good) break;
    }
    std::sort(s_.report.row_counts.begin(), s_.report.row_counts.end());
    return good;
  }

  ProbeSession<O>& s_;
};

}  // namespace twoheads::detail
