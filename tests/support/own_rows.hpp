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
