#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <tuple>
#include <twoheads/attention/direct.hpp>
#include <twoheads/exec/checkpoint_file.hpp>
#include <twoheads/exec/session_file.hpp>
#include <twoheads/model/random.hpp>
#include <vector>

#include "fuzz/fuzz_input.hpp"
#include "support/temp_folder.hpp"

namespace fuzz {

/// A checkpoint as its format says, a second time: a header, then records whose parts, lengths and rows are drawn, and
/// whose sums fit. Then it may be cut short, and a byte of it changed.
inline std::string drawn_checkpoint(Input& in, const std::string& key) {
  std::string file = "2HEADSCP";
  for (const std::uint64_t number : {std::uint64_t{1}, std::uint64_t{4}, std::uint64_t{8}, std::uint64_t{key.size()}})
    append(file, number);
  file += key;
  std::uint64_t sum = hash_of(file);
  append(file, sum);
  const int records = static_cast<int>(in.index(0, 4));
  for (int record = 0; record < records; ++record) {
    std::string head;
    append(head, std::uint64_t{0x5452415044414532ULL});
    for (int field = 0; field < 6; ++field) append(head, std::uint64_t{in.number()});
    const std::string rows = in.text(in.number() % 40);
    append(head, in.number() == 0xEE ? in.number<std::uint64_t>() : std::uint64_t{rows.size()});
    sum = hash_of(head, sum);
    append(head, sum);
    sum = hash_of(rows, sum);
    file += head + rows;
    append(file, sum);
  }
  if (in.number() % 4 == 1) file.resize(static_cast<std::size_t>(in.index(0, static_cast<Index>(file.size()))));
  if (in.number() % 4 == 1 && !file.empty())
    file[static_cast<std::size_t>(in.index(0, static_cast<Index>(file.size()) - 1))] ^= static_cast<char>(in.number());
  if (in.number() % 4 == 1) file.append(static_cast<std::size_t>(in.number()), '\0');
  return file;
}

/// Reads a checkpoint to its end, by skipping or taking records, appends one, and finds it again.
inline void read_checkpoint(const TempFolder& folder, const std::string& bytes, const std::string& key, bool takes) {
  using twoheads::detail::CheckpointAccess;
  using twoheads::detail::CheckpointFile;
  using twoheads::detail::PartRecord;
  using twoheads::detail::RecordPlace;
  const std::filesystem::path path = write_new(folder, "checkpoint", bytes);
  std::ignore = accepted([&] {
    CheckpointFile file(path, key, 4, 8, false, CheckpointAccess::read);
    while (!file.at_end()) {
      const RecordPlace place = file.skip();
      require(place.bytes <= bytes.size(), "no record is longer than its file");
      std::vector<std::byte> rows(static_cast<std::size_t>(place.bytes));
      file.read_first(place, std::span(rows).first(rows.size() / 2));
      file.read_all(place, rows);
    }
  });
  std::size_t found = 0;
  const PartRecord part{1, 2, 3, 4, 5, 6};
  const std::vector<std::byte> rows(12, std::byte{7});
  const bool run = accepted([&] {
    CheckpointFile file(path, key, 4, 8, false);
    for (; !file.at_end(); ++found) {
      if (takes) {
        std::vector<std::byte> own(rows.size());
        file.take(part, own);
      } else {
        std::ignore = file.skip();
      }
    }
    file.append(part, rows);
  });
  if (!run) return;
  CheckpointFile again(path, key, 4, 8, false);
  for (; found > 0; --found) {
    require(!again.at_end(), "what was read is read again");
    std::ignore = again.skip();
  }
  std::vector<std::byte> own(rows.size());
  require(!again.at_end(), "what was appended is there");
  again.take(part, own);
  require(own == rows && again.at_end(), "and is the last");
}

/// A model of two layers that hold few numbers; where positions count the keys held, both have windows and sinks.
inline twoheads::LanguageModel<float> tiny_model(bool in_cache) {
  using twoheads::Mask;
  twoheads::ModelSpec spec;
  spec.layers = 2;
  spec.width = 4;
  spec.attention.head_dim = spec.attention.value_dim = 2;
  spec.attention.mask = in_cache ? Mask::window_and_sinks(2, 1) : Mask::causal();
  spec.attention.rope = twoheads::RopeSpec{};
  spec.attention.output_projection = true;
  if (!in_cache) spec.layer_masks = {Mask::causal(), Mask::sliding_window(2)};
  twoheads::LanguageModel<float> made;
  made.body = twoheads::random_model<float>(spec, 1);
  made.embedding = twoheads::Random(2).matrix<float>(6, 4);
  return made;
}

/// Restores a session of a tiny model; what is restored is saved as the same bytes.
inline void read_session(Input& in, bool in_cache) {
  using Attend = twoheads::DirectAttention<float>;
  static const std::array<twoheads::LanguageModel<float>, 2> models{tiny_model(false), tiny_model(true)};
  const twoheads::LanguageModel<float>& model = models[in_cache ? 1 : 0];
  Attend attend;
  twoheads::SessionOptions options;
  if (in_cache) options.positions = twoheads::CachePositions::in_cache;
  twoheads::Session<float, Attend> session(model, attend, options);
  std::string file;
  if (in.flag()) {
    for (const std::uint64_t number :
         {twoheads::detail::session_mark, std::uint64_t{4}, twoheads::detail::digest_of(model),
          static_cast<std::uint64_t>(options.positions)})
      append(file, number);
    // Small numbers in eight bytes each, numbers of rows in four.
    while (!in.empty()) {
      if (in.number() % 8 == 0)
        file += in.text(16);
      else
        append(file, std::uint64_t{in.number()});
    }
    append(file, hash_of(file));
  } else {
    file = in.rest();
  }
  std::ignore = accepted([&] {
    std::istringstream stream(file);
    restore_session(stream, file.size(), session);
    std::ostringstream out;
    save_session(out, session);
    require(out.str() == file, "a session is saved as it was restored");
  });
}

/// The first byte says what follows: a checkpoint as it lies, one that is drawn, or a session.
inline void checkpoint(std::span<const std::uint8_t> bytes) {
  static const TempFolder folder;
  Input in(bytes);
  const int kind = in.number() % 8;
  if (kind < 2) {
    read_checkpoint(folder, in.rest(), "k", kind == 1);
  } else if (kind < 6) {
    // Of another computation, too.
    const std::string key = kind == 5 ? "another" : "k";
    const std::string file = drawn_checkpoint(in, key);
    read_checkpoint(folder, file, "k", kind == 3);
  } else {
    read_session(in, kind == 7);
  }
}

}  // namespace fuzz
