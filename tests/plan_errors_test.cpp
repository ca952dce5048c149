#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <span>
#include <sstream>
#include <string>
#include <twoheads/plan/plan.hpp>
#include <twoheads/plan/print.hpp>
#include <vector>

namespace {

using namespace twoheads;

constexpr Index most = std::numeric_limits<Index>::max();

PlanRequest request_of(MaskKind mask, OracleKind oracle, Index tokens, Index rows) {
  PlanRequest request;
  request.mask.kind = mask;
  request.tokens = tokens;
  request.oracle.kind = oracle;
  request.oracle.rows = rows;
  return request;
}

/// A request that can be planned, to be spoilt one field at a time.
PlanRequest sound() { return request_of(MaskKind::full, OracleKind::plain, 100, 17); }

template <class ErrorType, class Spoil>
std::string message_of(const Spoil& spoil) {
  PlanRequest request = sound();
  spoil(request);
  try {
    static_cast<void>(Plan(request));
  } catch (const ErrorType& error) {
    return error.what();
  }
  return "no error";
}

template <class Spoil>
std::string spec_error(const Spoil& spoil) {
  return message_of<SpecError>(spoil);
}
template <class Spoil>
std::string limit_error(const Spoil& spoil) {
  return message_of<LimitError>(spoil);
}

TEST(PlanErrors, ARequestWithoutFaultHasNone) {
  EXPECT_EQ(message_of<Error>([](PlanRequest&) {}), "no error");
}

TEST(PlanErrors, CountsBelowOneSayWhatWasFoundAndExpected) {
  EXPECT_EQ(spec_error([](auto& r) { r.tokens = 0; }), "the number of tokens is 0, expected 1 or more");
  EXPECT_EQ(spec_error([](auto& r) { r.tokens = -5; }), "the number of tokens is -5, expected 1 or more");
  EXPECT_EQ(spec_error([](auto& r) { r.keys = -1; }), "the number of keys is -1, expected 1 or more");
  EXPECT_EQ(spec_error([](auto& r) { r.heads = 0; }), "heads is 0, expected 1 or more");
  EXPECT_EQ(spec_error([](auto& r) { r.layers = 0; }), "layers is 0, expected 1 or more");
}

TEST(PlanErrors, LimitsThatNoPlanCanWorkWithSayWhatWasFoundAndExpected) {
  EXPECT_EQ(limit_error([](auto& r) { r.oracle.rows = 1; }), "an oracle's rows is 1, expected 2 or more");
  EXPECT_EQ(limit_error([](auto& r) { r.oracle.rows = 0; }), "an oracle's rows is 0, expected 2 or more");
  EXPECT_EQ(limit_error([](auto& r) { r.oracle.heads = 0; }), "an oracle's heads is 0, expected 1 or more");
  EXPECT_EQ(limit_error([](auto& r) { r.oracle.layers = 0; }), "an oracle's layers is 0, expected 1 or more");
  EXPECT_EQ(limit_error([](auto& r) { r.oracle.width = 0; }), "an oracle's width is 0, expected 1 or more");
  EXPECT_EQ(limit_error([](auto& r) { r.oracle.batch = 0; }), "an oracle's batch is 0, expected 1 or more");
  const double infinity = std::numeric_limits<double>::infinity();
  for (const double scale : {0.0, -1.0, infinity, std::numeric_limits<double>::quiet_NaN()})
    EXPECT_EQ(limit_error([&](auto& r) { r.oracle.score_scale = scale; }),
              detail::text("an oracle's score scale is ", scale, ", expected 1e-9 to 1e9"));
}

TEST(PlanErrors, ACausalMaskNeedsAsManyKeysAsQueries) {
  EXPECT_EQ(spec_error([](auto& r) {
              r.mask.kind = MaskKind::causal;
              r.oracle.kind = OracleKind::causal;
              r.keys = 99;
            }),
            "a causal mask over 100 queries and 99 keys is undefined: expected as many keys as queries");
  EXPECT_EQ(spec_error([](auto& r) { r.mask.kind = MaskKind::causal; }), "no error") << "on a plain oracle";
}

bool ends_so(const std::string& message) {
  const std::string beyond = ", more than 64 bits hold";
  return message.size() > beyond.size() && message.substr(message.size() - beyond.size()) == beyond;
}

TEST(PlanErrors, CountsBeyond64BitsAreRefused) {
  EXPECT_EQ(spec_error([](auto& r) { r.tokens = 4'000'000'000'000'000'000; }),
            "the number of tiles is 250000000000000000 times 250000000000000000, more than 64 bits hold");
  EXPECT_EQ(spec_error([](auto& r) {
              r.mask.kind = MaskKind::causal;
              r.oracle.kind = OracleKind::causal;
              r.tokens = 4'000'000'000'000'000'000;
            }),
            "the number of tiles is 250000000000000000 times 250000000000000000, more than 64 bits hold");
  for (const Index huge : {most, most / 2 + 1, most / 4, Index{1} << 60}) {
    EXPECT_PRED1(ends_so, spec_error([&](auto& r) { r.tokens = huge; })) << huge;
    EXPECT_PRED1(ends_so, spec_error([&](auto& r) { r.keys = huge; })) << huge;
    EXPECT_PRED1(ends_so, spec_error([&](auto& r) { r.heads = huge; })) << huge;
    EXPECT_PRED1(ends_so, spec_error([&](auto& r) {
                   r.tokens = huge;
                   r.oracle.rows = huge;
                 }))
        << huge;
  }
}

TEST(PlanErrors, LayersBeyond64BitsOfJobsAreRefused) {
  for (const Index huge : {most, most / 2 + 1, most / 4, Index{1} << 60})
    EXPECT_PRED1(ends_so, spec_error([&](auto& r) { r.layers = huge; })) << huge;
}

TEST(PlanErrors, TrianglesThatAPlainOracleCannotHaveHalvedAreRefused) {
  // The diagonal alone would be as many tiles, all in one slot.
  constexpr Index longest = Index{1} << 20;
  for (const Index rows : {longest + 2, Index{1} << 40, twoheads::OracleLimits::unlimited}) {
    const std::string fault =
        spec_error([rows](auto& r) { r = request_of(MaskKind::causal, OracleKind::plain, Index{1} << 21, rows); });
    EXPECT_NE(fault.find("expected at most 1048576"), std::string::npos) << rows << ": " << fault;
    EXPECT_GT(Plan(request_of(MaskKind::causal, OracleKind::causal, Index{1} << 21, rows)).tiles(), 0) << rows;
  }
  EXPECT_GT(Plan(request_of(MaskKind::causal, OracleKind::plain, 2 * longest, longest + 1)).tiles(), 2 * longest);
}

TEST(PlanErrors, TheLargestCountsThatFitAreExact) {
  PlanRequest request = request_of(MaskKind::full, OracleKind::causal, 1'000'000'000, 1025);
  request.layers = 100;
  request.heads = 10;
  // T = ceil(1e9 / 1024) = 976563, and the last block has 512 keys.
  EXPECT_EQ(Plan(request).calls(), Index{976'563} * 976'563 * 2 * 1000);
  request.oracle.kind = OracleKind::plain;
  EXPECT_EQ(Plan(request).paper_calls(), Index{976'563} * 976'563 * 2 * 1000);
  EXPECT_EQ(Plan(request_of(MaskKind::full, OracleKind::plain, 100, most / 4)).calls(), 1);
}

TEST(PlanErrors, WindowsInCallsOfAnyNumberOfRowsAreCountedAtOnce) {
  // Windows that share a call are held together: of 2^40 rows they would be more than memory holds.
  constexpr Index tokens = Index{1} << 50;
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal, OracleKind::kernel})
    for (const Index window : {1, 3, 50}) {
      PlanRequest request = request_of(MaskKind::window, kind, tokens, (Index{1} << 40) + 1);
      request.mask.window = window;
      const Plan plan(request);
      EXPECT_GE(plan.tiles(), tokens / window) << window;
      EXPECT_LE(plan.slots(), tokens / (Index{1} << 18) * 16) << window;
      const Index longest_block = kind == OracleKind::plain ? Index{1} << 20 : window * (Index{1} << 18);
      EXPECT_LE(plan.queries_of(1).size(), longest_block) << window;
    }
}

TEST(PlanErrors, WindowsBeyondThoseThatShareACallAreCountedAsTheyAreEnumerated) {
  // One window more than 2^18 would fit each call; of 64 tokens as many as fit share it.
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal, OracleKind::kernel})
    for (const Index window : {1, 2, 64}) {
      const Index together = window < 64 ? Index{1} << 18 : 5000;
      PlanRequest request = request_of(MaskKind::sinks, kind, 2 * window * together + 100, window * (together + 1) + 4);
      request.mask.window = window;
      request.mask.sinks = 3;
      const Plan plan(request);
      Index tiles = 0, slots = 0, rows = 0;
      for (Index block = 0; block < plan.query_blocks(); ++block)
        plan.for_each_slot(block, [&](std::span<const Tile> slot) {
          ++slots;
          tiles += static_cast<Index>(slot.size());
          rows += rows_of_slot(slot);
        });
      EXPECT_EQ(plan.tiles(), tiles) << window;
      EXPECT_EQ(plan.slots(), slots) << window;
      EXPECT_EQ(plan.slot_rows(), rows) << window;
      const Index block = plan.queries_of(plan.query_blocks() - 2).size();
      EXPECT_EQ(block, window < 64 ? window * together : window * (together + 1)) << window;
    }
}

