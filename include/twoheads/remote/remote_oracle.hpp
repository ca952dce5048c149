#pragma once

#include <algorithm>
#include <limits>
#include <span>
#include <string>
#include <twoheads/oracle/core.hpp>
#include <twoheads/oracle/oracle.hpp>
#include <twoheads/remote/graph.hpp>
#include <twoheads/remote/remote_core.hpp>
#include <twoheads/remote/remote_session.hpp>
#include <twoheads/remote/remote_transformer.hpp>
#include <utility>
#include <variant>
#include <vector>

namespace twoheads {

/// What no description of a graph says, and its caller declares.
struct RemoteDeclaration {
  OracleKind kind = OracleKind::causal;                            ///< which rows see which
  double score_scale = 1.0;                                        ///< what q . k is multiplied by
  OraclePrecision precision = {};                                  ///< what it rounds to
  double largest_score = std::numeric_limits<double>::infinity();  ///< as OracleLimits has it
};

/// An oracle of a command, whichever of the two graphs its process describes: a small transformer, if one of its inputs
/// is called rows, else an attention core.
///
///   Corner   require_honest() finds out whether the declaration is right
///   Throws   as RemoteCore, RemoteTransformer and RemoteSession
template <RealScalar S>
class RemoteOracle {
 public:
  using Scalar = S;

  RemoteOracle(std::vector<std::string> command, const RemoteDeclaration& declared,
               const RemoteSessionOptions& options = {})
      : oracle_(made(RemoteSession(std::move(command), options), declared.kind, declared.score_scale)),
        limits_(std::visit([](const auto& oracle) { return oracle.limits(); }, oracle_)) {
    limits_.precision = declared.precision;
    limits_.largest_score = declared.largest_score;
    limits_.require_valid();
  }

  [[nodiscard]] OracleLimits limits() const { return limits_; }
  [[nodiscard]] Matrix<Scalar> run(const OracleCall<Scalar>& call) {
    return std::visit([&](auto& oracle) { return oracle.run(call); }, oracle_);
  }
  void run_batch(std::span<const OracleCall<Scalar>> calls, const Answer<Scalar>& answer) {
    std::visit([&](auto& oracle) { oracle.run_batch(calls, answer); }, oracle_);
  }

 private:
  using Core = CoreOracle<Scalar, RemoteCore<Scalar>>;
  using Either = std::variant<Core, RemoteTransformer<Scalar>>;

  [[nodiscard]] static Either made(RemoteSession session, OracleKind kind, double score_scale) {
    const std::vector<TensorSpec>& inputs = session.description().inputs;
    if (std::any_of(inputs.begin(), inputs.end(), [](const TensorSpec& spec) { return spec.name == "rows"; }))
      return RemoteTransformer<Scalar>(std::move(session), kind, score_scale);
    RemoteCore<Scalar> core(std::move(session));
    const OracleLimits limits = core.limits(kind, score_scale);
    return Core(limits, std::move(core));
  }

  Either oracle_;
  OracleLimits limits_;
};

}  // namespace twoheads
