#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <twoheads/train/adamw.hpp>
#include <twoheads/train/example.hpp>
#include <twoheads/train/held_out.hpp>
#include <twoheads/train/schedule.hpp>
#include <twoheads/train/trainable_direct.hpp>
#include <twoheads/train/trainer.hpp>
#include <twoheads/train/untrained.hpp>
#include <vector>

#include "support/contains.hpp"
#include "support/executor.hpp"
#include "support/instances.hpp"
#include "support/message_of.hpp"
#include "support/seed.hpp"
#include "support/small_training.hpp"

namespace {

using namespace twoheads;
using namespace small_training;

// --- schedule --------------------------------------------------------------------------------------------------------

TEST(Schedule, RisesInALineAndFallsAlongHalfACosine) {
  const Schedule schedule{1.0, 0.1, 4, 24};
  for (Index step = 0; step < 4; ++step)
    EXPECT_DOUBLE_EQ(schedule.rate(step), 0.25 * static_cast<double>(step + 1)) << step;
  EXPECT_DOUBLE_EQ(schedule.rate(4), 1.0) << "the largest rate begins the cosine";
  EXPECT_DOUBLE_EQ(schedule.rate(14), 0.55) << "half-way, the mean of both ends";
  EXPECT_NEAR(schedule.rate(9), 0.1 + 0.45 * (1 + std::sqrt(0.5)), 1e-15);
  EXPECT_DOUBLE_EQ(schedule.rate(24), 0.1);
  EXPECT_DOUBLE_EQ(schedule.rate(1000), 0.1);
  EXPECT_DOUBLE_EQ((Schedule{1.0, 0.1, 0, 24}.rate(0)), 1.0) << "no warm-up";
  EXPECT_DOUBLE_EQ((Schedule{1.0, 0.0, 30, 24}.rate(24)), 25.0 / 30) << "a run that ends before its warm-up";
}

TEST(Schedule, NamesTheFieldThatIsWrong) {
  const auto fault = [](const Schedule& schedule) { return message_of<SpecError>([&] { schedule.require_valid(); }); };
  EXPECT_TRUE(contains(fault({0.0, 0.0, 0, 1}), "the learning rate is 0"));
  EXPECT_TRUE(contains(fault({1.0, 2.0, 0, 1}), "the last learning rate is 2"));
  EXPECT_TRUE(contains(fault({1.0, 0.0, -1, 1}), "warm-up has -1"));
  EXPECT_TRUE(contains(fault({1.0, 0.0, 0, 0}), "a run of 0 steps"));
}

// --- AdamW -----------------------------------------------------------------------------------------------------------

/// Two arrays, of which the first decays.
template <class Scalar>
struct TwoArrays {
  std::vector<Scalar> matrix = std::vector<Scalar>(37);
  std::vector<Scalar> gain = std::vector<Scalar>(5);
  std::string name = "wq";

