#pragma once

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "support/append.hpp"

/// A range of bytes: where it begins, how long it is.
using ByteRange = std::pair<std::size_t, std::size_t>;

/// Seeded damage to the bytes of a file: to any of them, and to the numbers and strings of those that hold JSON.
class Damage {
 public:
  explicit Damage(std::uint64_t seed) : random_(seed) {}

  /// A number from 0 to count - 1.
  [[nodiscard]] std::size_t pick(std::size_t count) {
    return std::uniform_int_distribution<std::size_t>(0, count - 1)(random_);
  }

  /// One mutation of a file, or up to three.
  [[nodiscard]] std::string of_file(std::string bytes) {
    for (std::size_t times = pick(2) == 0 ? 1 : 1 + pick(3); times > 0; --times) mutate(bytes);
    return bytes;
  }

  /// As of_file; half of the time only the header of a safetensors file is damaged and its length corrected, since else
  /// few mutations get beyond the length.
  [[nodiscard]] std::string of_safetensors(std::string bytes) {
    if (pick(2) == 0) return of_file(bytes);
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data(), sizeof(length));
    const std::string header = of_file(bytes.substr(8, length));
    std::string damaged;
    append(damaged, std::uint64_t{header.size()});
    return damaged + header + bytes.substr(8 + length);
  }

 private:
  [[nodiscard]] ByteRange range(const std::string& bytes) {
    const std::size_t begin = pick(bytes.size());
    const std::size_t most = pick(4) == 0 ? bytes.size() : 16;
    return {begin, 1 + pick(std::min(most, bytes.size() - begin))};
  }

  void mutate(std::string& bytes) {
    if (bytes.empty()) bytes = "{}";
    const auto [begin, length] = range(bytes);
    switch (pick(14)) {
      case 0:
        bytes[begin] = static_cast<char>(bytes[begin] ^ (1 << pick(8)));
        break;
      case 1:
        bytes[begin] = static_cast<char>(pick(256));
        break;
      case 2:
        bytes.erase(begin, length);
        break;
      case 3:
        bytes.insert(begin, bytes.substr(begin, length));
        break;
      case 4: {
        const std::size_t other = pick(bytes.size());
        const std::size_t both = std::min({length, bytes.size() - begin, bytes.size() - other});
        for (std::size_t i = 0; i < both; ++i) std::swap(bytes[begin + i], bytes[other + i]);
        break;
      }
      case 5:
        std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(begin), length, '\0');
        break;
      case 6: {
        std::string added(length, '\0');
        for (char& byte : added) byte = static_cast<char>(pick(256));
        bytes.insert(begin, added);
        break;
      }
      case 7:
        bytes.resize(begin);
        break;
      case 8:
        bytes += bytes.substr(begin);
        break;
      case 9:
        hostile_word(bytes);
        break;
      case 10:
      case 11:
        hostile_number(bytes);
        break;
      default:
        exchange_tokens(bytes);
    }
  }

  /// Eight bytes, the first ones of the file more often than not, become a length that is too large or hardly wrong.
  void hostile_word(std::string& bytes) {
    if (bytes.size() < 8) return;
    const std::uint64_t size = bytes.size();
    const std::array<std::uint64_t, 9> hostile{
        0, 1, size - 8, size - 7, size, 100'000'000, std::uint64_t{1} << 32, ~std::uint64_t{0} - 7, ~std::uint64_t{0}};
    const std::uint64_t word = hostile[pick(hostile.size())];
    std::memcpy(bytes.data() + (pick(4) > 0 ? 0 : pick(bytes.size() - 7)), &word, 8);
  }

  void hostile_number(std::string& bytes) {
    static constexpr std::array<std::string_view, 16> hostile{"-1",
                                                              "1e300",
                                                              "-1e300",
                                                              "18446744073709551615",
                                                              "18446744073709551616",
                                                              "9223372036854775807",
                                                              "9223372036854775808",
                                                              "4294967296",
                                                              "2147483648",
                                                              "1e-300",
                                                              "0.5",
                                                              "NaN",
                                                              "00",
                                                              "null",
                                                              "1e999",
                                                              "-0"};
    const std::vector<ByteRange> numbers = tokens(bytes, false);
    if (numbers.empty()) return;
    const auto [at, length] = numbers[pick(numbers.size())];
    if (pick(3) == 0) {
      // One more or one less, which only a check of the sums can see.
      const char last = bytes[at + length - 1];
      bytes[at + length - 1] = last == '9' ? '8' : static_cast<char>(last + 1);
    } else {
      bytes.replace(at, length, hostile[pick(hostile.size())]);
    }
  }

  /// A string or number of the text is replaced by another one of it.
  void exchange_tokens(std::string& bytes) {
    const std::vector<ByteRange> all = tokens(bytes, pick(3) > 0);
    if (all.size() < 2) return;
    const auto [from, length] = all[pick(all.size())];
    const std::string other = bytes.substr(from, length);
    const auto [to, old] = all[pick(all.size())];
    bytes.replace(to, old, other);
  }

  /// The runs of digits of a text, or its quoted strings with their quotes.
  [[nodiscard]] static std::vector<ByteRange> tokens(const std::string& bytes, bool strings) {
    std::vector<ByteRange> found;
    const auto digit = [&](std::size_t i) { return std::isdigit(static_cast<unsigned char>(bytes[i])) != 0; };
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      std::size_t end = i;
      if (strings && bytes[i] == '"') {
        end = bytes.find('"', i + 1);
        if (end == std::string::npos) break;
        ++end;
      } else if (!strings) {
        while (end < bytes.size() && digit(end)) ++end;
      }
      if (end == i) continue;
      found.emplace_back(i, end - i);
      i = end - 1;
    }
    return found;
  }

  std::mt19937_64 random_;
};
