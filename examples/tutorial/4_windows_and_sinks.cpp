// Attention of which each token sees the last 64 keys and the first 4: what it takes, and a stream without end.

#include <iostream>
#include <twoheads/twoheads.hpp>
#include <vector>

using namespace twoheads;

/// Calls of one head and layer on a causal oracle of 129 rows. A plan computes nothing.
Index calls(const Mask& mask, Index tokens) {
  return Plan({.mask = mask, .tokens = tokens, .oracle = {.kind = OracleKind::causal, .rows = 129}}).calls();
}

int main() {
  const Mask seen = Mask::window_and_sinks(64, 4);
  for (const Index tokens : {1000, 10000, 100000})
    std::cout << tokens << " tokens: " << calls(Mask::causal(), tokens) << " calls causal, " << calls(seen, tokens)
              << " of a window and sinks\n";

  // Keys that a query does not see may be as hot as they like: nothing is subtracted.
  const Model<float> model = random_model<float>(paper_layer(1, 32, 2, seen, MlpKind::none, 0), 1);
  Matrix<float> tokens = Random(2).matrix<float>(1000, 32);
  tokens.middleRows(200, 3) *= 100;
  SmallTransformer<float> oracle(OracleLimits{.kind = OracleKind::causal, .rows = 129});
  const Simulation<float> small = simulate(model, tokens, oracle);
  const Matrix<float> large = forward(model, tokens, DirectAttention<float>());
  const Matrix<float> last = (small.rows - large).bottomRows(700);
  std::cout << "calls of both heads: " << small.counts.calls << ", " << small.counts.repeats << " of them repeats\n"
            << "largest difference where the hot tokens are out of sight: "
            << last.cwiseAbs().maxCoeff<Eigen::PropagateNaN>() << "\n";

  // A session drops what no later token sees.
  ModelSpec spec;
  spec.layers = 2;
  spec.width = 32;
  spec.hidden = 64;
  spec.mlp = MlpKind::gelu;
  spec.norm = NormKind::rms;
  spec.attention.heads = spec.attention.kv_heads = 2;
  spec.attention.head_dim = spec.attention.value_dim = 16;
  spec.attention.score_scale = 0.25;
  spec.attention.mask = seen;
  spec.attention.rope = RopeSpec{};
  const LanguageModel<float> decoder = untrained_model<float>(spec, 256, 1);
  KernelAttention<float> attend({.rows = 64});
  Session<float, KernelAttention<float>> session(decoder, attend, {.chunk = 128});
  for (Index piece = 0; piece < 40; ++piece) {
    session.append(std::vector<int>(500, static_cast<int>(piece)));
    if (piece % 13 == 0)
      std::cout << session.tokens() << " tokens read, " << session.held() << " numbers of keys and values held\n";
  }
}
