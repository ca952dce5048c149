#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <twoheads/base/checked.hpp>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/model/mask.hpp>
#include <twoheads/plan/limits.hpp>

namespace twoheads {

/// What the paper's own construction is asked for: the fields of a PlanRequest, without an anchor.
struct PaperTask {
  Mask mask = {};            ///< which pairs are visible
  Index tokens = 1;          ///< queries, N
  Index keys = 0;            ///< keys, NK; 0 stands for as many as queries
  Index heads = 1;           ///< H
  Index layers = 1;          ///< L
  OracleLimits oracle = {};  ///< that makes the calls
  bool average = false;      ///< Theorem 4.1 in place of the exact construction

  [[nodiscard]] Index key_count() const { return keys == 0 ? tokens : keys; }  ///< NK
  /// Real tokens that a call takes beside the synthetic one: the paper's M, whose calls have M + 1 rows.
  [[nodiscard]] Index block() const { return oracle.rows - 1; }
  [[nodiscard]] Index query_blocks() const { return ceil_div(tokens, block()); }
  [[nodiscard]] Index key_blocks() const { return ceil_div(key_count(), block()); }  ///< key blocks
};

/// Why the paper has no construction for a task; `what` is empty where it has one.
struct PaperGap {
  std::string what;
  bool of_oracle = false;  ///< another oracle would do
};

/// Says whether the paper constructs this mask on this oracle.
///
///   Throws   SpecError, LimitError where mask or oracle make no sense by themselves
///   Source   Yu & Alman, Lemma 3.1 (full, plain oracle), Theorems 3.5 (causal), 5.1 (window, sinks; causal oracle) and
///            4.1 (average case: full, plain oracle)
[[nodiscard]] inline PaperGap paper_gap(const PaperTask& task) {
  task.mask.require_defined(task.tokens, task.key_count());
  task.oracle.require_valid();
  if (task.heads < 1) throw SpecError(detail::text("heads is ", task.heads, ", expected 1 or more"));
  if (task.layers < 1) throw SpecError(detail::text("layers is ", task.layers, ", expected 1 or more"));
  const MaskKind mask = task.mask.kind;
  const Index b = task.block();
  if (task.average && (mask != MaskKind::full || task.tokens != task.key_count()))
    return {
        "the paper's average case is of full attention of a sequence to itself: expected a full mask and as many "
        "keys as queries"};
  if (mask == MaskKind::band || mask == MaskKind::documents || mask == MaskKind::blocks)
    return {detail::text("the paper has no construction for a ", name(mask),
                         " mask: expected full, causal, window or sinks")};
  if (task.oracle.residual)
    return {"the paper's small transformer adds no residual: expected an oracle that replaces its rows", true};
  const OracleKind kind = mask == MaskKind::full ? OracleKind::plain : OracleKind::causal;
  if (task.oracle.kind != kind)
    return {detail::text("the paper has no construction for a ", name(mask), " mask on a ", name(task.oracle.kind),
                         " oracle: expected a ", name(kind), " one"),
            true};
  if (mask == MaskKind::window && task.mask.window >= b)
    return {detail::text("the paper's window of ", task.mask.window, " tokens needs more tokens in a call than ", b,
                         ", the oracle's rows without the synthetic one"),
            true};
  if (mask == MaskKind::sinks && (task.mask.window >= b || task.mask.sinks > b - task.mask.window))
    return {detail::text("the paper's window of ", task.mask.window, " tokens and ", task.mask.sinks,
                         " sinks need r < b and r + s <= b of the b = ", b, " tokens of a call"),
            true};
  return {};
}

/// Throws what paper_gap() says, as a LimitError where another oracle would do and as a SpecError elsewhere.
inline void require_paper_construction(const PaperTask& task) {
  const PaperGap gap = paper_gap(task);
  if (gap.what.empty()) return;
  if (gap.of_oracle) throw LimitError(gap.what);
  throw SpecError(gap.what);
}

/// Terms A and B / A that the paper's construction sums for one head; each takes a denominator and a ratio call.
///
///   Math     full T_q T_k; causal T^2; window 2 ceil((N - r) / (b - r)) + 1; sinks 2 ceil((N - r - s) / (b - s)) more;
///            average case T
///   Corner   N need not be a multiple of b: the last block is short. Counted as printed are the empty triangles of
///            one-token blocks, and the window's two calls for i <= r that its first chunk makes redundant.
///   Throws   SpecError, LimitError where the paper has no construction
[[nodiscard]] inline Index paper_terms(const PaperTask& task) {
  require_paper_construction(task);
  const Index b = task.block();
  const Index r = task.mask.window;
  const auto chunks = [&](Index first, Index length) {
    return ceil_div(std::max<Index>(task.tokens - first, 0), length);
  };
  if (task.average) return task.query_blocks();
  switch (task.mask.kind) {
    case MaskKind::window:
      return 2 * chunks(r, b - r) + 1;
    case MaskKind::sinks:
      return 2 * chunks(r, b - r) + 1 +
             (task.mask.sinks > 0 ? 2 * chunks(r + task.mask.sinks, b - task.mask.sinks) : 0);
    default:
      return detail::checked_product("the number of terms", task.query_blocks(), task.key_blocks());
  }
}

/// Calls of the paper's own construction for all heads and layers, or none where the paper has no construction.
///
///   Math     L ceil(2 terms H / (H' L'))
///   Corner   merging on the host, as the paper allows; look-ups of the average case are not among them, since a call
///            cannot reach beyond its own rows (paper_lookups). L' > 1 is counted as printed, though the print's
///            packing of layers needs a residual stream (Lemma 3.3); PaperAttention makes the calls of L' = 1.
///   Source   Yu & Alman, Theorem 3.4 (whose print omits the ceiling and the sum over layers),
///            3.5, 4.1, 5.1; docs/paper_map.md
[[nodiscard]] inline std::optional<Index> paper_calls(const PaperTask& task) {
  if (!paper_gap(task).what.empty()) return std::nullopt;
  const auto product = [](Index a, Index b) { return detail::checked_product("the number of calls", a, b); };
  const Index instances = product(product(2, paper_terms(task)), task.heads);
  // ceil(ceil(x / H') / L') = ceil(x / (H' L')), and H' L' may be more than 64 bits hold.
  return product(ceil_div(ceil_div(instances, task.oracle.heads), task.oracle.layers), task.layers);
}

/// Look-ups that the print of the average case counts as calls, T a head; here the host gathers the rows.
[[nodiscard]] inline Index paper_lookups(const PaperTask& task) {
  require_paper_construction(task);
  if (!task.average) return 0;
  return detail::checked_product("the number of look-ups", task.query_blocks(),
                                 detail::checked_product("the number of look-ups", task.heads, task.layers));
}

/// Calls of the strict cost model, where the host only rearranges rows and adds constants.
///
///   Units    input_mlp once, the others a layer; each is a round of its own
struct StrictCounts {
  Index layers = 1;     ///< of the model, L
  Index input_mlp = 0;  ///< phi
  Index steps = 0;      ///< denominators and ratios
  Index products = 0;   ///< A times B / A
  Index merges = 0;     ///< sums over the blocks and the last division
  Index layer_mlp = 0;  ///< psi

