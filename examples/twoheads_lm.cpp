// A trained language model that writes or scores text through calls of at most R rows.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <limits>
#include <nlohmann/json.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <twoheads/attention/language.hpp>
#include <twoheads/base/digest.hpp>
#include <twoheads/exec/sampler.hpp>
#include <twoheads/exec/session.hpp>
#include <twoheads/exec/session_file.hpp>
#include <twoheads/io/safetensors_writer.hpp>
#include <utility>
#include <vector>

#include "support/language_run.hpp"
#include "support/language_text.hpp"
#include "support/plan_arguments.hpp"
#include "support/progress.hpp"
#include "support/rows_choice.hpp"
#include "support/stopwatch.hpp"
#include "support/terminal.hpp"
#include "support/text_files.hpp"

namespace {

using programs::EngineWord;
using programs::ScalarWord;
using twoheads::Index;
using twoheads::Matrix;
using Settings = programs::LanguageSettings;
template <class Scalar>
using Runner = programs::LanguageRun<Scalar>;

/// What attention took, in words.
template <class Scalar>
std::string words_of_calls(const Runner<Scalar>& run, const Settings& settings) {
  if (settings.engine != EngineWord::oracle)
    return settings.engine == EngineWord::kernel ? "no calls: the kernel" : "no calls: direct evaluation";
  const twoheads::SimulationCounts counts = run.counts();
  std::string words =
      twoheads::detail::text(counts.calls, " calls of at most ", run.rows(), " rows (", counts.repeats, " repeats)");
  if (const auto processes = run.process_counts())
    words += twoheads::detail::text(", ", processes->started, " processes started, ", processes->failures,
                                    " calls failed, ", processes->retries, " made again");
  return words;
}

/// Throws if a row holds a NaN or an infinity: the model's own numbers have left the range of the scalar.
template <class Scalar>
void require_finite(const Matrix<Scalar>& logits) {
  const Index row = twoheads::detail::first_row_not_finite(logits);
  if (row >= 0)
    throw std::runtime_error("the logits of token " + std::to_string(row) +
                             " hold NaN or infinity: the model exceeds the scalar");
}

template <class Scalar>
void add_choice(nlohmann::ordered_json& result, const Runner<Scalar>& run, const Settings& settings) {
  if (const auto processes = run.process_counts()) {
    result["failures"] = processes->failures;
    result["retries"] = processes->retries;
    result["processes_started"] = processes->started;
  }
  if (settings.rows_reason.empty()) return;
  result["rows"] = settings.rows;
  result["rows_reason"] = settings.rows_reason;
}

/// The rows of tokens that a session reads in the pieces that it would cut them in itself, and progress by tokens.
template <class Session>
Matrix<typename Session::Scalar> read_in_chunks(Session& session, std::span<const int> ids,
                                                programs::Progress& progress) {
  Matrix<typename Session::Scalar> rows(static_cast<Index>(ids.size()), session.model().body.spec.width);
  progress.begin(static_cast<double>(rows.rows()));
  for (Index begin = 0; begin < rows.rows(); begin += session.options().chunk) {
    const Index count = std::min(session.options().chunk, rows.rows() - begin);
    rows.middleRows(begin, count) =
        session.append(ids.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count)));
    progress.add(static_cast<double>(count));
  }
  progress.finish();
  return rows;
}

