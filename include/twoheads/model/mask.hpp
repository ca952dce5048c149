#pragma once

#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <vector>

namespace twoheads {

enum class MaskKind { full, causal, window, sinks, band, documents };

[[nodiscard]] constexpr const char* name(MaskKind kind) {
  switch (kind) {
    case MaskKind::full:
      return "full";
    case MaskKind::causal:
      return "causal";
    case MaskKind::window:
      return "window";
    case MaskKind::sinks:
      return "sinks";
    case MaskKind::band:
      return "band";
    case MaskKind::documents:
      return "documents";
  }
  return "";
}

/// The keys that one query sees: two ranges, the sinks before the others, with no key in both.
struct VisibleKeys {
  Rows sinks;
  Rows keys;

  [[nodiscard]] constexpr Index size() const { return sinks.size() + keys.size(); }
  [[nodiscard]] constexpr bool contains(Index key) const { return sinks.contains(key) || keys.contains(key); }
  friend constexpr bool operator==(const VisibleKeys&, const VisibleKeys&) = default;
};

/// How far a query sees: keys i - left .. i + right, and the first `sinks`.
struct MaskReach {
  Index left = 0;
  Index right = 0;
  Index sinks = 0;
};

/// Says which (query, key) pairs are visible.
///
///   full        every query sees every key; queries and keys may differ in number (cross-attention)
///   causal      query i sees keys 0..i, itself included
///   window      query i sees the r keys i - r + 1 .. i: r counts the query itself
///   sinks       a window of r, and the first s keys as far as they are not after the query
///   band        query i sees keys i - left .. i + right
///   documents   the sequence is cut into documents; a query sees its own, all of it or, where `causal_documents` is
///               set, keys up to itself. ends[d] is the position after document d's last token.
///   Corner      all but full are of one sequence: queries and keys are the same tokens. No row is empty.
///   Source      Yu & Alman, Definitions 2.1, 2.3, 2.4, 2.5 (whose sinks drop keys j with s < j <= i - r, so that what
///               stays is the union of window and sinks)
struct Mask {
  MaskKind kind = MaskKind::full;
  Index window = 0;  ///< r
  Index sinks = 0;   ///< s
  Index left = 0;
  Index right = 0;
  std::vector<Index> ends = {};
  bool causal_documents = false;

  [[nodiscard]] static Mask full() { return {}; }
  [[nodiscard]] static Mask causal() { return of(MaskKind::causal); }
  [[nodiscard]] static Mask sliding_window(Index r) {
    Mask mask = of(MaskKind::window);
    mask.window = r;
    return mask;
  }
  [[nodiscard]] static Mask window_and_sinks(Index r, Index s) {
    Mask mask = of(MaskKind::sinks);
    mask.window = r;
    mask.sinks = s;
    return mask;
  }
  [[nodiscard]] static Mask band(Index left, Index right) {
    Mask mask = of(MaskKind::band);
    mask.left = left;
    mask.right = right;
    return mask;
  }
  /// Throws SpecError for a document of no token.
  [[nodiscard]] static Mask documents(const std::vector<Index>& lengths, bool causal_inside) {
    Mask mask = of(MaskKind::documents);
    mask.causal_documents = causal_inside;
    Index end = 0;
    for (const Index length : lengths) {
      if (length < 1)
        throw SpecError(detail::text("document ", mask.ends.size(), " has ", length, " tokens, expected 1 or more"));
      if (length > std::numeric_limits<Index>::max() - end)
        throw SpecError(detail::text("documents of ", end, " and ", length, " tokens are more than 64 bits hold"));
      mask.ends.push_back(end += length);
    }
    return mask;
  }

  /// The keys that `query` sees, among `keys` of them.
  [[nodiscard]] VisibleKeys visible_keys(Index query, Index keys) const {
    const auto range = [keys](Index begin, Index end) { return Rows{std::max<Index>(begin, 0), std::min(end, keys)}; };
    switch (kind) {
      case MaskKind::full:
        break;
      case MaskKind::causal:
        return {{0, 0}, range(0, query + 1)};
      case MaskKind::window:
        return {{0, 0}, range(query - window + 1, query + 1)};
      case MaskKind::sinks: {
        const Rows near = range(query - window + 1, query + 1);
        // Sinks that the window reaches belong to it; where the two touch, they are one range.
        if (sinks >= near.begin) return {{0, 0}, {0, near.end}};
        return {{0, sinks}, near};
      }
      case MaskKind::band:
        return {{0, 0}, range(query - std::min(left, query), query + std::min(right, keys - 1 - query) + 1)};
      case MaskKind::documents: {
        const Rows own = document_of(query);
        return {{0, 0}, causal_documents ? range(own.begin, query + 1) : range(own.begin, own.end)};
      }
    }
    return {{0, 0}, {0, keys}};
  }

