// The main of tests that run on several ranks. Every rank runs every case; each case is a collective operation, so the
// order and the cases must be the same everywhere. Rank 0 prints as GoogleTest does, the others only what fails there.
#include <gtest/gtest.h>
#include <mpi.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "support/sanitized.hpp"

namespace {

/// Seconds that one case may take before it counts as hanging: sanitizers on an overloaded machine stay far below.
constexpr unsigned patience = 120;

/// What the watchdog prints, made before it bites: a signal handler may not allocate.
char last_words[512] = "";

void bite(int) {
  const ssize_t written = write(STDERR_FILENO, last_words, std::strlen(last_words));
  // The launcher ends the other ranks when one ends like this.
  _exit(written < 0 ? 3 : 2);
}

void watch(int rank, const char* name) {
  std::snprintf(last_words, sizeof last_words, "rank %d: %s has not ended after %u s\n", rank, name, patience);
  alarm(patience);
}

/// Names the rank that a failure belongs to; its text comes at once,
/// since the other ranks may hang for want of this one.
class RankListener : public testing::EmptyTestEventListener {
 public:
  explicit RankListener(int rank) : rank_(rank) {}

  void OnTestStart(const testing::TestInfo& info) override {
    // GoogleTest's own answer to which case runs cannot be asked for while a failure is told: it would wait for itself.
    name_ = std::string(info.test_suite_name()) + "." + info.name();
    watch(rank_, name_.c_str());
  }

  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (rank_ == 0 || !result.failed()) return;
    std::fprintf(stderr, "rank %d: %s\n%s:%d: %s\n", rank_, name_.c_str(),
                 result.file_name() != nullptr ? result.file_name() : "unknown file", result.line_number(),
                 result.message());
    std::fflush(stderr);
  }

 private:
  int rank_;
  std::string name_;
};

}  // namespace

#ifdef TWOHEADS_TEST_SANITIZED
/// Open MPI unloads its plugins before the end, when leaks are looked for; one that is still loaded can be named, and
/// only what is named in openmpi.supp may leak.
extern "C" int dlclose(void*) { return 0; }
#endif

int main(int argc, char** argv) {
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_SERIALIZED, &provided);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  if (provided < MPI_THREAD_SERIALIZED) {
    std::fprintf(stderr, "rank %d: this MPI has threads of level %d only, expected %d (MPI_THREAD_SERIALIZED)\n", rank,
                 provided, MPI_THREAD_SERIALIZED);
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  signal(SIGALRM, bite);

  testing::InitGoogleTest(&argc, argv);
  testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
  if (rank != 0) delete listeners.Release(listeners.default_result_printer());
  listeners.Append(new RankListener(rank));  // NOLINT(cppcoreguidelines-owning-memory): GoogleTest deletes it

  const int here = RUN_ALL_TESTS() == 0 ? 0 : 1;
  watch(rank, "MPI_Finalize");
  int anywhere = 0;
  MPI_Allreduce(&here, &anywhere, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  if (rank == 0 && anywhere != here) std::fprintf(stderr, "cases failed on other ranks, see above\n");
  MPI_Finalize();
  return anywhere;
}
