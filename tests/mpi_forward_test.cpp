#include <gtest/gtest.h>

#include <string>
#include <twoheads/base/digest.hpp>
#include <twoheads/exec/kernel_attention.hpp>
#include <twoheads/model/random.hpp>
#include <twoheads/mpi/forward_on_ranks.hpp>
#include <twoheads/mpi/gather.hpp>
#include <twoheads/mpi/kernel_on_ranks.hpp>
#include <utility>
#include <vector>

#include "support/instances.hpp"
#include "support/message_of.hpp"
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

/// Units of a few rows, dealt in turn: the last row is rank 0's.
RowShares dealt_shares(Index rows, Index ranks) {
  std::vector<Index> ends;
  std::vector<Index> owners;
  for (Index end = rows % 3 + 3; end <= rows; end += 3) {
    ends.push_back(end);
    owners.push_back((rows - end) / 3 % ranks);
  }
  return RowShares(ends, owners, ranks);
}

TEST(GatherRows, HasAllRowsInOrderOnTheRankThatAsks) {
  Ranks ranks;
  const Matrix<double> all = Random(seed_or(6)).matrix<double>(100, 7);
  // A single row leaves all ranks but one without any.
  const Matrix<double> one = all.topRows(1);
  for (Index to = 0; to < ranks.size(); ++to) {
    const RowShares dealt = dealt_shares(100, ranks.size());
    const RowShares single = share_evenly(1, ranks.size());
    for (const auto& [rows, shares] : {std::pair(&all, &dealt), std::pair(&one, &single)}) {
      const Matrix<double> found = gather_rows(ranks, *shares, own_rows(*rows, *shares, ranks.rank()), to);
      EXPECT_EQ(found.cols(), 7);
      ASSERT_EQ(found.rows(), ranks.rank() == to ? rows->rows() : 0) << "to " << to;
      EXPECT_TRUE(found.rows() == 0 || digest(found) == digest(*rows)) << "to " << to;
    }
  }
}

TEST(GatherRows, RefusesOnEveryRankWhatDoesNotFit) {
  Ranks ranks;
  const RowShares shares = dealt_shares(100, ranks.size());
  const Index last = ranks.size() - 1;
  const auto expect_error = [&](const std::string& message, const std::string& words) {
    EXPECT_TRUE(ranks.all_failed());
    EXPECT_NE(message.find(words), std::string::npos) << message;
    ranks.require_same(message);
  };
  Matrix<double> own = own_rows(Matrix<double>(Matrix<double>::Zero(100, 7)), shares, ranks.rank());
  for (const Index to : {Index{-1}, ranks.size()})
    expect_error(message_of<SpecError>([&] { static_cast<void>(gather_rows(ranks, shares, own, to)); }), "on rank");
  if (ranks.rank() == last) own.setZero(own.rows() + 1, 7);
  const std::string who = last > 0 ? detail::text("rank ", last, ": ") : std::string();
  expect_error(message_of<ShapeError>([&] { static_cast<void>(gather_rows(ranks, shares, own, 0)); }),
               who + "the rank's rows to be gathered");
}

TEST(ForwardOnRanks, RanksThatKnowOtherSharesRefuseEachOther) {
  Ranks ranks;
  if (ranks.size() == 1) GTEST_SKIP() << "one rank agrees with itself";
  const Model<float> model = random_model<float>(plain_spec(Mask::full()), seed_or(3));
  KernelOnRanks<float> attend(ranks);
  const RowShares even = share_evenly(301, ranks.size());
  const RowShares other = ranks.rank() == 1 ? dealt_shares(301, ranks.size()) : even;
  const Matrix<float> rows = Matrix<float>::Zero(301, model.spec.width);
  for (const bool of_memory : {true, false}) {
    const RowShares& shares = of_memory ? even : other;
    const RowShares& key_shares = of_memory ? other : even;
    const Matrix<float> own_memory = own_rows(rows, key_shares, ranks.rank());
    const RankMemory<float> memory{key_shares, own_memory};
    const std::string message = message_of<SpecError>([&] {
      static_cast<void>(forward_on_ranks(model, own_rows(rows, shares, ranks.rank()), shares, attend, &memory));
    });
    EXPECT_TRUE(ranks.all_failed());
    EXPECT_NE(message.find("ranks run different things"), std::string::npos) << message;
  }
}

