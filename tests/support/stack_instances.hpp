#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <twoheads/codec/stack.hpp>
#include <twoheads/model/random.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <twoheads/oracle/wrappers.hpp>
#include <utility>
#include <vector>

#include "support/bounds.hpp"
#include "support/naive.hpp"

/// Random instances of heads, each in a call of its own and all together in one.
namespace stack_instances {

using namespace twoheads;

inline constexpr Index input_cols = 5;
inline constexpr Index head_dim = 3;
inline constexpr Index answer_cols = 4;

inline OracleLimits limits_of(OracleKind kind, Packing packing, Index heads, Index layers, double score_scale = 1) {
  OracleLimits limits;
  limits.kind = kind;
  limits.rows = 40;
  limits.heads = heads;
  limits.layers = layers;
  limits.residual = packing == Packing::residual;
  limits.score_scale = score_scale;
  return limits;
}

/// A single-head instance: its weights, its rows, its MLP.
template <class Scalar>
struct Instance {
  SmallHead<Scalar> head;
  RowFunction mlp;
  Matrix<Scalar> rows;
};

/// Heads with random weights of their own; by turns an MLP that only its own columns may see, and none.
template <class Scalar>
std::vector<Instance<Scalar>> random_instances(Index count, Index rows, Random& random) {
  const auto dense = [&](Index begin, Index inputs, Index cols) {
    return Projection<Scalar>::dense(
        begin, std::make_shared<const Matrix<Scalar>>(random.matrix<float>(inputs, cols, 0.6).cast<Scalar>()));
  };
  std::vector<Instance<Scalar>> instances;
  for (Index i = 0; i < count; ++i) {
    Instance<Scalar> instance;
    instance.head = {dense(0, input_cols, head_dim), dense(1, input_cols - 1, head_dim),
                     i % 2 == 0 ? dense(0, input_cols, answer_cols)
                                : Projection<Scalar>::selector(input_cols - answer_cols, answer_cols),
                     0};
    if (i % 3 != 1)
      instance.mlp = RowFunction([i](Index first_row, auto& rows_of_mlp) {
        for (Index row = 0; row < rows_of_mlp.rows(); ++row)
          for (Index c = 0; c < rows_of_mlp.cols(); ++c)
            rows_of_mlp(row, c) =
                std::abs(rows_of_mlp(row, c)) * static_cast<float>(i + 1) + static_cast<float>(first_row + row + c) / 8;
      });
    instance.rows = random.matrix<float>(rows, input_cols).cast<Scalar>();
    instances.push_back(std::move(instance));
  }
  return instances;
}

/// What a call of its own answers.
template <class Scalar>
Matrix<Scalar> alone(const Instance<Scalar>& instance, OracleLimits limits) {
  limits.residual = false;
  SmallWeights<Scalar> weights{input_cols, {{{instance.head}, answer_cols, instance.mlp}}};
  return SmallTransformer<Scalar>(limits).run({&weights, instance.rows});
}

/// What one call answers that carries them all.
template <class Scalar>
std::vector<Matrix<Scalar>> together(const std::vector<Instance<Scalar>>& instances, const StackLayout& layout,
                                     const OracleLimits& limits) {
  const Index rows = instances.front().rows.rows();
  std::vector<SmallHead<Scalar>> heads;
  std::vector<RowFunction> mlps;
  OracleCall<Scalar> call;
  call.rows.setZero(rows, layout.width());
  for (std::size_t i = 0; i < instances.size(); ++i) {
    heads.push_back(instances[i].head);
    mlps.push_back(instances[i].mlp);
    call.rows.middleCols(layout.input_begin(static_cast<Index>(i)), input_cols) = instances[i].rows;
  }
  write_codes(call.rows, layout);
  const SmallWeights<Scalar> weights = stack(layout, heads, mlps);
  call.weights = &weights;
  SmallTransformer<Scalar> oracle(limits);
  CheckingOracle<SmallTransformer<Scalar>> checked(oracle);
  const Matrix<Scalar> answer = checked.run(call);
  EXPECT_EQ(answer.cols(), layout.output_width());
  std::vector<Matrix<Scalar>> answers;
  for (std::size_t i = 0; i < instances.size(); ++i)
    answers.push_back(answer.middleCols(layout.answer_begin(static_cast<Index>(i)), answer_cols));
  return answers;
}

/// Largest difference from calls of their own, over the largest entry.
template <class Scalar>
naive::Real error_of_packing(const OracleLimits& limits, Packing packing, Index rows, Index missing, Random& random) {
  const StackLayout layout(limits, packing, input_cols, answer_cols, limits.rows);
  const std::vector<Instance<Scalar>> instances = random_instances<Scalar>(layout.instances() - missing, rows, random);
  const std::vector<Matrix<Scalar>> found = together(instances, layout, limits);
  naive::Real worst = 0;
  for (std::size_t i = 0; i < instances.size(); ++i) {
    const naive::Table truth = naive::plain(alone(instances[i], limits));
    worst = std::max(worst, bounds::max_row_error(found[i], truth, naive::largest(truth)));
  }
  return worst;
}

}  // namespace stack_instances
