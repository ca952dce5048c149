#pragma once

#include <algorithm>
#include <cstdint>
#include <twoheads/base/draws.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/plan/paper_counts.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// What one row of a call carries; without a key it is the synthetic row.
struct CallRow {
  static constexpr Index none = -1;  ///< no query, or no key
  Index query = none;                ///< position, or none
  Index key = none;
  friend bool operator==(const CallRow&, const CallRow&) = default;
};

/// One term of the paper's sums: sign * A and sign * B over a set of keys for each of some queries, by two calls.
///
///   denominator   rows of the call that returns A / (A + 1); one of them is synthetic
///   ratio         rows of the call that returns B / A
///   queries       positions whose answers count; rows may carry others
struct PaperTerm {
  int sign = 1;
  Rows queries;
  std::vector<CallRow> denominator;
  std::vector<CallRow> ratio;
};

namespace detail {

/// Query and key from these positions on, `count` rows, the synthetic one first: row x sees keys 0..x (Claim B.6).
[[nodiscard]] inline PaperTerm lower_term(int sign, Index query, Index key, Index count, Rows wanted) {
  PaperTerm term{sign, wanted, {CallRow{}}, {}};
  for (Index x = 0; x < count; ++x) term.ratio.push_back({query + x, key + x});
  term.denominator.insert(term.denominator.end(), term.ratio.begin(), term.ratio.end());
  return term;
}

/// Every query sees every key, on a plain oracle, the synthetic row last (Lemma 3.1).
[[nodiscard]] inline PaperTerm rectangle_term(Rows queries, Rows keys) {
  PaperTerm term{1, queries, {}, {}};
  for (Index x = 0; x < std::max(queries.size(), keys.size()); ++x)
    term.ratio.push_back(
        {x < queries.size() ? queries.begin + x : CallRow::none, x < keys.size() ? keys.begin + x : CallRow::none});
  term.denominator = term.ratio;
  term.denominator.push_back({});
  return term;
}

/// Query x sees the keys after x of another block: both reversed, the keys one row later than their queries.
[[nodiscard]] inline PaperTerm upper_term(Rows queries, Rows keys) {
  PaperTerm term{1, queries, {}, {}};
  const Index n = keys.size();
  for (Index x = 0; x <= n; ++x) {
    const Index query = n - 1 - x;
    term.denominator.push_back({query >= 0 && query < queries.size() ? queries.begin + query : CallRow::none,
                                x == 0 ? CallRow::none : keys.begin + n - x});
  }
  term.ratio = term.denominator;
  return term;
}

}  // namespace detail

/// Terms of Lemma 3.1: each pair of a query and a key block.
///
///   Math     T_q T_k terms, in order of query blocks
///   Source   Yu & Alman, Lemma 3.1 and B.1. S_t is printed with M + 1 elements, from (t - 1) M; it has M.
template <class Visit>
void full_terms(const PaperTask& task, const Visit& visit) {
  for (Index t = 0; t < task.query_blocks(); ++t)
    for (Index u = 0; u < task.key_blocks(); ++u)
      visit(detail::rectangle_term(block_rows(t, task.block(), task.tokens),
                                   block_rows(u, task.block(), task.key_count())));
}

/// Terms of Theorem 3.5: a lower triangle for each block, a lower and a strict upper one for each pair.
///
///   Math     T + 2 T (T - 1) / 2 = T^2 terms
///   Corner   the last query of an upper triangle sees the synthetic row alone: A = 0, and B / A is taken as 0
///   Source   Yu & Alman, Theorem 3.5, with three repairs: A^(1) and A^(2) are by position inside the blocks; the
///            numerator call of the upper triangle has the shift by one row that its denominator call has (as printed
///            it counts the local diagonal twice); and it keeps the synthetic row, without which its last query
///            divides 0 by 0
template <class Visit>
void causal_terms(const PaperTask& task, const Visit& visit) {
  const auto rows = [&](Index block) { return block_rows(block, task.block(), task.tokens); };
  for (Index t = 0; t < task.query_blocks(); ++t) {
    const Rows queries = rows(t);
    for (Index u = 0; u < t; ++u) {
      visit(detail::lower_term(1, queries.begin, rows(u).begin, queries.size(), queries));
      visit(detail::upper_term(queries, rows(u)));
    }
    visit(detail::lower_term(1, queries.begin, queries.begin, queries.size(), queries));
  }
}

