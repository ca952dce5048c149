#pragma once

#include <onnx/onnx_pb.h>

#include <cstdint>
#include <initializer_list>
#include <string>
#include <twoheads/base/index.hpp>
#include <vector>

namespace twoheads {

/// The numbers that an ONNX graph computes in and is fed with.
enum class OnnxNumber { float32, float64 };

namespace detail {

/// Builds an ONNX graph node by node. Names of what a node makes are given by the caller, and are unique.
class OnnxGraph {
 public:
  OnnxGraph(const std::string& name, OnnxNumber number) : number_(number) {
    // Operators of set 13, the first with a Softmax along one axis: known to every runtime since 2020.
    model_.set_ir_version(7);
    model_.add_opset_import()->set_version(13);
    model_.set_producer_name("twoheads");
    model_.mutable_graph()->set_name(name);
  }

  [[nodiscard]] const ::onnx::ModelProto& model() const { return model_; }

  void input(const std::string& name, const std::vector<Index>& shape) { declare(*graph().add_input(), name, shape); }
  void output(const std::string& name, const std::vector<Index>& shape) { declare(*graph().add_output(), name, shape); }

  /// A constant of the graph, in its numbers; returns its name.
  std::string numbers(const std::string& name, const std::vector<Index>& shape, const std::vector<double>& values) {
    ::onnx::TensorProto& tensor = *graph().add_initializer();
    tensor.set_name(name);
    tensor.set_data_type(type());
    for (const Index size : shape) tensor.add_dims(size);
    for (const double value : values) {
      if (number_ == OnnxNumber::float64)
        tensor.add_double_data(value);
      else
        tensor.add_float_data(static_cast<float>(value));
    }
    return name;
  }

  /// A node of one output; returns the output's name.
  std::string node(const std::string& kind, std::initializer_list<std::string> inputs, const std::string& output) {
    add_node(kind, inputs, output);
    return output;
  }

  std::string softmax(const std::string& input, const std::string& output) {
    ::onnx::AttributeProto& axis = *add_node("Softmax", {input}, output).add_attribute();
    axis.set_name("axis");
    axis.set_type(::onnx::AttributeProto::INT);
    axis.set_i(-1);
    return output;
  }

  std::string transpose(const std::string& input, std::initializer_list<Index> order, const std::string& output) {
    ::onnx::AttributeProto& perm = *add_node("Transpose", {input}, output).add_attribute();
    perm.set_name("perm");
    perm.set_type(::onnx::AttributeProto::INTS);
    for (const Index axis : order) perm.add_ints(axis);
    return output;
  }

  /// Numbers rounded to another type: cast to it and back.
  std::string rounded(const std::string& input, ::onnx::TensorProto::DataType to, const std::string& output) {
    cast(input, to, output + "_low");
    cast(output + "_low", type(), output);
    return output;
  }

  std::string reshape(const std::string& input, const std::vector<Index>& shape, const std::string& output) {
    const std::string shape_name = output + "_shape";
    ::onnx::TensorProto& tensor = *graph().add_initializer();
    tensor.set_name(shape_name);
    tensor.set_data_type(::onnx::TensorProto::INT64);
    tensor.add_dims(static_cast<std::int64_t>(shape.size()));
    for (const Index size : shape) tensor.add_int64_data(size);
    return node("Reshape", {input, shape_name}, output);
  }

 private:
  [[nodiscard]] ::onnx::GraphProto& graph() { return *model_.mutable_graph(); }

  [[nodiscard]] ::onnx::TensorProto::DataType type() const {
    return number_ == OnnxNumber::float64 ? ::onnx::TensorProto::DOUBLE : ::onnx::TensorProto::FLOAT;
  }

  void cast(const std::string& input, ::onnx::TensorProto::DataType to, const std::string& output) {
    ::onnx::AttributeProto& target = *add_node("Cast", {input}, output).add_attribute();
    target.set_name("to");
    target.set_type(::onnx::AttributeProto::INT);
    target.set_i(to);
  }

  ::onnx::NodeProto& add_node(const std::string& kind, std::initializer_list<std::string> inputs,
                              const std::string& output) {
    ::onnx::NodeProto& node = *graph().add_node();
    node.set_op_type(kind);
    node.set_name(output);
    for (const std::string& input : inputs) node.add_input(input);
    node.add_output(output);
    return node;
  }

  void declare(::onnx::ValueInfoProto& value, const std::string& name, const std::vector<Index>& shape) const {
    value.set_name(name);
    ::onnx::TypeProto::Tensor& tensor = *value.mutable_type()->mutable_tensor_type();
    tensor.set_elem_type(type());
    for (const Index size : shape) tensor.mutable_shape()->add_dim()->set_dim_value(size);
  }

  OnnxNumber number_;
  ::onnx::ModelProto model_;
};

}  // namespace detail
}  // namespace twoheads
