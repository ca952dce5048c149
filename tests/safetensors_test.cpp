#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <tuple>
#include <twoheads/io/safetensors_writer.hpp>
#include <twoheads/io/tensor_folder.hpp>
#include <utility>
#include <vector>

#include "support/append.hpp"
#include "support/contains.hpp"
#include "support/message_of.hpp"
#include "support/seed.hpp"
#include "support/shared_data.hpp"
#include "support/temp_folder.hpp"

namespace {

using namespace twoheads;
namespace fs = std::filesystem;

std::uint64_t seed() { return seed_or(5101); }

std::string as_text(std::span<const std::byte> bytes) {
  return bytes.empty() ? std::string() : std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}
std::span<const std::byte> as_bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

/// A file of that header, with the length that the format asks for.
std::string file_of(const std::string& header, const std::string& data = {}) {
  std::string bytes;
  append(bytes, std::uint64_t{header.size()});
  return bytes + header + data;
}

std::string numbers(std::size_t count) {
  std::string bytes(count, '\0');
  std::iota(bytes.begin(), bytes.end(), '\0');
  return bytes;
}

std::string repeated(const std::string& text, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) all += text;
  return all;
}

std::string random_bytes(std::mt19937_64& random, std::size_t count) {
  std::string bytes(count, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random() & 0xFFU);
  return bytes;
}

class SafetensorsFile : public testing::Test {
 protected:
  [[nodiscard]] Safetensors open(const std::string& bytes) const {
    return Safetensors::open(files_.write("made.safetensors", bytes));
  }
  [[nodiscard]] std::string refusal(const std::string& bytes) const {
    return message_of<FormatError>([&] { std::ignore = open(bytes); });
  }
  TempFolder files_;
};

TEST_F(SafetensorsFile, RoundTripKeepsEveryBitOfEveryDtype) {
  std::mt19937_64 random(seed());
  const std::vector<std::vector<Index>> shapes{{}, {0}, {1}, {7}, {3, 5}, {2, 0, 3}, {2, 3, 4}, {1, 1, 1, 1, 9}};
  std::vector<std::string> data;
  std::vector<TensorView> tensors;
  for (const Dtype dtype : all_dtypes)
    for (const std::vector<Index>& shape : shapes) {
      const Index count = TensorInfo{dtype, shape, 0, 0}.elements();
      data.push_back(random_bytes(random, static_cast<std::size_t>(count * size_of(dtype))));
      tensors.push_back({std::to_string(random()), dtype, shape, {}});
    }
  for (std::size_t i = 0; i < tensors.size(); ++i) tensors[i].bytes = as_bytes(data[i]);
  const std::map<std::string, std::string> metadata{
      {"format", "pt"}, {"", "\"\\\n\x01/"}, {"\xC3\xA9", "\xF0\x9F\x99\x82"}};
  write_safetensors(files_ / "all.safetensors", tensors, metadata);

  const Safetensors file = Safetensors::open(files_ / "all.safetensors");
  EXPECT_EQ(file.metadata(), metadata);
  ASSERT_EQ(file.names().size(), tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const TensorView& tensor = tensors[i];
    ASSERT_TRUE(file.contains(tensor.name));
    EXPECT_EQ(file.info(tensor.name).dtype, tensor.dtype);
    EXPECT_EQ(file.info(tensor.name).shape, tensor.shape);
    EXPECT_EQ(as_text(file.bytes(tensor.name)), data[i]) << name(tensor.dtype);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(file.bytes(tensor.name).data()) %
                  static_cast<std::uintptr_t>(size_of(tensor.dtype)),
              0U)
        << "the writer aligns " << tensor.name;
  }
}

TEST_F(SafetensorsFile, NumbersOfTheSameTypeKeepTheBitsOfANan) {
  std::string data;
  append(data, std::uint32_t{0x7FA00001});  // a signalling NaN
  append(data, std::uint64_t{0x7FF4000000000001});
  const Safetensors file = open(file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                                        R"("b":{"dtype":"F64","shape":[],"data_offsets":[4,12]}})",
                                        data));
  const std::vector<float> a = file.values<float>("a");
  EXPECT_EQ(std::memcmp(a.data(), data.data(), 4), 0);
  const Matrix<double> b = file.matrix<double>("b", 1, 1);
  EXPECT_EQ(std::memcmp(b.data(), data.data() + 4, 8), 0);
}

/// The number that 16 bits mean, with that many of them for the fraction; infinities and NaN aside.
double number_of(std::uint32_t bits, int fraction_bits) {
  const int exponent_bits = 15 - fraction_bits;
  const auto fraction = static_cast<int>(bits & ((1U << fraction_bits) - 1));
  const auto exponent = static_cast<int>((bits & 0x7FFFU) >> fraction_bits);
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const double size = exponent == 0 ? std::ldexp(fraction, 1 - bias - fraction_bits)
                                    : std::ldexp(fraction + (1 << fraction_bits), exponent - bias - fraction_bits);
  return (bits & 0x8000U) != 0 ? -size : size;
}

