#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <twoheads/codec/stack.hpp>
#include <twoheads/model/random.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <vector>

#include "support/naive.hpp"
#include "support/seed.hpp"
#include "support/stack_instances.hpp"

namespace {

using namespace twoheads;
using namespace stack_instances;

std::uint64_t seed() { return seed_or(712); }

// --- independent instances -------------------------------------------------------------------------------------------

class Stack : public testing::TestWithParam<std::tuple<Packing, int, int>> {};

TEST_P(Stack, AnswersEachInstanceAsACallOfItsOwn) {
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  const auto [packing, heads, layers] = GetParam();
  Random random(seed());
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
    for (const double scale : {1.0, 0.3})
      for (const Index rows : {1, 2, 17, 40}) {
        const OracleLimits limits = limits_of(kind, packing, heads, layers, scale);
        if (packing == Packing::identity && heads == 1 && layers > 1) {
          EXPECT_THROW(StackLayout(limits, packing, input_cols, answer_cols, limits.rows), LimitError);
          continue;
        }
        const Index instances = instances_per_call(limits, packing);
        for (const Index missing : {Index{0}, Index{1}, instances - 1}) {
          if (missing >= instances) continue;
          SCOPED_TRACE(testing::Message() << name(packing) << ", " << name(kind) << ", scale " << scale << ", " << rows
                                          << " rows, " << missing << " instances missing");
          EXPECT_LE(error_of_packing<double>(limits, packing, rows, missing, random), 1e-14);
          EXPECT_LE(error_of_packing<float>(limits, packing, rows, missing, random), 5e-6);
        }
      }
}

INSTANTIATE_TEST_SUITE_P(Sizes, Stack,
                         testing::Combine(testing::Values(Packing::residual, Packing::identity),
                                          testing::Values(1, 2, 3), testing::Values(1, 2, 3)),
                         [](const auto& test) {
                           return std::string(name(std::get<0>(test.param))) + "Heads" +
                                  std::to_string(std::get<1>(test.param)) + "Layers" +
                                  std::to_string(std::get<2>(test.param));
                         });

// --- the identity head -----------------------------------------------------------------------------------------------

/// The layout of instances with one input and one answer column.
StackLayout narrow(const OracleLimits& limits, Index rows) { return {limits, Packing::identity, 1, 1, rows}; }

template <class Scalar>
double trace_of(const Matrix<Scalar>& answers, const OracleLimits& limits) {
  return narrow(limits, answers.rows()).template trace<Scalar>();
}

/// Rows that pass through identity heads alone, since all instances are empty: what comes back of their answer columns.
template <class Scalar>
Matrix<Scalar> carried(const Matrix<Scalar>& answers, const OracleLimits& limits) {
  const StackLayout layout = narrow(limits, answers.rows());
  OracleCall<Scalar> call;
  call.rows.setZero(answers.rows(), layout.width());
  call.rows.leftCols(answers.cols()) = answers;
  write_codes(call.rows, layout);
  const SmallWeights<Scalar> weights = stack<Scalar>(layout, {});
  call.weights = &weights;
  return SmallTransformer<Scalar>(limits).run(call);
}

/// Numbers of all sizes, one row in three all zeros; the first rows end in small numbers and begin in large ones.
template <class Scalar>
Matrix<Scalar> numbers_of_all_sizes(Index rows, Index cols, Random& random) {
  Matrix<Scalar> numbers(rows, cols);
  for (Index i = 0; i < rows; ++i)
    for (Index c = 0; c < cols; ++c)
      numbers(i, c) = i % 3 == 1 ? Scalar(0) : static_cast<Scalar>(std::exp(12 * random.uniform()) * random.normal());
  return numbers;
}

template <class Scalar>
void expect_identity(double least_exponential) {
  Random random(seed());
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
    for (const Index layers : {2, 3, 5})
      for (const double scale : {1e-9, 0.1, 1.0, 1e9})
        for (const Index rows : {1, 2, 7, 300}) {
          SCOPED_TRACE(testing::Message() << name(kind) << ", " << layers << " layers, scale " << scale << ", " << rows
                                          << " rows, " << sizeof(Scalar) << " bytes");
          OracleLimits limits = limits_of(kind, Packing::identity, 3, layers, scale);
          limits.rows = std::max<Index>(rows, 2);
          const Matrix<Scalar> numbers = numbers_of_all_sizes<Scalar>(rows, 2 * layers, random);
          const Matrix<Scalar> back = carried(numbers, limits);
          ASSERT_EQ(back.rows(), rows);
          ASSERT_EQ(back.cols(), 2 * layers);
          for (Index c = 0; c < 2 * layers; ++c) {
            const double sum = numbers.col(c).template cast<double>().cwiseAbs().sum();
            const double trace = trace_of<Scalar>(numbers, limits) * numbers.col(c).cwiseAbs().maxCoeff();
            for (Index i = 0; i < rows; ++i) {
              // Beyond the rounding of a number itself, which is 0 here, only hidden weights are left.
              const double error = std::abs(static_cast<double>(back(i, c)) - static_cast<double>(numbers(i, c)));
              EXPECT_TRUE(error <= static_cast<double>(layers) * least_exponential * sum)
                  << "row " << i << ", column " << c << ": " << back(i, c) << " for " << numbers(i, c);
              EXPECT_TRUE(error <= trace) << "row " << i << ", column " << c;
              EXPECT_TRUE(numbers(i, c) == 0 || back(i, c) == numbers(i, c)) << "row " << i << ", column " << c;
            }
          }
        }
}

TEST(IdentityHead, CopiesDoublesButForTheLeastExponential) { expect_identity<double>(5.7e-309); }
TEST(IdentityHead, CopiesFloatsButForTheLeastExponential) { expect_identity<float>(1.2e-38); }

// --- what the printed proof asks for ---------------------------------------------------------------------------------

TEST(ThePrintedProof, MixesTheRowsOfInstancesThatAHeadsValueWeightsPassOn) {
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  Random random(seed());
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal}) {
    const OracleLimits limits = limits_of(kind, Packing::identity, 1, 2);
    const std::vector<Instance<double>> instances = random_instances<double>(2, 24, random);
    // Layer 1 evaluates instance 0, and passes the columns of instance 1 on through the values of the same head.
    const auto wv = std::make_shared<Matrix<double>>(Matrix<double>::Zero(2 * input_cols, answer_cols + input_cols));
    wv->topLeftCorner(input_cols, answer_cols) = instances[0].head.wv.to_matrix(input_cols);
    wv->bottomRightCorner(input_cols, input_cols).setIdentity();
    const SmallHead<double>& first = instances[0].head;
    const SmallHead<double>& second = instances[1].head;
    SmallWeights<double> weights;
    weights.width = 2 * input_cols;
    weights.layers.push_back(
        {{{first.wq, first.wk, Projection<double>::dense(0, wv), 0}}, answer_cols + input_cols, {}});
    weights.layers.push_back(
        {{{second.wq.shifted(answer_cols), second.wk.shifted(answer_cols), second.wv.shifted(answer_cols), 0}},
         answer_cols,
         {}});
    Matrix<double> rows(24, 2 * input_cols);
    rows << instances[0].rows, instances[1].rows;
    const Matrix<double> mixed = SmallTransformer<double>(limits).run({&weights, rows});
    Instance<double> without_mlp = instances[1];
    without_mlp.mlp = {};
    const Matrix<double> truth = alone(without_mlp, limits);
    const double deviation = (mixed - truth).norm() / truth.norm();
    RecordProperty(std::string("relative_deviation_") + name(kind), std::to_string(deviation));
    EXPECT_GE(deviation, 0.1) << name(kind);
    // With the instance carried by a residual stream the same two layers agree.
    const OracleLimits mended = limits_of(kind, Packing::residual, 1, 2);
    const StackLayout layout(mended, Packing::residual, input_cols, answer_cols, 24);
    const std::vector<Matrix<double>> found = together<double>({instances[0], without_mlp}, layout, mended);
    EXPECT_LE((found[1] - truth).norm() / truth.norm(), 1e-14) << name(kind);
  }
}

