#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <twoheads/attention/input.hpp>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/mpi/ranks.hpp>
#include <twoheads/plan/shares.hpp>
#include <vector>

namespace twoheads {

/// Keys that follow each other, of one key/value head.
struct KeyRange {
  Index kv_head = 0;  ///< whose keys these are
  Rows keys;          ///< positions in the sequence

  friend constexpr bool operator==(const KeyRange&, const KeyRange&) = default;
};

/// What a rank took from others.
struct MovedBytes {
  std::uint64_t bytes = 0;     ///< of keys and values
  std::uint64_t messages = 0;  ///< fetches from one rank
};

namespace detail {

/// Throws SpecError unless rows are shared by as many ranks as there are: before a rank asks for its own.
inline void require_shares_of(const Ranks& ranks, const RowShares& shares) {
  if (shares.ranks() != ranks.size())
    throw SpecError(text("rows are shared by ", shares.ranks(), " ranks, expected those of the run, ", ranks.size()));
}

/// Ends requests before the memory goes that they write to, however it is left.
class RequestsEnd {
 public:
  RequestsEnd(Ranks& ranks, std::vector<MPI_Request>& requests) : ranks_(ranks), requests_(requests) {}
  RequestsEnd(const RequestsEnd&) = delete;
  RequestsEnd& operator=(const RequestsEnd&) = delete;
  ~RequestsEnd() {
    for (MPI_Request& request : requests_) {
      try {
        ranks_.complete(request);
      } catch (const MpiError&) {
      }
    }
  }

 private:
  Ranks& ranks_;
  std::vector<MPI_Request>& requests_;
};

/// A rank's own memory, which the others may read while it works on something else.
class ReadableMemory {
 public:
  /// All ranks together: see Ranks; then they meet in require_made(). The memory must outlive the window.
  ReadableMemory(Ranks& ranks, const void* data, std::size_t bytes) {
    if (ranks.size() == 1) return;  // nobody reads; Open MPI 4 has no windows of one rank
    // MPI's interface knows no memory that is only read.
    code_ = MPI_Win_create(const_cast<void*>(data), static_cast<MPI_Aint>(bytes), 1, MPI_INFO_NULL,
                           ranks.communicator(), &window_);
    if (code_ == MPI_SUCCESS) {
      MPI_Win_set_errhandler(window_, MPI_ERRORS_RETURN);
      code_ = MPI_Win_lock_all(MPI_MODE_NOCHECK, window_);
    }
    // What was written before is there for whoever reads, once all have met.
    if (code_ == MPI_SUCCESS) code_ = MPI_Win_sync(window_);
  }
  void require_made() const { require_success(code_, "a window for others to read"); }
  /// A window that some ranks lack cannot be freed: it stays behind.
  void leave() { window_ = MPI_WIN_NULL; }
  ReadableMemory(const ReadableMemory&) = delete;
  ReadableMemory& operator=(const ReadableMemory&) = delete;
  ~ReadableMemory() {
    if (window_ == MPI_WIN_NULL) return;
    MPI_Win_unlock_all(window_);
    MPI_Win_free(&window_);
  }

  /// Begins to read from a rank's memory; counts of one request end below 2^31 bytes.
  template <class Scalar>
  void read(Index rank, Index first, Index count, Scalar* to, std::vector<MPI_Request>& requests) const {
    constexpr Index most = (Index{1} << 30) / static_cast<Index>(sizeof(Scalar));
    for (Index done = 0; done < count; done += most) {
      const auto bytes = static_cast<int>(std::min(most, count - done) * static_cast<Index>(sizeof(Scalar)));
      requests.push_back(MPI_REQUEST_NULL);
      require_success(MPI_Rget(to + done, bytes, MPI_BYTE, static_cast<int>(rank),
                               static_cast<MPI_Aint>((first + done) * static_cast<Index>(sizeof(Scalar))), bytes,
                               MPI_BYTE, window_, &requests.back()),
                      "MPI_Rget");
    }
  }