/// Terms of Theorem 5.1: inside chunks of b rows, the prefix up to a query less the prefix that its window leaves out;
/// for sinks, the prefix of [sinks, chunk] less that of the chunk.
///
///   Math     2 ceil((N - r) / (b - r)) + 1 terms, 2 ceil((N - r - s) / (b - s)) more for s sinks
///   Corner   the first r (with sinks r + s) queries are plain causal ones. Differences lose all digits where the keys
///            outside a window outweigh those inside.
///   Source   Yu & Alman, Theorem 5.1 and D.1. Printed as here: the two calls for i <= r that the first chunk makes
///            redundant. Repaired: the sinks' formula sum_{j<=s} = sum_{j<=i} - sum_{s<j<=i} needs the sinks in the
///            chunk's own call, and sinks are added from query r + s on only,
///            since before it the window holds some of them.
template <class Visit>
void window_terms(const PaperTask& task, const Visit& visit) {
  const Index n = task.tokens;
  const Index b = task.block();
  const Index r = task.mask.window;
  const Index s = task.mask.kind == MaskKind::sinks ? task.mask.sinks : 0;
  const Index first = std::min(r + s, n);
  visit(detail::lower_term(1, 0, 0, first, {0, first}));
  for (Index begin = 0; begin + r < n; begin += b - r) {
    const Index end = std::min(begin + b, n);
    const Rows wanted{std::max(begin + r, first), std::max(end, first)};
    visit(detail::lower_term(1, begin, begin, end - begin, wanted));
    visit(detail::lower_term(-1, begin + r, begin, end - begin - r, wanted));
  }
  if (s == 0) return;
  for (Index begin = r + s; begin < n; begin += b - s) {
    const Rows chunk{begin, std::min(begin + b - s, n)};
    PaperTerm both = detail::lower_term(1, 0, 0, s, chunk);
    const PaperTerm alone = detail::lower_term(-1, begin, begin, chunk.size(), chunk);
    both.ratio.insert(both.ratio.end(), alone.ratio.begin(), alone.ratio.end());
    both.denominator.insert(both.denominator.end(), alone.ratio.begin(), alone.ratio.end());
    visit(both);
    visit(alone);
  }
}

/// Terms of Theorem 4.1: the queries of block t meet the keys tau(S_t) of a random permutation tau.
///
///   Math     T terms; A and B / A of a sample, whose common factor N / M cancels
///   Corner   no error is bounded: the theorem's conditions are not tested
///   Source   Yu & Alman, Theorem 4.1 and C.1. The print looks the keys up by calls (Lemma A.3), which reach no further
///            than their own rows; the host gathers them. "A random permutation" is said twice and must be one tau.
template <class Visit>
void sampled_terms(const PaperTask& task, const std::vector<Index>& tau, const Visit& visit) {
  for (Index t = 0; t < task.query_blocks(); ++t) {
    const Rows rows = block_rows(t, task.block(), task.tokens);
    PaperTerm term = detail::rectangle_term(rows, rows);
    for (std::vector<CallRow>* part : {&term.denominator, &term.ratio})
      for (CallRow& row : *part)
        if (row.key != CallRow::none) row.key = tau[static_cast<std::size_t>(row.key)];
    visit(term);
  }
}

/// Calls visit(term) for the terms of one head, in a fixed order; paper_terms(task) says how many.
///
///   Throws   SpecError, LimitError where the paper has no construction
template <class Visit>
void for_each_paper_term(const PaperTask& task, std::uint64_t seed, const Visit& visit) {
  require_paper_construction(task);
  if (task.average) return sampled_terms(task, detail::Draws(seed).order(task.tokens), visit);
  if (task.mask.kind == MaskKind::full) return full_terms(task, visit);
  if (task.mask.kind == MaskKind::causal) return causal_terms(task, visit);
  window_terms(task, visit);
}

}  // namespace twoheads
