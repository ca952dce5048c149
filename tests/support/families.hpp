#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "support/shared_data.hpp"

/// Folders of small models of the families that people have, and their config.json with other fields.
namespace families {

namespace fs = std::filesystem;
using nlohmann::json;

inline fs::path fixture(const std::string& name) {
  return fs::path(TWOHEADS_SOURCE_DIR) / "tests/data/families" / name;
}

/// A family's config.json with other values of some fields; the word "absent" removes one.
inline std::string config_with(const std::string& name, const json& changes) {
  json config = json::parse(read_bytes(fixture(name) / "config.json"));
  for (const auto& change : changes.items()) {
    if (change.value() == "absent")
      config.erase(change.key());
    else
      config[change.key()] = change.value();
  }
  return config.dump();
}

}  // namespace families
