#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <exception>
#include <functional>
#include <limits>
#include <string>
#include <twoheads/attention/direct.hpp>
#include <twoheads/attention/forward.hpp>
#include <twoheads/attention/language.hpp>
#include <twoheads/base/digest.hpp>
#include <twoheads/model/random.hpp>
#include <utility>
#include <vector>

#include "support/instances.hpp"
#include "support/message_of.hpp"
#include "support/seed.hpp"

namespace {

using namespace twoheads;

std::uint64_t seed() { return seed_or(222); }

/// Every array that a model can have, all of different shapes: width 6, hidden 5, q 4 x 2, k 2 x 2, v 2 x 3 columns.
ModelSpec rich_spec() {
  ModelSpec spec;
  spec.layers = 2;
  spec.width = 6;
  spec.attention.heads = 4;
  spec.attention.kv_heads = 2;
  spec.attention.head_dim = 2;
  spec.attention.value_dim = 3;
  spec.attention.mask.kind = MaskKind::causal;
  spec.norm = NormKind::layer;
  spec.mlp = MlpKind::swiglu;
  spec.hidden = 5;
  spec.final_norm = true;
  return spec;
}

Model<float> rich_model(std::uint64_t from = seed()) {
  Model<float> model = random_model<float>(rich_spec(), from);
  Random random(from + 1);
  for (LayerWeights<float>& layer : model.layers) {
    layer.mlp.b_in = random.matrix<float>(1, 5);
    layer.mlp.b_out = random.matrix<float>(1, 6);
  }
  return model;
}

/// An array of the second layer or of the final norm, by the name and the shape that messages give it.
struct Array {
  std::string name;
  std::string shape;
  std::function<void(Model<float>&, Index, Index)> resize;
  std::function<float&(Model<float>&, Index)> entry;
};

template <class Pick>
Array array(std::string name, std::string shape, Pick pick) {
  return {std::move(name), std::move(shape),
          [pick](Model<float>& m, Index rows, Index cols) { pick(m).setZero(rows, cols); },
          [pick](Model<float>& m, Index row) -> float& { return pick(m)(row, pick(m).cols() - 1); }};
}

std::vector<Array> arrays() {
  using M = Model<float>;
  return {
      array(
          "layer 1: attention norm gain", "1 x 6", [](M & m) -> auto& { return m.layers[1].attention_norm.gain; }),
      array(
          "layer 1: attention norm shift", "1 x 6", [](M & m) -> auto& { return m.layers[1].attention_norm.shift; }),
      array(
          "layer 1: wq", "6 x 8", [](M & m) -> auto& { return m.layers[1].attention.wq; }),
      array(
          "layer 1: wk", "6 x 4", [](M & m) -> auto& { return m.layers[1].attention.wk; }),
      array(
          "layer 1: wv", "6 x 6", [](M & m) -> auto& { return m.layers[1].attention.wv; }),
      array(
          "layer 1: wo", "12 x 6", [](M & m) -> auto& { return m.layers[1].attention.wo; }),
      array(
          "layer 1: MLP norm gain", "1 x 6", [](M & m) -> auto& { return m.layers[1].mlp_norm.gain; }),
      array(
          "layer 1: MLP norm shift", "1 x 6", [](M & m) -> auto& { return m.layers[1].mlp_norm.shift; }),
      array(
          "layer 1: MLP w_in", "6 x 5", [](M & m) -> auto& { return m.layers[1].mlp.w_in; }),
      array(
          "layer 1: MLP w_gate", "6 x 5", [](M & m) -> auto& { return m.layers[1].mlp.w_gate; }),
      array(
          "layer 1: MLP w_out", "5 x 6", [](M & m) -> auto& { return m.layers[1].mlp.w_out; }),
      array(
          "layer 1: MLP b_in", "1 x 5", [](M & m) -> auto& { return m.layers[1].mlp.b_in; }),
      array(
          "layer 1: MLP b_out", "1 x 6", [](M & m) -> auto& { return m.layers[1].mlp.b_out; }),
      array(
          "final norm gain", "1 x 6", [](M & m) -> auto& { return m.final_norm.gain; }),
      array(
          "final norm shift", "1 x 6", [](M & m) -> auto& { return m.final_norm.shift; }),
  };
}

TEST(RequireValid, NamesTheArrayOfAWrongShapeAndBothShapes) {
  EXPECT_NO_THROW(require_valid(rich_model()));
  for (const Array& array : arrays()) {
    const bool one_row = array.shape.starts_with("1 x");
    Model<float> model = rich_model();
    array.resize(model, one_row ? 1 : 7, 9);
    EXPECT_EQ(message_of<ShapeError>([&] { require_valid(model); }),
              array.name + " is " + (one_row ? "1" : "7") + " x 9, expected " + array.shape);
  }
}

TEST(RequireValid, NamesTheArrayAndTheRowOfANumberThatIsNotFinite) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const Array& array : arrays()) {
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), infinity, -infinity}) {
      const Index row = array.shape.starts_with("1 x") ? 0 : 4;
      Model<float> model = rich_model();
      array.entry(model, row) = bad;
      EXPECT_EQ(message_of<InputError>([&] { require_valid(model); }),
                array.name + ", row " + std::to_string(row) + ": a weight is NaN or infinite");
      array.entry(model, row) = std::numeric_limits<float>::max();
      EXPECT_NO_THROW(require_valid(model)) << array.name;
    }
  }
}

