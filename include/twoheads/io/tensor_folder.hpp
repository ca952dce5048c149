#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <twoheads/io/json_scanner.hpp>
#include <twoheads/io/safetensors.hpp>
#include <vector>

namespace twoheads {
namespace detail {

/// A shard index, model.safetensors.index.json: which file of the folder holds which tensor.
///
///   Laws     takes no more memory than the file is long
///   Throws   FileError where it cannot be read; FormatError that names the file, where it is no such index, names a
///            tensor twice, or names a file that does not lie in the folder
class ShardIndex {
 public:
  explicit ShardIndex(const std::filesystem::path& path) : file_(path) {
    if (file_.bytes().size() > most_header_bytes)
      throw FormatError(
          detail::text(file_.name(), ": ", file_.bytes().size(), " bytes, expected ", most_header_bytes, " at most"));
    std::size_t count = 0;
    scan([&](const JsonString&, const JsonString&) { ++count; });
    entries_.reserve(count);
    scan([&](const JsonString& name, const JsonString& shard) {
      entries_.push_back({static_cast<std::uint32_t>(name.at), static_cast<std::uint32_t>(shard.at)});
    });
    std::sort(entries_.begin(), entries_.end(),
              [&](const Entry& a, const Entry& b) { return compare(at(a.name_at), at(b.name_at)) < 0; });
    for (std::size_t i = 1; i < entries_.size(); ++i)
      if (compare(at(entries_[i - 1].name_at), at(entries_[i].name_at)) == 0)
        throw FormatError(detail::text(file_.name(), ": weight_map: tensor '", excerpt(at(entries_[i].name_at).raw),
                                       "' appears twice"));
  }

  [[nodiscard]] std::vector<std::string> names() const {
    std::vector<std::string> all;
    all.reserve(entries_.size());
    for (const Entry& entry : entries_) all.push_back(at(entry.name_at).decoded());
    return all;
  }

  /// The file that holds a tensor, or nothing.
  [[nodiscard]] std::optional<std::string> shard_of(std::string_view name) const {
    const auto found = std::lower_bound(
        entries_.begin(), entries_.end(), name,
        [&](const Entry& entry, std::string_view wanted) { return compare(at(entry.name_at), wanted) < 0; });
    if (found == entries_.end() || compare(at(found->name_at), name) != 0) return std::nullopt;
    return at(found->shard_at).decoded();
  }

  [[nodiscard]] const std::string& name() const { return file_.name(); }

 private:
  /// As long as the shortest member of a weight_map.
  struct Entry {
    std::uint32_t name_at = 0;
    std::uint32_t shard_at = 0;
  };

  [[nodiscard]] std::string_view text() const { return file_.text_at(0, file_.bytes().size()); }

  /// The string whose text begins at a byte that scan() gave.
  [[nodiscard]] JsonString at(std::uint32_t begin) const {
    return JsonScanner(text(), file_.name(), begin - 1).string();
  }

  template <class Use>
  void scan(const Use& use) const {
    JsonScanner json(text(), file_.name());
    bool found = false;
    json.object([&](const JsonString& key) {
      if (key.raw != "weight_map") return json.skip_value();
      json.set_subject("weight_map");
      if (found) json.refuse("appears twice");
      found = true;
      json.object([&](const JsonString& name) {
        const JsonString shard = json.string();
        if (!stays_inside(shard))
          json.refuse(detail::text("tensor '", excerpt(name.raw), "' is in '", excerpt(shard.raw),
                                   "', expected a file in the folder of the index"));
        use(name, shard);
      });
      json.set_subject({});
    });
    json.expect_end();
    if (!found) json.refuse("no weight_map");
  }

  /// Whether a path can only lead to what lies in the folder, but for links there.
  [[nodiscard]] static bool stays_inside(const JsonString& shard) {
    // No system has paths as long as that; a damaged text may.
    if (shard.raw.empty() || shard.raw.size() > 4096) return false;
    const std::string decoded = shard.decoded();
    if (decoded.find('\0') != std::string::npos || decoded.find('\\') != std::string::npos) return false;
    const std::filesystem::path path(decoded);
    return !path.has_root_path() && path.has_filename() && std::find(path.begin(), path.end(), "..") == path.end();
  }

  MappedFile file_;
  std::vector<Entry> entries_;  ///< by name
};

}  // namespace detail

/// The tensors of a model's folder: those of model.safetensors, else of the shards that model.safetensors.index.json
/// lists. A shard is mapped when the first of its tensors is asked for.
///
///   Corner   one thread at a time may ask; a tensor of a shard that the index does not list is not there
///   Throws   FileError that names the folder, where it holds neither file; otherwise as Safetensors does
class TensorFolder : public TensorReads<TensorFolder> {
 public:
  /// Opens and checks all files of a folder.
  [[nodiscard]] static TensorFolder open(const std::filesystem::path& folder) { return TensorFolder(folder); }

  /// Sorted.
  [[nodiscard]] std::vector<std::string> names() const { return index_ ? index_->names() : whole_->names(); }

  /// Whether a file has a tensor of this name.
  [[nodiscard]] bool contains(std::string_view name) const {
    return index_ ? index_->shard_of(name).has_value() : whole_->contains(name);
  }

 private:
  friend TensorReads<TensorFolder>;

  explicit TensorFolder(const std::filesystem::path& folder) : folder_(folder) {
    const std::filesystem::path file = folder / "model.safetensors";
    const std::filesystem::path index = folder / "model.safetensors.index.json";
    std::error_code ignored;
    if (std::filesystem::exists(file, ignored))
      whole_.emplace(Safetensors::open(file));
    else if (std::filesystem::exists(index, ignored))
      index_.emplace(index);
    else
      throw FileError(
          detail::text(folder.string(), ": expected a folder with model.safetensors or model.safetensors.index.json"));
  }

  [[nodiscard]] detail::FoundTensor find(std::string_view name) const {
    if (!index_) return whole_->find(name);
    const std::optional<std::string> shard = index_->shard_of(name);
    if (!shard) throw FormatError(detail::label_of(index_->name(), name) + " is not there");
    auto opened = shards_.find(*shard);
    if (opened == shards_.end()) opened = shards_.emplace(*shard, Safetensors::open(folder_ / *shard)).first;
    return opened->second.find(name);
  }

  std::filesystem::path folder_;
  std::optional<Safetensors> whole_;
  std::optional<detail::ShardIndex> index_;
  mutable std::map<std::string, Safetensors> shards_;  ///< by the index's name of the file
};

static_assert(TensorSource<TensorFolder>);

}  // namespace twoheads
