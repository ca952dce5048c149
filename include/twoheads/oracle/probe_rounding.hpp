#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <twoheads/base/matrix.hpp>
#include <twoheads/oracle/probe_session.hpp>
#include <utility>
#include <vector>

namespace twoheads::detail {

/// What tokens, attention weights and answers are rounded to, kept apart as far as outputs allow.
///
///   Math     two keys a, b of weight 1/2 each, beside dead ones of value 0:
///              tokens    v_a = 1 + 2^-k, v_b = -1: 2^-(k+1) comes back, or nothing where the token lost its last bit
///              answers   v_a = 1, v_b = 2^-k: (1 + 2^-k) / 2 comes back, or 1/2
///            two keys whose scores differ by d:
///              weights   v_a = i, v_b = -j with i / j next to exp(-d): what comes back is nearly nothing but the
///                        rounding of the weights
template <Oracle O>
class ProbeRounding {
 public:
  using Scalar = typename O::Scalar;

  explicit ProbeRounding(ProbeSession<O>& session) : s_(session) {}

  void examine() {
    const std::vector<int> bits = exponents();
    std::vector<Column> columns;
    columns.push_back({0, 1, 0});
    for (const int k : bits) columns.push_back({0, 1 + std::exp2(-k), -1});
    for (const int k : bits) columns.push_back({0, 1, std::exp2(-k)});
    const std::size_t first_weight = columns.size();
    const double scale = s_.limits.score_scale;
    const double most = std::min(1.0, 0.4 * s_.limits.largest_score);
    for (const double part : {1.0, 1.25, 1.5, 1.75, 1.125, 1.375})
      columns.push_back(balanced(part * power_of_two_below(most / scale)));
    columns.push_back({power_of_two_below(std::min(6.0, 0.9 * s_.limits.largest_score) / scale), 0, 1});
    if (!ask(columns)) return;

    const double half = columns.front().found;
    examine_bits("tokens", s_.report.tokens, s_.limits.precision.tokens, s_.unit.tokens, bits, 1, columns, 0);
    examine_bits("answers", s_.report.answers, s_.limits.precision.answers, s_.unit.answers, bits, 1 + bits.size(),
                 columns, half);
    examine_weights(columns, first_weight);
  }

 private:
  /// Two values and the query that meets their keys; what came back.
  struct Column {
    double q = 0, a = 0, b = 0;
    double found = 0;
    double dead = 0;   ///< weight of all dead keys, where the second key's is 1
    double depth = 0;  ///< how far their scores lie below
  };

  /// Bits that are asked for: all that a precision ends with where there are columns, else one between each two.
  [[nodiscard]] std::vector<int> exponents() const {
    std::vector<int> bits{6, 9, 16, 40};
    if (s_.value_cols(64) >= 48) bits = {5, 6, 7, 8, 9, 10, 11, 12, 16, 20, 22, 23, 24, 30, 40, 50, 52};
    std::erase_if(bits, [&](int k) {
      return k >= std::numeric_limits<Scalar>::digits ||
             std::exp2(-k) < std::max(facts_of(s_.limits.precision.tokens).least_normal, 1e-300);
    });
    return bits;
  }

  /// Values of 8 bits that nearly cancel where the scores of the two keys differ by scale q.
  [[nodiscard]] Column balanced(double q) const {
    const double ratio = std::exp(s_.limits.score_scale * q);
    Column best{q, 1, -1};
    double least = std::abs(ratio - 1);
    for (int a = 16; a < 256; ++a) {
      const double b = std::round(a * ratio);
      const double off = std::abs(a * ratio - b) / b;
      if (b < 256 && off < least) {
        best = {q, static_cast<double>(a), -b};
        least = off;
      }
    }
    return best;
  }

