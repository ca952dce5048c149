#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <twoheads/base/errors.hpp>
#include <twoheads/io/utf8.hpp>

namespace twoheads::detail {

/// The text between the quotes of a JSON string, as it lies in the file. A JsonScanner has checked its escapes.
struct JsonString {
  std::string_view raw;
  std::size_t at = 0;  ///< of `raw` in the scanned text

  [[nodiscard]] bool escaped() const { return raw.find('\\') != std::string_view::npos; }
  [[nodiscard]] std::string decoded() const;
};

/// Reads JSON of a known form in place and takes no memory but for errors, whatever the text says. A tree would take
/// many times the size of a damaged text, and so do the buffers of a parser by events where one string is most of it.
///
///   Corner   numbers other than whole ones from 0 to 2^63 - 1, and everything else that the caller does not ask for,
///            can only be skipped; nesting deeper than 64 is refused
///   Throws   FormatError that names the file and the byte of the text, what was found there and what was expected
class JsonScanner {
 public:
  JsonScanner(std::string_view text, std::string_view file, std::size_t at = 0) : text_(text), file_(file), at_(at) {}

  [[nodiscard]] std::size_t at() const { return at_; }

  /// What the following is about, and its name in the text, if it has one: they stand in error messages.
  void set_subject(std::string_view what, std::optional<std::string_view> name = std::nullopt) {
    subject_ = what;
    name_ = name;
  }

  void skip_space() {
    while (at_ < text_.size() && is_space(text_[at_])) ++at_;
  }

  /// Calls `member` with each key of an object; it has to read or skip the value.
  template <class Member>
  void object(const Member& member) {
    expect('{', "an object");
    if (take('}')) return;
    do {
      const JsonString key = string();
      expect(':', "':'");
      member(key);
    } while (take(','));
    expect('}', "',' or '}'");
  }

  /// Calls `element` before each value of an array; it has to read or skip the value.
  template <class Element>
  void array(const Element& element) {
    expect('[', "an array");
    if (take(']')) return;
    do {
      element();
    } while (take(','));
    expect(']', "',' or ']'");
  }

  [[nodiscard]] JsonString string() {
    expect('"', "a string");
    const std::size_t begin = at_;
    while (true) {
      if (at_ == text_.size()) fail("the end of a string");
      const auto c = static_cast<unsigned char>(text_[at_]);
      if (c == '"') break;
      if (c < 0x20) fail("no control character in a string");
      if (c == '\\') {
        escape();
      } else {
        const std::size_t length = utf8_length(text_.substr(at_));
        if (length == 0) fail("valid UTF-8");
        at_ += length;
      }
    }
    return {text_.substr(begin, at_++ - begin), begin};
  }

  /// A number from 0 to 2^63 - 1, written with digits only.
  [[nodiscard]] std::int64_t whole_number() {
    constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
    skip_space();
    const std::size_t begin = at_;
    std::int64_t value = 0;
    bool valid = true;
    for (; at_ < text_.size() && is_digit(text_[at_]); ++at_) {
      const int digit = text_[at_] - '0';
      valid = valid && value <= (most - digit) / 10;
      if (valid) value = value * 10 + digit;
    }
    valid = valid && at_ > begin && (at_ == begin + 1 || text_[begin] != '0');
    if (at_ < text_.size() && (text_[at_] == '.' || text_[at_] == 'e' || text_[at_] == 'E')) valid = false;
    if (!valid) {
      at_ = begin;
      fail("a whole number from 0 to 9223372036854775807");
    }
    return value;
  }

  /// Passes over any JSON value.
  void skip_value(int depth = 0) {
    if (depth > 64) fail("nesting of 64 levels at most");
    skip_space();
    const char first = at_ < text_.size() ? text_[at_] : '\0';
    if (first == '{')
      object([&](const JsonString&) { skip_value(depth + 1); });
    else if (first == '[')
      array([&] { skip_value(depth + 1); });
    else if (first == '"')
      static_cast<void>(string());
    else if (first == '-' || is_digit(first))
      skip_number();
    else if (!take_word("true") && !take_word("false") && !take_word("null"))
      fail("a value");
  }

  void expect_end() {
    skip_space();
    if (at_ != text_.size()) fail("the end of the JSON text");
  }

