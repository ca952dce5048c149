#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <type_traits>
#include <utility>
#include <vector>

namespace twoheads {

/// Numbers that a graph takes or answers.
enum class TensorType : std::uint32_t { float32 = 1, float64 = 2 };

/// The name in words.
[[nodiscard]] constexpr const char* name(TensorType type) {
  return type == TensorType::float32 ? "float32" : "float64";
}

/// Bytes of a number.
[[nodiscard]] constexpr std::size_t size_of(TensorType type) { return type == TensorType::float32 ? 4 : 8; }

/// The type of a scalar's numbers.
template <class Scalar>
constexpr TensorType tensor_type = std::is_same_v<Scalar, float> ? TensorType::float32 : TensorType::float64;

namespace detail {

/// "4 x 2 x 33", or "a number" for no dimensions; 0 stands for any.
[[nodiscard]] inline std::string dims_in_words(std::span<const std::uint64_t> dims) {
  std::string words = dims.empty() ? "a number" : "";
  for (const std::uint64_t dim : dims) {
    if (!words.empty()) words += " x ";
    words += dim == 0 ? "any" : text(dim);
  }
  return words;
}

/// The product of the dimensions, or `most` where it would be more.
[[nodiscard]] inline std::uint64_t count_up_to(std::span<const std::uint64_t> dims, std::uint64_t most) {
  std::uint64_t count = 1;
  for (const std::uint64_t dim : dims) {
    if (dim == 0) return 0;
    if (count > most / dim) return most;
    count *= dim;
  }
  return std::min(count, most);
}

}  // namespace detail

/// Numbers in row-major order, in the bytes of a frame.
class Tensor {
 public:
  Tensor() = default;
  /// Zeros.
  Tensor(TensorType type, std::vector<std::uint64_t> dims) : type_(type), dims_(std::move(dims)) {
    constexpr std::uint64_t most = std::numeric_limits<std::ptrdiff_t>::max() / 8;
    const std::uint64_t count = detail::count_up_to(dims_, most);
    if (count == most)
      throw ShapeError(detail::text("a tensor of ", detail::dims_in_words(dims_), " is more than memory holds"));
    bytes_.resize(static_cast<std::size_t>(count) * size_of(type));
  }

  [[nodiscard]] TensorType type() const { return type_; }                      ///< of the numbers
  [[nodiscard]] std::span<const std::uint64_t> dims() const { return dims_; }  ///< row-major
  [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }    ///< the numbers as they are sent
  [[nodiscard]] std::span<std::byte> bytes() { return bytes_; }                ///< the numbers as they are sent

  /// The first number of `block` blocks of so many numbers; the tensor holds numbers of that scalar.
  template <class Scalar>
  [[nodiscard]] Scalar* at(Index block, Index numbers) {
    TWOHEADS_ASSERT(type_ == tensor_type<Scalar>);
    return reinterpret_cast<Scalar*>(bytes_.data()) + block * numbers;
  }
  /// Number `block` of runs of `numbers` numbers that follow each other.
  template <class Scalar>
  [[nodiscard]] const Scalar* at(Index block, Index numbers) const {
    TWOHEADS_ASSERT(type_ == tensor_type<Scalar>);
    return reinterpret_cast<const Scalar*>(bytes_.data()) + block * numbers;
  }

  friend bool operator==(const Tensor&, const Tensor&) = default;

 private:
  TensorType type_ = TensorType::float32;
  std::vector<std::uint64_t> dims_ = {0};
  std::vector<std::byte> bytes_;
};

/// What a graph declares of one input or output; a dimension of 0 may be any.
struct TensorSpec {
  std::string name;                       ///< of the input or output
  TensorType type = TensorType::float32;  ///< of its numbers
  std::vector<std::uint64_t> dims;        ///< 0: any

  /// Whether no dimension may be any.
  [[nodiscard]] bool fixed() const { return std::find(dims.begin(), dims.end(), 0U) == dims.end(); }
  /// Whether a tensor has this type and these dimensions.
  [[nodiscard]] bool fits(const Tensor& tensor) const {
    return tensor.type() == type &&
           std::equal(dims.begin(), dims.end(), tensor.dims().begin(), tensor.dims().end(),
                      [](std::uint64_t want, std::uint64_t is) { return want == 0 || want == is; });
  }
  /// "q, float32, 4 x 2 x 33 x 16"
  [[nodiscard]] std::string in_words() const {
    return detail::text(name, ", ", twoheads::name(type), ", ", detail::dims_in_words(dims));
  }

  friend bool operator==(const TensorSpec&, const TensorSpec&) = default;
};

/// What a process declares of its graph.
struct Description {
  std::vector<TensorSpec> inputs, outputs;  ///< in their order

  friend bool operator==(const Description&, const Description&) = default;
};

/// Throws OracleError unless the tensors are those that a graph declares.
inline void require_fit(const char* what, std::span<const TensorSpec> specs, std::span<const Tensor> tensors) {
  if (tensors.size() != specs.size())
    throw OracleError(detail::text(what, " of ", tensors.size(), " tensors, expected ", specs.size()));
  for (std::size_t i = 0; i < specs.size(); ++i)
    if (!specs[i].fits(tensors[i]))
      throw OracleError(detail::text(what, " with ", name(tensors[i].type()), ", ",
                                     detail::dims_in_words(tensors[i].dims()), ", expected ", specs[i].in_words()));
}

}  // namespace twoheads
