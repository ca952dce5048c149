#pragma once

#include <gtest/gtest.h>
#include <mpi.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <twoheads/base/digest.hpp>
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
#include "support/own_rows.hpp"
#include "support/seed.hpp"
#include "support/temp_folder.hpp"

/// Computations on ranks that a checkpoint holds and that can be made to end in the middle, and a folder for their logs
/// that all ranks see.
namespace rank_checkpoints {

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

inline int all_ranks() {
  int size = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return size;
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

inline void expect_whole(const Computation& c, Ranks& ranks, const fs::path& path, Index logged) {
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

inline std::vector<Computation> computations() {
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

}  // namespace rank_checkpoints
