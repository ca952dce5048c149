#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <twoheads/codec/layout.hpp>
#include <twoheads/model/spec.hpp>
#include <utility>

#include "support/engine_word.hpp"
#include "support/plan_arguments.hpp"
#include "support/processes.hpp"
#include "support/scalar_word.hpp"

namespace programs {

/// Layer of the model that is simulated.
enum class LayerWord { standard, paper };

/// What the flags of twoheads_simulate say.
struct SimulateSettings {
  twoheads::PlanRequest request;
  Index kv_heads = 1;
  Index width = 64;
  double logit_scale = 1.0;
  Index seed = 1;
  LayerWord layer = LayerWord::standard;
  EngineWord engine = EngineWord::oracle;
  twoheads::TokenEncoding encoding = twoheads::TokenEncoding::projected;
  Method method = Method::stable;
  Index threads = 1;
  ProcessFlags processes;
  std::string checkpoint;
  bool reference = true;
  bool json = false;
  Index ranks = 0;
};

/// The model that is simulated. Throws ArgumentError for widths that its heads cannot share.
[[nodiscard]] inline twoheads::ModelSpec make_spec(const SimulateSettings& settings) {
  const twoheads::PlanRequest& request = settings.request;
  // Weights are held: of a plan alone there may be more of either.
  constexpr Index most = 1 << 20;
  for (const auto& [flag, value] :
       {std::pair<const char*, Index>{"--width", settings.width}, {"--layers", request.layers}})
    if (value > most) throw ArgumentError(flag, std::to_string(value), "1 to " + std::to_string(most));
  if (settings.width % request.heads != 0)
    throw ArgumentError("--width", std::to_string(settings.width),
                        "a multiple of --heads " + std::to_string(request.heads));
  if (settings.layer == LayerWord::paper) {
    if (settings.kv_heads != request.heads)
      throw ArgumentError("--kv-heads", std::to_string(settings.kv_heads), "--heads where --layer is paper");
    return twoheads::paper_layer(request.layers, settings.width, request.heads, request.mask, twoheads::MlpKind::relu,
                                 2 * settings.width);
  }
  twoheads::ModelSpec spec;
  spec.layers = request.layers;
  spec.width = settings.width;
  spec.attention.heads = request.heads;
  spec.attention.kv_heads = settings.kv_heads;
  spec.attention.head_dim = spec.attention.value_dim = settings.width / request.heads;
  spec.attention.score_scale = 1.0 / std::sqrt(static_cast<double>(spec.attention.head_dim));
  spec.attention.mask = request.mask;
  spec.norm = twoheads::NormKind::rms;
  spec.mlp = twoheads::MlpKind::swiglu;
  spec.hidden = 2 * settings.width;
  spec.final_norm = true;
  return spec;
}

/// The flags of twoheads_simulate, and the settings that they make.
class SimulateArguments {
 public:
  explicit SimulateArguments(CLI::App& app) : app_(app), plan_(app, twoheads::Anchor::adaptive) {
    add_count(app, "--width", settings_.width, 1, "model width d, H heads of d / H (default 64)");
    add_scalar(app, scalar_);
    add_positive(app, "--logit-scale", settings_.logit_scale, "multiplies the queries (default 1: logits of 1 to 10)");
    add_choice<EngineWord>(app, "--engine", settings_.engine,
                           {{"oracle", EngineWord::oracle}, {"kernel", EngineWord::kernel}},
                           "what evaluates the tiles: calls of an oracle, or our own kernel in blocks of --rows "
                           "(default oracle)");
    add_threads(app, settings_.threads);
    add_processes(app, settings_.processes);
    add_file(app, "--checkpoint", settings_.checkpoint,
             "write finished parts into this file, and take from it what is there");
    add_count(app, "--seed", settings_.seed, 0, "seed of weights, input and samples (default 1)");
    add_choice<LayerWord>(app, "--layer", settings_.layer,
                          {{"standard", LayerWord::standard}, {"paper", LayerWord::paper}},
                          "pre-norm layer with residual, or the paper's Definition 2.2 (default standard)");
    add_choice<twoheads::TokenEncoding>(
        app, "--encoding", settings_.encoding,
        {{"projected", twoheads::TokenEncoding::projected}, {"raw", twoheads::TokenEncoding::raw}},
        "what the rows of a call hold: projected q, k, v, or tokens (default projected)");
    add_count(app, "--ranks", settings_.ranks, 1,
              "ranks that a launcher of MPI is to have started; a run of others is refused");
    app.add_flag_callback(
        "--no-reference", [this] { settings_.reference = false; },
        "leave out direct evaluation, which takes longest and one thread, and the errors against it");
    app.add_flag("--json", settings_.json, "print one JSON object and nothing else");
  }

