#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <regex>
#include <set>
#include <string>
#include <string_view>
#include <twoheads/text/byte_level_bpe.hpp>
#include <twoheads/text/text_tokenizer.hpp>
#include <twoheads/text/word_piece.hpp>
#include <utility>
#include <vector>

#include "support/contains.hpp"
#include "support/message_of.hpp"
#include "support/seed.hpp"
#include "support/temp_folder.hpp"
#include "support/tokenizer_documents.hpp"

namespace {

using namespace twoheads;
using namespace tokenizers;
using nlohmann::json;
using Ids = std::vector<int>;
using Words = std::vector<std::string>;

std::uint64_t seed() { return seed_or(1606); }

/// A byte model with merges of random pieces of up to 6 characters, most of them of few letters.
PairModel random_model(std::mt19937_64& random, int count) {
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

ByteLevelBpe bpe_of(const json& document, Index vocabulary = 100000) {
  const TempFolder folder;
  return ByteLevelBpe::read(folder.write("tokenizer.json", document.dump()), vocabulary);
}

WordPiece word_piece_of(const json& document, Index vocabulary = 100000) {
  const TempFolder folder;
  return WordPiece::read(folder.write("tokenizer.json", document.dump()), vocabulary);
}

/// What reading says of a document without its folder.
std::string refusal(const json& document, Index vocabulary = 100000) {
  const TempFolder folder;
  folder.write("tokenizer.json", document.dump());
  const std::string message =
      message_of<FormatError>([&] { static_cast<void>(TextTokenizer::read(folder / "", vocabulary)); });
  const std::string path = (folder / "tokenizer.json").string();
  EXPECT_TRUE(message.starts_with(path + ": ")) << message;
  return message.size() < path.size() + 2 ? message : message.substr(path.size() + 2);
}

/// The document with the value at a JSON pointer changed.
json with(json document, const std::string& pointer, const json& value) {
  document[json::json_pointer(pointer)] = value;
  return document;
}

std::string random_bytes(std::mt19937_64& random, std::size_t length) {
  std::string bytes(length, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random() % 256);
  return bytes;
}

/// Valid UTF-8 of all planes, often spaces, letters and newlines.
std::string random_text(std::mt19937_64& random, std::size_t length) {
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
Ids encode_naively(const PairModel& model, std::string_view word) {
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
Words gpt2_words(const std::string& text) {
  const detail::PreTokenizer split({detail::PreTokenizer::byte_level(false)});
  Words words;
  for (const std::string& word : split({text, true})) words.push_back(*detail::byte_characters().decode(word));
  return words;
}

TEST(ByteCharacters, AreGpt2s) {
  const detail::ByteCharacters& table = detail::byte_characters();
  EXPECT_EQ(table.encode("aZ~!"), "aZ~!");
  EXPECT_EQ(table.encode(" \n\t"), "\xC4\xA0\xC4\x8A\xC4\x89");  // U+0120, U+010A, U+0109
  EXPECT_EQ(table.encode(std::string(1, '\0')), "\xC4\x80");     // U+0100
  EXPECT_EQ(table.encode("\x7F\xA0\xAD"), "\xC4\xA1\xC5\x82\xC5\x83");
  EXPECT_EQ(table.encode("\xC3\xA9\xFF"), "\xC3\x83\xC2\xA9\xC3\xBF");
  std::set<std::string> all;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string one(1, static_cast<char>(byte));
    all.insert(table.encode(one));
    EXPECT_EQ(table.decode(table.encode(one)), one);
  }
  EXPECT_EQ(all.size(), 256u);
  EXPECT_EQ(table.decode(" "), std::nullopt);
}

TEST(ByteLevelBpe, GivesBackEveryText) {
  std::mt19937_64 random(seed());
  const ByteLevelBpe tokenizer = bpe_of(document_of(random_model(random, 60)));
  for (int round = 0; round < 200; ++round) {
    const std::size_t length = random() % 60;
    const std::string text = round % 2 == 0 ? random_bytes(random, length) : random_text(random, length);
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text) << "round " << round;
  }
  const std::string text = random_bytes(random, 30000) + random_text(random, 30000);
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  EXPECT_EQ(tokenizer.encode(""), Ids{});
}

TEST(ByteLevelBpe, JoinsAsTheNaiveLoopDoes) {
  std::mt19937_64 random(seed());
  for (int round = 0; round < 20; ++round) {
    const PairModel model = random_model(random, 1 + 4 * round);
    json document = document_of(model);
    document["pre_tokenizer"]["use_regex"] = false;
    const ByteLevelBpe tokenizer = bpe_of(document);
    for (int line = 0; line < 20; ++line) {
      std::string text;
      for (std::uint64_t left = random() % 40; left > 0; --left) text += "aaaabbc \xC3\xA9"[random() % 10];
      EXPECT_EQ(tokenizer.encode(text), encode_naively(model, text)) << text;
    }
  }
}

TEST(ByteLevelBpe, BothSourcesGiveTheSameIds) {
  std::mt19937_64 random(seed());
  const PairModel model = random_model(random, 80);
  const TempFolder folder;
  const ByteLevelBpe pairs = ByteLevelBpe::read(folder.write("vocab.json", model.vocabulary().dump()),
                                                folder.write("merges.txt", model.merge_lines()), model.size());
  const ByteLevelBpe whole = bpe_of(document_of(model), model.size());
  json arrays = document_of(model);
  arrays["model"]["merges"] = model.merges;
  const ByteLevelBpe lists = bpe_of(arrays, model.size());
  for (int round = 0; round < 50; ++round) {
    const std::string text = random_text(random, 40);
    EXPECT_EQ(pairs.encode(text), whole.encode(text)) << text;
    EXPECT_EQ(lists.encode(text), whole.encode(text)) << text;
    EXPECT_EQ(pairs.decode(pairs.encode(text)), text);
  }
}

TEST(ByteLevelBpe, JoinsByRankAndThenFromTheLeft) {
  PairModel model = byte_model();
  model.merge("l", "l");         // 256
  model.merge("h", "e");         // 257
  model.merge("he", "ll");       // 258
  model.merge("\xC4\xA0", "w");  // 259, the space before a word
  model.merge("hell", "o");      // 260
  const ByteLevelBpe tokenizer = bpe_of(document_of(model));
  EXPECT_EQ(tokenizer.encode("hello"), Ids{260});
  EXPECT_EQ(tokenizer.encode("hello world"), (Ids{260, 259, 'o', 'r', 'l', 'd'}));
  EXPECT_EQ(tokenizer.encode("lll"), (Ids{256, 'l'}));
  EXPECT_EQ(tokenizer.encode("hell w"), (Ids{258, 259}));
  EXPECT_EQ(tokenizer.piece(259), "\xC4\xA0w");
  EXPECT_EQ(tokenizer.id_of("hell"), 258);
  EXPECT_EQ(tokenizer.id_of("hel"), std::nullopt);
  EXPECT_EQ(tokenizer.decode(Ids{260, 259}), "hello w");
}

TEST(Gpt2Pattern, SplitsAsWorkedByHand) {
  EXPECT_EQ(gpt2_words("I'm"), (Words{"I", "'m"}));
  EXPECT_EQ(gpt2_words("we'll've"), (Words{"we", "'ll", "'ve"}));
  EXPECT_EQ(gpt2_words("I'M"), (Words{"I", "'", "M"}));
  EXPECT_EQ(gpt2_words("  two spaces"), (Words{" ", " two", " spaces"}));
  EXPECT_EQ(gpt2_words("a1b22"), (Words{"a", "1", "b", "22"}));
  EXPECT_EQ(gpt2_words("x 42!!"), (Words{"x", " 42", "!!"}));
  EXPECT_EQ(gpt2_words("end  "), (Words{"end", "  "}));
  EXPECT_EQ(gpt2_words("a\n\n\nb"), (Words{"a", "\n\n", "\n", "b"}));
  EXPECT_EQ(gpt2_words("a\n b"), (Words{"a", "\n", " b"}));
  EXPECT_EQ(gpt2_words("\xC3\xA9t\xC3\xA9 \xE2\x82\xAC"
                       "5"),
            (Words{"\xC3\xA9t\xC3\xA9", " \xE2\x82\xAC", "5"}));
  EXPECT_EQ(gpt2_words("\xD0\x96\xD0\xB0 \xE4\xB8\xAD\xE6\x96\x87"),
            (Words{"\xD0\x96\xD0\xB0", " \xE4\xB8\xAD\xE6\x96\x87"}));
  EXPECT_EQ(gpt2_words("a\xC2\xA0"
                       "b"),
            (Words{"a", "\xC2\xA0", "b"}));                                        // a no-break space is white space
  EXPECT_EQ(gpt2_words("e\xCC\x81"), (Words{"e", "\xCC\x81"}));                    // a combining accent is no letter
  EXPECT_EQ(gpt2_words("\xC2\xB2\xE2\x85\xA7"), (Words{"\xC2\xB2\xE2\x85\xA7"}));  // numbers that are no digits
  EXPECT_EQ(gpt2_words("a\xFF!"), (Words{"a", "\xFF!"}));                          // no UTF-8: neither letter nor space
  EXPECT_EQ(gpt2_words("\xF0\x9D\x94\xB8x"), (Words{"\xF0\x9D\x94\xB8x"}));        // a letter beyond 16 bits
  EXPECT_EQ(gpt2_words("x\xF0\x9D\x9F\x98"), (Words{"x", "\xF0\x9D\x9F\x98"}));    // and a digit
}

TEST(Gpt2Pattern, AgreesWithAnotherEngineOnAscii) {
  const std::regex pattern(R"('s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+)");
  std::mt19937_64 random(seed());
  const std::string_view letters = "   '''\n\tslvedtr019A.,-";
  for (int round = 0; round < 500; ++round) {
    std::string text;
    for (std::uint64_t left = random() % 24; left > 0; --left) text += letters[random() % letters.size()];
    Words expected;
    for (std::sregex_iterator at(text.begin(), text.end(), pattern), end; at != end; ++at)
      expected.push_back(at->str());
    EXPECT_EQ(gpt2_words(text), expected) << text;
  }
}

/// Words of a split at a regular expression.
Words split_at(const std::string& regex, const std::string& behavior, const std::string& text, bool invert = false) {
  const json step{{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", behavior}, {"invert", invert}};
  return detail::PreTokenizer::read(detail::JsonField(step, "made.json"))({text, true});
}

TEST(PreTokenizer, SplitsByEveryBehavior) {
  EXPECT_EQ(split_at("-", "Removed", "a-b--c"), (Words{"a", "b", "c"}));
  EXPECT_EQ(split_at("-", "Isolated", "a-b--c"), (Words{"a", "-", "b", "-", "-", "c"}));
  EXPECT_EQ(split_at("-", "MergedWithPrevious", "a-b--c"), (Words{"a-", "b-", "-", "c"}));
  EXPECT_EQ(split_at("-", "MergedWithNext", "a-b--c"), (Words{"a", "-b", "-", "-c"}));
  EXPECT_EQ(split_at("-", "Contiguous", "a-b--c"), (Words{"a", "-", "b", "--", "c"}));
  EXPECT_EQ(split_at("\\w+", "Removed", "a-b", true), (Words{"a", "b"}));
  EXPECT_EQ(split_at("-", "Removed", "--"), Words{});
  EXPECT_EQ(split_at("-", "Isolated", ""), Words{});
}

TEST(PreTokenizer, TakesThePatternOfLlama3) {
  const std::string pattern =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  EXPECT_EQ(split_at(pattern, "Isolated", "I'M 12345 ok!\n\n  x"),
            (Words{"I", "'M", " ", "123", "45", " ok", "!\n\n", " ", " x"}));
  EXPECT_EQ(split_at(pattern, "Isolated", "(a) \n b"), (Words{"(a", ")", " \n", " b"}));
}

TEST(PreTokenizer, TakesOtherModelsPatterns) {
  const std::string marks = R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+)"
                            R"(| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  EXPECT_EQ(split_at(marks, "Isolated", "{ab} [c]\n x"), (Words{"{ab", "}", " [", "c", "]\n", " x"}));
  const std::string cases = R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t)?)"
                            R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  EXPECT_EQ(split_at(cases, "Isolated", "camelCase it's 1234"), (Words{"camel", "Case", " it's", " ", "123", "4"}));
}

TEST(PreTokenizer, LongRunsNeedNoMoreThanTheirLength) {
  const std::string spaces(1000000, ' ');
  EXPECT_EQ(gpt2_words(spaces + "x"), (Words{std::string(999999, ' '), " x"}));
}

TEST(PreTokenizer, SplitsDigitsAndPunctuation) {
  const auto words = [](const json& step, const std::string& text) {
    return detail::PreTokenizer::read(detail::JsonField(step, "made.json"))({text, true});
  };
  EXPECT_EQ(words({{"type", "Digits"}, {"individual_digits", true}}, "a12b"), (Words{"a", "1", "2", "b"}));
  EXPECT_EQ(words({{"type", "Digits"}, {"individual_digits", false}}, "a12b"), (Words{"a", "12", "b"}));
  EXPECT_EQ(words({{"type", "Punctuation"}, {"behavior", "Contiguous"}}, "a..b"), (Words{"a", "..", "b"}));
  EXPECT_EQ(words({{"type", "WhitespaceSplit"}}, " a\tb,\n"), (Words{"a", "b,"}));
  EXPECT_EQ(words({{"type", "BertPreTokenizer"}}, "a, b.c"), (Words{"a", ",", "b", ".", "c"}));
}

TEST(PreTokenizer, ABadPatternEndsInAnErrorNotInAHang) {
  EXPECT_TRUE(contains(message_of<FormatError>([] { static_cast<void>(split_at("(a", "Removed", "a")); }),
                       "made.json: pattern does not serve: ICU does not take the regular expression (a"));
  EXPECT_TRUE(
      contains(message_of<FormatError>([] { static_cast<void>(split_at(std::string(9000, 'a'), "Removed", "a")); }),
               "9000 bytes, expected at most 8192"));
  const std::string hard = std::string(40, 'a') + "b";
  EXPECT_TRUE(contains(message_of<SpecError>([&] { static_cast<void>(split_at("(a+)+$", "Removed", hard)); }),
                       "U_REGEX_TIME_OUT"));
  EXPECT_EQ(split_at("(?:a|b)+", "Isolated", std::string(200000, 'a')).size(), 1u);
}

TEST(Normalizer, DoesEachStep) {
  const auto normal = [](const json& step, const std::string& text) {
    return detail::TextNormalizer::read(detail::JsonField(step, "made.json"))(text);
  };
  EXPECT_EQ(normal({{"type", "NFC"}}, "e\xCC\x81"), "\xC3\xA9");
  EXPECT_EQ(normal({{"type", "NFD"}}, "\xC3\xA9"), "e\xCC\x81");
  EXPECT_EQ(normal({{"type", "NFKC"}}, "\xEF\xAC\x81"), "fi");  // a ligature
  EXPECT_EQ(normal({{"type", "NFKD"}}, "\xC2\xB2\xC3\xA9"), "2e\xCC\x81");
  EXPECT_EQ(normal({{"type", "NFC"}}, "e\xFF\xCC\x81"), "e\xFF\xCC\x81");  // no UTF-8 stays and parts
  EXPECT_EQ(normal({{"type", "Lowercase"}}, "A\xC3\x89\xCE\xA3\xC4\xB0"), "a\xC3\xA9\xCF\x83i\xCC\x87");
  EXPECT_EQ(normal({{"type", "StripAccents"}}, "e\xCC\x81\xC3\xA9"), "e\xC3\xA9");
  EXPECT_EQ(normal({{"type", "Prepend"}, {"prepend", "_"}}, "a"), "_a");
  EXPECT_EQ(normal({{"type", "Prepend"}, {"prepend", "_"}}, ""), "");
  EXPECT_EQ(normal({{"type", "Replace"}, {"pattern", {{"String", "aa"}}}, {"content", "b$0"}}, "aaa"), "b$0a");
  EXPECT_EQ(normal({{"type", "Replace"}, {"pattern", {{"Regex", " +"}}}, {"content", "_"}}, "a  b c"), "a_b_c");
  const json both{{"type", "Sequence"}, {"normalizers", {{{"type", "NFD"}}, {{"type", "StripAccents"}}}}};
  EXPECT_EQ(normal(both, "\xC3\xA9"), "e");
  json grow{{"type", "Sequence"}, {"normalizers", json::array()}};
  for (int step = 0; step < 40; ++step)
    grow["normalizers"].push_back({{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}});
  EXPECT_TRUE(contains(message_of<SpecError>([&] { static_cast<void>(normal(grow, "aaa")); }), "a text of 3 bytes"));
}

TEST(ByteLevelBpe, AddsASpaceBeforeEachPartOfTheText) {
  json document = document_of(byte_model());
  document["pre_tokenizer"]["add_prefix_space"] = true;
  document["added_tokens"] = json::array({added_token("<x>", 256)});
  const ByteLevelBpe tokenizer = bpe_of(document);
  EXPECT_EQ(tokenizer.encode("a"), (Ids{' ', 'a'}));
  EXPECT_EQ(tokenizer.encode(" a"), (Ids{' ', 'a'}));
  EXPECT_EQ(tokenizer.encode("a<x>b"), (Ids{' ', 'a', 256, ' ', 'b'}));
  EXPECT_EQ(tokenizer.encode(""), Ids{});
}

TEST(ByteLevelBpe, SequencesAsLlama3AndIgnoresMerges) {
  PairModel model = byte_model();
  model.merge("a", "b");  // 256
  model.merge("b", "c");  // 257
  model.pieces.push_back("abc");
  json document = document_of(model);
  document["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers",
       {{{"type", "Split"}, {"pattern", {{"Regex", "\\p{L}+|\\s"}}}, {"behavior", "Isolated"}, {"invert", false}},
        byte_level(false)}}};
  EXPECT_EQ(bpe_of(document).encode("abc bc"), (Ids{256, 'c', ' ', 257}));
  document["model"]["ignore_merges"] = true;
  EXPECT_EQ(bpe_of(document).encode("abc abcb"), (Ids{258, ' ', 256, 'c', 'b'}));
}

