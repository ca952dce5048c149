// Memory that serves many calls: what it held before must not show.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <twoheads/attention/reordered_keys.hpp>
#include <twoheads/codec/encode.hpp>
#include <twoheads/model/random.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <vector>

#include "support/instances.hpp"
#include "support/seed.hpp"

namespace {

using namespace twoheads;

constexpr float nan = std::numeric_limits<float>::quiet_NaN();

/// Two layers: heads that overlap, leave gaps and stand alone; selectors and a product.
SmallWeights<float> weights_of(bool residual, Random& random) {
  using P = Projection<float>;
  const auto dense = P::dense(1, std::make_shared<const Matrix<float>>(random.matrix<float>(4, 3)));
  SmallWeights<float> weights;
  weights.width = 8;
  SmallLayer<float> first;
  first.output_width = 8;
  first.heads = {{P::selector(0, 3), P::selector(3, 3), P::selector(5, 3), 2},
                 {dense, dense, P::selector(0, 2), 4},
                 {dense, P::selector(2, 3), P::selector(7, 1), 6}};
  SmallLayer<float> second = first;
  second.output_width = residual ? 8 : 9;
  weights.layers = {first, second};
  return weights;
}

TEST(Workspace, AnswersHaveTheBitsOfAFreshOracleWhateverWasAskedBefore) {
  Random random(seed_or(41));
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
    for (const SumOrder order : {SumOrder::blocked, SumOrder::by_key})
      for (const bool residual : {false, true}) {
        OracleLimits limits;
        limits.kind = kind;
        limits.rows = 700;
        limits.heads = 3;
        limits.layers = 2;
        limits.residual = residual;
        limits.score_scale = 0.7;
        const SmallWeights<float> weights = weights_of(residual, random);
        SmallTransformer<float> used(limits, order);
        Matrix<float> answer = Matrix<float>::Constant(3, 50, nan);
        for (const Index rows : {33, 5, 700, 17, 1, 64, 65, 33}) {
          const OracleCall<float> call{&weights, random.matrix<float>(rows, 8)};
          SmallTransformer<float> fresh(limits, order);
          const Matrix<float> expected = fresh.run(call);
          used.run_into(call, answer);
          EXPECT_EQ(answer, expected) << rows << " rows";
          answer.setConstant(nan);
          EXPECT_EQ(used.run(call), expected) << rows << " rows";
          used.run_into(call, answer);
          EXPECT_EQ(answer, expected) << rows << " rows, into a matrix full of NaN";
        }
      }
}

TEST(Workspace, ACallThatFailedLeavesNothingBehind) {
  OracleLimits limits;
  limits.rows = 20;
  limits.heads = 3;
  limits.layers = 2;
  Random random(seed_or(42));
  const SmallWeights<float> weights = weights_of(false, random);
  SmallTransformer<float> used(limits);
  OracleCall<float> bad{&weights, Matrix<float>::Constant(20, 8, nan)};
  static_cast<void>(used.run(bad));
  const OracleCall<float> call{&weights, random.matrix<float>(9, 8)};
  EXPECT_EQ(used.run(call), SmallTransformer<float>(limits).run(call));
}

TEST(Weights, ThatAreTooSmallForANormalNumberAreZeroInCallsOfAnyLength) {
  const auto check = [](auto zero) {
    using Scalar = decltype(zero);
    for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
      for (const Index rows : {2, 7, 8, 16, 33, 300}) {
        OracleLimits limits;
        limits.rows = rows;
        limits.kind = kind;
        SmallWeights<Scalar> weights;
        weights.width = 3;
        using P = Projection<Scalar>;
        weights.layers.push_back({{{P::selector(0, 1), P::selector(1, 1), P::selector(2, 1), 0}}, 1, {}});
        // Row 0 has all the weight, and the only value of 0.
        OracleCall<Scalar> call{&weights, Matrix<Scalar>::Ones(rows, 3)};
        call.rows.col(1).setConstant(Scalar(-1000));
        call.rows(0, 1) = call.rows(0, 2) = Scalar(0);
        EXPECT_EQ(SmallTransformer<Scalar>(limits).run(call), Matrix<Scalar>::Zero(rows, 1)) << rows;
        call.rows(0, 0) = std::numeric_limits<Scalar>::quiet_NaN();
        EXPECT_TRUE(std::isnan(SmallTransformer<Scalar>(limits).run(call)(0, 0)));
      }
  };
  check(0.0F);
  check(0.0);
}

struct Rows3 {
  AttentionSpec spec;
  AttentionWeights<float> weights;
  Matrix<float> q, k, v, tokens;

