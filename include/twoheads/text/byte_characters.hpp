#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <twoheads/text/unicode.hpp>

namespace twoheads::detail {

/// GPT-2's printable character for each byte.
///
///   Math     a byte that is a visible character of Latin-1 stands for itself; the other 68 stand, in order, as the
///            characters from U+0100 on
///   Source   openai/gpt-2, encoder.py (bytes_to_unicode)
class ByteCharacters {
 public:
  ByteCharacters() {
    bytes_.fill(-1);
    UChar32 next = 0x100;
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const bool visible = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
      const UChar32 character = visible ? static_cast<UChar32>(byte) : next++;
      append_utf8(characters_[byte], character);
      bytes_[static_cast<std::size_t>(character)] = static_cast<int>(byte);
    }
  }

  [[nodiscard]] std::string encode(std::string_view bytes) const {
    std::string characters;
    characters.reserve(bytes.size() + bytes.size() / 4);
    for (const char byte : bytes) characters += characters_[static_cast<std::uint8_t>(byte)];
    return characters;
  }

  /// The bytes that a piece stands for, or nothing if one of its characters stands for none.
  [[nodiscard]] std::optional<std::string> decode(std::string_view characters) const {
    std::string bytes;
    bool known = true;
    for_each_character(characters, [&](const Character& character) {
      const auto at = static_cast<std::size_t>(character.value);
      known = known && at < bytes_.size() && bytes_[at] >= 0;
      if (known) bytes += static_cast<char>(bytes_[at]);
    });
    if (!known) return std::nullopt;
    return bytes;
  }

 private:
  std::array<std::string, 256> characters_;
  std::array<int, 0x100 + 68> bytes_{};
};

[[nodiscard]] inline const ByteCharacters& byte_characters() {
  static const ByteCharacters table;
  return table;
}

}  // namespace twoheads::detail
