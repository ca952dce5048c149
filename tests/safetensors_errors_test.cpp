#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <tuple>
#include <twoheads/io/safetensors_writer.hpp>
#include <twoheads/io/tensor_folder.hpp>
#include <utility>
#include <vector>

#include "support/append.hpp"
#include "support/contains.hpp"
#include "support/message_of.hpp"
#include "support/safetensors_bytes.hpp"
#include "support/shared_data.hpp"
#include "support/temp_folder.hpp"

namespace {

using namespace twoheads;
namespace fs = std::filesystem;
using namespace safetensors_bytes;

TEST_F(SafetensorsFile, WhatTheFormatForbidsIsRefusedWithAReason) {
  struct Case {
    std::string bytes;
    std::string words;
  };
  const auto tensor = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return R"("a":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
  };
  const auto one = [&](const std::string& shape, const std::string& offsets, std::size_t bytes = 4) {
    return file_of("{" + tensor("F32", shape, offsets) + "}", numbers(bytes));
  };
  const std::string b = R"(,"b":{"dtype":"U8","shape":[2],"data_offsets":)";
  const std::string whole = "expected a whole number from 0 to 9223372036854775807";
  std::string too_long;
  append(too_long, std::uint64_t{100'000'001});
  const std::vector<Case> cases{
      {"", ": 0 bytes, expected the 8 bytes of a header's length first"},
      {"1234567", ": 7 bytes, expected the 8 bytes"},
      {too_long, "the header's length is 100000001 bytes, expected 100000000 at most"},
      {std::string(8, '\xFF'), "the header's length is 18446744073709551615 bytes, expected"},
      {std::string("\x03\0\0\0\0\0\0\0{}", 10), "the header's length is 3 bytes, but only 2 follow"},
      {file_of(""), "byte 0 of the JSON text is the end, expected '{'"},
      {file_of(" {}"), "byte 0 of the JSON text is ' ', expected '{'"},
      {file_of("[]"), "byte 0 of the JSON text is '[', expected '{'"},
      {file_of("{"), "byte 1 of the JSON text is the end, expected a string"},
      {file_of("{}x"), "byte 2 of the JSON text is 'x', expected the end"},
      {file_of("{}", "z"), "the tensors' data end at byte 0, but the file holds 1 bytes of data"},
      {file_of("{\"\xC3(\":1}"), "byte 2 of the JSON text is '\\xc3(\"', expected valid UTF-8"},
      {file_of("{\"\xED\xA0\x80\":1}"), "expected valid UTF-8"},
      {file_of("{\"\xF4\x90\x80\x80\":1}"), "expected valid UTF-8"},
      {file_of("{\"\xC0\x80\":1}"), "expected valid UTF-8"},
      {file_of("{\"\n\":1}"), "expected no control character in a string"},
      {file_of("{\"\\x\":1}"), "expected an escape of JSON"},
      {file_of("{\"\\ud800\":1}"), "expected \\u and four hexadecimal digits that make a character"},
      {file_of("{\"\\udc00\\ud800\":1}"), "expected \\u and four"},
      {file_of("{\"\\u12g4\":1}"), "expected \\u and four"},
      {file_of("{\"a"), "is the end, expected the end of a string"},
      {file_of("{\"a\":" + std::string(70, '[') + "1" + std::string(70, ']') + "}"), "nesting of 64 levels at most"},
      {file_of("{\"a\":-}"), "expected a number"},
      {file_of("{\"a\":nul}"), "is 'nul', expected a value"},
      {file_of("{\"a\":1,}"), "expected a string"},
      {file_of("{\"a\":1 \"b\":2}"), "expected ',' or '}'"},
      {file_of("{\"a\":1}"), "tensor 'a': byte 5 of the JSON text is '1', expected an object"},
      {file_of("{\"a\":{}}"), "tensor 'a': no dtype"},
      {file_of(R"({"a":{"dtype":"U8"}})"), "tensor 'a': no shape"},
      {file_of(R"({"a":{"dtype":"U8","shape":[0]}})"), "tensor 'a': no data_offsets"},
      {file_of(R"({"a":{"dtype":"U8","dtype":"U8"}})"),
       "tensor 'a': byte 27 of the JSON text is '\"U8\"', expected each"},
      {file_of(R"({"a":{"size":1}})"), "expected the value of dtype, shape or data_offsets, not of 'size'"},
      {file_of(R"({"a":{"dtype":8}})"), "is '8', expected a string"},
      {file_of(R"({"__metadata__":{"a":1}})"), "__metadata__: byte 21 of the JSON text is '1', expected a string"},
      {file_of(R"({"__metadata__":{},"__metadata__":{}})"), "__metadata__: appears twice"},
      {file_of("{" + tensor("f32", "[1]", "[0,4]") + "}", "1234"), "the dtype is 'f32', expected F64, F32, F16,"},
      {file_of("{" + tensor("", "[1]", "[0,4]") + "}", "1234"), "the dtype is '', expected F64"},
      {one("1", "[0,4]"), "tensor 'a': byte 28 of the JSON text is '1', expected an array"},
      {one("[-1]", "[0,4]"), "is '-1', " + whole},
      {one("[1.0]", "[0,4]"), "is '1.0', " + whole},
      {one("[1e0]", "[0,4]"), "is '1e0', " + whole},
      {one("[01]", "[0,4]"), "is '01', expected a number"},
      {one("[true]", "[0,4]"), "is 'true', " + whole},
      {one("[9223372036854775808]", "[0,4]"), "is '9223372036854775808', " + whole},
      {one("[18446744073709551617]", "[0,4]"), "is '18446744073709551617', " + whole},
      {one("[1]", "[0,-4]"), "is '-4', " + whole},
      {one("[1]", "[0]"), "expected two data_offsets"},
      {one("[1]", "[0,4,8]"), "expected two data_offsets"},
      {one("[1]", "[4,0]"), "data_offsets are [4, 0], expected the smaller one first"},
      {one("[2]", "[0,4]"), "data_offsets span 4 bytes, expected 2 numbers of 4 bytes (F32)"},
      {one("[1]", "[0,5]", 5), "data_offsets span 5 bytes, expected 1 numbers of 4 bytes (F32)"},
      {one("[4294967296,4294967296]", "[0,0]", 0), "expected a shape whose product is less than 2^63"},
      {one("[1" + repeated(",1", 64) + "]", "[0,4]"), "expected 64 dimensions at most"},
      {one("[4611686018427387904,1]", "[0,0]", 0), "span 0 bytes, expected 4611686018427387904 numbers of 4 bytes"},
      {one("[1]", "[0,4]", 3), "tensor 'a': its data end at byte 4, but the file holds 3 bytes of data"},
      {one("[1]", "[0,4]", 5), "the tensors' data end at byte 4, but the file holds 5 bytes of data"},
      {one("[1]", "[4,8]", 8),
       "tensor 'a': its data begin at byte 4, expected 0, where those before it end: there is a"},
      {file_of("{" + tensor("F32", "[1]", "[0,4]") + b + "[5,7]}}", numbers(7)),
       "tensor 'b': its data begin at byte 5, expected 4, where those before it end: there is a hole"},
      {file_of("{" + tensor("F32", "[1]", "[0,4]") + b + "[2,4]}}", numbers(4)),
       "tensor 'b': its data begin at byte 2, expected 4, where those before it end: they overlap"},
      {file_of("{" + tensor("F32", "[1]", "[0,4]") + "," + tensor("F32", "[1]", "[4,8]") + "}", numbers(8)),
       "tensor 'a' appears twice"},
      {file_of(R"({"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},)"
               R"("\u0061":{"dtype":"U8","shape":[],"data_offsets":[1,2]}})",
               "xy"),
       "appears twice"},
  };
  for (const Case& c : cases) {
    const std::string message = refusal(c.bytes);
    EXPECT_TRUE(contains(message, "made.safetensors: ") && contains(message, c.words))
        << message << "\n  expected: " << c.words;
  }
  const Safetensors twice = open(file_of(R"({"__metadata__":{"k":"1","k":"2"}})"));
  EXPECT_TRUE(contains(message_of<FormatError>([&] { std::ignore = twice.metadata(); }), "'k' appears twice"));
}

