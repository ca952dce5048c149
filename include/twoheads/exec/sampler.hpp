#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <twoheads/base/draws.hpp>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/matrix.hpp>
#include <vector>

namespace twoheads {

/// How the next token is drawn.
struct SamplerOptions {
  double temperature = 0.0;  ///< 0: greedy, the largest score
  Index top_k = 0;           ///< among so many of the largest scores; 0: all
  double top_p = 1.0;        ///< and among the fewest of them that have together this probability
  std::uint64_t seed = 1;    ///< the same seed draws the same tokens
};

/// Draws the next token from its scores.
///
///   Math     p_i ~ exp(score_i / temperature) over the top_k largest scores; of these, in falling order, the first
///            whose sum reaches top_p, drawn in proportion to p_i
///   Laws     the same tokens for the same scores and seed, on every platform up to the rounding of exp. Of equal
///            scores the lower token comes first.
///   Throws   SpecError for options that make no sense; InputError for a score that is NaN or +infinity, or where all
///            are -infinity
class Sampler {
 public:
  explicit Sampler(const SamplerOptions& options = {}) : options_(options), draws_(options.seed) {
    if (!(options.temperature >= 0 && std::isfinite(options.temperature)))
      throw SpecError(detail::text("temperature is ", options.temperature, ", expected 0 or more"));
    if (options.top_k < 0) throw SpecError(detail::text("top_k is ", options.top_k, ", expected 0 or more"));
    if (!(options.top_p > 0 && options.top_p <= 1))
      throw SpecError(detail::text("top_p is ", options.top_p, ", expected more than 0, at most 1"));
  }

  /// Shapes: scores (1, vocabulary).
  template <RealScalar Scalar>
  [[nodiscard]] int operator()(const MatrixView<Scalar>& scores) {
    if (scores.rows() != 1 || scores.cols() < 1)
      throw ShapeError(detail::text("scores of ", scores.rows(), " x ", scores.cols(), " numbers, expected one row"));
    Index best = -1;
    for (Index token = 0; token < scores.cols(); ++token) {
      const Scalar score = scores(0, token);
      if (!(score <= std::numeric_limits<Scalar>::max()))
        throw InputError(detail::text("the score of token ", token, " is ", score, ", expected a number"));
      if (score > (best < 0 ? -std::numeric_limits<Scalar>::infinity() : scores(0, best))) best = token;
    }
    if (best < 0) throw InputError("all scores are -infinity: no token can be next");
    if (options_.temperature == 0 || options_.top_k == 1) return static_cast<int>(best);

    std::vector<Index> order(static_cast<std::size_t>(scores.cols()));
    std::iota(order.begin(), order.end(), Index{0});
    const auto count =
        options_.top_k == 0 ? order.size() : std::min(order.size(), static_cast<std::size_t>(options_.top_k));
    std::partial_sort(
        order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(),
        [&](Index a, Index b) { return scores(0, a) != scores(0, b) ? scores(0, a) > scores(0, b) : a < b; });
    std::vector<double> weights;
    double total = 0;
    const auto largest = static_cast<double>(scores(0, best));
    for (std::size_t i = 0; i < count; ++i) {
      weights.push_back(std::exp((static_cast<double>(scores(0, order[i])) - largest) / options_.temperature));
      total += weights.back();
    }
    double kept = 0;
    std::size_t last = 0;
    while (last < count && kept < options_.top_p * total) kept += weights[last++];
    constexpr Index steps = Index{1} << 53;
    double drawn = static_cast<double>(draws_.below(steps)) / static_cast<double>(steps) * kept;
    for (std::size_t i = 0; i < last; ++i)
      if ((drawn -= weights[i]) < 0) return static_cast<int>(order[i]);
    // The last subtraction may be rounded.
    return static_cast<int>(order[last - 1]);
  }

 private:
  SamplerOptions options_;
  detail::Draws draws_;
};

}  // namespace twoheads
