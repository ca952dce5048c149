#pragma once

#include <functional>
#include <memory>
#include <span>
#include <twoheads/base/matrix.hpp>
#include <twoheads/oracle/oracle.hpp>
#include <utility>

namespace twoheads {

/// An oracle of any type behind one type, so that what uses it is compiled once. It is made by a function, and a copy
/// is another oracle from the same function: another process, another session, never one that two threads share.
template <RealScalar S>
class AnyOracle {
 public:
  using Scalar = S;

  /// `make()` returns an oracle; it is called now, and once for every copy.
  template <class Make>
  requires Oracle<std::invoke_result_t<const Make&>>
  explicit AnyOracle(Make make)
      : make_([make = std::move(make)] { return std::make_unique<Held<std::invoke_result_t<const Make&>>>(make); }),
        held_(make_()) {}

  AnyOracle(const AnyOracle& other) : make_(other.make_), held_(make_()) {}
  /// Another oracle from the same function.
  AnyOracle& operator=(const AnyOracle& other) {
    if (this != &other) *this = AnyOracle(other);
    return *this;
  }
  AnyOracle(AnyOracle&&) noexcept = default;
  AnyOracle& operator=(AnyOracle&&) noexcept = default;  ///< takes the other's oracle
  ~AnyOracle() = default;

  [[nodiscard]] OracleLimits limits() const { return held_->limits(); }
  [[nodiscard]] Matrix<Scalar> run(const OracleCall<Scalar>& call) { return held_->run(call); }
  void run_batch(std::span<const OracleCall<Scalar>> calls, const Answer<Scalar>& answer) {
    held_->run_batch(calls, answer);
  }

 private:
  struct Interface {
    virtual ~Interface() = default;
    [[nodiscard]] virtual OracleLimits limits() const = 0;
    [[nodiscard]] virtual Matrix<Scalar> run(const OracleCall<Scalar>& call) = 0;
    virtual void run_batch(std::span<const OracleCall<Scalar>> calls, const Answer<Scalar>& answer) = 0;
  };

  template <Oracle O>
  struct Held final : Interface {
    // Made in place: an oracle need not be movable.
    template <class Make>
    explicit Held(const Make& make) : oracle(make()) {}
    [[nodiscard]] OracleLimits limits() const override { return oracle.limits(); }
    [[nodiscard]] Matrix<Scalar> run(const OracleCall<Scalar>& call) override { return oracle.run(call); }
    void run_batch(std::span<const OracleCall<Scalar>> calls, const Answer<Scalar>& answer) override {
      if constexpr (HasRunBatch<O>)
        oracle.run_batch(calls, answer);
      else
        for (std::size_t index = 0; index < calls.size(); ++index) answer(index, oracle.run(calls[index]));
    }
    O oracle;
  };

  std::function<std::unique_ptr<Interface>()> make_;
  std::unique_ptr<Interface> held_;
};

static_assert(Oracle<AnyOracle<float>> && Oracle<AnyOracle<double>>);

}  // namespace twoheads