TEST(RequireValid, CountsTheLayersAndAsksForTheCustomMlp) {
  Model<float> model = rich_model();
  model.layers.pop_back();
  EXPECT_EQ(message_of<SpecError>([&] { require_valid(model); }), "the model has weights for 1 layers, expected 2");
  model = random_model<float>(paper_layer(2, 6, 2, Mask{}, MlpKind::custom, 0), seed());
  EXPECT_EQ(message_of<SpecError>([&] { require_valid(model); }), "layer 0: MLP is custom, but no row function is set");
}

TEST(ModelSpec, NamesTheFirstFieldThatDoesNotFit) {
  const auto message = [](auto&& change) {
    ModelSpec spec = rich_spec();
    spec.require_valid();
    change(spec);
    return message_of<SpecError>([&] { spec.require_valid(); });
  };
  using S = ModelSpec;
  EXPECT_EQ(message([](S& s) { s.layers = 0; }), "layers is 0, expected 1 or more");
  EXPECT_EQ(message([](S& s) { s.width = -1; }), "width is -1, expected 1 or more");
  EXPECT_EQ(message([](S& s) { s.attention.heads = 0; }), "heads is 0, expected 1 or more");
  EXPECT_EQ(message([](S& s) { s.attention.kv_heads = 0; }), "kv_heads is 0, expected 1 or more");
  EXPECT_EQ(message([](S& s) { s.attention.head_dim = 0; }), "head_dim is 0, expected 1 or more");
  EXPECT_EQ(message([](S& s) { s.attention.value_dim = 0; }), "value_dim is 0, expected 1 or more");
  EXPECT_EQ(message([](S& s) { s.hidden = 0; }), "hidden is 0, expected 1 or more");
  EXPECT_EQ(message([](S& s) { s.attention.kv_heads = 3; }), "heads is 4, expected a multiple of kv_heads 3");
  EXPECT_EQ(message([](S& s) { s.attention.kv_heads = 8; }), "heads is 4, expected a multiple of kv_heads 8");
  EXPECT_EQ(message([](S& s) { s.attention.score_scale = 0; }),
            "score_scale is 0, expected a finite number other than 0");
  EXPECT_EQ(message([](S& s) { s.attention.score_scale = std::numeric_limits<double>::infinity(); }),
            "score_scale is inf, expected a finite number other than 0");
  EXPECT_EQ(message([](S& s) { s.attention.head_input = HeadInput::slice; }),
            "heads that see their own slice need heads (4) to divide the width (6) and kv_heads (2) equal to heads");
  EXPECT_EQ(message([](S& s) { s.attention.output_projection = false; }),
            "without an output projection heads * value_dim is 12, expected the width 6");
  EXPECT_EQ(message([](S& s) { s.attention.rope = RopeSpec{}, s.attention.head_dim = 3; }),
            "head_dim is 3, expected an even number for rotary positions, up to head_dim");
  EXPECT_EQ(message([](S& s) { s.attention.rope = RopeSpec{0.0, {}}; }), "rope theta is 0, expected > 0");
  EXPECT_EQ(message([](S& s) { s.norm_epsilon = -1; }), "norm_epsilon is -1, expected 0 or more");
  EXPECT_EQ(message([](S& s) { s.norm = NormKind::none; }), "final_norm is set, but norm is none");
  EXPECT_EQ(message([](S& s) { s.norm_epsilon = std::nan(""); }), "norm_epsilon is nan, expected 0 or more");
}

