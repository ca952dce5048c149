// What today's models add to scores, and chunks of queries after a past: direct evaluation and the tile kernel against
// sums in long double that are written out pair by pair.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <twoheads/attention/direct.hpp>
#include <twoheads/exec/kernel_attention.hpp>
#include <twoheads/model/random.hpp>
#include <vector>

#include "support/contains.hpp"
#include "support/instances.hpp"
#include "support/message_of.hpp"
#include "support/naive.hpp"
#include "support/sanitized.hpp"
#include "support/seed.hpp"
#include "support/text_of_mask.hpp"

namespace {

using namespace twoheads;
using naive::Real;

constexpr double minus_infinity = -std::numeric_limits<double>::infinity();

/// One attention with all that may be added to its scores.
template <class S>
struct Case {
  AttentionSpec spec;
  Index past = 0;
  Matrix<S> q, k, v;
  Matrix<S> bias;
  bool by_head = false;
  bool by_query = true;
  Matrix<S> sinks;

  [[nodiscard]] AttentionInput<S> input() const {
    static const AttentionWeights<S> none;
    return {spec,         0,           view(q),
            view(k),      view(v),     no_rows<S>(),
            no_rows<S>(), none,        HeldRows{past, 0, 0},
            false,        view(sinks), {view(bias), by_head, by_query}};
  }

  template <class A>
  [[nodiscard]] Matrix<S> run(A&& attend) const {
    Matrix<S> out = Matrix<S>::Constant(q.rows(), spec.heads * spec.value_dim, S(7));
    attend(input(), span(out));
    return out;
  }

