#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <twoheads/model/random.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <utility>
#include <vector>

#include "support/bounds.hpp"
#include "support/instances.hpp"
#include "support/naive.hpp"
#include "support/naive_small_transformer.hpp"
#include "support/seed.hpp"

namespace {

using namespace twoheads;

std::uint64_t seed() { return seed_or(331); }

constexpr Index width = 7;
constexpr Index value_dim = 2;

/// A dense map from `count` columns; float numbers serve every scalar.
template <class Scalar>
Projection<Scalar> dense(Index begin, Index count, Index cols, Random& random) {
  return Projection<Scalar>::dense(
      begin, std::make_shared<const Matrix<Scalar>>(random.matrix<float>(count, cols, 0.4).cast<Scalar>()));
}

// A function of a row and its position in the call, once for the library and once for the triple loop.
const auto layer_rule = [](Index first_row, auto& rows) {
  for (Index i = 0; i < rows.rows(); ++i)
    for (Index c = 0; c < rows.cols(); ++c) rows(i, c) = std::abs(rows(i, c)) - static_cast<float>(first_row + i) / 8;
};
void naive_layer_rule(Index position, naive::Row& row) {
  for (naive::Real& x : row) x = std::abs(x) - static_cast<naive::Real>(position) / 8;
}

/// Layers of random heads: dense and selector projections by turns, of other lengths in every layer. Without residual
/// sums the rows are one column longer than the heads write.
template <class Scalar>
SmallWeights<Scalar> random_weights(Index layers, Index heads, bool residual, bool mlp) {
  Random random(seed());
  SmallWeights<Scalar> weights;
  weights.width = width;
  Index inputs = width;
  for (Index l = 0; l < layers; ++l) {
    SmallLayer<Scalar> layer;
    layer.output_width = residual ? width : heads * value_dim + 1;
    for (Index h = 0; h < heads; ++h) {
      const Index head_dim = std::min<Index>(2 + l, inputs);
      SmallHead<Scalar> head;
      head.wq =
          (l + h) % 2 == 0 ? dense<Scalar>(1, inputs - 1, head_dim, random) : Projection<Scalar>::selector(0, head_dim);
      head.wk = (l + h) % 3 == 0 ? Projection<Scalar>::selector(inputs - head_dim, head_dim)
                                 : dense<Scalar>(0, inputs, head_dim, random);
      head.wv = h % 2 == 0 ? Projection<Scalar>::selector(inputs - value_dim, value_dim)
                           : dense<Scalar>(inputs - 2, 2, value_dim, random);
      head.output_begin = h * value_dim;
      layer.heads.push_back(std::move(head));
    }
    if (mlp) layer.mlp = RowFunction(layer_rule);
    inputs = layer.output_width;
    weights.layers.push_back(std::move(layer));
  }
  return weights;
}

OracleLimits limits_of(OracleKind kind, bool residual, double score_scale) {
  OracleLimits limits;
  limits.kind = kind;
  limits.rows = 33;
  limits.heads = 3;
  limits.layers = 3;
  limits.residual = residual;
  limits.score_scale = score_scale;
  return limits;
}

template <class Scalar>
Matrix<Scalar> run(const OracleLimits& limits, const SmallWeights<Scalar>& weights, const Matrix<float>& rows) {
  return SmallTransformer<Scalar>(limits).run({&weights, rows.cast<Scalar>()});
}

class SmallTransformerOf : public testing::TestWithParam<std::tuple<int, int>> {};

TEST_P(SmallTransformerOf, EqualsTheTripleLoop) {
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  const auto [layers, heads] = GetParam();
  Random random(seed() + 1);
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
    for (const bool residual : {false, true})
      for (const bool mlp : {false, true})
        for (const double scale : {1.0, 0.3, 5.0}) {
          const OracleLimits limits = limits_of(kind, residual, scale);
          const SmallWeights<float> weights = random_weights<float>(layers, heads, residual, mlp);
          std::vector<naive::SmallLayer> plain = naive::plain(weights);
          for (naive::SmallLayer& layer : plain)
            if (mlp) layer.mlp = naive_layer_rule;
          for (const Index n : {1, 2, 17, 33}) {
            SCOPED_TRACE(testing::Message() << name(kind) << (residual ? ", residual" : "") << (mlp ? ", MLP" : "")
                                            << ", scale " << scale << ", " << n << " rows");
            const Matrix<float> rows = random.matrix<float>(n, width);
            const bounds::Truth truth = bounds::truth_of([&](const naive::Stage& stage) {
              return naive::small_transformer(plain, limits, naive::plain(rows), stage);
            });
            EXPECT_LE(bounds::max_row_error(run(limits, weights, rows), truth.rows, truth.scale),
                      bounds::error_bound<float>(truth, std::max(n, width)));
            const SmallWeights<double> wide = random_weights<double>(layers, heads, residual, mlp);
            EXPECT_LE(bounds::max_row_error(run(limits, wide, rows), truth.rows, truth.scale),
                      bounds::error_bound<double>(truth, std::max(n, width)));
          }
        }
}

INSTANTIATE_TEST_SUITE_P(Sizes, SmallTransformerOf,
                         testing::Combine(testing::Values(1, 2, 3), testing::Values(1, 2, 3)), [](const auto& test) {
                           return "layers" + std::to_string(std::get<0>(test.param)) + "heads" +
                                  std::to_string(std::get<1>(test.param));
                         });

TEST(SmallTransformer, WithoutLayersAnswersTheRows) {
  Random random(seed());
  const Matrix<float> rows = random.matrix<float>(4, width);
  SmallWeights<float> weights;
  weights.width = width;
  EXPECT_EQ(run(limits_of(OracleKind::plain, true, 1), weights, rows), rows);
}

TEST(SmallTransformer, HugeScoresPickOneRowAndNeverOverflow) {
  Random random(seed());
  Matrix<float> rows = random.matrix<float>(5, 3);
  rows.col(0) << 1e4F, 2e4F, -3e4F, 5e3F, 1e4F;
  SmallWeights<float> weights;
  weights.width = 3;
  const auto first = Projection<float>::selector(0, 1);
  weights.layers = {{{{first, first, Projection<float>::selector(1, 2), 0}}, 2, {}}};
  const Matrix<float> answer = run(limits_of(OracleKind::plain, false, 1), weights, rows);
  for (const Index positive : {0, 1, 3, 4}) EXPECT_EQ(answer.row(positive), rows.row(1).tail(2)) << positive;
  EXPECT_EQ(answer.row(2), rows.row(2).tail(2));
}

TEST(SmallTransformer, AnswersTheSameBitsWhateverItWasAskedBefore) {
  Random random(seed());
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal}) {
    const OracleLimits limits = limits_of(kind, false, 0.5);
    const SmallWeights<float> big = random_weights<float>(3, 3, false, true);
    const SmallWeights<float> little = random_weights<float>(1, 1, false, false);
    const Matrix<float> many = random.matrix<float>(33, width), few = random.matrix<float>(3, width);
    SmallTransformer<float> oracle(limits);
    const Matrix<float> first = oracle.run({&little, few});
    EXPECT_EQ(oracle.run({&little, few}), first);
    const Matrix<float> large = oracle.run({&big, many});
    EXPECT_EQ(oracle.run({&little, few}), first);
    EXPECT_EQ(oracle.run({&big, many}), large);
    EXPECT_THROW(static_cast<void>(oracle.run({&big, random.matrix<float>(34, width)})), LimitError);
    EXPECT_EQ(oracle.run({&little, few}), first);
    EXPECT_EQ(run(limits, little, few), first);
    EXPECT_EQ(run(limits, big, many), large);
  }
}

