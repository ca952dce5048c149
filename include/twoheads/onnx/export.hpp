#pragma once

#include <onnx/onnx_pb.h>

#include <cmath>
#include <limits>
#include <string>
#include <twoheads/base/checked.hpp>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/onnx/graph.hpp>
#include <twoheads/plan/limits.hpp>
#include <twoheads/plan/precision.hpp>
#include <vector>

namespace twoheads {

/// An oracle as an ONNX graph: every shape is fixed, and so is what is hidden.
struct OnnxSpec {
  OracleKind kind = OracleKind::plain;      ///< what is hidden
  OnnxNumber number = OnnxNumber::float32;  ///< of inputs, outputs and sums
  Index batch = 1;                          ///< calls that are answered at once
  Index heads = 1;                          ///< of a call
  Index rows = 0;                           ///< of a call
  Index key_cols = 0;                       ///< columns of q and k
  Index value_cols = 0;                     ///< columns of v
  Index width = 0;                          ///< columns of a token row; the core has no token rows
  double score_scale = 1.0;                 ///< what q . k is multiplied by
  /// Token rows, queries, keys, values, attention weights and answers are rounded to half or bfloat16; scores and sums
  /// stay in `number`, as mixed_precision has it.
  Precision rounding = Precision::own;

  /// Throws SpecError for a shape below 1, a scale that is no number or none of the graph's,
  /// or a mask that no file can hold.
  void require_valid(bool has_tokens) const {
    const auto at_least_one = [](const char* what, Index value) {
      if (value < 1) throw SpecError(detail::text("an ONNX graph's ", what, " is ", value, ", expected 1 or more"));
    };
    at_least_one("batch", batch);
    at_least_one("number of heads", heads);
    at_least_one("number of rows", rows);
    at_least_one("number of key columns", key_cols);
    at_least_one("number of value columns", value_cols);
    if (has_tokens) at_least_one("width", width);
    if (kind == OracleKind::kernel) throw SpecError("an ONNX graph of the kind kernel: expected plain or causal");
    if (!std::isfinite(score_scale))
      throw SpecError(detail::text("an ONNX graph's score scale is ", score_scale, ", expected a finite number"));
    const auto held = static_cast<float>(score_scale);
    if (number == OnnxNumber::float32 && (!std::isfinite(held) || (held == 0) != (score_scale == 0)))
      throw SpecError(detail::text("an ONNX graph's score scale is ", score_scale, ", which float32 holds as ", held,
                                   ": expected one that it holds, or float64"));
    if (rounding != Precision::own && rounding != Precision::half && rounding != Precision::bfloat16)
      throw SpecError(detail::text("an ONNX graph rounds to ", name(rounding), ", expected half, bfloat16 or own"));
    // A protobuf message ends at 2 GiB.
    if (kind == OracleKind::causal && rows > most_causal_rows)
      throw SpecError(detail::text("a causal ONNX graph of ", rows,
                                   " rows holds a mask of rows x rows numbers, expected ", most_causal_rows,
                                   " rows or fewer"));
  }

