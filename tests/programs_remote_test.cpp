#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <functional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <twoheads/attention/input.hpp>
#include <twoheads/model/random.hpp>
#include <twoheads/oracle/any_oracle.hpp>
#include <twoheads/oracle/core.hpp>
#include <twoheads/remote/remote_core.hpp>
#include <twoheads/remote/remote_transformer.hpp>
#include <twoheads/remote/serve.hpp>
#include <utility>
#include <vector>

#include "support/contains.hpp"
#include "support/eigen_core.hpp"
#include "support/instances.hpp"
#include "support/message_of.hpp"
#include "support/program.hpp"
#include "support/seed.hpp"
#include "support/temp_folder.hpp"

namespace {

using namespace twoheads;
using namespace std::chrono_literals;
using Bytes = std::vector<std::byte>;

std::uint64_t seed() { return seed_or(61); }

// --- frames ----------------------------------------------------------------------------------------------------------

template <class Scalar>
Tensor tensor(std::vector<std::uint64_t> dims, const std::vector<Scalar>& numbers) {
  Tensor made(tensor_type<Scalar>, std::move(dims));
  std::memcpy(made.bytes().data(), numbers.data(), made.bytes().size());
  return made;
}

const std::vector<Tensor> two_tensors{tensor<float>({2, 3}, {1, -2, 3, 0.5F, -0.25F, 1e30F}),
                                      tensor<double>({1, 2, 1}, {1.5, -1e300})};
const Description two_and_one{{{"rows", TensorType::float32, {4, 0, 3}}, {"x", TensorType::float64, {}}},
                              {{"out", TensorType::float32, {7}}}};

/// A frame that was read from bytes, whatever its kind.
struct Frame {
  FrameHeader header;
  Description description;
  std::vector<Tensor> tensors;
  std::string failure;
};

Frame read_frame(std::span<const std::byte> bytes) {
  if (bytes.size() < FrameHeader::bytes) throw OracleError("no whole header");
  Frame frame;
  frame.header = read_header(bytes);
  const std::span<const std::byte> body = bytes.subspan(FrameHeader::bytes);
  require_body_within(frame.header, body.size());
  require_intact(frame.header, body);
  if (frame.header.kind == FrameKind::description) frame.description = read_description(body);
  if (frame.header.kind == FrameKind::run || frame.header.kind == FrameKind::answer)
    frame.tensors = read_tensors(frame.header.kind, body);
  if (frame.header.kind == FrameKind::failure) frame.failure = read_failure(body);
  return frame;
}

std::vector<Bytes> one_of_each_kind() {
  return {hello_frame(), description_frame(two_and_one), tensors_frame(FrameKind::run, 5, two_tensors),
          tensors_frame(FrameKind::answer, 1ULL << 60, two_tensors), failure_frame(9, "why not")};
}

TEST(Frame, IsReadAsItWasWritten) {
  EXPECT_EQ(read_frame(hello_frame()).header.kind, FrameKind::hello);
  EXPECT_EQ(read_frame(description_frame(two_and_one)).description, two_and_one);
  for (const FrameKind kind : {FrameKind::run, FrameKind::answer}) {
    const Frame frame = read_frame(tensors_frame(kind, 1ULL << 60, two_tensors));
    EXPECT_EQ(frame.header.kind, kind);
    EXPECT_EQ(frame.header.id, 1ULL << 60);
    EXPECT_EQ(frame.tensors, two_tensors);
  }
  const Frame failure = read_frame(failure_frame(9, "no\n\x1b[2Jluck"));
  EXPECT_EQ(failure.header.id, 9U);
  EXPECT_EQ(failure.failure, "no  [2Jluck");
  EXPECT_EQ(read_frame(failure_frame(9, std::string(1 << 20, 'x'))).failure.size(), FrameLimits::failure_bytes);
}

TEST(Frame, HasTheBytesThatItsHeaderFileSays) {
  const Bytes bytes = tensors_frame(FrameKind::run, 0x0102030405060708, std::vector{tensor<float>({1}, {1})});
  const std::vector<int> expected{'T', 'H', 'F', '1', 3, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1, 24, 0, 0, 0, 0, 0, 0, 0};
  ASSERT_EQ(bytes.size(), 32U + 24U);
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_EQ(std::to_integer<int>(bytes[i]), expected[i]) << i;
  const std::vector<int> body{1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x3f};
  for (std::size_t i = 0; i < body.size(); ++i) EXPECT_EQ(std::to_integer<int>(bytes[32 + i]), body[i]) << i;
}

TEST(Frame, IsRefusedWithAnyBitChangedAndAtAnyOtherLength) {
  for (const Bytes& frame : one_of_each_kind()) {
    for (std::size_t length = 0; length < frame.size(); ++length)
      EXPECT_THROW(static_cast<void>(read_frame(std::span(frame).first(length))), OracleError) << length;
    for (std::size_t bit = 0; bit < 8 * frame.size(); ++bit) {
      Bytes damaged = frame;
      damaged[bit / 8] ^= std::byte(1 << bit % 8);
      EXPECT_THROW(static_cast<void>(read_frame(damaged)), OracleError) << bit;
    }
  }
}

// Behind the checksum: what a process that is wrong, not a wire that is bad, may send.
TEST(Frame, WithAnyBodyIsRefusedOrWrittenAgainAsItStands) {
  std::mt19937_64 random(seed());
  int read = 0;
  const auto check = [&](FrameKind kind, std::span<const std::byte> body) {
    Bytes again;
    try {
      again = kind == FrameKind::description ? description_frame(read_description(body))
                                             : tensors_frame(kind, 0, read_tensors(kind, body));
    } catch (const OracleError&) {
      return;
    }
    ++read;
    again.erase(again.begin(), again.begin() + FrameHeader::bytes);
    EXPECT_EQ(again, Bytes(body.begin(), body.end()));
  };
  for (const Bytes& frame : {description_frame(two_and_one), tensors_frame(FrameKind::run, 0, two_tensors)}) {
    const FrameKind kind = read_header(frame).kind;
    const Bytes body(frame.begin() + FrameHeader::bytes, frame.end());
    check(kind, body);
    for (std::size_t length = 0; length < body.size(); ++length) check(kind, std::span(body).first(length));
    for (int tries = 0; tries < 3000; ++tries) {
      Bytes damaged = body;
      for (int bits = 0; bits <= tries % 3; ++bits) damaged[random() % body.size()] ^= std::byte(1 << random() % 8);
      check(kind, damaged);
    }
  }
  EXPECT_GT(read, 100);
}

TEST(Frame, AsksForNoMemoryThatItsBytesDoNotHold) {
  Bytes body = tensors_frame(FrameKind::answer, 0, std::vector{tensor<double>({1, 1}, {1})});
  body.erase(body.begin(), body.begin() + FrameHeader::bytes);
  const auto set = [&](std::size_t dim, int byte, int value) {
    body[12 + 8 * dim + static_cast<std::size_t>(byte)] = std::byte(value);
  };
  // 2^40 x 2^40, 2^60 x 1, and 2^61 x 1, whose bytes are 0 in 64 bits.
  for (const auto& [byte, first, second] : {std::array{5, 1, 1}, std::array{7, 16, 0}, std::array{7, 32, 0}}) {
    for (const int i : {0, 5, 7}) {
      set(0, i, i == byte ? first : 0);
      set(1, i, i == byte ? second : 0);
    }
    set(1, 0, second == 0 ? 1 : 0);
    EXPECT_PRED2(contains, message_of<OracleError>([&] { static_cast<void>(read_tensors(FrameKind::answer, body)); }),
                 "8 bytes left for numbers");
  }
}

TEST(Frame, ChecksumIsThatOfZlib) {
  const std::string_view digits = "123456789";
  EXPECT_EQ(crc32(std::as_bytes(std::span(digits))), 0xcbf43926U);
  std::mt19937_64 random(seed());
  Bytes bytes;
  for (int length = 0; length < 40; ++length) {
    std::uint32_t bitwise = 0xffffffffU;
    for (const std::byte byte : bytes) {
      bitwise ^= std::to_integer<std::uint32_t>(byte);
      for (int bit = 0; bit < 8; ++bit) bitwise = (bitwise >> 1) ^ ((bitwise & 1) != 0 ? 0xedb88320U : 0U);
    }
    EXPECT_EQ(crc32(bytes), ~bitwise) << length;
    bytes.push_back(std::byte(random() & 255));
  }
}

// --- sessions with a process that says what we wrote down ------------------------------------------------------------

const Description two_in_two_out{{{"x", TensorType::float32, {2}}}, {{"y", TensorType::float32, {2}}}};

std::vector<Tensor> numbers(float a, float b) { return {tensor<float>({2}, {a, b})}; }

Bytes answer(std::uint64_t id, float a, float b) { return tensors_frame(FrameKind::answer, id, numbers(a, b)); }

/// A process that sends bytes whatever it is told, and then does what a line of shell says.
class Speaker {
 public:
  explicit Speaker(const std::vector<Bytes>& frames, std::string then = "exec cat >/dev/null")
      : then_(std::move(then)) {
    std::ofstream file(folder_ / "frames", std::ios::binary);
    for (const Bytes& frame : frames)
      file.write(reinterpret_cast<const char*>(frame.data()), static_cast<std::streamsize>(frame.size()));
  }
  [[nodiscard]] std::vector<std::string> command() const {
    return {"sh", "-c", "cat \"$0\"; " + then_, (folder_ / "frames").string()};
  }

