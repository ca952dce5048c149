#pragma once

#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <vector>

namespace twoheads {

/// By which rule a mask says what is visible: see Mask.
enum class MaskKind { full, causal, window, sinks, band, documents, blocks };

/// The name as programs take it.
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
    case MaskKind::blocks:
      return "blocks";
  }
  return "";
}

/// The keys that one query sees: two ranges, the sinks before the others, with no key in both.
struct VisibleKeys {
  Rows sinks;
  Rows keys;

  [[nodiscard]] constexpr Index size() const { return sinks.size() + keys.size(); }  ///< how many keys
  /// Whether a key is among them.
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
///   blocks      any pairs, as ranges of keys: queries from ends[g - 1] to ends[g] - 1 see shown[g]
///   Corner      all but full and blocks are of one sequence: queries are its last tokens, keys all of it. Of blocks
///               alone may a query see no key.
///   Source      Yu & Alman, Definitions 2.1, 2.3, 2.4, 2.5 (whose sinks drop keys j with s < j <= i - r, so that what
///               stays is the union of window and sinks)
struct Mask {
  MaskKind kind = MaskKind::full;  ///< by which rule
  Index window = 0;                ///< r
  Index sinks = 0;                 ///< s
  Index left = 0;
  Index right = 0;
  std::vector<Index> ends = {};
  bool causal_documents = false;
  std::vector<std::vector<Rows>> shown = {};  ///< ranges in order, with a gap between them

  [[nodiscard]] static Mask full() { return {}; }                      ///< every query sees every key
  [[nodiscard]] static Mask causal() { return of(MaskKind::causal); }  ///< keys up to the query
  /// The last r keys, the query's own included.
  [[nodiscard]] static Mask sliding_window(Index r) {
    Mask mask = of(MaskKind::window);
    mask.window = r;
    return mask;
  }
  /// The last r keys, and the first s.
  [[nodiscard]] static Mask window_and_sinks(Index r, Index s) {
    Mask mask = of(MaskKind::sinks);
    mask.window = r;
    mask.sinks = s;
    return mask;
  }
  /// Keys from `left` before the query to `right` after it.
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

  /// Any pairs: query i of `queries` sees key j of `keys` where visible(i, j). Neighbours that see the same are kept as
  /// one, ranges as their ends.
  template <class Visible>
  [[nodiscard]] static Mask pairs(Index queries, Index keys, const Visible& visible) {
    Mask mask = of(MaskKind::blocks);
    std::vector<Rows> ranges;
    for (Index i = 0; i < queries; ++i) {
      ranges.clear();
      for (Index j = 0; j < keys; ++j) {
        if (!visible(i, j)) continue;
        if (!ranges.empty() && ranges.back().end == j)
          ++ranges.back().end;
        else
          ranges.push_back({j, j + 1});
      }
      mask.append_rows(i + 1, ranges);
    }
    return mask;
  }

  /// Block-sparse: block a of `block` queries sees block b of as many keys for each (a, b) of a list, in any order.
  ///
  ///   Throws   SpecError for a block outside the tokens
  template <class Pairs>
  [[nodiscard]] static Mask block_pairs(Index queries, Index keys, Index block, const Pairs& list) {
    if (block < 1 || queries < 1 || keys < 1)
      throw SpecError(detail::text("blocks of ", block, " tokens over ", queries, " queries and ", keys,
                                   " keys, expected 1 or more of each"));
    std::vector<std::vector<Index>> columns(static_cast<std::size_t>(ceil_div(queries, block)));
    for (const auto& [a, b] : list) {
      if (a < 0 || a >= static_cast<Index>(columns.size()) || b < 0 || b >= ceil_div(keys, block))
        throw SpecError(detail::text("block (", a, ", ", b, ") of ", block, " tokens lies outside ", queries,
                                     " queries and ", keys, " keys"));
      columns[static_cast<std::size_t>(a)].push_back(b);
    }
    Mask mask = of(MaskKind::blocks);
    for (std::size_t a = 0; a < columns.size(); ++a) {
      std::sort(columns[a].begin(), columns[a].end());
      std::vector<Rows> ranges;
      for (const Index b : columns[a]) {
        const Rows range = block_rows(b, block, keys);
        if (!ranges.empty() && ranges.back().end >= range.begin)
          ranges.back().end = range.end;
        else
          ranges.push_back(range);
      }
      mask.append_rows(block_rows(static_cast<Index>(a), block, queries).end, ranges);
    }
    return mask;
  }

  /// Calls visit(range) for the ranges of keys that `query` sees, in order.
  template <class Visit>
  void for_each_range(Index query, Index keys, Visit&& visit) const {
    if (kind == MaskKind::blocks) {
      for (const Rows& range : shown[group_of(query)]) visit(range);
      return;
    }
    const VisibleKeys seen = visible_keys(query, keys);
    if (!seen.sinks.empty()) visit(seen.sinks);
    if (!seen.keys.empty()) visit(seen.keys);
  }

  /// The keys that `query` sees, among `keys` of them; of blocks the range from the first to the last of them.
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
      case MaskKind::blocks: {
        const std::vector<Rows>& ranges = shown[group_of(query)];
        return {{0, 0}, ranges.empty() ? Rows{} : Rows{ranges.front().begin, ranges.back().end}};
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
      case MaskKind::blocks:
        break;
    }
    return *this;
  }

