// The model of scale: bytes that ranks fetch, times that it adds up, and what other splits would move.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <set>
#include <span>
#include <twoheads/plan/scaling.hpp>
#include <twoheads/plan/shares.hpp>
#include <twoheads/plan/visits.hpp>
#include <utility>
#include <vector>

#include "support/shared_plans.hpp"

namespace {

using twoheads::Index;
using twoheads::Mask;
using twoheads::OracleKind;
using twoheads::Plan;
using twoheads::PlanRequest;
using twoheads::Rows;
using twoheads::RowShare;
using twoheads::RowShares;
using twoheads::ScalePrediction;
using twoheads::ScaleRequest;
using twoheads::SpecError;
using twoheads::Tile;
using namespace shared_plans;

std::vector<Index> owners_of(const RowShares& shares) {
  std::vector<Index> owners;
  for (const RowShare& share : shares.shares())
    owners.insert(owners.end(), static_cast<std::size_t>(share.rows.size()), share.rank);
  return owners;
}

/// Bytes that each rank receives in one layer, by sets of rows: the real walk over tiles, row by row.
std::vector<Index> bytes_by_sets(const Plan& plan, const ScaleRequest& request) {
  const RowShares shares = share_rows(plan, request.ranks);
  const bool memory = request.memory || plan.keys() != plan.tokens();
  const std::vector<Index> query_owners = owners_of(shares);
  const std::vector<Index> owners = owners_of(memory ? twoheads::share_evenly(plan.keys(), request.ranks) : shares);
  const Index heads = plan.request().heads;
  const Index kv_heads = request.kv_heads > 0 ? request.kv_heads : heads;
  const Index row = (request.head_dim + request.value_dim) * request.scalar_bytes;
  std::vector<Index> bytes;
  for (Index rank = 0; rank < request.ranks; ++rank) {
    std::set<std::pair<Index, Index>> fetched;  // key/value head and key
    Index rows = 0;
    Index slots = 0;
    Index keys_read = 0;
    const auto close = [&] {
      rows += static_cast<Index>(fetched.size());
      fetched.clear();
      slots = keys_read = 0;
    };
    const auto need = [&](Index kv_head, Rows keys) {
      for (Index key = keys.begin; key < keys.end; ++key)
        if (owners[static_cast<std::size_t>(key)] != rank) fetched.insert({kv_head, key});
    };
    const auto mine = [&](Index query) { return query_owners[static_cast<std::size_t>(query)] == rank; };
    const bool kernel = plan.oracle().kind == OracleKind::kernel;
    for (Index block = 0; block < plan.query_blocks(); ++block) {
      const Rows queries = plan.queries_of(block);
      if (!kernel && !mine(queries.begin)) {
        close();
        continue;
      }
      for (Index begin = queries.begin; begin < queries.end;) {
        Index end = begin + 1;
        while (end < queries.end && mine(end) == mine(begin)) ++end;
        EXPECT_TRUE(kernel || end == queries.end) << "calls are not cut";
        for (Index head = 0; head < heads && mine(begin); ++head)
          plan.for_each_slot(block, head, [&](std::span<const Tile> slot) {
            const Index kv_head = head / (heads / kv_heads);
            for (const Tile& tile : slot) {
              if (!kernel) {
                need(kv_head, tile.keys);
                need(kv_head, tile.sinks);
                continue;
              }
              // The heads of a group share what is fetched for a tile; each tile asks anew.
              if (head % (heads / kv_heads) != 0) continue;
              close();
              for (Index query = std::max(begin, tile.queries.begin); query < std::min(end, tile.queries.end);
                   ++query) {
                need(kv_head, tile.visible_keys(query - tile.queries.begin));
                need(kv_head, tile.sinks);
              }
            }
            for (const Tile& tile : slot) keys_read += tile.keys.size();
            // Whole batches, until they have read a piece of keys.
            if (!kernel && ++slots % plan.slots_per_batch() == 0 && keys_read >= request.piece) close();
          });
        if (kernel) close();
        begin = end;
      }
    }
    close();
    bytes.push_back(rows * row);
  }
  return bytes;
}

void expect_bytes(const Plan& plan, const ScaleRequest& request) {
  const std::vector<Index> expected = bytes_by_sets(plan, request);
  const std::vector<twoheads::RankScale> ranks = predict_ranks(plan, request);
  ASSERT_EQ(ranks.size(), expected.size());
  Index sum = 0;
  Index messages = 0;
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    EXPECT_EQ(ranks[rank].bytes, expected[rank]) << "rank " << rank << " of " << request.ranks;
    sum += expected[rank];
    messages += ranks[rank].messages;
  }
  const ScalePrediction found = predict_scale(plan, request);
  EXPECT_TRUE(found.exact_bytes);
  EXPECT_EQ(found.bytes_moved, sum * plan.request().layers);
  EXPECT_EQ(found.messages, messages * plan.request().layers);
  EXPECT_EQ(found.most_received, *std::max_element(expected.begin(), expected.end()) * plan.request().layers);
}