  /// Written out; `largest` becomes the largest |score| of a pair that is seen.
  [[nodiscard]] naive::Table truth(Real& largest) const {
    const naive::Visible sees = naive::visible(spec.mask);
    naive::Table out = naive::zeros(q.rows(), spec.heads * spec.value_dim);
    for (Index head = 0; head < spec.heads; ++head)
      for (Index i = 0; i < q.rows(); ++i) {
        const Index kv = head / (spec.heads / spec.kv_heads);
        std::vector<Real> scores;
        std::vector<Index> keys;
        for (Index j = 0; j < k.rows(); ++j) {
          if (!sees(past + i, j)) continue;
          Real s = 0;
          for (Index c = 0; c < spec.head_dim; ++c)
            s += static_cast<Real>(q(i, head * spec.head_dim + c)) * static_cast<Real>(k(j, kv * spec.head_dim + c));
          s *= static_cast<Real>(spec.score_scale);
          if (spec.soft_cap > 0) s = spec.soft_cap * std::tanh(s / static_cast<Real>(spec.soft_cap));
          if (!spec.alibi.empty())
            s += static_cast<Real>(spec.alibi[naive::at(head)]) * static_cast<Real>(j - past - i);
          if (bias.size() > 0) {
            const S b = bias((by_head ? head * (by_query ? q.rows() : 1) : 0) + (by_query ? i : 0), j);
            if (std::isinf(b)) continue;
            s += static_cast<Real>(b);
          }
          scores.push_back(s);
          keys.push_back(j);
          largest = std::max(largest, std::abs(s));
        }
        if (keys.empty()) continue;
        Real most = *std::max_element(scores.begin(), scores.end());
        if (sinks.size() > 0) most = std::max(most, static_cast<Real>(sinks(0, head)));
        Real sum = sinks.size() > 0 ? std::exp(static_cast<Real>(sinks(0, head)) - most) : 0;
        for (const Real s : scores) sum += std::exp(s - most);
        for (std::size_t n = 0; n < keys.size(); ++n)
          for (Index c = 0; c < spec.value_dim; ++c)
            out[naive::at(i)][naive::at(head * spec.value_dim + c)] +=
                std::exp(scores[n] - most) / sum * static_cast<Real>(v(keys[n], kv * spec.value_dim + c));
      }
    return out;
  }
};

/// Largest ||found - truth|| / ||truth|| over rows; of rows that are zero, whether they are.
template <class S>
double row_error(const Matrix<S>& found, const naive::Table& truth) {
  double most = 0;
  for (Index i = 0; i < found.rows(); ++i) {
    Real difference = 0, norm = 0;
    for (Index c = 0; c < found.cols(); ++c) {
      const Real t = truth[naive::at(i)][naive::at(c)];
      difference += (static_cast<Real>(found(i, c)) - t) * (static_cast<Real>(found(i, c)) - t);
      norm += t * t;
    }
    if (difference == 0) continue;
    const double error = static_cast<double>(std::sqrt(difference / norm));
    most = error <= most ? most : std::isfinite(error) ? error : std::numeric_limits<double>::infinity();
  }
  return most;
}

/// A random case: any mask, any terms, scores up to about `logits`.
template <class S>
Case<S> random_case(std::mt19937_64& bits, double logits) {
  const auto below = [&](Index n) { return static_cast<Index>(bits() % static_cast<std::uint64_t>(n)); };
  const auto chance = [&] { return below(2) == 0; };
  Case<S> c;
  c.spec.kv_heads = 1 + below(2);
  c.spec.heads = c.spec.kv_heads * (1 + below(3));
  c.spec.head_dim = 1 + below(9);
  c.spec.value_dim = 1 + below(9);
  c.spec.score_scale = 1.0 / std::sqrt(static_cast<double>(c.spec.head_dim));
  if (chance()) c.spec.soft_cap = 0.5 * logits;
  const Index queries = 1 + below(80);
  c.past = chance() ? below(90) : 0;
  const Index keys = c.past + queries;
  bool later = false;
  switch (below(6)) {
    case 0:
      c.spec.mask = Mask::causal();
      break;
    case 1:
      c.spec.mask = Mask::sliding_window(1 + below(keys + 3));
      break;
    case 2:
      c.spec.mask = Mask::window_and_sinks(1 + below(30), below(12));
      break;
    case 3:
      c.spec.mask = Mask::band(below(20), below(20));
      later = true;
      break;
    case 4:
      c.spec.mask = Mask::full();
      later = true;
      break;
    case 5: {
      c.past = 0;
      const auto density = 1 + below(4);
      c.spec.mask = Mask::pairs(queries, keys, [&](Index i, Index) { return i % 7 != 3 && below(density) == 0; });
      later = true;
      break;
    }
  }
  if (!later && chance()) c.spec.alibi = alibi_slopes(c.spec.heads);
  Random random(bits());
  c.q = random.matrix<S>(queries, c.spec.heads * c.spec.head_dim, logits / 3);
  c.k = random.matrix<S>(keys, c.spec.kv_heads * c.spec.head_dim, 1.0);
  c.v = random.matrix<S>(keys, c.spec.kv_heads * c.spec.value_dim, 1.0);
  if (chance()) {
    c.by_head = chance();
    c.by_query = chance();
    c.bias = random.matrix<S>((c.by_head ? c.spec.heads : 1) * (c.by_query ? queries : 1), keys, logits / 4);
    const auto hidden = below(3);
    for (Index i = 0; i < c.bias.rows(); ++i)
      for (Index j = 0; j < keys; ++j)
        if (hidden > 0 && (below(4) < hidden || (c.by_query && i % 11 == 5)))
          c.bias(i, j) = -std::numeric_limits<S>::infinity();
  }
  if (chance()) c.sinks = random.matrix<S>(1, c.spec.heads, logits / 3);
  return c;
}

template <class S>
void expect_random_cases_right(double least, double unit) {
  std::mt19937_64 bits(seed_or(1));
  for (const double logits : {1.0, 10.0, 300.0})
    for (int repeat = 0; repeat < (sanitized ? 10 : 60); ++repeat) {
      const Case<S> c = random_case<S>(bits, logits);
      Real largest = 0;
      const naive::Table truth = c.truth(largest);
      const std::string what = text_of(c.spec.mask) + ", " + std::to_string(c.q.rows()) + " queries after " +
                               std::to_string(c.past) + ", logits " + std::to_string(logits) + ", case " +
                               std::to_string(repeat);
      // Sums of scores of this size, and sums of values that may cancel.
      const double bound = least + unit * static_cast<double>(largest + 1) * 60;
      EXPECT_LE(row_error(c.run(DirectAttention<S>()), truth), bound) << "direct, " << what;
      for (const Index rows : {Index{0}, Index{2}, Index{33}})
        EXPECT_LE(row_error(c.run(KernelAttention<S>({.rows = rows})), truth), bound)
            << "kernel in blocks of " << rows << ", " << what;
    }
}

TEST(ScoreTerms, AreThoseOfTheirSumsInDirectEvaluationAndKernel) {
  expect_random_cases_right<float>(2e-6, 6e-8);
  expect_random_cases_right<double>(1e-14, 1.2e-16);
}

TEST(ScoreTerms, KeepTheirDigitsFarFromTheFirstToken) {
  // slope * position is 70 000 here, of which float keeps steps of 1/128.
  Case<float> c;
  c.spec.heads = c.spec.kv_heads = 2;
  c.spec.head_dim = c.spec.value_dim = 4;
  c.spec.mask = Mask::sliding_window(60);
  c.spec.alibi = {0.7, 0.01};
  c.past = 100'000;
  Random random(3);
  c.q = random.matrix<float>(40, 8, 1.0);
  c.k = random.matrix<float>(c.past + 40, 8, 1.0);
  c.v = random.matrix<float>(c.past + 40, 8, 1.0);
  Real largest = 0;
  const naive::Table truth = c.truth(largest);
  EXPECT_LE(row_error(c.run(DirectAttention<float>()), truth), 3e-6);
  EXPECT_LE(row_error(c.run(KernelAttention<float>()), truth), 3e-6);
}

TEST(ScoreTerms, HideWhatIsNoNumber) {
  // A value that is NaN reaches no row to which a bias or a mask of pairs hides it.
  Case<float> c;
  c.spec.mask = Mask::full();
  c.spec.head_dim = c.spec.value_dim = 3;
  Random random(5);
  c.q = random.matrix<float>(50, 3, 1.0);
  c.k = random.matrix<float>(50, 3, 1.0);
  c.v = random.matrix<float>(50, 3, 1.0);
  c.v.row(17).setConstant(std::numeric_limits<float>::quiet_NaN());
  c.k.row(20).setConstant(std::numeric_limits<float>::infinity());
  c.bias = Matrix<float>::Zero(1, 50);
  c.by_query = false;
  c.bias(0, 17) = c.bias(0, 20) = static_cast<float>(minus_infinity);
  EXPECT_TRUE(c.run(DirectAttention<float>()).allFinite());
  EXPECT_TRUE(c.run(KernelAttention<float>()).allFinite());
  c.bias.resize(0, 0);
  c.spec.mask = Mask::pairs(50, 50, [](Index i, Index j) { return (j != 17 && j != 20) || i == 4; });
  for (const Matrix<float>& rows : {c.run(DirectAttention<float>()), c.run(KernelAttention<float>())})
    for (Index i = 0; i < 50; ++i) EXPECT_EQ(rows.row(i).allFinite(), i != 4) << i;
}

TEST(ScoreTerms, OfRowsThatSeeNothingAreZero) {
  Case<double> c;
  c.spec.mask = Mask::full();
  Random random(6);
  c.q = random.matrix<double>(5, 1, 1.0);
  c.k = c.v = random.matrix<double>(9, 1, 1.0);
  c.bias = Matrix<double>::Constant(1, 9, minus_infinity);
  c.by_query = false;
  for (const bool sink : {false, true}) {
    if (sink) c.sinks = Matrix<double>::Constant(1, 1, 2.0);
    EXPECT_TRUE(c.run(DirectAttention<double>()).isZero(0));
    EXPECT_TRUE(c.run(KernelAttention<double>()).isZero(0));
    KernelAttention<double> with_weights({.log_weights = true});
    static_cast<void>(c.run(with_weights));
    EXPECT_EQ(with_weights.log_weights()(0, 0), sink ? 2.0 : minus_infinity);
  }
}

TEST(OneQuery, KeepsWhatItFoundBesideBlocksOfScoresOfMinusInfinity) {
  // 600 keys whose scores are -infinity fill a block of the kernel for single queries.
  Case<float> c;
  c.spec.mask = Mask::causal();
  c.past = 699;
  c.q = Matrix<float>::Ones(1, 1);
  c.k = Matrix<float>::Constant(700, 1, static_cast<float>(minus_infinity));
  c.v = Matrix<float>::Ones(700, 1);
  EXPECT_TRUE(std::isnan(c.run(KernelAttention<float>())(0, 0)));
  EXPECT_TRUE(std::isnan(c.run(DirectAttention<float>())(0, 0)));
  for (const Index finite : {0, 650}) {
    c.k(finite, 0) = 1;
    EXPECT_EQ(c.run(KernelAttention<float>())(0, 0), 1.0F) << finite;
    EXPECT_EQ(c.run(DirectAttention<float>())(0, 0), 1.0F) << finite;
  }
}

TEST(ScoreTerms, ThatMakeNoSenseAreRefused) {
  Case<float> c;
  c.spec.mask = Mask::causal();
  c.q = c.k = c.v = Matrix<float>::Ones(4, 1);
  const auto fault = [&] { return message_of<Error>([&] { static_cast<void>(c.run(DirectAttention<float>())); }); };
  c.bias = Matrix<float>::Zero(3, 4);
  EXPECT_TRUE(contains(fault(), "the bias of the scores is 3 x 4, expected 4 x 4")) << fault();
  c.bias = Matrix<float>::Constant(4, 4, std::numeric_limits<float>::quiet_NaN());
  EXPECT_TRUE(contains(fault(), "expected a number or -infinity")) << fault();
  c.bias = Matrix<float>::Constant(4, 4, std::numeric_limits<float>::infinity());
  EXPECT_TRUE(contains(fault(), "expected a number or -infinity")) << fault();
  c.bias.resize(0, 0);
  c.sinks = Matrix<float>::Zero(1, 2);
  EXPECT_TRUE(contains(fault(), "the learned sinks is 1 x 2, expected 1 x 1")) << fault();
  c.sinks.resize(0, 0);
  c.spec.alibi = {1.0, 2.0};
  EXPECT_TRUE(contains(fault(), "there are 2 ALiBi slopes, expected 1 or none")) << fault();
  c.spec.alibi = {1.0};
  c.spec.mask = Mask::full();
  EXPECT_TRUE(contains(fault(), "shows later keys")) << fault();
  c.spec.alibi.clear();
  c.spec.mask = Mask::causal();
  c.past = 1;
  EXPECT_TRUE(contains(fault(), "a causal mask over 4 queries after 1 tokens and 4 keys is undefined")) << fault();
}

// Views are read as they lie: rows that are not there would be read before the first one.
TEST(HeldRows, ThatMakeNoSenseOrLackAKeyAreRefused) {
  struct Held {
    Mask mask;
    HeldRows held;
    const char* fault;
  };
  // Of 8 queries, and as many keys as end with the last of them.
  const std::vector<Held> all{
      {Mask::window_and_sinks(5, 2), {30, 2, 16}, ""},
      {Mask::window_and_sinks(5, 2), {30, 3, 17}, ""},
      {Mask::sliding_window(5), {30, 0, 25}, ""},
      {Mask::sliding_window(5), {30, 0, 26}, "those from position 26 on, expected 0 or more and those from 25 on"},
      {Mask::sliding_window(5), {100, 0, 90}, ""},
      {Mask::window_and_sinks(5, 2), {30, 1, 15}, "the keys held are 1 sink and those"},
      {Mask::window_and_sinks(5, 2), {30, 2, 1}, "begin at position 1, expected 2 or more"},
      {Mask::window_and_sinks(5, 2), {30, 40, 42}, "40 of the keys held are sinks, expected 0 to 36"},
      {Mask::window_and_sinks(5, 2), {30, -1, 16}, "-1 of the keys held are sinks"},
      {Mask::sliding_window(5), {-1, 0, 0}, "position -1, expected 0 or more"},
      {Mask::causal(), {16, 0, 0}, ""},
      {Mask::causal(), {30, 0, 14}, "keys 0..13 are not held, and a causal mask may show any"},
      {Mask::full(), {0, 0, 3}, "keys 0..2 are not held, and a full mask may show any"},
  };
  const Matrix<double> q = Matrix<double>::Ones(8, 4), k = Matrix<double>::Ones(64, 4), none;
  const AttentionWeights<double> weights;
  AttentionSpec spec;
  spec.heads = spec.kv_heads = 1;
  spec.head_dim = spec.value_dim = 4;
  for (const Held& c : all) {
    spec.mask = c.mask;
    const HeldRows& held = c.held;
    const Matrix<double> own = k.topRows(held.sinks + held.first_query + 8 - held.first_key);
    Matrix<double> out = Matrix<double>::Zero(8, 4);
    const AttentionInput<double> input{spec, 0, view(q), view(own), view(own), view(none), view(none), weights, held};
    const auto run = [&](auto&& attend) { attend(input, span(out)); };
    for (const bool kernel : {false, true}) {
      std::string found;
      try {
        kernel ? run(KernelAttention<double>()) : run(DirectAttention<double>());
      } catch (const SpecError& error) {
        found = error.what();
      }
      EXPECT_TRUE(*c.fault == 0 ? found.empty() : contains(found, c.fault))
          << held.first_query << " " << held.sinks << " " << held.first_key << ": " << found;
    }
  }
}

TEST(Alibi, HasTheSlopesOfItsAuthors) {
  EXPECT_EQ(alibi_slopes(1), (std::vector<double>{std::exp2(-8.0)}));
  EXPECT_EQ(alibi_slopes(4), (std::vector<double>{0.25, 0.0625, 0.015625, 0.00390625}));
  // 6 heads: those of 4, then the first and third of 8.
  EXPECT_EQ(alibi_slopes(6), (std::vector<double>{0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125}));
}

}  // namespace
