#pragma once

#include <algorithm>
#include <twoheads/base/index.hpp>
#include <twoheads/plan/limits.hpp>
#include <twoheads/plan/tile.hpp>

namespace twoheads {

/// Which query and which key of a tile each row of a call carries.
///
///   plain oracle      rectangle: row x carries query x and key x; the synthetic key comes last
///   causal oracle     lower triangle: the synthetic key comes first, row 1 + x carries query x and key x;
///                     strict upper triangle: reversed and shifted by one, row x of n carries key n - x and query
///                     n - 1 - x; rectangle with its queries last: row 1 + x carries key x, row n + x query x
///   straight          as the tokens stand, no synthetic key
///   Corner   a row without a key of its own carries a copy of the synthetic key, and so do rows that pad a call. A
///            query that sees no key gets no row.
///   Source   Yu & Alman, Lemma 3.1 (plain), Claim B.6 (lower), Theorem 3.5 (reversed; the printed numerator call
///            lacks the shift)
class RowMap {
 public:
  static constexpr Index none = -1;  ///< no query, or no key

  RowMap(const Tile& tile, OracleKind oracle, bool straight)
      : tile_(tile), queries_(tile.queries.size()), keys_(tile.keys.size()) {
    const bool causal = oracle == OracleKind::causal;
    if (straight) {
      order_ = Order::as_they_stand;
      TWOHEADS_ASSERT(tile.shape == (causal ? TileShape::lower : TileShape::rectangle));
    } else if (!causal) {
      order_ = Order::synthetic_last;
      TWOHEADS_ASSERT(tile.shape == TileShape::rectangle);
    } else {
      TWOHEADS_ASSERT(tile.shape != TileShape::rectangle || tile.queries_last);
      order_ = tile.shape == TileShape::rectangle ? Order::queries_last
               : tile.shape == TileShape::lower   ? Order::synthetic_first
                                                  : Order::reversed;
    }
  }

  [[nodiscard]] const Tile& tile() const { return tile_; }  ///< the tile that is mapped

  /// Rows that the tile needs, the synthetic one included; a call may have more.
  [[nodiscard]] Index rows() const {
    switch (order_) {
      case Order::as_they_stand:
        return std::max(queries_, keys_);
      case Order::synthetic_last:
        return std::max(queries_, keys_) + 1;
      case Order::synthetic_first:
        return queries_ + 1;
      case Order::queries_last:
        return keys_ + queries_;
      case Order::reversed:
        break;
    }
    return keys_;
  }

  /// Number of the key inside the tile that a row carries, or none.
  [[nodiscard]] Index key_at(Index row) const {
    Index key = row;
    if (order_ == Order::synthetic_first || order_ == Order::queries_last) key = row - 1;
    if (order_ == Order::reversed) key = row == 0 ? none : keys_ - row;
    return key >= 0 && key < keys_ && row < rows() ? key : none;
  }

  /// Number of the query inside the tile that a row carries, or none.
  [[nodiscard]] Index query_at(Index row) const {
    Index query = row;
    if (order_ == Order::synthetic_first) query = row - 1;
    if (order_ == Order::queries_last) query = row - keys_;
    if (order_ == Order::reversed) query = row == 0 ? none : keys_ - 1 - row;
    return query >= 0 && query < queries_ ? query : none;
  }

  /// The row that carries a query of the tile, or none where the query sees no key.
  [[nodiscard]] Index row_of(Index query) const {
    switch (order_) {
      case Order::as_they_stand:
      case Order::synthetic_last:
        return query;
      case Order::synthetic_first:
        return query + 1;
      case Order::queries_last:
        return keys_ + query;
      case Order::reversed:
        break;
    }
    return query < keys_ - 1 ? keys_ - 1 - query : none;
  }

 private:
  enum class Order { as_they_stand, synthetic_last, synthetic_first, queries_last, reversed };

  Tile tile_;
  Index queries_;
  Index keys_;
  Order order_ = Order::synthetic_last;
};

}  // namespace twoheads
