// The tile kernel alone: every shape of tile, any size, against long double; NaN and infinity; no allocation.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <new>
#include <string>
#include <twoheads/attention/tile_kernel.hpp>
#include <twoheads/plan/tile.hpp>
#include <utility>
#include <vector>

#include "support/bounds.hpp"
#include "support/in_shape.hpp"
#include "support/message_of.hpp"
#include "support/naive.hpp"
#include "support/sanitized.hpp"
#include "support/tile_problem.hpp"

namespace {
std::atomic<int> allocations{0};
}  // namespace

#ifndef TWOHEADS_TEST_SANITIZED
// Counts what the program allocates; the aligned forms are those that the kernel's room comes from.
void* operator new(std::size_t bytes) {
  ++allocations;
  if (void* const found = std::malloc(bytes)) return found;
  throw std::bad_alloc();
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  ++allocations;
  const auto step = static_cast<std::size_t>(alignment);
  if (void* const found = std::aligned_alloc(step, (bytes + step - 1) / step * step)) return found;
  throw std::bad_alloc();
}
void operator delete(void* room) noexcept { std::free(room); }
void operator delete(void* room, std::size_t) noexcept { std::free(room); }
void operator delete(void* room, std::align_val_t) noexcept { std::free(room); }
void operator delete(void* room, std::size_t, std::align_val_t) noexcept { std::free(room); }
#endif

