// The kernel on threads: the bits of one thread for any number of them, in any arena.

#include <gtest/gtest.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <array>
#include <limits>
#include <string>
#include <twoheads/exec/kernel_attention.hpp>
#include <twoheads/exec/threads.hpp>
#include <twoheads/model/random.hpp>
#include <vector>

#include "support/instances.hpp"
#include "support/seed.hpp"
#include "support/text_of_mask.hpp"

namespace {

using namespace twoheads;

struct Problem {
  explicit Problem(const Mask& mask, Index tokens = 400) {
    spec.heads = 6;
    spec.kv_heads = 3;
    spec.head_dim = 10;
    spec.value_dim = 7;
    spec.score_scale = 0.3;
    spec.mask = mask;
    Random random(seed_or(55));
    q = random.matrix<float>(tokens, 60);
    k = random.matrix<float>(tokens, 30);
    v = random.matrix<float>(tokens, 21);
  }

  template <class Exec>
  Matrix<float> rows(KernelAttention<float, Exec>& kernel) const {
    Matrix<float> out = Matrix<float>::Constant(q.rows(), 42, std::numeric_limits<float>::quiet_NaN());
    kernel(projected_input(spec, view(q), view(k), view(v)), span(out));
    return out;
  }

  AttentionSpec spec;
  Matrix<float> q, k, v;
};

std::vector<Mask> masks() {
  return {Mask::full(),
          Mask::causal(),
          Mask::sliding_window(33),
          Mask::window_and_sinks(20, 5),
          Mask::band(30, 12),
          Mask::documents({100, 3, 297}, true)};
}

TEST(KernelOnThreads, HasTheBitsOfOneThread) {
  for (const Mask& mask : masks()) {
    const Problem problem(mask);
    const KernelOptions options{.rows = 32, .log_weights = true};
    KernelAttention<float> serial(options);
    const Matrix<float> expected = problem.rows(serial);
    for (const Index threads : {1, 2, 3, 8}) {
      KernelAttention<float, Threads> kernel(options, Threads(threads));
      for (int repeat = 0; repeat < 3; ++repeat) {
        EXPECT_TRUE(problem.rows(kernel) == expected) << text_of(mask) << ", " << threads << " threads";
        EXPECT_TRUE(kernel.log_weights() == serial.log_weights()) << text_of(mask);
      }
      EXPECT_EQ(kernel.tiles(), 3 * serial.tiles());
    }
  }
}

TEST(KernelOnThreads, RunsInTheArenaOfItsCaller) {
  const Problem problem(Mask::causal());
  KernelAttention<float> serial({.rows = 32});
  const Matrix<float> expected = problem.rows(serial);
  tbb::task_arena arena(3);
  std::array<Matrix<float>, 4> found;
  arena.execute([&] {
    tbb::parallel_for(0, 4, [&](int i) {
      KernelAttention<float, Threads> kernel({.rows = 32}, i % 2 == 0 ? Threads::of_caller() : Threads(2));
      found[static_cast<std::size_t>(i)] = problem.rows(kernel);
    });
  });
  for (const Matrix<float>& rows : found) EXPECT_TRUE(rows == expected);
}

TEST(KernelOnThreads, WorksAfterAnError) {
  Problem problem(Mask::causal());
  KernelAttention<float, Threads> kernel({.rows = 32}, Threads(3));
  const Matrix<float> expected = problem.rows(kernel);
  Problem broken = problem;
  broken.v.conservativeResize(400, 20);
  EXPECT_THROW(static_cast<void>(broken.rows(kernel)), ShapeError);
  // A scale that is not finite is found by the threads themselves, when they make their kernels.
  broken = problem;
  broken.spec.score_scale = std::numeric_limits<double>::infinity();
  EXPECT_THROW(static_cast<void>(broken.rows(kernel)), SpecError);
  EXPECT_TRUE(problem.rows(kernel) == expected);
}

}  // namespace