TEST(PlanErrors, AnOracleOfAnyNumberOfHeadsAndLayersTakesOneCallALayer) {
  // 2^40 heads times 2^40 layers are more than 64 bits hold, but no call of the plan asks for so many.
  PlanRequest request = sound();
  request.layers = 3;
  request.oracle.heads = request.oracle.layers = Index{1} << 40;
  request.oracle.residual = true;
  EXPECT_EQ(Plan(request).calls(), 3);
  EXPECT_EQ(Plan(request).paper_calls(), 3);
}

// --- print -----------------------------------------------------------------------------------------------------------

std::vector<std::string> printed(const PlanRequest& request) {
  std::ostringstream out;
  print(out, Plan(request));
  std::istringstream in(out.str());
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

/// The lines between the heading and the legend.
std::vector<std::string> grid_of(const std::vector<std::string>& lines) {
  const auto empty = [](const std::string& line) { return line.empty(); };
  const auto begin = std::find_if(lines.begin(), lines.end(), empty);
  if (begin == lines.end()) return {};
  return {begin + 1, std::find_if(begin + 1, lines.end(), empty)};
}

bool says(const std::vector<std::string>& lines, const std::string& part) {
  return std::any_of(lines.begin(), lines.end(),
                     [&](const std::string& line) { return line.find(part) != std::string::npos; });
}

/// The number behind a label, or -1 where no line begins with it.
double number(const std::vector<std::string>& lines, const std::string& label) {
  for (const std::string& line : lines) {
    if (line.compare(0, label.size() + 3, "  " + label + " ") != 0) continue;
    double value = -1;
    std::istringstream(line.substr(label.size() + 2)) >> value;
    return value;
  }
  return -1;
}

using Lines = std::vector<std::string>;

TEST(PrintPlan, ASmallPlanHasALineAQueryBlockAndAMarkAKeyBlock) {
  EXPECT_EQ(grid_of(printed(request_of(MaskKind::causal, OracleKind::causal, 10, 5))),
            (Lines{"   \\ . .", "   X \\ .", "   X X \\"}));
  EXPECT_EQ(grid_of(printed(request_of(MaskKind::full, OracleKind::plain, 10, 5))),
            (Lines{"   # # #", "   # # #", "   # # #"}));
  PlanRequest request = request_of(MaskKind::full, OracleKind::causal, 8, 5);
  request.keys = 9;  // the last key block has one key, and no strict upper triangle
  EXPECT_EQ(grid_of(printed(request)), (Lines{"   X X \\", "   X X \\"}));
  EXPECT_EQ(grid_of(printed(request_of(MaskKind::full, OracleKind::plain, 5, 5))), Lines{"   #"});
  EXPECT_EQ(grid_of(printed(request_of(MaskKind::causal, OracleKind::causal, 5, 5))), Lines{"   \\"});
  for (const Index tokens : {2, 39, 40}) {
    const Lines grid = grid_of(printed(request_of(MaskKind::causal, OracleKind::causal, tokens * 3, 4)));
    EXPECT_EQ(static_cast<Index>(grid.size()), tokens);
  }
}

TEST(PrintPlan, SaysTheCounts) {
  PlanRequest request = request_of(MaskKind::causal, OracleKind::causal, 300, 65);
  request.heads = 7;
  request.layers = 11;
  request.oracle.heads = 2;
  request.anchor = Anchor::gibbs;
  const Lines lines = printed(request);
  ASSERT_FALSE(lines.empty());
  for (const char* part : {"causal attention over 300 tokens", "causal oracle of 65 rows"})
    EXPECT_TRUE(says({lines.front()}, part)) << part;
  EXPECT_EQ(number(lines, "tiles"), 25);  // T = 5
  EXPECT_EQ(number(lines, "jobs"), 25 * 7 * 11);
  EXPECT_EQ(number(lines, "calls"), 11 * 2 * 88);
  EXPECT_EQ(number(lines, "rounds"), 22);
  // Lower triangles: 64 * 10 + 44 * 5 rows; strict upper ones: 63 * 10; of 65 * 2 slots in each of 88 calls, twice.
  EXPECT_EQ(number(lines, "rows used"), 91.2);
  EXPECT_EQ(number(lines, "the paper"), 11 * 25 * 7);
  for (const char* part : {"anchor gibbs", "exact      yes", "Theorem 3.5"}) EXPECT_TRUE(says(lines, part)) << part;

  request = request_of(MaskKind::full, OracleKind::plain, 300, 65);
  request.keys = 77;
  for (const char* part : {"full attention over 300 tokens and 77 keys", "plain oracle of 65 rows"})
    EXPECT_TRUE(says({printed(request).front()}, part)) << part;
}

TEST(PrintPlan, AStraightPlanSaysThatNoSyntheticRowIsNeeded) {
  const Lines lines = printed(request_of(MaskKind::causal, OracleKind::causal, 64, 64));
  EXPECT_TRUE(says(lines, "no synthetic row"));
  EXPECT_EQ(number(lines, "calls"), 1);
  EXPECT_EQ(number(lines, "rows used"), 100);
}

TEST(PrintPlan, AMillionTokensTakeABoundedNumberOfLines) {
  const Index tokens = 1'000'000;
  for (const Index rows : {2, 65, 30'000}) {
    const Lines causal = printed(request_of(MaskKind::causal, OracleKind::causal, tokens, rows));
    const Lines grid = grid_of(causal);
    EXPECT_LE(causal.size(), 60u);
    ASSERT_GE(grid.size(), 30u);
    for (std::size_t row = 0; row < grid.size(); ++row) {
      // Left of the diagonal all is visible, right of it nothing.
      std::string line = "  ";
      for (std::size_t col = 0; col < grid.size(); ++col)
        line += col < row ? (rows == 30'000 ? " X" : " #") : col == row ? " \\" : " .";
      EXPECT_EQ(grid[row], line) << rows << " rows";
    }
  }
  PlanRequest cross = request_of(MaskKind::full, OracleKind::plain, 2, 65);
  cross.keys = tokens;
  EXPECT_LE(printed(cross).size(), 60u);
}

}  // namespace
