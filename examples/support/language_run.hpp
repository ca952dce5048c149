#pragma once

#include <functional>
#include <optional>
#include <string>
#include <twoheads/attention/language.hpp>
#include <twoheads/exec/kernel_attention.hpp>
#include <twoheads/exec/sampler.hpp>
#include <twoheads/exec/session.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <twoheads/simulate.hpp>
#include <utility>
#include <vector>

#include "support/any_run.hpp"
#include "support/attention_progress.hpp"
#include "support/engine_word.hpp"
#include "support/executor.hpp"
#include "support/instances.hpp"
#include "support/launch.hpp"
#include "support/processes.hpp"
#include "support/progress.hpp"

#ifdef TWOHEADS_WITH_MPI
#include "support/ranks/rank_run.hpp"
#endif

namespace programs {

using twoheads::Matrix;

/// Attention of any kind behind one type, so that sessions are compiled once.
template <class Scalar>
using AttendFunction = std::function<void(const twoheads::AttentionInput<Scalar>&, twoheads::MatrixSpan<Scalar>)>;

/// What the flags of twoheads_lm say.
struct LanguageSettings {
  std::string model;
  std::string tokenizer;
  Index rows = 64;
  Index kernel_rows = 0;  ///< 0: as the kernel chooses
  Index oracle_heads = 1;
  Index window = 0;  ///< 0: none
  Index sinks = 0;
  EngineWord engine = EngineWord::oracle;
  twoheads::Anchor anchor = twoheads::Anchor::adaptive;
  Index threads = 1;
  Index generate = 0;
  std::string prompt;
  bool past_end = false;  ///< whether text goes on after the token that ends one
  twoheads::SamplerOptions sampler;
  twoheads::CachePositions positions = twoheads::CachePositions::original;
  std::string session;  ///< file that a session goes on from, and is written to
  Index chunk = 0;      ///< tokens that are scored at once; 0: all
  std::string score;
  std::string score_ids;
  std::string logits;
  std::string rows_reason;                     ///< why so many, with --rows auto
  std::optional<twoheads::OracleKind> oracle;  ///< none: plain where tokens come one by one, else causal
  bool rows_given = false;
  ProcessFlags processes;
  std::string checkpoint;
  bool json = false;

  [[nodiscard]] twoheads::OracleKind oracle_kind() const {
    // One token sees all that came before: on a plain oracle a call is full of keys.
    const bool decodes = generate > 0 && processes.command.empty();
    return oracle.value_or(decodes ? twoheads::OracleKind::plain : twoheads::OracleKind::causal);
  }
};

/// The model's body over token ids by the chosen engine, counting calls over several passes. Progress is told of the
/// passes of operator().
template <class Scalar>
class LanguageRun {
 public:
  LanguageRun(const twoheads::LanguageModel<Scalar>& model, const LanguageSettings& settings, Progress& progress)
      : model_(model),
        progress_(progress),
        engine_(settings.engine),
        kernel_rows_(settings.kernel_rows),
        threads_(settings.threads),
        checkpoint_{settings.checkpoint, ""},
        options_{settings.anchor},
        oracle_(limits(settings, model.body.spec.attention.score_scale)),
        grid_(oracle_, {settings.anchor}, Executor(settings.threads, &progress)),
        kernel_({.rows = settings.kernel_rows}, Executor(settings.threads, &progress)) {
    options_.checksums = settings.processes.checksums;
    if (settings.engine != EngineWord::oracle) return;
    if (!settings.processes.command.empty()) {
      processes_.emplace(settings.processes, settings.oracle_kind(), oracle_.limits().score_scale);
      const Index rows = processes_->limits().rows;
      if (settings.rows_given && settings.rows != rows)
        throw ArgumentError("--rows", std::to_string(settings.rows),
                            std::to_string(rows) + ", the rows of the process");
    } else if (!settings.checkpoint.empty() || options_.checksums) {
      own_.emplace(own_oracle<Scalar>(oracle_.limits(), settings.threads));
    }
    if (any() != nullptr) checkpoint_.key = key_of(settings.processes.command, any()->limits(), options_);
  }

