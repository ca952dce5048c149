#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <twoheads/base/errors.hpp>
#include <twoheads/remote/crc32.hpp>
#include <twoheads/remote/tensor.hpp>
#include <utility>
#include <vector>

// What an oracle in another process is told and answers: frames of a header and a body, all numbers little-endian.
//
//   header       u32 magic "THF1", u32 kind, u64 id, u64 bytes of the body, u32 crc32 of the body, u32 crc32 of the 28
//                bytes before
//   hello        empty
//   description  u32 inputs, u32 outputs, for each: u32 length of its name, the name, u32 type, u32 rank,
//                u64 dims[rank] (0: any)
//   run, answer  u32 tensors, for each: u32 type (1 float32, 2 float64), u32 rank, u64 dims[rank], the numbers
//   failure      a text in UTF-8
//
// A hello is answered by a description. A run is answered by an answer or a failure with its id, in any order.

namespace twoheads {

static_assert(std::endian::native == std::endian::little, "frames carry numbers as they stand in memory");

/// What the body of a frame is.
enum class FrameKind : std::uint32_t { hello = 1, description = 2, run = 3, answer = 4, failure = 5 };

/// The name in words.
[[nodiscard]] constexpr const char* name(FrameKind kind) {
  switch (kind) {
    case FrameKind::hello:
      return "hello";
    case FrameKind::description:
      return "description";
    case FrameKind::run:
      return "run";
    case FrameKind::answer:
      return "answer";
    case FrameKind::failure:
      return "failure";
  }
  return "";
}

/// The first 32 bytes of a frame.
struct FrameHeader {
  static constexpr std::size_t bytes = 32;            ///< of a header
  static constexpr std::uint32_t magic = 0x31464854;  ///< "THF1"

  FrameKind kind = FrameKind::hello;  ///< what the body is
  std::uint64_t id = 0;               ///< of a run, its answer or its failure
  std::uint64_t body_bytes = 0;       ///< that follow
  std::uint32_t body_crc = 0;         ///< CRC-32 of the body

  friend bool operator==(const FrameHeader&, const FrameHeader&) = default;
};

/// What no frame goes beyond.
struct FrameLimits {
  static constexpr std::uint32_t tensors = 64;                 ///< of a body
  static constexpr std::uint32_t rank = 8;                     ///< of a tensor
  static constexpr std::uint32_t name_bytes = 256;             ///< of a tensor's name
  static constexpr std::uint64_t description_bytes = 1 << 16;  ///< of a description
  static constexpr std::uint64_t failure_bytes = 1 << 16;      ///< of a failure's words
  static constexpr std::uint64_t body_bytes = 1ULL << 30;      ///< of a run or an answer, unless asked for otherwise
};

namespace detail {

/// Reads a body from its begin to its end; what is missing or left is an OracleError.
class FrameReader {
 public:
  FrameReader(FrameKind kind, std::span<const std::byte> bytes) : kind_(kind), bytes_(bytes) {}

  template <class Number>
  [[nodiscard]] Number number(const char* what) {
    Number value;
    std::memcpy(&value, take(sizeof(Number), what).data(), sizeof(Number));
    return value;
  }

  [[nodiscard]] std::span<const std::byte> take(std::uint64_t count, const char* what) {
    if (count > bytes_.size())
      throw OracleError(text("a frame of the kind ", name(kind_), " has ", bytes_.size(), " bytes left for ", what,
                             ", expected ", count));
    const std::span<const std::byte> taken = bytes_.first(static_cast<std::size_t>(count));
    bytes_ = bytes_.subspan(taken.size());
    return taken;
  }

  [[nodiscard]] std::uint32_t count(const char* what, std::uint32_t most) {
    const auto value = number<std::uint32_t>(what);
    if (value > most)
      throw OracleError(
          text("a frame of the kind ", name(kind_), " gives ", value, " as ", what, ", expected 0 to ", most));
    return value;
  }

  [[nodiscard]] TensorType type() {
    const auto value = number<std::uint32_t>("a type");
    if (value != 1 && value != 2)
      throw OracleError(text("a frame of the kind ", name(kind_), " has numbers of type ", value,
                             ", expected 1 (float32) or 2 (float64)"));
    return static_cast<TensorType>(value);
  }

  [[nodiscard]] std::vector<std::uint64_t> dims() {
    std::vector<std::uint64_t> found(count("a rank", FrameLimits::rank));
    for (std::uint64_t& dim : found) dim = number<std::uint64_t>("a dimension");
    return found;
  }

