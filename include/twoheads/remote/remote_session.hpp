#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <twoheads/base/errors.hpp>
#include <twoheads/remote/child.hpp>
#include <twoheads/remote/frame.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// How long a process may take, and how much it may send.
struct RemoteSessionOptions {
  std::chrono::milliseconds start = std::chrono::seconds(60);  ///< until the process has described its graph
  /// For the next answer, whichever run it answers; what is still to be sent is sent meanwhile.
  std::chrono::milliseconds call = std::chrono::seconds(60);
  Index in_flight = 8;  ///< runs sent before the first one is answered
  /// Most bytes of an answer; of a graph that fixes its sizes, what they come to where that is less.
  std::uint64_t largest_body = FrameLimits::body_bytes;
};

/// A process that runs a graph: tensors go in and come out, several runs at once.
///
///   Laws     a process that died, is late, or sends what it may not is ended, and an OracleError says what was found;
///            the session is then of no more use, and every later call throws that error again. A run that the graph
///            itself refuses (a frame of the kind failure) is an OracleError too, and the session goes on.
///   Corner   not for concurrent use
///   Throws   OracleError
class RemoteSession {
 public:
  /// Starts the process, and waits until it has described its graph.
  explicit RemoteSession(std::vector<std::string> command, const RemoteSessionOptions& options = {})
      : command_(std::move(command)), options_(options) {
    if (options_.in_flight < 1)
      throw LimitError(text("a session has ", options_.in_flight, " runs in flight, expected 1 or more"));
    child_ = std::make_unique<Child>(command_);
    child_->write(hello_frame());
    description_ = guarded([&] {
      const Clock::time_point deadline = after(options_.start);
      const FrameHeader header = next_header(deadline, "no description of its graph", options_.start);
      if (header.kind != FrameKind::description && header.kind != FrameKind::failure)
        throw OracleError(text("it sent a frame of the kind ", name(header.kind), ", expected a description"));
      const std::vector<std::byte> body = body_of(header, FrameLimits::description_bytes, deadline);
      if (header.kind == FrameKind::failure) throw OracleError(text("it failed: ", read_failure(body)));
      return read_description(body);
    });
    largest_answer_ = largest_body(description_.outputs, options_.largest_body);
  }

  [[nodiscard]] const Description& description() const { return description_; }   ///< of the graph
  [[nodiscard]] const RemoteSessionOptions& options() const { return options_; }  ///< as given
  /// Runs that are sent and not yet answered.
  [[nodiscard]] Index in_flight() const { return static_cast<Index>(in_flight_.size()); }
  /// Whether the session can still be used.
  [[nodiscard]] bool alive() const { return gone_.empty(); }
  /// The number of the process, for who watches it; none once it was found to have ended.
  [[nodiscard]] std::optional<pid_t> pid() const { return child_->pid(); }

  /// Sends a run and returns its id.
  std::uint64_t submit(std::span<const Tensor> inputs) {
    require_alive();
    require_fit("a run", description_.inputs, inputs);
    const std::uint64_t id = ++last_id_;
    child_->write(tensors_frame(FrameKind::run, id, inputs));
    in_flight_.insert(id);
    return id;
  }

  /// What came back for a run.
  struct Reply {
    std::uint64_t id = 0;         ///< of the run
    std::vector<Tensor> outputs;  ///< in the order of the description
    bool failed = false;          ///< the graph refused the run
    std::string failure;          ///< why the graph refused the run
  };

  /// The next reply to any of the runs submitted; waits for it where none has come.
  [[nodiscard]] Reply receive() {
    require_alive();
    if (set_aside_.empty()) return next_reply();
    Reply reply = std::move(set_aside_.front());
    set_aside_.pop_front();
    return reply;
  }

  /// Runs `count` times, as many at once as may be in flight: make(index) gives a run's inputs, take(index, outputs) is
  /// handed what came of them, in the order in which the answers come.
  ///
  ///   Throws   OracleError for the first run that fails; what `make` and `take` throw passes through. No run of these
  ///            is in flight afterwards.
  ///   Corner   replies to runs that were submitted before are kept for receive(), while the session can be used
  void run(std::size_t count, const std::function<std::vector<Tensor>(std::size_t)>& make,
           const std::function<void(std::size_t, std::vector<Tensor>)>& take) {
    std::map<std::uint64_t, std::size_t> sent;
    std::size_t next = 0;
    try {
      while (next < count || !sent.empty()) {
        while (next < count && in_flight() < options_.in_flight) {
          const std::uint64_t id = submit(make(next));
          sent.emplace(id, next++);
        }
        Reply reply = next_reply();
        const auto found = sent.find(reply.id);
        if (found == sent.end()) {
          set_aside_.push_back(std::move(reply));
          continue;
        }
        const std::size_t index = found->second;
        sent.erase(found);
        if (reply.failed) throw OracleError(about(text("a run failed: ", reply.failure)));
        take(index, std::move(reply.outputs));
      }
    } catch (...) {
      drain(sent);
      throw;
    }
  }

