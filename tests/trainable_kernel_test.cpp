// Gradients of attention by the tile kernel.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <twoheads/train/backward.hpp>
#include <twoheads/train/parameters.hpp>
#include <twoheads/train/trainable_direct.hpp>
#include <twoheads/train/trainable_kernel.hpp>
#include <twoheads/train/untrained.hpp>
#include <vector>

#include "support/attention_problem.hpp"
#include "support/instances.hpp"
#include "support/memory.hpp"
#include "support/sanitized.hpp"

namespace {

using namespace twoheads;
using namespace attention_problem;

/// Rows of any scalar, and what two evaluations make of them.
template <class Scalar>
struct Rows4 {
  Rows4(const AttentionSpec& s, Index tokens, Index keys, double size = 1) : spec(s) {
    Random random(seed_or(17));
    q = random.matrix<double>(tokens, s.heads * s.head_dim, size).cast<Scalar>();
    k = random.matrix<double>(keys, s.kv_heads * s.head_dim).cast<Scalar>();
    v = random.matrix<double>(keys, s.kv_heads * s.value_dim).cast<Scalar>();
    d_out = random.matrix<double>(tokens, s.heads * s.value_dim).cast<Scalar>();
  }
  template <class To>
  [[nodiscard]] Rows4<To> to() const {
    Rows4<To> wide(spec, 0, 0);
    wide.q = q.template cast<To>();
    wide.k = k.template cast<To>();
    wide.v = v.template cast<To>();
    wide.d_out = d_out.template cast<To>();
    wide.sinks = sinks.template cast<To>();
    wide.bias = bias.template cast<To>();
    return wide;
  }
  template <class Attend>
  [[nodiscard]] AttentionGradient<Scalar> gradient(Attend&& attend) const {
    static const AttentionWeights<Scalar> none;
    const ScoreBias<Scalar> added{view(bias), false, true};
    const AttentionInput<Scalar> input{spec, 0,  view(q), view(k),     view(v), no_rows<Scalar>(), no_rows<Scalar>(),
                                       none, {}, false,   view(sinks), added};
    Matrix<Scalar> out(q.rows(), d_out.cols());
    Matrix<double> log_weights;
    attend.forward(input, span(out), log_weights);
    return attend.backward(input, view(out), log_weights, view(d_out));
  }

  AttentionSpec spec;
  Matrix<Scalar> q, k, v, d_out, sinks, bias;
};

template <class Found, class Truth>
double error(const Found& found, const Truth& truth) {
  if (truth.size() == 0) return found.size() == 0 ? 0 : std::numeric_limits<double>::infinity();
  const auto difference = (found.template cast<long double>() - truth).cwiseAbs();
  if (difference.hasNaN()) return std::numeric_limits<double>::infinity();
  return static_cast<double>(difference.maxCoeff() / truth.cwiseAbs().maxCoeff());
}

template <class Scalar>
double largest_error(const AttentionGradient<Scalar>& found, const AttentionGradient<long double>& truth) {
  return std::max(
      {error(found.q, truth.q), error(found.k, truth.k), error(found.v, truth.v), error(found.sinks, truth.sinks)});
}

TEST(TrainableKernel, HasTheGradientOfDenseAttention) {
  std::vector<Case> cases;
  for (const Mask& mask : masks())
    for (const bool sinks : {false, true}) {
      Case c{name(mask.kind), mask};
      c.sinks = sinks;
      c.heads = 4;
      c.kv_heads = 2;
      cases.push_back(c);
    }
  Case alibi{"ALiBi", Mask::window_and_sinks(6, 2)};
  alibi.alibi = true;
  cases.push_back(alibi);
  cases.push_back({"cross-attention", Mask::full(), {}, 9, 31});
  for (const double logits : {1e3, 1e4}) {
    Case large{"large logits", Mask::causal()};
    large.logits = logits;
    cases.push_back(large);
  }
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    const Problem problem(c);
    const naive::AttentionBackward truth = problem.truth();
    for (const Index rows : {0, 5}) {
      TrainableKernel<double> attend({.rows = rows});
      expect_right(found_by(attend, problem), truth, 1e-11L + 16 * bounds::eps<double> * truth.largest_logit);
    }
  }
}

