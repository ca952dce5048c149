#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

/// A program of ours that runs beside the test; what it writes goes to two files.
class RunningProgram {
 public:
  RunningProgram(const std::string& name, const std::vector<std::string>& arguments, const std::filesystem::path& out,
                 const std::filesystem::path& err) {
    const std::string program = std::string(TWOHEADS_PROGRAM_DIR) + "/" + name;
    std::vector<std::string> all{program};
    all.insert(all.end(), arguments.begin(), arguments.end());
    std::vector<char*> words;
    for (std::string& word : all) words.push_back(word.data());
    words.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ != 0) return;
    const auto redirect = [](const std::filesystem::path& path, int to) {
      ::dup2(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), to);
    };
    redirect(out, STDOUT_FILENO);
    redirect(err, STDERR_FILENO);
    ::execv(program.c_str(), words.data());
    ::_exit(127);
  }

  [[nodiscard]] bool ended() { return done_ || (done_ = ::waitpid(pid_, &status_, WNOHANG) == pid_); }
  /// Waits for its end: the exit code, or -1 where a signal ended it.
  int wait() {
    if (!done_) ::waitpid(pid_, &status_, 0);
    done_ = true;
    return WIFEXITED(status_) ? WEXITSTATUS(status_) : -1;
  }
  void send(int signal) const { ::kill(pid_, signal); }

  [[nodiscard]] std::vector<pid_t> children() const {
    const std::string own = std::to_string(pid_);
    std::vector<pid_t> found;
    for (const std::filesystem::directory_entry& task : std::filesystem::directory_iterator("/proc/" + own + "/task")) {
      std::ifstream in(task.path() / "children");
      for (pid_t child = 0; in >> child;) found.push_back(child);
    }
    return found;
  }

 private:
  pid_t pid_ = -1;
  int status_ = 0;
  bool done_ = false;
};

inline void pause(int milliseconds) { std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds)); }
