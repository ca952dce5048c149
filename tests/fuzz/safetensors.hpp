#pragma once

#include <span>
#include <string>
#include <tuple>
#include <twoheads/io/safetensors.hpp>
#include <twoheads/io/tensor_folder.hpp>

#include "fuzz/fuzz_input.hpp"
#include "support/temp_folder.hpp"

namespace fuzz {

/// Reads all that a file or folder of tensors has.
template <twoheads::TensorSource Reader>
void read_tensors(const Reader& reader) {
  for (const std::string& name : reader.names()) {
    require(reader.contains(name), "a name that is listed is there");
    std::ignore = accepted([&] {
      const twoheads::TensorInfo info = reader.info(name);
      const auto count = static_cast<std::size_t>(info.elements());
      require(reader.template values<double>(name).size() == count, "as many numbers as the shape says");
      require(reader.bytes(name).size() == count * static_cast<std::size_t>(size_of(info.dtype)), "and as many bytes");
      std::ignore = reader.template row<float>(name, info.elements());
      std::ignore = reader.template matrix<float>(name, 1, info.elements());
      std::ignore = reader.template values<std::int32_t>(name);
    });
  }
}

/// A safetensors file; or, after a byte of 0xFF, the index of three shards.
inline void safetensors(std::span<const std::uint8_t> bytes) {
  static const TempFolder folder;
  Input in(bytes);
  if (!bytes.empty() && bytes[0] == 0xFF) {
    std::ignore = in.number();
    for (const char* shard : {"a", "b", "c"}) {
      std::string file;
      const std::string header = std::string("{\"") + shard + R"(":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})";
      append(file, std::uint64_t{header.size()});
      write_new(folder, shard, file + header + "xy");
    }
    write_new(folder, "model.safetensors.index.json", in.rest());
    std::ignore = accepted([&] { read_tensors(twoheads::TensorFolder::open(folder / "")); });
    return;
  }
  const std::filesystem::path path = write_new(folder, "file", in.rest());
  std::ignore = accepted([&] {
    const twoheads::Safetensors file = twoheads::Safetensors::open(path);
    std::ignore = accepted([&] { std::ignore = file.metadata(); });
    read_tensors(file);
  });
}

}  // namespace fuzz