std::vector<Rows4<double>> long_problems() {
  AttentionSpec spec;
  spec.heads = 3;
  spec.kv_heads = 1;
  spec.head_dim = 20;
  spec.value_dim = 37;
  spec.score_scale = 0.2;
  spec.mask = Mask::causal();
  std::vector<Rows4<double>> all;
  // Several blocks of queries, many of keys, odd ends.
  all.emplace_back(spec, 541, 541);
  spec.score_scale = -0.3;
  spec.mask = Mask::window_and_sinks(200, 130);
  all.emplace_back(spec, 401, 401);
  spec.soft_cap = 1.5;
  spec.alibi = {0.5, 0.25, 0.0};
  all.emplace_back(spec, 211, 211);
  spec.alibi.clear();
  spec.mask = Mask::full();
  all.emplace_back(spec, 70, 301);
  all.back().bias = Random(3).matrix<double>(70, 301);
  for (Index i = 0; i < 70; ++i) all.back().bias(i, 2 * i) = -std::numeric_limits<double>::infinity();
  all.back().sinks = Random(4).matrix<double>(1, 3);
  return all;
}

TEST(TrainableKernel, LongInputsCapsAndBiasesHaveTheGradientOfDirectEvaluation) {
  for (const Rows4<double>& rows : long_problems()) {
    SCOPED_TRACE(name(rows.spec.mask.kind));
    const AttentionGradient<long double> truth = rows.to<long double>().gradient(TrainableDirect<long double>());
    for (const Index block : {0, 128})
      EXPECT_LE(largest_error(rows.gradient(TrainableKernel<double>({.rows = block})), truth), 1e-12);
    const Rows4<float> narrow = rows.to<float>();
    const AttentionGradient<long double> rounded = narrow.to<long double>().gradient(TrainableDirect<long double>());
    const double direct = largest_error(narrow.gradient(TrainableDirect<float>()), rounded);
    EXPECT_LE(largest_error(narrow.gradient(TrainableKernel<float>()), rounded), 4 * direct + 1e-6);
  }
}

/// Errors of q and k over the terms that make their entries: with all weight on one key they are differences near 0.
template <class Scalar>
double error_over_terms(const AttentionGradient<Scalar>& found, const naive::AttentionBackward& truth) {
  return static_cast<double>(
      std::max({bounds::max_row_error(found.q.template cast<double>().eval(), truth.q, truth.q_terms),
                bounds::max_row_error(found.k.template cast<double>().eval(), truth.k, truth.k_terms),
                bounds::max_row_error(found.v.template cast<double>().eval(), truth.v, naive::largest(truth.v))}));
}

TEST(TrainableKernel, FloatKeepsItsDigitsAtAnySizeOfLogits) {
  AttentionSpec spec;
  spec.heads = spec.kv_heads = 2;
  spec.head_dim = spec.value_dim = 16;
  spec.score_scale = 0.25;
  spec.mask = Mask::causal();
  for (const double size : {1.0, 30.0, 1e3, 3e4}) {
    const Rows4<float> rows(spec, 150, 150, size);
    const Rows4<double> wide = rows.to<double>();
    const naive::AttentionBackward truth =
        naive::attention_backward(spec, naive::plain(wide.q), naive::plain(wide.k), naive::plain(wide.v),
                                  naive::plain(wide.d_out), naive::hiding(naive::visible(spec.mask)));
    const double direct = error_over_terms(rows.gradient(TrainableDirect<float>()), truth);
    EXPECT_LE(error_over_terms(rows.gradient(TrainableKernel<float>()), truth), 4 * direct + 1e-6) << size;
  }
}

