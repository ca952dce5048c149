// What tokenizer.json says, step by step, and what of it is refused; the files of a folder.

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <regex>
#include <string>
#include <string_view>
#include <twoheads/text/byte_level_bpe.hpp>
#include <twoheads/text/text_tokenizer.hpp>
#include <utility>
#include <vector>

#include "support/contains.hpp"
#include "support/message_of.hpp"
#include "support/temp_folder.hpp"
#include "support/text_cases.hpp"
#include "support/tokenizer_documents.hpp"

namespace {

using namespace twoheads;
using namespace tokenizers;
using nlohmann::json;
using namespace text_cases;

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
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+)"
      R"(|\s+(?!\S)|\s+)";
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
  EXPECT_TRUE(contains(message_of<FileError>([&] { static_cast<void>(TextTokenizer::read(none / "", 9)); }),
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
