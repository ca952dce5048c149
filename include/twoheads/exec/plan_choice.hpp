#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <optional>
#include <string>
#include <twoheads/base/errors.hpp>
#include <twoheads/codec/layout.hpp>
#include <twoheads/plan/choose_rows.hpp>
#include <twoheads/plan/plan.hpp>
#include <vector>

namespace twoheads {

/// What is to be evaluated, and the oracles at hand: what choose_plan() chooses for.
struct PlanProblem {
  Mask mask;                                          ///< which pairs are visible
  Index tokens = 1;                                   ///< queries, N
  Index keys = 0;                                     ///< 0 stands for as many as queries
  Index heads = 1;                                    ///< query heads, H
  Index kv_heads = 0;                                 ///< 0 stands for as many as query heads
  Index layers = 1;                                   ///< of the model, L
  Index head_dim = 1;                                 ///< columns of q and k
  Index value_dim = 0;                                ///< 0 stands for the head dim
  Index input_width = 0;                              ///< columns of a token; raw tokens need it
  TokenEncoding encoding = TokenEncoding::projected;  ///< what a row of a call carries
  bool checksums = false;                             ///< as SimulationOptions::checksums
  Precision scalar = Precision::float32;              ///< that oracles are called in, float32 or float64
  Sampling sampling = {};  ///< is taken as it is: its error depends on the blocks, which are then not chosen
  std::vector<OracleLimits> oracles = {};
  CallCost price{1, 0, 0};                   ///< of a call by its rows; as it stands, calls are counted
  std::vector<Anchor> anchors = {};          ///< that are acceptable; none: those that are safe, see anchors_at_hand()
  std::optional<double> largest_logit = {};  ///< in size, of all queries and keys, where it is known
};

/// One way to plan a problem.
struct PlanOption {
  std::size_t oracle = 0;               ///< its number among the oracles at hand
  Index block = 1;                      ///< real tokens of a call
  Anchor anchor = Anchor::mean_key;     ///< how a row's anchor is found
  Packing packing = Packing::residual;  ///< of instances over layers
  Index layers = 1;                     ///< of the oracle's that are used
  Index heads = 1;                      ///< of a layer's that are used
  Index instances = 1;                  ///< slots of a call
  bool straight = false;                ///< one call without a synthetic row shows every query its keys
  Index calls = 0;                      ///< without repeats
  double price = 0;                     ///< of all calls
};

/// The plan that was chosen, what it takes, and what was not chosen.
struct PlanChoice {
  PlanRequest request;  ///< for Plan: its oracle has the heads and layers that are used
  PlanOption chosen;
  std::vector<PlanOption> others = {};    ///< the best of other oracles, blocks, anchors and packings, cheapest first
  std::vector<std::string> refused = {};  ///< oracles that no plan works on, and why
  Index calls = 0;                        ///< without the repeats of adaptive anchors, which depend on the data
  Index rounds = 0;                       ///< calls of a round need nothing from each other
  double price = 0;                       ///< of all calls
  Index call_rows = 0;                    ///< most rows of a call
  Index rows = 0;                         ///< of all calls
  Index wasted_rows = 0;                  ///< rows of all instances of all calls that carry no token
  double wasted_share = 0;                ///< of the rows of all instances of all calls, 0..1
  Index bytes_in = 0;                     ///< of the rows of all calls, weights apart
  Index bytes_out = 0;                    ///< of their answers
  bool exact = true;                      ///< false: a sample is drawn
  double expected_error = 0;              ///< of a row, relative to its largest value: see expected_error()
  std::string oracle_words = {};          ///< why this oracle
  std::string block_words = {};           ///< why blocks of this length
  std::string anchor_words = {};          ///< why this anchor
  std::string packing_words = {};         ///< why this packing

  /// Why this plan, and what is wasted, in a few sentences.
  [[nodiscard]] std::string reason() const {
    std::string words = oracle_words;
    for (const std::string* part : {&block_words, &anchor_words, &packing_words}) words.append(" ").append(*part);
    std::array<char, 32> percent{};
    std::snprintf(percent.data(), percent.size(), "%.3g %%", 100 * wasted_share);
    words += detail::text(" ", wasted_rows, " rows (", percent.data(),
                          ") carry no token: synthetic keys, padding and places that no slot fills.");
    for (const std::string& fault : refused) words.append(" ").append(fault).append(".");
    return words;
  }
};

/// The error of a row that is to be expected, relative to the row's largest value.
///
///   Math     scores and sums in a scalar of unit roundoff u: (8 + L / 2) u, L the largest logit (where it is not
///            known, as of small ones). Tokens, weights or answers rounded to half or bfloat16 of unit roundoff v:
///            4 v more.
///   Corner   an expectation, no bound: the first term is about the error of direct evaluation in the same scalar, as
///            measured on random transformers; the second holds for Gibbs anchors, or small logits. Of the error of a
///            sample nothing is known beforehand.
[[nodiscard]] inline double expected_error(const OraclePrecision& precision, Precision scalar, double largest_logit) {
  const auto roundoff = [](Precision p) { return facts_of(p).unit_roundoff; };
  const double own = std::max(roundoff(scalar), roundoff(precision.scores));
  const double moved = std::max({roundoff(precision.tokens), roundoff(precision.weights), roundoff(precision.answers)});
  const bool low = moved > roundoff(Precision::float32);
  return (8 + largest_logit / 2) * (low ? own : std::max(own, moved)) + (low ? 4 * moved : 0);
}

namespace detail {

/// The coarsest precision that attention weights pass on their way to the host.
[[nodiscard]] inline Precision coarsest(const OraclePrecision& precision, Precision scalar) {
  Precision found = scalar;
  for (const Precision p : {precision.tokens, precision.weights, precision.answers})
    if (facts_of(p).unit_roundoff > facts_of(found).unit_roundoff) found = p;
  return found;
}

/// The largest logit up to which the mean-key anchor keeps the synthetic key's weight a normal number: the weight is
/// at least exp(-2 L) / 2.
[[nodiscard]] inline double largest_mean_key_logit(Precision precision) {
  return (-std::log(16 * facts_of(precision).least_normal) - std::log(2.0)) / 2;
}

}  // namespace detail

/// Anchors that are safe on an oracle, or those that the problem accepts.
///
///   Math     mean_key where the largest logit L is known and exp(-2 L) / 2 is a normal number of the coarsest
///            precision that weights pass, 16 times over: up to about 2.6 in half, 42 in bfloat16 and float, 352 in
///            float64; gibbs always; adaptive unless weights, tokens or answers are half or bfloat16, where weights
///            lose their digits before they are found to underflow. Never zero, unless the problem accepts it.
[[nodiscard]] inline std::vector<Anchor> anchors_at_hand(const PlanProblem& problem, const OracleLimits& oracle) {
  if (!problem.anchors.empty()) return problem.anchors;
  const Precision coarsest = detail::coarsest(oracle.precision, problem.scalar);
  std::vector<Anchor> anchors;
  if (problem.largest_logit && *problem.largest_logit <= detail::largest_mean_key_logit(coarsest))
    anchors.push_back(Anchor::mean_key);
  if (coarsest != Precision::half && coarsest != Precision::bfloat16) anchors.push_back(Anchor::adaptive);
  anchors.push_back(Anchor::gibbs);
  return anchors;
}

}  // namespace twoheads
