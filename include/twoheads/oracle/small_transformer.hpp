#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <twoheads/base/matrix.hpp>
#include <twoheads/base/product.hpp>
#include <twoheads/oracle/oracle.hpp>
#include <twoheads/oracle/vjp.hpp>
#include <vector>

namespace twoheads {

/// The small transformer on Eigen: L' layers, H' heads, plain or causal, residual or not, and no more rows than its
/// limit. It can be differentiated: see HasVjp.
///
///   Throws   LimitError for more rows, heads, layers or columns than the limits allow; ShapeError for weights that
///            do not fit
///   Laws     SumOrder::by_key: an answer's bits depend on its query, and on the keys and values of weight above 0,
///            in their order, alone; the scalar's exp decides what is 0 (below -745.2 in float64, -104 in float)
///   Corner   not for concurrent use: each thread takes an oracle of its own
///   Source   Yu & Alman, Definition 2.2
template <RealScalar S>
class SmallTransformer {
 public:
  using Scalar = S;

  explicit SmallTransformer(const OracleLimits& limits, SumOrder order = SumOrder::blocked)
      : limits_(limits), order_(order) {
    limits_.require_valid();
    if (limits_.kind == OracleKind::kernel)
      throw LimitError("a small transformer of the kind kernel: expected plain or causal");
  }

  [[nodiscard]] OracleLimits limits() const { return limits_; }

  /// Shapes: call.rows (n, width), result (n, output width); 1 <= n <= limits().rows.
  [[nodiscard]] Matrix<Scalar> run(const OracleCall<Scalar>& call) {
    Matrix<Scalar> answer;
    run_into(call, answer);
    return answer;
  }

  /// The same into a matrix that is reused from call to call, whatever it holds.
  void run_into(const OracleCall<Scalar>& call, Matrix<Scalar>& answer) {
    require_within(limits_, call);
    const SmallWeights<Scalar>& weights = *call.weights;
    if (weights.layers.empty()) answer = call.rows;
    for (std::size_t l = 0; l < weights.layers.size(); ++l) {
      if (l > 0) input_.swap(answer);
      run_layer(weights.layers[l], l == 0 ? call.rows : input_, answer);
    }
  }

  /// The derivatives of a loss by the rows of a call, where those by its answer are given.
  ///
  ///   Shapes   d_answer (n, output width), result (n, width)
  ///   Math     P = softmax(scale q k^T): d_v = P^T d_out, d_score = P * (d_out v^T - m), m the row sums of
  ///            P * (d_out v^T), d_q = scale d_score k, d_k = scale d_score^T q
  ///   Corner   the forward pass is run again. Memory: the rows as each layer finds them, and a panel of score rows
  ///   Throws   SpecError where a layer has an MLP, whose derivative nobody said; LimitError, ShapeError as run()
  [[nodiscard]] Matrix<Scalar> vjp(const OracleCall<Scalar>& call, const Matrix<Scalar>& d_answer) {
    require_within(limits_, call);
    const SmallWeights<Scalar>& weights = *call.weights;
    detail::require_shape("the derivatives by an answer", d_answer, call.rows.rows(), weights.output_width());
    for (const SmallLayer<Scalar>& layer : weights.layers)
      if (layer.mlp) throw SpecError("a small transformer with a layer MLP has no derivative: expected none");
    std::vector<Matrix<Scalar>> inputs(weights.layers.size());
    for (std::size_t l = 1; l < inputs.size(); ++l)
      run_layer(weights.layers[l - 1], l == 1 ? call.rows : inputs[l - 1], inputs[l]);
    Matrix<Scalar> d_rows = d_answer;
    Matrix<Scalar> d_input;
    for (std::size_t l = inputs.size(); l-- > 0;) {
      layer_derivative(weights.layers[l], l == 0 ? call.rows : inputs[l], d_rows, d_input);
      d_rows.swap(d_input);
    }
    return d_rows;
  }

 private:
  static constexpr Index lanes = 16;

