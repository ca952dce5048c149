// Attention cores: callables of exactly so many rows, with no mask, as oracles.

#include <gtest/gtest.h>

#include <span>
#include <stdexcept>
#include <twoheads/model/random.hpp>
#include <twoheads/oracle/any_oracle.hpp>
#include <twoheads/oracle/core.hpp>
#include <twoheads/simulate.hpp>
#include <vector>

#include "support/contains.hpp"
#include "support/instances.hpp"
#include "support/message_of.hpp"
#include "support/naive.hpp"
#include "support/seed.hpp"

namespace {

using namespace twoheads;

constexpr Index tokens = 1000;

OracleLimits limits_of(Index rows, bool fixed = true) {
  OracleLimits limits;
  limits.rows = rows;
  limits.fixed_rows = fixed;
  return limits;
}

/// What a core computes, written by hand.
template <class Scalar>
Matrix<Scalar> attend(const MatrixView<Scalar>& q, const MatrixView<Scalar>& k, const MatrixView<Scalar>& v) {
  const naive::Table out = naive::softmax_mean(naive::logits(naive::plain(q), naive::plain(k), 1), naive::plain(v),
                                               [](naive::Index, naive::Index) { return true; });
  Matrix<Scalar> rows(v.rows(), v.cols());
  for (Index row = 0; row < rows.rows(); ++row)
    for (Index col = 0; col < rows.cols(); ++col)
      rows(row, col) = static_cast<Scalar>(out[naive::at(row)][naive::at(col)]);
  return rows;
}

TEST(AttentionCore, OfExactly128RowsAndNoMaskGivesCausalAttentionAndWindowsWithSinks) {
  Random random(seed_or(5));
  const Matrix<double> q = 3 * random.matrix<double>(tokens, 8);
  const Matrix<double> k = random.matrix<double>(tokens, 8);
  const Matrix<double> v = random.matrix<double>(tokens, 8);
  for (const Mask& mask : {Mask{MaskKind::causal}, Mask::window_and_sinks(100, 4), Mask::window_and_sinks(300, 4)}) {
    AttentionSpec spec;
    spec.head_dim = spec.value_dim = 8;
    spec.mask = mask;
    AnyOracle<double> oracle([] {
      return core_oracle<double>(limits_of(128), [](const MatrixView<double>& queries, const MatrixView<double>& keys,
                                                    const MatrixView<double>& values) {
        if (queries.rows() != 128) throw std::logic_error("not 128 rows");
        // Eigen's exponential, since the naive one would take the test's time.
        Matrix<double> weights = queries * keys.transpose();
        weights = (weights.colwise() - weights.rowwise().maxCoeff().eval()).array().exp();
        return Matrix<double>(weights.rowwise().sum().cwiseInverse().asDiagonal() * weights * values);
      });
    });
    GridAttention<AnyOracle<double>> grid(oracle);
    Matrix<double> out(tokens, 8);
    grid(projected_input(spec, view(q), view(k), view(v)), span(out));
    const naive::Table truth =
        naive::attention(spec, naive::plain(q), naive::plain(k), naive::plain(v), naive::visible(mask));
    double worst = 0;
    for (Index row = 0; row < tokens; ++row)
      for (Index col = 0; col < 8; ++col) {
        const auto error = static_cast<double>(
            std::abs(static_cast<naive::Real>(out(row, col)) - truth[naive::at(row)][naive::at(col)]));
        if (!(error <= worst)) worst = error;
      }
    EXPECT_LE(worst, 1e-12) << name(mask.kind) << ", window " << mask.window;
  }
}

// --- what it is fed --------------------------------------------------------------------------------------------------

/// Two heads that read and write different columns.
SmallWeights<float> two_heads() {
  using P = Projection<float>;
  SmallWeights<float> weights;
  weights.width = 12;
  SmallLayer<float> layer;
  layer.heads.push_back({P::selector(0, 2), P::selector(2, 2), P::selector(4, 3), 4});
  layer.heads.push_back({P::selector(6, 2), P::selector(8, 2), P::selector(10, 2), 0});
  layer.output_width = 7;
  weights.layers.push_back(layer);
  return weights;
}

TEST(AttentionCore, SeesColumnsOfZerosBeyondAHeadsOwnAndAnswersForEach) {
  const SmallWeights<float> weights = two_heads();
  OracleLimits limits = limits_of(9);
  limits.heads = 2;
  const OracleCall<float> call{&weights, Random(seed_or(6)).matrix<float>(9, 12)};
  const Matrix<float> expected = core_oracle<float>(limits, attend<float>).run(call);
  SmallTransformer<float> small(limits);
  EXPECT_LE((small.run(call) - expected).cwiseAbs().maxCoeff(), 1e-6F);

  limits.key_cols = 5;
  limits.value_cols = 4;
  Index seen = 0;
  auto padded = core_oracle<float>(
      limits, [&](const MatrixView<float>& q, const MatrixView<float>& k, const MatrixView<float>& v) {
        EXPECT_EQ(q.cols(), 5);
        EXPECT_EQ(k.cols(), 5);
        EXPECT_EQ(v.cols(), 4);
        EXPECT_TRUE(q.rightCols(3).isZero(0) && k.rightCols(3).isZero(0) && v.rightCols(1).isZero(0));
        ++seen;
        return attend<float>(q, k, v);
      });
  EXPECT_EQ(padded.run(call), expected) << "zeros change nothing";
  EXPECT_EQ(seen, 2);
}

TEST(AttentionCore, MayTakeTheHeadsOfAllCallsOfABatch) {
  const SmallWeights<float> weights = two_heads();
  OracleLimits limits = limits_of(9);
  limits.heads = 2;
  limits.batch = 3;
  std::vector<OracleCall<float>> calls;
  for (std::uint64_t i = 0; i < 3; ++i) calls.push_back({&weights, Random(seed_or(7) + i).matrix<float>(9, 12)});
  std::vector<std::size_t> heads;
  auto batch = core_oracle<float>(limits, [&](std::span<const CoreCall<float>> given) {
    heads.push_back(given.size());
    std::vector<Matrix<float>> answers;
    for (const CoreCall<float>& head : given) answers.push_back(attend<float>(head.q, head.k, head.v));
    return answers;
  });
  auto single = core_oracle<float>(limits, attend<float>);
  const std::vector<Matrix<float>> found = run_all(batch, std::span<const OracleCall<float>>(calls));
  ASSERT_EQ(found.size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(found[i], single.run(calls[i]));
  EXPECT_EQ(heads, std::vector<std::size_t>{6});
}

TEST(AttentionCore, ThatAnswersAnotherShapeOrNumberIsAnOracleError) {
  const SmallWeights<float> weights = two_heads();
  OracleLimits limits = limits_of(9);
  limits.heads = 2;
  const OracleCall<float> call{&weights, Random(seed_or(8)).matrix<float>(9, 12)};
  auto short_of_a_row =
      core_oracle<float>(limits, [](const MatrixView<float>&, const MatrixView<float>&, const MatrixView<float>& v) {
        return Matrix<float>(v.topRows(v.rows() - 1));
      });
  EXPECT_TRUE(contains(message_of<OracleError>([&] { static_cast<void>(short_of_a_row.run(call)); }),
                       "answered 8 x 3, expected 9 x 3"));
  auto short_of_a_head = core_oracle<float>(
      limits, [](std::span<const CoreCall<float>> given) { return std::vector<Matrix<float>>{given.front().v}; });
  EXPECT_TRUE(contains(message_of<OracleError>([&] { static_cast<void>(short_of_a_head.run(call)); }),
                       "answered 1 heads, expected 2"));
}

TEST(AttentionCore, IsOneLayerWithoutAResidualStream) {
  OracleLimits limits = limits_of(9);
  EXPECT_NO_THROW(static_cast<void>(core_oracle<float>(limits, attend<float>)));
  limits.residual = true;
  EXPECT_THROW(static_cast<void>(core_oracle<float>(limits, attend<float>)), LimitError);
  limits.residual = false;
  limits.layers = 2;
  EXPECT_THROW(static_cast<void>(core_oracle<float>(limits, attend<float>)), LimitError);
}

// --- oracles behind one type -----------------------------------------------------------------------------------------

TEST(AnyOracle, ACopyIsAnotherOracleFromTheSameFunction) {
  int made = 0;
  AnyOracle<float> first([&] {
    ++made;
    return SmallTransformer<float>(limits_of(9));
  });
  EXPECT_EQ(made, 1);
  const AnyOracle<float> second = first;
  EXPECT_EQ(made, 2);
  AnyOracle<float> third = std::move(first);
  EXPECT_EQ(made, 2);
  third = second;
  EXPECT_EQ(made, 3);
  EXPECT_EQ(third.limits(), limits_of(9));
}

}  // namespace