  /// Of the whole pass.
  [[nodiscard]] Index calls() const { return input_mlp + layers * (steps + products + merges + layer_mlp); }
  /// Of the whole pass.
  [[nodiscard]] Index rounds() const { return (input_mlp > 0 ? 1 : 0) + layers * (layer_mlp > 0 ? 4 : 3); }
  friend bool operator==(const StrictCounts&, const StrictCounts&) = default;
};

/// Most terms that one query sums: the rows of its group in a merge call.
///
///   Math     full T; causal 2 T - 1 (a diagonal block, two triangles of each block before it)
[[nodiscard]] inline Index strict_group(const PaperTask& task) {
  require_paper_construction(task);
  return task.mask.kind == MaskKind::causal ? 2 * task.query_blocks() - 1 : task.key_blocks();
}

/// Terms of all queries of one head: the rows that are multiplied.
///
///   Math     full N T; causal, a query of block t has 2 t + 1: b (T - 1)^2 + n (2 T - 1), n tokens in the last block
[[nodiscard]] inline Index strict_rows(const PaperTask& task) {
  require_paper_construction(task);
  const auto product = [](Index a, Index b) { return detail::checked_product("the number of rows", a, b); };
  if (task.mask.kind != MaskKind::causal) return product(task.tokens, task.key_blocks());
  const Index before = task.query_blocks() - 1;
  return product(task.block(), product(before, before)) +
         product(task.tokens - before * task.block(), strict_group(task));
}

/// The strict model's calls in closed form.
///
///   Math     with R rows a call, P = strict_rows, G = strict_group:
///            steps = ceil(2 terms H / H'), products = ceil(ceil(P H / R) / H'),
///            merges = ceil(ceil(N H / floor(R / G)) / H'), phi and psi each ceil(ceil(N / R) / H')
///   Throws   LimitError if the G terms of a query do not fit one call; SpecError for masks but full and causal
///   Source   Yu & Alman, section 2 and Appendix A; docs/paper_map.md, "The strict cost model"
[[nodiscard]] inline StrictCounts strict_counts(const PaperTask& task, bool input_mlp, bool layer_mlp) {
  require_paper_construction(task);
  if (task.average || (task.mask.kind != MaskKind::full && task.mask.kind != MaskKind::causal))
    throw SpecError("the strict model merges sums only: expected a full or causal mask");
  if (task.key_count() != task.tokens)
    throw SpecError(detail::text("the strict model runs a sequence on itself: expected as many keys as queries, ",
                                 task.tokens, ", not ", task.key_count()));
  const Index rows = task.oracle.rows;
  const Index group = strict_group(task);
  if (group > rows)
    throw LimitError(
        detail::text("a query has ", group, " partial sums, more than the ", rows, " rows of a call can add up"));
  const auto product = [](Index a, Index b) { return detail::checked_product("the number of calls", a, b); };
  const auto packed = [&](Index instances) { return ceil_div(instances, task.oracle.heads); };
  const Index row_by_row = packed(ceil_div(task.tokens, rows));
  StrictCounts counts;
  counts.layers = task.layers;
  counts.input_mlp = input_mlp ? row_by_row : 0;
  counts.layer_mlp = layer_mlp ? row_by_row : 0;
  counts.steps = packed(product(2, product(paper_terms(task), task.heads)));
  counts.products = packed(ceil_div(product(strict_rows(task), task.heads), rows));
  counts.merges = packed(ceil_div(product(task.tokens, task.heads), rows / group));
  return counts;
}

}  // namespace twoheads
