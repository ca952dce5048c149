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
#include <stdexcept>
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
    KernelOnRanks<float> kernel(ranks, options);
    Stopping watched(kernel, around);
    CheckpointOnRanks attend(watched, path, key, checkpoint);
    const RowShares shares = attend.share(model.spec.attention_of(0), tokens, keys > 0 ? keys : tokens);
    const RowShares key_shares = share_evenly(std::max<Index>(keys, 1), ranks.size());
    const Matrix<float> own_memory = keys > 0 ? own_rows(memory, key_shares, ranks.rank()) : Matrix<float>();
    const RankMemory<float> sources{key_shares, own_memory};
    const Matrix<float> found =
        forward_on_ranks(model, own_rows(x, shares, ranks.rank()), shares, attend, keys > 0 ? &sources : nullptr);
    KernelAttention<float> serial(options);
    const Matrix<float> expected = forward(model, x, serial, keys > 0 ? &memory : nullptr);
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
    const std::string words = KernelOnRanks<float>(ranks, options).words();
    return {path, detail::text(key, "; ", words), sizeof(float), false};
  }

  /// Rows that all logs hold, when all ranks have left the run.
  [[nodiscard]] Index logged(Ranks& ranks, const fs::path& path) const {
    static_cast<void>(ranks.largest(std::uint64_t{0}));
    detail::RankLogs found = logs(ranks, path);
    static_cast<void>(found.look());
    Index rows = 0;
    std::vector<float> room;
    for (std::uint64_t turn = 1; turn <= 4; ++turn)
      for (const detail::LoggedRows& record : found.of_turn(turn))
        found.read(record, room, [&](const Rows& range, const float*) { rows += range.size(); });
    return static_cast<Index>(ranks.largest(static_cast<std::uint64_t>(rows)));
  }
};

void expect_whole(const Computation& c, Ranks& ranks, const fs::path& path, Index logged) {
  const Computation::Result found = c.run(ranks, path);
  EXPECT_EQ(found.found, found.expected) << "rank " << ranks.rank();
  const Index rows = c.spec.layers * c.tokens;
  EXPECT_EQ(found.kept.taken, logged);
  EXPECT_EQ(found.kept.evaluated, rows - logged);
  EXPECT_EQ(found.wanted, rows - logged);
}

std::vector<Computation> computations() {
  std::vector<Computation> all;
  all.emplace_back();
  all.emplace_back(Mask::sliding_window(40));
  all.emplace_back(Mask::full(), 300, 333);
  all.emplace_back(Mask::full(), 1, 50);
  all.front().options.rows = 128;
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

}  // namespace
