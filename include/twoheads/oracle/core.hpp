#pragma once

#include <concepts>
#include <span>
#include <twoheads/base/matrix.hpp>
#include <twoheads/oracle/oracle.hpp>
#include <twoheads/oracle/weights.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// What an attention core is handed: queries, keys and values of one head.
///
///   Shapes   q, k (n, columns), v (n, value columns), rows next to each other; the answer is (n, value columns)
template <RealScalar Scalar>
struct CoreCall {
  MatrixView<Scalar> q, k, v;
};

/// A callable that is softmax(score_scale q k^T) v, causal or not, and nothing else: no mask, no log-sum-exp.
template <class C, class Scalar>
concept AttentionCore = requires(C& core, const MatrixView<Scalar>& rows) {
  { core(rows, rows, rows) } -> std::convertible_to<Matrix<Scalar>>;
};

/// An attention core that takes the heads of several calls at once, and answers in their order.
template <class C, class Scalar>
concept BatchAttentionCore = requires(C& core, std::span<const CoreCall<Scalar>> calls) {
  { core(calls) } -> std::convertible_to<std::vector<Matrix<Scalar>>>;
};

/// An oracle made of an attention core: what a call's weights project is computed here, and the core is fed q, k and v.
///
///   Shapes   with key_cols or value_cols in the limits a core sees exactly so many columns, the last ones zero
///   Corner   one layer, without a residual stream; copies hold copies of the core
///   Throws   LimitError as require_within, and for limits that a core cannot have; OracleError for an answer of
///            another shape
template <RealScalar S, class C>
requires AttentionCore<C, S> || BatchAttentionCore<C, S>
class CoreOracle {
 public:
  using Scalar = S;

  CoreOracle(const OracleLimits& limits, C callable) : limits_(limits), core_(std::move(callable)) {
    limits_.require_valid();
    if (limits_.kind == OracleKind::kernel || limits_.layers != 1 || limits_.residual)
      throw LimitError("an attention core is one layer, plain or causal, and adds nothing to its answer");
  }

  [[nodiscard]] OracleLimits limits() const { return limits_; }
  [[nodiscard]] const C& core() const { return core_; }  ///< the callable
  [[nodiscard]] C& core() { return core_; }              ///< the callable

  [[nodiscard]] Matrix<Scalar> run(const OracleCall<Scalar>& call) {
    Matrix<Scalar> found;
    run_calls(std::span(&call, 1), [&](std::size_t, Matrix<Scalar> rows) { found = std::move(rows); });
    return found;
  }

  void run_batch(std::span<const OracleCall<Scalar>> calls,
                 const Answer<Scalar>& answer) requires BatchAttentionCore<C, S> {
    run_calls(calls, answer);
  }

 private:
  /// q, k and v of a head, as wide as the core wants them.
  struct Fed {
    Matrix<Scalar> q, k, v;
  };

  template <class Use>
  void run_calls(std::span<const OracleCall<Scalar>> calls, const Use& use) {
    std::vector<Fed> fed;
    std::vector<CoreCall<Scalar>> heads;
    for (const OracleCall<Scalar>& call : calls) {
      require_within(limits_, call);
      if (call.weights->layers.size() != 1) throw LimitError("an attention core is one layer, the weights have none");
      for (const SmallHead<Scalar>& head : call.weights->layers.front().heads)
        fed.push_back({feed(head.wq, call.rows, limits_.key_cols), feed(head.wk, call.rows, limits_.key_cols),
                       feed(head.wv, call.rows, limits_.value_cols)});
    }
    heads.reserve(fed.size());
    for (const Fed& f : fed) heads.push_back({view(f.q), view(f.k), view(f.v)});
    const std::vector<Matrix<Scalar>> found = ask(heads);

    std::size_t next = 0;
    for (std::size_t index = 0; index < calls.size(); ++index) {
      const SmallLayer<Scalar>& layer = calls[index].weights->layers.front();
      Matrix<Scalar> rows = Matrix<Scalar>::Zero(calls[index].rows.rows(), layer.output_width);
      for (const SmallHead<Scalar>& head : layer.heads) {
        const Matrix<Scalar>& out = found[next];
        if (out.rows() != heads[next].v.rows() || out.cols() != heads[next].v.cols())
          throw OracleError(detail::text("an attention core answered ", out.rows(), " x ", out.cols(), ", expected ",
                                         heads[next].v.rows(), " x ", heads[next].v.cols()));
        rows.middleCols(head.output_begin, head.wv.cols()) += out.leftCols(head.wv.cols());
        ++next;
      }
      if (layer.mlp) layer.mlp(0, span(rows));
      use(index, std::move(rows));
    }
  }

  [[nodiscard]] static Matrix<Scalar> feed(const Projection<Scalar>& projection, const Matrix<Scalar>& rows,
                                           Index cols) {
    Matrix<Scalar> projected;
    projection.apply(rows, projected);
    if (cols != OracleLimits::unlimited && projected.cols() < cols) {
      const Index given = projected.cols();
      projected.conservativeResize(Eigen::NoChange, cols);
      projected.rightCols(cols - given).setZero();
    }
    return projected;
  }

  [[nodiscard]] std::vector<Matrix<Scalar>> ask(const std::vector<CoreCall<Scalar>>& heads) {
    if constexpr (BatchAttentionCore<C, S>) {
      std::vector<Matrix<Scalar>> found = core_(std::span<const CoreCall<Scalar>>(heads));
      if (found.size() != heads.size())
        throw OracleError(detail::text("an attention core answered ", found.size(), " heads, expected ", heads.size()));
      return found;
    } else {
      std::vector<Matrix<Scalar>> found;
      for (const CoreCall<Scalar>& head : heads) found.push_back(core_(head.q, head.k, head.v));
      return found;
    }
  }

  OracleLimits limits_;
  C core_;
};

/// Makes an oracle of an attention core, such as a lambda.
template <RealScalar Scalar, class C>
[[nodiscard]] CoreOracle<Scalar, C> core_oracle(const OracleLimits& limits, C core) {
  return CoreOracle<Scalar, C>(limits, std::move(core));
}

}  // namespace twoheads
