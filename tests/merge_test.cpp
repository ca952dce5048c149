#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <exception>
#include <limits>
#include <random>
#include <string>
#include <tuple>
#include <twoheads/attention/partial.hpp>
#include <twoheads/model/random.hpp>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/bounds.hpp"
#include "support/message_of.hpp"
#include "support/naive.hpp"
#include "support/seed.hpp"

namespace {

using namespace twoheads;
using bounds::Real;

constexpr double unseen = -std::numeric_limits<double>::infinity();

std::uint64_t seed() { return seed_or(441); }

/// Rows of values with log weights over `spread` nats; every eighth row has seen no key.
template <class Scalar>
Partial<Scalar> random_partial(Index rows, Index value_dim, double spread, Random& random) {
  Partial<Scalar> partial{random.matrix<Scalar>(rows, value_dim), Vector<double>(rows)};
  for (Index row = 0; row < rows; ++row) {
    partial.log_weight[row] = spread * (random.uniform() - 0.5);
    if (random.uniform() > 0.125) continue;
    partial.log_weight[row] = unseen;
    partial.value.row(row).setZero();
  }
  return partial;
}

template <class Scalar>
Partial<Scalar> one_row(Scalar value, double log_weight) {
  return {Matrix<Scalar>::Constant(1, 1, value), Vector<double>::Constant(1, log_weight)};
}

/// The definition in long double: sum exp(w_t) v_t / sum exp(w_t), and the logarithm of that denominator.
struct Joined {
  naive::Table value;
  std::vector<Real> log_weight;
};

template <class Scalar>
Joined naive_join(const std::vector<Partial<Scalar>>& parts) {
  const Index rows = parts.front().value.rows(), cols = parts.front().value.cols();
  Joined joined{naive::zeros(rows, cols), {}};
  for (Index row = 0; row < rows; ++row) {
    naive::Row weights;
    for (const Partial<Scalar>& part : parts) weights.push_back(part.log_weight[row]);
    const Real total = naive::log_sum_exp(weights, 0, [&](Index, Index t) { return weights[naive::at(t)] != unseen; });
    joined.log_weight.push_back(total);
    for (std::size_t t = 0; t < parts.size(); ++t)
      for (Index c = 0; c < cols && weights[t] != unseen; ++c)
        joined.value[naive::at(row)][naive::at(c)] +=
            std::exp(weights[t] - total) * static_cast<Real>(parts[t].value(row, c));
  }
  return joined;
}

/// Log weights within `error` of the truth; -inf where it is -inf, and a zero value there.
template <class Scalar>
void expect_log_weights(const Partial<Scalar>& found, const std::vector<Real>& truth, Real error) {
  ASSERT_EQ(found.log_weight.size(), static_cast<Index>(truth.size()));
  for (Index row = 0; row < found.rows(); ++row) {
    const Real expected = truth[naive::at(row)];
    if (std::isinf(expected)) {
      EXPECT_EQ(found.log_weight[row], unseen) << "row " << row;
      EXPECT_TRUE(found.value.row(row).isZero(0)) << "row " << row;
    } else {
      EXPECT_LE(std::abs(static_cast<Real>(found.log_weight[row]) - expected), error) << "row " << row;
    }
  }
}

template <class Scalar>
void expect_same_bits(const Partial<Scalar>& a, const Partial<Scalar>& b) {
  using Bits = std::conditional_t<std::same_as<Scalar, float>, std::uint32_t, std::uint64_t>;
  ASSERT_EQ(std::tuple(a.value.rows(), a.value.cols()), std::tuple(b.value.rows(), b.value.cols()));
  for (Index i = 0; i < a.value.size(); ++i)
    ASSERT_EQ(std::bit_cast<Bits>(a.value.data()[i]), std::bit_cast<Bits>(b.value.data()[i])) << i;
  for (Index row = 0; row < a.rows(); ++row)
    ASSERT_EQ(std::bit_cast<std::uint64_t>(a.log_weight[row]), std::bit_cast<std::uint64_t>(b.log_weight[row])) << row;
}

/// A merge rounds exp, its two shares, two products and one sum; its log weight is off by an ulp of itself or of log 2.
template <class Scalar>
constexpr Real value_bound(Index merges) {
  return 8 * static_cast<Real>(merges) * bounds::eps<Scalar>;
}
Real weight_bound(Index merges, double largest) {
  return 2 * static_cast<Real>(merges) * bounds::eps<double> * std::max<Real>(largest, 1);
}

template <class Scalar>
class Merge : public testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(Merge, Scalars);

TYPED_TEST(Merge, IsCommutativeAndAssociativeUpToRounding) {
  using Scalar = TypeParam;
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  Random random(seed());
  for (const double spread : {0.0, 1.0, 30.0, 800.0, 1e5}) {
    SCOPED_TRACE(testing::Message() << "log weights over " << spread << " nats");
    const auto a = random_partial<Scalar>(200, 3, spread, random), b = random_partial<Scalar>(200, 3, spread, random),
               c = random_partial<Scalar>(200, 3, spread, random);
    const Real scale = std::max({naive::largest(naive::plain(a.value)), naive::largest(naive::plain(b.value)),
                                 naive::largest(naive::plain(c.value))});
    const Joined two = naive_join<Scalar>({a, b}), three = naive_join<Scalar>({a, b, c});
    for (const auto& pair : {merge(a, b), merge(b, a)}) {
      EXPECT_LE(bounds::max_row_error(pair.value, two.value, scale), value_bound<Scalar>(1));
      expect_log_weights(pair, two.log_weight, weight_bound(1, spread));
    }
    for (const auto& triple : {merge(merge(a, b), c), merge(a, merge(b, c)), merge(merge(c, a), b)}) {
      EXPECT_LE(bounds::max_row_error(triple.value, three.value, scale), value_bound<Scalar>(2));
      expect_log_weights(triple, three.log_weight, weight_bound(2, spread));
    }
  }
}

TYPED_TEST(Merge, EmptyIsAnExactIdentityOnBothSides) {
  using Scalar = TypeParam;
  Random random(seed());
  Partial<Scalar> a = random_partial<Scalar>(50, 3, 900, random);
  a.value(0, 0) = Scalar(-0.0);
  a.value(1, 0) = std::numeric_limits<Scalar>::denorm_min();
  a.value(2, 0) = std::numeric_limits<Scalar>::max();
  a.log_weight[0] = a.log_weight[1] = a.log_weight[2] = 1;
  a.log_weight[3] = -1e308;
  a.log_weight[4] = -0.0;
  const auto empty = Partial<Scalar>::empty(50, 3);
  expect_same_bits(merge(a, empty), a);
  expect_same_bits(merge(empty, a), a);
  expect_same_bits(merge(empty, empty), empty);
  expect_same_bits(merge(merge(empty, a), merge(empty, empty)), a);
}

TYPED_TEST(Merge, ARowThatNoSideHasSeenStaysZeroAndNeverNaN) {
  using Scalar = TypeParam;
  const auto empty = Partial<Scalar>::empty(2, 2);
  EXPECT_EQ(empty.rows(), 2);
  EXPECT_EQ(empty.value, (Matrix<Scalar>::Zero(2, 2)));
  EXPECT_EQ(empty.log_weight, (Vector<double>::Constant(2, unseen)));
  Partial<Scalar> sum = empty, half = empty;
  half.value.row(1).setConstant(3);
  half.log_weight[1] = 700;
  for (int repeat = 0; repeat < 3; ++repeat) merge_into(sum, half);
  EXPECT_EQ(sum.log_weight[0], unseen);
  EXPECT_TRUE(sum.value.row(0).isZero(0));
  EXPECT_NEAR(sum.log_weight[1], 700 + std::log(3.0), 1e-12);
  EXPECT_NEAR(static_cast<double>(sum.value(1, 1)), 3, 1e-6);
}

TYPED_TEST(Merge, TheHeavierSideWinsExactlyWhereTheOtherIsLost) {
  using Scalar = TypeParam;
  for (const auto& [heavy, light] :
       {std::pair{1e300, -1e300}, {1e308, -1e308}, {1e308, 1e300}, {-1e300, -1e308}, {0.0, -1e4}, {-1e4, -1.2e4}}) {
    const auto a = one_row<Scalar>(Scalar(3), heavy), b = one_row<Scalar>(Scalar(-5), light);
    expect_same_bits(merge(a, b), a);
    expect_same_bits(merge(b, a), a);
  }
  for (const double equal : {1e308, -1e308, 0.0}) {
    const auto mean = merge(one_row<Scalar>(Scalar(3), equal), one_row<Scalar>(Scalar(-5), equal));
    EXPECT_EQ(mean.value(0, 0), Scalar(-1));
    EXPECT_DOUBLE_EQ(mean.log_weight[0], equal + std::log(2.0));
  }
  const Scalar most = std::numeric_limits<Scalar>::max();
  EXPECT_TRUE(std::isfinite(merge(one_row<Scalar>(most, 0), one_row<Scalar>(most, 0)).value(0, 0)));
}

/// Keys in parts, each with its own partial of softmax attention; a query sees each key or does not, at random.
template <class Scalar>
struct Split {
  std::vector<Partial<Scalar>> parts;
  Joined truth;
  Real largest_value = 0;
  Real largest_weight = 0;
};

template <class Scalar>
Split<Scalar> random_split(Index queries, Index keys, double deviation, Random& random) {
  const naive::Table s = naive::plain(random.matrix<double>(queries, keys, deviation));
  const naive::Table v = naive::plain(random.matrix<double>(keys, 2));
  std::vector<bool> visible;
  for (Index i = 0; i < queries * keys; ++i) visible.push_back(random.uniform() < 0.7 && i / keys != 0);
  const naive::Visible sees = [&](Index q, Index k) -> bool { return visible[naive::at(q * keys + k)]; };
  Split<Scalar> split;
  split.truth.value = naive::softmax_mean(s, v, sees);
  for (Index q = 0; q < queries; ++q) {
    split.truth.log_weight.push_back(naive::log_sum_exp(s[naive::at(q)], q, sees));
    if (q > 0) split.largest_weight = std::max(split.largest_weight, std::abs(split.truth.log_weight.back()));
  }
  split.largest_value = naive::largest(v);
  for (Index begin = 0; begin < keys;) {
    const Index end = std::min(keys, begin + 1 + static_cast<Index>(random.uniform() * 5));
    const naive::Visible here = [&](Index q, Index k) { return begin <= k && k < end && sees(q, k); };
    const naive::Table mean = naive::softmax_mean(s, v, here);
    auto part = Partial<Scalar>::empty(queries, 2);
    for (Index q = 0; q < queries; ++q) {
      part.log_weight[q] = static_cast<double>(naive::log_sum_exp(s[naive::at(q)], q, here));
      for (Index c = 0; c < 2; ++c) part.value(q, c) = static_cast<Scalar>(mean[naive::at(q)][naive::at(c)]);
    }
    split.parts.push_back(part);
    begin = end;
  }
  return split;
}

TYPED_TEST(Merge, PartsOfAKeySetInAnyOrderGiveTheAttentionOverTheWhole) {
  using Scalar = TypeParam;
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  Random random(seed());
  std::mt19937_64 bits(seed());
  for (const double deviation : {0.5, 8.0, 250.0}) {
    Split<Scalar> split = random_split<Scalar>(12, 150, deviation, random);
    const Index merges = static_cast<Index>(split.parts.size());
    ASSERT_GT(merges, 20);
    const auto expect_whole = [&](const Partial<Scalar>& found) {
      EXPECT_LE(bounds::max_row_error(found.value, split.truth.value, split.largest_value),
                value_bound<Scalar>(merges));
      expect_log_weights(found, split.truth.log_weight, weight_bound(merges, double(split.largest_weight)));
    };
    for (int order = 0; order < 5; ++order) {
      SCOPED_TRACE(testing::Message() << "deviation " << deviation << ", order " << order);
      std::shuffle(split.parts.begin(), split.parts.end(), bits);
      auto in_turn = Partial<Scalar>::empty(12, 2);
      for (const Partial<Scalar>& part : split.parts) merge_into(in_turn, part);
      expect_whole(in_turn);
      std::vector<Partial<Scalar>> forest = split.parts;
      while (forest.size() > 1) {  // a random tree
        const std::size_t one = bits() % (forest.size() - 1);
        forest[one] = merge(forest[one], forest.back());
        forest.pop_back();
      }
      expect_whole(forest.front());
    }
  }
}

TEST(MergeInto, FloatPartialsSumInDoubleWithoutLosingDigits) {
  static_assert(std::is_same_v<SumScalar<float>, double> && std::is_same_v<SumScalar<double>, double> &&
                std::is_same_v<SumScalar<long double>, long double>);
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  Random random(seed());
  std::vector<Partial<float>> parts;
  for (int part = 0; part < 3000; ++part) parts.push_back(random_partial<float>(4, 3, 2, random));
  auto sum = Partial<double>::empty(4, 3);
  for (const Partial<float>& part : parts) merge_into(sum, part);
  const Joined truth = naive_join(parts);
  EXPECT_LE(bounds::max_row_error(sum.value, truth.value, 5), value_bound<double>(3000));
  expect_log_weights(sum, truth.log_weight, weight_bound(3000, 10));
}

TEST(MergeInto, RefusesOtherShapesAndLeavesTheSumAlone) {
  const auto message = [](Partial<double> sum, const Partial<float>& part) {
    const Partial<double> before = sum;
    const std::string text = message_of<ShapeError>([&] { merge_into(sum, part); });
    EXPECT_EQ(sum.value, before.value);
    EXPECT_EQ(sum.log_weight, before.log_weight);
    return text;
  };
  const auto of = [](Index rows, Index cols, Index weights) {
    return Partial<float>{Matrix<float>::Ones(rows, cols), Vector<double>::Ones(weights)};
  };
  const Partial<double> sum{Matrix<double>::Ones(3, 2), Vector<double>::Ones(3)};
  EXPECT_EQ(message(sum, of(2, 2, 2)), "merge: the second partial's value is 2 x 2, expected 3 x 2");
  EXPECT_EQ(message(sum, of(3, 1, 3)), "merge: the second partial's value is 3 x 1, expected 3 x 2");
  EXPECT_EQ(message(sum, of(3, 2, 4)), "merge: the second partial's log weights is 4 x 1, expected 3 x 1");
  EXPECT_EQ(message({Matrix<double>::Ones(3, 2), Vector<double>::Ones(1)}, of(3, 2, 3)),
            "merge: the first partial's log weights is 1 x 1, expected 3 x 1");
  EXPECT_THROW(static_cast<void>(merge(of(3, 2, 3), of(3, 3, 3))), ShapeError);
}

}  // namespace
