#pragma once

#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <numbers>
#include <span>
#include <stdexcept>
#include <string>
#include <twoheads/base/digest.hpp>
#include <twoheads/base/write_file.hpp>
#include <twoheads/io/model_writer.hpp>
#include <twoheads/train/example.hpp>
#include <twoheads/train/held_out.hpp>
#include <twoheads/train/trainer.hpp>
#include <twoheads/train/training_file.hpp>
#include <twoheads/train/untrained.hpp>
#include <utility>
#include <vector>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "support/any_run.hpp"
#include "support/executor.hpp"
#include "support/instances.hpp"
#include "support/manual.hpp"
#include "support/stopwatch.hpp"
#include "support/text_files.hpp"
#include "support/training_attend.hpp"
#include "support/training_plot.hpp"
#include "support/training_progress.hpp"
#include "support/training_settings.hpp"

namespace programs {

/// The signal of Ctrl-C or SIGTERM once it has come; a second one ends the program as if nobody had asked.
inline volatile std::sig_atomic_t training_interrupted = 0;

inline void watch_for_interrupts() {
  const auto note = [](int signal) {
    training_interrupted = signal;
    std::signal(signal, SIG_DFL);
  };
  std::signal(SIGINT, note);
  std::signal(SIGTERM, note);
}

/// Freed memory is kept for the next sequence: a pass takes and frees some hundred large blocks, and the system would
/// hand out each as new pages of zeros.
inline void keep_freed_memory() {
#ifdef __GLIBC__
  ::mallopt(M_MMAP_THRESHOLD, 1 << 30);
  ::mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
#endif
}

/// What is left is done as if nobody had watched.
inline void stop_watching() {
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
}

/// The bytes that are learned, and those that are only predicted.
struct TrainingTexts {
  std::string learned;
  std::string held_out;

  explicit TrainingTexts(const TrainingSettings& settings) : learned(read_text(settings.text)) {
    take_held_out(settings);
    if (learned.size() <= static_cast<std::size_t>(settings.context))
      throw std::runtime_error(twoheads::detail::text("--text ", settings.text, ": a text of ", learned.size(),
                                                      " bytes to learn, expected more than the context of ",
                                                      settings.context, "; a shorter one is asked for by --context"));
  }

  [[nodiscard]] std::uint64_t hash() const {
    return twoheads::detail::hash_of(std::as_bytes(std::span(held_out)),
                                     twoheads::detail::hash_of(std::as_bytes(std::span(learned)), learned.size()));
  }

 private:
  void take_held_out(const TrainingSettings& settings) {
    if (!settings.held_out.empty()) {
      held_out = read_text(settings.held_out);
      if (held_out.size() < 2)
        throw std::runtime_error(settings.held_out + ": " + std::to_string(held_out.size()) +
                                 " bytes, expected 2 or more");
      return;
    }
    const auto share = static_cast<std::size_t>(settings.held_out_share * static_cast<double>(learned.size()));
    // Of a single byte nothing is predicted.
    if (share < 2) return;
    held_out = learned.substr(learned.size() - share);
    learned.resize(learned.size() - share);
  }
};

/// A run of twoheads_train.
template <class Scalar>
class TrainingRun {
 public:
  explicit TrainingRun(const TrainingSettings& settings)
      : settings_(settings),
        texts_(settings),
        windows_(texts_.learned, settings.context, static_cast<std::uint64_t>(settings.seed)),
        held_out_(twoheads::judging_windows(texts_.held_out, settings.context)),
        some_held_out_(twoheads::judging_windows(
            std::string_view(texts_.held_out).substr(0, static_cast<std::size_t>(settings.evaluate_bytes)),
            settings.context)),
        exec_(settings.threads),
        make_attend_(settings.engine, settings.limits()),
        trainer_(twoheads::untrained_model<Scalar>(settings.spec(), 256, static_cast<std::uint64_t>(settings.seed)),
                 settings.options(), make_attend_, exec_),
        key_(key()) {}

  void run() {
    require_places();
    restore();
    if (!settings_.log.empty()) begin_log();
    watch_for_interrupts();
    const Index begun = trainer_.steps();
    if (begun < settings_.steps) train(begun);
    stop_watching();
    finish();
  }

 private:
  [[nodiscard]] std::string key() const {
    const char* engine = settings_.engine == EngineWord::kernel   ? "kernel"
                         : settings_.engine == EngineWord::direct ? "direct"
                                                                  : "oracle";
    std::string words = twoheads::detail::text("engine ", engine);
    if (settings_.engine == EngineWord::oracle) words += twoheads::detail::text(" of ", settings_.rows, " rows");
    return words +
           twoheads::detail::text(", ", sizeof(Scalar) > 4 ? "double" : "float", "; context ", settings_.context,
                                  ", batch ", settings_.batch, ", seed ", settings_.seed, "; ") +
           twoheads::training_key(trainer_.model(), trainer_.options(), texts_.hash());
  }

