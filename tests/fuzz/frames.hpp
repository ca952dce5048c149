#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <twoheads/remote/frame.hpp>
#include <twoheads/remote/graph.hpp>
#include <twoheads/remote/serve.hpp>
#include <vector>

#include "fuzz/fuzz_input.hpp"
#include "support/temp_folder.hpp"

namespace fuzz {

using Bytes = std::vector<std::byte>;

[[nodiscard]] inline Bytes bytes_of(const std::string& text) {
  const auto view = std::as_bytes(std::span(text.data(), text.size()));
  return {view.begin(), view.end()};
}

/// Whether a frame's body is this one.
[[nodiscard]] inline bool has_body(const Bytes& frame, const Bytes& body) {
  return frame.size() == twoheads::FrameHeader::bytes + body.size() &&
         std::equal(body.begin(), body.end(), frame.begin() + twoheads::FrameHeader::bytes);
}

/// Reads a description as an oracle in another process would send it.
inline void read_description(const Bytes& body) {
  std::ignore = accepted([&] {
    const twoheads::Description found = twoheads::read_description(body);
    require(has_body(twoheads::description_frame(found), body), "a description is written as it was read");
    std::ignore = twoheads::largest_body(found.outputs, 1 << 20);
    for (const twoheads::TensorType type : {twoheads::TensorType::float32, twoheads::TensorType::float64}) {
      std::ignore = accepted([&] {
        const twoheads::CoreGraph graph = twoheads::core_graph(found, type);
        std::ignore = twoheads::limits_of(graph, twoheads::OracleKind::causal, 1.0);
      });
      std::ignore = accepted([&] {
        const twoheads::TransformerGraph graph = twoheads::transformer_graph(found, type);
        std::ignore = twoheads::limits_of(graph, twoheads::OracleKind::plain, 1.0);
      });
    }
  });
}

/// Has an oracle answer whatever frames come, and reads its answers.
inline void serve(const std::string& input) {
  static const TempFolder folder;
  const std::filesystem::path from = write_new(folder, "in", input);
  const std::filesystem::path to = write_new(folder, "out", "");
  const int in = ::open(from.c_str(), O_RDONLY | O_CLOEXEC);
  const int out = ::open(to.c_str(), O_WRONLY | O_CLOEXEC);
  require(in >= 0 && out >= 0, "files of the target can be opened");
  const twoheads::Description description =
      twoheads::describe(twoheads::CoreGraph{1, 1, 2, 2, 2}, twoheads::TensorType::float32);
  const twoheads::GraphRun run = [](const std::vector<twoheads::Tensor>& inputs) {
    return std::optional(std::vector<twoheads::Tensor>{inputs.back()});
  };
  std::ignore = accepted([&] { twoheads::serve(in, out, description, run); });
  ::close(in);
  ::close(out);
  std::ifstream stream(to, std::ios::binary);
  const Bytes answers = bytes_of(std::string(std::istreambuf_iterator<char>(stream), {}));
  std::span<const std::byte> left(answers);
  while (!left.empty()) {
    require(left.size() >= twoheads::FrameHeader::bytes, "answers are whole frames");
    const twoheads::FrameHeader header = twoheads::read_header(left);
    left = left.subspan(twoheads::FrameHeader::bytes);
    require(header.body_bytes <= left.size(), "with whole bodies");
    const auto body = left.first(static_cast<std::size_t>(header.body_bytes));
    twoheads::require_intact(header, body);
    if (header.kind == twoheads::FrameKind::answer)
      require_fit("an answer", description.outputs, twoheads::read_tensors(header.kind, body));
    left = left.subspan(body.size());
  }
}

/// The first byte says what follows: a header; the body of a description, of tensors or of a failure; what an oracle is
/// sent, as it lies; or frames with the checksums that belong to them.
inline void frames(std::span<const std::uint8_t> bytes) {
  Input in(bytes);
  const int kind = in.number() % 6;
  if (kind == 4) return serve(in.rest());
  if (kind == 5) {
    std::string all;
    while (!in.empty()) {
      const auto frame_kind = static_cast<twoheads::FrameKind>(in.number() % 7);
      const auto id = in.number<std::uint64_t>();
      twoheads::detail::FrameWriter writer;
      writer.put(std::string_view(in.text(in.number())));
      const Bytes frame = writer.finish(frame_kind, id);
      all.append(reinterpret_cast<const char*>(frame.data()), frame.size());
    }
    return serve(all);
  }
  const Bytes body = bytes_of(in.rest());
  if (kind == 0) {
    if (body.size() < twoheads::FrameHeader::bytes) return;
    std::ignore = accepted([&] {
      const twoheads::FrameHeader header = twoheads::read_header(body);
      twoheads::require_body_within(header, 1 << 16);
      twoheads::require_intact(header, std::span(body).subspan(twoheads::FrameHeader::bytes));
    });
  } else if (kind == 1) {
    read_description(body);
  } else if (kind == 2) {
    std::ignore = accepted([&] {
      const std::vector<twoheads::Tensor> found = twoheads::read_tensors(twoheads::FrameKind::answer, body);
      require(has_body(twoheads::tensors_frame(twoheads::FrameKind::answer, 1, found), body),
              "tensors are written as they were read");
    });
  } else {
    for (const char c : twoheads::read_failure(body)) require(static_cast<unsigned char>(c) >= ' ', "one line");
  }
}

}  // namespace fuzz