TEST(TrainableKernel, TakesScalesBelowTheNumbersOfTheScalar) {
  for (const double scale : {1e-30, 1e-38, 1e-42, 0.0}) {
    AttentionSpec spec;
    spec.head_dim = spec.value_dim = 4;
    if (scale > 0) spec.score_scale = scale;
    spec.mask = Mask::causal();
    const Rows4<float> rows(spec, 40, 40);
    const AttentionGradient<float> found = rows.gradient(TrainableKernel<float>());
    const AttentionGradient<long double> truth = rows.to<long double>().gradient(TrainableDirect<long double>());
    EXPECT_LE(error(found.v, truth.v), 1e-6) << scale;
    EXPECT_FALSE(found.q.hasNaN() || found.k.hasNaN()) << scale;
  }
}

TEST(TrainableKernel, HasTheGradientOfASampleThatIsHeldFixed) {
  AttentionSpec spec;
  spec.heads = 2;
  spec.head_dim = spec.value_dim = 8;
  spec.score_scale = 0.3;
  for (const bool causal : {false, true}) {
    spec.mask = causal ? Mask::causal() : Mask::full();
    KernelOptions options{.rows = 16};
    options.sampling = {.samples = 2, .near = causal ? 20 : 0, .seed = 3};
    Rows4<double> rows(spec, 150, 150);
    const AttentionGradient<double> found = rows.gradient(TrainableKernel<double>(options));
    // Along a random direction of all rows the loss changes as the gradient says.
    Random random(seed_or(31));
    const Matrix<double> by_q = random.matrix<double>(rows.q.rows(), rows.q.cols());
    const Matrix<double> by_k = random.matrix<double>(rows.k.rows(), rows.k.cols());
    const Matrix<double> by_v = random.matrix<double>(rows.v.rows(), rows.v.cols());
    const auto loss = [&](double step) {
      const Matrix<double> q = rows.q + step * by_q;
      const Matrix<double> k = rows.k + step * by_k;
      const Matrix<double> v = rows.v + step * by_v;
      Matrix<double> out(q.rows(), rows.d_out.cols());
      Matrix<double> log_weights;
      TrainableKernel<double> attend(options);
      attend.forward(projected_input<double>(spec, view(q), view(k), view(v)), span(out), log_weights);
      return out.cwiseProduct(rows.d_out).sum();
    };
    const double step = 1e-5;
    const double difference = (loss(step) - loss(-step)) / (2 * step);
    const double expected =
        found.q.cwiseProduct(by_q).sum() + found.k.cwiseProduct(by_k).sum() + found.v.cwiseProduct(by_v).sum();
    EXPECT_NEAR(difference, expected, 1e-6 * std::abs(expected) + 1e-7);
  }
}

TEST(TrainableKernel, AChunkAfterOtherTokensHasTheGradientOfItsRowsInTheWhole) {
  AttentionSpec spec;
  spec.heads = 2;
  spec.head_dim = spec.value_dim = 4;
  for (const Mask& mask : {Mask::causal(), Mask::window_and_sinks(9, 3)}) {
    spec.mask = mask;
    Rows4<double> whole(spec, 60, 60);
    constexpr Index past = 37;
    whole.d_out.topRows(past).setZero();
    const AttentionGradient<double> expected = whole.gradient(TrainableKernel<double>({.rows = 16}));
    static const AttentionWeights<double> none;
    const Matrix<double> q = whole.q.bottomRows(60 - past);
    const Matrix<double> d_out = whole.d_out.bottomRows(60 - past);
    const AttentionInput<double> input{spec,
                                       0,
                                       view(q),
                                       view(whole.k),
                                       view(whole.v),
                                       no_rows<double>(),
                                       no_rows<double>(),
                                       none,
                                       HeldRows{.first_query = past}};
    TrainableKernel<double> attend({.rows = 16});
    Matrix<double> out(q.rows(), d_out.cols());
    Matrix<double> log_weights;
    attend.forward(input, span(out), log_weights);
    const AttentionGradient<double> found = attend.backward(input, view(out), log_weights, view(d_out));
    EXPECT_LE((found.q - expected.q.bottomRows(60 - past)).cwiseAbs().maxCoeff(), 1e-13);
    EXPECT_LE((found.k - expected.k).cwiseAbs().maxCoeff(), 1e-13);
    EXPECT_LE((found.v - expected.v).cwiseAbs().maxCoeff(), 1e-13);
  }
}

