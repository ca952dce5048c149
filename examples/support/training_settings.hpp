#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <string>
#include <twoheads/attention/forward.hpp>
#include <twoheads/io/dtype.hpp>
#include <twoheads/model/mask.hpp>
#include <twoheads/model/spec.hpp>
#include <twoheads/plan/limits.hpp>
#include <twoheads/train/trainer.hpp>
#include <utility>
#include <vector>

#include "support/arguments.hpp"
#include "support/engine_word.hpp"
#include "support/scalar_word.hpp"

namespace programs {

/// What the flags of twoheads_train say.
struct TrainingSettings {
  std::string text, held_out, out, checkpoint, log, plot;
  double held_out_share = 0.05;
  twoheads::Dtype dtype = twoheads::Dtype::f32;
  Index layers = 4;
  Index width = 128;
  Index heads = 4;
  Index kv_heads = 0;  ///< 0: as many as heads
  Index hidden = 0;    ///< 0: about 8/3 of the width
  Index context = 256;
  Index batch = 16;
  Index steps = 1000;
  double rate = 2e-3;
  double last_rate = -1;  ///< below 0: a tenth of the rate
  Index warm_up = -1;     ///< below 0: a twentieth of the steps
  double decay = 0.1;
  double clip = 1.0;
  Index seed = 1;
  Index threads = 1;
  ScalarWord scalar = ScalarWord::float32;
  EngineWord engine = EngineWord::kernel;
  Index rows = 64;
  twoheads::MaskKind mask = twoheads::MaskKind::causal;
  Index window = 0;
  Index sinks = 0;
  Index checkpoint_every = 100;
  Index evaluate_every = 0;  ///< 0: twenty times a run
  Index evaluate_bytes = 65536;
  bool json = false;

  void add_to(CLI::App& app) {
    add_file(app, "--text", text, "text to learn, any bytes")->required();
    CLI::Option* file = add_file(app, "--held-out", held_out, "text that is only predicted");
    add_number(app, "--held-out-share", held_out_share, 0, true, "0 (none) to below 1",
               "share at the end of --text that is only predicted (default 0.05)")
        ->excludes(file);
    add_file(app, "--out", out, "folder for config.json and model.safetensors, as Hugging Face lays out a Llama")
        ->type_name("FOLDER");
    using twoheads::Dtype;
    add_choice<Dtype>(app, "--dtype", dtype, {{"float16", Dtype::f16}, {"float32", Dtype::f32}},
                      "numbers of the folder (default float32)");
    add_count(app, "--layers", layers, 1, "layers (default 4)");
    add_count(app, "--width", width, 2, "width (default 128)");
    add_count(app, "--heads", heads, 1, "heads (default 4)");
    add_count(app, "--kv-heads", kv_heads, 1, "key/value heads (default: as many as heads)");
    add_count(app, "--hidden", hidden, 1, "hidden columns of the MLP (default: about 8/3 of the width)");
    add_count(app, "--context", context, 2, "bytes of a sequence (default 256)");
    add_count(app, "--batch", batch, 1, "sequences of a step (default 16)");
    add_count(app, "--steps", steps, 1, "steps of the whole run (default 1000)");
    add_positive(app, "--lr", rate, "largest learning rate (default 0.002)");
    add_number(app, "--lr-last", last_rate, 0, true, "a finite number of 0 or more",
               "learning rate at the end of the cosine (default: a tenth of --lr)");
    add_count(app, "--warmup", warm_up, 0, "steps up to the largest rate (default: a twentieth of --steps)");
    add_number(app, "--decay", decay, 0, true, "a finite number of 0 or more",
               "weight decay of matrices (default 0.1)");
    add_number(app, "--clip", clip, 0, true, "a finite number of 0 or more",
               "longest gradient of a step; 0: any (default 1)");
    add_count(app, "--seed", seed, 0, "seed of weights and batches (default 1)");
    add_threads(app, threads);
    add_scalar(app, scalar);
    add_engine(
        app, engine,
        "what evaluates and differentiates attention: our own kernel, calls of an oracle and their derivatives, or "
        "direct evaluation (default kernel); held-out text is always predicted by the kernel");
    rows_ = add_count(app, "--rows", rows, 2, "with --engine oracle: all rows that a call may have (default 64)");
    using twoheads::MaskKind;
    add_choice<MaskKind>(
        app, "--mask", mask, {{"causal", MaskKind::causal}, {"window", MaskKind::window}, {"sinks", MaskKind::sinks}},
        "what a byte attends to: all before it, a window, or a window and the first bytes (default causal)");
    window_ = add_count(app, "--window", window, 1, "bytes of a window, the byte itself included");
    sinks_ = add_count(app, "--sinks", sinks, 0, "first bytes that stay visible beside the window");
    CLI::Option* kept = add_file(app, "--checkpoint", checkpoint,
                                 "file that the run is kept in, and goes on from where it is there already");
    add_count(app, "--checkpoint-every", checkpoint_every, 1, "steps between writing it (default 100)")->needs(kept);
    add_count(app, "--evaluate-every", evaluate_every, 1,
              "steps between predictions of held-out text (default: a twentieth of --steps)");
    add_count(
        app, "--evaluate-bytes", evaluate_bytes, 2,
        "first bytes of the held-out text that are predicted during the run (default 65536); in the end, all are");
    add_file(app, "--log", log, "table of all steps, as CSV");
    add_file(app, "--plot", plot, "picture of the loss, as SVG");
    app.add_flag("--json", json, "print one JSON object");
  }