TEST_F(SafetensorsFile, All65536NumbersOf16BitsAreConvertedExactly) {
  std::string data;
  for (std::uint32_t bits = 0; bits < 65536; ++bits) append(data, static_cast<std::uint16_t>(bits));
  for (const auto& [dtype, fraction_bits] : {std::pair(Dtype::f16, 10), std::pair(Dtype::bf16, 7)}) {
    write_safetensors(files_ / "all16", std::vector<TensorView>{{"x", dtype, {256, 256}, as_bytes(data)}});
    const Safetensors file = Safetensors::open(files_ / "all16");
    const Matrix<float> single = file.matrix<float>("x", 256, 256);
    const Matrix<double> twice = file.matrix<double>("x", 256, 256);
    const std::uint32_t infinity = ((1U << (15 - fraction_bits)) - 1) << fraction_bits;
    for (std::uint32_t bits = 0; bits < 65536; ++bits) {
      const float found = single.data()[bits];
      if ((bits & 0x7FFFU) > infinity) {
        ASSERT_TRUE(std::isnan(found)) << bits;
      } else {
        const double expected = (bits & 0x7FFFU) < infinity
                                    ? number_of(bits, fraction_bits)
                                    : std::copysign(std::numeric_limits<double>::infinity(), bits == infinity ? 1 : -1);
        ASSERT_EQ(static_cast<double>(found), expected) << name(dtype) << " " << bits;
        ASSERT_EQ(std::signbit(found), std::signbit(expected)) << name(dtype) << " " << bits;
        ASSERT_EQ(twice.data()[bits], expected) << name(dtype) << " " << bits;
      }
    }
  }
}

TEST_F(SafetensorsFile, EveryDtypeIsReadAsRealNumbers) {
  SafetensorsWriter writer;
  const std::vector<std::int64_t> i64{-3, 1LL << 40};
  const std::vector<std::int32_t> i32{-3, 70000};
  const std::vector<std::uint8_t> u8{0, 255};
  const std::string boolean("\x00\x02", 2);
  Matrix<double> real(1, 2);
  real << -0.5, 1e-3;
  writer.add_values("i64", i64, {2}).add_values("i32", i32, {2}).add_values("u8", u8, {2});
  writer.add({"boolean", Dtype::boolean, {2}, as_bytes(boolean)}).add("f64", real).add("f32", real, Dtype::f32);
  writer.write(files_ / "x.safetensors");
  const Safetensors file = Safetensors::open(files_ / "x.safetensors");
  using Row = std::vector<double>;
  EXPECT_EQ(file.values<double>("i64"), (Row{-3, 1099511627776.0}));
  EXPECT_EQ(file.values<double>("i32"), (Row{-3, 70000}));
  EXPECT_EQ(file.values<double>("u8"), (Row{0, 255}));
  EXPECT_EQ(file.values<double>("boolean"), (Row{0, 1}));
  EXPECT_EQ(file.values<double>("f64"), (Row{-0.5, 1e-3}));
  EXPECT_EQ(file.values<double>("f32"), (Row{-0.5, static_cast<double>(1e-3F)}));
  EXPECT_EQ(file.row<float>("f64", 2), real.cast<float>());
  EXPECT_EQ(file.row<long double>("f64", 2), real.cast<long double>());
  EXPECT_EQ(file.values<std::int64_t>("u8"), (std::vector<std::int64_t>{0, 255}));
  EXPECT_EQ(file.values<std::uint8_t>("boolean"), (std::vector<std::uint8_t>{0, 1}));
  EXPECT_EQ(file.values<std::int64_t>("i64"), i64);
  const auto says = [](const std::string& message, const std::string& words) {
    EXPECT_TRUE(contains(message, words)) << message;
  };
  says(message_of<FormatError>([&] { std::ignore = file.values<std::int32_t>("i64"); }),
       "x.safetensors: tensor 'i64': number 1 is 1099511627776, expected numbers of 32 bits");
  says(message_of<FormatError>([&] { std::ignore = file.values<std::uint8_t>("i32"); }),
       "number 0 is -3, expected numbers of 8 bits");
  says(message_of<FormatError>([&] { std::ignore = file.values<std::int64_t>("f64"); }),
       "holds F64, expected integers");
}