  [[nodiscard]] ScalarWord scalar() const { return scalar_; }
  /// Those of the plan, which know how it is drawn and checked.
  [[nodiscard]] const PlanArguments& plan() const { return plan_; }

  /// What was asked for. Throws ArgumentError for flags that do not go together, also on the ranks of MPI, of which
  /// there are `size`.
  [[nodiscard]] SimulateSettings settings(bool on_ranks, Index size) {
    settings_.request = plan_.request();
    settings_.request.sampling.seed = static_cast<std::uint64_t>(settings_.seed);
    settings_.kv_heads = plan_.kv_heads();
    settings_.method = plan_.method();
    const bool stable = settings_.method == Method::stable;
    const bool kernel = settings_.engine == EngineWord::kernel;
    if (kernel && !stable)
      throw ArgumentError("--method paper and strict are made of calls: they need --engine oracle");
    if (kernel && !plan_.chose_oracle()) settings_.request.oracle.kind = twoheads::OracleKind::kernel;
    if (kernel)
      note_without_effect(app_,
                          {"--anchor", "--packing", "--oracle-heads", "--oracle-layers", "--encoding", "--oracle-scale",
                           "--checksums", "--fixed-rows", "--row-counts"},
                          "the kernel makes no calls");
    if (!settings_.processes.command.empty())
      note_without_effect(app_, {"--oracle-heads", "--oracle-layers"}, "the process says how many it has");
    if (!stable && settings_.processes.checksums)
      throw ArgumentError("--checksums needs --method stable: printed calls have no columns for them");
    if (!stable && settings_.threads > 1)
      throw ArgumentError("--method paper and --method strict run on one thread: leave --threads out");
    if (settings_.method == Method::strict && settings_.layer != LayerWord::paper)
      throw ArgumentError("--method strict runs the paper's own layer: it needs --layer paper");
    if (!stable) static_cast<void>(paper_figures(settings_.request, settings_.method));
    const twoheads::ModelSpec spec = make_spec(settings_);
    spec.require_valid();
    settings_.request.oracle.score_scale =
        settings_.processes.score_scale > 0 ? settings_.processes.score_scale : spec.attention.score_scale;
    const bool calls = !kernel && stable;
    const bool keeps = calls || (kernel && on_ranks);
    if ((!calls && !settings_.processes.command.empty()) || (!keeps && !settings_.checkpoint.empty()))
      throw ArgumentError(
          "--oracle-command and --checkpoint need --engine oracle and --method stable; on ranks of MPI, if only one, "
          "--checkpoint takes the kernel, too");
    require_left_to_process(settings_.processes, settings_.threads, settings_.request.oracle.rows);
    if (settings_.ranks > 0 && settings_.ranks != size)
      throw ArgumentError("--ranks", std::to_string(settings_.ranks),
                          std::to_string(size) + ", the ranks that were started");
    if (on_ranks) require_shared();
    return settings_;
  }

 private:
  /// Refuses what a run on several ranks cannot do.
  void require_shared() const {
    if (settings_.method != Method::stable)
      throw ArgumentError("--method paper and --method strict run on one rank: leave the launcher out");
    require_rows_for_ranks(settings_.request.oracle.rows);
  }

  CLI::App& app_;
  PlanArguments plan_;
  SimulateSettings settings_;
  ScalarWord scalar_ = ScalarWord::float32;
};

}  // namespace programs
