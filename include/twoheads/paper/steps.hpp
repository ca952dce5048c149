#pragma once

#include <algorithm>
#include <memory>
#include <twoheads/attention/input.hpp>
#include <twoheads/codec/layout.hpp>
#include <twoheads/paper/cells.hpp>
#include <twoheads/paper/packer.hpp>
#include <twoheads/paper/terms.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// The tokens of one head and the weights that the oracle's two steps apply to them.
///
///   Shapes   queries (N, d_q), keys (NK, d_k); wq (d_q + 1, m + 1), wk (d_k + d_q + 1, m + 1), wv (d_k + d_q + 2,
///            m_v + 1); the ratio call takes their corners without the last row and column
///   Math     token [x^K, x^Q, 1, g]; wq = [W_Q, 0; 0, 1], wk = [W_K, 0; 0, 0; 0, 1], wv = [W_V, 0; 0, 0; 0, 0; 0, 1]
///   Source   Yu & Alman, Lemma 3.1 and Claim B.6. The print has token [x^K, x^Q, 1], which cannot tell a real row from
///            the synthetic one: g is 1 on real keys. The corner of its W_Q'' is a row of ones, it is the number 1;
///            the zero blocks of B.6's W' are swapped. The diagonal's shorter token [x, 1] is not used.
template <class CellsType>
struct StepTokens {
  using Scalar = typename CellsType::Scalar;
  using Shared = std::shared_ptr<const Matrix<Scalar>>;  ///< weights that many calls share

  CellsType queries, keys;
  Index value_dim = 0;                  ///< columns of values
  Shared wq, wk, wv;                    ///< with the constant and the flag
  Shared ratio_wq, ratio_wk, ratio_wv;  ///< without

  /// From tokens and the model's own weights of the head: W_Q (d_q, m) times factor, W_K (d_k, m), W_V (d_k, m_v).
  StepTokens(CellsType q, CellsType k, const Matrix<Scalar>& own_wq, const Matrix<Scalar>& own_wk,
             const Matrix<Scalar>& own_wv, Scalar factor)
      : queries(std::move(q)), keys(std::move(k)), value_dim(own_wv.cols()) {
    const Index dq = own_wq.rows();
    const Index dk = own_wk.rows();
    const Index m = own_wq.cols();
    const auto make = [](const Matrix<Scalar>& block, Index rows, Index cols, Scalar corner) {
      auto matrix = std::make_shared<Matrix<Scalar>>(Matrix<Scalar>::Zero(rows, cols));
      matrix->topLeftCorner(block.rows(), block.cols()) = block;
      if (corner != Scalar(0)) (*matrix)(rows - 1, cols - 1) = corner;
      return matrix;
    };
    const Matrix<Scalar> scaled = own_wq * factor;
    wq = make(scaled, dq + 1, m + 1, Scalar(1));
    wk = make(own_wk, dk + dq + 1, m + 1, Scalar(1));
    wv = make(own_wv, dk + dq + 2, value_dim + 1, Scalar(1));
    ratio_wq = make(scaled, dq, m, Scalar(0));
    ratio_wk = make(own_wk, dk, m, Scalar(0));
    ratio_wv = make(own_wv, dk, value_dim, Scalar(0));
  }
};

namespace detail {

/// The paper's A = r / (1 - r), times the copies of the synthetic key that the row saw.
struct DenominatorMlp {
  Index copies = 1;

  template <RealScalar Scalar>
  void operator()(Index, MatrixSpan<Scalar>& rows) const {
    for (Index i = 0; i < rows.rows(); ++i)
      rows(i, 0) = static_cast<Scalar>(copies) * rows(i, 0) / (Scalar(1) - rows(i, 0));
  }
};

/// B / (A + c) over A / (A + c): the ratio of a call that had synthetic rows; 0 where there is no key.
struct RatioMlp {
  template <RealScalar Scalar>
  void operator()(Index, MatrixSpan<Scalar>& rows) const {
    const Index last = rows.cols() - 1;
    for (Index i = 0; i < rows.rows(); ++i) {
      const Scalar r = rows(i, last);
      if (r == Scalar(0))
        rows.row(i).head(last).setZero();
      else
        rows.row(i).head(last) /= r;
    }
  }
};

template <class CellsType>
[[nodiscard]] CellsType step_rows(const StepTokens<CellsType>& tokens, const std::vector<CallRow>& rows,
                                  Index call_rows) {
  using Scalar = typename CellsType::Scalar;
  std::vector<Index> queries(static_cast<std::size_t>(call_rows), CallRow::none);
  std::vector<Index> keys = queries;
  // Columns of the constant 1 and of the flag g.
  Matrix<Scalar> constants = Matrix<Scalar>::Zero(call_rows, 2);
  constants.col(0).setOnes();
  for (std::size_t x = 0; x < rows.size(); ++x) {
    queries[x] = rows[x].query;
    keys[x] = rows[x].key;
    if (rows[x].key != CallRow::none) constants(static_cast<Index>(x), 1) = Scalar(1);
  }
  return CellsType::beside(std::vector<CellsType>{tokens.keys.gather(keys), tokens.queries.gather(queries),
                                                  CellsType::constants(std::move(constants))});
}

/// Rows of a call that carry no key and are seen by every row that counts.
[[nodiscard]] inline Index synthetic_copies(const std::vector<CallRow>& rows, Index call_rows, OracleKind kind) {
  const auto keyless = [](const CallRow& row) { return row.key == CallRow::none; };
  const auto copies = static_cast<Index>(std::count_if(rows.begin(), rows.end(), keyless));
  // Padding stands last, where no row of a causal oracle sees it.
  return kind == OracleKind::causal ? copies : copies + call_rows - static_cast<Index>(rows.size());
}

}  // namespace detail

