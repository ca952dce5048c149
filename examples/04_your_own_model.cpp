// The blocks compose: a model that no ModelSpec describes, whose layers have widths and heads of their own, with
// queries, keys and values from one matrix, and sines for positions. Whatever evaluates attention, it is written once.

#include <cmath>
#include <iostream>
#include <twoheads/twoheads.hpp>
#include <vector>

using namespace twoheads;

struct Layer {
  AttentionSpec spec;
  AttentionWeights<double> attention;
  NormWeights<double> norm, mlp_norm;
  MlpWeights<double> mlp;
  Matrix<double> widen;  ///< (width, width of the next layer)
};

/// A layer of `heads` heads of 16, random but for its queries, keys and values, which are three parts of one matrix.
Layer random_layer(Random& random, Index heads, Index next_width) {
  const Index width = 16 * heads;
  const auto weights = [&](Index in, Index out) {
    return random.matrix<double>(in, out, 1.0 / std::sqrt(static_cast<double>(in)));
  };
  Layer layer;
  layer.spec.heads = layer.spec.kv_heads = heads;
  layer.spec.head_dim = layer.spec.value_dim = 16;
  layer.spec.score_scale = 0.25;
  layer.spec.mask = Mask::causal();
  const Matrix<double> qkv = weights(width, 3 * width);
  layer.attention.wq = qkv.leftCols(width);
  layer.attention.wk = qkv.middleCols(width, width);
  layer.attention.wv = qkv.rightCols(width);
  layer.attention.wo = weights(width, width);
  layer.norm.gain = layer.mlp_norm.gain = RowVector<double>::Ones(width);
  layer.mlp.w_in = weights(width, 2 * width);
  layer.mlp.w_out = weights(2 * width, width);
  layer.widen = weights(width, next_width);
  return layer;
}

/// The model: `attend` is any attention of the library, or your own.
template <class AttendFn>
Matrix<double> run(const std::vector<Layer>& layers, Matrix<double> x, AttendFn&& attend) {
  x += sinusoidal_positions<double>(0, x.rows(), x.cols());
  for (const Layer& layer : layers) {
    x += attention(layer.spec, layer.attention, view(normed(view(x), layer.norm, NormKind::rms, 1e-5)), attend);
    x += mlp(view(normed(view(x), layer.mlp_norm, NormKind::rms, 1e-5)), layer.mlp, MlpKind::gelu, 0);
    x = (x * layer.widen).eval();
  }
  return x;
}

int main() {
  Random random(1);
  const std::vector<Layer> layers{random_layer(random, 2, 64), random_layer(random, 4, 48),
                                  random_layer(random, 3, 10)};
  const Matrix<double> tokens = random.matrix<double>(500, 32);

  OracleLimits limits{.kind = OracleKind::causal, .rows = 33};
  limits.score_scale = 0.25;
  SmallTransformer<double> oracle(limits);
  GridAttention<SmallTransformer<double>> grid(oracle);
  const Matrix<double> small = run(layers, tokens, grid);
  const Matrix<double> large = run(layers, tokens, DirectAttention<double>());

  std::cout << "calls of at most 33 rows:  " << grid.counts().calls << "\n"
            << "largest difference:        " << (small - large).cwiseAbs().maxCoeff<Eigen::PropagateNaN>() << "\n";
}
