#pragma once

#include <fcntl.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstring>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <thread>
#include <twoheads/base/errors.hpp>
#include <utility>
#include <vector>

extern char** environ;  // NOLINT: POSIX asks programs to declare it

namespace twoheads {
namespace detail {

/// A socket pair that no other child inherits.
struct SocketPair {
  SocketPair() {
#ifdef SOCK_CLOEXEC
    const int type = SOCK_STREAM | SOCK_CLOEXEC;
#else
    const int type = SOCK_STREAM;
#endif
    int ends[2];
    if (::socketpair(AF_UNIX, type, 0, ends) != 0)
      throw OracleError(text("no socket pair for an oracle's process: ", std::generic_category().message(errno)));
    ours = ends[0];
    childs = ends[1];
#ifndef SOCK_CLOEXEC
    for (const int end : ends) ::fcntl(end, F_SETFD, FD_CLOEXEC);
#endif
  }
  ~SocketPair() {
    if (ours >= 0) ::close(ours);
    if (childs >= 0) ::close(childs);
  }
  SocketPair(const SocketPair&) = delete;
  SocketPair& operator=(const SocketPair&) = delete;

  [[nodiscard]] int take_ours() { return std::exchange(ours, -1); }

  int ours = -1;
  int childs = -1;
};

/// Starts a command, found as the shell finds it, with these files as its input and output; our standard error is its
/// own, and nothing else of ours is open in it.
///
///   Throws   OracleError where it cannot be started
///   Corner   posix_spawn, not Boost.Process: that of Boost 1.74 closes, with limit_handles, the pipe by which it would
///            learn that there is no such command
[[nodiscard]] inline pid_t spawn(const std::vector<std::string>& command, int input, int output) {
  struct Actions {
    Actions() {
      ::posix_spawn_file_actions_init(&files);
      ::posix_spawnattr_init(&attributes);
    }
    ~Actions() {
      ::posix_spawn_file_actions_destroy(&files);
      ::posix_spawnattr_destroy(&attributes);
    }
    Actions(const Actions&) = delete;
    Actions& operator=(const Actions&) = delete;
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
  } actions;
  ::posix_spawn_file_actions_adddup2(&actions.files, input, STDIN_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions.files, output, STDOUT_FILENO);
  short flags = POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF;
#if defined(__GLIBC__) && defined(__GLIBC_PREREQ)
#if __GLIBC_PREREQ(2, 34)
  ::posix_spawn_file_actions_addclosefrom_np(&actions.files, STDERR_FILENO + 1);
#endif
#elif defined(POSIX_SPAWN_CLOEXEC_DEFAULT)
  ::posix_spawn_file_actions_addinherit_np(&actions.files, STDERR_FILENO);
  flags |= POSIX_SPAWN_CLOEXEC_DEFAULT;
#endif
  // What this program blocks or ignores is its own business.
  sigset_t blocked, defaults;
  sigemptyset(&blocked);
  sigemptyset(&defaults);
  for (const int signal : {SIGPIPE, SIGINT, SIGTERM, SIGCHLD}) sigaddset(&defaults, signal);
  ::posix_spawnattr_setsigmask(&actions.attributes, &blocked);
  ::posix_spawnattr_setsigdefault(&actions.attributes, &defaults);
  ::posix_spawnattr_setflags(&actions.attributes, flags);

  std::vector<char*> arguments;
  for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  pid_t pid = -1;
  if (const int error =
          ::posix_spawnp(&pid, arguments.front(), &actions.files, &actions.attributes, arguments.data(), environ);
      error != 0)
    throw OracleError(text("cannot start ", command.front(), ": ", std::generic_category().message(error)));
  return pid;
}

/// How a process ended, from what waitpid says.
[[nodiscard]] inline std::string end_in_words(int status) {
  if (WIFEXITED(status)) return text("ended with exit status ", WEXITSTATUS(status));
  const int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  const auto known = [&]() -> const char* {
    switch (signal) {
      case SIGKILL:
        return " (SIGKILL)";
      case SIGSEGV:
        return " (SIGSEGV)";
      case SIGABRT:
        return " (SIGABRT)";
      case SIGTERM:
        return " (SIGTERM)";
      case SIGPIPE:
        return " (SIGPIPE)";
      case SIGINT:
        return " (SIGINT)";
      default:
        return "";
    }
  };
  return text("was ended by signal ", signal, known());
}

}  // namespace detail

/// A process whose standard input and output are channels of bytes to us; gone when the object is.
///
///   Laws     no SIGPIPE reaches the caller, whatever the process does; writing goes on while reading waits, so that
///            two that both write never wait for each other
///   Throws   OracleError where the process cannot be started
///   Corner   its own children outlive it where they do not mind that their input has ended
class Child {
 public:
  using Clock = std::chrono::steady_clock;  ///< what deadlines are given in

