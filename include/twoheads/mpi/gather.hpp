#pragma once

#include <twoheads/base/matrix.hpp>
#include <twoheads/mpi/ranks.hpp>
#include <twoheads/mpi/shared_keys.hpp>
#include <twoheads/plan/shares.hpp>
#include <vector>

namespace twoheads {

/// All rows in one place: on rank `to`, in the order of the sequence; on the others none.
///
///   Shapes   own (own rows of `shares`, cols), cols the same on all ranks; result (all rows, cols) or (0, cols)
///   Throws   on every rank, as Ranks::together(): ShapeError where the rows do not fit the shares
template <RealScalar Scalar>
[[nodiscard]] Matrix<Scalar> gather_rows(Ranks& ranks, const RowShares& shares, const Matrix<Scalar>& own,
                                         Index to = 0) {
  ranks.together(
      [&] { detail::require_shape("the rank's rows to be gathered", own, shares.size(ranks.rank()), own.cols()); });
  const detail::ReadableMemory memory(ranks, own.data(), static_cast<std::size_t>(own.size()) * sizeof(Scalar));
  Matrix<Scalar> all(ranks.rank() == to ? shares.rows() : 0, own.cols());
  ranks.together([&] {
    if (ranks.rank() != to) return;
    std::vector<MPI_Request> requests;
    for (const RowShare& share : shares.shares()) {
      if (share.rank == to)
        all.middleRows(share.rows.begin, share.rows.size()) = own.middleRows(share.place, share.rows.size());
      else
        memory.read(share.rank, share.place * own.cols(), share.rows.size() * own.cols(),
                    all.data() + share.rows.begin * own.cols(), requests);
    }
    for (MPI_Request& request : requests) ranks.complete(request);
  });
  return all;
}

}  // namespace twoheads