  /// What is written at the end is not to fail there, and what is not written is not to surprise.
  void require_places() const {
    require_writable("--checkpoint", settings_.checkpoint);
    require_writable("--plot", settings_.plot);
    if (settings_.out.empty() && settings_.checkpoint.empty())
      std::cerr << "twoheads_train: without --out and --checkpoint the model is gone in the end\n";
    if (settings_.out.empty()) return;
    std::error_code failed;
    std::filesystem::create_directories(settings_.out, failed);
    if (failed || !std::filesystem::is_directory(settings_.out))
      throw std::runtime_error(settings_.out + ": no folder can be made there");
  }

  void restore() {
    if (settings_.checkpoint.empty() || !std::filesystem::exists(settings_.checkpoint)) return;
    auto state =
        with_checkpoint([&] { return twoheads::read_training<Scalar>(settings_.checkpoint, key_, parameters()); });
    curve_ = std::move(state.curve);
    if (!curve_.empty()) seconds_before_ = curve_.back().seconds;
    trainer_.restore(std::move(state));
    std::cerr << "going on after step " << trainer_.steps() << " of " << settings_.checkpoint << "\n";
  }

  void save() const {
    if (settings_.checkpoint.empty()) return;
    twoheads::TrainingState<Scalar> state = trainer_.state();
    state.curve = curve_;
    twoheads::save_training(settings_.checkpoint, key_, state);
  }

  void train(Index begun) {
    TrainingProgress progress(settings_.steps);
    const Stopwatch watch;
    double evaluating = 0;
    std::vector<twoheads::Example> batch(static_cast<std::size_t>(settings_.batch));
    while (trainer_.steps() < settings_.steps) {
      for (Index item = 0; item < settings_.batch; ++item)
        batch[static_cast<std::size_t>(item)] = windows_(trainer_.steps(), item);
      const twoheads::TrainingStep done = trainer_.step(batch);
      twoheads::TrainingPoint point{done.step, done.loss, std::numeric_limits<double>::quiet_NaN(), done.rate, 0};
      const bool last = done.step == settings_.steps;
      const bool evaluates = last || done.step % settings_.evaluate_every == 0;
      if (evaluates && !texts_.held_out.empty()) {
        const Stopwatch evaluation;
        point.held_out = bits(trainer_.model(), last ? held_out_ : some_held_out_);
        evaluating += evaluation.seconds();
      }
      point.seconds = seconds_before_ + watch.seconds();
      curve_.push_back(point);
      log(point);
      const auto steps = static_cast<double>(done.step - begun);
      speed_ = steps * static_cast<double>(settings_.batch * settings_.context) / (watch.seconds() - evaluating);
      progress.step(point, speed_, watch.seconds() / steps * static_cast<double>(settings_.steps - done.step));
      const bool interrupted = training_interrupted != 0 && !last;
      if (last || interrupted || done.step % settings_.checkpoint_every == 0) save();
      if (evaluates || interrupted) plot();
      if (!interrupted) continue;
      progress.end_line();
      end_interrupted(done.step);
    }
  }

  /// Ends the program by the signal that has interrupted it, as who sent it expects.
  [[noreturn]] void end_interrupted(Index step) {
    const std::string stays = what_stays(settings_.checkpoint);
    std::cerr << "twoheads_train: interrupted after step " << step << "; "
              << (stays.empty() ? "nothing is kept without --checkpoint" : stays) << std::endl;
    log_.close();
    std::signal(training_interrupted, SIG_DFL);
    static_cast<void>(std::raise(training_interrupted));
    std::abort();
  }

