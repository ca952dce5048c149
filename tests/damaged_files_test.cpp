// Damaged files: whatever the bytes, a reader gives an error of ours or reads what is there, and takes no more memory
// than the file is long, and 1 MiB.

#include "support/sanitized.hpp"

// A mapping ends with a page, so that a read beyond the end of the file is no fault that a sanitizer sees.
#ifdef TWOHEADS_TEST_SANITIZED
#define TWOHEADS_HAS_MMAP 0
#endif

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>
#include <twoheads/io/json_scanner.hpp>
#include <twoheads/io/safetensors_writer.hpp>
#include <twoheads/io/tensor_folder.hpp>
#include <utility>
#include <vector>

#include "support/allocated_bytes.hpp"
#include "support/append.hpp"
#include "support/damage.hpp"
#include "support/family_formats.hpp"
#include "support/seed.hpp"
#include "support/shared_data.hpp"
#include "support/temp_folder.hpp"

#ifdef TWOHEADS_WITH_TEXT
#include "support/tokenizer_formats.hpp"
#endif

namespace {

using namespace twoheads;
namespace fs = std::filesystem;

constexpr std::size_t mutations_in_all = 10000;
constexpr std::size_t most_extra_bytes = std::size_t{1} << 20;

/// The file itself is in the memory that is counted where it is not mapped.
std::size_t most_bytes(std::size_t file_bytes) {
  return file_bytes + most_extra_bytes + (TWOHEADS_HAS_MMAP ? 0 : file_bytes);
}

std::uint64_t seed() { return seed_or(5102); }

/// A format of files and its reader: one more entry of formats() has another one damaged.
struct Format {
  std::string name;
  std::string file;                           ///< name of the damaged file
  std::vector<std::string> seeds;             ///< files without a fault
  std::function<void(const fs::path&)> read;  ///< reads all there is in the file, or throws
  std::string (Damage::*damage)(std::string) = &Damage::of_file;
  bool only_format_errors = true;  ///< else any error of base/errors.hpp
  std::size_t least_refused = 4;   ///< of so many damaged files at least one is refused; lists of pieces forgive much
};

/// Asks a reader for all that it has.
template <TensorSource Reader>
void read_all(const Reader& reader) {
  for (const std::string& name : reader.names()) {
    if (!reader.contains(name)) throw std::logic_error("a name that is listed is not there");
    const TensorInfo info = reader.info(name);
    const std::size_t count = reader.template values<double>(name).size();
    if (count != static_cast<std::size_t>(info.elements()) ||
        count * static_cast<std::size_t>(size_of(info.dtype)) != reader.bytes(name).size())
      throw std::logic_error("shape, dtype and bytes of a tensor contradict each other");
    if (reader.template row<float>(name, info.elements()).size() != info.elements())
      throw std::logic_error("a row of another size");
  }
}

/// Tensors of all dtypes and several shapes.
SafetensorsWriter small_tensors(std::vector<std::string>& data) {
  const std::vector<std::vector<Index>> shapes{{2, 3}, {4}, {}, {0, 2}, {1, 2, 2}};
  SafetensorsWriter writer;
  data.reserve(all_dtypes.size());
  for (const Dtype dtype : all_dtypes) {
    const std::vector<Index>& shape = shapes[static_cast<std::size_t>(dtype) % shapes.size()];
    const Index bytes = TensorInfo{dtype, shape, 0, 0}.elements() * size_of(dtype);
    data.emplace_back(static_cast<std::size_t>(bytes), '\x01');
    writer.add(
        {"layer.\"" + std::string(name(dtype)) + "\"\xC3\xA9", dtype, shape, std::as_bytes(std::span(data.back()))});
  }
  writer.metadata("format", "pt").metadata("note", "line\nline");
  return writer;
}

/// The formats under test; shards and other files that a reader needs beside the damaged one are written into `folder`.
std::vector<Format> formats(const TempFolder& folder) {
  std::vector<std::string> data;
  SafetensorsWriter writer = small_tensors(data);
  writer.write(folder / "seed");
  writer.write_sharded(folder / "", 40);
  const std::string index = read_bytes(folder / "model.safetensors.index.json");
  std::string spaced = index;
  for (std::size_t at = 0; (at = spaced.find(',', at)) != std::string::npos; at += 4) spaced.replace(at, 1, " ,\n ");

  std::vector<Format> all;
  all.push_back({"safetensors",
                 "damaged.safetensors",
                 {read_bytes(folder / "seed"), read_bytes(folder / "model-00001-of-00004.safetensors")},
                 [](const fs::path& path) {
                   const Safetensors file = Safetensors::open(path);
                   std::ignore = file.metadata();
                   read_all(file);
                 },
                 &Damage::of_safetensors});
  all.push_back({"shard index", "model.safetensors.index.json", {index, spaced}, [](const fs::path& path) {
                   read_all(TensorFolder::open(path.parent_path()));
                 }});
  add_family_formats(folder, all);
#ifdef TWOHEADS_WITH_TEXT
  add_tokenizer_formats(folder, all);
#endif
  return all;
}

/// Writes a file where there may be one of that name. Some file systems bring one that is overwritten to the disk at
/// once, and not a new one.
fs::path write_new(const TempFolder& folder, const std::string& name, const std::string& bytes) {
  fs::remove(folder / name);
  return folder.write(name, bytes);
}

/// How a reader took a file; anything but an error of ours and a read is a failure of the test.
enum class Outcome { read, refused, failed };

Outcome outcome_of(const Format& format, const fs::path& path) {
  try {
    format.read(path);
    return Outcome::read;
  } catch (const FormatError&) {
    return Outcome::refused;
  } catch (const FileError& error) {
    // A damaged index may name a shard that is not there, or no file at all.
    if (!std::string(error.what()).starts_with(path.string() + ":")) return Outcome::refused;
    ADD_FAILURE() << "the file itself is there: " << error.what();
  } catch (const Error& error) {
    if (!format.only_format_errors) return Outcome::refused;
    ADD_FAILURE() << "no FormatError: " << error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "an exception that is not ours: " << error.what();
  }
  return Outcome::failed;
}

TEST(DamagedFiles, AreRefusedOrReadWithLittleMemory) {
  const TempFolder folder;
  const std::vector<Format> all = formats(folder);
  for (const Format& format : all) {
    SCOPED_TRACE(format.name);
    for (const std::string& whole : format.seeds)
      EXPECT_EQ(outcome_of(format, folder.write(format.file, whole)), Outcome::read);
    const std::size_t count = (mutations_in_all + all.size() - 1) / all.size();
    std::size_t refused = 0;
    for (std::size_t i = 0; i < count; ++i) {
      Damage damage(seed() + i);
      const std::string bytes = (damage.*format.damage)(format.seeds[damage.pick(format.seeds.size())]);
      const fs::path path = write_new(folder, format.file, bytes);
      const AllocatedBytes allocated;
      const Outcome outcome = outcome_of(format, path);
      const std::size_t peak = allocated.peak();
      if (outcome == Outcome::refused) ++refused;
      if (outcome == Outcome::failed || peak > most_bytes(bytes.size())) {
        FAIL() << "mutation " << i << " of seed " << seed() << ": " << bytes.size() << " bytes of file, " << peak
               << " bytes of memory";
      }
    }
    // The next format may need it.
    write_new(folder, format.file, format.seeds.front());
    RecordProperty(format.name + " refused", static_cast<int>(refused));
    // Else the mutations are too weak to find anything, or too strong to get beyond the first check.
    EXPECT_GE(refused, count / format.least_refused);
    EXPECT_LE(refused, count - count / 100);
  }
}

std::string file_of(const std::string& header) {
  std::string bytes;
  append(bytes, std::uint64_t{header.size()});
  return bytes + header;
}

std::string repeated(const std::string& part, std::size_t times) {
  std::string all;
  for (std::size_t i = 0; i < times; ++i) all += part;
  return all;
}

/// Parts of a text, with commas between them.
template <class Part>
std::string joined(std::size_t count, const Part& part) {
  std::string all;
  for (std::size_t i = 0; i < count; ++i) {
    if (i > 0) all += ',';
    all += part(i);
  }
  return all;
}

/// The most memory that opening takes, whether it is refused or not.
template <class Open>
std::size_t peak_of(const Open& open) {
  const AllocatedBytes allocated;
  try {
    open();
  } catch (const FormatError&) {
  }
  return allocated.peak();
}

TEST(DamagedFiles, LargeHeadersTakeNoMoreMemoryThanTheFileIsLong) {
  // More than 2^16, so that a vector that grows by doubling would be seen.
  constexpr std::size_t many = 66000;
  constexpr std::size_t length = 2000000;
  using detail::text;
  const std::string empty = R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  const std::string ones = joined(length / 2, [](std::size_t) { return "1"; });
  const std::string longest(length, 'n');
  const std::string escaped = repeated(R"(\u00e9)", length / 6);
  const std::vector<std::pair<const char*, std::string>> headers{
      {"many tensors", text("{", joined(many, [&](std::size_t i) { return text("\"", i, empty); }), "}")},
      {"many escaped names", text("{", joined(many, [&](std::size_t i) { return text("\"\\u00e9", i, empty); }), "}")},
      {"many equal names", text("{", joined(many, [&](std::size_t) { return text("\"a", empty); }), "}")},
      {"a long name", text("{\"", longest, empty, "}")},
      {"a long escaped name", text("{\"", escaped, empty, ",\"b", empty, "}")},
      {"a long name without an end", text("{\"", longest)},
      {"a long dtype", text(R"({"a":{"dtype":")", longest, "\"}}")},
      {"a long key", text(R"({"a":{")", longest, "\":1}}")},
      {"a long number", text(R"({"a":{"shape":[)", std::string(length, '1'), "]}}")},
      {"many dimensions", text(R"({"a":{"shape":[)", ones, "]}}")},
      {"many offsets", text(R"({"a":{"data_offsets":[)", ones, "]}}")},
      {"deep nesting", text(R"({"a":)", std::string(length, '['))},
      {"long metadata", text(R"({"__metadata__":{"a":")", longest, "\"}}")},
      {"much metadata",
       text(R"({"__metadata__":{)", joined(length / 7, [](std::size_t) { return R"("a":"")"; }), "}}")},
  };
  const TempFolder folder;
  for (const auto& [what, header] : headers) {
    const fs::path path = write_new(folder, "large.safetensors", file_of(header));
    EXPECT_LE(peak_of([&] { std::ignore = Safetensors::open(path); }), most_bytes(header.size())) << what;
  }
  const std::vector<std::pair<const char*, std::string>> indexes{
      {"many tensors", joined(270000, [](std::size_t i) { return text("\"", i, "\":\"f\""); })},
      {"a long name", text("\"", longest, "\":\"f\"")},
      {"a long escaped name", text("\"", escaped, R"(":"f","a":"f")")},
      {"a long shard", text("\"a\":\"", escaped, "\"")},
  };
  for (const auto& [what, members] : indexes) {
    write_new(folder, "model.safetensors.index.json", text("{\"weight_map\":{", members, "}}"));
    EXPECT_LE(peak_of([&] { std::ignore = TensorFolder::open(folder / ""); }), most_bytes(members.size()))
        << "index: " << what;
  }
}

