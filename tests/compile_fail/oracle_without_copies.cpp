// On several threads each one takes a copy of the oracle: one that cannot be copied is refused in words.
// expect: each thread takes a copy of the oracle
#include <twoheads/simulate.hpp>

struct Box {
  using Scalar = float;
  Box() = default;
#ifdef TWOHEADS_MUST_COMPILE
  Box(const Box&) = default;
#else
  Box(const Box&) = delete;
#endif
  [[nodiscard]] twoheads::OracleLimits limits() const { return {}; }
  [[nodiscard]] twoheads::Matrix<float> run(const twoheads::OracleCall<float>& call) { return call.rows; }
};

/// Stands for an executor of several threads.
struct Several : twoheads::Serial {
  static constexpr bool concurrent = true;
};

int main() {
  Box box;
  const twoheads::GridAttention<Box> alone(box);
  const twoheads::GridAttention<Box, Several> together(box);
  static_cast<void>(alone);
  static_cast<void>(together);
}
