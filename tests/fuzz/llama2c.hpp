#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <sstream>
#include <string>
#include <tuple>
#include <twoheads/model/llama2c.hpp>
#include <twoheads/model/tokenizer.hpp>
#include <vector>

#include "fuzz/fuzz_input.hpp"

namespace fuzz {

/// The first byte says what follows: a model file, a model file whose header of seven bytes is drawn and whose length
/// fits it, a tokenizer.bin, or one whose lengths are drawn. A model may have its output tied or a table of its own.
inline void llama2c(std::span<const std::uint8_t> bytes) {
  Input in(bytes);
  const int kind = in.number() % 4;
  if (kind < 2) {
    std::string file;
    if (kind == 0) {
      file = in.rest();
    } else {
      twoheads::Llama2cHeader h;
      for (Index* field : {&h.dim, &h.hidden_dim, &h.n_layers, &h.n_heads, &h.n_kv_heads, &h.vocab_size, &h.seq_len})
        append(file, static_cast<std::int32_t>(*field = in.index(-1, 8)));
      h.tied_output = h.vocab_size > 0;
      h.vocab_size = h.tied_output ? h.vocab_size : -h.vocab_size;
      const bool sizes = h.dim > 0 && h.hidden_dim > 0 && h.n_layers > 0 && h.n_heads > 0 && h.n_kv_heads > 0 &&
                         h.vocab_size > 0 && h.seq_len > 0;
      const std::string rest = in.rest();
      file += rest;
      if (sizes) file.resize(static_cast<std::size_t>(twoheads::detail::llama2c_file_bytes(h)), '\0');
    }
    std::ignore = accepted([&] {
      std::istringstream stream(file);
      const auto model = twoheads::read_llama2c<float>(stream, file.size());
      std::ostringstream out;
      std::int32_t positions = 0;
      std::memcpy(&positions, file.data() + 24, sizeof(positions));
      twoheads::write_llama2c(out, model, positions);
      // What lies in the tables of angles is not read.
      const std::string written = out.str();
      require(written.size() == file.size(), "a model is written as long as it was read");
      const auto h = twoheads::detail::llama2c_header_of(model, positions);
      const auto tables = static_cast<std::size_t>(h.seq_len * h.head_size()) * sizeof(float);
      const std::size_t after = h.tied_output ? 0 : static_cast<std::size_t>(h.vocab_size * h.dim) * sizeof(float);
      const std::size_t before = file.size() - tables - after;
      require(written.substr(0, before) == file.substr(0, before), "its weights are written as they were read");
      require(written.substr(before + tables) == file.substr(before + tables), "and so is its output");
    });
    return;
  }
  const Index vocabulary = in.index(0, 300);
  std::string file;
  std::string text = "once upon";
  if (kind == 2) {
    file = in.rest();
  } else {
    append(file, std::int32_t{12});
    for (Index token = 0; token < vocabulary; ++token) {
      append(file, static_cast<float>(in.number<std::int8_t>()));
      const std::string piece = in.text(in.number() % 8);
      append(file, static_cast<std::int32_t>(piece.size()));
      file += piece;
    }
    text = in.rest();
  }
  std::ignore = accepted([&] {
    std::istringstream stream(file);
    const twoheads::Tokenizer found = twoheads::Tokenizer::read(stream, file.size(), vocabulary);
    require(found.vocabulary() == vocabulary, "the vocabulary is the model's");
    const std::vector<int> ids = found.encode(text);
    require(ids.size() <= text.size() + 2, "no more tokens than bytes, the start and a space");
    for (const int id : ids) require(id >= 0 && id < vocabulary, "ids are those of the vocabulary");
    std::ignore = found.decode(ids);
  });
}

}  // namespace fuzz
