// A text piece by piece: rows as in one pass, whatever the pieces; what may be dropped is dropped; a session can go
// back, be saved and be restored.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <limits>
#include <random>
#include <span>
#include <sstream>
#include <string>
#include <twoheads/attention/direct.hpp>
#include <twoheads/attention/language.hpp>
#include <twoheads/exec/kernel_attention.hpp>
#include <twoheads/exec/sampler.hpp>
#include <twoheads/exec/session.hpp>
#include <twoheads/exec/session_file.hpp>
#include <twoheads/model/llama2c.hpp>
#include <twoheads/model/random.hpp>
#include <utility>
#include <vector>

#include "support/contains.hpp"
#include "support/instances.hpp"
#include "support/memory.hpp"
#include "support/message_of.hpp"
#include "support/sanitized.hpp"
#include "support/seed.hpp"
#include "support/shared_data.hpp"
#include "support/temp_folder.hpp"

namespace {

using namespace twoheads;

using Kernel32 = KernelAttention<float>;
using Direct64 = DirectAttention<double>;

/// A small decoder with rotary positions and grouped heads.
template <class S>
LanguageModel<S> decoder(const Mask& mask, std::uint64_t seed = 1) {
  ModelSpec spec;
  spec.layers = 3;
  spec.width = 24;
  spec.attention.heads = 4;
  spec.attention.kv_heads = 2;
  spec.attention.head_dim = spec.attention.value_dim = 6;
  spec.attention.score_scale = 0.9;
  spec.attention.mask = mask;
  spec.attention.rope = RopeSpec{};
  spec.norm = NormKind::rms;
  spec.mlp = MlpKind::swiglu;
  spec.hidden = 40;
  spec.final_norm = true;
  LanguageModel<S> model;
  model.body = random_model<S>(spec, seed);
  model.embedding = Random(seed + 1).matrix<S>(50, spec.width, 1.0);
  return model;
}

std::vector<int> text(Index count, std::uint64_t seed = 5) {
  std::mt19937_64 bits(seed);
  std::vector<int> ids(static_cast<std::size_t>(count));
  for (int& id : ids) id = static_cast<int>(bits() % 50);
  return ids;
}

template <class S, class A>
Matrix<S> in_chunks(Session<S, A>& session, const std::vector<int>& ids, Index chunk) {
  Matrix<S> rows(static_cast<Index>(ids.size()), session.model().body.spec.width);
  for (Index begin = 0; begin < rows.rows(); begin += chunk) {
    const Index count = std::min(chunk, rows.rows() - begin);
    const std::span<const int> piece(ids.data() + begin, static_cast<std::size_t>(count));
    rows.middleRows(begin, count) = session.append(piece);
  }
  return rows;
}

template <class S>
Matrix<S> one_pass(const LanguageModel<S>& model, const std::vector<int>& ids) {
  return forward(model.body, embed(model, ids), DirectAttention<S>());
}

template <class S>
double difference(const Matrix<S>& a, const Matrix<S>& b) {
  return static_cast<double>((a - b).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
}

std::vector<Mask> masks() { return {Mask::causal(), Mask::sliding_window(17), Mask::window_and_sinks(20, 4)}; }

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

// --- going back, saving and restoring --------------------------------------------------------------------------------

TEST(Session, GoesBackToWhereItStood) {
  const std::vector<int> ids = text(60);
  const std::vector<int> other = text(60, 77);
  for (const Mask& mask : masks()) {
    const LanguageModel<double> model = decoder<double>(mask);
    Direct64 direct;
    Session<double, Direct64> session(model, direct, {.chunk = 30});
    static_cast<void>(session.append(ids));
    for (const Index tokens : {55, 20, 0}) {
      if (!session.reaches_back(tokens)) {
        EXPECT_NE(mask.kind, MaskKind::causal);
        EXPECT_TRUE(contains(message_of<SpecError>([&] { session.go_back(tokens); }), "cannot go back to"));
        continue;
      }
      session.go_back(tokens);
      EXPECT_EQ(session.tokens(), tokens);
      EXPECT_TRUE(contains(message_of<SpecError>([&] { static_cast<void>(session.next_logits()); }), "no next one"));
      std::vector<int> text_of_both(ids.begin(), ids.begin() + tokens);
      text_of_both.insert(text_of_both.end(), other.begin(), other.begin() + 10);
      const Matrix<double> rows = session.append(std::span<const int>(other).first(10));
      EXPECT_LE(difference<double>(rows, one_pass(model, text_of_both).bottomRows(10)), 1e-12) << tokens;
      session.go_back(tokens);
      static_cast<void>(session.append(std::span<const int>(ids).subspan(static_cast<std::size_t>(tokens))));
    }
  }
}

/// Direct attention that fails at a given turn.
struct Failing {
  int left = 0;
  void operator()(const AttentionInput<double>& input, MatrixSpan<double> out) {
    if (left-- == 0) throw OracleError("no answer");
    DirectAttention<double>()(input, out);
  }
};

TEST(Session, CountsPositionsByWhatIsHeldAfterGoingBack) {
  const std::vector<int> ids = text(60);
  const LanguageModel<double> model = decoder<double>(Mask::window_and_sinks(20, 4));
  Direct64 direct;
  Session<double, Direct64> session(model, direct, {CachePositions::in_cache, 64});
  const Matrix<double> once = session.append(ids);
  ASSERT_TRUE(session.reaches_back(22));
  session.go_back(22);
  const Matrix<double> again = session.append(std::span<const int>(ids).subspan(22));
  EXPECT_LE(difference<double>(again, once.bottomRows(38)), 1e-12);
}

TEST(Session, IsAsItWasAfterAFailure) {
  const std::vector<int> ids = text(90);
  for (const Mask& mask : masks()) {
    const LanguageModel<double> model = decoder<double>(mask);
    Failing attend{-1};
    Session<double, Failing> session(model, attend, {.chunk = 8});
    static_cast<void>(session.append(std::span<const int>(ids).first(50)));
    const Matrix<double> next = session.next_logits();
    for (int turn = 0; turn < 2 * 3; ++turn) {
      attend.left = turn;
      const Index before = session.tokens();
      const auto rest = std::span<const int>(ids).subspan(static_cast<std::size_t>(before), 20);
      EXPECT_THROW(session.append(rest), OracleError);
      // The second chunk of a window may have dropped what the first token would see again.
      if (mask.kind == MaskKind::causal || turn < 3) {
        EXPECT_EQ(session.tokens(), before);
        EXPECT_EQ(session.next_logits(), next);
      } else {
        EXPECT_EQ((session.tokens() - before) % 8, 0);
        EXPECT_LE(session.tokens() - before, turn / 3 * 8);
      }
    }
    attend.left = -1;
    const Index left = 90 - session.tokens();
    const Matrix<double> rows = session.append(std::span<const int>(ids).last(static_cast<std::size_t>(left)));
    EXPECT_LE(difference<double>(rows, one_pass(model, ids).bottomRows(left)), 1e-12) << name(mask.kind);
  }
}

TEST(Session, GoesOnFromAFileWithTheSameBits) {
  const std::vector<int> ids = text(80);
  const TempFolder folder;
  for (const bool in_cache : {false, true})
    for (const Mask& mask : masks()) {
      if (in_cache && mask.kind != MaskKind::sinks) continue;
      const LanguageModel<float> model = decoder<float>(mask);
      Kernel32 kernel;
      const SessionOptions options{in_cache ? CachePositions::in_cache : CachePositions::original, 16};
      Session<float, Kernel32> session(model, kernel, options);
      static_cast<void>(session.append(std::span<const int>(ids).first(60)));
      save_session(folder / "session", session);
      Session<float, Kernel32> other(model, kernel, options);
      static_cast<void>(other.append(ids));
      restore_session(folder / "session", other);
      EXPECT_EQ(other.tokens(), 60);
      EXPECT_EQ(other.next_logits(), session.next_logits());
      for (int repeat = 0; repeat < 20; ++repeat) {
        const std::vector<int> id{ids[static_cast<std::size_t>(60 + repeat)]};
        EXPECT_EQ(other.append(id), session.append(id)) << name(mask.kind);
      }
    }
}

TEST(Session, OfPositionsInCacheIsSavedAfterGoingBackAmongItsSinks) {
  const LanguageModel<double> model = decoder<double>(Mask::window_and_sinks(8, 4));
  Direct64 direct;
  Session<double, Direct64> session(model, direct, {CachePositions::in_cache, 8});
  static_cast<void>(session.append(text(6)));
  session.go_back(2);
  std::ostringstream out;
  save_session(out, session);
  Session<double, Direct64> other(model, direct, {CachePositions::in_cache, 8});
  std::istringstream in(out.str());
  restore_session(in, out.str().size(), other);
  EXPECT_EQ(other.append(text(20, 9)), session.append(text(20, 9)));
}

TEST(Session, RefusesFilesThatAreNotItsOwn) {
  const LanguageModel<float> model = decoder<float>(Mask::window_and_sinks(8, 2));
  Kernel32 kernel;
  Session<float, Kernel32> session(model, kernel, {.chunk = 8});
  static_cast<void>(session.append(text(40)));
  std::ostringstream out;
  save_session(out, session);
  const std::string bytes = out.str();
  const Matrix<float> next = session.next_logits();
  const auto fault = [&](const std::string& file, auto& into) {
    std::istringstream in(file);
    return message_of<FormatError>([&] { restore_session(in, file.size(), into); });
  };
  const LanguageModel<float> other_model = decoder<float>(Mask::window_and_sinks(8, 2), 2);
  Session<float, Kernel32> of_other(other_model, kernel, {.chunk = 8});
  EXPECT_TRUE(contains(fault(bytes, of_other), "the model's digest"));
  const LanguageModel<double> wide = cast_model<double>(model);
  Direct64 direct;
  Session<double, Direct64> of_double(wide, direct);
  EXPECT_TRUE(contains(fault(bytes, of_double), "the size of a number is 4, expected 8"));
  Session<float, Kernel32> in_cache(model, kernel, {CachePositions::in_cache, 8});
  EXPECT_TRUE(contains(fault(bytes, in_cache), "how positions count"));
  // Any byte that is another, and any end that comes too soon or too late.
  std::mt19937_64 bits(seed_or(1));
  for (int repeat = 0; repeat < 400; ++repeat) {
    std::string damaged = bytes;
    const std::size_t place = bits() % damaged.size();
    damaged[place] = static_cast<char>(damaged[place] ^ static_cast<char>(1 << (bits() % 8)));
    if (repeat % 4 == 0) damaged = bytes.substr(0, place);
    if (repeat % 4 == 1) damaged = bytes + damaged.substr(0, 1 + place % 9);
    EXPECT_NE(fault(damaged, session), "") << place;
  }
  EXPECT_EQ(session.next_logits(), next);
}

TEST(Session, RefusesWhatItCannotHold) {
  Direct64 direct;
  const auto fault = [&](const LanguageModel<double>& model, const SessionOptions& options) {
    return message_of<SpecError>([&] { static_cast<void>(Session<double, Direct64>(model, direct, options)); });
  };
  EXPECT_TRUE(contains(fault(decoder<double>(Mask::full()), {}), "expected causal, window or sinks"));
  EXPECT_TRUE(contains(fault(decoder<double>(Mask::band(3, 1)), {}), "expected causal, window or sinks"));
  EXPECT_TRUE(contains(fault(decoder<double>(Mask::causal()), {.chunk = 0}), "chunk is 0"));
  EXPECT_TRUE(contains(fault(decoder<double>(Mask::causal()), {CachePositions::in_cache, 8}), "a window and sinks"));
  LanguageModel<double> model = decoder<double>(Mask::window_and_sinks(3, 1));
  model.body.spec.attention.rope.reset();
  EXPECT_TRUE(contains(fault(model, {CachePositions::in_cache, 8}), "the model has none"));
  Session<double, Direct64> session(model, direct);
  EXPECT_TRUE(contains(message_of<SpecError>([&] {
                         session.append(std::vector<int>{3, 50});
                       }),
                       "token 1 has the id 50"));
  EXPECT_EQ(session.append(std::vector<int>{}).rows(), 0);
}

// --- sampling --------------------------------------------------------------------------------------------------------

Matrix<float> row_of(const std::vector<float>& values) {
  return Eigen::Map<const Matrix<float>>(values.data(), 1, static_cast<Index>(values.size()));
}

TEST(Sampler, IsGreedyAtNoTemperatureAndTakesTheFirstOfEquals) {
  const Matrix<float> scores = row_of({1, 3, -2, 3});
  Sampler greedy;
  EXPECT_EQ(greedy(view(scores)), 1);
  Sampler one({.temperature = 5, .top_k = 1});
  EXPECT_EQ(one(view(scores)), 1);
}

TEST(Sampler, DrawsByWeightAmongTheLargest) {
  // exp(score): 1, 8, 2, 4, 1 of 16.
  const Matrix<float> scores = row_of({0, std::log(8.0F), std::log(2.0F), std::log(4.0F), 0});
  const auto shares = [&](SamplerOptions options) {
    options.seed = seed_or(1);
    Sampler sampler(options);
    std::vector<double> counts(5);
    for (int i = 0; i < 20000; ++i) counts[static_cast<std::size_t>(sampler(view(scores)))] += 1.0 / 20000;
    return counts;
  };
  const auto near = [](const std::vector<double>& found, const std::vector<double>& expected) {
    for (std::size_t i = 0; i < 5; ++i) EXPECT_NEAR(found[i], expected[i], 0.02) << i;
  };
  near(shares({.temperature = 1}), {1 / 16.0, 0.5, 2 / 16.0, 4 / 16.0, 1 / 16.0});
  near(shares({.temperature = 0.5}), {1 / 86.0, 64 / 86.0, 4 / 86.0, 16 / 86.0, 1 / 86.0});
  near(shares({.temperature = 1, .top_k = 2}), {0, 8 / 12.0, 0, 4 / 12.0, 0});
  // 8 + 4 of 16 reach 0.7, 8 alone do not.
  near(shares({.temperature = 1, .top_p = 0.7}), {0, 8 / 12.0, 0, 4 / 12.0, 0});
  near(shares({.temperature = 1, .top_p = 0.4}), {0, 1, 0, 0, 0});
  near(shares({.temperature = 1, .top_k = 3, .top_p = 0.9}), {0, 8 / 14.0, 2 / 14.0, 4 / 14.0, 0});
}

TEST(Sampler, OfASeedDrawsTheSameAgain) {
  const Matrix<float> scores = Random(3).matrix<float>(1, 300, 1.0);
  Sampler a({.temperature = 1, .seed = 7});
  Sampler b({.temperature = 1, .seed = 7});
  Sampler c({.temperature = 1, .seed = 8});
  int same = 0;
  for (int i = 0; i < 100; ++i) {
    const int token = a(view(scores));
    EXPECT_EQ(token, b(view(scores)));
    same += token == c(view(scores)) ? 1 : 0;
  }
  EXPECT_LT(same, 20);
}

TEST(Sampler, RefusesWhatMakesNoSense) {
  EXPECT_THROW(Sampler({.temperature = -1}), SpecError);
  EXPECT_THROW(Sampler({.temperature = std::nan("")}), SpecError);
  EXPECT_THROW(Sampler({.top_k = -1}), SpecError);
  EXPECT_THROW(Sampler({.top_p = 0}), SpecError);
  EXPECT_THROW(Sampler({.top_p = 1.5}), SpecError);
  Sampler sampler;
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(sampler(view(row_of({-infinity, 2}))), 1);
  EXPECT_THROW(static_cast<void>(sampler(view(row_of({1, std::nanf("")})))), InputError);
  EXPECT_THROW(static_cast<void>(sampler(view(row_of({1, infinity})))), InputError);
  EXPECT_THROW(static_cast<void>(sampler(view(row_of({-infinity, -infinity})))), InputError);
}

}  // namespace
