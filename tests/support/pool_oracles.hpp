#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <mutex>
#include <set>
#include <span>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "support/faulty_oracle.hpp"

/// Small calls whose answers are known at sight, and oracles that answer them late, twice or not at all.
namespace pool_oracles {

using namespace twoheads;
using std::chrono::milliseconds;

using Call = OracleCall<float>;

/// Answers what a function makes of a call.
class FunctionOracle {
 public:
  using Scalar = float;
  using Function = std::function<Matrix<float>(const Call&)>;

  explicit FunctionOracle(Function function, Index rows = 8) : function_(std::move(function)) { limits_.rows = rows; }
  [[nodiscard]] OracleLimits limits() const { return limits_; }
  [[nodiscard]] Matrix<float> run(const Call& call) {
    require_within(limits_, call);
    return function_(call);
  }

 private:
  OracleLimits limits_;
  Function function_;
};

inline Matrix<float> doubled(const Call& call) { return 2 * call.rows; }

/// Number `i` in call i, everywhere.
class SmallCalls {
 public:
  explicit SmallCalls(std::size_t count) : calls(count) {
    weights.width = 3;
    for (std::size_t i = 0; i < count; ++i) {
      calls[i].weights = &weights;
      calls[i].rows = Matrix<float>::Constant(2 + static_cast<Index>(i % 5), 3, static_cast<float>(i));
    }
  }
  SmallCalls(const SmallCalls&) = delete;
  SmallCalls& operator=(const SmallCalls&) = delete;

  /// Runs them and counts the answers, which must be right and come on this thread.
  template <class Pool>
  std::vector<int> answers_of(Pool& pool) const {
    std::vector<int> answers(calls.size(), 0);
    pool.run_batch(calls, [&, caller = std::this_thread::get_id()](std::size_t index, const Matrix<float>& rows) {
      EXPECT_EQ(std::this_thread::get_id(), caller);
      EXPECT_EQ(rows, doubled(calls[index])) << "call " << index;
      ++answers[index];
    });
    return answers;
  }

  SmallWeights<float> weights;
  std::vector<Call> calls;
};

inline bool is_number(const Call& call, int number) { return call.rows(0, 0) == static_cast<float>(number); }

/// Notes how many weights it is handed in a batch.
struct CountsWeights {
  using Scalar = float;
  std::set<std::size_t>* seen;
  std::mutex* mutex;
  [[nodiscard]] OracleLimits limits() const {
    OracleLimits limits;
    limits.rows = 9;
    limits.batch = 4;
    return limits;
  }
  [[nodiscard]] Matrix<float> run(const OracleCall<float>& call) { return doubled(call); }
  void run_batch(std::span<const OracleCall<float>> calls, const Answer<float>& answer) {
    std::set<const void*> weights;
    for (std::size_t i = 0; i < calls.size(); ++i) {
      weights.insert(calls[i].weights);
      answer(i, doubled(calls[i]));
    }
    const std::lock_guard lock(*mutex);
    seen->insert(weights.size());
  }
};

/// Hangs in call 0, the first time that it is run.
struct HangsOnce {
  Gate gate;
  std::atomic<bool> hung = false;
  std::atomic<int> alive = 0;

  Matrix<float> operator()(const Call& call) {
    if (is_number(call, 0) && !hung.exchange(true)) gate.wait();
    return doubled(call);
  }
};

/// Call 0 is run by two workers at the same time, and call 1 outlasts both.
class Twins {
 public:
  explicit Twins(bool first_throws) : first_throws_(first_throws) {}

  Matrix<float> operator()(const Call& call) {
    if (is_number(call, 1)) {
      wait_for(ended_);
    } else {
      const bool first = begun_++ == 0;
      wait_for(begun_);
      if (first_throws_ && !first) wait_for_one();
      ++ended_;
      if (first_throws_ && first) throw std::runtime_error("the first of two");
    }
    return doubled(call);
  }

 private:
  // The pool may take a moment to see what has ended; the law holds whether it has or not.
  static void pause() { std::this_thread::sleep_for(milliseconds(5)); }
  static void wait_for(const std::atomic<int>& count) {
    while (count < 2) std::this_thread::yield();
    pause();
  }
  void wait_for_one() const {
    while (ended_ < 1) std::this_thread::yield();
    pause();
  }

  bool first_throws_;
  std::atomic<int> begun_ = 0;
  std::atomic<int> ended_ = 0;
};

}  // namespace pool_oracles
