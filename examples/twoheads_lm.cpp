// A trained language model that writes or scores text through calls of at most R rows.

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <twoheads/attention/language.hpp>
#include <twoheads/base/digest.hpp>
#include <twoheads/exec/kernel_attention.hpp>
#include <twoheads/io/safetensors_writer.hpp>
#include <twoheads/model/llama2c.hpp>
#include <twoheads/model/tokenizer.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <twoheads/simulate.hpp>
#include <utility>
#include <vector>

#include "support/any_run.hpp"
#include "support/executor.hpp"
#include "support/instances.hpp"
#include "support/plan_arguments.hpp"
#include "support/processes.hpp"
#include "support/rows_choice.hpp"
#include "support/stopwatch.hpp"

namespace {

using twoheads::Index;
using twoheads::Matrix;

enum class EngineWord { oracle, kernel, direct };
enum class ScalarWord { float32, float64 };

struct Settings {
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
  std::string score;
  std::string score_ids;
  std::string logits;
  std::string rows_reason;  ///< why so many, with --rows auto
  twoheads::OracleKind oracle = twoheads::OracleKind::causal;
  bool rows_given = false;
  programs::ProcessFlags processes;
  std::string checkpoint;
  bool json = false;
};

/// The model's body over token ids by the chosen engine, counting calls over several passes.
template <class Scalar>
class Runner {
 public:
  Runner(const twoheads::LanguageModel<Scalar>& model, const Settings& settings)
      : model_(model),
        engine_(settings.engine),
        checkpoint_{settings.checkpoint, ""},
        options_{settings.anchor},
        oracle_(limits(settings, model.body.spec.attention.score_scale)),
        grid_(oracle_, {settings.anchor}, programs::Executor(settings.threads)),
        kernel_({.rows = settings.kernel_rows}, programs::Executor(settings.threads)) {
    options_.checksums = settings.processes.checksums;
    if (settings.engine != EngineWord::oracle) return;
    if (!settings.processes.command.empty()) {
      processes_.emplace(settings.processes, settings.oracle, oracle_.limits().score_scale);
      const Index rows = processes_->limits().rows;
      if (settings.rows_given && settings.rows != rows)
        throw programs::ArgumentError("--rows", std::to_string(settings.rows),
                                      std::to_string(rows) + ", the rows of the process");
    } else if (!settings.checkpoint.empty() || options_.checksums) {
      own_.emplace(programs::own_oracle<Scalar>(oracle_.limits(), settings.threads));
    }
    if (any() != nullptr) checkpoint_.key = programs::key_of(settings.processes.command, any()->limits(), options_);
  }

  [[nodiscard]] Matrix<Scalar> operator()(const std::vector<int>& ids) {
    const Matrix<Scalar> x = twoheads::embed(model_, ids);
    if (engine_ == EngineWord::direct) return twoheads::forward(model_.body, x, twoheads::DirectAttention<Scalar>());
    if (engine_ == EngineWord::kernel) return twoheads::forward(model_.body, x, kernel_);
    if (any() == nullptr) return twoheads::forward(model_.body, x, grid_);
    twoheads::Simulation<Scalar> found =
        programs::simulate_on<Scalar>(*any(), model_.body, x, options_, nullptr, checkpoint_);
    counts_.calls += found.counts.calls;
    counts_.repeats += found.counts.repeats;
    return std::move(found.rows);
  }

  [[nodiscard]] twoheads::SimulationCounts counts() const { return processes_ || own_ ? counts_ : grid_.counts(); }
  [[nodiscard]] Index rows() const { return processes_ ? processes_->limits().rows : oracle_.limits().rows; }
  /// What came of calls to processes; nothing where there are none.
  [[nodiscard]] std::optional<programs::ProcessCounts> process_counts() const {
    return processes_ ? std::optional(processes_->counts()) : std::nullopt;
  }

 private:
  static twoheads::OracleLimits limits(const Settings& settings, double score_scale) {
    twoheads::OracleLimits limits;
    limits.kind = settings.oracle;
    limits.rows = settings.rows;
    limits.heads = settings.oracle_heads;
    limits.score_scale = settings.processes.score_scale > 0 ? settings.processes.score_scale : score_scale;
    return limits;
  }

  /// The oracle behind one type, where calls go to a process or have a checkpoint.
  [[nodiscard]] twoheads::AnyOracle<Scalar>* any() {
    if (processes_) return &processes_->oracle();
    return own_ ? &*own_ : nullptr;
  }