TEST(DamagedFiles, JsonIsWhatAnotherParserTakesForJson) {
  const std::vector<std::string> seeds{
      R"({"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},"\u00e9\ud83d\ude42":[-1.5e-3,0,true,false,null]})",
      "{\"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x99\x82\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\" , \"b\" : [ [ ] , { } , 10.25E+2 ]}\n"};
  std::size_t accepted = 0;
  constexpr std::size_t count = 20000;
  for (std::size_t i = 0; i < count; ++i) {
    Damage damage(seed() + i);
    const std::string bytes = damage.of_file(seeds[damage.pick(seeds.size())]);
    // Where the other one takes a zero byte for the end and skips a byte order mark.
    if (std::count(bytes.begin(), bytes.end(), '\0') > 0 || bytes.compare(0, 3, "\xEF\xBB\xBF") == 0) continue;
    bool ours = true;
    try {
      detail::JsonScanner json(bytes, "made");
      json.skip_value();
      json.expect_end();
    } catch (const FormatError&) {
      ours = false;
    }
    bool theirs = true;
    try {
      std::ignore = nlohmann::json::parse(bytes);
    } catch (const nlohmann::json::parse_error&) {
      theirs = false;
    } catch (const nlohmann::json::out_of_range&) {
      // Numbers beyond double, which the grammar allows.
      continue;
    }
    ASSERT_EQ(ours, theirs) << "mutation " << i << " of seed " << seed() << ": " << bytes;
    if (ours) ++accepted;
  }
  EXPECT_GE(accepted, count / 20);
}

