// The error of the simulation beside that of direct evaluation in the same scalar, against a truth in long double
// that shares no code with either.

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <twoheads/model/random.hpp>
#include <twoheads/oracle/wrappers.hpp>

#include "support/instances.hpp"
#include "support/naive.hpp"
#include "support/random_run.hpp"
#include "support/sanitized.hpp"

namespace {

using namespace twoheads;

enum class LayerKind { paper, standard };

ModelSpec spec_of(LayerKind kind, MaskKind mask) {
  if (kind == LayerKind::paper) return paper_layer(1, 16, 2, Mask{mask}, MlpKind::none, 0);
  ModelSpec spec;
  spec.layers = 2;
  spec.width = 16;
  spec.attention.heads = 4;
  spec.attention.kv_heads = 2;
  spec.attention.head_dim = 6;
  spec.attention.value_dim = 5;
  spec.attention.score_scale = 0.4;
  spec.attention.mask = Mask{mask};
  spec.attention.rope = RopeSpec{};
  spec.norm = NormKind::rms;
  spec.mlp = MlpKind::swiglu;
  spec.hidden = 24;
  spec.final_norm = true;
  return spec;
}

/// A model and its input, rounded to Scalar, and what it yields.
template <class Scalar>
struct Problem {
  Problem(LayerKind kind, MaskKind mask, Index tokens, double largest_logit) {
    Model<double> wide = random_model<double>(spec_of(kind, mask), 1);
    const Matrix<double> wide_x = Random(static_cast<std::uint64_t>(tokens)).matrix<double>(tokens, 16);
    // The scale at which the programs' random models have logits of about 3.
    programs::set_logit_scale(wide, wide_x, nullptr, largest_logit / 3.0);
    model = cast_model<Scalar>(wide);
    x = wide_x.template cast<Scalar>();
    truth = naive::transformer(naive::plain(model), naive::plain(x));
    DirectAttention<Scalar> direct;
    direct_error = error_of(forward(model, x, direct));
    max_logit = direct.max_logit();
  }

  /// Largest ||row - truth|| / ||truth|| over rows; a NaN makes it infinite.
  [[nodiscard]] double error_of(const Matrix<Scalar>& rows) const {
    naive::Real worst = 0;
    for (Index row = 0; row < rows.rows(); ++row) {
      naive::Real error = 0;
      naive::Real size = 0;
      for (Index col = 0; col < rows.cols(); ++col) {
        const naive::Real expected = truth.at(naive::at(row)).at(naive::at(col));
        error += (rows(row, col) - expected) * (rows(row, col) - expected);
        size += expected * expected;
      }
      const naive::Real relative = std::sqrt(error / size);
      if (!(relative <= worst)) worst = std::isnan(relative) ? std::numeric_limits<naive::Real>::infinity() : relative;
    }
    return static_cast<double>(worst);
  }

  /// The bound that the programs promise: a few direct errors, a rounding of the largest logit, and the smallest error.
  [[nodiscard]] double bound() const {
    constexpr bool single = std::is_same_v<Scalar, float>;
    return 4 * direct_error + (single ? 6e-8 : 1.2e-16) * max_logit + (single ? 1e-6 : 1e-12);
  }

  Model<Scalar> model;
  Matrix<Scalar> x;
  naive::Table truth;
  double max_logit = 0;
  double direct_error = 0;
};

struct Pairing {
  MaskKind mask;
  OracleKind oracle;
};

const std::vector<Pairing> pairings{
    {MaskKind::full, OracleKind::plain}, {MaskKind::full, OracleKind::causal}, {MaskKind::causal, OracleKind::causal}};

/// Simulates, checks bound and counts, and returns simulated over direct error.
template <class Scalar>
double check(const Problem<Scalar>& problem, OracleKind kind, Index rows, Anchor anchor, TokenEncoding encoding) {
  OracleLimits limits;
  limits.kind = kind;
  limits.rows = rows;
  SmallTransformer<Scalar> oracle(limits);
  GridAttention<SmallTransformer<Scalar>> attend(oracle, {anchor, encoding});
  const Matrix<Scalar> found = forward(problem.model, problem.x, attend);
  const double error = problem.error_of(found);
  const AttentionSpec& a = problem.model.spec.attention;
  const std::string place =
      detail::text(name(a.mask.kind), " on ", name(kind), ", ", problem.x.rows(), " tokens, ", rows, " rows, ",
                   name(anchor), ", ", name(encoding), ", largest logit ", problem.max_logit);
  EXPECT_LE(error, problem.bound()) << place << ", direct error " << problem.direct_error;
  EXPECT_EQ(programs::bad_rows(found), 0) << place;
  const Plan plan({a.mask, problem.x.rows(), 0, a.heads, problem.model.spec.layers, limits, anchor});
  EXPECT_EQ(attend.counts().calls - attend.counts().repeats, plan.calls()) << place;
  return error / problem.direct_error;
}

template <class Scalar>
std::vector<double> sweep(LayerKind kind, Index most_tokens) {
  std::vector<double> ratios;
  for (const MaskKind mask : {MaskKind::full, MaskKind::causal})
    for (const Index tokens : {1, 2, 63, 64, 65, 300, 1000}) {
      if (tokens > most_tokens) continue;
      const Problem<Scalar> problem(kind, mask, tokens, 3.0);
      EXPECT_GE(problem.max_logit, 1.0);
      EXPECT_LE(problem.max_logit, 10.0);
      for (const Pairing& pairing : pairings)
        for (const Index rows : {2, 3, 17, 64, 65, 129})
          if (pairing.mask == mask)
            ratios.push_back(check(problem, pairing.oracle, rows, Anchor::adaptive, TokenEncoding::projected));
    }
  return ratios;
}

/// The share-th smallest of the values.
double quantile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values.at(static_cast<std::size_t>(share * static_cast<double>(values.size() - 1) + 0.5));
}

