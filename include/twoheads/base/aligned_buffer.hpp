#pragma once

#include <cstddef>
#include <new>
#include <twoheads/base/index.hpp>
#include <utility>

namespace twoheads::detail {

/// Numbers at an address that any vector may be loaded from. A new buffer holds no particular numbers.
template <class Scalar>
class AlignedBuffer {
 public:
  explicit AlignedBuffer(Index count = 0)
      : numbers_(count > 0
                     ? static_cast<Scalar*>(::operator new(static_cast<std::size_t>(count) * sizeof(Scalar), alignment))
                     : nullptr) {}
  AlignedBuffer(AlignedBuffer&& other) noexcept : numbers_(std::exchange(other.numbers_, nullptr)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    std::swap(numbers_, other.numbers_);
    return *this;
  }
  ~AlignedBuffer() { ::operator delete(numbers_, alignment); }

  [[nodiscard]] Scalar* data() { return numbers_; }
  [[nodiscard]] const Scalar* data() const { return numbers_; }

 private:
  static constexpr std::align_val_t alignment{128};
  Scalar* numbers_;
};

}  // namespace twoheads::detail
