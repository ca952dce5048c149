#include <gtest/gtest.h>

#include <chrono>
#include <limits>
#include <optional>
#include <string>
#include <thread>
#include <twoheads/base/digest.hpp>
#include <twoheads/exec/kernel_attention.hpp>
#include <twoheads/exec/threads.hpp>
#include <twoheads/mpi/kernel_on_ranks.hpp>
#include <twoheads/plan/scaling.hpp>
#include <utility>
#include <vector>

#include "support/all_ranks.hpp"
#include "support/instances.hpp"
#include "support/message_of.hpp"
#include "support/own_rows.hpp"
#include "support/rank_kernel.hpp"

namespace {

using namespace twoheads;
using namespace rank_kernel;

/// Bytes that ranks moved are those that plan/scaling.hpp foretells.
void expect_predicted_bytes(const Case& c, const AttentionSpec& spec, Index scalar_bytes,
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
  const Plan plan(kernel_request(options_of(c), spec, Layer<float>::layer, {0, c.queries}, c.keys));
  EXPECT_EQ(static_cast<Index>(bytes), predict_scale(plan, request).bytes_moved);
}

template <class Scalar, class Exec>
void expect_bits_of_one_rank(const Case& c, const Exec& exec, const RankOptions& rank_options,
                             Ranks& ranks = all_ranks()) {
  SCOPED_TRACE(c.name);
  const Layer<Scalar> all(c);
  KernelOnRanks<Scalar, Exec> attend(ranks, options_of(c), exec, rank_options);
  Own<Scalar> own = own_of(all, attend);
  attend(own.input(), span(own.out));
  const std::uint64_t moved = ranks.sum(attend.counts().moved.bytes);
  if (c.queries > 1 && c.sampling.samples == 0 && !c.plan_for)
    expect_predicted_bytes(c, all.spec, sizeof(Scalar), rank_options, exec.threads(), moved, ranks.size());
  expect_bits(own.out, own_rows(all.serial(options_of(c)), own.queries, ranks.rank()));
}

TEST(KernelOnRanks, HasTheBitsOfOneRankForEveryMaskInFloat) {
  for (const Case& c : masks()) expect_bits_of_one_rank<float>(c, Serial(), {});
}

TEST(KernelOnRanks, HasTheBitsOfOneRankForEveryMaskInDoubleOnThreadsAndInSmallPieces) {
  for (const Case& c : masks()) expect_bits_of_one_rank<double>(c, Threads(3), {.piece_keys = 100, .work_bytes = 1});
}

TEST(KernelOnRanks, HasTheBitsOfOneRankInVisitsOfManyBlocks) {
  for (const Case& c : masks()) expect_bits_of_one_rank<float>(c, Serial(), {.piece_keys = 300, .work_bytes = 1 << 28});
}

TEST(KernelOnRanks, HasTheBitsOfOneRankForSamplesPlansOfOraclesAndTermsOfScores) {
  for (const Case& c : more()) {
    expect_bits_of_one_rank<float>(c, Serial(), {.piece_keys = 300});
    expect_bits_of_one_rank<double>(c, Threads(3), {.piece_keys = 100, .work_bytes = 1});
  }
}

/// A row of a matrix with such a number, which is one rank's.
template <class Scalar, class Exec>
void expect_bits_with(Matrix<Scalar> Layer<Scalar>::*rows, Scalar number, const Mask& mask, const Exec& exec) {
  Ranks& ranks = all_ranks();
  Layer<Scalar> all({"", mask, 700, 700, 4, 2, 256});
  (all.*rows)(401, 0) = number;
  (all.*rows)(402, (all.*rows).cols() - 1) = number;
  KernelOnRanks<Scalar, Exec> attend(ranks, {.rows = 256}, exec);
  Own<Scalar> own = own_of(all, attend);
  attend(own.input(), span(own.out));
  const Matrix<Scalar> expected = all.serial({.rows = 256});
  ASSERT_FALSE(expected.allFinite());
  // Queries before are shown none of it.
  if (mask.kind == MaskKind::causal) {
    ASSERT_TRUE(expected.topRows(401).allFinite());
  }
  expect_bits(own.out, own_rows(expected, own.queries, ranks.rank()));
}

template <class Scalar, class Exec>
void expect_bits_with_such_numbers(const Mask& mask, const Exec& exec) {
  using Limits = std::numeric_limits<Scalar>;
  for (const Scalar number : {Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity()})
    for (const auto rows : {&Layer<Scalar>::q, &Layer<Scalar>::k, &Layer<Scalar>::v}) {
      SCOPED_TRACE(detail::text(name(mask.kind), ", ", number));
      expect_bits_with<Scalar>(rows, number, mask, exec);
    }
}

TEST(KernelOnRanks, NaNAndInfinityOfOneRankComeOutAsOnOneRank) {
  expect_bits_with_such_numbers<float>(Mask::causal(), Serial());
  expect_bits_with_such_numbers<double>(Mask::full(), Threads(3));
}

/// Evaluates the rank's atoms number 1, 3, 5 ... and counts the rows that it is told of.
template <class Scalar, class Exec>
void expect_wanted_rows_alone(const Case& c, const Exec& exec, const RankOptions& rank_options) {
  SCOPED_TRACE(c.name);
  Ranks& ranks = all_ranks();
  const Layer<Scalar> all(c);
  KernelOnRanks<Scalar, Exec> attend(ranks, options_of(c), exec, rank_options);
  Own<Scalar> own = own_of(all, attend);
  const Matrix<Scalar> whole = own_rows(all.serial(options_of(c)), own.queries, ranks.rank());
  const std::vector<Index> atoms =
      atoms_of(Plan(kernel_request(options_of(c), all.spec, all.layer, {0, c.queries}, c.keys)));
  RankWork work;
  Matrix<Scalar> wanted = own.out;
  std::vector<int> told(static_cast<std::size_t>(own.out.rows()), 0);
  std::vector<int> once = told;
  for (std::size_t atom = 1; atom < atoms.size(); atom += 2)
    own.queries.for_each_share({atoms[atom - 1], atoms[atom]}, [&](const RowShare& share) {
      if (share.rank != ranks.rank()) return;
      work.wanted.push_back(share);
      wanted.middleRows(share.place, share.rows.size()) = whole.middleRows(share.place, share.rows.size());
      for (Index row = 0; row < share.rows.size(); ++row) once[static_cast<std::size_t>(share.place + row)] = 1;
    });
  work.finished = [&](const RowShare& share) {
    EXPECT_EQ(share.rank, ranks.rank());
    own.queries.for_each_share(share.rows, [&](const RowShare& known) {
      EXPECT_EQ(known.rank, share.rank);
      EXPECT_EQ(known.place, share.place + known.rows.begin - share.rows.begin);
    });
    ASSERT_LE(share.place + share.rows.size(), own.out.rows());
    for (Index row = 0; row < share.rows.size(); ++row) ++told[static_cast<std::size_t>(share.place + row)];
    EXPECT_EQ(digest(Matrix<Scalar>(own.out.middleRows(share.place, share.rows.size()))),
              digest(Matrix<Scalar>(whole.middleRows(share.place, share.rows.size()))));
  };
  attend(own.input(), span(own.out), work);
  EXPECT_EQ(told, once);
  expect_bits(own.out, wanted);
}

TEST(KernelOnRanks, EvaluatesTheRowsThatAreWantedAndTellsOnceWhenTheyAreFinished) {
  const std::vector<std::pair<Index, Index>> pairs = {{0, 3}, {1, 1}, {7, 20}, {20, 0}};
  const Index n = 1501;
  for (const Case& c : {Case{"causal", Mask::causal(), n, n, 4, 2}, Case{"window", Mask::sliding_window(100), n, n},
                        Case{"full, small blocks", Mask::full(), n, n, 2, 2, 100},
                        Case{"blocks", Mask::block_pairs(n, n, 64, pairs), n, n, 2, 1, 300},
                        Case{"samples", Mask::causal(), n, n, 4, 2, 384, {1, 0, 0, 5, false}},
                        Case{"plan for an oracle", Mask::causal(), n, n, 2, 1, 300, {}, OracleKind::causal},
                        Case{"cross", Mask::full(), n, 50}}) {
    expect_wanted_rows_alone<float>(c, Serial(), {.piece_keys = 300, .work_bytes = 1 << 28});
    expect_wanted_rows_alone<double>(c, Threads(3), {.piece_keys = 100, .work_bytes = 1});
  }
}

TEST(KernelOnRanks, TellsOfTheOnlyQueryOnce) {
  Ranks& ranks = all_ranks();
  const Layer<float> all({"", Mask::full(), 1, 301});
  KernelOnRanks<float> attend(ranks);
  Own<float> own = own_of(all, attend);
  RankWork work = RankWork::all(own.queries, ranks.rank());
  Index told = 0;
  work.finished = [&](const RowShare& share) {
    told += share.rows.size();
    EXPECT_EQ(digest(own.out), digest(all.serial({})));
  };
  attend(own.input(), span(own.out), work);
  EXPECT_EQ(told, own.queries.size(ranks.rank()));
  // Not wanted, it stays as it is.
  own.out.setConstant(7);
  work.wanted.clear();
  attend(own.input(), span(own.out), work);
  EXPECT_EQ(told, own.queries.size(ranks.rank()));
  EXPECT_EQ(own.out, Matrix<float>::Constant(own.out.rows(), own.out.cols(), 7.F));
}

/// The error of a call, which is the same on every rank and names one of them.
template <class ErrorType, class Action>
std::string error_of(Index failing, const Action& action) {
  Ranks& ranks = all_ranks();
  const std::string message = message_of<ErrorType>(action);
  EXPECT_TRUE(ranks.all_failed());
  ranks.require_same(message);
  if (ranks.size() == 1) return message;
  const std::string who = detail::text("rank ", failing, ": ");
  EXPECT_EQ(message.substr(0, who.size()), who);
  return message;
}

void expect_words(const std::string& message, const std::string& words) {
  EXPECT_NE(message.find(words), std::string::npos) << message;
}

const Case small{"", Mask::causal(), 1100, 1100, 4, 2};

TEST(KernelOnRanks, RefusesOnEveryRankWhatIsNotEvaluatedOnRanks) {
  Case c = small;
  c.mask = Mask::full();
  const Layer<float> all(c);
  const auto refusal = [&](const KernelOptions& options, const RankOptions& rank_options = {}) {
    KernelOnRanks<float> attend(all_ranks(), options, {}, rank_options);
    Own<float> own(all, share_evenly(1100, all_ranks().size()), share_evenly(1100, all_ranks().size()),
                   all_ranks().rank());
    return error_of<SpecError>(0, [&] { attend(own.input(), span(own.out)); });
  };
  for (const KeyStorage storage : {KeyStorage::bfloat16, KeyStorage::half})
    expect_words(refusal({.storage = storage}), "keys and values in 16 bits");
  expect_words(refusal({.log_weights = true}), "expected log_weights false");
  expect_words(refusal({.rows = 1}), "a kernel's block are 1");
  expect_words(refusal({.rows = 128, .sampling = {1, 0, 0, 5, true}}), "samples of single keys");
  expect_words(refusal({}, {.piece_keys = 0}), "a piece has 0 keys");
}

TEST(KernelOnRanks, RefusesTermsOfScoresAsOnOneRank) {
  const auto expect_refusal_of_one_rank = [](auto error, const Case& c, const auto& change) {
    using ErrorType = decltype(error);
    Layer<float> all(c);
    change(all);
    const std::string expected = message_of<ErrorType>([&] { static_cast<void>(all.serial(options_of(c))); });
    KernelOnRanks<float> attend(all_ranks(), options_of(c));
    Own<float> own = own_of(all, attend);
    expect_words(error_of<ErrorType>(0, [&] { attend(own.input(), span(own.out)); }), expected);
  };
  const Case full{"", Mask::full(), 300, 300, 4, 2, 0, {}, {}, 0, true};
  expect_refusal_of_one_rank(SpecError(""), full, [](Layer<float>&) {});
  Case sampled{"", Mask::full(), 300, 300, 4, 2, 64, {1, 0, 0, 5, false}};
  expect_refusal_of_one_rank(SpecError(""), sampled, [](Layer<float>& all) { all.spec.soft_cap = 2; });
  sampled.learned_sinks = true;
  expect_refusal_of_one_rank(SpecError(""), sampled, [](Layer<float>&) {});
  Case sinks = small;
  sinks.learned_sinks = true;
  expect_refusal_of_one_rank(InputError(""), sinks,
                             [](Layer<float>& all) { all.sinks(0, 1) = std::numeric_limits<float>::quiet_NaN(); });
  expect_refusal_of_one_rank(ShapeError(""), sinks, [](Layer<float>& all) { all.sinks.setZero(1, 3); });
}

TEST(KernelOnRanks, RowsOfOneRankThatDoNotFitAreEveryRanksError) {
  Ranks& ranks = all_ranks();
  const Layer<float> all(small);
  for (const Index failing : {Index{0}, ranks.size() - 1}) {
    KernelOnRanks<float> attend(ranks);
    const auto refusal = [&](auto error, const auto& spoil) {
      Own<float> own(all, share_evenly(1100, ranks.size()), share_evenly(1100, ranks.size()), ranks.rank());
      if (ranks.rank() == failing) spoil(own);
      return error_of<decltype(error)>(failing, [&] { attend(own.input(), span(own.out)); });
    };
    const auto resize = [](Matrix<float> Own<float>::*rows, Index more, Index wider) {
      return [=](Own<float>& own) { (own.*rows).setZero((own.*rows).rows() + more, (own.*rows).cols() + wider); };
    };
    expect_words(refusal(ShapeError(""), resize(&Own<float>::q, 1, 0)), "layer 3: q of the rank");
    expect_words(refusal(ShapeError(""), resize(&Own<float>::q, 0, -1)), "layer 3: q of the rank");
    expect_words(refusal(ShapeError(""), resize(&Own<float>::k, -1, 0)), "layer 3: k of the rank");
    expect_words(refusal(ShapeError(""), resize(&Own<float>::v, 0, 1)), "layer 3: v of the rank");
    expect_words(refusal(ShapeError(""), resize(&Own<float>::out, -1, 0)), "layer 3: the rank's output");
    Matrix<float> wide;
    const std::string gaps = error_of<ShapeError>(failing, [&] {
      Own<float> own(all, share_evenly(1100, ranks.size()), share_evenly(1100, ranks.size()), ranks.rank());
      wide.setZero(own.k.rows(), own.k.cols() + 1);
      RankInput<float> input = own.input();
      const bool here = ranks.rank() == failing;
      attend(RankInput<float>{input.spec, input.layer, input.query_shares, input.key_shares, input.q,
                              here ? block_view(view(wide), {0, wide.rows()}, 0, own.k.cols()) : input.k, input.v},
             span(own.out));
    });
    expect_words(gaps, "k of the rank has rows 13 numbers apart, expected 12");
  }
}

/// Shares of as many rows that are not those of share_evenly: the first rank has one more than there.
RowShares other_shares(Index rows, Index ranks) {
  const Index first = share_evenly(rows, ranks).size(0) + 1;
  const std::vector<Index> ends{first, rows};
  const std::vector<Index> owners{0, 1};
  return RowShares(ends, owners, ranks);
}

TEST(KernelOnRanks, RanksThatKnowOtherSharesRefuseEachOther) {
  Ranks& ranks = all_ranks();
  if (ranks.size() == 1) GTEST_SKIP() << "one rank agrees with itself";
  const Layer<float> all(small);
  KernelOnRanks<float> attend(ranks);
  for (const bool of_keys : {true, false}) {
    const RowShares even = share_evenly(1100, ranks.size());
    const RowShares other = ranks.rank() == 1 ? other_shares(1100, ranks.size()) : even;
    Own<float> own(all, of_keys ? even : other, of_keys ? other : even, ranks.rank());
    expect_words(message_of<SpecError>([&] { attend(own.input(), span(own.out)); }), "ranks run different things");
    EXPECT_TRUE(ranks.all_failed());
  }
}

/// One rank's fails at its first piece of work. Those of the others sleep, so that a fault comes long before their end.
class FaultyExecutor {
 public:
  static constexpr bool concurrent = false;
  FaultyExecutor(bool fails, int& begun) : fails_(fails), begun_(&begun) {}
  [[nodiscard]] Index threads() const { return 1; }
  template <class MakeLocal, class Body>
  void for_each(Index count, const MakeLocal& make_local, const Body& body) const {
    Serial().for_each(count, make_local, [&](auto& local, Index piece) {
      ++*begun_;
      if (fails_) throw OracleError("the rank has burnt out");
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      body(local, piece);
    });
  }
  template <class... Parts>
  void in_order(const Parts&... parts) const {
    Serial().in_order(parts...);
  }

