#pragma once

#include <unicode/regex.h>
#include <unicode/unistr.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <twoheads/base/errors.hpp>
#include <twoheads/text/unicode.hpp>
#include <utility>
#include <vector>

namespace twoheads::detail {

/// Bytes [begin, end) of a text, and whether a pattern matched there.
struct TextRange {
  std::size_t begin = 0;
  std::size_t end = 0;
  bool match = false;
};

/// A text as a regular expression sees it: UTF-16, with the byte at which each unit lies.
class Utf16View {
 public:
  explicit Utf16View(std::string_view text) {
    require_icu_length(text.size());
    units_.reserve(text.size());
    const bool ascii =
        std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 128; });
    if (ascii) {
      units_.assign(text.begin(), text.end());
      return;
    }
    bytes_.reserve(text.size() + 1);
    for_each_character(text, [&](const Character& character) {
      if (character.value > 0xFFFF) {
        units_ += static_cast<char16_t>(0xD7C0 + (character.value >> 10));
        bytes_.push_back(static_cast<std::uint32_t>(character.begin));
      }
      units_ += character.value > 0xFFFF ? static_cast<char16_t>(0xDC00 | (character.value & 0x3FF))
                                         : static_cast<char16_t>(character.value);
      bytes_.push_back(static_cast<std::uint32_t>(character.begin));
    });
    bytes_.push_back(static_cast<std::uint32_t>(text.size()));
  }

  [[nodiscard]] const std::u16string& units() const { return units_; }
  [[nodiscard]] std::size_t byte_of(std::int32_t unit) const {
    const auto at = static_cast<std::size_t>(unit);
    return bytes_.empty() ? at : bytes_[at];
  }

 private:
  std::u16string units_;
  std::vector<std::uint32_t> bytes_;  // empty where every unit is a byte
};

/// A literal text or a regular expression of ICU's.
///
///   Corner   a search gives up after 200 backtracking steps a UTF-16 unit and two million beside, or with states of 64
///            bytes a unit and 16 MiB beside: time and memory are linear in the text for any pattern
class TextPattern {
 public:
  /// Throws SpecError if the text is empty.
  [[nodiscard]] static TextPattern literal(std::string text) {
    if (text.empty()) throw SpecError("the pattern is empty");
    TextPattern pattern;
    pattern.source_ = std::move(text);
    return pattern;
  }

  /// Throws SpecError that names the pattern, if ICU does not take it or it is longer than 8192 bytes.
  [[nodiscard]] static TextPattern regex(std::string source) {
    constexpr std::size_t longest = 8192;  // a property set takes thousands of bytes, its name 5
    if (source.size() > longest)
      throw SpecError(text("a regular expression of ", source.size(), " bytes, expected at most ", longest));
    if (source.empty()) throw SpecError("the pattern is empty");
    UErrorCode status = U_ZERO_ERROR;
    UParseError where{};
    TextPattern pattern;
    pattern.regex_.reset(icu::RegexPattern::compile(icu::UnicodeString::fromUTF8(source), 0, where, status));
    if (U_FAILURE(status) || !pattern.regex_)
      throw SpecError(text("ICU does not take the regular expression ", source, ": ", u_errorName(status),
                           " at character ", where.offset));
    pattern.source_ = std::move(source);
    return pattern;
  }

  /// The matches in order; they do not overlap.
  ///
  ///   Throws   SpecError that names the pattern, where its search takes too many steps
  [[nodiscard]] std::vector<TextRange> matches(std::string_view in) const {
    std::vector<TextRange> found;
    if (!regex_) {
      for (std::size_t at = in.find(source_); at != std::string_view::npos; at = in.find(source_, at + source_.size()))
        found.push_back({at, at + source_.size(), true});
      return found;
    }
    const Utf16View view(in);
    const auto length = static_cast<std::int32_t>(view.units().size());
    const icu::UnicodeString units(false, view.units().data(), length);  // an alias, no copy
    UErrorCode status = U_ZERO_ERROR;
    const std::unique_ptr<icu::RegexMatcher> matcher(regex_->matcher(units, status));
    require_icu(status, "regular expressions");
    matcher->setTimeLimit(200 + length / 50, status);  // in steps of 10,000 states
    // A repeated set keeps a state a unit, of 16 to 40 bytes.
    constexpr std::int64_t most_bytes = std::numeric_limits<std::int32_t>::max();
    const std::int64_t stack = (std::int64_t{16} << 20) + std::int64_t{64} * length;
    matcher->setStackLimit(static_cast<std::int32_t>(std::min(stack, most_bytes)), status);
    require_icu(status, "regular expressions");
    while (matcher->find(status) != 0 && U_SUCCESS(status))
      found.push_back({view.byte_of(matcher->start(status)), view.byte_of(matcher->end(status)), true});
    if (U_FAILURE(status))
      throw SpecError(
          text("the regular expression ", source_, " on a text of ", in.size(), " bytes: ", u_errorName(status)));
    return found;
  }

 private:
  TextPattern() = default;

  std::string source_;
  std::shared_ptr<const icu::RegexPattern> regex_;
};

/// The matches and what lies between them: together the whole of a text of `size` bytes.
[[nodiscard]] inline std::vector<TextRange> with_gaps(const std::vector<TextRange>& matches, std::size_t size) {
  std::vector<TextRange> all;
  std::size_t end = 0;
  for (const TextRange& match : matches) {
    if (end < match.begin) all.push_back({end, match.begin, false});
    all.push_back(match);
    end = match.end;
  }
  if (end < size) all.push_back({end, size, false});
  return all;
}

/// Every character for which `is_match` holds as a match of its own, and what lies between.
template <class IsMatch>
[[nodiscard]] std::vector<TextRange> ranges_of(std::string_view text, const IsMatch& is_match) {
  std::vector<TextRange> matches;
  for_each_character(text, [&](const Character& character) {
    if (is_match(character.value)) matches.push_back({character.begin, character.end, true});
  });
  return with_gaps(matches, text.size());
}

/// What becomes of matches when a text is split at them.
enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

/// The parts into which a text falls; `ranges` are those of `with_gaps`. No part is empty.
[[nodiscard]] inline std::vector<TextRange> split_ranges(std::vector<TextRange> ranges, SplitBehavior behavior) {
  std::vector<TextRange> parts;
  const bool backward = behavior == SplitBehavior::merged_with_next;
  if (backward) std::reverse(ranges.begin(), ranges.end());
  bool previous = false;
  for (const TextRange& range : ranges) {
    const bool joins = behavior == SplitBehavior::contiguous                         ? range.match == previous
                       : behavior == SplitBehavior::merged_with_previous || backward ? range.match && !previous
                                                                                     : false;
    if (joins && !parts.empty()) {
      if (backward)
        parts.back().begin = range.begin;
      else
        parts.back().end = range.end;
    } else if (behavior != SplitBehavior::removed || !range.match) {
      parts.push_back(range);
    }
    previous = range.match;
  }
  if (backward) std::reverse(parts.begin(), parts.end());
  std::erase_if(parts, [](const TextRange& part) { return part.begin == part.end; });
  return parts;
}

}  // namespace twoheads::detail