namespace {

using namespace twoheads;
using namespace tile_problem;

template <class Backend>
struct TileKernelOf : testing::Test {};
using Backends =
    testing::Types<VectorExtension<float>, VectorExtension<double>, EigenSimd<float>, VectorExtension<float, 16, 16>>;
TYPED_TEST_SUITE(TileKernelOf, Backends);

TYPED_TEST(TileKernelOf, EvaluatesEveryShapeOfTile) {
  for (const Index rows : {1, 31, 32, 33, 100})
    for (const Index keys : {1, 7, 127, 128, 129, 300}) {
      const auto with = [&](const KeyBand& band, const char* shape) {
        expect_right<TypeParam>({rows, keys, 16, 16, {{{0, rows}, {0, keys}, band}}},
                                std::string(shape) + " of " + std::to_string(rows) + " x " + std::to_string(keys));
      };
      with(KeyBand::all(), "rectangle");
      with(KeyBand::lower(), "lower triangle");
      with(KeyBand::strict_upper(), "strict upper triangle");
      with({-20, 5}, "band");
      with({100, 130}, "band that few rows see");
      with({-5, -3}, "band before the keys");
    }
}

TYPED_TEST(TileKernelOf, TakesAnyHeadDimAndValueDimAndStride) {
  for (const Index head_dim : {1, 2, 3, 5, 8, 13, 64, 80, 130})
    for (const Index value_dim : {1, 4, 7, 9, 96, 130})
      for (const Index gap : {0, 3})
        expect_right<TypeParam>(
            {40, 150, head_dim, value_dim, {{{0, 40}, {0, 150}, {-30, 60}}}},
            "dims " + std::to_string(head_dim) + ", " + std::to_string(value_dim) + ", gap " + std::to_string(gap),
            gap);
}

TYPED_TEST(TileKernelOf, JoinsTilesOfSomeOfItsRows) {
  // Documents in one block; a rectangle beside triangles; rows that no tile has.
  expect_right<TypeParam>({90,
                           200,
                           8,
                           8,
                           {{{0, 20}, {0, 20}, KeyBand::lower()},
                            {{20, 65}, {20, 65}, KeyBand::all()},
                            {{65, 80}, {65, 80}, KeyBand::lower()},
                            {{30, 60}, {65, 200}, KeyBand::all()},
                            {{0, 90}, {199, 200}, {2, 3}}}},
                          "parts");
}

TYPED_TEST(TileKernelOf, TakesAnyScoreScaleAndSoftCap) {
  for (const double scale : {1.0, -0.7, 1e-3, 40.0, 0.0})
    for (const double cap : {0.0, 0.5, 30.0}) {
      Problem p{50, 170, 8, 8, {{{0, 50}, {0, 170}, {-60, 90}}}};
      p.score_scale = scale;
      p.soft_cap = cap;
      expect_right<TypeParam>(p, "scale " + std::to_string(scale) + ", cap " + std::to_string(cap));
    }
}

TYPED_TEST(TileKernelOf, JoinsManyKeysInAWiderScalar) {
  const Index keys = 4096 * 2 + 77;
  Problem p{3, keys, 4, 4, {{{0, 3}, {0, keys}, KeyBand::all()}}};
  expect_right<TypeParam>(p, "one long tile");
  p.parts.clear();
  for (Index begin = 0; begin < keys; begin += 1000)
    p.parts.push_back({{0, 3}, {begin, std::min(begin + 1000, keys)}, KeyBand::all()});
  expect_right<TypeParam>(p, "tiles of 1000 keys");
}

// --- laws ------------------------------------------------------------------------------------------------------------

TEST(KeyBand, ShowsWhatTheShapesOfTilesShow) {
  for (const auto& [band, shape] : {std::pair{KeyBand::all(), TileShape::rectangle},
                                    {KeyBand::lower(), TileShape::lower},
                                    {KeyBand::strict_upper(), TileShape::strict_upper}})
    for (Index rows = 1; rows <= 5; ++rows)
      for (Index keys = 0; keys <= 6; ++keys) {
        Rows some{keys, 0};
        for (Index row = 0; row < rows; ++row) {
          const Rows seen = band.seen(row, keys);
          for (Index key = 0; key < keys; ++key) {
            EXPECT_EQ(seen.contains(key), in_shape(shape, row, key)) << name(shape) << ", " << row << ", " << key;
            EXPECT_EQ(band.from_key(2).seen(row, keys).contains(key), in_shape(shape, row, key + 2)) << name(shape);
            if (in_shape(shape, row, key)) some = {std::min(some.begin, key), std::max(some.end, key + 1)};
          }
        }
        const Rows found = band.seen_by_some({0, rows}, {0, keys});
        if (some.empty())
          EXPECT_TRUE(found.empty()) << name(shape) << " of " << rows << " rows and " << keys << " keys";
        else
          EXPECT_EQ(found, some) << name(shape) << " of " << rows << " rows and " << keys << " keys";
      }
}

TEST(TileKernel, ABlockHasTheBitsOfItsRowsAlone) {
  // A row's answer does not depend on the rows beside it, nor on what the kernel did before.
  const Problem p{70, 300, 16, 8, {{{0, 70}, {0, 300}, KeyBand::all()}}};
  const Numbers n = random_numbers(p);
  const Found<float> all = evaluate<VectorExtension<float>>(p, n.q, n.k, n.v);
  TileKernel<float> kernel(16, 8, {0.3, 0});
  for (const Rows rows : {Rows{0, 1}, Rows{5, 60}, Rows{69, 70}, Rows{0, 70}}) {
    kernel.begin(block_view(view(n.q), rows, 0, 16));
    kernel.add({0, rows.size()}, view(n.k), view(n.v), KeyBand::all());
    EXPECT_TRUE(kernel.finish().value == all.value.middleRows(rows.begin, rows.size()));
  }
}

TEST(TileKernel, PartialsMergeToWhatItJoinsInPlace) {
  const Problem p{50, 900, 8, 8, {{{0, 50}, {0, 900}, KeyBand::all()}}};
  const Numbers n = random_numbers(p);
  const Truth truth = truth_of(p, n.q, n.k, n.v);
  TileKernel<float> kernel(8, 8, {0.3, 0});
  auto sum = Partial<double>::empty(50, 8);
  for (const Rows keys : {Rows{0, 100}, Rows{100, 101}, Rows{101, 900}}) {
    kernel.begin(view(n.q));
    kernel.add({0, 50}, block_view(view(n.k), keys, 0, 8), block_view(view(n.v), keys, 0, 8), KeyBand::all());
    merge_into(sum, kernel.finish());
  }
  const Real bound = bounds::attention_bound<float>(900, 8, truth.logit);
  EXPECT_LE(bounds::max_row_error(sum.value, truth.value, naive::largest(naive::plain(n.v))), bound);
}

TEST(TileKernel, AFactorCountsATileSeveralTimes) {
  // The same keys given three times, or once with the factor 3.
  const Problem p{20, 60, 8, 8, {}};
  const Numbers n = random_numbers(p);
  const auto view_of = [](const Matrix<float>& m, Rows rows) { return block_view(view(m), rows, 0, 8); };
  TileKernel<float> once(8, 8, {0.3, 0});
  TileKernel<float> thrice(8, 8, {0.3, 0});
  once.begin(view(n.q));
  thrice.begin(view(n.q));
  once.add({0, 20}, view_of(n.k, {0, 20}), view_of(n.v, {0, 20}), KeyBand::all());
  once.add({0, 20}, view_of(n.k, {20, 60}), view_of(n.v, {20, 60}), KeyBand::all(), std::log(3.0));
  thrice.add({0, 20}, view_of(n.k, {0, 20}), view_of(n.v, {0, 20}), KeyBand::all());
  for (int i = 0; i < 3; ++i) thrice.add({0, 20}, view_of(n.k, {20, 60}), view_of(n.v, {20, 60}), KeyBand::all());
  const Partial<float> a = once.finish();
  const Partial<float> b = thrice.finish();
  EXPECT_LE((a.value - b.value).cwiseAbs().maxCoeff(), 1e-6F);
  EXPECT_LE((a.log_weight - b.log_weight).cwiseAbs().maxCoeff(), 1e-6);
}

TEST(TileKernel, SixteenBitKeysAreWidenedAndNothingElse) {
  const Problem p{50, 300, 24, 20, {{{0, 50}, {0, 300}, {-100, 150}}}};
  const Numbers n = random_numbers(p);
  const auto check = [&]<class Stored>(Stored) {
    const Matrix<Stored> k = n.k.cast<Stored>();
    const Matrix<Stored> v = n.v.cast<Stored>();
    TileKernel<float> kernel(24, 20, {0.3, 0});
    kernel.begin(view(n.q));
    kernel.add({0, 50}, view(k), view(v), {-100, 150});
    const Found<float> rounded =
        evaluate<DefaultSimd<float>>(p, n.q, k.template cast<float>(), v.template cast<float>());
    EXPECT_TRUE(kernel.finish().value == rounded.value);
  };
  check(Eigen::bfloat16());
  check(Eigen::half());
}

TEST(TileKernel, LargeScoresThatCancelAreNotRounded) {
  // q . k is a whole number far below |q| |k|; a scale that is no power of two must not be multiplied into q.
  Matrix<float> q(1, 4), k(3, 4), v(3, 1);
  q << 4097, 4095, 1, 0;
  k << 4095, -4097, 1, 0, 4095, -4097, 3, 0, 4095, -4097, 2, 0;
  v << 1, 2, 4;
  TileKernel<float> kernel(4, 1, {0.7, 0});
  kernel.begin(view(q));
  kernel.add({0, 1}, view(k), view(v), KeyBand::all());
  const double a = std::exp(0.7 * 1), b = std::exp(0.7 * 3), c = std::exp(0.7 * 2);
  EXPECT_NEAR(kernel.finish().value(0, 0), (a + 2 * b + 4 * c) / (a + b + c), 1e-6);
}

TEST(TileKernel, DoesNotAllocateOnceItHasRoom) {
  if (sanitized) GTEST_SKIP() << "a sanitizer has operators new of its own";
  const Problem p{200, 5000, 32, 40, {}};
  const Numbers n = random_numbers(p);
  TileKernel<float> kernel(32, 40, {0.3, 0});
  Matrix<float> out(200, 40);
  std::vector<double> log_weights(200);
  const auto run = [&] {
    kernel.begin(view(n.q));
    // Beyond 4096 keys, so that sums of the wider scalar are used too; rows of k lie apart.
    kernel.add({0, 200}, view(n.k), view(n.v), {-4000, 4999});
    kernel.add({10, 100}, block_view(view(n.k), {0, 300}, 0, 32), block_view(view(n.v), {0, 300}, 0, 40), {10, 20});
    kernel.finish(span(out), log_weights.data());
  };
  run();
  const int before = allocations;
  run();
  EXPECT_EQ(allocations - before, 0);
}

// --- NaN and infinity ------------------------------------------------------------------------------------------------

template <class Backend>
struct TileKernelNaN : testing::Test {};
TYPED_TEST_SUITE(TileKernelNaN, Backends);

/// Which entries are NaN: (row, column) pairs as text, so that a difference can be read.
template <class Dense>
std::string marks(const Dense& value) {
  std::string text;
  for (Index i = 0; i < value.rows(); ++i) {
    for (Index j = 0; j < value.cols(); ++j)
      text += std::isnan(value(i, j)) ? 'n' : std::isinf(value(i, j)) ? (value(i, j) > 0 ? '+' : '-') : '.';
    text += '\n';
  }
  return text;
}

/// IEEE direct evaluation, in double, by loops: each row takes part in what it sees alone.
Matrix<double> by_ieee(const Problem& p, const Matrix<float>& q, const Matrix<float>& k, const Matrix<float>& v) {
  Matrix<double> out = Matrix<double>::Zero(p.rows, p.value_dim);
  for (Index i = 0; i < p.rows; ++i) {
    std::vector<Index> seen;
    for (Index j = 0; j < p.keys; ++j)
      for (const Part& part : p.parts)
        if (part.sees(i, j)) seen.push_back(j);
    if (seen.empty()) continue;
    std::vector<double> s;
    double most = -std::numeric_limits<double>::infinity();
    for (const Index j : seen) {
      double sum = 0;
      for (Index c = 0; c < p.head_dim; ++c) sum += static_cast<double>(q(i, c)) * static_cast<double>(k(j, c));
      s.push_back(p.score_scale * sum);
      most = s.back() > most || std::isnan(s.back()) ? s.back() : most;
    }
    double weight = 0;
    for (double& score : s) weight += score = std::exp(score - most);
    for (std::size_t n = 0; n < seen.size(); ++n) out.row(i) += s[n] * v.row(seen[n]).cast<double>();
    out.row(i) /= weight;
  }
  return out;
}

TYPED_TEST(TileKernelNaN, ReachTheRowsThatSeeThemAndNoOther) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinite = std::numeric_limits<float>::infinity();
  const std::vector<std::vector<Part>> shapes{
      {{{0, 70}, {0, 200}, KeyBand::lower()}},
      {{{0, 70}, {0, 200}, KeyBand::strict_upper()}},
      {{{0, 70}, {0, 200}, {-10, 30}}},
      {{{0, 20}, {0, 50}, KeyBand::all()}, {{20, 70}, {50, 200}, KeyBand::all()}}};
  for (const std::vector<Part>& parts : shapes)
    for (const float bad : {nan, infinite, -infinite})
      for (const Index place : {0, 15, 33, 69, 140, 199})
        for (const int where : {0, 1, 2}) {
          const Problem p{70, 200, 4, 3, parts};
          Numbers n = random_numbers(p);
          if (where == 0) n.q(place % 70, 1) = bad;
          if (where == 1) n.k(place, 2) = bad;
          if (where == 2) n.v(place, 1) = bad;
          const auto found = evaluate<TypeParam>(p, n.q, n.k, n.v, 0, false);
          EXPECT_EQ(marks(found.value), marks(by_ieee(p, n.q, n.k, n.v))) << bad << " at " << place << " of "
                                                                          << "qkv"[where];
        }
}

