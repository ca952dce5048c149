// An oracle that cannot be run is refused by name of the missing concept.
// expect: HasRun
#include <twoheads/simulate.hpp>

struct Box {
  using Scalar = float;
  [[nodiscard]] twoheads::OracleLimits limits() const { return {}; }
#ifdef TWOHEADS_MUST_COMPILE
  [[nodiscard]] twoheads::Matrix<float> run(const twoheads::OracleCall<float>& call) { return call.rows; }
#endif
};

int main() {
  Box box;
  const twoheads::GridAttention<Box> attend(box);
  static_cast<void>(attend);
}