  /// Writes the folder and says what came out.
  void finish() {
    twoheads::LanguageModel<Scalar> model = trainer_.model();
    if (!settings_.out.empty()) write_folder(model);
    plot();
    const double held_out = texts_.held_out.empty() ? std::numeric_limits<double>::quiet_NaN() : final_bits(model);
    const twoheads::Vector<Scalar> weights = trainer_.state().weights;
    const twoheads::Matrix<Scalar> row = weights.transpose();
    const std::string digest = twoheads::digest(row);
    const double loss = curve_.empty() ? 0.0 : curve_.back().loss;
    if (settings_.json) {
      nlohmann::ordered_json result{{"steps", trainer_.steps()}, {"loss", loss}};
      result["held_out_bits_per_byte"] = std::isfinite(held_out) ? nlohmann::ordered_json(held_out) : nullptr;
      result["parameters"] = parameters();
      result["tokens_per_second"] = speed_;
      result["digest"] = digest;
      if (settings_.engine == EngineWord::oracle) result["calls"] = make_attend_.calls();
      result["seconds"] = curve_.empty() ? 0.0 : curve_.back().seconds;
      std::cout << result.dump() << "\n";
      return;
    }
    std::cout << "steps            " << trainer_.steps() << "\nloss             " << loss << " nats a byte, last batch";
    if (std::isfinite(held_out)) std::cout << "\nheld-out text    " << held_out << " bits a byte";
    std::cout << "\nparameters       " << parameters() << "\ndigest           " << digest << "\n";
    if (settings_.engine == EngineWord::oracle)
      std::cout << "calls            " << make_attend_.calls() << " of at most " << settings_.rows << " rows\n";
    if (!settings_.out.empty()) std::cout << "folder           " << settings_.out << "\n";
  }

  /// Writes the model; it becomes what a reader of the folder has.
  void write_folder(twoheads::LanguageModel<Scalar>& model) const {
    for (const twoheads::Parameter<Scalar>& array : twoheads::parameters(model))
      for (Index i = 0; i < array.size; ++i) {
        const auto value = static_cast<float>(array.data[i]);
        array.data[i] = static_cast<Scalar>(
            settings_.dtype == twoheads::Dtype::f16 ? static_cast<float>(static_cast<Eigen::half>(value)) : value);
      }
    twoheads::LanguageModel<Scalar> written = model;
    if (settings_.mask == twoheads::MaskKind::sinks) {
      written.body.spec.attention.mask = twoheads::Mask::causal();
      std::cerr << "config.json has no words for sinks: the folder says causal; give twoheads_lm --window "
                << settings_.window << " --sinks " << settings_.sinks << "\n";
    }
    twoheads::write_model(settings_.out, written, settings_.context, settings_.dtype);
  }

  [[nodiscard]] double bits(const twoheads::LanguageModel<Scalar>& model,
                            const std::vector<twoheads::Example>& windows) const {
    return twoheads::mean_nats<Scalar>(model, windows, exec_) / std::numbers::ln2;
  }
  /// Of the weights in the folder, where there is one; else of those trained, which the last step has found already.
  [[nodiscard]] double final_bits(const twoheads::LanguageModel<Scalar>& model) const {
    const bool rounded = !settings_.out.empty() && (sizeof(Scalar) > 4 || settings_.dtype == twoheads::Dtype::f16);
    if (!rounded && !curve_.empty() && std::isfinite(curve_.back().held_out)) return curve_.back().held_out;
    return bits(model, held_out_);
  }

  void begin_log() {
    // A run that goes on writes again what it had written, for the file may hold steps that the checkpoint does not.
    errno = 0;
    log_.open(settings_.log, std::ios::trunc);
    log_.precision(std::numeric_limits<double>::max_digits10);
    log_ << "step,loss,held_out_bits_per_byte,learning_rate,seconds\n";
    for (const twoheads::TrainingPoint& point : curve_) log(point);
    if (!log_.flush()) throw unwritable("--log", settings_.log);
  }
  void log(const twoheads::TrainingPoint& point) {
    if (!log_.is_open()) return;
    errno = 0;
    log_ << point.step << "," << point.loss << ",";
    if (std::isfinite(point.held_out)) log_ << point.held_out;
    log_ << "," << point.rate << "," << point.seconds << "\n" << std::flush;
    if (!log_) throw unwritable("--log", settings_.log);
  }

  void plot() const {
    if (settings_.plot.empty()) return;
    const std::string title =
        twoheads::detail::text("A byte-level model of ", twoheads::detail::svg_count(parameters()), " parameters");
    const std::string svg = TrainingPlot(curve_, title).svg();
    twoheads::detail::write_file(settings_.plot, [&](std::ostream& out) { out << svg; });
  }

  [[nodiscard]] Index parameters() const { return trainer_.parameter_count(); }

  TrainingSettings settings_;
  TrainingTexts texts_;
  twoheads::TextWindows windows_;
  std::vector<twoheads::Example> held_out_, some_held_out_;
  Executor exec_;
  MakeTrainable<Scalar> make_attend_;
  twoheads::Trainer<Scalar, MakeTrainable<Scalar>, Executor> trainer_;
  std::string key_;
  std::vector<twoheads::TrainingPoint> curve_;
  double seconds_before_ = 0;
  double speed_ = 0;
  std::ofstream log_;
};

}  // namespace programs
