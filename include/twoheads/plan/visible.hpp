#pragma once

#include <algorithm>
#include <twoheads/base/index.hpp>
#include <twoheads/model/mask.hpp>
#include <vector>

namespace twoheads {

/// What a mask shows of a rectangle of pairs.
enum class Sight { hidden, partly, wholly };

/// What the mask shows of queries x keys, among `total` keys, in constant time (documents: a binary search; blocks: the
/// groups of the rectangle).
///
///   Laws     the ranges of visible keys neither begin nor end earlier for a later query, and those of neighbours leave
///            no gap between them; so the first and the last query of a rectangle tell all
///   Corner   both ranges of positions hold at least one row. Of blocks each group of queries is asked.
[[nodiscard]] inline Sight sight(const Mask& mask, const Rows& queries, const Rows& keys, Index total) {
  if (mask.kind == MaskKind::blocks) {
    bool some = false;
    bool all = true;
    for (std::size_t group = mask.group_of(queries.begin); group <= mask.group_of(queries.end - 1); ++group) {
      const std::vector<Rows>& shown = mask.shown[group];
      // Ranges come in order, with gaps between them.
      const auto range = std::upper_bound(shown.begin(), shown.end(), keys.begin,
                                          [](Index key, const Rows& rows) { return key < rows.end; });
      some = some || (range != shown.end() && range->begin < keys.end);
      all = all && range != shown.end() && range->begin <= keys.begin && keys.end <= range->end;
    }
    return all ? Sight::wholly : some ? Sight::partly : Sight::hidden;
  }
  const VisibleKeys first = mask.visible_keys(queries.begin, total);
  const VisibleKeys last = mask.visible_keys(queries.end - 1, total);
  const auto holds = [&](const Rows& range) { return range.begin <= keys.begin && keys.end <= range.end; };
  const auto shows_all = [&](const VisibleKeys& seen) { return holds(seen.keys) || holds(seen.sinks); };
  if (shows_all(first) && shows_all(last)) return Sight::wholly;
  const auto meets = [&](Index begin, Index end) { return std::max(begin, keys.begin) < std::min(end, keys.end); };
  const bool some = meets(first.keys.begin, last.keys.end) || meets(first.sinks.begin, first.sinks.end) ||
                    meets(last.sinks.begin, last.sinks.end);
  return some ? Sight::partly : Sight::hidden;
}

/// The share of the pairs queries x keys that the mask shows, 0..1: exact for up to `samples` queries, else from so
/// many evenly spaced ones.
[[nodiscard]] inline double visible_share(const Mask& mask, const Rows& queries, const Rows& keys, Index total,
                                          Index samples = 32) {
  const Index count = std::min(queries.size(), samples);
  const Index step = queries.size() / count;
  const auto overlap = [&](const Rows& range) {
    return std::max<Index>(std::min(range.end, keys.end) - std::max(range.begin, keys.begin), 0);
  };
  double shown = 0;
  for (Index sample = 0; sample < count; ++sample) {
    mask.for_each_range(queries.begin + sample * step + step / 2, total,
                        [&](const Rows& range) { shown += static_cast<double>(overlap(range)); });
  }
  return shown / (static_cast<double>(count) * static_cast<double>(keys.size()));
}

}  // namespace twoheads
