#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <twoheads/base/draws.hpp>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/model/spec.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// A sequence to learn from: row i should predict targets[i]; -1: nothing is asked of it.
struct Example {
  std::vector<int> ids;  ///< what is read
  std::vector<int> targets;

  /// Targets that are asked for.
  [[nodiscard]] Index counted() const {
    return static_cast<Index>(std::count_if(targets.begin(), targets.end(), [](int target) { return target >= 0; }));
  }
};

/// The ids of a model of bytes.
[[nodiscard]] inline std::vector<int> byte_ids(std::string_view text) {
  std::vector<int> ids;
  ids.reserve(text.size());
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

/// Windows of a text, byte after byte, each of which should predict the next.
///
///   Laws     what a step draws depends on the seed, the step and the item alone, so that a run can begin anywhere
///   Throws   SpecError for a text that is not longer than a window
class TextWindows {
 public:
  TextWindows(std::string text, Index context, std::uint64_t seed)
      : text_(std::move(text)), context_(context), seed_(seed) {
    detail::require_positive("the context", context);
    if (static_cast<Index>(text_.size()) <= context)
      throw SpecError(detail::text("a text of ", text_.size(), " bytes, expected more than the context of ", context));
  }

  /// A window that begins anywhere, each place as likely as any other.
  [[nodiscard]] Example operator()(Index step, Index item) const {
    detail::Draws draws(detail::seed_of_part(detail::seed_of_part(seed_, step), item));
    return window(draws.below(static_cast<Index>(text_.size()) - context_));
  }

  /// The window that begins at a byte.
  [[nodiscard]] Example window(Index begin) const {
    const auto part = [&](Index from) {
      return byte_ids(
          std::string_view(text_).substr(static_cast<std::size_t>(from), static_cast<std::size_t>(context_)));
    };
    return {part(begin), part(begin + 1)};
  }

 private:
  std::string text_;
  Index context_;
  std::uint64_t seed_;
};

/// The windows in which a text is judged: each of its bytes but the first is predicted once, after half a window of
/// bytes or more where the text has them.
[[nodiscard]] inline std::vector<Example> judging_windows(std::string_view text, Index context) {
  detail::require_positive("the context", context);
  const auto size = static_cast<Index>(text.size());
  const Index stride = std::max<Index>(context / 2, 1);
  const std::vector<int> bytes = byte_ids(text);
  std::vector<Example> windows;
  // Targets up to `done` are predicted already.
  for (Index done = 0; done + 1 < size;) {
    const Index end = std::min(done == 0 ? context : done + stride, size - 1);
    const Index begin = std::max<Index>(end - context, 0);
    Example window;
    for (Index i = begin; i < end; ++i) {
      window.ids.push_back(bytes[static_cast<std::size_t>(i)]);
      window.targets.push_back(i >= done ? bytes[static_cast<std::size_t>(i + 1)] : -1);
    }
    windows.push_back(std::move(window));
    done = end;
  }
  return windows;
}

}  // namespace twoheads
