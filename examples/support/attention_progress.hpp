#pragma once

#include <twoheads/exec/kernel_attention.hpp>
#include <twoheads/model/weights.hpp>
#include <twoheads/simulate.hpp>

#include "support/progress.hpp"

/// Progress of a forward pass, whatever evaluates its attention.
namespace programs {

/// Begins what the calls of GridAttention come to on programs::Executor: jobs.
void begin_jobs(Progress& progress, const twoheads::ModelSpec& spec, twoheads::Index tokens, twoheads::Index keys,
                const twoheads::OracleLimits& limits, const twoheads::SimulationOptions& options);

/// Begins what the same comes to for who counts calls.
void begin_calls(Progress& progress, const twoheads::ModelSpec& spec, twoheads::Index tokens, twoheads::Index keys,
                 const twoheads::OracleLimits& limits, const twoheads::SimulationOptions& options);

/// Begins what KernelAttention comes to on programs::Executor: pieces.
void begin_pieces(Progress& progress, const twoheads::ModelSpec& spec, twoheads::Index tokens, twoheads::Index keys,
                  const twoheads::KernelOptions& options);

/// The forward pass by direct attention, which sees its largest |score|.
///
///   Laws     the bits are those without progress
template <class Scalar>
[[nodiscard]] twoheads::Matrix<Scalar> forward_directly(const twoheads::Model<Scalar>& model,
                                                        twoheads::Matrix<Scalar> x, Progress& progress,
                                                        const twoheads::Matrix<Scalar>* memory = nullptr,
                                                        double* max_logit = nullptr);

}  // namespace programs
