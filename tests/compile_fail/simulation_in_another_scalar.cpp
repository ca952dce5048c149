// A model in double cannot be run on an oracle in float without a cast that says so.
// expect: simulate
#include <twoheads/oracle/small_transformer.hpp>
#include <twoheads/simulate.hpp>

int main() {
#ifdef TWOHEADS_MUST_COMPILE
  using Scalar = float;
#else
  using Scalar = double;
#endif
  twoheads::SmallTransformer<float> oracle(twoheads::OracleLimits{.rows = 2});
  const twoheads::Model<Scalar> model;
  static_cast<void>(twoheads::simulate(model, twoheads::Matrix<Scalar>(1, 1), oracle));
}
