// A computation that ends in the middle and is begun again gives the bits of one that was not interrupted.

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <memory>
#include <ostream>
#include <string>
#include <twoheads/base/write_file.hpp>
#include <twoheads/exec/checkpoint.hpp>
#include <twoheads/model/random.hpp>

#include "support/checkpointed_runs.hpp"
#include "support/contains.hpp"
#include "support/instances.hpp"
#include "support/message_of.hpp"
#include "support/sanitized.hpp"
#include "support/shared_data.hpp"

namespace {

using namespace twoheads;
namespace fs = std::filesystem;
using namespace checkpointed_runs;

template <class A>
class Checkpoint : public testing::Test {};

using Attentions = testing::Types<RowByRow<float>, RowByRow<double>, Grid, Kernel>;
TYPED_TEST_SUITE(Checkpoint, Attentions);

TYPED_TEST(Checkpoint, ResumesAtEveryByteWithTheSameBits) {
  const Computation<TypeParam> c;
  const auto expected = c.run_without();
  const fs::path path = c.folder / "whole";
  const auto first = c.run(path);
  EXPECT_EQ(first.rows, expected);
  EXPECT_EQ(first.counts.taken, 0);
  const Index parts = first.counts.evaluated;
  EXPECT_EQ(parts, 10);
  const std::string whole = read_bytes(path);

  const auto again = c.run(path);
  EXPECT_EQ(again.rows, expected);
  EXPECT_EQ(again.counts.taken, parts);
  EXPECT_EQ(again.counts.evaluated, 0);
  EXPECT_EQ(read_bytes(path), whole);

  Index taken = 0;
  const std::size_t step = sanitized ? 37 : 11;
  for (std::size_t bytes = 0; bytes <= whole.size(); bytes += step) {
    const fs::path torn = c.folder.write("torn" + std::to_string(bytes), std::string_view(whole).substr(0, bytes));
    const auto found = c.run(torn);
    ASSERT_EQ(found.rows, expected) << bytes << " bytes";
    ASSERT_EQ(read_bytes(torn), whole) << bytes << " bytes";
    ASSERT_EQ(found.counts.taken + found.counts.evaluated, parts);
    ASSERT_GE(found.counts.taken, taken);
    taken = found.counts.taken;
  }
  EXPECT_GE(taken, parts - 1);
}

TYPED_TEST(Checkpoint, AFlippedBitIsRefusedOrInALastRecordThatIsMadeAgain) {
  const Computation<TypeParam> c;
  const auto expected = c.run(c.folder / "whole").rows;
  const std::string whole = read_bytes(c.folder / "whole");
  const std::size_t last = whole.size() - whole.size() / 10;  // in the last of ten parts
  for (std::size_t byte = 0; byte < whole.size(); byte += sanitized ? 29 : 7) {
    std::string flipped = whole;
    flipped[byte] = static_cast<char>(flipped[byte] ^ (1 << (byte % 8)));
    const fs::path path = c.folder.write("flipped" + std::to_string(byte), flipped);
    try {
      ASSERT_EQ(c.run(path).rows, expected) << "byte " << byte;
      ASSERT_GT(byte, last - 100) << "in no last record";
    } catch (const FormatError& error) {
      ASSERT_TRUE(contains(error.what(), path.string())) << "byte " << byte << ": " << error.what();
    }
  }
}

TYPED_TEST(Checkpoint, ALastRecordOfZerosIsMadeAgain) {
  // What a file system leaves where the length of a file reached the disk, and its bytes did not.
  const Computation<TypeParam> c;
  const auto expected = c.run(c.folder / "whole").rows;
  const std::string whole = read_bytes(c.folder / "whole");
  const std::size_t record = 10 * 8 + 5 * 6 * sizeof(typename TypeParam::Scalar);  // of the last 5 rows of 37
  for (std::size_t zeros = 1; zeros <= record; zeros += zeros + 13 > record && zeros < record ? record - zeros : 13) {
    std::string torn = whole;
    torn.replace(torn.size() - zeros, zeros, zeros, '\0');
    const fs::path path = c.folder.write("zeros" + std::to_string(zeros), torn);
    ASSERT_EQ(c.run(path).rows, expected) << zeros << " bytes";
    ASSERT_EQ(read_bytes(path), whole) << zeros << " bytes";
    const fs::path longer = c.folder.write("more" + std::to_string(zeros), whole + std::string(zeros, '\0'));
    ASSERT_EQ(c.run(longer).rows, expected) << zeros << " bytes more";
  }
}

using Small = Computation<RowByRow<float>>;

/// What a run of another computation says of a file.
template <class Change>
std::string refusal(const Change& change) {
  Small c;
  const fs::path path = c.folder / "file";
  static_cast<void>(c.run(path));
  const std::string before = read_bytes(path);
  change(c);
  std::string message = message_of<FormatError>([&] { static_cast<void>(c.run(path)); });
  EXPECT_TRUE(contains(message, path.string())) << message;
  EXPECT_EQ(read_bytes(path), before);
  return message;
}

TEST(CheckpointFile, OfAnotherComputationIsRefused) {
  EXPECT_TRUE(contains(refusal([](Small& c) { c.key = "three layers"; }), "it says 'two', expected 'three'"));
  EXPECT_TRUE(contains(refusal([](Small& c) { c.key = ""; }), "it says 'two layers', expected ''"));
  EXPECT_TRUE(contains(refusal([](Small& c) { c.rows = 12; }), "parts of 8 rows or more, expected 12"));
  const char* other = "layer 0, queries 0 to 8 of 6 columns, computed from other";
  EXPECT_TRUE(contains(refusal([](Small& c) { c.tokens(36, 5) += 1; }), other));
  EXPECT_TRUE(contains(refusal([](Small& c) { c.tokens.conservativeResize(36, 6); }), other));
  EXPECT_TRUE(contains(refusal([](Small& c) { c.model.spec.attention.mask = Mask::full(); }), other));
  EXPECT_TRUE(contains(refusal([](Small& c) { c.model.spec.attention.score_scale = 0.25; }), other));
  EXPECT_TRUE(contains(refusal([](Small& c) { c.model.layers[1] = c.model.layers[0]; }),
                       "layer 1, queries 0 to 8 of 6 columns, computed from other"));

  Computation<RowByRow<double>> wide;
  const fs::path path = wide.folder / "file";
  static_cast<void>(wide.run(path));
  const auto narrow = [&] { static_cast<void>(Small().run(path)); };
  EXPECT_TRUE(contains(message_of<FormatError>(narrow), "numbers of 8 bytes, expected 4 bytes"));
}

TEST(CheckpointFile, ThatIsNoneIsLeftAsItIs) {
  const Small c;
  for (const std::string bytes : {"x", "a text of somebody's that is longer than a header, and of some use to them"}) {
    const fs::path path = c.folder.write("text", bytes);
    const std::string message = message_of<FormatError>([&] { static_cast<void>(c.run(path)); });
    EXPECT_TRUE(contains(message, "not a checkpoint")) << message;
    EXPECT_EQ(read_bytes(path), bytes);
  }
  const auto refused = [&](const fs::path& path) {
    return message_of<FileError>([&] { static_cast<void>(c.run(path)); });
  };
  EXPECT_TRUE(contains(refused(c.folder / "none/file"), "none/file: cannot be opened"));
  EXPECT_TRUE(contains(refused(c.folder / "."), "directory"));
  RowByRow<float> inner;
  const auto no_rows = [&] { CheckpointedAttention attend(inner, c.folder / "file", "", parts_of(0)); };
  EXPECT_TRUE(contains(message_of<SpecError>(no_rows), "part are 0"));
}

TEST(CheckpointFile, IsAskedForNoKeyThatNoRunHas) {
  const Small c;
  const fs::path path = c.folder / "file";
  static_cast<void>(c.run(path));
  // The length of the key, and as many bytes as it says, which take no room on the disk.
  std::string bytes = read_bytes(path).substr(0, 40);
  const std::uint64_t length = std::uint64_t{1} << 41;
  std::memcpy(bytes.data() + 32, &length, sizeof(length));
  c.folder.write("long", bytes);
  fs::resize_file(c.folder / "long", length + 4096);
  EXPECT_TRUE(
      contains(message_of<FormatError>([&] { static_cast<void>(c.run(c.folder / "long")); }), "the header is damaged"));
}

TEST(CheckpointFile, ServesOneRunAtATime) {
  const Small c;
  const fs::path path = c.folder / "file";
  {
    RowByRow<float> inner;
    const CheckpointedAttention attend(inner, path, c.key, parts_of(c.rows));
    const std::string message = message_of<FileError>([&] { static_cast<void>(c.run(path)); });
    EXPECT_TRUE(contains(message, "file: in use by another run")) << message;
  }
  EXPECT_EQ(c.run(path).rows, c.run_without());
}

/// No file may grow beyond so many bytes while it lives, as on a disk that is full.
class FullDisk {
 public:
  explicit FullDisk(std::size_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    rlimit limit = before_;
    limit.rlim_cur = bytes;
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FullDisk() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  FullDisk(const FullDisk&) = delete;
  FullDisk& operator=(const FullDisk&) = delete;

 private:
  rlimit before_{};
  void (*handler_)(int);
};

TEST(WriteFile, OnAFullDiskNamesTheCauseAndLeavesTheOldFile) {
  const TempFolder folder;
  const fs::path path = folder.write("file", "old");
  const auto write = [](std::ostream& out) {
    out << std::string(1 << 20, 'x');
    if (!out.flush()) throw FileError("the stream takes no more bytes");
  };
  std::string message;
  {
    const FullDisk full(4096);
    message = message_of<FileError>([&] { detail::write_file(path, write); });
  }
  EXPECT_EQ(message, path.string() + ": cannot be written: File too large");
  EXPECT_EQ(read_bytes(path), "old");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder / ""), {}), 1);
}

