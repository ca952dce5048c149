// Oracle calls on ranks: the bits and the calls of one rank, and the same faults on every rank.

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <twoheads/base/digest.hpp>
#include <twoheads/exec/threads.hpp>
#include <twoheads/model/random.hpp>
#include <twoheads/mpi/forward_on_ranks.hpp>
#include <twoheads/mpi/grid_on_ranks.hpp>
#include <twoheads/oracle/any_oracle.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <utility>
#include <vector>

#include "support/all_ranks.hpp"
#include "support/instances.hpp"
#include "support/message_of.hpp"
#include "support/own_rows.hpp"
#include "support/rank_grid.hpp"
#include "support/seed.hpp"

namespace {

using namespace twoheads;
using namespace rank_grid;

template <class Scalar, class Exec = Serial>
void expect_as_on_one_rank(const Case& c, const Exec& exec = Exec(), Index piece_keys = 4096) {
  SCOPED_TRACE(c.name);
  Ranks& ranks = all_ranks();
  const Layer<Scalar> all(c);
  AnyOracle<Scalar> oracle = oracle_of<Scalar>(c);
  GridAttention<AnyOracle<Scalar>> serial(oracle, options_of(c));
  Matrix<Scalar> expected(c.queries, all.spec.heads * all.spec.value_dim);
  const AttentionWeights<Scalar> none;
  serial({all.spec,
          1,
          view(all.q),
          view(all.k),
          view(all.v),
          no_rows<Scalar>(),
          no_rows<Scalar>(),
          none,
          {},
          false,
          view(all.sinks)},
         span(expected));

  RankOptions rank_options;
  rank_options.piece_keys = piece_keys;
  GridOnRanks<AnyOracle<Scalar>, Exec> attend(ranks, oracle, options_of(c), rank_options, exec);
  const RowShares queries = attend.share(all.spec, c.queries, c.keys);
  const Matrix<Scalar> out = run(all, attend, queries, 1);
  const Matrix<Scalar> wanted = own_rows(expected, queries, ranks.rank());
  EXPECT_EQ(digest(out), digest(wanted)) << "rank " << ranks.rank() << ", largest difference "
                                         << (out - wanted).cwiseAbs().maxCoeff();
  EXPECT_EQ(attend.totals().calls, serial.counts().calls);
  EXPECT_EQ(attend.totals().repeats, serial.counts().repeats);
  EXPECT_EQ(attend.totals().rounds, serial.counts().rounds);
  EXPECT_EQ(attend.totals().jobs, serial.counts().jobs);
  if (c.name.find("repeats") == 0) {
    EXPECT_GT(attend.totals().repeats, 0);
  }
}

TEST(GridOnRanks, HasTheBitsAndCallsOfOneRankForEveryMaskInFloat) {
  for (const Case& c : masks()) expect_as_on_one_rank<float>(c);
}

TEST(GridOnRanks, HasTheBitsAndCallsOfOneRankForEveryMaskInDouble) {
  for (const Case& c : masks()) expect_as_on_one_rank<double>(c);
}

TEST(GridOnRanks, HasTheBitsAndCallsOfOneRankHoweverCallsAreMade) {
  for (const Case& c : calls()) expect_as_on_one_rank<float>(c);
  for (const Case& c : calls()) expect_as_on_one_rank<double>(c, Serial(), 40);
}

TEST(GridOnRanks, HasTheBitsAndCallsOfOneRankOnThreadsInsideRanks) {
  const Threads threads(3);
  for (const Case& c : masks()) expect_as_on_one_rank<float>(c, threads);
  for (const Case& c : calls()) expect_as_on_one_rank<float>(c, threads);
}

/// Two layers of few columns in attention, so that they are evaluated in parts where queries see few keys.
ModelSpec model_spec(const Mask& mask) {
  ModelSpec spec;
  spec.layers = 2;
  spec.width = 1024;
  spec.attention.heads = 2;
  spec.attention.head_dim = spec.attention.value_dim = 4;
  spec.attention.score_scale = 0.5;
  spec.attention.mask = mask;
  spec.norm = NormKind::rms;
  return spec;
}

TEST(GridOnRanks, ModelsHaveTheBitsAndCallsOfOneRank) {
  Ranks& ranks = all_ranks();
  for (const Mask& mask : {Mask::causal(), Mask::window_and_sinks(6, 3)}) {
    const Index tokens = mask.kind == MaskKind::causal ? 149 : 1101;
    Case c;
    c.kind = OracleKind::causal;
    c.rows = 33;
    c.oracle_heads = 3;
    AnyOracle<float> oracle = oracle_of<float>(c);
    const Model<float> model = random_model<float>(model_spec(mask), seed_or(3));
    const Matrix<float> x = Random(seed_or(4)).matrix<float>(tokens, model.spec.width);
    const Simulation<float> expected = simulate(model, x, oracle);
    GridOnRanks<AnyOracle<float>> attend(ranks, oracle);
    const RowShares shares = attend.share(model.spec.attention_of(0), tokens, tokens);
    const Matrix<float> found = forward_on_ranks(model, own_rows(x, shares, ranks.rank()), shares, attend);
    EXPECT_EQ(digest(found), digest(own_rows(expected.rows, shares, ranks.rank())));
    EXPECT_EQ(attend.totals().calls, expected.counts.calls);
    EXPECT_EQ(attend.totals().repeats, expected.counts.repeats);
    EXPECT_EQ(attend.totals().rounds, expected.counts.rounds);
    EXPECT_EQ(attend.totals().jobs, expected.counts.jobs);
    EXPECT_EQ(ranks.sum(static_cast<std::uint64_t>(attend.counts().calls)),
              static_cast<std::uint64_t>(expected.counts.calls));
    if (ranks.size() == 1) {
      EXPECT_EQ(attend.counts().moved.bytes, 0U);
    }
  }
}

TEST(GridOnRanks, RanksOfDifferentOraclesRefuseEachOther) {
  Ranks& ranks = all_ranks();
  if (ranks.size() == 1) GTEST_SKIP() << "one rank has one oracle";
  Case c;
  c.rows = ranks.rank() == 1 ? 16 : 17;
  AnyOracle<float> oracle = oracle_of<float>(c);
  GridOnRanks<AnyOracle<float>> attend(ranks, oracle);
  const Model<float> model = random_model<float>(model_spec(Mask::full()), seed_or(3));
  const RowShares shares = share_evenly(100, ranks.size());
  const Matrix<float> x = Matrix<float>::Zero(shares.size(ranks.rank()), model.spec.width);
  const std::string message =
      message_of<SpecError>([&] { static_cast<void>(forward_on_ranks(model, x, shares, attend)); });
  EXPECT_NE(message.find("oracle of 17 rows"), std::string::npos) << message;
  EXPECT_NE(message.find("oracle of 16 rows"), std::string::npos) << message;
}

/// Evaluates the rank's parts number 1, 3, 5 ... of the least that can be wanted, and compares what it is told.
template <class Exec>
void expect_wanted_rows_alone(Case c, const Exec& exec) {
  SCOPED_TRACE(c.name);
  Ranks& ranks = all_ranks();
  const Layer<float> all(c);
  AnyOracle<float> oracle = oracle_of<float>(c);
  GridOnRanks<AnyOracle<float>, Exec> attend(ranks, oracle, options_of(c), {}, exec);
  const RowShares queries = attend.share(all.spec, c.queries, c.keys);
  const Matrix<float> whole = run(all, attend, queries);
  const std::vector<Index> atoms = atoms_of(Plan({c.mask, c.queries, c.keys, c.heads, 1, limits_of(c)}));
  RankWork work;
  Matrix<float> wanted = Matrix<float>::Constant(whole.rows(), whole.cols(), 7.F);
  for (std::size_t atom = 1; atom < atoms.size(); atom += 2)
    queries.for_each_share({atoms[atom - 1], atoms[atom]}, [&](const RowShare& share) {
      if (share.rank != ranks.rank()) return;
      work.wanted.push_back(share);
      wanted.middleRows(share.place, share.rows.size()) = whole.middleRows(share.place, share.rows.size());
    });
  std::vector<RowShare> finished;
  Matrix<float> out = Matrix<float>::Constant(whole.rows(), whole.cols(), 7.F);
  work.finished = [&](const RowShare& share) {
    finished.push_back(share);
    EXPECT_EQ(digest(Matrix<float>(out.middleRows(share.place, share.rows.size()))),
              digest(Matrix<float>(whole.middleRows(share.place, share.rows.size()))));
  };
  const Matrix<float> q = own_rows(all.q, queries, ranks.rank());
  const Matrix<float> k =
      rows_by_head(view(own_rows(all.k, queries, ranks.rank())), all.spec.kv_heads, all.spec.head_dim);
  const Matrix<float> v =
      rows_by_head(view(own_rows(all.v, queries, ranks.rank())), all.spec.kv_heads, all.spec.value_dim);
  attend(RankInput<float>{all.spec, 0, queries, queries, view(q), view(k), view(v)}, span(out), work);
  EXPECT_EQ(digest(out), digest(wanted));
  ASSERT_EQ(finished.size(), work.wanted.size());
  for (std::size_t i = 0; i < finished.size(); ++i) {
    EXPECT_EQ(finished[i].rows, work.wanted[i].rows);
    EXPECT_EQ(finished[i].place, work.wanted[i].place);
  }
}

TEST(GridOnRanks, EvaluatesTheRowsThatAreWantedAndTellsWhenTheyAreFinished) {
  const std::vector<std::pair<Index, Index>> pairs = {{0, 3}, {1, 1}, {2, 7}, {5, 8}, {7, 4}, {8, 0}};
  for (Case c : {Case{"one slot a call", Mask::causal()}, Case{"blocks", Mask::block_pairs(149, 149, 16, pairs)},
                 Case{"calls of several blocks", Mask::causal(), OracleKind::plain, 9, 149, 149, 1}}) {
    if (c.name == "calls of several blocks") c.oracle_heads = 5;
    expect_wanted_rows_alone(c, Serial());
    expect_wanted_rows_alone(c, Threads(2));
  }
}

/// The error of a layer, which is the same on every rank.
template <class ErrorType, class Scalar, class Attend>
std::string error_of(const Layer<Scalar>& all, Attend& attend, const RowShares& queries) {
  std::string message = message_of<ErrorType>([&] { static_cast<void>(run(all, attend, queries, 3)); });
  EXPECT_TRUE(attend.ranks().all_failed());
  attend.ranks().require_same(message);
  return message;
}

/// The words of an error without the rank that stands before them.
std::string without_rank(const std::string& message) {
  return message.find("rank ") == 0 ? message.substr(message.find(": ") + 2) : message;
}

const Case plain_case{"", Mask::causal(), OracleKind::plain, 9, 149, 149, 4, 2};

/// Fails at a call of one rank; the calls of the others take long, so that a fault comes long before their end.
struct FailingOracle {
  using Scalar = float;
  bool fails = false;
  Index calls_left = 0;
  std::shared_ptr<std::atomic<Index>> calls = std::make_shared<std::atomic<Index>>(0);  ///< of all copies
  SmallTransformer<float> inner{limits_of(plain_case)};