TEST(ScaleModel, CountsTheBytesThatSetsOfRowsCount) {
  ScaleRequest request;
  request.head_dim = 3;
  request.value_dim = 5;
  request.scalar_bytes = 8;
  request.kv_heads = 1;
  for_each_case([&](const Plan& plan) {
    for (const Index ranks : {1, 2, 3}) {
      request.ranks = ranks;
      request.piece = 1 + 60 * (ranks % 2);
      expect_bytes(plan, request);
    }
  });
}

TEST(ScaleModel, CountsBytesOfBatchesMemoriesAndManyRanks) {
  for (const OracleKind kind : kinds)
    for (const Index kv_heads : {1, 2, 4}) {
      PlanRequest plan;
      plan.mask = Mask::causal();
      plan.tokens = 200;
      plan.heads = 4;
      plan.layers = 3;
      plan.oracle.kind = kind;
      plan.oracle.rows = 17;
      plan.oracle.heads = kind == OracleKind::kernel ? 1 : 2;
      plan.oracle.batch = kind == OracleKind::kernel ? 1 : 3;
      ScaleRequest request;
      request.kv_heads = kv_heads;
      for (const Index ranks : {4, 50}) {
        request.ranks = ranks;
        expect_bytes(Plan(plan), request);
      }
      // Keys of a memory, fewer than queries, as many, and more.
      request.ranks = 3;
      plan.mask = Mask::full();
      for (const Index keys : {2, 77, 200, 301}) {
        plan.keys = keys;
        request.memory = keys == 200;
        expect_bytes(Plan(plan), request);
      }
      plan.mask = scattered(200, 301, 17);
      plan.keys = 301;
      request.memory = false;
      expect_bytes(Plan(plan), request);
    }
}

TEST(ScaleModel, CountsKeysAgainThatAnotherBatchAsksForAgain) {
  // Blocks of 10 queries see themselves, some of them the first keys too: blocks that ask for nothing lie between.
  std::vector<std::pair<Index, Index>> pairs;
  for (Index block = 0; block < 20; ++block) {
    pairs.push_back({block, block});
    if (block % 3 == 2) pairs.push_back({block, 0});
  }
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
    for (const Index batch : {1, 2, 3, 5, 100}) {
      PlanRequest plan = plan_for(Mask::block_pairs(200, 200, 10, pairs), 200, kind, 17, 2).request();
      plan.oracle.batch = batch;
      ScaleRequest request;
      request.kv_heads = 1;
      for (const Index ranks : {2, 3}) {
        request.ranks = ranks;
        for (const Index piece : {1, 50, 4096}) {
          request.piece = piece;
          expect_bytes(Plan(plan), request);
        }
      }
    }
}

TEST(ScaleModel, OneRankMovesNothing) {
  for (const OracleKind kind : kinds) {
    const ScalePrediction found = predict_scale(plan_for(Mask::causal(), 300, kind, 33), {});
    EXPECT_EQ(found.bytes_moved, 0);
    EXPECT_EQ(found.messages, 0);
    EXPECT_EQ(found.exposed_seconds + found.hidden_seconds, 0);
    EXPECT_EQ(found.excess_work, 0);
  }
  // Nor needs it room for pieces: q, k, v and out of all rows, and the lanes of a block.
  const ScalePrediction kernel = predict_scale(plan_for(Mask::causal(), 300, OracleKind::kernel, 100), {});
  EXPECT_EQ(kernel.rank_bytes, (4 * 300 * 64 + 100 * 328) * 4);
}

TEST(ScaleModel, AWindowMovesAtMostTwoPercentOfFullAttention) {
  ScaleRequest request;
  request.ranks = 4;
  for (const auto& [kind, rows] : {std::pair{OracleKind::kernel, 2048}, std::pair{OracleKind::causal, 512}}) {
    const ScalePrediction window = predict_scale(plan_for(Mask::sliding_window(256), 65536, kind, rows, 8), request);
    const ScalePrediction full = predict_scale(plan_for(Mask::full(), 65536, kind, rows, 8), request);
    EXPECT_GT(window.bytes_moved, 0);
    EXPECT_LE(static_cast<double>(window.bytes_moved), 0.02 * static_cast<double>(full.bytes_moved));
  }
}

