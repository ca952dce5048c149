#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <twoheads/attention/partial.hpp>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/merge/f_quantile.hpp>
#include <twoheads/merge/merger.hpp>
#include <twoheads/plan/plan.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// An error bar for each row of a sampled layer, from the partials that it drew: a sink beside the Merger.
///
/// A bar of level p is a number that ||row - exact row||_2 stays under with probability p, over the draw of key blocks,
/// for one head's columns and this layer's own sample: what an earlier layer's sample did to q, k and v is not in it.
///
///   Shapes   result (N, heads); 0 where a row is exact
///   Math     of F far blocks, S are drawn with weights A_s and values O_s. With A the row's whole weight, the drawn
///            ones counted F / S times, the row y moves with a block's presence by e_s = A_s (O_s - y) / A (the
///            delta method for a ratio), C is the sample covariance of the e_s, of S - 1 degrees of freedom, and
///              V     = F^2 / S (1 - S / F) tr C              estimates E ||row - exact row||^2
///              nu    = (tr C)^2 / tr(C^2)                    directions that the error spreads over, 1 to value_dim
///              bar^2 = V F_p(nu, (S - 1) nu)                 F_p: Fisher's quantile
///            nu is one figure a head, from unbiased estimates of (tr C)^2 and tr(C^2) summed over rows. For one
///            direction the bar is Student's t interval.
///   Laws     exact for e_s that are normal with the same variance in each of nu directions; otherwise Satterthwaite's
///            approximation. The draw is without replacement: 1 - S / F is the finite population correction.
///   Corner   S = 1 says nothing of its own error. For S = 2 nu = 1 is taken, which makes the bars four times too wide
///            or more. The bars are too short where few far keys carry most of the weight: a block that was not drawn
///            is not seen, and e_s is then far from normal. Measured on normal numbers, S = 4 and 8 of 17 blocks of 32
///            keys, level 0.9: logits of deviation 0.4, 1, 2, 3 are covered to 0.91, 0.93, 0.82, 0.61. Memory while on:
///            S partials of one query block and head, S rows value_dim numbers.
///   Throws   SpecError for a level outside (0, 1), or where one block only was drawn
///   Source   not in the paper; W. Cochran, Sampling Techniques, ch. 2 and 6 (ratio estimators, finite populations)
template <RealScalar Scalar>
class ErrorBars {
 public:
  ErrorBars(Index queries, Index heads, Index value_dim, double level)
      : value_dim_(value_dim),
        level_(level),
        bars_(Matrix<double>::Zero(queries, heads)),
        spreads_(static_cast<std::size_t>(heads)) {
    if (!(level > 0 && level < 1))
      throw SpecError(detail::text("the level of error bars is ", level, ", expected more than 0 and less than 1"));
  }

  /// Takes a partial, in the plan's order.
  void operator()(const Job& job, const Partial<Scalar>& partial) {
    if (job.query_block != block_ || job.head != head_) {
      finish_block();
      block_ = job.query_block;
      head_ = job.head;
      queries_ = job.block_queries;
      sum_ = Partial<double>::empty(queries_.size(), value_dim_);
    }
    const Tile& tile = job.tile;
    const Index first = tile.queries.begin - queries_.begin;
    merge_into(sum_, partial, first, tile.log_factor());
    if (!tile.sampled()) return;
    if (tile.drawn < 2)
      throw SpecError("error bars need the spread of 2 samples or more, the plan draws 1: expected more samples");
    stands_for_ = tile.stands_for;
    // The two triangles of a block are drawn together: they are one sample.
    if (drawn_.empty() || tile.keys != last_keys_)
      drawn_.push_back(Partial<double>::empty(queries_.size(), value_dim_));
    last_keys_ = tile.keys;
    merge_into(drawn_.back(), partial, first);
  }

