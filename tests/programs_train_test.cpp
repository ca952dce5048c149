#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <string>
#include <twoheads/model/random.hpp>
#include <vector>

#include "support/contains.hpp"
#include "support/linear_attention.hpp"
#include "support/lines_of.hpp"
#include "support/program.hpp"
#include "support/recall_task.hpp"
#include "support/running_program.hpp"
#include "support/sanitized.hpp"
#include "support/seed.hpp"
#include "support/training_program.hpp"

namespace {

namespace fs = std::filesystem;
using namespace training_program;

TEST(TrainingProgram, WritesAFolderThatTheOthersReadALogAndAPlot) {
  SmallRun small;
  small.add_file("--out", "model").add_file("--log", "log.csv").add_file("--plot", "loss.svg");
  small.add("--dtype float16 --evaluate-every 5");
  const nlohmann::json result = result_of(small.run());
  EXPECT_EQ(result.value("steps", 0), 12);
  EXPECT_EQ(result.value("parameters", 0), 256 * 16 + 2 * (4 * 16 * 16 + 3 * 16 * 24 + 2 * 16) + 16);
  EXPECT_LT(result.value("loss", 99.0), std::log(256.0));
  EXPECT_LT(result.value("held_out_bits_per_byte", 99.0), 8.0);
  EXPECT_GT(result.value("tokens_per_second", 0.0), 0.0);
  EXPECT_EQ(result.value("digest", "").size(), 16u);

  const std::vector<std::string> log = lines_of(read_bytes(small.folder / "log.csv"));
  ASSERT_EQ(log.size(), 13u);
  EXPECT_EQ(log[0], "step,loss,held_out_bits_per_byte,learning_rate,seconds");
  EXPECT_TRUE(contains(log[1], "1,5.")) << log[1];
  EXPECT_TRUE(contains(log[4], ",,")) << "nothing is evaluated after step 4";
  for (const std::size_t evaluated : {5u, 10u, 12u}) EXPECT_FALSE(contains(log[evaluated], ",,")) << log[evaluated];

  const std::string svg = read_bytes(small.folder / "loss.svg");
  for (const char* part : {"<svg", "bits a byte", "held-out text, at last", "polyline", "</svg>"})
    EXPECT_TRUE(contains(svg, part)) << part;

  const fs::path ids = small.folder.write("ids.json", "[65, 110, 100, 32, 116, 104, 101]");
  const ProgramRun scored =
      run_program("twoheads_lm", {"--model", (small.folder / "model").string(), "--score-ids", ids.string(), "--json"});
  EXPECT_EQ(scored.exit_code, 0) << scored.err;
  EXPECT_EQ(scored.json().value("tokens", 0), 7);
  EXPECT_LT(scored.json().value("max_logit_error", 1.0), 1e-4);
}

TEST(TrainingProgram, HasTheSameBitsOnAnyNumberOfThreads) {
  const std::string digest = result_of(SmallRun().run()).value("digest", "none");
#ifdef TWOHEADS_WITH_THREADS
  EXPECT_EQ(result_of(SmallRun("--steps 12 --threads 3").run()).value("digest", ""), digest);
#endif
  EXPECT_NE(result_of(SmallRun("--steps 12 --seed 2").run()).value("digest", ""), digest);
}

TEST(TrainingProgram, FindsTheSameWeightsWithAnyEngineUpToRounding) {
  for (const char* mask : {"", " --mask window --window 6", " --mask sinks --window 5 --sinks 2"}) {
    const auto loss = [&](const std::string& engine) {
      return result_of(SmallRun("--scalar double --steps 6 --engine " + engine + mask).run()).value("loss", 0.0);
    };
    const double direct = loss("direct");
    EXPECT_NEAR(loss("kernel"), direct, 1e-11) << mask;
    EXPECT_NEAR(loss("oracle --rows 9"), direct, 1e-11) << mask;
  }
}

TEST(TrainingProgram, NamesAFlagThatItCannotTake) {
  const auto expect = [](const std::string& more, const std::string& message) {
    const ProgramRun run = SmallRun("--steps 2 " + more).run();
    EXPECT_EQ(run.exit_code, 2) << more;
    EXPECT_TRUE(contains(run.err, message)) << run.err;
    EXPECT_EQ(run.out, "");
  };
  expect("--heads 3", "--heads is '3'");
  expect("--kv-heads 4", "--kv-heads is '4'");
  expect("--lr 0", "--lr is '0'");
  expect("--lr 0.1 --lr-last 0.2", "--lr-last");
  expect("--held-out-share 1", "--held-out-share is '1");
  expect("--mask window", "need --window");
  expect("--window 8", "--mask window or sinks");
  expect("--mask window --window 8 --sinks 2", "--sinks needs --mask sinks");
  expect("--rows 16", "--rows needs --engine oracle");
  expect("--dtype int8", "--dtype is 'int8'");
  expect("--steps 0", "--steps is '0'");
  expect("--warmup 3", "--warmup is '3', it takes 0 to 2, the steps of the run");
}

TEST(TrainingProgram, SaysWhyItCannotTrain) {
  const auto expect = [](SmallRun& small, const std::string& message) {
    const ProgramRun run = small.run();
    EXPECT_EQ(run.exit_code, 1);
    EXPECT_TRUE(contains(run.err, message)) << run.err;
    EXPECT_EQ(run.out, "");
  };
  SmallRun small;
  small.folder.write("text", "short");
  expect(small, "expected more than the context of 24");
  fs::remove(small.folder / "text");
  expect(small, "text: no such file");
  SmallRun one;
  one.folder.write("one", "1");
  expect(one.add_file("--held-out", "one"), "1 bytes, expected 2 or more");
  SmallRun unwritable;
  expect(unwritable.add_file("--log", "none/log.csv"), "log.csv: cannot be written: No such file or directory");
}

TEST(TrainingProgram, FindsPlacesThatCannotBeWrittenBeforeItTrains) {
  for (const auto& [flag, place, message] :
       {std::array{"--plot", "none/loss.svg", "loss.svg: cannot be written"},
        std::array{"--checkpoint", "none/run", "none/run: cannot be written"},
        std::array{"--out", "text/model", "text/model: no folder can be made there"}}) {
    SmallRun small("--steps 1000000");  // hours, where it trains first
    const ProgramRun run = small.add_file(flag, place).run();
    EXPECT_EQ(run.exit_code, 1) << flag;
    EXPECT_TRUE(contains(run.err, message)) << run.err;
    EXPECT_FALSE(contains(run.err, "the model is gone in the end")) << run.err;
  }
}

TEST(TrainingProgram, SaysThatItsModelIsNotKept) {
  const auto says = [](SmallRun& run) { return contains(run.run().err, "without --out and --checkpoint"); };
  SmallRun none("--steps 1"), folder("--steps 1"), checkpoint("--steps 1");
  EXPECT_TRUE(says(none));
  EXPECT_FALSE(says(folder.add_file("--out", "model")));
  EXPECT_FALSE(says(checkpoint.add_file("--checkpoint", "run")));
}

TEST(TrainingProgram, EvaluatesAFileOfItsOwnOrNone) {
  SmallRun file;
  file.folder.write("other", std::string(500, 'x'));
  EXPECT_GT(result_of(file.add_file("--held-out", "other").run()).value("held_out_bits_per_byte", 0.0), 4.0);
  const nlohmann::json none = result_of(SmallRun("--steps 2 --held-out-share 0").run());
  EXPECT_TRUE(none.value("held_out_bits_per_byte", nlohmann::json(0)).is_null());
}

TEST(TrainingProgram, RefusesTheCheckpointOfAnotherRunAndADamagedOne) {
  SmallRun first;
  first.add_file("--checkpoint", "run");
  const std::string digest = result_of(first.run()).value("digest", "none");
  const std::string sound = read_bytes(first.folder / "run");
  const ProgramRun again = first.run();
  EXPECT_EQ(result_of(again).value("digest", ""), digest) << "nothing was left to do";
  EXPECT_TRUE(contains(again.err, "going on after step 12")) << again.err;
  EXPECT_EQ(read_bytes(first.folder / "run"), sound);

  const auto expect_refusal = [&](const std::string& message) {
    const ProgramRun run = first.run();
    EXPECT_EQ(run.exit_code, 1);
    EXPECT_TRUE(contains(run.err, message)) << run.err;
  };
  first.folder.write("run", sound.substr(0, sound.size() / 2));
  expect_refusal("is cut short");
  EXPECT_EQ(read_bytes(first.folder / "run"), sound.substr(0, sound.size() / 2)) << "a refused file stays as it is";
  std::string damaged = sound;
  damaged[sound.size() / 2] ^= 4;
  first.folder.write("run", damaged);
  expect_refusal("do not fit their checksum");
  first.folder.write("run", "somebody's letter");
  expect_refusal("not a checkpoint of training");
  first.folder.write("run", sound);
  for (const char* other : {"--seed 2", "--batch 4", "--lr 0.001", "--scalar double", "--engine direct"}) {
    const std::vector<std::string> line = first.line;
    first.add(other);
    expect_refusal("of another run: it says");
    first.line = line;
  }
}

// --- interrupted -----------------------------------------------------------------------------------------------------

/// A run that takes some moments, with all that it leaves.
std::string long_run() {
  return sanitized ? "--threads 1 --evaluate-every 20 --steps 60" : "--threads 1 --evaluate-every 20 --steps 500";
}

TEST(ATrainingRun, KilledAtRandomMomentsAndResumedHasTheBitsOfAnUnbrokenOne) {
  SmallRun unbroken(long_run());
  const nlohmann::json expected = result_of(unbroken.add_file("--log", "log.csv").run());

  SmallRun small(long_run());
  small.add_file("--log", "log.csv").add_file("--checkpoint", "run").add("--checkpoint-every 1");
  std::mt19937_64 random(seed_or(11));
  int killed = 0;
  int exit_code = -1;
  for (int most = 60; exit_code != 0; most += most / 4) {
    RunningProgram run("twoheads_train", small.line, small.folder / "out", small.folder / "err");
    const int moment = static_cast<int>(random() % static_cast<std::uint64_t>(most));
    for (int waited = 0; waited < moment && !run.ended(); waited += 2) pause(2);
    if (!run.ended()) run.send(SIGKILL);
    exit_code = run.wait();
    ASSERT_TRUE(exit_code == 0 || exit_code == -1) << read_bytes(small.folder / "err");
    if (exit_code == -1) ++killed;
  }
  EXPECT_GE(killed, 2);
  const ProgramRun found{0, read_bytes(small.folder / "out"), read_bytes(small.folder / "err")};
  EXPECT_TRUE(contains(found.err, "going on after step")) << found.err;
  const nlohmann::json result = result_of(found);
  for (const char* key : {"steps", "loss", "held_out_bits_per_byte", "digest"})
    EXPECT_EQ(result.value(key, nlohmann::json()), expected.value(key, nlohmann::json("none"))) << key;
  EXPECT_EQ(without_seconds(read_bytes(small.folder / "log.csv")),
            without_seconds(read_bytes(unbroken.folder / "log.csv")))
      << "each step is in the log once";
}

TEST(ATrainingRun, ThatIsInterruptedFinishesItsStepAndSaysHowToGoOn) {
  SmallRun unbroken(long_run());
  const nlohmann::json expected = result_of(unbroken.run());
  SmallRun small(long_run());
  // The checkpoint is written at the interrupt alone.
  small.add_file("--checkpoint", "run").add("--checkpoint-every 100000").add_file("--log", "log.csv");
  RunningProgram run("twoheads_train", small.line, small.folder / "out", small.folder / "err");
  const auto begun = [&] {
    return fs::exists(small.folder / "log.csv") && lines_of(read_bytes(small.folder / "log.csv")).size() > 3;
  };
  while (!run.ended() && !begun()) pause(1);
  run.send(SIGINT);
  EXPECT_EQ(run.wait(), -1) << "the signal ends it";
  const std::string err = read_bytes(small.folder / "err");
  EXPECT_TRUE(contains(err, "interrupted after step ") && contains(err, "the same command goes on from")) << err;
  EXPECT_EQ(read_bytes(small.folder / "out"), "");
  EXPECT_EQ(result_of(small.run()).value("digest", ""), expected.value("digest", "none"));
}

// --- the recall task -------------------------------------------------------------------------------------------------

TEST(RecallTask, AsksForEachPairOnceAfterAllPairs) {
  programs::RecallTask task;
  task.tokens = 128;
  task.pairs = 16;
  task.vocabulary = 60;
  ASSERT_EQ(task.fault(), "");
  for (programs::Index item = 0; item < 20; ++item) {
    const twoheads::Example example = task(seed_or(3), 0, item);
    std::map<int, int> pairs;
    for (std::size_t at = 0; at < 32; at += 2) pairs[example.ids[at]] = example.ids[at + 1];
    ASSERT_EQ(pairs.size(), 16U);
    std::set<int> asked;
    for (std::size_t at = 0; at < example.ids.size(); ++at) {
      if (example.targets[at] < 0) {
        // Nothing else looks like a key, or like a value.
        if (at >= 32) {
          EXPECT_GE(example.ids[at], 40);
        }
        continue;
      }
      EXPECT_GE(at, 32U);
      EXPECT_EQ(pairs.at(example.ids[at]), example.targets[at]);
      asked.insert(example.ids[at]);
    }
    EXPECT_EQ(asked.size(), 16U);
  }
  task.pairs = 33;
  EXPECT_NE(task.fault(), "");
}

TEST(LinearAttention, HasTheDerivativeOfItsForward) {
  using twoheads::Matrix;
  twoheads::AttentionSpec spec;
  spec.heads = 2;
  spec.head_dim = 3;
  spec.value_dim = 4;
  spec.mask = twoheads::Mask::causal();
  twoheads::Random random(seed_or(4));
  Matrix<double> rows[3] = {random.matrix<double>(9, 6), random.matrix<double>(9, 3), random.matrix<double>(9, 4)};
  const Matrix<double> d_out = random.matrix<double>(9, 8);
  programs::LinearAttention<double> attend;
  Matrix<double> log_weights;
  const auto out = [&] {
    Matrix<double> found(9, 8);
    attend.forward(twoheads::projected_input<double>(spec, twoheads::view(rows[0]), twoheads::view(rows[1]),
                                                     twoheads::view(rows[2])),
                   twoheads::span(found), log_weights);
    return found;
  };
  const Matrix<double> mixed = out();
  const twoheads::AttentionGradient<double> found =
      attend.backward(twoheads::projected_input<double>(spec, twoheads::view(rows[0]), twoheads::view(rows[1]),
                                                        twoheads::view(rows[2])),
                      twoheads::view(mixed), log_weights, twoheads::view(d_out));
  const Matrix<double>* const derivatives[3] = {&found.q, &found.k, &found.v};
  for (int which = 0; which < 3; ++which)
    for (programs::Index i = 0; i < rows[which].size(); ++i) {
      double& number = rows[which].data()[i];
      const double before = number;
      number = before + 1e-6;
      const double above = out().cwiseProduct(d_out).sum();
      number = before - 1e-6;
      const double below = out().cwiseProduct(d_out).sum();
      number = before;
      EXPECT_NEAR(derivatives[which]->data()[i], (above - below) / 2e-6, 1e-8);
    }
}

TEST(RecallProgram, LearnsTheSameByAnyEngineAndSaysHowFarBack) {
  std::vector<double> losses;
  for (const char* engine : {"kernel", "direct", "oracle"}) {
    const ProgramRun run = run_program(
        "twoheads_recall", words(std::string("--tokens 32 --pairs 4 --vocabulary 24 --width 16 --steps 8 --batch 4 "
                                             "--begin-tokens 16 --rows 9 --evaluate 4 --json --engine ") +
                                 engine));
    ASSERT_EQ(run.exit_code, 0) << run.err;
    losses.push_back(run.json()["loss"].get<double>());
    EXPECT_TRUE(run.json().contains("accuracy_below_64"));
  }
  EXPECT_NEAR(losses[0], losses[1], 1e-4);
  EXPECT_NEAR(losses[0], losses[2], 1e-4);
  for (const char* mixer : {"full", "window", "linear"}) {
    const ProgramRun run =
        run_program("twoheads_recall", words(std::string("--tokens 32 --pairs 4 --vocabulary 24 --width 16 --steps 2 "
                                                         "--batch 2 --window 8 --rows 9 --evaluate 2 --mixer ") +
                                             mixer));
    EXPECT_EQ(run.exit_code, 0) << run.err;
    EXPECT_NE(run.out.find(mixer), std::string::npos);
  }
  EXPECT_EQ(run_program("twoheads_recall", words("--tokens 64 --pairs 40")).exit_code, 2);
  const ProgramRun idle =
      run_program("twoheads_recall", words("--tokens 8 --pairs 1 --vocabulary 8 --width 4 --steps 1 --batch 1 "
                                           "--evaluate 1 --begin-tokens 8 --engine direct --rows 9 --window 4"));
  EXPECT_EQ(idle.exit_code, 0) << idle.err;
  EXPECT_NE(idle.err.find("--rows changes nothing here"), std::string::npos) << idle.err;
  EXPECT_NE(idle.err.find("--window changes nothing here"), std::string::npos) << idle.err;
}

// What the comparison of docs/training.md rests on, at a size of seconds.
TEST(RecallProgram, FindsPairsThroughCallsAndLinearAttentionDoesNot) {
  const auto accuracy = [](const std::string& mixer) {
    const ProgramRun run =
        run_program("twoheads_recall", words("--tokens 32 --pairs 4 --vocabulary 48 --width 32 --batch 16 --steps 300 "
                                             "--begin-tokens 32 --rows 9 --json --mixer " +
                                             mixer));
    EXPECT_EQ(run.exit_code, 0) << run.err;
    return run.json()["accuracy"].get<double>();
  };
  EXPECT_GE(accuracy("causal"), 0.95);
  EXPECT_LE(accuracy("linear"), 0.6);
}

}  // namespace