TEST_F(SafetensorsFile, AMatrixTakesFirstAndLastDimensionsTogether) {
  const std::string data = numbers(24);
  const Safetensors file = open(file_of(R"({"x":{"dtype":"U8","shape":[2,3,4],"data_offsets":[0,24]},)"
                                        R"("row":{"dtype":"U8","shape":[3],"data_offsets":[24,27]},)"
                                        R"("none":{"dtype":"U8","shape":[0,5],"data_offsets":[27,27]},)"
                                        R"("one":{"dtype":"U8","shape":[],"data_offsets":[27,28]}})",
                                        data + "\x01\x02\x03\x04"));
  for (const auto& [rows, cols] : std::vector<std::pair<Index, Index>>{{1, 24}, {2, 12}, {6, 4}, {24, 1}}) {
    const Matrix<double> x = file.matrix<double>("x", rows, cols);
    for (Index i = 0; i < 24; ++i) EXPECT_EQ(x(i / cols, i % cols), static_cast<double>(i));
  }
  EXPECT_EQ(file.matrix<float>("row", 1, 3).sum(), 6);
  EXPECT_EQ(file.matrix<float>("row", 3, 1).sum(), 6);
  EXPECT_EQ(file.row<float>("x", 24).sum(), 276);
  EXPECT_EQ(file.matrix<float>("one", 1, 1)(0, 0), 4);
  EXPECT_EQ(file.matrix<float>("none", 0, 5).cols(), 5);
  EXPECT_EQ(file.matrix<float>("none", 1, 0).rows(), 1);
  EXPECT_TRUE(file.values<float>("none").empty());
  for (const auto& size : std::vector<std::pair<Index, Index>>{{3, 8}, {2, 11}, {-2, -12}, {0, 0}, {12, 2}}) {
    const Index rows = size.first;
    const Index cols = size.second;
    const std::string message = message_of<ShapeError>([&] { std::ignore = file.matrix<double>("x", rows, cols); });
    EXPECT_TRUE(contains(message, detail::text("tensor 'x': its shape is [2, 3, 4], expected ", rows, " x ", cols)))
        << message;
  }
  EXPECT_TRUE(
      contains(message_of<ShapeError>([&] { std::ignore = file.row<float>("row", 4); }), "[3], expected 4 numbers"));
}

TEST_F(SafetensorsFile, NothingIsCopiedUntilAskedFor) {
  const Safetensors file = open(file_of(R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},)"
                                        R"("b":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}})",
                                        numbers(5)));
  EXPECT_EQ(file.bytes("a").data() + 3, file.bytes("b").data());
  EXPECT_EQ(file.bytes("a").data(), file.bytes("a").data());
}

TEST_F(SafetensorsFile, UnalignedNumbersAreReadRight) {
  for (std::size_t spaces = 0; spaces < 8; ++spaces) {
    std::string data = "x";
    append(data, -0.1);
    append(data, std::int64_t{-77});
    append(data, std::uint16_t{0x3C00});
    const Safetensors file = open(file_of(R"({"u":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                                          R"("d":{"dtype":"F64","shape":[1],"data_offsets":[1,9]},)"
                                          R"("i":{"dtype":"I64","shape":[1],"data_offsets":[9,17]},)"
                                          R"("h":{"dtype":"F16","shape":[1],"data_offsets":[17,19]}})" +
                                              std::string(spaces, ' '),
                                          data));
    EXPECT_EQ(file.values<double>("d")[0], -0.1);
    EXPECT_EQ(file.matrix<float>("d", 1, 1)(0, 0), -0.1F);
    EXPECT_EQ(file.values<std::int64_t>("i")[0], -77);
    EXPECT_EQ(file.row<double>("h", 1)(0), 1);
  }
}

TEST_F(SafetensorsFile, StaysReadableAfterAMove) {
  Safetensors first = open(file_of(R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})", numbers(3)));
  Safetensors second = std::move(first);
  EXPECT_EQ(second.values<float>("a")[2], 2);
  first = Safetensors::open(files_.write("other.safetensors", file_of("{}")));
  EXPECT_TRUE(first.names().empty());
  first = std::move(second);
  EXPECT_EQ(first.names(), std::vector<std::string>{"a"});
  EXPECT_EQ(first.values<float>("a")[1], 1);
}

TEST_F(SafetensorsFile, NamesAreWhatTheirEscapesMean) {
  const Safetensors file = open(file_of(R"({"\u00e9\ud83d\ude42\/\n":{"dtype":"U8","shape":[],"data_offsets":[0,1]},)"
                                        R"("b" : { "shape" : [ ] , "data_offsets" : [ 1 , 2 ] , "dtype" : "U8" } } )"
                                        "\n",
                                        "xy"));
  const std::string escaped = "\xC3\xA9\xF0\x9F\x99\x82/\n";
  EXPECT_EQ(file.names(), (std::vector<std::string>{"b", escaped}));
  EXPECT_TRUE(file.contains(escaped));
  EXPECT_EQ(file.values<float>(escaped)[0], 'x');
  EXPECT_FALSE(file.contains("a"));
  EXPECT_FALSE(file.contains(""));
}