TEST(ModelSpec, APaperLayerNeedsHeadsThatDivideTheWidth) {
  EXPECT_EQ(message_of<SpecError>([] { static_cast<void>(paper_layer(1, 8, 3, Mask{}, MlpKind::none, 0)); }),
            "heads is 3, expected a divisor of the width 8");
  EXPECT_THROW(static_cast<void>(paper_layer(1, 8, 0, Mask{}, MlpKind::none, 0)), SpecError);
  const ModelSpec spec = paper_layer(2, 8, 4, Mask{MaskKind::causal}, MlpKind::relu, 3);
  EXPECT_EQ(spec.attention.head_dim, 2);
  EXPECT_EQ(spec.attention.value_dim, 2);
  EXPECT_EQ(spec.attention.score_scale, 1);
  EXPECT_EQ(spec.head_input_width(), 2);
  EXPECT_FALSE(spec.residual);
  EXPECT_FALSE(spec.attention.output_projection);
}

// --- forward, embed and logits ---------------------------------------------------------------------------------------

/// What forward() says before it comes to any attention.
std::string forward_message(const Model<float>& model, Index tokens, Index width, const Matrix<float>* memory) {
  const auto attend = [](const AttentionInput<float>&, MatrixSpan<float>) { ADD_FAILURE() << "attention was called"; };
  return message_of<Error>(
      [&] { static_cast<void>(forward(model, Matrix<float>(Matrix<float>::Zero(tokens, width)), attend, memory)); });
}

TEST(Forward, RefusesRowsThatDoNotFitTheModel) {
  const Model<float> causal = rich_model();
  EXPECT_EQ(forward_message(causal, 3, 5, nullptr), "the input is 3 x 5, expected 3 x 6");
  EXPECT_EQ(forward_message(causal, 0, 6, nullptr), "the number of tokens is 0, expected 1 or more");
  const Matrix<float> four = Matrix<float>::Zero(4, 6), none(0, 6), narrow = Matrix<float>::Zero(3, 5);
  EXPECT_EQ(forward_message(causal, 3, 6, &four),
            "a causal mask over 3 queries and 4 keys is undefined: expected as many keys as queries");
  EXPECT_EQ(forward_message(causal, 3, 6, &narrow), "the memory is 3 x 5, expected 3 x 6");
  Model<float> full = causal;
  full.spec.attention.mask.kind = MaskKind::full;
  EXPECT_EQ(forward_message(full, 3, 6, &none), "the number of keys is 0, expected 1 or more");
  full.spec.attention.rope = RopeSpec{};
  EXPECT_EQ(forward_message(full, 3, 6, &four),
            "rotary positions over a memory are undefined: expected a model without rope");
}

TEST(DirectAttention, RefusesRowsThatDoNotFitTheSpec) {
  const ModelSpec spec = rich_spec();
  const AttentionWeights<float> weights;
  const auto message = [&](Matrix<float> q, Matrix<float> k, Matrix<float> v, Index out_cols, Index kv_heads) {
    AttentionSpec attention = spec.attention;
    attention.kv_heads = kv_heads;
    Matrix<float> out(3, out_cols);
    return message_of<Error>([&] {
      DirectAttention<float> direct;
      direct(AttentionInput<float>{attention, 5, view(q), view(k), view(v), view(q), view(k), weights}, span(out));
    });
  };
  const auto of = [](Index rows, Index cols) { return Matrix<float>(Matrix<float>::Ones(rows, cols)); };
  EXPECT_EQ(message(of(3, 7), of(3, 4), of(3, 6), 12, 2), "layer 5: q is 3 x 7, expected 3 x 8");
  EXPECT_EQ(message(of(3, 8), of(3, 8), of(3, 6), 12, 2), "layer 5: k is 3 x 8, expected 3 x 4");
  EXPECT_EQ(message(of(3, 8), of(3, 4), of(2, 6), 12, 2), "layer 5: v is 2 x 6, expected 3 x 6");
  EXPECT_EQ(message(of(3, 8), of(3, 4), of(3, 6), 11, 2), "layer 5: the output is 3 x 11, expected 3 x 12");
  EXPECT_EQ(message(of(3, 8), of(4, 4), of(4, 6), 12, 2),
            "a causal mask over 3 queries and 4 keys is undefined: expected as many keys as queries");
  EXPECT_EQ(message(of(3, 8), of(3, 4), of(3, 6), 12, 3),
            "attention of 4 heads of 2 and 3 over 3 key/value heads: expected 1 or more of each, kv_heads dividing "
            "heads");
}

