// Attention by the tile kernel: every mask against long double, any block length, any plan, in parts, sampled.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <twoheads/attention/direct.hpp>
#include <twoheads/exec/kernel_attention.hpp>
#include <twoheads/exec/time_kernel.hpp>
#include <twoheads/model/random.hpp>
#include <twoheads/plan/cover.hpp>
#include <twoheads/simulate.hpp>
#include <vector>

#include "support/bounds.hpp"
#include "support/instances.hpp"
#include "support/naive.hpp"
#include "support/seed.hpp"
#include "support/text_of_mask.hpp"

namespace {

using namespace twoheads;
using bounds::Real;

static_assert(KeySource<AttentionInput<float>>);
static_assert(AttendInParts<KernelAttention<float>, float> && AttendInParts<KernelAttention<double>, double>);
static_assert(Engine<KernelEngine<float>, float>);

AttentionSpec spec_of(const Mask& mask) {
  AttentionSpec spec;
  spec.heads = 4;
  spec.kv_heads = 2;
  spec.head_dim = 6;
  spec.value_dim = 5;
  spec.score_scale = 0.4;
  spec.mask = mask;
  return spec;
}

template <class Scalar>
struct Rowset {
  Rowset(const AttentionSpec& spec, Index queries, Index keys) {
    Random random(seed_or(404));
    q = random.matrix<float>(queries, spec.heads * spec.head_dim).template cast<Scalar>();
    k = random.matrix<float>(keys, spec.kv_heads * spec.head_dim).template cast<Scalar>();
    v = random.matrix<float>(keys, spec.kv_heads * spec.value_dim).template cast<Scalar>();
  }
  Matrix<Scalar> q, k, v;
};

template <class Scalar>
Matrix<Scalar> attend(const AttentionSpec& spec, const Rowset<Scalar>& rows, KernelAttention<Scalar>& kernel) {
  Matrix<Scalar> out =
      Matrix<Scalar>::Constant(rows.q.rows(), spec.heads * spec.value_dim, std::numeric_limits<Scalar>::quiet_NaN());
  kernel(projected_input(spec, view(rows.q), view(rows.k), view(rows.v)), span(out));
  return out;
}

template <class Scalar>
Matrix<Scalar> attend(const AttentionSpec& spec, const Rowset<Scalar>& rows, const KernelOptions& options = {}) {
  KernelAttention<Scalar> kernel(options);
  return attend(spec, rows, kernel);
}

/// Attention of float rows by long double, for as many runs as one likes.
struct Truth {
  Truth(const AttentionSpec& s, Index queries, Index keys) : spec(s), rows(s, queries, keys) {
    naive::Scores scores;
    value = naive::attention(spec, naive::plain(rows.q), naive::plain(rows.k), naive::plain(rows.v),
                             naive::visible(spec.mask), &scores);
    logit = scores.absolute;
  }

  template <class Scalar>
  void expect(const KernelOptions& options, const std::string& what) const {
    const Rowset<Scalar> own(spec, rows.q.rows(), rows.k.rows());
    const Real bound = bounds::attention_bound<Scalar>(rows.k.rows(), spec.head_dim, logit);
    EXPECT_LE(bounds::max_row_error(attend(spec, own, options), value, naive::largest(naive::plain(rows.v))), bound)
        << what;
  }

