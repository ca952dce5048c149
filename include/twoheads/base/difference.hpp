#pragma once

#include <algorithm>
#include <cstddef>
#include <sstream>
#include <string>
#include <twoheads/base/errors.hpp>
#include <vector>

namespace twoheads::detail {

/// Where two lines of words differ: "it says 'rows 65', expected 'rows 33'". What is the same at their beginnings and
/// ends is left out, but for one word before the first that is not, or one behind the last.
[[nodiscard]] inline std::string difference_of(const std::string& found, const std::string& expected) {
  const auto words_of = [](const std::string& line) {
    std::vector<std::string> words;
    std::istringstream in(line);
    for (std::string word; in >> word;) words.push_back(word);
    return words;
  };
  const std::vector<std::string> a = words_of(found);
  const std::vector<std::string> b = words_of(expected);
  const std::size_t shorter = std::min(a.size(), b.size());
  std::size_t begin = 0;
  while (begin < shorter && a[begin] == b[begin]) ++begin;
  std::size_t end = 0;
  while (end < shorter - begin && a[a.size() - 1 - end] == b[b.size() - 1 - end]) ++end;
  // Nothing at all is hard to read: a word of what is the same stands for the place.
  if (begin > 0)
    --begin;
  else if (end > 0 && end == shorter)
    --end;
  const auto part = [&](const std::vector<std::string>& words) {
    std::string line;
    for (std::size_t i = begin; i < words.size() - end; ++i) line += (line.empty() ? "" : " ") + words[i];
    return line;
  };
  return text("it says '", part(a), "', expected '", part(b), "'");
}

}  // namespace twoheads::detail