TEST(Ranks, WordsThatDifferBehindWhatIsShownAreStillOthers) {
  Ranks ranks;
  const std::string same(3000, 'x');
  ranks.require_same(same);
  if (ranks.size() == 1) return;
  const std::string message =
      message_of<SpecError>([&] { ranks.require_same(same + (ranks.rank() == 1 ? "a" : "b")); });
  EXPECT_NE(message.find("rank 1, beside rank 0: what they say differs behind what is shown"), std::string::npos)
      << message;
  EXPECT_TRUE(ranks.all_failed());
}

TEST(ForwardOnRanks, SharesOfOtherRanksThanThereAreAreRefused) {
  Ranks ranks;
  const Model<float> model = random_model<float>(plain_spec(Mask::full()), seed_or(3));
  KernelOnRanks<float> attend(ranks);
  const Matrix<float> rows = Matrix<float>::Zero(301, model.spec.width);
  const std::string expected = detail::text("expected those of the run, ", ranks.size());
  const auto refused = [&](const auto& run) {
    const std::string message = message_of<SpecError>(run);
    EXPECT_TRUE(ranks.all_failed());
    EXPECT_NE(message.find(expected), std::string::npos) << message;
  };
  // One rank more; and one less, of which the last rank has no share at all.
  for (const Index count : {ranks.size() + 1, std::max<Index>(ranks.size() - 1, 1)}) {
    if (count == ranks.size()) continue;
    const RowShares shares = share_evenly(301, count), sound = share_evenly(301, ranks.size());
    const Matrix<float> own = rows.topRows(10), own_sound = twoheads::own_rows(sound, ranks.rank(), rows);
    refused([&] { static_cast<void>(forward_on_ranks(model, own, shares, attend)); });
    const RankMemory<float> memory{shares, own};
    refused([&] { static_cast<void>(forward_on_ranks(model, own_sound, sound, attend, &memory)); });
    refused([&] { static_cast<void>(gather_rows(ranks, shares, own)); });
  }
  const RowShares shares = share_evenly(301, ranks.size());
  for (const Index rank : {Index{-1}, ranks.size()})
    EXPECT_THROW(static_cast<void>(twoheads::own_rows(shares, rank, rows)), SpecError) << rank;
  EXPECT_THROW(static_cast<void>(twoheads::own_rows(shares, 0, Matrix<float>(rows.topRows(300)))), ShapeError);
  const RowShares other = ranks.rank() == 0 ? share_evenly(301, ranks.size()) : dealt_shares(301, ranks.size());
  if (ranks.size() == 1) return;
  const std::string message = message_of<SpecError>(
      [&] { static_cast<void>(gather_rows(ranks, other, twoheads::own_rows(other, ranks.rank(), rows))); });
  EXPECT_NE(message.find("ranks run different things"), std::string::npos) << message;
}

TEST(ForwardOnRanks, ARunAfterAFaultIsRight) {
  {
    Ranks ranks;
    const Index failing = ranks.size() - 1;
    Model<float> model = random_model<float>(plain_spec(Mask::causal()), seed_or(3));
    const RowShares shares = share_evenly(333, ranks.size());
    model.input_mlp = RowFunction([&](Index, auto&) {
      if (ranks.rank() == failing) throw InputError("the rows of this rank are lost");
    });
    KernelOnRanks<float> attend(ranks);
    const Matrix<float> x = Matrix<float>::Zero(shares.size(ranks.rank()), model.spec.width);
    const std::string message =
        message_of<InputError>([&] { static_cast<void>(forward_on_ranks(model, x, shares, attend)); });
    EXPECT_NE(message.find("the rows of this rank are lost"), std::string::npos) << message;
    EXPECT_TRUE(ranks.all_failed());
  }
  expect_bits_of_one_rank<float>(cases().front(), {});
}

}  // namespace
