#pragma once

#include <memory>
#include <twoheads/codec/codes.hpp>
#include <twoheads/model/row_function.hpp>
#include <twoheads/paper/cells.hpp>
#include <twoheads/paper/packer.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// Rows of one instance in groups: a query attends, evenly, to the keys of the group that it asks for.
///
///   Shapes   values (n, w); queries and keys (n): a group below `groups` for each row; weights (w, c) or none for the
///            identity; mlp acts on the answer (rows, c)
template <class CellsType>
struct CodedRows {
  using Scalar = typename CellsType::Scalar;

  CellsType values;
  std::vector<Index> queries;
  std::vector<Index> keys;
  Index groups = 1;
  std::shared_ptr<const Matrix<Scalar>> weights;
  RowFunction mlp;
  Index first_row = 0;  ///< position that mlp is told of the first row
};

namespace detail {

/// Nats that keep groups apart: the exponential of less is 0 beside 1 in any scalar.
inline constexpr double code_gap = 1024.0;

/// The numbers begin..end-1, then -1 up to `count` of them.
[[nodiscard]] inline std::vector<Index> row_numbers(Rows rows, Index count) {
  std::vector<Index> numbers(static_cast<std::size_t>(count), -1);
  for (Index row = 0; row < rows.size(); ++row) numbers[static_cast<std::size_t>(row)] = rows.begin + row;
  return numbers;
}

/// A row function on the first rows alone: those that pad a call have no position that it could know.
struct FirstRows {
  Index count = 0;
  RowFunction f;

  template <RealScalar Scalar>
  void operator()(Index first_row, MatrixSpan<Scalar>& rows) const {
    f(first_row, block_span(rows, {0, count}, 0, rows.cols()));
  }
};

}  // namespace detail

/// An instance whose rows are kept apart by codes.
///
///   Shapes   token [u (c), w (c) | value]: u and w are the codes of the query's and of the key's group
///   Math     u_i . w_i = 0 and u_i . w_j <= -B^2 with B^2 of 1024 nats, so weights are even inside a group and 0
///            (at most 6e-309, where the exponential clamps) outside
///   Corner   rows that pad the call form a group of their own. On a causal oracle a query sees the keys of its group
///            up to its own row.
///   Source   Yu & Alman, Theorem 4.2 (codes), Appendix A.2 and A.3
template <Machine M>
[[nodiscard]] Instance<typename M::Cells> coded_instance(M& machine, CodedRows<typename M::Cells> rows) {
  using Cells = typename M::Cells;
  using Scalar = typename M::Scalar;
  const Index count = rows.values.rows();
  TWOHEADS_ASSERT(static_cast<Index>(rows.queries.size()) == count && static_cast<Index>(rows.keys.size()) == count);
  const double score_scale = machine.limits().score_scale;
  auto build = [rows = std::move(rows), count, score_scale](Index call_rows) {
    const Codes codes(rows.groups + 1);
    const Index c = codes.columns();
    const auto amplitude = code_amplitude<Scalar>(detail::code_gap / score_scale, c);
    Matrix<Scalar> columns(call_rows, 2 * c);
    for (Index row = 0; row < call_rows; ++row) {
      const auto group = [&](const std::vector<Index>& groups) {
        return row < count ? groups[static_cast<std::size_t>(row)] : rows.groups;
      };
      codes.write_query(group(rows.queries), amplitude, columns.row(row).head(c));
      codes.write_key(group(rows.keys), amplitude, columns.row(row).tail(c));
    }
    using P = Projection<Scalar>;
    const P values = rows.weights ? P::dense(2 * c, rows.weights) : P::selector(2 * c, rows.values.cols());
    return InstanceCall<Cells>{
        Cells::beside(std::vector<Cells>{Cells::constants(std::move(columns)),
                                         rows.values.gather(detail::row_numbers({0, count}, call_rows))}),
        {P::selector(0, c), P::selector(c, c), values, 0},
        rows.mlp,
        rows.first_row};
  };
  return {count, std::move(build)};
}

/// A function of single rows by calls alone: attention that is the identity, then the call's own MLP.
///
///   Shapes   x (n, w), result (n, c): c = weights.cols(), or w where weights is none
///   Math     result_i = f(i, x_i weights); calls = ceil(ceil(n / R) / H')
///   Source   Yu & Alman, section 3: layer MLPs are said to be simulated by oracles. Without a residual sum attention
///            mixes rows, so every row has a code of its own; the print does not say so.
template <Machine M>
[[nodiscard]] typename M::Cells row_by_row(M& machine, const typename M::Cells& x, const RowFunction& f,
                                           std::shared_ptr<const Matrix<typename M::Scalar>> weights = nullptr) {
  using Cells = typename M::Cells;
  const Index most = machine.limits().rows;
  std::vector<Cells> found(static_cast<std::size_t>(ceil_div(x.rows(), most)));
  Packer<M> packer(machine);
  for (Index block = 0; block < static_cast<Index>(found.size()); ++block) {
    const Rows rows = block_rows(block, most, x.rows());
    const std::vector<Index> own = detail::row_numbers({0, rows.size()}, rows.size());
    const RowFunction on_rows = f ? RowFunction(detail::FirstRows{rows.size(), f}) : RowFunction();
    packer.add(
        coded_instance(machine, CodedRows<Cells>{x.gather(detail::row_numbers(rows, rows.size())), own, own,
                                                 rows.size(), weights, on_rows, rows.begin}),
        [&found, block, own](const Cells& answer) { found[static_cast<std::size_t>(block)] = answer.gather(own); });
  }
  packer.finish();
  return Cells::below(found);
}

}  // namespace twoheads