TEST(SmallTransformer, CausalRowsKeepTheirBitsWhateverComesLaterAndPlainRowsDoNot) {
  Random random(seed());
  const SmallWeights<float> weights = random_weights<float>(3, 2, false, true);
  const Matrix<float> rows = random.matrix<float>(20, width);
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal}) {
    const OracleLimits limits = limits_of(kind, false, 1);
    const Matrix<float> before = run(limits, weights, rows);
    for (const Index changed : {1, 7, 19}) {
      Matrix<float> other = rows;
      other.row(changed) *= -3;
      const Matrix<float> after = run(limits, weights, other);
      EXPECT_NE(after.row(changed), before.row(changed));
      if (kind == OracleKind::causal) {
        EXPECT_EQ(after.topRows(changed), before.topRows(changed)) << changed;
      } else {
        EXPECT_NE(after.topRows(changed), before.topRows(changed)) << changed;
      }
    }
  }
}

// --- projections -----------------------------------------------------------------------------------------------------

TEST(Projection, ASelectorEqualsTheProductWithItsMatrixBitForBit) {
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  Random random(seed());
  const Matrix<float> x = random.matrix<float>(6, width);
  for (Index begin = 0; begin <= width; ++begin)
    for (Index count = 0; begin + count <= width; ++count) {
      const auto selector = Projection<float>::selector(begin, count);
      EXPECT_EQ(std::tuple(selector.begin(), selector.end(), selector.cols()), std::tuple(begin, begin + count, count));
      Matrix<float> answer = Matrix<float>::Constant(9, 9, 5);
      selector.apply(x, answer);
      ASSERT_EQ(answer.rows(), 6);
      ASSERT_EQ(answer.cols(), count);
      const Matrix<float> matrix = selector.to_matrix(width);
      ASSERT_EQ(matrix.rows(), width);
      Matrix<float> product = Matrix<float>::Zero(6, count);
      for (Index i = 0; i < 6; ++i)
        for (Index c = 0; c < count; ++c)
          for (Index j = 0; j < width; ++j) product(i, c) += x(i, j) * matrix(j, c);
      EXPECT_EQ(answer, product) << "columns from " << begin << ", " << count;
    }
}

