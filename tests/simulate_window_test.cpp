// Windows, sinks, bands, documents, and causal attention on plain oracles through the whole path: the error of the
// simulation beside that of direct evaluation in the same scalar, against the definitions in long double.

#include <gtest/gtest.h>

#include <string>
#include <twoheads/base/digest.hpp>
#include <twoheads/oracle/wrappers.hpp>
#include <vector>

#include "support/instances.hpp"
#include "support/message_of.hpp"
#include "support/naive.hpp"
#include "support/sanitized.hpp"
#include "support/text_of_mask.hpp"
#include "support/window_problem.hpp"

namespace {

using namespace twoheads;
using namespace window_problem;

// --- the error over all sizes ----------------------------------------------------------------------------------------

/// All windows, sinks, rows and oracles, at logits of about 3, where no anchor is unsafe. Under a sanitizer the longest
/// inputs meet one number of sinks for each window.
template <class Scalar>
int sweep_windows(const std::vector<Index>& token_counts) {
  int runs = 0;
  for (const Index tokens : token_counts) {
    const Inputs rows = inputs_of(tokens, 3.0);
    int turn = 0;
    for (const Index r : {1, 2, 15, 16, 17, 63, 64, 65, 2000})
      for (const Index s : {0, 1, 4, 20}) {
        ++turn;
        if (sanitized && tokens > 50 && turn % 4 != (turn / 4) % 4) continue;
        const auto problem = problem_of<Scalar>(s == 0 ? Mask::sliding_window(r) : Mask::window_and_sinks(r, s), rows);
        for (const Index oracle_rows : {17, 64, 65, 129})
          for (const OracleKind kind : both) {
            problem.check(limits_of(kind, oracle_rows), Anchor::mean_key);
            ++runs;
          }
      }
  }
  return runs;
}

TEST(WindowSimulation, InFloatKeepsTheErrorBoundInThePlannedCalls) {
  const std::vector<Index> tokens = sanitized ? std::vector<Index>{1, 50, 257} : std::vector<Index>{1, 50, 257, 1000};
  EXPECT_GE(sweep_windows<float>(tokens), sanitized ? 2 * 288 : 4 * 288);
}

TEST(WindowSimulation, InDoubleKeepsTheErrorBoundInThePlannedCalls) {
  EXPECT_GE(sweep_windows<double>(sanitized ? std::vector<Index>{50} : std::vector<Index>{1, 50, 257}), 288);
}

std::vector<Mask> other_masks(Index tokens) {
  std::vector<Mask> masks{Mask::causal(),    Mask::band(0, 0),  Mask::band(5, 3),
                          Mask::band(0, 16), Mask::band(63, 2), Mask::band(17, 200)};
  for (const bool causal : {false, true}) {
    masks.push_back(Mask::documents(std::vector<Index>(naive::at(tokens), 1), causal));
    if (tokens < 50) continue;
    masks.push_back(Mask::documents({3, 1, 20, tokens - 40, 16}, causal));
    masks.push_back(Mask::documents({20, tokens - 20}, causal));
  }
  return masks;
}

TEST(WindowSimulation, OfBandsDocumentsAndCausalMasksKeepsTheErrorBoundToo) {
  for (const Index tokens : {1, 50, 257}) {
    const Inputs rows = inputs_of(tokens, 3.0);
    for (const Mask& mask : other_masks(tokens)) {
      const auto single = problem_of<float>(mask, rows);
      const auto twice = problem_of<double>(mask, rows);
      for (const Index oracle_rows : {2, 17, 64, 65})
        for (const OracleKind kind : both) {
          if (sanitized && tokens > 50) continue;
          single.check(limits_of(kind, oracle_rows), Anchor::mean_key);
          twice.check(limits_of(kind, oracle_rows), Anchor::mean_key);
        }
    }
  }
}

// --- anchors and logits ----------------------------------------------------------------------------------------------

template <class Scalar>
void check_large_logits() {
  const Index tokens = sanitized ? 70 : 140;
  for (const double logit : {1.0, 1e2, 1e4, 1e7}) {
    const Inputs rows = inputs_of(tokens, logit);
    for (const Mask& mask : {Mask::sliding_window(16), Mask::window_and_sinks(9, 4), Mask::window_and_sinks(40, 20),
                             Mask::band(5, 7), Mask::documents({3, 40, 1, 2, tokens - 46}, false),
                             Mask::documents({3, 40, 1, 2, tokens - 46}, true), Mask::causal()}) {
      const auto problem = problem_of<Scalar>(mask, rows);
      for (const Index oracle_rows : {17, 64})
        for (const OracleKind kind : both)
          for (const Anchor anchor : {Anchor::gibbs, Anchor::adaptive})
            problem.check(limits_of(kind, oracle_rows), anchor);
    }
  }
}

TEST(WindowSimulation, KeepsTheBoundAtAnyLogitSizeInFloat) { check_large_logits<float>(); }
TEST(WindowSimulation, KeepsTheBoundAtAnyLogitSizeInDouble) { check_large_logits<double>(); }

TEST(WindowSimulation, RepeatsSomeSlotsOfLargeLogitsAndNotAll) {
  const Inputs rows = inputs_of(300, 300.0);
  const auto problem = problem_of<float>(Mask::window_and_sinks(16, 4), rows);
  SmallTransformer<float> oracle(limits_of(OracleKind::causal, 65));
  GridAttention<SmallTransformer<float>> grid(oracle, {Anchor::adaptive});
  static_cast<void>(problem.attend(grid));
  EXPECT_GT(grid.counts().repeats, 0);
}

/// Direct evaluation is what is left to compare with: at 1e10 neighbouring floats differ by 1024, and softmax picks one
/// key. Rows whose real keys get nothing beside their anchor are asked again, their values too.
TEST(WindowSimulation, GoesWithDirectEvaluationWhereALogitsRoundingIsBeyondEveryAnchorsWindow) {
  const Inputs rows = inputs_of(90, 1e10);
  for (const Mask& mask : {Mask::sliding_window(16), Mask::window_and_sinks(9, 4), Mask::band(5, 7),
                           Mask::documents({3, 40, 1, 2, 44}, true), Mask::causal()}) {
    const auto problem = problem_of<float>(mask, rows);
    DirectAttention<float> direct;
    const Matrix<float> expected = problem.attend(direct);
    for (const OracleKind kind : both)
      for (const Anchor anchor : {Anchor::gibbs, Anchor::adaptive}) {
        const Matrix<float> found = problem.check(limits_of(kind, 33), anchor);
        EXPECT_LE((found - expected).cwiseAbs().maxCoeff<Eigen::PropagateNaN>(), 1e-5F)
            << text_of(mask) << ", " << name(kind) << ", " << name(anchor);
      }
  }
}

// --- keys outside the window that are hotter -------------------------------------------------------------------------

/// The last column of a head's keys lifts every logit: by `heat` nats for all keys before `end`, by nothing from there.
Inputs with_heat(Inputs rows, double heat, Index end) {
  for (Index head = 0; head < heads; ++head) {
    const Index column = head * dim + dim - 1;
    rows.q.col(column).setConstant(1.0F);
    rows.k.col(column).setZero();
    rows.k.col(column).head(end).setConstant(static_cast<float>(heat));
  }
  return rows;
}

TEST(WindowSimulation, MeanKeyAnchorsFollowLogitsThatAllLieFarFromZeroSinksIncluded) {
  const Inputs rows = inputs_of(100, 3.0);
  for (const double heat : {-300.0, 300.0})
    for (const Mask& mask : {Mask::sliding_window(9), Mask::window_and_sinks(5, 8), Mask::window_and_sinks(2, 15),
                             Mask::band(5, 7), Mask::documents({3, 40, 1, 2, 54}, true), Mask::causal()}) {
      const auto problem = problem_of<float>(mask, with_heat(rows, heat, 100));
      for (const Index oracle_rows : {17, 33, 65})
        for (const OracleKind kind : both) problem.check(limits_of(kind, oracle_rows), Anchor::mean_key);
    }
}

template <class Scalar>
void check_hot_keys(double heat) {
  for (const Index tokens : {50, 257}) {
    const Index hot = tokens / 2;
    const Inputs rows = with_heat(inputs_of(tokens, 3.0), heat, hot);
    const Inputs cold = with_heat(inputs_of(tokens, 3.0), 0.0, hot);
    for (const Index r : {1, 2, 15, 16, 17, 63, 64, 65}) {
      // These rows see no hot key: their error is held to what it would be if there were none.
      const Rows checked{hot + r - 1, tokens};
      if (checked.empty()) continue;
      for (const Mask& mask : {Mask::sliding_window(r), Mask::band(r - 1, 5)}) {
        const naive::Table truth = truth_of(mask, rows);
        const naive::Table same = truth_of(mask, cold);
        for (Index row = checked.begin; row < checked.end; ++row)
          ASSERT_EQ(truth[naive::at(row)], same[naive::at(row)]) << "a row that is looked at sees a hot key";
        const Problem<Scalar> problem(mask, rows, truth, checked, 3.0);
        // Beside the rows that see hot keys and cold ones, whose logits are large.
        const Problem<Scalar> all(mask, rows, truth, {0, tokens}, 0);
        for (const Index oracle_rows : {17, 64, 65, 129})
          for (const OracleKind kind : both)
            for (const Anchor anchor : {Anchor::adaptive, Anchor::gibbs}) {
              if (anchor == Anchor::gibbs && oracle_rows > 17) continue;
              if (sanitized && (oracle_rows != 64 || tokens > 50)) continue;
              problem.check(limits_of(kind, oracle_rows), anchor);
              if (oracle_rows == 64) all.check(limits_of(kind, oracle_rows), anchor);
            }
      }
    }
  }
}

TEST(WindowSimulation, KeysOutsideTheWindowThatAreHotterBy20NatsChangeNothing) {
  check_hot_keys<float>(20.0);
  check_hot_keys<double>(20.0);
}

TEST(WindowSimulation, KeysOutsideTheWindowThatAreHotterBy1000NatsChangeNothing) {
  check_hot_keys<float>(1000.0);
  check_hot_keys<double>(1000.0);
}

TEST(WindowSimulation, OtherDocumentsThatAreHotterChangeNothing) {
  const Index tokens = 100;
  for (const double heat : {20.0, 1000.0}) {
    const Inputs rows = with_heat(inputs_of(tokens, 3.0), heat, 40);
    for (const bool causal : {false, true}) {
      const Mask mask = Mask::documents({3, 30, 7, 5, 1, 44, 10}, causal);
      const Problem<float> problem(mask, rows, truth_of(mask, rows), {40, tokens}, 3.0);
      for (const Index oracle_rows : {17, 64, 129})
        for (const OracleKind kind : both) problem.check(limits_of(kind, oracle_rows), Anchor::adaptive);
    }
  }
}

// --- oracles of every kind -------------------------------------------------------------------------------------------

const std::vector<Mask> some_masks{Mask::sliding_window(16),
                                   Mask::window_and_sinks(9, 4),
                                   Mask::window_and_sinks(30, 20),
                                   Mask::band(5, 7),
                                   Mask::documents({3, 40, 1, 2, 54}, false),
                                   Mask::documents({3, 40, 1, 2, 54}, true),
                                   Mask::causal()};

TEST(WindowSimulation, KeepsTheBoundOnOraclesOfFixedRowsSeveralHeadsAndWithResidual) {
  const Inputs rows = inputs_of(100, 3.0);
  const Inputs large = inputs_of(100, 300.0);
  for (const Mask& mask : some_masks) {
    const auto calm = problem_of<float>(mask, rows);
    const auto wild = problem_of<double>(mask, large);
    for (const OracleKind kind : both)
      for (const Index oracle_heads : {1, 2, 3})
        for (const bool fixed : {false, true})
          for (const bool residual : {false, true})
            for (const double scale : {1.0, 0.25}) {
              if (sanitized && (residual != fixed)) continue;
              OracleLimits limits = limits_of(kind, 33);
              limits.heads = oracle_heads;
              limits.fixed_rows = fixed;
              limits.residual = residual;
              limits.score_scale = scale;
              calm.check(limits, Anchor::mean_key);
              wild.check(limits, Anchor::adaptive);
            }
  }
}

TEST(WindowSimulation, HasTheSameBitsAndCallsForAnyBatch) {
  const Inputs rows = inputs_of(150, 60.0);
  for (const Mask& mask : {Mask::sliding_window(16), Mask::window_and_sinks(9, 4), Mask::band(5, 7),
                           Mask::documents({3, 40, 1, 2, 104}, false), Mask::causal()}) {
    const auto problem = problem_of<float>(mask, rows);
    for (const OracleKind kind : both)
      for (const Index oracle_heads : {1, 3}) {
        std::string first;
        Index calls = 0;
        for (const Index batch : {1, 1, 3, 7, 1000}) {
          OracleLimits limits = limits_of(kind, 33);
          limits.heads = oracle_heads;
          limits.batch = batch;
          SmallTransformer<float> oracle(limits);
          GridAttention<SmallTransformer<float>> grid(oracle, {Anchor::adaptive});
          const std::string bits = digest(problem.attend(grid));
          if (first.empty()) {
            first = bits;
            calls = grid.counts().calls;
          }
          EXPECT_EQ(bits, first) << text_of(mask) << ", " << name(kind) << ", batch " << batch;
          EXPECT_EQ(grid.counts().calls, calls) << text_of(mask) << ", " << name(kind) << ", batch " << batch;
        }
      }
  }
}

TEST(WindowSimulation, MakesTheCallsThatItCountsAndNoneLongerThanTheOracle) {
  const Inputs rows = inputs_of(150, 3.0);
  for (const Mask& mask : some_masks) {
    if (mask.kind == MaskKind::documents) continue;
    const auto problem = problem_of<float>(mask, rows);
    for (const OracleKind kind : both)
      for (const Index oracle_heads : {1, 3}) {
        OracleLimits limits = limits_of(kind, 33);
        limits.heads = oracle_heads;
        SmallTransformer<float> inner(limits);
        CheckingOracle<SmallTransformer<float>> checked(inner);
        CountingOracle<CheckingOracle<SmallTransformer<float>>> oracle(checked);
        GridAttention<CountingOracle<CheckingOracle<SmallTransformer<float>>>> grid(oracle, {Anchor::mean_key});
        static_cast<void>(problem.attend(grid));
        EXPECT_EQ(oracle.calls(), Plan({mask, 150, 0, heads, 1, limits, Anchor::mean_key}).calls()) << text_of(mask);
        EXPECT_EQ(oracle.calls(), grid.counts().calls) << text_of(mask);
        EXPECT_LE(oracle.longest(), 33) << text_of(mask);
      }
  }
}

TEST(WindowSimulation, OfLogitsWhoseCodesLeaveTheScalarIsALimitErrorThatSaysWhatWouldDo) {
  const Inputs rows = inputs_of(100, 2e37);
  const Problem<float> problem(Mask::sliding_window(5), rows, truth_of(Mask::sliding_window(5), rows), {0, 0}, 1.0);
  SmallTransformer<float> oracle(limits_of(OracleKind::causal, 33));
  GridAttention<SmallTransformer<float>> grid(oracle);
  const std::string message = message_of<LimitError>([&] { static_cast<void>(problem.attend(grid)); });
  EXPECT_NE(message.find("wider scalar"), std::string::npos) << message;
}

}  // namespace
