#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <twoheads/base/matrix.hpp>
#include <twoheads/oracle/oracle.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <twoheads/plan/limits.hpp>
#include <utility>
#include <vector>

namespace twoheads::detail {

/// Queries, keys and values of one head of a crafted call.
struct ProbeHead {
  Matrix<double> q, k, v;
};

/// A crafted call, and where its heads' answers stand in the rows that come back.
template <RealScalar S>
struct CraftedCall {
  std::string name;  ///< for messages
  std::unique_ptr<SmallWeights<S>> weights;
  OracleCall<S> call;
  std::vector<Rows> answers;  ///< columns of each head
};

/// A call whose weights select the columns [q | k | v] of each head, and add the answers to zero columns behind them
/// (residual) or leave them where the values stood. The answer is as wide as the tokens,
/// so that a residual stream shows.
///
///   Corner   layers beyond the first take what the first wrote as q, k and v, two columns of each head
template <RealScalar S>
[[nodiscard]] CraftedCall<S> craft(std::string name, const OracleLimits& limits, std::span<const ProbeHead> heads,
                                   Index layers = 1) {
  using P = Projection<S>;
  const Index rows = heads.front().q.rows();
  Index width = 0;
  for (const ProbeHead& head : heads)
    width += head.q.cols() + head.k.cols() + (limits.residual ? 1 + layers : 1) * head.v.cols();
  CraftedCall<S> made{std::move(name), std::make_unique<SmallWeights<S>>(), {}, {}};
  made.weights->width = width;
  made.weights->layers.assign(static_cast<std::size_t>(layers), SmallLayer<S>{{}, width, {}});
  made.call.rows = Matrix<S>::Zero(rows, width);
  Index begin = 0;
  for (const ProbeHead& head : heads) {
    const Index m = head.q.cols();
    const Index c = head.v.cols();
    made.call.rows.middleCols(begin, m) = head.q.cast<S>();
    made.call.rows.middleCols(begin + m, m) = head.k.cast<S>();
    made.call.rows.middleCols(begin + 2 * m, c) = head.v.cast<S>();
    Index out = begin + 2 * m + (limits.residual ? c : 0);
    SmallHead<S> weights{P::selector(begin, m), P::selector(begin + m, m), P::selector(begin + 2 * m, c), out};
    for (SmallLayer<S>& layer : made.weights->layers) {
      layer.heads.push_back(weights);
      const P last = P::selector(out, std::min<Index>({c, 2, limits.key_cols}));
      if (limits.residual) out += c;
      weights = {last, last, P::selector(weights.output_begin, c), out};
    }
    made.answers.push_back({weights.output_begin - (limits.residual ? c : 0), 0});
    made.answers.back().end = made.answers.back().begin + c;
    begin = made.answers.back().end;
  }
  made.call.weights = made.weights.get();
  return made;
}

/// What the declared attention of a crafted call is in float64.
template <RealScalar S>
[[nodiscard]] Matrix<double> evaluate_in_double(const OracleLimits& limits, const OracleCall<S>& call) {
  OracleLimits exact;
  exact.kind = limits.kind;
  exact.rows = std::max<Index>(2, call.rows.rows());
  exact.heads = limits.heads;
  exact.layers = limits.layers;
  exact.residual = limits.residual;
  exact.score_scale = limits.score_scale;
  SmallWeights<double> weights;
  weights.width = call.weights->width;
  Index width = weights.width;
  const auto map = [&](const Projection<S>& projection) {
    return Projection<double>::dense(
        0, std::make_shared<Matrix<double>>(projection.to_matrix(width).template cast<double>()));
  };
  for (const SmallLayer<S>& layer : call.weights->layers) {
    weights.layers.push_back({{}, layer.output_width, {}});
    for (const SmallHead<S>& head : layer.heads)
      weights.layers.back().heads.push_back({map(head.wq), map(head.wk), map(head.wv), head.output_begin});
    width = layer.output_width;
  }
  return SmallTransformer<double>(exact).run({&weights, call.rows.template cast<double>()});
}

/// The largest relative errors of numbers that are rounded as declared, and what is lost below the normal numbers.
struct DeclaredRounding {
  double tokens = 0, scores = 0, weights = 0, answers = 0;
  double least_weight = 0, least_answer = 0;  ///< absolute
  double scalar = 0;                          ///< of the scalar that the oracle is called in

  template <RealScalar S>
  [[nodiscard]] static DeclaredRounding of(const OraclePrecision& declared) {
    const double own = static_cast<double>(std::numeric_limits<S>::epsilon()) / 2;
    const auto unit = [&](Precision p) { return std::max(own, facts_of(p).unit_roundoff); };
    const auto least = [&](Precision p) {
      return std::max(static_cast<double>(std::numeric_limits<S>::min()), facts_of(p).least_normal) * unit(p);
    };
    return {unit(declared.tokens),
            unit(declared.scores),
            unit(declared.weights),
            unit(declared.answers),
            least(declared.weights),
            least(declared.answers),
            own};
  }

  /// Bound of the relative error of a share of attention over so many keys: the weights, their sum, and the answer.
  [[nodiscard]] double share(Index keys) const {
    return 2 * (weights + answers) + 2 * static_cast<double>(keys + 16) * scalar;
  }
};

/// Keys of each group of neighbours that a row sees, for every row.
///
///   Shapes   result (rows, groups)
[[nodiscard]] inline Matrix<double> seen_of_groups(OracleKind kind, Index rows, Index groups) {
  Matrix<double> seen = Matrix<double>::Zero(rows, groups);
  for (Index row = 0; row < rows; ++row)
    for (Index group = 0; group < groups; ++group) {
      const Rows keys = even_rows(group, groups, rows);
      const Index end = kind == OracleKind::causal ? std::min(keys.end, row + 1) : keys.end;
      seen(row, group) = static_cast<double>(std::max<Index>(0, end - keys.begin));
    }
  return seen;
}

/// Values that make an answer the share of attention that each group of neighbouring keys has: one-hot rows, and the
/// matrix of attention itself, where there are as many groups as rows.
[[nodiscard]] inline Matrix<double> group_values(Index rows, Index groups) {
  Matrix<double> values = Matrix<double>::Zero(rows, groups);
  for (Index group = 0; group < groups; ++group) {
    const Rows keys = even_rows(group, groups, rows);
    values.block(keys.begin, group, keys.size(), 1).setOnes();
  }
  return values;
}

}  // namespace twoheads::detail
