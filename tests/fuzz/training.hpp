#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <tuple>
#include <twoheads/train/training_file.hpp>

#include "fuzz/fuzz_input.hpp"
#include "support/temp_folder.hpp"

namespace fuzz {

template <class Scalar>
void read_training(const TempFolder& folder, const std::string& bytes) {
  const std::filesystem::path path = write_new(folder, "run", bytes);
  std::ignore = accepted([&] {
    const auto state = twoheads::read_training<Scalar>(path, "key", 2);
    twoheads::save_training(folder / "again", "key", state);
    std::ifstream again(folder / "again", std::ios::binary);
    require(std::string(std::istreambuf_iterator<char>(again), {}) == bytes, "a state is written as it was read");
  });
}

/// A file of training; the first byte says whether its first bytes and the hash at its end are those of a sound one,
/// and whether its lengths are drawn or fit the file.
inline void training(std::span<const std::uint8_t> bytes) {
  static const TempFolder folder;
  Input in(bytes);
  const int kind = in.number() % 4;
  std::string file;
  if (kind > 0) {
    file = twoheads::detail::training_magic;
    twoheads::detail::TrainingHead head;
    head.version = static_cast<std::uint64_t>(kind == 1 ? in.index(0, 3) : 1);
    head.scalar_bytes = kind == 3 ? (in.flag() ? 8 : 4) : in.number();
    head.parameters = kind == 1 ? in.number<std::uint64_t>() : static_cast<std::uint64_t>(in.index(0, 4));
    head.steps = in.number<std::uint64_t>();
    head.points = kind == 1 ? in.number<std::uint64_t>() : static_cast<std::uint64_t>(in.index(0, 3));
    head.key_bytes = kind == 1 ? in.number<std::uint64_t>() : static_cast<std::uint64_t>(in.index(0, 4));
    append(file, head);
    if (kind == 3) {
      file += std::string("key ").substr(0, static_cast<std::size_t>(head.key_bytes));
      std::string body = in.rest();
      body.resize(static_cast<std::size_t>(head.points * sizeof(twoheads::TrainingPoint) +
                                           3 * head.parameters * head.scalar_bytes),
                  '\x3f');
      file += body;
    }
  }
  file += in.rest();
  if (kind > 0) append(file, hash_of(file));
  read_training<float>(folder, file);
  read_training<double>(folder, file);
}

}  // namespace fuzz
