#pragma once

#include <algorithm>
#include <span>
#include <twoheads/oracle/oracle.hpp>
#include <utility>

namespace twoheads {

/// Counts what an oracle is asked for. Holds a reference: the oracle must outlive the wrapper. It has no copies, which
/// would share the oracle: two threads would then use it at once.
template <Oracle O>
class CountingOracle {
 public:
  using Scalar = typename O::Scalar;

  explicit CountingOracle(O& oracle) : oracle_(oracle) {}
  CountingOracle(const CountingOracle&) = delete;
  CountingOracle& operator=(const CountingOracle&) = delete;

  [[nodiscard]] OracleLimits limits() const { return oracle_.limits(); }

  [[nodiscard]] Matrix<Scalar> run(const OracleCall<Scalar>& call) {
    count(call);
    return oracle_.run(call);
  }

  void run_batch(std::span<const OracleCall<Scalar>> calls, const Answer<Scalar>& answer) requires HasRunBatch<O> {
    for (const OracleCall<Scalar>& call : calls) count(call);
    oracle_.run_batch(calls, answer);
  }

  [[nodiscard]] Index calls() const { return calls_; }  ///< calls so far
  /// Rows of all calls together, and of the longest one.
  [[nodiscard]] Index rows() const { return rows_; }
  [[nodiscard]] Index longest() const { return longest_; }  ///< most rows of a call so far

 private:
  void count(const OracleCall<Scalar>& call) {
    ++calls_;
    rows_ += call.rows.rows();
    longest_ = std::max<Index>(longest_, call.rows.rows());
  }

  O& oracle_;
  Index calls_ = 0;
  Index rows_ = 0;
  Index longest_ = 0;
};

/// Holds an oracle to its declared limits and shapes: a call beyond them is a LimitError or a ShapeError before the
/// oracle sees it, an answer of another shape an OracleError. Holds a reference, and has no copies, as CountingOracle.
template <Oracle O>
class CheckingOracle {
 public:
  using Scalar = typename O::Scalar;

  explicit CheckingOracle(O& oracle) : oracle_(oracle) { oracle_.limits().require_valid(); }
  CheckingOracle(const CheckingOracle&) = delete;
  CheckingOracle& operator=(const CheckingOracle&) = delete;

  [[nodiscard]] OracleLimits limits() const { return oracle_.limits(); }

  [[nodiscard]] Matrix<Scalar> run(const OracleCall<Scalar>& call) {
    require_within(oracle_.limits(), call);
    Matrix<Scalar> rows = oracle_.run(call);
    detail::require_answer(call, rows);
    return rows;
  }

  void run_batch(std::span<const OracleCall<Scalar>> calls, const Answer<Scalar>& answer) requires HasRunBatch<O> {
    for (const OracleCall<Scalar>& call : calls) require_within(oracle_.limits(), call);
    oracle_.run_batch(calls, [&](std::size_t index, Matrix<Scalar> rows) {
      if (index < calls.size()) detail::require_answer(calls[index], rows);
      answer(index, std::move(rows));
    });
  }

 private:
  O& oracle_;
};

}  // namespace twoheads