TEST_F(SafetensorsFile, AMessageShowsNoMoreThanTheBeginningOfALongName) {
  const std::string message = refusal(file_of("{\"" + std::string(100000, 'n') + "\":1}"));
  EXPECT_LT(message.size(), 400U);
  EXPECT_TRUE(contains(message, "nnn...'")) << message;
}

TEST_F(SafetensorsFile, OtherThanRegularFilesAreRefused) {
  EXPECT_TRUE(
      contains(message_of<FileError>([&] { std::ignore = Safetensors::open(files_ / "gone"); }), "gone: no such file"));
  fs::create_directory(files_ / "folder");
  EXPECT_TRUE(contains(message_of<FileError>([&] { std::ignore = Safetensors::open(files_ / "folder"); }),
                       "folder: a directory, expected a file"));
}

TEST_F(SafetensorsFile, TheWriterRefusesWhatAFileCannotHold) {
  const std::string data(8, 'x');
  const auto write = [&](const std::vector<TensorView>& tensors) {
    write_safetensors(files_ / "refused.safetensors", tensors);
  };
  const TensorView good{"a", Dtype::f32, {2}, as_bytes(data)};
  const auto with = [&](auto change) {
    TensorView changed = good;
    change(changed);
    return std::vector<TensorView>{changed};
  };
  EXPECT_TRUE(contains(message_of<ShapeError>([&] { write(with([](TensorView& t) { t.shape = {3}; })); }),
                       "tensor 'a': 8 bytes, expected 12 for F32 [3]"));
  EXPECT_TRUE(contains(message_of<ShapeError>([&] { write(with([](TensorView& t) {
                                                      t.shape = {-2, -1};
                                                    })); }),
                       "its shape is [-2, -1], expected none below 0"));
  EXPECT_TRUE(contains(message_of<SpecError>([&] { write(with([](TensorView& t) { t.name = "\xFF"; })); }),
                       "tensor '\\xff': its name is not valid UTF-8"));
  EXPECT_TRUE(contains(message_of<SpecError>([&] { write(with([](TensorView& t) { t.name = "__metadata__"; })); }),
                       "the format keeps that name for itself"));
  EXPECT_TRUE(contains(message_of<SpecError>([&] { write({good, good}); }), "tensor 'a' is given twice"));
  EXPECT_TRUE(contains(message_of<SpecError>([&] {
                         write(with([](TensorView& t) { t.shape = {Index{1} << 62, 4}; }));
                       }),
                       "the bytes of tensor 'a'"));
  EXPECT_TRUE(contains(message_of<SpecError>([&] {
                         SafetensorsWriter().metadata("k", "\xFE").add(good).write(files_ / "refused.safetensors");
                       }),
                       "metadata 'k': the key or the value is not valid UTF-8"));
  EXPECT_TRUE(contains(message_of<SpecError>([&] { SafetensorsWriter().add("m", Matrix<float>(2, 2), Dtype::i32); }),
                       "tensor 'm': a matrix as I32, expected F64, F32, F16 or BF16"));
  EXPECT_TRUE(contains(message_of<FileError>([&] { write_safetensors(files_ / "no/folder", std::vector{good}); }),
                       "folder: cannot be written"));
  EXPECT_FALSE(fs::exists(files_ / "refused.safetensors"));
}