/// Token after token, greedy or drawn, until `count` are written or the model ends the text.
template <class Scalar>
void generate(const twoheads::LanguageModel<Scalar>& model, programs::LanguageText& text, const Settings& settings) {
  // Calls are few for each token: tokens are counted. A terminal that shows these needs no line about them.
  programs::Progress of_calls("", false);
  const bool wanted = !settings.json && !programs::standard_output_is_terminal();
  programs::Progress reading("tokens read", wanted);
  programs::Progress writing("tokens written", wanted);
  Runner<Scalar> run(model, settings, of_calls);
  programs::AttendFunction<Scalar> attend = run.attend();
  using Session = twoheads::Session<Scalar, programs::AttendFunction<Scalar>>;
  Session session(model, attend, {.positions = settings.positions});
  // Of a session from a file the prompt is what comes next, if there is any.
  std::vector<int> ids;
  const bool goes_on = !settings.session.empty() && std::filesystem::exists(settings.session);
  try {
    if (goes_on) twoheads::restore_session(std::filesystem::path(settings.session), session);
  } catch (const twoheads::FormatError& error) {
    throw std::runtime_error(std::string("--session ") + error.what() +
                             "; expected a session that this model has written, or no file yet");
  }
  ids = session.tokens() > 0 ? text.encode_rest(settings.prompt) : text.encode_prompt(settings.prompt);
  // A model with learned positions has only so many; what it has written by then is not lost.
  const Index most =
      model.positions.size() == 0 ? std::numeric_limits<Index>::max() : model.positions.rows() - model.first_position;
  std::string written_text;
  const auto write = [&](const std::string& piece) {
    written_text += piece;
    if (!settings.json) std::cout << piece << std::flush;
  };
  for (const int id : ids) write(text.add(id));
  twoheads::Sampler sampler(settings.sampler);
  const programs::Stopwatch watch;
  read_in_chunks(session, ids, reading);
  Index written = 0;
  writing.begin(static_cast<double>(settings.generate));
  while (written < settings.generate) {
    const Matrix<Scalar> scores = session.next_logits();
    require_finite(scores);
    const int next = sampler(twoheads::view(scores));
    if (text.ends(next) && !settings.past_end) break;
    ++written;
    writing.add(1);
    ids.push_back(next);
    write(text.add(next));
    // The last token is only for who goes on from the file.
    if (written == settings.generate && settings.session.empty()) break;
    if (session.tokens() == most) {
      writing.finish();
      std::cerr << "the text ends at the last of the model's " << most << " positions\n";
      break;
    }
    session.append(std::span(&ids.back(), 1));
  }
  writing.finish();
  write(text.finish());
  const double speed = static_cast<double>(written) / watch.seconds();
  if (!settings.session.empty()) twoheads::save_session(std::filesystem::path(settings.session), session);
  if (settings.json) {
    nlohmann::ordered_json result{
        {"ids", ids}, {"text", written_text}, {"calls", run.counts().calls}, {"tokens_per_second", speed}};
    add_choice(result, run, settings);
    std::cout << result.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
  } else {
    std::cout << "\n";
    std::cerr << written << " tokens, " << words_of_calls(run, settings) << ", " << speed << " tokens a second\n";
  }
}

/// Mean negative log-likelihood of each next token, in nats.
double mean_nll(const Matrix<double>& logits, const std::vector<int>& ids) {
  double sum = 0;
  for (Index row = 0; row + 1 < logits.rows(); ++row) {
    const double largest = logits.row(row).maxCoeff();
    const double log_sum = largest + std::log((logits.row(row).array() - largest).exp().sum());
    sum += log_sum - logits(row, ids[static_cast<std::size_t>(row + 1)]);
  }
  return logits.rows() > 1 ? sum / static_cast<double>(logits.rows() - 1) : 0.0;
}

/// Largest absolute difference, infinite if either holds a NaN.
double max_difference(const Matrix<double>& a, const Matrix<double>& b) {
  if (twoheads::detail::first_row_not_finite(a) >= 0 || twoheads::detail::first_row_not_finite(b) >= 0)
    return std::numeric_limits<double>::infinity();
  return (a - b).cwiseAbs().maxCoeff();
}

/// Share of rows whose most likely token changed, those whose best two differ by less than 1e-4 in the reference apart.
double share_of_changed(const Matrix<double>& logits, const Matrix<double>& reference) {
  Index changed = 0;
  for (Index row = 0; row < logits.rows(); ++row) {
    Index best = 0;
    Index found = 0;
    const double most = reference.row(row).maxCoeff(&best);
    logits.row(row).maxCoeff(&found);
    if (best == found) continue;
    Matrix<double> others = reference.row(row);
    others(0, best) = -std::numeric_limits<double>::infinity();
    if (most - others.maxCoeff() >= 1e-4) ++changed;
  }
  return static_cast<double>(changed) / static_cast<double>(logits.rows());
}

/// The rows of a text that comes in pieces of `chunk` tokens.
template <class Scalar>
Matrix<Scalar> rows_in_chunks(const twoheads::LanguageModel<Scalar>& model, Runner<Scalar>& run,
                              const std::vector<int>& ids, Index chunk, programs::Progress& progress) {
  programs::AttendFunction<Scalar> attend = run.attend();
  twoheads::Session<Scalar, programs::AttendFunction<Scalar>> session(model, attend, {.chunk = chunk});
  return read_in_chunks(session, ids, progress);
}