// --- columns ---------------------------------------------------------------------------------------------------------

TEST(StackLayout, GivesEachColumnToOneInstanceAlone) {
  for (const Packing packing : {Packing::residual, Packing::identity})
    for (const Index layers : {1, 2, 3, 4})
      for (const Index heads : {2, 3}) {
        const OracleLimits limits = limits_of(OracleKind::plain, packing, heads, layers);
        for (Index instances = 1; instances <= instances_per_call(limits, packing); ++instances) {
          SCOPED_TRACE(testing::Message() << name(packing) << ", " << layers << " layers of " << heads << " heads, "
                                          << instances << " instances");
          const StackLayout layout(limits, packing, input_cols, answer_cols, 9, instances);
          std::vector<int> inputs(static_cast<std::size_t>(layout.width()), 0);
          std::vector<int> outputs(static_cast<std::size_t>(layout.output_width()), 0);
          const auto take = [](std::vector<int>& columns, Index begin, Index count) {
            for (Index c = begin; c < begin + count; ++c) ++columns.at(static_cast<std::size_t>(c));
          };
          for (Index i = 0; i < instances; ++i) {
            take(inputs, layout.input_begin(i), input_cols);
            take(outputs, layout.answer_begin(i), answer_cols);
            if (layout.residual() || layout.has_identity()) take(inputs, layout.answer_begin(i), answer_cols);
          }
          if (layout.has_identity()) {
            take(inputs, layout.query_codes_begin(), layout.codes().columns());
            take(inputs, layout.key_codes_begin(), layout.codes().columns());
          }
          EXPECT_EQ(*std::max_element(inputs.begin(), inputs.end()), 1);
          EXPECT_EQ(*std::min_element(inputs.begin(), inputs.end()), 1);
          EXPECT_EQ(*std::max_element(outputs.begin(), outputs.end()), 1);
          Index run = 0;
          for (Index l = 0; l < layout.layers(); ++l) {
            const Rows of = layout.instances_of(l);
            EXPECT_EQ(of.begin, run);
            EXPECT_GT(of.size(), 0);
            EXPECT_LE(of.size() + (layout.has_identity() ? 1 : 0), heads);
            run = of.end;
          }
          EXPECT_EQ(run, instances);
          EXPECT_LE(layout.layers(), layers);
        }
      }
}

