// Causal attention over 1000 tokens on something that only knows 128 rows, no mask, and answers with outputs alone.

#include <iostream>
#include <twoheads/twoheads.hpp>

using namespace twoheads;

int main() {
  // What it is: exactly 128 rows a call, every row sees every row, at most 32 columns of keys and of values.
  OracleLimits limits{.kind = OracleKind::plain, .rows = 128, .fixed_rows = true, .score_scale = 0.25};
  limits.key_cols = limits.value_cols = 32;

  // Your accelerator, runtime or service in the place of these four lines.
  const auto attend = [](const MatrixView<double>& q, const MatrixView<double>& k, const MatrixView<double>& v) {
    Matrix<double> weights = 0.25 * q * k.transpose();
    weights = (weights.colwise() - weights.rowwise().maxCoeff().eval()).array().exp();
    return Matrix<double>(weights.rowwise().sum().cwiseInverse().asDiagonal() * weights * v);
  };
  CoreOracle oracle = core_oracle<double>(limits, attend);
  require_honest(oracle);  // about 15 calls that find a scale, a mask or a row limit other than declared

  const ModelSpec spec = paper_layer(1, 32, 4, Mask{MaskKind::causal}, MlpKind::none, 0);
  const Model<double> model = random_model<double>(spec, /*seed=*/1);
  const Matrix<double> tokens = Random(2).matrix<double>(1000, 32);
  const Simulation<double> small = simulate(model, tokens, oracle);
  const Matrix<double> large = forward(model, tokens, DirectAttention<double>());

  std::cout << "calls of exactly 128 rows:  " << small.counts.calls << "\n"
            << "largest difference:         " << (small.rows - large).cwiseAbs().maxCoeff<Eigen::PropagateNaN>()
            << "\n";
}