TYPED_TEST(TileKernelNaN, ComeThroughLongSumsToo) {
  // A NaN among the first keys outlives 4096 others and the join in a wider scalar, and so does an infinite value.
  const Index keys = 9000;
  const Problem p{3, keys, 4, 3, {{{0, 3}, {0, keys}, KeyBand::all()}}};
  for (const int where : {1, 2}) {
    Numbers n = random_numbers(p);
    (where == 1 ? n.k : n.v)(5, 1) = std::numeric_limits<float>::quiet_NaN();
    EXPECT_EQ(marks(evaluate<TypeParam>(p, n.q, n.k, n.v, 0, false).value), marks(by_ieee(p, n.q, n.k, n.v)));
  }
  Numbers n = random_numbers(p);
  n.v(7, 2) = std::numeric_limits<float>::infinity();
  EXPECT_EQ(marks(evaluate<TypeParam>(p, n.q, n.k, n.v, 0, false).value), "..+\n..+\n..+\n");
}

TYPED_TEST(TileKernelNaN, AKeyOfMinusInfiniteScoreHasNoWeight) {
  // The first 150 keys score -inf for every row: what follows must not be lost in inf - inf.
  using Scalar = typename TypeParam::Scalar;
  const Problem p{40, 300, 2, 2, {{{0, 40}, {0, 300}, KeyBand::all()}}};
  Numbers n = random_numbers(p);
  n.q.col(0).setConstant(1);
  n.k.col(0).setZero();
  n.k.col(0).head(150).setConstant(-std::numeric_limits<float>::infinity());
  const Found<Scalar> found = evaluate<TypeParam>(p, n.q, n.k, n.v);
  const Matrix<double> truth = by_ieee(p, n.q, n.k, n.v);
  EXPECT_LE((found.value.template cast<double>() - truth).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>(), 1e-5);
  // Where all scores are -inf, IEEE evaluation has nothing but inf - inf.
  n.k.col(0).setConstant(-std::numeric_limits<float>::infinity());
  EXPECT_EQ(marks(evaluate<TypeParam>(p, n.q, n.k, n.v).value), marks(by_ieee(p, n.q, n.k, n.v)));
}