TEST_F(SafetensorsFile, ATensorOfAnUnknownDtypeHindersNoOther) {
  const Safetensors file = open(file_of(R"({"a":{"dtype":"F8_E4M3","shape":[3],"data_offsets":[0,3]},)"
                                        R"("b":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}})",
                                        numbers(5)));
  EXPECT_EQ(file.values<float>("b")[0], 3);
  EXPECT_TRUE(file.contains("a"));
  for (const std::string& message : {message_of<FormatError>([&] { std::ignore = file.info("a"); }),
                                     message_of<FormatError>([&] { std::ignore = file.bytes("a"); })})
    EXPECT_TRUE(
        contains(message, "tensor 'a': the dtype is F8_E4M3, expected F64, F32, F16, BF16, I64, I32, U8 or BOOL"))
        << message;
  EXPECT_TRUE(contains(message_of<FormatError>([&] { std::ignore = file.values<float>("c"); }),
                       "made.safetensors: tensor 'c' is not there"));
}

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
      {file_of(
           R"({"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},"\u0061":{"dtype":"U8","shape":[],"data_offsets":[1,2]}})",
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
  EXPECT_TRUE(contains(message_of<FormatError>([&] { std::ignore = Safetensors::open(files_ / "gone"); }),
                       "gone: no such file"));
  fs::create_directory(files_ / "folder");
  EXPECT_TRUE(contains(message_of<FormatError>([&] { std::ignore = Safetensors::open(files_ / "folder"); }),
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
  EXPECT_TRUE(contains(message_of<FormatError>([&] { write_safetensors(files_ / "no/folder", std::vector{good}); }),
                       "folder: cannot be written"));
  EXPECT_FALSE(fs::exists(files_ / "refused.safetensors"));
}

TEST_F(SafetensorsFile, AFailedWriterLeavesNoHalfFile) {
  const TempFolder folder;
  fs::create_directories(folder / "taken/by");
  EXPECT_TRUE(contains(
      message_of<FormatError>([&] { SafetensorsWriter().add("m", Matrix<float>::Ones(2, 2)).write(folder / "taken"); }),
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

// --- folders ------------------------------------------------------------------------------------------------------------

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
    } catch (const FormatError& error) {
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
  EXPECT_TRUE(contains(message_of<FormatError>([&] { std::ignore = TensorFolder::open(folder / ""); }),
                       "expected a folder with model.safetensors or model.safetensors.index.json"));
  SafetensorsWriter().add("m", Matrix<float>::Ones(2, 2)).write_sharded(folder / "", 1000);
  EXPECT_TRUE(contains(message_of<SpecError>([&] { five_tensors().write_sharded(folder / "", 8); }),
                       "model.safetensors is there already: a reader would take it for the model, not the 5 shards"));
  EXPECT_EQ(TensorFolder::open(folder / "").names(), std::vector<std::string>{"m"});
}

// --- files of other writers ---------------------------------------------------------------------------------------------

TEST(SafetensorsData, ReferenceLogitsAreRead) {
  const auto path = shared_data("stories260K/reference_logits.safetensors");
  if (!path) GTEST_SKIP() << "the shared data folder is absent: its reference_logits.safetensors is not read";
  const Safetensors file = Safetensors::open(*path);
  EXPECT_EQ(file.names(), (std::vector<std::string>{"full", "ids", "rows", "window128", "window128_sinks4"}));
  EXPECT_EQ(file.values<std::int64_t>("ids").size(), 1809U);
  EXPECT_EQ(file.values<std::int32_t>("ids").front(), 1) << "the token that begins a text";
  const Index rows = file.info("rows").elements();
  const Matrix<double> logits = file.matrix<double>("full", rows, 512);
  EXPECT_TRUE(logits.allFinite());
  EXPECT_TRUE(contains(file.metadata().at("note"), "float64 full-length forward pass"));
}

TEST(SafetensorsData, OnnxCasesAreRead) {
  const auto folder = shared_data("onnx_attention");
  if (!folder) GTEST_SKIP() << "the shared data folder is absent: its onnx_attention files are not read";
  int files = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(*folder)) {
    if (entry.path().extension() != ".safetensors") continue;
    ++files;
    const Safetensors file = Safetensors::open(entry.path());
    EXPECT_TRUE(file.contains("Q") && file.contains("Y")) << entry.path();
    std::size_t total = 0;
    for (const std::string& name : file.names()) {
      const TensorInfo info = file.info(name);
      EXPECT_EQ(file.row<float>(name, info.elements()).size(), info.elements());
      total += file.bytes(name).size();
    }
    EXPECT_LT(total, fs::file_size(entry.path()));
  }
  EXPECT_EQ(files, 58);
}

}  // namespace
