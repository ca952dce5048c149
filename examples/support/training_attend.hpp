#pragma once

#include <atomic>
#include <memory>
#include <twoheads/attention/input.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/plan/limits.hpp>
#include <twoheads/train/trainable.hpp>
#include <utility>

#include "support/engine_word.hpp"

namespace programs {

/// Attention with derivatives of any kind behind one type, so that training is compiled once a scalar.
template <class Scalar>
class AnyTrainable {
 public:
  using Gradient = twoheads::AttentionGradient<Scalar>;
  using Input = twoheads::AttentionInput<Scalar>;

  template <class A>
  explicit AnyTrainable(std::unique_ptr<A> attend) : held_(std::make_unique<Held<A>>(std::move(attend))) {}

  void forward(const Input& input, twoheads::MatrixSpan<Scalar> out, twoheads::Matrix<double>& log_weights) {
    held_->forward(input, out, log_weights);
  }
  [[nodiscard]] Gradient backward(const Input& input, const twoheads::MatrixView<Scalar>& out,
                                  const twoheads::Matrix<double>& log_weights,
                                  const twoheads::MatrixView<Scalar>& d_out) {
    return held_->backward(input, out, log_weights, d_out);
  }

 private:
  struct Any {
    virtual ~Any() = default;
    virtual void forward(const Input&, twoheads::MatrixSpan<Scalar>, twoheads::Matrix<double>&) = 0;
    virtual Gradient backward(const Input&, const twoheads::MatrixView<Scalar>&, const twoheads::Matrix<double>&,
                              const twoheads::MatrixView<Scalar>&) = 0;
  };
  template <class A>
  struct Held final : Any {
    explicit Held(std::unique_ptr<A> a) : attend(std::move(a)) {}
    void forward(const Input& input, twoheads::MatrixSpan<Scalar> out, twoheads::Matrix<double>& weights) override {
      attend->forward(input, out, weights);
    }
    Gradient backward(const Input& input, const twoheads::MatrixView<Scalar>& out,
                      const twoheads::Matrix<double>& weights, const twoheads::MatrixView<Scalar>& d_out) override {
      return attend->backward(input, out, weights, d_out);
    }
    std::unique_ptr<A> attend;
  };

  std::unique_ptr<Any> held_;
};

static_assert(twoheads::TrainableAttention<AnyTrainable<float>, float>);

/// Makes the attention of a thread, of float or double; what it took is added up in `calls`.
template <class Scalar>
class MakeTrainable {
 public:
  /// `limits`: of the oracle, where the engine is one.
  MakeTrainable(EngineWord engine, const twoheads::OracleLimits& limits) : engine_(engine), limits_(limits) {}

  [[nodiscard]] AnyTrainable<Scalar> operator()() const;

  [[nodiscard]] Index calls() const { return *calls_; }

 private:
  EngineWord engine_;
  twoheads::OracleLimits limits_;
  std::shared_ptr<std::atomic<Index>> calls_ = std::make_shared<std::atomic<Index>>(0);
};

}  // namespace programs
