// The average case measured: errors of sampled attention, error bars that cover, exact near fields beside a sample.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <set>
#include <string>
#include <twoheads/attention/average_case.hpp>
#include <twoheads/base/digest.hpp>
#include <twoheads/merge/error_bars.hpp>
#include <twoheads/merge/f_quantile.hpp>
#include <twoheads/model/random.hpp>
#include <twoheads/plan/average_case.hpp>
#include <vector>

#include "support/instances.hpp"
#include "support/naive.hpp"
#include "support/sanitized.hpp"

namespace {

using namespace twoheads;

/// q, k and v of some heads, with normal logits of a given deviation.
struct Data {
  AttentionSpec spec;
  Matrix<double> q, k, v;
  AttentionWeights<double> none;
  Index layer = 0;

  Data(MaskKind mask, Index tokens, Index heads, Index dim, double logit_deviation, std::uint64_t seed) {
    Random random(seed);
    spec.heads = spec.kv_heads = heads;
    spec.head_dim = spec.value_dim = dim;
    spec.mask.kind = mask;
    // A sum of dim products of normal numbers has the deviation sqrt(dim).
    spec.score_scale = logit_deviation / std::sqrt(static_cast<double>(dim));
    q = random.matrix<double>(tokens, heads * dim);
    k = random.matrix<double>(tokens, heads * dim);
    v = random.matrix<double>(tokens, heads * dim);
  }

  [[nodiscard]] AttentionInput<double> input() const {
    return {spec, layer, view(q), view(k), view(v), view(q), view(k), none};
  }
  [[nodiscard]] Matrix<double> direct() const {
    Matrix<double> out(q.rows(), v.cols());
    DirectAttention<double> attend;
    attend(input(), span(out));
    return out;
  }
};

struct Sampled {
  Matrix<double> rows;
  Matrix<double> bars;
  Index calls = 0;
};

Sampled simulated(const Data& data, Index rows, const Sampling& sampling, double level = 0,
                  OracleKind kind = OracleKind::plain, Index batch = 1) {
  OracleLimits limits;
  limits.kind = kind;
  limits.rows = rows;
  limits.score_scale = data.spec.score_scale;
  limits.batch = batch;
  SmallTransformer<double> oracle(limits);
  GridAttention<SmallTransformer<double>> attend(
      oracle, {Anchor::adaptive, TokenEncoding::projected, Packing::residual, sampling, level});
  Sampled result{Matrix<double>(data.q.rows(), data.v.cols()), {}, 0};
  attend(data.input(), span(result.rows));
  if (level > 0) result.bars = attend.error_bars().at(0);
  EXPECT_EQ(attend.error_bars().size(), level > 0 ? 1U : 0U);
  result.calls = attend.counts().calls;
  return result;
}

double mean_row_error(const Matrix<double>& rows, const Matrix<double>& truth) {
  double sum = 0;
  for (Index row = 0; row < rows.rows(); ++row) sum += (rows.row(row) - truth.row(row)).norm() / truth.row(row).norm();
  return sum / static_cast<double>(rows.rows());
}

double max_row_error(const Matrix<double>& rows, const Matrix<double>& truth) {
  double most = 0;
  for (Index row = 0; row < rows.rows(); ++row) {
    const double error = (rows.row(row) - truth.row(row)).norm() / truth.row(row).norm();
    if (!(error <= most)) most = error;
  }
  return most;
}

// --- the error of a sample -------------------------------------------------------------------------------------------

TEST(AverageCase, MeanRowErrorFollowsTheSampleSizeAndVanishesAtT) {
  const Index tokens = sanitized ? 1024 : 4096;
  const Index rows = sanitized ? 64 : 256;
  constexpr Index blocks = 17;
  constexpr std::uint64_t seeds = 2;
  std::vector<double> constants;
  const std::vector<Index> sizes{1, 2, 4, 8};
  for (const Index samples : sizes) {
    double error = 0;
    for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
      const Data data(MaskKind::full, tokens, 1, 16, 0.4, seed);
      const Sampled found = simulated(data, rows, {samples, 0, 0, seed});
      EXPECT_EQ(found.calls, samples * blocks);
      error += mean_row_error(found.rows, data.direct()) / static_cast<double>(seeds);
    }
    constants.push_back(error / std::sqrt(1.0 / static_cast<double>(samples) - 1.0 / static_cast<double>(blocks)));
    RecordProperty("error_at_" + std::to_string(samples), std::to_string(error));
  }
  double mean = 0;
  for (const double constant : constants) mean += constant / static_cast<double>(constants.size());
  for (std::size_t i = 0; i < sizes.size(); ++i) EXPECT_NEAR(constants[i], mean, 0.15 * mean) << "S = " << sizes[i];
  const Data data(MaskKind::full, tokens, 1, 16, 0.4, 1);
  EXPECT_LE(max_row_error(simulated(data, rows, {blocks}).rows, data.direct()), 1e-12);
}

