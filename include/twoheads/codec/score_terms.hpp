#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <twoheads/attention/input.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/codec/slot_map.hpp>
#include <twoheads/plan/tile.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// What ALiBi and a bias add to the scores of one slot, as columns of queries and keys: scores are products again.
///
///   Math     t_ij = slope (j - ref) + bias_ij of the query at i and the key at j; the query has 1 in a column of its
///            own, the key t_ij there. Where no bias differs by query, one column serves all queries.
///            slope (ref - i) is left out: shift(), which its row's log weight gets back.
///   Laws     ref is the last key of a tile, so that the digits of terms do not depend on positions; of tiles that
///            share sinks, the last key of all
///   Corner   a bias of -infinity hides the pair: what a key has there is the caller's
///   Source   Press, Smith & Lewis, ICLR 2022 (ALiBi)
template <RealScalar Scalar>
class ScoreTerms {
 public:
  /// Columns that the terms of an input take in slots whose queries are `most_queries` or fewer.
  [[nodiscard]] static Index columns(const AttentionInput<Scalar>& input, Index most_queries) {
    if (input.bias.empty()) return input.spec.alibi.empty() ? 0 : 1;
    return input.bias.by_query ? most_queries : 1;
  }

  ScoreTerms(const AttentionInput<Scalar>& input, Index head, const SlotMap& map)
      : input_(&input),
        head_(head),
        slope_(input.spec.alibi.empty() ? 0.0 : input.spec.alibi[static_cast<std::size_t>(head)]),
        by_query_(!input.bias.empty() && input.bias.by_query) {
    if (columns(input, 1) == 0) return;
    Index last = 0;
    Index queries = 0;
    const bool shared = !map.tile(0).sinks.empty();
    for (Index job = 0; job < map.jobs(); ++job) {
      const Tile& tile = map.tile(job);
      last = std::max(last, tile.keys.end - 1);
      tiles_.push_back({tile, tile.keys.end - 1, shared ? queries : 0, {}});
      queries += tile.queries.size();
    }
    for (PlacedTile& placed : tiles_) {
      if (shared) placed.ref = last;
      measure(placed);
    }
  }

  [[nodiscard]] bool empty() const { return tiles_.empty(); }  ///< whether nothing is added
  [[nodiscard]] bool by_query() const { return by_query_; }    ///< whether each query has a column of its own
  /// Largest |t| of any pair that is not hidden, and whether any is.
  [[nodiscard]] double largest() const { return largest_; }
  [[nodiscard]] bool hides() const { return hides_; }  ///< whether some pair is hidden
  /// Whether the bias hides all keys of a tile from one of its queries.
  [[nodiscard]] bool hides_all(Index job, Index query) const {
    const std::vector<bool>& blind = at(job).blind;
    return !blind.empty() && blind[static_cast<std::size_t>(query)];
  }

  /// t of query number `query` of a tile and the key at a position; -infinity hides.
  [[nodiscard]] double term(Index job, Index query, Index key) const {
    const PlacedTile& placed = at(job);
    const double near = slope_ * static_cast<double>(key - placed.ref);
    if (input_->bias.empty()) return near;
    return near + static_cast<double>(input_->bias_of(head_, placed.tile.queries.begin + query)[key]);
  }

  /// What the terms of a row leave out of its logits, alike for all keys.
  [[nodiscard]] double shift(Index job, Index query) const {
    const PlacedTile& placed = at(job);
    return slope_ * static_cast<double>(placed.ref - (placed.tile.queries.begin + query));
  }

  /// The column of a query.
  [[nodiscard]] Index column(Index job, Index query) const { return by_query_ ? at(job).first_column + query : 0; }

  /// Writes the columns of a key of a tile, or of a sink, whose job is SlotMap::none. Shapes: out (cols)
  void write_key(Index job, Index key, Scalar hidden, Scalar* out, Index cols) const {
    std::fill_n(out, cols, Scalar(0));
    const Index first = job == SlotMap::none ? 0 : job;
    const Index end = job == SlotMap::none && by_query_ ? static_cast<Index>(tiles_.size()) : first + 1;
    for (Index j = first; j < end; ++j)
      for (Index query = 0; query < (by_query_ ? at(j).tile.queries.size() : 1); ++query) {
        const double added = term(j, query, key);
        out[column(j, query)] = std::isinf(added) ? hidden : static_cast<Scalar>(added);
      }
  }

 private:
  struct PlacedTile {
    Tile tile;
    Index ref = 0;
    Index first_column = 0;   ///< of its queries, where each has one
    std::vector<bool> blind;  ///< queries that see no key, where there are such
  };

  [[nodiscard]] const PlacedTile& at(Index job) const { return tiles_[static_cast<std::size_t>(job)]; }

  void measure(PlacedTile& placed) {
    const Tile& tile = placed.tile;
    const auto job = static_cast<Index>(&placed - tiles_.data());
    if (input_->bias.empty()) {
      const Index first = tile.sinks.empty() ? tile.keys.begin : tile.sinks.begin;
      largest_ = std::max(largest_, std::abs(slope_) * static_cast<double>(placed.ref - first));
      return;
    }
    std::vector<bool> blind(static_cast<std::size_t>(tile.queries.size()), false);
    bool any = false;
    for (Index query = 0; query < tile.queries.size(); ++query) {
      const Rows seen = tile.visible_keys(query);
      bool none = true;
      const auto look = [&](Rows keys) {
        for (Index key = keys.begin; key < keys.end; ++key) {
          const double added = term(job, query, key);
          if (std::isinf(added))
            hides_ = true;
          else
            largest_ = std::max(largest_, std::abs(added));
          none = none && (std::isinf(added) || !seen_by(tile, seen, key));
        }
      };
      look(tile.sinks);
      look(tile.keys);
      blind[static_cast<std::size_t>(query)] = none;
      any = any || none;
    }
    if (any) placed.blind = std::move(blind);
  }

  [[nodiscard]] static bool seen_by(const Tile& tile, const Rows& seen, Index key) {
    return seen.contains(key) || tile.sinks.contains(key);
  }

  const AttentionInput<Scalar>* input_;
  Index head_;
  double slope_;
  bool by_query_;
  double largest_ = 0;
  bool hides_ = false;
  std::vector<PlacedTile> tiles_;
};

}  // namespace twoheads
