// Runs before main: an executor of two threads from the installed header does its work, or the program ends at once.
#include <atomic>
#include <cstdlib>
#include <twoheads/exec/threads.hpp>

namespace {

const bool all_done = [] {
  std::atomic<int> sum = 0;
  twoheads::Threads(2).for_each(
      10, [] { return 0; }, [&](int&, twoheads::Index piece) { sum += static_cast<int>(piece); });
  if (sum != 45) std::abort();
  return true;
}();

}  // namespace
