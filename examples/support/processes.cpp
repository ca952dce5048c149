#include "support/processes.hpp"

#ifdef TWOHEADS_WITH_REMOTE

#include <chrono>
#include <cmath>
#include <twoheads/exec/pool.hpp>
#include <twoheads/oracle/probe.hpp>
#include <twoheads/remote/remote_oracle.hpp>
#include <utility>
#include <vector>

namespace programs {

template <class S>
struct Processes<S>::Pool {
  using Remote = twoheads::RemoteOracle<S>;

  /// The pool, owned elsewhere: an AnyOracle owns what it holds.
  struct Lent {
    using Scalar = S;
    twoheads::OraclePool<Remote>* pool;
    [[nodiscard]] twoheads::OracleLimits limits() const { return pool->limits(); }
    [[nodiscard]] twoheads::Matrix<S> run(const twoheads::OracleCall<S>& call) { return pool->run(call); }
    void run_batch(std::span<const twoheads::OracleCall<S>> calls, const twoheads::Answer<S>& answer) {
      pool->run_batch(calls, answer);
    }
  };

  Pool(const ProcessFlags& flags, twoheads::OracleKind kind, double score_scale)
      : pool(
            [=] {
              twoheads::SessionOptions session;
              session.call = std::chrono::milliseconds(static_cast<long>(std::ceil(1000 * flags.deadline)));
              // The shell splits words and finds the program, and becomes it.
              return Remote({"/bin/sh", "-c", "exec " + flags.command}, kind, score_scale, session);
            },
            options_of(flags)),
        oracle([this] { return Lent{&pool}; }) {}

  static twoheads::PoolOptions options_of(const ProcessFlags& flags) {
    twoheads::PoolOptions options;
    options.workers = flags.processes;
    options.attempts = flags.attempts;
    return options;
  }

  twoheads::OraclePool<Remote> pool;
  twoheads::AnyOracle<S> oracle;
};

template <class Scalar>
Processes<Scalar>::Processes(const ProcessFlags& flags, twoheads::OracleKind kind, double score_scale)
    : pool_(std::make_unique<Pool>(flags, kind, score_scale)) {
  if (!flags.trust) twoheads::require_honest(pool_->oracle);
}

template <class Scalar>
Processes<Scalar>::Processes(Processes&&) noexcept = default;

template <class Scalar>
Processes<Scalar>::~Processes() = default;

template <class Scalar>
twoheads::AnyOracle<Scalar>& Processes<Scalar>::oracle() {
  return pool_->oracle;
}

template <class Scalar>
ProcessCounts Processes<Scalar>::counts() const {
  const twoheads::PoolCounts counts = pool_->pool.counts();
  return {counts.failures(), counts.retries, counts.oracles};
}

template class Processes<float>;
template class Processes<double>;

}  // namespace programs

#endif
