// A transformer over 1000 tokens, evaluated by one that takes at most 65 rows a call.

#include <iostream>
#include <twoheads/twoheads.hpp>
using namespace twoheads;

int main() {
  const ModelSpec spec = paper_layer(1, 32, 2, Mask{MaskKind::causal}, MlpKind::none, 0);
  const Model<float> model = random_model<float>(spec, /*seed=*/1);
  const Matrix<float> tokens = Random(2).matrix<float>(1000, 32);

  SmallTransformer<float> oracle(OracleLimits{.kind = OracleKind::causal, .rows = 65});
  const Simulation<float> small = simulate(model, tokens, oracle);
  const Matrix<float> large = forward(model, tokens, DirectAttention<float>());

  std::cout << "calls of at most 65 rows:  " << small.counts.calls << "\n"
            << "largest difference:        " << (small.rows - large).cwiseAbs().maxCoeff<Eigen::PropagateNaN>() << "\n";
}
