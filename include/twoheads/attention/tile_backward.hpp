#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <twoheads/attention/backward_loops.hpp>
#include <twoheads/attention/key_band.hpp>
#include <twoheads/attention/panel_loops.hpp>
#include <twoheads/attention/simd.hpp>
#include <twoheads/attention/tile_terms.hpp>
#include <twoheads/base/aligned_buffer.hpp>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/matrix.hpp>
#include <vector>

namespace twoheads {

/// The derivative of TileKernel: what one block of queries asks of tiles of keys, from the log weights of its rows.
/// Scores are computed once more, 128 keys at a time; there is room for the block and these alone.
///
///   Shapes   queries (n, head_dim), d_out (n, value_dim), log_weights and means (n), keys (m, head_dim), values
///            (m, value_dim); d_keys, d_values: shapes of keys and values, added to; d_queries (n, head_dim)
///   Math     P = exp(score - log weight), d_values += P^T d_out; d_score = P * (d_out v^T - mean), mean_i = d_out_i .
///            out_i; d_queries = scale d_score k, d_keys += scale d_score^T q. Capped scores: d_score times
///            1 - (score / cap)^2. Terms of scores are constants.
///   Laws     bits depend on the block, the tiles and their order alone
///   Corner   a log weight of -infinity: the row sees no key, and has no derivative. What the scalar cannot hold of a
///            log weight corrects the weights of its row, so that they keep their digits at any size of logits. NaN and
///            infinity are not lost, but may reach neighbours that do not see them:
///            a step of training has no use for either.
///   Source   Dao et al., FlashAttention (2022), algorithm 4
template <RealScalar S, SimdBackend Simd = DefaultSimd<S>>
class TileBackward {
 public:
  using Scalar = S;
  static constexpr Index panel = detail::PanelLoops<Simd>::panel;  ///< queries of a panel, two vectors of them
  static constexpr Index key_step = 128;                           ///< keys whose scores are held at once

  TileBackward(Index head_dim, Index value_dim, const ScoreRule& rule)
      : head_dim_(head_dim), value_dim_(value_dim), rule_(rule), unit_(rule) {
    head_cols_ = Backward::padded(head_dim);
    value_cols_ = Backward::padded(value_dim);
    scores_ = detail::AlignedBuffer<Scalar>(key_step * panel);
    products_ = detail::AlignedBuffer<Scalar>(key_step * panel);
    if (rule.soft_cap > 0) slopes_ = detail::AlignedBuffer<Scalar>(key_step * panel);
    seen_bounds_ = detail::AlignedBuffer<Scalar>(2 * panel);
    keys_ = detail::AlignedBuffer<Scalar>(key_step * head_dim);
    values_ = detail::AlignedBuffer<Scalar>(key_step * value_dim);
    d_keys_ = detail::AlignedBuffer<Scalar>(key_step * head_cols_);
    d_values_ = detail::AlignedBuffer<Scalar>(key_step * value_cols_);
  }

  /// Takes the next block of queries.
  void begin(const MatrixView<Scalar>& queries, const MatrixView<Scalar>& d_out, const double* log_weights,
             const double* means) {
    rows_ = queries.rows();
    panels_ = ceil_div(rows_, panel);
    if (panels_ > capacity_) {
      capacity_ = panels_;
      across_ = detail::AlignedBuffer<Scalar>(panels_ * panel * (head_dim_ + value_dim_));
      along_ = detail::AlignedBuffer<Scalar>(panels_ * panel * (head_cols_ + value_cols_));
      sums_ = detail::AlignedBuffer<Scalar>(panels_ * panel * head_dim_);
      rows_of_ = detail::AlignedBuffer<Scalar>(panels_ * panel * 3);
    }
    std::fill_n(sums_.data(), panels_ * panel * head_dim_, Scalar(0));
    for (Index p = 0; p < panels_; ++p) {
      for (Index lane = 0; lane < panel; ++lane) {
        const Index row = p * panel + lane;
        // NaN is carried on.
        const bool there = row < rows_ && log_weights[row] != -std::numeric_limits<double>::infinity();
        lay(there ? queries.data() + row * queries.outerStride() : nullptr, unit_.sign, head_dim_, head_cols_, lane,
            queries_across(p), queries_along(p));
        lay(there ? d_out.data() + row * d_out.outerStride() : nullptr, Scalar(1), value_dim_, value_cols_, lane,
            d_out_across(p), d_out_along(p));
        Scalar* const own = rows_of_.data() + p * panel * 3 + lane;
        // A row without derivative has zeros for rows, and weights of 0.
        own[0] = there && holds_log_weights() ? static_cast<Scalar>(log_weights[row] / unit_.nats) : Scalar(0);
        own[panel] = there ? static_cast<Scalar>(std::exp(static_cast<double>(own[0]) * unit_.nats - log_weights[row]))
                           : Scalar(0);
        own[2 * panel] = there ? static_cast<Scalar>(means[row]) : Scalar(0);
      }
    }
  }

