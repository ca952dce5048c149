#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "support/hard_verdict.hpp"

/// Hard cases from the theory of transformers, built by hand: the exact answer to each is whole numbers.
///
/// Every model works on named columns of a token row (the residual stream), each of which one head writes at most once.
/// Symbols and positions are codes of signs, +1 or -1 for each binary digit: a code's product with itself is its length
/// C, with any other code of that length at most C - 2. Weights, inputs and the scores of a first layer are whole
/// numbers below 2^24: float and double hold them exactly, and equal scores are equal bits.
namespace programs {

/// No score is larger. The strength of a head is the largest whole number that keeps to it.
inline constexpr Index largest_logit = 10000;

/// Columns of a token row, given out from the left.
struct Columns {
  Index begin = 0;
  Index size = 0;
  [[nodiscard]] Columns next(Index count) const { return {begin + size, count}; }
  [[nodiscard]] Index end() const { return begin + size; }
};

/// Signs that tell `count` numbers apart; two or more, so that a token without a code (score 0) does not match either.
[[nodiscard]] inline Index code_length(Index count) {
  Index length = 2;
  while ((Index{1} << length) < count) ++length;
  return length;
}

/// The factor of a head's queries for scores of `most` at most before it.
[[nodiscard]] inline Index strength(Index most) { return largest_logit / most; }

inline void write_code(Matrix<double>& x, Index row, const Columns& columns, Index number) {
  for (Index digit = 0; digit < columns.size; ++digit)
    x(row, columns.begin + digit) = (number >> digit) % 2 == 1 ? 1.0 : -1.0;
}

/// Lets weights carry columns of the row to columns of the head (wq, wk, wv), or of the head to the row (wo).
inline void carry(Matrix<double>& weights, const Columns& from, Index to, double factor = 1.0) {
  for (Index i = 0; i < from.size; ++i) weights(from.begin + i, to + i) = factor;
}

/// A model of single heads, without norms and MLPs, that adds what its heads find to the row; all weights are zero.
[[nodiscard]] inline Model<double> empty_model(Index layers, Index width, Index head_dim, Index value_dim,
                                               const Mask& mask) {
  Model<double> model;
  model.spec.layers = layers;
  model.spec.width = width;
  model.spec.attention.head_dim = head_dim;
  model.spec.attention.value_dim = value_dim;
  model.spec.attention.mask = mask;
  for (Index layer = 0; layer < layers; ++layer) {
    twoheads::AttentionWeights<double> weights;
    weights.wq.setZero(width, head_dim);
    weights.wk.setZero(width, head_dim);
    weights.wv.setZero(width, value_dim);
    weights.wo.setZero(value_dim, width);
    model.layers.push_back({{}, weights, {}, {}});
  }
  return model;
}

/// Counts every symbol by uniform attention: all scores are 0, so the mean of the symbols' indicators is their share.
///
///   Columns  [symbol, one of V columns is 1 | answer, V]
///   Math     answer_v = count_v / n, n keys seen; count_v = round(n answer_v)
///   Source   the usual first example of what one head can do: the mean over all keys
[[nodiscard]] inline HardCase counting(const Text& text, Index vocabulary, bool causal) {
  HardCase result;
  const Columns symbol{0, vocabulary};
  const Columns answer = symbol.next(vocabulary);
  const auto tokens = static_cast<Index>(text.size());
  result.name = causal ? "counting, causal" : "counting, full";
  result.model = empty_model(1, answer.end(), 1, vocabulary, causal ? Mask::causal() : Mask::full());
  carry(result.model.layers[0].attention.wv, symbol, 0);
  carry(result.model.layers[0].attention.wo, {0, vocabulary}, answer.begin);
  result.x.setZero(tokens, answer.end());
  for (Index i = 0; i < tokens; ++i) result.x(i, text[at(i)]) = 1.0;
  result.answers = counts_of_symbols(text, vocabulary, causal);
  result.reading = Reading::share;
  result.answer = answer.begin;
  result.most_keys = tokens;
  return result;
}

/// Evaluates a function in one layer: row i holds the pair (a_i, f(a_i)) and a query x_i, and finds f(x_i) by attention
/// to the one row whose argument is x_i.
///
///   Columns  [argument's code, C | query's code, C | value | answer]
///   Math     score = s code(x) . code(a), s = strength(C): s C on the match, s (C - 2) or less elsewhere. All other
///            keys together weigh at most N exp(-2 s): nothing in any scalar.
///   Source   function evaluation, also called index look-up: one layer does it with O(log N) columns
[[nodiscard]] inline HardCase function_evaluation(const Text& function, const Text& arguments, const Text& queries) {
  HardCase result;
  const auto tokens = static_cast<Index>(arguments.size());
  const Columns argument{0, code_length(static_cast<Index>(function.size()))};
  const Columns query = argument.next(argument.size);
  const Columns value = query.next(1);
  const Columns answer = value.next(1);
  const Index factor = strength(argument.size);
  result.name = "function evaluation";
  result.model = empty_model(1, answer.end(), argument.size, 1, Mask::full());
  twoheads::AttentionWeights<double>& head = result.model.layers[0].attention;
  carry(head.wq, query, 0, static_cast<double>(factor));
  carry(head.wk, argument, 0);
  carry(head.wv, value, 0);
  carry(head.wo, {0, 1}, answer.begin);
  result.x.setZero(tokens, answer.end());
  for (Index i = 0; i < tokens; ++i) {
    write_code(result.x, i, argument, arguments[at(i)]);
    write_code(result.x, i, query, queries[at(i)]);
    result.x(i, value.begin) = static_cast<double>(function[at(arguments[at(i)])]);
  }
  result.answers = values_of(function, queries);
  result.answer = answer.begin;
  result.logit = factor * argument.size;
  result.margin = 2 * factor;
  return result;
}

/// Looks up 2-grams in one layer: how often each symbol has followed the row's own symbol so far.
///
/// A row holds its symbol and the one before it. Every row up to this one whose symbol before is the own symbol
/// matches, all with the same score. So does the start mark in row 0: its share of the attention is one in matches + 1,
/// and a symbol's count is its share over that of the mark. No reader needs to know the number of matches.
///
///   Columns  [own code, C | code of the symbol before, C | 1 | 1 in row 0 | indicator of the own symbol, V, and of the
///            mark, 1 | answer, V + 1]
///   Math     score = s (own code . code before), s = strength(C); s C on the mark: matches have s C, others s (C - 2)
///            or less. Scores that match are equal bits, so their exponentials differ by the roundings of exp alone.
///   Corner   an oracle that multiplies scores by anything but a power of two may round the mark's score and those of
///            the matches apart, by up to 1e-3 in float
///   Source   n-gram models as attention to the places after the same context
[[nodiscard]] inline HardCase bigram_counts(const Text& text, Index vocabulary) {
  HardCase result;
  const auto tokens = static_cast<Index>(text.size()) + 1;
  const Columns own{0, code_length(vocabulary)};
  const Columns before = own.next(own.size);
  const Columns one = before.next(1);
  const Columns start = one.next(1);
  const Columns indicator = start.next(vocabulary + 1);
  const Columns answer = indicator.next(vocabulary + 1);
  const Index factor = strength(own.size);
  result.name = "2-gram look-up";
  result.model = empty_model(1, answer.end(), own.size + 1, vocabulary + 1, Mask::causal());
  twoheads::AttentionWeights<double>& head = result.model.layers[0].attention;
  carry(head.wq, own, 0, static_cast<double>(factor));
  carry(head.wq, one, own.size, static_cast<double>(factor * own.size));
  carry(head.wk, before, 0);
  carry(head.wk, start, own.size);
  carry(head.wv, indicator, 0);
  carry(head.wo, {0, vocabulary + 1}, answer.begin);
  result.x.setZero(tokens, answer.end());
  result.x.col(one.begin).setOnes();
  result.x(0, start.begin) = 1.0;
  result.x(0, indicator.begin + vocabulary) = 1.0;
  for (Index i = 1; i < tokens; ++i) {
    write_code(result.x, i, own, text[at(i - 1)]);
    if (i > 1) write_code(result.x, i, before, text[at(i - 2)]);
    result.x(i, indicator.begin + text[at(i - 1)]) = 1.0;
  }
  result.answers = counts_of_followers(text, vocabulary);
  result.reading = Reading::ratio;
  result.answer = answer.begin;
  result.logit = factor * own.size;
  result.margin = 2 * factor;
  result.most_keys = tokens;
  return result;
}

/// Finds what followed the earlier occurrence of the last `context` symbols (1 or 2), in two layers: a head that
/// fetches from the row before, then one that matches and copies. The answer is 1 + symbol, or 0 for none.
///
/// With one symbol of context this is the induction head: a row holds its own symbol, layer 1 fetches the symbol before
/// it, and layer 2 attends from a row with symbol a to the row whose symbol before is a, and copies that row's symbol.
/// With two it looks up 3-grams: a row holds its own symbol and the one before, layer 1 fetches the one before that.
///
///   Columns  [code of position i, B | code of position i - 1, B | codes of the row's `context` symbols, C each, oldest
///            first | code that layer 1 fetches, C | 1 | 1 in row 0 | 1 + own symbol | answer]
///   Math     layer 1: score = s code(i - 1) . code(j), s = strength(B): s B on the row before, s (B - 2) or less
///            elsewhere. layer 2: score = s (context of i) . (context that ends before j), s = strength(D) for D = C
///            context signs: s D on a match, s (D - 1) on the start mark in row 0, s (D - 2) or less elsewhere. Without
///            a match the mark is the largest, and says 0. All other keys together weigh at most N exp(-s): nothing,
///            for s >= 300 at N <= 65536.
///   Corner   the text must hold every context at most twice. To prefer the latest of several matches, scores would
///            have to grow with every position by ln(2 * 65536), about 12: logits of 1e4 allow that for a few hundred
///            tokens only. The start mark has no code: it fetches from itself, and the row after it fetches nothing;
///            contexts that reach it match nothing.
///   Source   previous-token and induction heads, with saturated (nearly hard) attention
[[nodiscard]] inline HardCase copy_after_match(const Text& text, Index vocabulary, Index context) {
  HardCase result;
  const auto tokens = static_cast<Index>(text.size()) + 1;
  const Columns here{0, code_length(tokens)};
  const Columns previous = here.next(here.size);
  const Index length = code_length(vocabulary);
  const Columns symbols = previous.next(context * length);
  const Columns fetched = symbols.next(length);
  const Columns one = fetched.next(1);
  const Columns start = one.next(1);
  const Columns number = start.next(1);
  const Columns answer = number.next(1);
  const Index signs = context * length;
  const Index position_factor = strength(here.size);
  const Index factor = strength(signs);
  result.name = context == 1 ? "induction head" : "3-gram look-up";
  result.model = empty_model(2, answer.end(), std::max(here.size, signs + 1), length, Mask::causal());

  // Layer 1: the oldest symbol of the row before.
  twoheads::AttentionWeights<double>& previous_token = result.model.layers[0].attention;
  carry(previous_token.wq, previous, 0, static_cast<double>(position_factor));
  carry(previous_token.wk, here, 0);
  carry(previous_token.wv, {symbols.begin, length}, 0);
  carry(previous_token.wo, {0, length}, fetched.begin);

  // Layer 2: the row's context against that which ends just before a key. Fetched is the oldest symbol of the latter;
  // the symbols that the key's row holds before its own are the later ones.
  twoheads::AttentionWeights<double>& match = result.model.layers[1].attention;
  carry(match.wq, symbols, 0, static_cast<double>(factor));
  carry(match.wq, one, signs, static_cast<double>(factor * (signs - 1)));
  carry(match.wk, fetched, 0);
  carry(match.wk, {symbols.begin, signs - length}, length);
  carry(match.wk, start, signs);
  carry(match.wv, number, 0);
  carry(match.wo, {0, 1}, answer.begin);

  result.x.setZero(tokens, answer.end());
  result.x.col(one.begin).setOnes();
  result.x(0, start.begin) = 1.0;
  for (Index i = 0; i < tokens; ++i) {
    write_code(result.x, i, here, i);
    write_code(result.x, i, previous, std::max<Index>(i - 1, 0));
    if (i == 0) continue;
    for (Index age = 0; age < std::min(context, i); ++age)
      write_code(result.x, i, {symbols.begin + (context - 1 - age) * length, length}, text[at(i - 1 - age)]);
    result.x(i, number.begin) = static_cast<double>(1 + text[at(i - 1)]);
  }
  result.answers = follower_of_context(text, context);
  result.answer = answer.begin;
  result.logit = std::max(position_factor * here.size, factor * signs);
  result.margin = std::min(2 * position_factor, factor);
  return result;
}

/// A previous-token head under a window of two keys, the row before and the row itself: one sign tells them apart.
///
///   Columns  [parity of position i, a sign | 1 + symbol, 0 for the start mark in row 0 | answer]
///   Math     score = s parity(i - 1) parity(j), s = strength(1): s on the row before, -s on the row itself, which
///            weighs exp(-2 s) beside it
///   Corner   row 0 sees itself alone, and answers 0
[[nodiscard]] inline HardCase previous_token(const Text& text) {
  HardCase result;
  const auto tokens = static_cast<Index>(text.size()) + 1;
  const Columns parity{0, 1};
  const Columns number = parity.next(1);
  const Columns answer = number.next(1);
  const Index factor = strength(1);
  result.name = "previous token, window of two";
  result.model = empty_model(1, answer.end(), 1, 1, Mask::sliding_window(2));
  twoheads::AttentionWeights<double>& head = result.model.layers[0].attention;
  carry(head.wq, parity, 0, -static_cast<double>(factor));
  carry(head.wk, parity, 0);
  carry(head.wv, number, 0);
  carry(head.wo, {0, 1}, answer.begin);
  result.x.setZero(tokens, answer.end());
  for (Index i = 0; i < tokens; ++i) {
    result.x(i, parity.begin) = i % 2 == 0 ? 1.0 : -1.0;
    if (i > 0) result.x(i, number.begin) = static_cast<double>(1 + text[at(i - 1)]);
  }
  result.answers = tokens_before(text);
  result.answer = answer.begin;
  result.logit = factor;
  result.margin = 2 * factor;
  return result;
}

enum class Problem { counting_causal, counting_full, function_evaluation, bigram, trigram, induction };

inline constexpr std::array problems{Problem::counting_causal, Problem::counting_full, Problem::function_evaluation,
                                     Problem::bigram,          Problem::trigram,       Problem::induction};

/// A case of so many tokens (1 or more), at random for the seed. Where an earlier context is looked up, the vocabulary
/// is so large that contexts need not occur more than twice.
[[nodiscard]] inline HardCase make_case(Problem problem, Index tokens, std::uint64_t seed) {
  constexpr Index few = 4;
  constexpr Index more = 16;
  switch (problem) {
    case Problem::counting_causal:
    case Problem::counting_full:
      return counting(random_text(tokens, few, seed), few, problem == Problem::counting_causal);
    case Problem::function_evaluation:
      return function_evaluation(random_text(tokens, tokens, seed), random_order(tokens, seed + 1),
                                 random_text(tokens, tokens, seed + 2));
    case Problem::bigram:
      return bigram_counts(random_text(tokens - 1, more, seed), more);
    case Problem::trigram: {
      Index vocabulary = 2;
      while (vocabulary * vocabulary < tokens) ++vocabulary;
      return copy_after_match(text_of_twin_pairs(tokens - 1, vocabulary, seed), vocabulary, 2);
    }
    case Problem::induction:
      break;
  }
  return copy_after_match(text_of_twins(tokens - 1, seed), std::max<Index>(tokens / 2, 1), 1);
}

}  // namespace programs