/// Step 1: A of each query over the keys of the call.
///
///   Shapes   answer (rows, 1): A
///   Math     scores q.k + 1 between real rows, 1 with a synthetic one, so the constant cancels; values 1 on real keys;
///            the oracle returns r = A / (A + c), its output MLP A = c r / (1 - r), c synthetic rows
///   Corner   c is 1 as printed; a plain oracle's call that is longer than its tokens has more. As r nears 1, A has
///            a relative error of (1 + A) u, then is infinite: this is what the paper prints.
///   Source   Yu & Alman, Lemma 3.1 step 1, Claim B.6
template <class CellsType>
[[nodiscard]] Instance<CellsType> denominator_instance(std::shared_ptr<const StepTokens<CellsType>> tokens,
                                                       std::vector<CallRow> rows, OracleKind kind) {
  const Index count = static_cast<Index>(rows.size());
  return {count, [tokens = std::move(tokens), rows = std::move(rows), kind](Index call_rows) {
            using P = Projection<typename CellsType::Scalar>;
            const Index dk = tokens->keys.cols();
            const Index flag = dk + tokens->queries.cols() + 1;
            const Index copies = detail::synthetic_copies(rows, call_rows, kind);
            return InstanceCall<CellsType>{detail::step_rows(*tokens, rows, call_rows),
                                           {P::dense(dk, tokens->wq), P::dense(0, tokens->wk), P::selector(flag, 1), 0},
                                           RowFunction(detail::DenominatorMlp{copies})};
          }};
}

/// Step 2: B / A of each query over the keys of the call.
///
///   Shapes   answer (rows, m_v), and a column to be ignored where the call had synthetic rows
///   Corner   as printed there is no synthetic row; where an oracle's length or an empty set of keys asks for one, the
///            output MLP divides by the share of the real keys
///   Source   Yu & Alman, Lemma 3.1 step 2, whose last line counts N / M calls where it makes (N / M)^2
template <class CellsType>
[[nodiscard]] Instance<CellsType> ratio_instance(std::shared_ptr<const StepTokens<CellsType>> tokens,
                                                 std::vector<CallRow> rows, OracleKind kind) {
  const Index count = static_cast<Index>(rows.size());
  return {count, [tokens = std::move(tokens), rows = std::move(rows), kind](Index call_rows) {
            using P = Projection<typename CellsType::Scalar>;
            const Index dk = tokens->keys.cols();
            const bool synthetic = detail::synthetic_copies(rows, call_rows, kind) > 0;
            return InstanceCall<CellsType>{detail::step_rows(*tokens, rows, call_rows),
                                           {P::dense(dk, tokens->ratio_wq), P::dense(0, tokens->ratio_wk),
                                            P::dense(0, synthetic ? tokens->wv : tokens->ratio_wv), 0},
                                           synthetic ? RowFunction(detail::RatioMlp()) : RowFunction()};
          }};
}

/// Rows of a call whose answers count, and the positions of their queries.
struct WantedRows {
  std::vector<Index> rows;  ///< rows of the call
  std::vector<Index> queries;
};

/// The rows of a call that carry these queries.
[[nodiscard]] inline WantedRows wanted_rows(const std::vector<CallRow>& rows, Rows queries) {
  WantedRows wanted;
  for (std::size_t x = 0; x < rows.size(); ++x) {
    if (!queries.contains(rows[x].query)) continue;
    wanted.rows.push_back(static_cast<Index>(x));
    wanted.queries.push_back(rows[x].query);
  }
  return wanted;
}

}  // namespace twoheads
