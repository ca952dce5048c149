#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <ios>
#include <map>
#include <ranges>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <twoheads/base/checked.hpp>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/base/write_file.hpp>
#include <twoheads/io/dtype.hpp>
#include <twoheads/io/json_scanner.hpp>
#include <twoheads/io/safetensors_header.hpp>
#include <twoheads/io/tensor_reads.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// A tensor to be written; whoever made it owns its bytes.
struct TensorView {
  std::string name;          ///< of the tensor
  Dtype dtype = Dtype::f32;  ///< how its numbers are stored
  std::vector<Index> shape;  ///< row-major
  std::span<const std::byte> bytes;
};

namespace detail {

/// Throws SpecError or ShapeError unless a file can hold these tensors.
inline void require_writable(std::span<const TensorView> tensors) {
  std::vector<std::string_view> names;
  for (const TensorView& tensor : tensors) {
    const std::string label = text("tensor '", excerpt(tensor.name), "'");
    if (!is_utf8(tensor.name)) throw SpecError(label + ": its name is not valid UTF-8");
    if (tensor.name == metadata_key) throw SpecError(label + ": the format keeps that name for itself");
    Index bytes = size_of(tensor.dtype);
    for (const Index size : tensor.shape) {
      if (size < 0)
        throw ShapeError(text(label, ": its shape is ", shape_text(tensor.shape), ", expected none below 0"));
      bytes = checked_product(text("the bytes of ", label), bytes, size);
    }
    if (static_cast<std::size_t>(bytes) != tensor.bytes.size())
      throw ShapeError(text(label, ": ", tensor.bytes.size(), " bytes, expected ", bytes, " for ", name(tensor.dtype),
                            " ", shape_text(tensor.shape)));
    names.push_back(tensor.name);
  }
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) throw SpecError(text("tensor '", excerpt(*twice), "' is given twice"));
}

/// Wider numbers first, so that all are aligned, as the reference implementation has them; those of one width by name.
[[nodiscard]] inline std::vector<const TensorView*> writing_order(std::span<const TensorView> tensors) {
  std::vector<const TensorView*> order;
  for (const TensorView& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const TensorView* a, const TensorView* b) {
    return size_of(a->dtype) != size_of(b->dtype) ? size_of(a->dtype) > size_of(b->dtype) : a->name < b->name;
  });
  return order;
}

[[nodiscard]] inline std::string header_of(const std::vector<const TensorView*>& order,
                                           const std::map<std::string, std::string>& metadata) {
  std::string header = "{";
  const auto member = [&](std::string_view key) {
    if (header.back() != '{') header += ',';
    header += json_quoted(key);
    header += ':';
  };
  const auto numbers = [&](const auto& list) {
    header += '[';
    for (const auto number : list) {
      if (header.back() != '[') header += ',';
      header += std::to_string(number);
    }
    header += ']';
  };
  if (!metadata.empty()) {
    member(metadata_key);
    header += '{';
    for (const auto& [key, value] : metadata) {
      if (!is_utf8(key) || !is_utf8(value))
        throw SpecError(text("metadata '", excerpt(key), "': the key or the value is not valid UTF-8"));
      member(key);
      header += json_quoted(value);
    }
    header += '}';
  }
  std::size_t at = 0;
  for (const TensorView* tensor : order) {
    member(tensor->name);
    header += R"({"dtype":")";
    header += name(tensor->dtype);
    header += R"(","shape":)";
    numbers(tensor->shape);
    header += R"(,"data_offsets":)";
    numbers(std::array<std::size_t, 2>{at, at + tensor->bytes.size()});
    header += '}';
    at += tensor->bytes.size();
  }
  header += '}';
  // The data that follow start at a multiple of 8.
  header.append((8 - header.size() % 8) % 8, ' ');
  if (header.size() > most_header_bytes)
    throw SpecError(text("the header takes ", header.size(), " bytes, expected ", most_header_bytes, " at most"));
  return header;
}

}  // namespace detail

/// Writes tensors as one safetensors file, bit by bit as they are.
///
///   Throws   SpecError for a name that is given twice or kept for the format, or text that is not UTF-8; ShapeError
///            where bytes and shape do not fit; FileError that names the path if it cannot be written
inline void write_safetensors(const std::filesystem::path& path, std::span<const TensorView> tensors,
                              const std::map<std::string, std::string>& metadata = {}) {
  detail::require_writable(tensors);
  const std::vector<const TensorView*> order = detail::writing_order(tensors);
  const std::string header = detail::header_of(order, metadata);
  detail::write_file(path, [&](std::ostream& out) {
    const std::uint64_t length = header.size();
    out.write(reinterpret_cast<const char*>(&length), sizeof(length));
    out.write(header.data(), static_cast<std::streamsize>(header.size()));
    for (const TensorView* tensor : order)
      out.write(reinterpret_cast<const char*>(tensor->bytes.data()),
                static_cast<std::streamsize>(tensor->bytes.size()));
  });
}

