// Vectors of sentences from an encoder's folder, through calls of at most R rows.

#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <twoheads/attention/language.hpp>
#include <twoheads/exec/kernel_attention.hpp>
#include <twoheads/io/encoder_folder.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <twoheads/simulate.hpp>
#include <utility>
#include <vector>

#include "support/engine_word.hpp"
#include "support/executor.hpp"
#include "support/instances.hpp"
#include "support/language_text.hpp"
#include "support/plan_arguments.hpp"
#include "support/progress.hpp"
#include "support/rows_choice.hpp"
#include "support/text_files.hpp"

namespace {

using twoheads::Index;
using twoheads::Matrix;
using twoheads::Pooling;
using twoheads::RowVector;

using programs::EngineWord;

struct Settings {
  std::string model;
  std::string text;
  std::string ids;
  std::string token_types;
  std::optional<Pooling> pooling;  ///< none: as the folder says
  Index rows = 64;
  Index kernel_rows = 0;  ///< 0: as the kernel chooses
  EngineWord engine = EngineWord::oracle;
  twoheads::OracleKind oracle = twoheads::OracleKind::plain;
  twoheads::Anchor anchor = twoheads::Anchor::adaptive;
  Index threads = 1;
  bool normalize = false;
  bool json = false;
};

using Sentences = std::vector<std::vector<int>>;

/// The token ids of each line of a text file, and the tokens that the tokenizer sets before and after it.
Sentences read_text(const Settings& settings, Index vocabulary) {
  const programs::LanguageText tokenizer = programs::LanguageText::read(settings.model, vocabulary);
  std::istringstream lines(programs::read_text(settings.text));
  Sentences sentences;
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    sentences.push_back(tokenizer.encode(line));
    if (sentences.back().empty())
      throw std::runtime_error(settings.text + ": line " + std::to_string(sentences.size()) +
                               " has no token: expected one or more on each line");
  }
  if (sentences.empty()) throw std::runtime_error(settings.text + ": expected one or more lines");
  return sentences;
}

/// The chosen attention over one sentence after the other.
class Runner {
 public:
  Runner(const twoheads::EncoderModel<float>& encoder, const Settings& settings)
      : encoder_(encoder),
        engine_(settings.engine),
        oracle_(limits(settings, encoder.model.body.spec.attention.score_scale)),
        grid_(oracle_, {settings.anchor}, programs::Executor(settings.threads)),
        kernel_({.rows = settings.kernel_rows}, programs::Executor(settings.threads)) {}

  [[nodiscard]] RowVector<float> operator()(const std::vector<int>& ids, const std::vector<int>& types,
                                            Pooling pooling) {
    const twoheads::Model<float>& body = encoder_.model.body;
    Matrix<float> x = twoheads::embed(encoder_.model, ids, 0, types);
    if (engine_ == EngineWord::direct)
      x = twoheads::forward(body, std::move(x), twoheads::DirectAttention<float>());
    else if (engine_ == EngineWord::kernel)
      x = twoheads::forward(body, std::move(x), kernel_);
    else
      x = twoheads::forward(body, std::move(x), grid_);
    return twoheads::pooled(encoder_, twoheads::view(x), pooling);
  }

  [[nodiscard]] twoheads::SimulationCounts counts() const { return grid_.counts(); }

 private:
  static twoheads::OracleLimits limits(const Settings& settings, double score_scale) {
    twoheads::OracleLimits limits;
    limits.kind = settings.oracle;
    limits.rows = settings.rows;
    limits.score_scale = score_scale;
    return limits;
  }

  const twoheads::EncoderModel<float>& encoder_;
  EngineWord engine_;
  twoheads::SmallTransformer<float> oracle_;
  twoheads::GridAttention<twoheads::SmallTransformer<float>, programs::Executor> grid_;
  twoheads::KernelAttention<float, programs::Executor> kernel_;
};

/// Says why, where --rows auto leaves the rows to the program: for the longest sentence.
void choose_rows(const twoheads::ModelSpec& spec, const Sentences& sentences, Settings& settings) {
  if (settings.engine == EngineWord::direct) return;
  const bool kernel = settings.engine == EngineWord::kernel;
  twoheads::PlanRequest request;
  request.mask = spec.attention.mask;
  for (const std::vector<int>& ids : sentences)
    request.tokens = std::max(request.tokens, static_cast<Index>(ids.size()));
  request.keys = request.tokens;
  request.heads = spec.attention.heads;
  request.layers = spec.layers;
  request.anchor = settings.anchor;
  request.oracle.kind = kernel ? twoheads::OracleKind::kernel : settings.oracle;
  request.oracle.rows = settings.rows;
  const auto choice = programs::choose_rows_if_auto<float>(request, spec.attention, kernel);
  if (!choice) return;
  settings.rows = choice->chosen.rows;
  if (kernel) settings.kernel_rows = settings.rows;
  std::cerr << choice->reason() << "\n";
}