 private:
  TempFolder folder_;
  std::string then_;
};

bool no_child_is_left() { return ::waitpid(-1, nullptr, WNOHANG) == -1 && errno == ECHILD; }

/// What a session says to a run, after the description, where a process sends such frames; the session is then of no
/// more use, says so, and no process is left.
std::string said_to_a_run(const std::vector<Bytes>& frames, const std::string& then = "exec cat >/dev/null",
                          std::chrono::milliseconds patience = 60s) {
  std::vector<Bytes> all = frames;
  all.insert(all.begin(), description_frame(two_in_two_out));
  const Speaker speaker(all, then);
  RemoteSession session(speaker.command(), {.call = patience});
  const auto run = [&] {
    session.run(
        1, [](std::size_t) { return numbers(1, 2); }, [](auto&&...) {});
  };
  const std::string said = message_of<OracleError>(run);
  EXPECT_FALSE(session.alive());
  EXPECT_TRUE(no_child_is_left());
  EXPECT_EQ(message_of<OracleError>(run), said);
  return said;
}

TEST(RemoteSession, TakesAnswersInAnyOrderAndGoesOnAfterAFailure) {
  const Speaker speaker({description_frame(two_in_two_out), answer(2, 3, 4), answer(1, 1, 2),
                         failure_frame(3, "too hot"), answer(4, 9, 9), answer(5, 7, 8)});
  RemoteSession session(speaker.command());
  EXPECT_EQ(session.description(), two_in_two_out);
  std::vector<std::pair<std::size_t, std::vector<Tensor>>> taken;
  const auto take = [&](std::size_t index, std::vector<Tensor> outputs) {
    taken.emplace_back(index, std::move(outputs));
  };
  const auto make = [](std::size_t) { return numbers(0, 0); };
  session.run(2, make, take);
  EXPECT_PRED2(contains, message_of<OracleError>([&] { session.run(2, make, take); }), "a run failed: too hot");
  EXPECT_TRUE(session.alive());
  EXPECT_EQ(session.in_flight(), 0);
  session.run(1, make, take);
  using Taken = std::pair<std::size_t, std::vector<Tensor>>;
  EXPECT_EQ(taken, (std::vector<Taken>{{1, numbers(3, 4)}, {0, numbers(1, 2)}, {0, numbers(7, 8)}}));
  EXPECT_THROW(static_cast<void>(session.receive()), OracleError);
  EXPECT_THROW(session.submit(two_tensors), OracleError);
}

TEST(RemoteSession, SaysWhatAWrongAnswerWas) {
  EXPECT_PRED2(contains, said_to_a_run({answer(7, 1, 2)}), "it answered run 7, which is not in flight");
  EXPECT_PRED2(contains, said_to_a_run({failure_frame(0, "lost the device")}), "it failed: lost the device");
  EXPECT_PRED2(contains, said_to_a_run({hello_frame()}), "a frame of the kind hello, expected an answer");
  EXPECT_PRED2(contains, said_to_a_run({tensors_frame(FrameKind::answer, 1, two_tensors)}), "a body of");
  EXPECT_PRED2(contains, said_to_a_run({tensors_frame(FrameKind::answer, 1, std::vector{tensor<float>({1}, {1})})}),
               "float32, 1, expected y, float32, 2");
  EXPECT_PRED2(contains, said_to_a_run({tensors_frame(FrameKind::answer, 1, {})}), "0 tensors, expected 1");
  Bytes damaged = answer(1, 1, 2);
  damaged.back() ^= std::byte(1);
  EXPECT_PRED2(contains, said_to_a_run({damaged}), "a frame of the kind answer is damaged");
  // A header in order with a body of 2^60 bytes.
  Bytes huge = answer(1, 1, 2);
  huge.resize(FrameHeader::bytes);
  huge[23] = std::byte(16);
  const std::uint32_t crc = crc32(std::span(huge).first(28));
  std::memcpy(huge.data() + 28, &crc, 4);
  EXPECT_PRED2(contains, said_to_a_run({huge}), "bytes, expected at most 28");
}

TEST(RemoteSession, SaysHowAProcessEnded) {
  EXPECT_PRED2(contains, said_to_a_run({}, "exit 5"), "ended with exit status 5");
  EXPECT_PRED2(contains, said_to_a_run({}, "kill -9 $$"), "was ended by signal 9 (SIGKILL)");
  Bytes half = answer(1, 1, 2);
  half.resize(half.size() - 1);
  EXPECT_PRED2(contains, said_to_a_run({half}, "exit 0"), "no end of a frame: its output ended");
  EXPECT_PRED2(contains, said_to_a_run({}, "exec sleep 60 >&-"),
               "its output ended; the process did not end by itself and was killed");
  EXPECT_PRED2(contains, said_to_a_run({}, "exec cat /dev/zero"), "a frame begins with \"????\"");
  // Nothing that a process does to its input may end this one.
  EXPECT_PRED2(contains, said_to_a_run({}, "exec sleep 60 <&-", 100ms), "no answer within 0.1 s");
}

TEST(RemoteSession, RefusesAProcessThatIsNoOracle) {
  const auto said = [](const std::vector<std::string>& command, std::chrono::milliseconds patience = 60s) {
    const std::string message = message_of<OracleError>([&] { RemoteSession({command}, {.start = patience}); });
    EXPECT_TRUE(no_child_is_left());
    return message;
  };
  EXPECT_PRED2(contains, said({"twoheads_no_such_program"}), "cannot start twoheads_no_such_program: No such file");
  EXPECT_PRED2(contains, said({"/"}), "cannot start /: ");
  EXPECT_PRED2(contains, said({}), "no words");
  EXPECT_PRED2(contains, said({"false"}),
               "'false': no description of its graph: its output ended; the process ended with "
               "exit status 1");
  EXPECT_PRED2(contains, said({"echo", "this is no oracle and says so in many words"}), "begins with \"this\"");
  EXPECT_PRED2(contains, said({"sleep", "60"}, 100ms), "no description of its graph within 0.1 s");
  EXPECT_PRED2(contains, said({"yes"}), "a frame begins with \"y?y?\"");
  EXPECT_PRED2(contains, said(Speaker({answer(1, 2, 3)}).command()), "expected a description");
  EXPECT_PRED2(contains, said(Speaker({failure_frame(0, "no device")}).command()), "it failed: no device");
  EXPECT_PRED2(contains, message_of<LimitError>([] { RemoteSession({"true"}, {.in_flight = 0}); }), "0 runs in flight");
}

TEST(RemoteSession, AProcessTakesOverNoBlockedSignalsAndNoFiles) {
  const auto said = [](const std::string& line) {
    return message_of<OracleError>([&] { RemoteSession({"sh", "-c", line}); });
  };
  sigset_t term, before;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  ASSERT_EQ(::pthread_sigmask(SIG_BLOCK, &term, &before), 0);
  const std::string message = said("kill -TERM $$; exit 6");
  ASSERT_EQ(::pthread_sigmask(SIG_SETMASK, &before, nullptr), 0);
  EXPECT_PRED2(contains, message, "was ended by signal 15 (SIGTERM)");
#ifdef __GLIBC_PREREQ
#if __GLIBC_PREREQ(2, 34)
  const int file = ::dup2(STDERR_FILENO, 77);
  ASSERT_EQ(file, 77);
  EXPECT_PRED2(contains, said("test -e /proc/self/fd/77 && exit 6; exit 5"), "ended with exit status 5");
  ::close(file);
#endif
#endif
}

TEST(RemoteSession, WaitsForNoAnswerLongerThanAClockCanTell) {
  const Speaker speaker({description_frame(two_in_two_out), answer(1, 3, 4)});
  RemoteSession session(speaker.command(),
                        {.start = std::chrono::milliseconds::max(), .call = std::chrono::milliseconds::max()});
  EXPECT_EQ(session.submit(numbers(1, 2)), 1U);
  EXPECT_EQ(session.receive().outputs, numbers(3, 4));
}

// --- our own program -------------------------------------------------------------------------------------------------

const std::string small_core = "--rows 9 --heads 2 --key-cols 20 --value-cols 16 --batch 3 --score-scale 0.5 ";
const CoreGraph small_core_graph{3, 2, 9, 20, 16};

/// The command of our own oracle.
std::vector<std::string> oracle(const std::string& arguments) {
  std::vector<std::string> command = words(arguments);
  command.insert(command.begin(), std::string(TWOHEADS_PROGRAM_DIR) + "/twoheads_oracle");
  return command;
}

/// Heads of random rows.
template <class Scalar>
struct Heads {
  explicit Heads(std::size_t count, const CoreGraph& graph = small_core_graph) {
    Random random(seed());
    for (std::size_t i = 0; i < 3 * count; ++i)
      rows.push_back(
          random.matrix<float>(graph.rows, i % 3 < 2 ? graph.key_cols : graph.value_cols).template cast<Scalar>());
    for (std::size_t i = 0; i < count; ++i)
      calls.push_back({view(rows[3 * i]), view(rows[3 * i + 1]), view(rows[3 * i + 2])});
  }
  std::vector<Matrix<Scalar>> rows;
  std::vector<CoreCall<Scalar>> calls;

