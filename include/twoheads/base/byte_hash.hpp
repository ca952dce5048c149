#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace twoheads::detail {

/// Hash of bytes, taken 8 at a time.
///
///   Laws   each step is one to one in the state and in the word, so that a change within one word is always seen
class ByteHash {
 public:
  explicit ByteHash(std::uint64_t seed = 0) : state_(seed) {}

  void add(std::uint64_t word) {
    state_ = (state_ ^ word) * 0x9E3779B97F4A7C15ULL;
    state_ ^= state_ >> 32;
  }
  void add(std::span<const std::byte> bytes) {
    for (; bytes.size() >= 8; bytes = bytes.subspan(8)) {
      std::uint64_t word = 0;
      std::memcpy(&word, bytes.data(), 8);
      add(word);
    }
    if (bytes.empty()) return;
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data(), bytes.size());
    add(word);
    add(std::uint64_t{bytes.size()});
  }
  [[nodiscard]] std::uint64_t value() const { return state_; }

 private:
  std::uint64_t state_;
};

[[nodiscard]] inline std::uint64_t hash_of(std::span<const std::byte> bytes, std::uint64_t seed) {
  ByteHash hash(seed);
  hash.add(bytes);
  return hash.value();
}

}  // namespace twoheads::detail