void run(Settings settings) {
  const auto encoder = twoheads::read_encoder<float>(settings.model);
  const Sentences sentences =
      settings.text.empty() ? programs::read_id_lists(settings.ids) : read_text(settings, encoder.model.vocabulary());
  Sentences types(sentences.size());
  if (!settings.token_types.empty()) types = programs::read_id_lists(settings.token_types);
  if (types.size() != sentences.size())
    throw std::runtime_error(settings.token_types + ": " + std::to_string(types.size()) + " lists, expected " +
                             std::to_string(sentences.size()) + ", one for each sentence");
  const Pooling pooling = settings.pooling.value_or(encoder.sentence.pooling);
  const bool normalize = settings.normalize || encoder.sentence.normalize;
  choose_rows(encoder.model.body.spec, sentences, settings);
  Runner runner(encoder, settings);
  std::vector<std::vector<float>> vectors;
  double all = 0;
  for (const std::vector<int>& ids : sentences) all += static_cast<double>(ids.size());
  programs::Progress progress("sentences", !settings.json);
  progress.begin(all);
  Index tokens = 0;
  for (std::size_t i = 0; i < sentences.size(); ++i) {
    const std::string sentence = "sentence " + std::to_string(i) + ": ";
    RowVector<float> vector;
    try {
      vector = runner(sentences[i], types[i], pooling);
    } catch (const twoheads::Error& error) {
      throw std::runtime_error(sentence + error.what());
    }
    const float length = vector.norm();
    if (normalize && length > 0) vector /= length;
    if (!vector.allFinite())
      throw std::runtime_error(sentence + "the vector holds NaN or infinity: the model exceeds the scalar");
    tokens += static_cast<Index>(sentences[i].size());
    vectors.emplace_back(vector.data(), vector.data() + vector.size());
    progress.add(static_cast<double>(sentences[i].size()));
  }
  progress.finish();
  const twoheads::SimulationCounts counts = runner.counts();
  if (settings.json) {
    const nlohmann::ordered_json result{{"vectors", vectors},
                                        {"calls", counts.calls},
                                        {"repeats", counts.repeats},
                                        {"tokens", tokens},
                                        {"pooling", twoheads::name(pooling)},
                                        {"normalized", normalize}};
    std::cout << result.dump() << "\n";
    return;
  }
  for (const std::vector<float>& vector : vectors)
    for (std::size_t i = 0; i < vector.size(); ++i) std::cout << vector[i] << (i + 1 < vector.size() ? " " : "\n");
  std::cerr << vectors.size() << " sentences, " << tokens << " tokens, pooled by " << twoheads::name(pooling) << ", ";
  if (settings.engine == EngineWord::oracle)
    std::cerr << counts.calls << " calls of at most " << settings.rows << " rows (" << counts.repeats << " repeats)\n";
  else
    std::cerr << (settings.engine == EngineWord::kernel ? "no calls: the kernel\n" : "no calls: direct evaluation\n");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Vectors of sentences from an encoder (BERT, RoBERTa, DistilBERT), through calls of at most R rows.",
               "twoheads_embed");
  Settings settings;
  Pooling pooling = Pooling::mean;
  programs::add_file(app, "--model", settings.model, "folder with config.json and model.safetensors")
      ->type_name("FOLDER")
      ->required();
  CLI::Option* text = programs::add_file(app, "--text", settings.text, "text file, one sentence a line");
  CLI::Option* ids = programs::add_file(app, "--ids", settings.ids, "JSON list of lists of token ids, one a sentence");
  programs::add_file(app, "--token-types", settings.token_types, "JSON list of lists of token types (default: all 0)")
      ->needs(ids);
  text->excludes(ids);
  CLI::Option* pools = programs::add_choice<Pooling>(
      app, "--pooling", pooling, {{"mean", Pooling::mean}, {"cls", Pooling::cls}, {"pooler", Pooling::pooler}},
      "how a sentence's rows become one vector: their mean, the first one, or the first one through BERT's pooler "
      "(default: as the folder says, else mean)");
  CLI::Option* rows = programs::add_rows(app, settings.rows, "default 64; of the kernel, what it chooses");
  programs::add_engine(app, settings.engine);
  programs::add_choice<twoheads::OracleKind>(
      app, "--oracle", settings.oracle,
      {{"plain", twoheads::OracleKind::plain}, {"causal", twoheads::OracleKind::causal}},
      "what a row of the oracle sees (default plain)");
  programs::add_anchor(app, settings.anchor);
  programs::add_threads(app, settings.threads);
  app.add_flag("--normalize", settings.normalize, "divide vectors by their length, also where the folder does not");
  app.add_flag("--json", settings.json, "print one JSON object and nothing else");

  programs::add_examples(app, {"twoheads_embed --model FOLDER --rows 64 --text sentences.txt --json",
                               "twoheads_embed --model FOLDER --engine kernel --ids ids.json --pooling cls"});
  return programs::run(app, argc, argv, [&] {
    if (settings.engine != EngineWord::oracle)
      programs::note_without_effect(app, {"--anchor", "--oracle"}, "only the engine oracle makes calls");
    if (settings.engine == EngineWord::direct)
      programs::note_without_effect(app, {"--rows"}, "direct evaluation has no blocks to choose");
    if (settings.engine == EngineWord::direct && settings.threads > 1)
      throw programs::ArgumentError("--engine direct runs on one thread: leave --threads out");
    if (settings.text.empty() && settings.ids.empty())
      throw programs::ArgumentError::missing("one of --text FILE and --ids FILE is needed");
    if (rows->count() > 0) settings.kernel_rows = settings.rows;
    if (pools->count() > 0) settings.pooling = pooling;
    programs::say_when_interrupted(app);
    run(settings);
  });
}
