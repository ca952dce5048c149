#include <twoheads/twoheads.hpp>

// Attention through calls, whose code is in the library: this file alone would compile it for half a minute.
bool calls_are_compiled() {
  using namespace twoheads;
  const ModelSpec spec = paper_layer(1, 8, 2, Mask::causal(), MlpKind::none, 0);
  const Model<float> model = random_model<float>(spec, 1);
  const Matrix<float> tokens = Random(2).matrix<float>(40, 8);
  SmallTransformer<float> oracle(OracleLimits{.kind = OracleKind::causal, .rows = 9});
  const Simulation<float> small = simulate(model, tokens, oracle);
  const Matrix<float> large = forward(model, tokens, DirectAttention<float>());
  return small.counts.calls == 50 && (small.rows - large).norm() < 1e-4F;
}

[[maybe_unused]] static const bool checked = [] {
  if (!calls_are_compiled())
    throw twoheads::Error("calls that were compiled into the library are not the direct answer");
  return true;
}();
