// What today's models ask of attention, on the grid of oracle calls: learned sinks, any pairs as a mask, ALiBi, a bias
// of scores, one query at a time. Held against the definitions in long double, beside the error of direct evaluation in
// the same scalar.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <twoheads/base/draws.hpp>
#include <twoheads/model/random.hpp>
#include <vector>

#include "support/instances.hpp"
#include "support/sanitized.hpp"
#include "support/seed.hpp"

namespace {

using namespace twoheads;
using Real = long double;

std::uint64_t seed() { return seed_or(611); }

constexpr double hidden = -std::numeric_limits<double>::infinity();

/// What is added to the scores of a problem.
enum class Bias { none, by_key, by_query, by_head };

struct Case {
  Mask mask;
  Index queries = 1;
  Index past = 0;
  Index heads = 2;
  Index kv_heads = 1;
  double logit = 4;  ///< about the largest score before terms are added
  bool sinks = false;
  bool alibi = false;
  Bias bias = Bias::none;
  bool hides = true;  ///< whether the bias has -infinity
  Index keys = 0;     ///< 0: past + queries
  double raised = 0;  ///< what the bias has more for all pairs

  [[nodiscard]] Index all_keys() const { return keys > 0 ? keys : past + queries; }
};

std::string text_of(const Case& c) {
  return detail::text(name(c.mask.kind), " mask, ", c.queries, " queries after ", c.past, ", ", c.all_keys(), " keys, ",
                      c.heads, " heads over ", c.kv_heads, ", logits to ", c.logit, c.sinks ? ", learned sinks" : "",
                      c.alibi ? ", ALiBi" : "", c.bias == Bias::none ? "" : ", bias ", static_cast<int>(c.bias));
}

constexpr Index dim = 3;
constexpr Index value_dim = 2;

/// Rows of a layer, and what they come to by the definitions.
template <class Scalar>
class Problem {
 public:
  explicit Problem(const Case& c) : case_(c) {
    Random random(seed() + static_cast<std::uint64_t>(31 * c.queries + c.past));
    detail::Draws draws(seed());
    const Index keys = c.all_keys();
    // Numbers that float has too, so that both scalars have one truth.
    const auto rows = [&](Index count, Index cols) {
      return Matrix<Scalar>(random.matrix<float>(count, cols).template cast<Scalar>());
    };
    q_ = rows(c.queries, c.heads * dim);
    k_ = rows(keys, c.kv_heads * dim);
    v_ = rows(keys, c.kv_heads * value_dim);
    const auto size = static_cast<double>(q_.cwiseAbs().maxCoeff()) * static_cast<double>(k_.cwiseAbs().maxCoeff());
    spec_.score_scale = 0.5;
    q_ *= static_cast<Scalar>(static_cast<float>(c.logit / (0.5 * dim * size)));
    spec_.heads = c.heads;
    spec_.kv_heads = c.kv_heads;
    spec_.head_dim = dim;
    spec_.value_dim = value_dim;
    spec_.mask = c.mask;
    if (c.alibi)
      for (Index head = 0; head < c.heads; ++head) spec_.alibi.push_back(std::ldexp(1.0, static_cast<int>(-1 - head)));
    if (c.sinks) sinks_ = rows(1, c.heads) * static_cast<Scalar>(2 + c.logit / 4);
    if (c.bias == Bias::none) return;
    const bool by_head = c.bias == Bias::by_head;
    const bool by_query = c.bias != Bias::by_key;
    bias_ = rows((by_head ? c.heads : 1) * (by_query ? c.queries : 1), keys) * Scalar(3);
    bias_.array() += static_cast<Scalar>(c.raised);
    if (c.hides) {
      for (Index row = 0; row < bias_.rows(); ++row)
        for (Index key = 0; key < keys; ++key)
          if (draws.below(3) == 0) bias_(row, key) = static_cast<Scalar>(hidden);
      if (by_query && bias_.rows() > 2) bias_.row(2).setConstant(static_cast<Scalar>(hidden));
      // A stretch of keys as long as a tile.
      bias_.leftCols(keys / 2).setConstant(static_cast<Scalar>(hidden));
    }
  }
  Problem(const Problem&) = delete;
  Problem& operator=(const Problem&) = delete;

