// A run on ranks that ends in the middle and is begun again, on any number of them, gives the bits of one that was not
// interrupted.

#include <gtest/gtest.h>
#include <mpi.h>
#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <twoheads/base/digest.hpp>
#include <twoheads/exec/checkpoint.hpp>
#include <twoheads/exec/kernel_attention.hpp>
#include <twoheads/model/random.hpp>
#include <twoheads/mpi/checkpoint_on_ranks.hpp>
#include <twoheads/mpi/forward_on_ranks.hpp>
#include <twoheads/mpi/grid_on_ranks.hpp>
#include <twoheads/mpi/kernel_on_ranks.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <utility>
#include <vector>

#include "support/contains.hpp"
#include "support/message_of.hpp"
#include "support/own_rows.hpp"
#include "support/sanitized.hpp"
#include "support/seed.hpp"
#include "support/temp_folder.hpp"

namespace {

using namespace twoheads;
namespace fs = std::filesystem;

/// A folder that all ranks see, removed when all have left it.
class RankFolder {
 public:
  RankFolder() {
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (rank == 0) own_.emplace();
    std::string path = rank == 0 ? (*own_ / "").string() : std::string();
    path.resize(512);
    MPI_Bcast(path.data(), static_cast<int>(path.size()), MPI_CHAR, 0, MPI_COMM_WORLD);
    path_ = path.c_str();
  }
  RankFolder(const RankFolder&) = delete;
  RankFolder& operator=(const RankFolder&) = delete;
  ~RankFolder() { MPI_Barrier(MPI_COMM_WORLD); }

  [[nodiscard]] fs::path operator/(const std::string& name) const { return path_ / name; }

  /// Rank 0 does it while the others wait.
  template <class Action>
  void once(const Action& action) const {
    MPI_Barrier(MPI_COMM_WORLD);
    if (own_) action();
    MPI_Barrier(MPI_COMM_WORLD);
  }
  void write(const fs::path& path, const std::string& bytes) const {
    once([&] { own_->write(path.filename().string(), bytes); });
  }

 private:
  std::optional<TempFolder> own_;
  fs::path path_;
};

/// The first ranks of all, at work while the others wait.
class FirstRanks {
 public:
  explicit FirstRanks(int count) {
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_split(MPI_COMM_WORLD, rank < count ? 0 : MPI_UNDEFINED, rank, &communicator_);
    if (communicator_ != MPI_COMM_NULL) ranks_.emplace(communicator_);
  }
  FirstRanks(const FirstRanks&) = delete;
  FirstRanks& operator=(const FirstRanks&) = delete;
  ~FirstRanks() {
    ranks_.reset();
    if (communicator_ != MPI_COMM_NULL) MPI_Comm_free(&communicator_);
    MPI_Barrier(MPI_COMM_WORLD);
  }
  [[nodiscard]] Ranks* ranks() { return ranks_ ? &*ranks_ : nullptr; }

 private:
  MPI_Comm communicator_ = MPI_COMM_NULL;
  std::optional<Ranks> ranks_;
};

int all_ranks() {
  int size = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return size;
}

std::string bytes_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// An attention that can be made to end with an error, and counts what it is asked for.
template <class A>
class Stopping {
 public:
  using Scalar = typename A::Scalar;

  explicit Stopping(A& attend, std::function<void(const std::function<void()>&)> around = {})
      : attend_(attend), around_(std::move(around)) {}

  [[nodiscard]] Ranks& ranks() const { return attend_.ranks(); }
  [[nodiscard]] std::string words() const { return attend_.words(); }
  [[nodiscard]] RowShares share(const AttentionSpec& spec, Index queries, Index keys) const {
    return attend_.share(spec, queries, keys);
  }
  [[nodiscard]] std::vector<Index> part_ends(const AttentionSpec& spec, Index layer, Index tokens, Index least,
                                             bool log_weights) const {
    return attend_.part_ends(spec, layer, tokens, least, log_weights);
  }
  [[nodiscard]] std::vector<Index> atoms(const RankInput<Scalar>& input) const { return attend_.atoms(input); }
  [[nodiscard]] const RankCounts& counts() const { return attend_.counts(); }
  void require_shares(const AttentionSpec& spec, Index layer, const RowShares& queries, Index keys,
                      bool log_weights) const {
    attend_.require_shares(spec, layer, queries, keys, log_weights);
  }

