#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <twoheads/attention/input.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/exec/executor.hpp>
#include <twoheads/oracle/oracle.hpp>
#include <twoheads/simulate.hpp>
#include <twoheads/train/grid_gradient.hpp>
#include <twoheads/train/trainable.hpp>
#include <twoheads/train/transposed_mask.hpp>
#include <utility>

namespace twoheads {

/// How derivatives are taken by differences.
struct DifferenceOptions {
  /// Largest change h of a score, in nats, that a difference is taken over; 0: 8 eps^(1/3) of the scalar, and
  /// 8 eps^(1/5) where extrapolated. The 8, found by trial: rows seldom reach the bound of their change, and what
  /// rounds is the row, several times its derivative.
  double step = 0;
  /// Richardson: two steps, h and h / 2, as (4 d(h / 2) - d(h)) / 3: twice the calls.
  bool extrapolate = false;
};

/// Calls of forward and of backward passes.
struct ForwardOnlyCounts {
  Index forward = 0;
  Index backward = 0;
};

namespace detail {

template <RealScalar Scalar>
[[nodiscard]] double norm_of(const MatrixView<Scalar>& row) {
  return row.template cast<double>().stableNorm();
}

/// The transposed attention of a layer: its queries are the keys, its keys the queries with their log weights, each
/// query head with keys of its own, so that the weights of a row sum to the column sums of the shares P.
///
///   Shapes   q (NK, heads * dim), k (N, heads * dim), d_out (N, heads * value_dim), dim = m + 1, or with tilts
///            m + m_v + 2
///   Math     score of key j and query i: scale q_i . k_j - W_i, and with tilts + t (g_i . v_j - D_i) / bound_j, where
///            bound_j = largest |g| |v_j| + largest |D| >= |g_i . v_j - D_i|. ALiBi's slope (j - i) is slope j in the
///            log weights, slope i in W.
///   Corner   rows in the order of the transposed mask. A query that sees no key is hidden from all: its W counts as 0
template <RealScalar Scalar>
class TransposedAttention {
 public:
  TransposedAttention(const AttentionInput<Scalar>& input, const Matrix<double>& log_weights,
                      const MatrixView<Scalar>& d_out, const Matrix<double>& products)
      : input_(input),
        log_weights_(log_weights),
        d_out_(d_out),
        products_(products),
        turned_(transposed_mask(input.spec.mask, input.queries(), input.keys())),
        largest_(input.spec.heads),
        bounds_(input.keys(), input.spec.heads) {
    const AttentionSpec& spec = input.spec;
    for (Index head = 0; head < spec.heads; ++head) {
      double largest = 0;
      for (Index i = 0; i < d_out.rows(); ++i) largest = std::max(largest, norm_of(d_out_of(i, head)));
      const double product = products.col(head).cwiseAbs().maxCoeff();
      largest_[head] = largest > 0 ? largest : 1.0;
      for (Index j = 0; j < input.keys(); ++j) bounds_(j, head) = largest * norm_of(value_of(j, head)) + product;
    }
  }

  /// The spec of this attention, with values of so many columns.
  [[nodiscard]] AttentionSpec spec(bool tilts, Index value_dim) const {
    AttentionSpec made;
    made.heads = made.kv_heads = input_.spec.heads;
    made.head_dim = dim(tilts);
    made.value_dim = value_dim;
    made.score_scale = input_.spec.score_scale;
    made.mask = turned_.mask;
    return made;
  }