  AttentionSpec spec;
  Rowset<float> rows;
  naive::Table value;
  Real logit = 0;
};

std::vector<Mask> masks(Index tokens) {
  std::vector<Mask> all{Mask::full(),
                        Mask::causal(),
                        Mask::sliding_window(1),
                        Mask::sliding_window(7),
                        Mask::sliding_window(90),
                        Mask::window_and_sinks(5, 3),
                        Mask::window_and_sinks(40, 20),
                        Mask::band(9, 0),
                        Mask::band(3, 11),
                        Mask::band(0, 70)};
  const std::vector<Index> lengths =
      tokens > 60 ? std::vector<Index>{1, 2, 40, tokens - 43} : std::vector<Index>{tokens};
  all.push_back(Mask::documents(lengths, false));
  all.push_back(Mask::documents(lengths, true));
  return all;
}

TEST(KernelAttention, IsAttentionForEveryMaskAndBlockLength) {
  for (const Index tokens : {1, 2, 33, 130, 257})
    for (const Mask& mask : masks(tokens)) {
      const Truth truth(spec_of(mask), tokens, tokens);
      for (const Index rows : {0, 2, 3, 32, 50, 256}) {
        KernelOptions options;
        options.rows = rows;
        const std::string what =
            text_of(mask) + ", " + std::to_string(tokens) + " tokens, blocks of " + std::to_string(rows);
        truth.expect<float>(options, what);
        if (rows == 32) truth.expect<double>(options, what);
      }
    }
}

TEST(KernelAttention, TakesOtherKeysThanQueries) {
  for (const Index keys : {1, 5, 300})
    for (const Index rows : {2, 64}) Truth(spec_of(Mask::full()), 70, keys).expect<float>({.rows = rows}, "cross");
}

TEST(KernelAttention, EvaluatesThePlansOfOracles) {
  for (const Mask& mask : masks(130)) {
    const Truth truth(spec_of(mask), 130, 130);
    for (const OracleKind kind : {OracleKind::plain, OracleKind::causal, OracleKind::kernel})
      for (const Index rows : {2, 3, 17, 64, 129, 200}) {
        KernelOptions options;
        options.rows = rows;
        options.plan_for = kind;
        truth.expect<float>(options, text_of(mask) + " on " + name(kind) + " of " + std::to_string(rows));
      }
  }
}

TEST(KernelPlan, CoversEveryPairOnceAndCountsWhatItEnumerates) {
  for (const Index tokens : {1, 2, 33, 130})
    for (const Mask& mask : masks(tokens))
      for (const Index rows : {2, 3, 16, 32, 100, 200}) {
        OracleLimits limits;
        limits.kind = OracleKind::kernel;
        limits.rows = rows;
        const Plan plan({mask, tokens, 0, 2, 1, limits});
        const std::string what = text_of(mask) + ", " + std::to_string(tokens) + ", " + std::to_string(rows);
        EXPECT_EQ(check_cover(plan), "exact") << what;
        Index jobs = 0;
        plan.for_each_job([&](const Job& job) {
          ++jobs;
          EXPECT_LE(job.block_queries.size(), rows) << what;
        });
        EXPECT_EQ(jobs, plan.jobs()) << what;
      }
}

TEST(KernelAttention, GivesLogWeights) {
  for (const Mask& mask : {Mask::full(), Mask::causal(), Mask::window_and_sinks(5, 3)}) {
    const AttentionSpec spec = spec_of(mask);
    const Rowset<float> rows(spec, 100, 100);
    KernelAttention<float> kernel({.rows = 32, .log_weights = true});
    static_cast<void>(attend(spec, rows, kernel));
    for (Index head = 0; head < spec.heads; ++head) {
      const naive::Table s =
          naive::logits(naive::columns(naive::plain(rows.q), head * 6, 6),
                        naive::columns(naive::plain(rows.k), spec.kv_head_of(head) * 6, 6), spec.score_scale);
      for (Index row = 0; row < 100; ++row)
        EXPECT_NEAR(kernel.log_weights()(row, head),
                    static_cast<double>(naive::log_sum_exp(s[naive::at(row)], row, naive::visible(mask))), 5e-6);
    }
  }
}

/// The tiles of blocks of 32 rows as partials, merged.
Matrix<float> merged_partials(const AttentionSpec& spec, const Rowset<float>& rows) {
  OracleLimits limits;
  limits.kind = OracleKind::kernel;
  limits.rows = 32;
  const Plan plan({spec.mask, rows.q.rows(), 0, spec.heads, 1, limits});
  const AttentionInput<float> input = projected_input(spec, view(rows.q), view(rows.k), view(rows.v));
  KernelEngine<float> engine(plan, input, input, true);
  Matrix<float> out = Matrix<float>::Constant(rows.q.rows(), spec.heads * spec.value_dim, 7);
  Merger<float> merger(span(out), spec.value_dim);
  plan.for_each_job([&](const Job& job) { merger(job, engine.evaluate(std::span(&job, 1)).front()); });
  merger.finish();
  return out;
}

TEST(KernelAttention, AnEngineOfTilesMergesToTheSame) {
  for (const Mask& mask : masks(130)) {
    const AttentionSpec spec = spec_of(mask);
    const Rowset<float> rows(spec, 130, 130);
    const Matrix<float> out = merged_partials(spec, rows);
    const Matrix<float> in_place = attend(spec, rows, {.rows = 32});
    EXPECT_LE((out - in_place).cwiseAbs().maxCoeff<Eigen::PropagateNaN>(), 3e-6F) << text_of(mask);
  }
}

TEST(KernelAttention, ATileOfScoresAllMinusInfiniteHasNoWeightAmongPartials) {
  // As in place: what follows must not be lost in the NaN of a tile that has no weight.
  const AttentionSpec spec = spec_of(Mask::causal());
  Rowset<float> rows(spec, 130, 130);
  rows.q = rows.q.cwiseAbs();
  rows.k.topRows(50).setConstant(-std::numeric_limits<float>::infinity());
  const Matrix<float> out = merged_partials(spec, rows);
  const Matrix<float> in_place = attend(spec, rows, {.rows = 32});
  EXPECT_TRUE(in_place.bottomRows(80).allFinite());
  EXPECT_LE((out - in_place).bottomRows(80).cwiseAbs().maxCoeff<Eigen::PropagateNaN>(), 3e-6F);
}

TEST(KernelAttention, TinyScoreScalesWeighKeysAlike) {
  // Below the scalar's numbers a scale is 0: a hidden score of -inf must not be multiplied by it.
  for (const double scale : {1e-46, -1e-60, 1e-300}) {
    AttentionSpec spec = spec_of(Mask::causal());
    const Rowset<float> rows(spec, 70, 70);
    spec.score_scale = 0;
    const Matrix<float> alike = attend(spec, rows);
    spec.score_scale = scale;
    EXPECT_LE((attend(spec, rows) - alike).cwiseAbs().maxCoeff<Eigen::PropagateNaN>(), 1e-6F) << scale;
  }
}

TEST(KernelAttention, TinySoftCapsWeighKeysAlike) {
  // The scale over the cap is beyond the scalar's range: a score of 0 must not be multiplied by it.
  AttentionSpec spec = spec_of(Mask::causal());
  Rowset<float> rows(spec, 70, 70);
  rows.q.row(3).setZero();
  spec.score_scale = 0;
  const Matrix<float> alike = attend(spec, rows);
  spec.score_scale = 1;
  for (const double cap : {1e-30, 1e-39, 1e-44}) {
    spec.soft_cap = cap;
    EXPECT_LE((attend(spec, rows) - alike).cwiseAbs().maxCoeff<Eigen::PropagateNaN>(), 1e-6F) << cap;
  }
}

TEST(KernelAttention, TheErrorDoesNotGrowWithTheNumberOfKeys) {
  // Equal keys and values make rounding add up where sums are long.
  AttentionSpec spec;
  spec.head_dim = spec.value_dim = 4;
  for (const Index keys : {Index{1} << 12, Index{1} << 16, Index{1} << 20}) {
    Rowset<float> rows(spec, 2, keys);
    rows.k.setZero();
    rows.v.setConstant(0.7F);
    EXPECT_LE((attend(spec, rows).array() - 0.7F).abs().maxCoeff<Eigen::PropagateNaN>(), 1e-6F) << keys;
  }
}

TEST(KernelAttention, DrawsTheSampleThatTheGridDraws) {
  for (const Mask& mask : {Mask::full(), Mask::causal()}) {
    const AttentionSpec spec = spec_of(mask);
    const Rowset<float> rows(spec, 200, 200);
    const Sampling sampling{.samples = 2, .seed = 5};
    const Matrix<float> by_kernel = attend(spec, rows, {.rows = 16, .sampling = sampling});
    OracleLimits limits;
    limits.kind = mask.kind == MaskKind::full ? OracleKind::plain : OracleKind::causal;
    limits.rows = 17;
    SmallTransformer<float> oracle(limits);
    GridAttention<SmallTransformer<float>> grid(oracle, {.sampling = sampling});
    Matrix<float> by_grid(200, spec.heads * spec.value_dim);
    grid(projected_input(spec, view(rows.q), view(rows.k), view(rows.v)), span(by_grid));
    EXPECT_LE((by_kernel - by_grid).cwiseAbs().maxCoeff<Eigen::PropagateNaN>(), 5e-6F) << text_of(mask);
    EXPECT_GT((by_kernel - attend(spec, rows)).cwiseAbs().maxCoeff(), 1e-2F);
  }
}

TEST(KernelAttention, SixteenBitsAreThoseOfRoundedKeys) {
  const AttentionSpec spec = spec_of(Mask::window_and_sinks(40, 3));
  const Rowset<float> rows(spec, 300, 300);
  Rowset<float> rounded = rows;
  rounded.k = rows.k.cast<Eigen::bfloat16>().cast<float>();
  rounded.v = rows.v.cast<Eigen::bfloat16>().cast<float>();
  EXPECT_TRUE(attend(spec, rows, {.rows = 50, .storage = KeyStorage::bfloat16}) == attend(spec, rounded, {.rows = 50}));
  rounded.k = rows.k.cast<Eigen::half>().cast<float>();
  rounded.v = rows.v.cast<Eigen::half>().cast<float>();
  EXPECT_TRUE(attend(spec, rows, {.rows = 50, .storage = KeyStorage::half}) == attend(spec, rounded, {.rows = 50}));
  EXPECT_FALSE(attend(spec, rows, {.rows = 50}) == attend(spec, rounded, {.rows = 50}));
}

TEST(KernelAttention, LongWindowsRunInParts) {
  // The model's forward pass runs layers in parts for attention that can take them; behind a lambda it cannot.
  for (const Mask& mask : {Mask::sliding_window(50), Mask::window_and_sinks(70, 9), Mask::band(30, 20)}) {
    ModelSpec spec;
    spec.layers = 2;
    spec.width = 2048;  // of such wide rows a part holds few
    spec.attention = spec_of(mask);
    spec.attention.rope = RopeSpec{};
    const Model<float> model = random_model<float>(spec, seed_or(9));
    const Matrix<float> x = Random(seed_or(10)).matrix<float>(1000, spec.width);
    KernelAttention<float> kernel({.rows = 48});
    const Matrix<float> in_parts = forward(model, x, kernel);
    const Matrix<float> whole =
        forward(model, x, [&](const AttentionInput<float>& input, MatrixSpan<float> out) { kernel(input, out); });
    // Projections of other numbers of rows are rounded otherwise.
    EXPECT_LE((in_parts - whole).norm(), 1e-5F * whole.norm()) << text_of(mask);
  }
}

TEST(KernelAttention, ABadValueReachesTheRowsThatSeeIt) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const Mask& mask : masks(130)) {
    const AttentionSpec spec = spec_of(mask);
    for (const char which : {'q', 'k', 'v'}) {
      Rowset<float> rows(spec, 130, 130);
      const Matrix<float> clean = attend(spec, rows, {.rows = 32});
      // Row 61, a column of key/value head 1 (query heads 2 and 3), or of query head 2.
      if (which == 'q') rows.q(61, 2 * 6 + 3) = nan;
      if (which == 'k') rows.k(61, 6 + 3) = nan;
      if (which == 'v') rows.v(61, 5 + 3) = nan;
      const Matrix<float> found = attend(spec, rows, {.rows = 32});
      const naive::Visible sees = naive::visible(mask);
      for (Index row = 0; row < 130; ++row)
        for (Index col = 0; col < found.cols(); ++col) {
          const Index head = col / 5;
          const bool reached = which == 'q'   ? row == 61 && head == 2
                               : which == 'k' ? sees(row, 61) && head >= 2
                                              : sees(row, 61) && head >= 2 && col % 5 == 3;
          EXPECT_EQ(std::isnan(found(row, col)), reached)
              << text_of(mask) << ", " << which << ", row " << row << ", column " << col;
          if (!reached) {
            EXPECT_NEAR(found(row, col), clean(row, col), 1e-5F);
          }
        }
    }
  }
}