  [[nodiscard]] OracleLimits limits() const { return inner.limits(); }
  [[nodiscard]] Matrix<float> run(const OracleCall<float>& call) {
    ++*calls;
    if (fails && --calls_left == 0) throw OracleError("the oracle has left");
    if (!fails && all_ranks().size() > 1) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return inner.run(call);
  }
};

template <class Exec>
void expect_the_error_everywhere(const Exec& exec) {
  Ranks& ranks = all_ranks();
  const Layer<float> all(plain_case);
  AnyOracle<float> good = oracle_of<float>(plain_case);
  GridOnRanks<AnyOracle<float>, Exec> whole(ranks, good, options_of(plain_case), {}, exec);
  const RowShares queries = whole.share(all.spec, plain_case.queries, plain_case.keys);
  static_cast<void>(run(all, whole, queries, 3));
  const Index failing = ranks.size() > 1 ? 1 : 0;
  for (const Index call : {1, 17}) {
    FailingOracle oracle{ranks.rank() == failing, call};
    GridOnRanks<FailingOracle, Exec> attend(ranks, oracle, options_of(plain_case), {}, exec);
    EXPECT_EQ(without_rank(error_of<OracleError>(all, attend, queries)), "the oracle has left");
    EXPECT_LT(oracle.calls->load(), whole.counts().calls) << "rank " << ranks.rank();
    // The ranks can go on together.
    EXPECT_EQ(attend.totals().calls, 0);
    EXPECT_EQ(ranks.sum(1), static_cast<std::uint64_t>(ranks.size()));
  }
}

TEST(GridOnRanks, AnOracleThatFailsOnOneRankFailsAll) {
  expect_the_error_everywhere(Serial());
  expect_the_error_everywhere(Threads(2));
}

TEST(GridOnRanks, NumbersThatAreNoneAreTheSameErrorAsOnOneRank) {
  constexpr auto nan = std::numeric_limits<float>::quiet_NaN();
  Ranks& ranks = all_ranks();
  AnyOracle<float> oracle = oracle_of<float>(plain_case);
  for (Matrix<float> Layer<float>::*rows : {&Layer<float>::q, &Layer<float>::k, &Layer<float>::v}) {
    Layer<float> all(plain_case);
    (all.*rows)(101, (all.*rows).cols() - 1) = nan;
    (all.*rows)(140, (all.*rows).cols() - 1) = nan;
    GridAttention<AnyOracle<float>> serial(oracle, options_of(plain_case));
    Matrix<float> out(149, all.spec.heads * all.spec.value_dim);
    AttentionInput<float> input = projected_input(all.spec, view(all.q), view(all.k), view(all.v));
    input.layer = 3;
    const std::string expected = message_of<InputError>([&] { serial(input, span(out)); });
    GridOnRanks<AnyOracle<float>> attend(ranks, oracle, options_of(plain_case));
    EXPECT_EQ(without_rank(error_of<InputError>(all, attend, attend.share(all.spec, 149, 149))), expected);
  }
}

/// What is refused, with the words of the refusal.
std::string refusal(const Case& c, const SimulationOptions& options, const RankOptions& rank_options = {}) {
  Ranks& ranks = all_ranks();
  AnyOracle<float> oracle = oracle_of<float>(c);
  GridOnRanks<AnyOracle<float>> attend(ranks, oracle, options, rank_options);
  return error_of<SpecError>(Layer<float>(c), attend, share_evenly(c.queries, ranks.size()));
}

TEST(GridOnRanks, RefusesWhatIsNotEvaluatedOnRanks) {
  const auto expect_refused = [](const std::string& message, const char* words) {
    EXPECT_NE(message.find(words), std::string::npos) << message;
  };
  SimulationOptions options = options_of(plain_case);
  options.encoding = TokenEncoding::raw;
  expect_refused(refusal(plain_case, options), "expected projected tokens");
  options = options_of(plain_case);
  options.error_bar_level = 0.9;
  expect_refused(refusal(plain_case, options), "expected error_bar_level 0");
  RankOptions rank_options;
  rank_options.piece_keys = 0;
  expect_refused(refusal(plain_case, options_of(plain_case), rank_options), "a piece has 0 keys");
  Case sampled = plain_case;
  sampled.mask = Mask::full();
  sampled.sampling = {2, 0, 0, 5, true};
  expect_refused(refusal(sampled, options_of(sampled)), "samples of single keys");
}

TEST(GridOnRanks, RefusesSharesThatCutACall) {
  Ranks& ranks = all_ranks();
  if (ranks.size() == 1) GTEST_SKIP() << "one rank cuts nothing";
  Case c = plain_case;
  c.heads = c.kv_heads = 1;
  c.oracle_heads = 5;
  AnyOracle<float> oracle = oracle_of<float>(c);
  GridOnRanks<AnyOracle<float>> attend(ranks, oracle, options_of(c));
  const Layer<float> all(c);
  const Plan plan({c.mask, c.queries, c.keys, c.heads, 1, limits_of(c)});
  const std::vector<Index> atoms = atoms_of(plan);
  // One row too few; and the end of a query block whose last call has room for another.
  const Index block = plan.queries_of(0).end;
  ASSERT_GT(atoms.front(), block);
  const std::vector<Index> owners{0, 1};
  for (const Index end : {atoms.front() - 1, block}) {
    const std::vector<Index> ends{end, c.queries};
    const std::string message = error_of<SpecError>(all, attend, RowShares(ends, owners, ranks.size()));
    EXPECT_NE(message.find(detail::text("layer 3: rows up to ", end, " ")), std::string::npos) << message;
    EXPECT_NE(message.find("cut a call of the causal mask"), std::string::npos) << message;
  }
  const std::vector<Index> ends{atoms.front(), c.queries};
  EXPECT_NO_THROW(static_cast<void>(run(all, attend, RowShares(ends, owners, ranks.size()))));
}

}  // namespace
