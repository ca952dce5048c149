#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <twoheads/text/byte_level_bpe.hpp>
#include <twoheads/text/text_tokenizer.hpp>
#include <twoheads/text/word_piece.hpp>
#include <utility>
#include <vector>

#include "support/message_of.hpp"
#include "support/seed.hpp"
#include "support/temp_folder.hpp"
#include "support/tokenizer_documents.hpp"

/// Tokenizers read from small documents, random texts, and their encoding by a second, naive loop.
namespace text_cases {

using namespace twoheads;
using namespace tokenizers;
using nlohmann::json;
using Ids = std::vector<int>;
using Words = std::vector<std::string>;

inline std::uint64_t seed() { return seed_or(1606); }

/// A byte model with merges of random pieces of up to 6 characters, most of them of few letters.
inline PairModel random_model(std::mt19937_64& random, int count) {
  PairModel model = byte_model();
  std::vector<std::string> known{"a", "b", "c", "\xC4\xA0", "\xC3\x83", "\xC2\xA9"};
  std::set<std::pair<std::string, std::string>> seen;
  while (static_cast<int>(model.merges.size()) < count) {
    const std::string left = known[random() % known.size()];
    const std::string right = known[random() % known.size()];
    if (left.size() + right.size() > 12 || !seen.emplace(left, right).second) continue;
    model.merge(left, right);
    known.push_back(left + right);
  }
  return model;
}

inline ByteLevelBpe bpe_of(const json& document, Index vocabulary = 100000) {
  const TempFolder folder;
  return ByteLevelBpe::read(folder.write("tokenizer.json", document.dump()), vocabulary);
}

inline WordPiece word_piece_of(const json& document, Index vocabulary = 100000) {
  const TempFolder folder;
  return WordPiece::read(folder.write("tokenizer.json", document.dump()), vocabulary);
}

/// What reading says of a document without its folder.
inline std::string refusal(const json& document, Index vocabulary = 100000) {
  const TempFolder folder;
  folder.write("tokenizer.json", document.dump());
  const std::string message =
      message_of<FormatError>([&] { static_cast<void>(TextTokenizer::read(folder / "", vocabulary)); });
  const std::string path = (folder / "tokenizer.json").string();
  EXPECT_TRUE(message.starts_with(path + ": ")) << message;
  return message.size() < path.size() + 2 ? message : message.substr(path.size() + 2);
}

/// The document with the value at a JSON pointer changed.
inline json with(json document, const std::string& pointer, const json& value) {
  document[json::json_pointer(pointer)] = value;
  return document;
}

inline std::string random_bytes(std::mt19937_64& random, std::size_t length) {
  std::string bytes(length, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random() % 256);
  return bytes;
}

/// Valid UTF-8 of all planes, often spaces, letters and newlines.
inline std::string random_text(std::mt19937_64& random, std::size_t length) {
  std::string text;
  const std::string_view often = "aabbc   \n\t'19,.sS";
  for (std::size_t at = 0; at < length; ++at) {
    const std::uint64_t draw = random() % 10;
    std::uint32_t value = static_cast<std::uint32_t>(random() % (draw == 0 ? 0x110000 : draw == 1 ? 0x3000 : 0x250));
    if (draw >= 4) value = static_cast<unsigned char>(often[random() % often.size()]);
    if (value >= 0xD800 && value < 0xE000) value = 0xE9;
    detail::append_utf8(text, static_cast<UChar32>(value));
  }
  return text;
}

/// Joins pairs one at a time, looking at all of them each time.
inline Ids encode_naively(const PairModel& model, std::string_view word) {
  std::vector<std::string> parts;
  for (const char byte : word) parts.push_back(detail::byte_characters().encode(std::string(1, byte)));
  while (true) {
    std::size_t best_rank = model.merges.size();
    std::size_t best_at = 0;
    for (std::size_t at = 0; at + 1 < parts.size(); ++at) {
      const auto found = std::find(model.merges.begin(), model.merges.end(), std::pair(parts[at], parts[at + 1]));
      const auto rank = static_cast<std::size_t>(found - model.merges.begin());
      if (rank < best_rank) {
        best_rank = rank;
        best_at = at;
      }
    }
    if (best_rank == model.merges.size()) break;
    parts[best_at] += parts[best_at + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(best_at) + 1);
  }
  Ids ids;
  for (const std::string& part : parts)
    ids.push_back(static_cast<int>(std::find(model.pieces.begin(), model.pieces.end(), part) - model.pieces.begin()));
  return ids;
}

/// The words of a text by GPT-2's pattern.
inline Words gpt2_words(const std::string& text) {
  const detail::PreTokenizer split({detail::PreTokenizer::byte_level(false)});
  Words words;
  for (const std::string& word : split({text, true})) words.push_back(*detail::byte_characters().decode(word));
  return words;
}

}  // namespace text_cases