  /// The plainest mask that shows the same pairs of `tokens` tokens: a window that reaches everything is causal, a band
  /// that does is full, one document is no cut at all.
  [[nodiscard]] Mask simplified(Index tokens) const {
    switch (kind) {
      case MaskKind::full:
      case MaskKind::causal:
        break;
      case MaskKind::window:
      case MaskKind::sinks:
        if (window >= tokens - (kind == MaskKind::sinks ? sinks : 0)) return causal();
        // What sinks a plain window was given by its fields do not count.
        if (kind == MaskKind::window || sinks == 0) return sliding_window(window);
        break;
      case MaskKind::band: {
        const Index most = tokens - 1;
        if (left >= most && right >= most) return full();
        if (right == 0) return sliding_window(std::min(left, most) + 1).simplified(tokens);
        return band(std::min(left, most), std::min(right, most));
      }
      case MaskKind::documents:
        if (ends.size() == 1) return causal_documents ? causal() : full();
        break;
    }
    return *this;
  }

  /// How far queries see, where that is less than everything on some side.
  [[nodiscard]] std::optional<MaskReach> reach(Index tokens) const {
    const Mask plain = simplified(tokens);
    if (plain.kind == MaskKind::window || plain.kind == MaskKind::sinks)
      return MaskReach{plain.window - 1, 0, plain.sinks};
    if (plain.kind == MaskKind::band) return MaskReach{plain.left, plain.right, 0};
    return std::nullopt;
  }

  /// The most keys that a query sees, among `keys` of them; an upper bound for windows near the ends.
  [[nodiscard]] Index most_visible(Index keys) const {
    if (kind == MaskKind::window) return std::min(window, keys);
    if (kind == MaskKind::sinks) return std::min(window, keys) + std::min(sinks, keys);
    if (kind == MaskKind::band) return std::min(left, keys) + std::min(right, keys) + 1;
    Index most = kind == MaskKind::documents ? 1 : keys;
    for (std::size_t d = 0; d < ends.size(); ++d) most = std::max(most, ends[d] - (d == 0 ? 0 : ends[d - 1]));
    return most;
  }

  /// The rows of the document that holds a position.
  [[nodiscard]] Rows document_of(Index position) const {
    const auto end = std::upper_bound(ends.begin(), ends.end(), position);
    TWOHEADS_ASSERT(end != ends.end());
    return {end == ends.begin() ? 0 : *(end - 1), *end};
  }

  /// Throws SpecError if this mask is undefined, at all or for so many queries and keys.
  void require_defined(Index queries, Index keys) const {
    if (queries < 1) throw SpecError(detail::text("the number of tokens is ", queries, ", expected 1 or more"));
    if (keys < 1) throw SpecError(detail::text("the number of keys is ", keys, ", expected 1 or more"));
    if (kind != MaskKind::full && queries != keys)
      throw SpecError(detail::text("a ", name(kind), " mask over ", queries, " queries and ", keys,
                                   " keys is undefined: expected as many keys as queries"));
    const auto at_least = [](const char* what, Index value, Index least) {
      if (value < least) throw SpecError(detail::text("the ", what, " is ", value, ", expected ", least, " or more"));
    };
    if (kind == MaskKind::window || kind == MaskKind::sinks) at_least("window", window, 1);
    if (kind == MaskKind::sinks) at_least("number of sinks", sinks, 0);
    if (kind == MaskKind::band) at_least("left side of the band", left, 0);
    if (kind == MaskKind::band) at_least("right side of the band", right, 0);
    if (kind != MaskKind::documents) return;
    for (std::size_t d = 0; d < ends.size(); ++d)
      if (ends[d] <= (d == 0 ? 0 : ends[d - 1]))
        throw SpecError(
            detail::text("document ", d, " ends at ", ends[d], ", expected more than ", d == 0 ? 0 : ends[d - 1]));
    if (ends.empty() || ends.back() != queries)
      throw SpecError(
          detail::text("the documents have ", ends.empty() ? 0 : ends.back(), " tokens together, expected ", queries));
  }

  friend bool operator==(const Mask&, const Mask&) = default;

 private:
  [[nodiscard]] static Mask of(MaskKind kind) {
    Mask mask;
    mask.kind = kind;
    return mask;
  }
};

}  // namespace twoheads