  [[nodiscard]] std::vector<Parameter<Scalar>> list() {
    return {{name, matrix.data(), 37, true}, {"gain", gain.data(), 5, false}};
  }
  template <class Draw>
  void fill(const Draw& draw) {
    for (Scalar& value : matrix) value = static_cast<Scalar>(draw());
    for (Scalar& value : gain) value = static_cast<Scalar>(draw());
  }
};

template <class Scalar>
void expect_adamw_as_the_paper_says(double tolerance) {
  const AdamWOptions options{0.9, 0.95, 1e-8, 0.1, true};
  Random random(seed_or(3));
  TwoArrays<Scalar> weights;
  weights.fill([&] { return random.normal(); });
  AdamW<Scalar> adamw(42, options);
  struct Naive {
    long double p = 0, m = 0, v = 0;
  };
  std::vector<Naive> naive(42);
  const auto at = [](TwoArrays<Scalar>& arrays, std::size_t i) -> Scalar& {
    return i < 37 ? arrays.matrix[i] : arrays.gain[i - 37];
  };
  for (std::size_t i = 0; i < 42; ++i) naive[i].p = at(weights, i);
  for (int step = 1; step <= 12; ++step) {
    TwoArrays<Scalar> gradient;
    gradient.fill([&] { return random.normal(); });
    const double rate = 0.01 * step;
    const double factor = step == 4 ? 0.25 : 1.0;
    adamw.update(weights.list(), gradient.list(), rate, factor);
    for (std::size_t i = 0; i < 42; ++i) {
      const long double g = static_cast<long double>(at(gradient, i)) * factor;
      Naive& n = naive[i];
      n.m = 0.9L * n.m + 0.1L * g;
      n.v = 0.95L * n.v + 0.05L * g * g;
      const long double m = n.m / (1 - std::pow(0.9L, step));
      const long double v = n.v / (1 - std::pow(0.95L, step));
      n.p -= rate * (m / (std::sqrt(v) + 1e-8L) + (i < 37 ? 0.1L * n.p : 0.0L));
      ASSERT_NEAR(static_cast<double>(at(weights, i)), static_cast<double>(n.p), tolerance)
          << "step " << step << ", number " << i;
    }
  }
  EXPECT_EQ(adamw.steps(), 12);
}

// Each step adds a few roundings of numbers up to 4 in size; their moments' are of numbers up to 10.
TEST(AdamW, IsThePapersInFloat64) { expect_adamw_as_the_paper_says<double>(12 * 20 * 4 * 1.2e-16); }
TEST(AdamW, IsThePapersInFloat32) { expect_adamw_as_the_paper_says<float>(12 * 20 * 4 * 6e-8); }

TEST(AdamW, LeavesTheEmbeddingUndecayedIfAsked) {
  for (const bool decays : {true, false}) {
    TwoArrays<double> weights;
    weights.name = "embedding";
    weights.fill([] { return 1.0; });
    TwoArrays<double> gradient;
    gradient.name = "embedding";
    AdamW<double> adamw(42, {0.9, 0.95, 1e-8, 0.5, decays});
    adamw.update(weights.list(), gradient.list(), 0.1);
    EXPECT_DOUBLE_EQ(weights.matrix[0], decays ? 0.95 : 1.0);
    EXPECT_DOUBLE_EQ(weights.gain[0], 1.0);
  }
}

TEST(AdamW, RefusesOtherArrays) {
  TwoArrays<double> weights;
  AdamW<double> adamw(41, {});
  EXPECT_TRUE(contains(message_of<ShapeError>([&] { adamw.update(weights.list(), weights.list(), 0.1); }),
                       "a model of 42 numbers, the moments are of 41"));
}

TEST(Clipping, ShortensLongGradientsAlone) {
  std::vector<double> three{3.0};
  std::vector<double> fours{0.0, 4.0};
  const std::vector<Parameter<double>> gradient{{"a", three.data(), 1, true}, {"b", fours.data(), 2, false}};
  EXPECT_DOUBLE_EQ(global_norm(gradient), 5.0);
  EXPECT_DOUBLE_EQ(clip_factor(5.0, 1.0), 0.2);
  EXPECT_DOUBLE_EQ(clip_factor(5.0, 5.0), 1.0);
  EXPECT_DOUBLE_EQ(clip_factor(5.0, 0.0), 1.0) << "0: gradients stay";
}

// --- texts -----------------------------------------------------------------------------------------------------------

TEST(WindowsOfAText, DependOnSeedStepAndItemAlone) {
  const TextWindows windows("\xFF" + some_text(300), 16, 7);
  const TextWindows same("\xFF" + some_text(300), 16, 7);
  std::map<std::vector<int>, int> seen;
  for (Index step = 0; step < 10; ++step)
    for (Index item = 0; item < 10; ++item) {
      const Example example = windows(step, item);
      ++seen[example.ids];
      ASSERT_EQ(example.ids, same(step, item).ids);
      ASSERT_EQ(example.ids.size(), 16u);
      for (std::size_t i = 0; i + 1 < 16; ++i) ASSERT_EQ(example.targets[i], example.ids[i + 1]);
      ASSERT_EQ(example.counted(), 16);
    }
  EXPECT_GT(seen.size(), 40u) << "places differ from step to step and item to item";
  EXPECT_EQ(windows.window(0).ids[0], 255) << "a byte is its id";
  EXPECT_NE(TextWindows("\xFF" + some_text(300), 16, 8)(0, 0).ids, windows(0, 0).ids) << "another seed";
  EXPECT_TRUE(
      contains(message_of<SpecError>([] { TextWindows(std::string(16, ' '), 16, 0); }), "more than the context"));
  EXPECT_EQ(TextWindows(std::string(17, ' '), 16, 0)(0, 0).counted(), 16) << "a text of one window";
}

TEST(WindowsOfHeldOutText, PredictEachByteButTheFirstOnceAfterHalfAWindow) {
  for (const Index context : {1, 2, 7, 16})
    for (const Index bytes : {2, 3, 15, 16, 17, 18, 100}) {
      const std::string text = some_text(bytes);
      Index next = 1;
      for (const Example& window : judging_windows(text, context)) {
        ASSERT_LE(static_cast<Index>(window.ids.size()), context);
        for (std::size_t i = 0; i < window.ids.size(); ++i) {
          if (window.targets[i] < 0) continue;
          ASSERT_EQ(window.targets[i], static_cast<int>(text[static_cast<std::size_t>(next)]));
          ASSERT_EQ(window.ids[i], static_cast<int>(text[static_cast<std::size_t>(next - 1)]));
          // The bytes before the target that the window holds, itself not among them.
          ASSERT_GE(static_cast<Index>(i) + 1, std::min(next, (context + 1) / 2)) << "byte " << next;
          ++next;
        }
      }
      ASSERT_EQ(next, bytes) << "context " << context;
    }
  EXPECT_TRUE(judging_windows("a", 8).empty());
}

// --- training --------------------------------------------------------------------------------------------------------

TEST(AnUntrainedModel, HasUnitGainsAndTheDeviationsThatItsHeaderSays) {
  const LanguageModel<double> model = small_model<double>();
  require_shapes(model);
  const LayerWeights<double>& layer = model.body.layers[1];
  EXPECT_TRUE((layer.attention_norm.gain.array() == 1).all());
  EXPECT_TRUE((model.body.final_norm.gain.array() == 1).all());
  EXPECT_EQ(model.output.size(), 0) << "tied";
  const auto deviation = [](const Matrix<double>& values) {
    return std::sqrt(values.squaredNorm() / static_cast<double>(values.size()));
  };
  // The deviation of n numbers has one of 1 / sqrt(2 n) of itself: 5 of them.
  const auto expect = [&](const Matrix<double>& values, double expected) {
    EXPECT_NEAR(deviation(values) / expected, 1.0, 5 / std::sqrt(2.0 * static_cast<double>(values.size())));
  };
  expect(model.embedding, 0.125);
  expect(layer.attention.wq, 0.125);
  expect(layer.mlp.w_gate, 0.125);
  expect(layer.attention.wo, 0.0625);
  expect(layer.mlp.w_out, 0.0625);
  EXPECT_NE(small_model<double>().embedding(0, 0), untrained_model<double>(small_spec(), 256, 6).embedding(0, 0));
}

TEST(ATrainingStep, TakesTheGradientOfTheMeanOverAllTargets) {
  std::vector<Example> batch = batch_of(small_windows(), 0, 3);
  batch[1].targets.assign(12, -1);
  batch[2].targets[0] = -1;
  const LanguageModel<double> model = small_model<double>();
  LanguageModel<double> gradient = zero_like(model);
  TrainableDirect<double> attend;
  double sum = 0;
  for (const Example& example : batch) {
    const std::span<const int> ids(example.ids);
    sum += add_gradient(model, ids, std::span<const int>(example.targets), attend, gradient, 1.0 / 23);
  }
  TrainingOptions options = small_options();
  options.clip = 0.01;
  SmallTrainer<double> trainer = small_trainer<double>(1, options);
  const TrainingStep step = trainer.step(batch);
  EXPECT_EQ(step.step, 1);
  EXPECT_EQ(step.targets, 23);
  EXPECT_NEAR(step.loss, sum / 23, 1e-12);
  const double length = global_norm(parameters(gradient));
  EXPECT_NEAR(step.gradient_norm, length, 1e-12 * length);
  EXPECT_GT(length, 0.01);
  EXPECT_DOUBLE_EQ(step.rate, 0.01 / 3);
  // The first moments are a tenth of the clipped gradient.
  EXPECT_NEAR(trainer.state().first.norm(), 0.1 * 0.01, 1e-12);
}

template <class Scalar>
void expect_same_bits_on_any_threads() {
  SmallTrainer<Scalar> one = small_trainer<Scalar>();
  train(one, 6);
  for (const Index threads : {2, 3}) {
    SmallTrainer<Scalar> several = small_trainer<Scalar>(threads);
    train(several, 6);
    EXPECT_EQ(bits_of(several.state()), bits_of(one.state())) << threads << " threads";
  }
}

TEST(Training, HasTheSameBitsOnAnyNumberOfThreads) {
  expect_same_bits_on_any_threads<float>();
  expect_same_bits_on_any_threads<double>();
}

TEST(Training, HasTheSameBitsHoweverABatchIsCut) {
  SmallTrainer<float> whole = small_trainer<float>();
  SmallTrainer<float> cut = small_trainer<float>(2);
  for (Index step = 0; step < 4; ++step) {
    const std::vector<Example> batch = batch_of(small_windows(), step, 7);
    const TrainingStep done = whole.step(batch);
    const std::span<const Example> all(batch);
    const Index targets = 7 * 12;
    const auto first = static_cast<std::size_t>(step) + 1;
    cut.add(all.first(first), targets);
    cut.add(all.subspan(first, 1), targets);
    cut.add(all.subspan(first + 1), targets);
    const TrainingStep found = cut.finish();
    EXPECT_EQ(found.loss, done.loss);
    EXPECT_EQ(found.gradient_norm, done.gradient_norm);
  }
  EXPECT_EQ(bits_of(cut.state()), bits_of(whole.state()));
}

TEST(ATrainingStep, ThatFailsOrLacksAPartIsRefusedAndLeavesNothingBehind) {
  SmallTrainer<float> trainer = small_trainer<float>();
  SmallTrainer<float> untouched = small_trainer<float>();
  const std::vector<Example> batch = batch_of(small_windows(), 0, 4);
  const std::span<const Example> all(batch);
  EXPECT_THROW(trainer.finish(), SpecError) << "nothing was added";
  trainer.add(all.first(2), 4 * 12);
  EXPECT_THROW(trainer.finish(), SpecError) << "half of the batch is missing";
  trainer.add(all.first(2), 4 * 12);
  EXPECT_THROW(trainer.add(all.subspan(2), 2 * 12), SpecError) << "another number of targets";
  std::vector<Example> wrong = batch;
  wrong[3].ids[5] = 256;
  EXPECT_THROW(trainer.step(wrong), SpecError);
  EXPECT_EQ(trainer.steps(), 0);
  const TrainingStep found = trainer.step(batch);
  const TrainingStep expected = untouched.step(batch);
  EXPECT_EQ(found.loss, expected.loss);
  EXPECT_EQ(found.gradient_norm, expected.gradient_norm);
  EXPECT_EQ(bits_of(trainer.state()), bits_of(untouched.state()));
}

TEST(AGradient, OfAnotherModelIsRefused) {
  const LanguageModel<double> model = small_model<double>();
  const Example example = small_windows().window(0);
  TrainableDirect<double> attend;
  LanguageModel<double> fewer = zero_like(model);
  fewer.body.layers.pop_back();
  EXPECT_THROW(add_gradient<double>(model, example.ids, example.targets, attend, fewer), ShapeError);
  LanguageModel<double> none;
  EXPECT_THROW(add_gradient<double>(model, example.ids, example.targets, attend, none), ShapeError);
}

TEST(Training, LearnsATinyTextByHeart) {
  const TextWindows windows("In the beginning was the Word, and the Word was with God.", 24, 1);
  TrainingOptions options = small_options(120);
  options.schedule.peak = 0.02;
  SmallTrainer<float> trainer = small_trainer<float>(2, options);
  const double first = trainer.step(batch_of(windows, 0, 4)).loss;
  EXPECT_NEAR(first, std::log(256.0), 0.3) << "at first, all bytes are about as likely";
  double last = first;
  while (trainer.steps() < 120) last = trainer.step(batch_of(windows, trainer.steps(), 4)).loss;
  EXPECT_LT(last, 0.35);
}

TEST(Training, StopsAtALossThatIsNoNumberAndKeepsItsWeights) {
  LanguageModel<float> model = small_model<float>();
  model.body.final_norm.gain *= 1e38F;
  model.embedding *= 100;
  Trainer<float, MakeDirect<float>> trainer(model, small_options(), {});
  const std::uint64_t before = bits_of(trainer.state());
  const std::string message = message_of<InputError>([&] { trainer.step(batch_of(small_windows(), 0, 2)); });
  EXPECT_TRUE(contains(message, "step 1: the loss is ")) << message;
  EXPECT_EQ(bits_of(trainer.state()), before);
  Example empty = small_windows()(0, 0);
  empty.targets.assign(12, -1);
  EXPECT_TRUE(contains(message_of<SpecError>([&] { trainer.step(std::vector<Example>{empty}); }), "without targets"));
}

TEST(HeldOutText, HasTheMeanThatDirectEvaluationFinds) {
  const LanguageModel<double> model = small_model<double>();
  const std::vector<Example> windows = judging_windows(some_text(100), 16);
  TrainableDirect<double> attend;
  double sum = 0;
  for (const Example& window : windows)
    sum += loss(model, std::span<const int>(window.ids), std::span<const int>(window.targets), attend);
  const double found = mean_nats<double>(model, windows);
  EXPECT_NEAR(found, sum / 99, 1e-12);
  EXPECT_EQ((mean_nats<double>(model, windows, programs::Executor(3))), found);
  EXPECT_TRUE(contains(message_of<SpecError>([&] { static_cast<void>(mean_nats<double>(model, {})); }), "no targets"));
}

}  // namespace