TYPED_TEST(TileKernelNaN, OutliveAJoinWithoutWeight) {
  // 4500 keys score -inf, one of them with a NaN value: 0 NaN is NaN, also where these keys are joined by themselves.
  const Index keys = 9000;
  const Problem p{3, keys, 4, 3, {{{0, 3}, {0, 4500}, KeyBand::all()}, {{0, 3}, {4500, keys}, KeyBand::all()}}};
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Numbers n = random_numbers(p);
    n.q.col(0).setConstant(1);
    n.k.col(0).head(4500).setConstant(-std::numeric_limits<float>::infinity());
    n.v(7, 1) = bad;
    EXPECT_EQ(marks(evaluate<TypeParam>(p, n.q, n.k, n.v, 0, false).value), marks(by_ieee(p, n.q, n.k, n.v))) << bad;
  }
}

TYPED_TEST(TileKernelNaN, ARowThatSeesNoKeyIsZeroWithoutWeight) {
  const Problem p{66, 10, 4, 3, {{{10, 66}, {0, 10}, KeyBand::strict_upper()}}};
  const Numbers n = random_numbers(p);
  const auto found = evaluate<TypeParam>(p, n.q, n.k, n.v);
  for (Index row = 0; row < 66; ++row) {
    const bool sees = row >= 10 && row < 19;
    EXPECT_EQ(found.log_weight[static_cast<std::size_t>(row)] == unseen, !sees) << row;
    if (!sees) {
      EXPECT_TRUE((found.value.row(row).array() == 0).all()) << row;
    }
  }
}

// --- what it refuses -------------------------------------------------------------------------------------------------

TEST(TileKernel, SaysWhatDoesNotFit) {
  EXPECT_THROW(TileKernel<float>(0, 4, {1, 0}), SpecError);
  EXPECT_THROW(TileKernel<float>(4, 4, {std::numeric_limits<double>::infinity(), 0}), SpecError);
  EXPECT_THROW(TileKernel<float>(4, 4, {1, -2}), SpecError);
  TileKernel<float> kernel(4, 3, {1, 0});
  const Matrix<float> four = Matrix<float>::Zero(5, 4);
  const Matrix<float> three = Matrix<float>::Zero(5, 3);
  EXPECT_THROW(kernel.begin(view(three)), ShapeError);
  kernel.begin(view(four));
  EXPECT_THROW(kernel.add({0, 5}, view(three), view(three), KeyBand::all()), ShapeError);
  EXPECT_THROW(kernel.add({0, 5}, view(four), view(four), KeyBand::all()), ShapeError);
  EXPECT_EQ(message_of<ShapeError>([&] {
              kernel.add({3, 7}, view(four), view(three), KeyBand::all());
            }),
            "a tile of rows 3..6 of a block of 5");
}

}  // namespace
