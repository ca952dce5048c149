// Pictures of plans: well-formed, each tile once, bounded in size, the same bytes for the same plan.

#include <gtest/gtest.h>

#include <map>
#include <regex>
#include <sstream>
#include <string>
#include <twoheads/plan/svg.hpp>
#include <vector>

namespace {

using namespace twoheads;

Plan plan_of(const Mask& mask, Index tokens, OracleKind kind, Index rows) {
  PlanRequest request;
  request.mask = mask;
  request.tokens = tokens;
  request.oracle.kind = kind;
  request.oracle.rows = rows;
  return Plan(request);
}

std::string picture(const Plan& plan) {
  std::ostringstream out;
  write_svg(out, plan);
  return out.str();
}

/// What keeps a text from being well-formed XML of our sort (no comments, no CDATA), or nothing.
std::string fault_of_xml(const std::string& xml) {
  std::vector<std::string> open;
  std::size_t at = 0;
  if (xml.compare(0, 5, "<?xml") == 0) at = xml.find("?>") + 2;
  for (std::size_t roots = 0; at < xml.size();) {
    const std::size_t begin = xml.find('<', at);
    const std::string between = xml.substr(at, begin == std::string::npos ? begin : begin - at);
    if (open.empty() && between.find_first_not_of(" \n") != std::string::npos) return "text outside the root";
    if (between.find('>') != std::string::npos) return "a bare > in " + between;
    if (std::regex_search(between, std::regex("&(?!(amp|lt|gt|quot|apos);)"))) return "a bare & in " + between;
    if (begin == std::string::npos) break;
    const std::size_t end = xml.find('>', begin);
    if (end == std::string::npos) return "a tag without an end";
    const std::string tag = xml.substr(begin + 1, end - begin - 1);
    at = end + 1;
    if (tag.front() == '/') {
      if (open.empty() || open.back() != tag.substr(1)) return "unexpected end of " + tag;
      open.pop_back();
      continue;
    }
    const bool closed = tag.back() == '/';
    const std::string body = closed ? tag.substr(0, tag.size() - 1) : tag;
    static const std::regex form("[a-zA-Z]+( [a-zA-Z:-]+=\"[^\"<]*\")* ?");
    if (body.size() < 2000 && !std::regex_match(body, form)) return "a malformed tag " + body;
    if (open.empty() && ++roots > 1) return "two roots";
    if (!closed) open.push_back(body.substr(0, body.find(' ')));
  }
  return open.empty() ? "" : "no end of " + open.back();
}

std::size_t times(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

std::vector<Mask> masks_over(Index tokens) {
  return {Mask::full(),
          Mask::causal(),
          Mask::sliding_window(12),
          Mask::window_and_sinks(12, 3),
          Mask::band(7, 4),
          Mask::documents({tokens / 8, tokens / 3, tokens - tokens / 8 - tokens / 3}, false),
          Mask::documents({tokens / 8, tokens / 3, tokens - tokens / 8 - tokens / 3}, true)};
}

TEST(SvgChecker, FindsFaults) {
  EXPECT_EQ(fault_of_xml("<a b=\"c\"><d/>x &amp; y</a>\n"), "");
  for (const char* bad : {"<a><b></a></b>", "<a>x & y</a>", "<a", "<a></a><b></b>", "<a b=c></a>", "<a>", "<a>></a>"})
    EXPECT_NE(fault_of_xml(bad), "") << bad;
}

TEST(Svg, DrawsEveryTileOfASmallPlanOnce) {
  for (const Index tokens : {1, 2, 24, 64})
    for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
      for (const Index rows : {2, 3, 17, 33, 129})
        for (const Mask& mask : tokens < 24 ? std::vector<Mask>{Mask::full(), Mask::causal()} : masks_over(tokens)) {
          const Plan plan = plan_of(mask, tokens, kind, rows);
          if (plan.tiles() > 4096) continue;
          const std::string svg = picture(plan);
          const std::string about =
              detail::text(name(mask.kind), ", ", tokens, " tokens, ", name(kind), " oracle of ", rows, " rows");
          ASSERT_EQ(fault_of_xml(svg), "") << about;
          ASSERT_EQ(static_cast<Index>(times(svg, "class=\"tile\"")), plan.tiles()) << about;
          if (plan.tiles() > 300) continue;
          for (Index block = 0; block < plan.query_blocks(); ++block)
            plan.for_each_tile(block, [&](const Tile& tile) {
              ASSERT_EQ(times(svg, "<title>" + detail::text(tile) + ";"), 1U) << about << ": " << tile;
            });
        }
}

TEST(Svg, TheOutlineOfATileHoldsAsManyPairsAsItShows) {
  // A unit a token, so that the area of the outline, by the shoelace formula, is the number of pairs.
  const detail::SvgFrame frame{0, 0, 400, 400, {0, 100}, {0, 100}};
  for (const TileShape shape : {TileShape::rectangle, TileShape::lower, TileShape::strict_upper})
    for (const Index queries : {1, 2, 5, 9})
      for (const Index keys : {2, 5, 9})
        for (const Rows& sinks : {Rows{}, Rows{0, 3}}) {
          const Tile tile{{20, 20 + queries}, {10, 10 + keys}, shape, sinks};
          double area = 0, x = 0, y = 0, start_x = 0, start_y = 0;
          std::istringstream path(detail::outline(tile, frame));
          const auto go = [&](double to_x, double to_y) {
            area += (x * to_y - to_x * y) / 2;
            x = to_x;
            y = to_y;
          };
          double pairs = 0;
          for (char command = 0; path >> command;) {
            double value = 0;
            if (command == 'Z') {
              go(start_x, start_y);
              pairs += std::abs(area) / 16;
              area = 0;
            } else if (command == 'M') {
              path >> x >> y;
              start_x = x;
              start_y = y;
            } else {
              path >> value;
              command == 'H' ? go(value, y) : go(x, value);
            }
          }
          Index expected = 0;
          for (Index i = 0; i < queries; ++i) expected += tile.keys_seen(i);
          EXPECT_NEAR(pairs, static_cast<double>(expected), 1e-6) << tile;
        }
}

TEST(Svg, TilesOfACallShareAColourAndNeighbouringCallsDoNot) {
  PlanRequest request;
  request.mask = Mask::full();
  request.tokens = 60;
  request.heads = 2;
  request.oracle.rows = 13;
  request.oracle.heads = 3;
  const std::string svg = picture(Plan(request));
  // 5 blocks of 5 tiles; block b's slots of the first head begin at 10 b, and three slots are a call.
  const std::regex tile("fill=\"(#[0-9a-f]+)\"[^>]*><title>[^;]*; slot ([0-9]+), call ([0-9]+)</title>");
  std::map<long, std::string> colours;
  int tiles = 0;
  for (std::sregex_iterator it(svg.begin(), svg.end(), tile), end; it != end; ++it, ++tiles) {
    const long slot = std::stol((*it)[2]), call = std::stol((*it)[3]);
    EXPECT_EQ(slot, tiles / 5 * 10 + tiles % 5);
    EXPECT_EQ(call, slot / 3);
    EXPECT_EQ(colours.emplace(call, (*it)[1]).first->second, (*it)[1]) << "call " << call;
  }
  EXPECT_EQ(tiles, 25);
  for (const auto& [call, colour] : colours)
    if (colours.count(call + 1) > 0) {
      EXPECT_NE(colour, colours[call + 1]) << "call " << call;
    }
}

TEST(Svg, AMillionTokensTakeABoundedPicture) {
  const Index tokens = 1'000'000;
  std::vector<Mask> masks = masks_over(tokens);
  masks.push_back(Mask::sliding_window(64));
  masks.push_back(Mask::band(100'000, 300'000));
  masks.push_back(Mask::documents(std::vector<Index>(100'000, 10), true));
  for (const Mask& mask : masks)
    for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
      for (const Index rows : {2, 17, 4097}) {
        const std::string svg = picture(plan_of(mask, tokens, kind, rows));
        EXPECT_LT(svg.size(), 1'000'000U) << name(mask.kind) << ", " << name(kind) << " oracle of " << rows << " rows";
        EXPECT_GT(times(svg, "class=\"cells\""), 0U) << name(mask.kind);
        EXPECT_GT(times(svg, "class=\"tile\""), 0U) << name(mask.kind);
        EXPECT_EQ(fault_of_xml(svg), "") << name(mask.kind);
      }
}

TEST(Svg, EqualPlansGiveEqualBytes) {
  for (const Index tokens : {64, 100'000})
    for (const Mask& mask : masks_over(tokens)) {
      const auto draw = [&] { return picture(plan_of(mask, tokens, OracleKind::causal, 17)); };
      EXPECT_EQ(draw(), draw()) << name(mask.kind);
    }
}

TEST(Sight, IsWhatThePairsSay) {
  const Index tokens = 24;
  for (const Mask& mask : masks_over(tokens))
    for (Index first = 0; first < tokens; first += 3)
      for (Index last = first + 1; last <= tokens; last += 2)
        for (Index begin = 0; begin < tokens; ++begin)
          for (Index end = begin + 1; end <= tokens; ++end) {
            Index shown = 0;
            for (Index query = first; query < last; ++query)
              for (Index key = begin; key < end; ++key) shown += mask.visible_keys(query, tokens).contains(key) ? 1 : 0;
            const Index pairs = (last - first) * (end - begin);
            const Sight expected = shown == 0 ? Sight::hidden : shown == pairs ? Sight::wholly : Sight::partly;
            ASSERT_EQ(sight(mask, {first, last}, {begin, end}, tokens), expected)
                << name(mask.kind) << " " << first << ".." << last << " x " << begin << ".." << end;
            ASSERT_DOUBLE_EQ(visible_share(mask, {first, last}, {begin, end}, tokens),
                             static_cast<double>(shown) / static_cast<double>(pairs));
          }
}

std::string printed(const Plan& plan) {
  std::ostringstream out;
  print(out, plan);
  return out.str();
}

TEST(PrintedGrid, MarksTheTilesOfNarrowMasks) {
  EXPECT_NE(
      printed(plan_of(Mask::sliding_window(2), 5, OracleKind::causal, 17))
          .find(
              "   \\ . . . .\n   \\ \\ . . .\n   . / \\ . .\n   . . \\ \\ .\n   . . . / \\\n\n  each mark is a pair,"),
      std::string::npos);
  // Documents of 2 and 3 tokens share a slot, as whole rectangles.
  EXPECT_NE(printed(plan_of(Mask::documents({2, 3}, false), 5, OracleKind::plain, 17))
                .find("   # # . . .\n   # # . . .\n   . . # # #\n   . . # # #\n   . . # # #\n"),
            std::string::npos);
  EXPECT_NE(printed(plan_of(Mask::causal(), 8, OracleKind::plain, 5)).find("   + .\n   # +\n"), std::string::npos);
}

TEST(PrintedGrid, FiveTokensTakeFiveLinesAndNoGridIsWide) {
  PlanRequest request;
  request.tokens = 5;
  request.keys = 100'000;
  request.oracle.rows = 17;
  const std::string cross = printed(Plan(request));
  EXPECT_EQ(times(cross, "   #"), 5U) << cross;
  for (const Index tokens : {40, 41, 64, 1000, 1'000'000})
    for (const Mask& mask : masks_over(tokens)) {
      std::istringstream in(printed(plan_of(mask, tokens, OracleKind::causal, 17)));
      bool explained = false;
      for (std::string line; std::getline(in, line);) {
        explained = explained || line.find("each mark") != std::string::npos;
        if (line.compare(0, 3, "   ") == 0) {
          EXPECT_LE(line.size(), 85U) << line;
        }
      }
      EXPECT_TRUE(explained);
    }
}

}  // namespace
