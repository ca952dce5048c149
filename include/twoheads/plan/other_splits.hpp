#pragma once

#include <algorithm>
#include <optional>
#include <twoheads/base/checked.hpp>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>

namespace twoheads {

/// One layer's attention, as far as those who split it over ranks by tokens or by heads ask. Counts of 1 or more.
struct SplitCase {
  Index tokens = 1;  ///< queries, N
  Index keys = 1;    ///< NK
  Index heads = 1;
  Index kv_heads = 1;      ///< key/value heads, G
  Index head_dim = 64;     ///< columns of q and k
  Index value_dim = 64;    ///< columns of v
  Index scalar_bytes = 4;  ///< of a number

  /// Bytes of a token's queries and outputs, of all heads.
  [[nodiscard]] Index query_bytes() const {
    return row_bytes(heads, detail::checked_sum("the columns of a head", head_dim, value_dim));
  }
  /// Bytes of a token's keys and values, of all key/value heads.
  [[nodiscard]] Index key_bytes() const {
    return row_bytes(kv_heads, detail::checked_sum("the columns of a head", head_dim, value_dim));
  }
  /// Bytes of a row of so many heads, of so many columns each.
  [[nodiscard]] Index row_bytes(Index row_heads, Index columns) const {
    return detail::checked_product("the bytes of a token", detail::checked_product("the columns", row_heads, columns),
                                   scalar_bytes);
  }
  /// Throws SpecError unless all counts are 1 or more.
  void require_valid() const {
    for (const Index count : {tokens, keys, heads, kv_heads, head_dim, value_dim, scalar_bytes})
      if (count < 1)
        throw SpecError(detail::text("a split of ", tokens, " tokens, ", keys, " keys, ", heads, " heads, ", kv_heads,
                                     " key/value heads, ", head_dim, " and ", value_dim, " columns of ", scalar_bytes,
                                     " bytes: expected 1 or more of each"));
  }
};

/// What a way to split attention over ranks comes to, for one layer.
struct SplitCost {
  Index bytes_moved = 0;    ///< received by all ranks together
  Index most_received = 0;  ///< by the rank that receives most
  Index rank_bytes = 0;     ///< memory of a rank, the largest, without what it computes with
};

/// Ring Attention: keys and values go round, each rank computes on what it has while the next share arrives.
///
///   Math     every rank receives all shares but its own, once: (P - 1) NK rows of keys and values in all, whatever
///            the mask. Memory: its queries and outputs, and the keys and values of two shares (six blocks as the
///            paper counts them). Striped and zigzag shares of causal masks move the same and balance the work, which
///            with shares that follow each other lasts for the last rank 2 - 1/P times the mean.
///   Corner   nothing where ranks are more than tokens or keys: the ring has an empty place
///   Throws   SpecError for counts below 1, and for bytes beyond 64 bits
///   Source   Liu, Zaharia & Abbeel, Ring Attention with Blockwise Transformers, 2023; Brandon et al., Striped
///            Attention, 2023
[[nodiscard]] inline std::optional<SplitCost> ring_cost(const SplitCase& problem, Index ranks) {
  if (ranks < 1) throw SpecError(detail::text("attention is split over ", ranks, " ranks, expected 1 or more"));
  problem.require_valid();
  if (ranks > std::min(problem.tokens, problem.keys)) return std::nullopt;
  const auto product = [](Index a, Index b) { return detail::checked_product("the bytes of a ring", a, b); };
  SplitCost cost;
  cost.bytes_moved = product(product(problem.keys, ranks - 1), problem.key_bytes());
  cost.most_received = product(problem.keys - problem.keys / ranks, problem.key_bytes());
  cost.rank_bytes =
      detail::checked_sum("the bytes of a ring", product(ceil_div(problem.tokens, ranks), problem.query_bytes()),
                          product(product(ranks > 1 ? 2 : 1, ceil_div(problem.keys, ranks)), problem.key_bytes()));
  return cost;
}

/// DeepSpeed-Ulysses: an all-to-all turns shares of tokens into shares of heads, and another one turns outputs back.
///
///   Math     rank r has n_r queries, m_r keys, and h_r query and g_r key/value heads afterwards. It receives (N - n_r)
///            h_r rows of queries, (NK - m_r) g_r rows of keys and values, and n_r (H - h_r) rows of outputs: about
///            (P - 1) / P of its share of each of q, k, v and out. Memory: queries, keys, values and outputs of its
///            tokens and of its heads, both while they are exchanged.
///   Corner   nothing where ranks are more than key/value heads or tokens: a rank would have none. (Key/value heads can
///            be copied to more ranks, which moves more; that is not counted.)
///   Throws   SpecError for counts below 1, and for bytes beyond 64 bits
///   Source   Jacobs et al., DeepSpeed Ulysses, 2023
[[nodiscard]] inline std::optional<SplitCost> ulysses_cost(const SplitCase& problem, Index ranks) {
  if (ranks < 1) throw SpecError(detail::text("attention is split over ", ranks, " ranks, expected 1 or more"));
  problem.require_valid();
  if (ranks > std::min({problem.kv_heads, problem.tokens, problem.keys})) return std::nullopt;
  const Index group = problem.heads / problem.kv_heads;
  const char* what = "the bytes of an all-to-all";
  const auto product = [&](Index a, Index b) { return detail::checked_product(what, a, b); };
  const auto sum = [&](Index a, Index b) { return detail::checked_sum(what, a, b); };
  // A row of queries is as wide as one of keys, and an output as a value.
  const auto bytes = [&](Index rows, Index heads, Index columns) {
    return product(rows, problem.row_bytes(heads, columns));
  };
  const Index both = detail::checked_sum("the columns of a head", problem.head_dim, problem.value_dim);
  SplitCost cost;
  for (Index rank = 0; rank < ranks; ++rank) {
    const Index tokens = even_rows(rank, ranks, problem.tokens).size();
    const Index keys = even_rows(rank, ranks, problem.keys).size();
    const Index kv_heads = even_rows(rank, ranks, problem.kv_heads).size();
    const Index heads = kv_heads * group;
    const Index received =
        sum(sum(bytes(problem.tokens - tokens, heads, problem.head_dim), bytes(problem.keys - keys, kv_heads, both)),
            bytes(tokens, problem.heads - heads, problem.value_dim));
    const Index by_tokens = sum(product(tokens, problem.query_bytes()), product(keys, problem.key_bytes()));
    const Index by_heads = sum(bytes(problem.tokens, heads, both), bytes(problem.keys, kv_heads, both));
    cost.bytes_moved = sum(cost.bytes_moved, received);
    cost.most_received = std::max(cost.most_received, received);
    cost.rank_bytes = std::max(cost.rank_bytes, ranks > 1 ? sum(by_tokens, by_heads) : by_tokens);
  }
  return cost;
}

}  // namespace twoheads
