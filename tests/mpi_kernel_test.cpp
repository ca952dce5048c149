#include <gtest/gtest.h>

#include <string>
#include <twoheads/base/digest.hpp>
#include <twoheads/exec/kernel_attention.hpp>
#include <twoheads/exec/threads.hpp>
#include <twoheads/model/random.hpp>
#include <twoheads/mpi/kernel_on_ranks.hpp>
#include <twoheads/plan/scaling.hpp>
#include <vector>

#include "support/own_rows.hpp"
#include "support/seed.hpp"

namespace {

using namespace twoheads;

struct Case {
  std::string name;
  Mask mask;
  Index queries;
  Index keys;
  Index heads = 2;
  Index kv_heads = 1;
  Index rows = 0;
};

std::vector<Case> cases() {
  const Index n = 1337;
  return {
      {"full", Mask::full(), n, n},
      {"full, blocks of 300", Mask::full(), n, n, 4, 2, 300},
      {"cross", Mask::full(), 300, 5000, 2, 2},
      {"causal", Mask::causal(), n, n},
      {"causal, long", Mask::causal(), 9001, 9001, 1, 1, 0},
      {"causal, several blocks a visit", Mask::causal(), 3000, 3000, 2, 1, 256},
      {"full, several blocks a visit", Mask::full(), 3001, 3001, 2, 2, 384},
      {"causal, blocks of 100", Mask::causal(), n, n, 2, 2, 100},
      {"window", Mask::sliding_window(100), n, n},
      {"window longer than a block", Mask::sliding_window(700), n, n, 2, 1, 256},
      {"window beyond a join", Mask::sliding_window(6000), 9001, 9001, 1, 1, 2048},
      {"sinks", Mask::window_and_sinks(33, 5), n, n},
      {"band", Mask::band(50, 170), n, n},
      {"documents", Mask::documents({700, 1, 36, 600}, true), n, n},
      {"documents, whole inside", Mask::documents({700, 1, 36, 600}, false), n, n, 2, 1, 64},
      {"blocks", Mask::block_pairs(n, n, 64, std::vector<std::pair<Index, Index>>{{0, 3}, {1, 1}, {7, 20}, {20, 0}}), n,
       n},
      {"fewer tokens than ranks", Mask::causal(), 3, 3},
      {"one token", Mask::causal(), 1, 1},
  };
}

template <class Scalar>
AttentionSpec spec_of(const Case& c) {
  AttentionSpec spec;
  spec.heads = c.heads;
  spec.kv_heads = c.kv_heads;
  spec.head_dim = 12;
  spec.value_dim = 9;
  spec.score_scale = 0.4;
  spec.mask = c.mask;
  return spec;
}

/// Bytes that ranks moved are those that plan/scaling.hpp foretells.
void expect_predicted_bytes(const Case& c, const AttentionSpec& spec, Index scalar_bytes, const KernelOptions& options,
                            const RankOptions& rank_options, Index threads, std::uint64_t bytes, Index ranks) {
  ScaleRequest request;
  request.ranks = ranks;
  request.head_dim = spec.head_dim;
  request.value_dim = spec.value_dim;
  request.kv_heads = spec.kv_heads;
  request.scalar_bytes = scalar_bytes;
  request.piece = rank_options.piece_keys;
  request.work_bytes = rank_options.work_bytes;
  request.threads = threads;
  const Plan plan(kernel_request(options, spec, 0, {0, c.queries}, c.keys));
  EXPECT_EQ(static_cast<Index>(bytes), predict_scale(plan, request).bytes_moved);
}

template <class Scalar, class Exec>
void expect_bits_of_one_rank(const Case& c, const Exec& exec, const RankOptions& rank_options) {
  SCOPED_TRACE(c.name);
  Ranks ranks;
  const AttentionSpec spec = spec_of<Scalar>(c);
  Random random(seed_or(5));
  const Matrix<Scalar> q = random.matrix<Scalar>(c.queries, spec.heads * spec.head_dim);
  const Matrix<Scalar> k = random.matrix<Scalar>(c.keys, spec.kv_heads * spec.head_dim);
  const Matrix<Scalar> v = random.matrix<Scalar>(c.keys, spec.kv_heads * spec.value_dim);
  KernelOptions options;
  options.rows = c.rows;
  Matrix<Scalar> expected(c.queries, spec.heads * spec.value_dim);
  KernelAttention<Scalar> serial(options);
  serial(projected_input(spec, view(q), view(k), view(v)), span(expected));

  KernelOnRanks<Scalar, Exec> attend(ranks, options, exec, rank_options);
  const RowShares queries = attend.share(spec, c.queries, c.keys);
  const RowShares keys = c.keys == c.queries ? queries : share_evenly(c.keys, ranks.size());
  const Matrix<Scalar> own_q = own_rows(q, queries, ranks.rank());
  const Matrix<Scalar> own_k = rows_by_head(view(own_rows(k, keys, ranks.rank())), spec.kv_heads, spec.head_dim);
  const Matrix<Scalar> own_v = rows_by_head(view(own_rows(v, keys, ranks.rank())), spec.kv_heads, spec.value_dim);
  Matrix<Scalar> out = Matrix<Scalar>::Constant(own_q.rows(), expected.cols(), Scalar(7));
  attend(RankInput<Scalar>{spec, 0, queries, keys, view(own_q), view(own_k), view(own_v)}, span(out));
  const std::uint64_t moved = ranks.sum(attend.counts().moved.bytes);
  if (c.queries > 1)
    expect_predicted_bytes(c, spec, sizeof(Scalar), options, rank_options, exec.threads(), moved, ranks.size());
  const Matrix<Scalar> wanted = own_rows(expected, queries, ranks.rank());
  EXPECT_EQ(digest(out), digest(wanted)) << "rank " << ranks.rank() << ", largest difference "
                                         << (out - wanted).cwiseAbs().maxCoeff();
}

TEST(KernelOnRanks, HasTheBitsOfOneRankForEveryMaskInFloat) {
  for (const Case& c : cases()) expect_bits_of_one_rank<float>(c, Serial(), {});
}

TEST(KernelOnRanks, HasTheBitsOfOneRankForEveryMaskInDoubleOnThreadsAndInSmallPieces) {
  for (const Case& c : cases()) expect_bits_of_one_rank<double>(c, Threads(3), {.piece_keys = 100, .work_bytes = 1});
}

TEST(KernelOnRanks, HasTheBitsOfOneRankInVisitsOfManyBlocks) {
  for (const Case& c : cases()) expect_bits_of_one_rank<float>(c, Serial(), {.piece_keys = 300, .work_bytes = 1 << 28});
}

}  // namespace
