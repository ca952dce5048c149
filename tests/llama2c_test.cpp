#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <filesystem>
#include <limits>
#include <random>
#include <sstream>
#include <string>
#include <tuple>
#include <twoheads/model/llama2c.hpp>
#include <utility>
#include <vector>

#include "support/contains.hpp"
#include "support/llama2c_files.hpp"
#include "support/memory_limit.hpp"
#include "support/message_of.hpp"
#include "support/seed.hpp"
#include "support/shared_data.hpp"
#include "support/temp_folder.hpp"

namespace {

using namespace twoheads;
using namespace llama2c_files;

std::uint64_t seed() { return seed_or(260); }

template <class Values>
void expect_same_bits(const std::string& name, const Values& a, const Values& b) {
  ASSERT_EQ(a.rows(), b.rows()) << name;
  ASSERT_EQ(a.cols(), b.cols()) << name;
  for (Index i = 0; i < a.size(); ++i)
    ASSERT_EQ(std::bit_cast<std::uint32_t>(a.data()[i]), std::bit_cast<std::uint32_t>(b.data()[i])) << name << " " << i;
}

void expect_same_bits(const LanguageModel<float>& a, const LanguageModel<float>& b) {
  expect_same_bits("embedding", a.embedding, b.embedding);
  expect_same_bits("output", a.output, b.output);
  std::vector<std::pair<std::string, Matrix<float>>> arrays;
  detail::for_each_array(a.body,
                         [&](const std::string& name, const auto& values) { arrays.emplace_back(name, values); });
  std::size_t next = 0;
  detail::for_each_array(b.body, [&](const std::string& name, const auto& values) {
    ASSERT_LT(next, arrays.size());
    EXPECT_EQ(arrays[next].first, name);
    expect_same_bits(name, arrays[next].second, Matrix<float>(values));
    ++next;
  });
  EXPECT_EQ(next, arrays.size());
}

TEST(Llama2c, WritingAndReadingGiveTheSameBits) {
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  std::mt19937_64 random(seed());
  const TempFolder folder;
  for (int round = 0; round < 40; ++round) {
    const LanguageModel<float> model = random_model(random);
    const Index positions = round % 7 + 1;
    write_llama2c(folder / "model.bin", model, positions);
    const LanguageModel<float> back = read_llama2c<float>(folder / "model.bin");
    expect_same_bits(model, back);
    require_valid(back.body);
    const Llama2cHeader header = read_llama2c_header(folder / "model.bin");
    EXPECT_EQ(header.seq_len, positions);
    EXPECT_EQ(header.tied_output, model.output.size() == 0);
    EXPECT_EQ(read_bytes(folder / "model.bin"), written(cast_model<double>(back), positions));
  }
}

TEST(Llama2c, TensorsLieWhereTheFormatPutsThem) {
  // Offsets by hand, from the export order with dim 4, hidden 3, 2 layers, 2 heads of 2, 1 key/value head, 5 tokens, 6
  // positions. A weight's value is its place in the file; a file's entry (out, in) is the model's entry (in, out).
  const LanguageModel<double> model = read<double>(counting_file(small, small_floats));
  const LayerWeights<double>& first = model.body.layers.at(0);
  const LayerWeights<double>& second = model.body.layers.at(1);
  EXPECT_EQ(model.embedding(3, 2), 0 + 3 * 4 + 2);
  EXPECT_EQ(first.attention_norm.gain(1), 20 + 1);
  EXPECT_EQ(second.attention_norm.gain(1), 24 + 1);
  EXPECT_EQ(first.attention.wq(2, 3), 28 + 3 * 4 + 2);
  EXPECT_EQ(second.attention.wq(2, 3), 44 + 3 * 4 + 2);
  EXPECT_EQ(first.attention.wk(3, 1), 60 + 1 * 4 + 3);
  EXPECT_EQ(second.attention.wk(3, 1), 68 + 1 * 4 + 3);
  EXPECT_EQ(first.attention.wv(3, 1), 76 + 1 * 4 + 3);
  EXPECT_EQ(second.attention.wv(3, 1), 84 + 1 * 4 + 3);
  EXPECT_EQ(first.attention.wo(1, 3), 92 + 3 * 4 + 1);
  EXPECT_EQ(second.attention.wo(1, 3), 108 + 3 * 4 + 1);
  EXPECT_EQ(first.mlp_norm.gain(3), 124 + 3);
  EXPECT_EQ(second.mlp_norm.gain(3), 128 + 3);
  EXPECT_EQ(first.mlp.w_gate(3, 2), 132 + 2 * 4 + 3);  // w1
  EXPECT_EQ(second.mlp.w_gate(3, 2), 144 + 2 * 4 + 3);
  EXPECT_EQ(first.mlp.w_out(2, 3), 156 + 3 * 3 + 2);  // w2
  EXPECT_EQ(second.mlp.w_out(2, 3), 168 + 3 * 3 + 2);
  EXPECT_EQ(first.mlp.w_in(3, 2), 180 + 2 * 4 + 3);  // w3
  EXPECT_EQ(second.mlp.w_in(3, 2), 192 + 2 * 4 + 3);
  EXPECT_EQ(model.body.final_norm.gain(0), 204);
  EXPECT_EQ(model.output(4, 3), 208 + 12 + 4 * 4 + 3);  // after 6 positions x 1 pair x 2 tables
  EXPECT_EQ(model.output(4, 3), small_floats - 1);
}

TEST(Llama2c, SpecSaysWhatLlama2cComputes) {
  const ModelSpec spec = read(counting_file(small, small_floats)).body.spec;
  EXPECT_NO_THROW(spec.require_valid());
  EXPECT_EQ(spec.layers, 2);
  EXPECT_EQ(spec.width, 4);
  EXPECT_EQ(spec.hidden, 3);
  EXPECT_EQ(spec.attention.heads, 2);
  EXPECT_EQ(spec.attention.kv_heads, 1);
  EXPECT_EQ(spec.attention.head_dim, 2);
  EXPECT_EQ(spec.attention.value_dim, 2);
  EXPECT_EQ(spec.attention.score_scale, 1 / std::sqrt(2.0));
  EXPECT_EQ(spec.attention.mask, Mask{MaskKind::causal});
  EXPECT_EQ(spec.attention.rope, (RopeSpec{10000.0, RopePairing::interleaved}));
  EXPECT_EQ(spec.attention.head_input, HeadInput::whole);
  EXPECT_TRUE(spec.attention.output_projection);
  EXPECT_EQ(spec.norm, NormKind::rms);
  EXPECT_EQ(spec.norm_epsilon, 1e-5);
  EXPECT_TRUE(spec.residual);
  EXPECT_EQ(spec.mlp, MlpKind::swiglu);
  EXPECT_TRUE(spec.final_norm);
}

TEST(Llama2c, ArraysLongerThanOneBlockKeepTheirPlaces) {
  // 65536 floats are read at a time: 70000 rows of 2, and columns of 70000.
  Fields fields{2, 70000, 1, 1, 1, 70000, 1};
  const std::size_t floats = 70000 * 2 + 2 + 4 * 4 + 2 + 3 * 2 * 70000 + 2 + 2;
  const LanguageModel<float> model = read(counting_file(fields, floats));
  const std::size_t w1 = 70000 * 2 + 2 + 4 * 4 + 2;
  for (Index row = 0; row < 70000; ++row) {
    ASSERT_EQ(model.embedding(row, 1), static_cast<float>(2 * row + 1));
    ASSERT_EQ(model.body.layers[0].mlp.w_gate(1, row), static_cast<float>(w1 + static_cast<std::size_t>(2 * row) + 1));
    ASSERT_EQ(model.body.layers[0].mlp.w_out(row, 1), static_cast<float>(w1 + static_cast<std::size_t>(210000 + row)));
  }
  const std::string bytes = written(model, 1);
  EXPECT_TRUE(bytes.substr(0, bytes.size() - 8) == counting_file(fields, floats).substr(0, bytes.size() - 8));
}

TEST(Llama2c, AFileOfAnotherLengthIsAFormatError) {
  const std::string whole = counting_file(small, small_floats);
  for (std::size_t length = 0; length < whole.size(); ++length) {
    const std::string message = message_of<FormatError>([&] { read(whole.substr(0, length)); });
    ASSERT_TRUE(contains(message, "made.bin: " + std::to_string(length) + " bytes, expected")) << message;
    // The stream may also end before the length that its caller promised.
    std::istringstream shorter(whole.substr(0, length));
    ASSERT_THROW(static_cast<void>(read_llama2c<float>(shorter, whole.size())), FormatError) << length;
  }
  const std::string message = message_of<FormatError>([&] { read(whole + '\0'); });
  EXPECT_TRUE(contains(message, std::to_string(whole.size() + 1) + " bytes, expected " + std::to_string(whole.size()) +
                                    " for its header: dim 4, hidden_dim 3, n_layers 2, n_heads 2, n_kv_heads 1, "
                                    "vocab_size 5, seq_len 6, output not tied"))
      << message;
  EXPECT_NO_THROW(read(whole));
}

TEST(Llama2c, AbsurdHeadersAreFormatErrorsThatNameTheField) {
  const MemoryLimit limit;
  const std::int32_t largest = std::numeric_limits<std::int32_t>::max();
  const std::int32_t lowest = std::numeric_limits<std::int32_t>::min();
  for (std::size_t field = 0; field < 7; ++field) {
    for (const std::int32_t value : {0, -1, lowest, largest, largest - 1}) {
      Fields fields = small;
      fields[field] = value;
      const std::string message = message_of<FormatError>([&] { read(counting_file(fields, small_floats)); });
      EXPECT_TRUE(contains(message, "made.bin: ")) << message;
      if (value == 0 || (value < 0 && field != 5)) {
        EXPECT_TRUE(contains(message, std::string(field_names[field]) + " is " + std::to_string(value))) << message;
      }
    }
  }
  for (const std::int32_t vocabulary : {largest, -largest, lowest}) {
    for (const std::int32_t dim : {largest, largest - 1}) {
      const Fields fields{dim, largest, largest, 1, 1, vocabulary, largest};
      EXPECT_THROW(read(counting_file(fields, small_floats)), FormatError);
      const Fields heads{dim, largest, largest, dim, dim, vocabulary, largest};
      EXPECT_THROW(read(counting_file(heads, small_floats)), FormatError);
    }
  }
  const auto message = [](Fields fields) {
    return message_of<FormatError>([&] { read(counting_file(fields, small_floats)); });
  };
  EXPECT_TRUE(contains(message({largest - 1, largest, largest, 1, 1, 1, 1}), "expected at least 18446744073709551615"));
  EXPECT_TRUE(contains(message({4, 3, 2, 3, 1, -5, 6}), "n_heads is 3, expected a divisor of dim 4"));
  EXPECT_TRUE(contains(message({8, 3, 2, 4, 3, -5, 6}), "n_kv_heads is 3, expected a divisor of n_heads 4"));
  EXPECT_TRUE(contains(message({6, 3, 2, 2, 1, -5, 6}), "dim / n_heads is 3, expected an even number"));
  EXPECT_TRUE(contains(message({0x616b3432, 2, 0, 0, 0, 0, 0}), "version 2, expected version 0"));
}

TEST(Llama2c, ByteCountsThatWrapRoundAreRefused) {
  // 2 * 2^15 * 2^24 * 2^24 = 2^64 floats of wq and wo: in 64 bits that is 0.
  const std::int32_t dim = 1 << 24;
  const Llama2cHeader header{dim, 1, 1 << 15, 1, 1, 1, 1, true};
  EXPECT_EQ(detail::llama2c_file_bytes(header), detail::too_many);
  EXPECT_EQ(detail::llama2c_file_bytes({4, 3, 2, 2, 1, 5, 6, false}), 28 + 4 * small_floats);
}

TEST(Llama2c, ANumberThatIsNotFiniteIsNamedByTensorLayerAndRow) {
  const auto message_with = [](std::size_t place, float value) {
    std::string bytes = counting_file(small, small_floats);
    std::memcpy(bytes.data() + 28 + 4 * place, &value, 4);
    return message_of<InputError>([&] { read<double>(bytes); });
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(contains(message_with(3 * 4, nan), "made.bin: token_embedding, row 3:"));
  EXPECT_TRUE(contains(message_with(44 + 2 * 4 + 1, infinity), "made.bin: layer 1: wq, row 2:"));
  EXPECT_TRUE(contains(message_with(144, -infinity), "made.bin: layer 1: w1, row 0:"));
  EXPECT_TRUE(contains(message_with(207, nan), "made.bin: rms_final, row 0:"));
  EXPECT_TRUE(contains(message_with(small_floats - 1, nan), "made.bin: wcls, row 4:"));

  std::string bytes = counting_file(small, small_floats);
  std::memcpy(bytes.data() + 28 + 4 * 208, &nan, 4);
  EXPECT_NO_THROW(read(bytes)) << "the RoPE tables are skipped";
}

TEST(Llama2c, DamagedHeadersAreAnErrorOrReadAsTheySay) {
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  const MemoryLimit limit;
  std::mt19937_64 random(seed());
  int errors = 0, read_well = 0;
  for (int round = 0; round < 6000; ++round) {
    std::string bytes = counting_file(small, small_floats);
    if (round % 2 == 0) {  // any bytes
      for (std::uint64_t changes = 1 + random() % 4; changes > 0; --changes)
        bytes[random() % 28] = static_cast<char>(random());
    } else {  // small numbers, which often suit each other
      for (std::uint64_t changes = 1 + random() % 3; changes > 0; --changes) {
        const auto value = static_cast<std::int32_t>(random() % 17) - 8;
        std::memcpy(bytes.data() + 4 * (random() % 7), &value, 4);
      }
    }
    try {
      const LanguageModel<float> model = read(bytes);
      ++read_well;
      require_valid(model.body);
      std::istringstream in(bytes);
      detail::ByteReader reader(in, bytes.size(), "made.bin");
      const Llama2cHeader header = detail::read_llama2c_header(reader);
      // What was read is what lies there: writing it gives the same bytes but for the two tables.
      const std::string again = written(model, header.seq_len);
      ASSERT_EQ(again.size(), bytes.size());
      const std::size_t wcls = header.tied_output ? 0 : static_cast<std::size_t>(4 * header.vocab_size * header.dim);
      const std::size_t tables = static_cast<std::size_t>(4 * header.seq_len * header.head_size());
      const std::size_t end = bytes.size() - wcls - tables;
      ASSERT_EQ(again.substr(0, end), bytes.substr(0, end));
      ASSERT_EQ(again.substr(end + tables), bytes.substr(end + tables));
    } catch (const Error&) {
      ++errors;
    } catch (const std::exception& other) {
      FAIL() << "round " << round << ": " << other.what();
    }
  }
  EXPECT_GT(errors, 4000);
  EXPECT_GT(read_well, 50) << "too few damaged headers still fit the file's length to say anything";
}

TEST(Llama2c, WhatIsNoFileIsAFileErrorThatNamesThePath) {
  const TempFolder folder;
  const auto message = [&](const std::filesystem::path& path) {
    return message_of<FileError>([&] { static_cast<void>(read_llama2c<float>(path)); });
  };
  EXPECT_EQ(message(folder / "absent.bin"), (folder / "absent.bin").string() + ": no such file");
  EXPECT_EQ(message(folder / ""), (folder / "").string() + ": a directory, expected a file");
  EXPECT_EQ(message_of<FormatError>([&] { static_cast<void>(read_llama2c<float>(folder.write("empty.bin", ""))); }),
            (folder / "empty.bin").string() + ": 0 bytes, expected at least the header's 28");
  const LanguageModel<float> model = read(counting_file(small, small_floats));
  EXPECT_THROW(write_llama2c(folder / "", model, 6), FileError);
  EXPECT_TRUE(contains(message_of<FileError>([&] { write_llama2c(folder / "absent/model.bin", model, 6); }),
                       "absent/model.bin: cannot be written: No such file or directory"));
}

TEST(Llama2c, TheWriterRefusesWhatTheFormatCannotHold) {
  const MemoryLimit limit;
  const TempFolder folder;
  using Change = void (*)(LanguageModel<double>&);
  const auto refused = [&](Change change, const std::string& part) {
    LanguageModel<double> model = read<double>(counting_file(small, small_floats));
    change(model);
    const std::string message = message_of<Error>([&] { write_llama2c(folder / "model.bin", model, 6); });
    EXPECT_TRUE(contains(message, part)) << message;
    EXPECT_FALSE(std::filesystem::exists(folder / "model.bin")) << part;
  };
  refused([](auto& m) { m.body.spec.norm_epsilon = 1e-6; }, "epsilon 1e-5");
  refused([](auto& m) { m.body.spec.norm = NormKind::layer; }, "RMS norms");
  refused([](auto& m) { m.body.spec.final_norm = false; }, "a final norm");
  refused([](auto& m) { m.body.spec.residual = false; }, "residual sums");
  refused([](auto& m) { m.body.input_mlp = RowFunction([](Index, auto&) {}); }, "no input MLP");
  refused([](auto& m) { m.body.spec.mlp = MlpKind::gelu; }, "SwiGLU");
  refused([](auto& m) { m.body.spec.attention.mask.kind = MaskKind::full; }, "causal");
  refused([](auto& m) { m.body.spec.attention.rope.reset(); }, "RoPE");
  refused([](auto& m) { m.body.spec.attention.rope->theta = 5e5; }, "theta 10000");
  refused([](auto& m) { m.body.spec.attention.rope->pairing = RopePairing::halves; }, "interleaved");
  refused([](auto& m) { m.body.spec.attention.score_scale = 1; }, "score_scale");
  refused([](auto& m) { m.body.spec.attention.output_projection = false; }, "output projection");
  refused([](auto& m) { m.body.final_norm.shift.setZero(4); }, "shift is set");
  refused([](auto& m) { m.body.layers[1].mlp_norm.shift.setZero(4); }, "shift is set");
  refused([](auto& m) { m.body.layers[0].mlp.b_in.setZero(3); }, "without biases");
  refused([](auto& m) { m.body.layers[0].attention.wv(3, 1) = 1e39; }, "layer 0: wv");
  refused([](auto& m) { m.embedding(2, 0) = std::nan(""); }, "token_embedding, row 2");
  refused([](auto& m) { m.output.resize(4, 4); }, "the output is 4 x 4, expected 5 x 4");
  const LanguageModel<float> model = read(counting_file(small, small_floats));
  EXPECT_THROW(written(model, 0), SpecError);
  EXPECT_THROW(written(model, Index{1} << 31), SpecError);
}

TEST(Llama2c, AWriterWhoseStreamIsFullSaysSo) {
  std::ostringstream out;
  out.setstate(std::ios::badbit);
  EXPECT_THROW(write_llama2c(out, read(counting_file(small, small_floats)), 6), FileError);
}

TEST(Llama2c, Stories260KReadsAsItsHeaderSays) {
  const auto path = shared_data("stories260K/stories260K.bin");
  if (!path) GTEST_SKIP() << "data/stories260K is absent (set TWOHEADS_SHARED_DIR to its shared folder)";
  const LanguageModel<float> model = read_llama2c<float>(*path);
  const ModelSpec& spec = model.body.spec;
  EXPECT_EQ(std::tuple(spec.layers, spec.width, spec.hidden), std::tuple(5, 64, 172));
  EXPECT_EQ(std::tuple(spec.attention.heads, spec.attention.kv_heads, spec.attention.head_dim), std::tuple(8, 4, 8));
  EXPECT_EQ(model.vocabulary(), 512);
  EXPECT_EQ(model.output.size(), 0);
  EXPECT_EQ(read_llama2c_header(*path), (Llama2cHeader{64, 172, 5, 8, 4, 512, 512, true}));
  EXPECT_NO_THROW(require_valid(model.body));
}

TEST(Llama2c, Stories260KIsWrittenAsUpstreamWroteIt) {
  const auto path = shared_data("stories260K/stories260K.bin");
  if (!path) GTEST_SKIP() << "data/stories260K is absent (set TWOHEADS_SHARED_DIR to its shared folder)";
  const std::string theirs = read_bytes(*path);
  const std::string ours = written(read_llama2c<float>(*path), 512);
  ASSERT_EQ(ours.size(), theirs.size());
  const std::size_t tables = theirs.size() - 4 * 512 * 8;
  EXPECT_TRUE(ours.substr(0, tables) == theirs.substr(0, tables));
  // Theirs were computed in float32: an angle of up to 511 carries up to two roundings of a half ulp each, the
  // frequency's and the product's, and a pow that is good to a few ulp; sine and cosine pass an error of the angle on
  // at most whole.
  const double tolerance = 511.0 * 4.0 * static_cast<double>(std::numeric_limits<float>::epsilon());
  for (std::size_t at = tables; at < theirs.size(); at += 4) {
    float a, b;
    std::memcpy(&a, ours.data() + at, 4);
    std::memcpy(&b, theirs.data() + at, 4);
    ASSERT_TRUE(std::abs(static_cast<double>(a) - static_cast<double>(b)) <= tolerance) << "byte " << at;
  }
}

}  // namespace
