#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <twoheads/base/errors.hpp>
#include <twoheads/io/mapped_file.hpp>
#include <twoheads/io/safetensors_header.hpp>
#include <twoheads/io/tensor_reads.hpp>
#include <vector>

namespace twoheads {

/// A safetensors file, mapped into memory; its numbers are copied only when asked for.
///
///   Laws     opening takes no more memory than the file is long, whatever it holds, but for an error's message; all
///            that the format promises of offsets and sizes is checked before it returns
///   Corner   a tensor whose dtype is not in Dtype does not hinder the others; asking for it is the error. Refused,
///            where the reference implementation is silent: a name that appears twice, a field of a tensor other than
///            dtype, shape and data_offsets, more than 64 dimensions
///   Throws   FileError that names a file which cannot be read; FormatError that names the file, the tensor, what was
///            found and what was expected
///   Source   github.com/huggingface/safetensors, README.md, "Format", and the checks of its tensor.rs
class Safetensors : public TensorReads<Safetensors> {
 public:
  /// Opens and checks a file.
  [[nodiscard]] static Safetensors open(const std::filesystem::path& path) { return Safetensors(path); }

  /// The texts of __metadata__, read from the file at each call.
  [[nodiscard]] std::map<std::string, std::string> metadata() const {
    std::map<std::string, std::string> facts;
    detail::scan_header(
        header(), file_.name(), [](detail::JsonScanner& json, const detail::JsonString&) { json.skip_value(); },
        [&](const detail::JsonString& key, const detail::JsonString& value) {
          if (!facts.emplace(key.decoded(), value.decoded()).second)
            throw FormatError(
                detail::text(file_.name(), ": __metadata__: '", detail::excerpt(key.raw), "' appears twice"));
        });
    return facts;
  }

  /// Sorted.
  [[nodiscard]] std::vector<std::string> names() const {
    std::vector<std::string> all;
    all.reserve(entries_.size());
    for (const detail::HeaderEntry& entry : entries_) all.push_back(detail::name_of(entry, header()).decoded());
    return all;
  }

  /// Whether there is a tensor of this name.
  [[nodiscard]] bool contains(std::string_view name) const { return look_up(name) != nullptr; }

  [[nodiscard]] std::string path() const { return file_.name(); }  ///< of the file

 private:
  friend TensorReads<Safetensors>;
  friend class TensorFolder;

  explicit Safetensors(const std::filesystem::path& path) : file_(path) {
    const std::span<const std::byte> bytes = file_.bytes();
    if (bytes.size() < sizeof(header_bytes_))
      throw FormatError(
          detail::text(file_.name(), ": ", bytes.size(), " bytes, expected the 8 bytes of a header's length first"));
    std::memcpy(&header_bytes_, bytes.data(), sizeof(header_bytes_));
    if (header_bytes_ > detail::most_header_bytes)
      throw FormatError(detail::text(file_.name(), ": the header's length is ", header_bytes_, " bytes, expected ",
                                     detail::most_header_bytes, " at most"));
    if (header_bytes_ > bytes.size() - sizeof(header_bytes_))
      throw FormatError(detail::text(file_.name(), ": the header's length is ", header_bytes_, " bytes, but only ",
                                     bytes.size() - sizeof(header_bytes_), " follow"));
    entries_ = detail::read_header(header(), data().size(), file_.name());
  }

  [[nodiscard]] std::string_view header() const { return file_.text_at(sizeof(header_bytes_), header_bytes_); }
  [[nodiscard]] std::span<const std::byte> data() const {
    return file_.bytes().subspan(sizeof(header_bytes_) + header_bytes_);
  }

  [[nodiscard]] const detail::HeaderEntry* look_up(std::string_view name) const {
    const auto found = std::lower_bound(entries_.begin(), entries_.end(), name,
                                        [&](const detail::HeaderEntry& entry, std::string_view wanted) {
                                          return detail::compare(detail::name_of(entry, header()), wanted) < 0;
                                        });
    if (found == entries_.end() || detail::compare(detail::name_of(*found, header()), name) != 0) return nullptr;
    return &*found;
  }

  [[nodiscard]] detail::FoundTensor find(std::string_view name) const {
    const detail::HeaderEntry* entry = look_up(name);
    detail::FoundTensor found{detail::label_of(file_.name(), name), {}, {}};
    if (entry == nullptr) throw FormatError(found.label + " is not there");
    const std::string_view dtype = detail::JsonScanner(header(), file_.name(), entry->dtype_at).string().raw;
    const std::optional<Dtype> known = dtype_named(dtype);
    if (!known) {
      found.label += detail::text(": the dtype is ", dtype, ", expected F64, F32, F16, BF16, I64, I32, U8 or BOOL");
      throw FormatError(found.label);
    }
    found.info = {*known, {}, entry->begin, entry->end};
    detail::JsonScanner shape(header(), file_.name(), entry->shape_at);
    shape.array([&] { found.info.shape.push_back(static_cast<Index>(shape.whole_number())); });
    found.bytes = data().subspan(entry->begin, entry->end - entry->begin);
    return found;
  }

  detail::MappedFile file_;
  std::uint64_t header_bytes_ = 0;
  std::vector<detail::HeaderEntry> entries_;  ///< by name
};

static_assert(TensorSource<Safetensors>);

}  // namespace twoheads