  void operator()(const RankInput<Scalar>& input, MatrixSpan<Scalar> out, const RankWork& work) {
    for (const RowShare& share : work.wanted) wanted += share.rows.size();
    RankWork watched{work.wanted, [&](const RowShare& share) {
                       if (around_)
                         around_([&] { work.finished(share); });
                       else
                         work.finished(share);
                     }};
    attend_(input, out, watched);
  }

  Index wanted = 0;

 private:
  A& attend_;
  std::function<void(const std::function<void()>&)> around_;
};

struct Broken : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A computation of two layers, seven atoms of rows each.
struct Computation {
  ModelSpec spec;
  Index tokens = 801;
  Index keys = 0;
  KernelOptions options{.rows = 100};
  std::optional<OracleLimits> oracle;  ///< in place of the kernel
  RankCheckpointOptions checkpoint{.rows = 128, .sync = false};
  std::string key = "two layers";
  Model<float> model;
  Matrix<float> x, memory;

  explicit Computation(const Mask& mask = Mask::causal(), Index the_tokens = 801, Index the_keys = 0)
      : tokens(the_tokens), keys(the_keys) {
    spec.layers = 2;
    spec.width = 8;
    spec.hidden = 8;
    spec.attention.heads = 2;
    spec.attention.kv_heads = 1;
    spec.attention.head_dim = 4;
    spec.attention.value_dim = 3;
    spec.attention.score_scale = 0.5;
    spec.attention.mask = mask;
    model = random_model<float>(spec, seed_or(3));
    Random random(seed_or(4));
    x = random.matrix<float>(tokens, spec.width);
    memory = random.matrix<float>(keys, spec.width);
  }

  struct Result {
    std::string found, expected;  ///< digests of own rows
    RankCheckpointCounts kept;    ///< of all ranks
    Index wanted = 0;             ///< of all ranks
  };

  using Around = std::function<void(const std::function<void()>&)>;

  [[nodiscard]] Result run(Ranks& ranks, const fs::path& path, const Around& around = {}) const {
    if (oracle) {
      SmallTransformer<float> transformer(*oracle);
      GridOnRanks<SmallTransformer<float>> grid(ranks, transformer);
      GridAttention<SmallTransformer<float>> serial(transformer);
      return run_by(grid, serial, path, around);
    }
    // One atom of rows at a time.
    KernelOnRanks<float> kernel(ranks, options, Serial(), RankOptions{.work_bytes = 1});
    KernelAttention<float> serial(options);
    return run_by(kernel, serial, path, around);
  }

  template <class OnRanks, class OnOne>
  [[nodiscard]] Result run_by(OnRanks& on_ranks, OnOne& on_one, const fs::path& path, const Around& around) const {
    Ranks& ranks = on_ranks.ranks();
    Stopping watched(on_ranks, around);
    CheckpointOnRanks attend(watched, path, key, checkpoint);
    const RowShares shares = attend.share(model.spec.attention_of(0), tokens, keys > 0 ? keys : tokens);
    const RowShares key_shares = share_evenly(std::max<Index>(keys, 1), ranks.size());
    const Matrix<float> own_memory = keys > 0 ? own_rows(memory, key_shares, ranks.rank()) : Matrix<float>();
    const RankMemory<float> sources{key_shares, own_memory};
    const Matrix<float> found =
        forward_on_ranks(model, own_rows(x, shares, ranks.rank()), shares, attend, keys > 0 ? &sources : nullptr);
    const Matrix<float> expected = forward(model, x, on_one, keys > 0 ? &memory : nullptr);
    const auto sum = [&](Index count) { return static_cast<Index>(ranks.sum(static_cast<std::uint64_t>(count))); };
    return {digest(found),
            digest(own_rows(expected, shares, ranks.rank())),
            {sum(attend.kept().taken), sum(attend.kept().evaluated)},
            sum(watched.wanted)};
  }

