#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "support/frames.hpp"
#include "support/shared_data.hpp"
#include "support/temp_folder.hpp"

/// What answers calls by graphs: Node with ONNX Runtime, where they are there.
namespace onnx_runner {

using frames::Frame;

/// The folder of onnxruntime-node, or nothing.
inline std::optional<std::filesystem::path> onnxruntime_folder() {
  std::filesystem::path folder = std::filesystem::path(TWOHEADS_SOURCE_DIR) / "build/onnxruntime/node_modules";
  if (const char* given = std::getenv("TWOHEADS_ONNXRUNTIME")) folder = given;
  std::error_code error;
  if (!std::filesystem::exists(folder / "onnxruntime-node", error)) return std::nullopt;
  if (std::system("command -v node >/dev/null 2>&1") != 0) return std::nullopt;
  return folder;
}

struct RunnerResult {
  int exit_code = -1;
  std::vector<Frame> frames;
  std::string err;
};

class Runner : public testing::Test {
 protected:
  void SetUp() override {
    modules_ = onnxruntime_folder();
    if (!modules_)
      GTEST_SKIP() << "Node or onnxruntime-node is absent (scripts/setup_onnxruntime.sh): nothing runs the graphs";
  }

  /// Input from a file comes in pieces of 64 KiB, from a pipe in those that have arrived.
  enum class Input { file, pipe };

  RunnerResult run_bytes(const std::string& model, const std::string& calls, Input input = Input::file) {
    const TempFolder folder;
    folder.write("graph.onnx", model);
    folder.write("calls", calls);
    const std::string command =
        "cd '" + (folder / "").string() + "' && " + (input == Input::pipe ? "cat calls | " : "<calls ") +
        "NODE_PATH='" + modules_->string() +
        "' node '" TWOHEADS_SOURCE_DIR "/examples/onnxruntime/runner.js' --model graph.onnx >answers 2>err";
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, frames::read_frames(read_bytes(folder / "answers")),
            read_bytes(folder / "err")};
  }

  std::optional<std::filesystem::path> modules_;
};

}  // namespace onnx_runner
