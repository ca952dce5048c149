#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <twoheads/model/random.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <twoheads/train/backward.hpp>
#include <twoheads/train/example.hpp>
#include <twoheads/train/parameters.hpp>
#include <twoheads/train/trainable_direct.hpp>
#include <twoheads/train/trainable_grid.hpp>
#include <twoheads/train/trainable_kernel.hpp>
#include <twoheads/train/trainer.hpp>
#include <twoheads/train/untrained.hpp>
#include <vector>

#include "support/instances.hpp"
#include "support/seed.hpp"

namespace {

using twoheads::Example;
using twoheads::Index;
using twoheads::LanguageModel;
using twoheads::Mask;
using twoheads::MaskKind;
using twoheads::OracleKind;
using twoheads::Parameter;
using twoheads::SmallTransformer;

constexpr Index vocabulary = 13;

/// A decoder with what decoders have: grouped heads, rotary positions, gated MLP, biases, learned sinks.
LanguageModel<double> some_model(const Mask& mask) {
  twoheads::ModelSpec spec;
  spec.layers = 2;
  spec.width = 16;
  spec.attention.heads = 4;
  spec.attention.kv_heads = 2;
  spec.attention.head_dim = spec.attention.value_dim = 4;
  spec.attention.score_scale = 0.5;
  spec.attention.mask = mask;
  spec.attention.rope = twoheads::RopeSpec{.theta = 100.0};
  spec.norm = twoheads::NormKind::rms;
  spec.mlp = twoheads::MlpKind::swiglu;
  spec.hidden = 24;
  spec.final_norm = true;
  LanguageModel<double> model;
  model.body = twoheads::random_model<double>(spec, seed_or(4));
  twoheads::Random random(seed_or(5));
  model.embedding = random.matrix<double>(vocabulary, spec.width);
  for (auto& layer : model.body.layers) {
    layer.attention.bq = random.matrix<double>(1, 16);
    layer.attention.sinks = random.matrix<double>(1, 4);
  }
  return model;
}

Example some_example(Index tokens, std::uint64_t seed) {
  twoheads::detail::Draws draws(seed);
  Example example;
  for (Index i = 0; i < tokens; ++i) {
    example.ids.push_back(static_cast<int>(draws.below(vocabulary)));
    example.targets.push_back(static_cast<int>(draws.below(vocabulary)));
  }
  return example;
}

/// The loss of an example, and its gradient by every array.
template <class A>
LanguageModel<double> gradient_of(const LanguageModel<double>& model, const Example& example, A&& attend) {
  LanguageModel<double> gradient = twoheads::zero_like(model);
  twoheads::add_gradient<double>(model, example.ids, example.targets, attend, gradient);
  return gradient;
}

/// Largest difference of an array's derivatives, over the largest of them; the worst array.
double largest_error(LanguageModel<double>& found, LanguageModel<double>& expected) {
  const std::vector<Parameter<double>> a = twoheads::parameters(found);
  const std::vector<Parameter<double>> b = twoheads::parameters(expected);
  double worst = 0;
  for (std::size_t at = 0; at < a.size(); ++at) {
    const Eigen::Map<const twoheads::Vector<double>> own(a[at].data, a[at].size);
    const Eigen::Map<const twoheads::Vector<double>> right(b[at].data, b[at].size);
    const double error = (own - right).cwiseAbs().maxCoeff() / right.cwiseAbs().maxCoeff();
    worst = std::isnan(error) ? error : std::max(worst, error);
    if (std::isnan(error)) break;
  }
  return worst;
}

TEST(TrainingThroughCalls, GradientsOfAModelAreThoseOfDirectEvaluationForEveryMask) {
  constexpr Index tokens = 61;
  const std::vector<Mask> masks{
      Mask::full(),
      Mask::causal(),
      Mask::sliding_window(9),
      Mask::window_and_sinks(7, 3),
      Mask::band(4, 6),
      Mask::documents({20, 41}, false),
      Mask::documents({33, 28}, true),
      Mask::pairs(tokens, tokens, [](Index i, Index j) { return i != 5 && (i + 2 * j) % 5 < 3; })};
  const Example example = some_example(tokens, seed_or(6));
  for (const Mask& mask : masks) {
    const LanguageModel<double> model = some_model(mask);
    LanguageModel<double> direct = gradient_of(model, example, twoheads::TrainableDirect<double>());
    LanguageModel<double> kernel = gradient_of(model, example, twoheads::TrainableKernel<double>());
    EXPECT_LE(largest_error(kernel, direct), 1e-11) << name(mask.kind) << ", kernel";
    for (const OracleKind kind : {OracleKind::plain, OracleKind::causal}) {
      SmallTransformer<double> oracle({.kind = kind, .rows = 17});
      LanguageModel<double> calls =
          gradient_of(model, example, twoheads::TrainableGrid<SmallTransformer<double>>(oracle));
      EXPECT_LE(largest_error(calls, direct), 1e-11) << name(mask.kind) << ", " << name(kind) << " oracle";
    }
  }
}

/// A stand-in for the wrong: a gradient that forgets what a query's own sum takes away.
struct Forgetful {
  twoheads::TrainableDirect<double> attend;
  void forward(const twoheads::AttentionInput<double>& input, twoheads::MatrixSpan<double> out,
               twoheads::Matrix<double>& log_weights) {
    attend.forward(input, out, log_weights);
  }
  [[nodiscard]] twoheads::AttentionGradient<double> backward(const twoheads::AttentionInput<double>& input,
                                                             const twoheads::MatrixView<double>& out,
                                                             const twoheads::Matrix<double>& log_weights,
                                                             const twoheads::MatrixView<double>& d_out) {
    const twoheads::Matrix<double> none = twoheads::Matrix<double>::Zero(out.rows(), out.cols());
    return attend.backward(input, twoheads::view(none), log_weights, d_out);
  }
};

TEST(TrainingThroughCalls, AWrongGradientIsSeen) {
  const LanguageModel<double> model = some_model(Mask::causal());
  const Example example = some_example(30, 1);
  LanguageModel<double> direct = gradient_of(model, example, twoheads::TrainableDirect<double>());
  LanguageModel<double> wrong = gradient_of(model, example, Forgetful());
  EXPECT_GT(largest_error(wrong, direct), 1e-3);
}

/// Weights and losses of 20 steps.
template <class MakeAttend>
std::pair<LanguageModel<double>, std::vector<double>> trained(const MakeAttend& make_attend) {
  twoheads::ModelSpec spec = some_model(Mask::causal()).body.spec;
  twoheads::TrainingOptions options;
  options.schedule = {.peak = 3e-3, .floor = 3e-4, .warm_up = 2, .steps = 20};
  twoheads::Trainer<double, MakeAttend> trainer(twoheads::untrained_model<double>(spec, vocabulary, seed_or(8)),
                                                options, make_attend);
  std::vector<double> losses;
  for (Index step = 0; step < 20; ++step) {
    const std::vector<Example> batch{some_example(128, static_cast<std::uint64_t>(2 * step)),
                                     some_example(128, static_cast<std::uint64_t>(2 * step + 1))};
    losses.push_back(trainer.step(batch).loss);
  }
  return {trainer.model(), losses};
}

TEST(TrainingThroughCalls, TwentyStepsEndAtTheWeightsOfDirectTraining) {
  auto [direct, direct_losses] = trained([] { return twoheads::TrainableDirect<double>(); });
  struct Calls {
    Calls() : oracle({.kind = OracleKind::causal, .rows = 33}), attend(oracle) {}
    void forward(const twoheads::AttentionInput<double>& input, twoheads::MatrixSpan<double> out,
                 twoheads::Matrix<double>& log_weights) {
      attend.forward(input, out, log_weights);
    }
    [[nodiscard]] twoheads::AttentionGradient<double> backward(const twoheads::AttentionInput<double>& input,
                                                               const twoheads::MatrixView<double>& out,
                                                               const twoheads::Matrix<double>& log_weights,
                                                               const twoheads::MatrixView<double>& d_out) {
      return attend.backward(input, out, log_weights, d_out);
    }
    SmallTransformer<double> oracle;
    twoheads::TrainableGrid<SmallTransformer<double>> attend;
  };
  auto [calls, losses] = trained([] { return Calls(); });
  const std::vector<Parameter<double>> a = twoheads::parameters(calls);
  const std::vector<Parameter<double>> b = twoheads::parameters(direct);
  double largest = 0;
  for (std::size_t at = 0; at < a.size(); ++at)
    for (Index i = 0; i < a[at].size; ++i) largest = std::max(largest, std::abs(a[at].data[i] - b[at].data[i]));
  EXPECT_LE(largest, 1e-10);
  for (std::size_t step = 0; step < losses.size(); ++step) EXPECT_NEAR(losses[step], direct_losses[step], 1e-11);
  RecordProperty("largest_difference", std::to_string(largest * 1e15) + "e-15");
}

}  // namespace
