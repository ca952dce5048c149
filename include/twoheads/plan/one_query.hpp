#pragma once

#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/model/mask.hpp>
#include <twoheads/plan/plan.hpp>

namespace twoheads {

/// Whether attention evaluates the query heads of a key/value head as rows, as far as lengths and options decide: of
/// one query over several keys. A sequence of one token is an input like others, planned as such.
[[nodiscard]] constexpr bool heads_are_rows(Index queries, Index keys, const Sampling& sampling, bool log_weights) {
  return queries == 1 && keys > 1 && sampling.samples == 0 && !log_weights;
}

/// The request that attention plans for in place of one query whose scores are products: the query heads of a key/value
/// head are the rows of a full mask over the keys that the query sees, as GroupedQuery has them.
///
///   Laws     a Plan of it has the calls, rounds and jobs that GridAttention takes for that query on projected tokens.
///            Any other request is returned as it is: of several queries, of a single key, of one that draws a sample
///            or asks for log weights, for the kernel, and where the query sees no key
///   Throws   SpecError where kv_heads does not divide the heads, or the mask is none of these lengths
[[nodiscard]] inline PlanRequest one_query_request(PlanRequest request, Index kv_heads) {
  if (kv_heads < 1 || request.heads % kv_heads != 0)
    throw SpecError(detail::text(kv_heads, " key/value heads, expected a divisor of ", request.heads, " heads"));
  const Index keys = request.keys > 0 ? request.keys : request.past + request.tokens;
  if (request.oracle.kind == OracleKind::kernel ||
      !heads_are_rows(request.tokens, keys, request.sampling, request.log_weights))
    return request;
  request.mask.require_defined({request.past, request.past + 1}, keys);
  Index seen = 0;
  request.mask.for_each_range(request.past, keys, [&](const Rows& range) { seen += range.size(); });
  if (seen == 0) return request;
  request.mask = Mask::full();
  request.tokens = request.heads / kv_heads;
  request.heads = kv_heads;
  request.keys = seen;
  request.past = 0;
  return request;
}

}  // namespace twoheads
