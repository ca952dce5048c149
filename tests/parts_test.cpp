// Layers whose queries see few keys, part by part, against the same layer as a whole.

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <twoheads/model/random.hpp>
#include <vector>

#include "support/instances.hpp"

namespace {

using namespace twoheads;

struct Case {
  const char* name;
  Mask mask;
  Index tokens = 200;
  Index heads = 2;
  Index oracle_heads = 1;
  OracleKind oracle = OracleKind::causal;
  TokenEncoding encoding = TokenEncoding::projected;
  bool rope = true;
  NormKind norm = NormKind::rms;
  bool residual = true;
};

std::vector<Case> cases() {
  const auto raw = TokenEncoding::raw;
  return {
      {"Window", Mask::sliding_window(9)},
      {"WindowOfOne", Mask::sliding_window(1)},
      {"Sinks", Mask::window_and_sinks(6, 3)},
      {"MoreSinksThanRows", Mask::window_and_sinks(5, 30)},
      {"SinksBeyondTheFirstParts", Mask::window_and_sinks(2, 90)},
      {"WideWindow", Mask::window_and_sinks(50, 2)},
      {"Band", Mask::band(4, 11)},
      {"BandForward", Mask::band(0, 40)},
      {"SeveralHeadsACall", Mask::window_and_sinks(6, 3), 231, 3, 2},
      {"Plain", Mask::window_and_sinks(6, 3), 150, 2, 1, OracleKind::plain},
      {"Raw", Mask::window_and_sinks(6, 3), 150, 2, 1, OracleKind::causal, raw, false},
      {"NoResidual", Mask::band(7, 3), 150, 2, 1, OracleKind::plain, raw, false, NormKind::none, false},
  };
}

OracleLimits limits_of(const Case& c) {
  OracleLimits limits;
  limits.kind = c.oracle;
  limits.rows = 17;
  limits.heads = c.oracle_heads;
  limits.score_scale = 0.5;
  return limits;
}

Model<float> model_of(const Case& c) {
  ModelSpec spec;
  spec.width = 4 * c.heads;
  spec.attention.heads = spec.attention.kv_heads = c.heads;
  spec.attention.head_dim = spec.attention.value_dim = 4;
  spec.attention.score_scale = 0.5;
  spec.attention.mask = c.mask;
  if (c.rope) spec.attention.rope = RopeSpec{};
  spec.norm = c.norm;
  spec.residual = c.residual;
  spec.mlp = MlpKind::relu;
  spec.hidden = 12;
  return random_model<float>(spec, 11);
}

class Parts : public testing::TestWithParam<Case> {};

// The fear: rows of a part that see keys of another position, old rows that a former part has already changed, and
// calls that the ends of parts leave half full.
TEST_P(Parts, GiveTheLayerAndItsCalls) {
  const Case& c = GetParam();
  const Model<float> model = model_of(c);
  const Matrix<float> x = Random(5).matrix<float>(c.tokens, model.spec.width);
  const auto reach = c.mask.reach(c.tokens);
  ASSERT_TRUE(reach.has_value());
  const Matrix<double> truth =
      forward(cast_model<double>(model), Matrix<double>(x.cast<double>()), DirectAttention<double>());
  SmallTransformer<float> oracle(limits_of(c));
  GridAttention<SmallTransformer<float>> whole(oracle, {Anchor::adaptive, c.encoding});
  const Matrix<float> expected = forward(model, x, whole);

  for (const Index least : {1, 7, 40, 1000}) {
    GridAttention<SmallTransformer<float>> attend(oracle, {Anchor::adaptive, c.encoding});
    Matrix<float> rows = x;
    detail::layer_in_parts(model.spec, model.spec.attention, model.layers.front(), 0, detail::PartRule{*reach, least},
                           rows, attend);
    const float size = expected.cwiseAbs().maxCoeff();
    EXPECT_TRUE((rows - expected).cwiseAbs().maxCoeff() <= 1e-6F * size) << "parts of " << least;
    EXPECT_TRUE((rows.cast<double>() - truth).cwiseAbs().maxCoeff() <= 3e-6 * size) << "parts of " << least;
    EXPECT_EQ(attend.counts().calls, whole.counts().calls) << "parts of " << least;
    EXPECT_EQ(attend.counts().rounds, whole.counts().rounds) << "parts of " << least;
    EXPECT_EQ(attend.counts().jobs, whole.counts().jobs) << "parts of " << least;
  }
}

INSTANTIATE_TEST_SUITE_P(All, Parts, testing::ValuesIn(cases()),
                         [](const auto& found) { return std::string(found.param.name); });

TEST(Parts, NameTheRowOfABadNumber) {
  Case c{"", Mask::sliding_window(9)};
  c.norm = NormKind::none;
  const Model<float> model = model_of(c);
  Matrix<float> x = Random(5).matrix<float>(c.tokens, model.spec.width);
  x(133, 0) = std::numeric_limits<float>::quiet_NaN();
  SmallTransformer<float> oracle(limits_of(c));
  GridAttention<SmallTransformer<float>> attend(oracle);
  try {
    detail::layer_in_parts(model.spec, model.spec.attention, model.layers.front(), 0,
                           detail::PartRule{*c.mask.reach(c.tokens), 20}, x, attend);
    FAIL() << "no error";
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find("row 133:"), std::string::npos) << error.what();
  }
}

}  // namespace
