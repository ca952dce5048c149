#include "support/instances.hpp"

namespace twoheads {
TWOHEADS_PRODUCTS(, float);
TWOHEADS_PRODUCTS(, double);
TWOHEADS_PRODUCTS(, long double);
TWOHEADS_SIMULATION(, float);
TWOHEADS_SIMULATION(, double);
}  // namespace twoheads
