#pragma once

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/stringpiece.h>
#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <twoheads/base/errors.hpp>
#include <twoheads/io/utf8.hpp>

namespace twoheads::detail {

/// Throws SpecError where ICU reports an error.
inline void require_icu(UErrorCode status, const char* what) {
  if (U_FAILURE(status)) throw SpecError(text(what, ": ICU reports ", u_errorName(status)));
}

/// ICU counts in 32 bits.
inline void require_icu_length(std::size_t length) {
  if (length > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()))
    throw SpecError(text("a text of ", length, " bytes, expected at most 2147483647"));
}

/// One character of a text: a code point, or one byte that is no UTF-8, which counts as U+FFFD.
struct Character {
  UChar32 value = 0;
  std::size_t begin = 0;
  std::size_t end = 0;
  bool valid = true;
};

/// The character that begins at byte `begin` of a text; begin < text.size().
[[nodiscard]] inline Character character_at(std::string_view text, std::size_t begin) {
  const auto first = static_cast<std::uint8_t>(text[begin]);
  if (first < 0x80) return {first, begin, begin + 1, true};
  const std::uint8_t* bytes = reinterpret_cast<const std::uint8_t*>(text.data());
  const auto length = static_cast<std::ptrdiff_t>(text.size());
  auto at = static_cast<std::ptrdiff_t>(begin);
  UChar32 value = 0;
  U8_NEXT(bytes, at, length, value);
  if (value < 0) return {0xFFFD, begin, begin + 1, false};
  return {value, begin, static_cast<std::size_t>(at), true};
}

/// Calls `visit` with every character of a text in order.
template <class Visit>
void for_each_character(std::string_view text, Visit&& visit) {
  for (std::size_t at = 0; at < text.size();) {
    const Character character = character_at(text, at);
    visit(character);
    at = character.end;
  }
}

/// How many bytes at the end of `text` begin a character that later bytes may complete: 0 to 3.
[[nodiscard]] inline std::size_t open_bytes(std::string_view text) {
  for (std::size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const auto byte = static_cast<std::uint8_t>(text[text.size() - back]);
    if ((byte & 0xC0) == 0x80) continue;
    if (byte < 0xC2 || byte > 0xF4 || static_cast<std::size_t>(U8_COUNT_TRAIL_BYTES(byte)) < back) return 0;
    // A second byte that no character of this first byte has ends the hope of one.
    if (back > 1) {
      const auto second = static_cast<std::uint8_t>(text[text.size() - back + 1]);
      const std::uint8_t low = byte == 0xE0 ? 0xA0 : byte == 0xF0 ? 0x90 : 0x80;
      const std::uint8_t high = byte == 0xED ? 0x9F : byte == 0xF4 ? 0x8F : 0xBF;
      if (second < low || second > high) return 0;
    }
    return back;
  }
  return 0;
}

[[nodiscard]] inline bool is_white_space(UChar32 c) { return u_isUWhiteSpace(c) != 0; }

/// General categories Nd, Nl and No.
[[nodiscard]] inline bool is_numeric(UChar32 c) { return (U_GET_GC_MASK(c) & U_GC_N_MASK) != 0; }

/// BERT's notion: Unicode's punctuation, and every ASCII character that is neither letter, digit, space nor control.
[[nodiscard]] inline bool is_punctuation(UChar32 c) {
  return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126) ||
         (U_GET_GC_MASK(c) & U_GC_P_MASK) != 0;
}

/// What regular expressions call \w.
[[nodiscard]] inline bool is_word_character(UChar32 c) {
  return (U_GET_GC_MASK(c) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0 ||
         u_hasBinaryProperty(c, UCHAR_ALPHABETIC) != 0 || u_hasBinaryProperty(c, UCHAR_JOIN_CONTROL) != 0;
}

/// The blocks of CJK ideographs that BERT sets apart.
[[nodiscard]] inline bool is_cjk(UChar32 c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
         (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B820 && c <= 0x2CEAF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

/// The text with each character replaced by what `map` appends for its value. Bytes that are no UTF-8 stay.
template <class Map>
[[nodiscard]] std::string map_characters(std::string_view text, const Map& map) {
  std::string mapped;
  mapped.reserve(text.size());
  for_each_character(text, [&](const Character& character) {
    if (character.valid)
      map(mapped, character.value);
    else
      mapped += text[character.begin];
  });
  return mapped;
}

/// Lower case of each character by itself: a final sigma is a sigma as any other.
[[nodiscard]] inline std::string lower_case(std::string_view text) {
  return map_characters(text, [](std::string& out, UChar32 c) {
    append_utf8(out, u_tolower(c));
    if (c == 0x130) append_utf8(out, 0x307);  // the one character whose lower case is two
  });
}

/// The text without the characters of some general categories.
[[nodiscard]] inline std::string without_categories(std::string_view text, std::uint32_t mask) {
  return map_characters(text, [&](std::string& out, UChar32 c) {
    if ((U_GET_GC_MASK(c) & mask) == 0) append_utf8(out, c);
  });
}

/// Unicode's normal forms.
enum class NormalForm { nfc, nfd, nfkc, nfkd };

/// The text in a normal form. Bytes that are no UTF-8 stay, and part what lies before them from what follows.
[[nodiscard]] inline std::string normal_form(std::string_view text, NormalForm form) {
  require_icu_length(text.size());
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* normalizer = form == NormalForm::nfc    ? icu::Normalizer2::getNFCInstance(status)
                                       : form == NormalForm::nfd  ? icu::Normalizer2::getNFDInstance(status)
                                       : form == NormalForm::nfkc ? icu::Normalizer2::getNFKCInstance(status)
                                                                  : icu::Normalizer2::getNFKDInstance(status);
  require_icu(status, "normal forms");
  std::string normal;
  normal.reserve(text.size());
  std::size_t begin = 0;
  const auto flush = [&](std::size_t end) {
    if (begin == end) return;
    std::string part;
    icu::StringByteSink<std::string> sink(&part);
    normalizer->normalizeUTF8(0, icu::StringPiece(text.data() + begin, static_cast<std::int32_t>(end - begin)), sink,
                              nullptr, status);
    require_icu(status, "normal forms");
    normal += part;
  };
  for_each_character(text, [&](const Character& character) {
    if (character.valid) return;
    flush(character.begin);
    normal += text[character.begin];
    begin = character.end;
  });
  flush(text.size());
  return normal;
}

}  // namespace twoheads::detail
