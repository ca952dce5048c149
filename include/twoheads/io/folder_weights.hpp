#pragma once

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/io/dtype.hpp>
#include <twoheads/io/tensor_folder.hpp>
#include <twoheads/io/tensor_reads.hpp>
#include <twoheads/model/weights.hpp>
#include <utility>
#include <vector>

namespace twoheads::detail {

/// The tensors of a folder, each of which has to be asked for: what nobody asks for would be a weight that is dropped.
///
///   Laws     a tensor's shape and dtype are checked before anything is allocated for it
///   Throws   FileError where a file cannot be read; FormatError that names the file and the tensor, where it is not
///            there, holds no real numbers or has another shape than config.json asks for; InputError where a weight is
///            NaN, infinite or beyond the scalar
class FolderWeights {
 public:
  explicit FolderWeights(const std::filesystem::path& folder)
      : file_(TensorFolder::open(folder)), folder_(folder.string()), names_(file_.names()), taken_(names_.size()) {}

  /// The names of tensors begin with one of these, the first that makes a tensor of `probe`.
  void choose_prefix(std::initializer_list<std::string_view> prefixes, std::string_view probe) {
    for (const std::string_view prefix : prefixes) {
      prefix_ = prefix;
      if (has(probe)) return;
    }
    throw FormatError(text(folder_, ": there is no tensor '", probe, "', with no prefix or one of this family"));
  }

  [[nodiscard]] Index count() const { return static_cast<Index>(names_.size()); }
  [[nodiscard]] const std::string& folder() const { return folder_; }
  [[nodiscard]] bool has(std::string_view name) const { return file_.contains(prefix_ + std::string(name)); }
  /// Without the prefix.
  [[nodiscard]] bool has_plain(std::string_view name) const { return file_.contains(name); }

  template <RealScalar Scalar>
  [[nodiscard]] Matrix<Scalar> matrix(const std::string& name, Index rows, Index cols) {
    return plain_matrix<Scalar>(prefix_ + name, rows, cols);
  }
  /// A tensor whose name has no prefix.
  template <RealScalar Scalar>
  [[nodiscard]] Matrix<Scalar> plain_matrix(const std::string& name, Index rows, Index cols) {
    require(name, {rows, cols});
    const Matrix<Scalar> values = file_.matrix<Scalar>(name, rows, cols);
    require_finite(name, values);
    return values;
  }
  /// A linear layer's weight, (out, in) in the file, as (in, out).
  template <RealScalar Scalar>
  [[nodiscard]] Matrix<Scalar> linear(const std::string& name, Index in, Index out) {
    return matrix<Scalar>(name + ".weight", out, in).transpose();
  }
  template <RealScalar Scalar>
  [[nodiscard]] RowVector<Scalar> row(const std::string& name, Index size) {
    require(prefix_ + name, {size});
    const RowVector<Scalar> values = file_.row<Scalar>(prefix_ + name, size);
    require_finite(prefix_ + name, values);
    return values;
  }
  /// A bias where there has to be one, else nothing.
  template <RealScalar Scalar>
  [[nodiscard]] RowVector<Scalar> bias(const std::string& name, Index size, bool wanted) {
    return wanted ? row<Scalar>(name + ".bias", size) : RowVector<Scalar>();
  }
  /// An RMS norm; `offset` is added to the gain.
  template <RealScalar Scalar>
  [[nodiscard]] NormWeights<Scalar> rms_norm(const std::string& name, Index width, double offset) {
    RowVector<Scalar> gain = row<Scalar>(name + ".weight", width);
    if (offset != 0) gain.array() += static_cast<Scalar>(offset);
    return {std::move(gain), {}};
  }
  /// A LayerNorm: weight and bias, or gamma and beta as files had them that came of TensorFlow.
  template <RealScalar Scalar>
  [[nodiscard]] NormWeights<Scalar> layer_norm(const std::string& name, Index width) {
    const bool old = has(name + ".gamma") && !has(name + ".weight");
    return {row<Scalar>(name + (old ? ".gamma" : ".weight"), width),
            row<Scalar>(name + (old ? ".beta" : ".bias"), width)};
  }

  /// Whether two tensors, named without the prefix, are the same numbers in the same bits.
  [[nodiscard]] bool same_bytes(std::string_view a, std::string_view b) const {
    if (file_.info(a).dtype != file_.info(b).dtype) return false;
    const auto first = file_.bytes(a);
    const auto second = file_.bytes(b);
    return std::equal(first.begin(), first.end(), second.begin(), second.end());
  }
  [[nodiscard]] std::string full_name(std::string_view name) const { return prefix_ + std::string(name); }

  /// A tensor that is not read, and need not be.
  void pass(std::string_view plain_name) { take(plain_name); }

  /// Throws FormatError that names the first tensor that nobody asked for, those apart that `harmless` knows.
  template <class Harmless>
  void require_nothing_left(const Harmless& harmless) const {
    for (std::size_t i = 0; i < names_.size(); ++i)
      if (!taken_[i] && !harmless(std::string_view(names_[i])))
        throw FormatError(label_of(folder_, names_[i]) + " is not a weight of the model that config.json describes");
  }

 private:
  void take(std::string_view name) {
    const auto found = std::lower_bound(names_.begin(), names_.end(), name);
    if (found != names_.end() && *found == name) taken_[static_cast<std::size_t>(found - names_.begin())] = true;
  }

  void require(const std::string& name, const std::vector<Index>& shape) {
    if (!file_.contains(name)) throw FormatError(label_of(folder_, name) + " is not there");
    const TensorInfo info = file_.info(name);
    if (info.shape != shape)
      throw FormatError(text(label_of(folder_, name), ": its shape is ", shape_text(info.shape),
                             ", config.json asks for ", shape_text(shape)));
    if (info.dtype != Dtype::f64 && info.dtype != Dtype::f32 && info.dtype != Dtype::f16 && info.dtype != Dtype::bf16)
      throw FormatError(text(label_of(folder_, name), ": its dtype is ", twoheads::name(info.dtype),
                             ", expected F64, F32, F16 or BF16"));
    take(name);
  }

  template <class Values>
  void require_finite(const std::string& name, const Values& values) const {
    const Index row = first_row_not_finite(values);
    if (row >= 0)
      throw InputError(text(label_of(folder_, name), ", row ", row, ": a weight is NaN, infinite or too large"));
  }

  TensorFolder file_;
  std::string folder_;
  std::string prefix_;
  std::vector<std::string> names_;  ///< sorted
  std::vector<bool> taken_;
};

}  // namespace twoheads::detail
