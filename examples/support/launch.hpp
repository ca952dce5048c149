#pragma once

#include <chrono>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <memory>
#include <streambuf>
#include <string>
#include <thread>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>

#include "support/arguments.hpp"

#ifdef TWOHEADS_WITH_MPI
#include <twoheads/mpi/ranks.hpp>
#endif

namespace programs {

namespace detail {

/// Refuses to be one of several processes that know nothing of each other, and would all do the same.
inline void require_alone(const char* what_else) {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"})
    if (const char* const tasks = std::getenv(name); tasks != nullptr && std::atol(tasks) > 1)
      throw ArgumentError(twoheads::detail::text(
          name, " is ", tasks,
          ", but this process is alone and would do all the work itself: expected the launcher of ",
          "its own MPI (mpirun, srun --mpi=pmix)", what_else));
}

}  // namespace detail

#ifdef TWOHEADS_WITH_MPI

/// A program that may be one of several ranks: under a launcher of MPI it joins the others, and rank 0 alone speaks.
class Launch {
 public:
  Launch(int& argc, char**& argv) {
    if (!launched()) return;
    int provided = 0;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_SERIALIZED, &provided);
    running_ = true;
    // Some launchers take a rank for done that exits with 0 on its own, and the others would wait for it.
    std::atexit([] {
      int ended = 0;
      if (MPI_Finalized(&ended) == MPI_SUCCESS && ended == 0) std::_Exit(1);
    });
    ranks_ = std::make_unique<twoheads::Ranks>();
    MPI_Comm_dup(MPI_COMM_WORLD, &ends_);
    if (!first()) {
      out_ = std::cout.rdbuf(&silence_);
      err_ = std::cerr.rdbuf(&silence_);
    }
  }
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;
  ~Launch() {
    if (out_ != nullptr) std::cout.rdbuf(out_);
    if (err_ != nullptr) std::cerr.rdbuf(err_);
    ranks_.reset();
    if (running_) MPI_Finalize();
  }

  /// The ranks of the run, or the only one; none where the program was started without a launcher.
  [[nodiscard]] twoheads::Ranks* ranks() { return ranks_.get(); }
  /// Whether this is the rank that speaks.
  [[nodiscard]] bool first() const { return !ranks_ || ranks_->rank() == 0; }
  [[nodiscard]] twoheads::Index size() const { return ranks_ ? ranks_->size() : 1; }
  [[nodiscard]] bool on_ranks() const { return ranks_ != nullptr; }

  /// programs::run() on every rank. An exception that only one rank has ends all of them.
  template <class Body>
  int run(CLI::App& app, int argc, char** argv, const Body& body) {
    return programs::run(app, argc, argv, [&] {
      try {
        if (size() == 1) detail::require_alone("");
        body();
      } catch (const std::exception& error) {
        if (ranks_ && !ranks_->all_failed() && !others_end_too()) end_all(app, error.what());
        throw;
      }
    });
  }

 private:
  /// Takes what ranks say that do not speak.
  struct Silence : std::streambuf {
    int overflow(int c) override { return c == EOF ? 0 : c; }
    std::streamsize xsputn(const char*, std::streamsize count) override { return count; }
  };

  /// Launchers of Open MPI, MPICH, Slurm and others tell their ranks so; a program that is started by hand joins
  /// nobody, and does not wait for MPI to begin.
  [[nodiscard]] static bool launched() {
    for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMI_RANK", "PMIX_RANK", "MPI_LOCALNRANKS"})
      if (std::getenv(name) != nullptr) return true;
    return false;
  }

  /// Whether all ranks have come to grief on their own, as those do that cannot read the same file.
  [[nodiscard]] bool others_end_too() {
    MPI_Request request = MPI_REQUEST_NULL;
    if (MPI_Ibarrier(ends_, &request) != MPI_SUCCESS) return false;
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(2);
    int done = 0;
    while (done == 0 && std::chrono::steady_clock::now() < until) {
      if (MPI_Test(&request, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return done != 0;
  }

  [[noreturn]] void end_all(const CLI::App& app, const char* what) {
    if (err_ != nullptr) std::cerr.rdbuf(err_);
    std::cerr << app.get_name() << ": rank " << ranks_->rank() << ": " << what << std::endl;
    MPI_Abort(MPI_COMM_WORLD, 1);
    std::abort();
  }

  bool running_ = false;
  MPI_Comm ends_ = MPI_COMM_NULL;  ///< where ranks meet that have failed
  std::unique_ptr<twoheads::Ranks> ranks_;
  Silence silence_;
  std::streambuf* out_ = nullptr;
  std::streambuf* err_ = nullptr;
};

#else

/// A program that runs alone: it was built without MPI.
class Launch {
 public:
  Launch(int&, char**&) {}
  [[nodiscard]] static constexpr bool first() { return true; }
  [[nodiscard]] static constexpr twoheads::Index size() { return 1; }
  [[nodiscard]] static constexpr bool on_ranks() { return false; }

  template <class Body>
  int run(CLI::App& app, int argc, char** argv, const Body& body) {
    return programs::run(app, argc, argv, [&] {
      detail::require_alone(", and a program that was built with -DTWOHEADS_WITH_MPI=ON");
      body();
    });
  }
};

#endif

}  // namespace programs
