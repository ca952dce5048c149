#pragma once

#include <cstddef>
#include <span>
#include <twoheads/attention/forward.hpp>
#include <twoheads/attention/language.hpp>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/exec/executor.hpp>
#include <twoheads/exec/kernel_attention.hpp>
#include <twoheads/train/backward.hpp>
#include <twoheads/train/example.hpp>
#include <vector>

namespace twoheads {
namespace detail {

/// The cross-entropies of an example's targets by the tile kernel, in nats.
template <RealScalar Scalar>
[[nodiscard]] double sum_of_nats(const LanguageModel<Scalar>& model, const Example& example,
                                 KernelAttention<Scalar>& attend) {
  require_targets(model, example.ids, example.targets);
  Matrix<Scalar> rows = forward(model.body, embed(model, example.ids), attend);
  return score_rows<Scalar>(model, example.targets, rows, nullptr, 1.0);
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
