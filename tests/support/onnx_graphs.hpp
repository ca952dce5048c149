#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <twoheads/onnx/export.hpp>
#include <utility>
#include <vector>

#include "support/frames.hpp"
#include "support/naive.hpp"

/// Graphs of oracles, random operands for them, and what naive attention answers to these.
namespace onnx_graphs {

using twoheads::Index;
using twoheads::OnnxNumber;
using twoheads::OnnxSpec;
using twoheads::OracleKind;

using frames::Tensor;

using Shape = std::vector<Index>;

inline OnnxSpec some_spec(OracleKind kind = OracleKind::plain, OnnxNumber number = OnnxNumber::float32) {
  OnnxSpec spec;
  spec.kind = kind;
  spec.number = number;
  spec.batch = 2;
  spec.heads = 3;
  spec.rows = 8;
  spec.key_cols = 5;
  spec.value_cols = 4;
  spec.width = 6;
  spec.score_scale = 0.5;
  return spec;
}

enum class Graph { core, transformer };

inline onnx::ModelProto export_graph(Graph graph, const OnnxSpec& spec) {
  return graph == Graph::core ? twoheads::export_core(spec) : twoheads::export_transformer(spec);
}

/// Names and shapes of a graph's inputs or outputs; a size that is not fixed is -1.
template <class Values>
std::map<std::string, Shape> shapes_of(const Values& values, OnnxNumber number) {
  std::map<std::string, Shape> shapes;
  for (const onnx::ValueInfoProto& value : values) {
    const auto& tensor = value.type().tensor_type();
    EXPECT_EQ(tensor.elem_type(), number == OnnxNumber::float64 ? onnx::TensorProto::DOUBLE : onnx::TensorProto::FLOAT);
    for (const auto& size : tensor.shape().dim())
      shapes[value.name()].push_back(size.has_dim_value() ? static_cast<Index>(size.dim_value()) : -1);
  }
  return shapes;
}

struct Case {
  Graph graph;
  OracleKind kind;
  OnnxNumber number;
};

inline std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const Graph graph : {Graph::core, Graph::transformer})
    for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
      for (const OnnxNumber number : {OnnxNumber::float32, OnnxNumber::float64}) cases.push_back({graph, kind, number});
  return cases;
}

inline std::string name_of(const testing::TestParamInfo<Case>& info) {
  std::string name = info.param.graph == Graph::core ? "core_" : "transformer_";
  name += twoheads::name(info.param.kind);
  name += info.param.number == OnnxNumber::float32 ? "_float" : "_double";
  return name;
}

inline Tensor draw(std::mt19937_64& random, OnnxNumber number, Shape shape) {
  Tensor tensor{number == OnnxNumber::float64, std::move(shape), {}};
  Index count = 1;
  for (const Index size : tensor.shape) count *= size;
  std::uniform_real_distribution<double> uniform(-1, 1);
  for (Index i = 0; i < count; ++i) {
    const double x = uniform(random);
    tensor.numbers.push_back(number == OnnxNumber::float64 ? x : static_cast<double>(static_cast<float>(x)));
  }
  return tensor;
}

/// The matrix of the last two sizes, number `place` of them.
inline naive::Table table(const Tensor& tensor, Index place) {
  const Index rows = tensor.shape[tensor.shape.size() - 2];
  const Index cols = tensor.shape.back();
  naive::Table result = naive::zeros(rows, cols);
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < cols; ++j)
      result[naive::at(i)][naive::at(j)] = tensor.numbers[naive::at((place * rows + i) * cols + j)];
  return result;
}

inline std::vector<Tensor> draw_operands(Graph graph, const OnnxSpec& spec, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<Tensor> operands;
  const onnx::ModelProto model = export_graph(graph, spec);
  for (const onnx::ValueInfoProto& input : model.graph().input()) {
    Shape shape;
    for (const auto& size : input.type().tensor_type().shape().dim())
      shape.push_back(static_cast<Index>(size.dim_value()));
    operands.push_back(draw(random, spec.number, shape));
  }
  return operands;
}

/// What a head answers to a call of the batch, as naive attention has it.
inline naive::Table expected(Graph graph, const OnnxSpec& spec, const std::vector<Tensor>& operands, Index call,
                             Index head) {
  naive::Table q, k, v;
  if (graph == Graph::core) {
    const Index place = call * spec.heads + head;
    q = table(operands[0], place), k = table(operands[1], place), v = table(operands[2], place);
  } else {
    const naive::Table rows = table(operands[0], call);
    q = naive::product(rows, table(operands[1], head));
    k = naive::product(rows, table(operands[2], head));
    v = naive::product(rows, table(operands[3], head));
  }
  const bool causal = spec.kind == OracleKind::causal;
  return naive::softmax_mean(naive::logits(q, k, spec.score_scale), v,
                             [causal](Index query, Index key) { return !causal || key <= query; });
}

/// The same in a graph's answer.
inline naive::Table found(Graph graph, const OnnxSpec& spec, const Tensor& answer, Index call, Index head) {
  if (graph == Graph::core) return table(answer, call * spec.heads + head);
  return naive::columns(table(answer, call), head * spec.value_cols, spec.value_cols);
}

/// Largest difference of any entry, NaN where there is one.
inline naive::Real difference(const naive::Table& a, const naive::Table& b) {
  naive::Real most = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    for (std::size_t j = 0; j < a[i].size(); ++j) {
      const naive::Real error = std::abs(a[i][j] - b[i][j]);
      if (!(error <= most)) most = error;
    }
  return most;
}

}  // namespace onnx_graphs
