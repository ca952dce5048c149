#pragma once

#include <twoheads/attention/input.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/codec/layout.hpp>
#include <twoheads/plan/limits.hpp>
#include <twoheads/plan/precision.hpp>
#include <twoheads/simulate.hpp>
#include <twoheads/train/attention_gradient.hpp>

namespace twoheads::detail {

/// Throws SpecError for what no gradient through an oracle takes; `who` names the evaluation.
template <RealScalar Scalar>
void require_trainable_input(const AttentionInput<Scalar>& input, const char* who) {
  require_no_soft_cap(input.spec);
  require_rows_of_sequence(input, who);
}

/// The same settings, with the log weights kept that a derivative needs.
[[nodiscard]] inline SimulationOptions keeping_log_weights(SimulationOptions options) {
  options.log_weights = true;
  return options;
}

/// Throws SpecError for settings of calls that have no gradient.
inline void require_trainable(const SimulationOptions& options, const OracleLimits& limits, const char* who) {
  if (options.encoding == TokenEncoding::raw)
    throw SpecError(text(who, " and raw tokens: derivatives are by projected rows, expected projected tokens"));
  if (options.error_bar_level != 0)
    throw SpecError(text(who, " and error bars: what they measure has no gradient, expected error_bar_level 0"));
  for (const Precision rounding :
       {limits.precision.tokens, limits.precision.scores, limits.precision.weights, limits.precision.answers})
    if (facts_of(rounding).unit_roundoff > facts_of(Precision::float32).unit_roundoff)
      throw SpecError(text(who, " on an oracle that rounds to ", name(rounding),
                           ": its derivatives would be those of the rounding, expected float32 or wider"));
}

/// Checks what the backward pass of an oracle is given.
///
///   Throws   ShapeError; InputError for NaN or infinity, which would be blamed on the oracle
template <RealScalar Scalar>
void require_finite_backward(const AttentionInput<Scalar>& input, const MatrixView<Scalar>& out,
                             const Matrix<double>& log_weights, const MatrixView<Scalar>& d_out) {
  require_backward_shapes(input, out, log_weights, d_out);
  if (const Index row = first_row_not_finite(d_out); row >= 0)
    throw InputError(text("layer ", input.layer, ", row ", row, ": the derivatives by the output are NaN or infinite"));
}

}  // namespace twoheads::detail
