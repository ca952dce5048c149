#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <twoheads/remote/remote_session.hpp>
#include <twoheads/remote/remote_transformer.hpp>
#include <twoheads/remote/serve.hpp>
#include <utility>
#include <vector>

#include "support/contains.hpp"
#include "support/message_of.hpp"
#include "support/no_child_is_left.hpp"
#include "support/seed.hpp"
#include "support/shared_data.hpp"
#include "support/temp_folder.hpp"

namespace {

using namespace twoheads;
using namespace std::chrono_literals;
using Bytes = std::vector<std::byte>;

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
  std::mt19937_64 random(seed_or(61));
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
  std::mt19937_64 random(seed_or(61));
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

// --- serve -----------------------------------------------------------------------------------------------------------

/// What serve() answers to frames, and what it throws in the end.
std::pair<Bytes, std::string> served(const std::vector<Bytes>& frames, const GraphRun& run,
                                     std::uint64_t largest_run = FrameLimits::body_bytes) {
  const TempFolder folder;
  std::ofstream file(folder / "in", std::ios::binary);
  for (const Bytes& frame : frames)
    file.write(reinterpret_cast<const char*>(frame.data()), static_cast<std::streamsize>(frame.size()));
  file.close();
  const int input = ::open((folder / "in").c_str(), O_RDONLY);
  const int output = ::open((folder / "out").c_str(), O_CREAT | O_WRONLY, 0600);
  std::string fault;
  try {
    serve(input, output, two_and_one, run, largest_run);
  } catch (const OracleError& error) {
    fault = error.what();
  }
  ::close(input);
  ::close(output);
  const std::string out = read_bytes(folder / "out");
  const auto bytes = std::as_bytes(std::span(out));
  return {Bytes(bytes.begin(), bytes.end()), fault};
}

TEST(Serve, SendsAFailureForWhateverARunThrows) {
  const std::vector<Tensor> inputs{tensor<float>({4, 1, 3}, std::vector<float>(12)), tensor<double>({}, {1})};
  const Bytes run = tensors_frame(FrameKind::run, 9, inputs);
  const auto [thrown, fault] = served({run}, [](const auto&) -> std::optional<std::vector<Tensor>> { throw 42; });
  EXPECT_EQ(fault, "");
  EXPECT_EQ(read_frame(thrown).header.id, 9U);
  EXPECT_EQ(read_frame(thrown).failure, "it threw something that is no std::exception");
  const auto answer = [](const auto&) { return std::optional(std::vector{tensor<float>({7}, std::vector<float>(7))}); };
  EXPECT_EQ(served({run}, answer, run.size()).second, "");
  // The graph leaves the rows of its first input open: a run is as long as it may be.
  EXPECT_PRED2(contains, served({run}, answer, 64).second, "bytes, expected at most 64");
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

TEST(RemoteSession, KeepsTheRepliesToRunsOfTheCallerWhileOthersRun) {
  const Speaker speaker({description_frame(two_in_two_out), answer(2, 3, 4), failure_frame(1, "too cold"),
                         answer(3, 5, 6), failure_frame(5, "too hot"), answer(4, 7, 8)});
  RemoteSession session(speaker.command());
  EXPECT_EQ(session.submit(numbers(0, 0)), 1U);
  const auto make = [](std::size_t) { return numbers(0, 0); };
  std::vector<std::vector<Tensor>> taken;
  const auto take = [&](std::size_t, std::vector<Tensor> outputs) { taken.push_back(std::move(outputs)); };
  session.run(2, make, take);
  EXPECT_EQ(taken, (std::vector{numbers(3, 4), numbers(5, 6)}));
  EXPECT_EQ(session.submit(numbers(0, 0)), 4U);
  EXPECT_PRED2(contains, message_of<OracleError>([&] { session.run(1, make, take); }), "a run failed: too hot");
  EXPECT_EQ(session.in_flight(), 1) << "run 4 is the caller's";
  const RemoteSession::Reply first = session.receive();
  EXPECT_EQ(first.id, 1U);
  EXPECT_EQ(first.failure, "too cold");
  const RemoteSession::Reply second = session.receive();
  EXPECT_EQ(second.id, 4U);
  EXPECT_EQ(second.outputs, numbers(7, 8));
  EXPECT_PRED2(contains, message_of<OracleError>([&] { static_cast<void>(session.receive()); }), "no run is in flight");
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

}  // namespace
