#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <random>
#include <span>
#include <twoheads/exec/choose_plan.hpp>
#include <vector>

/// Problems of planning, drawn by a seed, and their least price by trying all plans.
namespace plan_problems {

using namespace twoheads;

// --- prices by brute force -------------------------------------------------------------------------------------------

/// Rows of a call that a slot asks for, counted anew.
inline Index rows_of(std::span<const Tile> slot, bool straight) {
  Index rows = straight ? 0 : 1;
  rows += slot.front().sinks.size();
  for (const Tile& tile : slot) {
    if (tile.shape == TileShape::rectangle)
      rows += tile.queries_last ? tile.queries.size() + tile.keys.size() - 1
                                : std::max(tile.queries.size(), tile.keys.size());
    if (tile.shape == TileShape::lower) rows += tile.queries.size();
    if (tile.shape == TileShape::strict_upper) rows += tile.keys.size() - 1;
  }
  return rows;
}

/// The price of a plan whose calls carry so many slots, slot by slot.
inline double price_of(const Plan& plan, Index instances, const CallCost& price) {
  double sum = 0;
  Index slots = 0;
  Index most = 0;
  const auto close = [&] {
    if (slots > 0) sum += price(plan.oracle().call_rows(most));
    slots = most = 0;
  };
  for (Index block = 0; block < plan.query_blocks(); ++block)
    for (Index head = 0; head < plan.request().heads; ++head)
      plan.for_each_slot(block, head, [&](std::span<const Tile> slot) {
        most = std::max(most, rows_of(slot, plan.straight()));
        if (++slots == instances) close();
      });
  close();
  return sum * static_cast<double>(plan.rounds());
}

struct Least {
  double price = std::numeric_limits<double>::infinity();
  Index looked_at = 0;
};

/// The least price of all that one could write by hand; what is above `enough` by its number of calls alone is not cut.
inline Least least_price(const PlanProblem& problem, const std::vector<Anchor>& anchors, double enough) {
  Least least;
  for (const OracleLimits& oracle : problem.oracles)
    for (Index block = 1; block < oracle.rows; ++block)
      for (Index layers = 1; layers <= oracle.layers; ++layers)
        for (Index heads = 1; heads <= oracle.heads; ++heads)
          for (const Packing packing : {Packing::residual, Packing::identity})
            for (const Anchor anchor : anchors) {
              PlanRequest request{problem.mask, problem.tokens, problem.keys, problem.heads, problem.layers, oracle};
              request.oracle.heads = heads;
              request.oracle.layers = layers;
              request.anchor = anchor;
              request.packing = packing;
              request.block = block;
              if (layers > 1 &&
                  (oracle.residual ? packing == Packing::identity : packing == Packing::residual || heads == 1))
                continue;
              if (layers == 1 && packing == Packing::identity) continue;
              const Plan plan(request);
              ++least.looked_at;
              const Index shortest = oracle.call_rows(plan.straight() ? 1 : 2);
              if (static_cast<double>(plan.calls()) * problem.price(shortest) > enough) continue;
              const double price = price_of(plan, plan.slots_per_call(), problem.price);
              least.price = std::min(least.price, price);
            }
  return least;
}

// --- seeded problems -------------------------------------------------------------------------------------------------

class Cases {
 public:
  explicit Cases(std::uint64_t seed) : random_(seed) {}

  Index number(Index least, Index most) {
    return least + static_cast<Index>(random_() % static_cast<std::uint64_t>(most - least + 1));
  }
  bool one_in(Index n) { return number(1, n) == 1; }

  Mask mask(Index tokens) {
    switch (number(0, 5)) {
      case 0:
        return Mask::full();
      case 1:
        return Mask::causal();
      case 2:
        return Mask::sliding_window(number(1, one_in(3) ? tokens : 40));
      case 3:
        return Mask::window_and_sinks(number(1, 60), number(0, 40));
      case 4:
        return Mask::band(number(0, 50), number(0, 30));
      default:
        break;
    }
    std::vector<Index> lengths;
    for (Index left = tokens; left > 0; left -= lengths.back()) lengths.push_back(number(1, std::min<Index>(left, 70)));
    return Mask::documents(lengths, one_in(2));
  }

  OracleLimits oracle(Index most_rows) {
    OracleLimits limits;
    limits.kind = one_in(2) ? OracleKind::plain : OracleKind::causal;
    limits.rows = number(2, most_rows);
    limits.heads = one_in(2) ? 1 : number(1, 4);
    limits.layers = one_in(2) ? 1 : number(1, 3);
    limits.residual = one_in(2);
    if (one_in(3)) limits.fixed_rows = true;
    if (!limits.fixed_rows && one_in(2)) {
      for (Index rows = limits.rows; rows > 0; rows -= number(1, std::max<Index>(rows / 2, 1)))
        limits.row_counts.insert(limits.row_counts.begin(), rows);
    }
    return limits;
  }

  PlanProblem problem(Index most_tokens, Index most_rows) {
    PlanProblem problem;
    problem.tokens = number(1, most_tokens);
    problem.mask = mask(problem.tokens);
    problem.heads = one_in(2) ? 1 : number(1, 5);
    problem.layers = number(1, 2);
    problem.head_dim = 4;
    if (problem.mask.kind == MaskKind::full && one_in(2)) problem.keys = number(1, most_tokens);
    for (Index oracles = number(1, 2); oracles > 0; --oracles) problem.oracles.push_back(oracle(most_rows));
    if (problem.oracles.size() == 2 && one_in(2)) {  // one graph, plain and causal
      problem.oracles[1] = problem.oracles[0];
      problem.oracles[1].kind = problem.oracles[0].kind == OracleKind::plain ? OracleKind::causal : OracleKind::plain;
    }
    if (!one_in(3)) problem.price = {static_cast<double>(number(0, 300)), static_cast<double>(number(0, 3)), 0};
    if (one_in(3)) problem.price.per_pair = 0.01 * static_cast<double>(number(1, 10));
    if (one_in(4)) problem.anchors = {Anchor::gibbs};
    if (one_in(4)) problem.largest_logit = 2.0;
    return problem;
  }

 private:
  std::mt19937_64 random_;
};

}  // namespace plan_problems