  /// Adds what a tile has to do with the block: `rows` of the block see some keys.
  void add(Rows rows, const MatrixView<Scalar>& keys, const MatrixView<Scalar>& values, const KeyBand& band,
           double log_factor, const TileTerms<Scalar>& terms, MatrixSpan<Scalar> d_keys, MatrixSpan<Scalar> d_values) {
    tile_factor_ = log_factor == 0 ? Scalar(1) : static_cast<Scalar>(std::exp(log_factor));
    const Rows panels{rows.begin / panel, ceil_div(rows.end, panel)};
    for (Index first = 0; first < keys.rows(); first += key_step) {
      const Rows block = band.seen_by_some({0, rows.size()}, {first, std::min(first + key_step, keys.rows())});
      if (block.empty()) continue;
      pack(keys, block, head_dim_, keys_);
      pack(values, block, value_dim_, values_);
      std::fill_n(d_keys_.data(), block.size() * head_cols_, Scalar(0));
      std::fill_n(d_values_.data(), block.size() * value_cols_, Scalar(0));
      for (Index p = panels.begin; p < panels.end; ++p) add_panel(p, rows, block, band, terms);
      add_to(d_keys, block, d_keys_.data(), head_dim_, head_cols_, static_cast<Scalar>(std::abs(rule_.score_scale)));
      add_to(d_values, block, d_values_.data(), value_dim_, value_cols_, Scalar(1));
    }
  }

  /// What was found for the queries.
  void finish(MatrixSpan<Scalar> d_queries) const {
    const auto scale = static_cast<Scalar>(rule_.score_scale);
    for (Index row = 0; row < rows_; ++row) {
      const Scalar* const from = sums_.data() + row / panel * panel * head_dim_ + row % panel;
      for (Index col = 0; col < head_dim_; ++col) d_queries(row, col) = scale * from[col * panel];
    }
  }

 private:
  using Loops = detail::PanelLoops<Simd>;
  using Backward = detail::BackwardLoops<Simd>;
  using V = typename Simd::Vector;
  static constexpr int vectors = Loops::vectors;
  static constexpr int lanes = Loops::lanes;

  /// Whether a log weight in units of held scores is within the scalar's range; where it is not, all held scores are
  /// next to nothing, and the corrections alone make the weights.
  [[nodiscard]] bool holds_log_weights() const { return unit_.nats > 1e6 * std::numeric_limits<Scalar>::min(); }

  // Of each panel the rows lie twice: across, a column's numbers side by side, for products over columns; and along, a
  // row's numbers side by side, for products over rows.
  [[nodiscard]] Scalar* queries_across(Index p) { return across_.data() + p * panel * (head_dim_ + value_dim_); }
  [[nodiscard]] Scalar* d_out_across(Index p) { return queries_across(p) + panel * head_dim_; }
  [[nodiscard]] Scalar* queries_along(Index p) { return along_.data() + p * panel * (head_cols_ + value_cols_); }
  [[nodiscard]] Scalar* d_out_along(Index p) { return queries_along(p) + panel * head_cols_; }

  static void lay(const Scalar* row, Scalar sign, Index dim, Index cols, Index lane, Scalar* across, Scalar* along) {
    for (Index col = 0; col < cols; ++col) {
      const Scalar value = row != nullptr && col < dim ? sign * row[col] : Scalar(0);
      along[lane * cols + col] = value;
      if (col < dim) across[col * panel + lane] = value;
    }
  }

  static void pack(const MatrixView<Scalar>& rows, Rows block, Index dim, detail::AlignedBuffer<Scalar>& room) {
    for (Index row = 0; row < block.size(); ++row)
      std::copy_n(rows.data() + (block.begin + row) * rows.outerStride(), dim, room.data() + row * dim);
  }

