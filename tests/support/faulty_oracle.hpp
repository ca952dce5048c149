#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <span>
#include <stdexcept>
#include <thread>
#include <twoheads/oracle/oracle.hpp>
#include <utility>

/// Something that threads wait for until it is opened.
class Gate {
 public:
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    opened_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    opened_.wait(lock, [&] { return open_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable opened_;
  bool open_ = false;
};

/// Shares of calls that fail, by the way in which they do.
struct FaultShares {
  double throws = 0;
  double hangs = 0;       ///< until the faults are released
  double dies = 0;        ///< throws from then on, until it is made anew
  double late = 0;        ///< answers after `late_by`
  double wrong_size = 0;  ///< a row too few
  double nan = 0;
  double another = 0;  ///< the answer to the call before
};

/// What all faulty oracles of a pool share: a stream of seeded draws, one a call.
class Faults {
 public:
  enum class Kind { none, throws, hangs, dies, late, wrong_size, nan, another };

  Faults(std::uint64_t seed, const FaultShares& shares, std::chrono::milliseconds late_by = {})
      : seed_(seed), shares_(shares), late_by_(late_by) {}

  [[nodiscard]] Kind next() {
    const double draw = uniform(next_++);
    double below = 0;
    const std::pair<double, Kind> kinds[] = {
        {shares_.throws, Kind::throws},  {shares_.hangs, Kind::hangs},           {shares_.dies, Kind::dies},
        {shares_.late, Kind::late},      {shares_.wrong_size, Kind::wrong_size}, {shares_.nan, Kind::nan},
        {shares_.another, Kind::another}};
    for (const std::pair<double, Kind>& kind : kinds)
      if (draw < (below += kind.first)) return kind.second;
    return Kind::none;
  }
  void hang() { gate_.wait(); }
  void release() { gate_.open(); }
  [[nodiscard]] std::chrono::milliseconds late_by() const { return late_by_; }

 private:
  /// In [0, 1); splitmix64 of the draw's number.
  [[nodiscard]] double uniform(std::uint64_t number) const {
    std::uint64_t z = seed_ * 0x9E3779B97F4A7C15ULL + (number + 1) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
  }

  std::uint64_t seed_;
  FaultShares shares_;
  std::chrono::milliseconds late_by_;
  std::atomic<std::uint64_t> next_ = 0;
  Gate gate_;
};

/// An oracle some of whose calls fail.
template <twoheads::Oracle O>
class FaultyOracle {
 public:
  using Scalar = typename O::Scalar;
  using Rows = twoheads::Matrix<Scalar>;

  FaultyOracle(O oracle, std::shared_ptr<Faults> faults) : oracle_(std::move(oracle)), faults_(std::move(faults)) {}

  [[nodiscard]] twoheads::OracleLimits limits() const { return oracle_.limits(); }

  [[nodiscard]] Rows run(const twoheads::OracleCall<Scalar>& call) {
    if (dead_) throw std::runtime_error("the oracle is dead");
    const Faults::Kind kind = faults_->next();
    if (kind == Faults::Kind::throws) throw std::runtime_error("the oracle fails now and then");
    if (kind == Faults::Kind::dies) {
      dead_ = true;
      throw std::runtime_error("the oracle died");
    }
    if (kind == Faults::Kind::hangs) faults_->hang();
    if (kind == Faults::Kind::late) std::this_thread::sleep_for(faults_->late_by());
    Rows answer = oracle_.run(call);
    if (kind == Faults::Kind::another && last_.size() > 0) return std::exchange(last_, std::move(answer));
    last_ = answer;
    if (kind == Faults::Kind::wrong_size) answer.conservativeResize(answer.rows() - 1, answer.cols());
    if (kind == Faults::Kind::nan) answer(answer.rows() - 1, 0) = std::numeric_limits<Scalar>::quiet_NaN();
    return answer;
  }

  void run_batch(std::span<const twoheads::OracleCall<Scalar>> calls, const twoheads::Answer<Scalar>& answer) {
    for (std::size_t index = calls.size(); index-- > 0;) answer(index, run(calls[index]));
  }

 private:
  O oracle_;
  std::shared_ptr<Faults> faults_;
  Rows last_;
  bool dead_ = false;
};
