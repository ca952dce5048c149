#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <twoheads/base/byte_hash.hpp>
#include <twoheads/train/example.hpp>
#include <twoheads/train/trainable_direct.hpp>
#include <twoheads/train/trainer.hpp>
#include <twoheads/train/untrained.hpp>
#include <vector>

#include "support/executor.hpp"
#include "support/instances.hpp"

/// Training of a small model on a small text.
namespace small_training {

using namespace twoheads;

inline std::string some_text(Index bytes) {
  std::string text;
  while (static_cast<Index>(text.size()) < bytes)
    text += "a small text, of " + std::to_string(text.size()) + " bytes; ";
  text.resize(static_cast<std::size_t>(bytes));
  return text;
}

inline ModelSpec small_spec() {
  ModelSpec spec;
  spec.layers = 2;
  spec.width = 16;
  spec.hidden = 24;
  spec.mlp = MlpKind::swiglu;
  spec.norm = NormKind::rms;
  spec.final_norm = true;
  spec.attention.heads = 2;
  spec.attention.kv_heads = 1;
  spec.attention.head_dim = spec.attention.value_dim = 8;
  spec.attention.score_scale = 1 / std::sqrt(8.0);
  spec.attention.rope = RopeSpec{};
  spec.attention.rope->pairing = RopePairing::halves;
  spec.attention.mask = Mask::causal();
  return spec;
}

template <class Scalar>
LanguageModel<Scalar> small_model() {
  return untrained_model<Scalar>(small_spec(), 256, 5);
}

inline TrainingOptions small_options(Index steps = 30) {
  TrainingOptions options;
  options.schedule = {0.01, 0.001, 3, steps};
  return options;
}

template <class Scalar>
struct MakeDirect {
  TrainableDirect<Scalar> operator()() const { return {}; }
};

template <class Scalar>
using SmallTrainer = Trainer<Scalar, MakeDirect<Scalar>, programs::Executor>;

template <class Scalar>
SmallTrainer<Scalar> small_trainer(Index threads = 1, const TrainingOptions& options = small_options()) {
  return {small_model<Scalar>(), options, {}, programs::Executor(threads)};
}

inline std::vector<Example> batch_of(const TextWindows& windows, Index step, Index items) {
  std::vector<Example> batch;
  for (Index item = 0; item < items; ++item) batch.push_back(windows(step, item));
  return batch;
}

inline const TextWindows& small_windows() {
  static const TextWindows windows(some_text(200), 12, 9);
  return windows;
}

template <class Trained>
void train(Trained& trainer, Index until) {
  while (trainer.steps() < until) trainer.step(batch_of(small_windows(), trainer.steps(), 5));
}

template <class Scalar>
std::uint64_t bits_of(const TrainingState<Scalar>& state) {
  detail::ByteHash hash;
  for (const Vector<Scalar>* numbers : {&state.weights, &state.first, &state.second})
    hash.add(std::as_bytes(std::span(numbers->data(), static_cast<std::size_t>(numbers->size()))));
  hash.add(static_cast<std::uint64_t>(state.steps));
  return hash.value();
}

}  // namespace small_training