TEST(ScaleModel, ManySlotsAreCountedFromSomeOfThem) {
  for (const Mask& mask : {Mask::causal(), Mask::full(), Mask::sliding_window(300)})
    for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
      for (const Index ranks : {4, 32}) {
        SCOPED_TRACE(testing::Message() << name(mask.kind) << ", " << name(kind) << ", " << ranks << " ranks");
        PlanRequest plan = plan_for(mask, 8192, kind, 33, 2).request();
        plan.oracle.batch = 4;
        ScaleRequest request;
        request.ranks = ranks;
        request.piece = 256;
        const ScalePrediction exact = predict_scale(Plan(plan), request);
        ASSERT_TRUE(exact.exact_bytes);
        request.most_slots = Plan(plan).slots_per_layer() / 4;
        const ScalePrediction about = predict_scale(Plan(plan), request);
        EXPECT_FALSE(about.exact_bytes);
        const auto near = [](Index a, Index b, double share) {
          EXPECT_NEAR(static_cast<double>(a), static_cast<double>(b), share * static_cast<double>(b));
        };
        near(about.bytes_moved, exact.bytes_moved, 0.05);
        near(about.most_received, exact.most_received, 0.2);
        near(about.messages, exact.messages, 0.2);
      }
}

TEST(ScaleModel, AddsUpWhatARankComputesAndWaitsFor) {
  const Plan plan = plan_for(Mask::full(), 512, OracleKind::kernel, 128, 2);
  ScaleRequest request;
  request.ranks = 4;
  request.head_dim = request.value_dim = 16;
  request.piece = 64;
  request.machine = {1e9, 1e-6, 1e9, 0};
  const std::vector<twoheads::RankScale> ranks = predict_ranks(plan, request);
  for (const twoheads::RankScale& rank : ranks) {
    EXPECT_EQ(rank.rows, 128);
    EXPECT_EQ(rank.bytes, 384 * 2 * 32 * 4);
    EXPECT_EQ(rank.messages, 2 * 2 * 6);  // keys and values of 2 heads, 3 shares in 2 pieces
    EXPECT_DOUBLE_EQ(rank.operations, 2.0 * 128 * 512 * 2 * 32);
    EXPECT_DOUBLE_EQ(rank.compute_seconds, rank.operations / 1e9);
    const double all = 384 * 2 * 32 * 4 / 1e9 + 24e-6;
    EXPECT_DOUBLE_EQ(rank.hidden_seconds + rank.exposed_seconds, all);
    EXPECT_DOUBLE_EQ(rank.exposed_seconds, all * 64 / 768);  // the first of 12 pieces
    // q, k, v and out of 128 rows and 2 heads, two pieces, and the lanes of a block.
    EXPECT_EQ(rank.rank_bytes, (4 * 128 * 2 * 16 + 2 * 64 * 32 + 128 * 88) * 4);
  }
  // On a slow network the rank waits for all that it has no work to hide behind.
  request.machine.bandwidth = 1e3;
  const ScalePrediction slow = predict_scale(plan, request);
  EXPECT_GT(slow.exposed_seconds, 0.9 * 384 * 2 * 32 * 4 / 1e3);
  EXPECT_DOUBLE_EQ(slow.seconds, slow.compute_seconds + slow.exposed_seconds);
  // Ranks that keep step ask the same owner: two pieces lie in one share. Of a window neighbours alone ask.
  EXPECT_DOUBLE_EQ(slow.contended_seconds, 4 * 384 * 2 * 32 * 4 / 1e3);
  const ScalePrediction window =
      predict_scale(plan_for(Mask::sliding_window(20), 512, OracleKind::kernel, 128, 2), request);
  EXPECT_DOUBLE_EQ(window.contended_seconds, window.seconds);
}

TEST(ScaleModel, CallsTakeTheSecondsThatTheyAreSaidToTake) {
  PlanRequest plan = plan_for(Mask::full(), 320, OracleKind::plain, 33, 2).request();
  plan.layers = 3;
  ScaleRequest request;
  request.ranks = 5;
  request.machine.call_seconds = 0.5;
  const ScalePrediction found = predict_scale(Plan(plan), request);
  EXPECT_DOUBLE_EQ(found.compute_seconds, 3 * 0.5 * 2 * 2 * 10);  // 2 blocks of queries meet 10 of keys in 2 heads
  Index calls = 0;
  for (const twoheads::RankScale& rank : predict_ranks(Plan(plan), request)) calls += rank.calls;
  EXPECT_EQ(calls * 3, Plan(plan).calls());
  // Without seconds a call takes its operations: of one call for all, 20 rows in each of 2 heads.
  const twoheads::RankScale straight = predict_ranks(plan_for(Mask::full(), 20, OracleKind::plain, 33, 2), {}).front();
  EXPECT_DOUBLE_EQ(straight.operations, 2.0 * 2 * 20 * 20 * 128);
}