template <class Scalar>
void score(const twoheads::LanguageModel<Scalar>& model, const std::vector<int>& ids, const Settings& settings,
           programs::Launch& launch) {
  if (ids.size() < 2)
    throw std::runtime_error((settings.score.empty() ? settings.score_ids : settings.score) + ": there are " +
                             std::to_string(ids.size()) +
                             " tokens to score, the start token included: expected 2 or more");
  programs::Progress of_chunks("tokens read", !settings.json && settings.chunk > 0);
  programs::Progress progress("the text", !settings.json && settings.chunk == 0);
  Runner<Scalar> run(model, settings, progress);
  const programs::Stopwatch watch;
  const Matrix<Scalar> rows =
      settings.chunk == 0 ? run(ids, launch) : rows_in_chunks(model, run, ids, settings.chunk, of_chunks);
  if (!launch.first()) return;
  const Matrix<Scalar> logits = twoheads::logits(model, twoheads::view(rows));
  const double seconds = watch.seconds();
  require_finite(logits);

  const twoheads::LanguageModel<double> wide = twoheads::cast_model<double>(model);
  programs::Progress wide_progress("direct evaluation in float64", !settings.json);
  const Matrix<double> truth = programs::forward_directly(wide.body, twoheads::embed(wide, ids), wide_progress);
  const Matrix<double> reference = twoheads::logits(wide, twoheads::view(truth));
  const Matrix<double> found = logits.template cast<double>();

  if (!settings.logits.empty())
    twoheads::SafetensorsWriter().add("logits", logits, twoheads::Dtype::f32).write(settings.logits);
  const auto count = static_cast<Index>(ids.size());
  const double error = max_difference(found, reference);
  const double nll = mean_nll(found, ids);
  const double changed = share_of_changed(found, reference);
  const double speed = static_cast<double>(count) / seconds;
  if (settings.json) {
    nlohmann::ordered_json result{
        {"tokens", count},
        {"nll", nll},
        {"calls", run.counts().calls},
        {"tokens_per_second", speed},
        {"max_logit_error", std::isfinite(error) ? error : std::numeric_limits<double>::max()},
        {"digest", twoheads::digest(logits)},
        {"argmax_changed", changed},
        {"repeats", run.counts().repeats}};
    add_choice(result, run, settings);
    std::cout << result.dump() << "\n";
    return;
  }
  std::cout << "tokens           " << count << "\nnll              " << nll << " nats a token\ncalls            "
            << words_of_calls(run, settings) << "\nlogit error      " << error
            << " at most, against the direct float64 transformer\nargmax changed   " << changed
            << " of the rows\nspeed            " << speed << " tokens a second\n";
}

/// Says why, where --rows auto leaves the rows to the program.
template <class Scalar>
void choose_rows(const twoheads::ModelSpec& spec, Index tokens, Settings& settings) {
  twoheads::PlanRequest request;
  request.mask = spec.attention.mask;
  request.tokens = request.keys = tokens;
  request.heads = spec.attention.heads;
  request.layers = spec.layers;
  request.anchor = settings.anchor;
  if (settings.engine == EngineWord::direct) return;
  const bool kernel = settings.engine == EngineWord::kernel;
  request.oracle.kind = kernel ? twoheads::OracleKind::kernel : settings.oracle_kind();
  request.oracle.heads = settings.oracle_heads;
  request.oracle.rows = settings.rows;
  const auto choice = programs::choose_rows_if_auto<Scalar>(request, spec.attention, kernel);
  if (!choice) return;
  settings.rows = choice->chosen.rows;
  if (kernel) settings.kernel_rows = settings.rows;
  settings.rows_reason = choice->reason();
  if (!settings.json) std::cerr << settings.rows_reason << "\n";
}

/// Refuses what several ranks cannot do together.
void require_shared(const Settings& settings) {
  if (settings.generate > 0)
    throw programs::ArgumentError("--generate writes token by token on one rank: leave the launcher out");
  if (settings.chunk > 0) throw programs::ArgumentError("--chunk is of one rank: ranks share a text as a whole");
  if (settings.engine == EngineWord::direct)
    throw programs::ArgumentError("--engine direct runs on one rank: expected oracle or kernel");
  if (settings.rows == programs::auto_rows)
    throw programs::ArgumentError("--rows auto measures one machine, and ranks would choose differently: give --rows");
}

