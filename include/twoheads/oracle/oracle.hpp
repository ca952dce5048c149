#pragma once

#include <concepts>
#include <functional>
#include <span>
#include <string>
#include <twoheads/base/matrix.hpp>
#include <twoheads/oracle/weights.hpp>
#include <twoheads/plan/limits.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// One invocation of the small transformer: its weights, and at most limits().rows rows of tokens.
///
///   Shapes   rows (n, weights->width); the answer is (n, weights->output_width())
template <RealScalar Scalar>
struct OracleCall {
  const SmallWeights<Scalar>* weights = nullptr;
  Matrix<Scalar> rows;
  /// What speaks against an answer of the right shape, or an empty text. None: nothing is known of the answer.
  std::function<std::string(const Matrix<Scalar>&)> fault = {};
};

namespace detail {

/// The row counts of an oracle in words.
[[nodiscard]] inline std::string rows_taken(const OracleLimits& limits) {
  if (limits.fixed_rows) return text("exactly ", limits.rows);
  if (limits.row_counts.empty()) return text("1 to ", limits.rows);
  std::string words;
  for (const Index count : limits.row_counts) words += text(words.empty() ? "" : " or ", count);
  return words;
}

}  // namespace detail

/// Checks a call against an oracle's limits, and its weights and rows against each other.
///
///   Throws   LimitError for more rows, heads, layers or columns than the limits allow; ShapeError for weights that
///            do not fit
template <RealScalar Scalar>
void require_within(const OracleLimits& limits, const OracleCall<Scalar>& call) {
  if (call.weights == nullptr) throw ShapeError("an oracle call has no weights");
  const SmallWeights<Scalar>& weights = *call.weights;
  const Index rows = call.rows.rows();
  if (!limits.takes_rows(rows))
    throw LimitError(detail::text("an oracle call has ", rows, " rows, the oracle takes ", detail::rows_taken(limits)));
  if (weights.width > limits.width)
    throw LimitError(detail::text("an oracle call has ", weights.width, " columns, the oracle takes ", limits.width));
  if (static_cast<Index>(weights.layers.size()) > limits.layers)
    throw LimitError(detail::text("weights have ", weights.layers.size(), " layers, the oracle has ", limits.layers));
  for (const SmallLayer<Scalar>& layer : weights.layers) {
    if (static_cast<Index>(layer.heads.size()) > limits.heads)
      throw LimitError(detail::text("weights have ", layer.heads.size(), " heads, the oracle has ", limits.heads));
    if (layer.output_width > limits.width)
      throw LimitError(
          detail::text("a layer yields ", layer.output_width, " columns, the oracle takes ", limits.width));
    for (const SmallHead<Scalar>& head : layer.heads) {
      const auto require_cols = [](const char* what, Index cols, Index most) {
        if (cols > most)
          throw LimitError(detail::text("a head has ", cols, " columns of ", what, ", the oracle takes ", most));
      };
      require_cols("queries and keys", head.wq.cols(), limits.key_cols);
      require_cols("values", head.wv.cols(), limits.value_cols);
    }
  }
  detail::require_shape("the rows of an oracle call", call.rows, rows, weights.width);
  require_valid(weights, limits.residual);
}

/// Takes the answer to call number `index` of a batch; an oracle may answer in any order, each call once.
template <RealScalar Scalar>
using Answer = std::function<void(std::size_t index, Matrix<Scalar> rows)>;

/// An oracle computes in float or double; log weights of a wider scalar would not fit the float64 that carries them.
template <class O>
concept HasScalar = std::same_as<typename O::Scalar, float> || std::same_as<typename O::Scalar, double>;

template <class O>
concept HasLimits = requires(const O& oracle) {
  { oracle.limits() } -> std::same_as<OracleLimits>;
};

template <class O>
concept HasRun = requires(O& oracle, const OracleCall<typename O::Scalar>& call) {
  { oracle.run(call) } -> std::same_as<Matrix<typename O::Scalar>>;
};

template <class O>
concept HasRunBatch = requires(O& oracle, std::span<const OracleCall<typename O::Scalar>> calls,
                               const Answer<typename O::Scalar>& answer) {
  oracle.run_batch(calls, answer);
};

