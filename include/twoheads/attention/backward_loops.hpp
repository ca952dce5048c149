#pragma once

#include <twoheads/attention/panel_loops.hpp>
#include <twoheads/attention/simd.hpp>
#include <twoheads/base/compiler.hpp>
#include <twoheads/base/index.hpp>

namespace twoheads::detail {

/// The loops that the derivative of a tile has beside those of PanelLoops, over one panel of queries and some keys.
template <SimdBackend Simd>
struct BackwardLoops {
  using Scalar = typename Simd::Scalar;
  using V = typename Simd::Vector;
  using Loops = PanelLoops<Simd>;
  static constexpr int lanes = Loops::lanes;
  static constexpr int vectors = Loops::vectors;
  static constexpr Index panel = Loops::panel;
  static constexpr int tile_rows = Loops::tile_rows;

  /// Columns that a matrix of `dim` of them takes in panels: whole vectors.
  [[nodiscard]] static constexpr Index padded(Index dim) { return ceil_div(dim, Index{lanes}) * lanes; }

  /// Scores become weights 2^((score - largest) * unit) * correction, and products (d_out v^T) the derivatives by
  /// scores weight * (product - mean).
  ///
  ///   Shapes   scores, products (count, panel); largest, corrections, means (panel)
  TWOHEADS_NOINLINE static void weigh(Scalar* scores, Scalar* products, const Scalar* largest,
                                      const Scalar* corrections, const Scalar* means, Scalar unit, Index count) {
    const V factor = Simd::broadcast(unit);
    V top[vectors];
    V correction[vectors];
    V mean[vectors];
    TWOHEADS_UNROLL
    for (int v = 0; v < vectors; ++v) {
      top[v] = Simd::load(largest + v * lanes);
      correction[v] = Simd::load(corrections + v * lanes);
      mean[v] = Simd::load(means + v * lanes);
    }
    TWOHEADS_UNROLL_TWICE
    for (Index j = 0; j < count; ++j) {
      TWOHEADS_UNROLL
      for (int v = 0; v < vectors; ++v) {
        Scalar* const score = scores + j * panel + v * lanes;
        Scalar* const product = products + j * panel + v * lanes;
        const V weight = Simd::multiply(Simd::exp2(Simd::multiply(Simd::subtract(Simd::load(score), top[v]), factor)),
                                        correction[v]);
        Simd::store(score, weight);
        Simd::store(product, Simd::multiply(weight, Simd::subtract(Simd::load(product), mean[v])));
      }
    }
  }

  /// out (Count rows, Wide vectors of columns) += a b: a's rows lie a panel apart, b's columns side by side.
  template <int Count, int Wide>
  TWOHEADS_ALWAYS_INLINE static void add_rows(const Scalar* a, const Scalar* b, Index b_stride, Index terms,
                                              Scalar* out, Index out_stride) {
    V sums[Count][Wide];
    TWOHEADS_UNROLL
    for (int i = 0; i < Count; ++i) {
      TWOHEADS_UNROLL
      for (int v = 0; v < Wide; ++v) sums[i][v] = Simd::load(out + i * out_stride + v * lanes);
    }
    TWOHEADS_UNROLL_TWICE
    for (Index k = 0; k < terms; ++k) {
      V x[Wide];
      TWOHEADS_UNROLL
      for (int v = 0; v < Wide; ++v) x[v] = Simd::load(b + k * b_stride + v * lanes);
      TWOHEADS_UNROLL
      for (int i = 0; i < Count; ++i) {
        const V factor = Simd::broadcast(a[i * panel + k]);
        TWOHEADS_UNROLL
        for (int v = 0; v < Wide; ++v) sums[i][v] = Simd::multiply_add(factor, x[v], sums[i][v]);
      }
    }
    TWOHEADS_UNROLL
    for (int i = 0; i < Count; ++i) {
      TWOHEADS_UNROLL
      for (int v = 0; v < Wide; ++v) Simd::store(out + i * out_stride + v * lanes, sums[i][v]);
    }
  }

  template <int Wide>
  TWOHEADS_ALWAYS_INLINE static void add_columns(const Scalar* weights, Index count, const Scalar* rows, Index stride,
                                                 Scalar* out) {
    Index j = 0;
    for (; j + tile_rows <= count; j += tile_rows)
      add_rows<tile_rows, Wide>(weights + j * panel, rows, stride, panel, out + j * stride, stride);
    for (; j + 2 <= count; j += 2)
      add_rows<2, Wide>(weights + j * panel, rows, stride, panel, out + j * stride, stride);
    for (; j < count; ++j) add_rows<1, Wide>(weights + j * panel, rows, stride, panel, out + j * stride, stride);
  }

  /// out (count, cols) += weights rows: what the queries of a panel add to keys.
  ///
  ///   Shapes   weights (count, panel); rows (panel, cols), out: `cols` apart, a whole number of vectors
  TWOHEADS_NOINLINE static void add_products(const Scalar* weights, Index count, const Scalar* rows, Index cols,
                                             Scalar* out) {
    Index col = 0;
    for (; col + panel <= cols; col += panel) add_columns<vectors>(weights, count, rows + col, cols, out + col);
    for (; col < cols; col += lanes) add_columns<1>(weights, count, rows + col, cols, out + col);
  }
};

}  // namespace twoheads::detail
