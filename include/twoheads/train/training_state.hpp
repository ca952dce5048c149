#pragma once

#include <limits>
#include <twoheads/base/matrix.hpp>
#include <vector>

namespace twoheads {

/// What a step showed, for logs and plots.
struct TrainingPoint {
  Index step = 0;                                              ///< steps done
  double loss = 0;                                             ///< of the step's batch; nats
  double held_out = std::numeric_limits<double>::quiet_NaN();  ///< bits a byte; NaN where nothing was evaluated
  double rate = 0;                                             ///< learning rate
  double seconds = 0;                                          ///< of training and evaluation until then
};

/// What the steps of a run that are to come depend on, and the curve so far.
///
///   Shapes   weights, first, second (number of parameters): in the order of parameters()
template <RealScalar Scalar>
struct TrainingState {
  Index steps = 0;
  Vector<Scalar> weights, first, second;
  std::vector<TrainingPoint> curve = {};
};

}  // namespace twoheads
