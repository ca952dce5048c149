#pragma once

#include <cmath>
#include <functional>
#include <limits>

#include "support/naive.hpp"

/// The gradient of attention, written a second time: dense, in long double, by loops over single numbers.
namespace naive {

/// What is added to the score of a query and a key of a head; -infinity hides the pair.
using Term = std::function<Real(Index head, Index query, Index key)>;

inline Term hiding(const Visible& sees) {
  return [sees](Index, Index query, Index key) {
    return sees(query, key) ? Real(0) : -std::numeric_limits<Real>::infinity();
  };
}

struct AttentionBackward {
  Table out, log_weights;  ///< (N, heads * value_dim), (N, heads)
  Table q, k, v;           ///< the derivatives
  Row sinks;
  Real largest_logit = 0;
  /// The largest entries of q and k where all terms that make them are added by their absolute values: a row that has
  /// all its weight on one key has a derivative near 0, a difference of larger numbers.
  Real q_terms = 0, k_terms = 0;
};

/// Forward and backward of all heads; `sinks` is empty or has a logit a head.
inline AttentionBackward attention_backward(const twoheads::AttentionSpec& spec, const Table& q, const Table& k,
                                            const Table& v, const Table& d_out, const Term& term,
                                            const Row& sinks = {}) {
  constexpr Real hidden = -std::numeric_limits<Real>::infinity();
  const Index m = spec.head_dim, d = spec.value_dim;
  AttentionBackward found;
  found.out = zeros(rows(q), spec.heads * d);
  found.log_weights = zeros(rows(q), spec.heads);
  found.q = zeros(rows(q), cols(q));
  found.k = zeros(rows(k), cols(k));
  found.v = zeros(rows(v), cols(v));
  found.sinks.assign(sinks.size(), 0);
  Table q_terms = found.q, k_terms = found.k;
  for (Index head = 0; head < spec.heads; ++head) {
    const Index from = head / (spec.heads / spec.kv_heads);
    for (Index i = 0; i < rows(q); ++i) {
      Row score(at(rows(k)), hidden);
      Real most = sinks.empty() ? hidden : sinks[at(head)];
      for (Index j = 0; j < rows(k); ++j) {
        const Real added = term(head, i, j);
        if (added == hidden) continue;
        Real product = 0;
        for (Index c = 0; c < m; ++c) product += q[at(i)][at(head * m + c)] * k[at(j)][at(from * m + c)];
        score[at(j)] = static_cast<Real>(spec.score_scale) * product + added;
        found.largest_logit = std::max(found.largest_logit, std::abs(score[at(j)]));
        most = std::max(most, score[at(j)]);
      }
      found.log_weights[at(i)][at(head)] = most;
      if (most == hidden) continue;
      Real sum = sinks.empty() ? 0 : std::exp(sinks[at(head)] - most);
      for (const Real s : score) sum += std::exp(s - most);
      const Real weight = most + std::log(sum);
      found.log_weights[at(i)][at(head)] = weight;
      Row share(score.size());
      Real mean = 0, mean_terms = 0;
      Row given(score.size(), 0);
      for (Index j = 0; j < rows(k); ++j) {
        share[at(j)] = std::exp(score[at(j)] - weight);
        for (Index c = 0; c < d; ++c) {
          const Real value = v[at(j)][at(from * d + c)];
          const Real g = d_out[at(i)][at(head * d + c)];
          found.out[at(i)][at(head * d + c)] += share[at(j)] * value;
          found.v[at(j)][at(from * d + c)] += share[at(j)] * g;
          given[at(j)] += g * value;
        }
        mean += share[at(j)] * given[at(j)];
        mean_terms += share[at(j)] * std::abs(given[at(j)]);
      }
      for (Index j = 0; j < rows(k); ++j) {
        const Real d_product = share[at(j)] * (given[at(j)] - mean) * static_cast<Real>(spec.score_scale);
        const Real terms =
            share[at(j)] * (std::abs(given[at(j)]) + mean_terms) * std::abs(static_cast<Real>(spec.score_scale));
        for (Index c = 0; c < m; ++c) {
          found.q[at(i)][at(head * m + c)] += d_product * k[at(j)][at(from * m + c)];
          found.k[at(j)][at(from * m + c)] += d_product * q[at(i)][at(head * m + c)];
          q_terms[at(i)][at(head * m + c)] += terms * std::abs(k[at(j)][at(from * m + c)]);
          k_terms[at(j)][at(from * m + c)] += terms * std::abs(q[at(i)][at(head * m + c)]);
        }
      }
      // The sink is a key more whose value is zero.
      if (!sinks.empty()) found.sinks[at(head)] -= std::exp(sinks[at(head)] - weight) * mean;
    }
  }
  found.q_terms = largest(q_terms);
  found.k_terms = largest(k_terms);
  return found;
}

}  // namespace naive
