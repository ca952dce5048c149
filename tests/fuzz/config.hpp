#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <tuple>
#include <twoheads/io/encoder_folder.hpp>
#include <twoheads/io/model_folder.hpp>
#include <twoheads/io/read_config.hpp>
#include <twoheads/io/sentence_config.hpp>

#include "fuzz/fuzz_input.hpp"
#include "support/temp_folder.hpp"

namespace fuzz {

/// The first byte says which: a config.json; modules.json and the config of its pooling; a folder of config.json and
/// model.safetensors, read as a decoder or as an encoder. Files are parted by a byte of 0xFF.
inline void config(std::span<const std::uint8_t> bytes) {
  static const TempFolder folder;
  Input in(bytes);
  const int kind = in.number() % 4;
  if (kind == 0) {
    const std::filesystem::path path = write_new(folder, "config.json", in.rest());
    std::ignore = accepted([&] {
      const twoheads::ModelConfig found = twoheads::read_model_config(path);
      // The whole spec takes memory for layers and heads, which a reader of weights has counted by then.
      if (found.spec.layers > 4096 || found.spec.attention.heads > 4096) return;
      const twoheads::ModelSpec spec = found.model_spec();
      require(spec.layer_masks.empty() || static_cast<Index>(spec.layer_masks.size()) == spec.layers,
              "a mask for each layer or for none");
    });
    return;
  }
  if (kind == 1) {
    std::filesystem::create_directory(folder / "1_Pooling");
    write_new(folder, "modules.json", in.part());
    write_new(folder, "1_Pooling/config.json", in.rest());
    std::ignore = accepted([&] { std::ignore = twoheads::read_sentence_config(folder / ""); });
    std::filesystem::remove(folder / "modules.json");
    return;
  }
  write_new(folder, "config.json", in.part());
  write_new(folder, "model.safetensors", in.rest());
  std::ignore = accepted([&] {
    if (kind == 2)
      require_valid(twoheads::read_model<float>(folder / "").body);
    else
      require_valid(twoheads::read_encoder<float>(folder / "").model.body);
  });
}

}  // namespace fuzz