  [[nodiscard]] const AttentionSpec& spec() const { return spec_; }

  [[nodiscard]] AttentionInput<Scalar> input() const {
    static const AttentionWeights<Scalar> none;
    const ScoreBias<Scalar> bias{view(bias_), case_.bias == Bias::by_head, case_.bias != Bias::by_key};
    return {spec_,
            0,
            view(q_),
            view(k_),
            view(v_),
            no_rows<Scalar>(),
            no_rows<Scalar>(),
            none,
            {case_.past, 0, 0},
            false,
            view(sinks_),
            bias};
  }

  /// Largest |row - truth| of any entry over the largest |value|; a NaN makes it infinite.
  [[nodiscard]] double error(const Matrix<Scalar>& found) const {
    Real worst = 0;
    for (Index head = 0; head < spec_.heads; ++head)
      for (Index row = 0; row < q_.rows(); ++row) {
        const std::array<Real, value_dim> truth = row_of(head, row);
        for (Index col = 0; col < value_dim; ++col) {
          const Real off = std::abs(static_cast<Real>(found(row, head * value_dim + col)) - truth[to(col)]);
          if (!(off <= 1e300L)) return std::numeric_limits<double>::infinity();
          worst = std::max(worst, off);
        }
      }
    return static_cast<double>(worst / static_cast<Real>(v_.cwiseAbs().maxCoeff()));
  }

  /// Error of direct evaluation, and the largest logit that it met.
  [[nodiscard]] std::array<double, 2> direct() const {
    Matrix<Scalar> out(q_.rows(), spec_.heads * value_dim);
    DirectAttention<Scalar> attend;
    attend(input(), span(out));
    return {error(out), attend.max_logit()};
  }

  [[nodiscard]] Index rows() const { return q_.rows(); }

 private:
  static std::size_t to(Index i) { return static_cast<std::size_t>(i); }

  [[nodiscard]] std::array<Real, value_dim> row_of(Index head, Index row) const {
    std::array<Real, value_dim> sum{};
    const Index kv_head = head * case_.kv_heads / case_.heads;
    const Index position = case_.past + row;
    std::vector<Real> scores;
    std::vector<Index> keys;
    for (Index key = 0; key < k_.rows(); ++key) {
      if (!sees(position, key)) continue;
      Real score = 0;
      for (Index c = 0; c < dim; ++c)
        score += static_cast<Real>(q_(row, head * dim + c)) * static_cast<Real>(k_(key, kv_head * dim + c));
      score *= static_cast<Real>(spec_.score_scale);
      if (case_.alibi) score += static_cast<Real>(spec_.alibi[to(head)]) * static_cast<Real>(key - position);
      if (bias_.size() > 0) {
        const Index line = case_.bias == Bias::by_key     ? 0
                           : case_.bias == Bias::by_query ? row
                                                          : head * case_.queries + row;
        if (std::isinf(bias_(line, key))) continue;
        score += static_cast<Real>(bias_(line, key));
      }
      scores.push_back(score);
      keys.push_back(key);
    }
    if (scores.empty()) return sum;
    Real largest = *std::max_element(scores.begin(), scores.end());
    Real weight = 0;
    if (case_.sinks) {
      largest = std::max(largest, static_cast<Real>(sinks_(0, head)));
      weight = std::exp(static_cast<Real>(sinks_(0, head)) - largest);
    }
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const Real share = std::exp(scores[i] - largest);
      weight += share;
      for (Index col = 0; col < value_dim; ++col)
        sum[to(col)] += share * static_cast<Real>(v_(keys[i], kv_head * value_dim + col));
    }
    for (Real& entry : sum) entry /= weight;
    return sum;
  }

