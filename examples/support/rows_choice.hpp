#pragma once

#include <optional>
#include <twoheads/exec/time_calls.hpp>
#include <twoheads/exec/time_kernel.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <twoheads/plan/choose_rows.hpp>

#include "support/instances.hpp"
#include "support/plan_arguments.hpp"

namespace programs {

/// Where `--rows auto` asks for it, sets the rows of the request to those that calls of the Eigen small transformer, or
/// tiles of the kernel, are fastest with, and returns the choice; nothing otherwise.
template <class Scalar>
[[nodiscard]] std::optional<twoheads::RowsChoice> choose_rows_if_auto(twoheads::PlanRequest& request,
                                                                      const twoheads::AttentionSpec& spec,
                                                                      bool kernel = false) {
  if (request.oracle.rows != auto_rows) return std::nullopt;
  const auto make_oracle = [](const twoheads::OracleLimits& limits) {
    return twoheads::SmallTransformer<Scalar>(limits);
  };
  const twoheads::RowsChoice choice =
      kernel ? twoheads::choose_kernel_rows<Scalar>(request, spec)
             : twoheads::choose_oracle_rows<Scalar>(request, spec.head_dim, spec.value_dim, make_oracle);
  request.oracle.rows = choice.chosen.rows;
  return choice;
}

}  // namespace programs