  /// The keys as queries, with tilts of size t unless that is 0.
  [[nodiscard]] Matrix<Scalar> queries(bool tilts, double t) const {
    const AttentionSpec& spec = input_.spec;
    Matrix<Scalar> rows(input_.keys(), spec.heads * dim(tilts));
    for (Index j = 0; j < input_.keys(); ++j)
      for (Index head = 0; head < spec.heads; ++head) {
        auto row = rows.row(place_of_key(j)).segment(head * dim(tilts), dim(tilts));
        row.head(spec.head_dim) = input_.k.row(j).segment(spec.kv_head_of(head) * spec.head_dim, spec.head_dim);
        row[spec.head_dim] = static_cast<Scalar>(1.0 / spec.score_scale);
        if (!tilts) continue;
        const double bound = bounds_(j, head);
        const double size = bound > 0 ? t * largest_[head] / bound / spec.score_scale : 0.0;
        row.segment(spec.head_dim + 1, spec.value_dim) = static_cast<Scalar>(size) * value_of(j, head);
        row[dim(tilts) - 1] = static_cast<Scalar>(-size);
      }
    return rows;
  }

  /// The queries as keys.
  [[nodiscard]] Matrix<Scalar> keys(bool tilts) const {
    const AttentionSpec& spec = input_.spec;
    Matrix<Scalar> rows(input_.queries(), spec.heads * dim(tilts));
    for (Index i = 0; i < input_.queries(); ++i)
      for (Index head = 0; head < spec.heads; ++head) {
        auto row = rows.row(place_of_query(i)).segment(head * dim(tilts), dim(tilts));
        row.head(spec.head_dim) = input_.q.row(i).segment(head * spec.head_dim, spec.head_dim);
        const double weight = log_weights_(i, head);
        const bool seen = weight != -std::numeric_limits<double>::infinity();
        row[spec.head_dim] = seen ? static_cast<Scalar>(-weight - slope(head) * centred(i)) : Scalar(0);
        if (!tilts) continue;
        row.segment(spec.head_dim + 1, spec.value_dim) =
            (d_out_of(i, head).template cast<double>() / largest_[head]).template cast<Scalar>();
        row[dim(tilts) - 1] = static_cast<Scalar>(products_(i, head) / largest_[head]);
      }
    return rows;
  }

  /// Rows of queries in the order of the keys of this attention.
  [[nodiscard]] Matrix<Scalar> ordered(const MatrixView<Scalar>& rows) const {
    Matrix<Scalar> result(rows.rows(), rows.cols());
    for (Index i = 0; i < rows.rows(); ++i) result.row(place_of_query(i)) = rows.row(i);
    return result;
  }

  /// What this attention found, times the weights of its rows: sums over queries for each key, in the order of keys.
  ///
  ///   Shapes   out (NK, heads * value_dim), log_weights (NK, heads), result as out
  [[nodiscard]] Matrix<double> sums(const Matrix<Scalar>& out, const Matrix<double>& log_weights) const {
    const Index heads = input_.spec.heads;
    const Index cols = out.cols() / heads;
    Matrix<double> found(out.rows(), out.cols());
    for (Index j = 0; j < out.rows(); ++j)
      for (Index head = 0; head < heads; ++head) {
        const Index row = place_of_key(j);
        // A key that no query sees has the weight 0.
        const double weight = std::exp(log_weights(row, head) + slope(head) * centred(j));
        found.row(j).segment(head * cols, cols) =
            weight * out.row(row).segment(head * cols, cols).template cast<double>();
      }
    return found;
  }

  [[nodiscard]] double bound(Index key, Index head) const { return bounds_(key, head); }

 private:
  [[nodiscard]] Index dim(bool tilts) const {
    return input_.spec.head_dim + 1 + (tilts ? input_.spec.value_dim + 1 : 0);
  }
  [[nodiscard]] Index place_of_key(Index key) const { return turned_.place(key, input_.keys()); }
  [[nodiscard]] Index place_of_query(Index query) const { return turned_.place(query, input_.queries()); }
  [[nodiscard]] MatrixView<Scalar> value_of(Index key, Index head) const {
    return input_.value_rows(head, {key, key + 1});
  }
  [[nodiscard]] MatrixView<Scalar> d_out_of(Index query, Index head) const {
    return block_view(d_out_, {query, query + 1}, head * input_.spec.value_dim, input_.spec.value_dim);
  }
  [[nodiscard]] double slope(Index head) const {
    return input_.spec.alibi.empty() ? 0.0 : input_.spec.alibi[static_cast<std::size_t>(head)];
  }
  /// Positions from the middle on, so that what slopes add stays small.
  [[nodiscard]] double centred(Index position) const {
    return static_cast<double>(position) - static_cast<double>(input_.keys()) / 2;
  }