  [[nodiscard]] std::vector<Matrix<Scalar>> expected(const OracleLimits& limits) const {
    programs::EigenCore<Scalar> core(limits);
    std::vector<Matrix<Scalar>> found;
    for (const CoreCall<Scalar>& call : calls) found.push_back(core(call.q, call.k, call.v));
    return found;
  }
};

using CoreAnswers = std::vector<Matrix<float>>;

CoreAnswers ask(RemoteCore<float>& core, const Heads<float>& heads) {
  return core(std::span<const CoreCall<float>>(heads.calls));
}

/// A run of our oracle's attention core, which takes two heads at most.
template <class Scalar>
std::vector<Matrix<Scalar>> answers_with(const std::string& faults, std::size_t heads = 2,
                                         std::chrono::milliseconds patience = 60s) {
  RemoteCore<Scalar> core(RemoteSession(oracle(small_core + faults), {.call = patience}));
  const Heads<Scalar> given(heads);
  return core(std::span<const CoreCall<Scalar>>(given.calls));
}

TEST(RemoteCore, AnswersAnyNumberOfHeadsInTheirOrder) {
  RemoteCore<float> core(RemoteSession(oracle(small_core), {.in_flight = 3}));
  const OracleLimits limits = core.limits(OracleKind::plain, 0.5);
  EXPECT_EQ(core.graph(), small_core_graph);
  EXPECT_EQ(limits.batch, 9);
  EXPECT_TRUE(limits.fixed_rows);
  for (const std::size_t count : {0U, 1U, 6U, 7U, 40U}) {
    const Heads<float> heads(count);
    EXPECT_EQ(ask(core, heads), heads.expected(limits)) << count;
  }
  const Matrix<float> little = Matrix<float>::Zero(9, 19);
  const std::vector<CoreCall<float>> wrong{{view(little), view(little), view(little)}};
  EXPECT_THROW(static_cast<void>(core(std::span<const CoreCall<float>>(wrong))), LimitError);
}

TEST(RemoteCore, WritesAndReadsMoreAtOnceThanAChannelHolds) {
  const CoreGraph graph{16, 4, 65, 32, 32};
  RemoteCore<float> core(
      RemoteSession(oracle("--rows 65 --heads 4 --key-cols 32 --value-cols 32 --batch 16"), {.in_flight = 4}));
  const Heads<float> heads(5 * 64, graph);
  EXPECT_EQ(ask(core, heads), heads.expected(core.limits(OracleKind::plain, 1)));
}

TEST(RemoteCore, EachFaultIsAnErrorThatNamesItsCause) {
  const auto said = [](const std::string& faults, std::chrono::milliseconds patience = 60s) {
    const std::string message =
        message_of<OracleError>([&] { static_cast<void>(answers_with<float>(faults, 2, patience)); });
    EXPECT_TRUE(no_child_is_left());
    return message;
  };
  EXPECT_PRED2(contains, said("--fault throw"), "a run failed: a fault that was asked for");
  EXPECT_PRED2(contains, said("--fault exit"), "ended with exit status 3");
  EXPECT_PRED2(contains, said("--fault hang", 100ms), "no answer within 0.1 s");
  EXPECT_PRED2(contains, said("--fault late --late-ms 60000", 100ms), "no answer within 0.1 s");
  EXPECT_PRED2(contains, said("--fault size"), "3 x 2 x 9, expected o, float32, 3 x 2 x 9 x 16");
  EXPECT_NO_THROW(static_cast<void>(answers_with<float>("--fault late --late-ms 1")));
  EXPECT_FALSE(answers_with<float>("--fault nan").front().allFinite());
  EXPECT_FALSE(answers_with<double>("--scalar double --fault nan").front().allFinite());
  // Two runs: the second one has the numbers of the first.
  const CoreAnswers other = answers_with<float>("--fault other", 12);
  EXPECT_EQ(other.back(), other[5]);
  EXPECT_NE(answers_with<float>("", 12).back(), other[5]);
}

TEST(RemoteCore, FaultsComeAtTheirShareAndTheSameForASeed) {
  const auto failures = [](const std::string& faults) {
    RemoteCore<float> core(RemoteSession(oracle(small_core + faults)));
    const Heads<float> heads(1);
    std::string found;
    for (int i = 0; i < 60; ++i) {
      try {
        static_cast<void>(ask(core, heads));
        found += '.';
      } catch (const OracleError&) {
        found += 'x';
      }
    }
    return found;
  };
  const std::string quarter = failures("--fault throw:0.25 --seed 4");
  const auto count = std::count(quarter.begin(), quarter.end(), 'x');
  EXPECT_TRUE(count > 4 && count < 30) << quarter;
  EXPECT_EQ(failures("--fault throw:0.25 --seed 4"), quarter);
  EXPECT_NE(failures("--fault throw:0.25 --seed 5"), quarter);
  EXPECT_EQ(failures("--fault throw:0"), std::string(60, '.'));
}

TEST(RemoteCore, FindsOutThatItsProcessWasKilledWhileAnotherLives) {
  RemoteCore<float> first(RemoteSession{oracle(small_core)}), second(RemoteSession{oracle(small_core)});
  const Heads<float> heads(2);
  const CoreAnswers before = ask(first, heads);
  ASSERT_EQ(::kill(first.session().pid(), SIGKILL), 0);
  EXPECT_PRED2(contains, message_of<OracleError>([&] { static_cast<void>(ask(first, heads)); }),
               "was ended by signal 9 (SIGKILL)");
  EXPECT_THROW(static_cast<void>(ask(first, heads)), OracleError);
  EXPECT_EQ(ask(second, heads), before);
}

TEST(RemoteCore, StartsAndRunsOnSeveralThreadsAtOnce) {
  const Heads<float> heads(13);
  const CoreAnswers expected = heads.expected(limits_of(small_core_graph, OracleKind::plain, 0.5));
  std::array<CoreAnswers, 4> found;
  std::vector<std::thread> threads;
  for (CoreAnswers& answers : found)
    threads.emplace_back([&answers, &heads] {
      RemoteCore<float> core(RemoteSession{oracle(small_core)});
      answers = ask(core, heads);
    });
  for (std::thread& thread : threads) thread.join();
  for (const CoreAnswers& answers : found) EXPECT_EQ(answers, expected);
  EXPECT_TRUE(no_child_is_left());
}

TEST(RemoteCore, RefusesAGraphThatIsNone) {
  const auto said = [](const std::string& arguments) {
    return message_of<LimitError>([&] { RemoteCore<float>(RemoteSession(oracle(arguments))); });
  };
  EXPECT_PRED2(contains, said("--graph transformer"), "the graph has 4 inputs and 1 outputs, expected 3 and 1");
  EXPECT_PRED2(contains, said("--scalar double"), "float64, 4 x 4 x 65 x 32, expected float32");
  Description description = describe(small_core_graph, TensorType::float32);
  const auto refused = [&](const std::function<void(Description&)>& change) {
    Description changed = description;
    change(changed);
    return message_of<LimitError>([&] { static_cast<void>(core_graph(changed, TensorType::float32)); });
  };
  EXPECT_EQ(core_graph(description, TensorType::float32), small_core_graph);
  EXPECT_PRED2(contains, refused([](Description& d) { d.inputs[1].name = "keys"; }),
               "no input 'k', it has: q, float32");
  EXPECT_PRED2(contains, refused([](Description& d) { d.inputs[1].dims[2] = 8; }),
               "expected k, float32, 3 x 2 x 9 x 20");
  EXPECT_PRED2(contains, refused([](Description& d) { d.inputs[0].dims[0] = 0; }),
               "any x 2 x 9 x 20, expected float32");
  EXPECT_PRED2(contains, refused([](Description& d) { d.outputs[0].dims[3] = 20; }), "expected 3 x 2 x 9 x 16");
  EXPECT_PRED2(contains, refused([](Description& d) { d.inputs[2].dims.pop_back(); }), "4 fixed dimensions");
}

// --- whole attention -------------------------------------------------------------------------------------------------

/// Runs a graph in this process, the last run first.
struct RunsHere {
  Description described;
  GraphRun graph;
  RemoteSessionOptions given = {};