  [[nodiscard]] bool sees(Index query, Index key) const {
    const Mask& mask = case_.mask;
    switch (mask.kind) {
      case MaskKind::full:
        return true;
      case MaskKind::causal:
        return key <= query;
      case MaskKind::window:
        return key <= query && query - key < mask.window;
      case MaskKind::sinks:
        return key <= query && (query - key < mask.window || key < mask.sinks);
      case MaskKind::band:
        return query - key <= mask.left && key - query <= mask.right;
      case MaskKind::documents:
        return false;  // not of this test
      case MaskKind::blocks:
        break;
    }
    std::size_t group = 0;
    while (mask.ends[group] <= query) ++group;
    return std::any_of(mask.shown[group].begin(), mask.shown[group].end(),
                       [&](const Rows& range) { return range.begin <= key && key < range.end; });
  }

  Case case_;
  AttentionSpec spec_;
  Matrix<Scalar> q_, k_, v_, sinks_, bias_;
};

struct Setting {
  OracleKind kind = OracleKind::plain;
  Index rows = 9;
  Index heads = 1;
  Index layers = 1;
  Anchor anchor = Anchor::adaptive;
  Packing packing = Packing::residual;
};

OracleLimits limits_of(const Setting& s) {
  OracleLimits limits;
  limits.kind = s.kind;
  limits.rows = s.rows;
  limits.heads = s.heads;
  limits.layers = s.layers;
  limits.residual = s.layers > 1 && s.packing == Packing::residual;
  limits.score_scale = 0.25;
  return limits;
}

std::string text_of(const Setting& s) {
  return detail::text(" on a ", name(s.kind), " oracle of ", s.rows, " rows, ", s.heads, " heads, ", s.layers,
                      " layers, anchor ", name(s.anchor));
}

/// The simulation's error is near that of direct evaluation.
template <class Scalar>
SimulationCounts expect_near_direct(const Problem<Scalar>& problem, const Setting& s, const std::string& what,
                                    SimulationOptions options = {}) {
  SmallTransformer<Scalar> oracle(limits_of(s));
  options.anchor = s.anchor;
  options.packing = s.packing;
  GridAttention<SmallTransformer<Scalar>, Serial> attend(oracle, options);
  Matrix<Scalar> out = Matrix<Scalar>::Constant(problem.rows(), problem.spec().heads * value_dim, Scalar(7e9));
  attend(problem.input(), span(out));
  const auto [direct, max_logit] = problem.direct();
  const bool single = sizeof(Scalar) == sizeof(float);
  const double bound = 4 * direct + (single ? 6e-8 : 1.2e-16) * max_logit + (single ? 1e-6 : 1e-12);
  const double error = problem.error(out);
  EXPECT_LE(error, bound) << what << text_of(s) << ", direct " << direct << ", logits to " << max_logit;
  return attend.counts();
}

std::vector<Setting> settings() {
  std::vector<Setting> all;
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
    for (const Anchor anchor : {Anchor::adaptive, Anchor::gibbs}) {
      all.push_back({kind, 9, 1, 1, anchor});
      all.push_back({kind, 5, 3, 1, anchor});
      all.push_back({kind, 33, 2, 2, anchor});
      all.push_back({kind, 64, 1, 1, anchor});
      all.push_back({kind, 12, 2, 2, anchor, Packing::identity});
    }
  return all;
}

/// Both scalars, all settings.
void expect_all_near_direct(const Case& c) {
  const Problem<float> single(c);
  const Problem<double> twice(c);
  for (const Setting& s : settings()) {
    expect_near_direct(single, s, "float, " + text_of(c));
    expect_near_direct(twice, s, "double, " + text_of(c));
  }
}

