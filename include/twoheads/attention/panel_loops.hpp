#pragma once

#include <limits>
#include <twoheads/attention/simd.hpp>
#include <twoheads/base/compiler.hpp>
#include <twoheads/base/index.hpp>

namespace twoheads::detail {

/// The loops of the tile kernel over one panel of queries and some keys: nothing else takes time.
///
///   Shapes   a panel is two vectors wide; numbers of a panel lie at addresses that vectors may be loaded from
template <SimdBackend Simd>
struct PanelLoops {
  using Scalar = typename Simd::Scalar;
  using V = typename Simd::Vector;
  static constexpr int lanes = Simd::lanes;
  static constexpr int vectors = 2;
  static constexpr Index panel = vectors * lanes;
  /// Keys, or columns of values, of a register tile: with two vectors each, the sums leave registers for operands.
  static constexpr int tile_rows = Simd::registers >= 32 ? 8 : 6;
  /// The score of a key that a row does not see.
  static constexpr Scalar unseen = -std::numeric_limits<Scalar>::infinity();

  /// sums[i][v] += a[i * row_step + k * step] * b[k][v] for all k: the product that all time goes to.
  template <int Count>
  TWOHEADS_ALWAYS_INLINE static void multiply(V (&sums)[Count][vectors], const Scalar* a, Index row_step, Index step,
                                              const Scalar* b, Index terms) {
    TWOHEADS_UNROLL_TWICE
    for (Index k = 0; k < terms; ++k) {
      V x[vectors];
      TWOHEADS_UNROLL
      for (int v = 0; v < vectors; ++v) x[v] = Simd::load(b + k * panel + v * lanes);
      TWOHEADS_UNROLL
      for (int i = 0; i < Count; ++i) {
        const V factor = Simd::broadcast(a[i * row_step + k * step]);
        TWOHEADS_UNROLL
        for (int v = 0; v < vectors; ++v) sums[i][v] = Simd::multiply_add(factor, x[v], sums[i][v]);
      }
    }
  }

  template <int Count>
  TWOHEADS_ALWAYS_INLINE static void score_keys(const Scalar* keys, Index stride, const Scalar* queries, Index dim,
                                                Scalar* scores, V* largest) {
    V sums[Count][vectors];
    TWOHEADS_UNROLL
    for (int i = 0; i < Count; ++i) {
      TWOHEADS_UNROLL
      for (int v = 0; v < vectors; ++v) sums[i][v] = Simd::broadcast(Scalar(0));
    }
    multiply<Count>(sums, keys, stride, 1, queries, dim);
    TWOHEADS_UNROLL
    for (int i = 0; i < Count; ++i) {
      TWOHEADS_UNROLL
      for (int v = 0; v < vectors; ++v) {
        Simd::store(scores + i * panel + v * lanes, sums[i][v]);
        largest[v] = Simd::max(largest[v], sums[i][v]);
      }
    }
  }

  /// Rows `part` of scores (keys, panel) = keys queries^T, and the largest of each lane.
  ///
  ///   Shapes   keys (part.end or more, dim), `stride` apart; queries (dim, panel)
  TWOHEADS_NOINLINE static void score(const Scalar* keys, Index stride, const Scalar* queries, Index dim,
                                      Scalar* scores, Rows part, V* found) {
    V largest[vectors];
    TWOHEADS_UNROLL
    for (int v = 0; v < vectors; ++v) largest[v] = found[v];
    Index i = part.begin;
    for (; i + tile_rows <= part.end; i += tile_rows)
      score_keys<tile_rows>(keys + i * stride, stride, queries, dim, scores + i * panel, largest);
    for (; i + 2 <= part.end; i += 2)
      score_keys<2>(keys + i * stride, stride, queries, dim, scores + i * panel, largest);
    for (; i < part.end; ++i) score_keys<1>(keys + i * stride, stride, queries, dim, scores + i * panel, largest);
    TWOHEADS_UNROLL
    for (int v = 0; v < vectors; ++v) found[v] = largest[v];
  }