  /// A run that rank 0 ends after it has finished some visits, or that has no more of them.
  [[nodiscard]] bool breaks(Ranks& ranks, const fs::path& path, int visits) const {
    const Index rank = ranks.rank();
    try {
      static_cast<void>(run(ranks, path, [&, visits](const std::function<void()>& finish) mutable {
        if (rank == 0 && --visits < 0) throw Broken("broken on purpose");
        finish();
      }));
      return false;
    } catch (const Error& error) {
      EXPECT_TRUE(contains(error.what(), "broken on purpose")) << error.what();
      return true;
    }
  }

  [[nodiscard]] detail::RankLogs logs(Ranks& ranks, const fs::path& path) const {
    std::string words = KernelOnRanks<float>(ranks, options).words();
    if (oracle) {
      SmallTransformer<float> transformer(*oracle);
      words = GridOnRanks<SmallTransformer<float>>(ranks, transformer).words();
    }
    return {path, detail::text(key, "; ", words), sizeof(float), false};
  }

  /// How many rows are in any log, when all ranks have left the run.
  [[nodiscard]] Index logged(Ranks& ranks, const fs::path& path) const {
    static_cast<void>(ranks.largest(std::uint64_t{0}));
    detail::RankLogs found = logs(ranks, path);
    static_cast<void>(found.look());
    std::set<std::pair<std::uint64_t, Index>> rows;
    std::vector<float> room;
    for (const std::uint64_t turn : {1, 2})
      for (const detail::LoggedRows& record : found.of_turn(turn))
        found.read(record, room, [&](const Rows& range, const float*) {
          for (Index row = range.begin; row < range.end; ++row) rows.emplace(turn, row);
        });
    return static_cast<Index>(ranks.largest(std::uint64_t{rows.size()}));
  }
};

void expect_whole(const Computation& c, Ranks& ranks, const fs::path& path, Index logged) {
  const Computation::Result found = c.run(ranks, path);
  EXPECT_EQ(found.found, found.expected) << "rank " << ranks.rank();
  const Index rows = c.spec.layers * c.tokens;
  EXPECT_EQ(found.kept.taken + found.kept.evaluated, rows);
  EXPECT_EQ(found.wanted, found.kept.evaluated);
  // Rows that go together in calls are evaluated together, whichever of them are there.
  if (c.oracle && logged < rows)
    EXPECT_LE(found.kept.taken, logged);
  else
    EXPECT_EQ(found.kept.taken, logged);
}

std::vector<Computation> computations() {
  std::vector<Computation> all;
  all.emplace_back();
  all.emplace_back(Mask::sliding_window(40));
  all.emplace_back(Mask::full(), 300, 333);
  all.emplace_back(Mask::full(), 1, 50);
  all.front().options.rows = 128;
  for (const Mask& mask : {Mask::causal(), Mask::sliding_window(9)}) {
    all.emplace_back(mask, 149);
    all.back().oracle.emplace(OracleLimits{.kind = OracleKind::causal, .rows = 17, .heads = 2});
    all.back().checkpoint.rows = 5;
  }
  return all;
}

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
  return bytes_of(folder / "whole.0");
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
    EXPECT_EQ(bytes_of(folder / "whole.0"), whole.substr(0, whole.size() - torn));
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
  EXPECT_TRUE(contains(refusal([](Computation& c) { c.key = "three"; }), "its key is 'two layers; the kernel"));
  EXPECT_TRUE(
      contains(refusal([](Computation& c) { c.options.rows = 99; }), "expected 'two layers; the kernel, block"));
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
  EXPECT_EQ(bytes_of(folder / "file.7").substr(0, 6), "a text");

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
