#pragma once

#include <algorithm>
#include <functional>
#include <twoheads/model/row_function.hpp>
#include <twoheads/oracle/weights.hpp>
#include <twoheads/paper/cells.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// A single-head instance as it stands in a call of known length.
///
///   Shapes   rows (rows of the call, width); head reads columns 0..width and answers head.wv.cols() columns, which
///            `mlp`, if set, then changes in place; first_row is the position that it is told
template <class CellsType>
struct InstanceCall {
  CellsType rows;
  SmallHead<typename CellsType::Scalar> head;
  RowFunction mlp;
  Index first_row = 0;
};

/// A single-head instance that waits for a call: the rows that it needs, and how it is laid out in a call of more.
template <class CellsType>
struct Instance {
  Index rows = 0;
  std::function<InstanceCall<CellsType>(Index call_rows)> build;  ///< lays it out for a call of so many rows
};

namespace detail {

/// The output MLP of a call: each instance's own on its own columns.
struct SideBySide {
  struct Part {
    Index begin = 0;
    Index cols = 0;
    Index first_row = 0;
    RowFunction mlp;
  };
  std::vector<Part> parts;

  template <RealScalar Scalar>
  void operator()(Index, MatrixSpan<Scalar>& rows) const {
    for (const Part& part : parts) part.mlp(part.first_row, block_span(rows, {0, rows.rows()}, part.begin, part.cols));
  }
};

}  // namespace detail

/// Puts instances side by side into calls, H' to a call, in the order in which they come.
///
///   Math     calls = ceil(instances / H')
///   Laws     a call is as long as its longest instance needs, or as long as the oracle asks for
///   Source   Yu & Alman, Lemma 3.3 with L' = 1
template <Machine M>
class Packer {
 public:
  using Cells = typename M::Cells;  ///< what calls are made on
  using Scalar = typename M::Scalar;
  /// Takes the answer to an instance, (rows of the call, its answer columns).
  using Take = std::function<void(const Cells& answer)>;

  explicit Packer(M& machine) : machine_(machine), limits_(machine.limits()) {}

  /// Adds an instance; take(answer) is called once its call has been made.
  void add(Instance<Cells> instance, Take take) {
    waiting_.push_back({std::move(instance), std::move(take)});
    // As soon as a batch of whole calls is there, so that their number does not depend on the batch.
    if (static_cast<Index>(waiting_.size()) / limits_.heads >= limits_.batch) finish();
  }

  /// Runs what is waiting.
  void finish() {
    std::vector<CellCall<Cells>> calls;
    const Index count = static_cast<Index>(waiting_.size());
    for (Index begin = 0; begin < count; begin += group_at(begin))
      calls.push_back(call({begin, begin + group_at(begin)}));
    const std::vector<Cells> answers = machine_.run(calls);
    std::vector<Waiting> done = std::move(waiting_);
    waiting_.clear();
    Index index = 0;
    for (std::size_t c = 0; c < answers.size(); ++c)
      for (const SmallHead<Scalar>& head : calls[c].weights.layers.front().heads)
        done[static_cast<std::size_t>(index++)].take(answers[c].columns(head.output_begin, head.wv.cols()));
  }

 private:
  struct Waiting {
    Instance<Cells> instance;
    Take take;
  };

  /// Instances of the call that starts with number `begin`.
  [[nodiscard]] Index group_at(Index begin) const {
    return std::min(limits_.heads, static_cast<Index>(waiting_.size()) - begin);
  }

  [[nodiscard]] CellCall<Cells> call(Rows which) const {
    Index rows = limits_.fixed_rows ? limits_.rows : 0;
    for (Index i = which.begin; i < which.end; ++i)
      rows = std::max(rows, waiting_[static_cast<std::size_t>(i)].instance.rows);
    CellCall<Cells> result;
    std::vector<Cells> blocks;
    SmallLayer<Scalar> layer;
    detail::SideBySide mlps;
    for (Index i = which.begin; i < which.end; ++i) {
      InstanceCall<Cells> built = waiting_[static_cast<std::size_t>(i)].instance.build(rows);
      const SmallHead<Scalar>& head = built.head;
      const Index offset = result.weights.width;
      layer.heads.push_back(
          {head.wq.shifted(offset), head.wk.shifted(offset), head.wv.shifted(offset), layer.output_width});
      if (built.mlp) mlps.parts.push_back({layer.output_width, head.wv.cols(), built.first_row, std::move(built.mlp)});
      result.weights.width += built.rows.cols();
      layer.output_width += head.wv.cols();
      blocks.push_back(std::move(built.rows));
    }
    if (!mlps.parts.empty()) layer.mlp = RowFunction(std::move(mlps));
    result.weights.layers.push_back(std::move(layer));
    result.rows = Cells::beside(blocks);
    return result;
  }

  M& machine_;
  OracleLimits limits_;
  std::vector<Waiting> waiting_;
};

}  // namespace twoheads