  [[nodiscard]] std::uint64_t left() const { return bytes_.size(); }

  void finish() const {
    if (!bytes_.empty())
      throw OracleError(text("a frame of the kind ", name(kind_), " has ", bytes_.size(), " bytes after its end"));
  }

 private:
  FrameKind kind_;
  std::span<const std::byte> bytes_;
};

/// Makes a frame: the body first, the header in front of it at the end.
class FrameWriter {
 public:
  explicit FrameWriter(std::size_t body_bytes = 0) {
    bytes_.reserve(FrameHeader::bytes + body_bytes);
    bytes_.resize(FrameHeader::bytes);
  }

  template <class Number>
  void number(Number value) {
    put(std::as_bytes(std::span(&value, 1)));
  }
  void put(std::span<const std::byte> more) { bytes_.insert(bytes_.end(), more.begin(), more.end()); }
  void put(std::string_view more) { put(std::as_bytes(std::span(more.data(), more.size()))); }
  void dims(std::span<const std::uint64_t> values) {
    number(static_cast<std::uint32_t>(values.size()));
    put(std::as_bytes(values));
  }

  [[nodiscard]] std::vector<std::byte> finish(FrameKind kind, std::uint64_t id) {
    const std::span<const std::byte> body = std::span<const std::byte>(bytes_).subspan(FrameHeader::bytes);
    std::size_t place = 0;
    const auto set = [&](auto value) {
      std::memcpy(bytes_.data() + place, &value, sizeof(value));
      place += sizeof(value);
    };
    set(FrameHeader::magic);
    set(static_cast<std::uint32_t>(kind));
    set(id);
    set(static_cast<std::uint64_t>(body.size()));
    set(crc32(body));
    set(crc32(std::span<const std::byte>(bytes_).first(place)));
    return std::move(bytes_);
  }