  [[noreturn]] void fail(std::string_view expected) const {
    const std::string_view rest = text_.substr(at_);
    const std::string_view found = rest.substr(0, std::max<std::size_t>(1, rest.find_first_of(",:]} \t\r\n")));
    refuse(text("byte ", at_, " of the JSON text is ", rest.empty() ? "the end" : text("'", excerpt(found, 40), "'"),
                ", expected ", expected));
  }

  /// Throws FormatError with the file, the subject and what is wrong.
  [[noreturn]] void refuse(const std::string& fault) const {
    const std::string name = name_ ? text(" '", excerpt(*name_), "'") : std::string();
    throw FormatError(text(file_, ": ", subject_, name, subject_.empty() ? "" : ": ", fault));
  }

 private:
  static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }
  static bool is_digit(char c) { return '0' <= c && c <= '9'; }

  bool take(char c) {
    skip_space();
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  bool take_word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }
  void expect(char c, std::string_view what) {
    if (!take(c)) fail(what);
  }

  void escape() {
    const char kind = at_ + 1 < text_.size() ? text_[at_ + 1] : '\0';
    if (kind != 'u') {
      if (kind == '\0' || std::string_view("\"\\/bfnrt").find(kind) == std::string_view::npos)
        fail("an escape of JSON");
      at_ += 2;
      return;
    }
    const int unit = hex_unit(text_.substr(at_));
    const bool high = 0xD800 <= unit && unit < 0xDC00;
    const int low = high ? hex_unit(text_.substr(std::min(at_ + 6, text_.size()))) : 0xDC00;
    if (unit < 0 || (0xDC00 <= unit && unit < 0xE000) || low < 0xDC00 || low >= 0xE000)
      fail("\\u and four hexadecimal digits that make a character");
    at_ += high ? 12 : 6;
  }

  void skip_number() {
    const std::size_t begin = at_;
    const auto digits = [&] {
      const std::size_t first = at_;
      while (at_ < text_.size() && is_digit(text_[at_])) ++at_;
      return at_ - first;
    };
    const auto now = [&](std::string_view set) { return at_ < text_.size() && set.find(text_[at_]) != set.npos; };
    if (now("-")) ++at_;
    const bool zero = now("0");
    const std::size_t whole = digits();
    bool valid = whole == 1 || (whole > 1 && !zero);
    if (now(".")) {
      ++at_;
      valid = digits() > 0 && valid;
    }
    if (now("eE")) {
      ++at_;
      if (now("+-")) ++at_;
      valid = digits() > 0 && valid;
    }
    if (valid) return;
    at_ = begin;
    fail("a number");
  }

  std::string_view text_;
  std::string_view file_;
  std::size_t at_ = 0;
  std::string_view subject_;
  std::optional<std::string_view> name_;
};

inline std::string JsonString::decoded() const {
  std::string out;
  out.reserve(raw.size());
  for (std::size_t i = 0; i < raw.size();) {
    if (raw[i] != '\\') {
      out += raw[i++];
    } else if (raw[i + 1] != 'u') {
      constexpr std::string_view letters = "bfnrt";
      const std::size_t letter = letters.find(raw[i + 1]);
      out += letter == std::string_view::npos ? raw[i + 1] : "\b\f\n\r\t"[letter];
      i += 2;
    } else {
      auto code = static_cast<char32_t>(hex_unit(raw.substr(i)));
      i += 6;
      if (0xD800 <= code && code < 0xDC00) {
        code = 0x10000 + (code - 0xD800) * 0x400 + (static_cast<char32_t>(hex_unit(raw.substr(i))) - 0xDC00);
        i += 6;
      }
      append_utf8(out, code);
    }
  }
  return out;
}

/// Compares what two JSON strings mean, byte by byte.
[[nodiscard]] inline int compare(const JsonString& a, const JsonString& b) {
  if (!a.escaped() && !b.escaped()) return a.raw.compare(b.raw);
  return a.decoded().compare(b.decoded());
}
[[nodiscard]] inline int compare(const JsonString& a, std::string_view b) {
  return a.escaped() ? std::string_view(a.decoded()).compare(b) : a.raw.compare(b);
}

/// A text as a JSON string, with its quotes.
[[nodiscard]] inline std::string json_quoted(std::string_view plain) {
  constexpr std::string_view hex = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : plain) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20) {
      out += "\\u00";
      out += hex[byte >> 4U];
      out += hex[byte & 15U];
    } else {
      out += c;
    }
  }
  out += '"';
  return out;
}

}  // namespace twoheads::detail