TEST(AverageCase, IsTheSameBitsForTheSameSeedWhateverTheBatch) {
  Data data(MaskKind::full, 300, 2, 4, 0.4, 3);
  // Both heads read the same rows: what differs between them is their draw.
  data.q.rightCols(4) = data.q.leftCols(4);
  data.k.rightCols(4) = data.k.leftCols(4);
  data.v.rightCols(4) = data.v.leftCols(4);
  const Matrix<double> first = simulated(data, 33, {3, 0, 0, 5}).rows;
  EXPECT_EQ(digest(first), digest(simulated(data, 33, {3, 0, 0, 5}).rows));
  EXPECT_EQ(digest(first), digest(simulated(data, 33, {3, 0, 0, 5}, 0.9, OracleKind::plain, 7).rows));
  EXPECT_NE(digest(first), digest(simulated(data, 33, {3, 0, 0, 6}).rows));
  EXPECT_GT((first.leftCols(4) - first.rightCols(4)).cwiseAbs().maxCoeff(), 1e-3);
  data.layer = 1;
  EXPECT_NE(digest(first), digest(simulated(data, 33, {3, 0, 0, 5}).rows));
}

TEST(AverageCase, APermutationMakesNeighboursThatAreAlikeHarmless) {
  // Values that drift along the sequence: a block of neighbours says little of the others.
  Data data(MaskKind::full, 512, 1, 4, 0.2, 1);
  for (Index key = 0; key < 512; ++key) data.v.row(key).array() += 3 * std::sin(static_cast<double>(key) / 80) + 4;
  Sampling sampling{4, 0, 0, 1};
  double scattered = 0, neighbours = 0;
  for (sampling.seed = 1; sampling.seed <= 10; ++sampling.seed) {
    sampling.permute = true;
    scattered += mean_row_error(simulated(data, 33, sampling).rows, data.direct());
    sampling.permute = false;
    neighbours += mean_row_error(simulated(data, 33, sampling).rows, data.direct());
  }
  EXPECT_LT(2 * scattered, neighbours);
}

// --- an exact near field beside a sample -----------------------------------------------------------------------------

/// Tokens whose logits grow towards the query: three quarters of a row's weight lie near it.
Data local_data(MaskKind mask, Index tokens, std::uint64_t seed) {
  Data data(mask, tokens, 1, 6, 0.4, seed);
  for (Index i = 0; i < tokens; ++i) {
    const double angle = static_cast<double>(i) / 24;
    data.q.row(i).head(2) << 12 * std::cos(angle), 12 * std::sin(angle);
    data.k.row(i).head(2) << std::cos(angle), std::sin(angle);
  }
  return data;
}

struct Mixed {
  MaskKind mask;
  OracleKind oracle;
  Sampling sampling;
};

const std::vector<Mixed>& mixed_cases() {
  static const std::vector<Mixed> cases{
      {MaskKind::causal, OracleKind::causal, {3, 9, 0}}, {MaskKind::causal, OracleKind::plain, {3, 0, 0}},
      {MaskKind::causal, OracleKind::causal, {4, 1, 5}}, {MaskKind::full, OracleKind::plain, {3, 9, 0}},
      {MaskKind::full, OracleKind::causal, {3, 2, 9}},   {MaskKind::full, OracleKind::plain, {4, 0, 0}}};
  return cases;
}

TEST(MixedEstimator, MeansTheTruthOverManySeeds) {
  // A ratio of two unbiased sums has a bias of a smaller order than its error: the mean of many draws comes nearer to
  // the truth than a draw does, to a 16th of the mean square or nearer. With other weights it would stay away.
  constexpr int seeds = sanitized ? 60 : 300;
  for (const Mixed& mixed : mixed_cases()) {
    const Data data = local_data(mixed.mask, 96, 2);
    const Matrix<double> truth = data.direct();
    Matrix<double> mean = Matrix<double>::Zero(truth.rows(), truth.cols());
    double square = 0;
    for (int seed = 1; seed <= seeds; ++seed) {
      Sampling sampling = mixed.sampling;
      sampling.seed = static_cast<std::uint64_t>(seed);
      const Matrix<double> rows = simulated(data, 9, sampling, 0, mixed.oracle).rows;
      mean += rows / seeds;
      square += (rows - truth).squaredNorm() / seeds;
    }
    EXPECT_GT(square, 0);
    EXPECT_LT((mean - truth).squaredNorm(), 0.1 * square)
        << name(mixed.mask) << ", S = " << mixed.sampling.samples << ", near " << mixed.sampling.near << ", sinks "
        << mixed.sampling.sinks;
  }
}