 private:
  MPI_Win window_ = MPI_WIN_NULL;
  int code_ = MPI_SUCCESS;
};

/// Where all ranks know that all have made their windows.
template <class... Memory>
void meet_with_windows(Ranks& ranks, Memory&... memory) {
  try {
    ranks.together([&] { (memory.require_made(), ...); });
  } catch (...) {
    (memory.leave(), ...);
    throw;
  }
}

}  // namespace detail

/// Keys and values of a layer, each rank holding some: any rank can read any of them.
///
///   Shapes   k (kv_heads * own, head_dim), v (kv_heads * own, value_dim): a rank's own keys by head, the rows of a
///            head together, in the order of the sequence
template <RealScalar S>
class SharedKeys {
 public:
  using Scalar = S;

  /// All ranks together: see Ranks. The rows must outlive it, and stay as they are.
  SharedKeys(Ranks& ranks, const RowShares& shares, const MatrixView<Scalar>& k, const MatrixView<Scalar>& v)
      : ranks_(ranks),
        shares_(shares),
        k_(k),
        v_(v),
        k_window_(ranks, k.data(), bytes_of(k)),
        v_window_(ranks, v.data(), bytes_of(v)) {
    detail::meet_with_windows(ranks, k_window_, v_window_);
  }

  [[nodiscard]] Ranks& ranks() const { return ranks_; }              ///< those that share
  [[nodiscard]] const RowShares& shares() const { return shares_; }  ///< who has which keys
  [[nodiscard]] Index head_dim() const { return k_.cols(); }         ///< columns of keys
  [[nodiscard]] Index value_dim() const { return v_.cols(); }        ///< columns of values

  /// Checks the shape of a rank's own keys or values.
  static void require_share(const char* name, const MatrixView<Scalar>& rows, const RowShares& shares, Index rank,
                            Index kv_heads, Index dim) {
    detail::require_shape(name, rows, kv_heads * shares.size(rank), dim);
    if (rows.rows() > 1 && rows.outerStride() != rows.cols())
      throw ShapeError(detail::text(name, " has rows ", rows.outerStride(), " numbers apart, expected ", rows.cols(),
                                    ": others read it as it lies"));
  }

  /// A row of a rank's share: where head kv_head begins, and `place` rows on.
  [[nodiscard]] Index row(Index rank, Index kv_head, Index place) const { return kv_head * shares_.size(rank) + place; }
  [[nodiscard]] const MatrixView<Scalar>& own_keys() const { return k_; }    ///< this rank's keys
  [[nodiscard]] const MatrixView<Scalar>& own_values() const { return v_; }  ///< this rank's values

  /// Begins to read `count` rows of keys and of values from a row of another rank's share on.
  void read(Index rank, Index row, Index count, Scalar* keys, Scalar* values,
            std::vector<MPI_Request>& requests) const {
    k_window_.read(rank, row * head_dim(), count * head_dim(), keys, requests);
    v_window_.read(rank, row * value_dim(), count * value_dim(), values, requests);
  }

 private:
  [[nodiscard]] static std::size_t bytes_of(const MatrixView<Scalar>& rows) {
    return static_cast<std::size_t>(rows.size()) * sizeof(Scalar);
  }

  Ranks& ranks_;
  const RowShares& shares_;
  MatrixView<Scalar> k_, v_;
  detail::ReadableMemory k_window_, v_window_;
};

/// Some ranges of keys and their values, wherever they are: a rank's own in place, those of others on their way here.
///
///   Laws     memory: the rows of ranges that are not the rank's own as a whole, kept for the next ranges
template <RealScalar S>
class KeyPiece {
 public:
  using Scalar = S;

  explicit KeyPiece(const SharedKeys<Scalar>& keys) : keys_(keys) {}
  KeyPiece(const KeyPiece&) = delete;
  KeyPiece& operator=(const KeyPiece&) = delete;
  ~KeyPiece() { const detail::RequestsEnd end(keys_.ranks(), requests_); }

  /// Begins to fetch; what was here before goes.
  void start(std::span<const KeyRange> ranges, MovedBytes& moved, double& seconds) {
    TWOHEADS_ASSERT(requests_.empty());
    found_.clear();
    Index rows = 0;
    for (const KeyRange& range : ranges) {
      LentKeys<Scalar> found{range.kv_head, range.keys};
      place_own(found);
      if (found.k == nullptr) rows += range.keys.size();
      found_.push_back(found);
    }
    // Without a value for each number: they are about to be written.
    if (rows > capacity_) {
      k_.resize(rows, keys_.head_dim());
      v_.resize(rows, keys_.value_dim());
      capacity_ = rows;
    }
    // Between processes of one machine the rows are copied here, and not while somebody waits.
    const double begin = MPI_Wtime();
    Index place = 0;
    for (LentKeys<Scalar>& found : found_) {
      if (found.k != nullptr) continue;
      fetch(found, place, moved);
      place += found.keys.size();
    }
    seconds += MPI_Wtime() - begin;
  }