  const AttentionInput<Scalar>& input_;
  const Matrix<double>& log_weights_;
  const MatrixView<Scalar>& d_out_;
  const Matrix<double>& products_;
  TransposedMask turned_;
  Vector<double> largest_;  ///< |d_out| of a head, 1 where all are 0
  Matrix<double> bounds_;
};

}  // namespace detail

/// Attention by a grid of oracle calls, with gradients by calls of run() alone:
/// for oracles that cannot be differentiated.
///
///   Math     g = d_out, D = g . out, P = exp(score - W), W the log weights
///            d_v_j = sum_i P_ij g_i: attention with queries k_j, keys (q_i, -W_i) and values g_i, times its own
///            weight: exact. d_q_i = scale d/dt of attention with scores + t g_i . v_j and values k_j; d_k_j = scale
///            d/dt of the transposed sum of exp(score - W_i + t (g_i . v_j - D_i)) q_i. Both by central differences, of
///            a step for each row that changes no score by more than h (DifferenceOptions::step), whatever the units of
///            g and v. Learned sinks: from log weights and D, without a call.
///            Error of d_q and d_k, relative to their largest terms: at most h^2 / 6 and about
///            eps (1 + largest logit) / h; extrapolated h^4 / 480 in place of h^2 / 6. Found with 300 tokens and logits
///            up to 7: 2e-10 in double and 6e-5 in float, extrapolated 4e-12 and 1e-5. Of d_v: eps (1 + largest logit).
///   Laws     the same bits and calls for any batch and executor. Each layer of a backward pass takes 3 transposed and
///            2 tilted evaluations of its attention (5 and 4 where extrapolated) with what the anchor repeats:
///            GridAttention with the same options. Memory: copies of the rows, nothing of the size of N x NK.
///   Corner   a tilted call is wider by value_dim columns of queries and keys, a transposed one by value_dim + 2: the
///            oracle must take them. Sinks and blocks are transposed as MaskKind::blocks
///   Throws   SpecError for raw tokens, error bars, precisions below float32, samples, a bias, a soft cap and queries
///            that stand after others; otherwise as GridAttention
///   Source   docs/training.md
template <Oracle O, Executor Exec = Serial>
class ForwardOnlyGrid {
 public:
  using Scalar = typename O::Scalar;

  explicit ForwardOnlyGrid(O& oracle, const SimulationOptions& options = {}, const DifferenceOptions& differences = {},
                           const Exec& exec = Exec())
      : options_(differences), attend_(oracle, detail::keeping_log_weights(options), exec) {
    detail::require_trainable(options, oracle.limits(), who);
    if (options.sampling.samples > 0)
      throw SpecError(detail::text(who, " and a sample: that of the transposed attention would be another one"));
    if (!(differences.step >= 0 && differences.step < 1))
      throw SpecError(
          detail::text("a difference over ", differences.step, " nats, expected 0 or more and less than 1"));
  }

  void forward(const AttentionInput<Scalar>& input, MatrixSpan<Scalar> out, Matrix<double>& log_weights) {
    require_input(input);
    require_shapes(input, out);
    const Index before = attend_.counts().calls;
    evaluate(input, out, true);
    log_weights = attend_.log_weights();
    forward_calls_ += attend_.counts().calls - before;
  }

