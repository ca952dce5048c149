// A trained language model that writes or scores text through calls of at most R rows.

#include <algorithm>
#include <cstddef>
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

#include "support/json_results.hpp"
#include "support/language_arguments.hpp"
#include "support/language_run.hpp"
#include "support/language_scores.hpp"
#include "support/language_text.hpp"
#include "support/plan_arguments.hpp"
#include "support/progress.hpp"
#include "support/rows_choice.hpp"
#include "support/stopwatch.hpp"
#include "support/terminal.hpp"
#include "support/text_files.hpp"

namespace {

using programs::EngineWord;
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
  if (const auto processes = run.process_counts()) words += twoheads::detail::text(", ", *processes);
  return words;
}

template <class Scalar>
void add_choice(nlohmann::ordered_json& result, const Runner<Scalar>& run, const Settings& settings) {
  if (const auto processes = run.process_counts()) programs::add_counts(result, *processes);
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
  if (settings.positions == twoheads::CachePositions::in_cache && !model.body.spec.attention.mask.reach())
    throw programs::ArgumentError("--positions", "in-cache", "original unless there is a window: give --window");
  Session session(model, attend, {.positions = settings.positions});
  // Of a session from a file the prompt is what comes next, if there is any.
  std::vector<int> ids;
  const bool goes_on = !settings.session.empty() && std::filesystem::exists(settings.session);
  try {
    if (goes_on) twoheads::restore_session(std::filesystem::path(settings.session), session);
  } catch (const twoheads::FormatError& error) {
    throw std::runtime_error(std::string("--session ") + error.what() +
                             "; expected a session that this model has written, or no file yet");
  } catch (const twoheads::FileError& error) {
    throw std::runtime_error(std::string("--session ") + error.what());
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
    programs::require_finite_logits(scores);
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
    throw std::runtime_error(twoheads::detail::text(settings.score.empty() ? settings.score_ids : settings.score, ": ",
                                                    twoheads::detail::counted(static_cast<Index>(ids.size()), "token"),
                                                    " to score, the start token included: expected 2 or more"));
  programs::Progress of_chunks("tokens read", !settings.json && settings.chunk > 0);
  programs::Progress progress("the text", !settings.json && settings.chunk == 0);
  Runner<Scalar> run(model, settings, progress);
  const programs::Stopwatch watch;
  const Matrix<Scalar> rows =
      settings.chunk == 0 ? run(ids, launch) : rows_in_chunks(model, run, ids, settings.chunk, of_chunks);
  if (!launch.first()) return;
  const Matrix<Scalar> logits = twoheads::logits(model, twoheads::view(rows));
  const double seconds = watch.seconds();
  programs::require_finite_logits(logits);

  const twoheads::LanguageModel<double> wide = twoheads::cast_model<double>(model);
  programs::Progress wide_progress("direct evaluation in float64", !settings.json);
  const Matrix<double> truth = programs::forward_directly(wide.body, twoheads::embed(wide, ids), wide_progress);
  const Matrix<double> reference = twoheads::logits(wide, twoheads::view(truth));
  const Matrix<double> found = logits.template cast<double>();

  if (!settings.logits.empty())
    twoheads::SafetensorsWriter().add("logits", logits, twoheads::Dtype::f32).write(settings.logits);
  const auto count = static_cast<Index>(ids.size());
  const double error = programs::max_difference(found, reference);
  const double nll = programs::mean_nll(found, ids);
  const double changed = programs::share_of_changed(found, reference);
  const double speed = static_cast<double>(count) / seconds;
  if (settings.json) {
    nlohmann::ordered_json result{{"tokens", count},
                                  {"nll", nll},
                                  {"calls", run.counts().calls},
                                  {"tokens_per_second", speed},
                                  {"max_logit_error", programs::json_number(error)},
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
  programs::LanguageArguments arguments(app);

  programs::add_examples(
      app, {"twoheads_lm --model examples/models/bible --rows 64 --prompt \"In the beginning\" --generate 100",
            "twoheads_lm --model examples/models/bible --rows 64 --score README.md --json",
            "twoheads_lm --model FOLDER --engine kernel --threads 8 --generate 200 --temperature 0.8 --top-p 0.95"});
  return launch.run(app, argc, argv, [&] {
    const Settings settings = arguments.settings(launch.on_ranks());
    if (!launch.on_ranks()) programs::say_when_interrupted(app, programs::what_stays(settings.checkpoint));
    if (arguments.scalar() == programs::ScalarWord::float32)
      run<float>(settings, launch);
    else
      run<double>(settings, launch);
  });
}