  /// How far queries see, where that is less than everything on some side.
  [[nodiscard]] std::optional<MaskReach> reach(Index tokens) const { return simplified(tokens).reach(); }
  /// The same for any number of tokens, however few.
  [[nodiscard]] std::optional<MaskReach> reach() const {
    if (kind == MaskKind::window) return MaskReach{window - 1, 0, 0};
    if (kind == MaskKind::sinks) return MaskReach{window - 1, 0, sinks};
    if (kind == MaskKind::band) return MaskReach{left, right, 0};
    return std::nullopt;
  }

  /// The most keys that a query sees, among `keys` of them; an upper bound for windows near the ends.
  [[nodiscard]] Index most_visible(Index keys) const {
    if (kind == MaskKind::window) return std::min(window, keys);
    if (kind == MaskKind::sinks) return std::min(window, keys) + std::min(sinks, keys);
    if (kind == MaskKind::band) return std::min(left, keys) + std::min(right, keys) + 1;
    if (kind == MaskKind::blocks) return keys;
    Index most = kind == MaskKind::documents ? 1 : keys;
    for (std::size_t d = 0; d < ends.size(); ++d) most = std::max(most, ends[d] - (d == 0 ? 0 : ends[d - 1]));
    return most;
  }

  /// The rows of the document that holds a position.
  [[nodiscard]] Rows document_of(Index position) const {
    const std::size_t d = group_of(position);
    return {d == 0 ? 0 : ends[d - 1], ends[d]};
  }

  /// The number of the document, or of the queries that see the same, that holds a position.
  [[nodiscard]] std::size_t group_of(Index position) const {
    const auto end = std::upper_bound(ends.begin(), ends.end(), position);
    TWOHEADS_ASSERT(end != ends.end());
    return static_cast<std::size_t>(end - ends.begin());
  }

  /// Throws SpecError if this mask is undefined, at all or for queries at these positions and so many keys.
  void require_defined(Rows queries, Index keys) const {
    if (queries.empty())
      throw SpecError(detail::text("the number of tokens is ", queries.size(), ", expected 1 or more"));
    if (queries.begin < 0)
      throw SpecError(detail::text("the first query stands at position ", queries.begin, ", expected 0 or more"));
    if (keys < 1) throw SpecError(detail::text("the number of keys is ", keys, ", expected 1 or more"));
    const bool one_sequence = kind != MaskKind::full && kind != MaskKind::blocks;
    if (one_sequence && queries.end != keys)
      throw SpecError(detail::text("a ", name(kind), " mask over ", queries.size(), " queries",
                                   queries.begin > 0 ? detail::text(" after ", queries.begin, " tokens") : "", " and ",
                                   keys, " keys is undefined: expected as many keys as queries",
                                   queries.begin > 0 ? " and tokens before them" : ""));
    const auto at_least = [](const char* what, Index value, Index least) {
      if (value < least) throw SpecError(detail::text("the ", what, " is ", value, ", expected ", least, " or more"));
    };
    if (kind == MaskKind::window || kind == MaskKind::sinks) at_least("window", window, 1);
    if (kind == MaskKind::sinks) at_least("number of sinks", sinks, 0);
    if (kind == MaskKind::band) at_least("left side of the band", left, 0);
    if (kind == MaskKind::band) at_least("right side of the band", right, 0);
    if (kind == MaskKind::documents) require_groups("documents", "document", queries);
    if (kind == MaskKind::blocks) require_blocks(queries, keys);
  }
  /// The same for a sequence's first `queries` positions.
  void require_defined(Index queries, Index keys) const { require_defined(Rows{0, queries}, keys); }

  friend bool operator==(const Mask&, const Mask&) = default;

 private:
  void require_groups(const char* what, const char* one, Rows queries) const {
    for (std::size_t d = 0; d < ends.size(); ++d)
      if (ends[d] <= (d == 0 ? 0 : ends[d - 1]))
        throw SpecError(
            detail::text(one, " ", d, " ends at ", ends[d], ", expected more than ", d == 0 ? 0 : ends[d - 1]));
    if (queries.begin != 0 || ends.empty() || ends.back() != queries.end)
      throw SpecError(detail::text("the ", what, " have ", ends.empty() ? 0 : ends.back(),
                                   " tokens together, expected ", queries.end,
                                   queries.begin > 0 ? ", with queries from the first on" : ""));
  }

  void require_blocks(Rows queries, Index keys) const {
    require_groups("blocks", "block", queries);
    if (shown.size() != ends.size())
      throw SpecError(detail::text("there are keys for ", shown.size(), " blocks of queries, expected ", ends.size()));
    for (std::size_t g = 0; g < shown.size(); ++g) {
      Index last = -1;
      for (const Rows& range : shown[g]) {
        if (range.begin <= last || range.empty() || range.end > keys)
          throw SpecError(detail::text("block ", g, " sees keys ", range.begin, "..", range.end - 1,
                                       ", expected ranges in order, with gaps between them, of ", keys, " keys"));
        last = range.end;
      }
    }
  }

  /// Queries up to `end` see these ranges.
  void append_rows(Index end, const std::vector<Rows>& ranges) {
    if (!shown.empty() && shown.back() == ranges) {
      ends.back() = end;
      return;
    }
    ends.push_back(end);
    shown.push_back(ranges);
  }

  [[nodiscard]] static Mask of(MaskKind kind) {
    Mask mask;
    mask.kind = kind;
    return mask;
  }
};

}  // namespace twoheads
