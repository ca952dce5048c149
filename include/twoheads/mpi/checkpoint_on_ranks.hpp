#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <span>
#include <string>
#include <twoheads/base/byte_hash.hpp>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/model/model_hash.hpp>
#include <twoheads/mpi/rank_input.hpp>
#include <twoheads/mpi/rank_logs.hpp>
#include <twoheads/mpi/ranks.hpp>
#include <twoheads/plan/shares.hpp>
#include <vector>

namespace twoheads {

/// How attention on ranks writes its checkpoints.
struct RankCheckpointOptions {
  Index rows = 1024;  ///< of a record; a rank that is killed loses what it was at work on, and fewer rows than these
  bool sync = true;   ///< each record reaches the disk, not just the system, before the rank goes on
};

/// Rows of a rank, of all layers so far.
struct RankCheckpointCounts {
  Index taken = 0;      ///< from files
  Index evaluated = 0;  ///< rows that the attention was asked for
};

namespace detail {

/// What a layer is computed from: the same for any shares, since hashes of rows are added up.
template <RealScalar Scalar>
[[nodiscard]] std::uint64_t digest_of_rows(const RankInput<Scalar>& input, Index rank) {
  std::uint64_t sum = 0;
  const auto add = [&](std::uint64_t what, Index head, Index position, const MatrixView<Scalar>& rows, Index row) {
    ByteHash hash(what);
    hash.add(static_cast<std::uint64_t>(head));
    hash.add(static_cast<std::uint64_t>(position));
    hash.add(std::as_bytes(std::span(rows.data() + row * rows.outerStride(), static_cast<std::size_t>(rows.cols()))));
    sum += hash.value();
  };
  input.query_shares.for_each_own(rank, [&](const RowShare& share) {
    for (Index i = 0; i < share.rows.size(); ++i) add(1, 0, share.rows.begin + i, input.q, share.place + i);
  });
  const Index keys = input.key_shares.size(rank);
  for (Index head = 0; head < input.spec.kv_heads; ++head)
    input.key_shares.for_each_own(rank, [&](const RowShare& share) {
      for (Index i = 0; i < share.rows.size(); ++i) {
        add(2, head, share.rows.begin + i, input.k, head * keys + share.place + i);
        add(3, head, share.rows.begin + i, input.v, head * keys + share.place + i);
      }
    });
  return sum;
}

}  // namespace detail

/// Attention on ranks that survives the end of its processes: each rank writes the rows that it has finished to a file,
/// and a later run of the same computation, on as many ranks or any other number, evaluates only what no file holds.
/// Hand it to forward_on_ranks().
///
/// `path` is the same on all ranks, in a folder that all of them see. `key` is to name whatever decides the bits beside
/// the attention's words(), which are added to it, and queries, keys, values and mask, which are compared layer by
/// layer: the seed of the input, the program and its version. The layers of several forward passes follow each other.
///
///   Laws     rows have the bits of `attend`, where these do not depend on the number of ranks. A row of which the
///            files hold a record is evaluated only where they lack others that go with it (atoms_of).
///            Memory beside that of `attend`: two copies of a record, and a bit for each own row
///   Corner   a last record of a log that is not whole is left out. Ranks may outlive a launcher that is killed by a
///            moment: until rank 0 has ended, the path is in use; what others still write is found by the run after
///   Throws   on every rank, as Ranks::together(): FormatError that names the file, if it holds anything but a part of
///            this computation; FileError if another run uses the path, or a file cannot be read or written;
///            SpecError for fewer than 1 row a record, and where ranks differ in path, key or options
template <class A>
class CheckpointOnRanks {
 public:
  using Scalar = typename A::Scalar;
  static_assert(!std::same_as<Scalar, long double>, "long double carries padding bytes without a meaning");

