#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <ostream>
#include <string>
#include <twoheads/model/mask.hpp>
#include <vector>

#include "support/message_of.hpp"
#include "support/naive.hpp"
#include "support/text_of_mask.hpp"

namespace {

using namespace twoheads;

constexpr Index most = std::numeric_limits<Index>::max();

/// Masks of every kind over so many tokens: sides from nothing to beyond all tokens, documents of every number.
std::vector<Mask> masks_over(Index tokens) {
  std::vector<Mask> masks{Mask::full(), Mask::causal()};
  const std::vector<Index> lengths{1, 2, 3, 5, tokens - 1, tokens, tokens + 1, most - 1, most};
  for (const Index r : lengths) {
    if (r < 1) continue;
    masks.push_back(Mask::sliding_window(r));
    for (const Index s : {Index{0}, Index{1}, Index{2}, Index{4}, tokens - 1, tokens, tokens + 3, most})
      masks.push_back(Mask::window_and_sinks(r, s));
  }
  for (const Index left : {Index{0}, Index{1}, Index{4}, tokens - 1, tokens, most})
    for (const Index right : {Index{0}, Index{1}, Index{3}, tokens - 1, tokens, most})
      masks.push_back(Mask::band(left, right));
  for (const bool causal : {false, true}) {
    masks.push_back(Mask::documents({tokens}, causal));
    masks.push_back(Mask::documents(std::vector<Index>(naive::at(tokens), 1), causal));
    if (tokens > 1) masks.push_back(Mask::documents({1, tokens - 1}, causal));
    if (tokens > 6) masks.push_back(Mask::documents({tokens - 6, 1, 3, 2}, causal));
  }
  return masks;
}

const std::vector<Index> token_counts{1, 2, 3, 7, 20};

// --- which keys a query sees -----------------------------------------------------------------------------------------

TEST(VisibleKeys, AreThoseOfTheDefinitionsForEveryKind) {
  for (const Index tokens : token_counts)
    for (const Mask& mask : masks_over(tokens)) {
      const naive::Visible sees = naive::visible(mask);
      for (Index query = 0; query < tokens; ++query) {
        const VisibleKeys visible = mask.visible_keys(query, tokens);
        Index seen = 0;
        for (Index key = -2; key < tokens + 2; ++key) {
          const bool expected = 0 <= key && key < tokens && sees(query, key);
          seen += expected ? 1 : 0;
          ASSERT_EQ(visible.contains(key), expected)
              << text_of(mask) << ", " << tokens << " tokens, query " << query << ", key " << key;
        }
        ASSERT_EQ(visible.size(), seen) << text_of(mask) << ", query " << query;
        ASSERT_FALSE(visible.keys.empty()) << text_of(mask) << ", query " << query;
        // Sinks come first, and apart: a gap parts them from the other keys.
        if (!visible.sinks.empty()) {
          ASSERT_EQ(visible.sinks.begin, 0) << text_of(mask);
          ASSERT_LT(visible.sinks.end, visible.keys.begin) << text_of(mask) << ", query " << query;
        }
      }
    }
}

TEST(VisibleKeys, OfAFullMaskAreAllKeysWhateverTheirNumber) {
  for (const Index keys : {1, 5, 100})
    for (const Index query : {0, 3, 1000})
      EXPECT_EQ(Mask::full().visible_keys(query, keys), (VisibleKeys{{0, 0}, {0, keys}}));
}

TEST(VisibleKeys, AWindowOfRCountsTheQueryItself) {
  EXPECT_EQ(Mask::sliding_window(3).visible_keys(5, 10), (VisibleKeys{{0, 0}, {3, 6}}));
  EXPECT_EQ(Mask::sliding_window(1).visible_keys(5, 10), (VisibleKeys{{0, 0}, {5, 6}}));
  EXPECT_EQ(Mask::sliding_window(3).visible_keys(1, 10), (VisibleKeys{{0, 0}, {0, 2}}));
  EXPECT_EQ(Mask::sliding_window(most).visible_keys(0, 10), (VisibleKeys{{0, 0}, {0, 1}}));
}

TEST(VisibleKeys, OfSinksAndWindowAreTheirUnionAndNoLaterKey) {
  const Mask mask = Mask::window_and_sinks(2, 3);
  EXPECT_EQ(mask.visible_keys(0, 10), (VisibleKeys{{0, 0}, {0, 1}})) << "a sink after the query is hidden";
  EXPECT_EQ(mask.visible_keys(1, 10), (VisibleKeys{{0, 0}, {0, 2}}));
  EXPECT_EQ(mask.visible_keys(3, 10), (VisibleKeys{{0, 0}, {0, 4}})) << "they overlap";
  EXPECT_EQ(mask.visible_keys(4, 10), (VisibleKeys{{0, 0}, {0, 5}})) << "they touch";
  EXPECT_EQ(mask.visible_keys(5, 10), (VisibleKeys{{0, 3}, {4, 6}})) << "key 3 lies between";
  EXPECT_EQ(mask.visible_keys(9, 10), (VisibleKeys{{0, 3}, {8, 10}}));
}

TEST(VisibleKeys, OfABandEndWithTheSequence) {
  EXPECT_EQ(Mask::band(2, 1).visible_keys(5, 10), (VisibleKeys{{0, 0}, {3, 7}}));
  EXPECT_EQ(Mask::band(2, 1).visible_keys(0, 10), (VisibleKeys{{0, 0}, {0, 2}}));
  EXPECT_EQ(Mask::band(2, 1).visible_keys(9, 10), (VisibleKeys{{0, 0}, {7, 10}}));
  EXPECT_EQ(Mask::band(most, most).visible_keys(9, 10), (VisibleKeys{{0, 0}, {0, 10}}));
}

TEST(VisibleKeys, OfADocumentAreItsOwn) {
  EXPECT_EQ(Mask::documents({3, 4, 1}, false).visible_keys(3, 8), (VisibleKeys{{0, 0}, {3, 7}}));
  EXPECT_EQ(Mask::documents({3, 4, 1}, false).visible_keys(6, 8), (VisibleKeys{{0, 0}, {3, 7}}));
  EXPECT_EQ(Mask::documents({3, 4, 1}, true).visible_keys(4, 8), (VisibleKeys{{0, 0}, {3, 5}}));
  EXPECT_EQ(Mask::documents({3, 4, 1}, true).visible_keys(7, 8), (VisibleKeys{{0, 0}, {7, 8}}));
  EXPECT_EQ(Mask::documents({3, 4, 1}, true).document_of(2), (Rows{0, 3}));
  EXPECT_EQ(Mask::documents({3, 4, 1}, true).document_of(7), (Rows{7, 8}));
}

// --- what follows from them ------------------------------------------------------------------------------------------

TEST(SimplifiedMask, ShowsTheSamePairsAndStaysWhatItIs) {
  for (const Index tokens : token_counts)
    for (const Mask& mask : masks_over(tokens)) {
      const Mask simple = mask.simplified(tokens);
      EXPECT_NO_THROW(simple.require_defined(tokens, tokens)) << text_of(mask);
      EXPECT_EQ(simple.simplified(tokens), simple) << text_of(mask);
      const naive::Visible sees = naive::visible(mask);
      const naive::Visible simple_sees = naive::visible(simple);
      for (Index query = 0; query < tokens; ++query)
        for (Index key = 0; key < tokens; ++key)
          ASSERT_EQ(simple_sees(query, key), sees(query, key))
              << text_of(mask) << " is said to be " << text_of(simple) << " over " << tokens << " tokens";
    }
}

TEST(SimplifiedMask, IsThePlainestKindThatShowsThem) {
  const auto kind = [](const Mask& mask) { return mask.simplified(20).kind; };
  EXPECT_EQ(kind(Mask::sliding_window(20)), MaskKind::causal);
  EXPECT_EQ(kind(Mask::sliding_window(19)), MaskKind::window);
  EXPECT_EQ(kind(Mask::window_and_sinks(5, 0)), MaskKind::window);
  EXPECT_EQ(kind(Mask::window_and_sinks(5, 15)), MaskKind::causal) << "no key lies between";
  EXPECT_EQ(kind(Mask::window_and_sinks(5, 14)), MaskKind::sinks);
  EXPECT_EQ(kind(Mask::window_and_sinks(most, most)), MaskKind::causal);
  EXPECT_EQ(kind(Mask::band(19, 19)), MaskKind::full);
  EXPECT_EQ(kind(Mask::band(most, most)), MaskKind::full);
  EXPECT_EQ(kind(Mask::band(18, 19)), MaskKind::band);
  EXPECT_EQ(kind(Mask::band(5, 0)), MaskKind::window);
  EXPECT_EQ(Mask::band(5, 0).simplified(20).window, 6);
  EXPECT_EQ(kind(Mask::band(19, 0)), MaskKind::causal);
  EXPECT_EQ(kind(Mask::band(0, 5)), MaskKind::band);
  EXPECT_EQ(kind(Mask::documents({20}, false)), MaskKind::full);
  EXPECT_EQ(kind(Mask::documents({20}, true)), MaskKind::causal);
  EXPECT_EQ(kind(Mask::documents({1, 19}, true)), MaskKind::documents);
}

TEST(MostVisible, IsNeverBelowWhatAQuerySees) {
  for (const Index tokens : token_counts)
    for (const Mask& mask : masks_over(tokens)) {
      Index seen = 0;
      for (Index query = 0; query < tokens; ++query) seen = std::max(seen, mask.visible_keys(query, tokens).size());
      EXPECT_GE(mask.most_visible(tokens), seen) << text_of(mask) << ", " << tokens << " tokens";
      // What is not near an end is exact; a window's and a band's two sides may count a key twice there.
      EXPECT_LE(mask.most_visible(tokens), 2 * tokens + 1) << text_of(mask);
    }
  EXPECT_EQ(Mask::sliding_window(5).most_visible(20), 5);
  EXPECT_EQ(Mask::window_and_sinks(5, 2).most_visible(20), 7);
  EXPECT_EQ(Mask::band(5, 2).most_visible(20), 8);
  EXPECT_EQ(Mask::documents({3, 9, 8}, false).most_visible(20), 9);
  EXPECT_EQ(Mask::full().most_visible(20), 20);
  EXPECT_EQ(Mask::causal().most_visible(20), 20);
}

TEST(Masks, AreEqualIfAllTheirFieldsAre) {
  EXPECT_EQ(Mask::window_and_sinks(5, 2), Mask::window_and_sinks(5, 2));
  EXPECT_NE(Mask::window_and_sinks(5, 2), Mask::window_and_sinks(5, 3));
  EXPECT_NE(Mask::documents({3, 4}, true), Mask::documents({4, 3}, true));
  EXPECT_NE(Mask::documents({3, 4}, true), Mask::documents({3, 4}, false));
  EXPECT_EQ(Mask{}, Mask::full());
}

// --- masks that are none ---------------------------------------------------------------------------------------------

std::string fault(const Mask& mask, Index queries = 10, Index keys = 10) {
  return message_of<SpecError>([&] { mask.require_defined(queries, keys); });
}

TEST(UndefinedMasks, SayWhatWasFoundAndExpected) {
  EXPECT_EQ(fault(Mask::sliding_window(0)), "the window is 0, expected 1 or more");
  EXPECT_EQ(fault(Mask::sliding_window(-3)), "the window is -3, expected 1 or more");
  EXPECT_EQ(fault(Mask::window_and_sinks(0, 2)), "the window is 0, expected 1 or more");
  EXPECT_EQ(fault(Mask::window_and_sinks(2, -1)), "the number of sinks is -1, expected 0 or more");
  EXPECT_EQ(fault(Mask::band(-1, 2)), "the left side of the band is -1, expected 0 or more");
  EXPECT_EQ(fault(Mask::band(2, -1)), "the right side of the band is -1, expected 0 or more");
  EXPECT_EQ(fault(Mask::documents({4, 5}, false)), "the documents have 9 tokens together, expected 10");
  EXPECT_EQ(fault(Mask::documents({4, 7}, false)), "the documents have 11 tokens together, expected 10");
  EXPECT_EQ(fault(Mask::documents({}, false)), "the documents have 0 tokens together, expected 10");
  Mask mask = Mask::documents({4, 6}, false);
  mask.ends = {4, 4, 10};
  EXPECT_EQ(fault(mask), "document 1 ends at 4, expected more than 4");
  mask.ends = {0, 10};
  EXPECT_EQ(fault(mask), "document 0 ends at 0, expected more than 0");
  EXPECT_EQ(message_of<SpecError>([] {
              static_cast<void>(Mask::documents({4, 0}, true));
            }),
            "document 1 has 0 tokens, expected 1 or more");
  EXPECT_EQ(message_of<SpecError>([] {
              static_cast<void>(Mask::documents({-2, 4}, true));
            }),
            "document 0 has -2 tokens, expected 1 or more");
}

TEST(UndefinedMasks, AreThoseOfNoTokensAndAllButFullOverAnotherNumberOfKeys) {
  EXPECT_EQ(fault(Mask::full(), 0, 10), "the number of tokens is 0, expected 1 or more");
  EXPECT_EQ(fault(Mask::full(), 10, 0), "the number of keys is 0, expected 1 or more");
  EXPECT_NO_THROW(Mask::full().require_defined(10, 3));
  for (const Mask& mask : {Mask::causal(), Mask::sliding_window(3), Mask::window_and_sinks(3, 1), Mask::band(1, 1),
                           Mask::documents({4, 6}, false)}) {
    EXPECT_NO_THROW(mask.require_defined(10, 10)) << text_of(mask);
    EXPECT_EQ(fault(mask, 10, 11), detail::text("a ", name(mask.kind),
                                                " mask over 10 queries and 11 keys is undefined: expected as many keys "
                                                "as queries"));
  }
}

TEST(Mask, SinksCountOnlyWhereTheKindHasThem) {
  Mask mask = Mask::sliding_window(3);
  mask.sinks = 4;
  EXPECT_EQ(mask.simplified(40), Mask::sliding_window(3));
  EXPECT_EQ(mask.simplified(7), Mask::sliding_window(3)) << "window and what is no sink make 7 together";
  EXPECT_EQ(mask.reach(40)->sinks, 0);
  EXPECT_EQ(mask.visible_keys(20, 40), Mask::sliding_window(3).visible_keys(20, 40));
}

}  // namespace