TEST(MixedEstimator, ErrsLessWithMoreSamplesAndANearFieldAndNotAtAllWithAllOfThem) {
  for (const auto& [mask, oracle] :
       {std::pair{MaskKind::causal, OracleKind::causal}, std::pair{MaskKind::causal, OracleKind::plain},
        std::pair{MaskKind::full, OracleKind::plain}}) {
    const Data data = local_data(mask, 320, 4);
    const Matrix<double> truth = data.direct();
    const auto error = [&, oracle = oracle](Index samples, Index near) {
      double sum = 0;
      for (std::uint64_t seed = 1; seed <= 4; ++seed)
        sum += mean_row_error(simulated(data, 17, {samples, near, 0, seed}, 0, oracle).rows, truth) / 4;
      return sum;
    };
    // 20 blocks of 16 keys: with a near field of 17, one block on a side, rows have 18 far blocks at most.
    double before = error(1, 17);
    for (const Index samples : {3, 8}) {
      const double now = error(samples, 17);
      EXPECT_LT(now, 0.85 * before) << name(mask) << ", S = " << samples;
      EXPECT_LT(now, error(samples, 0)) << name(mask) << ", S = " << samples;
      before = now;
    }
    EXPECT_GT(error(17, 17), 0) << name(mask);
    EXPECT_LE(max_row_error(simulated(data, 17, {18, 17}, 0, oracle).rows, truth), 1e-12) << name(mask);
    EXPECT_LE(max_row_error(simulated(data, 17, {20}, 0, oracle).rows, truth), 1e-12) << name(mask);
  }
}

// --- error bars ------------------------------------------------------------------------------------------------------

/// Share of rows whose bar of level 0.9 their error stays under, exact rows apart.
double coverage(MaskKind mask, Index tokens, Index near, Index samples, double decay, OracleKind kind) {
  constexpr Index heads = 4, dim = 8;
  constexpr int seeds = sanitized ? 12 : 60;
  double covered = 0, counted = 0;
  for (int seed = 1; seed <= seeds; ++seed) {
    Data data(mask, tokens, heads, dim, 0.4, static_cast<std::uint64_t>(seed));
    for (Index col = 0; col < heads * dim; ++col) data.v.col(col) *= std::pow(decay, static_cast<double>(col % dim));
    const Matrix<double> truth = data.direct();
    const Sampled found = simulated(data, 33, {samples, near, 0, static_cast<std::uint64_t>(seed)}, 0.9, kind);
    for (Index row = 0; row < tokens; ++row)
      for (Index head = 0; head < heads; ++head) {
        const double bar = found.bars(row, head);
        const double error = (found.rows - truth).row(row).segment(head * dim, dim).norm();
        if (bar == 0) {
          EXPECT_LT(error, 1e-12) << "a row without a bar is exact";
          continue;
        }
        counted += 1;
        covered += error <= bar ? 1 : 0;
      }
  }
  EXPECT_GT(counted, 0);
  return covered / counted;
}

TEST(ErrorBars, Of90PercentCover87To93PercentOfRows) {
  const double slack = sanitized ? 0.03 : 0;  // a fifth of the seeds
  for (const Index blocks : {16, 17})
    for (const Index samples : {4, 8}) {
      const double share = coverage(MaskKind::full, 32 * blocks, 0, samples, 1.0, OracleKind::plain);
      RecordProperty("T" + std::to_string(blocks) + "_S" + std::to_string(samples), std::to_string(share));
      EXPECT_GE(share, 0.87 - slack) << "T = " << blocks << ", S = " << samples;
      EXPECT_LE(share, 0.93 + slack) << "T = " << blocks << ", S = " << samples;
    }
}

