// A model over rows that lie on several ranks of MPI: mpirun -n 4 05_on_ranks

#include <mpi.h>

#include <exception>
#include <iostream>
#include <twoheads/model/random.hpp>
#include <twoheads/mpi/forward_on_ranks.hpp>
#include <twoheads/mpi/gather.hpp>
#include <twoheads/mpi/kernel_on_ranks.hpp>
#include <twoheads/twoheads.hpp>

namespace {

using namespace twoheads;

void run(Ranks& ranks) {
  constexpr Index tokens = 5000;
  ModelSpec spec;
  spec.layers = 2;
  spec.width = 64;
  spec.attention.heads = spec.attention.kv_heads = 4;
  spec.attention.head_dim = spec.attention.value_dim = 16;
  spec.attention.score_scale = 0.25;
  spec.attention.mask = Mask::causal();
  const Model<float> model = random_model<float>(spec, 1);

  KernelOnRanks<float> attend(ranks);  // or GridOnRanks over an oracle that each rank has
  const RowShares shares = attend.share(spec.attention, tokens, tokens);

  // A rank makes or reads its own rows. Here a row's numbers follow from its position.
  Matrix<float> own(shares.size(ranks.rank()), spec.width);
  shares.for_each_own(ranks.rank(), [&](const RowShare& share) {
    own.middleRows(share.place, share.rows.size()) =
        sinusoidal_positions<float>(share.rows.begin, share.rows.size(), spec.width);
  });
  own = forward_on_ranks(model, std::move(own), shares, attend);

  const Matrix<float> all = gather_rows(ranks, shares, own);  // on rank 0, to look at
  if (ranks.rank() != 0) return;
  KernelAttention<float> alone;
  const Matrix<float> expected = forward(model, sinusoidal_positions<float>(0, tokens, spec.width), alone);
  std::cout << "ranks:                 " << ranks.size()
            << "\nthe bits of one rank:  " << (digest(all) == digest(expected) ? "yes" : "no") << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
  int code = 0;
  {
    Ranks ranks;
    try {
      run(ranks);
    } catch (const std::exception& error) {
      // What the library throws on one rank, all ranks throw. What a rank throws on its own it must not keep to itself:
      // the others would wait for it.
      if (ranks.rank() == 0 || !ranks.all_failed()) std::cerr << error.what() << "\n";
      if (!ranks.all_failed()) MPI_Abort(MPI_COMM_WORLD, 1);
      code = 1;
    }
  }
  MPI_Finalize();
  return code;
}
