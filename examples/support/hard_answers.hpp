#pragma once

#include <algorithm>
#include <map>
#include <numeric>
#include <random>
#include <stdexcept>
#include <twoheads/base/index.hpp>
#include <utility>
#include <vector>

/// Texts for the hard cases of hard_cases.hpp, and their answers by plain counting:
/// integers only, and nothing of the models.
namespace programs {

using twoheads::Index;

/// Symbols 0..vocabulary-1, one a token.
using Text = std::vector<Index>;

/// One row of whole numbers a token.
using Table = std::vector<std::vector<Index>>;

[[nodiscard]] inline std::size_t at(Index index) { return static_cast<std::size_t>(index); }

/// A number from 0 to count - 1, nearly uniform and the same everywhere; std::uniform_int_distribution is not.
[[nodiscard]] inline Index draw(std::mt19937_64& bits, Index count) {
  return static_cast<Index>(bits() % static_cast<std::uint64_t>(count));
}

/// Independent symbols.
[[nodiscard]] inline Text random_text(Index length, Index vocabulary, std::uint64_t seed) {
  std::mt19937_64 bits(seed);
  Text text(at(length));
  for (Index& symbol : text) symbol = draw(bits, vocabulary);
  return text;
}

/// The numbers 0..count-1 in random order.
[[nodiscard]] inline Text random_order(Index count, std::uint64_t seed) {
  std::mt19937_64 bits(seed);
  Text order(at(count));
  std::iota(order.begin(), order.end(), Index{0});
  for (Index last = count - 1; last > 0; --last) std::swap(order[at(last)], order[at(draw(bits, last + 1))]);
  return order;
}

/// The symbols 0..ceil(length / 2)-1 in random order, each twice (the last one once where the length is odd): at most
/// one earlier occurrence of every symbol.
[[nodiscard]] inline Text text_of_twins(Index length, std::uint64_t seed) {
  Text text = random_order(length, seed);
  for (Index& symbol : text) symbol /= 2;
  return text;
}

/// A random text in which every pair of neighbours occurs at most twice, though its symbols occur about 2 * vocabulary
/// times each: at most one earlier occurrence of every pair.
///
///   Corner   a random walk on the pairs that are left; it may end early only where length is near 2 * vocabulary^2
///   Throws   std::runtime_error if the walk ends early
[[nodiscard]] inline Text text_of_twin_pairs(Index length, Index vocabulary, std::uint64_t seed) {
  std::mt19937_64 bits(seed);
  Table seen(at(vocabulary), std::vector<Index>(at(vocabulary), 0));
  Text text;
  for (Index place = 0; place < length; ++place) {
    Index symbol = draw(bits, vocabulary);
    if (place > 0) {
      std::vector<Index>& followers = seen[at(text.back())];
      for (Index tries = 0; followers[at(symbol)] == 2; ++tries) {
        if (tries == vocabulary) throw std::runtime_error("no pair is left to go on with; another seed may do");
        symbol = (symbol + 1) % vocabulary;
      }
      ++followers[at(symbol)];
    }
    text.push_back(symbol);
  }
  return text;
}

/// Row i, column v: how many tokens are the symbol v, among tokens 0..i or among all.
[[nodiscard]] inline Table counts_of_symbols(const Text& text, Index vocabulary, bool causal) {
  Table table;
  std::vector<Index> counts(at(vocabulary), 0);
  for (const Index symbol : text) {
    ++counts[at(symbol)];
    table.push_back(counts);
  }
  if (!causal) std::fill(table.begin(), table.end(), counts);
  return table;
}

/// Row i: function(queries[i]).
[[nodiscard]] inline Table values_of(const Text& function, const Text& queries) {
  Table table;
  for (const Index query : queries) table.push_back({function[at(query)]});
  return table;
}

/// Row i + 1, column v: how often v has followed the token i of the text so far, up to token i itself. Row 0 is that of
/// the start mark before the text, and zero.
[[nodiscard]] inline Table counts_of_followers(const Text& text, Index vocabulary) {
  Table followers(at(vocabulary), std::vector<Index>(at(vocabulary), 0));
  Table table{std::vector<Index>(at(vocabulary), 0)};
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (i > 0) ++followers[at(text[i - 1])][at(text[i])];
    table.push_back(followers[at(text[i])]);
  }
  return table;
}

/// Row i + 1: 1 + token i - 1 of the text, or 0 where there is none. Row 0 is that of the start mark, and 0.
[[nodiscard]] inline Table tokens_before(const Text& text) {
  Table table{{0}};
  for (std::size_t i = 0; i < text.size(); ++i) table.push_back({i > 0 ? 1 + text[i - 1] : 0});
  return table;
}

/// Row i + 1: 1 + the token that followed the latest earlier occurrence of the `context` tokens that end with token i,
/// or 0 where they have none. Row 0 is that of the start mark before the text, and 0.
[[nodiscard]] inline Table follower_of_context(const Text& text, Index context) {
  std::map<Text, std::size_t> ends;
  Table table{{0}};
  for (std::size_t i = 0; i < text.size(); ++i) {
    Index answer = 0;
    if (static_cast<Index>(i) + 1 >= context) {
      const Text key(text.begin() + (static_cast<Index>(i) + 1 - context), text.begin() + static_cast<Index>(i) + 1);
      const auto earlier = ends.find(key);
      if (earlier != ends.end()) answer = 1 + text[earlier->second + 1];
      ends[key] = i;
    }
    table.push_back({answer});
  }
  return table;
}

}  // namespace programs