  const twoheads::LanguageModel<Scalar>& model_;
  EngineWord engine_;
  programs::Checkpoint checkpoint_;
  twoheads::SimulationOptions options_;
  twoheads::SimulationCounts counts_;
  std::optional<programs::Processes<Scalar>> processes_;
  std::optional<twoheads::AnyOracle<Scalar>> own_;
  twoheads::SmallTransformer<Scalar> oracle_;
  twoheads::GridAttention<twoheads::SmallTransformer<Scalar>, programs::Executor> grid_;
  twoheads::KernelAttention<Scalar, programs::Executor> kernel_;
};

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

std::string read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in || !std::filesystem::is_regular_file(path)) throw std::runtime_error(path + ": cannot be read");
  return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<int> read_ids(const std::string& path) {
  // Lists inside the list are not even built: however deep they lie, they are no ids.
  bool nested = false;
  const auto flat = [&nested](int depth, nlohmann::json::parse_event_t event, nlohmann::json&) {
    const bool inner = depth > 0 && (event == nlohmann::json::parse_event_t::array_start ||
                                     event == nlohmann::json::parse_event_t::object_start);
    nested = nested || inner;
    return !inner;
  };
  const nlohmann::json list = nlohmann::json::parse(read_text(path), flat, false);
  if (nested || !list.is_array() || list.empty())
    throw std::runtime_error(path + ": expected a JSON list of one or more token ids");
  std::vector<int> ids;
  for (const nlohmann::json& id : list) {
    if (!id.is_number_integer() || id.get<std::int64_t>() < 0 ||
        id.get<std::int64_t>() > std::numeric_limits<int>::max())
      throw std::runtime_error(path + ": entry " + std::to_string(ids.size()) + " is " + id.dump() +
                               ", expected a token id");
    ids.push_back(id.get<int>());
  }
  return ids;
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

/// Greedy: the most likely token again and again, until `count` are written or the model starts a new text.
template <class Scalar>
void generate(const twoheads::LanguageModel<Scalar>& model, const twoheads::Tokenizer& tokenizer,
              const Settings& settings) {
  Runner<Scalar> run(model, settings);
  std::vector<int> ids = tokenizer.encode(settings.prompt);
  if (!settings.json) std::cout << tokenizer.decode(ids) << std::flush;
  Index written = 0;
  const programs::Stopwatch watch;
  while (written < settings.generate) {
    const Matrix<Scalar> rows = run(ids);
    const Matrix<Scalar> scores = twoheads::logits(model, twoheads::view(rows.bottomRows(1)));
    require_finite(scores);
    Index next = 0;
    scores.row(0).maxCoeff(&next);
    if (next == twoheads::Tokenizer::start_token) break;
    ++written;
    if (!settings.json) std::cout << tokenizer.decode(ids.back(), static_cast<int>(next)) << std::flush;
    ids.push_back(static_cast<int>(next));
  }
  const double speed = static_cast<double>(written) / watch.seconds();
  if (settings.json) {
    nlohmann::ordered_json result{
        {"ids", ids}, {"text", tokenizer.decode(ids)}, {"calls", run.counts().calls}, {"tokens_per_second", speed}};
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

template <class Scalar>
void score(const twoheads::LanguageModel<Scalar>& model, const std::vector<int>& ids, const Settings& settings) {
  if (ids.size() < 2)
    throw std::runtime_error("there are " + std::to_string(ids.size()) +
                             " tokens to score, the start token included: expected 2 or more");
  Runner<Scalar> run(model, settings);
  const programs::Stopwatch watch;
  const Matrix<Scalar> rows = run(ids);
  const Matrix<Scalar> logits = twoheads::logits(model, twoheads::view(rows));
  const double seconds = watch.seconds();
  require_finite(logits);

  const twoheads::LanguageModel<double> wide = twoheads::cast_model<double>(model);
  const Matrix<double> truth =
      twoheads::forward(wide.body, twoheads::embed(wide, ids), twoheads::DirectAttention<double>());
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
  request.oracle.kind = kernel ? twoheads::OracleKind::kernel : settings.oracle;
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
void run(Settings settings) {
  auto model = twoheads::read_llama2c<Scalar>(settings.model);
  if (settings.window > 0)
    model.body.spec.attention.mask = twoheads::Mask::window_and_sinks(settings.window, settings.sinks);
  const auto tokenizer = twoheads::Tokenizer::read(settings.tokenizer, model.vocabulary());
  if (settings.generate > 0) {
    const auto prompt = static_cast<Index>(tokenizer.encode(settings.prompt).size());
    choose_rows<Scalar>(model.body.spec, prompt + settings.generate, settings);
    generate(model, tokenizer, settings);
    return;
  }
  const std::vector<int> ids =
      settings.score.empty() ? read_ids(settings.score_ids) : tokenizer.encode(read_text(settings.score));
  choose_rows<Scalar>(model.body.spec, static_cast<Index>(ids.size()), settings);
  score(model, ids, settings);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Writes or scores text with a llama2.c model, through calls of at most R rows.", "twoheads_lm");
  Settings settings;
  ScalarWord scalar = ScalarWord::float32;
  programs::add_file(app, "--model", settings.model, "llama2.c model file")->required();
  programs::add_file(app, "--tokenizer", settings.tokenizer, "llama2.c tokenizer file")->required();
  CLI::Option* rows = programs::add_rows(app, settings.rows);
  programs::add_choice<EngineWord>(
      app, "--engine", settings.engine,
      {{"oracle", EngineWord::oracle}, {"kernel", EngineWord::kernel}, {"direct", EngineWord::direct}}, {},
      "what evaluates attention: calls of an oracle, our own kernel in blocks of --rows, or direct evaluation (default "
      "oracle)");
  programs::add_anchor(app, settings.anchor);
  programs::add_count(app, "--oracle-heads", settings.oracle_heads, 1, "heads of the oracle, H' (default 1)");
  programs::add_threads(app, settings.threads);
  programs::add_choice<twoheads::OracleKind>(
      app, "--oracle", settings.oracle,
      {{"plain", twoheads::OracleKind::plain}, {"causal", twoheads::OracleKind::causal}}, {},
      "what a row of the oracle sees (default causal)");
  programs::add_processes(app, settings.processes);
  programs::add_choice<ScalarWord>(app, "--scalar", scalar,
                                   {{"float", ScalarWord::float32}, {"double", ScalarWord::float64}}, {},
                                   "scalar of the run (default float)");
  programs::add_count(app, "--window", settings.window, 1,
                      "a token attends to so many tokens, itself included (default: all before it)");
  programs::add_count(app, "--sinks", settings.sinks, 0,
                      "first tokens that stay visible beside the window (default 0)");
  CLI::Option* generate =
      programs::add_count(app, "--generate", settings.generate, 1, "write so many tokens, greedily");
  app.add_option("--prompt", settings.prompt, "text to go on from (with --generate)")
      ->needs(generate)
      ->type_name("TEXT");
  CLI::Option* score = programs::add_file(app, "--score", settings.score, "score a text file");
  CLI::Option* score_ids = programs::add_file(app, "--score-ids", settings.score_ids, "score a JSON list of token ids");
  programs::add_file(app, "--checkpoint", settings.checkpoint,
                     "with --score: write finished parts into this file, and take from it what is there")
      ->excludes(generate);
  programs::add_file(app, "--logits", settings.logits, "write the scored logits as safetensors")->excludes(generate);
  generate->excludes(score)->excludes(score_ids);
  score->excludes(score_ids);
  app.add_flag("--json", settings.json, "print one JSON object and nothing else");

  return programs::run(app, argc, argv, [&] {
    if (settings.engine != EngineWord::oracle)
      programs::note_without_effect(app, {"--anchor", "--oracle-heads", "--oracle", "--oracle-scale", "--checksums"},
                                    "only the engine oracle makes calls");
    if (settings.engine == EngineWord::direct)
      programs::note_without_effect(app, {"--rows"}, "direct evaluation has no blocks to choose");
    if (settings.engine == EngineWord::direct && settings.threads > 1)
      throw programs::ArgumentError("--engine direct runs on one thread: leave --threads out");
    if (settings.generate == 0 && settings.score.empty() && settings.score_ids.empty())
      throw programs::ArgumentError("one of --generate n, --score FILE and --score-ids FILE is needed");
    if (rows->count() > 0) settings.kernel_rows = settings.rows;
    settings.rows_given = rows->count() > 0;
    const bool process = !settings.processes.command.empty();
    if (settings.engine != EngineWord::oracle && (process || !settings.checkpoint.empty()))
      throw programs::ArgumentError("--oracle-command and --checkpoint need --engine oracle");
    if (process && settings.threads > 1)
      throw programs::ArgumentError("--oracle-command runs on as many threads as --processes: leave --threads out");
    if (process && settings.rows == programs::auto_rows)
      throw programs::ArgumentError("--oracle-command takes the rows that its process has: --rows auto has no choice");
    if (settings.sinks > 0 && settings.window == 0)
      throw programs::ArgumentError("--sinks needs --window: without one every token sees the first ones");
    if (scalar == ScalarWord::float32)
      run<float>(settings);
    else
      run<double>(settings);
  });
}
