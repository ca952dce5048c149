#pragma once

#include <memory>
#include <twoheads/paper/cells.hpp>
#include <twoheads/paper/coded.hpp>
#include <twoheads/paper/packer.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// A block of ones: phi(x_i) = (x_i, [i < a]) times U, whose last row holds b ones.
///
///   Shapes   x (n, w), result (n, cols): 1 in the first a rows and b columns, 0 elsewhere
///   Math     calls = ceil(ceil(n / R) / H')
///   Corner   the flag column is a constant that the host adds: an MLP that knows its row's number would do the same
///   Throws   ShapeError for a block larger than the result
///   Source   Yu & Alman, Lemma A.1
template <Machine M>
[[nodiscard]] typename M::Cells indicator_block(M& machine, const typename M::Cells& x, Index a, Index b, Index cols) {
  using Cells = typename M::Cells;
  using Scalar = typename M::Scalar;
  if (a < 0 || b < 0 || a > x.rows() || b > cols)
    throw ShapeError(detail::text("a block of ones is ", a, " x ", b, ", expected at most ", x.rows(), " x ", cols));
  Matrix<Scalar> flags = Matrix<Scalar>::Zero(x.rows(), 1);
  flags.topRows(a).setOnes();
  auto weights = std::make_shared<Matrix<Scalar>>(Matrix<Scalar>::Zero(x.cols() + 1, cols));
  weights->row(x.cols()).head(b).setOnes();
  return row_by_row(machine, Cells::beside(std::vector<Cells>{x, Cells::constants(std::move(flags))}), RowFunction(),
                    std::shared_ptr<const Matrix<Scalar>>(std::move(weights)));
}

/// The sum of the rows of one call, as printed: Q = K = 1, so that every weight is 1 / n, and values n x_i.
///
///   Shapes   x (n, w) with n <= R, result (1, w): row n - 1, which every kind of oracle has show all rows
///   Math     one call
///   Corner   rows that pad a plain oracle's call are zeros: their weight is made up for, as n is for the others
///   Throws   LimitError for more rows than a call takes
///   Source   Yu & Alman, Lemma A.2, whose proof scales k_i by n; it is v_i that must be scaled
template <Machine M>
[[nodiscard]] typename M::Cells sum_of_rows(M& machine, const typename M::Cells& x) {
  using Cells = typename M::Cells;
  using Scalar = typename M::Scalar;
  const OracleLimits limits = machine.limits();
  const Index n = x.rows();
  const Index w = x.cols();
  if (n < 1 || n > limits.rows) throw LimitError(detail::text("a call adds up 1 to ", limits.rows, " rows, not ", n));
  Packer<M> packer(machine);
  const auto build = [&](Index call_rows) {
    const Index seen = limits.kind == OracleKind::causal ? n : call_rows;
    const auto weights = std::make_shared<Matrix<Scalar>>(Matrix<Scalar>::Identity(w, w) * static_cast<Scalar>(seen));
    using P = Projection<Scalar>;
    return InstanceCall<Cells>{Cells::beside(std::vector<Cells>{x.gather(detail::row_numbers({0, n}, call_rows)),
                                                                Cells::constants(call_rows, 1, Scalar(1))}),
                               {P::selector(w, 1), P::selector(w, 1), P::dense(0, weights), 0},
                               {}};
  };
  Cells sum;
  packer.add({n, build}, [&](const Cells& answer) { sum = answer.gather(std::vector<Index>{n - 1}); });
  packer.finish();
  return sum;
}

