#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <twoheads/base/errors.hpp>
#include <utility>
#include <vector>

namespace twoheads::detail {

/// A value of a JSON file and its name in error messages: "tokenizer.json: model.type". The document must outlive it.
///
///   Throws   FormatError that names file and field, where a value is missing or not what is asked for
class JsonField {
 public:
  JsonField(const nlohmann::json& value, std::string file, std::string path = {})
      : value_(&value), file_(std::move(file)), path_(std::move(path)) {}

  [[nodiscard]] const nlohmann::json& value() const { return *value_; }
  [[nodiscard]] const std::string& file() const { return file_; }

  /// The exception for this field.
  template <class... What>
  [[nodiscard]] FormatError error(const What&... what) const {
    return FormatError(text(file_, ": ", path_.empty() ? "" : path_ + " ", what...));
  }

  /// The member of that name, or nothing where there is none or it is null.
  [[nodiscard]] std::optional<JsonField> find(const std::string& name) const {
    require(value_->is_object(), "an object");
    const auto found = value_->find(name);
    if (found == value_->end() || found->is_null()) return std::nullopt;
    return JsonField(*found, file_, path_.empty() ? name : path_ + '.' + name);
  }

  [[nodiscard]] JsonField at(const std::string& name) const {
    std::optional<JsonField> found = find(name);
    if (!found) throw error("has no ", name);
    return *found;
  }

  /// Refuses every member but these: an unknown one might change the ids.
  void allow(std::initializer_list<std::string_view> names) const {
    require(value_->is_object(), "an object");
    for (const auto& item : value_->items()) {
      bool known = false;
      for (const std::string_view name : names) known = known || item.key() == name;
      if (!known) throw error("has the field ", item.key(), ", which is not known here");
    }
  }

  [[nodiscard]] std::vector<JsonField> elements() const {
    require(value_->is_array(), "an array");
    std::vector<JsonField> all;
    for (const nlohmann::json& element : *value_)
      all.emplace_back(element, file_, path_ + '[' + std::to_string(all.size()) + ']');
    return all;
  }

  [[nodiscard]] const std::string& string() const {
    require(value_->is_string(), "a string");
    return value_->get_ref<const std::string&>();
  }

  [[nodiscard]] bool boolean() const {
    require(value_->is_boolean(), "true or false");
    return value_->get<bool>();
  }

  /// A whole number from `least` to `most`.
  [[nodiscard]] std::int64_t integer(std::int64_t least, std::int64_t most) const {
    require(value_->is_number_integer(), "a whole number");
    const bool fits = !value_->is_number_unsigned() || value_->get<std::uint64_t>() <= static_cast<std::uint64_t>(most);
    if (!fits || value_->get<std::int64_t>() < least || value_->get<std::int64_t>() > most)
      throw error("is ", shown(), ", expected ", least, " to ", most);
    return value_->get<std::int64_t>();
  }

  /// A member of truth value, or `otherwise` where there is none.
  [[nodiscard]] bool boolean_or(const std::string& name, bool otherwise) const {
    const std::optional<JsonField> found = find(name);
    return found ? found->boolean() : otherwise;
  }

  /// Refuses a member that says anything: what it asks for is not done here.
  void refuse(const std::string& name) const {
    const std::optional<JsonField> found = find(name);
    if (found && !(found->value_->is_string() && found->string().empty()))
      throw found->error("is ", found->shown(), ", expected null: it is not done here");
  }

  /// The value as a message shows it, cut short where it is long.
  [[nodiscard]] std::string shown() const {
    if (value_->is_structured()) return value_->is_array() ? "an array" : "an object";
    std::string all = value_->dump(-1, ' ', true);
    if (all.size() > 60) all = all.substr(0, 57) + "...";
    return all;
  }

 private:
  void require(bool holds, const char* expected) const {
    if (!holds) throw error("is ", shown(), ", expected ", expected);
  }

  const nlohmann::json* value_;
  std::string file_;
  std::string path_;
};

}  // namespace twoheads::detail
