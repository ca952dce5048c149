#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/io/dtype.hpp>
#include <twoheads/io/utf8.hpp>
#include <type_traits>
#include <utility>
#include <vector>

namespace twoheads {

/// Numbers that values() gives.
template <class T>
concept TensorValue = std::same_as<T, double> || std::same_as<T, float> || std::same_as<T, std::int64_t> ||
    std::same_as<T, std::int32_t> || std::same_as<T, std::uint8_t>;

/// A file or folder of named tensors: readers of models are written once over it.
template <class R>
concept TensorSource = requires(const R& reader, std::string_view name, Index size) {
  { reader.names() } -> std::same_as<std::vector<std::string>>;
  { reader.contains(name) } -> std::same_as<bool>;
  { reader.info(name) } -> std::same_as<TensorInfo>;
  { reader.bytes(name) } -> std::same_as<std::span<const std::byte>>;
  { reader.template matrix<float>(name, size, size) } -> std::same_as<Matrix<float>>;
  { reader.template row<float>(name, size) } -> std::same_as<RowVector<float>>;
  { reader.template values<float>(name) } -> std::same_as<std::vector<float>>;
};

namespace detail {

/// One tensor of an open file, and what error messages call it.
struct FoundTensor {
  std::string label;
  TensorInfo info;
  std::span<const std::byte> bytes;
};

[[nodiscard]] inline std::string label_of(std::string_view file, std::string_view tensor) {
  return text(file, ": tensor '", excerpt(tensor), "'");
}

[[nodiscard]] inline std::string shape_text(const std::vector<Index>& shape) {
  std::string out = "[";
  for (std::size_t i = 0; i < shape.size() && i < 8; ++i) {
    if (i > 0) out += ", ";
    out += std::to_string(shape[i]);
  }
  out += shape.size() > 8 ? ", ...]" : "]";
  return out;
}

/// Whether a shape is rows x cols once its first dimensions are taken for one and the last ones for one.
[[nodiscard]] inline bool flattens_to(const std::vector<Index>& shape, Index rows, Index cols) {
  // A product that does not fit is no size of a matrix; -1 stays -1.
  const auto times = [](Index a, Index b) {
    return a < 0 || (b > 0 && a > std::numeric_limits<Index>::max() / b) ? Index{-1} : a * b;
  };
  Index front = 1;
  for (std::size_t split = 0; split <= shape.size(); ++split) {
    if (split > 0) front = times(front, shape[split - 1]);
    if (front != rows) continue;
    Index back = 1;
    for (std::size_t i = split; i < shape.size(); ++i) back = times(back, shape[i]);
    if (back == cols) return true;
  }
  return false;
}

/// Calls `use` with a zero of the C++ type whose bits a dtype has; booleans are bytes.
template <class Use>
decltype(auto) with_type_of(Dtype dtype, const Use& use) {
  switch (dtype) {
    case Dtype::f64:
      return use(double{});
    case Dtype::f32:
      return use(float{});
    case Dtype::f16:
      return use(Eigen::half{});
    case Dtype::bf16:
      return use(Eigen::bfloat16{});
    case Dtype::i64:
      return use(std::int64_t{});
    case Dtype::i32:
      return use(std::int32_t{});
    case Dtype::u8:
      return use(std::uint8_t{});
    case Dtype::boolean:
      break;
  }
  return use(std::uint8_t{});
}

/// Calls `use(values, first, count)` for numbers that may lie unaligned, some at a time.
template <class From, class Use>
void for_each_block(std::span<const std::byte> bytes, const Use& use) {
  constexpr std::size_t block = 512;
  std::array<From, block> values;
  const std::size_t total = bytes.size() / sizeof(From);
  for (std::size_t first = 0; first < total; first += block) {
    const std::size_t count = std::min(block, total - first);
    std::memcpy(static_cast<void*>(values.data()), bytes.data() + first * sizeof(From), count * sizeof(From));
    use(values.data(), first, count);
  }
}

/// The numbers of a tensor as real ones; what the type cannot hold is rounded, and any byte but 0 is a true boolean.
template <RealScalar To>
void convert(const FoundTensor& tensor, To* out) {
  if (tensor.bytes.empty()) return;
  with_type_of(tensor.info.dtype, [&]<class From>(From) {
    if constexpr (std::same_as<From, To>) {
      // Not through a register, so that every bit of a NaN stays.
      std::memcpy(out, tensor.bytes.data(), tensor.bytes.size());
    } else {
      using Half = std::conditional_t<std::is_arithmetic_v<From>, To, float>;
      const bool boolean = tensor.info.dtype == Dtype::boolean;
      for_each_block<From>(tensor.bytes, [&](const From* values, std::size_t first, std::size_t count) {
        for (std::size_t i = 0; i < count; ++i)
          out[first + i] =
              boolean ? static_cast<To>(values[i] != From(0)) : static_cast<To>(static_cast<Half>(values[i]));
      });
    }
  });
}

/// The numbers of a tensor of integers or booleans; one that the type cannot hold is an error.
template <std::integral To>
void convert(const FoundTensor& tensor, To* out) {
  with_type_of(tensor.info.dtype, [&]<class From>(From) {
    if constexpr (std::integral<From>) {
      const bool boolean = tensor.info.dtype == Dtype::boolean;
      for_each_block<From>(tensor.bytes, [&](const From* values, std::size_t first, std::size_t count) {
        for (std::size_t i = 0; i < count; ++i) {
          const From value = boolean ? static_cast<From>(values[i] != 0) : values[i];
          if (!std::in_range<To>(value))
            throw FormatError(text(tensor.label, ": number ", first + i, " is ", std::int64_t{value},
                                   ", expected numbers of ", 8 * sizeof(To), " bits"));
          out[first + i] = static_cast<To>(value);
        }
      });
    } else {
      throw FormatError(text(tensor.label, ": holds ", name(tensor.info.dtype), ", expected integers"));
    }
  });
}

}  // namespace detail

/// What one can read of a tensor once a reader has found it; the base of all readers.
///
///   Shapes   matrix: (rows, cols), where the tensor's shape is that once its first dimensions are taken for one and
///            its last ones for one: (a, b, c) is (a, b*c), (a*b, c), (1, a*b*c) or (a*b*c, 1); (n) is (1, n) or (n, 1)
///   Corner   numbers of other types are converted: wider ones rounded, booleans 0 or 1
///   Throws   FileError where a file cannot be read; FormatError that names file and tensor, where there is no such
///            tensor, it has a dtype that is not in Dtype, or values() of an integer type finds fractions or numbers
///            beyond it; ShapeError for another shape
template <class Reader>
class TensorReads {
 public:
  /// A tensor as a matrix of this shape, converted.
  template <RealScalar Scalar>
  [[nodiscard]] Matrix<Scalar> matrix(std::string_view name, Index rows, Index cols) const {
    const detail::FoundTensor tensor = find(name);
    if (!detail::flattens_to(tensor.info.shape, rows, cols))
      throw ShapeError(detail::text(tensor.label, ": its shape is ", detail::shape_text(tensor.info.shape),
                                    ", expected ", rows, " x ", cols));
    Matrix<Scalar> out(rows, cols);
    detail::convert(tensor, out.data());
    return out;
  }

