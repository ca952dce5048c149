// A task that needs long range, multi-query associative recall, learned through calls of a small transformer, and
// beside it attention that cannot: a short window, and linear attention. Two layers as in the source: the first sees
// few tokens, the same for all, and the second is what is compared.

#include <cerrno>
#include <cmath>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <twoheads/train/trainer.hpp>
#include <twoheads/train/untrained.hpp>
#include <vector>

#include "support/arguments.hpp"
#include "support/engine_word.hpp"
#include "support/executor.hpp"
#include "support/instances.hpp"
#include "support/linear_attention.hpp"
#include "support/recall_task.hpp"
#include "support/stopwatch.hpp"
#include "support/text_files.hpp"
#include "support/training_attend.hpp"

namespace {

using programs::EngineWord;
using programs::RecallTask;
using twoheads::Index;
using twoheads::Matrix;
using Scalar = float;
using Attend = programs::AnyTrainable<Scalar>;

/// What mixes the tokens of a sequence.
enum class Mixer { full, causal, window, linear };

const char* name(Mixer mixer) {
  switch (mixer) {
    case Mixer::full:
      return "full";
    case Mixer::causal:
      return "causal";
    case Mixer::window:
      return "window";
    case Mixer::linear:
      return "linear";
  }
  return "";
}

struct Settings {
  RecallTask task;
  Mixer mixer = Mixer::causal;
  EngineWord engine = EngineWord::oracle;
  Index window = 64;
  Index first_window = 3;
  Index rows = 129;
  Index layers = 2;
  Index width = 64;
  Index heads = 1;
  Index steps = 1200;
  Index batch = 32;
  double rate = 2e-3;
  Index seed = 1;
  Index threads = 1;
  Index evaluate_every = 50;
  Index evaluate = 64;
  Index begin_tokens = 64;  ///< of the first sequences
  std::string log;
  bool json = false;
};

/// Of the queries of some sequences, how many were answered right: all, and by how far back the pair was.
struct Answers {
  static constexpr Index bins = 4;
  static constexpr Index bin_ends[bins] = {64, 256, 512, 1 << 30};  ///< in tokens from the value to its query
  Index right[bins] = {};
  Index asked[bins] = {};

  [[nodiscard]] double accuracy() const {
    Index all_right = 0;
    Index all = 0;
    for (Index bin = 0; bin < bins; ++bin) {
      all_right += right[bin];
      all += asked[bin];
    }
    return static_cast<double>(all_right) / static_cast<double>(all);
  }
};

/// The window of the first layer as for all mixers, and linear attention in the layers after it.
class LinearPastWindow {
 public:
  using Input = twoheads::AttentionInput<Scalar>;
  using View = twoheads::MatrixView<Scalar>;

  explicit LinearPastWindow(Attend near) : near_(std::move(near)) {}

  void forward(const Input& input, twoheads::MatrixSpan<Scalar> out, Matrix<double>& log_weights) {
    if (input.layer == 0)
      near_.forward(input, out, log_weights);
    else
      linear_.forward(input, out, log_weights);
  }
  [[nodiscard]] twoheads::AttentionGradient<Scalar> backward(const Input& input, const View& out,
                                                             const Matrix<double>& log_weights, const View& d_out) {
    return input.layer == 0 ? near_.backward(input, out, log_weights, d_out)
                            : linear_.backward(input, out, log_weights, d_out);
  }

 private:
  Attend near_;
  programs::LinearAttention<Scalar> linear_;
};

class RecallRun {
 public:
  explicit RecallRun(const Settings& settings)
      : settings_(settings),
        exec_(settings.threads),
        make_attend_(settings.engine, limits()),
        trainer_(
            begin_model(), options(), [this] { return attend(); }, exec_) {}