TEST(ScaleModel, RefusesWhatMakesNoSense) {
  const Plan plan = plan_for(Mask::causal(), 100, OracleKind::kernel, 32, 4);
  const auto refused = [&](const auto& change) {
    ScaleRequest request;
    change(request);
    EXPECT_THROW(static_cast<void>(predict_scale(plan, request)), SpecError);
  };
  refused([](ScaleRequest& r) { r.ranks = 0; });
  refused([](ScaleRequest& r) { r.kv_heads = 3; });
  refused([](ScaleRequest& r) { r.head_dim = 0; });
  refused([](ScaleRequest& r) { r.piece = 0; });
  refused([](ScaleRequest& r) { r.machine.bandwidth = 0; });
  refused([](ScaleRequest& r) { r.machine.flops = -1; });
  refused([](ScaleRequest& r) { r.machine.latency = -1; });
  PlanRequest sampled = plan_for(Mask::full(), 100, OracleKind::plain, 11).request();
  sampled.sampling.samples = 2;
  EXPECT_THROW(static_cast<void>(predict_scale(Plan(sampled), {})), SpecError);
}

// --- what others would move ------------------------------------------------------------------------------------------

TEST(OtherSplits, MoveWhatTheirFormulasSay) {
  twoheads::SplitCase problem{96, 96, 8, 4, 3, 5, 2};
  const auto ring = ring_cost(problem, 4);
  ASSERT_TRUE(ring);
  EXPECT_EQ(ring->bytes_moved, 3 * 96 * 4 * 8 * 2);
  EXPECT_EQ(ring->most_received, 72 * 4 * 8 * 2);
  EXPECT_EQ(ring->rank_bytes, 24 * 8 * 8 * 2 + 2 * 24 * 4 * 8 * 2);
  const auto ulysses = ulysses_cost(problem, 4);
  ASSERT_TRUE(ulysses);
  // (P - 1) / P of a rank's rows of q, k, v and out.
  EXPECT_EQ(ulysses->most_received, 24 * (8 + 4) * 8 * 2 * 3 / 4);
  EXPECT_EQ(ulysses->bytes_moved, 4 * ulysses->most_received);
  EXPECT_EQ(ulysses->rank_bytes, 2 * 24 * (8 + 4) * 8 * 2);
  EXPECT_FALSE(ulysses_cost(problem, 5));
  EXPECT_TRUE(ring_cost(problem, 96));
  EXPECT_FALSE(ring_cost(problem, 97));
  EXPECT_EQ(ring_cost(problem, 1)->bytes_moved, 0);
  EXPECT_EQ(ulysses_cost(problem, 1)->bytes_moved, 0);
  EXPECT_THROW(static_cast<void>(ring_cost(problem, 0)), SpecError);
  EXPECT_THROW(static_cast<void>(ulysses_cost(problem, 0)), SpecError);
}

TEST(OtherSplits, RefuseCountsBelowOneAndBytesThatNoIntegerHolds) {
  using twoheads::SplitCase;
  const SplitCase sound{.tokens = 96, .keys = 96, .heads = 8, .kv_heads = 4, .head_dim = 64, .value_dim = 64};
  using Field = Index SplitCase::*;
  for (const Field field : {&SplitCase::tokens, &SplitCase::keys, &SplitCase::heads, &SplitCase::kv_heads,
                            &SplitCase::head_dim, &SplitCase::value_dim, &SplitCase::scalar_bytes})
    for (const Index value : {Index{0}, Index{-5}, Index{1} << 61, std::numeric_limits<Index>::max()}) {
      SplitCase problem = sound;
      problem.*field = value;
      // Columns, bytes and tokens of 2^61 are too many bytes; so are as many heads.
      EXPECT_THROW(static_cast<void>(ring_cost(problem, 4)), SpecError) << value;
      EXPECT_THROW(static_cast<void>(ulysses_cost(problem, 4)), SpecError) << value;
    }
}

TEST(ScaleModel, RefusesBytesThatNoIntegerHolds) {
  PlanRequest request;
  for (const OracleKind kind : {OracleKind::plain, OracleKind::kernel}) {
    request.oracle.kind = kind;
    request.tokens = Index{1} << 45;
    request.oracle.rows = (Index{1} << 44) + 1;
    ScaleRequest scale;
    scale.ranks = 4;
    scale.head_dim = scale.value_dim = ScaleRequest::most_columns;
    scale.kv_heads = 1;
    scale.piece = scale.work_bytes = scale.threads = std::numeric_limits<Index>::max();
    EXPECT_THROW(static_cast<void>(predict_scale(Plan(request), scale)), SpecError);
    request.tokens = 96;
    request.oracle.rows = 17;
    scale.ranks = std::numeric_limits<Index>::max();
    EXPECT_THROW(static_cast<void>(predict_scale(Plan(request), scale)), SpecError);
    scale.ranks = 4;
    EXPECT_GT(predict_scale(Plan(request), scale).seconds, 0);
  }
}

}  // namespace