  /// All numbers of a tensor of `size` ones, whatever its shape.
  template <RealScalar Scalar>
  [[nodiscard]] RowVector<Scalar> row(std::string_view name, Index size) const {
    const detail::FoundTensor tensor = find(name);
    if (tensor.info.elements() != size)
      throw ShapeError(detail::text(tensor.label, ": its shape is ", detail::shape_text(tensor.info.shape),
                                    ", expected ", size, " numbers"));
    RowVector<Scalar> out(size);
    detail::convert(tensor, out.data());
    return out;
  }

  /// All numbers of a tensor, the last dimension first.
  template <TensorValue T>
  [[nodiscard]] std::vector<T> values(std::string_view name) const {
    const detail::FoundTensor tensor = find(name);
    std::vector<T> out(static_cast<std::size_t>(tensor.info.elements()));
    detail::convert(tensor, out.data());
    return out;
  }

  /// What the file says of a tensor.
  [[nodiscard]] TensorInfo info(std::string_view name) const { return find(name).info; }

  /// The bytes of a tensor as they lie in the file, maybe unaligned; they live as long as the reader.
  [[nodiscard]] std::span<const std::byte> bytes(std::string_view name) const { return find(name).bytes; }

 private:
  [[nodiscard]] detail::FoundTensor find(std::string_view name) const {
    return static_cast<const Reader&>(*this).find(name);
  }
};

}  // namespace twoheads
