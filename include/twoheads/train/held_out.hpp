#pragma once

#include <cmath>
#include <cstddef>
#include <span>
#include <twoheads/attention/forward.hpp>
#include <twoheads/attention/language.hpp>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/exec/executor.hpp>
#include <twoheads/exec/kernel_attention.hpp>
#include <twoheads/train/example.hpp>
#include <vector>

namespace twoheads {
namespace detail {

/// The cross-entropies of an example's targets by the tile kernel, in nats.
template <RealScalar Scalar>
[[nodiscard]] double sum_of_nats(const LanguageModel<Scalar>& model, const Example& example,
                                 KernelAttention<Scalar>& attend) {
  const auto count = static_cast<Index>(example.ids.size());
  Index first = 0;
  while (first < count && example.targets[static_cast<std::size_t>(first)] < 0) ++first;
  if (first == count) return 0;
  const Matrix<Scalar> rows = forward(model.body, embed(model, example.ids), attend);
  const Matrix<Scalar> scores = logits(model, block_view(view(rows), {first, count}, 0, rows.cols()));
  double nats = 0;
  for (Index row = 0; row < scores.rows(); ++row) {
    const int target = example.targets[static_cast<std::size_t>(first + row)];
    if (target < 0) continue;
    if (target >= scores.cols())
      throw SpecError(text("row ", first + row, " has the target ", target, ", expected 0 to ", scores.cols() - 1));
    const Scalar largest = scores.row(row).maxCoeff();
    const Scalar sum = (scores.row(row).array() - largest).exp().sum();
    nats +=
        std::log(static_cast<double>(sum)) + static_cast<double>(largest) - static_cast<double>(scores(row, target));
  }
  return nats;
}

}  // namespace detail

/// Mean cross-entropy of all targets of some examples, by the tile kernel and without gradients.
///
///   Units    nats
///   Laws     the same bits for any executor; examples are shared among its threads
///   Throws   ShapeError where an example has not as many targets as ids; SpecError where there is no target at all,
///            or an id or a target that the model does not have
template <RealScalar Scalar, Executor Exec = Serial>
[[nodiscard]] double mean_nats(const LanguageModel<Scalar>& model, std::span<const Example> examples,
                               const Exec& exec = {}) {
  Index targets = 0;
  for (const Example& example : examples) {
    if (example.ids.size() != example.targets.size())
      throw ShapeError(detail::text("an example of ", example.ids.size(), " ids and ", example.targets.size(),
                                    " targets, expected as many of each"));
    targets += example.counted();
  }
  if (targets == 0) throw SpecError("there are no targets, expected one or more");
  std::vector<double> nats(examples.size());
  exec.for_each(
      static_cast<Index>(examples.size()), [] { return KernelAttention<Scalar>(); },
      [&](KernelAttention<Scalar>& attend, Index i) {
        const auto at = static_cast<std::size_t>(i);
        nats[at] = detail::sum_of_nats(model, examples[at], attend);
      });
  double sum = 0;
  for (const double one : nats) sum += one;
  return sum / static_cast<double>(targets);
}

}  // namespace twoheads
