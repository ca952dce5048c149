// What fuzzers found worth keeping, read again in any build: see tests/fuzz and docs/testing.md.

#include "support/sanitized.hpp"

// A mapping ends with a page, so that a read beyond the end of the file is no fault that a sanitizer sees.
#ifdef TWOHEADS_TEST_SANITIZED
#define TWOHEADS_HAS_MMAP 0
#endif

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "fuzz/checkpoint.hpp"
#include "fuzz/config.hpp"
#include "fuzz/llama2c.hpp"
#include "fuzz/plan.hpp"
#include "fuzz/safetensors.hpp"
#include "fuzz/training.hpp"
#include "support/shared_data.hpp"

#ifdef TWOHEADS_WITH_REMOTE
#include "fuzz/frames.hpp"
#endif
#ifdef TWOHEADS_WITH_TEXT
#include "fuzz/tokenizer.hpp"
#endif

namespace {

using Target = void (*)(std::span<const std::uint8_t>);

/// Runs a target on each file that is kept for it, and on the beginnings of these files: what lets anything out but the
/// library's own exceptions fails.
void expect_sound(const std::string& name, Target target) {
  const std::filesystem::path folder = std::filesystem::path(TWOHEADS_SOURCE_DIR) / "tests/fuzz/corpus" / name;
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  ASSERT_GE(files.size(), 5U) << "the corpus of " << name << " is gone";
  for (const std::filesystem::path& path : files) {
    const std::string bytes = read_bytes(path);
    for (std::size_t length = bytes.size();; length /= 2) {
      // A copy of its own, so that a sanitizer sees a read beyond its end.
      const std::vector<std::uint8_t> input(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(length));
      try {
        target(input);
      } catch (const std::exception& error) {
        ADD_FAILURE() << path << ", the first " << length << " bytes: " << error.what();
      }
      if (length == 0) break;
    }
  }
}

TEST(FuzzCorpus, OfSafetensors) { expect_sound("safetensors", fuzz::safetensors); }
TEST(FuzzCorpus, OfModelFolders) { expect_sound("config", fuzz::config); }
TEST(FuzzCorpus, OfLlama2c) { expect_sound("llama2c", fuzz::llama2c); }
TEST(FuzzCorpus, OfTraining) { expect_sound("training", fuzz::training); }
TEST(FuzzCorpus, OfCheckpointsAndSessions) { expect_sound("checkpoint", fuzz::checkpoint); }
TEST(FuzzCorpus, OfPlans) { expect_sound("plan", fuzz::plan); }
#ifdef TWOHEADS_WITH_REMOTE
TEST(FuzzCorpus, OfFrames) { expect_sound("frames", fuzz::frames); }
#endif
#ifdef TWOHEADS_WITH_TEXT
TEST(FuzzCorpus, OfTokenizers) { expect_sound("tokenizer", fuzz::tokenizer); }
#endif

}  // namespace