TEST(StackLayout, UsesOneLayerWithoutCodesWhereThatIsEnough) {
  const OracleLimits limits = limits_of(OracleKind::plain, Packing::identity, 3, 4);
  const StackLayout few(limits, Packing::identity, input_cols, answer_cols, 9, 3);
  EXPECT_EQ(few.layers(), 1);
  EXPECT_FALSE(few.has_identity());
  EXPECT_EQ(few.trace<float>(), 0);
  EXPECT_EQ(few.width(), 3 * input_cols);
  EXPECT_EQ(few.output_width(), 3 * answer_cols);
  const StackLayout more(limits, Packing::identity, input_cols, answer_cols, 9, 4);
  EXPECT_EQ(more.layers(), 2);
  EXPECT_TRUE(more.has_identity());
  EXPECT_EQ(StackLayout(limits, Packing::identity, input_cols, answer_cols, 9).instances(), 8);
  EXPECT_EQ(more.codes().columns(), 6) << "C(4, 2) < 9 <= C(6, 3)";
  EXPECT_EQ(StackLayout(limits, Packing::identity, input_cols, answer_cols, 1).codes().columns(), 2);
}

// --- counts and errors -----------------------------------------------------------------------------------------------

constexpr OracleLimits counted(Index heads, Index layers, bool residual) {
  OracleLimits limits;
  limits.rows = 8;
  limits.heads = heads;
  limits.layers = layers;
  limits.residual = residual;
  return limits;
}

