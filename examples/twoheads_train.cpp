// A byte-level language model, trained on any text.

#include "support/training_run.hpp"

int main(int argc, char** argv) {
  CLI::App app("Trains a byte-level language model on a text and writes it as a folder.", "twoheads_train");
  programs::TrainingSettings settings;
  settings.add_to(app);
  programs::add_examples(
      app, {"twoheads_train --text book.txt --out model --steps 2500 --threads 2 --checkpoint run.bin --plot loss.svg",
            "twoheads_train --text book.txt --out model --engine oracle --rows 129 --steps 100"});
  return programs::run(app, argc, argv, [&] {
    settings.complete();
    programs::keep_freed_memory();
    if (settings.scalar == programs::ScalarWord::float64)
      programs::TrainingRun<double>(settings).run();
    else
      programs::TrainingRun<float>(settings).run();
  });
}
