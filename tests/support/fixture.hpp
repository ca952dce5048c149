#pragma once

#include <algorithm>
#include <filesystem>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <twoheads/base/matrix.hpp>
#include <twoheads/io/safetensors.hpp>
#include <vector>

/// A file of inputs and of the outputs that others found for them, with what they were asked for in its metadata.
class Fixture {
 public:
  explicit Fixture(const std::filesystem::path& path)
      : name_(path.stem().string()), file_(twoheads::Safetensors::open(path)), facts_(file_.metadata()) {}

  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] bool has(const std::string& tensor) const { return file_.contains(tensor); }
  [[nodiscard]] bool is(const std::string& tensor, twoheads::Dtype dtype) const {
    return file_.info(tensor).dtype == dtype;
  }
  [[nodiscard]] std::vector<twoheads::Index> shape(const std::string& tensor) const { return file_.info(tensor).shape; }
  /// A dimension of a tensor; negative ones count from the last.
  [[nodiscard]] twoheads::Index dim(const std::string& tensor, int place) const {
    const std::vector<twoheads::Index> all = shape(tensor);
    return all.at(static_cast<std::size_t>(place < 0 ? place + static_cast<int>(all.size()) : place));
  }

  [[nodiscard]] std::string fact(const std::string& key, const std::string& otherwise = "") const {
    const auto found = facts_.find(key);
    return found == facts_.end() ? otherwise : found->second;
  }
  [[nodiscard]] twoheads::Index whole(const std::string& key, twoheads::Index otherwise) const {
    const auto found = facts_.find(key);
    return found == facts_.end() ? otherwise : std::stol(found->second);
  }
  [[nodiscard]] double number(const std::string& key, double otherwise) const {
    const auto found = facts_.find(key);
    return found == facts_.end() ? otherwise : std::stod(found->second);
  }

  /// All numbers as rows of the last dimension's length.
  template <class S>
  [[nodiscard]] twoheads::Matrix<S> rows(const std::string& tensor) const {
    const twoheads::Index cols = dim(tensor, -1);
    return file_.matrix<S>(tensor, file_.info(tensor).elements() / cols, cols);
  }
  /// Part `index` of `count` equal ones of these rows: of a batch, say.
  template <class S>
  [[nodiscard]] twoheads::Matrix<S> part(const std::string& tensor, twoheads::Index index,
                                         twoheads::Index count) const {
    const twoheads::Matrix<S> all = rows<S>(tensor);
    return all.middleRows(index * (all.rows() / count), all.rows() / count);
  }
  [[nodiscard]] std::vector<std::int64_t> integers(const std::string& tensor) const {
    return file_.values<std::int64_t>(tensor);
  }

 private:
  std::string name_;
  twoheads::Safetensors file_;
  std::map<std::string, std::string> facts_;
};

/// The fixtures of a folder, sorted by name.
[[nodiscard]] inline std::vector<std::filesystem::path> fixtures_in(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.path().extension() == ".safetensors") paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  return paths;
}
