// Gradients through oracle calls on several threads: the bits and the calls of one.

#include <gtest/gtest.h>

#include <string>
#include <twoheads/exec/threads.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <twoheads/train/forward_only.hpp>
#include <twoheads/train/trainable_grid.hpp>
#include <twoheads/train/trainable_kernel.hpp>
#include <vector>

#include "support/attention_problem.hpp"
#include "support/instances.hpp"

namespace {

using namespace twoheads;
using namespace attention_problem;
using Small = SmallTransformer<double>;

template <class One, class Several>
void expect_same(One& one, Several& several, const Problem& problem) {
  const Found wanted = found_by(one, problem), found = found_by(several, problem);
  EXPECT_TRUE(found.out == wanted.out && found.log_weights == wanted.log_weights);
  EXPECT_TRUE(found.gradient.q == wanted.gradient.q);
  EXPECT_TRUE(found.gradient.k == wanted.gradient.k);
  EXPECT_TRUE(found.gradient.v == wanted.gradient.v);
  EXPECT_TRUE(found.gradient.sinks == wanted.gradient.sinks);
}

TEST(GradientsOnThreads, HaveTheBitsAndCallsOfOneThread) {
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
    for (const Mask& mask : {Mask::causal(), Mask::documents({2, 3, 30, 15}, true)}) {
      SCOPED_TRACE(std::string(name(mask.kind)) + ", " + name(kind));
      Case c{"", mask, limits_of(kind, 8), 50, 50, 4, 2};
      c.limits.heads = 3;
      c.sinks = true;
      c.options.checksums = true;
      const Problem problem(c);
      Small oracle(c.limits);
      TrainableGrid<Small> one(oracle, c.options);
      TrainableGrid<Small, Threads> several(oracle, c.options, Threads(4));
      expect_same(one, several, problem);
      EXPECT_EQ(several.counts().runs, one.counts().runs);
      EXPECT_EQ(several.counts().vjps, one.counts().vjps);
      ForwardOnlyGrid<Small> one_forward(oracle, c.options);
      ForwardOnlyGrid<Small, Threads> several_forward(oracle, c.options, {}, Threads(4));
      expect_same(one_forward, several_forward, problem);
      EXPECT_EQ(several_forward.counts().backward, one_forward.counts().backward);
    }
}

TEST(TrainableKernelOnThreads, HasTheBitsOfOneThread) {
  for (const Mask& mask : masks()) {
    Case c{name(mask.kind), mask};
    c.heads = 4;
    c.kv_heads = 2;
    c.sinks = true;
    SCOPED_TRACE(c.name);
    const Problem problem(c);
    TrainableKernel<double> one({.rows = 5});
    const Found serial = found_by(one, problem);
    for (const Index threads : {2, 3}) {
      TrainableKernel<double, Threads> several({.rows = 5}, Threads(threads));
      const Found found = found_by(several, problem);
      EXPECT_EQ(found.out, serial.out);
      EXPECT_EQ(found.gradient.q, serial.gradient.q);
      EXPECT_EQ(found.gradient.k, serial.gradient.k);
      EXPECT_EQ(found.gradient.v, serial.gradient.v);
      EXPECT_EQ(found.gradient.sinks, serial.gradient.sinks);
    }
  }
}

}  // namespace