TEST(View, RefusesColumnsThatAreNotNeighbours) {
  Matrix<float> values = Matrix<float>::Ones(4, 6);
  using Strides = Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>;
  Eigen::Map<Matrix<float>, Eigen::Unaligned, Strides> every_second(values.data(), 4, 3, Strides(6, 2));
  const std::string expected = "neighbouring columns lie 2 numbers apart, expected 1: copy the block first";
  EXPECT_EQ(message_of<ShapeError>([&] { static_cast<void>(view(every_second)); }), expected);
  EXPECT_EQ(message_of<ShapeError>([&] { static_cast<void>(span(every_second)); }), expected);
}

LanguageModel<float> language_model() {
  Random random(seed());
  return {rich_model(), random.matrix<float>(5, 6), {}};
}

TEST(Embed, TakesRowsOfTheTableAndRefusesIdsBeyondIt) {
  const LanguageModel<float> model = language_model();
  const Matrix<float> rows = embed(model, std::vector<int>{4, 0, 4});
  ASSERT_EQ(rows.rows(), 3);
  EXPECT_EQ(rows.row(0), model.embedding.row(4));
  EXPECT_EQ(rows.row(1), model.embedding.row(0));
  EXPECT_EQ(rows.row(2), model.embedding.row(4));
  EXPECT_EQ(embed(model, std::vector<int>{}).rows(), 0);
  EXPECT_EQ(message_of<SpecError>([&] {
              static_cast<void>(embed(model, std::vector<int>{1, 2, 5}));
            }),
            "token 2 has the id 5, expected 0 to 4");
  EXPECT_EQ(message_of<SpecError>([&] { static_cast<void>(embed(model, std::vector<std::int64_t>{-1})); }),
            "token 0 has the id -1, expected 0 to 4");
}

TEST(Logits, AreScalarProductsWithTheOutputRowsOrTheTiedEmbedding) {
  LanguageModel<float> model = language_model();
  const Matrix<float> rows = Matrix<float>::Identity(2, 6);
  EXPECT_EQ(logits(model, view(rows)), Matrix<float>(model.embedding.leftCols(2).transpose()));
  model.output = -2 * model.embedding;
  EXPECT_EQ(logits(model, view(rows)), Matrix<float>(model.output.leftCols(2).transpose()));
}

// --- cast_model, digest, random_model --------------------------------------------------------------------------------

TEST(Digest, IsFnv1aOverTheBytes) {
  Matrix<float> one(1, 1), two(1, 2);
  one << 1.0F;
  two << 1.0F, -2.0F;
  EXPECT_EQ(digest(Matrix<float>(0, 0)), "cbf29ce484222325");
  EXPECT_EQ(digest(one), "4b72477f9c5c2f98");
  EXPECT_EQ(digest(two), "0979e9ee2da22858");
  EXPECT_EQ(digest(Matrix<double>(one.cast<double>())), "aab1693229ba1db8");
}

TEST(Digest, EqualBitsHaveEqualDigestsAndOtherBitsOthers) {
  Random random(seed());
  const Matrix<float> values = random.matrix<float>(4, 5);
  EXPECT_EQ(digest(Matrix<float>(values)), digest(values));
  for (Index i = 0; i < values.size(); ++i) {
    Matrix<float> other = values;
    other.data()[i] = std::nextafter(other.data()[i], 9.0F);
    EXPECT_NE(digest(other), digest(values)) << i;
  }
  Matrix<float> zero = Matrix<float>::Zero(2, 2), negative = zero;
  negative(1, 1) = -0.0F;
  EXPECT_EQ(zero, negative);
  EXPECT_NE(digest(zero), digest(negative));
}

template <class Scalar>
std::vector<std::pair<std::string, Matrix<Scalar>>> list(const Model<Scalar>& model) {
  std::vector<std::pair<std::string, Matrix<Scalar>>> all;
  detail::for_each_array(model, [&](const std::string& name, const auto& values) { all.emplace_back(name, values); });
  return all;
}

