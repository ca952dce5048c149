#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <twoheads/base/errors.hpp>
#include <twoheads/model/input_file.hpp>
#include <utility>
#include <vector>

namespace twoheads::detail {

/// A piece of a vocabulary and its id, as a file has them.
struct NamedId {
  std::string piece;
  std::int64_t id = 0;
};

/// Two pieces that a file lets join.
struct Merge {
  std::string left, right;
};

/// A JSON file: its vocabulary and merges in lists, everything else as a tree.
struct TextDocument {
  std::string name;
  nlohmann::json tree;
  std::vector<NamedId> vocabulary;
  std::vector<Merge> merges;
};

/// The two pieces of a line "left right".
[[nodiscard]] inline Merge merge_of(const std::string& line, const std::string& where) {
  const std::size_t space = line.find(' ');
  if (space == std::string::npos || space == 0 || space + 1 == line.size() ||
      line.find(' ', space + 1) != std::string::npos)
    throw FormatError(text(where, " is \"", line.substr(0, 60), "\", expected two pieces with one space between"));
  return {line.substr(0, space), line.substr(space + 1)};
}

/// Builds a TextDocument while nlohmann-json parses, so that large vocabularies are never a tree.
///
///   Throws   FormatError that names file and place: no JSON, a name twice in one object, deeper than 32, or a
///            vocabulary or merges of other types
class DocumentBuilder : public nlohmann::json_sax<nlohmann::json> {
 public:
  /// `vocabulary` and `merges` are the paths of these lists, such as "/model/vocab"; "" is the whole file and "-" none.
  DocumentBuilder(TextDocument& document, std::string vocabulary, std::string merges)
      : document_(document), vocabulary_path_(std::move(vocabulary)), merges_path_(std::move(merges)) {}

  bool null() override { return scalar(nullptr); }
  bool boolean(bool value) override { return scalar(value); }
  bool number_integer(number_integer_t value) override { return number(value, value); }
  bool number_unsigned(number_unsigned_t value) override {
    return number(value, value > INT64_MAX ? INT64_MAX : static_cast<std::int64_t>(value));
  }
  bool number_float(number_float_t value, const string_t&) override { return scalar(value); }
  bool binary(binary_t&) override { return scalar(nullptr); }

  bool string(string_t& value) override {
    if (in_ == Inside::merges) {
      if (parts_.size() < 3 && in_pair_) {
        parts_.push_back(std::move(value));
      } else if (!in_pair_) {
        document_.merges.push_back(merge_of(value, text(document_.name, ": merge ", document_.merges.size())));
      }
      return true;
    }
    return scalar(std::move(value));
  }

  bool start_object(std::size_t) override {
    if (in_ == Inside::tree && path() == vocabulary_path_) {
      static_cast<void>(place(nlohmann::json::object()));
      in_ = Inside::vocabulary;
      return true;
    }
    return open(nlohmann::json::object());
  }

  bool key(string_t& name) override {
    if (in_ == Inside::vocabulary) {
      piece_ = std::move(name);
      return true;
    }
    const bool stands = open_.back()->contains(name);
    keys_.back() = std::move(name);
    if (stands) throw FormatError(text(document_.name, ": ", path(), " stands twice"));
    return true;
  }

  bool end_object() override {
    if (in_ == Inside::vocabulary)
      in_ = Inside::tree;
    else
      close();
    return true;
  }

  bool start_array(std::size_t) override {
    if (in_ == Inside::tree && path() == merges_path_) {
      static_cast<void>(place(nlohmann::json::array()));
      in_ = Inside::merges;
      return true;
    }
    if (in_ == Inside::merges && !in_pair_) {
      in_pair_ = true;
      return true;
    }
    return open(nlohmann::json::array());
  }

  bool end_array() override {
    if (in_ == Inside::tree) {
      close();
    } else if (in_pair_) {
      if (parts_.size() != 2 || parts_[0].empty() || parts_[1].empty())
        throw FormatError(text(document_.name, ": merge ", document_.merges.size(), ": expected two pieces"));
      document_.merges.push_back({std::move(parts_[0]), std::move(parts_[1])});
      parts_.clear();
      in_pair_ = false;
    } else {
      in_ = Inside::tree;
    }
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception&) override {
    throw FormatError(text(document_.name, ": no JSON at byte ", position));
  }

 private:
  enum class Inside { tree, vocabulary, merges };

  [[nodiscard]] std::string path() const {
    std::string joined;
    for (const std::string& key : keys_) joined += '/' + key;
    return joined;
  }

  template <class Number>
  bool number(Number value, std::int64_t id) {
    if (in_ != Inside::vocabulary) return scalar(value);
    document_.vocabulary.push_back({std::move(piece_), id});
    return true;
  }

  template <class Value>
  bool scalar(Value&& value) {
    refuse_in_lists();
    static_cast<void>(place(nlohmann::json(std::forward<Value>(value))));
    return true;
  }

  void refuse_in_lists() const {
    if (in_ == Inside::vocabulary)
      throw FormatError(text(document_.name, ": the id of the piece \"", piece_, "\" is no whole number"));
    if (in_ == Inside::merges)
      throw FormatError(text(document_.name, ": merge ", document_.merges.size(), " is no pair of strings"));
  }

  nlohmann::json* place(nlohmann::json value) {
    if (open_.empty()) {
      document_.tree = std::move(value);
      return &document_.tree;
    }
    nlohmann::json& into = *open_.back();
    if (into.is_object()) return &(into[keys_.back()] = std::move(value));
    into.push_back(std::move(value));
    return &into.back();
  }

  bool open(nlohmann::json value) {
    constexpr std::size_t deepest = 32;
    refuse_in_lists();
    if (open_.size() == deepest) throw FormatError(text(document_.name, ": nested deeper than ", deepest));
    open_.push_back(place(std::move(value)));
    keys_.emplace_back(open_.back()->is_array() ? "[]" : "");
    return true;
  }

  void close() {
    open_.pop_back();
    keys_.pop_back();
  }

  TextDocument& document_;
  std::string vocabulary_path_, merges_path_;
  std::vector<nlohmann::json*> open_;  // the containers around this place
  std::vector<std::string> keys_;      // and the name in each
  Inside in_ = Inside::tree;
  bool in_pair_ = false;
  std::string piece_;
  std::vector<std::string> parts_;
};

/// Longest file that is read for a text, in bytes: the largest tokenizer.json in use has a few ten millions.
inline constexpr std::uint64_t most_text_bytes = std::uint64_t{1} << 30;

/// All bytes of a file. Throws FileError where it cannot be read, FormatError where it is longer than any text of ours.
[[nodiscard]] inline std::string read_text_file(const std::filesystem::path& path) {
  InputFile file = open_input(path);
  if (file.size > most_text_bytes)
    throw FormatError(text(path.string(), ": ", file.size, " bytes, expected ", most_text_bytes, " at most"));
  std::string bytes(static_cast<std::size_t>(file.size), '\0');
  ByteReader(file.stream, file.size, path.string()).read(bytes.data(), file.size);
  return bytes;
}

/// Reads a JSON file; see DocumentBuilder for the paths. Throws FileError where it cannot be read,
/// FormatError as it says.
[[nodiscard]] inline TextDocument read_document(const std::filesystem::path& path, std::string vocabulary,
                                                std::string merges) {
  TextDocument document;
  document.name = path.string();
  const std::string bytes = read_text_file(path);
  DocumentBuilder builder(document, std::move(vocabulary), std::move(merges));
  static_cast<void>(nlohmann::json::sax_parse(bytes, &builder));
  return document;
}

}  // namespace twoheads::detail
