#pragma once

#include <cmath>
#include <limits>
#include <twoheads/model/random.hpp>
#include <twoheads/oracle/any_oracle.hpp>
#include <twoheads/oracle/rounding.hpp>
#include <twoheads/simulate.hpp>
#include <vector>

#include "support/instances.hpp"
#include "support/naive.hpp"
#include "support/seed.hpp"

/// Attention by oracles of low precision, and its error.
namespace low_precision {

using namespace twoheads;

inline constexpr Index head_dim = 16;

/// q, k and v as an oracle of that precision holds them.
struct Problem {
  Matrix<float> q, k, v;
};

inline Problem problem(Index tokens, double largest_logit, Precision precision) {
  Random random(seed_or(7));
  Problem p{random.matrix<float>(tokens, head_dim), random.matrix<float>(tokens, head_dim),
            random.matrix<float>(tokens, head_dim)};
  const float found = (p.q * p.k.transpose()).cwiseAbs().maxCoeff();
  const auto factor = static_cast<float>(std::sqrt(largest_logit / static_cast<double>(found)));
  p.q *= factor;
  p.k *= factor;
  for (Matrix<float>* rows : {&p.q, &p.k, &p.v}) round_in_place(*rows, precision);
  return p;
}

inline AttentionSpec spec_of(const Mask& mask) {
  AttentionSpec spec;
  spec.head_dim = spec.value_dim = head_dim;
  spec.mask = mask;
  return spec;
}

inline OracleLimits limits_of(OracleKind kind, Precision precision, bool fixed = false) {
  OracleLimits limits;
  limits.kind = kind;
  limits.rows = 65;
  limits.fixed_rows = fixed;
  limits.precision = mixed_precision(precision);
  return limits;
}

/// The largest relative row error against direct evaluation in a wider scalar; infinite where a row is not finite.
inline double row_error(const Problem& p, const Mask& mask, const Matrix<float>& found) {
  const naive::Table truth =
      naive::attention(spec_of(mask), naive::plain(p.q), naive::plain(p.k), naive::plain(p.v), naive::visible(mask));
  double worst = 0;
  for (Index row = 0; row < found.rows(); ++row) {
    naive::Real error = 0;
    naive::Real size = 0;
    for (Index col = 0; col < found.cols(); ++col) {
      const naive::Real exact = truth[naive::at(row)][naive::at(col)];
      error += std::pow(static_cast<naive::Real>(found(row, col)) - exact, 2);
      size += exact * exact;
    }
    const auto relative = static_cast<double>(std::sqrt(error / size));
    if (!(relative <= worst)) worst = std::isfinite(relative) ? relative : std::numeric_limits<double>::infinity();
  }
  return worst;
}

inline Matrix<float> simulated(const Problem& p, const Mask& mask, const OracleLimits& limits, Anchor anchor,
                               bool checksums = false) {
  AnyOracle<float> oracle([limits] { return RoundingTransformer<float>(limits); });
  SimulationOptions options;
  options.anchor = anchor;
  options.checksums = checksums;
  GridAttention<AnyOracle<float>> grid(oracle, options);
  Matrix<float> out(p.q.rows(), head_dim);
  const AttentionSpec spec = spec_of(mask);
  grid(projected_input(spec, view(p.q), view(p.k), view(p.v)), span(out));
  return out;
}

inline const std::vector<Mask> masks{Mask{MaskKind::full}, Mask{MaskKind::causal}, Mask::window_and_sinks(40, 3)};

}  // namespace low_precision
