// A model over rows that lie on several ranks of MPI: mpirun -n 4 06_on_ranks

#include <mpi.h>

#include <iostream>
#include <twoheads/model/random.hpp>
#include <twoheads/mpi/forward_on_ranks.hpp>
#include <twoheads/mpi/gather.hpp>
#include <twoheads/mpi/kernel_on_ranks.hpp>
#include <twoheads/twoheads.hpp>

int main(int argc, char** argv) {
  using namespace twoheads;
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
  {
    constexpr Index tokens = 5000;
    ModelSpec spec;
    spec.layers = 2;
    spec.width = 64;
    spec.attention.heads = spec.attention.kv_heads = 4;
    spec.attention.head_dim = spec.attention.value_dim = 16;
    spec.attention.score_scale = 0.25;
    spec.attention.mask = Mask::causal();
    const Model<float> model = random_model<float>(spec, 1);

    Ranks ranks;
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
    if (ranks.rank() == 0) {
      const Matrix<float> x = sinusoidal_positions<float>(0, tokens, spec.width);
      KernelAttention<float> alone;
      std::cout << "ranks:                 " << ranks.size()
                << "\nthe bits of one rank:  " << (digest(all) == digest(forward(model, x, alone)) ? "yes" : "no")
                << "\n";
    }
  }
  MPI_Finalize();
  return 0;
}