  [[nodiscard]] const Description& description() const { return described; }
  [[nodiscard]] const RemoteSessionOptions& options() const { return given; }
  void run(std::size_t count, const std::function<std::vector<Tensor>(std::size_t)>& make,
           const std::function<void(std::size_t, std::vector<Tensor>)>& take) const {
    while (count-- > 0) take(count, *graph(make(count)));
  }
};

const std::vector<Mask> masks{Mask{MaskKind::full}, Mask::causal(), Mask::sliding_window(7)};

/// Attention of three heads over 40 tokens, through calls of an oracle.
template <class Scalar>
Matrix<Scalar> attention(const Mask& mask, AnyOracle<Scalar> any, TokenEncoding encoding = TokenEncoding::projected) {
  AttentionSpec spec;
  spec.heads = 3;
  spec.kv_heads = 3;
  spec.head_dim = 5;
  spec.value_dim = 4;
  spec.mask = mask;
  Random random(seed());
  const Matrix<Scalar> q = random.matrix<float>(40, 15).template cast<Scalar>();
  const Matrix<Scalar> k = random.matrix<float>(40, 15).template cast<Scalar>();
  const Matrix<Scalar> v = random.matrix<float>(40, 12).template cast<Scalar>();
  Matrix<Scalar> out(40, 12);
  GridAttention<AnyOracle<Scalar>> attend(any, {.encoding = encoding});
  attend(projected_input(spec, view(q), view(k), view(v)), span(out));
  return out;
}

template <class Scalar>
std::string flags_of(OracleKind kind) {
  return std::string("--oracle ") + name(kind) + " --scalar " + (sizeof(Scalar) == 4 ? "float" : "double");
}

template <class Scalar>
void expect_same_bits_of_core(OracleKind kind) {
  const OracleLimits limits = limits_of(small_core_graph, kind, 0.5);
  const AnyOracle<Scalar> here([&] { return core_oracle<Scalar>(limits, programs::EigenCore<Scalar>(limits)); });
  const AnyOracle<Scalar> there(
      [&] { return remote_core_oracle<Scalar>(oracle(small_core + flags_of<Scalar>(kind)), kind, 0.5); });
  for (const Mask& mask : masks)
    EXPECT_EQ(attention(mask, there), attention(mask, here)) << name(kind) << ", " << name(mask.kind);
}

TEST(RemoteCore, GivesAttentionTheBitsOfTheSameCoreInThisProcess) {
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal}) {
    expect_same_bits_of_core<float>(kind);
    expect_same_bits_of_core<double>(kind);
  }
}