TEST_F(SafetensorsFile, AFailedWriterLeavesNoHalfFile) {
  const TempFolder folder;
  fs::create_directories(folder / "taken/by");
  EXPECT_TRUE(contains(
      message_of<FileError>([&] { SafetensorsWriter().add("m", Matrix<float>::Ones(2, 2)).write(folder / "taken"); }),
      "taken: cannot be written: "));
  SafetensorsWriter().add("m", Matrix<float>::Ones(2, 2)).write(folder / "m.safetensors");
  std::vector<std::string> left;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder / "")) left.push_back(entry.path().filename());
  std::sort(left.begin(), left.end());
  EXPECT_EQ(left, (std::vector<std::string>{"m.safetensors", "taken"}));
}

TEST_F(SafetensorsFile, AHeaderIsAMultipleOf8BytesLong) {
  for (std::size_t length = 0; length < 9; ++length) {
    SafetensorsWriter().add(std::string(length, 'n'), Matrix<double>::Ones(1, 2)).write(files_ / "x");
    const std::string bytes = read_bytes(files_ / "x");
    std::uint64_t header = 0;
    std::memcpy(&header, bytes.data(), 8);
    EXPECT_EQ(header % 8, 0U);
    EXPECT_EQ(bytes.size(), 8 + header + 16);
  }
}