/// Any pairs; every fifth query sees nothing, and neighbours often see the same.
Mask random_pairs(Index queries, Index keys, std::uint64_t number) {
  detail::Draws draws(seed() + number);
  std::vector<std::vector<bool>> rows;
  for (Index query = 0; query < queries; ++query) {
    if (query > 0 && draws.below(2) == 0) {
      rows.push_back(rows.back());
      continue;
    }
    std::vector<bool> row(static_cast<std::size_t>(keys), false);
    bool on = draws.below(2) == 0;
    for (std::size_t key = 0; key < row.size(); ++key) {
      if (draws.below(4) == 0) on = !on;
      row[key] = on;
    }
    if (draws.below(5) == 0) row.assign(row.size(), false);
    rows.push_back(row);
  }
  return Mask::pairs(queries, keys,
                     [&](Index i, Index j) { return rows[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)]; });
}

const std::vector<double> logits = sanitized ? std::vector<double>{1000} : std::vector<double>{1, 30, 300, 1000};

// --- laws ------------------------------------------------------------------------------------------------------------

TEST(AttentionFeatures, LearnedSinksAreAPartialMore) {
  for (const double logit : logits) {
    expect_all_near_direct({Mask::causal(), 21, 0, 2, 2, logit, true});
    expect_all_near_direct({Mask::full(), 6, 0, 4, 2, logit, true});
    expect_all_near_direct({Mask::window_and_sinks(5, 2), 30, 0, 2, 1, logit, true});
    expect_all_near_direct({Mask::full(), 1, 17, 4, 2, logit, true});
    expect_all_near_direct({random_pairs(19, 23, 3), 19, 0, 2, 1, logit, true, false, Bias::none, false, 23});
  }
}

TEST(AttentionFeatures, AnyPairsAreEvaluatedAndQueriesThatSeeNothingAreZero) {
  for (std::uint64_t number = 0; number < 6; ++number)
    for (const double logit : {4.0, 1000.0}) {
      const Index queries = 3 + static_cast<Index>(7 * number), keys = 40 - static_cast<Index>(5 * number);
      Case c{random_pairs(queries, keys, number), queries, 0, 2, 1, logit};
      c.keys = keys;
      expect_all_near_direct(c);
    }
  Case blind{Mask::pairs(5, 4, [](Index, Index) { return false; }), 5};
  blind.keys = 4;
  expect_all_near_direct(blind);
}

TEST(AttentionFeatures, AlibiIsAColumnOfKeys) {
  for (const double logit : logits) {
    expect_all_near_direct({Mask::causal(), 40, 0, 2, 1, logit, false, true});
    expect_all_near_direct({Mask::sliding_window(7), 50, 0, 3, 1, logit, false, true});
    expect_all_near_direct({Mask::window_and_sinks(6, 3), 50, 0, 2, 1, logit, true, true});
    expect_all_near_direct({Mask::causal(), 4, 30, 2, 2, logit, false, true});
    expect_all_near_direct({Mask::causal(), 1, 60, 4, 2, logit, false, true});
  }
}