  /// All ranks together: see Ranks.
  CheckpointOnRanks(A& attend, const std::filesystem::path& path, const std::string& key,
                    const RankCheckpointOptions& options = {})
      : attend_(attend),
        options_(options),
        logs_(path, detail::text(key, "; ", attend.words()), sizeof(Scalar), options.sync) {
    ranks().require_same(detail::text("keeps a checkpoint of ", 8 * sizeof(Scalar), "-bit rows in ", path.string(),
                                      ", records of ", options.rows, " rows, sync ", options.sync, ", key ", key, "; ",
                                      attend.words()));
    ranks().together([&] {
      if (options.rows < 1)
        throw SpecError(detail::text("the rows of a checkpoint's record are ", options.rows, ", expected 1 or more"));
      if (ranks().rank() == 0) logs_.lock();
    });
    std::uint64_t free = 0;
    ranks().together([&] { free = static_cast<std::uint64_t>(logs_.look()); });
    free = ranks().largest(free);
    logs_.set_own(static_cast<Index>(free) + ranks().rank(), ranks().size());
  }

  [[nodiscard]] Ranks& ranks() const { return attend_.ranks(); }  ///< those that it runs on
  /// What decides the bits beside the input, in words.
  [[nodiscard]] std::string words() const { return attend_.words(); }
  /// As the attention that it holds has it.
  [[nodiscard]] RowShares share(const AttentionSpec& spec, Index queries, Index keys) const {
    return attend_.share(spec, queries, keys);
  }
  /// As the attention that it holds has it.
  [[nodiscard]] std::vector<Index> part_ends(const AttentionSpec& spec, Index layer, Index tokens, Index least,
                                             bool log_weights) const {
    return attend_.part_ends(spec, layer, tokens, least, log_weights);
  }

  /// As the attention that it holds has it.
  void require_shares(const AttentionSpec& spec, Index layer, const RowShares& queries, Index keys,
                      bool log_weights) const {
    attend_.require_shares(spec, layer, queries, keys, log_weights);
  }

  void operator()(const RankInput<Scalar>& input, MatrixSpan<Scalar> out) {
    std::uint64_t rows = 0;
    ranks().together([&] {
      detail::require_rank_rows(ranks(), input, out);
      rows = detail::digest_of_rows(input, ranks().rank());
    });
    ++turn_;
    layer_ = input.layer;
    inputs_ = digest_of(input, ranks().sum(rows));
    RankWork work;
    ranks().together([&] { work.wanted = lacking(input, take(input, out)); });
    pending_.clear();
    pending_rows_ = 0;
    work.finished = [&](const RowShare& share) { keep(share, out); };
    attend_(input, out, work);
    ranks().together([&] { write(out); });
  }

  /// Rows from files, and rows evaluated, of this rank.
  [[nodiscard]] const RankCheckpointCounts& kept() const { return kept_; }
  /// What the attention itself counts.
  [[nodiscard]] decltype(auto) counts() const { return attend_.counts(); }
  [[nodiscard]] decltype(auto) totals() const { return attend_.totals(); }  ///< as the attention that it holds has it

 private:
  [[nodiscard]] static std::uint64_t digest_of(const RankInput<Scalar>& input, std::uint64_t rows) {
    detail::ByteHash hash(detail::digest_of(input.spec));
    hash.add(static_cast<std::uint64_t>(input.query_shares.rows()));
    hash.add(static_cast<std::uint64_t>(input.key_shares.rows()));
    hash.add(rows);
    detail::add_rows(hash, input.sink_logits);
    return hash.value();
  }

  [[nodiscard]] detail::PartRecord record(Rows rows, Index cols) const {
    const auto number = [](Index value) { return static_cast<std::uint64_t>(value); };
    return {number(turn_), number(layer_), number(rows.begin), number(rows.end), number(cols), inputs_};
  }

  /// Reads what files hold of the rank's rows, and tells of each whether they do.
  [[nodiscard]] std::vector<bool> take(const RankInput<Scalar>& input, MatrixSpan<Scalar>& out) {
    std::vector<bool> known(static_cast<std::size_t>(out.rows()), false);
    const auto for_each_unknown = [&](Rows rows, const auto& visit) {
      input.query_shares.for_each_share(rows, [&](const RowShare& share) {
        if (share.rank != ranks().rank()) return;
        for (Index i = 0; i < share.rows.size(); ++i)
          if (!known[static_cast<std::size_t>(share.place + i)]) visit(share.rows.begin + i, share.place + i);
      });
    };
    for (const detail::LoggedRows& logged : logs_.of_turn(static_cast<std::uint64_t>(turn_))) {
      ranks().poll();
      require_of_this(logged, input.query_shares.rows(), out.cols());
      bool useful = false;
      for (const Rows& rows : logs_.ranges(logged)) for_each_unknown(rows, [&](Index, Index) { useful = true; });
      if (!useful) continue;
      logs_.read(logged, room_, [&](const Rows& rows, const Scalar* first) {
        for_each_unknown(rows, [&](Index position, Index place) {
          std::copy_n(first + (position - rows.begin) * out.cols(), out.cols(), out.data() + place * out.outerStride());
          known[static_cast<std::size_t>(place)] = true;
        });
      });
    }
    return known;
  }