  void run() {
    std::ofstream log;
    if (!settings_.log.empty()) {
      errno = 0;
      log.open(settings_.log, std::ios::trunc);
      if (!log) throw programs::unwritable("--log", settings_.log);
      log << "step,tokens,loss,accuracy\n";
    }
    const programs::Stopwatch watch;
    twoheads::TrainingStep done;
    Answers answers;
    while (trainer_.steps() < settings_.steps) {
      const RecallTask task = task_of(trainer_.steps());
      std::vector<twoheads::Example> batch;
      for (Index item = 0; item < settings_.batch; ++item)
        batch.push_back(task(static_cast<std::uint64_t>(settings_.seed), trainer_.steps(), item));
      done = trainer_.step(batch);
      const bool last = done.step == settings_.steps;
      if (!last && done.step % settings_.evaluate_every != 0) continue;
      answers = judge(last ? settings_.task : task);
      std::cerr << "step " << done.step << " of " << settings_.steps << ", " << task.tokens << " tokens, loss "
                << done.loss << ", accuracy " << answers.accuracy() << ", " << watch.seconds() << " s\n";
      if (!log.is_open()) continue;
      errno = 0;
      log << done.step << "," << task.tokens << "," << done.loss << "," << answers.accuracy() << std::endl;
      if (!log) throw programs::unwritable("--log", settings_.log);
    }
    report(done, answers, watch.seconds());
  }

 private:
  /// What is learned at a step: short sequences first, then ever longer ones, with a pair for every 8 tokens as far as
  /// the task has so many.
  [[nodiscard]] RecallTask task_of(Index step) const {
    std::vector<Index> lengths;
    for (Index tokens = std::min(settings_.begin_tokens, settings_.task.tokens); tokens < settings_.task.tokens;
         tokens *= 2)
      lengths.push_back(tokens);
    const auto longer = static_cast<Index>(lengths.size());
    lengths.push_back(settings_.task.tokens);
    const Index half = settings_.steps / 2;
    const Index stage =
        step < half || longer == 0 ? 0 : std::min(1 + (step - half) * longer / (settings_.steps - half), longer);
    RecallTask task = settings_.task;
    task.tokens = lengths[static_cast<std::size_t>(stage)];
    if (task.tokens < settings_.task.tokens) task.pairs = std::min(task.pairs, std::max<Index>(task.tokens / 8, 1));
    return task;
  }

  /// No positions and no MLPs: the first layer's few tokens say what stood before a token, and all else is to be found
  /// by content, however far away.
  [[nodiscard]] twoheads::ModelSpec spec() const {
    twoheads::ModelSpec spec;
    spec.layers = settings_.layers;
    spec.width = settings_.width;
    spec.mlp = twoheads::MlpKind::none;
    spec.norm = twoheads::NormKind::rms;
    spec.final_norm = true;
    twoheads::AttentionSpec& a = spec.attention;
    a.heads = a.kv_heads = settings_.heads;
    a.head_dim = a.value_dim = settings_.width / settings_.heads;
    a.score_scale = 1.0 / std::sqrt(static_cast<double>(a.head_dim));
    spec.layer_masks.assign(static_cast<std::size_t>(settings_.layers), mask_of(settings_));
    spec.layer_masks.front() = twoheads::Mask::sliding_window(settings_.first_window);
    return spec;
  }

  [[nodiscard]] static twoheads::Mask mask_of(const Settings& settings) {
    switch (settings.mixer) {
      case Mixer::full:
        return twoheads::Mask::full();
      case Mixer::window:
        return twoheads::Mask::sliding_window(settings.window);
      case Mixer::causal:
      case Mixer::linear:
        break;
    }
    return twoheads::Mask::causal();
  }

  [[nodiscard]] twoheads::LanguageModel<Scalar> begin_model() const {
    return twoheads::untrained_model<Scalar>(spec(), settings_.task.vocabulary,
                                             static_cast<std::uint64_t>(settings_.seed));
  }

  [[nodiscard]] twoheads::TrainingOptions options() const {
    twoheads::TrainingOptions options;
    options.schedule = {settings_.rate, settings_.rate / 10, settings_.steps / 20, settings_.steps};
    return options;
  }

