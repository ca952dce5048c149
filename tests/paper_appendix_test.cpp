// Appendix A by oracle calls: a block of ones, sums of rows, a table look-up. Numbers pass through cells alone.

#include <gtest/gtest.h>

#include <algorithm>
#include <concepts>
#include <numeric>
#include <random>
#include <twoheads/model/random.hpp>
#include <twoheads/oracle/wrappers.hpp>
#include <twoheads/paper/appendix_a.hpp>

#include "support/bounds.hpp"
#include "support/instances.hpp"
#include "support/naive.hpp"

namespace {

using namespace twoheads;
using naive::Real;
template <class S>
using Counted = CountingOracle<SmallTransformer<S>>;

OracleLimits limits_of(OracleKind kind, Index rows, Index heads = 1, bool fixed = false) {
  OracleLimits limits;
  limits.kind = kind;
  limits.rows = rows;
  limits.heads = heads;
  limits.fixed_rows = fixed;
  return limits;
}

/// Oracles of both kinds, short and long, of one head and more, of fixed length or not, with a scale of their own.
std::vector<OracleLimits> all_limits() {
  std::vector<OracleLimits> all;
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
    for (const Index rows : {2, 7, 16})
      for (const Index heads : {1, 3})
        for (const bool fixed : {false, true}) {
          all.push_back(limits_of(kind, rows, heads, fixed));
          all.back().score_scale = fixed ? 0.25 : 1.0;
        }
  return all;
}

std::string say(const OracleLimits& limits) {
  return detail::text(name(limits.kind), ", R ", limits.rows, ", H' ", limits.heads,
                      limits.fixed_rows ? ", fixed" : "");
}

/// One small transformer, counted, behind a door for cells.
template <class S>
struct Bench {
  explicit Bench(const OracleLimits& limits) : small(limits), oracle(small), machine(oracle) {}
  Bench(const Bench&) = delete;

