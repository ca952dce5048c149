#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <twoheads/attention/input.hpp>
#include <twoheads/base/draws.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/base/product.hpp>
#include <vector>

namespace twoheads {

/// What a layer's data say of the assumptions of Theorem 4.1, each the worst over heads and the queries looked at.
///
///   c           exp(max |logit|): the least C with 1/C <= a_ij <= C
///   centred_c   exp(half the range of a query's logits): what C is once each query's logits are shifted by the
///               constant that makes it least, which changes no output; the theorem holds with it in the place of C
///   d           min_i ||sum_j b_ij|| / (n_i max_j ||b_ij||), n_i the keys that query i sees
///   exact       true where every query was looked at; otherwise c and centred_c are lower bounds, d is an upper bound,
///               and so the M that they ask for is a lower bound
struct AverageCaseFigures {
  double c = 1;
  double centred_c = 1;
  double d = 1;
  Index queries = 0;  ///< looked at, of each head
  bool exact = true;
};

/// Measures C and D of Theorem 4.1 on a layer's queries, keys and values.
///
///   Math     logits score_scale q . k over visible keys; b_ij = exp(logit) v_j. D does not change where a query's
///            logits are shifted, so the largest is taken off first and nothing overflows.
///   Corner   more than `most_queries` queries: that many, drawn from the seed, each against all of its keys, in
///            O(most_queries N) time for each head: an estimate. c is infinite where its logit is beyond 709. A query
///            whose values are all zero says nothing of D.
///   Throws   ShapeError if q, k, v do not fit the spec; SpecError for most_queries < 1
///   Source   Yu & Alman, Theorem 4.1; docs/paper_map.md
template <RealScalar Scalar>
[[nodiscard]] AverageCaseFigures measure_average_case(const AttentionInput<Scalar>& input, Index most_queries = 512,
                                                      std::uint64_t seed = 1) {
  const AttentionSpec& spec = input.spec;
  if (most_queries < 1)
    throw SpecError(detail::text("the number of queries to look at is ", most_queries, ", expected 1 or more"));
  detail::require_shape("q", input.q, input.queries(), spec.heads * spec.head_dim);
  detail::require_shape("k", input.k, input.keys(), spec.kv_heads * spec.head_dim);
  detail::require_shape("v", input.v, input.keys(), spec.kv_heads * spec.value_dim);
  spec.mask.require_defined(input.queries(), input.keys());
  detail::require_plain_scores(input, "the average case");
  AverageCaseFigures figures;
  figures.exact = input.queries() <= most_queries;
  figures.queries = std::min(input.queries(), most_queries);
  double largest = 0;
  double widest = 0;
  for (Index head = 0; head < spec.heads; ++head) {
    const MatrixView<Scalar> all_keys = input.key_rows(head, {0, input.keys()});
    const MatrixView<Scalar> all_values = input.value_rows(head, {0, input.keys()});
    for (const Index query :
         detail::Draws(detail::seed_of_part(seed, head)).distinct(figures.queries, input.queries())) {
      const RowVector<double> q = input.query_rows(head, {query, query + 1}).row(0).template cast<double>();
      double most = -std::numeric_limits<double>::infinity();
      double least = std::numeric_limits<double>::infinity();
      std::vector<double> logits;
      const auto for_each_key = [&](const auto& use) {
        spec.mask.for_each_range(query, input.keys(), [&](const Rows& keys) {
          for (Index key = keys.begin; key < keys.end; ++key) use(key);
        });
      };
      for_each_key([&](Index key) {
        logits.push_back(spec.score_scale * q.dot(all_keys.row(key).template cast<double>()));
        most = std::max(most, logits.back());
        least = std::min(least, logits.back());
      });
      largest = std::max({largest, most, -least});
      widest = std::max(widest, most - least);
      RowVector<double> sum = RowVector<double>::Zero(spec.value_dim);
      double longest = 0;
      std::size_t next = 0;
      for_each_key([&](Index key) {
        const RowVector<double> b = std::exp(logits[next++] - most) * all_values.row(key).template cast<double>();
        sum += b;
        longest = std::max(longest, b.norm());
      });
      if (longest > 0) figures.d = std::min(figures.d, sum.norm() / (static_cast<double>(logits.size()) * longest));
    }
  }
  figures.c = std::exp(largest);
  figures.centred_c = std::exp(widest / 2);
  return figures;
}

}  // namespace twoheads
