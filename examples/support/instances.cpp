#include "support/instances.hpp"

namespace twoheads {
TWOHEADS_COMPILE_ALL();
}  // namespace twoheads