  static void add_to(MatrixSpan<Scalar>& out, Rows block, const Scalar* found, Index dim, Index cols, Scalar scale) {
    for (Index row = 0; row < block.size(); ++row) {
      Scalar* const to = out.data() + (block.begin + row) * out.outerStride();
      for (Index col = 0; col < dim; ++col) to[col] += scale * found[row * cols + col];
    }
  }

  void add_panel(Index p, Rows rows, Rows block, const KeyBand& band, const TileTerms<Scalar>& terms) {
    const Index first_row = std::max(p * panel, rows.begin) - rows.begin;
    const Index last_row = std::min({(p + 1) * panel, rows_, rows.end}) - 1 - rows.begin;
    const Index begin = std::max(block.begin, first_row + band.from);
    const Index end = std::min(block.end, last_row + band.to);
    if (begin >= end) return;
    const Index count = end - begin;
    const Index skipped = begin - block.begin;
    Scalar* const scores = scores_.data();
    Scalar* const products = products_.data();
    V unused[vectors];
    for (int v = 0; v < vectors; ++v) unused[v] = Simd::broadcast(Loops::unseen);
    const Rows all{0, count};
    Loops::score(keys_.data() + skipped * head_dim_, head_dim_, queries_across(p), head_dim_, scores, all, unused);
    Loops::score(values_.data() + skipped * value_dim_, value_dim_, d_out_across(p), value_dim_, products, all, unused);

    const detail::PanelPlace place{p * panel - rows.begin, rows.size()};
    const bool capped = rule_.soft_cap > 0;
    if (capped) {
      detail::cap_scores(scores, count * panel, rule_);
      const auto cap = static_cast<Scalar>(rule_.soft_cap);
      for (Index at = 0; at < count * panel; ++at)
        slopes_.data()[at] = Scalar(1) - (scores[at] / cap) * (scores[at] / cap);
    }
    if (rule_.terms)
      detail::add_terms<panel>(scores, place, {begin, end},
                               capped ? Scalar(1) : static_cast<Scalar>(std::abs(rule_.score_scale)), terms);
    const bool whole = rows.begin <= p * panel && rows.end >= std::min((p + 1) * panel, rows_) &&
                       last_row + band.from <= begin && first_row + band.to >= end;
    if (!whole) {
      detail::set_seen_bounds<panel>(seen_bounds_.data(), place, {begin, end}, band);
      Loops::hide(scores, seen_bounds_.data(), all);
    }
    const Scalar* const own = rows_of_.data() + p * panel * 3;
    Backward::weigh(scores, products, own, own + panel, own + 2 * panel, unit_.powers, count);
    if (tile_factor_ != Scalar(1))
      for (Index at = 0; at < count * panel; ++at) {
        scores[at] *= tile_factor_;
        products[at] *= tile_factor_;
      }
    if (capped)
      for (Index at = 0; at < count * panel; ++at) products[at] *= slopes_.data()[at];
    V same[vectors];
    for (int v = 0; v < vectors; ++v) same[v] = Simd::broadcast(Scalar(1));
    Loops::sum_values(keys_.data() + skipped * head_dim_, head_dim_, head_dim_, products,
                      sums_.data() + p * panel * head_dim_, same, count);
    Backward::add_products(scores, count, d_out_along(p), value_cols_, d_values_.data() + skipped * value_cols_);
    Backward::add_products(products, count, queries_along(p), head_cols_, d_keys_.data() + skipped * head_cols_);
  }

  Index head_dim_;
  Index value_dim_;
  Index head_cols_ = 0;
  Index value_cols_ = 0;
  ScoreRule rule_;
  detail::ScoreUnit<Scalar> unit_;
  Scalar tile_factor_ = 1;
  Index rows_ = 0;
  Index panels_ = 0;
  Index capacity_ = 0;
  detail::AlignedBuffer<Scalar> across_, along_, sums_;
  detail::AlignedBuffer<Scalar> rows_of_;  ///< (panels, 3, panel): log weight, correction, mean
  detail::AlignedBuffer<Scalar> scores_, products_, slopes_, seen_bounds_;
  detail::AlignedBuffer<Scalar> keys_, values_, d_keys_, d_values_;
};

}  // namespace twoheads