TEST(CheckpointFile, OnAFullDiskHoldsWhatItHeld) {
  const Small c;
  const fs::path path = c.folder / "file";
  static_cast<void>(c.run(c.folder / "whole"));
  const std::string whole = read_bytes(c.folder / "whole");
  std::string message;
  {
    const FullDisk full(whole.size() / 2);
    message = message_of<FileError>([&] { static_cast<void>(c.run(path)); });
  }
  EXPECT_TRUE(contains(message, path.string() + ": cannot be written: File too large")) << message;
  const std::string kept = read_bytes(path);
  EXPECT_EQ(kept, whole.substr(0, kept.size()));
  const auto found = c.run(path);
  EXPECT_EQ(found.rows, c.run_without());
  EXPECT_GE(found.counts.taken, 3);
  EXPECT_EQ(read_bytes(path), whole);
}

TEST(CheckpointFile, OutlivesAProcessThatIsKilled) {
  Small c;
  const fs::path path = c.folder / "file";
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    c.make = [] {
      auto inner = std::make_unique<RowByRow<float>>();
      inner->before_part = [parts = 0]() mutable {
        if (++parts == 8) kill(getpid(), SIGKILL);
      };
      return inner;
    };
    static_cast<void>(c.run(path));
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  const auto found = c.run(path);
  EXPECT_EQ(found.rows, c.run_without());
  EXPECT_EQ(found.counts.taken, 7);
  EXPECT_EQ(found.counts.evaluated, 3);
}