static_assert(instances_per_call(counted(5, 1, false), Packing::identity) == 5);
static_assert(instances_per_call(counted(5, 1, false), Packing::residual) == 5);
static_assert(instances_per_call(counted(5, 1, true), Packing::residual) == 5);
static_assert(instances_per_call(counted(5, 3, true), Packing::residual) == 15);
static_assert(instances_per_call(counted(5, 3, false), Packing::identity) == 12);
static_assert(instances_per_call(counted(2, 2, false), Packing::identity) == 2);
static_assert(layers_for_instances(counted(5, 3, false), Packing::identity, 5) == 1);
static_assert(layers_for_instances(counted(5, 3, false), Packing::identity, 6) == 2);
static_assert(layers_for_instances(counted(5, 3, false), Packing::identity, 9) == 3);
static_assert(layers_for_instances(counted(5, 3, true), Packing::residual, 10) == 2);

/// Expects an error that holds a text.
template <class Error, class F>
void expect_error(const F& f, const std::string& text) {
  try {
    static_cast<void>(f());
    ADD_FAILURE() << "no error; expected " << text;
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
  }
}

TEST(Packing, SaysWhatAnOracleLacks) {
  expect_error<LimitError>([] { return instances_per_call(counted(4, 2, false), Packing::residual); },
                           "such an oracle, or packing identity, would do");
  expect_error<LimitError>([] { return instances_per_call(counted(4, 2, true), Packing::identity); },
                           "packing residual would do");
  expect_error<LimitError>([] { return instances_per_call(counted(1, 2, false), Packing::identity); },
                           "needs 2 heads or more, the oracle has 1");
  expect_error<LimitError>([] { return layers_for_instances(counted(3, 2, false), Packing::identity, 5); },
                           "the oracle carries 4");
  expect_error<LimitError>([] { return layers_for_instances(counted(3, 1, false), Packing::identity, 4); },
                           "the oracle carries 3");
  expect_error<SpecError>([] { return layers_for_instances(counted(3, 1, false), Packing::identity, 0); },
                          "expected 1 or more");
}

TEST(StackWeights, RefusesWhatDoesNotFitItsLayout) {
  Random random(seed());
  const OracleLimits limits = limits_of(OracleKind::plain, Packing::identity, 3, 2);
  const StackLayout layout(limits, Packing::identity, input_cols, answer_cols, 9);
  ASSERT_EQ(layout.instances(), 4);
  std::vector<SmallHead<double>> heads;
  for (const Instance<double>& instance : random_instances<double>(5, 1, random)) heads.push_back(instance.head);
  expect_error<ShapeError>([&] { return stack(layout, heads); }, "5 instances, the layout has columns for 4");
  heads.pop_back();
  expect_error<ShapeError>([&] { return stack(layout, heads, std::vector<RowFunction>(1)); }, "1 MLPs for 4 instances");
  std::vector<SmallHead<double>> beyond = heads;
  beyond[1].wk = beyond[1].wk.shifted(1);
  expect_error<ShapeError>([&] { return stack(layout, beyond); }, "instance 1 reads columns 2 to 6 of its 5");
  std::vector<SmallHead<double>> narrow = heads;
  narrow[0].wv = Projection<double>::selector(0, answer_cols - 1);
  expect_error<ShapeError>([&] { return stack(layout, narrow); }, "instance 0 answers 3 columns, expected 4");

  Matrix<double> rows = Matrix<double>::Zero(10, layout.width());
  expect_error<ShapeError>(
      [&] {
        write_codes(rows, layout);
        return 0;
      },
      "10 rows, its layout was made for 9");
  rows.setZero(9, layout.width() - 1);
  expect_error<ShapeError>(
      [&] {
        write_codes(rows, layout);
        return 0;
      },
      "the rows of a call is 9 x");
  expect_error<SpecError>([&] { return StackLayout(limits, Packing::identity, 0, 1, 9); }, "input columns");
  expect_error<SpecError>([&] { return StackLayout(limits, Packing::identity, 1, 0, 9); }, "answer columns");
  expect_error<SpecError>([&] { return StackLayout(limits, Packing::identity, 1, 1, 0); }, "rows of a call");
}

}  // namespace
