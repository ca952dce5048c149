#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <twoheads/codec/codes.hpp>
#include <vector>

#include "support/message_of.hpp"

namespace {

using namespace twoheads;

/// C(n, k) by the triangle of Pascal.
double choose(Index n, Index k) {
  std::vector<double> row{1};
  for (Index i = 0; i < n; ++i) {
    row.push_back(0);
    for (std::size_t j = row.size() - 1; j > 0; --j) row[j] += row[j - 1];
  }
  return row[static_cast<std::size_t>(k)];
}

template <class Scalar>
struct Written {
  std::vector<RowVector<Scalar>> queries, keys;
};

template <class Scalar>
Written<Scalar> written(const Codes& codes, Scalar amplitude) {
  Written<Scalar> all;
  for (Index i = 0; i < codes.instances(); ++i) {
    // Written over NaN, so that every column must be.
    RowVector<Scalar> u = RowVector<Scalar>::Constant(codes.columns(), std::numeric_limits<Scalar>::quiet_NaN());
    RowVector<Scalar> w = u;
    codes.write_query(i, amplitude, u);
    codes.write_key(i, amplitude, w);
    all.queries.push_back(u);
    all.keys.push_back(w);
  }
  return all;
}

TEST(Codes, ColumnsAreTheSmallestEvenNumberWhoseHalvesSuffice) {
  for (const Index instances :
       {1,   2,   3,   4,   6,   7,    8,    19,   20,    21,    69,     70,     71,     251,       252,
        253, 923, 924, 925, 999, 3432, 3433, 5000, 12870, 12871, 100000, 184756, 184757, 1000000000}) {
    const Index columns = Codes::columns_for(instances);
    EXPECT_EQ(columns % 2, 0) << instances;
    EXPECT_GE(choose(columns, columns / 2), static_cast<double>(instances)) << instances;
    if (columns > 0) {
      EXPECT_LT(choose(columns - 2, columns / 2 - 1), static_cast<double>(instances)) << instances;
    }
  }
  EXPECT_EQ(Codes::columns_for(1), 0);
  EXPECT_EQ(Codes::columns_for(2), 2);
  EXPECT_EQ(Codes::columns_for(924), 12);
  EXPECT_EQ(Codes::columns_for(925), 14);
  EXPECT_EQ(Codes::columns_for(5000), 16);
}

template <class Scalar>
void expect_laws(Index instances, Scalar b) {
  const Codes codes(instances);
  ASSERT_EQ(codes.instances(), instances);
  ASSERT_EQ(codes.columns(), Codes::columns_for(instances));
  const Written<Scalar> all = written(codes, b);
  for (std::size_t i = 0; i < all.queries.size(); ++i) {
    // Half the columns are the query's -B, the others the key's B; no column is both.
    ASSERT_EQ((all.queries[i].array() == -b).count(), codes.columns() / 2) << instances << " instances, " << i;
    ASSERT_EQ((all.queries[i].array() == 0).count(), codes.columns() / 2) << instances << " instances, " << i;
    ASSERT_TRUE((all.keys[i].array() == all.queries[i].array() + b).all()) << instances << " instances, " << i;
    for (Index c = 0; c < codes.columns(); ++c) {
      ASSERT_EQ(all.queries[i][c] * all.keys[i][c], 0) << instances << " instances, " << i << ", column " << c;
      ASSERT_EQ(codes.in_set(static_cast<Index>(i), c), all.queries[i][c] == -b);
    }
    // Every other instance's keys lie at least B^2 below; sums of few multiples of a power of two are exact.
    for (std::size_t j = 0; j < all.keys.size(); ++j) {
      if (i == j) continue;
      const Scalar product = all.queries[i].dot(all.keys[j]);
      ASSERT_LE(product, -b * b) << instances << " instances, " << i << " and " << j;
    }
  }
}

TEST(Codes, AQueryMeetsItsOwnKeysWithZerosAloneAndAllOthersAtMinusBSquaredOrLess) {
  for (const Index instances : {1, 2, 3, 6, 7, 20, 21, 70, 252, 924}) {
    expect_laws<float>(instances, 8.0F);
    expect_laws<double>(instances, 0.5);
  }
}

TEST(Codes, OfFiveThousandInstancesDifferAndKeepTheirDistance) {
  const Codes codes(5000);
  const Written<float> all = written(codes, 4.0F);
  std::set<std::string> seen;
  for (const RowVector<float>& u : all.queries) {
    std::string bits;
    for (Index c = 0; c < codes.columns(); ++c) bits += u[c] != 0 ? '1' : '0';
    EXPECT_EQ(std::count(bits.begin(), bits.end(), '1'), codes.columns() / 2);
    EXPECT_TRUE(seen.insert(bits).second) << bits << " twice";
  }
  // Sets of the same size that differ leave at least one column of a query's outside the other's: -B^2 or less.
  for (std::size_t i = 0; i < all.queries.size(); i += 499)
    for (std::size_t j = 0; j < all.keys.size(); ++j)
      ASSERT_TRUE(i == j ? all.queries[i].dot(all.keys[j]) == 0 : all.queries[i].dot(all.keys[j]) <= -16.0F);
}

TEST(Codes, AKeyWithoutACodeIsSeenByEveryInstanceAlike) {
  const Codes codes(30);
  const RowVector<float> none = RowVector<float>::Zero(codes.columns());
  for (const RowVector<float>& u : written(codes, 1e15F).queries) EXPECT_EQ(u.dot(none), 0);
}

TEST(Codes, OfASingleInstanceTakeNoColumn) {
  const Codes one(1);
  EXPECT_EQ(one.columns(), 0);
  RowVector<float> nothing(0);
  one.write_query(0, 3.0F, nothing);
  one.write_key(0, 3.0F, nothing);
}

TEST(Codes, ForNoInstanceAreRefused) {
  EXPECT_EQ(message_of<SpecError>([] { const Codes none(0); }), "codes for 0 instances, expected 1 or more");
  EXPECT_EQ(message_of<SpecError>([] { static_cast<void>(Codes::columns_for(-4)); }),
            "codes for -4 instances, expected 1 or more");
}

// --- amplitudes ------------------------------------------------------------------------------------------------------

template <class Scalar>
void expect_square_beyond(double gap) {
  for (const Index columns : {1, 2, 12, 40}) {
    const Scalar b = code_amplitude<Scalar>(gap, columns);
    // As the oracle multiplies: in its own scalar.
    EXPECT_GE(static_cast<double>(b * b), gap) << columns << " columns";
    EXPECT_LE(static_cast<double>(b), std::sqrt(gap) * (1 + 1e-5)) << columns << " columns, far above the gap";
    // Nor do all columns together leave the scalar.
    EXPECT_TRUE(std::isfinite(b * b * static_cast<Scalar>(columns))) << gap << ", " << columns << " columns";
  }
}

TEST(CodeAmplitude, ItsSquareIsNotBelowTheGapInTheScalar) {
  for (double gap = 1e-3; gap < 1e36; gap *= 3.7) {
    expect_square_beyond<float>(gap);
    expect_square_beyond<double>(gap);
  }
  for (double gap = 1e36; gap < 1e300; gap *= 1e13) expect_square_beyond<double>(gap);
}

TEST(CodeAmplitude, BeyondTheScalarIsALimitErrorThatSaysWhatWouldDo) {
  for (const double gap :
       {1e38, 1e39, 1e300, std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    const std::string message = message_of<LimitError>([&] { static_cast<void>(code_amplitude<float>(gap, 12)); });
    EXPECT_NE(message.find("wider scalar"), std::string::npos) << message;
  }
  EXPECT_NO_THROW(static_cast<void>(code_amplitude<double>(1e39, 12)));
  EXPECT_THROW(static_cast<void>(code_amplitude<double>(1e308, 12)), LimitError);
  // More columns make larger products: the same gap that one column bears.
  EXPECT_NO_THROW(static_cast<void>(code_amplitude<float>(5e37, 1)));
  EXPECT_THROW(static_cast<void>(code_amplitude<float>(5e37, 2)), LimitError);
}

}  // namespace
