#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <twoheads/codec/decode.hpp>
#include <vector>

namespace {

using namespace twoheads;

constexpr Index value_dim = 2, head_dim = 3;
constexpr double infinity = std::numeric_limits<double>::infinity();

InstanceLayout layout_of(CallKind kind) { return {kind, TokenEncoding::projected, head_dim, value_dim, 1}; }

/// Queries 40..42 and keys 70..72 on a causal oracle: rows 1..3 of a call carry them.
const Tile lower{{40, 43}, {70, 73}, TileShape::lower};
/// The same pairs' complement: rows 2 and 1 carry queries 40 and 41, query 42 sees no key.
const Tile upper{{40, 43}, {70, 73}, TileShape::strict_upper};

/// An answer of a call of `rows` rows whose every row says the same: values 3 and 5 on the real keys, weights r and p,
/// keys 7, 8, 9.
template <class Scalar>
Matrix<Scalar> answer_of(const InstanceLayout& layout, Index rows, double r, double p) {
  Matrix<Scalar> answer = Matrix<Scalar>::Zero(rows, layout.answer_cols());
  const auto real = static_cast<Scalar>(layout.has_state() ? r : 1);
  for (Index row = 0; row < rows; ++row) {
    if (layout.has_values()) answer.row(row).head(value_dim) << 3 * real, 5 * real;
    if (layout.has_state()) answer(row, layout.r_at()) = real;
    if (layout.has_state()) answer(row, layout.p_at()) = static_cast<Scalar>(p);
    if (layout.has_keys()) answer.row(row).segment(layout.keys_at(), head_dim) << 7 * real, 8 * real, 9 * real;
  }
  return answer;
}

template <class Scalar>
Decoded<Scalar> decoded(const Matrix<Scalar>& answer, const InstanceLayout& layout, const Tile& tile,
                        double oracle_scale = 1.0) {
  Vector<Scalar> anchors(3);
  anchors << Scalar(10), Scalar(20), Scalar(30);
  return decode(answer, 0, layout, SlotMap(tile, OracleKind::causal, false), 0, {6, 2}, anchors, oracle_scale);
}

template <class Scalar>
std::string error_of(const Matrix<Scalar>& answer, const InstanceLayout& layout, const Tile& tile) {
  try {
    static_cast<void>(decoded(answer, layout, tile));
  } catch (const OracleError& error) {
    return error.what();
  }
  return "no error";
}

// --- values and log weights ------------------------------------------------------------------------------------------

TEST(Decode, ValuesAreDividedByRAndLogWeightsAreTheAnchorPlusTheLogarithmOfROverP) {
  for (const CallKind kind : {CallKind::state, CallKind::state_with_keys, CallKind::weight}) {
    const InstanceLayout layout = layout_of(kind);
    const Decoded<double> found = decoded(answer_of<double>(layout, 4, 0.25, 0.75), layout, lower, 0.5);
    for (Index query = 0; query < 3; ++query) {
      // The anchors 10, 20 and 30 are in units of the oracle's score, of which a logit has half.
      EXPECT_DOUBLE_EQ(found.partial.log_weight[query], 5.0 * static_cast<double>(query + 1) + std::log(0.25 / 0.75));
      if (layout.has_values()) {
        EXPECT_EQ(found.partial.value.row(query), (RowVector<double>(2) << 3, 5).finished());
      }
      if (layout.has_keys()) {
        EXPECT_EQ(found.expected_keys.row(query), (RowVector<double>(3) << 7, 8, 9).finished());
      }
    }
    EXPECT_EQ(found.partial.value.cols(), layout.has_values() ? 2 : 0);
    EXPECT_EQ(found.first_unsafe(), -1);
  }
}

TEST(Decode, CopiesOfTheSyntheticKeyThatARowSeesAreDividedOut) {
  // A plain oracle shows each row the synthetic key and all six rows of padding.
  const InstanceLayout layout = layout_of(CallKind::state);
  const SlotMap map(Tile{{0, 3}, {0, 3}, TileShape::rectangle}, OracleKind::plain, false);
  const Matrix<double> answer = answer_of<double>(layout, 10, 0.3, 0.7);
  const Decoded<double> found = decode(answer, 0, layout, map, 0, {}, Vector<double>::Zero(3).eval(), 1.0);
  for (Index query = 0; query < 3; ++query)
    EXPECT_DOUBLE_EQ(found.partial.log_weight[query], std::log(0.3 / (0.7 / 7)));
}

TEST(Decode, ACallWithoutASyntheticKeySaysItsValuesAndNoLogWeight) {
  for (const CallKind kind : {CallKind::straight, CallKind::values_and_keys}) {
    const InstanceLayout layout = layout_of(kind);
    const Decoded<float> found = decoded(answer_of<float>(layout, 4, 1, 0), layout, lower);
    for (Index query = 0; query < 3; ++query) {
      EXPECT_EQ(found.partial.log_weight[query], 0);
      EXPECT_EQ(found.partial.value(query, 0), 3);
      EXPECT_EQ(found.partial.value(query, 1), 5);
      if (layout.has_keys()) {
        EXPECT_EQ(found.expected_keys.row(query), (RowVector<float>(3) << 7, 8, 9).finished());
      }
    }
    EXPECT_EQ(found.first_unsafe(), -1);
  }
}

TEST(Decode, AQueryThatSeesNoKeyHasAZeroValueAndNoWeight) {
  const InstanceLayout layout = layout_of(CallKind::state_with_keys);
  const Decoded<float> found = decoded(answer_of<float>(layout, 3, 0.5, 0.5), layout, upper);
  EXPECT_EQ(found.partial.log_weight[2], -infinity);
  EXPECT_EQ(found.partial.value.row(2), RowVector<float>::Zero(2));
  EXPECT_EQ(found.expected_keys.row(2), RowVector<float>::Zero(3));
  EXPECT_EQ(found.partial.log_weight[0], 10);
  EXPECT_EQ(found.partial.log_weight[1], 20);
  EXPECT_EQ(found.first_unsafe(), -1);
}

// --- anchors out of range --------------------------------------------------------------------------------------------

template <class Scalar>
void check_drift() {
  const InstanceLayout layout = layout_of(CallKind::state_with_keys);
  // Query 1 sees two keys, so r is twice the weight of one on average.
  const double least = least_weight<Scalar>();
  const auto found_at = [&](double r, double p) {
    Matrix<Scalar> answer = answer_of<Scalar>(layout, 4, 0.5, 0.5);
    answer.row(2) = answer_of<Scalar>(layout, 1, r, p);
    return decoded(answer, layout, lower);
  };
  const Decoded<Scalar> high = found_at(1.5 * least, 1);
  EXPECT_EQ(high.drift, (std::vector<Drift>{Drift::none, Drift::too_high, Drift::none}));
  EXPECT_EQ(high.first_unsafe(), 1);
  EXPECT_EQ(high.first_without_value(), 1);
  EXPECT_EQ(high.partial.value.row(1), RowVector<Scalar>::Zero(2));
  EXPECT_EQ(high.partial.log_weight[1], -infinity);

  const Decoded<Scalar> low = found_at(1, 0.5 * least);
  EXPECT_EQ(low.drift, (std::vector<Drift>{Drift::none, Drift::too_low, Drift::none}));
  EXPECT_EQ(low.first_unsafe(), 1);
  EXPECT_EQ(low.first_without_value(), -1);
  EXPECT_EQ(low.partial.value.row(1), (RowVector<Scalar>(2) << 3, 5).finished());
  EXPECT_EQ(low.partial.log_weight[1], -infinity);

  EXPECT_EQ(found_at(0, 1).drift[1], Drift::too_high);
  EXPECT_EQ(found_at(1, 0).drift[1], Drift::too_low);
  // On the edge both still count.
  EXPECT_EQ(found_at(2 * least, 1).first_unsafe(), -1);
  EXPECT_EQ(found_at(1, least).first_unsafe(), -1);
  EXPECT_NEAR(found_at(1, least).partial.log_weight[1], 20 - std::log(least), 1e-9);

  // Seven copies of the synthetic key share p.
  const SlotMap map(Tile{{0, 3}, {0, 3}, TileShape::rectangle}, OracleKind::plain, false);
  const auto padded_at = [&](double p) {
    const Matrix<Scalar> answer = answer_of<Scalar>(layout, 10, 1, p);
    return decode(answer, 0, layout, map, 0, {}, Vector<Scalar>::Zero(3).eval(), 1.0).first_unsafe();
  };
  EXPECT_EQ(padded_at(7 * least), -1);
  EXPECT_EQ(padded_at(6 * least), 0);
}

TEST(Decode, AWeightThatUnderflowsSaysOnWhichSideTheAnchorLies) {
  check_drift<float>();
  check_drift<double>();
}

// --- answers that are none -------------------------------------------------------------------------------------------

TEST(Decode, ANumberThatIsNotFiniteNamesLayerHeadTileAndRow) {
  for (const CallKind kind :
       {CallKind::straight, CallKind::state, CallKind::state_with_keys, CallKind::values_and_keys, CallKind::weight}) {
    const InstanceLayout layout = layout_of(kind);
    const Matrix<double> sound = answer_of<double>(layout, 4, 0.5, 0.5);
    EXPECT_EQ(error_of(sound, layout, lower), "no error");
    for (const double wrong : {std::numeric_limits<double>::quiet_NaN(), infinity, -infinity})
      for (Index column = 0; column < layout.answer_cols(); ++column) {
        Matrix<double> answer = sound;
        answer(3, column) = wrong;
        EXPECT_EQ(error_of(answer, layout, lower),
                  "layer 6, head 2, lower triangle of queries 40..42 and keys 70..72, row 42: the oracle answered NaN "
                  "or infinity");
      }
  }
  // Reversed: row 1 of the call carries query 41.
  const InstanceLayout layout = layout_of(CallKind::state);
  Matrix<float> answer = answer_of<float>(layout, 3, 0.5, 0.5);
  answer(1, 0) = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(error_of(answer, layout, upper),
            "layer 6, head 2, strict upper triangle of queries 40..42 and keys 70..72, row 41: the oracle answered NaN "
            "or infinity");
}

TEST(Decode, WeightsThatAreNoProbabilitiesNameLayerHeadTileAndRow) {
  struct Weights {
    double r, p;
    const char* text;
  };
  for (const Weights& w : {Weights{-0.25, 1.25, "-0.25 and 1.25"},
                           {1.25, -0.25, "1.25 and -0.25"},
                           {0.25, 0.5, "0.25 and 0.5"},
                           {0.75, 0.5, "0.75 and 0.5"},
                           {0, 0, "0 and 0"},
                           {-1e-3, 1, "-0.001 and 1"},
                           {1, 1, "1 and 1"}})
    for (const CallKind kind : {CallKind::state, CallKind::state_with_keys, CallKind::weight}) {
      const InstanceLayout layout = layout_of(kind);
      Matrix<double> answer = answer_of<double>(layout, 4, 0.5, 0.5);
      answer.row(2) = answer_of<double>(layout, 1, w.r, w.p);
      EXPECT_EQ(
          error_of(answer, layout, lower),
          std::string(
              "layer 6, head 2, lower triangle of queries 40..42 and keys 70..72, row 41: the attention on real and "
              "synthetic keys is ") +
              w.text + ", expected two numbers >= 0 that sum to 1");
    }
}

TEST(Decode, WeightsOfHalfPrecisionStillCount) {
  const InstanceLayout layout = layout_of(CallKind::state);
  for (const double sum : {0.98, 1.02}) {
    const Decoded<float> found = decoded(answer_of<float>(layout, 4, 0.5 * sum, 0.5 * sum), layout, lower);
    // The quotients cancel the common factor.
    EXPECT_NEAR(found.partial.log_weight[0], 10, 1e-6);
    EXPECT_NEAR(found.partial.value(0, 0), 3, 1e-6);
  }
}

}  // namespace
