#pragma once

#include <cstdint>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <twoheads/base/errors.hpp>

#include "support/language_run.hpp"
#include "support/plan_arguments.hpp"
#include "support/scalar_word.hpp"
#include "support/text_files.hpp"

namespace programs {

/// The flags of twoheads_lm, and the settings that they make.
class LanguageArguments {
 public:
  explicit LanguageArguments(CLI::App& app) : app_(app) {
    add_file(app, "--model", settings_.model, "llama2.c model file, or a folder with config.json and model.safetensors")
        ->type_name("FILE|FOLDER")
        ->required();
    add_file(app, "--tokenizer", settings_.tokenizer,
             "llama2.c tokenizer file, or a folder with a tokenizer (default: the model's folder)")
        ->type_name("FILE|FOLDER");
    rows_ = add_rows(app, settings_.rows, "default 64; of the kernel, what it chooses");
    add_engine(app, settings_.engine);
    add_anchor(app, settings_.anchor);
    add_count(app, "--oracle-heads", settings_.oracle_heads, 1, "heads of the oracle, H' (default 1)");
    add_threads(app, settings_.threads);
    oracle_ = add_choice<twoheads::OracleKind>(
        app, "--oracle", oracle_kind_,
        {{"plain", twoheads::OracleKind::plain}, {"causal", twoheads::OracleKind::causal}},
        "what a row of the oracle sees (default: plain with --generate, causal otherwise and for a process)");
    add_processes(app, settings_.processes);
    add_scalar(app, scalar_);
    add_count(app, "--window", settings_.window, 1,
              "a token attends to so many tokens, itself included (default: all before it)");
    add_count(app, "--sinks", settings_.sinks, 0, "first tokens that stay visible beside the window (default 0)");
    CLI::Option* generate = add_count(app, "--generate", settings_.generate, 1, "write so many tokens");
    app.add_option("--prompt", settings_.prompt, "text to go on from (with --generate)")
        ->needs(generate)
        ->type_name("TEXT");
    const auto with_generate = [&](CLI::Option* option) { option->needs(generate); };
    with_generate(add_number(app, "--temperature", settings_.sampler.temperature, 0, true,
                             "a finite number of 0 or more",
                             "draw tokens, scores divided by it (default 0: the likeliest)"));
    with_generate(
        add_count(app, "--top-k", settings_.sampler.top_k, 0, "draw among so many of the likeliest (default 0: all)"));
    with_generate(add_positive(app, "--top-p", settings_.sampler.top_p,
                               "draw among the likeliest that have together this probability (default 1)"));
    with_generate(add_count(app, "--seed", seed_, 0, "seed of what is drawn (default 1)"));
    with_generate(app.add_flag("--past-end", settings_.past_end, "go on after the token that ends a text"));
    with_generate(add_choice<twoheads::CachePositions>(
        app, "--positions", settings_.positions,
        {{"original", twoheads::CachePositions::original}, {"in-cache", twoheads::CachePositions::in_cache}},
        "what positions count once a window has dropped keys: the text's, or those of the keys held (default "
        "original)"));
    with_generate(add_file(app, "--session", settings_.session,
                           "go on from what this file holds, where it is there, and write it at the end"));
    CLI::Option* score = add_file(app, "--score", settings_.score, "score a text file");
    CLI::Option* score_ids = add_file(app, "--score-ids", settings_.score_ids, "score a JSON list of token ids");
    add_file(app, "--checkpoint", settings_.checkpoint,
             "with --score: write finished parts into this file, and take from it what is there")
        ->excludes(generate);
    add_count(app, "--chunk", settings_.chunk, 1, "score in pieces of so many tokens (default: in one)")
        ->excludes(generate);
    add_file(app, "--logits", settings_.logits, "write the scored logits as safetensors")->excludes(generate);
    generate->excludes(score)->excludes(score_ids);
    score->excludes(score_ids);
    app.add_flag("--json", settings_.json, "print one JSON object and nothing else");
  }

