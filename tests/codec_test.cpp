#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "support/encoded_tile.hpp"
#include "support/seed.hpp"

namespace {

using namespace tiles;

std::uint64_t seed() { return seed_or(314); }

// --- encode, run, decode against the truth ---------------------------------------------------------------------------

/// Calls visit(setting) for all oracles, encodings and ways to pad.
template <class Visit>
void for_each_setting(bool straight, const Visit& visit) {
  for (const OracleKind oracle : {OracleKind::plain, OracleKind::causal})
    for (const TokenEncoding encoding : {TokenEncoding::projected, TokenEncoding::raw})
      for (const bool residual : {false, true})
        for (const Index padding : {0, 3})
          for (const double scale : {1.0, 0.3}) visit(Setting{oracle, straight, encoding, residual, padding, scale});
}

/// Evaluates jobs in all settings; returns how their rows drifted.
template <class Scalar>
Drifts expect_truth_in_all_settings(bool straight, Anchor anchor, double logits) {
  Drifts total;
  Random random(seed());
  for_each_setting(straight, [&](const Setting& s) {
    SCOPED_TRACE(testing::Message() << "seed " << seed() << ", " << s << ", anchor " << name(anchor) << ", logits "
                                    << logits << ", " << sizeof(Scalar) << " bytes");
    // Heads of their own slices and keys in half of the settings, of shared tokens and keys in the others.
    const Layer<Scalar> layer = make_layer<Scalar>(random, logits, s.padding > 0);
    const std::vector<TileOfHead> jobs = jobs_of(s.oracle, s.straight);
    const auto hold = [&](const Asked<Scalar>& asked, const Anchors& anchors) {
      for (std::size_t i = 0; i < jobs.size(); ++i) {
        SCOPED_TRACE(testing::Message() << jobs[i].tile << ", head " << jobs[i].head);
        const Truth truth = truth_of(layer, jobs[i].tile, jobs[i].head, s.encoding);
        const Drifts drifts = expect_truth(asked.found[i], truth, anchors[i], asked.layout.kind);
        total.none += drifts.none;
        total.too_low += drifts.too_low;
        total.too_high += drifts.too_high;
      }
    };
    const Anchors zero = anchors_of<Scalar>(Anchor::zero, layer, jobs, nullptr);
    if (straight) return hold(ask(layer, s, CallKind::straight, jobs, zero), zero);
    if (anchor == Anchor::gibbs) {
      const Asked<Scalar> first = ask(layer, s, CallKind::values_and_keys, jobs, zero);
      hold(first, zero);
      const Anchors anchors = anchors_of(anchor, layer, jobs, &first);
      return hold(ask(layer, s, CallKind::weight, jobs, anchors), anchors);
    }
    const Anchors anchors = anchors_of<Scalar>(anchor, layer, jobs, nullptr);
    hold(ask(layer, s, anchor == Anchor::adaptive ? CallKind::state_with_keys : CallKind::state, jobs, anchors),
         anchors);
  });
  EXPECT_GT(total.none, 0);
  return total;
}

template <class Scalar>
void expect_no_drift(bool straight, Anchor anchor, double logits) {
  const Drifts drifts = expect_truth_in_all_settings<Scalar>(straight, anchor, logits);
  EXPECT_EQ(drifts.too_low, 0) << name(anchor) << ", logits " << logits;
  EXPECT_EQ(drifts.too_high, 0) << name(anchor) << ", logits " << logits;
}

TEST(Codec, AStraightCallAnswersItsTilesAtEveryLogitSize) {
  for (const double logits : {1.0, 25.0, 300.0}) {
    expect_no_drift<float>(true, Anchor::zero, logits);
    expect_no_drift<double>(true, Anchor::zero, logits);
  }
}

TEST(Codec, AnchorsZeroAndMeanKeyAnswerTheirTilesWhileLogitsAreModerate) {
  for (const Anchor anchor : {Anchor::zero, Anchor::mean_key, Anchor::adaptive})
    for (const double logits : {1.0, 25.0}) {
      expect_no_drift<float>(false, anchor, logits);
      expect_no_drift<double>(false, anchor, logits);
    }
}

TEST(Codec, AnAnchorOutOfRangeIsToldAndNeverSpoilsAnswers) {
  for (const Anchor anchor : {Anchor::zero, Anchor::mean_key, Anchor::adaptive}) {
    const Drifts drifts = expect_truth_in_all_settings<float>(false, anchor, 300.0);
    EXPECT_GT(drifts.too_low, 0) << name(anchor);
    // The mean key's anchor never lies above the log-sum-exp.
    EXPECT_EQ(drifts.too_high > 0, anchor == Anchor::zero) << name(anchor);
    expect_no_drift<double>(false, anchor, 300.0);
  }
}

TEST(Codec, GibbsAnchorsAnswerTheirTilesAtEveryLogitSize) {
  for (const double logits : {1.0, 25.0, 300.0}) {
    expect_no_drift<float>(false, Anchor::gibbs, logits);
    expect_no_drift<double>(false, Anchor::gibbs, logits);
  }
}

// --- padding ---------------------------------------------------------------------------------------------------------

template <class Scalar>
void expect_padding_changes_roundings_only(CallKind kind, double logits) {
  Random random(seed());
  const bool straight = kind == CallKind::straight;
  for (const OracleKind oracle : {OracleKind::plain, OracleKind::causal}) {
    const Layer<Scalar> layer = make_layer<Scalar>(random, logits, false);
    const std::vector<TileOfHead> jobs = jobs_of(oracle, straight);
    const Anchors anchors = anchors_of<Scalar>(Anchor::mean_key, layer, jobs, nullptr);
    Setting setting{oracle, straight};
    const Asked<Scalar> without = ask(layer, setting, kind, jobs, anchors);
    for (const Index padding : {1, 7, 50}) {
      setting.padding = padding;
      SCOPED_TRACE(testing::Message() << "seed " << seed() << ", " << setting << ", logits " << logits);
      const Asked<Scalar> with = ask(layer, setting, kind, jobs, anchors);
      for (std::size_t i = 0; i < jobs.size(); ++i) {
        const Partial<Scalar>& a = without.found[i].partial;
        const Partial<Scalar>& b = with.found[i].partial;
        const Truth truth = truth_of(layer, jobs[i].tile, jobs[i].head, setting.encoding);
        for (Index row = 0; row < a.log_weight.size(); ++row) {
          const double allowed = 2 * bound<Scalar>(truth, anchors[i][row]);
          if (truth.rows[static_cast<std::size_t>(row)].seen > 0) {
            EXPECT_LE(std::abs(a.log_weight[row] - b.log_weight[row]), allowed) << jobs[i].tile << ", row " << row;
          }
          for (Index c = 0; c < a.value.cols(); ++c)
            EXPECT_LE(std::abs(a.value(row, c) - b.value(row, c)), allowed * static_cast<double>(truth.value_size))
                << jobs[i].tile << ", row " << row;
        }
      }
    }
  }
}

TEST(Codec, MoreRowsOfPaddingChangeResultsByRoundingOnly) {
  for (const CallKind kind : {CallKind::state, CallKind::weight, CallKind::straight, CallKind::values_and_keys})
    for (const double logits : {1.0, 25.0}) {
      expect_padding_changes_roundings_only<float>(kind, logits);
      expect_padding_changes_roundings_only<double>(kind, logits);
    }
}

// --- instances side by side ------------------------------------------------------------------------------------------

TEST(Codec, AnInstanceReadsAndWritesItsOwnColumnsOnly) {
  Random random(seed());
  for_each_setting(false, [&](const Setting& s) {
    SCOPED_TRACE(testing::Message() << "seed " << seed() << ", " << s);
    const Layer<double> layer = make_layer<double>(random, 2.0, false);
    std::vector<TileOfHead> jobs = jobs_of(s.oracle, false);
    const Asked<double> asked =
        ask(layer, s, CallKind::state_with_keys, jobs, anchors_of<double>(Anchor::mean_key, layer, jobs, nullptr));
    // Another job in the last place leaves the bits of all others as they were.
    jobs.back() = jobs.front();
    const Asked<double> other =
        ask(layer, s, CallKind::state_with_keys, jobs, anchors_of<double>(Anchor::mean_key, layer, jobs, nullptr));
    for (std::size_t i = 0; i + 1 < jobs.size(); ++i) {
      EXPECT_TRUE(asked.found[i].partial.value == other.found[i].partial.value) << i;
      EXPECT_TRUE(asked.found[i].partial.log_weight == other.found[i].partial.log_weight) << i;
      EXPECT_TRUE(asked.found[i].expected_keys == other.found[i].expected_keys) << i;
    }
    // What a residual oracle is given stays as it was, beside the answers.
    for (Index i = 0; s.residual && i < static_cast<Index>(jobs.size()); ++i)
      EXPECT_TRUE(asked.answer.middleCols(asked.columns.input_begin(i), asked.layout.width()) ==
                  asked.rows.middleCols(asked.columns.input_begin(i), asked.layout.width()));
  });
}

// --- dead keys -------------------------------------------------------------------------------------------------------

/// Holds dead keys to what they are for: exp of their score over a row's largest is 0 in the scalar, for every query.
template <class Scalar>
void expect_dead_keys_get_nothing(OracleKind oracle, double logits, double oracle_scale) {
  SCOPED_TRACE(testing::Message() << "seed " << seed() << ", " << name(oracle) << ", logits " << logits
                                  << ", oracle scale " << oracle_scale << ", " << sizeof(Scalar) << " bytes");
  Random random(seed());
  const Layer<Scalar> layer = make_layer<Scalar>(random, logits, false);
  // More queries than keys, so that also rows of queries carry dead keys.
  const TileShape shape = oracle == OracleKind::plain ? TileShape::rectangle : TileShape::lower;
  const std::vector<TileOfHead> jobs{{{{0, 9}, {2, 5}, shape}, 0}};
  const Setting setting{oracle, true, TokenEncoding::projected, false, 4, oracle_scale};
  Asked<Scalar> asked = ask(layer, setting, CallKind::straight, jobs, {Vector<double>::Zero(9)});
  const InstanceLayout& layout = asked.layout;
  const auto scale = static_cast<Scalar>(oracle_scale);
  for (Index row = 0; row < 9; ++row) {
    std::vector<Scalar> real, dead;
    for (Index key = 0; key < (oracle == OracleKind::plain ? asked.rows.rows() : row + 1); ++key) {
      Scalar score = 0;
      for (Index c = 0; c <= head_dim; ++c) score += asked.rows(row, c) * asked.rows(key, layout.key_at() + c);
      (asked.maps[0].row(key).key == SlotMap::none ? dead : real).push_back(scale * score);
    }
    const Scalar largest = *std::max_element(real.begin(), real.end());
    EXPECT_EQ(dead.size() + real.size(), oracle == OracleKind::plain ? 13u : static_cast<std::size_t>(row) + 1);
    for (const Scalar score : dead)
      EXPECT_EQ(std::exp(score - largest), 0) << "row " << row << ", score " << score << " by " << largest;
  }
  // Nor does the oracle give them anything: a value set on their rows does not reach an answer.
  for (Index row = 0; row < asked.rows.rows(); ++row)
    if (asked.maps[0].row(row).key == SlotMap::none) asked.rows.row(row).tail(layout.answer_cols()).setConstant(1e6);
  OracleLimits limits;
  limits.kind = oracle;
  limits.rows = asked.rows.rows();
  limits.score_scale = oracle_scale;
  const SmallWeights<Scalar> weights = stack<Scalar>(asked.columns, {selector_head<Scalar>(layout)});
  const Matrix<Scalar> answer = SmallTransformer<Scalar>(limits).run({&weights, asked.rows});
  for (Index row = 0; row < 9; ++row)
    for (Index c = 0; c < value_dim; ++c) EXPECT_EQ(answer(row, c), asked.answer(row, c)) << "row " << row;
}

TEST(DeadKeys, GetNoAttentionAtAnyLogitSize) {
  for (const OracleKind oracle : {OracleKind::plain, OracleKind::causal})
    for (const double scale : {1.0, 0.01, 30.0}) {
      for (const double logits : {0.0, 1.0, 300.0, 1e5, 1e12, 1e30}) {
        expect_dead_keys_get_nothing<float>(oracle, logits, scale);
        expect_dead_keys_get_nothing<double>(oracle, logits, scale);
      }
      expect_dead_keys_get_nothing<double>(oracle, 1e200, scale);
    }
}

// --- the paper's own form --------------------------------------------------------------------------------------------

/// Full attention of the hottest head over two blocks of keys, merged from what the calls say; largest error of a row
/// relative to its norm, infinite where a row is no number.
template <class Scalar, class Merge>
double worst_row(const Layer<Scalar>& layer, const Merge& merge) {
  const Truth truth =
      truth_of(layer, {{0, queries}, {0, keys}, TileShape::rectangle}, layer.hottest, TokenEncoding::projected);
  double worst = 0;
  for (Index row = 0; row < queries; ++row) {
    const std::array<Real, value_dim> merged = merge(row);
    Real error = 0, norm = 0;
    for (std::size_t c = 0; c < value_dim; ++c) {
      const Real exact = truth.rows[static_cast<std::size_t>(row)].value[c];
      error += (merged[c] - exact) * (merged[c] - exact);
      norm += exact * exact;
    }
    const double relative = static_cast<double>(std::sqrt(error / norm));
    worst = std::max(
        worst, relative <= std::numeric_limits<double>::max() ? relative : std::numeric_limits<double>::infinity());
  }
  return worst;
}

/// Two jobs, one for each block of keys.
template <class Scalar>
std::vector<TileOfHead> halves_of(const Layer<Scalar>& layer) {
  return {{{{0, queries}, {0, keys / 2}, TileShape::rectangle}, layer.hottest},
          {{{0, queries}, {keys / 2, keys}, TileShape::rectangle}, layer.hottest}};
}

/// As printed: anchor 0, A = r / (1 - r), out = sum (B / A) A / sum A, in the oracle's own scalar.
template <class Scalar>
double error_of_the_paper(const Layer<Scalar>& layer) {
  const Anchors zero(2, Vector<double>::Zero(queries));
  const std::vector<TileOfHead> halves = halves_of(layer);
  const Asked<Scalar> asked = ask(layer, {}, CallKind::state, halves, zero);
  return worst_row(layer, [&](Index row) {
    std::array<Scalar, value_dim> sum{};
    Scalar total = 0;
    for (Index half = 0; half < 2; ++half) {
      const auto answer = asked.answer.row(row).segment(asked.columns.answer_begin(half), asked.layout.answer_cols());
      const Scalar r = answer[asked.layout.r_at()];
      const Scalar weight = r / (Scalar(1) - r);
      for (Index c = 0; c < value_dim; ++c) sum[static_cast<std::size_t>(c)] += answer[c] / r * weight;
      total += weight;
    }
    std::array<Real, value_dim> merged{};
    for (std::size_t c = 0; c < value_dim; ++c) merged[c] = static_cast<Real>(sum[c] / total);
    return merged;
  });
}

/// By the codec: log weights from r / p under the given anchor.
template <class Scalar>
double error_of_the_codec(const Layer<Scalar>& layer, Anchor anchor) {
  const Anchors zero(2, Vector<double>::Zero(queries));
  const std::vector<TileOfHead> halves = halves_of(layer);
  const bool gibbs = anchor == Anchor::gibbs;
  const Asked<Scalar> first = ask(layer, {}, gibbs ? CallKind::values_and_keys : CallKind::state, halves,
                                  gibbs ? zero : anchors_of<Scalar>(anchor, layer, halves, nullptr));
  const Asked<Scalar> weights =
      gibbs ? ask(layer, {}, CallKind::weight, halves, anchors_of(anchor, layer, halves, &first)) : first;
  return worst_row(layer, [&](Index row) {
    const Real a = weights.found[0].partial.log_weight[row];
    const Real b = weights.found[1].partial.log_weight[row];
    const Real share = 1 / (1 + std::exp(b - a));
    std::array<Real, value_dim> merged{};
    for (Index c = 0; c < value_dim; ++c)
      merged[static_cast<std::size_t>(c)] =
          share * Real(first.found[0].partial.value(row, c)) + (1 - share) * Real(first.found[1].partial.value(row, c));
    return merged;
  });
}

TEST(PaperForm, LosesAllDigitsWhereTheCodecKeepsThem) {
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  Random random(seed());
  for (const double logits : {1.0, 25.0, 60.0, 300.0}) {
    SCOPED_TRACE(testing::Message() << "logits " << logits);
    double worst_in_float = 0, worst_in_double = 0;
    // A single layer may be lucky: one of its halves may weigh next to nothing.
    for (int repeat = 0; repeat < 10; ++repeat) {
      const Layer<float> layer = make_layer<float>(random, logits, false);
      const Truth truth =
          truth_of(layer, {{0, queries}, {0, keys}, TileShape::rectangle}, layer.hottest, TokenEncoding::projected);
      // A row's norm may be smaller than its values.
      Real norm = std::numeric_limits<Real>::max();
      for (const TruthRow& row : truth.rows) norm = std::min(norm, std::hypot(row.value[0], row.value[1]));
      const auto spread = static_cast<double>(truth.value_size / norm);
      const double allowed = 2 * bound<float>(truth, logits) * spread;
      EXPECT_LE(error_of_the_codec(layer, Anchor::gibbs), allowed);
      if (logits <= 25.0) {
        EXPECT_LE(error_of_the_codec(layer, Anchor::mean_key), allowed);
        EXPECT_LE(error_of_the_codec(layer, Anchor::zero), allowed);
      }
      worst_in_float = std::max(worst_in_float, error_of_the_paper(layer) / (logits > 1.0 ? 1.0 : spread));
      worst_in_double = std::max(worst_in_double, error_of_the_paper(make_layer<double>(random, logits, false)));
    }
    if (logits > 1.0) {
      EXPECT_GT(worst_in_float, 1e-2);
    } else {
      EXPECT_LE(worst_in_float, 1e-4);
    }
    // float64 only puts the same loss off.
    if (logits > 30.0) {
      EXPECT_GT(worst_in_double, 1e-2);
    }
  }
}

}  // namespace