const std::string small_transformer =
    "--graph transformer --rows 9 --heads 2 --key-cols 20 --value-cols 16 --width 90 --batch 3 --score-scale 0.5 ";
const TransformerGraph small_transformer_graph{3, 2, 9, 90, 20, 16};

template <class Scalar>
void expect_same_bits_of_transformer(OracleKind kind) {
  OracleLimits limits = limits_of(small_transformer_graph, kind, 0.5);
  const RunsHere runs{describe(small_transformer_graph, tensor_type<Scalar>),
                      graph_run(small_transformer_graph, SmallTransformer<Scalar>(limits))};
  const AnyOracle<Scalar> here([&] { return RemoteTransformer<Scalar, RunsHere>(runs, kind, 0.5); });
  const AnyOracle<Scalar> there([&] {
    return RemoteTransformer<Scalar>(RemoteSession(oracle(small_transformer + flags_of<Scalar>(kind))), kind, 0.5);
  });
  // Sums in the order of columns and keys have the same bits with and without columns of zeros.
  const AnyOracle<Scalar> own([&] { return SmallTransformer<Scalar>(limits, SumOrder::by_key); });
  const AnyOracle<Scalar> by_key([&] {
    return RemoteTransformer<Scalar>(RemoteSession(oracle(small_transformer + "--by-key " + flags_of<Scalar>(kind))),
                                     kind, 0.5);
  });
  for (const Mask& mask : masks) {
    EXPECT_EQ(attention(mask, there), attention(mask, here)) << name(kind) << ", " << name(mask.kind);
    EXPECT_EQ(attention(mask, by_key), attention(mask, own)) << name(kind) << ", " << name(mask.kind);
  }
}