TEST(ErrorBars, CoverWhereErrorsSpreadUnevenlyAndBesideANearField) {
  const double slack = sanitized ? 0.03 : 0;
  const auto expect = [&](const char* what, double share) {
    RecordProperty(what, std::to_string(share));
    EXPECT_GE(share, 0.87 - slack) << what;
    EXPECT_LE(share, 0.93 + slack) << what;
  };
  expect("uneven", coverage(MaskKind::full, 512, 0, 4, 0.5, OracleKind::plain));
  expect("near", coverage(MaskKind::full, 512, 20, 5, 0.8, OracleKind::plain));
  expect("causal", coverage(MaskKind::causal, 512, 20, 4, 0.8, OracleKind::causal));
}

TEST(ErrorBars, OfOneDirectionAreStudentsIntervals) {
  // Two columns of which one is zero, no near field, equal weights: y is the mean of S numbers, nu = 1.
  const std::vector<double> values{1.0, 4.0, 2.0, 9.0};
  ErrorBars<double> bars(1, 1, 2, 0.9);
  for (Index s = 0; s < 4; ++s) {
    Job job{Tile{{0, 1}, {s, s + 1}}, 0, 0, {0, 1}, s};
    job.tile.drawn = 4;
    job.tile.stands_for = 10;
    Partial<double> partial = Partial<double>::empty(1, 2);
    partial.value(0, 0) = values[static_cast<std::size_t>(s)];
    partial.log_weight[0] = 700;
    bars(job, partial);
  }
  // Mean 4, squares 9 + 0 + 4 + 25 = 38; a quarter of s^2 = 38 / 3, less the share 0.4; t_0.95(3) = 2.3533634.
  EXPECT_NEAR(bars.finish()(0, 0), std::sqrt(38.0 / 3 / 4 * 0.6) * 2.3533634348018264, 1e-9);
}

TEST(ErrorBars, AreZeroWhereNothingIsDrawnAndRefuseASampleOfOne) {
  const Data data(MaskKind::causal, 100, 2, 4, 0.4, 1);
  const Sampled found = simulated(data, 17, {2, 0, 0, 1}, 0.9, OracleKind::causal);
  EXPECT_EQ(found.bars.rows(), 100);
  EXPECT_EQ(found.bars.cols(), 2);
  // 7 blocks of 15 or 14 tokens: the first three have no more than two far blocks.
  const Index drawn_from = 15 + 15 + 14;
  EXPECT_TRUE((found.bars.topRows(drawn_from).array() == 0).all());
  EXPECT_TRUE((found.bars.bottomRows(100 - drawn_from).array() > 0).all());
  EXPECT_TRUE((simulated(data, 17, {}, 0.9, OracleKind::causal).bars.array() == 0).all()) << "an exact plan";
  EXPECT_THROW(static_cast<void>(simulated(data, 17, {1}, 0.9, OracleKind::causal)), SpecError);
  for (const double level : {-0.5, 1.0, 2.0, std::nan("")})
    EXPECT_THROW((ErrorBars<double>(1, 1, 1, level)), SpecError) << level;
}

TEST(FQuantile, IsWhatClosedFormsAndTablesSay) {
  for (const double p : {0.5, 0.9, 0.99})
    for (const double n : {1.0, 3.0, 6.5, 40.0, 1000.0}) {
      // With 2 degrees of freedom above: P(F > f) = (1 + 2 f / n)^(-n / 2). With 2 below: P(F < f) = x^(n / 2).
      EXPECT_NEAR(detail::f_quantile(p, 2, n) / (n / 2 * (std::pow(1 - p, -2 / n) - 1)), 1, 1e-9) << p << ", " << n;
      const double x = std::pow(p, 2 / n);
      EXPECT_NEAR(detail::f_quantile(p, n, 2) / (2 * x / (n * (1 - x))), 1, 1e-8) << p << ", " << n;
    }
  EXPECT_NEAR(detail::f_quantile(0.9, 1, 3), 5.538319456, 1e-8);
  EXPECT_NEAR(detail::f_quantile(0.95, 5, 10), 3.325834530, 1e-8);
}

// --- the theorem's own figures ---------------------------------------------------------------------------------------