  [[nodiscard]] Attend attend() const {
    if (settings_.mixer == Mixer::linear) return Attend(std::make_unique<LinearPastWindow>(make_attend_()));
    return make_attend_();
  }

  [[nodiscard]] twoheads::OracleLimits limits() const {
    twoheads::OracleLimits limits;
    limits.rows = settings_.rows;
    limits.kind = settings_.mixer == Mixer::full ? twoheads::OracleKind::plain : twoheads::OracleKind::causal;
    limits.score_scale = spec().attention.score_scale;
    return limits;
  }

  /// Answers to sequences that training does not see.
  [[nodiscard]] Answers judge(const RecallTask& task) const {
    const auto seed = twoheads::detail::seed_of_part(static_cast<std::uint64_t>(settings_.seed), 3);
    std::vector<Answers> found(static_cast<std::size_t>(settings_.evaluate));
    exec_.for_each(
        settings_.evaluate, [this] { return attend(); },
        [&](Attend& attend, Index item) {
          const twoheads::Example example = task(seed, 0, item);
          twoheads::TrainingPass<Scalar> pass(trainer_.model().body);
          const Matrix<Scalar> rows = pass.forward(twoheads::embed(trainer_.model(), example.ids), attend);
          const Matrix<Scalar> scores = twoheads::logits(trainer_.model(), twoheads::view(rows));
          count(example, scores, found[static_cast<std::size_t>(item)]);
        });
    Answers sum;
    for (const Answers& one : found)
      for (Index bin = 0; bin < Answers::bins; ++bin) {
        sum.right[bin] += one.right[bin];
        sum.asked[bin] += one.asked[bin];
      }
    return sum;
  }

  static void count(const twoheads::Example& example, const Matrix<Scalar>& scores, Answers& answers) {
    for (Index row = 0; row < scores.rows(); ++row) {
      const int target = example.targets[static_cast<std::size_t>(row)];
      if (target < 0) continue;
      Index value = 0;
      while (example.ids[static_cast<std::size_t>(value)] != target) ++value;
      Index bin = 0;
      while (row - value >= Answers::bin_ends[bin]) ++bin;
      Index best = 0;
      scores.row(row).maxCoeff(&best);
      ++answers.asked[bin];
      if (best == target) ++answers.right[bin];
    }
  }

  void report(const twoheads::TrainingStep& done, const Answers& answers, double seconds) const {
    if (settings_.json) {
      nlohmann::ordered_json result{{"mixer", name(settings_.mixer)},
                                    {"tokens", settings_.task.tokens},
                                    {"pairs", settings_.task.pairs},
                                    {"steps", done.step},
                                    {"loss", done.loss},
                                    {"accuracy", answers.accuracy()}};
      for (Index bin = 0; bin < Answers::bins; ++bin) {
        const auto share = static_cast<double>(answers.right[bin]) / static_cast<double>(answers.asked[bin]);
        const std::string key = bin + 1 < Answers::bins ? "accuracy_below_" + std::to_string(Answers::bin_ends[bin])
                                                        : std::string("accuracy_beyond");
        result[key] = answers.asked[bin] > 0 ? nlohmann::ordered_json(share) : nullptr;
      }
      result["parameters"] = trainer_.parameter_count();
      if (settings_.engine == EngineWord::oracle) result["calls"] = make_attend_.calls();
      result["seconds"] = seconds;
      std::cout << result.dump() << "\n";
      return;
    }
    std::cout << name(settings_.mixer) << ": after " << done.step << " steps " << 100 * answers.accuracy()
              << " % of the queries are answered right\n";
    Index begin = 0;
    for (Index bin = 0; bin < Answers::bins; ++bin) {
      const Index end = std::min(Answers::bin_ends[bin], settings_.task.tokens);
      if (answers.asked[bin] > 0)
        std::cout << "  " << begin << " to " << end - 1 << " tokens back: "
                  << 100.0 * static_cast<double>(answers.right[bin]) / static_cast<double>(answers.asked[bin])
                  << " % of " << answers.asked[bin] << "\n";
      begin = end;
    }
  }

