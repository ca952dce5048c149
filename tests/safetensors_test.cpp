#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <tuple>
#include <twoheads/io/safetensors_writer.hpp>
#include <utility>
#include <vector>

#include "support/append.hpp"
#include "support/contains.hpp"
#include "support/message_of.hpp"
#include "support/safetensors_bytes.hpp"
#include "support/seed.hpp"
#include "support/shared_data.hpp"

namespace {

using namespace twoheads;
namespace fs = std::filesystem;
using namespace safetensors_bytes;

std::uint64_t seed() { return seed_or(5101); }

std::string random_bytes(std::mt19937_64& random, std::size_t count) {
  std::string bytes(count, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random() & 0xFFU);
  return bytes;
}

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

// --- files of other writers ------------------------------------------------------------------------------------------

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
