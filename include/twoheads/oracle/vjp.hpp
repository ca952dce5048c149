#pragma once

#include <concepts>
#include <twoheads/base/matrix.hpp>
#include <twoheads/oracle/oracle.hpp>

namespace twoheads {

/// An oracle that can be differentiated: a vector-Jacobian product of one call.
///
///   Shapes   d_answer (n, output width of the call's weights), result (n, width of its rows)
///   Math     of a loss whose derivatives by run(call) are d_answer, the derivatives by call.rows. The weights of a
///            call are constants.
///   Laws     linear in d_answer; as run(), the call is evaluated by itself: nothing is kept from a call of run()
template <class O>
concept HasVjp = HasScalar<O> &&
    requires(O& oracle, const OracleCall<typename O::Scalar>& call, const Matrix<typename O::Scalar>& d_answer) {
  { oracle.vjp(call, d_answer) } -> std::same_as<Matrix<typename O::Scalar>>;
};

/// An oracle that the library may call and differentiate.
template <class O>
concept DifferentiableOracle = Oracle<O> && HasVjp<O>;

}  // namespace twoheads