  Settings settings_;
  programs::Executor exec_;
  programs::MakeTrainable<Scalar> make_attend_;
  twoheads::Trainer<Scalar, std::function<Attend()>, programs::Executor> trainer_;
};

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Learns multi-query associative recall.", "twoheads_recall");
  Settings settings;
  programs::add_count(app, "--tokens", settings.task.tokens, 4, "tokens of a sequence (default 1024)");
  programs::add_count(app, "--pairs", settings.task.pairs, 1, "pairs of a sequence, each asked for once (default 64)");
  programs::add_count(app, "--vocabulary", settings.task.vocabulary, 4, "ids (default 256)");
  programs::add_choice<Mixer>(
      app, "--mixer", settings.mixer,
      {{"full", Mixer::full}, {"causal", Mixer::causal}, {"window", Mixer::window}, {"linear", Mixer::linear}},
      "softmax attention with a mask, or linear attention (default causal)");
  programs::add_engine(
      app, settings.engine,
      "what evaluates and differentiates attention: calls of an oracle and their derivatives, our own kernel, or "
      "direct evaluation (default oracle)");
  programs::add_count(app, "--window", settings.window, 1,
                      "tokens of a window, the token itself included (default 64)");
  programs::add_count(app, "--first-window", settings.first_window, 1,
                      "tokens that the first layer sees, the token itself included (default 3)");
  programs::add_count(app, "--rows", settings.rows, 2,
                      "with --engine oracle: all rows that a call may have (default 129)");
  programs::add_count(app, "--layers", settings.layers, 2, "layers (default 2)");
  programs::add_count(app, "--width", settings.width, 2, "width (default 64)");
  programs::add_count(app, "--heads", settings.heads, 1, "heads (default 1)");
  programs::add_count(app, "--steps", settings.steps, 1, "steps (default 1200)");
  programs::add_count(app, "--batch", settings.batch, 1, "sequences of a step (default 32)");
  programs::add_positive(app, "--lr", settings.rate, "largest learning rate (default 0.002)");
  programs::add_count(app, "--seed", settings.seed, 0, "seed of weights and sequences (default 1)");
  programs::add_threads(app, settings.threads);
  programs::add_count(app, "--evaluate-every", settings.evaluate_every, 1, "steps between judgements (default 50)");
  programs::add_count(app, "--evaluate", settings.evaluate, 1, "sequences of a judgement (default 64)");
  programs::add_count(app, "--begin-tokens", settings.begin_tokens, 8,
                      "tokens of the first half of the steps; in the other half they double until they are --tokens "
                      "(default 64)");
  programs::add_file(app, "--log", settings.log, "table of judgements, as CSV");
  app.add_flag("--json", settings.json, "print one JSON object");
  programs::add_examples(
      app, {"twoheads_recall --mixer causal --tokens 1024 --rows 129 --threads 2",
            "twoheads_recall --mixer linear --tokens 64 --pairs 8 --steps 300 --engine kernel --log recall.csv"});
  return programs::run(app, argc, argv, [&] {
    if (const std::string fault = settings.task.fault(); !fault.empty()) throw programs::ArgumentError(fault);
    if (settings.width % settings.heads != 0)
      throw programs::ArgumentError("--heads", std::to_string(settings.heads),
                                    "a divisor of --width " + std::to_string(settings.width));
    if (settings.mixer != Mixer::window)
      programs::note_without_effect(app, {"--window"}, "only --mixer window has one in the last layers");
    if (settings.engine != EngineWord::oracle)
      programs::note_without_effect(app, {"--rows"}, "only the engine oracle makes calls");
    programs::say_when_interrupted(app);
    RecallRun(settings).run();
  });
}
