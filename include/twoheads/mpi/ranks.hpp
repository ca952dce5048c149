#pragma once

// The C interface alone: the C++ bindings that some headers bring are not in MPI any more,
// and need a library of their own.
#if !defined(OMPI_SKIP_MPICXX)
#define OMPI_SKIP_MPICXX 1
#endif
#if !defined(MPICH_SKIP_MPICXX)
#define MPICH_SKIP_MPICXX 1
#endif
#include <mpi.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <twoheads/base/byte_hash.hpp>
#include <twoheads/base/difference.hpp>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/mpi/fault.hpp>
#include <utility>
#include <vector>

namespace twoheads {
namespace detail {

inline void require_success(int code, const char* what) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> words{};
  int length = 0;
  if (MPI_Error_string(code, words.data(), &length) != MPI_SUCCESS) length = 0;
  throw MpiError(text(what, ": ", std::string(words.data(), static_cast<std::size_t>(length))));
}

inline void require_running_mpi() {
  int begun = 0;
  int ended = 0;
  MPI_Initialized(&begun);
  MPI_Finalized(&ended);
  if (begun == 0) throw MpiError("MPI is not running: expected MPI_Init or MPI_Init_thread before");
  if (ended != 0) throw MpiError("MPI is not running any more: MPI_Finalize was called");
}

/// Another rank has failed: its fault will be known when all have met. Nothing outside of Ranks sees this.
struct OtherRankFailed {};

/// Waits in small steps, and leaves the processor to others where there are more ranks than cores.
class Patience {
 public:
  void wait() {
    ++turns_;
    if (turns_ > 20000)
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    else if (turns_ > 50)
      std::this_thread::yield();
  }

 private:
  int turns_ = 0;
};

}  // namespace detail

/// The ranks of a run: processes that work together over MPI.
///
/// All ranks do the same in the same order: they make a Ranks, and call together(), require_same(), sum() and largest()
/// alike. In together() each works on its own; nothing there may wait for another rank, but for memory windows.
///
///   Laws     an exception that together() meets on any rank reaches all of them as the same exception, named by its
///            rank, as soon as they next poll(); all ranks leave together() at the same end
///   Corner   MPI is initialised by the program. The communicator is a duplicate: its messages meet no others. One
///            thread at a time calls members; where that is not the thread that initialised MPI, it must provide
///            MPI_THREAD_SERIALIZED. A rank that dies is the launcher's: mpirun ends the others.
///   Throws   MpiError where MPI is not running, or a call of it fails
class Ranks {
 public:
  explicit Ranks(MPI_Comm communicator = MPI_COMM_WORLD) {
    detail::require_running_mpi();
    detail::require_success(MPI_Comm_dup(communicator, &communicator_), "MPI_Comm_dup");
    MPI_Comm_set_errhandler(communicator_, MPI_ERRORS_RETURN);
    MPI_Comm_rank(communicator_, &rank_);
    MPI_Comm_size(communicator_, &size_);
  }
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;
  ~Ranks() {
    int ended = 0;
    MPI_Finalized(&ended);
    if (ended == 0) MPI_Comm_free(&communicator_);
  }

  [[nodiscard]] Index rank() const { return rank_; }                     ///< this process, from 0
  [[nodiscard]] Index size() const { return size_; }                     ///< how many there are
  [[nodiscard]] MPI_Comm communicator() const { return communicator_; }  ///< a duplicate of the one given

  /// Whether the last member that was called threw what all ranks throw.
  [[nodiscard]] bool all_failed() const { return all_failed_; }

  /// Throws SpecError unless MPI lets a program have several threads, of which one calls it; or several, in turn.
  void require_funneled(const char* who) const { require_level(who, MPI_THREAD_FUNNELED, "MPI_THREAD_FUNNELED"); }
  /// Throws unless MPI lets several threads call it one at a time.
  void require_serialized(const char* who) const { require_level(who, MPI_THREAD_SERIALIZED, "MPI_THREAD_SERIALIZED"); }

  /// Runs body() on every rank, and ends when all have.
  ///
  ///   Throws   on every rank what the first of the failing ranks threw; "rank 2: " stands before its words
  template <class Body>
  void together(const Body& body) {
    std::optional<detail::Fault> fault;
    noticed_ = 0;
    all_failed_ = false;
    try {
      body();
    } catch (const detail::OtherRankFailed&) {
    } catch (...) {
      fault = detail::current_fault();
      notify();
    }
    meet(fault);
  }

  /// To be called often while a rank works: throws where another rank has failed,
  /// and lets MPI get on with its messages.
  void poll() {
    if (size_ == 1) return;
    int there = 0;
    detail::require_success(MPI_Iprobe(MPI_ANY_SOURCE, notice_tag, communicator_, &there, MPI_STATUS_IGNORE),
                            "MPI_Iprobe");
    if (there == 0) return;
    take_notice();
    throw detail::OtherRankFailed{};
  }

  /// Waits for a request of one's own: in together(), where it ends early if another rank fails.
  void wait(MPI_Request& request) {
    wait_for(request, [this] { poll(); });
  }
  /// The same to the end, whatever happens elsewhere: before memory that the request uses goes.
  void complete(MPI_Request& request) {
    wait_for(request, [] {});
  }

