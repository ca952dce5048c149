#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <optional>
#include <string>
#include <twoheads/attention/direct.hpp>
#include <twoheads/attention/forward.hpp>
#include <twoheads/attention/rope.hpp>
#include <twoheads/model/random.hpp>
#include <vector>

#include "support/bounds.hpp"
#include "support/instances.hpp"
#include "support/naive.hpp"

namespace {

using namespace twoheads;
using bounds::Real;

std::uint64_t seed() {
  const char* given = std::getenv("TWOHEADS_TEST_SEED");
  return given != nullptr ? std::stoull(given) : 221;
}

// --- attention --------------------------------------------------------------------------------------------------------

struct Shape {
  Index heads, kv_heads, head_dim, value_dim;
};

template <class Scalar>
struct Attended {
  Matrix<Scalar> q, k, v, out;
  double max_logit = 0;
};

/// Random q, k and v, and what DirectAttention makes of them. `out` starts as NaN: every entry must be written.
template <class Scalar>
Attended<Scalar> attend(const AttentionSpec& spec, Index queries, Index keys, Random& random) {
  Attended<Scalar> a{random.matrix<Scalar>(queries, spec.heads * spec.head_dim),
                     random.matrix<Scalar>(keys, spec.kv_heads * spec.head_dim),
                     random.matrix<Scalar>(keys, spec.kv_heads * spec.value_dim),
                     Matrix<Scalar>::Constant(queries, spec.heads * spec.value_dim,
                                              std::numeric_limits<Scalar>::quiet_NaN()),
                     0};
  const AttentionWeights<Scalar> weights;
  DirectAttention<Scalar> direct;
  direct(AttentionInput<Scalar>{spec, 0, view(a.q), view(a.k), view(a.v), view(a.q), view(a.k), weights}, span(a.out));
  a.max_logit = direct.max_logit();
  return a;
}

template <class Scalar>
void expect_naive_attention(const AttentionSpec& spec, Index queries, Index keys, Random& random) {
  const Attended<Scalar> a = attend<Scalar>(spec, queries, keys, random);
  naive::Extent extent;
  const naive::Table truth = naive::attention(spec, naive::plain(a.q), naive::plain(a.k), naive::plain(a.v),
                                              naive::visible(spec.mask), &extent);
  const Real bound = bounds::attention_bound<Scalar>(keys, spec.head_dim, extent.logit);
  EXPECT_LE(bounds::max_row_error(a.out, truth, extent.value), bound);
  EXPECT_LE(std::abs(static_cast<Real>(a.max_logit) - extent.max_logit),
            std::max(bounds::sum_bound<Scalar>(spec.head_dim), bounds::eps<double>) * extent.logit);
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
        expect_naive_attention<float>(spec, queries, keys, random);
        expect_naive_attention<double>(spec, queries, keys, random);
        expect_naive_attention<long double>(spec, queries, keys, random);
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

TEST(DirectAttention, ManyKeysShortenTheBlocksOfQueries) {
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  Random random(seed());
  AttentionSpec spec;
  spec.value_dim = 2;
  // 2^20 scores at once: blocks of 26 queries, and of one.
  expect_naive_attention<double>(spec, 30, 40000, random);
  expect_naive_attention<double>(spec, 3, (Index{1} << 20) + 1, random);
}

TEST(DirectAttention, ACausalRowKeepsItsBitsWhateverComesLater) {
  Random random(seed());
  AttentionSpec spec;
  spec.head_dim = 3;
  spec.value_dim = 2;
  spec.mask.kind = MaskKind::causal;
  Attended<float> a = attend<float>(spec, 70, 70, random);
  for (const Index changed : {1, 40, 63, 64, 69}) {
    Matrix<float> k = a.k, v = a.v, out = Matrix<float>::Zero(70, 2);
    k.row(changed) *= -300;
    v.row(changed) *= -1e30F;
    const AttentionWeights<float> weights;
    DirectAttention<float> direct;
    direct(AttentionInput<float>{spec, 0, view(a.q), view(k), view(v), view(a.q), view(k), weights}, span(out));
    EXPECT_EQ(out.topRows(changed), a.out.topRows(changed)) << changed;
    EXPECT_NE(out.row(changed), a.out.row(changed)) << changed;
  }
}

TEST(DirectAttention, ACausalRowDoesNotSeeALaterInfinity) {
  // The mean is one over the visible keys alone: a later value may be anything, also in the same block of queries.
  Random random(seed());
  AttentionSpec spec;
  spec.mask.kind = MaskKind::causal;
  Matrix<double> q = random.matrix<double>(4, 1), v = random.matrix<double>(4, 1), out(4, 1);
  v(2, 0) = std::numeric_limits<double>::infinity();
  const AttentionWeights<double> weights;
  DirectAttention<double>()(AttentionInput<double>{spec, 0, view(q), view(q), view(v), view(q), view(q), weights},
                            span(out));
  EXPECT_TRUE(std::isfinite(out(0, 0)));
  EXPECT_TRUE(std::isfinite(out(1, 0)));
  EXPECT_FALSE(std::isfinite(out(2, 0)));
}

// --- rotary positions -------------------------------------------------------------------------------------------------

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

// --- the whole transformer --------------------------------------------------------------------------------------------

struct ModelCase {
  std::string name;
  ModelSpec spec;
  bool biases = false;
  bool input_mlp = false;
  /// Rows of the memory for N rows of x.
  Index (*memory)(Index) = nullptr;
};

// Two functions of a row and its position, each said once for the library and once for the triple loop.
const auto input_rule = [](Index first_row, auto& rows) {
  for (Index i = 0; i < rows.rows(); ++i) rows.row(i).array() += static_cast<float>((first_row + i) % 7) / 4;
};
void naive_input_rule(Index position, naive::Row& row) {
  for (Real& x : row) x += static_cast<Real>(position % 7) / 4;
}
const auto layer_rule = [](Index first_row, auto& rows) {
  for (Index i = 0; i < rows.rows(); ++i) {
    const auto first = rows(i, 0);
    for (Index c = 0; c + 1 < rows.cols(); ++c) rows(i, c) = std::max(rows(i, c), rows(i, c + 1)) / 2;
    rows(i, rows.cols() - 1) = first + static_cast<float>((first_row + i) % 5) / 8;
  }
};
void naive_layer_rule(Index position, naive::Row& row) {
  const Real first = row.front();
  for (std::size_t c = 0; c + 1 < row.size(); ++c) row[c] = std::max(row[c], row[c + 1]) / 2;
  row.back() = first + static_cast<Real>(position % 5) / 8;
}

ModelSpec spec_of(Index layers, Index width, Shape shape, MaskKind mask, NormKind norm, MlpKind mlp) {
  ModelSpec spec;
  spec.layers = layers;
  spec.width = width;
  spec.attention.heads = shape.heads;
  spec.attention.kv_heads = shape.kv_heads;
  spec.attention.head_dim = shape.head_dim;
  spec.attention.value_dim = shape.value_dim;
  spec.attention.score_scale = 1 / std::sqrt(static_cast<double>(shape.head_dim));
  spec.attention.mask.kind = mask;
  spec.norm = norm;
  spec.mlp = mlp;
  spec.hidden = mlp == MlpKind::none || mlp == MlpKind::custom ? 0 : width + 3;
  return spec;
}

std::vector<ModelCase> model_cases() {
  constexpr MaskKind full = MaskKind::full, causal = MaskKind::causal;
  const auto changed = [](ModelSpec spec, auto&& change) {
    change(spec);
    return spec;
  };
  const auto turning = [](RopePairing pairing) {
    return [pairing](ModelSpec& s) {
      s.attention.rope = RopeSpec{10000.0, pairing};
      s.final_norm = true;
    };
  };
  const auto replacing = [](ModelSpec& s) { s.residual = false; };
  const auto negative = [](ModelSpec& s) { s.attention.score_scale *= -1; };
  const auto unprojected = [](ModelSpec& s) { s.attention.output_projection = false; };
  return {
      {"Plain", spec_of(1, 4, {1, 1, 3, 2}, full, NormKind::none, MlpKind::none)},
      {"Llama", changed(spec_of(2, 8, {4, 2, 2, 2}, causal, NormKind::rms, MlpKind::swiglu),
                        turning(RopePairing::interleaved))},
      {"Halves", changed(spec_of(2, 8, {2, 1, 4, 3}, causal, NormKind::rms, MlpKind::swiglu),
                         turning(RopePairing::halves))},
      {"Gpt2", spec_of(2, 6, {2, 2, 3, 3}, causal, NormKind::layer, MlpKind::gelu_tanh), true},
      {"LayerNormGelu", changed(spec_of(2, 6, {3, 3, 1, 4}, full, NormKind::layer, MlpKind::gelu),
                                [](ModelSpec& s) { s.final_norm = true; })},
      {"GeluBiases", spec_of(1, 5, {2, 1, 8, 1}, full, NormKind::rms, MlpKind::gelu), true},
      {"ReluReplacing", changed(spec_of(2, 5, {2, 2, 2, 3}, causal, NormKind::none, MlpKind::relu), replacing), true},
      {"NormReplacing", changed(spec_of(2, 6, {2, 2, 2, 3}, full, NormKind::layer, MlpKind::none), replacing)},
      {"NegativeScale", changed(spec_of(1, 6, {3, 1, 2, 2}, causal, NormKind::rms, MlpKind::relu), negative)},
      {"NoProjection", changed(spec_of(2, 6, {3, 3, 4, 2}, causal, NormKind::rms, MlpKind::gelu), unprojected)},
      {"PaperFull", paper_layer(2, 6, 3, Mask{full}, MlpKind::relu, 4)},
      {"PaperCausal", paper_layer(3, 8, 2, Mask{causal}, MlpKind::custom, 0), false, true},
      {"CustomResidual", spec_of(2, 5, {2, 1, 3, 2}, full, NormKind::rms, MlpKind::custom), false, true},
      {"Memory", spec_of(2, 6, {4, 2, 3, 2}, full, NormKind::rms, MlpKind::swiglu), false, true,
       [](Index n) { return n + 5; }},
      {"MemoryOfOneRow", spec_of(1, 4, {1, 1, 2, 2}, full, NormKind::layer, MlpKind::none), false, false,
       [](Index) { return Index{1}; }},
      {"CausalMemory", spec_of(1, 4, {2, 2, 2, 3}, causal, NormKind::none, MlpKind::gelu), false, false,
       [](Index n) { return n; }},
      {"PaperMemory", paper_layer(2, 6, 2, Mask{full}, MlpKind::relu, 3), false, false,
       [](Index n) { return 2 * n; }},
  };
}

template <class Scalar>
void expect_naive_forward(const ModelCase& kind, Index tokens) {
  Model<Scalar> model = random_model<Scalar>(kind.spec, seed());
  Random random(seed() + 1);
  if (kind.input_mlp) model.input_mlp = RowFunction(input_rule);
  for (LayerWeights<Scalar>& layer : model.layers) {
    if (kind.spec.mlp == MlpKind::custom) layer.mlp.custom = RowFunction(layer_rule);
    if (!kind.biases) continue;
    layer.mlp.b_in = random.matrix<Scalar>(1, kind.spec.hidden);
    layer.mlp.b_out = random.matrix<Scalar>(1, kind.spec.width);
  }
  require_valid(model);
  naive::Model plain = naive::plain(model);
  if (kind.input_mlp) plain.input_mlp = naive_input_rule;
  if (kind.spec.mlp == MlpKind::custom)
    for (naive::Layer& layer : plain.layers) layer.mlp.custom = naive_layer_rule;

  const Matrix<Scalar> x = random.matrix<Scalar>(tokens, kind.spec.width);
  std::optional<Matrix<Scalar>> memory;
  if (kind.memory != nullptr) memory = random.matrix<Scalar>(kind.memory(tokens), kind.spec.width);
  DirectAttention<Scalar> direct;
  const Matrix<Scalar> rows = forward(model, x, direct, memory ? &*memory : nullptr);

  naive::Extent extent;
  const naive::Table plain_memory = memory ? naive::plain(*memory) : naive::Table{};
  const naive::Table truth =
      naive::transformer(plain, naive::plain(x), memory ? &plain_memory : nullptr, &extent);
  const Index keys = memory ? memory->rows() : tokens;
  EXPECT_LE(bounds::max_row_error(rows, truth, extent.value), bounds::model_bound<Scalar>(kind.spec, keys, extent));
}

class ForwardOf : public testing::TestWithParam<ModelCase> {};

TEST_P(ForwardOf, EqualsTheTripleLoop) {
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  // MLPs take 256 rows at a time: 300 makes a second block.
  for (const Index tokens : {1, 2, 3, 17, 65, 300}) {
    SCOPED_TRACE(testing::Message() << tokens << " tokens");
    expect_naive_forward<float>(GetParam(), tokens);
    expect_naive_forward<double>(GetParam(), tokens);
    expect_naive_forward<long double>(GetParam(), tokens);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, ForwardOf, testing::ValuesIn(model_cases()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
