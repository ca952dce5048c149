#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <twoheads/base/errors.hpp>
#include <twoheads/io/dtype.hpp>
#include <twoheads/io/json_scanner.hpp>
#include <vector>

namespace twoheads::detail {

/// Longest header that the reference implementation reads, in bytes; positions in a header fit in 32 bits.
inline constexpr std::uint64_t most_header_bytes = 100'000'000;

/// As PyTorch has; so that a shape of millions of ones cannot ask for memory.
inline constexpr std::size_t most_dimensions = 64;

inline constexpr std::string_view metadata_key = "__metadata__";

/// Where a safetensors header says what about a tensor. Not longer than the shortest such text, so that a table of all
/// tensors takes no more memory than the file.
struct HeaderEntry {
  std::uint64_t begin = 0;  ///< of the tensor's bytes in the file's data
  std::uint64_t end = 0;
  std::uint32_t name_at = 0;
  std::uint32_t name_length = 0;
  std::uint32_t dtype_at = 0;
  std::uint32_t shape_at = 0;
};
static_assert(sizeof(HeaderEntry) < std::string_view(R"("":{"dtype":"","shape":[],"data_offsets":[0,0]})").size());

[[nodiscard]] inline JsonString name_of(const HeaderEntry& entry, std::string_view header) {
  return {header.substr(entry.name_at, entry.name_length), entry.name_at};
}

/// Whether a word may be the name of a dtype that we do not know, such as F8_E4M3 or U16.
[[nodiscard]] constexpr bool looks_like_dtype(std::string_view word) {
  if (word.empty() || word.size() > 16 || word[0] < 'A' || word[0] > 'Z') return false;
  return std::all_of(word.begin(), word.end(),
                     [](char c) { return ('A' <= c && c <= 'Z') || ('0' <= c && c <= '9') || c == '_'; });
}

/// Reads one tensor's object and checks it by itself.
[[nodiscard]] inline HeaderEntry scan_tensor(JsonScanner& json, const JsonString& name) {
  HeaderEntry entry;
  entry.name_at = static_cast<std::uint32_t>(name.at);
  entry.name_length = static_cast<std::uint32_t>(name.raw.size());
  std::string_view dtype;
  std::uint64_t elements = 1;
  std::size_t dimensions = 0;
  std::array<std::int64_t, 2> offsets{};
  std::array<bool, 3> seen{};
  const auto once = [&](std::size_t field) {
    if (seen[field]) json.fail("each field once");
    seen[field] = true;
  };
  json.object([&](const JsonString& key) {
    json.skip_space();
    if (key.raw == "dtype") {
      once(0);
      entry.dtype_at = static_cast<std::uint32_t>(json.at());
      dtype = json.string().raw;
    } else if (key.raw == "shape") {
      once(1);
      entry.shape_at = static_cast<std::uint32_t>(json.at());
      json.array([&] {
        const auto size = static_cast<std::uint64_t>(json.whole_number());
        constexpr std::uint64_t most = std::numeric_limits<std::int64_t>::max();
        if (size != 0 && elements > most / size) json.fail("a shape whose product is less than 2^63");
        if (++dimensions > most_dimensions) json.fail("64 dimensions at most");
        elements *= size;
      });
    } else if (key.raw == "data_offsets") {
      once(2);
      std::size_t count = 0;
      json.array([&] {
        const std::int64_t offset = json.whole_number();
        if (count < 2) offsets[count] = offset;
        ++count;
      });
      if (count != 2) json.fail("two data_offsets");
    } else {
      json.fail(text("the value of dtype, shape or data_offsets, not of '", excerpt(key.raw), "'"));
    }
  });
  constexpr std::array<std::string_view, 3> fields{"dtype", "shape", "data_offsets"};
  for (std::size_t field = 0; field < 3; ++field)
    if (!seen[field]) json.refuse(text("no ", fields[field]));
  entry.begin = static_cast<std::uint64_t>(offsets[0]);
  entry.end = static_cast<std::uint64_t>(offsets[1]);
  if (entry.begin > entry.end)
    json.refuse(text("data_offsets are [", entry.begin, ", ", entry.end, "], expected the smaller one first"));
  if (const std::optional<Dtype> known = dtype_named(dtype)) {
    const auto size = static_cast<std::uint64_t>(size_of(*known));
    const std::uint64_t bytes = entry.end - entry.begin;
    if (bytes % size != 0 || bytes / size != elements)
      json.refuse(text("data_offsets span ", bytes, " bytes, expected ", elements, " numbers of ", size, " bytes (",
                       dtype, ")"));
  } else if (!looks_like_dtype(dtype)) {
    json.refuse(
        text("the dtype is '", excerpt(dtype), "', expected F64, F32, F16, BF16, I64, I32, U8, BOOL or one like them"));
  }
  return entry;
}

/// Reads a whole header: calls `tensor(scanner, name)`, which has to read or skip the value, for each tensor, and
/// `fact(key, value)` for each entry of __metadata__.
template <class Tensor, class Fact>
void scan_header(std::string_view header, std::string_view file, const Tensor& tensor, const Fact& fact) {
  JsonScanner json(header, file);
  bool metadata = false;
  if (header.empty() || header[0] != '{') json.fail("'{'");
  json.object([&](const JsonString& name) {
    if (name.raw == metadata_key) {
      json.set_subject(metadata_key);
      if (metadata) json.refuse("appears twice");
      metadata = true;
      json.object([&](const JsonString& key) { fact(key, json.string()); });
    } else {
      json.set_subject("tensor", name.raw);
      tensor(json, name);
    }
    json.set_subject({});
  });
  json.expect_end();
}

/// Throws unless the tensors' bytes follow each other from the first byte of the data to the last one.
inline void require_no_gaps(std::vector<HeaderEntry>& entries, std::string_view header, std::uint64_t data_bytes,
                            const std::string& file) {
  std::sort(entries.begin(), entries.end(), [](const HeaderEntry& a, const HeaderEntry& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  std::uint64_t reached = 0;
  for (const HeaderEntry& entry : entries) {
    if (entry.begin != reached)
      throw FormatError(text(file, ": tensor '", excerpt(name_of(entry, header).raw), "': its data begin at byte ",
                             entry.begin, ", expected ", reached, ", where those before it end: ",
                             entry.begin < reached ? "they overlap" : "there is a hole"));
    if (entry.end > data_bytes)
      throw FormatError(text(file, ": tensor '", excerpt(name_of(entry, header).raw), "': its data end at byte ",
                             entry.end, ", but the file holds ", data_bytes, " bytes of data"));
    reached = entry.end;
  }
  if (reached != data_bytes)
    throw FormatError(
        text(file, ": the tensors' data end at byte ", reached, ", but the file holds ", data_bytes, " bytes of data"));
}

/// All tensors of a header, checked and sorted by name.
[[nodiscard]] inline std::vector<HeaderEntry> read_header(std::string_view header, std::uint64_t data_bytes,
                                                          const std::string& file) {
  // Counted first, since a vector that grows takes three times what it holds.
  std::size_t count = 0;
  const auto pass = [](const JsonString&, const JsonString&) {};
  scan_header(
      header, file,
      [&](JsonScanner& json, const JsonString&) {
        json.skip_value();
        ++count;
      },
      pass);
  std::vector<HeaderEntry> entries;
  entries.reserve(count);
  scan_header(
      header, file, [&](JsonScanner& json, const JsonString& name) { entries.push_back(scan_tensor(json, name)); },
      pass);
  require_no_gaps(entries, header, data_bytes, file);
  std::sort(entries.begin(), entries.end(), [&](const HeaderEntry& a, const HeaderEntry& b) {
    return compare(name_of(a, header), name_of(b, header)) < 0;
  });
  for (std::size_t i = 1; i < entries.size(); ++i)
    if (compare(name_of(entries[i - 1], header), name_of(entries[i], header)) == 0)
      throw FormatError(text(file, ": tensor '", excerpt(name_of(entries[i], header).raw), "' appears twice"));
  return entries;
}

}  // namespace twoheads::detail
