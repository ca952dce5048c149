#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <twoheads/base/index.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/oracle/oracle.hpp>
#include <twoheads/remote/graph.hpp>
#include <twoheads/remote/remote_session.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// A small transformer of one layer in another process. `Runs` is a RemoteSession, or what has its description(),
/// options() and run().
///
/// Calls that follow each other and have the same weights share a run. Heads and columns that a call does not have are
/// zeros, and what comes back for them is dropped; a layer MLP is done here.
///
///   Shapes   of the graph: TransformerGraph
///   Throws   LimitError if the graph is none of a small transformer, and as require_within;
///            OracleError as RemoteSession
template <RealScalar S, class Runs = RemoteSession>
class RemoteTransformer {
 public:
  using Scalar = S;

  RemoteTransformer(Runs session, OracleKind kind, double score_scale)
      : session_(std::move(session)),
        graph_(transformer_graph(session_.description(), tensor_type<S>)),
        limits_(limits_of(graph_, kind, score_scale, session_.options().in_flight)) {
    if (kind == OracleKind::kernel)
      throw LimitError("a small transformer of the kind kernel: expected plain or causal");
    for (std::size_t i = 0; i < places_.size(); ++i)
      places_[i] = detail::place_of(session_.description().inputs, std::array{"rows", "wq", "wk", "wv"}[i], "input");
  }

  [[nodiscard]] OracleLimits limits() const { return limits_; }
  [[nodiscard]] const TransformerGraph& graph() const { return graph_; }  ///< sizes of the graph
  [[nodiscard]] Runs& session() { return session_; }                      ///< that runs it

  [[nodiscard]] Matrix<Scalar> run(const OracleCall<Scalar>& call) {
    Matrix<Scalar> found;
    run_batch(std::span(&call, 1), [&](std::size_t, Matrix<Scalar> rows) { found = std::move(rows); });
    return found;
  }

  void run_batch(std::span<const OracleCall<Scalar>> calls, const Answer<Scalar>& answer) {
    std::vector<Rows> runs;
    for (std::size_t i = 0; i < calls.size(); ++i) {
      require_within(limits_, calls[i]);
      if (calls[i].weights->layers.size() != 1)
        throw LimitError("a graph of a small transformer is one layer, the weights have none");
      const auto index = static_cast<Index>(i);
      if (!runs.empty() && runs.back().size() < graph_.batch && calls[i].weights == calls[i - 1].weights)
        ++runs.back().end;
      else
        runs.push_back({index, index + 1});
    }
    session_.run(
        runs.size(),
        [&](std::size_t run) {
          return inputs(
              calls.subspan(static_cast<std::size_t>(runs[run].begin), static_cast<std::size_t>(runs[run].size())));
        },
        [&](std::size_t run, const std::vector<Tensor>& outputs) {
          for (Index i = 0; i < runs[run].size(); ++i) {
            const auto index = static_cast<std::size_t>(runs[run].begin + i);
            answer(index, rows_of(*calls[index].weights, outputs.front(), i));
          }
        });
  }

 private:
  [[nodiscard]] std::vector<Tensor> inputs(std::span<const OracleCall<Scalar>> calls) const {
    std::vector<Tensor> tensors;
    for (const TensorSpec& spec : session_.description().inputs) tensors.emplace_back(spec.type, spec.dims);
    // The top left corner of block number `place` of an input.
    const auto put = [&](std::size_t input, std::size_t place, Index rows, Index cols, const Matrix<Scalar>& numbers) {
      Scalar* const begin = tensors[places_[input]].template at<Scalar>(static_cast<Index>(place), rows * cols);
      Eigen::Map<Matrix<Scalar>>(begin, rows, cols).topLeftCorner(numbers.rows(), numbers.cols()) = numbers;
    };
    for (std::size_t i = 0; i < calls.size(); ++i) put(0, i, graph_.rows, graph_.width, calls[i].rows);
    const SmallWeights<Scalar>& weights = *calls.front().weights;
    const std::vector<SmallHead<Scalar>>& heads = weights.layers.front().heads;
    for (std::size_t h = 0; h < heads.size(); ++h) {
      put(1, h, graph_.width, graph_.key_cols, heads[h].wq.to_matrix(weights.width));
      put(2, h, graph_.width, graph_.key_cols, heads[h].wk.to_matrix(weights.width));
      put(3, h, graph_.width, graph_.value_cols, heads[h].wv.to_matrix(weights.width));
    }
    return tensors;
  }

  [[nodiscard]] Matrix<Scalar> rows_of(const SmallWeights<Scalar>& weights, const Tensor& output, Index place) const {
    const Index cols = graph_.heads * graph_.value_cols;
    const Eigen::Map<const Matrix<Scalar>> found(output.at<Scalar>(place, graph_.rows * cols), graph_.rows, cols);
    const SmallLayer<Scalar>& layer = weights.layers.front();
    Matrix<Scalar> rows = Matrix<Scalar>::Zero(graph_.rows, layer.output_width);
    Index begin = 0;
    for (const SmallHead<Scalar>& head : layer.heads) {
      rows.middleCols(head.output_begin, head.wv.cols()) += found.middleCols(begin, head.wv.cols());
      begin += graph_.value_cols;
    }
    if (layer.mlp) layer.mlp(0, span(rows));
    return rows;
  }

  Runs session_;
  TransformerGraph graph_;
  OracleLimits limits_;
  std::array<std::size_t, 4> places_{};  ///< of rows, wq, wk and wv among the inputs
};

}  // namespace twoheads