 private:
  using Clock = Child::Clock;

  template <class... Parts>
  [[nodiscard]] static std::string text(const Parts&... parts) {
    return detail::text(parts...);
  }

  /// A clock cannot be set to any time.
  [[nodiscard]] static Clock::time_point after(std::chrono::milliseconds patience) {
    return Clock::now() + std::min<std::chrono::milliseconds>(patience, std::chrono::hours(24 * 365));
  }

  void require_alive() const {
    if (!alive()) throw OracleError(gone_);
  }

  /// Waits for what comes back next.
  [[nodiscard]] Reply next_reply() {
    require_alive();
    if (in_flight_.empty()) throw OracleError("a session was asked for a reply, and no run is in flight");
    return guarded([&] {
      const Clock::time_point deadline = after(options_.call);
      const FrameHeader header = next_header(deadline, "no answer", options_.call);
      if (header.kind != FrameKind::answer && header.kind != FrameKind::failure)
        throw OracleError(text("it sent a frame of the kind ", name(header.kind), ", expected an answer"));
      Reply reply;
      reply.id = header.id;
      reply.failed = header.kind == FrameKind::failure;
      const bool known = in_flight_.count(header.id) > 0;
      if (!known && !reply.failed) throw OracleError(text("it answered run ", header.id, ", which is not in flight"));
      const std::vector<std::byte> body =
          body_of(header, reply.failed ? FrameLimits::failure_bytes : largest_answer_, deadline);
      if (reply.failed) {
        reply.failure = read_failure(body);
        if (!known) throw OracleError(text("it failed: ", reply.failure));
      } else {
        reply.outputs = read_tensors(header.kind, body);
        require_fit("it answered a run", description_.outputs, reply.outputs);
      }
      in_flight_.erase(header.id);
      return reply;
    });
  }

  /// Takes the replies to these runs, which nobody waits for any more.
  void drain(std::map<std::uint64_t, std::size_t>& sent) noexcept {
    try {
      while (alive() && !sent.empty()) {
        Reply reply = next_reply();
        if (sent.erase(reply.id) == 0) set_aside_.push_back(std::move(reply));
      }
    } catch (const std::exception&) {
      // The session is of no more use then, and says so when it is next asked.
    }
  }

  [[nodiscard]] std::string about(const std::string& what) const {
    std::string words = "the oracle '";
    for (const std::string& word : command_) words.append(&word == &command_.front() ? "" : " ").append(word);
    return words.append("': ").append(what);
  }

  /// Does what reads from the process; an error is the end of the session.
  template <class Read>
  [[nodiscard]] std::invoke_result_t<const Read&> guarded(const Read& read) {
    try {
      return read();
    } catch (const OracleError& error) {
      gone_ = about(error.what());
    } catch (...) {
      gone_ = about("out of step with the process after another error");
      child_->end({});
      throw;
    }
    // It has nothing to say any more.
    child_->end({});
    in_flight_.clear();
    throw OracleError(gone_);
  }

  /// Reads so many bytes, or says why there are not so many.
  void read(std::span<std::byte> into, Clock::time_point deadline, const char* missing,
            std::chrono::milliseconds patience) {
    switch (child_->read(into, deadline)) {
      case Child::Found::all:
        return;
      case Child::Found::late:
        throw OracleError(text(missing, " within ", static_cast<double>(patience.count()) / 1000, " s"));
      case Child::Found::closed:
        // A process that has ended is not yet a process that can be reaped.
        throw OracleError(
            text(missing, ": its output ended; the process ", child_->end(std::chrono::milliseconds(500))));
    }
  }

  [[nodiscard]] FrameHeader next_header(Clock::time_point deadline, const char* missing,
                                        std::chrono::milliseconds patience) {
    std::array<std::byte, FrameHeader::bytes> bytes;
    read(bytes, deadline, missing, patience);
    return read_header(bytes);
  }

  [[nodiscard]] std::vector<std::byte> body_of(const FrameHeader& header, std::uint64_t most,
                                               Clock::time_point deadline) {
    require_body_within(header, most);
    std::vector<std::byte> body(static_cast<std::size_t>(header.body_bytes));
    read(body, deadline, "no end of a frame", header.kind == FrameKind::description ? options_.start : options_.call);
    require_intact(header, body);
    return body;
  }

  std::vector<std::string> command_;
  RemoteSessionOptions options_;
  std::unique_ptr<Child> child_;
  Description description_;
  std::uint64_t largest_answer_ = 0;
  std::uint64_t last_id_ = 0;
  std::set<std::uint64_t> in_flight_;
  std::deque<Reply> set_aside_;  ///< to runs of the caller, found while run() waited for its own
  std::string gone_;             ///< why the session is of no more use; empty while it is
};

}  // namespace twoheads
