// Laws of plans that draw a sample of the key blocks: integers only.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <twoheads/plan/cover.hpp>
#include <twoheads/plan/plan.hpp>
#include <twoheads/plan/print.hpp>
#include <utility>
#include <vector>

#include "support/sampled_plans.hpp"

namespace {

using namespace twoheads;
using namespace sampled_plans;

TEST(SampledPlan, ShowsNoPairTwiceNoHiddenPairTheNearFieldWholeAndItsDrawsWhole) {
  for (const Case& c : all_cases()) {
    const Plan plan(c.request());
    const bool causal = c.mask == MaskKind::causal;
    for (Index head = 0; head < 2; ++head) {
      const Seen seen = enumerate(plan, c, head);
      for (Index query = 0; query < c.tokens; ++query)
        for (Index key = 0; key < c.tokens; ++key) {
          const bool visible = !causal || key <= query;
          const bool near = key > query - c.near && key < query + c.near;
          const bool exact = visible && (plan.exact() || near || key < c.sinks || (causal && key == query));
          const std::size_t pair = seen.at(query, key);
          ASSERT_LE(seen.times[pair], visible ? 1 : 0) << c << ": query " << query << ", key " << key;
          ASSERT_GE(seen.exact[pair], exact ? 1 : 0) << c << ": query " << query << ", key " << key;
        }
      for (Index block = 0; block < plan.query_blocks() && !plan.exact(); ++block) {
        const auto b = static_cast<std::size_t>(block);
        // Keys that are not exact are so many blocks; of them S are drawn, or there are no such keys.
        const Rows queries = plan.queries_of(block);
        for (Index query = queries.begin; query < queries.end; ++query) {
          Index far = 0, drawn = 0;
          for (Index key = 0; key < c.tokens; ++key) {
            if (causal && key > query) continue;
            far += 1 - seen.exact[seen.at(query, key)];
            drawn += seen.times[seen.at(query, key)] - seen.exact[seen.at(query, key)];
          }
          if (seen.stands_for[b] == 0) {
            ASSERT_EQ(far, 0) << c << ": query " << query;
            continue;
          }
          ASSERT_EQ(static_cast<Index>(seen.drawn_from[b].size()), c.samples) << c << ": block " << block;
          ASSERT_GT(seen.stands_for[b], c.samples) << c;
          // Blocks of nearly one length: F of them make the far keys, S of them what was drawn.
          const double mean = static_cast<double>(far) / static_cast<double>(seen.stands_for[b]);
          ASSERT_LT(std::abs(static_cast<double>(drawn) / static_cast<double>(c.samples) - mean), 1.0) << c;
        }
      }
      EXPECT_EQ(seen.tiles, plan.tiles()) << c;
      EXPECT_EQ(seen.slots, plan.slots()) << c;
    }
    const std::string cover = check_cover(plan);
    EXPECT_EQ(plan.exact() ? cover : cover.substr(0, 10), plan.exact() ? "exact" : "a sample: ") << c << ": " << cover;
  }
}

TEST(SampledPlan, OfAFullMaskTakesSTimesTCallsAndIsExactAtT) {
  for (Index samples = 1; samples <= 17; ++samples) {
    const Plan plan(Case{MaskKind::full, OracleKind::plain, 4096, 256, samples}.request());
    EXPECT_EQ(plan.calls(), samples * 17);
    EXPECT_EQ(plan.rounds(), 1);
    EXPECT_EQ(plan.exact(), samples == 17);
    EXPECT_EQ(plan.theorem(), samples == 17 ? "Lemma 3.1" : "Theorem 4.1");
    const Index paper = samples == 17 ? 2 * 17 * 17 : samples == 1 ? 2 * 17 : 0;  // it draws one
    EXPECT_EQ(plan.paper_calls().value_or(0), paper) << samples;
    EXPECT_LE(plan.rows_used(), 1);
  }
  // Each pair of blocks is two triangles.
  EXPECT_EQ(Plan(Case{MaskKind::full, OracleKind::causal, 4096, 256, 5}.request()).calls(), 2 * 5 * 17);
}

TEST(SampledPlan, OfACausalMaskDrawsAtMostWhatLiesBeforeTheDiagonal) {
  constexpr Index blocks = 17;
  for (Index samples = 1; samples <= blocks; ++samples) {
    const Plan plan(Case{MaskKind::causal, OracleKind::causal, 4096, 256, samples}.request());
    Index tiles = blocks;
    for (Index block = 0; block < blocks; ++block) tiles += 2 * std::min(samples, block);
    EXPECT_EQ(plan.tiles(), tiles) << samples;
    EXPECT_EQ(plan.exact(), samples >= blocks - 1) << samples;
  }
}

TEST(SampledPlan, CountsWithoutEnumerating) {
  // Sixteen million blocks a side: enumeration would not end.
  const Plan far(Case{MaskKind::causal, OracleKind::causal, 1000000000, 64, 10, 1000, 4}.request());
  const Index blocks = ceil_of(1000000000, 63);
  const Index exact = 1 + ceil_of(999, 62);  // sinks, and the near field before the diagonal
  Index rectangles = 0;
  for (Index block = 0; block < blocks; ++block)
    rectangles += std::min(block, exact) + std::min<Index>(std::max<Index>(block - exact, 0), 10);
  EXPECT_EQ(far.tiles(), blocks + 2 * rectangles);
  const Plan full(Case{MaskKind::full, OracleKind::plain, 1000000000, 64, 10}.request());
  EXPECT_EQ(full.calls(), 10 * blocks);
}

// --- the draw --------------------------------------------------------------------------------------------------------

TEST(Draws, AreThoseOfSplitmix64) {
  // The first words from the seed 1234567 are 6457827717110365317, 3203168211198807973, 9817491932198370423.
  constexpr Index most = std::numeric_limits<Index>::max();
  detail::Draws draws(1234567);
  EXPECT_EQ(draws.below(most), 6457827717110365317);
  EXPECT_EQ(draws.below(most), 3203168211198807973);
  EXPECT_EQ(draws.below(most), 594119895343594616);
}

TEST(Draws, OfASetMakeEachSetAsLikelyAsAnyOther) {
  for (Index count = 1; count < 6; ++count) {
    std::map<std::set<Index>, double> times;
    constexpr int tries = 20000;
    for (std::uint64_t seed = 0; seed < tries; ++seed)
      ++times[detail::Draws(detail::seed_of_part(seed, 3)).distinct(count, 6)];
    const double sets = count == 1 || count == 5 ? 6 : count == 3 ? 20 : 15;
    ASSERT_EQ(static_cast<double>(times.size()), sets);
    double chi_squared = 0;
    for (const auto& [set, found] : times) {
      EXPECT_EQ(static_cast<Index>(set.size()), count);
      chi_squared += (found - tries / sets) * (found - tries / sets) / (tries / sets);
    }
    // Mean sets - 1, variance twice that: five standard deviations.
    EXPECT_LT(chi_squared, sets - 1 + 5 * std::sqrt(2 * (sets - 1))) << count;
  }
}

TEST(SampledPlan, DrawsTheSameForTheSameSeedAndOtherwiseIndependently) {
  const Case c{MaskKind::full, OracleKind::plain, 640, 17, 8, 0, 0, 3};
  const auto drawn = [&](std::uint64_t seed, Index layer, Index head) {
    PlanRequest request = c.request(seed);
    request.sampling.layer = layer;
    return enumerate(Plan(request), c, head).drawn_from;
  };
  EXPECT_EQ(drawn(1, 0, 0), drawn(1, 0, 0));
  // Of 40 blocks two independent draws of 8 share 1.6 on average.
  const auto shared = [&](const std::vector<std::set<Index>>& a, const std::vector<std::set<Index>>& b) {
    double common = 0;
    for (std::size_t block = 0; block < a.size(); ++block)
      for (const Index key : a[block]) common += static_cast<double>(b[block].count(key));
    return common / static_cast<double>(a.size());
  };
  constexpr int seeds = 200;
  double seed_common = 0, layer_common = 0, head_common = 0, next_common = 0;
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    const auto first = drawn(seed, 0, 0);
    seed_common += shared(first, drawn(seed + 1000, 0, 0)) / seeds;
    layer_common += shared(first, drawn(seed, 1, 0)) / seeds;
    head_common += shared(first, drawn(seed, 0, 2)) / seeds;
    next_common += shared({first.begin() + 1, first.end()}, first) / seeds;
  }
  // The number shared has a variance of 1.05; that of neighbouring query blocks, 8 * 7 / 39 on average, of less than 3.
  const double deviation = std::sqrt(1.05 / seeds);
  EXPECT_NEAR(seed_common, 1.6, 4 * deviation);
  EXPECT_NEAR(layer_common, 1.6, 4 * deviation);
  EXPECT_NEAR(head_common, 1.6, 4 * deviation);
  EXPECT_NEAR(next_common, 56.0 / 39, 4 * std::sqrt(3.0 / seeds));
}