TEST(SimulationError, InFloatIsThatOfDirectEvaluation) {
  std::vector<double> ratios = sweep<float>(LayerKind::paper, sanitized ? 65 : 1000);
  const std::vector<double> standard = sweep<float>(LayerKind::standard, sanitized ? 65 : 300);
  EXPECT_EQ(ratios.size(), (sanitized ? 5U : 7U) * 18U);
  EXPECT_LE(quantile(ratios, 0.5), 1.5);
  EXPECT_LE(quantile(ratios, 0.9), 2.0);
  EXPECT_LE(quantile(standard, 0.5), 1.5);
  EXPECT_LE(quantile(standard, 0.9), 2.0);
  std::cout << "simulated / direct error, attention alone: median " << quantile(ratios, 0.5) << ", 90th percentile "
            << quantile(ratios, 0.9) << "; two whole layers: " << quantile(standard, 0.5) << ", "
            << quantile(standard, 0.9) << "\n";
}

TEST(SimulationError, InDoubleKeepsTheBound) {
  EXPECT_EQ(sweep<double>(LayerKind::paper, sanitized ? 65 : 1000).size(), (sanitized ? 5U : 7U) * 18U);
  EXPECT_FALSE(sweep<double>(LayerKind::standard, sanitized ? 64 : 300).empty());
}

template <class Scalar>
void check_large_logits() {
  for (const Pairing& pairing : pairings)
    for (const double logit : {1.0, 1e2, 1e4, 1e7})
      for (const Index tokens : {65, 300}) {
        if (sanitized && tokens > 65) continue;
        const Problem<Scalar> problem(LayerKind::paper, pairing.mask, tokens, logit);
        // The largest logit of 256 tokens is set; that of all tokens is a little larger.
        EXPECT_GE(problem.max_logit, 0.9 * logit);
        for (const Index rows : {2, 3, 17, 64, 65, 129})
          for (const Anchor anchor : {Anchor::gibbs, Anchor::adaptive})
            static_cast<void>(check(problem, pairing.oracle, rows, anchor, TokenEncoding::projected));
      }
}

TEST(SimulationError, KeepsTheBoundAtAnyLogitSizeInFloat) { check_large_logits<float>(); }
TEST(SimulationError, KeepsTheBoundAtAnyLogitSizeInDouble) { check_large_logits<double>(); }

TEST(SimulationError, StaysThatOfDirectEvaluationWhereALogitsRoundingIsBeyondEveryAnchorsWindow) {
  // At 1e10 neighbouring floats differ by 1024: softmax picks one key, and a Gibbs anchor alone underflows.
  for (const Pairing& pairing : pairings) {
    const Problem<float> problem(LayerKind::paper, pairing.mask, 65, 1e10);
    for (const Anchor anchor : {Anchor::gibbs, Anchor::adaptive})
      EXPECT_LE(check(problem, pairing.oracle, 17, anchor, TokenEncoding::projected), 10.0);
  }
}

TEST(SimulationError, OfRawTokensKeepsTheBoundToo) {
  for (const Pairing& pairing : pairings)
    for (const double logit : {3.0, 1e3})
      for (const Index rows : {2, 17, 64}) {
        const Problem<float> single(LayerKind::paper, pairing.mask, 65, logit);
        const Problem<double> twice(LayerKind::paper, pairing.mask, 65, logit);
        for (const Anchor anchor : {Anchor::gibbs, Anchor::adaptive}) {
          static_cast<void>(check(single, pairing.oracle, rows, anchor, TokenEncoding::raw));
          static_cast<void>(check(twice, pairing.oracle, rows, anchor, TokenEncoding::raw));
        }
      }
}

TEST(CrossAttention, MatchesTheTruthForKeysOfAnyNumber) {
  ModelSpec spec = spec_of(LayerKind::standard, MaskKind::full);
  spec.attention.rope.reset();
  const Model<double> model = random_model<double>(spec, 3);
  for (const Index tokens : {1, 7, 40})
    for (const Index keys : {1, 8, 33, 100}) {
      const Matrix<double> x = Random(5).matrix<double>(tokens, 16);
      const Matrix<double> memory = Random(6).matrix<double>(keys, 16);
      const naive::Table plain_memory = naive::plain(memory);
      const naive::Table truth = naive::transformer(naive::plain(model), naive::plain(x), &plain_memory);
      for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
        for (const Index rows : {2, 9, 64})
          for (const bool fixed : {false, true}) {
            OracleLimits limits;
            limits.kind = kind;
            limits.rows = rows;
            limits.fixed_rows = fixed;
            limits.heads = 3;
            SmallTransformer<double> oracle(limits);
            GridAttention<SmallTransformer<double>> attend(oracle);
            const Matrix<double> found = forward(model, x, attend, &memory);
            double worst = 0;
            for (Index row = 0; row < tokens; ++row)
              for (Index col = 0; col < 16; ++col)
                worst = std::max(
                    worst, std::abs(found(row, col) - static_cast<double>(truth[naive::at(row)][naive::at(col)])));
            EXPECT_LE(worst, 1e-12) << tokens << " tokens, " << keys << " keys, " << rows << " rows, " << name(kind);
            EXPECT_EQ(programs::bad_rows(found), 0);
          }
    }
}

}  // namespace