  /// Asks columns together that need different queries, as far as there are rows and columns of values.
  [[nodiscard]] bool ask(std::vector<Column>& columns) {
    const Index rows = s_.few_rows();
    const Index first = s_.causal() ? 1 : 0;
    const auto cols = std::min(columns.size(), static_cast<std::size_t>(s_.value_cols(64)));
    const double scale = s_.limits.score_scale;
    const double gap = std::min({60.0, 0.9 * s_.limits.largest_score, s_.report.largest_score.value_or(60.0)});
    const double root = power_of_two_below(std::sqrt(gap / scale));
    for (std::size_t begin = 0; begin < columns.size();) {
      ProbeHead head{Matrix<double>::Zero(rows, 2), Matrix<double>::Zero(rows, 2),
                     Matrix<double>::Zero(rows, static_cast<Index>(cols))};
      head.q.col(1).setConstant(root);
      const double dead = power_of_two_below(gap / scale / root);
      head.k.col(1).tail(rows - 2).setConstant(-dead);
      head.k(0, 0) = 1;
      std::vector<double> queries;
      std::vector<Index> row_of;
      std::size_t end = begin;
      for (; end < columns.size() && end - begin < cols; ++end) {
        std::size_t place = 0;
        while (place < queries.size() && queries[place] != columns[end].q) ++place;
        if (place == queries.size()) {
          if (static_cast<Index>(place) + first >= rows) break;
          queries.push_back(columns[end].q);
        }
        row_of.push_back(first + static_cast<Index>(place));
        head.q(row_of.back(), 0) = columns[end].q;
        head.v(0, static_cast<Index>(end - begin)) = columns[end].a;
        head.v(1, static_cast<Index>(end - begin)) = columns[end].b;
      }
      const CraftedCall<Scalar> call = s_.craft_one("two keys", std::move(head));
      const std::optional<Matrix<double>> answer = s_.ask(call);
      if (!answer) return false;
      const Matrix<double> found = s_.head_of(call, *answer);
      for (std::size_t i = begin; i < end; ++i) {
        const Index row = row_of[i - begin];
        columns[i].found = found(row, static_cast<Index>(i - begin));
        columns[i].depth = scale * root * dead;
        columns[i].dead = static_cast<double>((s_.causal() ? row + 1 : rows) - 2) * std::exp(-columns[i].depth);
      }
      begin = end;
    }
    return true;
  }

  void examine_bits(const char* what, MeasuredRounding& measured, Precision declared, double unit,
                    const std::vector<int>& bits, std::size_t begin, const std::vector<Column>& columns, double shift) {
    // What dead keys of no great distance leave to the two.
    const double live = 2 * columns.front().found;
    int last = 0;
    bool lost = false;
    bool missed = false;
    for (std::size_t i = 0; i < bits.size(); ++i) {
      const double wanted = std::exp2(-bits[i] - 1);
      const double share = (columns[begin + i].found - shift) / (wanted * live);
      const bool kept = share > 0.25 && share < 4;
      if (!kept) lost = true;
      if (kept && !lost) last = bits[i];
      if (!kept && wanted >= unit) missed = true;
    }
    const double found = std::exp2(-last - 1);
    if (lost || last >= 16)
      measured = {precision_of(found), found};
    else
      s_.note("the rounding of ", what, " cannot be told beyond ", found, ": tokens hold no more");
    if (missed)
      s_.fault(what, " are rounded to ", name(precision_of(found)), " (unit round-off of about ", found,
               "), declared is ", name(declared));
  }

  void examine_weights(const std::vector<Column>& columns, std::size_t begin) {
    const double scale = s_.limits.score_scale;
    const double answers = std::max(s_.unit.answers, 2 * s_.report.answers.unit_roundoff);
    double most = 0;
    bool missed = false;
    for (std::size_t i = begin; i < columns.size(); ++i) {
      const Column& column = columns[i];
      const double score = scale * column.q;
      const double b = 1 / (1 + std::exp(score) + column.dead);
      const double a = std::exp(score) * b;
      const double size = a * std::abs(column.a) + b * std::abs(column.b);
      const double truth = a * column.a + b * column.b;
      const double error = std::abs(column.found - truth);
      const double lost = answers * std::abs(truth) + 2 * s_.unit.least_answer;
      const double allowed =
          size * (2 * s_.unit.weights + 4 * (s_.unit.scores + s_.unit.tokens) * (score + column.dead * column.depth) +
                  static_cast<double>(32 + 2 * s_.few_rows()) * s_.unit.scalar) +
          2 * lost + s_.unit.least_weight * (std::abs(column.a) + std::abs(column.b));
      most = std::max(most, (error - lost) / size);
      if (!(error <= allowed)) missed = true;
    }
    most = std::max(most, s_.unit.scalar / 8);
    s_.report.weights = {precision_of(most), most};
    if (missed)
      s_.fault("attention weights are rounded to ", name(precision_of(most)), " or so (relative errors of up to ", most,
               " at scores of about 1), declared are ", name(s_.limits.precision.weights), " weights and ",
               name(s_.limits.precision.scores), " scores");
  }

  ProbeSession<O>& s_;
};

}  // namespace twoheads::detail
