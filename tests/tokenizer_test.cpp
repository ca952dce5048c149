#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <cstring>
#include <exception>
#include <filesystem>
#include <limits>
#include <random>
#include <sstream>
#include <string>
#include <string_view>
#include <twoheads/model/tokenizer.hpp>
#include <utility>
#include <vector>

#include "support/append.hpp"
#include "support/contains.hpp"
#include "support/memory_limit.hpp"
#include "support/message_of.hpp"
#include "support/seed.hpp"
#include "support/shared_data.hpp"
#include "support/temp_folder.hpp"

namespace {

using namespace twoheads;
using Ids = std::vector<int>;

std::uint64_t seed() { return seed_or(512); }

struct Entry {
  std::string piece;
  float score = 0;
};
using Vocabulary = std::vector<Entry>;

std::string file_of(const Vocabulary& vocabulary) {
  std::size_t longest = 0;
  for (const Entry& entry : vocabulary) longest = std::max(longest, entry.piece.size());
  std::string bytes;
  append(bytes, static_cast<std::int32_t>(longest));
  for (const Entry& entry : vocabulary) {
    append(bytes, entry.score);
    append(bytes, static_cast<std::int32_t>(entry.piece.size()));
    bytes += entry.piece;
  }
  return bytes;
}

Tokenizer read(const std::string& bytes, Index vocabulary) {
  std::istringstream in(bytes);
  return Tokenizer::read(in, bytes.size(), vocabulary, "made.bin");
}

Tokenizer tokenizer_of(const Vocabulary& vocabulary) {
  return read(file_of(vocabulary), static_cast<Index>(vocabulary.size()));
}

/// The 259 tokens with which every llama2.c vocabulary begins, then the given ones.
Vocabulary with_bytes(const Vocabulary& more) {
  Vocabulary all{{"<unk>", 0}, {"\n<s>\n", 0}, {"\n</s>\n", 0}};
  for (int byte = 0; byte < 256; ++byte) {
    const char* digits = "0123456789ABCDEF";
    all.push_back({std::string("<0x") + digits[byte / 16] + digits[byte % 16] + ">", 0});
  }
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

/// llama2.c's loops, one to one, with its linear look-up and its O(n^2) joining.
Ids encode_directly(const Vocabulary& vocabulary, std::string_view text) {
  const auto look_up = [&](std::string_view piece) {
    for (std::size_t id = 0; id < vocabulary.size(); ++id)
      if (vocabulary[id].piece == piece) return static_cast<int>(id);
    return -1;
  };
  const auto at = [&](int id) -> const Entry& { return vocabulary.at(static_cast<std::size_t>(id)); };
  Ids tokens{1};
  if (!text.empty()) tokens.push_back(look_up(" "));
  std::string buffer;
  for (std::size_t c = 0; c < text.size(); ++c) {
    if ((text[c] & 0xC0) != 0x80) buffer.clear();
    buffer += text[c];
    if (c + 1 < text.size() && (text[c + 1] & 0xC0) == 0x80 && buffer.size() < 4) continue;
    const int id = look_up(buffer);
    if (id != -1) {
      tokens.push_back(id);
    } else {
      for (const char byte : buffer) tokens.push_back(static_cast<unsigned char>(byte) + 3);
    }
    buffer.clear();
  }
  while (true) {
    float best_score = -1e10F;
    int best_id = -1;
    std::size_t best_at = 0;
    for (std::size_t i = 0; i + 1 < tokens.size(); ++i) {
      const int id = look_up(at(tokens[i]).piece + at(tokens[i + 1]).piece);
      if (id != -1 && at(id).score > best_score) {
        best_score = at(id).score;
        best_id = id;
        best_at = i;
      }
    }
    if (best_id == -1) return tokens;
    tokens[best_at] = best_id;
    tokens.erase(tokens.begin() + static_cast<std::ptrdiff_t>(best_at) + 1);
  }
}

constexpr int base = 259;  // the first token that is not given by the format

TEST(Tokenizer, JoinsTheBestPairFirst) {
  const Tokenizer tokenizer = tokenizer_of(
      with_bytes({{" ", -9}, {"a", -9}, {"b", -9}, {"c", -9}, {"ab", -2}, {"bc", -1}, {"abc", -3}, {" a", -4}}));
  EXPECT_EQ(tokenizer.encode(""), (Ids{1}));
  EXPECT_EQ(tokenizer.encode("b"), (Ids{1, base, base + 2}));
  EXPECT_EQ(tokenizer.encode("a"), (Ids{1, base + 7}));
  // b c first (-1), then a + bc (-3) before the space + a (-4)
  EXPECT_EQ(tokenizer.encode("abc"), (Ids{1, base, base + 6}));
  EXPECT_EQ(tokenizer.encode("bca"), (Ids{1, base, base + 5, base + 1}));
  EXPECT_EQ(tokenizer.encode("ab"), (Ids{1, base, base + 4}));
}

TEST(Tokenizer, OfEqualScoresTheLeftmostPairIsJoined) {
  const Tokenizer tokenizer =
      tokenizer_of(with_bytes({{" ", 0}, {"a", 0}, {"aa", -1}, {"b", 0}, {"ab", -1}, {"ba", -1}}));
  EXPECT_EQ(tokenizer.encode("aaa"), (Ids{1, base, base + 2, base + 1}));
  EXPECT_EQ(tokenizer.encode("aaaa"), (Ids{1, base, base + 2, base + 2}));
  EXPECT_EQ(tokenizer.encode("aba"), (Ids{1, base, base + 4, base + 1}));
  EXPECT_EQ(tokenizer.encode("bab"), (Ids{1, base, base + 5, base + 3}));
}

TEST(Tokenizer, BytesWithoutAPieceBecomeByteTokens) {
  const Tokenizer tokenizer = tokenizer_of(with_bytes({{" ", 0}, {"\xC3\xA9", 0}, {"x", 0}, {"\x80", 0}}));
  EXPECT_EQ(tokenizer.encode("\xC3\xA9"), (Ids{1, base, base + 1}));  // a piece
  EXPECT_EQ(tokenizer.encode("\xE2\x82\xAC"), (Ids{1, base, 0xE2 + 3, 0x82 + 3, 0xAC + 3}));
  EXPECT_EQ(tokenizer.encode("\xC3x"), (Ids{1, base, 0xC3 + 3, base + 2}));  // cut short
  EXPECT_EQ(tokenizer.encode("\xA9"), (Ids{1, base, 0xA9 + 3}));             // a stray continuation
  // Groups of four at most: only the fifth byte stands alone and is looked up as one.
  EXPECT_EQ(tokenizer.encode("\x80\x80\x80\x80\x80"), (Ids{1, base, 131, 131, 131, 131, base + 3}));
  EXPECT_EQ(tokenizer.encode("\xC3\xA9\xA9"), (Ids{1, base, 0xC3 + 3, 0xA9 + 3, 0xA9 + 3}));
  EXPECT_EQ(tokenizer.encode(std::string_view("x\0x", 3)), (Ids{1, base, base + 2, 3, base + 2}));
  EXPECT_EQ(tokenizer.decode(Ids{1, base, base + 2, 3, base + 2}), std::string("x\0x", 3));
}

TEST(Tokenizer, TheStartTokenAndByteTokensJoinByTheirPieces) {
  const Tokenizer tokenizer = tokenizer_of(with_bytes({{" ", 0}, {"\n<s>\n ", -1}, {"<0x07>!", -2}, {"!", 0}}));
  EXPECT_EQ(tokenizer.encode("\a!"), (Ids{base + 1, base + 2}));
  EXPECT_EQ(tokenizer.encode(""), (Ids{1}));
}

TEST(Tokenizer, OfTwoTokensWithOnePieceTheLowerIsTaken) {
  const Tokenizer tokenizer = tokenizer_of(with_bytes({{" ", 0}, {"a", 0}, {"a", 9}, {"aa", -1}, {"aa", 5}}));
  EXPECT_EQ(tokenizer.encode("aa"), (Ids{1, base, base + 3}));
}

TEST(Tokenizer, ScoresAtTheLowestNeverJoin) {
  const float infinity = std::numeric_limits<float>::infinity();
  const Vocabulary vocabulary =
      with_bytes({{" ", 0}, {"a", 0}, {"b", 0}, {"aa", -1e10F}, {"ab", -infinity}, {"bb", infinity}});
  const Tokenizer tokenizer = tokenizer_of(vocabulary);
  EXPECT_EQ(tokenizer.encode("aab"), (Ids{1, base, base + 1, base + 1, base + 2}));
  EXPECT_EQ(tokenizer.encode("abb"), (Ids{1, base, base + 1, base + 5}));
}

TEST(Tokenizer, DecodesPieces) {
  const Tokenizer tokenizer = tokenizer_of(
      with_bytes({{" ", 0}, {" a", 0}, {"<0x4", 0}, {"<0xG1>", 0}, {"<0x41>!", 0}, {" <0x2c>", 0}, {"  ", 0}}));
  EXPECT_EQ(tokenizer.decode(1, base + 1), "a");
  EXPECT_EQ(tokenizer.decode(2, base + 1), " a");
  EXPECT_EQ(tokenizer.decode(1, base), "");
  EXPECT_EQ(tokenizer.decode(1, base + 6), " ");
  EXPECT_EQ(tokenizer.decode(0, 0x0A + 3), "\n");
  EXPECT_EQ(tokenizer.decode(0, 0x00 + 3), std::string(1, '\0'));
  EXPECT_EQ(tokenizer.decode(0, 0xFF + 3), "\xFF");
  EXPECT_EQ(tokenizer.decode(0, base + 2), "<0x4");
  EXPECT_EQ(tokenizer.decode(0, base + 3), "<0xG1>");
  EXPECT_EQ(tokenizer.decode(0, base + 4), "<0x41>!");
  EXPECT_EQ(tokenizer.decode(1, base + 5), ",");
  EXPECT_EQ(tokenizer.decode(0, base + 5), " <0x2c>");
  EXPECT_EQ(tokenizer.decode(0, 1), "\n<s>\n");
  EXPECT_EQ(tokenizer.decode(Ids{}), "");
  EXPECT_EQ(tokenizer.decode(Ids{1}), "");
  EXPECT_EQ(tokenizer.decode(Ids{base + 1}), " a");
  EXPECT_EQ(tokenizer.decode(Ids{1, base + 1, base + 1, 1, base + 1}), "a aa");
}

TEST(Tokenizer, IdsOutsideTheVocabularyAreNamed) {
  const Tokenizer tokenizer = tokenizer_of(with_bytes({{" ", 0}}));
  const std::string expected = " does not exist, expected 0 to 259";
  EXPECT_EQ(message_of<SpecError>([&] { static_cast<void>(tokenizer.decode(0, 260)); }), "token 260" + expected);
  EXPECT_EQ(message_of<SpecError>([&] { static_cast<void>(tokenizer.decode(-1, 5)); }), "token -1" + expected);
  EXPECT_EQ(message_of<SpecError>([&] {
              static_cast<void>(tokenizer.decode(Ids{1, 2, 999}));
            }),
            "token 999" + expected);
  EXPECT_EQ(message_of<SpecError>([&] { static_cast<void>(tokenizer.piece(-7)); }), "token -7" + expected);
  EXPECT_EQ(tokenizer.piece(259), " ");
  const Tokenizer without_bytes = tokenizer_of({{"<unk>", 0}, {"<s>", 0}, {" ", 0}, {"a", 0}});
  EXPECT_EQ(without_bytes.encode("a"), (Ids{1, 2, 3}));
  EXPECT_EQ(message_of<SpecError>([&] { static_cast<void>(without_bytes.encode("b")); }),
            "byte 98 has no piece, and its byte token 101 does not exist, expected 0 to 3");
}

TEST(Tokenizer, EncodesAsTheDirectLoopsDo) {
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  std::mt19937_64 random(seed());
  const auto below = [&](std::uint64_t end) { return random() % end; };
  const std::vector<std::string> letters{"a", "b", " ", "c", "\xC3\xA9", "\xE2\x82\xAC", "<", "\xF0\x9F\x98\x80"};
  for (int round = 0; round < 300; ++round) {
    const std::uint64_t used = 1 + below(letters.size());
    Vocabulary more{{" ", 0}};
    for (std::uint64_t i = below(60); i > 0; --i) {
      std::string piece;
      for (std::uint64_t length = 1 + below(5); length > 0; --length) piece += letters[below(used)];
      if (below(20) == 0) piece.insert(0, "\n<s>\n");
      if (below(20) == 0) piece += "<0x61>";
      more.push_back({piece, -static_cast<float>(below(1 + below(6)))});  // few scores: many ties
    }
    if (below(4) == 0) more.push_back({"", -1});
    const Vocabulary vocabulary = with_bytes(more);
    const Tokenizer tokenizer = tokenizer_of(vocabulary);
    for (int texts = 0; texts < 4; ++texts) {
      std::string text;
      for (std::uint64_t length = below(60); length > 0; --length)
        text += below(15) == 0 ? std::string(1, static_cast<char>(1 + below(255))) : letters[below(used)];
      ASSERT_EQ(tokenizer.encode(text), encode_directly(vocabulary, text))
          << "round " << round << ", text " << testing::PrintToString(text);
    }
  }
}

TEST(Tokenizer, DecodingWhatWasEncodedGivesTheTextBack) {
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  std::mt19937_64 random(seed());
  const Tokenizer tokenizer = tokenizer_of(with_bytes({{" ", -9},
                                                       {"a", -9},
                                                       {"b", -9},
                                                       {"aa", -1},
                                                       {"ab", -1},
                                                       {"  ", -2},
                                                       {" a", -3},
                                                       {"abaa", -2},
                                                       {"\xC3\xA9", -5}}));
  for (int round = 0; round < 500; ++round) {
    std::string text;
    for (std::uint64_t length = random() % 50; length > 0; --length)
      text += random() % 3 == 0 ? static_cast<char>(random()) : "ab "[random() % 3];
    ASSERT_EQ(tokenizer.decode(tokenizer.encode(text)), text) << "round " << round;
  }
}

TEST(Tokenizer, ALongTextTakesNoQuadraticTime) {
  // 2^20 bytes that join in 9 generations; the direct loops would look at about 2^39 pairs.
  Vocabulary more{{" ", 0}};
  std::string piece = "a";
  for (int generation = 0; generation < 10; ++generation, piece += piece)
    more.push_back({piece, -static_cast<float>(generation)});
  const Tokenizer tokenizer = tokenizer_of(with_bytes(more));
  const Ids ids = tokenizer.encode(std::string(1 << 20, 'a'));
  ASSERT_EQ(ids.size(), 2U + (1U << 11));
  for (std::size_t at = 2; at < ids.size(); ++at) ASSERT_EQ(ids[at], base + 10);
}

TEST(Tokenizer, DamagedFilesAreFormatErrors) {
  const MemoryLimit limit;
  const Vocabulary vocabulary = with_bytes({{" ", 0}, {"ab", -1}});
  const auto count = static_cast<Index>(vocabulary.size());
  const std::string whole = file_of(vocabulary);
  EXPECT_NO_THROW(read(whole, count));
  for (std::size_t length = 0; length < whole.size(); ++length) {
    ASSERT_THROW(read(whole.substr(0, length), count), FormatError) << length;
    std::istringstream shorter(whole.substr(0, length));
    ASSERT_THROW(static_cast<void>(Tokenizer::read(shorter, whole.size(), count)), FormatError) << length;
  }
  const auto message = [&](const std::string& bytes, Index tokens) {
    return message_of<FormatError>([&] { read(bytes, tokens); });
  };
  EXPECT_TRUE(contains(message(whole, count + 1), "made.bin: token 261 of 262: the file ends after"));
  EXPECT_TRUE(contains(message(whole, count - 1), "made.bin: 10 bytes follow the last of 260 tokens"));
  EXPECT_TRUE(contains(message(whole + '\0', count), "made.bin: 1 bytes follow"));
  EXPECT_TRUE(
      contains(message(whole, std::numeric_limits<int>::max()), "expected 17179869180 or more for 2147483647 tokens"));

  const auto changed = [&](std::size_t at, auto value) {
    std::string bytes = whole;
    std::memcpy(bytes.data() + at, &value, sizeof(value));
    return message(bytes, count);
  };
  const std::int32_t largest = std::numeric_limits<std::int32_t>::max();
  EXPECT_TRUE(contains(changed(0, std::int32_t{-1}), "made.bin: the largest token length is -1, expected 0 or more"));
  EXPECT_TRUE(contains(changed(0, std::int32_t{5}), "made.bin: token 2 of 261: its length is 6, expected 0 to 5"));
  EXPECT_TRUE(contains(changed(8, std::int32_t{-1}), "made.bin: token 0 of 261: its length is -1, expected 0 to 6"));
  EXPECT_TRUE(contains(changed(8, largest), "token 0 of 261: its length is 2147483647, expected 0 to 6"));
  EXPECT_TRUE(contains(changed(whole.size() - 6, std::int32_t{6}),
                       "token 260 of 261: its length is 6, but only 2 bytes follow"));
  EXPECT_TRUE(contains(changed(4, std::numeric_limits<float>::quiet_NaN()), "token 0 of 261: its score is NaN"));
  // A largest length without meaning asks for no memory.
  std::string bytes = whole;
  std::memcpy(bytes.data(), &largest, 4);
  EXPECT_NO_THROW(read(bytes, count));
  std::memcpy(bytes.data() + 8, &largest, 4);
  EXPECT_TRUE(contains(message(bytes, count), "token 0 of 261: its length is 2147483647, but only "));
}

TEST(Tokenizer, RandomlyDamagedFilesAreAnErrorOrRead) {
  const MemoryLimit limit;
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  std::mt19937_64 random(seed());
  const Vocabulary vocabulary{{"<unk>", 0}, {"<s>", 0}, {" ", 0}, {"a", -1}, {"aa", -2}, {"b", -1}};
  const std::string whole = file_of(vocabulary);
  int errors = 0, read_well = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string bytes = whole;
    for (std::uint64_t changes = 1 + random() % 3; changes > 0; --changes)
      bytes[random() % bytes.size()] = static_cast<char>(random());
    try {
      const Tokenizer tokenizer = read(bytes, 6);
      ++read_well;
      static_cast<void>(tokenizer.decode(tokenizer.encode("aab")));
    } catch (const Error&) {
      ++errors;
    } catch (const std::exception& other) {
      FAIL() << "round " << round << ": " << other.what();
    }
  }
  EXPECT_GT(errors, 500);
  EXPECT_GT(read_well, 100);
}

TEST(Tokenizer, WhatIsNoFileIsAFileErrorThatNamesThePath) {
  const TempFolder folder;
  const auto message = [&](const std::filesystem::path& path) {
    return message_of<FileError>([&] { static_cast<void>(Tokenizer::read(path, 259)); });
  };
  EXPECT_EQ(message(folder / "absent.bin"), (folder / "absent.bin").string() + ": no such file");
  EXPECT_EQ(message(folder / ""), (folder / "").string() + ": a directory, expected a file");
  EXPECT_EQ(Tokenizer::read(folder.write("good.bin", file_of(with_bytes({}))), 259).vocabulary(), 259);
}

TEST(Tokenizer, PiecesThatDoNotSuitEachOtherAreRefused) {
  EXPECT_EQ(message_of<SpecError>([] { Tokenizer({"<unk>", "<s>"}, {0}); }), "a tokenizer of 2 pieces has 1 scores");
  EXPECT_EQ(message_of<SpecError>([] { Tokenizer({"<unk>"}, {0}); }), "the vocabulary is 1, expected 2 to 2147483647");
  EXPECT_THROW(Tokenizer({"<unk>", "<s>"}, {0, std::numeric_limits<float>::quiet_NaN()}), InputError);
  for (const Index vocabulary : {Index{-1}, Index{0}, Index{1}, Index{1} << 31, std::numeric_limits<Index>::max()})
    EXPECT_THROW(read(file_of(with_bytes({})), vocabulary), SpecError) << vocabulary;
}

TEST(Tokenizer, ACopyEncodesAsItsOriginalDid) {
  Tokenizer original = tokenizer_of(with_bytes({{" ", 0}, {"ab", -1}, {"a", 0}, {"b", 0}}));
  const Tokenizer copy = original;
  const Tokenizer moved = std::move(original);
  EXPECT_EQ(copy.encode("ab"), (Ids{1, base, base + 1}));
  EXPECT_EQ(moved.encode("ab"), (Ids{1, base, base + 1}));
}

/// The numbers of the one list in {"greedy_ids": [1, 403, ...]}.
Ids ids_of_json(const std::string& json) {
  Ids ids;
  for (std::size_t at = json.find('['); at < json.size() && json[at] != ']'; ++at) {
    if (!std::isdigit(static_cast<unsigned char>(json[at]))) continue;
    std::size_t digits = 0;
    ids.push_back(std::stoi(json.substr(at), &digits));
    at += digits - 1;
  }
  return ids;
}

TEST(Tokenizer, Stories260KTextAndIdsBelongTogether) {
  const auto tokens = shared_data("stories260K/tok512.bin");
  const auto expected = shared_data("stories260K/expected_stdout.txt");
  const auto greedy = shared_data("stories260K/greedy_200.json");
  if (!tokens || !expected || !greedy)
    GTEST_SKIP() << "data/stories260K is absent (set TWOHEADS_SHARED_DIR to its shared folder)";
  const Tokenizer tokenizer = Tokenizer::read(*tokens, 512);
  const std::string text = read_bytes(*expected);
  const Ids encoded = tokenizer.encode(text);
  EXPECT_EQ(tokenizer.decode(encoded), text);
  const Ids ids = ids_of_json(read_bytes(*greedy));
  EXPECT_EQ(ids.size(), 201U) << "the start token and 200 that follow it; the last one's piece ends the text";
  EXPECT_EQ(tokenizer.decode(ids), text);
  EXPECT_EQ(encoded, ids);
}

}  // namespace