  [[nodiscard]] AttentionGradient<Scalar> backward(const AttentionInput<Scalar>& input, const MatrixView<Scalar>& out,
                                                   const Matrix<double>& log_weights, const MatrixView<Scalar>& d_out) {
    require_input(input);
    detail::require_finite_backward(input, out, log_weights, d_out);
    if (log_weights.hasNaN()) throw InputError(detail::text(who, ": the log weights hold NaN, none were found"));
    const Matrix<double> products = detail::output_products(out, d_out, input.spec);
    const detail::TransposedAttention<Scalar> transposed(input, log_weights, d_out, products);
    return {query_gradient(input, d_out).template cast<Scalar>(),
            key_gradient(input, transposed).template cast<Scalar>(),
            value_gradient(input, transposed, d_out).template cast<Scalar>(),
            detail::sink_gradient(input, log_weights, products)};
  }

  /// So far.
  [[nodiscard]] ForwardOnlyCounts counts() const { return {forward_calls_, attend_.counts().calls - forward_calls_}; }

 private:
  static constexpr const char* who = "the gradient by calls alone";

  static void require_input(const AttentionInput<Scalar>& input) {
    detail::require_trainable_input(input, who);
    if (!input.bias.empty())
      throw SpecError(detail::text(who, " knows no bias: transposed, it would differ by key; expected none"));
    if (input.held.first_query != 0)
      throw SpecError(detail::text(who, " over queries from position ", input.held.first_query,
                                   " on: transposed, their keys would lack rows; expected 0"));
  }

  [[nodiscard]] double step() const {
    if (options_.step > 0) return options_.step;
    const double epsilon = static_cast<double>(std::numeric_limits<Scalar>::epsilon());
    return 8 * (options_.extrapolate ? std::pow(epsilon, 0.2) : std::cbrt(epsilon));
  }

  /// `weighs`: whether log weights are asked for.
  void evaluate(const AttentionInput<Scalar>& input, MatrixSpan<Scalar> out, bool weighs) {
    attend_.begin_layer(input.spec, input.layer, input.query_positions(), input.key_positions(),
                        weighs || input.sink_logits.size() > 0);
    attend_(input, input.query_positions(), out);
    attend_.end_layer();
  }

  /// The derivative at 0 of f(t), matrices of float64.
  template <class F>
  [[nodiscard]] Matrix<double> derivative(const F& f) const {
    const auto central = [&](double h) -> Matrix<double> {
      Matrix<double> found = f(h);
      found -= f(-h);
      return found / (2 * h);
    };
    const double h = step();
    Matrix<double> found = central(options_.extrapolate ? h / 2 : h);
    if (options_.extrapolate) found = (4 * found - central(h)) / 3;
    return found;
  }

