#pragma once

#include <malloc.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <limits>
#include <string>

namespace programs {

/// Peak resident memory between construction and bytes(), over what was resident at construction.
///
/// Linux only: elsewhere /proc is absent and bytes() is 0, which the programs print as such.
class PeakMemory {
 public:
  PeakMemory() {
    // What the allocator keeps for reuse would hide later growth.
    malloc_trim(0);
    std::ofstream("/proc/self/clear_refs") << "5";
    before_ = status_bytes("VmRSS:");
  }

  [[nodiscard]] std::int64_t bytes() const { return std::max<std::int64_t>(status_bytes("VmHWM:") - before_, 0); }

 private:
  static std::int64_t status_bytes(const std::string& label) {
    std::ifstream status("/proc/self/status");
    std::string word;
    while (status >> word) {
      if (word == label) {
        std::int64_t kilobytes = 0;
        status >> kilobytes;
        return kilobytes * 1024;
      }
      status.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
    }
    return 0;
  }

  std::int64_t before_ = 0;
};

}  // namespace programs