  [[nodiscard]] ScalarWord scalar() const { return scalar_; }

  /// What was asked for. Throws ArgumentError for flags that do not go together, also on several ranks of MPI.
  [[nodiscard]] LanguageSettings settings(bool on_ranks) {
    if (settings_.engine != EngineWord::oracle)
      note_without_effect(app_, {"--anchor", "--oracle-heads", "--oracle", "--oracle-scale", "--checksums"},
                          "only the engine oracle makes calls");
    if (settings_.engine == EngineWord::direct)
      note_without_effect(app_, {"--rows"}, "direct evaluation has no blocks to choose");
    if (settings_.sampler.temperature == 0)
      note_without_effect(app_, {"--top-k", "--top-p", "--seed"}, "without --temperature nothing is drawn");
    if (settings_.engine == EngineWord::direct && settings_.threads > 1)
      throw ArgumentError("--engine direct runs on one thread: leave --threads out");
    if (settings_.generate == 0 && settings_.score.empty() && settings_.score_ids.empty())
      throw ArgumentError::missing("one of --generate n, --score FILE and --score-ids FILE is needed");
    if (rows_->count() > 0) settings_.kernel_rows = settings_.rows;
    settings_.rows_given = rows_->count() > 0;
    const bool process = !settings_.processes.command.empty();
    const bool keeps = settings_.engine == EngineWord::oracle || on_ranks;
    if ((settings_.engine != EngineWord::oracle && process) || (!keeps && !settings_.checkpoint.empty()))
      throw ArgumentError(
          "--oracle-command and --checkpoint need --engine oracle; on ranks of MPI, if only one, --checkpoint takes "
          "the kernel, too");
    require_left_to_process(settings_.processes, settings_.threads, settings_.rows);
    if (settings_.sampler.top_p > 1)
      throw ArgumentError("--top-p", twoheads::detail::text(settings_.sampler.top_p), "at most 1");
    settings_.sampler.seed = static_cast<std::uint64_t>(seed_);
    if (oracle_->count() > 0) settings_.oracle = oracle_kind_;
    if (settings_.rows == auto_rows && !settings_.session.empty())
      throw ArgumentError("--rows auto does not know how long a session is: give --rows a number");
    if (settings_.chunk > 0 && !settings_.checkpoint.empty())
      throw ArgumentError("--checkpoint is of one pass: leave --chunk out");
    const bool there = std::filesystem::exists(settings_.model);
    if (settings_.tokenizer.empty() && settings_.score_ids.empty() && there &&
        !std::filesystem::is_directory(settings_.model))
      throw ArgumentError("--model FILE needs --tokenizer: a llama2.c file has no text in it");
    if (settings_.sinks > 0 && settings_.window == 0)
      throw ArgumentError("--sinks needs --window: without one every token sees the first ones");
    if (!there) throw std::runtime_error("--model " + settings_.model + ": no such file or folder");
    require_writable("--logits", settings_.logits);
    require_writable("--session", settings_.session);
    if (on_ranks) require_shared(settings_);
    return settings_;
  }

 private:
  /// Refuses what several ranks cannot do together.
  static void require_shared(const LanguageSettings& settings) {
    if (settings.generate > 0)
      throw ArgumentError("--generate writes token by token on one rank: leave the launcher out");
    if (settings.chunk > 0) throw ArgumentError("--chunk is of one rank: ranks share a text as a whole");
    if (settings.engine == EngineWord::direct)
      throw ArgumentError("--engine direct runs on one rank: expected oracle or kernel");
    require_rows_for_ranks(settings.rows);
  }

  CLI::App& app_;
  LanguageSettings settings_;
  ScalarWord scalar_ = ScalarWord::float32;
  twoheads::OracleKind oracle_kind_ = twoheads::OracleKind::causal;
  Index seed_ = 1;
  CLI::Option* rows_ = nullptr;
  CLI::Option* oracle_ = nullptr;
};

}  // namespace programs