  /// The bars; to be called once after the last partial.
  [[nodiscard]] Matrix<double> finish() {
    finish_block();
    for (Index head = 0; head < bars_.cols(); ++head) {
      const Spread& spread = spreads_[static_cast<std::size_t>(head)];
      if (spread.degrees < 1) continue;
      const double directions = spread.directions(value_dim_);
      bars_.col(head) *= std::sqrt(detail::f_quantile(level_, directions, directions * spread.degrees));
    }
    return std::move(bars_);
  }

 private:
  /// What the rows of a head say of the directions that their errors spread over.
  struct Spread {
    double degrees = 0;       ///< S - 1
    double square_trace = 0;  ///< estimates of (tr C)^2, summed
    double trace_square = 0;  ///< estimates of tr(C^2), summed

    /// Adds a sample covariance of trace `trace` and squared Frobenius norm `square`; both estimates are unbiased for
    /// normal numbers (Wishart's second moments).
    void add(double trace, double square) {
      if (degrees < 2) return;
      const double n = degrees;
      const double estimate = n * n / ((n - 1) * (n + 2)) * (square - trace * trace / n);
      trace_square += estimate;
      square_trace += trace * trace - 2 * estimate / n;
    }

    [[nodiscard]] double directions(Index most) const {
      if (!(trace_square > 0)) return degrees < 2 ? 1.0 : static_cast<double>(most);
      return std::clamp(square_trace / trace_square, 1.0, static_cast<double>(most));
    }
  };

  /// Leaves sqrt(V) of the block's rows in their bars.
  void finish_block() {
    const auto samples = static_cast<Index>(drawn_.size());
    if (samples > 0) {
      const double drawn = static_cast<double>(samples);
      const double far = static_cast<double>(stands_for_);
      Spread& spread = spreads_[static_cast<std::size_t>(head_)];
      spread.degrees = drawn - 1;
      Matrix<double> moves(samples, value_dim_);
      for (Index row = 0; row < queries_.size(); ++row) {
        for (Index s = 0; s < samples; ++s) {
          const Partial<double>& part = drawn_[static_cast<std::size_t>(s)];
          const double weight = std::exp(part.log_weight[row] - sum_.log_weight[row]);
          moves.row(s) = weight * (part.value.row(row) - sum_.value.row(row));
        }
        const RowVector<double> mean = moves.colwise().mean();
        moves.rowwise() -= mean;
        const double trace = moves.squaredNorm() / (drawn - 1);
        bars_(queries_.begin + row, head_) = std::sqrt(far * far / drawn * (1 - drawn / far) * trace);
        // Rows of a block share their draws and say nearly the same of the directions: an eighth of them will do.
        if (row % 8 == 0) spread.add(trace, square_of_product(moves) / ((drawn - 1) * (drawn - 1)));
      }
      drawn_.clear();
    }
    block_ = -1;
  }

  /// ||E^T E||^2 = ||E E^T||^2 (Frobenius): whichever product is the smaller.
  [[nodiscard]] static double square_of_product(const Matrix<double>& e) {
    double sum = 0;
    if (e.rows() <= e.cols()) {
      for (Index i = 0; i < e.rows(); ++i)
        for (Index j = 0; j < e.rows(); ++j) sum += square(e.row(i).dot(e.row(j)));
    } else {
      for (Index i = 0; i < e.cols(); ++i)
        for (Index j = 0; j < e.cols(); ++j) sum += square(e.col(i).dot(e.col(j)));
    }
    return sum;
  }
  [[nodiscard]] static double square(double x) { return x * x; }

  Index value_dim_;
  double level_;
  Matrix<double> bars_;
  std::vector<Spread> spreads_;
  Index block_ = -1;
  Index head_ = -1;
  Rows queries_;
  Partial<double> sum_;
  std::vector<Partial<double>> drawn_;  ///< of the query block and head at hand
  Rows last_keys_;
  Index stands_for_ = 1;
};

}  // namespace twoheads