TEST(AverageCaseBound, AsksForTheRowsThatTheTheoremSays) {
  // 8 e^4 ln(40 * 4096) and 128 (ln 16 + ln(40 * 4096)) / 0.25, in figures worked out apart.
  AverageCase a{std::exp(1.0), 1.0, 4096, 1, 1};
  EXPECT_NEAR(average_case_rows(a, 1), 5244.3, 0.2);
  a = {1.0, 0.5, 4096, 16, 1};
  EXPECT_NEAR(average_case_rows(a, 1), 128 * (2.7725887 + 12.0066510) / 0.25, 0.1);
  EXPECT_NEAR(average_case_rows(a, 0.1), 100 * average_case_rows(a, 1), 1e-6);
  const double one = average_case_rows(a, 1);
  a.heads = 12;
  EXPECT_NEAR(average_case_rows(a, 1) - one, 128 * std::log(12.0) / 0.25, 1e-6);
  for (const Index rows : {100, 100000000})
    EXPECT_NEAR(average_case_rows({1.1, 0.5, 100, 4, 1}, 0.5) * 0.25,
                std::pow(average_case_error({1.1, 0.5, 100, 4, 1}, rows), 2) * static_cast<double>(rows), 1e-6);
  EXPECT_TRUE(std::isinf(average_case_rows({2, 0, 100, 4, 1}, 1)));
  EXPECT_THROW(static_cast<void>(average_case_rows({0.5, 1, 100, 4, 1}, 1)), SpecError);
  EXPECT_THROW(static_cast<void>(average_case_rows({1, 1.5, 100, 4, 1}, 1)), SpecError);
  EXPECT_THROW(static_cast<void>(average_case_rows({1, 1, 100, 4, 1}, 0)), SpecError);
  EXPECT_THROW(static_cast<void>(average_case_rows({1, 1, 100, 4, 1}, 1.5)), SpecError);
  EXPECT_THROW(static_cast<void>(average_case_rows({1, 1, 0, 4, 1}, 1)), SpecError);
  EXPECT_THROW(static_cast<void>(average_case_error({1, 1, 100, 4, 1}, 0)), SpecError);
}

TEST(AverageCaseFigures, AreTheLeastCAndTheLargestDThatHold) {
  for (const MaskKind mask : {MaskKind::full, MaskKind::causal}) {
    Data data(mask, 40, 2, 3, 0.7, 9);
    data.v.array() += 1.5;
    const AverageCaseFigures figures = measure_average_case(data.input());
    EXPECT_TRUE(figures.exact);
    EXPECT_EQ(figures.queries, 40);
    naive::Real most = 0, widest = 0, d = 1;
    for (Index head = 0; head < 2; ++head) {
      const naive::Table s = naive::logits(naive::columns(naive::plain(data.q), 3 * head, 3),
                                           naive::columns(naive::plain(data.k), 3 * head, 3), data.spec.score_scale);
      const naive::Table v = naive::columns(naive::plain(data.v), 3 * head, 3);
      for (Index i = 0; i < 40; ++i) {
        const Index keys = mask == MaskKind::causal ? i + 1 : 40;
        naive::Row sum(3, 0);
        naive::Real low = s[naive::at(i)][0], high = low, longest = 0;
        for (Index j = 0; j < keys; ++j) {
          const naive::Real logit = s[naive::at(i)][naive::at(j)];
          low = std::min(low, logit), high = std::max(high, logit);
          naive::Real square = 0;
          for (std::size_t c = 0; c < 3; ++c) {
            const naive::Real b = std::exp(logit) * v[naive::at(j)][c];
            sum[c] += b, square += b * b;
          }
          longest = std::max(longest, std::sqrt(square));
        }
        most = std::max({most, high, -low});
        widest = std::max(widest, high - low);
        const naive::Real length = std::sqrt(sum[0] * sum[0] + sum[1] * sum[1] + sum[2] * sum[2]);
        d = std::min(d, length / (static_cast<naive::Real>(keys) * longest));
      }
    }
    EXPECT_NEAR(figures.c, static_cast<double>(std::exp(most)), 1e-12 * figures.c);
    EXPECT_NEAR(figures.centred_c, static_cast<double>(std::exp(widest / 2)), 1e-12 * figures.c);
    EXPECT_NEAR(figures.d, static_cast<double>(d), 1e-12);
    const AverageCaseFigures estimate = measure_average_case(data.input(), 7, 3);
    EXPECT_FALSE(estimate.exact);
    EXPECT_EQ(estimate.queries, 7);
    EXPECT_LE(estimate.c, figures.c);
    EXPECT_LE(estimate.centred_c, figures.centred_c);
    EXPECT_GE(estimate.d, figures.d);
    EXPECT_EQ(estimate.d, measure_average_case(data.input(), 7, 3).d) << "the same seed";
    EXPECT_THROW(static_cast<void>(measure_average_case(data.input(), 0)), SpecError);
  }
}

}  // namespace