TEST(TrainableKernel, TakesThePlanOfAnOracleAndRefusesRoundedKeysAndWrongShapes) {
  AttentionSpec spec;
  spec.head_dim = spec.value_dim = 4;
  spec.mask = Mask::causal();
  const Rows4<double> rows(spec, 50, 50);
  const AttentionGradient<double> own = rows.gradient(TrainableKernel<double>());
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal}) {
    KernelOptions options{.rows = 9};
    options.plan_for = kind;
    const AttentionGradient<double> found = rows.gradient(TrainableKernel<double>(options));
    EXPECT_LE((found.q - own.q).cwiseAbs().maxCoeff(), 1e-13);
    EXPECT_LE((found.k - own.k).cwiseAbs().maxCoeff(), 1e-13);
  }
  EXPECT_THROW(TrainableKernel<double>({.storage = KeyStorage::half}), SpecError);
  TrainableKernel<double> attend;
  const AttentionInput<double> input = projected_input<double>(spec, view(rows.q), view(rows.k), view(rows.v));
  const Matrix<double> out = Matrix<double>::Zero(50, 4);
  const Matrix<double> log_weights = Matrix<double>::Zero(50, 1);
  const Matrix<double> few = Matrix<double>::Zero(49, 4);
  EXPECT_THROW(static_cast<void>(attend.backward(input, view(few), log_weights, view(few))), ShapeError);
  EXPECT_THROW(static_cast<void>(attend.backward(input, view(out), log_weights, view(few))), ShapeError);
  EXPECT_THROW(static_cast<void>(attend.backward(input, view(out), few, view(out))), ShapeError);
}

TEST(TrainableKernel, RowsWithoutKeysHaveNoDerivativeAndNaNIsNotLost) {
  AttentionSpec spec;
  spec.head_dim = spec.value_dim = 4;
  spec.mask = Mask::pairs(40, 40, [](Index i, Index j) { return i >= 10 && j <= i; });
  Rows4<double> rows(spec, 40, 40);
  const AttentionGradient<double> found = rows.gradient(TrainableKernel<double>());
  EXPECT_TRUE((found.q.topRows(10).array() == 0).all());
  EXPECT_FALSE((found.q.row(10).array() == 0).all());
  rows.q(35, 0) = std::numeric_limits<double>::quiet_NaN();
  const AttentionGradient<double> with_nan = rows.gradient(TrainableKernel<double>());
  EXPECT_TRUE(with_nan.q.row(35).hasNaN());
  EXPECT_TRUE(with_nan.k.row(35).hasNaN());
}

TEST(TrainableKernel, AStepOverALongSequenceTakesMemoryForItsRows) {
  if (sanitized) GTEST_SKIP() << "memory is not measured under a sanitizer";
  constexpr Index tokens = 16384;
  ModelSpec spec;
  spec.width = 64;
  spec.attention.heads = spec.attention.kv_heads = 1;
  spec.attention.head_dim = spec.attention.value_dim = 64;
  spec.attention.score_scale = 0.125;
  // As many keys are held as under a causal mask, and the test takes no time.
  spec.attention.mask = Mask::window_and_sinks(512, 64);
  spec.attention.rope = RopeSpec{};
  spec.norm = NormKind::rms;
  spec.mlp = MlpKind::swiglu;
  spec.hidden = 176;
  spec.final_norm = true;
  const LanguageModel<float> model = untrained_model<float>(spec, 256, seed_or(2));
  LanguageModel<float> gradient = zero_like(model);
  std::vector<int> ids;
  for (Index i = 0; i < tokens; ++i) ids.push_back(static_cast<int>(i * 7 % 256));
  TrainableKernel<float> attend;
  const programs::PeakMemory peak;
  const double nats = add_gradient<float>(model, ids, ids, attend, gradient);
  EXPECT_LE(peak.bytes(), 24 * tokens * spec.width * 4 + (Index{32} << 20));
  EXPECT_TRUE(std::isfinite(nats));
}

}  // namespace
