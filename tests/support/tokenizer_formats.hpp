#pragma once

#include <filesystem>
#include <string>
#include <tuple>
#include <twoheads/base/errors.hpp>
#include <twoheads/text/text_tokenizer.hpp>

#include "support/damage.hpp"
#include "support/temp_folder.hpp"
#include "support/tokenizer_documents.hpp"

/// Adds the readers of tokenizers to a list of formats: tokenizer.json of three kinds, and the files that stand for
/// one. What is read must encode and decode, or say why it cannot.
template <class Format>
void add_tokenizer_formats(const TempFolder& folder, std::vector<Format>& all) {
  namespace fs = std::filesystem;
  const auto read = [](const fs::path& path) {
    const auto tokenizer = twoheads::TextTokenizer::read(path.parent_path(), 400);
    try {
      std::ignore = tokenizer.decode(tokenizer.encode("a b  ab'll 12 \xC3\xA9\xFF"));
    } catch (const twoheads::SpecError&) {
      // A text without a piece for each character, or a pattern that takes too long.
    }
  };
  tokenizers::PairModel pairs = tokenizers::byte_model();
  pairs.merge("a", "b");
  pairs.merge("ab", "ab");
  const auto add = [&](const std::string& own, const std::string& file, std::vector<std::string> seeds) {
    all.push_back({own + "/" + file, own + "/" + file, std::move(seeds), read});
    all.back().least_refused = 50;
  };
  for (const char* own : {"tokenizer", "vocabulary", "merges", "pieces"}) fs::create_directory(folder / own);
  for (const char* own : {"vocabulary", "merges"}) {
    folder.write(std::string(own) + "/vocab.json", pairs.vocabulary().dump());
    folder.write(std::string(own) + "/merges.txt", pairs.merge_lines());
  }
  add("tokenizer", "tokenizer.json",
      {tokenizers::document_of(pairs).dump(), tokenizers::llama2_document().dump(),
       tokenizers::bert_document().dump(1)});
  add("vocabulary", "vocab.json", {pairs.vocabulary().dump()});
  add("merges", "merges.txt", {pairs.merge_lines()});
  add("pieces", "vocab.txt", {tokenizers::bert_lines()});
}