template <class Scalar>
void run(Settings settings, programs::Launch& launch) {
  auto model = programs::read_language_model<Scalar>(settings.model);
  twoheads::ModelSpec& spec = model.body.spec;
  if (settings.window > 0) {
    spec.attention.mask = twoheads::Mask::window_and_sinks(settings.window, settings.sinks);
    spec.layer_masks.clear();
  }
  const auto text = [&] {
    return programs::LanguageText::read(settings.tokenizer.empty() ? settings.model : settings.tokenizer,
                                        model.vocabulary());
  };
  if (settings.generate > 0) {
    programs::LanguageText tokenizer = text();
    if (settings.rows == programs::auto_rows) {
      const auto prompt = static_cast<Index>(tokenizer.encode_prompt(settings.prompt).size());
      choose_rows<Scalar>(spec, prompt + settings.generate, settings);
    }
    generate(model, tokenizer, settings);
    return;
  }
  const std::vector<int> ids = settings.score.empty() ? programs::read_ids(settings.score_ids)
                                                      : text().encode(programs::read_text(settings.score));
  choose_rows<Scalar>(spec, static_cast<Index>(ids.size()), settings);
  score(model, ids, settings, launch);
}

}  // namespace

int main(int argc, char** argv) {
  programs::Launch launch(argc, argv);
  CLI::App app("Writes or scores text with a language model, through calls of at most R rows.", "twoheads_lm");
  Settings settings;
  ScalarWord scalar = ScalarWord::float32;
  programs::add_file(app, "--model", settings.model,
                     "llama2.c model file, or a folder with config.json and model.safetensors")
      ->required();
  programs::add_file(app, "--tokenizer", settings.tokenizer,
                     "llama2.c tokenizer file, or a folder with a tokenizer (default: the model's folder)");
  CLI::Option* rows = programs::add_rows(app, settings.rows);
  programs::add_engine(app, settings.engine);
  programs::add_anchor(app, settings.anchor);
  programs::add_count(app, "--oracle-heads", settings.oracle_heads, 1, "heads of the oracle, H' (default 1)");
  programs::add_threads(app, settings.threads);
  twoheads::OracleKind oracle_kind = twoheads::OracleKind::causal;
  CLI::Option* oracle = programs::add_choice<twoheads::OracleKind>(
      app, "--oracle", oracle_kind, {{"plain", twoheads::OracleKind::plain}, {"causal", twoheads::OracleKind::causal}},
      "what a row of the oracle sees (default: plain with --generate, causal otherwise and for a process)");
  programs::add_processes(app, settings.processes);
  programs::add_choice<ScalarWord>(app, "--scalar", scalar,
                                   {{"float", ScalarWord::float32}, {"double", ScalarWord::float64}},
                                   "scalar of the run (default float)");
  programs::add_count(app, "--window", settings.window, 1,
                      "a token attends to so many tokens, itself included (default: all before it)");
  programs::add_count(app, "--sinks", settings.sinks, 0,
                      "first tokens that stay visible beside the window (default 0)");
  CLI::Option* generate = programs::add_count(app, "--generate", settings.generate, 1, "write so many tokens");
  app.add_option("--prompt", settings.prompt, "text to go on from (with --generate)")
      ->needs(generate)
      ->type_name("TEXT");
  const auto with_generate = [&](CLI::Option* option) { option->needs(generate); };
  with_generate(programs::add_number(app, "--temperature", settings.sampler.temperature, 0, true,
                                     "a finite number of 0 or more",
                                     "draw tokens, scores divided by it (default 0: the likeliest)"));
  with_generate(programs::add_count(app, "--top-k", settings.sampler.top_k, 0,
                                    "draw among so many of the likeliest (default 0: all)"));
  with_generate(programs::add_positive(app, "--top-p", settings.sampler.top_p,
                                       "draw among the likeliest that have together this probability (default 1)"));
  Index seed = 1;
  with_generate(programs::add_count(app, "--seed", seed, 0, "seed of what is drawn (default 1)"));
  with_generate(app.add_flag("--past-end", settings.past_end, "go on after the token that ends a text"));
  with_generate(programs::add_choice<twoheads::CachePositions>(
      app, "--positions", settings.positions,
      {{"original", twoheads::CachePositions::original}, {"in-cache", twoheads::CachePositions::in_cache}},
      "what positions count once a window has dropped keys: the text's, or those of the keys held (default original)"));
  with_generate(programs::add_file(app, "--session", settings.session,
                                   "go on from what this file holds, where it is there, and write it at the end"));
  CLI::Option* score = programs::add_file(app, "--score", settings.score, "score a text file");
  CLI::Option* score_ids = programs::add_file(app, "--score-ids", settings.score_ids, "score a JSON list of token ids");
  programs::add_file(app, "--checkpoint", settings.checkpoint,
                     "with --score: write finished parts into this file, and take from it what is there")
      ->excludes(generate);
  programs::add_count(app, "--chunk", settings.chunk, 1, "score in pieces of so many tokens (default: in one)")
      ->excludes(generate);
  programs::add_file(app, "--logits", settings.logits, "write the scored logits as safetensors")->excludes(generate);
  generate->excludes(score)->excludes(score_ids);
  score->excludes(score_ids);
  app.add_flag("--json", settings.json, "print one JSON object and nothing else");

  programs::add_examples(
      app, {"twoheads_lm --model examples/models/bible --rows 64 --prompt \"In the beginning\" --generate 100",
            "twoheads_lm --model examples/models/bible --rows 64 --score README.md --json",
            "twoheads_lm --model FOLDER --engine kernel --threads 8 --generate 200 --temperature 0.8 --top-p 0.95"});
  return launch.run(app, argc, argv, [&] {
    if (settings.engine != EngineWord::oracle)
      programs::note_without_effect(app, {"--anchor", "--oracle-heads", "--oracle", "--oracle-scale", "--checksums"},
                                    "only the engine oracle makes calls");
    if (settings.engine == EngineWord::direct)
      programs::note_without_effect(app, {"--rows"}, "direct evaluation has no blocks to choose");
    if (settings.engine == EngineWord::direct && settings.threads > 1)
      throw programs::ArgumentError("--engine direct runs on one thread: leave --threads out");
    if (settings.generate == 0 && settings.score.empty() && settings.score_ids.empty())
      throw programs::ArgumentError::missing("one of --generate n, --score FILE and --score-ids FILE is needed");
    if (rows->count() > 0) settings.kernel_rows = settings.rows;
    settings.rows_given = rows->count() > 0;
    const bool process = !settings.processes.command.empty();
    const bool keeps = settings.engine == EngineWord::oracle || launch.on_ranks();
    if ((settings.engine != EngineWord::oracle && process) || (!keeps && !settings.checkpoint.empty()))
      throw programs::ArgumentError(
          "--oracle-command and --checkpoint need --engine oracle; on ranks of MPI, if only one, --checkpoint takes "
          "the "
          "kernel, too");
    if (process && settings.threads > 1)
      throw programs::ArgumentError("--oracle-command runs on as many threads as --processes: leave --threads out");
    if (process && settings.rows == programs::auto_rows)
      throw programs::ArgumentError("--oracle-command takes the rows that its process has: --rows auto has no choice");
    if (settings.sampler.top_p > 1)
      throw programs::ArgumentError("--top-p", twoheads::detail::text(settings.sampler.top_p), "at most 1");
    settings.sampler.seed = static_cast<std::uint64_t>(seed);
    if (oracle->count() > 0) settings.oracle = oracle_kind;
    if (settings.rows == programs::auto_rows && !settings.session.empty())
      throw programs::ArgumentError("--rows auto does not know how long a session is: give --rows a number");
    if (settings.chunk > 0 && !settings.checkpoint.empty())
      throw programs::ArgumentError("--checkpoint is of one pass: leave --chunk out");
    const bool there = std::filesystem::exists(settings.model);
    if (settings.tokenizer.empty() && settings.score_ids.empty() && there &&
        !std::filesystem::is_directory(settings.model))
      throw programs::ArgumentError("--model FILE needs --tokenizer: a llama2.c file has no text in it");
    if (settings.sinks > 0 && settings.window == 0)
      throw programs::ArgumentError("--sinks needs --window: without one every token sees the first ones");
    if (!there) throw std::runtime_error("--model " + settings.model + ": no such file or folder");
    programs::require_writable("--logits", settings.logits);
    programs::require_writable("--session", settings.session);
    if (launch.on_ranks())
      require_shared(settings);
    else
      programs::say_when_interrupted(app, programs::what_stays(settings.checkpoint));
    if (scalar == ScalarWord::float32)
      run<float>(settings, launch);
    else
      run<double>(settings, launch);
  });
}