// --- folders ---------------------------------------------------------------------------------------------------------

SafetensorsWriter five_tensors() {
  SafetensorsWriter writer;
  for (const Index n : {1, 2, 3, 4, 5})
    writer.add("layer." + std::to_string(n) + ".\"w\"", Matrix<float>::Constant(2, n, static_cast<float>(n)));
  return writer;
}

void expect_five(const TensorFolder& folder) {
  ASSERT_EQ(folder.names().size(), 5U);
  for (const Index n : {1, 2, 3, 4, 5}) {
    const std::string name = "layer." + std::to_string(n) + ".\"w\"";
    ASSERT_TRUE(folder.contains(name));
    EXPECT_EQ(folder.matrix<float>(name, 2, n), Matrix<float>::Constant(2, n, static_cast<float>(n)));
    EXPECT_EQ(folder.info(name).shape, (std::vector<Index>{2, n}));
    EXPECT_EQ(folder.bytes(name).size(), static_cast<std::size_t>(8 * n));
  }
  EXPECT_FALSE(folder.contains("layer"));
}

TEST(TensorFolder, ReadsOneFileAndAnyNumberOfShardsAlike) {
  for (const std::uint64_t most : {1000U, 120U, 119U, 64U, 41U, 40U, 8U, 0U}) {
    const TempFolder folder;
    five_tensors().write_sharded(folder / "", most);
    std::map<std::string, std::uint64_t> data_of;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder / ""))
      if (entry.path().extension() == ".safetensors") {
        const Safetensors shard = Safetensors::open(entry.path());
        for (const std::string& name : shard.names()) data_of[entry.path().filename()] += shard.bytes(name).size();
      }
    for (const auto& [file, bytes] : data_of) EXPECT_LE(bytes, std::max<std::uint64_t>(most, 40)) << file;
    EXPECT_EQ(data_of.size() == 1, most >= 120);
    EXPECT_EQ(fs::exists(folder / "model.safetensors"), most >= 120);
    expect_five(TensorFolder::open(folder / ""));
  }
}

