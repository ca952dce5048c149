#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <twoheads/model/random.hpp>
#include <twoheads/train/backward.hpp>
#include <twoheads/train/parameters.hpp>
#include <twoheads/train/trainable_direct.hpp>
#include <vector>

#include "support/instances.hpp"
#include "support/seed.hpp"

namespace {

using twoheads::Index;
using twoheads::LanguageModel;
using twoheads::Mask;
using twoheads::Matrix;
using twoheads::MlpKind;
using twoheads::NormKind;
using twoheads::NormPlace;
using twoheads::Parameter;
using twoheads::Random;

/// A language model that a case may change in every way; biases and other rows that a spec allows are drawn.
struct Case {
  std::string name;
  std::function<void(LanguageModel<double>& model, Random& random)> change = {};
};

constexpr Index tokens = 11;
constexpr Index vocabulary = 7;

twoheads::ModelSpec plain_spec() {
  twoheads::ModelSpec spec;
  spec.layers = 2;
  spec.width = 12;
  spec.attention.heads = 4;
  spec.attention.kv_heads = 2;
  spec.attention.head_dim = 4;
  spec.attention.value_dim = 3;
  spec.attention.score_scale = 0.5;
  spec.attention.mask = Mask::causal();
  spec.norm = NormKind::rms;
  spec.mlp = MlpKind::swiglu;
  spec.hidden = 10;
  spec.final_norm = true;
  return spec;
}

/// Weights for the spec that the model has by now.
void draw(LanguageModel<double>& model, std::uint64_t seed) {
  model.body = twoheads::random_model<double>(model.body.spec, seed);
}

std::vector<Case> cases() {
  const auto with_spec = [](const std::function<void(twoheads::ModelSpec&)>& change) {
    return [change](LanguageModel<double>& model, Random&) {
      change(model.body.spec);
      draw(model, 5);
    };
  };
  const auto with_mask = [&](const Mask& mask) {
    return with_spec([mask](twoheads::ModelSpec& spec) { spec.attention.mask = mask; });
  };
  std::vector<Case> all{
      {"causal", with_mask(Mask::causal())},
      {"full", with_mask(Mask::full())},
      {"window", with_mask(Mask::sliding_window(4))},
      {"window and sinks", with_mask(Mask::window_and_sinks(3, 2))},
      {"band", with_mask(Mask::band(2, 3))},
      {"documents", with_mask(Mask::documents({4, 7}, true))},
      {"blocks", with_mask(Mask::pairs(tokens, tokens, [](Index i, Index j) { return i != 3 && (i * j) % 3 != 1; }))},
      {"masks of layers", with_spec([](twoheads::ModelSpec& spec) {
         spec.layer_masks = {Mask::sliding_window(3), Mask::full()};
       })},
      {"layer norm, GELU", with_spec([](twoheads::ModelSpec& spec) {
         spec.norm = NormKind::layer;
         spec.mlp = MlpKind::gelu;
       })},
      {"norms after, tanh GELU", with_spec([](twoheads::ModelSpec& spec) {
         spec.norm = NormKind::layer;
         spec.norm_place = NormPlace::after;
         spec.final_norm = false;
         spec.mlp = MlpKind::gelu_tanh;
       })},
      {"norms on both sides, GeGLU", with_spec([](twoheads::ModelSpec& spec) {
         spec.norm_place = NormPlace::both;
         spec.mlp = MlpKind::geglu;
       })},
      {"ReLU", with_spec([](twoheads::ModelSpec& spec) { spec.mlp = MlpKind::relu; })},
      {"no MLP, no norm, no residual sum", with_spec([](twoheads::ModelSpec& spec) {
         spec.mlp = MlpKind::none;
         spec.norm = NormKind::none;
         spec.final_norm = spec.residual = false;
       })},
      {"heads of slices, no output projection", with_spec([](twoheads::ModelSpec& spec) {
         spec.attention.kv_heads = 4;
         spec.attention.value_dim = 3;
         spec.attention.head_input = twoheads::HeadInput::slice;
         spec.attention.output_projection = false;
       })},
      {"rotary positions, norms of heads", with_spec([](twoheads::ModelSpec& spec) {
         spec.attention.rope = twoheads::RopeSpec{.theta = 100.0, .pairing = twoheads::RopePairing::halves};
         spec.attention.head_norm = true;
       })},
      {"rotary positions of neighbours", with_spec([](twoheads::ModelSpec& spec) {
         spec.attention.rope = twoheads::RopeSpec{.theta = 100.0, .rotated_dim = 2};
       })},
      {"soft cap, ALiBi", with_spec([](twoheads::ModelSpec& spec) {
         spec.attention.soft_cap = 1.5;
         spec.attention.alibi = twoheads::alibi_slopes(4);
       })},
  };
  all.push_back({"biases and learned sinks", [](LanguageModel<double>& model, Random& random) {
                   model.body.spec.mlp = MlpKind::geglu;
                   draw(model, 6);
                   const twoheads::ModelSpec& spec = model.body.spec;
                   const twoheads::AttentionSpec& a = spec.attention;
                   for (auto& layer : model.body.layers) {
                     layer.attention.bq = random.matrix<double>(1, a.heads * a.head_dim);
                     layer.attention.bk = random.matrix<double>(1, a.kv_heads * a.head_dim);
                     layer.attention.bv = random.matrix<double>(1, a.kv_heads * a.value_dim);
                     layer.attention.bo = random.matrix<double>(1, spec.width);
                     layer.attention.sinks = random.matrix<double>(1, a.heads);
                     layer.mlp.b_in = random.matrix<double>(1, spec.hidden);
                     layer.mlp.b_gate = random.matrix<double>(1, spec.hidden);
                     layer.mlp.b_out = random.matrix<double>(1, spec.width);
                   }
                 }});
  all.push_back({"an output of its own, capped", [](LanguageModel<double>& model, Random& random) {
                   draw(model, 7);
                   model.output = random.matrix<double>(vocabulary + 2, model.body.spec.width, 0.5);
                   model.output_bias = random.matrix<double>(1, vocabulary + 2);
                   model.logit_cap = 2.0;
                 }});
  all.push_back({"learned positions, types, a norm of the embedding", [](LanguageModel<double>& model, Random& random) {
                   model.body.spec.norm = NormKind::layer;
                   draw(model, 8);
                   const Index width = model.body.spec.width;
                   model.embedding_scale = 1.7;
                   model.positions = random.matrix<double>(tokens + 5, width);
                   model.first_position = 2;
                   model.token_types = random.matrix<double>(2, width);
                   model.embedding_norm.gain = random.matrix<double>(1, width);
                   model.embedding_norm.shift = random.matrix<double>(1, width);
                 }});
  return all;
}

LanguageModel<double> model_of(const Case& one) {
  Random random(seed_or(3));
  LanguageModel<double> model;
  model.body.spec = plain_spec();
  model.embedding = random.matrix<double>(vocabulary, model.body.spec.width);
  one.change(model, random);
  return model;
}

std::vector<int> some_ids() {
  std::vector<int> ids;
  for (Index i = 0; i < tokens; ++i) ids.push_back(static_cast<int>((i * i + 2) % vocabulary));
  return ids;
}
std::vector<int> some_targets() {
  std::vector<int> targets;
  for (Index i = 0; i < tokens; ++i) targets.push_back(i % 4 == 2 ? -1 : static_cast<int>((3 * i + 1) % vocabulary));
  return targets;
}

template <class Scalar>
LanguageModel<Scalar> gradient_of(const LanguageModel<Scalar>& model) {
  LanguageModel<Scalar> gradient = twoheads::zero_like(model);
  twoheads::TrainableDirect<Scalar> attend;
  twoheads::add_gradient<Scalar>(model, some_ids(), some_targets(), attend, gradient);
  return gradient;
}

TEST(TrainingPass, GradientsOfEveryArrayAreCentralDifferencesOfTheLoss) {
  using Wide = long double;
  for (const Case& one : cases()) {
    LanguageModel<Wide> model = twoheads::cast_model<Wide>(model_of(one));
    LanguageModel<Wide> gradient = gradient_of(model);
    const auto loss = [&] {
      twoheads::TrainableDirect<Wide> attend;
      return twoheads::loss<Wide>(model, some_ids(), some_targets(), attend);
    };
    const std::vector<Parameter<Wide>> arrays = twoheads::parameters(model);
    const std::vector<Parameter<Wide>> derivatives = twoheads::parameters(gradient);
    ASSERT_EQ(arrays.size(), derivatives.size());
    Random random(seed_or(11));
    for (std::size_t at = 0; at < arrays.size(); ++at) {
      const auto largest = static_cast<double>(
          Eigen::Map<twoheads::Vector<Wide>>(derivatives[at].data, derivatives[at].size).cwiseAbs().maxCoeff());
      // Along a random direction, which sees every entry, and along one entry.
      for (const bool single : {false, true}) {
        twoheads::Vector<Wide> direction = twoheads::Vector<Wide>::Zero(arrays[at].size);
        if (single)
          direction[arrays[at].size / 2] = 1;
        else
          for (Wide& number : direction) number = static_cast<Wide>(random.normal());
        twoheads::Vector<Wide> values = Eigen::Map<twoheads::Vector<Wide>>(arrays[at].data, arrays[at].size);
        const Wide expected = Eigen::Map<twoheads::Vector<Wide>>(derivatives[at].data, arrays[at].size).dot(direction);
        const Wide step = 2e-5L;
        const auto at_step = [&](Wide by) {
          Eigen::Map<twoheads::Vector<Wide>>(arrays[at].data, arrays[at].size) = values + by * direction;
          const double found = loss();
          Eigen::Map<twoheads::Vector<Wide>>(arrays[at].data, arrays[at].size) = values;
          return found;
        };
        // The loss is summed in float64: its last bits over the step are what differences are off by.
        const double found = (at_step(step) - at_step(-step)) / static_cast<double>(2 * step);
        EXPECT_NEAR(found, static_cast<double>(expected), 1e-6 * largest + 2e-9) << one.name << ", " << arrays[at].name;
      }
    }
  }
}

TEST(TrainingPass, DoubleEqualsLongDouble) {
  for (const Case& one : cases()) {
    const LanguageModel<double> model = model_of(one);
    LanguageModel<double> found = gradient_of(model);
    LanguageModel<long double> expected = gradient_of(twoheads::cast_model<long double>(model));
    const std::vector<Parameter<double>> a = twoheads::parameters(found);
    const std::vector<Parameter<long double>> b = twoheads::parameters(expected);
    for (std::size_t at = 0; at < a.size(); ++at) {
      const auto wide = Eigen::Map<twoheads::Vector<long double>>(b[at].data, b[at].size);
      const auto own = Eigen::Map<twoheads::Vector<double>>(a[at].data, a[at].size);
      const auto error = static_cast<double>((own.cast<long double>() - wide).cwiseAbs().maxCoeff());
      const auto largest = static_cast<double>(wide.cwiseAbs().maxCoeff());
      EXPECT_LE(error, 1e-11 * largest + 1e-14) << one.name << ", " << a[at].name;
    }
  }
}

/// A derivative by rows of input: of a weighted sum of the model's rows.
TEST(TrainingPass, GradientsByRowsAndMemoryAreCentralDifferences) {
  using Wide = long double;
  twoheads::ModelSpec spec = plain_spec();
  spec.attention.mask = Mask::full();
  const twoheads::Model<Wide> model = twoheads::random_model<Wide>(spec, 9);
  Random random(seed_or(21));
  const Matrix<Wide> x = random.matrix<Wide>(5, spec.width);
  const Matrix<Wide> memory = random.matrix<Wide>(9, spec.width);
  const Matrix<Wide> weights = random.matrix<Wide>(5, spec.width);
  for (const bool cross : {false, true}) {
    twoheads::TrainableDirect<Wide> attend;
    const auto value = [&](const Matrix<Wide>& rows, const Matrix<Wide>& sources) {
      twoheads::TrainingPass<Wide> pass(model);
      return pass.forward(rows, attend, cross ? &sources : nullptr).cwiseProduct(weights).sum();
    };
    twoheads::TrainingPass<Wide> pass(model);
    static_cast<void>(pass.forward(x, attend, cross ? &memory : nullptr));
    twoheads::Model<Wide> gradient = twoheads::zero_like(model);
    Matrix<Wide> d_memory = Matrix<Wide>::Zero(memory.rows(), memory.cols());
    const Matrix<Wide> d_x = pass.backward(weights, attend, gradient, cross ? &d_memory : nullptr);
    const Wide step = 1e-5L;
    const auto difference = [&](const Matrix<Wide>& by_x, const Matrix<Wide>& by_memory) {
      return (value(x + step * by_x, memory + step * by_memory) - value(x - step * by_x, memory - step * by_memory)) /
             (2 * step);
    };
    const Matrix<Wide> none = Matrix<Wide>::Zero(memory.rows(), memory.cols());
    const Matrix<Wide> along_x = random.matrix<Wide>(5, spec.width);
    const Matrix<Wide> along_memory = random.matrix<Wide>(9, spec.width);
    EXPECT_NEAR(static_cast<double>(difference(along_x, none)), static_cast<double>(d_x.cwiseProduct(along_x).sum()),
                1e-7);
    if (cross) {
      EXPECT_NEAR(static_cast<double>(difference(Matrix<Wide>::Zero(5, spec.width), along_memory)),
                  static_cast<double>(d_memory.cwiseProduct(along_memory).sum()), 1e-7);
    }
  }
}

TEST(TrainingPass, GradientsAddUpAndScale) {
  const LanguageModel<double> model = model_of(cases().front());
  LanguageModel<double> once = gradient_of(model);
  LanguageModel<double> sum = twoheads::zero_like(model);
  twoheads::TrainableDirect<double> attend;
  for (const double scale : {1.0, -0.5})
    twoheads::add_gradient<double>(model, some_ids(), some_targets(), attend, sum, scale);
  EXPECT_LE((sum.embedding - 0.5 * once.embedding).cwiseAbs().maxCoeff(), 1e-14);
  EXPECT_LE((sum.body.layers[1].mlp.w_gate - 0.5 * once.body.layers[1].mlp.w_gate).cwiseAbs().maxCoeff(), 1e-14);
}

TEST(TrainingPass, WhatHasNoDerivativeIsRefused) {
  LanguageModel<double> model = model_of(cases().front());
  model.body.input_mlp = twoheads::RowFunction([](Index, auto&) {});
  EXPECT_THROW(gradient_of(model), twoheads::SpecError);
  model = model_of(cases().front());
  twoheads::LanguageModel<double> gradient = twoheads::zero_like(model);
  twoheads::TrainableDirect<double> attend;
  std::vector<int> targets = some_targets();
  targets[2] = vocabulary;
  EXPECT_THROW(twoheads::add_gradient<double>(model, some_ids(), targets, attend, gradient), twoheads::SpecError);
  targets.pop_back();
  EXPECT_THROW(twoheads::add_gradient<double>(model, some_ids(), targets, attend, gradient), twoheads::ShapeError);
}

}  // namespace