/// Writes tensors as model.safetensors in a folder, or, if they take more than `most_bytes`, as shards with an index.
///
///   Units    most_bytes: of data a file; a tensor that is longer has a file of its own
///   Throws   as write_safetensors does; SpecError where shards would be hidden by a model.safetensors already there
inline void write_sharded_safetensors(const std::filesystem::path& folder, std::span<const TensorView> tensors,
                                      std::uint64_t most_bytes,
                                      const std::map<std::string, std::string>& metadata = {}) {
  detail::require_writable(tensors);
  std::vector<std::vector<TensorView>> shards;
  std::uint64_t total = 0;
  std::uint64_t in_last = 0;
  for (const TensorView* tensor : detail::writing_order(tensors)) {
    const std::uint64_t bytes = tensor->bytes.size();
    if (shards.empty() || (in_last > 0 && bytes > most_bytes - std::min(most_bytes, in_last))) {
      shards.emplace_back();
      in_last = 0;
    }
    shards.back().push_back(*tensor);
    in_last += bytes;
    total += bytes;
  }
  const std::filesystem::path whole = folder / "model.safetensors";
  if (shards.size() <= 1) return write_safetensors(whole, tensors, metadata);
  std::error_code ignored;
  if (std::filesystem::exists(whole, ignored))
    throw SpecError(detail::text(whole.string(), " is there already: a reader would take it for the model, not the ",
                                 shards.size(), " shards"));
  const auto five_digits = [](std::size_t number) {
    const std::string digits = std::to_string(number);
    return std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits;
  };
  std::string index = detail::text("{\"metadata\":{\"total_size\":", total, "},\"weight_map\":{");
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string file =
        detail::text("model-", five_digits(i + 1), "-of-", five_digits(shards.size()), ".safetensors");
    write_safetensors(folder / file, shards[i], metadata);
    for (const TensorView& tensor : shards[i]) {
      if (index.back() != '{') index += ',';
      index += detail::json_quoted(tensor.name);
      index += ':';
      index += detail::json_quoted(file);
    }
  }
  index += "}}\n";
  detail::write_file(folder / "model.safetensors.index.json",
                     [&](std::ostream& out) { out.write(index.data(), static_cast<std::streamsize>(index.size())); });
}

/// Collects tensors and writes them; what it converts it owns.
class SafetensorsWriter {
 public:
  SafetensorsWriter() = default;
  // The tensors of a copy would refer to the bytes of the original; those of a moved one keep their place.
  SafetensorsWriter(SafetensorsWriter&&) = default;
  SafetensorsWriter& operator=(SafetensorsWriter&&) = default;  ///< moves the tensors along
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  /// Adds an entry to the file's metadata, or changes it.
  SafetensorsWriter& metadata(std::string key, std::string value) {
    metadata_.insert_or_assign(std::move(key), std::move(value));
    return *this;
  }

  /// Adds a tensor whose bytes stay the caller's and must outlive the writer.
  SafetensorsWriter& add(TensorView tensor) {
    tensors_.push_back(std::move(tensor));
    return *this;
  }

  /// Adds a copy of numbers that lie side by side, such as a std::vector's, in their own dtype.
  template <std::ranges::contiguous_range Numbers>
  requires TensorNumber<std::ranges::range_value_t<Numbers>> SafetensorsWriter& add_values(std::string name,
                                                                                           const Numbers& numbers,
                                                                                           std::vector<Index> shape) {
    const auto from = std::as_bytes(std::span(numbers));
    return add_owned(std::move(name), dtype_of<std::ranges::range_value_t<Numbers>>(), std::move(shape),
                     {from.begin(), from.end()});
  }

  /// Adds a matrix as F64, F32, F16 or BF16, rounded to nearest; to the two of 16 bits through float32.
  ///
  ///   Shapes   values (rows, cols); the tensor has the same shape
  ///   Throws   SpecError for a dtype of integers or booleans
  template <class Derived>
  SafetensorsWriter& add(std::string name, const Eigen::DenseBase<Derived>& values, Dtype dtype) {
    const Matrix<typename Derived::Scalar> rows = values;
    std::vector<std::byte> bytes;
    detail::with_type_of(dtype, [&]<class To>(To) {
      if constexpr (std::is_integral_v<To>) {
        throw SpecError(detail::text("tensor '", detail::excerpt(name), "': a matrix as ", twoheads::name(dtype),
                                     ", expected F64, F32, F16 or BF16"));
      } else {
        bytes.resize(static_cast<std::size_t>(rows.size()) * sizeof(To));
        for (Index i = 0; i < rows.size(); ++i) {
          const To value = static_cast<To>(rows.data()[i]);
          std::memcpy(bytes.data() + static_cast<std::size_t>(i) * sizeof(To), &value, sizeof(To));
        }
      }
    });
    return add_owned(std::move(name), dtype, {rows.rows(), rows.cols()}, std::move(bytes));
  }

  /// Adds a matrix of float64 or float32 in its own dtype.
  template <class Derived>
  SafetensorsWriter& add(std::string name, const Eigen::DenseBase<Derived>& values) {
    return add(std::move(name), values, dtype_of<typename Derived::Scalar>());
  }

  /// Writes one file.
  void write(const std::filesystem::path& path) const { write_safetensors(path, tensors_, metadata_); }

  /// Writes files of at most so many bytes and their index.
  void write_sharded(const std::filesystem::path& folder, std::uint64_t most_bytes) const {
    write_sharded_safetensors(folder, tensors_, most_bytes, metadata_);
  }

 private:
  SafetensorsWriter& add_owned(std::string name, Dtype dtype, std::vector<Index> shape, std::vector<std::byte> bytes) {
    // A vector that moves keeps its bytes where they are.
    owned_.push_back(std::move(bytes));
    tensors_.push_back({std::move(name), dtype, std::move(shape), owned_.back()});
    return *this;
  }

  std::vector<TensorView> tensors_;
  std::vector<std::vector<std::byte>> owned_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace twoheads
