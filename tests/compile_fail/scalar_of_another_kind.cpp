// Whole numbers are no scalars of a model.
// expect: RealScalar
#include <twoheads/model/weights.hpp>

int main() {
#ifdef TWOHEADS_MUST_COMPILE
  const twoheads::Model<double> model;
#else
  const twoheads::Model<int> model;
#endif
  static_cast<void>(model);
}