 private:
  bool fails_;
  int* begun_;
};

/// Runs an action on a thread of its own.
template <class Action>
void on_another_thread(const Action& action) {
  std::thread(action).join();
}

TEST(KernelOnRanks, ObjectsMayBeMadeOnAnotherThreadThanTheirs) {
  const Layer<double> all(small);
  const Matrix<double> expected = all.serial({});
  std::optional<Ranks> ranks;
  std::optional<KernelOnRanks<double, Threads>> attend;
  on_another_thread([&] {
    ranks.emplace();
    attend.emplace(*ranks, KernelOptions{}, Threads(2));
  });
  const auto run = [&] {
    Own<double> own = own_of(all, *attend);
    (*attend)(own.input(), span(own.out));
    expect_bits(own.out, own_rows(expected, own.queries, ranks->rank()));
  };
  run();
  on_another_thread(run);
}

/// A fault reaches ranks that work, also those whose object was made on another thread, and new ranks find the rows.
TEST(KernelOnRanks, AFaultReachesRanksInTheMiddleOfTheirWorkAndTheRunAfterItIsRight) {
  if (all_ranks().size() == 1) GTEST_SKIP() << "one rank waits for nobody";
  std::optional<Ranks> made(std::in_place);
  Ranks& ranks = *made;
  const Layer<float> all({"", Mask::causal(), 9000, 9000, 8, 2, 128});
  const Index failing = ranks.size() - 1;
  using Attend = KernelOnRanks<float, FaultyExecutor>;
  for (const bool elsewhere : {false, true}) {
    int begun = 0;
    std::optional<Attend> attend;
    const auto make = [&] {
      attend.emplace(ranks, KernelOptions{.rows = 128}, FaultyExecutor(ranks.rank() == failing, begun),
                     RankOptions{.piece_keys = 9000, .work_bytes = 1});
    };
    if (elsewhere)
      on_another_thread(make);
    else
      make();
    Own<float> own = own_of(all, *attend);
    EXPECT_EQ(message_of<OracleError>([&] { (*attend)(own.input(), span(own.out)); }),
              detail::text("rank ", failing, ": the rank has burnt out"));
    EXPECT_TRUE(ranks.all_failed());
    // A rank's work has a piece of each kind for its atoms and heads:
    // begin, add (one for each stretch of keys), finish.
    const Index whole = own.queries.size(ranks.rank()) / 128 * 8 * 3;
    EXPECT_LT(begun, whole) << "rank " << ranks.rank();
  }
  expect_bits_of_one_rank<float>(small, Serial(), {}, ranks);
  made.reset();
  made.emplace();
  expect_bits_of_one_rank<float>(small, Serial(), {}, *made);
}

}  // namespace
