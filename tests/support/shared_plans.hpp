#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <twoheads/plan/plan.hpp>
#include <utility>
#include <vector>

#include "support/seed.hpp"

/// Plans under masks of every kind, to be shared among ranks.
namespace shared_plans {

using twoheads::Index;
using twoheads::Mask;
using twoheads::OracleKind;
using twoheads::Plan;
using twoheads::PlanRequest;

inline Plan plan_for(const Mask& mask, Index tokens, OracleKind kind, Index rows, Index heads = 1, Index keys = 0) {
  PlanRequest request;
  request.mask = mask;
  request.tokens = tokens;
  request.keys = keys;
  request.heads = heads;
  request.oracle.kind = kind;
  request.oracle.rows = rows;
  return Plan(request);
}

inline Mask scattered(Index queries, Index keys, std::uint64_t seed) {
  std::mt19937_64 draws(seed_or(seed));
  std::vector<std::pair<Index, Index>> pairs;
  for (Index a = 0; a * 5 < queries; ++a)
    for (Index b = 0; b * 5 < keys; ++b)
      if (draws() % 3 == 0) pairs.push_back({a, b});
  return Mask::block_pairs(queries, keys, 5, pairs);
}

/// Masks of every kind over so many tokens, 150 or more.
inline std::vector<Mask> masks_of(Index tokens) {
  return {Mask::full(),
          Mask::causal(),
          Mask::sliding_window(10),
          Mask::sliding_window(75),
          Mask::window_and_sinks(9, 4),
          Mask::window_and_sinks(40, 60),
          Mask::band(7, 12),
          Mask::band(0, 30),
          Mask::documents({3, 50, 1, 20, 70, tokens - 144}, false),
          Mask::documents({3, 50, 1, 20, 70, tokens - 144}, true),
          scattered(tokens, tokens, 5)};
}

inline constexpr OracleKind kinds[]{OracleKind::kernel, OracleKind::plain, OracleKind::causal};

/// Most rows of a query block, in a plan that has several of them: kernel blocks are cut at every 128 rows besides.
constexpr Index rows_of(OracleKind kind, bool large) {
  if (kind == OracleKind::kernel) return large ? 300 : 40;
  return large ? 33 : 9;
}

template <class Use>
void for_each_case(Use&& use) {
  for (const Index tokens : {151, 700})
    for (const Mask& mask : masks_of(tokens))
      for (const OracleKind kind : kinds)
        for (const bool large : {false, true}) {
          if (tokens == 700 && !large) continue;
          SCOPED_TRACE(testing::Message() << tokens << " tokens, " << name(mask.kind) << ", " << name(kind) << " of "
                                          << rows_of(kind, large) << " rows");
          use(plan_for(mask, tokens, kind, rows_of(kind, large), 2));
        }
}

}  // namespace shared_plans