TEST(AddedTokens, AreCutOutLongestFirst) {
  json document = document_of(byte_model());
  document["added_tokens"] = {added_token("<a>", 256), added_token("<a><b>", 257), added_token("zz", 258, false)};
  const ByteLevelBpe tokenizer = bpe_of(document);
  EXPECT_EQ(tokenizer.encode("<a>"), Ids{256});
  EXPECT_EQ(tokenizer.encode("<a><b><a><c"), (Ids{257, 256, '<', 'c'}));
  EXPECT_EQ(tokenizer.encode("zzz<a"), (Ids{258, 'z', '<', 'a'}));
  EXPECT_EQ(tokenizer.decode(Ids{'x', 256, 258, 'y'}), "xzzy");
  EXPECT_EQ(tokenizer.decode(Ids{'x', 256, 258, 'y'}, false), "x<a>zzy");
  EXPECT_TRUE(tokenizer.is_special(257));
  EXPECT_FALSE(tokenizer.is_special(258));
}

TEST(AddedTokens, HonourTheirFlags) {
  json document = document_of(byte_model());
  json left = added_token("<l>", 256);
  left["lstrip"] = true;
  json right = added_token("<r>", 257);
  right["rstrip"] = true;
  json single = added_token("one", 258);
  single["single_word"] = true;
  document["added_tokens"] = {left, right, single, added_token(" z", 259)};
  const ByteLevelBpe tokenizer = bpe_of(document);
  EXPECT_EQ(tokenizer.encode("a \xE3\x80\x80<l> b"), (Ids{'a', 256, ' ', 'b'}));  // an ideographic space too
  EXPECT_EQ(tokenizer.encode("a <r> \n b"), (Ids{'a', ' ', 257, 'b'}));
  EXPECT_EQ(tokenizer.encode("<r> <l>"), (Ids{257, 256}));
  EXPECT_EQ(tokenizer.encode("<r> z z"), (Ids{257, 'z', 259}));  // a space is taken once
  EXPECT_EQ(tokenizer.encode("one-one"), (Ids{258, '-', 258}));
  EXPECT_EQ(tokenizer.encode("ones"), (Ids{'o', 'n', 'e', 's'}));
  EXPECT_EQ(tokenizer.encode("_one"), (Ids{'_', 'o', 'n', 'e'}));
}

