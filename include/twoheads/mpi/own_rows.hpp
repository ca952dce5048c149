#pragma once

#include <algorithm>
#include <twoheads/attention/project.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/plan/shares.hpp>
#include <utility>
#include <vector>

namespace twoheads::detail {

/// Rows that one rank works on row by row: whole blocks of its own, or a block of which it has some.
struct RowRun {
  Rows rows;        ///< positions of whole blocks
  Rows own;         ///< of these, the rank's own
  Index place = 0;  ///< of the first own row among the rank's rows
};

/// Calls visit(run) for a rank's own rows. A product rounds a row by its place among those that are taken at once, so
/// that a rank takes the blocks that one rank with all rows would take: of rows_at_once rows, counted from each of
/// `starts` to the next one.
template <class Visit>
void for_each_run(const RowShares& shares, Index rank, const std::vector<Index>& starts, const Visit& visit) {
  shares.for_each_own(rank, [&](const RowShare& share) {
    auto start = std::upper_bound(starts.begin(), starts.end(), share.rows.begin) - 1;
    for (Index begin = share.rows.begin; begin < share.rows.end;) {
      const auto next = start + 1;
      const Index end = next == starts.end() ? shares.rows() : *next;
      const auto block = [&](Index position) {
        const Index first = *start + (position - *start) / rows_at_once * rows_at_once;
        return Rows{first, std::min(first + rows_at_once, end)};
      };
      Rows rows = block(begin);
      if (rows.begin == begin) {
        // As many whole blocks as there are.
        const Index last = std::min(share.rows.end, end);
        const Index whole = last == end ? end : block(last).begin;
        if (whole > begin) rows.end = whole;
      }
      const Rows own{begin, std::min(rows.end, share.rows.end)};
      visit(RowRun{rows, own, share.place + begin - share.rows.begin});
      begin = own.end;
      if (begin == end) start = next;
    }
  });
}

/// Own rows as they lie in the blocks of a run, zeros in place of others'.
template <RealScalar Scalar>
[[nodiscard]] Matrix<Scalar> in_blocks(const MatrixView<Scalar>& own, const RowRun& run) {
  Matrix<Scalar> rows = Matrix<Scalar>::Zero(run.rows.size(), own.cols());
  rows.middleRows(run.own.begin - run.rows.begin, run.own.size()) = own.middleRows(run.place, run.own.size());
  return rows;
}

/// f(rows, first position) for a rank's own rows, with the bits that they have among all: f maps rows one by one.
///
///   Shapes   own (own rows, any), result (own rows, cols)
template <RealScalar Scalar, class F>
[[nodiscard]] Matrix<Scalar> map_own_rows(const MatrixView<Scalar>& own, const RowShares& shares, Index rank,
                                          const std::vector<Index>& starts, Index cols, const F& f) {
  Matrix<Scalar> result(own.rows(), cols);
  for_each_run(shares, rank, starts, [&](const RowRun& run) {
    if (run.rows == run.own) {
      const Rows place{run.place, run.place + run.own.size()};
      result.middleRows(run.place, run.own.size()) = f(block_view(own, place, 0, own.cols()), run.rows.begin);
    } else {
      const Matrix<Scalar> rows = in_blocks(own, run);
      const Matrix<Scalar> mapped = f(view(rows), run.rows.begin);
      result.middleRows(run.place, run.own.size()) = mapped.middleRows(run.own.begin - run.rows.begin, run.own.size());
    }
  });
  return result;
}

}  // namespace twoheads::detail