  static constexpr Index most_causal_rows = 8192;  ///< a mask of more would not fit a file
};

namespace detail {

/// Keys above the diagonal get a score of -inf: no finite number would hide a key from every size of score.
[[nodiscard]] inline std::vector<double> causal_mask(Index rows) {
  std::vector<double> mask;
  mask.reserve(static_cast<std::size_t>(rows * rows));
  for (Index query = 0; query < rows; ++query)
    for (Index key = 0; key < rows; ++key)
      mask.push_back(key <= query ? 0.0 : -std::numeric_limits<double>::infinity());
  return mask;
}

/// Adds what rounds `input` as the spec says, as `output`; returns its name, the input where nothing rounds.
inline std::string round_as(OnnxGraph& graph, const OnnxSpec& spec, const std::string& input,
                            const std::string& output) {
  if (spec.rounding == Precision::own) return input;
  const bool half = spec.rounding == Precision::half;
  return graph.rounded(input, half ? ::onnx::TensorProto::FLOAT16 : ::onnx::TensorProto::BFLOAT16, output);
}

/// Adds softmax(score_scale q k^T) v of q, k (B, H, R, K) and v (B, H, R, V), as `output` (B, H, R, V).
inline void add_attention(OnnxGraph& graph, const OnnxSpec& spec, const std::string& q, const std::string& k,
                          const std::string& v, const std::string& output) {
  const std::string queries = round_as(graph, spec, q, "q_rounded");
  const std::string keys = graph.transpose(round_as(graph, spec, k, "k_rounded"), {0, 1, 3, 2}, "k_transposed");
  const std::string values = round_as(graph, spec, v, "v_rounded");
  std::string scores = graph.node("MatMul", {queries, keys}, "scores");
  if (spec.score_scale != 1.0)
    scores = graph.node("Mul", {scores, graph.numbers("score_scale", {}, {spec.score_scale})}, "scaled_scores");
  if (spec.kind == OracleKind::causal)
    scores = graph.node("Add", {scores, graph.numbers("mask", {spec.rows, spec.rows}, causal_mask(spec.rows))},
                        "visible_scores");
  const std::string weights = round_as(graph, spec, graph.softmax(scores, "weights"), "weights_rounded");
  if (spec.rounding == Precision::own)
    graph.node("MatMul", {weights, values}, output);
  else
    round_as(graph, spec, graph.node("MatMul", {weights, values}, "sums"), output);
}

}  // namespace detail

/// The attention core as an ONNX model: softmax(score_scale q k^T) v, causal or not. The mask is a constant of the
/// graph, no operand.
///
///   Shapes   inputs q, k (batch, heads, rows, key_cols), v (batch, heads, rows, value_cols); output o as v
///   Throws   SpecError as OnnxSpec::require_valid
[[nodiscard]] inline ::onnx::ModelProto export_core(const OnnxSpec& spec) {
  spec.require_valid(false);
  detail::OnnxGraph graph("attention_core", spec.number);
  const std::vector<Index> values{spec.batch, spec.heads, spec.rows, spec.value_cols};
  graph.input("q", {spec.batch, spec.heads, spec.rows, spec.key_cols});
  graph.input("k", {spec.batch, spec.heads, spec.rows, spec.key_cols});
  graph.input("v", values);
  detail::add_attention(graph, spec, "q", "k", "v", "o");
  graph.output("o", values);
  return graph.model();
}

/// One layer of the small transformer as an ONNX model: rows and the weights of its heads in, answers out.
///
///   Shapes   inputs rows (batch, rows, width), wq, wk (heads, width, key_cols), wv (heads, width, value_cols);
///            output (batch, rows, heads * value_cols), head h in the columns from h * value_cols
///   Throws   SpecError as OnnxSpec::require_valid
[[nodiscard]] inline ::onnx::ModelProto export_transformer(const OnnxSpec& spec) {
  spec.require_valid(true);
  detail::OnnxGraph graph("small_transformer", spec.number);
  graph.input("rows", {spec.batch, spec.rows, spec.width});
  graph.input("wq", {spec.heads, spec.width, spec.key_cols});
  graph.input("wk", {spec.heads, spec.width, spec.key_cols});
  graph.input("wv", {spec.heads, spec.width, spec.value_cols});
  // One set of rows for every head: (batch, 1, rows, width) times (heads, width, columns).
  const std::string shared = graph.reshape(detail::round_as(graph, spec, "rows", "rows_rounded"),
                                           {spec.batch, 1, spec.rows, spec.width}, "rows_of_heads");
  const std::string q = graph.node("MatMul", {shared, "wq"}, "q");
  const std::string k = graph.node("MatMul", {shared, "wk"}, "k");
  const std::string v = graph.node("MatMul", {shared, "wv"}, "v");
  detail::add_attention(graph, spec, q, k, v, "o");
  const Index width = detail::checked_product("the width of an answer", spec.heads, spec.value_cols);
  const std::vector<Index> answers{spec.batch, spec.rows, width};
  graph.reshape(graph.transpose("o", {0, 2, 1, 3}, "o_by_row"), answers, "output");
  graph.output("output", answers);
  return graph.model();
}

}  // namespace twoheads
