#pragma once

#include <twoheads/mpi/ranks.hpp>

/// The ranks of all tests: a communicator for each case would take longer than the case.
[[nodiscard]] inline twoheads::Ranks& all_ranks() {
  static twoheads::Ranks ranks;
  return ranks;
}
