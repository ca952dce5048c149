#pragma once

#include <algorithm>

#include "support/sanitized.hpp"

#if defined(__linux__) && !defined(TWOHEADS_TEST_SANITIZED)
#include <sys/resource.h>

/// Bounds the process to 1 GiB of address space while it lives, so that a huge allocation is a std::bad_alloc, which is
/// no twoheads::Error. Sanitizers map more than that for themselves;
/// under them, and elsewhere than on Linux, it does nothing.
class MemoryLimit {
 public:
  MemoryLimit() {
    if (getrlimit(RLIMIT_AS, &before_) != 0) return;
    rlimit limit = before_;
    limit.rlim_cur = std::min<rlim_t>(before_.rlim_cur, rlim_t{1} << 30);
    changed_ = setrlimit(RLIMIT_AS, &limit) == 0;
  }
  ~MemoryLimit() {
    if (changed_) setrlimit(RLIMIT_AS, &before_);
  }
  MemoryLimit(const MemoryLimit&) = delete;
  MemoryLimit& operator=(const MemoryLimit&) = delete;

 private:
  rlimit before_{};
  bool changed_ = false;
};
#else
class MemoryLimit {
 public:
  MemoryLimit() {}
  MemoryLimit(const MemoryLimit&) = delete;
  MemoryLimit& operator=(const MemoryLimit&) = delete;
};
#endif