  /// The rows of a text in one pass; of several ranks, on the first.
  [[nodiscard]] Matrix<Scalar> operator()(const std::vector<int>& ids, Launch& launch) {
    const Matrix<Scalar> x = twoheads::embed(model_, ids);
#ifdef TWOHEADS_WITH_MPI
    if (launch.ranks() != nullptr) {
      RankRun<Scalar> run = on_ranks(*launch.ranks(), x);
      counts_ = run.simulation.counts;
      return std::move(run.simulation.rows);
    }
#else
    static_cast<void>(launch);
#endif
    if (engine_ == EngineWord::direct) return forward_directly(model_.body, x, progress_);
    if (any() != nullptr) {
      twoheads::Simulation<Scalar> found =
          simulate_on<Scalar>(*any(), model_.body, x, options_, nullptr, checkpoint_, progress_);
      counts_.calls += found.counts.calls;
      counts_.repeats += found.counts.repeats;
      return std::move(found.rows);
    }
    const twoheads::ModelSpec& spec = model_.body.spec;
    if (engine_ == EngineWord::kernel)
      begin_pieces(progress_, spec, x.rows(), x.rows(), {.rows = kernel_rows_});
    else
      begin_jobs(progress_, spec, x.rows(), x.rows(), oracle_.limits(), options_);
    Matrix<Scalar> rows = engine_ == EngineWord::kernel ? twoheads::forward(model_.body, x, kernel_)
                                                        : twoheads::forward(model_.body, x, grid_);
    progress_.finish();
    return rows;
  }

  /// The attention of the engine, for a session; good as long as this is.
  [[nodiscard]] AttendFunction<Scalar> attend() {
    if (engine_ == EngineWord::direct) return std::ref(direct_);
    if (engine_ == EngineWord::kernel) return std::ref(kernel_);
    if (any() == nullptr) return std::ref(grid_);
    if (!any_grid_) any_grid_.emplace(*any(), options_);
    return std::ref(*any_grid_);
  }

  [[nodiscard]] twoheads::SimulationCounts counts() const {
    if (any_grid_) return any_grid_->counts();
    return processes_ || own_ || counts_.calls > 0 ? counts_ : grid_.counts();
  }
  [[nodiscard]] Index rows() const { return processes_ ? processes_->limits().rows : oracle_.limits().rows; }
  /// What came of calls to processes; nothing where there are none.
  [[nodiscard]] std::optional<ProcessCounts> process_counts() const {
    return processes_ ? std::optional(processes_->counts()) : std::nullopt;
  }

 private:
  static twoheads::OracleLimits limits(const LanguageSettings& settings, double score_scale) {
    twoheads::OracleLimits limits;
    limits.kind = settings.oracle_kind();
    limits.rows = settings.rows;
    limits.heads = settings.oracle_heads;
    limits.score_scale = settings.processes.score_scale > 0 ? settings.processes.score_scale : score_scale;
    return limits;
  }

#ifdef TWOHEADS_WITH_MPI
  [[nodiscard]] RankRun<Scalar> on_ranks(twoheads::Ranks& ranks, const Matrix<Scalar>& x) {
    if (engine_ == EngineWord::kernel)
      return kernel_on_ranks(ranks, model_.body, x, {.rows = kernel_rows_}, threads_, Matrix<Scalar>(),
                             {checkpoint_.path, ""});
    if (any() != nullptr) return any_on_ranks(ranks, model_.body, x, *any(), options_, Matrix<Scalar>(), checkpoint_);
    return grid_on_ranks(ranks, model_.body, x, oracle_.limits(), options_, threads_, Matrix<Scalar>(), checkpoint_);
  }
#endif

  /// The oracle behind one type, where calls go to a process or have a checkpoint.
  [[nodiscard]] twoheads::AnyOracle<Scalar>* any() {
    if (processes_) return &processes_->oracle();
    return own_ ? &*own_ : nullptr;
  }

  const twoheads::LanguageModel<Scalar>& model_;
  Progress& progress_;
  EngineWord engine_;
  Index kernel_rows_;
  Index threads_;
  Checkpoint checkpoint_;
  twoheads::SimulationOptions options_;
  twoheads::SimulationCounts counts_;
  std::optional<Processes<Scalar>> processes_;
  std::optional<twoheads::AnyOracle<Scalar>> own_;
  twoheads::SmallTransformer<Scalar> oracle_;
  twoheads::GridAttention<twoheads::SmallTransformer<Scalar>, Executor> grid_;
  twoheads::KernelAttention<Scalar, Executor> kernel_;
  twoheads::DirectAttention<Scalar> direct_;
  std::optional<twoheads::GridAttention<twoheads::AnyOracle<Scalar>>> any_grid_;
};

}  // namespace programs
