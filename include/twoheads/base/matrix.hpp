#pragma once

#include <Eigen/Core>
#include <concepts>
#include <string_view>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <type_traits>

namespace twoheads {

static_assert(sizeof(Eigen::Index) >= sizeof(Index),
              "twoheads: counts of numbers pass 32 bits; build without a smaller EIGEN_DEFAULT_DENSE_INDEX_TYPE");

/// Scalars that the library computes in. `long double` serves as the reference for `double`.
template <class T>
concept RealScalar = std::same_as<T, float> || std::same_as<T, double> || std::same_as<T, long double>;

/// The scalar of sums over many rows or tiles and of angles: float64 for float, the scalar itself otherwise.
template <RealScalar Scalar>
using SumScalar = std::conditional_t<std::same_as<Scalar, float>, double, Scalar>;

/// Row-major dense matrix: one token a row.
template <class Scalar>
using Matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Column of one number a row.
template <class Scalar>
using Vector = Eigen::Matrix<Scalar, Eigen::Dynamic, 1>;

/// One row of numbers, for example a norm's gain.
template <class Scalar>
using RowVector = Eigen::Matrix<Scalar, 1, Eigen::Dynamic>;

/// Reads a row-major block that someone else owns; copying the view copies no numbers.
template <class Scalar>
using MatrixView = Eigen::Map<const Matrix<Scalar>, Eigen::Unaligned, Eigen::OuterStride<>>;

/// Writes a row-major block that someone else owns.
template <class Scalar>
using MatrixSpan = Eigen::Map<Matrix<Scalar>, Eigen::Unaligned, Eigen::OuterStride<>>;

namespace detail {
inline void require_adjacent_columns(Index inner_stride) {
  if (inner_stride != 1)
    throw ShapeError(
        text("neighbouring columns lie ", inner_stride, " numbers apart, expected 1: copy the block first"));
}
}  // namespace detail

/// No rows: what is not there.
template <class Scalar>
[[nodiscard]] MatrixView<Scalar> no_rows() {
  return {nullptr, 0, 0, Eigen::OuterStride<>(0)};
}

/// View of a matrix or of a row-major block of one. The owner must outlive the view.
template <class Derived>
[[nodiscard]] MatrixView<typename Derived::Scalar> view(const Eigen::DenseBase<Derived>& dense) {
  static_assert(Derived::IsRowMajor, "twoheads views are row-major: one token a row");
  const Derived& block = dense.derived();
  detail::require_adjacent_columns(block.innerStride());
  return {block.data(), block.rows(), block.cols(), Eigen::OuterStride<>(block.outerStride())};
}

/// Writable view of a matrix or of a row-major block of one. The owner must outlive the view.
template <class Derived>
[[nodiscard]] MatrixSpan<typename Derived::Scalar> span(Eigen::DenseBase<Derived>& dense) {
  static_assert(Derived::IsRowMajor, "twoheads views are row-major: one token a row");
  Derived& block = dense.derived();
  detail::require_adjacent_columns(block.innerStride());
  return {block.data(), block.rows(), block.cols(), Eigen::OuterStride<>(block.outerStride())};
}

/// Rows [rows.begin, rows.end) and columns [begin, begin + count) of a view.
template <class Scalar>
[[nodiscard]] MatrixView<Scalar> block_view(const MatrixView<Scalar>& whole, Rows rows, Index begin, Index count) {
  return {whole.data() + rows.begin * whole.outerStride() + begin, rows.size(), count,
          Eigen::OuterStride<>(whole.outerStride())};
}

/// Rows [rows.begin, rows.end) and columns [begin, begin + count) of a writable view.
template <class Scalar>
[[nodiscard]] MatrixSpan<Scalar> block_span(const MatrixSpan<Scalar>& whole, Rows rows, Index begin, Index count) {
  return {const_cast<Scalar*>(whole.data()) + rows.begin * whole.outerStride() + begin, rows.size(), count,
          Eigen::OuterStride<>(whole.outerStride())};
}

namespace detail {

/// Throws ShapeError unless `dense` is rows x cols; `name` is what the caller calls it.
template <class Derived>
void require_shape(std::string_view name, const Eigen::EigenBase<Derived>& dense, Index rows, Index cols) {
  if (dense.rows() != rows || dense.cols() != cols)
    throw ShapeError(text(name, " is ", dense.rows(), " x ", dense.cols(), ", expected ", rows, " x ", cols));
}

/// Written so that no vectorised maximum can hide a NaN: x - x is 0 for a finite x and NaN otherwise, and NaN survives
/// a sum.
template <class Scalar>
[[nodiscard]] bool are_finite(const Scalar* values, Index count) {
  const Eigen::Map<const Eigen::Array<Scalar, Eigen::Dynamic, 1>> all(values, count);
  return (all - all).sum() == Scalar(0);
}

/// First row that holds a NaN or an infinity, or -1.
template <class Derived>
[[nodiscard]] Index first_row_not_finite(const Eigen::DenseBase<Derived>& dense) {
  const Derived& values = dense.derived();
  if (values.cols() > 1) require_adjacent_columns(values.colStride());
  for (Index row = 0; row < values.rows(); ++row)
    if (!are_finite(values.data() + row * values.rowStride(), values.cols())) return row;
  return -1;
}

}  // namespace detail
}  // namespace twoheads