TEST(Projection, ADenseMapReadsItsOwnColumnsAlone) {
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  Random random(seed());
  const Matrix<double> x = random.matrix<double>(6, width);
  const auto matrix = std::make_shared<const Matrix<double>>(random.matrix<double>(3, 5));
  const auto map = Projection<double>::dense(2, matrix);
  EXPECT_EQ(std::tuple(map.begin(), map.end(), map.cols()), std::tuple(2, 5, 5));
  Matrix<double> answer;
  map.apply(x, answer);
  const naive::Table truth = naive::product(naive::plain(x), naive::plain(map.to_matrix(width)));
  EXPECT_LE(bounds::max_row_error(answer, truth, naive::largest(truth)), bounds::sum_bound<double>(3) * 3);
  Matrix<double> other = x, same;
  other.leftCols(2).setConstant(1e300);
  other.rightCols(2).setConstant(-1e300);
  map.apply(other, same);
  EXPECT_EQ(same, answer);
}

template <class Map>
void expect_shifted(const Map& map) {
  Random random(seed());
  const Matrix<float> x = random.matrix<float>(4, 5);
  for (const Index offset : {0, 1, 6}) {
    Matrix<float> wide = random.matrix<float>(4, 5 + offset);
    wide.rightCols(5) = x;
    const Map later = map.shifted(offset);
    EXPECT_EQ(later.begin(), map.begin() + offset);
    EXPECT_EQ(later.end(), map.end() + offset);
    Matrix<float> answer, shifted;
    map.apply(x, answer);
    later.apply(wide, shifted);
    EXPECT_EQ(shifted, answer) << offset;
    EXPECT_EQ(later.to_matrix(5 + offset).bottomRows(5), map.to_matrix(5)) << offset;
    EXPECT_TRUE(later.to_matrix(5 + offset).topRows(offset).isZero(0)) << offset;
    EXPECT_EQ(map.begin(), 1) << "shifting makes another projection";
  }
}

TEST(Projection, AShiftedMapReadsTheSameColumnsOfAWiderRow) {
  Random random(seed());
  expect_shifted(Projection<float>::selector(1, 3));
  expect_shifted(dense<float>(1, 4, 2, random));
}

}  // namespace