TEST(SampledPlan, OfAFullMaskDrawsEachKeyBlockEquallyOften) {
  const Case c{MaskKind::full, OracleKind::plain, 640, 17, 8};
  std::map<Index, Index> times;
  for (const std::set<Index>& block : enumerate(Plan(c.request()), c, 0).drawn_from)
    for (const Index key : block) ++times[key];
  EXPECT_EQ(times.size(), 40U);
  for (const auto& [key, count] : times) EXPECT_EQ(count, 8) << key;
}

TEST(SampledPlan, CountsEachFarKeyOnceOnAverage) {
  // The weight of a drawn key is F / S and it is drawn with probability S / F: over many seeds the two make 1.
  for (const Case& c :
       {Case{MaskKind::full, OracleKind::plain, 50, 8, 3}, Case{MaskKind::causal, OracleKind::causal, 50, 8, 2, 9},
        Case{MaskKind::full, OracleKind::causal, 50, 8, 2, 1, 3}}) {
    constexpr int seeds = 4000;
    std::vector<double> weight(50 * 50, 0.0);
    for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
      const Plan plan(c.request(seed));
      for (Index block = 0; block < plan.query_blocks(); ++block)
        plan.for_each_tile(block, [&](const Tile& tile) {
          const double times = static_cast<double>(tile.stands_for) / static_cast<double>(tile.drawn);
          // One query of the block will do for all.
          const Rows keys = tile.visible_keys(0);
          for (Index key = keys.begin; key < keys.end; ++key)
            weight[static_cast<std::size_t>(tile.queries.begin * 50 + key)] += times / seeds;
        });
    }
    const Plan plan(c.request());
    for (Index block = 0; block < plan.query_blocks(); ++block) {
      const Index query = plan.queries_of(block).begin;
      // A weight of at most 4 with mean 1 has a variance of at most 3: six standard deviations of the mean.
      for (Index key = 0; key < (c.mask == MaskKind::causal ? query + 1 : 50); ++key)
        EXPECT_NEAR(weight[static_cast<std::size_t>(query * 50 + key)], 1.0, 6 * std::sqrt(3.0 / seeds) * 1.5)
            << c << ": query " << query << ", key " << key;
    }
  }
}

