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
  std::string name;
  Scalar* data = nullptr;
  Index size = 0;
  bool decays =
      false;  ///< a matrix that multiplies rows, which weight decay shrinks; gains, shifts and biases it does not
};

/// The arrays of a model that training changes, in a fixed order; empty ones are left out.
template <RealScalar Scalar>
[[nodiscard]] std::vector<Parameter<Scalar>> parameters(Model<Scalar>& model) {
  std::vector<Parameter<Scalar>> found;
  detail::for_each_array(model, [&]<class Array>(const std::string& name, Array& values) {
    if (values.size() == 0) return;
    found.push_back({name, values.data(), values.size(), Array::RowsAtCompileTime != 1});
  });
  return found;
}
template <RealScalar Scalar>
[[nodiscard]] std::vector<Parameter<Scalar>> parameters(LanguageModel<Scalar>& model) {
  std::vector<Parameter<Scalar>> found = parameters(model.body);
  const auto add = [&]<class Array>(const char* name, Array& values) {
    if (values.size() == 0) return;
    found.push_back({name, values.data(), values.size(), Array::RowsAtCompileTime != 1});
  };
  add("embedding", model.embedding);
  add("output", model.output);
  add("positions", model.positions);
  add("token types", model.token_types);
  add("embedding norm gain", model.embedding_norm.gain);
  add("embedding norm shift", model.embedding_norm.shift);
  add("output bias", model.output_bias);
  return found;
}

/// A model of the same shape whose arrays are all zero: what gradients are added to.
template <class AnyModel>
[[nodiscard]] AnyModel zero_like(const AnyModel& model) {
  AnyModel zero = model;
  for (auto& array : parameters(zero)) std::fill_n(array.data, array.size, 0);
  return zero;
}

/// The number of a model's trained numbers.
template <class AnyModel>
[[nodiscard]] Index count_parameters(AnyModel& model) {
  Index count = 0;
  for (const auto& array : parameters(model)) count += array.size;
  return count;
}

}  // namespace twoheads