  explicit Rows3(Index rows) {
    spec.heads = 4;
    spec.kv_heads = 2;
    spec.head_dim = 3;
    spec.value_dim = 2;
    Random random(seed_or(43));
    q = random.matrix<float>(rows, 12);
    k = random.matrix<float>(rows, 6);
    v = random.matrix<float>(rows, 4);
    tokens = random.matrix<float>(rows, 5);
  }
  [[nodiscard]] AttentionInput<float> input() const {
    return {spec, 0, view(q), view(k), view(v), view(tokens), view(tokens), weights};
  }
};

TEST(Workspace, EncodingWritesAllColumnsOfASlot) {
  const Rows3 rows(40);
  const AttentionInput<float> input = rows.input();
  const Codes codes(2);
  const std::vector<Tile> two{{{0, 6}, {0, 5}, TileShape::lower, {}}, {{6, 9}, {6, 9}, TileShape::lower, {}}};
  for (const TokenEncoding encoding : {TokenEncoding::projected, TokenEncoding::raw})
    for (const CallKind kind :
         {CallKind::straight, CallKind::state, CallKind::state_with_keys, CallKind::values_and_keys, CallKind::weight})
      for (const Index jobs : {1, 2}) {
        if (kind == CallKind::straight && jobs == 2) continue;
        const InstanceLayout layout{kind, encoding, 3, 2, 5, jobs == 2 ? codes.columns() : 0};
        const SlotMap map(std::span<const Tile>(two).first(static_cast<std::size_t>(jobs)), OracleKind::causal,
                          kind == CallKind::straight);
        const std::vector<Vector<float>> anchors{Vector<float>::Ones(6), Vector<float>::Ones(3)};
        const std::vector<const Vector<float>*> given{&anchors[0], &anchors[1]};
        const EncodeSettings<float> settings{0.5F, 1.0F, &codes, 3.0F};
        Matrix<float> clean = Matrix<float>::Zero(map.rows() + 2, layout.width() + 2);
        Matrix<float> dirty = Matrix<float>::Constant(clean.rows(), clean.cols(), nan);
        for (Matrix<float>* call : {&clean, &dirty})
          encode(*call, 1, layout, map, input, 3, std::span<const Vector<float>* const>(given), settings);
        EXPECT_EQ(clean.middleCols(1, layout.width()), dirty.middleCols(1, layout.width()));
        // And no other.
        EXPECT_TRUE(dirty.col(0).array().isNaN().all() && dirty.rightCols(1).array().isNaN().all());
      }
}

TEST(KeysByHead, AreTheSameRowsLaidOutHeadAfterHead) {
  const Rows3 rows(12);
  AttentionInput<float> input = rows.input();
  input.held = {0, 2, 5};  // the positions 0, 1 and 5 .. 14
  const ReorderedKeys<float> keys(input, {}, true);
  const AttentionInput<float> by_head = keys.input();
  ASSERT_TRUE(by_head.by_head);
  EXPECT_EQ(by_head.keys(), input.keys());
  for (Index head = 0; head < 4; ++head)
    for (const Rows wanted : {Rows{0, 2}, Rows{5, 15}, Rows{7, 9}}) {
      EXPECT_EQ(by_head.key_rows(head, wanted), input.key_rows(head, wanted));
      EXPECT_EQ(by_head.value_rows(head, wanted), input.value_rows(head, wanted));
    }
  EXPECT_EQ(by_head.key_rows(3, {5, 15}).outerStride(), 3);
}

TEST(KeysByHead, TakeAnOrderToo) {
  const Rows3 rows(4);
  const AttentionInput<float> input = rows.input();
  const std::vector<Index> order{2, 0, 3, 1};
  const ReorderedKeys<float> plain(input, order);
  const ReorderedKeys<float> keys(input, order, true);
  for (Index head = 0; head < 4; ++head) {
    EXPECT_EQ(keys.input().key_rows(head, {0, 4}), plain.input().key_rows(head, {0, 4}));
    EXPECT_EQ(keys.input().value_rows(head, {0, 4}), plain.input().value_rows(head, {0, 4}));
  }
  EXPECT_EQ(keys.input().key_tokens, plain.input().key_tokens);
}

}  // namespace
