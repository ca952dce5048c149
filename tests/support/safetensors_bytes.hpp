#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <tuple>
#include <twoheads/io/safetensors_writer.hpp>
#include <twoheads/io/tensor_folder.hpp>

#include "support/append.hpp"
#include "support/message_of.hpp"
#include "support/temp_folder.hpp"

/// Bytes of safetensors files, and the fixture of tests that open such.
namespace safetensors_bytes {

using namespace twoheads;

inline std::string as_text(std::span<const std::byte> bytes) {
  return bytes.empty() ? std::string() : std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}
inline std::span<const std::byte> as_bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

/// A file of that header, with the length that the format asks for.
inline std::string file_of(const std::string& header, const std::string& data = {}) {
  std::string bytes;
  append(bytes, std::uint64_t{header.size()});
  return bytes + header + data;
}

inline std::string numbers(std::size_t count) {
  std::string bytes(count, '\0');
  std::iota(bytes.begin(), bytes.end(), '\0');
  return bytes;
}

inline std::string repeated(const std::string& text, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) all += text;
  return all;
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

}  // namespace safetensors_bytes
