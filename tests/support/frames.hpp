#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <twoheads/base/index.hpp>
#include <utility>
#include <vector>

/// The frames of examples/onnxruntime/runner.js, a second time: nothing of the library is called.
namespace frames {

using twoheads::Index;

struct Tensor {
  bool wide = false;  ///< float64, else float32
  std::vector<Index> shape;
  std::vector<double> numbers;
};

enum Kind : std::uint32_t { hello = 1, description = 2, run = 3, answer = 4, failure = 5 };

struct Frame {
  std::uint32_t kind = 0;
  std::uint64_t id = 0;
  std::string body;
};

template <class Number>
void append(std::string& bytes, Number value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

/// Reads numbers one after another; past the end it throws.
class Reader {
 public:
  explicit Reader(const std::string& bytes) : bytes_(bytes) {}

  template <class Number>
  Number next() {
    Number value;
    std::memcpy(&value, text(sizeof(value)).data(), sizeof(value));
    return value;
  }

  std::string text(std::size_t length) {
    if (length > bytes_.size() - at_) throw std::runtime_error("the bytes end early");
    at_ += length;
    return bytes_.substr(at_ - length, length);
  }

  [[nodiscard]] bool at_end() const { return at_ == bytes_.size(); }

 private:
  const std::string& bytes_;
  std::size_t at_ = 0;
};

inline std::uint32_t crc32(const std::string& bytes) {
  std::uint32_t crc = 0xFFFFFFFFU;
  for (const char c : bytes) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1U) != 0 ? 0xEDB88320U : 0U);
  }
  return ~crc;
}

inline std::string bytes_of(const Frame& frame) {
  std::string bytes;
  append(bytes, std::uint32_t{0x31464854});
  append(bytes, frame.kind);
  append(bytes, frame.id);
  append(bytes, static_cast<std::uint64_t>(frame.body.size()));
  append(bytes, crc32(frame.body));
  append(bytes, crc32(bytes));
  return bytes + frame.body;
}

inline std::string bytes_of(const std::vector<Tensor>& tensors) {
  std::string bytes;
  append(bytes, static_cast<std::uint32_t>(tensors.size()));
  for (const Tensor& tensor : tensors) {
    append(bytes, std::uint32_t{tensor.wide ? 2U : 1U});
    append(bytes, static_cast<std::uint32_t>(tensor.shape.size()));
    for (const Index size : tensor.shape) append(bytes, static_cast<std::uint64_t>(size));
    for (const double x : tensor.numbers) {
      if (tensor.wide)
        append(bytes, x);
      else
        append(bytes, static_cast<float>(x));
    }
  }
  return bytes;
}

inline std::vector<Tensor> read_tensors(const std::string& body) {
  Reader reader(body);
  std::vector<Tensor> tensors(reader.next<std::uint32_t>());
  for (Tensor& tensor : tensors) {
    tensor.wide = reader.next<std::uint32_t>() == 2;
    tensor.shape.resize(reader.next<std::uint32_t>());
    Index count = 1;
    for (Index& size : tensor.shape) {
      size = static_cast<Index>(reader.next<std::uint64_t>());
      count *= size;
    }
    for (Index i = 0; i < count; ++i)
      tensor.numbers.push_back(tensor.wide ? reader.next<double>() : static_cast<double>(reader.next<float>()));
  }
  EXPECT_TRUE(reader.at_end());
  return tensors;
}

inline std::vector<Frame> read_frames(const std::string& bytes) {
  Reader reader(bytes);
  std::vector<Frame> frames;
  while (!reader.at_end()) {
    std::string header = reader.text(32);
    Reader fields(header);
    Frame frame;
    EXPECT_EQ(fields.next<std::uint32_t>(), 0x31464854U);
    frame.kind = fields.next<std::uint32_t>();
    frame.id = fields.next<std::uint64_t>();
    frame.body = reader.text(fields.next<std::uint64_t>());
    EXPECT_EQ(fields.next<std::uint32_t>(), crc32(frame.body));
    EXPECT_EQ(fields.next<std::uint32_t>(), crc32(header.substr(0, 28)));
    frames.push_back(std::move(frame));
  }
  return frames;
}

}  // namespace frames