TEST(AttentionFeatures, AlibiKeepsItsDigitsFarFromTheBeginning) {
  const Case c{Mask::sliding_window(20), 6, 120'000, 2, 1, 4, false, true};
  const Problem<float> problem(c);
  for (const Setting& s : settings()) expect_near_direct(problem, s, text_of(c));
}

TEST(AttentionFeatures, ABiasIsAddedAndItsInfinityHides) {
  for (const double logit : logits)
    for (const Bias bias : {Bias::by_key, Bias::by_query, Bias::by_head})
      for (const bool hides : {false, true}) {
        expect_all_near_direct({Mask::full(), 12, 0, 2, 1, logit, false, false, bias, hides});
        expect_all_near_direct({Mask::causal(), 24, 0, 2, 2, logit, false, false, bias, hides});
        expect_all_near_direct({Mask::full(), 3, 0, 2, 1, logit, false, false, bias, hides, 50});
      }
}

TEST(AttentionFeatures, AnchorsCountWhatABiasAdds) {
  for (const double raised : {-400.0, 400.0})
    for (const Bias bias : {Bias::by_key, Bias::by_query})
      for (const Anchor anchor : {Anchor::mean_key, Anchor::gibbs}) {
        const Case c{Mask::full(), 12, 0, 2, 1, 4, false, false, bias, false, 20, raised};
        const SimulationCounts counts =
            expect_near_direct(Problem<float>(c), {OracleKind::plain, 9, 1, 1, anchor}, text_of(c));
        EXPECT_EQ(counts.repeats, 0) << text_of(c) << ", anchor " << name(anchor);
      }
}

TEST(AttentionFeatures, AllOfThemAtOnce) {
  for (const double logit : logits)
    for (const Bias bias : {Bias::by_key, Bias::by_query, Bias::by_head}) {
      expect_all_near_direct({Mask::causal(), 15, 9, 4, 2, logit, true, true, bias});
      for (const bool hides : {false, true})
        expect_all_near_direct({Mask::window_and_sinks(5, 2), 20, 0, 2, 1, logit, true, true, bias, hides});
      Case c{random_pairs(14, 20, 5), 14, 0, 2, 1, logit, true, false, bias};
      c.keys = 20;
      expect_all_near_direct(c);
    }
}

// --- one query at a time ---------------------------------------------------------------------------------------------

Index ceil_of(Index total, Index part) { return (total + part - 1) / part; }

struct Seen {
  Mask mask;
  Index keys = 0;  ///< that the last of 71 tokens sees
};

TEST(AttentionFeatures, TheQueryHeadsOfOneQueryShareACall) {
  const std::vector<Seen> masks{{Mask::causal(), 71},           {Mask::full(), 71},
                                {Mask::sliding_window(20), 20}, {Mask::window_and_sinks(10, 4), 14},
                                {Mask::band(8, 3), 9},          {Mask::window_and_sinks(2, 1), 3}};
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
    for (const Index heads : {1, 2, 3})
      for (const Index rows : {9, 33})
        for (const Index group : {1, 4})
          for (const Seen& seen : masks) {
            const Case c{seen.mask, 1, 70, 2 * group, 2};
            const Setting s{kind, rows, heads};
            const std::string what = text_of(c);
            const SimulationCounts counts = expect_near_direct(Problem<double>(c), s, what);
            const bool straight = kind == OracleKind::plain && seen.keys <= rows;
            const Index room = kind == OracleKind::plain ? rows - 1 : rows - group;
            const Index tiles = straight ? 1 : ceil_of(seen.keys, room);
            EXPECT_EQ(counts.calls - counts.repeats, ceil_of(tiles * 2, heads)) << what << text_of(s);
            EXPECT_EQ(counts.jobs, tiles * 2) << what << text_of(s);
          }
}

TEST(AttentionFeatures, OneQueryIsNearDirectForAllSizesOfLogits) {
  for (const double logit : logits) {
    expect_all_near_direct({Mask::causal(), 1, 40, 6, 2, logit});
    expect_all_near_direct({Mask::window_and_sinks(9, 3), 1, 40, 6, 3, logit});
    expect_all_near_direct({random_pairs(1, 40, 2), 1, 0, 4, 1, logit, false, false, Bias::none, false, 40});
  }
  const Mask nothing = Mask::pairs(1, 4, [](Index, Index) { return false; });
  expect_all_near_direct({nothing, 1, 0, 2, 1, 1, false, false, Bias::none, false, 4});
}

TEST(AttentionFeatures, OneQueryIsEvaluatedOverKeysThatAreHeldInPart) {
  const Case c{Mask::window_and_sinks(6, 3), 1, 50, 4, 2};
  const Problem<double> problem(c);
  const AttentionInput<double> all = problem.input();
  const Index first = 40, late = 51 - first;
  Matrix<double> k(3 + late, all.k.cols()), v(3 + late, all.v.cols());
  k << all.k.topRows(3), all.k.bottomRows(late);
  v << all.v.topRows(3), all.v.bottomRows(late);
  const AttentionInput<double> part{all.spec,          0,           all.q,         view(k), view(v), no_rows<double>(),
                                    no_rows<double>(), all.weights, {50, 3, first}};
  SmallTransformer<double> oracle(limits_of({OracleKind::plain, 5}));
  GridAttention<SmallTransformer<double>, Serial> attend(oracle);
  Matrix<double> out(1, problem.spec().heads * value_dim);
  attend(part, span(out));
  EXPECT_LE(problem.error(out), 1e-12);
}

// --- calls and refusals ----------------------------------------------------------------------------------------------

TEST(AttentionFeatures, CallsAreThoseOfAPlanThatHasLogWeightsWhereSinksAreJoined) {
  for (const bool sinks : {false, true})
    for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
      for (const Index keys : {12, 40}) {
        const Case c{Mask::full(), 4, 0, 2, 1, 4, sinks, false, Bias::by_query, true, keys};
        const Setting s{kind, 12, 2};
        const SimulationCounts counts = expect_near_direct(Problem<double>(c), s, text_of(c));
        PlanRequest request{c.mask, c.queries, keys, c.heads, 1, limits_of(s)};
        request.log_weights = sinks;
        const Plan plan(request);
        EXPECT_EQ(counts.calls - counts.repeats, plan.calls());
        EXPECT_EQ(plan.straight(), !sinks && kind == OracleKind::plain && keys == 12);
      }
}

TEST(AttentionFeatures, ChecksumsGoOnWorking) {
  SimulationOptions options;
  options.checksums = true;
  for (const Bias bias : {Bias::by_key, Bias::by_query})
    for (const OracleKind kind : {OracleKind::plain, OracleKind::causal}) {
      const Case c{Mask::causal(), 20, 0, 2, 1, 30, true, true, bias};
      expect_near_direct(Problem<float>(c), {kind, 9, 2}, text_of(c), options);
      const Case one{Mask::causal(), 1, 30, 4, 1, 30};
      expect_near_direct(Problem<float>(one), {kind, 9, 2}, text_of(one), options);
    }
}

std::string refusal(const Case& c, const OracleLimits& limits, const SimulationOptions& options = {}) {
  const Problem<float> problem(c);
  SmallTransformer<float> oracle(limits);
  GridAttention<SmallTransformer<float>, Serial> attend(oracle, options);
  Matrix<float> out(problem.rows(), problem.spec().heads * value_dim);
  try {
    attend(problem.input(), span(out));
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(AttentionFeatures, WhatCannotBeDoneIsRefusedWithTheReason) {
  const OracleLimits limits = limits_of({OracleKind::plain, 9});
  const Case biased{Mask::full(), 12, 0, 2, 1, 4, false, false, Bias::by_query};
  const auto expect = [&](const std::string& found, const std::string& part) {
    EXPECT_NE(found.find(part), std::string::npos) << found;
  };
  SimulationOptions sampled;
  sampled.sampling.samples = 1;
  expect(refusal(biased, limits, sampled), "expected samples 0");
  SimulationOptions barred;
  barred.error_bar_level = 0.9;
  expect(refusal({Mask::full(), 12, 0, 2, 1, 4, true}, limits, barred), "expected error_bar_level 0");
  OracleLimits narrow = limits;
  narrow.precision.tokens = Precision::bfloat16;
  narrow.precision.scores = Precision::float32;
  expect(refusal(biased, narrow), "expected tokens of float32 or wider");
  OracleLimits few = limits;
  few.key_cols = 8;
  expect(refusal(biased, few), "takes a column for each of 8");
  EXPECT_EQ(refusal({Mask::full(), 12, 0, 2, 1, 4, false, false, Bias::by_key}, few), "");
}

}  // namespace