  void require_of_this(const detail::LoggedRows& logged, Index rows, Index cols) {
    const detail::PartRecord& part = logged.place.part;
    detail::PartRecord expected = record({static_cast<Index>(part.first), static_cast<Index>(part.end)}, cols);
    if (part == expected && part.end <= static_cast<std::uint64_t>(rows)) return;
    throw logs_.other(logged, detail::text("holds ", detail::words_of(part), ", computed from other queries, keys or ",
                                           "values than layer ", layer_, ", ", rows, " queries of ", cols, " columns"));
  }

  /// What is to be evaluated: whole atoms of which any row is not known.
  [[nodiscard]] std::vector<RowShare> lacking(const RankInput<Scalar>& input, const std::vector<bool>& known) {
    const std::vector<Index> ends = attend_.atoms(input);
    std::vector<RowShare> wanted;
    input.query_shares.for_each_own(ranks().rank(), [&](const RowShare& share) {
      const auto place_of = [&](Index position) { return share.place + position - share.rows.begin; };
      auto end = std::upper_bound(ends.begin(), ends.end(), share.rows.begin);
      for (Index begin = share.rows.begin; begin < share.rows.end; ++end) {
        TWOHEADS_ASSERT(end != ends.end());
        const Rows atom{begin, std::min(*end, share.rows.end)};
        const auto first = known.begin() + place_of(atom.begin);
        const bool all = std::all_of(first, first + atom.size(), [](bool one) { return one; });
        (all ? kept_.taken : kept_.evaluated) += atom.size();
        if (!all && !wanted.empty() && wanted.back().rows.end == begin)
          wanted.back().rows.end = atom.end;
        else if (!all)
          wanted.push_back({atom, share.rank, place_of(begin)});
        begin = atom.end;
      }
    });
    return wanted;
  }

  /// Rows are finished: they are written when there are enough for a record.
  void keep(RowShare share, const MatrixSpan<Scalar>& out) {
    while (!share.rows.empty()) {
      RowShare part = share;
      part.rows.end = std::min(share.rows.end, share.rows.begin + options_.rows - pending_rows_);
      const Index rows = part.rows.size();
      if (!pending_.empty() && pending_.back().rows.end == part.rows.begin)
        pending_.back().rows.end = part.rows.end;
      else
        pending_.push_back(part);
      pending_rows_ += rows;
      share.rows.begin += rows;
      share.place += rows;
      if (pending_rows_ == options_.rows) write(out);
    }
  }

  void write(const MatrixSpan<Scalar>& out) {
    if (pending_.empty()) return;
    Rows all = pending_.front().rows;
    std::vector<Rows> ranges;
    for (const RowShare& share : pending_) {
      ranges.push_back(share.rows);
      all = {std::min(all.begin, share.rows.begin), std::max(all.end, share.rows.end)};
    }
    const auto row_bytes = static_cast<std::size_t>(out.cols()) * sizeof(Scalar);
    logs_.begin(ranges, static_cast<std::size_t>(pending_rows_) * row_bytes);
    for (const RowShare& share : pending_)
      for (Index row = share.place; row < share.place + share.rows.size(); ++row)
        logs_.add(std::as_bytes(std::span(out.data() + row * out.outerStride(), static_cast<std::size_t>(out.cols()))));
    logs_.append(record(all, out.cols()));
    pending_.clear();
    pending_rows_ = 0;
  }

  A& attend_;
  RankCheckpointOptions options_;
  detail::RankLogs logs_;
  RankCheckpointCounts kept_;
  Index turn_ = 0;  ///< layers begun
  Index layer_ = 0;
  std::uint64_t inputs_ = 0;       ///< digest of what the layer is computed from
  std::vector<RowShare> pending_;  ///< finished, and not yet written
  Index pending_rows_ = 0;
  std::vector<Scalar> room_;
};

}  // namespace twoheads
