#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <twoheads/base/digest.hpp>
#include <twoheads/base/product.hpp>
#include <twoheads/model/random.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <utility>
#include <vector>

#include "support/bounds.hpp"
#include "support/naive.hpp"
#include "support/naive_small_transformer.hpp"
#include "support/seed.hpp"

namespace {

using namespace twoheads;

std::uint64_t seed() { return seed_or(177); }

constexpr Index width = 6;
constexpr Index keyed = 2;

OracleLimits limits_of(OracleKind kind, double score_scale = 1) {
  OracleLimits limits;
  limits.kind = kind;
  limits.rows = 64;
  limits.heads = limits.layers = 2;
  limits.score_scale = score_scale;
  return limits;
}

template <class Scalar>
Matrix<Scalar> run(const OracleLimits& limits, SumOrder order, const SmallWeights<Scalar>& weights,
                   const Matrix<Scalar>& rows) {
  return SmallTransformer<Scalar>(limits, order).run({&weights, rows});
}

/// Two layers of two heads with dense projections.
template <class Scalar>
SmallWeights<Scalar> dense_weights(Random& random) {
  const auto dense = [&](Index inputs, Index cols) {
    return Projection<Scalar>::dense(
        0, std::make_shared<const Matrix<Scalar>>(random.matrix<float>(inputs, cols, 0.5).cast<Scalar>()));
  };
  SmallWeights<Scalar> weights;
  weights.width = width;
  for (Index inputs : {width, Index{4}}) {
    SmallLayer<Scalar> layer;
    layer.output_width = 4;
    for (Index h = 0; h < 2; ++h) layer.heads.push_back({dense(inputs, 3), dense(inputs, 3), dense(inputs, 2), 2 * h});
    weights.layers.push_back(std::move(layer));
  }
  return weights;
}

/// One head whose rows hold [q, k, v] of 2 columns each.
template <class Scalar>
SmallWeights<Scalar> selecting_weights() {
  using P = Projection<Scalar>;
  return {width, {{{{P::selector(0, keyed), P::selector(keyed, keyed), P::selector(2 * keyed, keyed), 0}}, keyed, {}}}};
}

template <class Scalar>
void expect_truth() {
  Random random(seed());
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
    for (const double scale : {1.0, 0.3})
      for (const Index n : {1, 2, 17, 64}) {
        const OracleLimits limits = limits_of(kind, scale);
        const SmallWeights<Scalar> weights = dense_weights<Scalar>(random);
        const Matrix<Scalar> rows = random.matrix<float>(n, width).cast<Scalar>();
        const bounds::Truth truth = bounds::truth_of([&](const naive::Stage& stage) {
          return naive::small_transformer(naive::plain(weights), limits, naive::plain(rows), stage);
        });
        EXPECT_LE(bounds::max_row_error(run(limits, SumOrder::by_key, weights, rows), truth.rows, truth.scale),
                  bounds::error_bound<Scalar>(truth, std::max(n, width)))
            << name(kind) << ", scale " << scale << ", " << n << " rows";
      }
}

TEST(SumOrder, ByKeyEqualsTheTripleLoopToo) {
  expect_truth<float>();
  expect_truth<double>();
}

/// Rows with the given ones at `places`, ever growing, and between them rows that no query at `places` gives a weight.
template <class Scalar>
Matrix<Scalar> with_hidden_rows(const Matrix<Scalar>& own, const std::vector<Index>& places, Scalar hidden_value) {
  // Queries [1, q], own keys [0, k], hidden keys [-1e4, 0].
  Matrix<Scalar> rows = Matrix<Scalar>::Zero(places.back() + 5, width);
  rows.col(0).setOnes();
  rows.col(keyed).setConstant(Scalar(-1e4));
  for (Index row = 0; row < rows.rows(); ++row)
    rows.row(row).tail(keyed).setConstant(row % 2 == 0 ? hidden_value : -hidden_value);
  for (std::size_t i = 0; i < places.size(); ++i) rows.row(places[i]) = own.row(static_cast<Index>(i));
  return rows;
}

template <class Scalar>
void expect_hidden_keys_leave_no_trace() {
  SCOPED_TRACE(testing::Message() << "seed " << seed() << ", " << sizeof(Scalar) << " bytes");
  Random random(seed());
  const SmallWeights<Scalar> weights = selecting_weights<Scalar>();
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
    for (int repeat = 0; repeat < 20; ++repeat) {
      Matrix<Scalar> own = random.matrix<float>(7, width).cast<Scalar>();
      own.col(0).setOnes();
      own.col(keyed).setZero();
      // Values that vanish, of either sign, and as products with their weights.
      constexpr Scalar tiny = std::numeric_limits<Scalar>::denorm_min();
      own.col(width - 1) << Scalar(-0.0), -tiny, Scalar(0), tiny, Scalar(-0.0), -tiny, -tiny;
      if (repeat % 2 == 0) own.col(width - 1).setConstant(-tiny);
      const OracleLimits limits = limits_of(kind, repeat % 3 == 0 ? 0.3 : 1);
      const Matrix<Scalar> truth = run(limits, SumOrder::by_key, weights, own);
      const std::vector<Index> places{2, 3, 9, 10, 11, 30, 50};
      for (const Scalar hidden :
           {Scalar(1), std::numeric_limits<Scalar>::max(), std::numeric_limits<Scalar>::infinity()}) {
        const Matrix<Scalar> all =
            run(limits, SumOrder::by_key, weights, with_hidden_rows<Scalar>(own, places, hidden));
        Matrix<Scalar> found(7, keyed);
        for (Index i = 0; i < 7; ++i) found.row(i) = all.row(places[static_cast<std::size_t>(i)]);
        EXPECT_EQ(digest(found), digest(truth)) << name(kind) << ", hidden values " << hidden;
      }
    }
}

TEST(SumOrder, ByKeyHiddenKeysLeaveNoTraceInAnyBit) {
  expect_hidden_keys_leave_no_trace<float>();
  expect_hidden_keys_leave_no_trace<double>();
}

TEST(SumOrder, ByKeyDenseProjectionsDoNotDependOnOtherRows) {
  Random random(seed());
  const SmallWeights<float> weights = dense_weights<float>(random);
  const Matrix<float> rows = random.matrix<float>(64, width);
  const OracleLimits limits = limits_of(OracleKind::causal);
  const Matrix<float> all = run(limits, SumOrder::by_key, weights, rows);
  for (const Index n : {1, 2, 3, 7, 16, 33}) {
    const Matrix<float> few = run(limits, SumOrder::by_key, weights, Matrix<float>(rows.topRows(n)));
    EXPECT_EQ(digest(few), digest(Matrix<float>(all.topRows(n)))) << n << " rows";
  }
}

TEST(ProductInOrder, RoundsOnceATermInTheOrderOfTerms) {
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  Random random(seed());
  for (const Index n : {1, 3, 8, 33})
    for (const Index terms : {0, 1, 5, 40})
      for (const Index m : {0, 1, 7, 16}) {
        const Matrix<float> a = random.matrix<float>(n, terms), b = random.matrix<float>(terms, m);
        Matrix<float> out = Matrix<float>::Constant(n, m, 7), expected(n, m);
        detail::multiply_in_order(span(out), view(a), view(b));
        for (Index i = 0; i < n; ++i)
          for (Index c = 0; c < m; ++c) {
            float sum = 0;
            for (Index t = 0; t < terms; ++t) sum = std::fma(a(i, t), b(t, c), sum);
            expected(i, c) = sum;
          }
        EXPECT_EQ(digest(out), digest(expected)) << n << " x " << terms << " x " << m;
      }
}

}  // namespace
