#include <gtest/gtest.h>

#include <cstddef>
#include <string>
#include <twoheads/attention/input.hpp>
#include <twoheads/model/random.hpp>
#include <twoheads/oracle/any_oracle.hpp>
#include <twoheads/oracle/core.hpp>
#include <twoheads/remote/remote_core.hpp>
#include <twoheads/remote/remote_transformer.hpp>
#include <twoheads/remote/serve.hpp>
#include <utility>
#include <vector>

#include "support/eigen_core.hpp"
#include "support/instances.hpp"
#include "support/message_of.hpp"
#include "support/program.hpp"
#include "support/seed.hpp"

namespace {

using namespace twoheads;

std::uint64_t seed() { return seed_or(61); }

/// The command of our own oracle.
std::vector<std::string> oracle(const std::string& arguments) {
  std::vector<std::string> command = words(arguments);
  command.insert(command.begin(), std::string(TWOHEADS_PROGRAM_DIR) + "/twoheads_oracle");
  return command;
}

/// Attention of three heads over 70 tokens, through calls of an oracle.
template <class Scalar>
Matrix<Scalar> attention(const Mask& mask, AnyOracle<Scalar> any) {
  AttentionSpec spec;
  spec.heads = 3;
  spec.kv_heads = 3;
  spec.head_dim = 5;
  spec.value_dim = 4;
  spec.mask = mask;
  Random random(seed());
  const Matrix<Scalar> q = random.matrix<float>(70, 15).template cast<Scalar>();
  const Matrix<Scalar> k = random.matrix<float>(70, 15).template cast<Scalar>();
  const Matrix<Scalar> v = random.matrix<float>(70, 12).template cast<Scalar>();
  Matrix<Scalar> out(70, 12);
  GridAttention<AnyOracle<Scalar>> attend(any);
  attend(projected_input(spec, view(q), view(k), view(v)), span(out));
  return out;
}

template <class Scalar>
void expect_same_bits_of_core(OracleKind kind, const Mask& mask) {
  const CoreGraph graph{3, 2, 9, 20, 16};
  const OracleLimits limits = limits_of(graph, kind, 0.5);
  const AnyOracle<Scalar> here([&] { return core_oracle<Scalar>(limits, programs::EigenCore<Scalar>(limits)); });
  const std::vector<std::string> command =
      oracle(std::string("--rows 9 --heads 2 --key-cols 20 --value-cols 16 --batch 3 --score-scale 0.5 --oracle ") +
             name(kind) + " --scalar " + (sizeof(Scalar) == 4 ? "float" : "double"));
  const AnyOracle<Scalar> there([&] { return remote_core_oracle<Scalar>(command, kind, 0.5); });
  EXPECT_EQ(attention(mask, there), attention(mask, here)) << name(kind) << ", " << name(mask.kind);
}

TEST(RemoteCore, GivesTheBitsOfTheSameOracleInThisProcess) {
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
    for (const Mask& mask : {Mask{MaskKind::full}, Mask::causal()}) {
      expect_same_bits_of_core<float>(kind, mask);
      expect_same_bits_of_core<double>(kind, mask);
    }
}

}  // namespace