TEST(KernelAttention, SoftCapsAreThoseOfDirectAttention) {
  for (const Mask& mask : {Mask::full(), Mask::causal()}) {
    AttentionSpec spec = spec_of(mask);
    spec.soft_cap = 0.5;
    const Rowset<float> rows(spec, 100, 100);
    Matrix<float> direct(100, spec.heads * spec.value_dim);
    DirectAttention<float>()(projected_input(spec, view(rows.q), view(rows.k), view(rows.v)), span(direct));
    EXPECT_LE((attend(spec, rows) - direct).cwiseAbs().maxCoeff<Eigen::PropagateNaN>(), 2e-6F);
    spec.soft_cap = 0;
    EXPECT_GT((attend(spec, rows) - direct).cwiseAbs().maxCoeff(), 1e-2F);
  }
}

TEST(KernelAttention, BlocksChosenForItFillTheirPanels) {
  const AttentionSpec spec = spec_of(Mask::causal());
  PlanRequest request;
  request.mask = spec.mask;
  request.tokens = request.keys = 3000;
  request.heads = spec.heads;
  request.oracle.kind = OracleKind::kernel;
  const RowsChoice choice = choose_kernel_rows<float>(request, spec);
  EXPECT_GE(choice.chosen.rows, TileKernel<float>::panel);
  EXPECT_EQ(choice.reason().rfind("blocks of ", 0), 0U) << choice.reason();
}

