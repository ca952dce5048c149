#pragma once

#include <algorithm>
#include <cstddef>
#include <ostream>
#include <string>
#include <twoheads/plan/plan.hpp>
#include <utility>
#include <vector>

#include "support/in_shape.hpp"
#include "support/rows_filled.hpp"

/// Full and causal masks on oracles of every number of rows, and what enumerating their plans finds.
namespace plan_cases {

using namespace twoheads;

struct Case {
  MaskKind mask = MaskKind::full;
  OracleKind oracle = OracleKind::plain;
  Index tokens = 1;
  Index keys = 1;
  Index rows = 2;

  [[nodiscard]] PlanRequest request() const {
    PlanRequest request;
    request.mask.kind = mask;
    request.tokens = tokens;
    request.keys = keys;
    request.oracle.kind = oracle;
    request.oracle.rows = rows;
    return request;
  }
  /// The oracle shows all tokens at once, and just what the mask shows.
  [[nodiscard]] bool fits_one_call() const {
    return std::max(tokens, keys) <= rows && (mask == MaskKind::causal) == (oracle == OracleKind::causal);
  }
};

inline std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << name(c.mask) << " mask, " << name(c.oracle) << " oracle of " << c.rows << " rows, " << c.tokens
             << " tokens, " << c.keys << " keys";
}

/// Masks and oracles that can be planned, with all lengths and row counts; full masks with other numbers of keys too.
inline std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const Index rows : {2, 3, 17, 64, 65, 129}) {
    for (const Index tokens : {1, 2, 3, 63, 64, 65, 300, 1000}) {
      cases.push_back({MaskKind::full, OracleKind::plain, tokens, tokens, rows});
      cases.push_back({MaskKind::full, OracleKind::causal, tokens, tokens, rows});
      cases.push_back({MaskKind::causal, OracleKind::causal, tokens, tokens, rows});
    }
    for (const auto& [tokens, keys] : {std::pair<Index, Index>{1, 300}, {2, 65}, {65, 1}, {64, 129}, {300, 97}})
      for (const OracleKind oracle : {OracleKind::plain, OracleKind::causal})
        cases.push_back({MaskKind::full, oracle, tokens, keys, rows});
  }
  return cases;
}

inline bool visible(MaskKind mask, Index query, Index key) { return mask == MaskKind::full || key <= query; }

/// What enumerating one layer of a plan finds.
struct Enumerated {
  Index tiles = 0;
  Index rows = 0;  ///< filled by all tiles of one head
  Index widest = 0;
  std::string fault;  ///< in the cover, counted pair by pair
};

inline Enumerated enumerate(const Plan& plan, const Case& c) {
  Enumerated found;
  std::vector<unsigned char> seen(static_cast<std::size_t>(c.tokens * c.keys), 0);
  for (Index block = 0; block < plan.query_blocks(); ++block)
    plan.for_each_tile(block, [&](const Tile& tile) {
      ++found.tiles;
      found.rows += rows_filled(tile);
      found.widest = std::max(found.widest, rows_filled(tile));
      if (tile.queries.begin < 0 || tile.queries.end > c.tokens || tile.keys.begin < 0 || tile.keys.end > c.keys) {
        found.fault = detail::text(tile, " lies outside");
        return;
      }
      Index pairs = 0;
      for (Index i = 0; i < tile.queries.size(); ++i)
        for (Index j = 0; j < tile.keys.size(); ++j)
          if (in_shape(tile.shape, i, j)) {
            ++pairs;
            ++seen[static_cast<std::size_t>((tile.queries.begin + i) * c.keys + tile.keys.begin + j)];
          }
      if (pairs == 0) found.fault = detail::text(tile, " is empty");
    });
  for (Index query = 0; query < c.tokens; ++query)
    for (Index key = 0; key < c.keys; ++key) {
      const int times = seen[static_cast<std::size_t>(query * c.keys + key)];
      if (times != (visible(c.mask, query, key) ? 1 : 0))
        found.fault = detail::text("query ", query, ", key ", key, " lies in ", times, " tiles");
    }
  return found;
}

}  // namespace plan_cases
