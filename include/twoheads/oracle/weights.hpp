#pragma once

#include <memory>
#include <twoheads/base/matrix.hpp>
#include <twoheads/base/product.hpp>
#include <twoheads/model/row_function.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// In which order the small transformer sums.
///
///   blocked   as Eigen's product kernels do, which depends on the number of rows and columns: fast
///   by_key    scores in the order of columns, weights and values in the order of keys: an answer keeps its bits
///             whatever keys of weight 0 lie between its own
enum class SumOrder { blocked, by_key };

/// A linear map from some columns of a token row: x[begin .. begin + rows of the matrix) times the matrix.
///
///   Shapes   x (n, width), result (n, cols)
///   Math     the matrix of a selector is the identity; it is kept as such,
///            so that its product is a view of the columns
template <RealScalar Scalar>
class Projection {
 public:
  Projection() = default;

  /// Copies the columns [begin, begin + count).
  [[nodiscard]] static Projection selector(Index begin, Index count) {
    Projection p;
    p.begin_ = begin;
    p.count_ = p.cols_ = count;
    return p;
  }

  /// Multiplies the columns [begin, begin + matrix.rows()) by the matrix, which copies of the projection share.
  [[nodiscard]] static Projection dense(Index begin, std::shared_ptr<const Matrix<Scalar>> matrix) {
    Projection p;
    p.begin_ = begin;
    p.count_ = matrix->rows();
    p.cols_ = matrix->cols();
    p.matrix_ = std::move(matrix);
    return p;
  }

  [[nodiscard]] Index begin() const { return begin_; }         ///< first row that is read
  [[nodiscard]] Index end() const { return begin_ + count_; }  ///< one past the last
  [[nodiscard]] Index cols() const { return cols_; }           ///< columns of the product

  /// The same map, reading columns that start `offset` later.
  [[nodiscard]] Projection shifted(Index offset) const {
    Projection p = *this;
    p.begin_ += offset;
    return p;
  }

  /// The map's result for the rows of x: a selector shows the columns themselves, a product is left in `workspace`. The
  /// view is good as long as both stay as they are.
  [[nodiscard]] MatrixView<Scalar> read(const Matrix<Scalar>& x, Matrix<Scalar>& workspace,
                                        SumOrder order = SumOrder::blocked) const {
    const MatrixView<Scalar> columns = block_view(view(x), {0, x.rows()}, begin_, count_);
    if (!matrix_) return columns;
    workspace.resize(x.rows(), cols_);
    if (order == SumOrder::by_key)
      detail::multiply_in_order(span(workspace), columns, view(*matrix_));
    else
      detail::multiply(span(workspace), columns, view(*matrix_));
    return view(workspace);
  }

  /// The same as a matrix of its own; `result` is not x.
  void apply(const Matrix<Scalar>& x, Matrix<Scalar>& result, SumOrder order = SumOrder::blocked) const {
    const MatrixView<Scalar> rows = read(x, result, order);
    if (!matrix_) result = rows;
  }

  /// Adds to d_x what derivatives by the map's result are by x.
  ///
  ///   Shapes   d_result (n, cols), d_x (n, width)
  void add_derivative(const Matrix<Scalar>& d_result, Matrix<Scalar>& d_x) const {
    if (!matrix_) {
      d_x.middleCols(begin_, count_) += d_result;
      return;
    }
    Matrix<Scalar> d_columns(d_result.rows(), count_);
    detail::multiply_transposed(span(d_columns), view(d_result), view(*matrix_));
    d_x.middleCols(begin_, count_) += d_columns;
  }

  /// The map as one matrix over whole rows of `width` columns, (width, cols).
  [[nodiscard]] Matrix<Scalar> to_matrix(Index width) const {
    Matrix<Scalar> whole = Matrix<Scalar>::Zero(width, cols_);
    if (matrix_)
      whole.middleRows(begin_, count_) = *matrix_;
    else
      whole.middleRows(begin_, count_).setIdentity();
    return whole;
  }

 private:
  Index begin_ = 0;
  Index count_ = 0;
  Index cols_ = 0;
  std::shared_ptr<const Matrix<Scalar>> matrix_;
};

/// One head of the small transformer: softmax(scale * (x wq) (x wk)^T) (x wv),
/// written to the columns from output_begin.
template <RealScalar Scalar>
struct SmallHead {
  Projection<Scalar> wq, wk, wv;
  Index output_begin = 0;
};

/// One layer of the small transformer. The heads' outputs replace the row, or are added to it where the oracle is
/// residual; then the layer MLP, if any, acts on each row.
template <RealScalar Scalar>
struct SmallLayer {
  std::vector<SmallHead<Scalar>> heads;
  Index output_width = 0;  ///< columns of an answer
  RowFunction mlp;         ///< acts on the answer's rows; may be empty
};

/// Weights of a small transformer: what a call is made with, beside its rows.
///
///   Shapes   rows (n, width) -> rows (n, output_width())
///   Source   Yu & Alman, Definition 2.2, without the restriction that head h reads and writes slice h
template <RealScalar Scalar>
struct SmallWeights {
  Index width = 0;
  std::vector<SmallLayer<Scalar>> layers;  ///< in order

  /// Columns of an answer.
  [[nodiscard]] Index output_width() const { return layers.empty() ? width : layers.back().output_width; }
};

/// Checks that the layers fit together: every projection reads columns that exist,
/// every head writes columns that exist.
///
///   Throws   ShapeError that names the layer and the head
template <RealScalar Scalar>
void require_valid(const SmallWeights<Scalar>& weights, bool residual) {
  Index width = weights.width;
  for (std::size_t l = 0; l < weights.layers.size(); ++l) {
    const SmallLayer<Scalar>& layer = weights.layers[l];
    for (std::size_t h = 0; h < layer.heads.size(); ++h) {
      const SmallHead<Scalar>& head = layer.heads[h];
      const auto fault = [&](const char* what) {
        throw ShapeError(detail::text("small transformer, layer ", l, ", head ", h, ": ", what));
      };
      if (head.wq.cols() != head.wk.cols()) fault("queries and keys differ in length");
      for (const Projection<Scalar>* p : {&head.wq, &head.wk, &head.wv})
        if (p->begin() < 0 || p->end() > width) fault("a projection reads columns beyond the row");
      if (head.output_begin < 0 || head.output_begin + head.wv.cols() > layer.output_width)
        fault("the output lies beyond the row");
    }
    if (residual && layer.output_width != width)
      throw ShapeError(detail::text("small transformer, layer ", l, ": a residual layer yields ", layer.output_width,
                                    " columns, expected ", width));
    width = layer.output_width;
  }
}

}  // namespace twoheads