  /// Waits for what start() began; in Ranks::together(). Adds the seconds that it takes.
  void wait(double& seconds) {
    const double begin = MPI_Wtime();
    for (MPI_Request& request : requests_) keys_.ranks().wait(request);
    requests_.clear();
    seconds += MPI_Wtime() - begin;
  }

  /// Keys and values at some positions, of a range that was asked for.
  [[nodiscard]] MatrixView<Scalar> key_rows(const KeyRange& range) const {
    const LentKeys<Scalar>& found = find(range);
    return rows_at(found.k, range.keys.begin - found.keys.begin, range.keys.size(), keys_.head_dim());
  }
  /// Values of a range that was fetched.
  [[nodiscard]] MatrixView<Scalar> value_rows(const KeyRange& range) const {
    const LentKeys<Scalar>& found = find(range);
    return rows_at(found.v, range.keys.begin - found.keys.begin, range.keys.size(), keys_.value_dim());
  }

  /// Where all the ranges are, until the next start().
  [[nodiscard]] std::span<const LentKeys<Scalar>> lent() const { return found_; }

 private:
  [[nodiscard]] static MatrixView<Scalar> rows_at(const Scalar* first, Index row, Index rows, Index cols) {
    return {first + row * cols, rows, cols, Eigen::OuterStride<>(cols)};
  }

  [[nodiscard]] const LentKeys<Scalar>& find(const KeyRange& range) const {
    for (const LentKeys<Scalar>& found : found_)
      if (found.kv_head == range.kv_head && found.keys.begin <= range.keys.begin && range.keys.end <= found.keys.end)
        return found;
    TWOHEADS_ASSERT(false);
    return found_.front();
  }

  /// A range that lies in the rank's own share as a whole stays there.
  void place_own(LentKeys<Scalar>& found) const {
    const Index own = keys_.ranks().rank();
    keys_.shares().for_each_share(found.keys, [&](const RowShare& share) {
      if (share.rank != own || share.rows != found.keys) return;
      const Index row = keys_.row(own, found.kv_head, share.place);
      found.k = keys_.own_keys().data() + row * keys_.head_dim();
      found.v = keys_.own_values().data() + row * keys_.value_dim();
    });
  }

  /// Begins to fetch rows into our own memory, from row `place` of it on.
  void fetch(LentKeys<Scalar>& found, Index place, MovedBytes& moved) {
    const Index own = keys_.ranks().rank();
    found.k = k_.data() + place * keys_.head_dim();
    found.v = v_.data() + place * keys_.value_dim();
    keys_.shares().for_each_share(found.keys, [&](const RowShare& share) {
      const Index to = place + share.rows.begin - found.keys.begin;
      const Index from = keys_.row(share.rank, found.kv_head, share.place);
      const Index rows = share.rows.size();
      if (share.rank == own) {
        std::copy_n(keys_.own_keys().data() + from * keys_.head_dim(), rows * keys_.head_dim(),
                    k_.data() + to * keys_.head_dim());
        std::copy_n(keys_.own_values().data() + from * keys_.value_dim(), rows * keys_.value_dim(),
                    v_.data() + to * keys_.value_dim());
        return;
      }
      keys_.read(share.rank, from, rows, k_.data() + to * keys_.head_dim(), v_.data() + to * keys_.value_dim(),
                 requests_);
      moved.bytes += static_cast<std::uint64_t>(rows * (keys_.head_dim() + keys_.value_dim())) * sizeof(Scalar);
      moved.messages += 2;
    });
  }

  const SharedKeys<Scalar>& keys_;
  std::vector<LentKeys<Scalar>> found_;
  std::vector<MPI_Request> requests_;
  Matrix<Scalar> k_, v_;
  Index capacity_ = 0;
};

}  // namespace twoheads