TEST(KernelAttention, OraclesRefuseSoftCaps) {
  AttentionSpec spec = spec_of(Mask::full());
  spec.soft_cap = 5;
  const Rowset<float> rows(spec, 20, 20);
  OracleLimits limits;
  limits.rows = 9;
  SmallTransformer<float> oracle(limits);
  GridAttention<SmallTransformer<float>> grid(oracle);
  Matrix<float> out(20, spec.heads * spec.value_dim);
  EXPECT_THROW(grid(projected_input(spec, view(rows.q), view(rows.k), view(rows.v)), span(out)), SpecError);
}

TEST(KernelAttention, OraclesRefuseTheKernelsPlan) {
  OracleLimits limits;
  limits.kind = OracleKind::kernel;
  limits.rows = 9;
  EXPECT_THROW(SmallTransformer<float>{limits}, LimitError);
  const Tile tile{{0, 4}, {0, 4}, TileShape::lower};
  EXPECT_THROW(SlotMap(tile, OracleKind::kernel, false), LimitError);
}

TEST(KernelAttention, SaysWhatDoesNotFit) {
  const AttentionSpec spec = spec_of(Mask::causal());
  Rowset<float> rows(spec, 20, 20);
  rows.v.resize(20, 3);
  EXPECT_THROW(static_cast<void>(attend(spec, rows)), ShapeError);
  const Rowset<float> cross(spec, 20, 21);
  EXPECT_THROW(static_cast<void>(attend(spec, cross)), SpecError);
  EXPECT_THROW(static_cast<void>(attend(spec, Rowset<float>(spec, 20, 20), {.rows = 1})), SpecError);
  EXPECT_THROW(static_cast<void>(attend(spec, Rowset<float>(spec, 20, 20), {.rows = -5})), SpecError);
}

}  // namespace
