#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <twoheads/base/draws.hpp>
#include <twoheads/model/random.hpp>
#include <vector>

#include "support/instances.hpp"
#include "support/seed.hpp"

/// Attention with what today's models ask of it: its rows by the definitions in long double, and the error of the
/// simulation beside that of direct evaluation.
namespace attention_features {

using namespace twoheads;

using Real = long double;

inline std::uint64_t seed() { return seed_or(611); }

inline constexpr double hidden = -std::numeric_limits<double>::infinity();

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

inline std::string text_of(const Case& c) {
  return detail::text(name(c.mask.kind), " mask, ", c.queries, " queries after ", c.past, ", ", c.all_keys(), " keys, ",
                      c.heads, " heads over ", c.kv_heads, ", logits to ", c.logit, c.sinks ? ", learned sinks" : "",
                      c.alibi ? ", ALiBi" : "", c.bias == Bias::none ? "" : ", bias ", static_cast<int>(c.bias));
}

inline constexpr Index dim = 3;
inline constexpr Index value_dim = 2;

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

inline OracleLimits limits_of(const Setting& s) {
  OracleLimits limits;
  limits.kind = s.kind;
  limits.rows = s.rows;
  limits.heads = s.heads;
  limits.layers = s.layers;
  limits.residual = s.layers > 1 && s.packing == Packing::residual;
  limits.score_scale = 0.25;
  return limits;
}

inline std::string text_of(const Setting& s) {
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

inline std::vector<Setting> settings() {
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
inline void expect_all_near_direct(const Case& c) {
  const Problem<float> single(c);
  const Problem<double> twice(c);
  for (const Setting& s : settings()) {
    expect_near_direct(single, s, "float, " + text_of(c));
    expect_near_direct(twice, s, "double, " + text_of(c));
  }
}

}  // namespace attention_features
