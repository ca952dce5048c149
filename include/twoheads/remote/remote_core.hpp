#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <twoheads/base/index.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/oracle/core.hpp>
#include <twoheads/remote/graph.hpp>
#include <twoheads/remote/remote_session.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// An attention core in another process: the heads of all calls fill the places of the graph's runs one after the
/// other. `Runs` is a RemoteSession, or what has its description(), options() and run().
///
///   Shapes   of the graph: CoreGraph
///   Corner   places that no head takes hold zeros, and what comes back for them is dropped
///   Throws   LimitError if the graph is none of an attention core, or for heads of other sizes than the graph's;
///            OracleError as RemoteSession
template <RealScalar S, class Runs = RemoteSession>
class RemoteCore {
 public:
  using Scalar = S;

  explicit RemoteCore(Runs session)
      : session_(std::move(session)), graph_(core_graph(session_.description(), tensor_type<S>)) {
    for (std::size_t i = 0; i < places_.size(); ++i)
      places_[i] = detail::place_of(session_.description().inputs, std::array{"q", "k", "v"}[i], "input");
  }

  [[nodiscard]] const CoreGraph& graph() const { return graph_; }  ///< sizes of the graph
  [[nodiscard]] Runs& session() { return session_; }               ///< that runs it
  /// What the graph and this declaration come to.
  [[nodiscard]] OracleLimits limits(OracleKind kind, double score_scale) const {
    return limits_of(graph_, kind, score_scale, session_.options().in_flight);
  }

  /// Answers the heads of several calls.
  [[nodiscard]] std::vector<Matrix<Scalar>> operator()(std::span<const CoreCall<Scalar>> heads) {
    for (const CoreCall<Scalar>& head : heads) {
      require("queries", head.q, graph_.key_cols);
      require("keys", head.k, graph_.key_cols);
      require("values", head.v, graph_.value_cols);
    }
    const auto together = static_cast<std::size_t>(graph_.batch * graph_.heads);
    const auto of_run = [&](std::size_t run) {
      return heads.subspan(run * together, std::min(together, heads.size() - run * together));
    };
    std::vector<Matrix<Scalar>> answers(heads.size());
    session_.run((heads.size() + together - 1) / together, [&](std::size_t run) { return inputs(of_run(run)); },
                 [&](std::size_t run, const std::vector<Tensor>& outputs) {
                   const Index numbers = graph_.rows * graph_.value_cols;
                   for (std::size_t i = 0; i < of_run(run).size(); ++i)
                     answers[run * together + i] = Eigen::Map<const Matrix<Scalar>>(
                         outputs.front().at<Scalar>(static_cast<Index>(i), numbers), graph_.rows, graph_.value_cols);
                 });
    return answers;
  }

 private:
  void require(const char* what, const MatrixView<Scalar>& rows, Index cols) const {
    if (rows.rows() != graph_.rows || rows.cols() != cols)
      throw LimitError(detail::text("an attention core was handed ", rows.rows(), " x ", rows.cols(), " ", what,
                                    ", its graph takes ", graph_.rows, " x ", cols));
  }

  [[nodiscard]] std::vector<Tensor> inputs(std::span<const CoreCall<Scalar>> heads) const {
    std::vector<Tensor> tensors;
    for (const TensorSpec& spec : session_.description().inputs) tensors.emplace_back(spec.type, spec.dims);
    const auto put = [&](std::size_t input, std::size_t head, const MatrixView<Scalar>& rows) {
      Scalar* const begin = tensors[places_[input]].template at<Scalar>(static_cast<Index>(head), rows.size());
      Eigen::Map<Matrix<Scalar>>(begin, rows.rows(), rows.cols()) = rows;
    };
    for (std::size_t head = 0; head < heads.size(); ++head) {
      put(0, head, heads[head].q);
      put(1, head, heads[head].k);
      put(2, head, heads[head].v);
    }
    return tensors;
  }

  Runs session_;
  CoreGraph graph_;
  std::array<std::size_t, 3> places_{};  ///< of q, k and v among the inputs
};

/// An oracle of a command whose graph is an attention core; make it in an AnyOracle, whose copies are other processes.
///
///   Throws   as RemoteCore and RemoteSession
template <RealScalar Scalar>
[[nodiscard]] CoreOracle<Scalar, RemoteCore<Scalar>> remote_core_oracle(std::vector<std::string> command,
                                                                        OracleKind kind, double score_scale,
                                                                        const RemoteSessionOptions& options = {}) {
  RemoteCore<Scalar> core(RemoteSession(std::move(command), options));
  const OracleLimits limits = core.limits(kind, score_scale);
  return CoreOracle<Scalar, RemoteCore<Scalar>>(limits, std::move(core));
}

}  // namespace twoheads