/// An oracle that can write its answer into a matrix, whose memory then serves many calls. What the matrix held before
/// and its shape mean nothing.
template <class O>
concept HasRunInto = requires(O& oracle, const OracleCall<typename O::Scalar>& call,
                              Matrix<typename O::Scalar>& answer) {
  oracle.run_into(call, answer);
};

/// A small transformer that the library may call, and nothing else: it never sees more than limits().rows rows.
///
/// `run(call)` evaluates call.weights on call.rows: for each head, softmax(score_scale * q k^T) v over the rows that
/// its kind shows, written or, where it is residual, added to its columns, then the layer MLP. The weights are lent
/// until run returns; another call may find other weights at the same address.
///
/// An oracle that also has `run_batch(calls, answer)` is handed several calls at once. It calls `answer(index, rows)`
/// once for each of them, in any order, from one thread at a time and before it returns; what `answer` throws must
/// pass through. One that has `run_into(call, answer)` instead is asked to write into a matrix that serves many calls.
template <class O>
concept Oracle = HasScalar<O> && HasLimits<O> && HasRun<O>;

namespace detail {

/// Runs calls and leaves their answers, in the order of the calls, in the first matrices of `answers`, which grow where
/// they are too few and keep their memory otherwise.
template <Oracle O, class Place>
void run_all_into(O& oracle, std::span<const OracleCall<typename O::Scalar>> calls,
                  std::vector<Matrix<typename O::Scalar>>& answers, const Place& place) {
  using Scalar = typename O::Scalar;
  if (answers.size() < calls.size()) answers.resize(calls.size());
  if constexpr (HasRunBatch<O>) {
    std::vector<bool> answered(calls.size(), false);
    oracle.run_batch(calls, [&](std::size_t index, Matrix<Scalar> rows) {
      if (index >= calls.size())
        throw OracleError(text("the oracle answered call ", index, " of a batch of ", calls.size()));
      if (answered[index])
        throw OracleError(text(place(index), "the oracle answered call ", index, " of a batch twice"));
      answered[index] = true;
      answers[index] = std::move(rows);
    });
    for (std::size_t index = 0; index < calls.size(); ++index)
      if (!answered[index])
        throw OracleError(text(place(index), "the oracle did not answer call ", index, " of a batch"));
  } else if constexpr (HasRunInto<O>) {
    for (std::size_t index = 0; index < calls.size(); ++index) oracle.run_into(calls[index], answers[index]);
  } else {
    for (std::size_t index = 0; index < calls.size(); ++index) answers[index] = oracle.run(calls[index]);
  }
}

/// Throws OracleError unless the answer to a call has the shape that the call asks for; `place()` says what it was for.
template <RealScalar Scalar, class Place>
void require_answer(const OracleCall<Scalar>& call, const Matrix<Scalar>& rows, const Place& place) {
  const Index cols = call.weights->output_width();
  if (rows.rows() != call.rows.rows() || rows.cols() != cols)
    throw OracleError(text(place(), "an oracle answered ", rows.rows(), " x ", rows.cols(), ", expected ",
                           call.rows.rows(), " x ", cols));
}
template <RealScalar Scalar>
void require_answer(const OracleCall<Scalar>& call, const Matrix<Scalar>& rows) {
  require_answer(call, rows, [] { return std::string(); });
}

/// What speaks against an answer, or an empty text: its shape, NaN or infinity, or what the call itself knows.
template <RealScalar Scalar>
[[nodiscard]] std::string fault_of(const OracleCall<Scalar>& call, const Matrix<Scalar>& rows) {
  try {
    require_answer(call, rows);
  } catch (const OracleError& error) {
    return error.what();
  }
  if (const Index row = first_row_not_finite(rows); row >= 0)
    return text("an oracle answered NaN or infinity in row ", row);
  return call.fault ? call.fault(rows) : std::string();
}

}  // namespace detail

/// Runs calls and returns their answers in the order of the calls, whatever the order in which the oracle answers.
///
///   Throws   OracleError if a batch oracle answers a call twice or not at all; `place(index)` says what a call was for
template <Oracle O>
[[nodiscard]] std::vector<Matrix<typename O::Scalar>> run_all(
    O& oracle, std::span<const OracleCall<typename O::Scalar>> calls,
    const std::function<std::string(std::size_t)>& place = [](std::size_t) { return std::string(); }) {
  std::vector<Matrix<typename O::Scalar>> answers;
  detail::run_all_into(oracle, calls, answers, place);
  return answers;
}

}  // namespace twoheads
