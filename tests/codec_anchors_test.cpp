#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <ostream>
#include <string>
#include <twoheads/codec/anchors.hpp>
#include <twoheads/codec/encode.hpp>
#include <twoheads/model/random.hpp>
#include <vector>

#include "support/in_shape.hpp"
#include "support/seed.hpp"

namespace {

using namespace twoheads;
using Real = long double;

std::uint64_t seed() { return seed_or(631); }

/// One row of a tile, by the definitions: over the keys that it sees.
struct Row {
  Index seen = 0;
  Real log_sum = 0;            ///< ln of the sum of exp(logit)
  Real mean_logit = 0;         ///< the same weight for every key
  Real size = 0;               ///< largest sum of |q_c k_c| * |scale|: what rounding of a logit is relative to
  std::vector<Real> expected;  ///< the key expected under the row's attention
};

template <class Scalar>
Row row_of(const Tile& tile, const Matrix<Scalar>& queries, const Matrix<Scalar>& keys, const Matrix<Scalar>& sinks,
           double scale, Index i) {
  Row row;
  std::vector<Real> logits;
  std::vector<RowVector<Scalar>> seen;
  for (Index j = 0; j < keys.rows(); ++j)
    if (in_shape(tile.shape, i, j)) seen.push_back(keys.row(j));
  for (Index sink = 0; sink < sinks.rows(); ++sink) seen.push_back(sinks.row(sink));
  for (const RowVector<Scalar>& key : seen) {
    Real logit = 0;
    Real size = 0;
    for (Index c = 0; c < keys.cols(); ++c) {
      const Real term = Real(scale) * Real(queries(i, c)) * Real(key[c]);
      logit += term;
      size += std::abs(term);
    }
    logits.push_back(logit);
    row.size = std::max(row.size, size);
  }
  row.seen = static_cast<Index>(logits.size());
  row.expected.assign(static_cast<std::size_t>(keys.cols()), 0);
  if (logits.empty()) return row;
  const Real largest = *std::max_element(logits.begin(), logits.end());
  Real sum = 0;
  for (const Real logit : logits) sum += std::exp(logit - largest);
  row.log_sum = largest + std::log(sum);
  for (std::size_t n = 0; n < logits.size(); ++n) {
    row.mean_logit += logits[n] / Real(row.seen);
    for (Index c = 0; c < keys.cols(); ++c)
      row.expected[static_cast<std::size_t>(c)] += std::exp(logits[n] - row.log_sum) * Real(seen[n][c]);
  }
  return row;
}

/// Calls visit(tile, queries, keys, sinks, scale) for all shapes, small numbers of queries, keys and sinks, and sizes
/// of logits.
template <class Scalar, class Visit>
void for_each_tile(const Visit& visit) {
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  Random random(seed());
  for (const TileShape shape : {TileShape::rectangle, TileShape::lower, TileShape::strict_upper})
    for (const Index queries : {1, 2, 3, 4, 7})
      for (const Index keys : {1, 2, 3, 4, 7})
        for (const Index sinks : {0, 1, 5})
          for (const double size : {1.0, 30.0, 1e5}) {
            const Tile tile{{100, 100 + queries}, {200, 200 + keys}, shape, {10, 10 + sinks}};
            const Matrix<Scalar> q = random.matrix<Scalar>(queries, 3, size);
            const Matrix<Scalar> k = random.matrix<Scalar>(keys, 3);
            const Matrix<Scalar> s = random.matrix<Scalar>(sinks, 3);
            visit(tile, q, k, s, 0.7);
          }
}

/// Both are computed in double, from numbers that are exact in it: a sum of `seen` keys, a product of 3, a logarithm.
double rounding(const Row& row) {
  const double eps = std::numeric_limits<double>::epsilon();
  return eps * static_cast<double>(row.seen + 8) * (static_cast<double>(row.size) + 8.0);
}

template <class Scalar>
void check_mean_key() {
  for_each_tile<Scalar>([](const Tile& tile, const Matrix<Scalar>& queries, const Matrix<Scalar>& keys,
                           const Matrix<Scalar>& sinks, double scale) {
    const Vector<double> anchors = mean_key_anchors(tile, view(queries), view(keys), view(sinks), scale);
    ASSERT_EQ(anchors.size(), queries.rows());
    for (Index i = 0; i < queries.rows(); ++i) {
      const Row row = row_of(tile, queries, keys, sinks, scale, i);
      if (row.seen == 0) {
        EXPECT_EQ(anchors[i], 0) << tile << ", row " << i;
        continue;
      }
      const Real direct = row.mean_logit + std::log(Real(row.seen));
      // The mean of keys keeps the size of the largest key, not of the largest product.
      EXPECT_NEAR(anchors[i], static_cast<double>(direct), rounding(row)) << tile << ", row " << i;
      EXPECT_LE(anchors[i], static_cast<double>(row.log_sum) + rounding(row)) << tile << ", row " << i;
    }
  });
}

TEST(MeanKeyAnchors, AreTheMeanVisibleLogitAndNeverAboveTheLogSumExp) {
  check_mean_key<float>();
  check_mean_key<double>();
}

template <class Scalar>
void check_gibbs() {
  for_each_tile<Scalar>([](const Tile& tile, const Matrix<Scalar>& queries, const Matrix<Scalar>& keys,
                           const Matrix<Scalar>& sinks, double scale) {
    Matrix<Scalar> expected(queries.rows(), keys.cols());
    for (Index i = 0; i < queries.rows(); ++i) {
      const Row row = row_of(tile, queries, keys, sinks, scale, i);
      for (Index c = 0; c < keys.cols(); ++c)
        expected(i, c) = static_cast<Scalar>(row.expected[static_cast<std::size_t>(c)]);
    }
    const Vector<double> anchors = gibbs_anchors(tile, view(queries), expected, scale);
    ASSERT_EQ(anchors.size(), queries.rows());
    for (Index i = 0; i < queries.rows(); ++i) {
      const Row row = row_of(tile, queries, keys, sinks, scale, i);
      if (row.seen == 0) {
        EXPECT_EQ(anchors[i], 0) << tile << ", row " << i;
        continue;
      }
      Real logit = 0;
      Real size = 0;
      for (Index c = 0; c < keys.cols(); ++c) {
        const Real term = Real(scale) * Real(queries(i, c)) * Real(expected(i, c));
        logit += term;
        size += std::abs(term);
      }
      EXPECT_NEAR(anchors[i], static_cast<double>(logit + std::log(Real(row.seen)) / 2), rounding(row))
          << tile << ", row " << i;
      // The expected key was rounded to the scalar.
      const double slack = rounding(row) + std::numeric_limits<Scalar>::epsilon() * static_cast<double>(size);
      EXPECT_LE(std::abs(anchors[i] - static_cast<double>(row.log_sum)),
                std::log(static_cast<double>(row.seen)) / 2 + slack)
          << tile << ", row " << i;
    }
  });
}

TEST(GibbsAnchors, LieWithinHalfTheLogarithmOfTheKeysSeenOfTheLogSumExp) {
  check_gibbs<float>();
  check_gibbs<double>();
}

// --- search ----------------------------------------------------------------------------------------------------------

/// Tries until an anchor does not drift; -1 where it never settles. A row whose log-sum-exp is `target` drifts where
/// exp of the distance leaves the scalar's range.
template <class Scalar>
int tries_to_find(Scalar target, Scalar anchor) {
  const Real range = -std::log(Real(least_weight<Scalar>()));
  AnchorSearch<Scalar> search;
  for (int tries = 0; tries <= AnchorSearch<Scalar>::most_tries; ++tries) {
    const Real above = Real(target) - Real(anchor);
    const Drift drift = above > range ? Drift::too_low : above < -range ? Drift::too_high : Drift::none;
    const Scalar next = search.next(anchor, drift);
    if (drift == Drift::none) {
      EXPECT_EQ(next, anchor) << "an anchor in range moved";
      return tries;
    }
    if (!std::isfinite(next)) return -1;
    anchor = next;
  }
  return -1;
}

template <class Scalar>
void expect_found(Scalar target, Scalar start) {
  const int tries = tries_to_find(target, start);
  EXPECT_GE(tries, 0) << "target " << target << " from " << start << " was not found";
  EXPECT_LT(tries, AnchorSearch<Scalar>::most_tries) << "target " << target << " from " << start;
}

TEST(AnchorSearch, FindsEveryTargetOfAFloatFromNearAndFromFarOnBothSides) {
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  Random random(seed());
  std::vector<float> targets{0.0F, 1.0F, 84.0F, 100.0F, 1e3F, 1e4F, 3.3e5F, 1e8F, 16777217.0F, 1e20F, 1e30F, 8e37F};
  for (int i = 0; i < 200; ++i) targets.push_back(static_cast<float>(std::exp(87.0 * random.uniform())));
  for (const float magnitude : targets)
    for (const float target : {magnitude, -magnitude}) {
      for (const float start : {0.0F, 5.0F, -1e6F, -8e37F, 8e37F}) expect_found(target, start);
      // As a Gibbs anchor starts: off by some roundings.
      for (const float off : {-1e-3F, -1e-6F, 1e-6F, 1e-3F}) expect_found(target, target * (1.0F + off));
    }
}

TEST(AnchorSearch, FindsTheLargestFloatsToo) {
  const float largest = std::numeric_limits<float>::max();
  for (const float target : {1e38F, 2e38F, 3e38F, largest, -1e38F, -2e38F, -3e38F, -largest})
    for (const float start : {0.0F, target * 0.999F, -target}) expect_found(target, start);
}

TEST(AnchorSearch, FindsTargetsOfADoubleFromWhereAGibbsAnchorStarts) {
  for (const double magnitude : {100.0, 1e10, 1e17, 1e40, 1e200, 1e300})
    for (const double target : {magnitude, -magnitude})
      for (const double off : {-1e-6, -1e-12, 1e-12, 1e-6}) expect_found(target, target * (1.0 + off));
}

// --- dead keys -------------------------------------------------------------------------------------------------------

/// The dead key's entry for one query and one key of one column each.
template <class Scalar>
Scalar dead_key_for(Scalar query, Scalar key, double factor, double oracle_scale) {
  const Matrix<Scalar> q = Matrix<Scalar>::Constant(1, 1, query);
  const Matrix<Scalar> k = Matrix<Scalar>::Constant(1, 1, key);
  ScoreBound bound;
  bound.add_queries(q);
  bound.add_keys(k);
  return dead_key<Scalar>(bound.gap(factor, 1, oracle_scale));
}

template <class Scalar>
void check_opposite_keys() {
  for (const Scalar size : {1e-3, 1.0, 20.0, 1e4, 1e9, 1e15})
    for (const double scale : {1.0, 0.01, 30.0})
      for (const double factor : {1.0, 7.0, -7.0}) {
        const Scalar score = static_cast<Scalar>(factor) * size * (factor > 0 ? -size : size);
        const Scalar dead = dead_key_for(size, factor > 0 ? -size : size, factor, scale);
        EXPECT_EQ(std::exp(static_cast<Scalar>(scale) * (dead - score)), 0)
            << "size " << size << ", oracle scale " << scale << ", factor " << factor;
      }
}

TEST(DeadKeys, LieFarBelowTheScoreOfAKeyThatPointsAwayFromItsQuery) {
  check_opposite_keys<float>();
  check_opposite_keys<double>();
}

TEST(DeadKeys, LieBelowTheLowestScoresOfAFloat) { EXPECT_LT(dead_key_for(1e19F, -2e19F, 1.0, 1.0), 1e19F * -2e19F); }

TEST(DeadKeys, AreFiniteWhereASquareOfAQueryUnderflows) {
  EXPECT_LT(dead_key_for(1e-25F, 1e26F, 1.0, 1.0), -1000.0F);
  EXPECT_TRUE(std::isfinite(dead_key_for(1e-25F, 1e26F, 1.0, 1.0)));
}

}  // namespace
