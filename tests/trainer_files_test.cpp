#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <twoheads/io/model_folder.hpp>
#include <twoheads/io/model_writer.hpp>
#include <twoheads/train/trainer.hpp>
#include <twoheads/train/training_file.hpp>
#include <twoheads/train/untrained.hpp>
#include <utility>

#include "support/allocated_bytes.hpp"
#include "support/contains.hpp"
#include "support/damage.hpp"
#include "support/instances.hpp"
#include "support/message_of.hpp"
#include "support/sanitized.hpp"
#include "support/seed.hpp"
#include "support/shared_data.hpp"
#include "support/small_training.hpp"
#include "support/temp_folder.hpp"

namespace {

using namespace twoheads;
using namespace small_training;

template <class Scalar>
void expect_a_resumed_run_to_be_the_unbroken_one() {
  SmallTrainer<Scalar> unbroken = small_trainer<Scalar>();
  train(unbroken, 8);
  const TempFolder folder;
  const std::string key = training_key(small_model<Scalar>(), small_options(), 1);
  for (const Index stop : {0, 3, 7}) {
    SmallTrainer<Scalar> begun = small_trainer<Scalar>(2);
    train(begun, stop);
    TrainingState<Scalar> state = begun.state();
    state.curve = {{stop, 1.5, 2.5, 0.1, 60.0}, {stop + 1, 1.25}};
    save_training(folder / "run", key, state);
    SmallTrainer<Scalar> resumed = small_trainer<Scalar>();
    TrainingState<Scalar> found = read_training<Scalar>(folder / "run", key, resumed.parameter_count());
    EXPECT_EQ(bits_of(found), bits_of(begun.state()));
    ASSERT_EQ(found.curve.size(), 2u);
    EXPECT_EQ(found.curve[0].held_out, 2.5);
    EXPECT_EQ(found.curve[1].loss, 1.25);
    EXPECT_TRUE(std::isnan(found.curve[1].held_out));
    resumed.restore(std::move(found));
    train(resumed, 8);
    EXPECT_EQ(bits_of(resumed.state()), bits_of(unbroken.state())) << "stopped after " << stop;
  }
}

TEST(ARunThatIsResumed, HasTheBitsOfAnUnbrokenOne) {
  expect_a_resumed_run_to_be_the_unbroken_one<float>();
  expect_a_resumed_run_to_be_the_unbroken_one<double>();
}

TEST(TheKeyOfARun, ChangesWithAllThatDefinesIt) {
  const LanguageModel<float> model = small_model<float>();
  const TrainingOptions options = small_options();
  const std::string key = training_key(model, options, 1);
  EXPECT_EQ(training_key(small_model<float>(), small_options(), 1), key);
  EXPECT_NE(training_key(model, options, 2), key);
  EXPECT_NE(training_key(untrained_model<float>(small_spec(), 256, 6), options, 1), key);
  const auto changes = [&](const auto& change) {
    TrainingOptions other = options;
    change(other);
    EXPECT_NE(training_key(model, other, 1), key);
  };
  changes([](TrainingOptions& o) { o.schedule.peak = std::nextafter(o.schedule.peak, 1.0); });
  changes([](TrainingOptions& o) { o.schedule.floor = 0; });
  changes([](TrainingOptions& o) { ++o.schedule.steps; });
  changes([](TrainingOptions& o) { ++o.schedule.warm_up; });
  changes([](TrainingOptions& o) { o.adamw.beta1 = 0.8; });
  changes([](TrainingOptions& o) { o.adamw.beta2 = 0.8; });
  changes([](TrainingOptions& o) { o.adamw.epsilon = 1e-7; });
  changes([](TrainingOptions& o) { o.adamw.decay = 0; });
  changes([](TrainingOptions& o) { o.adamw.decays_embedding = false; });
  changes([](TrainingOptions& o) { o.clip = 2; });
  ModelSpec windowed = small_spec();
  windowed.attention.mask = Mask::sliding_window(4);
  EXPECT_NE(training_key(untrained_model<float>(windowed, 256, 5), options, 1), key);
}

TrainingState<float> tiny_state() {
  TrainingState<float> state;
  state.steps = 3;
  for (Vector<float>* numbers : {&state.weights, &state.first, &state.second}) *numbers = Vector<float>::Ones(9);
  state.curve = {{1, 2.0}, {2, 1.5}};
  return state;
}

TEST(AFileOfTraining, SaysWhatIsWrongWithIt) {
  const TempFolder folder;
  const std::filesystem::path path = folder / "run";
  save_training(path, "key", tiny_state());
  const std::string sound = read_bytes(path);
  const auto fault = [&](const std::string& bytes) {
    const std::filesystem::path damaged = folder.write("damaged", bytes);
    return message_of<FormatError>([&] { static_cast<void>(read_training<float>(damaged, "key", 9)); });
  };
  EXPECT_TRUE(contains(fault(""), "damaged: not a checkpoint of training"));
  EXPECT_TRUE(contains(fault("#!/bin/sh\necho a file of someone else\n"), "not a checkpoint of training"));
  EXPECT_TRUE(contains(fault(sound.substr(0, 20)), "is cut short"));
  EXPECT_TRUE(contains(fault(sound.substr(0, sound.size() - 1)), "is cut short"));
  EXPECT_TRUE(contains(fault(sound + "x"), "is longer than its header says"));
  std::string other = sound;
  other[8] = 2;
  EXPECT_TRUE(contains(fault(other), "of version 2, expected 1"));
  other = sound;
  other[sound.size() - 20] ^= 1;
  EXPECT_TRUE(contains(fault(other), "do not fit their checksum"));
  other = sound;
  other[8 + 2 * 8 + 7] = '\x70';
  EXPECT_TRUE(contains(fault(other), "header is damaged")) << "more weights than 64 bits can count the bytes of";

  const auto mismatch = [&](const auto& read) { return message_of<FormatError>(read); };
  EXPECT_TRUE(contains(mismatch([&] { static_cast<void>(read_training<float>(path, "other key", 9)); }),
                       "of another run: it says 'key', expected 'other key'"));
  EXPECT_TRUE(contains(mismatch([&] { static_cast<void>(read_training<double>(path, "key", 9)); }),
                       "holds numbers of 4 bytes, expected 8"));
  EXPECT_TRUE(contains(mismatch([&] { static_cast<void>(read_training<float>(path, "key", 8)); }),
                       "holds 9 weights, expected 8"));
  EXPECT_TRUE(contains(
      message_of<FileError>([&] { static_cast<void>(read_training<float>(folder / "none", "key", 9)); }), "none: "));
  EXPECT_TRUE(contains(message_of<FileError>([&] { static_cast<void>(read_training<float>(folder / "", "key", 9)); }),
                       "not a regular"));
  EXPECT_TRUE(contains(message_of<FileError>([&] { save_training(folder / "none" / "run", "key", tiny_state()); }),
                       "cannot be written"));
}

TEST(AFileOfTraining, OfAnyLengthAsksForNoMemoryBeforeItIsKnownToBeSound) {
  const TempFolder folder;
  save_training(folder / "run", "key", tiny_state());
  std::string head = read_bytes(folder / "run").substr(0, 8 + sizeof(detail::TrainingHead));
  const auto fault = [&](const std::string& bytes, std::uintmax_t size) {
    const std::filesystem::path path = folder.write("long", bytes);
    std::filesystem::resize_file(path, size);  // what follows takes no room on the disk
    const AllocatedBytes allocated;
    const std::string message =
        message_of<FormatError>([&] { static_cast<void>(read_training<float>(path, "key", 9)); });
    EXPECT_LE(allocated.peak(), std::size_t{1} << 20);
    return message;
  };
  EXPECT_TRUE(contains(fault(head, std::uintmax_t{1} << 41), "longer than its header says"));
  EXPECT_TRUE(contains(fault(head.substr(0, 8), std::uintmax_t{1} << 41), "of version 0"));
  // A header that the file bears out: 2^26 bytes of a curve.
  const std::uint64_t points = (std::uint64_t{1} << 26) / sizeof(TrainingPoint);
  std::memcpy(head.data() + 8 + 4 * 8, &points, sizeof(points));
  EXPECT_TRUE(contains(fault(head, head.size() + 3 + points * sizeof(TrainingPoint) + 3 * 9 * sizeof(float) + 8),
                       "do not fit their checksum"));
}

TEST(AFileOfTraining, IsRefusedWhateverHappenedToIt) {
  const TempFolder folder;
  save_training(folder / "run", "key", tiny_state());
  const std::string sound = read_bytes(folder / "run");
  Damage damage(seed_or(17));
  const int times = sanitized ? 100 : 1000;
  for (int i = 0; i < times; ++i) {
    const std::string bytes = damage.of_file(sound);
    if (bytes == sound) continue;
    // Some file systems bring a file that is overwritten to the disk at once, and not a new one.
    std::filesystem::remove(folder / "damaged");
    const std::filesystem::path path = folder.write("damaged", bytes);
    EXPECT_THROW(static_cast<void>(read_training<float>(path, "key", 9)), FormatError) << "damage " << i;
  }
}

TEST(AFolderOfAModel, CanBeInFloat16) {
  const TempFolder folder;
  LanguageModel<float> model = small_model<float>();
  write_model(folder / "half", model, 64, Dtype::f16);
  EXPECT_TRUE(contains(read_bytes(folder / "half/config.json"), "\"torch_dtype\": \"float16\""));
  LanguageModel<float> found = read_model<float>(folder / "half");
  const auto expected = parameters(model);
  const auto read = parameters(found);
  ASSERT_EQ(read.size(), expected.size());
  for (std::size_t array = 0; array < read.size(); ++array)
    for (Index i = 0; i < read[array].size; ++i)
      ASSERT_EQ(read[array].data[i], static_cast<float>(static_cast<Eigen::half>(expected[array].data[i])))
          << read[array].name;
  model.embedding(3, 4) = 70000;
  const std::string message = message_of<SpecError>([&] { write_model(folder / "large", model, 64, Dtype::f16); });
  EXPECT_TRUE(contains(message, "model.embed_tokens.weight holds 70000")) << message;
  EXPECT_FALSE(std::filesystem::exists(folder / "large"));
  EXPECT_TRUE(
      contains(message_of<SpecError>([&] { write_model(folder / "u8", model, 64, Dtype::u8); }), "F16 or BF16"));
}

}  // namespace
