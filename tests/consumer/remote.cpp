// Runs before main: a process that is no oracle is found out by the installed header, or the program ends at once.
#include <cstdlib>
#include <twoheads/remote/remote_core.hpp>

namespace {

const bool found_out = [] {
  try {
    const twoheads::RemoteSession session({"echo", "no oracle, but a program of enough words to fill a header"});
  } catch (const twoheads::OracleError&) {
    return true;
  }
  std::abort();
}();

}  // namespace
