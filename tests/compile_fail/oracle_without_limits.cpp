// An oracle that does not say its limits is refused by name of the missing concept.
// expect: HasLimits
#include <twoheads/simulate.hpp>

struct Box {
  using Scalar = float;
#ifdef TWOHEADS_MUST_COMPILE
  [[nodiscard]] twoheads::OracleLimits limits() const { return {}; }
#endif
  [[nodiscard]] twoheads::Matrix<float> run(const twoheads::OracleCall<float>& call) { return call.rows; }
};

int main() {
  Box box;
  const twoheads::GridAttention<Box> attend(box);
  static_cast<void>(attend);
}
