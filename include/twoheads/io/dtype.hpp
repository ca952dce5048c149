#pragma once

#include <Eigen/Core>
#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <vector>

namespace twoheads {

static_assert(std::endian::native == std::endian::little,
              "twoheads reads and writes tensor files as they lie: little endian, with no swap");

/// How the numbers of a tensor lie in a file.
enum class Dtype { f64, f32, f16, bf16, i64, i32, u8, boolean };

/// All of them.
inline constexpr std::array<Dtype, 8> all_dtypes{Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16,
                                                 Dtype::i64, Dtype::i32, Dtype::u8,  Dtype::boolean};

/// The name as safetensors files spell it.
[[nodiscard]] constexpr std::string_view name(Dtype dtype) {
  constexpr std::array<std::string_view, 8> names{"F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL"};
  return names[static_cast<std::size_t>(dtype)];
}

/// Bytes of one number.
[[nodiscard]] constexpr Index size_of(Dtype dtype) {
  constexpr std::array<Index, 8> sizes{8, 4, 2, 2, 8, 4, 1, 1};
  return sizes[static_cast<std::size_t>(dtype)];
}

/// The type that a file names; nothing for a name that is not known.
[[nodiscard]] constexpr std::optional<Dtype> dtype_named(std::string_view text) {
  for (const Dtype dtype : all_dtypes)
    if (name(dtype) == text) return dtype;
  return std::nullopt;
}

/// C++ types whose bits are those of a dtype; bool is none, since its bytes in a file may be neither 0 nor 1.
template <class T>
concept TensorNumber = std::same_as<T, double> || std::same_as<T, float> || std::same_as<T, Eigen::half> ||
    std::same_as<T, Eigen::bfloat16> || std::same_as<T, std::int64_t> || std::same_as<T, std::int32_t> ||
    std::same_as<T, std::uint8_t>;

/// The type of a number.
template <TensorNumber T>
[[nodiscard]] constexpr Dtype dtype_of() {
  if (std::same_as<T, double>) return Dtype::f64;
  if (std::same_as<T, float>) return Dtype::f32;
  if (std::same_as<T, Eigen::half>) return Dtype::f16;
  if (std::same_as<T, Eigen::bfloat16>) return Dtype::bf16;
  if (std::same_as<T, std::int64_t>) return Dtype::i64;
  if (std::same_as<T, std::int32_t>) return Dtype::i32;
  return Dtype::u8;
}

/// What a file says about one tensor. The shape is row-major: the last dimension is the one whose neighbours touch.
struct TensorInfo {
  Dtype dtype = Dtype::f32;  ///< how its numbers are stored
  std::vector<Index> shape;  ///< empty for a single number
  std::uint64_t begin = 0;   ///< of its bytes in the file's data
  std::uint64_t end = 0;     ///< one past the last byte

  /// Readers have checked that the product fits.
  [[nodiscard]] Index elements() const {
    Index count = 1;
    for (const Index size : shape) count *= size;
    return count;
  }

  friend bool operator==(const TensorInfo&, const TensorInfo&) = default;
};

}  // namespace twoheads
