// A text piece by piece: rows as in one pass, whatever the pieces; what may be dropped is dropped.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <twoheads/attention/direct.hpp>
#include <twoheads/attention/language.hpp>
#include <twoheads/exec/kernel_attention.hpp>
#include <twoheads/exec/session.hpp>
#include <twoheads/model/llama2c.hpp>
#include <twoheads/model/random.hpp>
#include <vector>

#include "support/contains.hpp"
#include "support/instances.hpp"
#include "support/memory.hpp"
#include "support/message_of.hpp"
#include "support/sanitized.hpp"
#include "support/sessions.hpp"
#include "support/shared_data.hpp"

namespace {

using namespace twoheads;
using namespace sessions;

// --- rows are those of one pass --------------------------------------------------------------------------------------

TEST(Session, YieldsTheRowsOfOnePassWhateverThePieces) {
  const std::vector<int> ids = text(150);
  for (const Mask& mask : masks()) {
    const LanguageModel<double> model = decoder<double>(mask);
    const Matrix<double> whole = one_pass(model, ids);
    for (const Index chunk : {1, 7, 64, 150})
      for (const Index most : {1, 5, 512}) {
        Direct64 direct;
        Session<double, Direct64> session(model, direct, {.chunk = most});
        EXPECT_LE(difference(in_chunks(session, ids, chunk), whole), 1e-12) << name(mask.kind) << " " << chunk;
        EXPECT_EQ(session.tokens(), 150);
        KernelAttention<double> kernel({.rows = 16});
        Session<double, KernelAttention<double>> by_kernel(model, kernel, {.chunk = most});
        EXPECT_LE(difference(in_chunks(by_kernel, ids, chunk), whole), 1e-12) << name(mask.kind) << " " << chunk;
        EXPECT_LE(difference(by_kernel.next_logits(), logits(model, view(whole.bottomRows(1)))), 1e-11);
      }
  }
}

TEST(Session, RunsThroughTheGridOfCalls) {
  const std::vector<int> ids = text(70);
  for (const Mask& mask : masks())
    for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
      for (const Index chunk : {1, 9, 70}) {
        const LanguageModel<double> model = decoder<double>(mask);
        SmallTransformer<double> oracle(OracleLimits{.kind = kind, .rows = 13, .heads = 2});
        GridAttention<SmallTransformer<double>> grid(oracle);
        Session<double, GridAttention<SmallTransformer<double>>> session(model, grid);
        EXPECT_LE(difference(in_chunks(session, ids, chunk), one_pass(model, ids)), 1e-11)
            << name(mask.kind) << " on " << name(kind) << ", chunks of " << chunk;
      }
}

TEST(Session, RunsThroughTheGridOfCallsAfterKeysWereDropped) {
  // A tile of a window begins one key before what its first query sees: it must be held.
  const std::vector<int> ids = text(150);
  for (const Mask& mask : {Mask::sliding_window(17), Mask::band(16, 0), Mask::window_and_sinks(5, 3)})
    for (const OracleKind kind : {OracleKind::plain, OracleKind::causal})
      for (const Anchor anchor : {Anchor::adaptive, Anchor::gibbs}) {
        const LanguageModel<double> model = decoder<double>(mask);
        SmallTransformer<double> oracle(OracleLimits{.kind = kind, .rows = 13});
        GridAttention<SmallTransformer<double>> grid(oracle, {.anchor = anchor});
        Session<double, GridAttention<SmallTransformer<double>>> session(model, grid, {.chunk = 9});
        EXPECT_LE(difference(in_chunks(session, ids, 9), one_pass(model, ids)), 1e-11)
            << name(mask.kind) << " on " << name(kind);
      }
}

TEST(Session, DecodesInNoMoreCallsThanItsKeysFill) {
  // ceil(keys / (R - 1)) calls a key/value head and layer, H' heads in a call, on a plain oracle.
  const LanguageModel<float> model = decoder<float>(Mask::causal());
  for (const Index heads : {1, 2, 3}) {
    SmallTransformer<float> oracle(OracleLimits{.kind = OracleKind::plain, .rows = 17, .heads = heads});
    GridAttention<SmallTransformer<float>> grid(oracle);
    Session<float, GridAttention<SmallTransformer<float>>> session(model, grid);
    Index before = 0;
    for (const int id : text(70)) {
      session.append(std::vector<int>{id});
      // The first token is an input of one key, whose 4 heads are planned as those of any other.
      const Index slots = session.tokens() == 1 ? 4 : ceil_div(session.tokens(), Index{16}) * 2;
      const Index most = 3 * ceil_div(slots, heads);
      EXPECT_LE(grid.counts().calls - grid.counts().repeats - before, most) << session.tokens();
      before = grid.counts().calls - grid.counts().repeats;
    }
  }
}

TEST(Session, OfTheKernelHasTheSameBitsForPiecesOfItsBlock) {
  const std::vector<int> ids = text(700);
  const LanguageModel<float> model = decoder<float>(Mask::causal());
  for (const Index rows : {32, 128}) {
    Kernel32 kernel({.rows = rows});
    const Matrix<float> whole = forward(model.body, embed(model, ids), kernel);
    for (const Index chunk : {128, 256, 384, 700}) {
      Session<float, Kernel32> session(model, kernel, {.chunk = 1024});
      EXPECT_EQ(in_chunks(session, ids, chunk), whole) << rows << " " << chunk;
    }
  }
}

TEST(Session, KnowsLayersWithMasksOfTheirOwnLearnedSinksAlibiAndPositions) {
  const std::vector<int> ids = text(60);
  LanguageModel<double> model = decoder<double>(Mask::causal());
  ModelSpec& spec = model.body.spec;
  spec.layer_masks = {Mask::sliding_window(9), Mask::causal(), Mask::window_and_sinks(5, 2)};
  spec.attention.rope.reset();
  spec.attention.alibi = alibi_slopes(4);
  model.positions = Random(8).matrix<double>(80, spec.width, 1.0);
  model.first_position = 2;
  for (LayerWeights<double>& layer : model.body.layers) layer.attention.sinks = Random(9).matrix<double>(1, 4, 2.0);
  const Matrix<double> whole = one_pass(model, ids);
  for (const Index chunk : {1, 11}) {
    KernelAttention<double> kernel({.rows = 8});
    Session<double, KernelAttention<double>> session(model, kernel);
    EXPECT_LE(difference(in_chunks(session, ids, chunk), whole), 1e-12) << chunk;
  }
  KernelAttention<double> kernel;
  Session<double, KernelAttention<double>> session(model, kernel);
  static_cast<void>(session.append(text(78)));
  EXPECT_TRUE(contains(message_of<SpecError>([&] { session.append(text(1)); }), "the model has 78 positions"));
}

TEST(Session, OfATrainedModelHasTheLogitsOfOnePass) {
  const auto path = shared_data("stories260K/stories260K.bin");
  const auto reference = shared_data("stories260K/greedy_200.json");
  if (!path || !reference) GTEST_SKIP() << "needs ../shared/data/stories260K";
  const auto model = read_llama2c<float>(*path);
  const auto wide = cast_model<double>(model);
  std::vector<int> ids = text(sanitized ? 200 : 1809, 3);
  for (int& id : ids) id = 3 + id * 9;
  const Matrix<double> truth = logits(wide, view(one_pass(wide, ids)));
  Kernel32 kernel({.rows = 128});
  const Matrix<float> rows = forward(model.body, embed(model, ids), kernel);
  const Matrix<float> whole = logits(model, view(rows));
  for (const Index chunk : {1, 7, 64, 1000}) {
    Session<float, Kernel32> session(model, kernel);
    const Matrix<float> found = logits(model, view(in_chunks(session, ids, chunk)));
    EXPECT_LE(difference(found, whole), 1e-4) << chunk;
    KernelAttention<double> wide_kernel({.rows = 128});
    Session<double, KernelAttention<double>> wide_session(wide, wide_kernel);
    EXPECT_LE(difference(logits(wide, view(in_chunks(wide_session, ids, chunk))), truth), 1e-11) << chunk;
  }
}

// --- streams without end ---------------------------------------------------------------------------------------------

TEST(Streams, HoldNoMoreThanSinksWindowsAndAChunk) {
  const LanguageModel<float> model = decoder<float>(Mask::window_and_sinks(16, 4));
  for (const Index chunk : {1, 7, 40}) {
    Kernel32 kernel;
    Session<float, Kernel32> session(model, kernel, {.chunk = 40});
    Index most = 0;
    for (Index piece = 0; piece < 2000 / chunk; ++piece) {
      static_cast<void>(session.append(text(chunk, static_cast<std::uint64_t>(piece))));
      most = std::max(most, session.held());
    }
    // 24 numbers a token and layer.
    EXPECT_LE(most, 3 * 24 * (4 + 15 + 40 + 15)) << chunk;
  }
}

TEST(Streams, OfManyTokensHaveTheRowsOfTheMaskInTheMemoryOfFew) {
  const Index tokens = sanitized ? 600 : 6000;
  const std::vector<int> ids = text(tokens);
  const LanguageModel<float> model = decoder<float>(Mask::window_and_sinks(16, 4));
  const Matrix<float> whole = one_pass(model, ids);
  Kernel32 kernel;
  Session<float, Kernel32> session(model, kernel);
  Index next = 0;
  const auto go_on_until = [&](Index end) {
    for (; next < end; ++next) {
      const Matrix<float> row = session.append(std::span<const int>(&ids[static_cast<std::size_t>(next)], 1));
      ASSERT_LE(difference<float>(row, whole.row(next)), 2e-5) << next;
    }
  };
  go_on_until(tokens / 10);
  const programs::PeakMemory peak;
  go_on_until(tokens);
  // Sanitizers keep what is freed.
  if (!sanitized) {
    EXPECT_LE(peak.bytes(), 1 << 20);
  }
}

/// StreamingLLM as its paper describes it, token by token and layer by layer: keys are kept unrotated, and all that are
/// held rotate by their place among those held.
Matrix<double> streamed(const LanguageModel<double>& model, const std::vector<int>& ids, Index window, Index sinks) {
  const ModelSpec& spec = model.body.spec;
  const AttentionSpec& a = spec.attention;
  AttentionSpec plain = a;
  plain.rope.reset();
  plain.mask = Mask::full();
  std::vector<Matrix<double>> keys(3), values(3);
  Matrix<double> rows(static_cast<Index>(ids.size()), spec.width);
  for (Index token = 0; token < rows.rows(); ++token) {
    Matrix<double> x = embed(model, std::vector<int>{ids[static_cast<std::size_t>(token)]});
    for (std::size_t l = 0; l < 3; ++l) {
      const LayerWeights<double>& layer = model.body.layers[l];
      const Matrix<double> normed_x = normed(view(x), layer.attention_norm, spec.norm, spec.norm_epsilon);
      const auto append = [](Matrix<double>& to, const Matrix<double>& row) {
        to.conservativeResize(to.rows() + 1, row.cols());
        to.bottomRows(1) = row;
      };
      append(keys[l], keys_of(plain, layer.attention, view(normed_x)));
      append(values[l], values_of(plain, layer.attention, view(normed_x)));
      if (keys[l].rows() > sinks + window)
        for (Matrix<double>* held : {&keys[l], &values[l]}) {
          const Matrix<double> last = held->bottomRows(window);
          held->middleRows(sinks, window) = last;
          held->conservativeResize(sinks + window, Eigen::NoChange);
        }
      Matrix<double> q = queries_of(plain, layer.attention, view(normed_x));
      Matrix<double> k = keys[l];
      rotate(span(k), a.head_dim, *a.rope, 0);
      rotate(span(q), a.head_dim, *a.rope, k.rows() - 1);
      Matrix<double> mixed(1, a.heads * a.value_dim);
      DirectAttention<double>()(projected_input(plain, view(q), view(k), view(values[l])), span(mixed));
      x += mixed * layer.attention.wo;
      const Matrix<double> input = normed(view(x), layer.mlp_norm, spec.norm, spec.norm_epsilon);
      x += mlp(view(input), layer.mlp, spec.mlp, 0);
    }
    rows.row(token) = normed(view(x), model.body.final_norm, spec.norm, spec.norm_epsilon);
  }
  return rows;
}

TEST(Streams, MayCountPositionsByWhatIsHeld) {
  const std::vector<int> ids = text(120);
  const LanguageModel<double> model = decoder<double>(Mask::window_and_sinks(20, 4));
  const Matrix<double> truth = streamed(model, ids, 20, 4);
  for (const Index chunk : {1, 13, 120}) {
    KernelAttention<double> kernel;
    Session<double, KernelAttention<double>> session(model, kernel, {.positions = CachePositions::in_cache});
    EXPECT_LE(difference(in_chunks(session, ids, chunk), truth), 1e-11) << chunk;
    // The two rules are the same until a key is dropped, and differ after.
    EXPECT_LE(difference<double>(truth.topRows(24), one_pass(model, ids).topRows(24)), 1e-12);
    EXPECT_GE(difference<double>(truth.bottomRows(1), one_pass(model, ids).bottomRows(1)), 1e-3);
  }
}

}  // namespace