  /// Scores become weights 2^((score - largest so far) * unit); `rescale` is what older sums must be multiplied by.
  ///
  ///   Shapes   scores (count, panel); largest, weights (panel): of all keys so far, brought up to date; found: the
  ///            largest of these scores
  TWOHEADS_NOINLINE static void weigh(Scalar* scores, Scalar* largest, Scalar* weights, Scalar unit, const V* found,
                                      V* rescale, Index count) {
    const V factor = Simd::broadcast(unit);
    V top[vectors];
    V sum[vectors];
    TWOHEADS_UNROLL
    for (int v = 0; v < vectors; ++v) {
      const V before = Simd::load(largest + v * lanes);
      top[v] = Simd::max(before, found[v]);
      // The difference is taken first: it is exact where it matters, and 0 where the largest score stays.
      rescale[v] = Simd::exp2(Simd::multiply(Simd::subtract(before, top[v]), factor));
      Simd::store(largest + v * lanes, top[v]);
      sum[v] = Simd::broadcast(Scalar(0));
    }
    TWOHEADS_UNROLL_TWICE
    for (Index j = 0; j < count; ++j) {
      TWOHEADS_UNROLL
      for (int v = 0; v < vectors; ++v) {
        Scalar* const at = scores + j * panel + v * lanes;
        const V weight = Simd::exp2(Simd::multiply(Simd::subtract(Simd::load(at), top[v]), factor));
        sum[v] = Simd::add(sum[v], weight);
        Simd::store(at, weight);
      }
    }
    TWOHEADS_UNROLL
    for (int v = 0; v < vectors; ++v)
      Simd::store(weights + v * lanes, Simd::multiply_add(Simd::load(weights + v * lanes), rescale[v], sum[v]));
  }

  template <int Count>
  TWOHEADS_ALWAYS_INLINE static void sum_columns(const Scalar* values, Index stride, const Scalar* weights,
                                                 Scalar* totals, const V* rescale, Index count) {
    V sums[Count][vectors];
    TWOHEADS_UNROLL
    for (int i = 0; i < Count; ++i) {
      TWOHEADS_UNROLL
      for (int v = 0; v < vectors; ++v) sums[i][v] = Simd::broadcast(Scalar(0));
    }
    multiply<Count>(sums, values, 1, stride, weights, count);
    TWOHEADS_UNROLL
    for (int i = 0; i < Count; ++i) {
      TWOHEADS_UNROLL
      for (int v = 0; v < vectors; ++v) {
        Scalar* const at = totals + i * panel + v * lanes;
        Simd::store(at, Simd::multiply_add(Simd::load(at), rescale[v], sums[i][v]));
      }
    }
  }

  /// sums (value_dim, panel) = sums * rescale + values^T weights.
  ///
  ///   Shapes   values (count, dim), `stride` apart; weights (count, panel); sums (dim, panel)
  TWOHEADS_NOINLINE static void sum_values(const Scalar* values, Index stride, Index dim, const Scalar* weights,
                                           Scalar* sums, const V* rescale, Index count) {
    Index i = 0;
    for (; i + tile_rows <= dim; i += tile_rows)
      sum_columns<tile_rows>(values + i, stride, weights, sums + i * panel, rescale, count);
    for (; i + 2 <= dim; i += 2) sum_columns<2>(values + i, stride, weights, sums + i * panel, rescale, count);
    for (; i < dim; ++i) sum_columns<1>(values + i, stride, weights, sums + i * panel, rescale, count);
  }

  /// Scores of keys that a lane does not see become -inf.
  ///
  ///   Shapes   bounds (2, panel): the first key that a lane sees, and one after the last
  TWOHEADS_NOINLINE static void hide(Scalar* scores, const Scalar* bounds, Rows part) {
    const V hidden = Simd::broadcast(unseen);
    for (int v = 0; v < vectors; ++v) {
      const V first = Simd::load(bounds + v * lanes);
      const V last = Simd::load(bounds + panel + v * lanes);
      for (Index j = part.begin; j < part.end; ++j) {
        Scalar* const at = scores + j * panel + v * lanes;
        Simd::store(at, Simd::select(Simd::load(at), hidden, Simd::broadcast(static_cast<Scalar>(j)), first, last));
      }
    }
  }

  /// Brings the largest score of each lane up to date.
  TWOHEADS_NOINLINE static void find_largest(const Scalar* scores, Rows part, V* largest) {
    for (int v = 0; v < vectors; ++v)
      for (Index j = part.begin; j < part.end; ++j)
        largest[v] = Simd::max(largest[v], Simd::load(scores + j * panel + v * lanes));
  }
};

}  // namespace twoheads::detail
