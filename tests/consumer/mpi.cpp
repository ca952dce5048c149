// Runs before main: ranks are refused before MPI_Init by the installed header, or the program ends at once.
#include <cstdlib>
#include <twoheads/base/errors.hpp>
#include <twoheads/mpi/ranks.hpp>

namespace {

const bool refused = [] {
  try {
    const twoheads::Ranks ranks(MPI_COMM_WORLD);
  } catch (const twoheads::Error&) {
    return true;
  }
  std::abort();
}();

}  // namespace