TEST(SampledPlan, PutsTheKeysOfAFullMaskInARandomOrderAndNoOthers) {
  const auto order = [](Case c, std::uint64_t seed, Index layer = 0) {
    PlanRequest request = c.request(seed);
    request.sampling.layer = layer;
    return Plan(request).key_order();
  };
  const Case full{MaskKind::full, OracleKind::plain, 300, 33, 3};
  const std::vector<Index> keys = order(full, 1);
  EXPECT_EQ(std::set<Index>(keys.begin(), keys.end()).size(), 300U);
  EXPECT_EQ(*std::min_element(keys.begin(), keys.end()), 0);
  EXPECT_EQ(*std::max_element(keys.begin(), keys.end()), 299);
  EXPECT_EQ(keys, order(full, 1));
  EXPECT_NE(keys, order(full, 2));
  EXPECT_NE(keys, order(full, 1, 1));
  Index kept = 0;
  for (Index i = 0; i < 300; ++i) kept += keys[static_cast<std::size_t>(i)] == i ? 1 : 0;
  EXPECT_LT(kept, 10);
  PlanRequest kept_in_place = full.request();
  kept_in_place.sampling.permute = false;
  EXPECT_TRUE(Plan(kept_in_place).key_order().empty());
  EXPECT_TRUE(order({MaskKind::full, OracleKind::plain, 300, 33, 3, 1}, 1).empty());
  EXPECT_TRUE(order({MaskKind::causal, OracleKind::plain, 300, 33, 3}, 1).empty());
  EXPECT_TRUE(order({MaskKind::full, OracleKind::plain, 300, 33, 10}, 1).empty()) << "exact";
}

// --- what is refused -------------------------------------------------------------------------------------------------

template <class Fault>
std::string message_of(const PlanRequest& request) {
  try {
    static_cast<void>(Plan(request));
  } catch (const Fault& fault) {
    return fault.what();
  }
  return "no fault of that type";
}

TEST(SampledPlan, RefusesWhatItCannotPlan) {
  const auto says = [](const std::string& message, const std::vector<std::string>& words) {
    for (const std::string& word : words) EXPECT_NE(message.find(word), std::string::npos) << message;
  };
  for (const MaskKind mask : {MaskKind::full, MaskKind::causal}) {
    says(message_of<SpecError>(Case{mask, OracleKind::causal, 4096, 256, 18}.request()), {"18", "1 to 17"});
    says(message_of<SpecError>(Case{mask, OracleKind::causal, 4096, 256, -1}.request()), {"-1", "1 to 17"});
    says(message_of<SpecError>(Case{mask, OracleKind::causal, 10, 256, 2}.request()), {"2", "1 to 1"});
    says(message_of<SpecError>(Case{mask, OracleKind::causal, 4096, 256, 0, 5}.request()), {"near field", "samples"});
    says(message_of<SpecError>(Case{mask, OracleKind::causal, 4096, 256, 2, -5}.request()), {"near field", "-5"});
    says(message_of<SpecError>(Case{mask, OracleKind::causal, 4096, 256, 2, 0, -7}.request()), {"sinks", "-7"});
  }
  PlanRequest windowed = Case{MaskKind::window, OracleKind::causal, 4096, 256, 2}.request();
  windowed.mask.window = 100;
  says(message_of<SpecError>(windowed), {"window", "full or causal"});
  PlanRequest cross = Case{MaskKind::full, OracleKind::plain, 4096, 256, 2, 9}.request();
  cross.keys = 1000;
  says(message_of<SpecError>(cross), {"near field", "4096", "1000"});
  says(message_of<LimitError>(Case{MaskKind::full, OracleKind::causal, 41, 3, 2}.request()),
       {"41", "3 rows", "4 rows"});
  EXPECT_TRUE(Plan(Case{MaskKind::full, OracleKind::causal, 41, 3, 21}.request()).exact());
  EXPECT_FALSE(Plan(Case{MaskKind::causal, OracleKind::causal, 41, 3, 2}.request()).exact());
}