TEST(DamagedFiles, Utf8IsWhatAnotherParserTakesForIt) {
  // The edges of the ranges of every byte of a character.
  const std::vector<int> follow{0x61, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF};
  int accepted = 0;
  for (int first = 0x20; first < 256; ++first)
    for (const int second : follow)
      for (const int third : follow)
        for (const int fourth : {0x61, 0x80, 0xBF, 0xC0}) {
          std::string quoted = "\"";
          for (const int byte : {first, second, third, fourth, 0x22}) quoted += static_cast<char>(byte);
          bool ours = true;
          try {
            detail::JsonScanner json(quoted, "made");
            json.skip_value();
            json.expect_end();
          } catch (const FormatError&) {
            ours = false;
          }
          ASSERT_EQ(ours, nlohmann::json::accept(quoted)) << detail::excerpt(quoted);
          accepted += ours ? 1 : 0;
        }
  EXPECT_GE(accepted, 1000);
}

TEST(DamagedFiles, DecodedStringsAreThoseOfAnotherParser) {
  const std::string raw = R"(\"\\\/\b\f\n\r\t\u0000\u007f\u0080\u07ff\u0800\uffff\ud800\udc00\udbff\udfff plain)"
                          "\xC3\xA9";
  const std::string quoted = "\"" + raw + "\"";
  const std::string decoded = detail::JsonScanner(quoted, "made").string().decoded();
  EXPECT_EQ(decoded, nlohmann::json::parse(quoted).get<std::string>());
  EXPECT_EQ(nlohmann::json::parse(detail::json_quoted(decoded)).get<std::string>(), decoded);
}

}  // namespace