 private:
  std::vector<std::byte> bytes_;
};

}  // namespace detail

// --- writing ---------------------------------------------------------------------------------------------------------

/// The frame that asks a process for its description.
[[nodiscard]] inline std::vector<std::byte> hello_frame() { return detail::FrameWriter().finish(FrameKind::hello, 0); }

/// The frame that answers it.
[[nodiscard]] inline std::vector<std::byte> description_frame(const Description& description) {
  detail::FrameWriter out;
  out.number(static_cast<std::uint32_t>(description.inputs.size()));
  out.number(static_cast<std::uint32_t>(description.outputs.size()));
  for (const std::vector<TensorSpec>* specs : {&description.inputs, &description.outputs})
    for (const TensorSpec& spec : *specs) {
      out.number(static_cast<std::uint32_t>(spec.name.size()));
      out.put(std::string_view(spec.name));
      out.number(static_cast<std::uint32_t>(spec.type));
      out.dims(spec.dims);
    }
  return out.finish(FrameKind::description, 0);
}

/// A run or an answer.
[[nodiscard]] inline std::vector<std::byte> tensors_frame(FrameKind kind, std::uint64_t id,
                                                          std::span<const Tensor> tensors) {
  std::size_t bytes = 4;
  for (const Tensor& tensor : tensors) bytes += 8 + 8 * tensor.dims().size() + tensor.bytes().size();
  detail::FrameWriter out(bytes);
  out.number(static_cast<std::uint32_t>(tensors.size()));
  for (const Tensor& tensor : tensors) {
    out.number(static_cast<std::uint32_t>(tensor.type()));
    out.dims(tensor.dims());
    out.put(tensor.bytes());
  }
  return out.finish(kind, id);
}

/// A text that is too long is cut.
[[nodiscard]] inline std::vector<std::byte> failure_frame(std::uint64_t id, std::string_view why) {
  detail::FrameWriter out;
  out.put(why.substr(0, FrameLimits::failure_bytes));
  return out.finish(FrameKind::failure, id);
}

// --- reading ---------------------------------------------------------------------------------------------------------

/// The header in 32 bytes; the body is still unread and its length not yet held against anything.
///
///   Throws   OracleError for another magic number, checksum or kind
[[nodiscard]] inline FrameHeader read_header(std::span<const std::byte> bytes) {
  detail::FrameReader in(FrameKind::hello, bytes.first(FrameHeader::bytes));
  const auto magic = in.number<std::uint32_t>("a magic number");
  if (magic != FrameHeader::magic) {
    std::string found;
    for (const std::byte byte : bytes.first(4)) {
      const auto c = std::to_integer<unsigned char>(byte);
      found += c >= ' ' && c < 127 ? static_cast<char>(c) : '?';
    }
    throw OracleError(detail::text("a frame begins with \"", found, "\", expected \"THF1\""));
  }
  FrameHeader header;
  const auto kind = in.number<std::uint32_t>("a kind");
  header.id = in.number<std::uint64_t>("an id");
  header.body_bytes = in.number<std::uint64_t>("a length");
  header.body_crc = in.number<std::uint32_t>("a checksum");
  const auto crc = in.number<std::uint32_t>("a checksum");
  if (crc != crc32(bytes.first(FrameHeader::bytes - 4)))
    throw OracleError("a frame is damaged: its header does not have the checksum that it carries");
  if (kind < 1 || kind > 5) throw OracleError(detail::text("a frame is of kind ", kind, ", expected 1 to 5"));
  header.kind = static_cast<FrameKind>(kind);
  return header;
}

/// Throws OracleError where a body is longer than it may be: ask before any memory is taken for it.
inline void require_body_within(const FrameHeader& header, std::uint64_t most) {
  if (header.body_bytes > most)
    throw OracleError(detail::text("a frame of the kind ", name(header.kind), " has a body of ", header.body_bytes,
                                   " bytes, expected at most ", most));
}

/// Throws OracleError where a body is not the one that its header was made for.
inline void require_intact(const FrameHeader& header, std::span<const std::byte> body) {
  if (body.size() != header.body_bytes || crc32(body) != header.body_crc)
    throw OracleError(detail::text("a frame of the kind ", name(header.kind),
                                   " is damaged: its body does not have the checksum that it carries"));
}

/// The description in a body.
[[nodiscard]] inline Description read_description(std::span<const std::byte> body) {
  detail::FrameReader in(FrameKind::description, body);
  Description found;
  found.inputs.resize(in.count("inputs", FrameLimits::tensors));
  found.outputs.resize(in.count("outputs", FrameLimits::tensors));
  for (std::vector<TensorSpec>* specs : {&found.inputs, &found.outputs})
    for (TensorSpec& spec : *specs) {
      const std::uint32_t length = in.count("the length of a name", FrameLimits::name_bytes);
      const std::span<const std::byte> letters = in.take(length, "a name");
      spec.name.assign(reinterpret_cast<const char*>(letters.data()), letters.size());
      spec.type = in.type();
      spec.dims = in.dims();
    }
  in.finish();
  return found;
}

/// The tensors of a run or an answer.
[[nodiscard]] inline std::vector<Tensor> read_tensors(FrameKind kind, std::span<const std::byte> body) {
  detail::FrameReader in(kind, body);
  std::vector<Tensor> found(in.count("tensors", FrameLimits::tensors));
  for (Tensor& tensor : found) {
    const TensorType type = in.type();
    std::vector<std::uint64_t> dims = in.dims();
    // Nothing is allocated that is not there.
    const std::uint64_t count = detail::count_up_to(dims, in.left() / size_of(type) + 1);
    const std::span<const std::byte> numbers = in.take(count * size_of(type), "numbers");
    tensor = Tensor(type, std::move(dims));
    std::copy(numbers.begin(), numbers.end(), tensor.bytes().begin());
  }
  in.finish();
  return found;
}

/// The text of a failure, on one line: what could disturb a terminal is replaced.
[[nodiscard]] inline std::string read_failure(std::span<const std::byte> body) {
  std::string words(reinterpret_cast<const char*>(body.data()), body.size());
  for (char& c : words)
    if (static_cast<unsigned char>(c) < ' ' || c == 127) c = ' ';
  return words;
}

/// The longest body that a run or an answer of such tensors can have; `most` where one of them may be of any size.
[[nodiscard]] inline std::uint64_t largest_body(std::span<const TensorSpec> specs, std::uint64_t most) {
  std::uint64_t bytes = 4;
  for (const TensorSpec& spec : specs) {
    if (!spec.fixed()) return most;
    const std::uint64_t numbers = detail::count_up_to(spec.dims, most);
    if (numbers >= most) return most;
    bytes += 8 + 8 * spec.dims.size() + numbers * size_of(spec.type);
    if (bytes >= most) return most;
  }
  return bytes;
}

}  // namespace twoheads