TEST(SampledPlan, CheckNamesTheFirstFault) {
  // 97 tokens in 13 blocks of 8 or 7; query 50 lies in block 6; its keys from 42 on are to be exact.
  const Plan plan(Case{MaskKind::causal, OracleKind::causal, 97, 9, 2, 9}.request());
  const auto drawn = [](Rows keys, Index of) {
    Tile tile{{46, 54}, keys};
    tile.drawn = 2;
    tile.stands_for = of;
    return tile;
  };
  const auto fault = [&](const std::vector<std::pair<Tile, Rows>>& tiles) {
    detail::ShownKeys shown;
    for (const auto& [tile, keys] : tiles) shown.add(tile, keys);
    return detail::fault_of_sample(plan, 50, shown);
  };
  const std::pair<Tile, Rows> near{Tile{{46, 54}, {40, 51}}, {40, 51}};
  const auto whole = [&](Rows keys, Index of = 5) { return std::pair<Tile, Rows>{drawn(keys, of), keys}; };
  EXPECT_EQ(fault({near, whole({0, 8}), whole({24, 32})}), "");
  const auto says = [](const std::string& text, const std::string& words) {
    EXPECT_NE(text.find(words), std::string::npos) << text;
  };
  says(fault({near, whole({0, 8}), whole({7, 15})}), "key 7 lies in two tiles");
  says(fault({{Tile{{46, 54}, {40, 52}}, {40, 52}}, whole({0, 8}), whole({24, 32})}), "hidden keys, 40..51");
  says(fault({{near.first, {43, 51}}, whole({0, 8}), whole({24, 32})}), "key 42 of the near field is not exact");
  says(fault({whole({40, 51}), whole({0, 8})}), "key 42 of the near field is not exact");
  says(fault({near}), "no sample of 40 keys");
  says(fault({near, whole({0, 8})}), "1 drawn blocks, expected 2");
  says(fault({near, whole({0, 8}), whole({24, 32}), whole({8, 16})}), "3 drawn blocks, expected 2");
  says(fault({near, whole({0, 8}, 1), whole({24, 32}, 1)}), "2 drawn blocks");
  says(fault({near, whole({0, 8}, 9), whole({24, 32}, 9)}), "such blocks have 40 together");
  // Half of a block that is cut into two triangles.
  says(fault({near, {drawn({0, 8}, 5), {0, 4}}, whole({24, 32})}), "sees 4 keys of the drawn block from 0");
}

TEST(SampledPlan, CrossAttentionDrawsBlocksOfItsKeys) {
  PlanRequest request = Case{MaskKind::full, OracleKind::plain, 90, 11, 3}.request();
  request.keys = 47;
  const Plan plan(request);
  EXPECT_EQ(plan.calls(), 9 * 3);
  EXPECT_EQ(check_cover(plan).substr(0, 10), "a sample: ");
  request.sampling.samples = 5;
  EXPECT_EQ(check_cover(Plan(request)), "exact");
}

TEST(SampledPlan, DrawsItsGridWithAMarkForWhatWasDrawn) {
  std::ostringstream out;
  print(out, Plan(Case{MaskKind::causal, OracleKind::causal, 97, 9, 2, 9}.request()));
  const std::string text = out.str();
  EXPECT_NE(text.find(" s"), std::string::npos) << text;
  EXPECT_NE(text.find("X X \\"), std::string::npos) << text;
  EXPECT_NE(text.find("exact      no, by Theorem 4.1"), std::string::npos) << text;
  // Each row of 13 blocks marks its two draws.
  std::istringstream lines(text.substr(text.find("\n\n") + 2));
  std::string line;
  for (Index block = 0; block < 13 && std::getline(lines, line); ++block)
    EXPECT_EQ(std::count(line.begin(), line.end(), 's'), block >= 5 ? 2 : 0) << text;
}

}  // namespace
