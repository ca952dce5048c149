#pragma once

#include <algorithm>
#include <string>
#include <twoheads/base/matrix.hpp>
#include <twoheads/model/weights.hpp>
#include <vector>

namespace twoheads {

/// One array of a model's numbers, as a row of them.
template <class Scalar>
struct Parameter {
  std::string name;        ///< of the array
  Scalar* data = nullptr;  ///< its numbers
  Index size = 0;          ///< how many
  bool decays =
      false;  ///< a matrix that multiplies rows, which weight decay shrinks; gains, shifts and biases it does not
};

namespace detail {

/// Of arrays `Scalar` may be const.
template <class Scalar>
struct ParameterList {
  template <class Array>
  void add(const std::string& name, Array& values) {
    if (values.size() == 0) return;
    list.push_back({name, values.data(), values.size(), Array::RowsAtCompileTime != 1});
  }
  template <class AnyModel>
  void add_body(AnyModel& model) {
    for_each_array(model, [this](const std::string& name, auto& values) { this->add(name, values); });
  }
  template <class AnyModel>
  void add_tokens(AnyModel& model) {
    add("embedding", model.embedding);
    add("output", model.output);
    add("positions", model.positions);
    add("token types", model.token_types);
    add("embedding norm gain", model.embedding_norm.gain);
    add("embedding norm shift", model.embedding_norm.shift);
    add("output bias", model.output_bias);
  }

  std::vector<Parameter<Scalar>> list;
};

}  // namespace detail

/// The arrays of a model that training changes, in a fixed order; empty ones are left out.
template <RealScalar Scalar>
[[nodiscard]] std::vector<Parameter<Scalar>> parameters(Model<Scalar>& model) {
  detail::ParameterList<Scalar> found;
  found.add_body(model);
  return found.list;
}
/// The same to read.
template <RealScalar Scalar>
[[nodiscard]] std::vector<Parameter<const Scalar>> parameters(const Model<Scalar>& model) {
  detail::ParameterList<const Scalar> found;
  found.add_body(model);
  return found.list;
}
/// The same of a language model: its own arrays, and those of its body.
template <RealScalar Scalar>
[[nodiscard]] std::vector<Parameter<Scalar>> parameters(LanguageModel<Scalar>& model) {
  detail::ParameterList<Scalar> found;
  found.add_body(model.body);
  found.add_tokens(model);
  return found.list;
}
/// The same to read.
template <RealScalar Scalar>
[[nodiscard]] std::vector<Parameter<const Scalar>> parameters(const LanguageModel<Scalar>& model) {
  detail::ParameterList<const Scalar> found;
  found.add_body(model.body);
  found.add_tokens(model);
  return found.list;
}

namespace detail {

/// Throws ShapeError unless two lists have arrays of the same names and sizes, in the same order.
template <class A, class B>
void require_same_arrays(const char* what, const std::vector<Parameter<A>>& model,
                         const std::vector<Parameter<B>>& other) {
  for (std::size_t i = 0; i < std::max(model.size(), other.size()); ++i) {
    const bool there = i < model.size() && i < other.size();
    if (there && model[i].name == other[i].name && model[i].size == other[i].size) continue;
    const auto words = [&](const auto& list) {
      return i < list.size() ? text(list[i].name, " of ", list[i].size, " numbers") : std::string("no more arrays");
    };
    throw ShapeError(text(what, ": array ", i, " is ", words(other), ", expected ", words(model)));
  }
}

}  // namespace detail

/// A model of the same shape whose arrays are all zero: what gradients are added to.
template <class AnyModel>
[[nodiscard]] AnyModel zero_like(const AnyModel& model) {
  AnyModel zero = model;
  for (auto& array : parameters(zero)) std::fill_n(array.data, array.size, 0);
  return zero;
}

/// The number of a model's trained numbers.
template <class AnyModel>
[[nodiscard]] Index count_parameters(const AnyModel& model) {
  Index count = 0;
  for (const auto& array : parameters(model)) count += array.size;
  return count;
}

}  // namespace twoheads
