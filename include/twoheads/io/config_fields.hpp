#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/io/json_scanner.hpp>
#include <twoheads/io/mapped_file.hpp>
#include <utility>
#include <vector>

namespace twoheads::detail {

/// The fields of a JSON object, each of which has to be asked for: what nobody asks for may change the result.
///
///   Corner   null stands for absent where a default is given; a null that nobody asks for is no fault
///   Throws   FormatError that names the file and the field, what was found and what was expected; a field that is
///            there twice is one of these faults
class ConfigFields {
 public:
  /// `json` has to outlive the fields; `where` stands in error messages.
  ConfigFields(std::string_view json, std::string where) : where_(std::move(where)) {
    JsonScanner scanner(json, where_);
    scanner.object([&](const JsonString& key) {
      scanner.skip_space();
      const std::size_t begin = scanner.at();
      scanner.skip_value();
      if (fields_.size() == most_fields) refuse(text("more than ", most_fields, " fields"));
      for (const Field& other : fields_)
        if (compare(other.key, key) == 0) refuse("'" + excerpt(key.raw) + "' appears twice");
      fields_.push_back({key, json.substr(begin, scanner.at() - begin), false});
    });
    scanner.expect_end();
  }

  [[nodiscard]] const std::string& where() const { return where_; }

  /// Whether a field is there and not null.
  [[nodiscard]] bool has(std::string_view name) const {
    const Field* field = find(name);
    return field != nullptr && field->value != "null";
  }
  /// Whether a field is there, be it null.
  [[nodiscard]] bool mentions(std::string_view name) const { return find(name) != nullptr; }

  /// A whole number from `least` to 2^31 - 1, under any of the names that it has had.
  [[nodiscard]] Index size(std::initializer_list<std::string_view> names, Index least = 1) {
    std::optional<Index> found;
    for (const std::string_view name : names) {
      if (!has(name)) continue;
      const Index value = whole(name, least);
      if (found && *found != value)
        refuse(text(*names.begin(), " and ", name, " are ", *found, " and ", value, ", expected one value for both"));
      found = value;
    }
    if (!found) refuse(text(*names.begin(), mentions(*names.begin()) ? " is null" : " is not there"));
    return *found;
  }
  [[nodiscard]] Index size(std::string_view name, Index least = 1) { return size({name}, least); }
  [[nodiscard]] Index size_or(std::string_view name, Index otherwise, Index least = 1) {
    return has(name) ? whole(name, least) : otherwise;
  }

  /// A finite number.
  [[nodiscard]] double number(std::string_view name) {
    const std::string_view value = take(name);
    double result = 0;
    const auto [end, fault] = std::from_chars(value.data(), value.data() + value.size(), result);
    if (fault != std::errc{} || end != value.data() + value.size() || !std::isfinite(result))
      refuse_value(name, value, "a number of double precision");
    return result;
  }
  [[nodiscard]] double number_or(std::string_view name, double otherwise) {
    return has(name) ? number(name) : otherwise;
  }
  [[nodiscard]] double positive(std::string_view name) {
    const double value = number(name);
    if (!(value > 0)) refuse_value(name, take(name), "a number above 0");
    return value;
  }
  [[nodiscard]] double positive_or(std::string_view name, double otherwise) {
    return has(name) ? positive(name) : otherwise;
  }
  /// The epsilon of a norm: 0 is one, too.
  [[nodiscard]] double epsilon_or(std::string_view name, double otherwise) {
    const double value = number_or(name, otherwise);
    if (!(value >= 0)) refuse_value(name, take(name), "a number of 0 or more");
    return value;
  }

  [[nodiscard]] bool flag_or(std::string_view name, bool otherwise) {
    if (!has(name)) return otherwise;
    const std::string_view value = take(name);
    if (value != "true" && value != "false") refuse_value(name, value, "true or false");
    return value == "true";
  }

  [[nodiscard]] std::string word(std::string_view name) {
    const std::string_view value = take(name);
    if (value.empty() || value[0] != '"' || value.size() > 256) refuse_value(name, value, "a short text");
    return JsonScanner(value, where_).string().decoded();
  }
  [[nodiscard]] std::string word_or(std::string_view name, std::string otherwise) {
    return has(name) ? word(name) : otherwise;
  }

  /// A list of one of two words, as whether each is the first of them.
  [[nodiscard]] std::vector<bool> words_of_two(std::string_view name, std::string_view yes, std::string_view no) {
    std::vector<bool> list;
    const std::string_view value = take(name);
    JsonScanner scanner(value, where_);
    scanner.set_subject(std::string(name));
    scanner.array([&] {
      const JsonString found = scanner.string();
      if (found.raw != yes && found.raw != no)
        refuse(text(name, " has '", excerpt(found.raw), "', expected '", yes, "' or '", no, "'"));
      list.push_back(found.raw == yes);
    });
    return list;
  }

  /// A field as it is written.
  [[nodiscard]] std::string_view text_of(std::string_view name) { return take(name); }

  [[nodiscard]] ConfigFields object(std::string_view name) {
    const std::string_view value = take(name);
    if (value[0] != '{') refuse_value(name, value, "an object");
    return {value, text(where_, ": ", name)};
  }

  /// Fields that change nothing, whatever they are.
  void pass(std::initializer_list<std::string_view> names) {
    for (const std::string_view name : names)
      if (find(name) != nullptr) static_cast<void>(take(name));
  }

  /// A field that changes nothing while it has this value, or is null or absent.
  void expect_flag(std::string_view name, bool value, std::string_view reason) {
    if (flag_or(name, value) != value)
      throw SpecError(text(where_, ": ", name, " is ", value ? "false" : "true", ": ", reason));
  }

  /// Throws SpecError that names the first field that nobody asked for.
  void require_nothing_left() const {
    for (const Field& field : fields_)
      if (!field.taken && field.value != "null")
        throw SpecError(text(where_, ": the field '", excerpt(field.key.raw),
                             "' is not known to this reader, and may change the result"));
  }

  [[noreturn]] void refuse(const std::string& fault) const { throw FormatError(text(where_, ": ", fault)); }

 private:
  static constexpr std::size_t most_fields = 512;

  struct Field {
    JsonString key;
    std::string_view value;
    bool taken = false;
  };

  [[nodiscard]] const Field* find(std::string_view name) const {
    for (const Field& field : fields_)
      if (compare(field.key, name) == 0) return &field;
    return nullptr;
  }

  [[nodiscard]] std::string_view take(std::string_view name) {
    for (Field& field : fields_) {
      if (compare(field.key, name) != 0) continue;
      field.taken = true;
      return field.value;
    }
    refuse(text(name, " is not there"));
  }

  [[nodiscard]] Index whole(std::string_view name, Index least) {
    constexpr Index most = std::numeric_limits<std::int32_t>::max();
    const std::string_view value = take(name);
    Index result = 0;
    const auto [end, fault] = std::from_chars(value.data(), value.data() + value.size(), result);
    if (fault != std::errc{} || end != value.data() + value.size() || result < least || result > most)
      refuse_value(name, value, text("a whole number from ", least, " to ", most));
    return result;
  }

  [[noreturn]] void refuse_value(std::string_view name, std::string_view value, std::string_view expected) const {
    refuse(text(name, " is ", excerpt(value, 40), ", expected ", expected));
  }

  std::string where_;
  std::vector<Field> fields_;
};

}  // namespace twoheads::detail