  SmallTransformer<S> small;
  Counted<S> oracle;
  CellMachine<Counted<S>> machine;
};

Matrix<double> tokens_of(Index rows, Index width, std::uint64_t seed = 11) {
  return Random(seed).matrix<double>(rows, width);
}

/// Sums of groups of rows that follow each other.
naive::Table group_sums(const Matrix<double>& x, Index group) {
  naive::Table sums = naive::zeros(x.rows() / group, x.cols());
  for (Index row = 0; row < x.rows(); ++row)
    for (Index col = 0; col < x.cols(); ++col)
      sums[naive::at(row / group)][naive::at(col)] += static_cast<Real>(x(row, col));
  return sums;
}

// --- cells: nothing but moving rows ----------------------------------------------------------------------------------

template <class C>
concept Readable = requires(const C& cells) {
  cells(0, 0);
}
|| requires(const C& cells) { cells.data(); }
|| requires(const C& cells) { cells.values_; }
|| std::convertible_to<C, Matrix<double>>;
template <class C>
concept Summable = requires(const C& cells) {
  cells + cells;
}
|| requires(const C& cells) { cells* cells; }
|| requires(const C& cells) { cells / cells; }
|| requires(const C& cells) { cells == cells; };

static_assert(Readable<Matrix<double>> && Summable<Matrix<double>>);
static_assert(!Readable<Cells<double>> && !Summable<Cells<double>>);
static_assert(!std::constructible_from<Cells<double>, Matrix<double>>);
static_assert(Machine<CellMachine<SmallTransformer<double>>> && Machine<CellMachine<Counted<float>>>);

TEST(CellsOfRows, AreMovedAndJoined) {
  using M = CellMachine<SmallTransformer<double>>;
  const Matrix<double> x = tokens_of(4, 3);
  const Cells<double> cells = M::take(x);
  const Matrix<double> picked = M::reveal(cells.gather(std::vector<Index>{2, -1, 2}));
  EXPECT_EQ(picked.row(0), x.row(2));
  EXPECT_EQ(picked.row(1), Matrix<double>::Zero(1, 3));
  EXPECT_EQ(picked.row(2), x.row(2));
  EXPECT_EQ(M::reveal(cells.columns(1, 2)), x.rightCols(2));
  const Cells<double> ones = Cells<double>::constants(4, 1, 1.0);
  const Matrix<double> wide = M::reveal(Cells<double>::beside(std::vector{cells, ones}));
  EXPECT_EQ(wide.leftCols(3), x);
  EXPECT_EQ(wide.col(3), Matrix<double>::Ones(4, 1));
  const Matrix<double> tall = M::reveal(Cells<double>::below(std::vector{cells, cells}));
  EXPECT_EQ(tall.bottomRows(4), x);
  EXPECT_THROW(static_cast<void>(cells.columns(2, 2)), ShapeError);
  EXPECT_THROW(static_cast<void>(cells.gather(std::vector<Index>{4})), ShapeError);
  EXPECT_THROW(static_cast<void>(Cells<double>::beside(std::vector{cells, Cells<double>::constants(3, 1, 0)})),
               ShapeError);
  EXPECT_THROW(static_cast<void>(Cells<double>::below(std::vector{cells, ones})), ShapeError);
}

TEST(CellMachines, RefuseWhatTheOracleDoesNotTake) {
  Bench<double> bench(limits_of(OracleKind::plain, 4));
  CellCall<Cells<double>> call{{3, {}}, bench.machine.take(tokens_of(5, 3))};
  EXPECT_THROW(static_cast<void>(bench.machine.run({call})), LimitError);
  call.rows = bench.machine.take(tokens_of(4, 2));
  EXPECT_THROW(static_cast<void>(bench.machine.run({call})), ShapeError);
  EXPECT_EQ(bench.oracle.calls(), 0);
}

// --- Lemma A.1 -------------------------------------------------------------------------------------------------------

TEST(IndicatorBlocks, AreOnesInTheirCornerAndZerosElsewhere) {
  for (const OracleLimits& limits : all_limits())
    for (const Index n : {1, 7, 20})
      for (const Index a : {Index{0}, Index{1}, n})
        for (const Index b : {0, 1, 4}) {
          Bench<double> bench(limits);
          const Matrix<double> x = tokens_of(n, 3);
          const Matrix<double> found =
              bench.machine.reveal(indicator_block(bench.machine, bench.machine.take(x), a, b, 4));
          Matrix<double> expected = Matrix<double>::Zero(n, 4);
          expected.topLeftCorner(a, b).setOnes();
          // Weights between rows are 0 or, where the exponential clamps, 6e-309.
          EXPECT_LE((found - expected).cwiseAbs().maxCoeff<Eigen::PropagateNaN>(), 1e-300) << say(limits);
          EXPECT_EQ(bench.oracle.calls(), ceil_div(ceil_div(n, limits.rows), limits.heads)) << say(limits);
        }
}

TEST(IndicatorBlocks, LargerThanTheResultAreRefused) {
  Bench<double> bench(limits_of(OracleKind::plain, 4));
  const Cells<double> x = bench.machine.take(tokens_of(3, 2));
  EXPECT_THROW(static_cast<void>(indicator_block(bench.machine, x, 4, 1, 4)), ShapeError);
  EXPECT_THROW(static_cast<void>(indicator_block(bench.machine, x, 1, 5, 4)), ShapeError);
}

// --- Lemma A.2 -------------------------------------------------------------------------------------------------------

TEST(SumsOfRows, AreSumsInOneCall) {
  for (const OracleLimits& limits : all_limits())
    for (Index n = 1; n <= limits.rows; n += 3) {
      Bench<double> bench(limits);
      const Matrix<double> x = tokens_of(n, 3);
      const Matrix<double> found = bench.machine.reveal(sum_of_rows(bench.machine, bench.machine.take(x)));
      const Real scale = static_cast<Real>(x.cwiseAbs().sum());
      EXPECT_LE(bounds::max_row_error(found, group_sums(x, n), scale), 2 * bounds::sum_bound<double>(limits.rows))
          << say(limits) << ", n " << n;
      EXPECT_EQ(bench.oracle.calls(), 1);
    }
}

TEST(SumsOfGroups, AreSumsAndAsManyGroupsToACallAsFit) {
  for (const OracleLimits& limits : all_limits())
    for (const Index group : {1, 2, 3, 7})
      for (const Index groups : {1, 2, 5, 24}) {
        if (group > limits.rows) continue;
        Bench<double> bench(limits);
        const Matrix<double> x = tokens_of(groups * group, 3);
        const Matrix<double> found = bench.machine.reveal(sum_of_groups(bench.machine, bench.machine.take(x), group));
        const Real scale = static_cast<Real>(group) * static_cast<Real>(x.cwiseAbs().maxCoeff());
        EXPECT_LE(bounds::max_row_error(found, group_sums(x, group), scale), 2 * bounds::sum_bound<double>(limits.rows))
            << say(limits) << ", " << groups << " groups of " << group;
        EXPECT_EQ(bench.oracle.calls(), ceil_div(ceil_div(groups, limits.rows / group), limits.heads)) << say(limits);
        EXPECT_LE(bench.oracle.longest(), limits.rows);
      }
}

TEST(SumsOfGroups, KeepAHugeGroupOutOfItsNeighbours) {
  Bench<double> bench(limits_of(OracleKind::plain, 16));
  Matrix<double> x = tokens_of(12, 2);
  x.middleRows(4, 4) *= 1e200;
  const Matrix<double> found = bench.machine.reveal(sum_of_groups(bench.machine, bench.machine.take(x), 4));
  EXPECT_EQ(bench.oracle.calls(), 1);
  for (const Index g : {0, 2})
    for (Index c = 0; c < 2; ++c) EXPECT_NEAR(found(g, c), x.middleRows(4 * g, 4).col(c).sum(), 1e-14);
}

TEST(SumsOfGroups, InFloatAndWithAnOutputMlp) {
  Bench<float> bench(limits_of(OracleKind::causal, 9, 2));
  const Matrix<double> x = tokens_of(20, 2);
  const RowFunction negate([](Index, auto& rows) { rows = -rows; });
  const Matrix<float> found =
      bench.machine.reveal(sum_of_groups(bench.machine, bench.machine.take(x.cast<float>()), 4, negate));
  naive::Table expected = group_sums(x, 4);
  for (naive::Row& row : expected)
    for (Real& entry : row) entry = -entry;
  EXPECT_LE(bounds::max_row_error(found, expected, 4 * static_cast<Real>(x.cwiseAbs().maxCoeff())), 1e-6);
}

TEST(Sums, ThatDoNotFitACallAreRefused) {
  Bench<double> bench(limits_of(OracleKind::plain, 4));
  try {
    static_cast<void>(sum_of_rows(bench.machine, bench.machine.take(tokens_of(5, 2))));
    ADD_FAILURE() << "nothing was thrown";
  } catch (const LimitError& error) {
    EXPECT_STREQ(error.what(), "a call adds up 1 to 4 rows, not 5");
  }
  EXPECT_THROW(static_cast<void>(sum_of_groups(bench.machine, bench.machine.take(tokens_of(10, 2)), 5)), LimitError);
  EXPECT_THROW(static_cast<void>(sum_of_groups(bench.machine, bench.machine.take(tokens_of(10, 2)), 4)), ShapeError);
}

// --- Lemma A.3 -------------------------------------------------------------------------------------------------------

TEST(LookUps, FetchTheRowThatEachRowAsksFor) {
  for (const OracleLimits& limits : all_limits())
    for (Index n = 1; n <= limits.rows; n += 5)
      for (const unsigned seed : {1U, 2U, 3U}) {
        Bench<double> bench(limits);
        const Matrix<double> x = tokens_of(n, 3);
        std::mt19937 bits(seed);
        std::vector<Index> tau;
        for (Index i = 0; i < n; ++i)
          tau.push_back(static_cast<Index>(bits()) % (limits.kind == OracleKind::causal ? i + 1 : n));
        const RowFunction rho([](Index, auto& rows) { rows.array() += 1; });
        const Matrix<double> found = bench.machine.reveal(look_up(bench.machine, bench.machine.take(x), tau, rho));
        for (Index i = 0; i < n; ++i)
          for (Index c = 0; c < 3; ++c)
            EXPECT_EQ(found(i, c), x(tau[naive::at(i)], c) + 1) << say(limits) << ", row " << i;
        EXPECT_EQ(bench.oracle.calls(), 1);
      }
}

TEST(LookUps, BeyondTheCallsRowsAreRefused) {
  Bench<double> plain(limits_of(OracleKind::plain, 4));
  EXPECT_THROW(static_cast<void>(look_up(plain.machine, plain.machine.take(tokens_of(5, 2)), {0, 1, 2, 3, 4})),
               LimitError);
  const Cells<double> x = plain.machine.take(tokens_of(3, 2));
  EXPECT_THROW(static_cast<void>(look_up(plain.machine, x, {0, 3, 1})), SpecError);
  EXPECT_THROW(static_cast<void>(look_up(plain.machine, x, {0, 1})), ShapeError);
  Bench<double> causal(limits_of(OracleKind::causal, 4));
  EXPECT_THROW(static_cast<void>(look_up(causal.machine, x, {0, 2, 1})), LimitError);
}

// --- row functions by identity attention -----------------------------------------------------------------------------

TEST(RowByRow, AppliesAFunctionOfRowAndPositionExactly) {
  for (const OracleLimits& limits : all_limits())
    for (const Index n : {1, 7, 33}) {
      Bench<double> bench(limits);
      const Matrix<double> x = tokens_of(n, 3);
      // A table of positions: rows that pad a call have none.
      const std::vector<double> table(naive::at(n), 2.0);
      const RowFunction f([&table](Index first, auto& rows) {
        for (Index i = 0; i < rows.rows(); ++i) rows.row(i) *= table.at(naive::at(first + i)) * double(first + i);
      });
      const Matrix<double> found = bench.machine.reveal(row_by_row(bench.machine, bench.machine.take(x), f));
      for (Index i = 0; i < n; ++i)
        for (Index c = 0; c < 3; ++c) EXPECT_EQ(found(i, c), x(i, c) * (2.0 * double(i))) << say(limits);
      EXPECT_EQ(bench.oracle.calls(), ceil_div(ceil_div(n, limits.rows), limits.heads)) << say(limits);
    }
}

}  // namespace
