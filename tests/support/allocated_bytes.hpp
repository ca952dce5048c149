#pragma once

#include <malloc.h>

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

// Replaces operator new and delete of the whole program: for the one source file of a test only.

namespace allocated {

inline std::atomic<std::size_t> now{0};
inline std::atomic<std::size_t> most{0};

[[nodiscard]] inline void* take(void* memory) {
  if (memory == nullptr) throw std::bad_alloc();
  const std::size_t total = now += malloc_usable_size(memory);
  if (total > most) most = total;
  return memory;
}
inline void give(void* memory) noexcept {
  if (memory != nullptr) now -= malloc_usable_size(memory);
  std::free(memory);
}

}  // namespace allocated

/// The most memory that operator new had given out at one time since construction, over what it had then. Eigen's
/// matrices are not counted: they come from malloc.
class AllocatedBytes {
 public:
  AllocatedBytes() : before_(allocated::now) { allocated::most = before_; }
  [[nodiscard]] std::size_t peak() const { return allocated::most - before_; }

 private:
  std::size_t before_;
};

void* operator new(std::size_t bytes) { return allocated::take(std::malloc(bytes)); }
void* operator new[](std::size_t bytes) { return allocated::take(std::malloc(bytes)); }
void operator delete(void* memory) noexcept { allocated::give(memory); }
void operator delete[](void* memory) noexcept { allocated::give(memory); }
void operator delete(void* memory, std::size_t) noexcept { allocated::give(memory); }
void operator delete[](void* memory, std::size_t) noexcept { allocated::give(memory); }
