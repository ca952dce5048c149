#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <twoheads/text/byte_level_bpe.hpp>
#include <twoheads/text/word_piece.hpp>

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

}  // namespace
