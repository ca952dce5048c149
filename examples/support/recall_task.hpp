#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <twoheads/base/draws.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/model/random.hpp>
#include <twoheads/train/example.hpp>
#include <utility>
#include <vector>

namespace programs {

using twoheads::Index;

/// Multi-query associative recall: pairs of a key and a value, and later in the sequence each key once more, where its
/// value is asked for.
///
///   Shapes   a sequence has `tokens` ids: 2 `pairs` of the pairs, then places for queries, every second one. A third
///            of the vocabulary are keys, a third values, and with the others all places that are left are filled:
///            where any id may fill them, as in the source, a small vocabulary would contradict its pairs.
///   Math     query places have probability proportional to g^(power - 1), g = 1, 2, ... from the pairs on, none twice
///   Source   Arora et al., "Zoology: Measuring and Improving Recall in Efficient Language
///            Models" (ICLR 2024), appendix
struct RecallTask {
  Index tokens = 1024;
  Index pairs = 64;
  Index vocabulary = 256;
  double power = 0.01;

  /// Why there is no such task, or an empty text.
  [[nodiscard]] std::string fault() const {
    using twoheads::detail::text;
    if (pairs < 1 || places() < pairs)
      return text(pairs, " pairs and as many queries do not fit ", tokens, " tokens: expected 4 tokens a pair or more");
    if (pairs > vocabulary / 3)
      return text("a vocabulary of ", vocabulary, " has ", vocabulary / 3, " keys, expected ", pairs, " or more");
    return {};
  }

  [[nodiscard]] Index places() const { return (tokens - 2 * pairs) / 2; }

  /// Sequence `item` of step `step` of a run.
  [[nodiscard]] twoheads::Example operator()(std::uint64_t seed, Index step, Index item) const {
    using twoheads::detail::seed_of_part;
    const std::uint64_t own = seed_of_part(seed_of_part(seed, step), item);
    twoheads::detail::Draws draws(own);
    const Index third = vocabulary / 3;
    const std::vector<Index> keys = draws.order(third);
    const std::vector<Index> values = draws.order(third);
    twoheads::Example example;
    for (Index at = 0; at < tokens; ++at)
      example.ids.push_back(static_cast<int>(2 * third + draws.below(vocabulary - 2 * third)));
    example.targets.assign(static_cast<std::size_t>(tokens), -1);
    const std::vector<Index> query_places = some_places(own);
    for (Index pair = 0; pair < pairs; ++pair) {
      const auto key = static_cast<int>(keys[static_cast<std::size_t>(pair)]);
      const auto value = static_cast<int>(third + values[static_cast<std::size_t>(pair)]);
      const auto at = static_cast<std::size_t>(2 * pair);
      example.ids[at] = key;
      example.ids[at + 1] = value;
      const auto query = static_cast<std::size_t>(2 * (pairs + query_places[static_cast<std::size_t>(pair)]));
      example.ids[query] = key;
      example.targets[query] = value;
    }
    return example;
  }

 private:
  /// A place for each query, none twice: the largest of log(uniform) / weight are a draw without putting back.
  [[nodiscard]] std::vector<Index> some_places(std::uint64_t seed) const {
    twoheads::Random random(twoheads::detail::seed_of_part(seed, 1));
    std::vector<std::pair<double, Index>> drawn;
    for (Index place = 0; place < places(); ++place)
      drawn.emplace_back(std::log(random.uniform()) / std::pow(static_cast<double>(place + 1), power - 1), place);
    std::partial_sort(drawn.begin(), drawn.begin() + pairs, drawn.end(),
                      [](const auto& a, const auto& b) { return a > b; });
    std::vector<Index> chosen;
    for (Index pair = 0; pair < pairs; ++pair) chosen.push_back(drawn[static_cast<std::size_t>(pair)].second);
    return chosen;
  }
};

}  // namespace programs