  void run_layer(const SmallLayer<Scalar>& layer, const Matrix<Scalar>& input, Matrix<Scalar>& output) {
    output.resize(input.rows(), layer.output_width);
    if (limits_.residual) output = input;
    // Columns before this one hold sums, those from it on nothing yet.
    Index written = limits_.residual ? layer.output_width : 0;
    for (const SmallHead<Scalar>& head : layer.heads) {
      const MatrixView<Scalar> q = head.wq.read(input, q_, order_);
      const MatrixView<Scalar> k = head.wk.read(input, k_, order_);
      const MatrixView<Scalar> v = head.wv.read(input, v_, order_);
      const Index end = head.output_begin + v.cols();
      const bool alone = head.output_begin >= written;
      const Index empty_end = alone ? head.output_begin : end;
      if (written < empty_end) output.middleCols(written, empty_end - written).setZero();
      written = std::max(written, end);
      MatrixSpan<Scalar> columns = block_span(span(output), {0, input.rows()}, head.output_begin, v.cols());
      if (!alone) out_.resize(input.rows(), v.cols());
      const MatrixSpan<Scalar> out = alone ? columns : span(out_);
      if (order_ == SumOrder::by_key)
        attend_by_key(q, k, v, out);
      else
        attend(q, k, v, out);
      if (!alone) columns += out_;
    }
    if (written < layer.output_width) output.rightCols(layer.output_width - written).setZero();
    if (layer.mlp) layer.mlp(0, span(output));
  }

  /// Keys that a row sees of so many: a causal oracle shows row i the rows 0..i.
  [[nodiscard]] Index seen_by(Index row, Index rows) const {
    return limits_.kind == OracleKind::causal ? row + 1 : rows;
  }

  /// Queries are taken in panels: a causal call then leaves out most of what is hidden, and the scores of a long call
  /// stay in the cache.
  [[nodiscard]] Index panel_of(Index rows) const {
    const Index most = limits_.kind == OracleKind::causal ? 64 : 256;
    // Of one length, since a last panel of a single row would take as long as one of many. Four rows make a step of
    // Eigen's product kernel.
    return ceil_div(ceil_div(rows, ceil_div(rows, most + most / 4)), 4) * 4;
  }

  /// Makes room for the score rows of a panel of a call of so many rows.
  void prepare_panels(Index rows) {
    const Index panel = std::min(panel_of(rows), rows);
    // Score rows are whole vectors, so that no exponential is left to the slow path for the ends of a row.
    const Index stride = ceil_div(rows, lanes) * lanes;
    if (scores_.rows() < panel || scores_.cols() != stride) scores_.setZero(panel, stride);
    sums_.resize(panel);
  }

  /// Leaves exp(score - the row's largest) of a panel of queries in scores_ and their sums in sums_; returns the keys
  /// that the panel sees.
  Rows weigh_panel(const MatrixView<Scalar>& q, const MatrixView<Scalar>& k, Rows queries) {
    const Index rows = q.rows();
    const Rows own{0, queries.size()};
    const Rows keys{0, seen_by(queries.end - 1, rows)};
    MatrixSpan<Scalar> scores = block_span(span(scores_), own, 0, keys.size());
    detail::multiply_transposed(scores, block_view(q, queries, 0, q.cols()), block_view(k, keys, 0, k.cols()));
    if (limits_.score_scale != 1.0) scores *= static_cast<Scalar>(limits_.score_scale);
    for (Index row = 0; row < own.end; ++row) {
      const Index seen = seen_by(queries.begin + row, rows);
      auto logits = scores_.row(row).head(ceil_div(seen, lanes) * lanes).array();
      const Scalar most = logits.head(seen).maxCoeff();
      const bool deep = logits.head(seen).minCoeff() - most < std::log(std::numeric_limits<Scalar>::min());
      logits = (logits - most).exp();
      if (deep) flush(&scores_(row, 0), seen);
      scores_.row(row).tail(scores_.cols() - seen).setZero();
      sums_[row] = logits.sum();
    }
    return keys;
  }

  /// out = softmax(scale q k^T) v.
  void attend(const MatrixView<Scalar>& q, const MatrixView<Scalar>& k, const MatrixView<Scalar>& v,
              MatrixSpan<Scalar> out) {
    const Index rows = q.rows();
    const Index panel = panel_of(rows);
    prepare_panels(rows);
    for (Index begin = 0; begin < rows; begin += panel) {
      const Rows queries{begin, std::min(begin + panel, rows)};
      const Rows keys = weigh_panel(q, k, queries);
      MatrixSpan<Scalar> sums = block_span(out, queries, 0, out.cols());
      detail::multiply(sums, block_view(view(scores_), {0, queries.size()}, 0, keys.size()),
                       block_view(v, keys, 0, v.cols()));
      sums.array().colwise() /= sums_.head(queries.size()).array();
    }
  }

  /// d_input from the derivatives by a layer's output.
  void layer_derivative(const SmallLayer<Scalar>& layer, const Matrix<Scalar>& input, const Matrix<Scalar>& d_output,
                        Matrix<Scalar>& d_input) {
    if (limits_.residual)
      d_input = d_output;
    else
      d_input.setZero(input.rows(), input.cols());
    for (const SmallHead<Scalar>& head : layer.heads) {
      const MatrixView<Scalar> q = head.wq.read(input, q_);
      const MatrixView<Scalar> k = head.wk.read(input, k_);
      const MatrixView<Scalar> v = head.wv.read(input, v_);
      head_derivative(q, k, v, block_view(view(d_output), {0, input.rows()}, head.output_begin, v.cols()));
      head.wq.add_derivative(dq_, d_input);
      head.wk.add_derivative(dk_, d_input);
      head.wv.add_derivative(dv_, d_input);
    }
  }

