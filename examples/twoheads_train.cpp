// A byte-level language model, trained on any text.

#include "support/training_run.hpp"

int main(int argc, char** argv) {
  CLI::App app("Trains a byte-level language model on a text and writes it as a folder.", "twoheads_train");
  programs::TrainingSettings settings;
  settings.add_to(app);
  return programs::run(app, argc, argv, [&] {
    settings.complete();
    programs::keep_freed_memory();
    if (settings.wide)
      programs::TrainingRun<double>(settings).run();
    else
      programs::TrainingRun<float>(settings).run();
  });
}
