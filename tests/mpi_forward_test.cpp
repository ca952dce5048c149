#include <gtest/gtest.h>

#include <string>
#include <twoheads/base/digest.hpp>
#include <twoheads/exec/kernel_attention.hpp>
#include <twoheads/model/random.hpp>
#include <twoheads/mpi/forward_on_ranks.hpp>
#include <twoheads/mpi/kernel_on_ranks.hpp>
#include <vector>

#include "support/own_rows.hpp"
#include "support/seed.hpp"

namespace {

using namespace twoheads;

struct Case {
  std::string name;
  ModelSpec spec;
  Index tokens = 333;
  Index keys = 0;
};

ModelSpec plain_spec(const Mask& mask, Index width = 48) {
  ModelSpec spec;
  spec.layers = 2;
  spec.width = width;
  spec.attention.heads = 4;
  spec.attention.kv_heads = 2;
  spec.attention.head_dim = spec.attention.value_dim = width / 4;
  spec.attention.score_scale = 0.3;
  spec.attention.mask = mask;
  spec.norm = NormKind::rms;
  spec.mlp = MlpKind::swiglu;
  spec.hidden = width + 7;
  spec.final_norm = true;
  return spec;
}

std::vector<Case> cases() {
  std::vector<Case> all{
      {"causal", plain_spec(Mask::causal())},
      {"full, as many tokens as a block and one", plain_spec(Mask::full()), 129},
      {"window in parts", plain_spec(Mask::sliding_window(60), 256), 4321},
      {"window and sinks in parts", plain_spec(Mask::window_and_sinks(60, 3), 256), 4321},
      {"band in parts", plain_spec(Mask::band(20, 33), 256), 4321},
      {"a memory", plain_spec(Mask::full()), 200, 301},
      {"a memory of one query", plain_spec(Mask::full()), 1, 301},
      {"one token", plain_spec(Mask::causal()), 1},
      {"two tokens", plain_spec(Mask::causal()), 2},
  };
  Case mixed{"layers of two masks", plain_spec(Mask::causal())};
  mixed.spec.layer_masks = {Mask::sliding_window(33), Mask::causal()};
  all.push_back(mixed);
  Case odd{"layer norms of an odd width, rotary positions", plain_spec(Mask::causal(), 52)};
  odd.spec.attention.head_dim = 6;
  odd.spec.attention.value_dim = 5;
  odd.spec.width = 51;
  odd.spec.norm = NormKind::layer;
  odd.spec.norm_place = NormPlace::after;
  odd.spec.mlp = MlpKind::gelu;
  odd.spec.attention.rope.emplace();
  all.push_back(odd);
  return all;
}

template <class Scalar>
void expect_bits_of_one_rank(const Case& c, const KernelOptions& options) {
  SCOPED_TRACE(c.name);
  Ranks ranks;
  const Model<Scalar> model = cast_model<Scalar>(random_model<double>(c.spec, seed_or(3)));
  Random random(seed_or(4));
  const Matrix<Scalar> x = random.matrix<Scalar>(c.tokens, c.spec.width);
  const Matrix<Scalar> memory = random.matrix<Scalar>(c.keys, c.spec.width);
  KernelAttention<Scalar> serial(options);
  const Matrix<Scalar> expected = forward(model, x, serial, c.keys > 0 ? &memory : nullptr);

  KernelOnRanks<Scalar> attend(ranks, options);
  const RowShares shares = attend.share(c.spec.attention_of(0), c.tokens, c.keys > 0 ? c.keys : c.tokens);
  const RowShares key_shares = share_evenly(std::max<Index>(c.keys, 1), ranks.size());
  const Matrix<Scalar> own_memory = c.keys > 0 ? own_rows(memory, key_shares, ranks.rank()) : Matrix<Scalar>();
  const RankMemory<Scalar> rank_memory{key_shares, own_memory};
  const Matrix<Scalar> found =
      forward_on_ranks(model, own_rows(x, shares, ranks.rank()), shares, attend, c.keys > 0 ? &rank_memory : nullptr);
  const Matrix<Scalar> wanted = own_rows(expected, shares, ranks.rank());
  ASSERT_EQ(found.rows(), wanted.rows());
  EXPECT_EQ(digest(found), digest(wanted)) << "rank " << ranks.rank();
}

TEST(ForwardOnRanks, HasTheBitsOfOneRankInFloat) {
  for (const Case& c : cases()) expect_bits_of_one_rank<float>(c, {});
}

TEST(ForwardOnRanks, HasTheBitsOfOneRankInDouble) {
  for (const Case& c : cases()) expect_bits_of_one_rank<double>(c, {.rows = 50});
}

}  // namespace
