#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <tuple>
#include <twoheads/text/text_tokenizer.hpp>
#include <vector>

#include "fuzz/fuzz_input.hpp"
#include "support/temp_folder.hpp"

namespace fuzz {

/// A byte for the files of the folder, one for the vocabulary (times 16), the files parted by 0xFF, then a text.
inline void tokenizer(std::span<const std::uint8_t> bytes) {
  static const TempFolder folder;
  Input in(bytes);
  const int kind = in.number() % 8;
  const Index vocabulary = 16 * static_cast<Index>(in.number());
  std::vector<const char*> names;
  if (kind < 4)
    names = {"tokenizer.json"};
  else if (kind < 6)
    names = {"vocab.json", "merges.txt"};
  else
    names = {"vocab.txt"};
  if (kind % 2 == 1) names.push_back("tokenizer_config.json");
  for (const char* name : names) write_new(folder, name, in.part());
  const std::string text = in.rest();
  std::ignore = accepted([&] {
    const twoheads::TextTokenizer found = twoheads::TextTokenizer::read(folder / "", vocabulary);
    require(found.vocabulary() == vocabulary, "the vocabulary is the model's");
    for (const int id : {0, 1, static_cast<int>(vocabulary) - 1})
      std::ignore = accepted([&] { std::ignore = found.decode(std::vector<int>{id}); });
    for (const bool special : {true, false}) {
      const std::vector<int> ids = found.encode(text, special);
      for (const int id : ids) require(id >= 0 && id < vocabulary, "ids are those of the vocabulary");
      const std::string whole = found.decode(ids, special);
      twoheads::TextStream stream(found.parts(), special);
      std::string pieces;
      for (const int id : ids) pieces += stream.add(id);
      pieces += stream.finish();
      require(pieces == whole, "a stream gives the text of all ids");
    }
  });
  for (const char* name : names) std::filesystem::remove(folder / name);
}

}  // namespace fuzz
