#pragma once

#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/mpi/rank_input.hpp>
#include <twoheads/mpi/ranks.hpp>
#include <twoheads/mpi/shared_keys.hpp>
#include <twoheads/plan/shares.hpp>
#include <vector>

namespace twoheads {

/// A rank's own rows of a matrix that it has as a whole, in the order of the sequence.
///
///   Shapes   all (all rows of `shares`, any), result (own rows, the same columns)
///   Throws   SpecError for a rank that the shares do not know, ShapeError where `all` has not as many rows as they
template <class Scalar>
[[nodiscard]] Matrix<Scalar> own_rows(const RowShares& shares, Index rank, const Matrix<Scalar>& all) {
  if (rank < 0 || rank >= shares.ranks())
    throw SpecError(
        detail::text("rank ", rank, " of shares of ", shares.ranks(), " ranks, expected 0 to ", shares.ranks() - 1));
  detail::require_shape("the rows that ranks share", all, shares.rows(), all.cols());
  Matrix<Scalar> own(shares.size(rank), all.cols());
  shares.for_each_own(rank, [&](const RowShare& share) {
    own.middleRows(share.place, share.rows.size()) = all.middleRows(share.rows.begin, share.rows.size());
  });
  return own;
}

/// All rows in one place: on rank `to`, in the order of the sequence; on the others none.
///
///   Shapes   own (own rows of `shares`, cols), cols the same on all ranks; result (all rows, cols) or (0, cols)
///   Throws   on every rank, as Ranks::together(): ShapeError where the rows do not fit the shares, SpecError where
///            ranks differ in shares, columns or goal, or are not as many as share the rows
template <RealScalar Scalar>
[[nodiscard]] Matrix<Scalar> gather_rows(Ranks& ranks, const RowShares& shares, const Matrix<Scalar>& own,
                                         Index to = 0) {
  ranks.require_same(detail::text("gathers ", shares.rows(), " rows of ", shares.ranks(), " ranks, shares ",
                                  detail::digest_of(shares), ", ", own.cols(), " columns, ", sizeof(Scalar),
                                  " bytes each, on rank ", to));
  Matrix<Scalar> all;
  std::vector<MPI_Request> requests;
  ranks.together([&] {
    detail::require_shares_of(ranks, shares);
    if (to < 0 || to >= ranks.size())
      throw SpecError(detail::text("rows are gathered on rank ", to, ", expected 0 to ", ranks.size() - 1));
    detail::require_shape("the rank's rows to be gathered", own, shares.size(ranks.rank()), own.cols());
    all.resize(ranks.rank() == to ? shares.rows() : 0, own.cols());
    requests.reserve(shares.shares().size());
  });
  detail::ReadableMemory memory(ranks, own.data(), static_cast<std::size_t>(own.size()) * sizeof(Scalar));
  detail::meet_with_windows(ranks, memory);
  ranks.together([&] {
    if (ranks.rank() != to) return;
    const detail::RequestsEnd end(ranks, requests);
    for (const RowShare& share : shares.shares()) {
      if (share.rank == to)
        all.middleRows(share.rows.begin, share.rows.size()) = own.middleRows(share.place, share.rows.size());
      else
        memory.read(share.rank, share.place * own.cols(), share.rows.size() * own.cols(),
                    all.data() + share.rows.begin * own.cols(), requests);
    }
    for (MPI_Request& request : requests) ranks.wait(request);
  });
  return all;
}

}  // namespace twoheads
