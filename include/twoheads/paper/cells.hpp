#pragma once

#include <algorithm>
#include <concepts>
#include <span>
#include <twoheads/base/matrix.hpp>
#include <twoheads/oracle/oracle.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// Rows of numbers that the host may move but not read: the paper's host only rearranges, joins and adds constants.
///
///   Laws     data enters and leaves through a CellMachine alone; nothing here adds, multiplies or compares numbers
///   Throws   ShapeError where blocks do not fit or a range lies outside
///   Source   Yu & Alman, section 2: concatenating and padding are free, everything else is the oracle's
template <RealScalar S>
class Cells {
 public:
  using Scalar = S;

  Cells() = default;

  /// Numbers that do not depend on data.
  [[nodiscard]] static Cells constants(Matrix<Scalar> values) { return Cells(std::move(values)); }
  /// Constants that are all the same.
  [[nodiscard]] static Cells constants(Index rows, Index cols, Scalar value) {
    return Cells(Matrix<Scalar>::Constant(rows, cols, value));
  }

  [[nodiscard]] Index rows() const { return values_.rows(); }  ///< how many
  [[nodiscard]] Index cols() const { return values_.cols(); }  ///< how many

  /// A copy of some columns.
  [[nodiscard]] Cells columns(Index begin, Index count) const {
    if (begin < 0 || count < 0 || begin + count > cols())
      throw ShapeError(detail::text("columns ", begin, " to ", begin + count, " of cells with ", cols(), " columns"));
    return Cells(values_.middleCols(begin, count));
  }

  /// The rows with these numbers, in this order; a row of zeros for a number below 0.
  [[nodiscard]] Cells gather(std::span<const Index> which) const {
    Matrix<Scalar> result = Matrix<Scalar>::Zero(static_cast<Index>(which.size()), cols());
    for (Index row = 0; row < result.rows(); ++row) {
      const Index from = which[static_cast<std::size_t>(row)];
      if (from >= rows()) throw ShapeError(detail::text("row ", from, " of cells with ", rows(), " rows"));
      if (from >= 0) result.row(row) = values_.row(from);
    }
    return Cells(std::move(result));
  }

  /// All blocks side by side.
  [[nodiscard]] static Cells beside(std::span<const Cells> blocks) {
    Index cols = 0;
    for (const Cells& block : blocks) cols += block.cols();
    Matrix<Scalar> result(blocks.empty() ? 0 : blocks.front().rows(), cols);
    Index begin = 0;
    for (const Cells& block : blocks) {
      detail::require_shape("a block beside others", block.values_, result.rows(), block.cols());
      result.middleCols(begin, block.cols()) = block.values_;
      begin += block.cols();
    }
    return Cells(std::move(result));
  }

  /// All blocks below one another.
  [[nodiscard]] static Cells below(std::span<const Cells> blocks) {
    Index rows = 0;
    for (const Cells& block : blocks) rows += block.rows();
    Matrix<Scalar> result(rows, blocks.empty() ? 0 : blocks.front().cols());
    Index begin = 0;
    for (const Cells& block : blocks) {
      detail::require_shape("a block below others", block.values_, block.rows(), result.cols());
      result.middleRows(begin, block.rows()) = block.values_;
      begin += block.rows();
    }
    return Cells(std::move(result));
  }

 private:
  template <Oracle O>
  friend class CellMachine;

  explicit Cells(Matrix<Scalar> values) : values_(std::move(values)) {}

  Matrix<Scalar> values_;
};

/// One oracle call on cells. The weights are constants: the host that makes them has seen no number.
template <class CellsType>
struct CellCall {
  SmallWeights<typename CellsType::Scalar> weights;
  CellsType rows;  ///< what the call is handed
};

/// Something that runs oracle calls on cells of its own type, and alone can read them.
template <class M>
concept Machine = requires(M& machine, const std::vector<CellCall<typename M::Cells>>& calls) {
  requires std::same_as<typename M::Cells::Scalar, typename M::Scalar>;
  { machine.limits() } -> std::same_as<OracleLimits>;
  { machine.run(calls) } -> std::same_as<std::vector<typename M::Cells>>;
  { machine.calls() } -> std::same_as<Index>;
};

/// The door between numbers and cells: data in, oracle calls, results out. Holds a reference to the oracle.
template <Oracle O>
class CellMachine {
 public:
  using Scalar = typename O::Scalar;
  using Cells = twoheads::Cells<Scalar>;  ///< what it computes on

  explicit CellMachine(O& oracle) : oracle_(oracle) {}

  [[nodiscard]] OracleLimits limits() const { return oracle_.limits(); }

  /// Calls made so far.
  [[nodiscard]] Index calls() const { return calls_; }

  [[nodiscard]] static Cells take(Matrix<Scalar> values) { return Cells(std::move(values)); }      ///< data enters
  [[nodiscard]] static const Matrix<Scalar>& reveal(const Cells& cells) { return cells.values_; }  ///< data leaves

  /// Runs the calls, as many at once as the oracle likes, and returns their answers in order.
  ///
  ///   Throws   LimitError, ShapeError for a call beyond the oracle's limits; OracleError for an answer of another
  ///            shape. NaN and infinity pass: these constructions are meant to be seen failing.
  [[nodiscard]] std::vector<Cells> run(const std::vector<CellCall<Cells>>& calls) {
    const OracleLimits limits = oracle_.limits();
    std::vector<Cells> answers;
    for (std::size_t begin = 0; begin < calls.size();) {
      const std::size_t end = begin + std::min(static_cast<std::size_t>(limits.batch), calls.size() - begin);
      std::vector<OracleCall<Scalar>> batch;
      for (std::size_t i = begin; i < end; ++i) {
        batch.push_back({&calls[i].weights, calls[i].rows.values_});
        require_within(limits, batch.back());
      }
      std::vector<Matrix<Scalar>> rows = run_all(oracle_, std::span<const OracleCall<Scalar>>(batch));
      for (std::size_t i = 0; i < rows.size(); ++i) {
        detail::require_answer(batch[i], rows[i]);
        answers.push_back(Cells(std::move(rows[i])));
      }
      calls_ += static_cast<Index>(batch.size());
      begin = end;
    }
    return answers;
  }

 private:
  O& oracle_;
  Index calls_ = 0;
};

}  // namespace twoheads