  /// Tilted attention: queries (q, t u), keys (k, v), values k, where u = g / (|g| largest |v|).
  [[nodiscard]] Matrix<double> query_gradient(const AttentionInput<Scalar>& input, const MatrixView<Scalar>& d_out) {
    AttentionSpec spec = input.spec;
    const Index m = spec.head_dim;
    const Index d = spec.value_dim;
    spec.head_dim = m + d;
    spec.value_dim = m;
    Matrix<Scalar> keys(input.keys(), spec.kv_heads * (m + d));
    Vector<double> largest = Vector<double>::Zero(spec.kv_heads);
    for (Index j = 0; j < input.keys(); ++j)
      for (Index head = 0; head < spec.kv_heads; ++head) {
        keys.row(j).segment(head * (m + d), m) = input.k.row(j).segment(head * m, m);
        keys.row(j).segment(head * (m + d) + m, d) = input.v.row(j).segment(head * d, d);
        largest[head] = std::max(largest[head], detail::norm_of(block_view(input.v, {j, j + 1}, head * d, d)));
      }
    Matrix<double> sizes(input.queries(), spec.heads);
    for (Index i = 0; i < input.queries(); ++i)
      for (Index head = 0; head < spec.heads; ++head)
        sizes(i, head) = detail::norm_of(block_view(d_out, {i, i + 1}, head * d, d)) * largest[spec.kv_head_of(head)];
    const auto tilted = [&](double t) -> Matrix<double> {
      Matrix<Scalar> queries(input.queries(), spec.heads * (m + d));
      for (Index i = 0; i < input.queries(); ++i)
        for (Index head = 0; head < spec.heads; ++head) {
          const double size = sizes(i, head) > 0 ? t / spec.score_scale / sizes(i, head) : 0.0;
          queries.row(i).segment(head * (m + d), m) = input.q.row(i).segment(head * m, m);
          queries.row(i).segment(head * (m + d) + m, d) =
              (size * d_out.row(i).segment(head * d, d).template cast<double>()).template cast<Scalar>();
        }
      AttentionInput<Scalar> made = projected_input(spec, view(queries), view(keys), input.k);
      made.layer = input.layer;
      new (&made.sink_logits) MatrixView<Scalar>(input.sink_logits);
      Matrix<Scalar> out(input.queries(), spec.heads * m);
      evaluate(made, span(out), false);
      return out.template cast<double>();
    };
    Matrix<double> found = derivative(tilted);
    for (Index i = 0; i < found.rows(); ++i)
      for (Index head = 0; head < spec.heads; ++head)
        found.row(i).segment(head * m, m) *= spec.score_scale * sizes(i, head);
    return found;
  }

  /// One evaluation of the transposed attention.
  [[nodiscard]] Matrix<double> transposed_sums(const AttentionInput<Scalar>& input,
                                               const detail::TransposedAttention<Scalar>& transposed, bool tilts,
                                               double t, const Matrix<Scalar>& keys, const Matrix<Scalar>& values) {
    const AttentionSpec spec = transposed.spec(tilts, values.cols() / input.spec.heads);
    const Matrix<Scalar> queries = transposed.queries(tilts, t);
    AttentionInput<Scalar> made = projected_input(spec, view(queries), view(keys), view(values));
    made.layer = input.layer;
    Matrix<Scalar> out(queries.rows(), values.cols());
    evaluate(made, span(out), true);
    return transposed.sums(out, attend_.log_weights());
  }

  [[nodiscard]] Matrix<double> value_gradient(const AttentionInput<Scalar>& input,
                                              const detail::TransposedAttention<Scalar>& transposed,
                                              const MatrixView<Scalar>& d_out) {
    const Matrix<double> found =
        transposed_sums(input, transposed, false, 0, transposed.keys(false), transposed.ordered(d_out));
    Matrix<double> gradient = Matrix<double>::Zero(input.keys(), input.v.cols());
    const Index d = input.spec.value_dim;
    for (Index head = 0; head < input.spec.heads; ++head)
      gradient.middleCols(input.spec.kv_head_of(head) * d, d) += found.middleCols(head * d, d);
    return gradient;
  }

  [[nodiscard]] Matrix<double> key_gradient(const AttentionInput<Scalar>& input,
                                            const detail::TransposedAttention<Scalar>& transposed) {
    const Matrix<Scalar> keys = transposed.keys(true);
    const Matrix<Scalar> values = transposed.ordered(input.q);
    const Matrix<double> found =
        derivative([&](double t) { return transposed_sums(input, transposed, true, t, keys, values); });
    const AttentionSpec& spec = input.spec;
    const Index m = spec.head_dim;
    Matrix<double> gradient = Matrix<double>::Zero(input.keys(), input.k.cols());
    for (Index j = 0; j < input.keys(); ++j)
      for (Index head = 0; head < spec.heads; ++head)
        gradient.row(j).segment(spec.kv_head_of(head) * m, m) +=
            spec.score_scale * transposed.bound(j, head) * found.row(j).segment(head * m, m);
    return gradient;
  }

  DifferenceOptions options_;
  GridAttention<O, Exec> attend_;
  Index forward_calls_ = 0;
};

}  // namespace twoheads
