#include "support/training_attend.hpp"

#include <twoheads/oracle/small_transformer.hpp>
#include <twoheads/train/trainable_direct.hpp>
#include <twoheads/train/trainable_grid.hpp>
#include <twoheads/train/trainable_kernel.hpp>
#include <utility>

#include "support/instances.hpp"

namespace programs {
namespace {

/// Calls of an oracle of its own for each thread.
template <class Scalar>
class OnOracle {
 public:
  using Oracle = twoheads::SmallTransformer<Scalar>;

  OnOracle(const twoheads::OracleLimits& limits, std::shared_ptr<std::atomic<Index>> calls)
      : oracle_(limits), grid_(oracle_, {twoheads::Anchor::adaptive}), calls_(std::move(calls)) {}
  ~OnOracle() {
    const twoheads::GridTrainingCounts counts = grid_.counts();
    *calls_ += counts.forward.calls + counts.runs + counts.vjps;
  }
  OnOracle(const OnOracle&) = delete;
  OnOracle& operator=(const OnOracle&) = delete;

  template <class... Parts>
  void forward(Parts&&... parts) {
    grid_.forward(std::forward<Parts>(parts)...);
  }
  template <class... Parts>
  auto backward(const Parts&... parts) {
    return grid_.backward(parts...);
  }

 private:
  Oracle oracle_;
  twoheads::TrainableGrid<Oracle> grid_;
  std::shared_ptr<std::atomic<Index>> calls_;
};

}  // namespace

template <class Scalar>
AnyTrainable<Scalar> MakeTrainable<Scalar>::operator()() const {
  switch (engine_) {
    case EngineWord::kernel:
      return AnyTrainable<Scalar>(std::make_unique<twoheads::TrainableKernel<Scalar>>());
    case EngineWord::oracle:
      return AnyTrainable<Scalar>(std::make_unique<OnOracle<Scalar>>(limits_, calls_));
    case EngineWord::direct:
      break;
  }
  return AnyTrainable<Scalar>(std::make_unique<twoheads::TrainableDirect<Scalar>>());
}

template class MakeTrainable<float>;
template class MakeTrainable<double>;

}  // namespace programs
