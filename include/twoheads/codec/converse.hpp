#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <twoheads/base/matrix.hpp>
#include <twoheads/base/product.hpp>
#include <twoheads/codec/codes.hpp>
#include <twoheads/codec/stack.hpp>
#include <twoheads/oracle/oracle.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// One of many short attentions that share a call: each row sees the rows of its own attention, all of them on a plain
/// oracle, itself and those before it on a causal one.
///
///   Shapes   q, k (n, m), v (n, m_v); n is its own, m and m_v are those of the others
///   Math     mlp(softmax(score_scale q k^T) v); an MLP counts rows from the first one of its attention
template <RealScalar Scalar>
struct ShortAttention {
  Matrix<Scalar> q, k, v;
  RowFunction mlp;
};

/// A short attention from its tokens and weights: the three small products that the theorem leaves to the host.
///
///   Shapes   x (n, d), wq, wk (d, m), wv (d, m_v)
///   Throws   ShapeError if these do not fit
template <RealScalar Scalar>
[[nodiscard]] ShortAttention<Scalar> short_attention(const Matrix<Scalar>& x, const Matrix<Scalar>& wq,
                                                     const Matrix<Scalar>& wk, const Matrix<Scalar>& wv,
                                                     RowFunction mlp = {}) {
  detail::require_shape("wq of a short attention", wq, x.cols(), wq.cols());
  detail::require_shape("wk of a short attention", wk, x.cols(), wq.cols());
  detail::require_shape("wv of a short attention", wv, x.cols(), wv.cols());
  ShortAttention<Scalar> attention{Matrix<Scalar>(x.rows(), wq.cols()), Matrix<Scalar>(x.rows(), wk.cols()),
                                   Matrix<Scalar>(x.rows(), wv.cols()), std::move(mlp)};
  detail::multiply(span(attention.q), view(x), view(wq));
  detail::multiply(span(attention.k), view(x), view(wk));
  detail::multiply(span(attention.v), view(x), view(wv));
  return attention;
}

/// How short attentions share a call.
struct TogetherOptions {
  double score_scale = 1.0;         ///< of the attentions; queries are multiplied by it over the oracle's
  std::optional<double> amplitude;  ///< of the codes, B; none: silent_gap() chooses it
};

/// Checks that attentions can share a call: at least one, none without rows, all with the same m and m_v.
///
///   Throws   SpecError for no attention; ShapeError that names the attention; InputError for NaN or infinity
template <RealScalar Scalar>
void require_valid(const std::vector<ShortAttention<Scalar>>& attentions) {
  if (attentions.empty()) throw SpecError("a call of 0 attentions, expected 1 or more");
  const Index head_dim = attentions.front().q.cols();
  const Index value_dim = attentions.front().v.cols();
  for (std::size_t i = 0; i < attentions.size(); ++i) {
    const ShortAttention<Scalar>& attention = attentions[i];
    const Index rows = attention.q.rows();
    if (rows < 1 || head_dim < 1 || value_dim < 1)
      throw ShapeError(detail::text("attention ", i, " has ", rows, " rows of ", head_dim, " query and ", value_dim,
                                    " value columns, expected 1 or more of each"));
    const auto check = [&](const char* what, const Matrix<Scalar>& matrix, Index cols) {
      detail::require_shape(detail::text(what, " of attention ", i), matrix, rows, cols);
      if (const Index row = detail::first_row_not_finite(matrix); row >= 0)
        throw InputError(detail::text(what, " of attention ", i, ", row ", row, ": NaN or infinity"));
    };
    check("q", attention.q, head_dim);
    check("k", attention.k, head_dim);
    check("v", attention.v, value_dim);
  }
}

/// By how much a score with a key of another attention may exceed the largest one with an own key, were there no codes.
///
///   Units    logits
///   Math     max_i |s| |q_i| max_j |k_j| - s q_i . k_i: a row's own key is always visible to it; O(N m) by
///            Cauchy-Schwarz, where the very maximum would take O(N^2 m). The rounding of scores is counted in.
template <RealScalar Scalar>
[[nodiscard]] double logit_spread(const std::vector<ShortAttention<Scalar>>& attentions, double score_scale) {
  double largest_key = 0;
  for (const ShortAttention<Scalar>& attention : attentions)
    largest_key = std::max(largest_key, attention.k.template cast<double>().rowwise().norm().maxCoeff());
  double spread = 0;
  for (const ShortAttention<Scalar>& attention : attentions) {
    const double rounding = 4.0 * static_cast<double>(attention.q.cols() + 4) * std::numeric_limits<Scalar>::epsilon();
    for (Index row = 0; row < attention.q.rows(); ++row) {
      const RowVector<double> query = attention.q.row(row).template cast<double>() * score_scale;
      const double own = query.dot(attention.k.row(row).template cast<double>());
      spread = std::max(spread, query.norm() * largest_key * (1.0 + rounding) - own);
    }
  }
  return spread;
}

