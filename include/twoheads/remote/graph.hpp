#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/plan/limits.hpp>
#include <twoheads/remote/tensor.hpp>
#include <vector>

namespace twoheads {

/// The sizes of a graph that is an attention core.
///
///   Shapes   inputs q, k (batch, heads, rows, key_cols), v (batch, heads, rows, value_cols); output o as v
struct CoreGraph {
  Index batch = 1, heads = 1, rows = 2, key_cols = 2, value_cols = 2;

  friend bool operator==(const CoreGraph&, const CoreGraph&) = default;
};

/// The sizes of a graph that is a small transformer of one layer.
///
///   Shapes   inputs rows (batch, rows, width), wq, wk (heads, width, key_cols), wv (heads, width, value_cols); output
///            (batch, rows, heads * value_cols), head h in the columns from h value_cols
struct TransformerGraph {
  Index batch = 1, heads = 1, rows = 2, width = 2, key_cols = 2, value_cols = 2;

  friend bool operator==(const TransformerGraph&, const TransformerGraph&) = default;
};

namespace detail {

/// The sizes of one tensor of a graph: all fixed, and so many.
[[nodiscard]] inline std::vector<Index> fixed_dims(const TensorSpec& spec, std::size_t rank, TensorType type) {
  constexpr std::uint64_t most = std::uint64_t{1} << 31;
  const bool fits = std::all_of(spec.dims.begin(), spec.dims.end(), [](std::uint64_t d) { return d <= most; });
  if (spec.dims.size() != rank || spec.type != type || !spec.fixed() || !fits)
    throw LimitError(
        text("the graph declares ", spec.in_words(), ", expected ", name(type), " and ", rank, " fixed dimensions"));
  return {spec.dims.begin(), spec.dims.end()};
}

[[nodiscard]] inline std::size_t place_of(const std::vector<TensorSpec>& specs, std::string_view name,
                                          const char* what) {
  const auto found = std::find_if(specs.begin(), specs.end(), [&](const TensorSpec& s) { return s.name == name; });
  if (found == specs.end()) {
    std::string all;
    for (const TensorSpec& spec : specs) all.append(all.empty() ? "" : "; ").append(spec.in_words());
    throw LimitError(text("the graph has no ", what, " '", name, "', it has: ", all));
  }
  return static_cast<std::size_t>(found - specs.begin());
}

inline void require_counts(const Description& description, std::size_t inputs) {
  if (description.inputs.size() != inputs || description.outputs.size() != 1)
    throw LimitError(text("the graph has ", description.inputs.size(), " inputs and ", description.outputs.size(),
                          " outputs, expected ", inputs, " and 1"));
}

inline void require_dims(const TensorSpec& spec, std::initializer_list<Index> dims) {
  std::vector<std::uint64_t> expected;
  for (const Index dim : dims) expected.push_back(static_cast<std::uint64_t>(dim));
  if (spec.dims != expected)
    throw LimitError(text("the graph declares ", spec.in_words(), ", expected ", dims_in_words(expected)));
}

[[nodiscard]] inline TensorSpec spec_of(const char* name, TensorType type, std::initializer_list<Index> dims) {
  TensorSpec spec{name, type, {}};
  for (const Index dim : dims) spec.dims.push_back(static_cast<std::uint64_t>(dim));
  return spec;
}

}  // namespace detail

/// What a process that runs this graph says of it.
[[nodiscard]] inline Description describe(const CoreGraph& g, TensorType type) {
  using detail::spec_of;
  return {{spec_of("q", type, {g.batch, g.heads, g.rows, g.key_cols}),
           spec_of("k", type, {g.batch, g.heads, g.rows, g.key_cols}),
           spec_of("v", type, {g.batch, g.heads, g.rows, g.value_cols})},
          {spec_of("o", type, {g.batch, g.heads, g.rows, g.value_cols})}};
}

/// What a process that runs this graph says of it.
[[nodiscard]] inline Description describe(const TransformerGraph& g, TensorType type) {
  using detail::spec_of;
  return {{spec_of("rows", type, {g.batch, g.rows, g.width}), spec_of("wq", type, {g.heads, g.width, g.key_cols}),
           spec_of("wk", type, {g.heads, g.width, g.key_cols}), spec_of("wv", type, {g.heads, g.width, g.value_cols})},
          {spec_of("output", type, {g.batch, g.rows, g.heads * g.value_cols})}};
}

/// The sizes of a graph that declares itself an attention core; its inputs may stand in any order.
///
///   Throws   LimitError that names the first tensor that a core does not have
[[nodiscard]] inline CoreGraph core_graph(const Description& description, TensorType type) {
  detail::require_counts(description, 3);
  const auto input = [&](const char* name) -> const TensorSpec& {
    return description.inputs[detail::place_of(description.inputs, name, "input")];
  };
  const std::vector<Index> q = detail::fixed_dims(input("q"), 4, type);
  const std::vector<Index> v = detail::fixed_dims(input("v"), 4, type);
  const CoreGraph graph{q[0], q[1], q[2], q[3], v[3]};
  const Description expected = describe(graph, type);
  for (const TensorSpec& want : expected.inputs) {
    static_cast<void>(detail::fixed_dims(input(want.name.c_str()), 4, type));
    if (input(want.name.c_str()) != want)
      throw LimitError(
          detail::text("the graph declares ", input(want.name.c_str()).in_words(), ", expected ", want.in_words()));
  }
  static_cast<void>(detail::fixed_dims(description.outputs.front(), 4, type));
  detail::require_dims(description.outputs.front(), {q[0], q[1], q[2], v[3]});
  return graph;
}

/// The same for a small transformer.
[[nodiscard]] inline TransformerGraph transformer_graph(const Description& description, TensorType type) {
  detail::require_counts(description, 4);
  const auto input = [&](const char* name) -> const TensorSpec& {
    return description.inputs[detail::place_of(description.inputs, name, "input")];
  };
  const std::vector<Index> rows = detail::fixed_dims(input("rows"), 3, type);
  const std::vector<Index> wq = detail::fixed_dims(input("wq"), 3, type);
  const std::vector<Index> wv = detail::fixed_dims(input("wv"), 3, type);
  const TransformerGraph graph{rows[0], wq[0], rows[1], rows[2], wq[2], wv[2]};
  const Description expected = describe(graph, type);
  for (const TensorSpec& want : expected.inputs)
    if (input(want.name.c_str()) != want)
      throw LimitError(
          detail::text("the graph declares ", input(want.name.c_str()).in_words(), ", expected ", want.in_words()));
  static_cast<void>(detail::fixed_dims(description.outputs.front(), 3, type));
  detail::require_dims(description.outputs.front(), {rows[0], rows[1], wq[0] * wv[2]});
  return graph;
}

/// What a graph declares as an oracle. Whether its rows see all rows or those before them, and what it multiplies
/// scores by, no description says.
[[nodiscard]] inline OracleLimits limits_of(const CoreGraph& graph, OracleKind kind, double score_scale,
                                            Index in_flight = 1) {
  OracleLimits limits;
  limits.kind = kind;
  limits.rows = graph.rows;
  limits.fixed_rows = true;
  limits.heads = graph.heads;
  limits.key_cols = graph.key_cols;
  limits.value_cols = graph.value_cols;
  limits.score_scale = score_scale;
  limits.batch = graph.batch * in_flight;
  limits.require_valid();
  return limits;
}

/// The limits of an oracle that is this graph.
[[nodiscard]] inline OracleLimits limits_of(const TransformerGraph& graph, OracleKind kind, double score_scale,
                                            Index in_flight = 1) {
  OracleLimits limits = limits_of(CoreGraph{graph.batch, graph.heads, graph.rows, graph.key_cols, graph.value_cols},
                                  kind, score_scale, in_flight);
  limits.width = graph.width;
  limits.require_valid();
  return limits;
}

}  // namespace twoheads
