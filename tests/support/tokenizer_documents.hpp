#pragma once

#include <algorithm>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <twoheads/text/byte_level_bpe.hpp>
#include <utility>
#include <vector>

// Small tokenizers, and the files that Hugging Face writes for such.

namespace tokenizers {

using nlohmann::json;

/// Pieces by their ids, and the merges by their ranks.
struct PairModel {
  std::vector<std::string> pieces;
  std::vector<std::pair<std::string, std::string>> merges;

  void merge(const std::string& left, const std::string& right) {
    merges.emplace_back(left, right);
    if (std::find(pieces.begin(), pieces.end(), left + right) == pieces.end()) pieces.push_back(left + right);
  }
  [[nodiscard]] json vocabulary() const {
    json all = json::object();
    for (std::size_t id = 0; id < pieces.size(); ++id) all[pieces[id]] = id;
    return all;
  }
  [[nodiscard]] std::string merge_lines() const {
    std::string lines = "#version: 0.2\n";
    for (const auto& [left, right] : merges) lines += left + ' ' + right + '\n';
    return lines;
  }
  [[nodiscard]] twoheads::Index size() const { return static_cast<twoheads::Index>(pieces.size()); }
};

/// Token b is byte b, in GPT-2's characters.
inline PairModel byte_model() {
  PairModel model;
  for (int byte = 0; byte < 256; ++byte)
    model.pieces.push_back(twoheads::detail::byte_characters().encode(std::string(1, static_cast<char>(byte))));
  return model;
}

inline json added_token(const std::string& content, int id, bool special = true) {
  return {{"id", id},        {"content", content},     {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", !special}, {"special", special}};
}

inline json byte_level(bool use_regex = true) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

/// A tokenizer.json as GPT-2's.
inline json document_of(const PairModel& model) {
  json merges = json::array();
  for (const auto& [left, right] : model.merges) merges.push_back(left + ' ' + right);
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", json::array()},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level()},
          {"post_processor", byte_level()},
          {"decoder", byte_level()},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", ""},
            {"end_of_word_suffix", ""},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"vocab", model.vocabulary()},
            {"merges", merges}}}};
}

/// A tokenizer.json as converters write for Llama 2's SentencePiece model. U+2581 stands for a space.
inline json llama2_document() {
  PairModel model;
  model.pieces = {"<unk>", "<s>", "</s>"};
  for (int byte = 0; byte < 256; ++byte) {
    const char* digits = "0123456789ABCDEF";
    model.pieces.push_back(std::string("<0x") + digits[byte / 16] + digits[byte % 16] + ">");  // byte + 3
  }
  for (const char* letter : {"\xE2\x96\x81", "a", "b"}) model.pieces.emplace_back(letter);  // 259, 260, 261
  model.merge("a", "b");                                                                    // 262
  model.merge("\xE2\x96\x81", "ab");                                                        // 263
  json document = document_of(model);
  document["pre_tokenizer"] = nullptr;
  document["post_processor"] = nullptr;
  document["added_tokens"] = {added_token("<unk>", 0), added_token("<s>", 1), added_token("</s>", 2)};
  document["normalizer"] = {{"type", "Sequence"},
                            {"normalizers",
                             {{{"type", "Prepend"}, {"prepend", "\xE2\x96\x81"}},
                              {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\xE2\x96\x81"}}}}};
  document["decoder"] = {{"type", "Sequence"},
                         {"decoders",
                          {{{"type", "Replace"}, {"pattern", {{"String", "\xE2\x96\x81"}}}, {"content", " "}},
                           {{"type", "ByteFallback"}},
                           {{"type", "Fuse"}},
                           {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}};
  document["model"]["unk_token"] = "<unk>";
  document["model"]["fuse_unk"] = true;
  document["model"]["byte_fallback"] = true;
  return document;
}

/// BERT's own example with a few pieces more. Ids are positions.
inline const std::vector<std::string>& bert_pieces() {
  static const std::vector<std::string> pieces{"[PAD]",  "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un",          "##aff",
                                               "##able", "want",  "##ed",  ",",     "run",    "##n",         "##ing",
                                               "a",      "##a",   "e",     ".",     "!",      "\xE4\xB8\xAD"};
  return pieces;
}

inline json bert_document() {
  json vocabulary = json::object();
  for (std::size_t id = 0; id < bert_pieces().size(); ++id) vocabulary[bert_pieces()[id]] = id;
  json added = json::array();
  for (int id = 0; id < 5; ++id) added.push_back(added_token(bert_pieces()[static_cast<std::size_t>(id)], id));
  const auto special = [](const char* name, int id) { return json{{"id", name}, {"ids", {id}}, {"tokens", {name}}}; };
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added},
          {"normalizer",
           {{"type", "BertNormalizer"},
            {"clean_text", true},
            {"handle_chinese_chars", true},
            {"strip_accents", nullptr},
            {"lowercase", true}}},
          {"pre_tokenizer", {{"type", "BertPreTokenizer"}}},
          {"post_processor",
           {{"type", "TemplateProcessing"},
            {"single",
             {{{"SpecialToken", {{"id", "[CLS]"}, {"type_id", 0}}}},
              {{"Sequence", {{"id", "A"}, {"type_id", 0}}}},
              {{"SpecialToken", {{"id", "[SEP]"}, {"type_id", 0}}}}}},
            {"pair", json::array()},
            {"special_tokens", {{"[CLS]", special("[CLS]", 2)}, {"[SEP]", special("[SEP]", 3)}}}}},
          {"decoder", {{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", true}}},
          {"model",
           {{"type", "WordPiece"},
            {"unk_token", "[UNK]"},
            {"continuing_subword_prefix", "##"},
            {"max_input_chars_per_word", 100},
            {"vocab", vocabulary}}}};
}

inline std::string bert_lines() {
  std::string lines;
  for (const std::string& piece : bert_pieces()) lines += piece + '\n';
  return lines;
}

}  // namespace tokenizers
