#pragma once

#include <bit>
#include <cstdint>
#include <fstream>
#include <stdexcept>
#include <string>
#include <twoheads/base/matrix.hpp>

namespace programs {

/// Writes one matrix as a safetensors file with a single float32 tensor.
///
///   Shapes   values (rows, cols), row-major in the file
///   Throws   std::runtime_error that names the file if it cannot be written
inline void write_safetensors(const std::string& path, const std::string& name, const twoheads::Matrix<float>& values) {
  static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");
  const std::uint64_t bytes = static_cast<std::uint64_t>(values.size()) * sizeof(float);
  std::string header = "{\"" + name + "\":{\"dtype\":\"F32\",\"shape\":[" + std::to_string(values.rows()) + "," +
                       std::to_string(values.cols()) + "],\"data_offsets\":[0," + std::to_string(bytes) + "]}}";
  // The data that follow start at a multiple of 8.
  header.append((8 - header.size() % 8) % 8, ' ');
  const std::uint64_t length = header.size();
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(&length), sizeof(length));
  out.write(header.data(), static_cast<std::streamsize>(header.size()));
  out.write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(bytes));
  out.close();
  if (!out) throw std::runtime_error(path + ": cannot be written");
}

}  // namespace programs
