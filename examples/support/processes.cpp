#include "support/processes.hpp"

#include <utility>

#ifdef TWOHEADS_WITH_REMOTE

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <iostream>
#include <memory>
#include <twoheads/exec/pool.hpp>
#include <twoheads/oracle/probe.hpp>
#include <twoheads/remote/remote_oracle.hpp>
#include <vector>
#endif

namespace programs {

#ifdef TWOHEADS_WITH_REMOTE

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
            [=, begun = std::make_shared<std::atomic<Index>>(0)] {
              // Said once: failures may be many, and their number is part of what a run prints.
              if (begun->fetch_add(1) == flags.processes)
                std::cerr << "a process of --oracle-command has failed, another one takes its place\n";
              twoheads::RemoteSessionOptions session;
              session.call = std::chrono::milliseconds(static_cast<long>(std::ceil(1000 * flags.deadline)));
              // A process that is started may have a runtime and a model to load.
              session.start = std::max(session.call, std::chrono::milliseconds(10000));
              twoheads::RemoteDeclaration declared{kind, score_scale};
              if (flags.precision != twoheads::Precision::own)
                declared.precision = twoheads::mixed_precision(flags.precision);
              // The shell splits words and finds the program, and becomes it; env takes NAME=value before it.
              return Remote({"/bin/sh", "-c", "exec env " + flags.command}, declared, session);
            },
            options_of(flags)),
        oracle([this] { return Lent{&pool}; }) {}

  static twoheads::PoolOptions options_of(const ProcessFlags& flags) {
    twoheads::PoolOptions options;
    options.workers = flags.processes;
    options.attempts = flags.attempts;
    return options;
  }

  [[nodiscard]] ProcessCounts counts() const {
    const twoheads::PoolCounts counts = pool.counts();
    return {counts.failures(), counts.retries, counts.oracles};
  }

  twoheads::OraclePool<Remote> pool;
  twoheads::AnyOracle<S> oracle;
};

#else

/// --oracle-command is refused in this build, so no program gets here.
template <class S>
struct Processes<S>::Pool {
  Pool(const ProcessFlags& flags, twoheads::OracleKind, double)
      : oracle([&]() -> twoheads::AnyOracle<S> { throw ArgumentError("--oracle-command", flags.command, "nothing"); }) {
  }
  [[nodiscard]] ProcessCounts counts() const { return {}; }

  twoheads::AnyOracle<S> oracle;
};

#endif

namespace {

/// The pool, whose first process has described its graph by then.
template <class Pool>
std::unique_ptr<Pool> begun(const ProcessFlags& flags, twoheads::OracleKind kind, double score_scale) {
  try {
    return std::make_unique<Pool>(flags, kind, score_scale);
  } catch (const twoheads::LimitError& error) {
    throw twoheads::LimitError("--oracle-command '" + flags.command + "': " + error.what() +
                               "; its numbers are to be those of --scalar");
  }
}

}  // namespace

template <class Scalar>
Processes<Scalar>::Processes(const ProcessFlags& flags, twoheads::OracleKind kind, double score_scale)
    : pool_(begun<Pool>(flags, kind, score_scale)) {
#ifdef TWOHEADS_WITH_REMOTE
  if (flags.trust) return;
  try {
    twoheads::require_honest(pool_->oracle);
  } catch (const twoheads::OracleError& error) {
    throw twoheads::OracleError("--oracle-command '" + flags.command + "': " + error.what() +
                                "; what is declared comes from --oracle, --oracle-scale and --oracle-precision");
  }
#endif
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
twoheads::OracleLimits Processes<Scalar>::limits() const {
  return pool_->oracle.limits();
}

template <class Scalar>
ProcessCounts Processes<Scalar>::counts() const {
  return pool_->counts();
}

template class Processes<float>;
template class Processes<double>;

}  // namespace programs