/// The least gap that codes must put between attentions: hidden weights then sum to less than the unit round-off u.
///
///   Units    logits
///   Math     logit spread + ln(N / u)
///   Source   Yu & Alman, Theorem 4.2, whose bound for an error of 2^-N is far larger; docs/paper_map.md
template <RealScalar Scalar>
[[nodiscard]] double least_gap(double spread, Index rows) {
  return spread + std::log(2.0 * static_cast<double>(rows) / std::numeric_limits<Scalar>::epsilon());
}

/// The gap from which each hidden weight is exactly 0, so that an oracle that sums in key order keeps every bit.
///
///   Units    logits
///   Math     logit spread + ln(1 / smallest number above 0), and 2 beyond it for the last bits of exp
template <RealScalar Scalar>
[[nodiscard]] double silent_gap(double spread) {
  return spread + 2.0 - std::log(static_cast<double>(std::numeric_limits<Scalar>::denorm_min()));
}

/// The amplitude B of the codes in a call of these attentions: the given one, or that of silent_gap().
///
///   Math     score_scale of the oracle times B^2 >= least_gap(); a single attention has no codes, and no amplitude
///   Throws   SpecError that states the rule for an amplitude that does not keep it; LimitError where the products of
///            codes would leave the range of the scalar
template <RealScalar Scalar>
[[nodiscard]] Scalar amplitude_for(const std::vector<ShortAttention<Scalar>>& attentions, const Codes& codes,
                                   double oracle_scale, Index rows, const TogetherOptions& options) {
  if (codes.columns() == 0) return Scalar(0);
  const double spread = logit_spread(attentions, options.score_scale);
  // Sums of codes are rounded, too.
  const double rounding = 1.0 + 4.0 * static_cast<double>(attentions.front().q.cols() + codes.columns()) *
                                    std::numeric_limits<Scalar>::epsilon();
  if (!options.amplitude)
    return code_amplitude<Scalar>(silent_gap<Scalar>(spread) * rounding / oracle_scale, codes.columns());
  const double squared = *options.amplitude * *options.amplitude;
  const double least = least_gap<Scalar>(spread, rows) * rounding / oracle_scale;
  if (!(*options.amplitude > 0 && squared >= least))
    throw SpecError(detail::text("code amplitude ", *options.amplitude, " has the square ", squared,
                                 ", expected B^2 >= (logit spread + ln(N / u)) / score scale of the oracle = (", spread,
                                 " + ", least_gap<Scalar>(spread, rows) - spread, ") / ", oracle_scale,
                                 ": B = ", std::sqrt(least) * (1.0 + 1e-6), ", or no amplitude, would do"));
  return code_amplitude<Scalar>(squared, codes.columns());
}

namespace detail {

/// The MLP of a call: each attention's function on its own rows.
template <RealScalar Scalar>
[[nodiscard]] RowFunction mlp_by_rows(const std::vector<ShortAttention<Scalar>>& attentions) {
  struct Part {
    Rows rows;
    RowFunction mlp;
  };
  std::vector<Part> parts;
  Index begin = 0;
  for (const ShortAttention<Scalar>& attention : attentions) {
    const Index end = begin + attention.q.rows();
    if (attention.mlp) parts.push_back({{begin, end}, attention.mlp});
    begin = end;
  }
  if (parts.empty()) return {};
  // An oracle may hand the rows of a call on in pieces.
  return RowFunction([parts](Index first_row, auto& rows) {
    for (const Part& part : parts) {
      const Rows shared{std::max(part.rows.begin, first_row), std::min(part.rows.end, first_row + rows.rows())};
      if (shared.empty()) continue;
      part.mlp(shared.begin - part.rows.begin,
               block_span(rows, {shared.begin - first_row, shared.end - first_row}, 0, rows.cols()));
    }
  });
}

}  // namespace detail