TEST(AddedTokens, AreLookedForBeforeOrAfterNormalizing) {
  json document = document_of(byte_model());
  document["normalizer"] = {{"type", "Lowercase"}};
  document["added_tokens"] = {added_token("Given", 256), added_token("Norm", 257, false)};
  const ByteLevelBpe tokenizer = bpe_of(document);
  EXPECT_EQ(tokenizer.encode("Given"), Ids{256});
  EXPECT_EQ(tokenizer.encode("given"), (Ids{'g', 'i', 'v', 'e', 'n'}));
  EXPECT_EQ(tokenizer.encode("NORMGivennorm"), (Ids{257, 256, 257}));
}

TEST(Template, SetsTokensBeforeAndAfter) {
  json document = document_of(byte_model());
  document["added_tokens"] = {added_token("<s>", 256), added_token("</s>", 257)};
  const json before{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}};
  const json text{{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const json after{{"SpecialToken", {{"id", "</s>"}, {"type_id", 0}}}};
  const json special{{"<s>", {{"id", "<s>"}, {"ids", {256}}, {"tokens", {"<s>"}}}},
                     {"</s>", {{"id", "</s>"}, {"ids", {257}}, {"tokens", {"</s>"}}}}};
  const json step{
      {"type", "TemplateProcessing"}, {"single", {before, text, after}}, {"pair", {text}}, {"special_tokens", special}};
  document["post_processor"] = {{"type", "Sequence"}, {"processors", {byte_level(), step}}};
  const ByteLevelBpe tokenizer = bpe_of(document);
  EXPECT_EQ(tokenizer.encode("a"), (Ids{256, 'a', 257}));
  EXPECT_EQ(tokenizer.encode("a", false), Ids{'a'});
  EXPECT_EQ(tokenizer.encode(""), (Ids{256, 257}));
  EXPECT_EQ(tokenizer.decode(Ids{256, 'a', 257}), "a");
  EXPECT_EQ(tokenizer.start_token(), 256);
  EXPECT_EQ(tokenizer.end_token(), 257);

  const std::string at = "/post_processor/processors/1";
  EXPECT_EQ(refusal(with(document, at + "/special_tokens/<s>/ids/0", 7)),
            "post_processor.processors[1].special_tokens.<s>.ids[0] is 7, expected 256, the id of \"<s>\"");
  EXPECT_EQ(refusal(with(document, at + "/special_tokens/<s>/tokens/0", "<q>")),
            "post_processor.processors[1].special_tokens.<s>.tokens[0] is \"<q>\", which is no piece");
  EXPECT_TRUE(contains(refusal(with(document, at + "/single", json::array({before}))), "has no text"));
  EXPECT_TRUE(contains(refusal(with(document, at + "/single/0", text)), "is a second text or not A"));
  EXPECT_TRUE(
      contains(refusal(with(document, "/post_processor/processors/0", step)), "a second step that adds tokens"));
  document["post_processor"] = {
      {"type", "RobertaProcessing"}, {"sep", {"</s>", 257}}, {"cls", {"<s>", 256}}, {"trim_offsets", true}};
  EXPECT_EQ(bpe_of(document).encode("a"), (Ids{256, 'a', 257}));
}

TEST(ByteLevelBpe, ReadsConvertedSentencePieceModels) {
  const ByteLevelBpe tokenizer = bpe_of(llama2_document());
  EXPECT_EQ(tokenizer.encode("ab ab"), (Ids{263, 263}));
  EXPECT_EQ(tokenizer.encode(" ab"), (Ids{259, 263}));
  EXPECT_EQ(tokenizer.encode("a\n"), (Ids{259, 260, '\n' + 3}));
  EXPECT_EQ(tokenizer.encode("\xC3\xA9"), (Ids{259, 0xC3 + 3, 0xA9 + 3}));
  EXPECT_EQ(tokenizer.encode("a</s>b"), (Ids{259, 260, 2, 259, 261}));
  EXPECT_EQ(tokenizer.decode(Ids{1, 263, 263, 2}), "ab ab");
  EXPECT_EQ(tokenizer.decode(Ids{259, 259, 260}), " a");
  EXPECT_EQ(tokenizer.decode(Ids{0xC3 + 3, 0xA9 + 3}), "\xC3\xA9");
  std::mt19937_64 random(seed());
  for (int round = 0; round < 100; ++round) {
    const std::string text = round % 2 == 0 ? random_text(random, 30) : random_bytes(random, 30);
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  }
}

TEST(ByteLevelBpe, UnknownCharactersAreOneTokenOrMany) {
  json document = llama2_document();
  document["model"]["byte_fallback"] = false;
  EXPECT_EQ(bpe_of(document).encode("axyb"), (Ids{259, 260, 0, 261}));
  document["model"]["fuse_unk"] = false;
  EXPECT_EQ(bpe_of(document).encode("axyb"), (Ids{259, 260, 0, 0, 261}));
  document["model"]["unk_token"] = nullptr;
  EXPECT_EQ(message_of<SpecError>([&] { static_cast<void>(bpe_of(document).encode("x")); }),
            "the character \"x\" has no piece, and there is no unknown token");
}

TEST(ByteLevelBpe, WritesSpacesAsMetaspace) {
  json document = llama2_document();
  document["normalizer"] = nullptr;
  const auto step = [](const char* scheme, bool split) {
    return json{{"type", "Metaspace"}, {"replacement", "\xE2\x96\x81"}, {"prepend_scheme", scheme}, {"split", split}};
  };
  document["decoder"] = step("always", true);
  document["pre_tokenizer"] = step("always", true);
  EXPECT_EQ(bpe_of(document).encode("ab<s>ab"), (Ids{263, 1, 263}));
  EXPECT_EQ(bpe_of(document).encode(" ab"), Ids{263});
  EXPECT_EQ(bpe_of(document).decode(Ids{263, 263}), "ab ab");
  document["pre_tokenizer"] = step("first", false);
  EXPECT_EQ(bpe_of(document).encode("ab<s>ab"), (Ids{263, 1, 262}));
  document["pre_tokenizer"] = step("never", true);
  EXPECT_EQ(bpe_of(document).encode("ab ab"), (Ids{262, 263}));
  EXPECT_TRUE(contains(refusal(with(document, "/pre_tokenizer/prepend_scheme", "last")), "expected always, first"));
  EXPECT_TRUE(contains(refusal(with(document, "/pre_tokenizer/replacement", "ab")), "expected one character"));
}

TEST(TextStream, GivesTheSameTextInWholeCharacters) {
  std::mt19937_64 random(seed());
  const ByteLevelBpe bytes = bpe_of(document_of(random_model(random, 40)));
  const ByteLevelBpe llama = bpe_of(llama2_document());
  for (int round = 0; round < 100; ++round) {
    const std::string text = random_text(random, 30);
    for (const ByteLevelBpe* tokenizer : {&bytes, &llama}) {
      const Ids ids = tokenizer->encode(text);
      TextStream stream(*tokenizer);
      std::string streamed;
      for (const int id : ids) {
        const std::string part = stream.add(id);
        EXPECT_TRUE(detail::is_utf8(part)) << text;
        streamed += part;
      }
      EXPECT_EQ(stream.finish(), "");
      EXPECT_EQ(streamed, text);
    }
    // Any ids at all, also such as are no UTF-8
    Ids ids(20);
    for (int& id : ids) id = static_cast<int>(random() % 259);
    TextStream stream(llama);
    std::string streamed;
    for (const int id : ids) streamed += stream.add(id);
    EXPECT_EQ(streamed + stream.finish(), llama.decode(ids));
  }
}

TEST(TextStream, HoldsBackOnlyWhatCanBecomeACharacter) {
  const ByteLevelBpe tokenizer = bpe_of(document_of(byte_model()));
  TextStream stream(tokenizer);
  EXPECT_EQ(stream.add(0xE2), "");
  EXPECT_EQ(stream.add(0x82), "");
  EXPECT_EQ(stream.add(0xAC), "\xE2\x82\xAC");
  EXPECT_EQ(stream.add(0xE2), "");
  EXPECT_EQ(stream.add('a'),
            "\xE2"
            "a");
  EXPECT_EQ(stream.add(0x82), "\x82");
  EXPECT_EQ(stream.add(0xFF), "\xFF");
  EXPECT_EQ(stream.add(0xC0), "\xC0");
  EXPECT_EQ(stream.add(0xED), "");
  EXPECT_EQ(stream.add(0xA0), "\xED\xA0");  // a surrogate
  EXPECT_EQ(stream.add(0xF0), "");
  EXPECT_EQ(stream.finish(), "\xF0");
}

TEST(WordPiece, EncodesAsWorkedByHandFromBothSources) {
  const TempFolder folder;
  const auto size = static_cast<Index>(bert_pieces().size());
  const WordPiece lines = WordPiece::read_lines(folder.write("vocab.txt", bert_lines()), size);
  const WordPiece whole = word_piece_of(bert_document(), size);
  for (const WordPiece* tokenizer : {&lines, &whole}) {
    // un ##aff ##able , want ##ed run ##n ##ing
    EXPECT_EQ(tokenizer->encode("Unaffable, wanted RUNNING"), (Ids{2, 5, 6, 7, 10, 8, 9, 11, 12, 13, 3}));
    EXPECT_EQ(tokenizer->encode("\xC3\x81\xC3\x80 \xC3\xA9!", false), (Ids{14, 15, 16, 18}));  // accents go
    EXPECT_EQ(tokenizer->encode("a\xE4\xB8\xAD"
                                "a",
                                false),
              (Ids{14, 19, 14}));  // an ideograph apart
    EXPECT_EQ(tokenizer->encode("a\xE4\xB8\xAB", false), (Ids{14, 1}));
    EXPECT_EQ(tokenizer->encode("a xyz unx a", false), (Ids{14, 1, 1, 14}));  // the whole word is unknown
    EXPECT_EQ(tokenizer->encode("a\xE2\x80\x8B"
                                "a",
                                false),
              (Ids{14, 15}));  // a format character goes
    EXPECT_EQ(tokenizer->encode("a\xC2\xA0"
                                "a\ta",
                                false),
              (Ids{14, 14, 14}));
    EXPECT_EQ(tokenizer->encode("a\xFF"
                                "a",
                                false),
              (Ids{14, 15}));  // no UTF-8 goes as U+FFFD
    EXPECT_EQ(tokenizer->encode("a[MASK]a", false), (Ids{14, 4, 14}));
    EXPECT_EQ(tokenizer->encode("", true), (Ids{2, 3}));
    EXPECT_EQ(tokenizer->encode(std::string(100, 'a'), false).size(), 100u);
    EXPECT_EQ(tokenizer->encode(std::string(101, 'a'), false), Ids{1});
    EXPECT_EQ(tokenizer->decode(Ids{2, 5, 6, 7, 10, 8, 9, 18, 3}), "unaffable, wanted!");
    EXPECT_EQ(tokenizer->start_token(), 2);
    EXPECT_EQ(tokenizer->end_token(), 3);
  }
  std::mt19937_64 random(seed());
  for (int round = 0; round < 200; ++round) {
    const std::string text = random_text(random, 30);
    EXPECT_EQ(lines.encode(text), whole.encode(text)) << text;
  }
}

TEST(WordPiece, FollowsItsOptions) {
  const TempFolder folder;
  const std::filesystem::path path = folder.write("vocab.txt", bert_lines() + "A\r\n\xC3\xA9\na\xE4\xB8\xAD\n");
  WordPieceOptions options;
  options.lower = false;
  EXPECT_EQ(WordPiece::read_lines(path, 23, options).encode("A \xC3\xA9", false), (Ids{20, 21}));
  options.strip_accents = true;
  EXPECT_EQ(WordPiece::read_lines(path, 23, options).encode("A \xC3\xA9", false), (Ids{20, 16}));
  options.cjk_apart = false;
  EXPECT_EQ(WordPiece::read_lines(path, 23, options).encode("a\xE4\xB8\xAD", false), Ids{22});
}

TEST(WordPiece, NamesWhatALineLacks) {
  const TempFolder folder;
  const auto message = [&](const std::string& bytes, Index vocabulary = 100) {
    const std::filesystem::path path = folder.write("vocab.txt", bytes);
    const std::string all =
        message_of<FormatError>([&] { static_cast<void>(WordPiece::read_lines(path, vocabulary)); });
    return all.substr(path.string().size() + 2);
  };
  EXPECT_EQ(message(bert_lines() + "\n"), "line 21 is empty, expected a piece");
  EXPECT_EQ(message("a\n\xFF\n"), "line 2 is no UTF-8");
  EXPECT_EQ(message(bert_lines() + "un\n"), "the piece \"un\" stands twice, with the ids 5 and 20");
  EXPECT_EQ(message(bert_lines(), 19), "the piece \"\xE4\xB8\xAD\" has the id 19, expected 0 to 18");
  EXPECT_EQ(message("a\n"), "has no piece [UNK]");
  EXPECT_EQ(message(""), "has no piece [UNK]");
}

TEST(TokenizerJson, RefusesWhatItDoesNotKnow) {
  const json sound = document_of(byte_model());
  EXPECT_EQ(bpe_of(sound).vocabulary(), 100000);
  EXPECT_EQ(refusal(with(sound, "/model/dropout", 0.1)), "model.dropout is 0.1, expected null: it is not done here");
  EXPECT_EQ(refusal(with(sound, "/model/continuing_subword_prefix", "##")),
            "model.continuing_subword_prefix is \"##\", expected null: it is not done here");
  EXPECT_EQ(refusal(with(sound, "/model/end_of_word_suffix", "</w>")),
            "model.end_of_word_suffix is \"</w>\", expected null: it is not done here");
  EXPECT_EQ(refusal(with(sound, "/model/type", "Unigram")),
            "model.type is \"Unigram\", expected \"BPE\" or \"WordPiece\"");
  EXPECT_EQ(refusal(with(sound, "/model/new", 1)), "model has the field new, which is not known here");
  EXPECT_EQ(refusal(with(sound, "/new", 1)), "has the field new, which is not known here");
  EXPECT_EQ(refusal(with(sound, "/version", "2.0")), "version is \"2.0\", expected \"1.0\"");
  EXPECT_EQ(refusal(with(sound, "/model/unk_token", "<unk>")), "model.unk_token is \"<unk>\", which is no piece");
  EXPECT_EQ(refusal(with(sound, "/model/fuse_unk", 1)), "model.fuse_unk is 1, expected true or false");
  for (const char* part : {"normalizer", "pre_tokenizer", "post_processor", "decoder"}) {
    const std::string name = part;
    EXPECT_TRUE(
        refusal(with(sound, "/" + name, {{"type", "Other"}})).starts_with(name + ".type is \"Other\", which is"));
    EXPECT_EQ(refusal(with(sound, "/" + name, json::object())), name + " has no type");
    EXPECT_EQ(refusal(with(sound, "/" + name, 5)), name + " is 5, expected an object");
  }
  EXPECT_EQ(refusal(with(sound, "/pre_tokenizer/more", true)),
            "pre_tokenizer has the field more, which is not known here");
  const json twice{{"type", "Sequence"}, {"pretokenizers", {byte_level(), byte_level()}}};
  EXPECT_TRUE(contains(refusal(with(sound, "/pre_tokenizer", twice)), "is a second ByteLevel"));
  json late = llama2_document();
  std::swap(late["decoder"]["decoders"][0], late["decoder"]["decoders"][2]);
  EXPECT_TRUE(contains(refusal(late), "after pieces are joined, expected Strip or Fuse"));
  EXPECT_TRUE(contains(refusal(with(llama2_document(), "/decoder/decoders/3/stop", 1)), "which is not done here"));
  EXPECT_TRUE(contains(refusal(with(bert_document(), "/model/unk_token", "?")), "which is no piece"));
  EXPECT_TRUE(contains(refusal(with(bert_document(), "/model/max_input_chars_per_word", -1)), "is -1, expected 0 to"));
}

TEST(TokenizerJson, ChecksPiecesIdsAndMerges) {
  PairModel model = byte_model();
  model.merge("a", "b");
  const json sound = document_of(model);
  EXPECT_TRUE(contains(refusal(sound, 256), "the piece \"ab\" has the id 256, expected 0 to 255"));
  EXPECT_TRUE(contains(refusal(with(sound, "/model/vocab/ab", -1)), "the piece \"ab\" has the id -1, expected 0 to"));
  EXPECT_TRUE(contains(refusal(with(sound, "/model/vocab/ab", 18446744073709551615u)), "expected 0 to 99999"));
  EXPECT_TRUE(contains(refusal(with(sound, "/model/vocab/ab", 98)), "has the id 98, which "));
  EXPECT_EQ(refusal(with(sound, "/model/vocab/ab", "98")), "the id of the piece \"ab\" is no whole number");
  EXPECT_EQ(refusal(with(sound, "/model/vocab/ab", 1.5)), "the id of the piece \"ab\" is no whole number");
  EXPECT_EQ(refusal(with(sound, "/model/vocab", json::object())), "the vocabulary is empty");
  EXPECT_EQ(refusal(with(sound, "/model/merges/0", "a c")), "merge 0: \"ac\" is no piece");
  EXPECT_EQ(refusal(with(sound, "/model/merges/0", "a xx")), "merge 0: \"xx\" is no piece");
  EXPECT_EQ(refusal(with(sound, "/model/merges/1", "a b")), "merge 1 of \"a\" and \"b\" stands twice");
  for (const char* line : {"ab", "a b c", " ab", "ab ", ""})
    EXPECT_EQ(refusal(with(sound, "/model/merges/0", line)),
              "merge 0 is \"" + std::string(line) + "\", expected two pieces with one space between");
  EXPECT_EQ(refusal(with(sound, "/model/merges/0", {"a", "b", "c"})), "merge 0: expected two pieces");
  EXPECT_EQ(refusal(with(sound, "/model/merges/0", {"a", 1})), "merge 0 is no pair of strings");
  EXPECT_EQ(refusal(with(sound, "/model/merges/0", 1)), "merge 0 is no pair of strings");
  EXPECT_EQ(refusal(with(sound, "/model/merges", 1)), "model.merges is 1, expected an array");

  EXPECT_EQ(refusal(with(sound, "/added_tokens/0", added_token("a", 5))),
            "the added token \"a\" has the id 5, but its piece has 97");
  EXPECT_TRUE(contains(refusal(with(sound, "/added_tokens/0", added_token("new", 5))), "has the id 5, which "));
  EXPECT_EQ(refusal(with(sound, "/added_tokens/0", added_token("", 300))), "the added token \"\" is empty");
  EXPECT_EQ(refusal(with(sound, "/added_tokens/0", added_token("n", 100000))),
            "added_tokens[0].id is 100000, expected 0 to 99999");
  EXPECT_EQ(refusal(with(sound, "/added_tokens", {added_token("n!", 300), added_token("n!", 300)})),
            "the added token \"n!\" stands twice");
  EXPECT_TRUE(contains(message_of<SpecError>([&] { static_cast<void>(bpe_of(sound, 0)); }), "the vocabulary is 0"));
  EXPECT_TRUE(contains(message_of<SpecError>([&] { static_cast<void>(bpe_of(sound).decode(Ids{100000})); }),
                       "token 100000 does not exist, expected 0 to 99999"));
  EXPECT_EQ(bpe_of(sound).decode(Ids{'a', 99999, 'b'}), "ab");  // a token without a piece
}

TEST(TokenizerJson, NamesThePlaceOfBrokenJson) {
  const TempFolder folder;
  const auto message = [&](const std::string& bytes) {
    const std::filesystem::path path = folder.write("tokenizer.json", bytes);
    const std::string all = message_of<FormatError>([&] { static_cast<void>(ByteLevelBpe::read(path, 1000)); });
    return all.substr(path.string().size() + 2);
  };
  EXPECT_EQ(message("{\"model\": }"), "no JSON at byte 11");
  EXPECT_EQ(message("").substr(0, 15), "no JSON at byte");
  EXPECT_EQ(message("{\"model\": {}} x").substr(0, 15), "no JSON at byte");
  EXPECT_EQ(message("{\"model\": \"\xFF\"}").substr(0, 15), "no JSON at byte");
  EXPECT_EQ(message("{\"model\": 1, \"model\": 2}"), "/model stands twice");
  EXPECT_EQ(message("{\"model\": {\"vocab\": {\"a\": 0, \"a\": 1}}}"),
            "the piece \"a\" stands twice, with the ids 0 and 1");
  EXPECT_EQ(message(std::string(100000, '[')), "nested deeper than 32");
  EXPECT_EQ(message("[]"), "is an array, expected an object");
}

TEST(TextTokenizer, PicksTheFilesOfAFolder) {
  std::mt19937_64 random(seed());
  PairModel model = random_model(random, 30);
  model.pieces.emplace_back("<|endoftext|>");
  const int last = static_cast<int>(model.size()) - 1;

  const TempFolder none;
  EXPECT_TRUE(contains(message_of<FormatError>([&] { static_cast<void>(TextTokenizer::read(none / "", 9)); }),
                       "no tokenizer.json, no vocab.json with merges.txt and no vocab.txt"));

  const TempFolder pairs;
  pairs.write("vocab.json", model.vocabulary().dump());
  pairs.write("merges.txt", model.merge_lines());
  const TextTokenizer gpt2 = TextTokenizer::read(pairs / "", model.size());
  EXPECT_EQ(gpt2.encode("x<|endoftext|>"), (Ids{'x', last}));
  EXPECT_EQ(gpt2.decode(Ids{'x', last}), "x");
  EXPECT_EQ(gpt2.vocabulary(), model.size());
  EXPECT_EQ(gpt2.start_token(), std::nullopt);
  const json named{{"bos_token", "<|endoftext|>"},
                   {"eos_token", {{"content", "<|endoftext|>"}, {"lstrip", false}}},
                   {"model_max_length", 1e30},
                   {"add_prefix_space", true}};
  pairs.write("tokenizer_config.json", named.dump());
  EXPECT_EQ(TextTokenizer::read(pairs / "", model.size()).start_token(), last);
  EXPECT_EQ(TextTokenizer::read(pairs / "", model.size()).end_token(), last);
  EXPECT_EQ(TextTokenizer::read(pairs / "", model.size()).encode("x"), (Ids{' ', 'x'}));
  const auto refuses = [&](const json& config, const std::string& part) {
    pairs.write("tokenizer_config.json", config.dump());
    const std::string message =
        message_of<FormatError>([&] { static_cast<void>(TextTokenizer::read(pairs / "", model.size())); });
    EXPECT_TRUE(contains(message, "tokenizer_config.json: " + part)) << message;
  };
  refuses({{"tokenizer_class", "RobertaTokenizer"}}, "tokenizer_class is \"RobertaTokenizer\"");
  refuses({{"bos_token", "<s>"}}, "bos_token is \"<s>\", which is no piece");
  refuses({{"eos_token", 5}}, "eos_token is 5, expected a string");
  refuses({{"add_bos_token", true}}, "add_bos_token is true");
  refuses({{"added_tokens_decoder", {{"x", json::object()}}}}, "added_tokens_decoder has the id x");
  pairs.write("tokenizer_config.json", json{{"added_tokens_decoder", {{"99", {{"content", "c"}}}}}}.dump());
  EXPECT_EQ(TextTokenizer::read(pairs / "", model.size()).encode("<|"), (Ids{'<', '|'}));

  const TempFolder lines;
  lines.write("vocab.txt", bert_lines());
  EXPECT_EQ(TextTokenizer::read(lines / "", 20).encode("A"), (Ids{2, 14, 3}));
  lines.write("tokenizer_config.json", R"({"do_lower_case": false, "cls_token": "[MASK]"})");
  EXPECT_EQ(TextTokenizer::read(lines / "", 20).encode("A"), (Ids{4, 1, 3}));
  // A tokenizer.json comes first.
  json untyped = bert_document();
  untyped["model"].erase("type");
  lines.write("tokenizer.json", untyped.dump());
  EXPECT_EQ(TextTokenizer::read(lines / "", 20).encode("A"), (Ids{2, 14, 3}));
  json old = document_of(model);
  old["model"].erase("type");
  lines.write("tokenizer.json", old.dump());
  EXPECT_EQ(TextTokenizer::read(lines / "", model.size()).encode("xA"), (Ids{'x', 'A'}));
}

/// A file with a few bytes changed, cut out, put in or repeated.
std::string damaged(std::string bytes, std::mt19937_64& random) {
  for (std::uint64_t left = 1 + random() % 3; left > 0 && !bytes.empty(); --left) {
    const std::size_t at = random() % bytes.size();
    const std::string_view likely = "{}[]\",:0129-x\\";
    switch (random() % 5) {
      case 0:
        bytes[at] = static_cast<char>(random() % 256);
        break;
      case 1:
        bytes[at] = likely[random() % likely.size()];
        break;
      case 2:
        bytes.erase(at, random() % 9);
        break;
      case 3:
        bytes.insert(at, bytes, random() % bytes.size(), random() % 30);
        break;
      default:
        bytes.resize(random() % 20 == 0 ? at : bytes.size());
        break;
    }
  }
  return bytes;
}

TEST(TextTokenizer, AFileLongerThanAnyTextIsRefusedUnread) {
  for (const char* name : {"tokenizer.json", "vocab.txt"}) {
    const TempFolder folder;
    std::filesystem::resize_file(folder.write(name, "{}"), std::uintmax_t{1} << 41);  // takes no room on the disk
    EXPECT_TRUE(contains(message_of<FormatError>([&] { static_cast<void>(TextTokenizer::read(folder / "", 300)); }),
                         "2199023255552 bytes, expected 1073741824 at most"))
        << name;
  }
}

TEST(TextTokenizer, DamagedFilesAreReadOrRefused) {
  std::mt19937_64 random(seed());
  json big = document_of(random_model(random, 5));
  json pattern = llama2_document();
  pattern["pre_tokenizer"] = {{"type", "Split"},
                              {"pattern", {{"Regex", detail::PreTokenizer::gpt2_pattern}}},
                              {"behavior", "Isolated"},
                              {"invert", false}};
  const std::vector<std::pair<std::string, std::string>> seeds{{"tokenizer.json", big.dump()},
                                                               {"tokenizer.json", pattern.dump()},
                                                               {"tokenizer.json", bert_document().dump()},
                                                               {"vocab.txt", bert_lines()}};
  const std::string text = "Running  ab unaffable 12 \xC3\xA9!\n<s>";
  int read = 0;
  int refused = 0;
  for (const auto& [name, bytes] : seeds) {
    const TempFolder folder;
    for (int round = 0; round < 300; ++round) {
      folder.write(name, damaged(bytes, random));
      try {
        const TextTokenizer tokenizer = TextTokenizer::read(folder / "", 400);
        const Ids ids = tokenizer.encode(text);
        for (const int id : ids) EXPECT_TRUE(id >= 0 && id < 400);
        static_cast<void>(tokenizer.decode(ids));
        ++read;
      } catch (const FormatError& error) {
        EXPECT_TRUE(contains(error.what(), name)) << error.what();
        ++refused;
      } catch (const SpecError&) {
        ++refused;
      }
    }
  }
  EXPECT_GT(read, 50);
  EXPECT_GT(refused, 50);
}

}  // namespace
