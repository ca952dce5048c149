// A session can go back, be saved and be restored; what it cannot hold is refused; tokens are drawn from its logits.

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <filesystem>
#include <limits>
#include <random>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <twoheads/attention/direct.hpp>
#include <twoheads/exec/sampler.hpp>
#include <twoheads/exec/session.hpp>
#include <twoheads/exec/session_file.hpp>
#include <twoheads/model/random.hpp>
#include <vector>

#include "support/contains.hpp"
#include "support/instances.hpp"
#include "support/message_of.hpp"
#include "support/seed.hpp"
#include "support/sessions.hpp"
#include "support/temp_folder.hpp"

namespace {

using namespace twoheads;
using namespace sessions;

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
  EXPECT_TRUE(contains(fault(bytes, of_other), "of another model, or of another window"));
  const LanguageModel<double> wide = cast_model<double>(model);
  Direct64 direct;
  Session<double, Direct64> of_double(wide, direct);
  EXPECT_TRUE(contains(fault(bytes, of_double), "its numbers have 4 bytes, expected 8"));
  Session<float, Kernel32> in_cache(model, kernel, {CachePositions::in_cache, 8});
  EXPECT_TRUE(contains(fault(bytes, in_cache), "its positions count otherwise"));
  const auto with_byte = [&](std::size_t place, char byte) {
    std::string other = bytes;
    other[place] = byte;
    return other;
  };
  EXPECT_TRUE(contains(fault(with_byte(7, '2'), session), "a session of version 2, expected 1"));
  EXPECT_TRUE(contains(fault(with_byte(0, '3'), session), "not a session file"));
  EXPECT_TRUE(contains(message_of<FileError>([&] { restore_session(std::filesystem::path("none/file"), session); }),
                       "none/file: no such file"));
  EXPECT_TRUE(contains(message_of<FileError>([&] { save_session(std::filesystem::path("none/file"), session); }),
                       "none/file: cannot be written: No such file or directory"));
  // A stream that fails on the way is no file that ends too soon.
  struct GoneDisk : std::stringbuf {
    using std::stringbuf::stringbuf;
    int_type underflow() override { throw std::runtime_error("the disk is gone"); }
  } failing(bytes.substr(0, 200), std::ios::in);
  std::istream broken(&failing);
  EXPECT_TRUE(contains(message_of<FileError>([&] { restore_session(broken, bytes.size(), session, "broken"); }),
                       "broken: cannot be read"));
  const TempFolder folder;
  const auto out_of_space = [](std::ostream&) { throw FileError("the stream takes no more bytes"); };
  EXPECT_EQ(message_of<FileError>([&] { detail::write_file(folder / "full", out_of_space); }),
            (folder / "full").string() + ": the stream takes no more bytes");
  EXPECT_TRUE(std::filesystem::is_empty(folder / ""));
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
