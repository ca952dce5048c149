// A model of 64 tokens is trained through the calls and the derivatives of an oracle of 17 rows.

#include <iostream>
#include <string>
#include <twoheads/twoheads.hpp>
#include <vector>

using namespace twoheads;

/// Twenty steps on windows of a text. make_attend() makes attention that can be differentiated.
template <class MakeAttend>
LanguageModel<double> trained(const LanguageModel<double>& model, MakeAttend make_attend, bool tell) {
  std::string text;
  for (int i = 0; i < 40; ++i) text += "To him that overcometh will I give to eat of the hidden manna. ";
  const TextWindows windows(text, 64, 1);
  const TrainingOptions options{.schedule = {.peak = 0.02, .floor = 0.002, .warm_up = 2, .steps = 20}, .adamw = {}};
  Trainer trainer(model, options, make_attend);
  for (Index step = 0; step < 20; ++step) {
    const TrainingStep done = trainer.step(std::vector<Example>{windows(step, 0), windows(step, 1)});
    if (tell && (step == 0 || done.step % 10 == 0))
      std::cout << "step " << done.step << ": " << done.loss << " nats a byte\n";
  }
  return trainer.model();
}

int main() {
  ModelSpec spec;
  spec.layers = 2;
  spec.width = 32;
  spec.hidden = 64;
  spec.mlp = MlpKind::gelu;
  spec.norm = NormKind::rms;
  spec.final_norm = true;
  spec.attention.heads = spec.attention.kv_heads = 2;
  spec.attention.head_dim = spec.attention.value_dim = 16;
  spec.attention.score_scale = 0.25;
  spec.attention.mask = Mask::causal();
  spec.attention.rope = RopeSpec{};
  const LanguageModel<double> model = untrained_model<double>(spec, 256, 1);

  // An oracle that can be differentiated has vjp(call, d_answer) beside run(call).
  SmallTransformer<double> oracle({.kind = OracleKind::causal, .rows = 17});
  LanguageModel<double> by_calls = trained(
      model, [&] { return TrainableGrid(oracle); }, true);
  LanguageModel<double> directly = trained(
      model, [] { return TrainableDirect<double>(); }, false);

  double difference = 0;
  const auto found = parameters(by_calls);
  const auto expected = parameters(directly);
  for (std::size_t array = 0; array < found.size(); ++array)
    for (Index i = 0; i < found[array].size; ++i)
      difference = std::max(difference, std::abs(found[array].data[i] - expected[array].data[i]));
  std::cout << "largest difference of a weight from direct training: " << difference << "\n";
}