template <class Scalar>
void expect_same(const Model<Scalar>& found, const Model<Scalar>& expected) {
  const auto a = list(found), b = list(expected);
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(a[i].first, b[i].first);
    ASSERT_EQ(a[i].second.rows(), b[i].second.rows()) << a[i].first;
    ASSERT_EQ(a[i].second.cols(), b[i].second.cols()) << a[i].first;
    for (Index j = 0; j < a[i].second.size(); ++j)
      ASSERT_EQ(a[i].second.data()[j], b[i].second.data()[j]) << a[i].first << ", entry " << j;
  }
}

TEST(RandomModel, SameSeedSameBitsOtherSeedOtherBits) {
  expect_same(random_model<float>(rich_spec(), 5), random_model<float>(rich_spec(), 5));
  const auto five = list(random_model<float>(rich_spec(), 5)), six = list(random_model<float>(rich_spec(), 6));
  for (std::size_t i = 0; i < five.size(); ++i) {
    if (five[i].second.size() == 0) continue;  // no biases
    EXPECT_NE(digest(five[i].second), digest(six[i].second)) << five[i].first;
  }
}

TEST(RandomModel, SeedFiveGivesTheseBits) {
  const Model<float> model = random_model<float>(rich_spec(), 5);
  EXPECT_EQ(digest(model.layers[0].attention.wq), "3f59188d0fa0a63d");
  EXPECT_EQ(digest(model.layers[1].mlp.w_out), "4e0ddef81f9cd386");
}

TEST(RandomModel, FloatWeightsAreTheRoundedDoubleWeights) {
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  ModelSpec spec = rich_spec();
  spec.width = 60;
  expect_same(random_model<float>(spec, seed()), cast_model<float>(random_model<double>(spec, seed())));
}

TEST(CastModel, KeepsSpecFunctionsAndEveryArray) {
  Model<float> model = rich_model();
  model.input_mlp = RowFunction([](Index, auto& rows) { rows *= 2; });
  model.layers[1].mlp.custom = RowFunction([](Index, auto& rows) { rows *= 3; });
  const Model<double> wide = cast_model<double>(model);
  expect_same(cast_model<float>(wide), model);
  if (HasFatalFailure()) return;
  const auto narrow_arrays = list(model);
  const auto wide_arrays = list(wide);
  for (std::size_t i = 0; i < wide_arrays.size(); ++i)
    EXPECT_EQ(wide_arrays[i].second, narrow_arrays[i].second.cast<double>()) << wide_arrays[i].first;
  EXPECT_EQ(wide.spec.hidden, 5);
  EXPECT_EQ(wide.spec.attention.mask, model.spec.attention.mask);
  Matrix<double> row = Matrix<double>::Ones(1, 2);
  wide.input_mlp(0, span(row));
  wide.layers[1].mlp.custom(0, span(row));
  EXPECT_EQ(row(0, 1), 6);
  EXPECT_FALSE(static_cast<bool>(wide.layers[0].mlp.custom));
}

TEST(CastModel, RoundsEachWeightOnce) {
  Model<double> model = random_model<double>(rich_spec(), seed());
  model.layers[0].attention.wq(0, 0) = 1 + 0x1p-24 + 0x1p-50;  // just above the middle of two floats
  EXPECT_EQ(cast_model<float>(model).layers[0].attention.wq(0, 0), 1 + 0x1p-23F);
  const LanguageModel<double> words{model, Matrix<double>::Constant(3, 6, 0.1), Matrix<double>::Constant(3, 6, 0.3)};
  const LanguageModel<float> cast = cast_model<float>(words);
  EXPECT_EQ(cast.embedding, Matrix<float>::Constant(3, 6, 0.1F));
  EXPECT_EQ(cast.output, Matrix<float>::Constant(3, 6, 0.3F));
}

// Last, since forward() without this check may end the program.
TEST(ForwardOfABrokenModel, IsRefused) {
  for (const Array& array : arrays()) {
    Model<float> model = rich_model();
    array.resize(model, array.shape.starts_with("1 x") ? 1 : 7, 9);
    EXPECT_EQ(forward_message(model, 3, 6, nullptr), message_of<ShapeError>([&] { require_valid(model); }));
  }
  Model<float> model = rich_model();
  model.layers.pop_back();
  EXPECT_EQ(forward_message(model, 3, 6, nullptr), "the model has weights for 1 layers, expected 2");
}

}  // namespace