/// Sums of groups of T rows that follow each other, floor(R / T) groups to an instance, kept apart by codes.
///
///   Shapes   x (groups * T, w), result (groups, w): `after` changes the sums in the call's own MLP
///   Math     calls = ceil(ceil(groups / floor(R / T)) / H')
///   Corner   no synthetic row takes part, so that all R rows of a call carry summands
///   Throws   LimitError if T rows do not fit one call; ShapeError if T does not divide the rows
///   Source   Yu & Alman, Lemma A.2 and the merging of Theorem 3.4. With one group to a call, N queries would take N
///            calls; "O((N / M)^2)" needs several, which the print does not say.
template <Machine M>
[[nodiscard]] typename M::Cells sum_of_groups(M& machine, const typename M::Cells& x, Index group,
                                              const RowFunction& after = {}) {
  using Cells = typename M::Cells;
  using Scalar = typename M::Scalar;
  const Index most = machine.limits().rows;
  if (group < 1 || group > most)
    throw LimitError(detail::text("a call adds up groups of 1 to ", most, " rows, not of ", group));
  if (x.rows() % group != 0)
    throw ShapeError(detail::text("groups of ", group, " rows do not divide ", x.rows(), " rows"));
  const Index groups = x.rows() / group;
  const Index each = most / group;
  const auto weights =
      std::make_shared<const Matrix<Scalar>>(Matrix<Scalar>::Identity(x.cols(), x.cols()) * static_cast<Scalar>(group));
  std::vector<Cells> sums(static_cast<std::size_t>(ceil_div(groups, each)));
  Packer<M> packer(machine);
  for (Index block = 0; block < static_cast<Index>(sums.size()); ++block) {
    const Rows own = block_rows(block, each, groups);
    const Rows rows{own.begin * group, own.end * group};
    std::vector<Index> group_of;
    std::vector<Index> last;
    for (Index g = 0; g < own.size(); ++g) {
      group_of.insert(group_of.end(), static_cast<std::size_t>(group), g);
      last.push_back((g + 1) * group - 1);
    }
    packer.add(
        coded_instance(machine, CodedRows<Cells>{x.gather(detail::row_numbers(rows, rows.size())), group_of, group_of,
                                                 own.size(), weights, after}),
        [&sums, block, last](const Cells& answer) { sums[static_cast<std::size_t>(block)] = answer.gather(last); });
  }
  packer.finish();
  return Cells::below(sums);
}

/// Fetches rho(x_tau(i)) for each row i: the query carries the code of row tau(i), the key its own.
///
///   Shapes   x (n, w) with n <= R, tau (n) in 0..n-1, result (n, w)
///   Math     one call
///   Throws   LimitError for more rows than a call takes, and on a causal oracle for a row that comes later;
///            SpecError for a row that does not exist
///   Source   Yu & Alman, Lemma A.3 (after Sanford, Hsu and Telgarsky). A call looks up inside its own rows alone, so
///            it cannot fetch from the whole sequence as Theorem 4.1 has it do.
template <Machine M>
[[nodiscard]] typename M::Cells look_up(M& machine, const typename M::Cells& x, const std::vector<Index>& tau,
                                        const RowFunction& rho = {}) {
  using Cells = typename M::Cells;
  const OracleLimits limits = machine.limits();
  const Index n = x.rows();
  if (n < 1 || n > limits.rows)
    throw LimitError(detail::text("a call looks up inside its own 1 to ", limits.rows, " rows, not inside ", n));
  if (static_cast<Index>(tau.size()) != n)
    throw ShapeError(detail::text("a look-up asks for ", tau.size(), " rows, expected ", n));
  for (Index row = 0; row < n; ++row) {
    const Index from = tau[static_cast<std::size_t>(row)];
    if (from < 0 || from >= n)
      throw SpecError(detail::text("row ", row, " looks up row ", from, ", expected 0 to ", n - 1));
    if (limits.kind == OracleKind::causal && from > row)
      throw LimitError(detail::text("row ", row, " looks up row ", from, ", which a causal oracle hides from it"));
  }
  const std::vector<Index> own = detail::row_numbers({0, n}, n);
  Cells found;
  Packer<M> packer(machine);
  packer.add(coded_instance(machine, CodedRows<Cells>{x, tau, own, n, nullptr, rho}),
             [&](const Cells& answer) { found = answer.gather(own); });
  packer.finish();
  return found;
}

}  // namespace twoheads