  /// Leaves the derivatives by a head's queries, keys and values in dq_, dk_ and dv_.
  void head_derivative(const MatrixView<Scalar>& q, const MatrixView<Scalar>& k, const MatrixView<Scalar>& v,
                       const MatrixView<Scalar>& d_out) {
    const Index rows = q.rows();
    const Index panel = panel_of(rows);
    const auto scale = static_cast<Scalar>(limits_.score_scale);
    dq_.resize(rows, q.cols());
    dk_.setZero(rows, k.cols());
    dv_.setZero(rows, v.cols());
    prepare_panels(rows);
    for (Index begin = 0; begin < rows; begin += panel) {
      const Rows queries{begin, std::min(begin + panel, rows)};
      const Rows keys = weigh_panel(q, k, queries);
      const MatrixView<Scalar> d_values = block_view(d_out, queries, 0, v.cols());
      weights_ = scores_.topLeftCorner(queries.size(), keys.size());
      weights_.array().colwise() /= sums_.head(queries.size()).array();
      d_scores_.resize(queries.size(), keys.size());
      detail::multiply_transposed(span(d_scores_), d_values, block_view(v, keys, 0, v.cols()));
      for (Index row = 0; row < queries.size(); ++row) {
        const Scalar mean = weights_.row(row).dot(d_scores_.row(row));
        d_scores_.row(row).array() = weights_.row(row).array() * (d_scores_.row(row).array() - mean) * scale;
      }
      detail::multiply(block_span(span(dq_), queries, 0, q.cols()), view(d_scores_), block_view(k, keys, 0, k.cols()));
      detail::add_transposed_product(block_span(span(dk_), keys, 0, k.cols()), view(d_scores_),
                                     block_view(q, queries, 0, q.cols()));
      detail::add_transposed_product(block_span(span(dv_), keys, 0, v.cols()), view(weights_), d_values);
    }
  }

  /// Makes 0 of weights below the normal numbers, so that hidden keys have none: Eigen's vectorised exponential ends
  /// above 0 (at 4e-39 in float, 5.6e-309 in float64). A NaN stays.
  static void flush(Scalar* weights, Index count) {
    for (Index key = 0; key < count; ++key)
      if (weights[key] < std::numeric_limits<Scalar>::min()) weights[key] = Scalar(0);
  }

  /// The same, a query at a time: a query's scores are one row of scores_, its memory O(n).
  void attend_by_key(const MatrixView<Scalar>& q, const MatrixView<Scalar>& k, const MatrixView<Scalar>& v,
                     MatrixSpan<Scalar> out) {
    const Index rows = q.rows();
    keys_ = k.transpose();
    scores_.resize(1, rows);
    for (Index row = 0; row < rows; ++row) {
      const Index seen = seen_by(row, rows);
      Scalar* const weights = scores_.data();
      detail::multiply_in_order(block_span(span(scores_), {0, 1}, 0, seen), block_view(q, {row, row + 1}, 0, q.cols()),
                                block_view(view(keys_), {0, keys_.rows()}, 0, seen));
      if (limits_.score_scale != 1.0)
        for (Index key = 0; key < seen; ++key) weights[key] *= static_cast<Scalar>(limits_.score_scale);
      Scalar most = weights[0];
      for (Index key = 1; key < seen; ++key) most = std::max(most, weights[key]);
      Scalar sum = 0;
      for (Index key = 0; key < seen; ++key) {
        weights[key] = std::exp(weights[key] - most);
        sum += weights[key];
      }
      detail::multiply_in_order(block_span(out, {row, row + 1}, 0, out.cols()),
                                block_view(view(scores_), {0, 1}, 0, seen), block_view(v, {0, seen}, 0, v.cols()));
      for (Index col = 0; col < out.cols(); ++col) out(row, col) /= sum;
    }
  }

  OracleLimits limits_;
  SumOrder order_;
  Matrix<Scalar> input_, q_, k_, v_, keys_, scores_, out_;
  Vector<Scalar> sums_;
  Matrix<Scalar> dq_, dk_, dv_, weights_, d_scores_;
};

static_assert(Oracle<SmallTransformer<float>> && Oracle<SmallTransformer<double>>);
static_assert(HasVjp<SmallTransformer<float>> && HasVjp<SmallTransformer<double>>);

}  // namespace twoheads