  /// Throws SpecError on every rank unless all pass the same words: what they run, and how.
  void require_same(const std::string& words) {
    // Ranks of two versions of the library understand each other this far: the length is a part of the form.
    constexpr std::size_t length = 1024;
    std::array<char, length> own{};
    own.back() = 1;  // the form of this record
    all_failed_ = false;
    std::memcpy(own.data(), words.data(), std::min(words.size(), length - 17));
    const std::uint64_t hash = detail::hash_of(std::as_bytes(std::span(words)), words.size());
    std::memcpy(own.data() + length - 16, &hash, sizeof(hash));
    std::vector<char> all(length * static_cast<std::size_t>(size_));
    MPI_Request request = MPI_REQUEST_NULL;
    detail::require_success(MPI_Iallgather(own.data(), static_cast<int>(length), MPI_CHAR, all.data(),
                                           static_cast<int>(length), MPI_CHAR, communicator_, &request),
                            "MPI_Iallgather");
    complete(request);
    const auto of = [&](int rank) { return all.data() + length * static_cast<std::size_t>(rank); };
    for (int rank = 1; rank < size_; ++rank) {
      if (std::memcmp(of(0), of(rank), length) == 0) continue;
      all_failed_ = true;
      const std::string first = of(0), other = of(rank);
      const std::string where =
          first == other ? "what they say differs behind what is shown" : detail::difference_of(other, first);
      throw SpecError(detail::text("ranks run different things: rank ", rank, ", beside rank 0: ", where, "; rank 0 ",
                                   first, "; rank ", rank, " ", other));
    }
  }

  /// The sum of a number over the ranks (beyond 64 bits from 0 again), and the largest.
  [[nodiscard]] std::uint64_t sum(std::uint64_t number) { return reduce(number, MPI_UINT64_T, MPI_SUM); }
  /// The largest of all ranks' numbers, on all of them.
  [[nodiscard]] std::uint64_t largest(std::uint64_t number) { return reduce(number, MPI_UINT64_T, MPI_MAX); }
  /// The largest of all ranks' numbers, on all of them.
  [[nodiscard]] double largest(double number) { return reduce(number, MPI_DOUBLE, MPI_MAX); }

 private:
  static void require_level(const char* who, int level, const char* name) {
    int provided = MPI_THREAD_SINGLE;
    MPI_Query_thread(&provided);
    if (provided < level)
      throw SpecError(detail::text(who, " on several threads: expected MPI_Init_thread with ", name));
  }

  static constexpr int notice_tag = 1;
  static constexpr std::size_t most_words = 4000;

  template <class Poll>
  void wait_for(MPI_Request& request, const Poll& poll_others) {
    detail::Patience patience;
    for (int done = 0;;) {
      detail::require_success(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
      if (done != 0) return;
      poll_others();
      patience.wait();
    }
  }

  template <class Number>
  [[nodiscard]] Number reduce(Number number, MPI_Datatype type, MPI_Op how) {
    Number result{};
    MPI_Request request = MPI_REQUEST_NULL;
    detail::require_success(MPI_Iallreduce(&number, &result, 1, type, how, communicator_, &request), "MPI_Iallreduce");
    complete(request);
    return result;
  }

  /// Tells all others that this rank has failed.
  void notify() {
    std::vector<MPI_Request> requests;
    for (int rank = 0; rank < size_; ++rank) {
      if (rank == rank_) continue;
      requests.push_back(MPI_REQUEST_NULL);
      detail::require_success(MPI_Isend(nullptr, 0, MPI_BYTE, rank, notice_tag, communicator_, &requests.back()),
                              "MPI_Isend");
    }
    for (MPI_Request& request : requests) complete(request);
  }

  void take_notice() {
    detail::require_success(
        MPI_Recv(nullptr, 0, MPI_BYTE, MPI_ANY_SOURCE, notice_tag, communicator_, MPI_STATUS_IGNORE), "MPI_Recv");
    ++noticed_;
  }

  /// Where all ranks end what they did together: either none has failed, or all throw the same.
  void meet(const std::optional<detail::Fault>& fault) {
    const auto none = static_cast<std::uint64_t>(size_);
    // The largest of size - rank: of the first rank that failed.
    const std::uint64_t first = largest(fault ? none - static_cast<std::uint64_t>(rank_) : 0);
    if (first == 0) return;
    const std::uint64_t failed = sum(fault ? 1 : 0);
    for (const std::uint64_t others = failed - (fault ? 1 : 0); noticed_ < others;) take_notice();
    std::array<char, most_words> words{};
    const int from = static_cast<int>(none - first);
    int kind = 0;
    if (fault && from == rank_) {
      kind = static_cast<int>(fault->kind);
      std::memcpy(words.data(), fault->text.data(), std::min(fault->text.size(), most_words - 1));
    }
    broadcast(&kind, 1, MPI_INT, from);
    broadcast(words.data(), static_cast<int>(most_words), MPI_CHAR, from);
    all_failed_ = true;
    const std::string who = size_ > 1 ? detail::text("rank ", from, ": ") : std::string();
    detail::throw_fault({static_cast<detail::Fault::Kind>(kind), who + words.data()});
  }

  void broadcast(void* data, int count, MPI_Datatype type, int from) {
    MPI_Request request = MPI_REQUEST_NULL;
    detail::require_success(MPI_Ibcast(data, count, type, from, communicator_, &request), "MPI_Ibcast");
    complete(request);
  }

  MPI_Comm communicator_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
  bool all_failed_ = false;
  std::uint64_t noticed_ = 0;  ///< notices of others that were taken since together() began
};

}  // namespace twoheads