TEST(RemoteTransformer, GivesAttentionTheBitsOfTheSameTransformerInThisProcess) {
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal}) {
    expect_same_bits_of_transformer<float>(kind);
    expect_same_bits_of_transformer<double>(kind);
  }
}

TEST(RemoteTransformer, TakesCallsOfSeveralWeightsHeadsThatOverlapAndALayerMlp) {
  const OracleLimits limits = limits_of(small_transformer_graph, OracleKind::causal, 0.5);
  Random random(seed());
  const auto projection = [&](Index begin, Index count, Index cols) {
    return Projection<float>::dense(begin, std::make_shared<const Matrix<float>>(random.matrix<float>(count, cols)));
  };
  std::vector<SmallWeights<float>> weights(3);
  for (SmallWeights<float>& w : weights) {
    w.width = 7;
    w.layers.emplace_back();
    w.layers.front().output_width = 6;
    w.layers.front().heads.push_back({projection(1, 5, 3), projection(0, 7, 3), projection(2, 4, 4), 0});
    w.layers.front().heads.push_back({projection(0, 2, 4), projection(3, 4, 4), projection(0, 7, 4), 2});
  }
  weights[1].layers.front().heads.pop_back();
  weights[2].layers.front().mlp = RowFunction([](Index, auto& rows) { rows.array() += 1; });
  std::vector<OracleCall<float>> calls;
  for (const std::size_t w : {0, 0, 0, 0, 1, 2, 0}) calls.push_back({&weights[w], random.matrix<float>(9, 7)});

  RemoteTransformer<float> there(RemoteSession(oracle(small_transformer + "--by-key --oracle causal")),
                                 OracleKind::causal, 0.5);
  SmallTransformer<float> here(limits, SumOrder::by_key);
  EXPECT_EQ(run_all(there, std::span<const OracleCall<float>>(calls)),
            run_all(here, std::span<const OracleCall<float>>(calls)));
  EXPECT_EQ(there.run(calls[5]), here.run(calls[5]));
  weights[0].layers.emplace_back(weights[0].layers.front());
  EXPECT_THROW(static_cast<void>(there.run(calls[0])), LimitError);
  EXPECT_THROW(RemoteTransformer<double>(RemoteSession(oracle(small_transformer)), OracleKind::plain, 1), LimitError);
}

}  // namespace
