#pragma once

#include <twoheads/attention/partial.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/plan/plan.hpp>

namespace twoheads {
/// Joins the partials of one layer into its output rows, one query block of one head at a time.
///
///   Shapes   out (N, heads * value_dim); log_weights (N, heads) or empty: those of the joined rows, in nats
///   Laws     partials arrive in the plan's order of jobs and are joined in that order, so the bits of the output do
///            not depend on how calls were batched or answered.
///            Memory: one query block of one head, in float64 or wider.
///   Corner   query blocks without a job are not written. A learned sink is a partial more for each row, of the value
///            zero and its logit as the log weight
///   Source   Yu & Alman, Lemma 3.1: the merge is the host's, it takes no call
template <RealScalar Scalar>
class Merger {
 public:
  /// `first_row` is the position of out's first row; sink_logits (1, heads) or empty.
  Merger(MatrixSpan<Scalar> out, Index value_dim, Index first_row = 0,
         const MatrixView<Scalar>& sink_logits = no_rows<Scalar>(),
         MatrixSpan<double> log_weights = {nullptr, 0, 0, Eigen::OuterStride<>(0)})
      : out_(out), value_dim_(value_dim), first_row_(first_row), sink_logits_(sink_logits), log_weights_(log_weights) {}

  /// Joins the next partial, in the plan's order.
  void operator()(const Job& job, const Partial<Scalar>& partial) {
    if (job.query_block != block_ || job.head != head_) {
      finish();
      block_ = job.query_block;
      head_ = job.head;
      queries_ = job.block_queries;
      sum_ = Partial<SumScalar<Scalar>>::empty(queries_.size(), value_dim_);
    }
    TWOHEADS_ASSERT(queries_.begin <= job.tile.queries.begin && job.tile.queries.end <= queries_.end);
    merge_into(sum_, partial, job.tile.queries.begin - queries_.begin, job.tile.log_factor());
  }

  /// Writes the last query block; to be called once after the last partial.
  void finish() {
    if (block_ < 0) return;
    if (sink_logits_.size() > 0) {
      Partial<SumScalar<Scalar>> sink = Partial<SumScalar<Scalar>>::empty(sum_.rows(), value_dim_);
      sink.log_weight.setConstant(static_cast<double>(sink_logits_(0, head_)));
      merge_into(sum_, sink);
    }
    const Rows place{queries_.begin - first_row_, queries_.end - first_row_};
    block_span(out_, place, head_ * value_dim_, value_dim_) = sum_.value.template cast<Scalar>();
    if (log_weights_.size() > 0) log_weights_.col(head_).segment(place.begin, place.size()) = sum_.log_weight;
    block_ = -1;
  }

 private:
  MatrixSpan<Scalar> out_;
  Index value_dim_;
  Index first_row_;
  MatrixView<Scalar> sink_logits_;
  MatrixSpan<double> log_weights_;
  Index block_ = -1;
  Index head_ = -1;
  Rows queries_;
  Partial<SumScalar<Scalar>> sum_;
};

}  // namespace twoheads
