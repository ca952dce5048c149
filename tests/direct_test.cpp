#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <twoheads/attention/direct.hpp>
#include <twoheads/attention/forward.hpp>
#include <twoheads/attention/norm.hpp>
#include <twoheads/attention/rope.hpp>
#include <twoheads/model/random.hpp>
#include <utility>
#include <vector>

#include "support/bounds.hpp"
#include "support/forward_models.hpp"
#include "support/instances.hpp"
#include "support/naive.hpp"

namespace {

using namespace twoheads;
using bounds::Real;
using namespace forward_models;

TEST(Bounds, NoNaNAndNoOtherShapePasses) {
  const Real nan = std::numeric_limits<Real>::quiet_NaN();
  const naive::Table truth{{1, 2}, {3, nan}, {5, 6}};
  Matrix<double> found(3, 2);
  found << 1, 2, 3, 4, 5, 6.5;
  EXPECT_EQ(bounds::max_row_error(found, truth, 6), std::numeric_limits<Real>::infinity());
  EXPECT_EQ(bounds::max_row_error(found, {{1, 2}, {3, 4}, {5, 6}}, 2), 0.25);
  EXPECT_EQ(bounds::max_row_error(found, {{1, 2}, {3, 4}}, 2), std::numeric_limits<Real>::infinity());
  found(0, 1) = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(bounds::max_row_error(found, {{1, 2}, {3, 4}, {5, 6}}, 2), std::numeric_limits<Real>::infinity());
}

// --- attention -------------------------------------------------------------------------------------------------------

/// float rows serve every scalar, so that one truth does.
struct Inputs {
  Matrix<float> q, k, v;
};

Inputs random_rows(const AttentionSpec& spec, Index queries, Index keys, Random& random) {
  return {random.matrix<float>(queries, spec.heads * spec.head_dim),
          random.matrix<float>(keys, spec.kv_heads * spec.head_dim),
          random.matrix<float>(keys, spec.kv_heads * spec.value_dim)};
}

/// What DirectAttention answers; the rows start as NaN, so that every entry must be written.
template <class Scalar>
Matrix<Scalar> attend(const AttentionSpec& spec, const Inputs& rows, double* max_logit = nullptr) {
  const Matrix<Scalar> q = rows.q.cast<Scalar>(), k = rows.k.cast<Scalar>(), v = rows.v.cast<Scalar>();
  Matrix<Scalar> out(q.rows(), spec.heads * spec.value_dim);
  out.setConstant(std::numeric_limits<Scalar>::quiet_NaN());
  const AttentionWeights<Scalar> weights;
  DirectAttention<Scalar> direct;
  direct(AttentionInput<Scalar>{spec, 0, view(q), view(k), view(v), view(q), view(k), weights}, span(out));
  if (max_logit != nullptr) *max_logit = direct.max_logit();
  return out;
}

struct AttentionTruth {
  naive::Table rows;
  naive::Scores scores;
  Real value = 0;
};

template <class Scalar>
void expect_near(const AttentionTruth& truth, const AttentionSpec& spec, const Inputs& rows) {
  double max_logit = -1;
  const Matrix<Scalar> out = attend<Scalar>(spec, rows, &max_logit);
  const Real bound = bounds::attention_bound<Scalar>(rows.k.rows(), spec.head_dim, truth.scores.absolute);
  EXPECT_LE(bounds::max_row_error(out, truth.rows, truth.value), bound);
  EXPECT_LE(std::abs(static_cast<Real>(max_logit) - truth.scores.largest),
            (bounds::sum_bound<Scalar>(spec.head_dim) + bounds::eps<double>)*truth.scores.absolute);
}

AttentionTruth truth_of(const AttentionSpec& spec, const Inputs& rows) {
  AttentionTruth truth;
  truth.rows = naive::attention(spec, naive::plain(rows.q), naive::plain(rows.k), naive::plain(rows.v),
                                naive::visible(spec.mask), &truth.scores);
  truth.value = naive::largest(naive::plain(rows.v));
  return truth;
}

class DirectAttentionOf : public testing::TestWithParam<Shape> {};

TEST_P(DirectAttentionOf, EqualsTheTripleLoop) {
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  const Shape shape = GetParam();
  Random random(seed());
  AttentionSpec spec;
  spec.heads = shape.heads;
  spec.kv_heads = shape.kv_heads;
  spec.head_dim = shape.head_dim;
  spec.value_dim = shape.value_dim;
  // 64 queries are evaluated at once: 65 and 130 make a short second and a short third block.
  for (const Index queries : {1, 2, 3, 17, 65, 130}) {
    for (const double scale : {1.0, 0.35, -2.0, 40.0}) {
      spec.score_scale = scale;
      for (const MaskKind kind : {MaskKind::full, MaskKind::causal}) {
        spec.mask.kind = kind;
        const Index keys = kind == MaskKind::causal ? queries : 1 + (queries * 7) % 71;
        SCOPED_TRACE(testing::Message() << name(kind) << ", " << queries << " queries, " << keys << " keys, scale "
                                        << scale);
        const Inputs rows = random_rows(spec, queries, keys, random);
        const AttentionTruth truth = truth_of(spec, rows);
        expect_near<float>(truth, spec, rows);
        expect_near<double>(truth, spec, rows);
        expect_near<long double>(truth, spec, rows);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, DirectAttentionOf,
                         testing::Values(Shape{1, 1, 1, 1}, Shape{1, 1, 8, 3}, Shape{3, 3, 2, 2}, Shape{4, 2, 3, 5},
                                         Shape{6, 2, 2, 1}, Shape{4, 1, 8, 8}),
                         [](const auto& test) {
                           const Shape& s = test.param;
                           return "heads" + std::to_string(s.heads) + "over" + std::to_string(s.kv_heads) + "dim" +
                                  std::to_string(s.head_dim) + "values" + std::to_string(s.value_dim);
                         });

TEST(DirectAttention, EqualsTheTripleLoopForWindowsSinksBandsAndDocuments) {
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  Random random(seed());
  AttentionSpec spec;
  spec.heads = 4;
  spec.kv_heads = 2;
  spec.head_dim = 3;
  spec.value_dim = 2;
  // 64 queries are evaluated at once: windows shorter and longer than that, and sinks that only a second block sees.
  for (const Index tokens : {1, 2, 65, 200}) {
    std::vector<Mask> masks{Mask::band(0, 0), Mask::band(5, 0), Mask::band(0, 5), Mask::band(70, 3), Mask::band(3, 70)};
    for (const Index r : {1, 2, 17, 63, 64, 65, 1000}) {
      masks.push_back(Mask::sliding_window(r));
      for (const Index s : {0, 1, 5, 80, 1000}) masks.push_back(Mask::window_and_sinks(r, s));
    }
    for (const bool causal : {false, true}) {
      masks.push_back(Mask::documents(std::vector<Index>(naive::at(tokens), 1), causal));
      masks.push_back(Mask::documents({tokens}, causal));
      if (tokens == 200) masks.push_back(Mask::documents({3, 61, 1, 100, 35}, causal));
    }
    const Inputs rows = random_rows(spec, tokens, tokens, random);
    for (const Mask& mask : masks) {
      spec.mask = mask;
      spec.score_scale = tokens == 65 ? 40.0 : 0.5;
      SCOPED_TRACE(testing::Message() << name(mask.kind) << ", " << tokens << " tokens, r " << mask.window << ", s "
                                      << mask.sinks << ", left " << mask.left << ", right " << mask.right);
      const AttentionTruth truth = truth_of(spec, rows);
      expect_near<float>(truth, spec, rows);
      expect_near<double>(truth, spec, rows);
      if (tokens <= 65) expect_near<long double>(truth, spec, rows);
    }
  }
}

TEST(DirectAttention, OfAWindowAndSinksLetsARowThatIsNotFiniteReachOnlyTheRowsThatSeeIt) {
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  Random random(seed());
  AttentionSpec spec;
  spec.head_dim = 2;
  spec.value_dim = 3;
  const Inputs rows = random_rows(spec, 140, 140, random);
  for (const Mask& mask : {Mask::sliding_window(9), Mask::window_and_sinks(9, 4), Mask::band(5, 7),
                           Mask::documents({50, 20, 70}, false)}) {
    spec.mask = mask;
    const naive::Visible sees = naive::visible(mask);
    const AttentionTruth truth = truth_of(spec, rows);
    const Real bound = bounds::attention_bound<double>(140, spec.head_dim, truth.scores.absolute);
    for (const Index key : {0, 2, 30, 66, 139})
      for (const bool in_value : {false, true}) {
        Inputs spoilt = rows;
        // An infinite key would be a weight of nothing where its score is -inf.
        if (in_value)
          spoilt.v(key, 1) = std::numeric_limits<float>::infinity();
        else
          spoilt.k(key, 1) = std::numeric_limits<float>::quiet_NaN();
        Matrix<double> out = attend<double>(spec, spoilt);
        for (Index query = 0; query < 140; ++query) {
          if (!sees(query, key)) continue;
          EXPECT_FALSE(std::isfinite(out(query, 1))) << name(mask.kind) << ", query " << query << ", key " << key;
          for (Index c = 0; c < 3; ++c) out(query, c) = static_cast<double>(truth.rows[naive::at(query)][naive::at(c)]);
        }
        EXPECT_LE(bounds::max_row_error(out, truth.rows, truth.value), bound) << name(mask.kind) << ", key " << key;
      }
  }
}

TEST(DirectAttention, ManyKeysShortenTheBlocksOfQueries) {
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  Random random(seed());
  AttentionSpec spec;
  spec.value_dim = 2;
  // 2^20 scores at once: blocks of 26 queries, and of one. A bound on float sums of so many terms would say nothing.
  for (const auto& [queries, keys] : {std::pair<Index, Index>{30, 40000}, {3, (Index{1} << 20) + 1}}) {
    const Inputs rows = random_rows(spec, queries, keys, random);
    expect_near<double>(truth_of(spec, rows), spec, rows);
  }
}

TEST(DirectAttention, ACausalRowKeepsItsBitsWhateverComesLater) {
  Random random(seed());
  AttentionSpec spec;
  spec.head_dim = 3;
  spec.value_dim = 2;
  spec.mask.kind = MaskKind::causal;
  const Inputs rows = random_rows(spec, 70, 70, random);
  const Matrix<float> before = attend<float>(spec, rows);
  for (const Index changed : {1, 40, 63, 64, 69}) {
    Inputs other = rows;
    other.k.row(changed) *= -300;
    other.v.row(changed) *= -1e30F;
    const Matrix<float> after = attend<float>(spec, other);
    EXPECT_EQ(after.topRows(changed), before.topRows(changed)) << changed;
    EXPECT_NE(after.row(changed), before.row(changed)) << changed;
  }
}

TEST(DirectAttention, ARowThatIsNotFiniteReachesOnlyTheRowsThatSeeIt) {
  // Row 66 stands in the second block of queries: rows 64 and 65 share its block, and must not see it.
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  Random random(seed());
  AttentionSpec spec;
  spec.heads = spec.kv_heads = spec.value_dim = 2;
  spec.mask.kind = MaskKind::causal;
  const Inputs rows = random_rows(spec, 70, 70, random);
  AttentionTruth truth = truth_of(spec, rows);
  const Real bound = bounds::attention_bound<double>(70, spec.head_dim, truth.scores.absolute);
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    Inputs with_value = rows, with_key = rows;
    with_value.v.row(66).tail(2).setConstant(bad);  // of head 1
    with_key.k(66, 1) = std::numeric_limits<float>::quiet_NaN();
    for (const Inputs& inputs : {with_value, with_key}) {
      const Matrix<double> out = attend<double>(spec, inputs);
      EXPECT_FALSE(out.bottomRightCorner(4, 2).array().isFinite().any());
      Matrix<double> others = out;
      for (Index i = 66; i < 70; ++i)
        for (Index c = 2; c < 4; ++c) others(i, c) = static_cast<double>(truth.rows[naive::at(i)][naive::at(c)]);
      EXPECT_LE(bounds::max_row_error(others, truth.rows, truth.value), bound);
    }
  }
}

// --- rotary positions ------------------------------------------------------------------------------------------------

template <class Scalar>
void expect_naive_rotation(RopePairing pairing, Index head_dim, Index first_position) {
  SCOPED_TRACE(testing::Message() << "head_dim " << head_dim << ", from position " << first_position);
  Random random(seed());
  const RopeSpec rope{500.0, pairing};
  Matrix<Scalar> rows = random.matrix<Scalar>(9, 3 * head_dim);
  naive::Table truth = naive::plain(rows);
  naive::rotate(truth, head_dim, rope, first_position);
  rotate(span(rows), head_dim, rope, first_position);
  // The angle is good to a few eps of itself in the wider of double and Scalar; it turns at most 2 numbers.
  const Real angle = 4 * static_cast<Real>(first_position + 9) * std::min(bounds::eps<double>, bounds::eps<Scalar>);
  EXPECT_LE(bounds::max_row_error(rows, truth, naive::largest(truth)), 2 * (angle + 3 * bounds::eps<Scalar>));
}

TEST(Rope, TurnsEachPairByItsPosition) {
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  for (const RopePairing pairing : {RopePairing::interleaved, RopePairing::halves})
    for (const Index head_dim : {2, 4, 8})
      for (const Index first_position : {0, 5, 1000000}) {
        expect_naive_rotation<float>(pairing, head_dim, first_position);
        expect_naive_rotation<double>(pairing, head_dim, first_position);
        expect_naive_rotation<long double>(pairing, head_dim, first_position);
      }
}

TEST(Norm, HoldsForFloatRowsWhoseSquaresLeaveTheirRange) {
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  Random random(seed());
  const NormWeights<float> weights{random.matrix<float>(1, 9), random.matrix<float>(1, 9)};
  const naive::Norm same{naive::plain_row(weights.gain), naive::plain_row(weights.shift)};
  for (const NormKind kind : {NormKind::rms, NormKind::layer})
    for (const float size : {1e-35F, 1e-24F, 1.0F, 1e24F, 1e37F}) {
      const Matrix<float> rows = size * random.matrix<float>(5, 9);
      const naive::Norm own{same.gain, kind == NormKind::layer ? same.shift : naive::Row{}};
      const naive::Table truth = naive::normed(naive::plain(rows), own, kind, 0);
      EXPECT_LE(bounds::max_row_error(normed(view(rows), weights, kind, 0), truth, naive::largest(truth)),
                8 * bounds::sum_bound<float>(9))
          << size;
      EXPECT_TRUE(normed(view(rows), weights, NormKind::none, 0) == rows);
    }
  const Matrix<float> zero = normed(view(Matrix<float>(Matrix<float>::Zero(2, 9))), weights, NormKind::rms, 0);
  EXPECT_TRUE(zero.isZero(0)) << "a zero row stays zero without an epsilon, too";
}

// --- the whole transformer -------------------------------------------------------------------------------------------

template <class Scalar>
void expect_near(const bounds::Truth& truth, const Model<float>& model, const Matrix<float>& x,
                 const std::optional<Matrix<float>>& memory) {
  const ModelSpec& spec = model.spec;
  const AttentionSpec& a = spec.attention;
  const Matrix<Scalar> sources = memory ? memory->cast<Scalar>() : Matrix<Scalar>();
  DirectAttention<Scalar> direct;
  const Matrix<Scalar> rows =
      forward(cast_model<Scalar>(model), Matrix<Scalar>(x.cast<Scalar>()), direct, memory ? &sources : nullptr);
  const Index keys = memory ? memory->rows() : x.rows();
  const Index length = std::max({keys, spec.width, spec.hidden, a.head_dim, a.heads * a.value_dim});
  EXPECT_LE(bounds::max_row_error(rows, truth.rows, truth.scale), bounds::error_bound<Scalar>(truth, length));
}

class ForwardOf : public testing::TestWithParam<ModelCase> {};

TEST_P(ForwardOf, EqualsTheTripleLoop) {
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  const ModelCase& kind = GetParam();
  const auto [model, plain] = model_of(kind);
  Random random(seed() + 2);
  // MLPs take 256 rows at a time: 300 makes a second block, and attention takes a fifth.
  for (const Index tokens : {1, 2, 3, 17, 65, 300}) {
    SCOPED_TRACE(testing::Message() << tokens << " tokens");
    const Matrix<float> x = random.matrix<float>(tokens, kind.spec.width);
    std::optional<Matrix<float>> memory;
    if (kind.memory != nullptr) memory = random.matrix<float>(kind.memory(tokens), kind.spec.width);
    const naive::Table sources = memory ? naive::plain(*memory) : naive::Table{};
    const bounds::Truth truth = bounds::truth_of([&, &same = plain](const naive::Stage& stage) {
      return naive::transformer(same, naive::plain(x), memory ? &sources : nullptr, stage);
    });
    expect_near<float>(truth, model, x, memory);
    expect_near<double>(truth, model, x, memory);
    expect_near<long double>(truth, model, x, memory);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, ForwardOf, testing::ValuesIn(model_cases()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