TEST(TensorFolder, OpensAShardWhenItIsAskedForAndNamesTheOneThatIsWrong) {
  const TempFolder folder;
  five_tensors().write_sharded(folder / "", 40);
  const std::string index = read_bytes(folder / "model.safetensors.index.json");
  fs::remove(folder / "model-00001-of-00004.safetensors");
  folder.write("model-00002-of-00004.safetensors", file_of("{}"));
  folder.write("model-00003-of-00004.safetensors", "damaged");
  const TensorFolder tensors = TensorFolder::open(folder / "");
  EXPECT_EQ(tensors.names().size(), 5U);
  int read = 0;
  std::map<std::string, int> messages;
  for (const std::string& name : tensors.names()) {
    try {
      read += static_cast<int>(tensors.values<float>(name).size() > 0);
    } catch (const Error& error) {
      EXPECT_EQ(dynamic_cast<const FileError*>(&error) != nullptr, contains(error.what(), "no such file"));
      for (const char* words : {"model-00001-of-00004.safetensors: no such file", ".\"w\"' is not there",
                                "model-00003-of-00004.safetensors: 7 bytes, expected the 8 bytes"})
        messages[words] += static_cast<int>(contains(error.what(), words));
    }
  }
  EXPECT_EQ(read + messages.begin()->second + std::next(messages.begin())->second + messages.rbegin()->second, 5)
      << index;
  for (const auto& [words, count] : messages) EXPECT_GE(count, 1) << words;
  EXPECT_GE(read, 1);
}

TEST(TensorFolder, RefusesABadIndexWithAReason) {
  const TempFolder folder;
  const std::vector<std::pair<std::string, std::string>> cases{
      {"", "byte 0 of the JSON text is the end, expected an object"},
      {"{}", "no weight_map"},
      {R"({"weight_map":[]})", "weight_map: byte 14 of the JSON text is '[', expected an object"},
      {R"({"weight_map":{"a":1}})", "weight_map: byte 19 of the JSON text is '1', expected a string"},
      {R"({"weight_map":{},"weight_map":{}})", "weight_map: appears twice"},
      {R"({"weight_map":{"a":"f","\u0061":"g"}})", "appears twice"},
      {R"({"weight_map":{"a":"f"}}})", "expected the end of the JSON text"},
      {R"({"metadata":{"total_size":01},"weight_map":{}})", "expected a number"},
  };
  const auto refusal = [&](const std::string& index) {
    folder.write("model.safetensors.index.json", index);
    return message_of<FormatError>([&] { std::ignore = TensorFolder::open(folder / ""); });
  };
  for (const auto& [index, words] : cases) {
    const std::string message = refusal(index);
    EXPECT_TRUE(contains(message, "model.safetensors.index.json: ") && contains(message, words))
        << message << "\n  " << words;
  }
  for (const std::string path : {"../x", "a/../../x", "/etc/x", "..", "a/..", "", "a/", "a\\\\..\\\\x", "x\\u0000y"}) {
    const std::string message = refusal(R"({"weight_map":{"a":")" + path + "\"}}");
    EXPECT_TRUE(contains(message, "weight_map: tensor 'a' is in '") &&
                contains(message, "', expected a file in the folder of the index"))
        << message;
  }
  folder.write("model.safetensors.index.json",
               R"({"metadata":{"n":[1,-2.5e+3,null,true,"x"]},"weight_map":{"a":"b/c"}})");
  const TensorFolder fine = TensorFolder::open(folder / "");
  EXPECT_EQ(fine.names(), std::vector<std::string>{"a"});
  EXPECT_TRUE(contains(message_of<FormatError>([&] { std::ignore = fine.info("b"); }), "tensor 'b' is not there"));
}

TEST(TensorFolder, OneFileGoesBeforeShardsAndTheWriterHidesNone) {
  const TempFolder folder;
  EXPECT_TRUE(contains(message_of<FileError>([&] { std::ignore = TensorFolder::open(folder / ""); }),
                       "expected a folder with model.safetensors or model.safetensors.index.json"));
  SafetensorsWriter().add("m", Matrix<float>::Ones(2, 2)).write_sharded(folder / "", 1000);
  EXPECT_TRUE(contains(message_of<SpecError>([&] { five_tensors().write_sharded(folder / "", 8); }),
                       "model.safetensors is there already: a reader would take it for the model, not the 5 shards"));
  EXPECT_EQ(TensorFolder::open(folder / "").names(), std::vector<std::string>{"m"});
}

}  // namespace
