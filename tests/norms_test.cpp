#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <twoheads/attention/direct.hpp>
#include <twoheads/model/random.hpp>
#include <twoheads/oracle/any_oracle.hpp>
#include <twoheads/oracle/norms.hpp>
#include <twoheads/oracle/probe.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <twoheads/simulate.hpp>
#include <vector>

#include "support/instances.hpp"
#include "support/message_of.hpp"
#include "support/seed.hpp"

namespace {

using namespace twoheads;

OracleLimits rows_of(OracleKind kind, Index rows) {
  OracleLimits limits;
  limits.kind = kind;
  limits.rows = rows;
  return limits;
}

/// An oracle with norms around its attention, wrapped as one that has none.
template <class S>
AnyOracle<S> neutralised(const OracleLimits& limits, const NormsAround& norms) {
  return AnyOracle<S>([limits, norms] {
    using Normed = NormedOracle<SmallTransformer<S>>;
    return WithoutNorms<Normed>(Normed(SmallTransformer<S>(limits), norms), norms);
  });
}

/// All ways in which norms and a residual stream can stand around one layer.
std::vector<NormsAround> all_norms() {
  std::vector<NormsAround> all;
  for (const NormKind before : {NormKind::none, NormKind::rms, NormKind::layer})
    for (const NormKind after : {NormKind::none, NormKind::rms, NormKind::layer})
      for (const bool residual : {false, true}) all.push_back({before, after, 1e-5, residual});
  return all;
}

std::string words(const NormsAround& norms) {
  const auto kind = [](NormKind k) { return k == NormKind::none ? "none" : k == NormKind::rms ? "rms" : "layer"; };
  return detail::text("before ", kind(norms.before), ", after ", kind(norms.after), ", residual ", norms.residual);
}

/// Gains from 1/2 to 3/2 and shifts around 0 for as many columns.
void give_gains(NormsAround& norms, Index before, Index after, std::uint64_t seed) {
  Random random(seed);
  const auto some = [&](Index count, double middle) {
    std::vector<double> numbers;
    for (Index i = 0; i < count; ++i) numbers.push_back(middle + random.uniform() - 0.5);
    return numbers;
  };
  if (norms.before != NormKind::none) norms.gain_before = some(before, 1);
  if (norms.before == NormKind::layer) norms.shift_before = some(before, 0);
  if (norms.after != NormKind::none) norms.gain_after = some(after, -1);
  if (norms.after == NormKind::layer) norms.shift_after = some(after, 0);
}

template <class S>
struct Case {
  Model<S> model;
  Matrix<S> tokens;
};

template <class S>
Case<S> some_case(const Mask& mask, std::uint64_t seed) {
  const ModelSpec spec = paper_layer(1, 8, 2, mask, MlpKind::none, 0);
  return {random_model<S>(spec, seed), Random(seed + 1).matrix<S>(45, 8)};
}

double error_of(const Matrix<double>& found, const Matrix<double>& truth) {
  double most = 0;
  for (Index row = 0; row < truth.rows(); ++row) {
    const double error = (found.row(row) - truth.row(row)).norm() / truth.row(row).norm();
    // Written so that a NaN is the largest.
    if (!(error <= most)) most = error;
  }
  return most;
}

const std::vector<Mask>& masks() {
  static const std::vector<Mask> all{Mask{MaskKind::full}, Mask{MaskKind::causal}, Mask{MaskKind::window, 7}};
  return all;
}

template <class S>
double worst_error(const NormsAround& norms, OracleLimits limits, bool direct = false) {
  double worst = 0;
  for (const Mask& mask : masks()) {
    const Case<double> exact = some_case<double>(mask, seed_or(3));
    const Case<S> given = some_case<S>(mask, seed_or(3));
    const Matrix<double> truth = forward(exact.model, exact.tokens, DirectAttention<double>());
    AnyOracle<S> oracle = neutralised<S>(limits, norms);
    const Matrix<S> found = direct ? forward(given.model, given.tokens, DirectAttention<S>())
                                   : simulate(given.model, given.tokens, oracle).rows;
    worst = std::max(worst, error_of(found.template cast<double>(), truth));
  }
  return worst;
}

class WithoutNormsOf : public testing::TestWithParam<OracleKind> {};

TEST_P(WithoutNormsOf, SimulatesAsIfThereWereNone) {
  for (const NormsAround& norms : all_norms()) {
    SCOPED_TRACE(words(norms));
    OracleLimits limits = rows_of(GetParam(), 17);
    EXPECT_LE(worst_error<double>(norms, limits), 1e-13);
    limits.fixed_rows = true;
    EXPECT_LE(worst_error<double>(norms, limits), 1e-13);
    EXPECT_LE(worst_error<float>(norms, limits), 4 * worst_error<float>(norms, limits, true) + 1e-6);
  }
}

TEST_P(WithoutNormsOf, TakesGainsAndShiftsBack) {
  for (NormsAround norms : all_norms()) {
    SCOPED_TRACE(words(norms));
    give_gains(norms, 140, norms.residual ? 140 : 70, 8);
    OracleLimits limits = rows_of(GetParam(), 17);
    limits.width = 140;
    // A shift leaves small numbers the digits that it does not take itself.
    const bool shifts = !norms.shift_before.empty() || !norms.shift_after.empty();
    EXPECT_LE(worst_error<double>(norms, limits), shifts ? 1e-11 : 1e-12);
  }
}

TEST(WithoutNorms, TakesShiftsBackFromSmallTokensToo) {
  // Shifts of about 1 beside tokens, and values, of any size.
  for (const NormKind before : {NormKind::none, NormKind::layer})
    for (const NormKind after : {NormKind::none, NormKind::layer})
      for (const double size : {1e-6, 1e-3, 1.0}) {
        NormsAround norms{before, after};
        give_gains(norms, 140, 70, 8);
        OracleLimits limits = rows_of(OracleKind::causal, 17);
        limits.width = 140;
        const Case<double> exact = some_case<double>(Mask::causal(), seed_or(3));
        const Matrix<double> tokens = (size * exact.tokens).template cast<float>().template cast<double>();
        const Model<float> given = cast_model<float>(exact.model);
        const Matrix<double> truth = forward(cast_model<double>(given), tokens, DirectAttention<double>());
        AnyOracle<float> oracle = neutralised<float>(limits, norms);
        const Matrix<float> found = simulate(given, Matrix<float>(tokens.cast<float>()), oracle).rows;
        EXPECT_LE(error_of(found.cast<double>(), truth), 1e-4) << words(norms) << ", tokens of " << size;
      }
}

/// A call whose rows and answer are as wide as the limits allow, with heads that overlap.
template <class S>
Matrix<S> widest_answer(AnyOracle<S>& oracle, Index width) {
  using P = Projection<S>;
  SmallWeights<S> weights;
  weights.width = width;
  const Index half = width / 2;
  weights.layers.push_back({{{P::selector(0, half), P::selector(1, half), P::selector(0, half), width - half},
                             {P::selector(1, half), P::selector(0, half), P::selector(0, width), 0}},
                            width,
                            {}});
  return oracle.run({&weights, Random(seed_or(4)).matrix<S>(9, width)});
}

TEST_P(WithoutNormsOf, TakesCallsAsWideAsItsLimitsSay) {
  for (NormsAround norms : all_norms())
    for (const bool gains : {false, true}) {
      SCOPED_TRACE(words(norms) + (gains ? ", gains" : ""));
      OracleLimits limits = rows_of(GetParam(), 9);
      limits.heads = 2;
      limits.width = 40;
      if (gains) give_gains(norms, 40, 40, 9);
      AnyOracle<double> oracle = neutralised<double>(limits, norms);
      const Index width = oracle.limits().width;
      EXPECT_GE(width, 9);
      EXPECT_LE(width, 40);
      EXPECT_FALSE(oracle.limits().residual);
      AnyOracle<double> plain([limits] { return SmallTransformer<double>(limits); });
      const Matrix<double> truth = widest_answer(plain, width);
      EXPECT_LE((widest_answer(oracle, width) - truth).cwiseAbs().maxCoeff(), 1e-13);
      EXPECT_THROW(widest_answer(oracle, width + 1), LimitError);
    }
}

TEST_P(WithoutNormsOf, IsHonest) {
  for (const NormsAround& norms : all_norms()) {
    SCOPED_TRACE(words(norms));
    OracleLimits limits = rows_of(GetParam(), 33);
    limits.width = 200;
    AnyOracle<float> oracle = neutralised<float>(limits, norms);
    const ProbeReport report = probe(oracle);
    EXPECT_TRUE(report.honest()) << to_text(report);
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, WithoutNormsOf, testing::Values(OracleKind::plain, OracleKind::causal),
                         [](const auto& kind) { return name(kind.param); });

TEST(NormedOracle, IsTheNormsAndTheSumAroundAttention) {
  NormsAround norms{NormKind::layer, NormKind::rms, 1e-3, true};
  OracleLimits limits = rows_of(OracleKind::causal, 5);
  NormedOracle<SmallTransformer<double>> oracle(SmallTransformer<double>(limits), norms);
  EXPECT_TRUE(oracle.limits().residual);
  using P = Projection<double>;
  SmallWeights<double> weights{4, {{{{P::selector(0, 2), P::selector(1, 2), P::selector(2, 2), 1}}, 4, {}}}};
  const Matrix<double> rows = Random(seed_or(6)).matrix<double>(5, 4);
  const NormWeights<double> ones{RowVector<double>::Ones(4), {}};
  const Matrix<double> inner = normed(view(rows), ones, NormKind::layer, 1e-3);
  Matrix<double> sum = rows + SmallTransformer<double>(limits).run({&weights, inner});
  EXPECT_EQ(oracle.run({&weights, rows}), normed(view(sum), ones, NormKind::rms, 1e-3));
}

TEST(WithoutNorms, HandsOnBatches) {
  struct Batch : SmallTransformer<double> {
    using SmallTransformer<double>::SmallTransformer;
    void run_batch(std::span<const OracleCall<double>> calls, const Answer<double>& answer) {
      for (std::size_t i = calls.size(); i-- > 0;) answer(i, run(calls[i]));
    }
  };
  const NormsAround none;
  const OracleLimits limits = rows_of(OracleKind::plain, 4);
  WithoutNorms<Batch> oracle(Batch(limits), none);
  static_assert(HasRunBatch<WithoutNorms<Batch>> && !HasRunBatch<WithoutNorms<SmallTransformer<double>>>);
  using P = Projection<double>;
  const SmallWeights<double> weights{4, {{{{P::selector(0, 2), P::selector(1, 2), P::selector(2, 2), 0}}, 2, {}}}};
  std::vector<OracleCall<double>> calls;
  for (std::uint64_t i = 0; i < 3; ++i) calls.push_back({&weights, Random(i).matrix<double>(3, 4)});
  const std::vector<Matrix<double>> answers = run_all(oracle, std::span<const OracleCall<double>>(calls));
  for (std::size_t i = 0; i < 3; ++i)
    EXPECT_LE((answers[i] - SmallTransformer<double>(limits).run(calls[i])).cwiseAbs().maxCoeff(), 1e-15);
}

TEST(WithoutNorms, RefusesWhatCannotBeTakenBack) {
  const auto message = [](const NormsAround& norms, auto&& change) {
    OracleLimits limits = rows_of(OracleKind::plain, 4);
    limits.residual = norms.residual;
    change(limits);
    return message_of<LimitError>(
        [&] { WithoutNorms<SmallTransformer<double>>(SmallTransformer<double>(limits), norms); });
  };
  const auto nothing = [](OracleLimits&) {};
  NormsAround norms{NormKind::layer, NormKind::layer, 1e-5, true};
  EXPECT_NE(
      message(norms, [](OracleLimits& l) { l.layers = 2; }).find("the norms between layers see what is not known"),
      std::string::npos);
  EXPECT_NE(message(norms, [](OracleLimits& l) { l.residual = false; }).find("declares no residual stream"),
            std::string::npos);
  EXPECT_NE(message(norms, [](OracleLimits& l) { l.width = 7; }).find("an oracle of 7 columns has none left"),
            std::string::npos);
  norms.gain_before = {1, 0, 1};
  EXPECT_NE(message(norms, nothing).find("a gain of the norm before the attention is 0"), std::string::npos);
  norms.gain_before = {1, 1};
  norms.gain_after = {1, 1, 1};
  EXPECT_NE(message(norms, nothing).find("have 2 and 3 columns, expected the same"), std::string::npos);
  EXPECT_NE(message({NormKind::rms, NormKind::none, 1e-5, false, {}, {0, 0}}, nothing).find("has a shift"),
            std::string::npos);
  EXPECT_NE(message({NormKind::none, NormKind::none, 1e-5, false, {1}, {}}, nothing).find("there is no norm before"),
            std::string::npos);
  EXPECT_NE(message({NormKind::rms, NormKind::none, -1}, nothing).find("the epsilon of norms is -1"),
            std::string::npos);

  using Normed = NormedOracle<SmallTransformer<double>>;
  Normed normed(SmallTransformer<double>(rows_of(OracleKind::plain, 4)), {NormKind::rms});
  const SmallWeights<double> two{2, {{{}, 2, {}}, {{}, 2, {}}}};
  SmallWeights<double> none{2, {}};
  EXPECT_THROW(static_cast<void>(normed.run({&none, Matrix<double>::Ones(3, 2)})), LimitError);
  none.layers.push_back({{}, 2, RowFunction([](Index, auto&) {})});
  EXPECT_THROW(static_cast<void>(normed.run({&none, Matrix<double>::Ones(3, 2)})), LimitError);
}

}  // namespace
