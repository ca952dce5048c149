#pragma once

#include <stdexcept>
#include <string>
#include <twoheads/base/errors.hpp>
#include <twoheads/model/weights.hpp>
#include <twoheads/oracle/any_oracle.hpp>
#include <twoheads/simulate.hpp>

#include "support/progress.hpp"

namespace programs {

/// A file that holds the finished parts of a run; no path, no file.
struct Checkpoint {
  std::string path;
  std::string key;  ///< what decides the bits of the run beside its model and input
};

/// Runs what reads and writes the file. Throws std::runtime_error that says what to do where it is
/// another run's, or damaged.
template <class Run>
[[nodiscard]] auto with_checkpoint(const Run& run) {
  try {
    return run();
  } catch (const twoheads::FormatError& error) {
    throw std::runtime_error(std::string("--checkpoint ") + error.what() +
                             "; expected the file of a run with the same flags, or no file yet");
  }
}

/// simulate() on an oracle of any type, with a checkpoint and progress by calls. Compiled once for all programs.
template <class Scalar>
[[nodiscard]] twoheads::Simulation<Scalar> simulate_on(twoheads::AnyOracle<Scalar>& oracle,
                                                       const twoheads::Model<Scalar>& model, twoheads::Matrix<Scalar> x,
                                                       const twoheads::SimulationOptions& options,
                                                       const twoheads::Matrix<Scalar>* memory,
                                                       const Checkpoint& checkpoint, Progress& progress);

/// The small transformer on Eigen; on several threads there are as many of it.
template <class Scalar>
[[nodiscard]] twoheads::AnyOracle<Scalar> own_oracle(const twoheads::OracleLimits& limits, twoheads::Index threads);

/// What decides the bits of a simulation beside its model and input: the oracle (its command, or none for our own), its
/// limits, and the options.
[[nodiscard]] std::string key_of(const std::string& command, const twoheads::OracleLimits& limits,
                                 const twoheads::SimulationOptions& options);

}  // namespace programs
