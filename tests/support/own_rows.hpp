#pragma once

#include <twoheads/base/matrix.hpp>
#include <twoheads/plan/shares.hpp>

/// The rows of a rank, of a matrix that all have.
template <class Scalar>
[[nodiscard]] twoheads::Matrix<Scalar> own_rows(const twoheads::Matrix<Scalar>& all, const twoheads::RowShares& shares,
                                                twoheads::Index rank) {
  twoheads::Matrix<Scalar> own(shares.size(rank), all.cols());
  shares.for_each_own(rank, [&](const twoheads::RowShare& share) {
    own.middleRows(share.place, share.rows.size()) = all.middleRows(share.rows.begin, share.rows.size());
  });
  return own;
}

/// The same of keys or values of several heads, head after head, as other ranks read them.
template <class Scalar>
[[nodiscard]] twoheads::Matrix<Scalar> own_rows_by_head(const twoheads::Matrix<Scalar>& all,
                                                        const twoheads::RowShares& shares, twoheads::Index rank,
                                                        twoheads::Index heads) {
  const twoheads::Matrix<Scalar> own = own_rows(all, shares, rank);
  const twoheads::Index dim = own.cols() / heads;
  twoheads::Matrix<Scalar> result(heads * own.rows(), dim);
  for (twoheads::Index head = 0; head < heads; ++head)
    result.middleRows(head * own.rows(), own.rows()) = own.middleCols(head * dim, dim);
  return result;
}