  /// Starts a command: a program, found as the shell finds it, and its arguments.
  explicit Child(const std::vector<std::string>& command) : input_(io_), output_(io_) {
    if (command.empty() || command.front().empty()) throw OracleError("an oracle's command has no words");
    detail::SocketPair to, from;
    // The child has its ends from here on; ours are closed on exec.
    pid_ = detail::spawn(command, to.childs, from.childs);
    const boost::asio::local::stream_protocol protocol;
    try {
      input_.assign(protocol, to.take_ours());
      output_.assign(protocol, from.take_ours());
    } catch (const boost::system::system_error& error) {
      static_cast<void>(end({}));
      throw OracleError(detail::text("the channels to an oracle's process cannot be used: ", error.what()));
    }
#ifdef SO_NOSIGPIPE
    const int on = 1;
    ::setsockopt(input_.native_handle(), SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof(on));
#endif
  }
  ~Child() { static_cast<void>(end(std::chrono::milliseconds(500))); }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  /// The number of the process; none once it was found to have ended, for it may be another's by then.
  [[nodiscard]] std::optional<pid_t> pid() const { return pid_ < 0 ? std::nullopt : std::optional(pid_); }

  /// Writes as much as fits now, the rest while read() waits. A process that takes no more is found by read().
  void write(std::vector<std::byte> bytes) {
    if (!input_.is_open() || write_failed_) return;
    outbox_.push_back(std::move(bytes));
    if (outbox_.size() == 1) write_next();
    io_.restart();
    io_.poll();
  }

  /// How reading ended: all bytes, not before the deadline, or the process closed its output.
  enum class Found { all, late, closed };

  /// Fills `into`. After anything but `all` nothing more is read.
  [[nodiscard]] Found read(std::span<std::byte> into, Clock::time_point deadline) {
    if (!output_.is_open()) return Found::closed;
    if (into.empty()) return Found::all;
    bool done = false;
    boost::system::error_code error;
    boost::asio::async_read(output_, boost::asio::buffer(into.data(), into.size()),
                            [&](const boost::system::error_code& found, std::size_t) {
                              done = true;
                              error = found;
                            });
    bool late = false;
    while (!done) {
      io_.restart();
      if (io_.run_one_until(deadline) == 0 && !done) {
        late = true;
        close();
        io_.run();
      }
    }
    if (!error) return Found::all;
    close();
    return late ? Found::late : Found::closed;
  }

  /// Ends the process, kills it where it has not ended by itself within `grace`, and says how it ended.
  std::string end(Clock::duration grace) {
    close();
    if (pid_ < 0) return ended_;
    const Clock::time_point until = Clock::now() + grace;
    bool killed = false;
    int status = 0;
    for (std::chrono::milliseconds pause(1);; pause = std::min(2 * pause, std::chrono::milliseconds(20))) {
      const pid_t found = ::waitpid(pid_, &status, killed ? 0 : WNOHANG);
      if (found == pid_) {
        ended_ = killed ? "did not end by itself and was killed" : detail::end_in_words(status);
        break;
      }
      if (found < 0 && errno != EINTR) {
        // Someone else waits for all children of this program; the number may be another process's by now.
        ended_ = "ended";
        break;
      }
      if (killed || found < 0) continue;
      if (Clock::now() >= until) {
        ::kill(pid_, SIGKILL);
        killed = true;
      } else {
        std::this_thread::sleep_for(pause);
      }
    }
    pid_ = -1;
    return ended_;
  }

 private:
  void write_next() {
    boost::asio::async_write(input_, boost::asio::buffer(outbox_.front()),
                             [this](const boost::system::error_code& error, std::size_t) {
                               if (error) {
                                 write_failed_ = true;
                                 outbox_.clear();
                                 return;
                               }
                               outbox_.pop_front();
                               if (!outbox_.empty()) write_next();
                             });
  }

  void close() {
    boost::system::error_code ignored;
    input_.close(ignored);
    output_.close(ignored);
  }

  boost::asio::io_context io_{1};
  boost::asio::local::stream_protocol::socket input_, output_;
  std::deque<std::vector<std::byte>> outbox_;
  bool write_failed_ = false;
  pid_t pid_ = -1;
  std::string ended_ = "has ended";
};

}  // namespace twoheads
