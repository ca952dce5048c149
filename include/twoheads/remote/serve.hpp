#pragma once

#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <system_error>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/oracle/core.hpp>
#include <twoheads/oracle/oracle.hpp>
#include <twoheads/oracle/weights.hpp>
#include <twoheads/remote/frame.hpp>
#include <twoheads/remote/graph.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// Runs a graph once; no tensors at all: the run is never answered.
using GraphRun = std::function<std::optional<std::vector<Tensor>>(const std::vector<Tensor>& inputs)>;

namespace detail {

/// Reads until `into` is full; false where the input ends before its first byte.
[[nodiscard]] inline bool read_all(int file, std::span<std::byte> into) {
  for (std::size_t done = 0; done < into.size();) {
    const ssize_t count = ::read(file, into.data() + done, into.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw OracleError(text("cannot read a frame: ", std::generic_category().message(errno)));
    if (count == 0 && done == 0) return false;
    if (count == 0) throw OracleError(text("the input ends ", done, " bytes into a frame's ", into.size()));
    done += static_cast<std::size_t>(count);
  }
  return true;
}

inline void write_all(int file, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(file, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw OracleError(text("cannot write a frame: ", std::generic_category().message(errno)));
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
}

}  // namespace detail

/// Answers frames until the input ends: what makes an oracle of a program's standard input and output.
///
/// What `run` throws is sent as a failure of that run. Nothing else may write to `output`. A run has `largest_run`
/// bytes at most; of a graph that fixes its sizes, what they come to where that is less.
///
///   Throws   OracleError for a damaged frame, or one that the other side may not send
///   Corner   a program that does not ignore SIGPIPE is ended by it where it answers and nobody reads any more. A
///            thread that is cancelled (pthread_cancel) inside `run` ends the program.
inline void serve(int input, int output, const Description& description, const GraphRun& run,
                  std::uint64_t largest_run = FrameLimits::body_bytes) {
  const std::uint64_t most = largest_body(description.inputs, largest_run);
  std::array<std::byte, FrameHeader::bytes> head;
  std::vector<std::byte> body;
  while (detail::read_all(input, head)) {
    const FrameHeader header = read_header(head);
    require_body_within(header, header.kind == FrameKind::run ? most : 0);
    body.resize(static_cast<std::size_t>(header.body_bytes));
    if (!body.empty() && !detail::read_all(input, body)) throw OracleError("the input ends after a frame's header");
    require_intact(header, body);
    if (header.kind == FrameKind::hello) {
      detail::write_all(output, description_frame(description));
      continue;
    }
    if (header.kind != FrameKind::run)
      throw OracleError(detail::text("a frame of the kind ", name(header.kind), ", expected hello or run"));
    std::vector<std::byte> reply;
    try {
      const std::vector<Tensor> inputs = read_tensors(header.kind, body);
      require_fit("a run", description.inputs, inputs);
      const std::optional<std::vector<Tensor>> outputs = run(inputs);
      if (outputs) reply = tensors_frame(FrameKind::answer, header.id, *outputs);
    } catch (const std::exception& error) {
      reply = failure_frame(header.id, error.what());
    } catch (...) {
      reply = failure_frame(header.id, "it threw something that is no std::exception");
    }
    detail::write_all(output, reply);
  }
}

/// The runs of a graph that is an attention core of ours; its inputs stand in the order q, k, v.
template <RealScalar Scalar, AttentionCore<Scalar> C>
[[nodiscard]] GraphRun graph_run(const CoreGraph& graph, C core) {
  return [graph, core = std::move(core)](const std::vector<Tensor>& inputs) mutable {
    std::vector<Tensor> outputs{{inputs[2].type(), {inputs[2].dims().begin(), inputs[2].dims().end()}}};
    const auto rows_of = [&](const Tensor& tensor, Index place, Index cols) {
      return MatrixView<Scalar>(tensor.at<Scalar>(place, graph.rows * cols), graph.rows, cols,
                                Eigen::OuterStride<>(cols));
    };
    for (Index place = 0; place < graph.batch * graph.heads; ++place) {
      const Matrix<Scalar> found =
          core(rows_of(inputs[0], place, graph.key_cols), rows_of(inputs[1], place, graph.key_cols),
               rows_of(inputs[2], place, graph.value_cols));
      detail::require_shape("an attention core's answer", found, graph.rows, graph.value_cols);
      Eigen::Map<Matrix<Scalar>>(outputs.front().at<Scalar>(place, found.size()), found.rows(), found.cols()) = found;
    }
    return std::optional(std::move(outputs));
  };
}

/// The runs of a graph that is a small transformer of ours; its inputs stand in the order rows, wq, wk, wv.
template <Oracle O>
[[nodiscard]] GraphRun graph_run(const TransformerGraph& graph, O oracle) {
  using Scalar = typename O::Scalar;
  return [graph, oracle = std::make_shared<O>(std::move(oracle))](const std::vector<Tensor>& inputs) {
    const auto matrix = [&](std::size_t input, Index place, Index rows, Index cols) {
      return Matrix<Scalar>(Eigen::Map<const Matrix<Scalar>>(inputs[input].at<Scalar>(place, rows * cols), rows, cols));
    };
    SmallLayer<Scalar> layer;
    layer.output_width = graph.heads * graph.value_cols;
    for (Index head = 0; head < graph.heads; ++head) {
      const auto projection = [&](std::size_t input, Index cols) {
        return Projection<Scalar>::dense(
            0, std::make_shared<const Matrix<Scalar>>(matrix(input, head, graph.width, cols)));
      };
      layer.heads.push_back({projection(1, graph.key_cols), projection(2, graph.key_cols),
                             projection(3, graph.value_cols), head * graph.value_cols});
    }
    SmallWeights<Scalar> weights;
    weights.width = graph.width;
    weights.layers.push_back(std::move(layer));

    const Index cols = weights.output_width();
    std::vector<Tensor> outputs;
    outputs.emplace_back(tensor_type<Scalar>, std::vector<std::uint64_t>{static_cast<std::uint64_t>(graph.batch),
                                                                         static_cast<std::uint64_t>(graph.rows),
                                                                         static_cast<std::uint64_t>(cols)});
    for (Index place = 0; place < graph.batch; ++place) {
      const Matrix<Scalar> found = oracle->run({&weights, matrix(0, place, graph.rows, graph.width)});
      detail::require_shape("a small transformer's answer", found, graph.rows, cols);
      Eigen::Map<Matrix<Scalar>>(outputs.front().at<Scalar>(place, found.size()), found.rows(), found.cols()) = found;
    }
    return std::optional(std::move(outputs));
  };
}

}  // namespace twoheads