/// Evaluates many short attentions, each with its own weights, by one call of a long oracle.
///
///   Shapes   attentions (n_i, m), (n_i, m_v); results (n_i, m_v) in their order; the oracle takes N = sum n_i rows or
///            more, of 2 (m + r) + m_v columns, r those of the codes
///   Math     rows [q_i, u_i | k_i, w_i | v_i], codes u, w with u_i . w_i = 0 and u_i . w_j <= -B^2 for i != j
///   Laws     with SumOrder::by_key each result has the bits of a call of its own; otherwise they differ as sums do
///            that an oracle groups in another way
///   Corner   no synthetic row; where the oracle takes a fixed number of rows, the rest is an attention of zeros
///   Throws   as require_valid and amplitude_for; LimitError for more rows or columns than the oracle takes;
///            OracleError for an answer of another shape, or one with NaN or infinity where no MLP made it
///   Source   Yu & Alman, Theorem 4.2
template <Oracle O>
[[nodiscard]] std::vector<Matrix<typename O::Scalar>> attend_together(
    O& oracle, const std::vector<ShortAttention<typename O::Scalar>>& attentions, const TogetherOptions& options = {}) {
  using Scalar = typename O::Scalar;
  require_valid(attentions);
  if (!std::isfinite(options.score_scale))
    throw SpecError(detail::text("score_scale is ", options.score_scale, ", expected a finite number"));
  const OracleLimits limits = oracle.limits();
  limits.require_valid();
  Index rows = 0;
  for (const ShortAttention<Scalar>& attention : attentions) rows += attention.q.rows();
  if (rows > limits.rows)
    throw LimitError(
        detail::text(attentions.size(), " attentions have ", rows, " rows together, the oracle takes ", limits.rows));
  const Index padding = limits.fixed_rows ? limits.rows - rows : 0;

  const Codes codes(static_cast<Index>(attentions.size()) + (padding > 0 ? 1 : 0));
  const auto amplitude = amplitude_for(attentions, codes, limits.score_scale, rows + padding, options);
  const Index head_dim = attentions.front().q.cols();
  const Index value_dim = attentions.front().v.cols();
  const Index keyed = head_dim + codes.columns();
  const StackLayout layout(limits, Packing::residual, 2 * keyed + value_dim, value_dim, rows + padding, 1);
  using P = Projection<Scalar>;
  const SmallHead<Scalar> head{P::selector(0, keyed), P::selector(keyed, keyed), P::selector(2 * keyed, value_dim), 0};
  const SmallWeights<Scalar> weights = stack<Scalar>(layout, {head}, {detail::mlp_by_rows(attentions)});

  OracleCall<Scalar> call;
  call.weights = &weights;
  call.rows.setZero(rows + padding, layout.width());
  const auto factor = static_cast<Scalar>(options.score_scale / limits.score_scale);
  Index row = 0;
  for (std::size_t i = 0; i < attentions.size() + (padding > 0 ? 1 : 0); ++i) {
    const bool real = i < attentions.size();
    const Index count = real ? attentions[i].q.rows() : padding;
    auto own = call.rows.middleRows(row, count);
    if (real) {
      own.leftCols(head_dim) = attentions[i].q * factor;
      own.middleCols(keyed, head_dim) = attentions[i].k;
      own.middleCols(2 * keyed, value_dim) = attentions[i].v;
    }
    for (Index r = 0; r < count; ++r) {
      codes.write_query(static_cast<Index>(i), amplitude, own.row(r).segment(head_dim, codes.columns()));
      codes.write_key(static_cast<Index>(i), amplitude, own.row(r).segment(keyed + head_dim, codes.columns()));
    }
    row += count;
  }
  require_within(limits, call);
  const Matrix<Scalar> answer = oracle.run(call);
  detail::require_answer(call, answer);
  std::vector<Matrix<Scalar>> results;
  row = 0;
  for (std::size_t i = 0; i < attentions.size(); ++i) {
    const Index count = attentions[i].q.rows();
    results.push_back(answer.block(row, layout.answer_begin(0), count, value_dim));
    if (const Index bad = detail::first_row_not_finite(results.back()); bad >= 0 && !attentions[i].mlp)
      throw OracleError(detail::text("attention ", i, ", row ", bad, ": the oracle answered NaN or infinity"));
    row += count;
  }
  return results;
}

}  // namespace twoheads
