// The paper's printed constructions: right at small logits, with exactly the printed calls, and useless at large ones.

#include <gtest/gtest.h>

#include <twoheads/twoheads.hpp>

namespace {
using namespace twoheads;
TEST(Smoke, X) {
  const Model<double> model = random_model<double>(paper_layer(1, 8, 2, Mask::full(), MlpKind::relu, 8), 7);
  const Matrix<double> x = Random(3).matrix<double>(20, 8);
  OracleLimits limits;
  limits.rows = 8;
  SmallTransformer<double> small(limits);
  CountingOracle<SmallTransformer<double>> oracle(small);
  PaperAttention<CountingOracle<SmallTransformer<double>>> attend(oracle);
  const Matrix<double> found = forward(model, x, attend);
  const Matrix<double> truth = forward(model, x, DirectAttention<double>());
  EXPECT_LE((found - truth).cwiseAbs().maxCoeff(), 1e-12);
  CellMachine<CountingOracle<SmallTransformer<double>>> machine(oracle);
  const auto result = strict_forward(machine, model, machine.take(x));
  EXPECT_LE((machine.reveal(result.rows) - truth).cwiseAbs().maxCoeff(), 1e-12);
}
}  // namespace