  /// Fills in what depends on other flags, and refuses what does not fit together.
  void complete() {
    constexpr Index most = Index{1} << 20;
    for (const auto& [flag, value] : {std::pair<const char*, Index>{"--layers", layers},
                                      {"--width", width},
                                      {"--hidden", hidden},
                                      {"--batch", batch},
                                      {"--context", context}})
      if (value > most) throw ArgumentError(flag, std::to_string(value), "up to " + std::to_string(most));
    const std::vector<std::pair<const char*, std::string>> files{
        {"--text", text}, {"--held-out", held_out}, {"--checkpoint", checkpoint}, {"--log", log}, {"--plot", plot}};
    for (std::size_t i = 0; i < files.size(); ++i)
      for (std::size_t j = 2; j < files.size(); ++j)
        if (i < j && !files[i].second.empty() &&
            std::filesystem::weakly_canonical(files[i].second) == std::filesystem::weakly_canonical(files[j].second))
          throw ArgumentError(std::string(files[i].first) + " and " + files[j].first + " are the same file");
    if (kv_heads == 0) kv_heads = heads;
    if (width % heads != 0 || (width / heads) % 2 != 0)
      throw ArgumentError(
          "--heads", std::to_string(heads),
          "a number that parts the width " + std::to_string(width) + " into heads of an even number of columns");
    if (heads % kv_heads != 0)
      throw ArgumentError("--kv-heads", std::to_string(kv_heads), "a divisor of --heads " + std::to_string(heads));
    // Whole vectors of any instruction set.
    if (hidden == 0) hidden = (8 * width / 3 + 15) / 16 * 16;
    if (held_out_share >= 1)
      throw ArgumentError("--held-out-share", twoheads::detail::text(held_out_share), "0 (none) to below 1");
    if (last_rate < 0) last_rate = rate / 10;
    if (last_rate > rate) throw ArgumentError("--lr-last is larger than --lr");
    if (warm_up < 0) warm_up = steps / 20;
    if (warm_up > steps)
      throw ArgumentError("--warmup", std::to_string(warm_up),
                          "0 to " + std::to_string(steps) + ", the steps of the run");
    if (evaluate_every == 0) evaluate_every = std::max<Index>(steps / 20, 1);
    const bool causal = mask == twoheads::MaskKind::causal;
    if (causal && window_->count() + sinks_->count() > 0)
      throw ArgumentError("--window and --sinks need --mask window or sinks");
    if (!causal && window == 0) throw ArgumentError("--mask window and --mask sinks need --window");
    if (mask == twoheads::MaskKind::window && sinks_->count() > 0) throw ArgumentError("--sinks needs --mask sinks");
    if (engine != EngineWord::oracle && rows_->count() > 0) throw ArgumentError("--rows needs --engine oracle");
  }

  [[nodiscard]] twoheads::ModelSpec spec() const {
    twoheads::ModelSpec spec;
    spec.layers = layers;
    spec.width = width;
    spec.hidden = hidden;
    spec.mlp = twoheads::MlpKind::swiglu;
    spec.norm = twoheads::NormKind::rms;
    spec.final_norm = true;
    twoheads::AttentionSpec& a = spec.attention;
    a.heads = heads;
    a.kv_heads = kv_heads;
    a.head_dim = a.value_dim = width / heads;
    a.score_scale = 1.0 / std::sqrt(static_cast<double>(a.head_dim));
    a.rope = twoheads::RopeSpec{};
    a.rope->pairing = twoheads::RopePairing::halves;
    a.mask = mask == twoheads::MaskKind::causal   ? twoheads::Mask::causal()
             : mask == twoheads::MaskKind::window ? twoheads::Mask::sliding_window(window)
                                                  : twoheads::Mask::window_and_sinks(window, sinks);
    return spec;
  }

  /// Of the oracle of --engine oracle.
  [[nodiscard]] twoheads::OracleLimits limits() const {
    twoheads::OracleLimits limits;
    limits.kind = twoheads::OracleKind::causal;
    limits.rows = rows;
    limits.score_scale = spec().attention.score_scale;
    return limits;
  }

  [[nodiscard]] twoheads::TrainingOptions options() const {
    twoheads::TrainingOptions options;
    options.schedule = {rate, last_rate, warm_up, steps};
    options.adamw.decay = decay;
    options.clip = clip;
    return options;
  }

 private:
  CLI::Option* rows_ = nullptr;
  CLI::Option* window_ = nullptr;
  CLI::Option* sinks_ = nullptr;
};

}  // namespace programs
