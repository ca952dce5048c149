// A run on ranks that ends in the middle and is begun again, on any number of them,
// gives the bits of one that was not interrupted.

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <string>
#include <twoheads/base/digest.hpp>
#include <twoheads/exec/checkpoint.hpp>
#include <twoheads/exec/kernel_attention.hpp>
#include <twoheads/model/random.hpp>
#include <twoheads/mpi/checkpoint_on_ranks.hpp>
#include <twoheads/mpi/forward_on_ranks.hpp>
#include <twoheads/mpi/kernel_on_ranks.hpp>
#include <vector>

#include "support/contains.hpp"
#include "support/instances.hpp"
#include "support/message_of.hpp"
#include "support/own_rows.hpp"
#include "support/rank_checkpoints.hpp"
#include "support/sanitized.hpp"
#include "support/shared_data.hpp"

namespace {

using namespace twoheads;
namespace fs = std::filesystem;
using namespace rank_checkpoints;

TEST(CheckpointOnRanks, ResumesWithTheSameBits) {
  Ranks ranks;
  const RankFolder folder;
  int number = 0;
  for (const Computation& c : computations()) {
    for (int visits = 0; visits < (sanitized ? 3 : 9); visits += 2) {
      SCOPED_TRACE(detail::text("visits ", visits));
      const fs::path path = folder / detail::text("file", ++number);
      const bool broken = c.breaks(ranks, path, visits);
      const Index logged = c.logged(ranks, path);
      EXPECT_EQ(broken, logged < c.spec.layers * c.tokens);
      expect_whole(c, ranks, path, logged);
      expect_whole(c, ranks, path, c.spec.layers * c.tokens);
    }
  }
}

TEST(CheckpointOnRanks, ResumesOnOtherNumbersOfRanks) {
  const RankFolder folder;
  const int all = all_ranks();
  int number = 0;
  for (const Computation& c : computations()) {
    for (const std::vector<int>& sizes : {std::vector<int>{all, (all + 1) / 2, all}, {1, all, 1}, {all, 1, all}}) {
      const fs::path path = folder / detail::text("file", ++number);
      for (std::size_t turn = 0; turn < sizes.size(); ++turn) {
        SCOPED_TRACE(detail::text(sizes[turn], " ranks after ", turn, " runs"));
        FirstRanks some(sizes[turn]);
        if (some.ranks() == nullptr) continue;
        if (turn + 1 < sizes.size())
          static_cast<void>(c.breaks(*some.ranks(), path, 2));
        else
          expect_whole(c, *some.ranks(), path, c.logged(*some.ranks(), path));
      }
    }
  }
}

/// The bytes of the log that a whole run on one rank leaves.
std::string whole_log(const Computation& c, const RankFolder& folder) {
  const fs::path path = folder / "whole";
  {
    FirstRanks one(1);
    if (one.ranks() != nullptr) expect_whole(c, *one.ranks(), path, 0);
  }
  return read_bytes(folder / "whole.0");
}

TEST(RankLogs, LeaveOutARecordThatIsTornAndRefuseOneThatIsDamaged) {
  Ranks ranks;
  const RankFolder folder;
  Computation c(Mask::causal(), 120);
  c.checkpoint.rows = 48;  // records of 48, 48 and 24 rows
  const std::string whole = whole_log(c, folder);
  // The head of a record, the number of its ranges and the one that there is, the rows, and the checksum.
  const std::size_t last = (9 + 1 + 2 + 1) * 8 + 24 * 6 * sizeof(float);
  folder.once([&] {
    const fs::path path = folder / "whole";
    const fs::path log = folder / "whole.0";
    std::vector<float> room;
    const auto rows_of = [&] {
      detail::RankLogs found = c.logs(ranks, path);
      EXPECT_EQ(found.look(), 1);
      Index rows = 0;
      for (std::uint64_t turn = 1; turn <= 2; ++turn)
        for (const detail::LoggedRows& record : found.of_turn(turn))
          found.read(record, room, [&](const Rows& range, const float*) { rows += range.size(); });
      return rows;
    };
    const auto put = [&](const std::string& bytes) {
      fs::remove(log);  // a file that is cut and written anew goes to the disk at once, on some systems
      std::ofstream(log, std::ios::binary) << bytes;
    };
    EXPECT_EQ(rows_of(), 240);
    for (std::size_t torn = 1; torn <= last; ++torn) {
      put(whole.substr(0, whole.size() - torn));
      ASSERT_EQ(rows_of(), 216) << torn << " bytes";
      ASSERT_EQ(fs::file_size(log), whole.size() - torn);
      put(whole.substr(0, whole.size() - torn) + std::string(torn, '\0'));
      ASSERT_EQ(rows_of(), 216) << torn << " bytes of zeros";
    }
    for (std::size_t bytes = 0; bytes < 60; ++bytes) {
      put(whole.substr(0, bytes));
      ASSERT_EQ(rows_of(), 0) << bytes << " bytes of the header";
    }
    for (std::size_t byte = 0; byte < whole.size(); byte += sanitized ? 19 : 3) {
      std::string flipped = whole;
      flipped[byte] = static_cast<char>(flipped[byte] ^ (1 << (byte % 8)));
      put(flipped);
      try {
        ASSERT_EQ(rows_of(), 216) << "byte " << byte;
        ASSERT_GE(byte, whole.size() - last + 9 * 8) << "in no last record";
      } catch (const FormatError& error) {
        ASSERT_TRUE(contains(error.what(), log.string())) << "byte " << byte << ": " << error.what();
      }
    }
  });
}

TEST(CheckpointOnRanks, EvaluatesATornRecordAgainAndRefusesADamagedOneOnEveryRank) {
  Ranks ranks;
  const RankFolder folder;
  const Computation c;
  const std::string whole = whole_log(c, folder);
  const std::size_t last = (9 + 1 + 2 + 1) * 8 + 33 * 6 * sizeof(float);
  for (const std::size_t torn : {std::size_t{1}, last / 2, last}) {
    folder.write(folder / "whole.0", whole.substr(0, whole.size() - torn));
    folder.once([&] {
      for (const auto& entry : fs::directory_iterator(folder / ""))
        if (!contains("whole whole.0", entry.path().filename().string())) fs::remove(entry.path());
    });
    expect_whole(c, ranks, folder / "whole", 2 * 801 - 33);
    EXPECT_EQ(read_bytes(folder / "whole.0"), whole.substr(0, whole.size() - torn));
  }

  std::string flipped = whole;
  const std::size_t header = whole.size() - 2 * (last + 6 * ((9 + 1 + 2 + 1) * 8 + 128 * 6 * sizeof(float)));
  flipped[header + 13 * 8 + 50] = static_cast<char>(flipped[header + 13 * 8 + 50] ^ 4);
  folder.write(folder / "whole.0", flipped);
  const std::string message = message_of<FormatError>([&] { static_cast<void>(c.run(ranks, folder / "whole")); });
  EXPECT_TRUE(contains(message, (folder / "whole.0").string())) << message;
  EXPECT_TRUE(contains(message, detail::text("byte ", header, " holds rows that do not fit"))) << message;
}

/// What all ranks say of a path that a run of another computation used.
template <class Change>
std::string refusal(const Change& change) {
  Ranks ranks;
  const RankFolder folder;
  Computation c;
  const fs::path path = folder / "file";
  expect_whole(c, ranks, path, 0);
  change(c);
  const std::string message = message_of<FormatError>([&] { static_cast<void>(c.run(ranks, path)); });
  EXPECT_TRUE(contains(message, path.string())) << message;
  return message;
}

TEST(CheckpointOnRanks, OfAnotherComputationIsRefused) {
  EXPECT_TRUE(contains(refusal([](Computation& c) { c.key = "three"; }), "it says 'two layers;', expected 'three;'"));
  EXPECT_TRUE(contains(refusal([](Computation& c) { c.options.rows = 99; }), ", expected 'of 99'"));
  const std::string other = "computed from other queries, keys or values than layer 0, 80";
  EXPECT_TRUE(contains(refusal([](Computation& c) { c.x(800, 5) += 1; }), other + "1 queries of 6 columns"));
  EXPECT_TRUE(contains(refusal([](Computation& c) { c.x.row(0).swap(c.x.row(700)); }), other));
  EXPECT_TRUE(contains(refusal([](Computation& c) { c.x.conservativeResize(c.tokens = 800, 8); }), other + "0"));
  EXPECT_TRUE(contains(refusal([](Computation& c) { c.model.spec.attention.mask = Mask::full(); }), other));
  EXPECT_TRUE(contains(refusal([](Computation& c) { c.model.layers[0].attention.wv *= 2; }), other));
  EXPECT_TRUE(contains(refusal([](Computation& c) { c.model.layers[0].attention.wk *= 2; }), other));
  EXPECT_TRUE(
      contains(refusal([](Computation& c) { c.model.layers[0].attention.sinks = RowVector<float>::Ones(2); }), other));
  EXPECT_TRUE(contains(refusal([](Computation& c) { c.model.layers[1] = c.model.layers[0]; }), "than layer 1"));
}

TEST(CheckpointOnRanks, OfAnotherKindIsRefusedAndLeftAsItIs) {
  Ranks ranks;
  const RankFolder folder;
  const Computation c;
  const auto run = [&](const fs::path& path) { static_cast<void>(c.run(ranks, path)); };
  const auto refused = [&](const fs::path& path) { return message_of<FormatError>([&] { run(path); }); };
  expect_whole(c, ranks, folder / "file", 0);

  KernelOnRanks<double> wide(ranks, c.options);
  const auto in_double = [&] { CheckpointOnRanks attend(wide, folder / "file", c.key); };
  EXPECT_TRUE(contains(message_of<FormatError>(in_double), "numbers of 4 bytes, expected 8 bytes"));

  folder.write(folder / "text", "a text of somebody's that is longer than a header, and of some use to them");
  EXPECT_TRUE(contains(refused(folder / "text"), "text: not a checkpoint"));
  folder.write(folder / "file.7", "a text of somebody's that is longer than a header, and of some use to them");
  EXPECT_TRUE(contains(refused(folder / "file"), "file.7: not a checkpoint"));
  EXPECT_EQ(read_bytes(folder / "file.7").substr(0, 6), "a text");

  KernelAttention<float> serial(c.options);
  const std::string key = detail::text(c.key, "; ", KernelOnRanks<float>(ranks, c.options).words());
  folder.once([&] { const CheckpointedAttention attend(serial, folder / "serial", key, {.sync = false}); });
  EXPECT_TRUE(contains(refused(folder / "serial"), "of a run without ranks"));
  folder.once([&] {
    const auto alone = [&] { const CheckpointedAttention attend(serial, folder / "file", key, {.sync = false}); };
    EXPECT_TRUE(contains(message_of<FormatError>(alone), "of a run on ranks"));
  });
  Computation none;
  none.checkpoint.rows = 0;
  const auto no_rows = [&] { static_cast<void>(none.run(ranks, folder / "new")); };
  EXPECT_TRUE(contains(message_of<SpecError>(no_rows), "record are 0"));
  EXPECT_FALSE(fs::exists(folder / "new"));
}

TEST(CheckpointOnRanks, ServesOneRunAtATime) {
  Ranks ranks;
  const RankFolder folder;
  const Computation c;
  const fs::path path = folder / "file";
  {
    KernelOnRanks<float> kernel(ranks, c.options);
    const CheckpointOnRanks attend(kernel, path, c.key, c.checkpoint);
    const std::string message = message_of<FileError>([&] { static_cast<void>(c.run(ranks, path)); });
    EXPECT_TRUE(contains(message, "file: in use by another run")) << message;
  }
  expect_whole(c, ranks, path, 0);
}

TEST(CheckpointOnRanks, ThatCannotBeWrittenIsAnErrorOnEveryRank) {
  Ranks ranks;
  const RankFolder folder;
  Computation c;
  c.checkpoint.sync = true;
  folder.write(folder / "plain", "a file, no folder");
  const auto refused = [&](const fs::path& path, const Computation::Around& around = {}) {
    return message_of<FileError>([&] { static_cast<void>(c.run(ranks, path, around)); });
  };
  EXPECT_TRUE(contains(refused(folder / "plain/file"), "plain/file: cannot be opened"));
  EXPECT_TRUE(contains(refused(folder / "none/file"), "none/file: cannot be opened"));

  // On rank 0 no file may grow beyond so many bytes while rows are written, as on a disk that is full.
  const Computation::Around full = [&](const std::function<void()>& finish) {
    struct FullDisk {
      FullDisk() {
        getrlimit(RLIMIT_FSIZE, &before);
        rlimit limit = before;
        limit.rlim_cur = 5000;
        setrlimit(RLIMIT_FSIZE, &limit);
      }
      ~FullDisk() {
        setrlimit(RLIMIT_FSIZE, &before);
        std::signal(SIGXFSZ, handler);
      }
      rlimit before{};
      void (*handler)(int) = std::signal(SIGXFSZ, SIG_IGN);
    };
    std::optional<FullDisk> disk;
    if (ranks.rank() == 0) disk.emplace();
    finish();
  };
  c.checkpoint.rows = 32;
  const std::string message = refused(folder / "file", full);
  EXPECT_TRUE(contains(message, "file.0: cannot be written: File too large")) << message;
  const Index logged = c.logged(ranks, folder / "file");
  EXPECT_GT(logged, 0);
  const Computation::Result found = c.run(ranks, folder / "file");
  EXPECT_EQ(found.found, found.expected);
  EXPECT_EQ(found.kept.taken + found.kept.evaluated, 2 * 801);
  EXPECT_GE(found.kept.taken, 128);
}

TEST(CheckpointOnRanks, HoldsForwardPassesInTheirOrder) {
  Ranks ranks;
  const RankFolder folder;
  const Computation c;
  const Matrix<float> other = Random(9).matrix<float>(300, 8);
  std::string digests;
  for (const Index taken : {0, 1, 1}) {
    KernelOnRanks<float> kernel(ranks, c.options);
    CheckpointOnRanks attend(kernel, folder / "file", c.key, c.checkpoint);
    std::string found;
    Index rows = 0;
    for (const Matrix<float>* x : {&c.x, &other}) {
      const RowShares shares = attend.share(c.spec.attention, x->rows(), x->rows());
      found += digest(forward_on_ranks(c.model, own_rows(*x, shares, ranks.rank()), shares, attend));
      rows += 2 * shares.size(ranks.rank());
    }
    EXPECT_EQ(attend.kept().taken, taken * rows);
    EXPECT_EQ(attend.kept().evaluated, (1 - taken) * rows);
    EXPECT_TRUE(taken == 0 || found == digests);
    digests = found;
  }
}

}  // namespace
