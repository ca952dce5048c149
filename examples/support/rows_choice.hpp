#pragma once

#include <optional>
#include <twoheads/exec/time_calls.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <twoheads/plan/choose_rows.hpp>

#include "support/instances.hpp"
#include "support/plan_arguments.hpp"

namespace programs {

/// Where `--rows auto` asks for it, sets the rows of the request to those that calls of the Eigen small transformer are
/// fastest with, and returns the choice; nothing otherwise.
template <class Scalar>
[[nodiscard]] std::optional<twoheads::RowsChoice> choose_rows_if_auto(twoheads::PlanRequest& request, Index head_dim) {
  if (request.oracle.rows != auto_rows) return std::nullopt;
  const auto make_oracle = [](const twoheads::OracleLimits& limits) {
    return twoheads::SmallTransformer<Scalar>(limits);
  };
  const twoheads::RowsChoice choice = twoheads::choose_oracle_rows<Scalar>(request, head_dim, head_dim, make_oracle);
  request.oracle.rows = choice.chosen.rows;
  return choice;
}

}  // namespace programs