TEST(CheckpointFile, HoldsForwardPassesInTheirOrder) {
  Small c;
  const fs::path path = c.folder / "file";
  const Matrix<float> other = Random(9).matrix<float>(20, 6);
  const auto both = [&](CheckpointCounts& counts) {
    RowByRow<float> inner;
    CheckpointedAttention attend(inner, path, c.key, parts_of(c.rows));
    const Matrix<float> first = forward(c.model, c.tokens, attend);
    Matrix<float> second = forward(c.model, other, attend);
    counts = attend.counts();
    return std::pair(first, second);
  };
  CheckpointCounts counts;
  const auto once = both(counts);
  EXPECT_EQ(once.first, c.run_without());
  EXPECT_EQ(counts.evaluated, 10 + 6);
  EXPECT_EQ(both(counts), once);
  EXPECT_EQ(counts.taken, 10 + 6);
}

TEST(CheckpointFile, HasNoErrorBarsAndNoLogWeights) {
  Computation<Kernel> kernel;
  kernel.make = [] { return std::make_unique<Kernel>(KernelOptions{.rows = 8, .log_weights = true}); };
  const fs::path path = kernel.folder / "kernel";
  EXPECT_EQ(kernel.run(path).rows, kernel.run_without());
  const auto weights = [&] { static_cast<void>(kernel.run(path)); };
  EXPECT_TRUE(contains(message_of<SpecError>(weights), "log weights were asked for"));

  Computation<Grid> grid;
  grid.model.spec.attention.mask = Mask::full();
  grid.make = [] {
    SimulationOptions options;
    options.sampling.samples = 2;
    options.error_bar_level = 0.9;
    return std::make_unique<Grid>(options);
  };
  EXPECT_EQ(grid.run(grid.folder / "grid").rows, grid.run_without());
  const auto bars = [&] { static_cast<void>(grid.run(grid.folder / "grid")); };
  EXPECT_TRUE(contains(message_of<SpecError>(bars), "error bars were asked for"));
}

TYPED_TEST(Checkpoint, HoldsPartsOfWindowsThatAreCutForTheirLength) {
  using Scalar = typename TypeParam::Scalar;
  Computation<TypeParam> c;
  c.model = random_model<Scalar>(spec_of(Mask::window_and_sinks(9, 3)), 5);
  c.tokens = Random(6).matrix<Scalar>(203, 6);
  const MaskReach reach = *c.model.spec.attention.mask.reach(203);
  CheckpointCounts counts;
  const auto run = [&](const fs::path& path) {
    const std::unique_ptr<TypeParam> inner = c.make();
    CheckpointedAttention<TypeParam> attend(*inner, path, c.key, parts_of(c.rows));
    Matrix<Scalar> rows = c.tokens;
    for (Index layer = 0; layer < 2; ++layer)
      detail::layer_in_parts(c.model.spec, c.model.spec.attention, c.model.layers[static_cast<std::size_t>(layer)],
                             layer, detail::PartRule{reach, 21}, rows, attend);
    counts = attend.counts();
    return rows;
  };
  const Matrix<Scalar> clean = run(c.folder / "whole");
  const Index parts = counts.evaluated;
  EXPECT_GE(parts, 2 * 6);
  const Matrix<Scalar> expected = c.run_without();
  EXPECT_TRUE((clean - expected).cwiseAbs().maxCoeff() <= Scalar(1e-5) * expected.cwiseAbs().maxCoeff());
  const std::string whole = read_bytes(c.folder / "whole");
  for (std::size_t bytes = 0; bytes <= whole.size(); bytes += 1009) {
    const fs::path torn = c.folder.write("torn" + std::to_string(bytes), std::string_view(whole).substr(0, bytes));
    EXPECT_EQ(run(torn), clean) << bytes << " bytes";
    EXPECT_EQ(counts.taken + counts.evaluated, parts);
  }
}

}  // namespace
