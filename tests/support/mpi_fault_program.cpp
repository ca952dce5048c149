// A run on ranks in which one of them fails: mpi_fault_program FAULT RANK PIECE. Tests start it under mpirun and look
// at how all ranks end.

#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <twoheads/exec/executor.hpp>
#include <twoheads/model/random.hpp>
#include <twoheads/mpi/forward_on_ranks.hpp>
#include <twoheads/mpi/kernel_on_ranks.hpp>
#include <typeinfo>

#include "support/instances.hpp"

namespace {

using namespace twoheads;

/// What happens, and before which piece of work it does: once, but for sleep,
/// which all pieces from that one on begin with.
struct Fault {
  std::string kind;
  long pieces_left = 0;

  void piece() {
    if (kind == "sleep" && pieces_left <= 0) std::this_thread::sleep_for(std::chrono::milliseconds(500));
    if (pieces_left-- != 0) return;
    if (kind == "throw") throw OracleError("the oracle has burnt out");
    if (kind == "throw_int") throw 42;
    if (kind == "exit_0") std::exit(0);
    if (kind == "exit_3") _exit(3);
    if (kind == "kill") raise(SIGKILL);
    if (kind == "segv") raise(SIGSEGV);
  }
};

/// Serial, but for the fault.
class FaultyExecutor {
 public:
  static constexpr bool concurrent = false;
  explicit FaultyExecutor(std::shared_ptr<Fault> fault = nullptr) : fault_(std::move(fault)) {}
  [[nodiscard]] Index threads() const { return 1; }
  template <class MakeLocal, class Body>
  void for_each(Index count, const MakeLocal& make_local, const Body& body) const {
    Serial().for_each(count, make_local, [&](auto& local, Index piece) {
      if (fault_) fault_->piece();
      body(local, piece);
    });
  }
  template <class... Parts>
  void in_order(const Parts&... parts) const {
    Serial().in_order(parts...);
  }

 private:
  std::shared_ptr<Fault> fault_;
};

template <class Scalar>
void run(Ranks& ranks, const std::shared_ptr<Fault>& fault, std::uint64_t seed) {
  ModelSpec spec;
  spec.layers = 2;
  spec.width = 64;
  spec.attention.heads = spec.attention.kv_heads = 4;
  spec.attention.head_dim = spec.attention.value_dim = 16;
  spec.attention.mask = Mask::causal();
  const Model<Scalar> model = random_model<Scalar>(spec, seed);
  // On three ranks each has some 190 pieces of work a layer: three for each 128 queries of a head.
  KernelOnRanks<Scalar, FaultyExecutor> attend(ranks, {.rows = 128}, FaultyExecutor(fault), {.work_bytes = 1});
  const RowShares shares = attend.share(spec.attention, 6000, 6000);
  Matrix<Scalar> x = Random(2).matrix<Scalar>(shares.size(ranks.rank()), spec.width);
  x = forward_on_ranks(model, std::move(x), shares, attend);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const std::string kind = argv[1];
  if (kind == "no_init") {
    try {
      const Ranks ranks;
    } catch (const MpiError& error) {
      std::fprintf(stderr, "%s\n", error.what());
      return 1;
    }
    return 0;
  }
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
  int code = 0;
  {
    Ranks ranks;
    const bool here = ranks.rank() == std::atol(argv[2]);
    // The others would take a minute and more from there to the end of the layer, did they not hear of it.
    const auto fault = std::make_shared<Fault>(Fault{here ? kind : "sleep", std::atol(argv[3])});
    try {
      if (kind == "scalar" && here)
        run<double>(ranks, nullptr, 1);
      else
        run<float>(ranks, fault, kind == "model" && here ? 2 : 1);
      std::fprintf(stderr, "rank %d of the run is done\n", static_cast<int>(ranks.rank()));
    } catch (const std::exception& error) {
      // The type as the library has it, so that tests can compare.
      std::fprintf(stderr, "%s: %s\n", typeid(error).name(), error.what());
      code = 1;
      if (!ranks.all_failed()) MPI_Abort(MPI_COMM_WORLD, 1);
    }
  }
  MPI_Finalize();
  return code;
}
