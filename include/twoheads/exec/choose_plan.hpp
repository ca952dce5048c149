#pragma once

#include <cmath>
#include <cstddef>
#include <optional>
#include <string>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/sort.hpp>
#include <twoheads/exec/oracle_plans.hpp>
#include <twoheads/exec/plan_choice.hpp>
#include <twoheads/oracle/oracle.hpp>
#include <twoheads/plan/plan.hpp>
#include <twoheads/plan/print.hpp>
#include <utility>
#include <vector>

namespace twoheads {
namespace detail {

/// An oracle of a problem in words.
[[nodiscard]] inline std::string words_of_oracle(const PlanProblem& problem, std::size_t number) {
  const OracleLimits& limits = problem.oracles[number];
  const char* most = limits.fixed_rows ? "" : limits.row_counts.empty() ? "up to " : "";
  std::string words = problem.oracles.size() > 1 ? text("oracle ", number + 1, " (") : std::string("the oracle (");
  words += text(name(limits.kind), ", ", most);
  if (limits.row_counts.empty())
    words += text(limits.rows);
  else
    words += rows_taken(limits);
  return words + " rows)";
}

[[nodiscard]] inline std::string words_of_anchor(const PlanProblem& problem, const PlanOption& option) {
  const OracleLimits& limits = problem.oracles[option.oracle];
  if (option.straight) return "Without a synthetic key there is no anchor to choose.";
  std::string words = text("Anchor ", name(option.anchor), ": ");
  const Precision low = coarsest(limits.precision, problem.scalar);
  switch (option.anchor) {
    case Anchor::zero:
      words += "one call a tile, accepted by the problem; it fails where logits are not small";
      break;
    case Anchor::mean_key:
      words += problem.largest_logit && *problem.largest_logit <= largest_mean_key_logit(low)
                   ? text("one call a tile, and logits up to ", *problem.largest_logit,
                          " keep its weights in the range of ", name(low))
                   : std::string("one call a tile, accepted by the problem; it fails where a key stands out");
      break;
    case Anchor::gibbs:
      words += "two calls a tile, safe at any logit size";
      if (low == Precision::half || low == Precision::bfloat16)
        words += text("; with one, weights rounded to ", name(low), " may lose their digits unseen");
      break;
    case Anchor::adaptive:
      words += "one call a tile, and more for tiles whose logits need them";
      break;
  }
  return words + ".";
}

[[nodiscard]] inline std::string words_of_packing(const PlanProblem& problem, const PlanOption& option) {
  const OracleLimits& limits = problem.oracles[option.oracle];
  std::string words =
      text("A call carries ", counted(option.instances, "slot"), " in ", option.heads, " of ",
           counted(limits.heads, "head"), " of ", option.layers, " of ", counted(limits.layers, "layer"));
  if (option.layers > 1)
    words += option.packing == Packing::residual ? ", past the others by its residual stream"
                                                 : ", past the others by an identity head in each";
  return words + ".";
}

/// Blocks, calls and rows of a choice in words.
[[nodiscard]] inline std::string words_of_block(const PlanProblem& problem, const PlanChoice& choice) {
  const PlanOption& option = choice.chosen;
  const OracleLimits& limits = problem.oracles[option.oracle];
  if (option.straight)
    return text("The input fits one call as it is, without a synthetic row: ", counted(choice.calls, "call"), " of ",
                counted(choice.call_rows, "row"), ".");
  std::string words = text("Blocks of ", counted(option.block, "token"), ": ", counted(choice.calls, "call"), " of ",
                           limits.fixed_rows ? "" : "up to ", counted(choice.call_rows, "row"), ", ",
                           counted(choice.rows, "row"), " in all");
  for (const PlanOption& other : choice.others)
    if (other.oracle == option.oracle && other.block == limits.rows - 1 && other.block != option.block) {
      words += text("; blocks of ", other.block, " would take ", counted(other.calls, "call"), " at a price of ",
                    other.price);
      break;
    }
  return words + ".";
}

/// The problem with its defaults filled in.
[[nodiscard]] inline PlanProblem completed(PlanProblem problem) {
  const auto positive = [](const char* what, Index value) {
    if (value < 1) throw SpecError(text(what, " is ", value, ", expected 1 or more"));
  };
  if (problem.keys == 0) problem.keys = problem.tokens;
  if (problem.value_dim == 0) problem.value_dim = problem.head_dim;
  if (problem.kv_heads == 0) problem.kv_heads = problem.heads;
  problem.mask.require_defined(problem.tokens, problem.keys);
  positive("heads", problem.heads);
  positive("layers", problem.layers);
  positive("the head dim", problem.head_dim);
  positive("the value dim", problem.value_dim);
  positive("the number of key/value heads", problem.kv_heads);
  if (problem.heads % problem.kv_heads != 0)
    throw SpecError(text(problem.heads, " heads share ", problem.kv_heads, " key/value heads, expected a divisor"));
  if (problem.encoding == TokenEncoding::raw) positive("the width of a raw token", problem.input_width);
  if (problem.scalar != Precision::float32 && problem.scalar != Precision::float64)
    throw SpecError(text("oracles are called in ", name(problem.scalar), ", expected float32 or float64"));
  const CallCost& price = problem.price;
  for (const double term : {price.fixed, price.per_row, price.per_pair})
    if (!(term >= 0) || !std::isfinite(term))
      throw SpecError(text("a price of a call, a row or a pair is ", term, ", expected a finite number, 0 or more"));
  if (problem.largest_logit && !(*problem.largest_logit >= 0))
    throw SpecError(text("the largest logit is ", *problem.largest_logit, ", expected 0 or more"));
  if (problem.oracles.empty()) throw SpecError("no oracle is at hand, expected 1 or more");
  return problem;
}

}  // namespace detail

/// Chooses oracle, block length, anchor, packing, heads and layers for a problem: the least price, then the fewest
/// rows, then the fewest bytes.
///
///   Laws     no block length, anchor, packing, number of heads or layers, on any oracle at hand, has a lower price,
///            where BlockLengths looks at all blocks. calls, rows and bytes are those that OracleEngine makes, repeats
///            of adaptive anchors apart.
///   Corner   an oracle that no plan works on is left out, and named with its reason in `refused`; the order of oracles
///            of one price is theirs
///   Throws   LimitError with the reasons where no oracle is left; SpecError for a problem that makes no sense
[[nodiscard]] inline PlanChoice choose_plan(const PlanProblem& asked) {
  const PlanProblem problem = detail::completed(asked);
  std::vector<std::optional<detail::OraclePlans>> plans(problem.oracles.size());
  std::vector<detail::KnownOption> bests;
  PlanChoice choice;
  for (std::size_t number = 0; number < plans.size(); ++number) {
    try {
      plans[number].emplace(problem, number);
      bests.push_back(*plans[number]->best([](const PlanOption&) { return true; }));
    } catch (const LimitError& error) {
      choice.refused.push_back(
          detail::text("No plan for ", detail::words_of_oracle(problem, number), ": ", error.what()));
    }
  }
  if (bests.empty()) {
    std::string reasons;
    for (const std::string& reason : choice.refused) reasons += (reasons.empty() ? "" : "; ") + reason;
    throw LimitError(reasons);
  }
  std::size_t least = 0;
  for (std::size_t i = 1; i < bests.size(); ++i)
    if (bests[i].better_than(bests[least])) least = i;
  const detail::KnownOption best = bests[least];
  const detail::OraclePlans& own = *plans[best.option.oracle];
  const OracleLimits& limits = problem.oracles[best.option.oracle];
  choice.chosen = best.option;
  choice.request = own.request_of(best.option);
  for (std::size_t i = 0; i < bests.size(); ++i)
    if (i != least) choice.others.push_back(bests[i].option);
  // What else might have been expected of the same oracle.
  const auto add = [&](const auto& allows) {
    if (const auto other = own.best(allows)) choice.others.push_back(other->option);
  };
  const PlanOption& chosen = choice.chosen;
  if (chosen.block != limits.rows - 1) add([&](const PlanOption& o) { return o.block == limits.rows - 1; });
  add([&](const PlanOption& o) { return o.block == chosen.block && o.anchor != chosen.anchor; });
  add([&](const PlanOption& o) { return o.block == chosen.block && o.instances != chosen.instances; });
  detail::sort_stably(choice.others, [](const PlanOption& a, const PlanOption& b) { return a.price < b.price; });

  const Plan plan(choice.request);
  choice.calls = plan.calls();
  choice.rounds = plan.rounds();
  choice.price = chosen.price;
  choice.call_rows = best.calls.rbegin()->first;
  choice.rows = best.rows;
  choice.bytes_in = best.bytes_in;
  choice.bytes_out = best.bytes_out;
  choice.exact = plan.exact();
  const Index places = detail::checked_product("the number of rows", best.rows, chosen.instances);
  const Index carried = detail::checked_product("the number of rows", plan.token_rows(), problem.heads * plan.rounds());
  choice.wasted_rows = places - carried;
  choice.wasted_share = static_cast<double>(choice.wasted_rows) / static_cast<double>(places);
  choice.expected_error = expected_error(limits.precision, problem.scalar, problem.largest_logit.value_or(0));

  const std::string oracle = detail::words_of_oracle(problem, chosen.oracle);
  if (bests.size() == 1) {
    choice.oracle_words = detail::text("A plan on ", oracle, " at a price of ", chosen.price, ".");
  } else {
    choice.oracle_words = detail::text("Of the oracles at hand, ", oracle, " has the least price, ", chosen.price);
    for (std::size_t i = 0; i < bests.size(); ++i)
      if (i != least)
        choice.oracle_words +=
            detail::text(", ", detail::words_of_oracle(problem, bests[i].option.oracle), " ", bests[i].option.price);
    choice.oracle_words += ".";
  }
  choice.block_words = detail::words_of_block(problem, choice);
  choice.anchor_words = detail::words_of_anchor(problem, chosen);
  choice.packing_words = detail::words_of_packing(problem, chosen);
  return choice;
}

}  // namespace twoheads
