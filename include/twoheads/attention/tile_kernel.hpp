#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstring>
#include <limits>
#include <twoheads/attention/key_band.hpp>
#include <twoheads/attention/panel_loops.hpp>
#include <twoheads/attention/partial.hpp>
#include <twoheads/attention/simd.hpp>
#include <twoheads/attention/tile_terms.hpp>
#include <twoheads/base/aligned_buffer.hpp>
#include <twoheads/base/compiler.hpp>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/matrix.hpp>

namespace twoheads {

/// Attention of one block of queries over tiles of keys, fused: scores, exponentials and sums in one pass, with room
/// for the block alone. Tiles of disjoint key sets are added one after the other; what comes out is their merge.
///
///   Shapes   queries (n, head_dim), keys (m, head_dim), values (m, value_dim), out (n, value_dim); rows may lie any
///            number of entries apart
///   Math     queries are the lanes of vectors, in panels of two vectors. Only queries are transposed, keys and values
///            are read where they lie. Scores of 128 keys at a time are held; inside them numerators and denominators
///            are summed from 0, then joined to what came before by exp2(old largest - new largest).
///   Laws     bits depend on the queries of the block, the tiles and their order alone. After 4096 keys, what was
///            found is joined into sums of SumScalar: the error does not grow with the number of keys.
///   Corner   as IEEE direct evaluation: NaN and infinity reach the rows that see them and no other, where add() is
///            told of values that are not finite; a row that sees no key is zero with log weight -inf. Weights below
///            the scalar's normal numbers are 0, also where an infinite value makes NaN of that. Values beyond a
///            hundredth of the scalar's range may overflow a sum before larger scores make little of it.
///   Source   Yu & Alman, Lemma 3.1 joins tiles; the fused pass is FlashAttention's (Dao et al., 2022)
template <RealScalar S, SimdBackend Simd = DefaultSimd<S>>
requires std::same_as<S, typename Simd::Scalar>
class TileKernel {
 public:
  using Scalar = S;
  /// Queries of a panel: a block of a multiple of it leaves no lane idle.
  static constexpr Index panel = detail::PanelLoops<Simd>::panel;
  /// Keys whose scores are held at a time.
  static constexpr Index key_step = 128;

  TileKernel(Index head_dim, Index value_dim, const ScoreRule& rule)
      : head_dim_(head_dim), value_dim_(value_dim), rule_(rule), unit_(rule) {
    if (head_dim < 1 || value_dim < 1)
      throw SpecError(detail::text("a tile kernel for head dim ", head_dim, " and value dim ", value_dim,
                                   ": expected 1 or more of each"));
    if (!std::isfinite(rule.score_scale))
      throw SpecError(detail::text("score_scale is ", rule.score_scale, ", expected a finite number"));
    if (!(rule.soft_cap >= 0) || !std::isfinite(rule.soft_cap))
      throw SpecError(detail::text("soft_cap is ", rule.soft_cap, ", expected 0 (none) or a finite number above 0"));
    scores_ = detail::AlignedBuffer<Scalar>(key_step * panel);
    seen_bounds_ = detail::AlignedBuffer<Scalar>(2 * panel);
    transposed_ = detail::AlignedBuffer<Scalar>(panel * transposed_cols);
  }

  /// Takes the next block of queries; nothing has been seen yet.
  void begin(const MatrixView<Scalar>& queries) { begin(queries, 0, queries.rows()); }

  /// Takes some queries of a block of `block_rows`, from row `first` of it on: the others are somebody else's. Tiles
  /// are those of the whole block, and keys that none of these queries sees are not touched.
  ///
  ///   Laws     the bits of a query are those that it has in the whole block
  void begin(const MatrixView<Scalar>& queries, Index first, Index block_rows) {
    detail::require_shape("the queries of a tile kernel", queries, queries.rows(), head_dim_);
    TWOHEADS_ASSERT(first >= 0 && first + queries.rows() <= block_rows);
    rows_ = queries.rows();
    first_row_ = first;
    block_rows_ = block_rows;
    panels_ = ceil_div(rows_, panel);
    if (panels_ > panel_capacity_) {
      panel_capacity_ = panels_;
      queries_ = detail::AlignedBuffer<Scalar>(panels_ * head_dim_ * panel);
      sums_ = detail::AlignedBuffer<Scalar>(panels_ * value_dim_ * panel);
      largest_ = detail::AlignedBuffer<Scalar>(panels_ * panel);
      weights_ = detail::AlignedBuffer<Scalar>(panels_ * panel);
    }
    for (Index p = 0; p < panels_; ++p)
      for (Index begin = 0; begin < head_dim_; begin += transposed_cols)
        transpose_queries(queries, p, {begin, std::min(begin + transposed_cols, head_dim_)});
    seen_.setZero(rows_);
    joined_ = false;
    clear();
  }

  /// Adds a tile: some rows of the block see some keys.
  ///
  ///   Shapes   keys (m, head_dim), values (m, value_dim), m >= 0, of Scalar or of Eigen's half or bfloat16, which are
  ///            widened before use; `rows` within the block
  ///   Laws     no key of the tile is one that its rows have seen before
  ///            A tile may be added part by part, cut at multiples of key_step keys, in order, with the band counted
  ///            from each part's first key: the bits are those of the whole.
  ///   Corner   log_factor: the tile counts exp(log_factor) times. finite_values: false where a value may be NaN or
  ///            infinite, so that it must not be multiplied by the weight 0 of a row that does not see it. terms: where
  ///            the rule says that tiles have them
  template <class Stored>
  void add(Rows rows, const MatrixView<Stored>& keys, const MatrixView<Stored>& values, const KeyBand& band,
           double log_factor = 0, bool finite_values = true, const TileTerms<Scalar>& terms = {}) {
    add(rows, keys.rows(), 0, keys, values, band, log_factor, finite_values, terms);
  }

  /// The same for a tile of `count` keys of which only those from number `first` on are at hand:
  /// all that our queries see.
  template <class Stored>
  void add(Rows rows, Index count, Index first_key, const MatrixView<Stored>& keys, const MatrixView<Stored>& values,
           const KeyBand& band, double log_factor, bool finite_values, const TileTerms<Scalar>& terms) {
    detail::require_shape("the keys of a tile", keys, keys.rows(), head_dim_);
    detail::require_shape("the values of a tile", values, keys.rows(), value_dim_);
    if (rows.begin < 0 || rows.end > block_rows_)
      throw ShapeError(detail::text("a tile of rows ", rows.begin, "..", rows.end - 1, " of a block of ", block_rows_));
    if (rows.empty() || count == 0) return;
    if (!std::isfinite(log_factor))
      throw SpecError(detail::text("the log factor of a tile is ", log_factor, ", expected a finite number"));
    TWOHEADS_ASSERT(rule_.terms || (terms.slope == 0 && terms.bias == nullptr));
    if (keys_since_join_ > 0 && log_factor != log_factor_) join();
    const Rows own{std::max(rows.begin, first_row_), std::min(rows.end, first_row_ + rows_)};
    for (Index row = own.begin; row < own.end; ++row) {
      const Rows seen = band.seen(row - rows.begin, count);
      if (!seen.empty() && !(terms.bias != nullptr && terms.hides_all(row - rows.begin, seen)))
        seen_[row - first_row_] = true;
    }

    // Panels held, and the tile's rows counted from the first row that is.
    const Rows panels{(own.begin - first_row_) / panel, ceil_div(own.end - first_row_, panel)};
    const Rows held{rows.begin - first_row_, rows.end - first_row_};
    for (Index first = 0; first < count; first += key_step) {
      const Rows block{first, std::min(first + key_step, count)};
      const Rows seen_by_block = band.seen_by_some({0, rows.size()}, block);
      if (seen_by_block.empty()) continue;
      // Joins come where the whole block has them, whoever holds its rows.
      if (keys_since_join_ >= keys_of_a_join) join();
      log_factor_ = log_factor;
      keys_since_join_ += seen_by_block.size();
      if (own.empty()) continue;
      const Rows seen = band.seen_by_some({own.begin - rows.begin, own.end - rows.begin}, seen_by_block);
      if (seen.empty()) continue;
      const Rows at{seen.begin - first_key, seen.end - first_key};
      TWOHEADS_ASSERT(at.begin >= 0 && at.end <= keys.rows());
      const Strided packed_keys = packed_rows(keys, at, panels.size(), packed_keys_);
      const Strided packed_values = packed_rows(values, at, panels.size(), packed_values_);
      for (Index p = panels.begin; p < panels.end; ++p)
        add_to_panel(p, held, seen, packed_keys, packed_values, band, finite_values, terms);
    }
  }

  /// What the block has found: writes the rows of out, and a log weight in nats for each where `log_weights` is given.
  ///
  ///   Corner   a row whose scores are all -inf is NaN, as IEEE evaluation subtracts an infinity from itself
  void finish(MatrixSpan<Scalar> out, double* log_weights = nullptr) {
    detail::require_shape("the output of a tile kernel", out, rows_, value_dim_);
    find(out, [&](Index row, double log_weight) {
      if (log_weight <= no_weight && seen_[row]) {
        out.row(row).setConstant(std::numeric_limits<Scalar>::quiet_NaN());
        log_weight = std::numeric_limits<double>::quiet_NaN();
      }
      if (log_weights != nullptr) log_weights[row] = log_weight;
    });
  }

  /// The same as a partial. A row whose scores are all -inf has no weight in it: other tiles may have what it sees.
  [[nodiscard]] Partial<Scalar> finish() {
    Partial<Scalar> partial{Matrix<Scalar>(rows_, value_dim_), Vector<double>(rows_)};
    find(span(partial.value), [&](Index row, double log_weight) { partial.log_weight[row] = log_weight; });
    return partial;
  }

 private:
  using Loops = detail::PanelLoops<Simd>;
  using V = typename Simd::Vector;
  static constexpr int vectors = Loops::vectors;
  static constexpr int lanes = Loops::lanes;
  static constexpr int tile_rows = Loops::tile_rows;
  static constexpr Index transposed_cols = 64;
  static constexpr Index keys_of_a_join = 4096;
  /// The log weight of a row that has found nothing but NaN of values without weight.
  static constexpr double no_weight = std::numeric_limits<double>::lowest();

  [[nodiscard]] bool capped() const { return rule_.soft_cap > 0; }

  /// Largest scores begin at the least finite number: unlike -inf it can be subtracted from a hidden score, which is.
  void clear() {
    std::fill_n(sums_.data(), panels_ * value_dim_ * panel, Scalar(0));
    std::fill_n(largest_.data(), panels_ * panel, std::numeric_limits<Scalar>::lowest());
    std::fill_n(weights_.data(), panels_ * panel, Scalar(0));
    keys_since_join_ = 0;
    log_factor_ = 0;
  }

  // Rows of one head among others lie pages apart. They come and go whole, by way of a small square that stays in the
  // nearest cache: single numbers, one every few pages, would wait for memory one by one.

  /// Copies some columns of a panel's queries to their place, transposed.
  void transpose_queries(const MatrixView<Scalar>& queries, Index p, Rows cols) {
    const Index first = p * panel;
    const Index rows = std::min(panel, rows_ - first);
    Scalar* const near = transposed_.data();
    for (Index lane = 0; lane < rows; ++lane)
      std::memcpy(near + lane * transposed_cols, queries.data() + (first + lane) * queries.outerStride() + cols.begin,
                  static_cast<std::size_t>(cols.size()) * sizeof(Scalar));
    Scalar* const to = queries_.data() + (p * head_dim_ + cols.begin) * panel;
    for (Index col = 0; col < cols.size(); ++col) {
      for (Index lane = 0; lane < rows; ++lane)
        to[col * panel + lane] = unit_.sign * near[lane * transposed_cols + col];
      for (Index lane = rows; lane < panel; ++lane) to[col * panel + lane] = Scalar(0);
    }
  }

  /// Writes some columns of a panel's rows: sums divided by weights, zero where nothing has weight.
  void write_rows(MatrixSpan<Scalar>& out, Index p, Rows cols) {
    const Index first = p * panel;
    const Index rows = std::min(panel, rows_ - first);
    const Scalar* const weights = weights_.data() + first;
    const Scalar* const sums = sums_.data() + (p * value_dim_ + cols.begin) * panel;
    Scalar* const divided = scores_.data();
    Scalar* const near = transposed_.data();
    for (Index col = 0; col < cols.size(); ++col)
      for (int v = 0; v < vectors; ++v)
        Simd::store(divided + col * panel + v * lanes,
                    Simd::divide(Simd::load(sums + col * panel + v * lanes), Simd::load(weights + v * lanes)));
    for (Index lane = 0; lane < rows; ++lane) {
      const bool empty = weights[lane] == Scalar(0);
      for (Index col = 0; col < cols.size(); ++col)
        near[lane * transposed_cols + col] =
            empty ? undefined_or_zero(sums[col * panel + lane]) : divided[col * panel + lane];
    }
    for (Index lane = 0; lane < rows; ++lane)
      std::memcpy(out.data() + (first + lane) * out.outerStride() + cols.begin, near + lane * transposed_cols,
                  static_cast<std::size_t>(cols.size()) * sizeof(Scalar));
  }

  /// A sum without weight: 0, or NaN where a value that is not finite was multiplied by a weight of 0.
  [[nodiscard]] static Scalar undefined_or_zero(Scalar sum) { return sum - sum; }

  /// Writes what was found since the last join, and calls use(row, log weight).
  template <class Use>
  void find_since_join(MatrixSpan<Scalar> out, const Use& use) {
    for (Index p = 0; p < panels_; ++p)
      for (Index begin = 0; begin < value_dim_; begin += transposed_cols)
        write_rows(out, p, {begin, std::min(begin + transposed_cols, value_dim_)});
    for (Index row = 0; row < rows_; ++row) {
      const double weight = static_cast<double>(weights_.data()[row]);
      if (weight != 0)
        use(row, static_cast<double>(largest_.data()[row]) * unit_.nats + std::log(weight));
      else
        // The least weight that is one carries a NaN through a merge.
        use(row, (out.row(row).array() == Scalar(0)).all() ? -std::numeric_limits<double>::infinity() : no_weight);
    }
  }

  /// Writes all that was found, and calls use(row, log weight).
  template <class Use>
  void find(MatrixSpan<Scalar> out, const Use& use) {
    if (!joined_ && log_factor_ == 0) return find_since_join(out, use);
    join();
    out = sum_.value.template cast<Scalar>();
    for (Index row = 0; row < rows_; ++row) use(row, sum_.log_weight[row]);
  }

  /// Joins what was found since the last time into sums of a wider scalar.
  void join() {
    found_.value.resize(rows_, value_dim_);
    found_.log_weight.resize(rows_);
    find_since_join(span(found_.value), [&](Index row, double log_weight) { found_.log_weight[row] = log_weight; });
    if (!joined_) {
      sum_.value.setZero(rows_, value_dim_);
      sum_.log_weight.setConstant(rows_, -std::numeric_limits<double>::infinity());
    }
    merge_into(sum_, found_, 0, log_factor_);
    joined_ = true;
    clear();
  }

  /// Rows of numbers, `stride` apart.
  struct Strided {
    const Scalar* first;
    Index stride;
  };

  /// Some rows of keys or values for several panels. Where they lie apart, as those of one head among others do, or are
  /// stored in another scalar, they are copied once: rows a power of two apart would share few places of the cache.
  template <class Stored>
  [[nodiscard]] Strided packed_rows(const MatrixView<Stored>& matrix, Rows rows, Index panels,
                                    detail::AlignedBuffer<Scalar>& room) const {
    const Index cols = matrix.cols();
    const Stored* const from = matrix.data() + rows.begin * matrix.outerStride();
    if constexpr (std::same_as<Stored, Scalar>)
      if (matrix.outerStride() == cols || panels == 1) return {from, matrix.outerStride()};
    if (room.data() == nullptr) room = detail::AlignedBuffer<Scalar>(key_step * cols);
    for (Index row = 0; row < rows.size(); ++row) {
      Scalar* const to = room.data() + row * cols;
      if constexpr (std::same_as<Stored, Scalar>)
        std::memcpy(to, from + row * matrix.outerStride(), static_cast<std::size_t>(cols) * sizeof(Scalar));
      else
        for (Index col = 0; col < cols; ++col) to[col] = static_cast<Scalar>(from[row * matrix.outerStride() + col]);
    }
    return {room.data(), cols};
  }

  /// Adds keys [block.begin, block.end) of a tile to panel p.
  void add_to_panel(Index p, Rows rows, Rows block, const Strided& keys, const Strided& values, const KeyBand& band,
                    bool finite_values, const TileTerms<Scalar>& terms) {
    // Rows of the panel that the tile has, counted from the tile's first.
    const Index first_row = std::max(p * panel, rows.begin) - rows.begin;
    const Index last_row = std::min({(p + 1) * panel, rows_, rows.end}) - 1 - rows.begin;
    const Index begin = std::max(block.begin, first_row + band.from);
    const Index end = std::min(block.end, last_row + band.to);
    if (begin >= end) return;
    const Index count = end - begin;
    // Keys that all rows of the panel see, counted from the first; those before and after are seen by some.
    Rows open{0, count};
    if (rows.begin > p * panel || rows.end < std::min((p + 1) * panel, rows_)) {
      open.end = 0;
    } else {
      open.begin = ceil_div(std::clamp<Index>(last_row + band.from - begin, 0, count), tile_rows) * tile_rows;
      const Index last = std::clamp<Index>(first_row + band.to - begin, 0, count);
      open.end = last == count ? count : last / tile_rows * tile_rows;
    }
    if (open.empty()) open = {0, 0};
    const bool all_seen = open.size() == count;

    Scalar* const scores = scores_.data();
    const Scalar* const first_key = keys.first + (begin - block.begin) * keys.stride;
    const Scalar* const queries = queries_.data() + p * head_dim_ * panel;
    V largest[vectors];
    for (int v = 0; v < vectors; ++v) largest[v] = Simd::broadcast(Loops::unseen);
    Loops::score(first_key, keys.stride, queries, head_dim_, scores, open, largest);
    const Rows sides[2] = {{0, open.begin}, {open.end, count}};
    if (!all_seen) {
      V with_hidden[vectors];
      for (int v = 0; v < vectors; ++v) with_hidden[v] = Simd::broadcast(Loops::unseen);
      for (const Rows& side : sides)
        Loops::score(first_key, keys.stride, queries, head_dim_, scores, side, with_hidden);
    }
    const detail::PanelPlace place{p * panel - rows.begin, rows.size()};
    if (capped()) detail::cap_scores(scores, count * panel, rule_);
    if (rule_.terms)
      detail::add_terms<panel>(scores, place, {begin, end},
                               capped() ? Scalar(1) : static_cast<Scalar>(std::abs(rule_.score_scale)), terms);
    if (rule_.changes_scores()) {
      for (int v = 0; v < vectors; ++v) largest[v] = Simd::broadcast(Loops::unseen);
      Loops::find_largest(scores, open, largest);
    }
    const bool sums_all = finite_values || (all_seen && terms.bias == nullptr);
    if (!all_seen || !sums_all) detail::set_seen_bounds<panel>(seen_bounds_.data(), place, {begin, end}, band);
    if (!all_seen)
      for (const Rows& side : sides) {
        Loops::hide(scores, seen_bounds_.data(), side);
        Loops::find_largest(scores, side, largest);
      }
    V rescale[vectors];
    Loops::weigh(scores, largest_.data() + p * panel, weights_.data() + p * panel, unit_.powers, largest, rescale,
                 count);
    const Scalar* const first_value = values.first + (begin - block.begin) * values.stride;
    Scalar* const sums = sums_.data() + p * value_dim_ * panel;
    if (sums_all) return Loops::sum_values(first_value, values.stride, value_dim_, scores, sums, rescale, count);
    Scalar factors[panel];
    for (int v = 0; v < vectors; ++v)
      std::copy_n(reinterpret_cast<const Scalar*>(&rescale[v]), lanes, factors + v * lanes);
    detail::sum_seen_values<panel>(first_value, values.stride, value_dim_, scores, sums, factors, seen_bounds_.data(),
                                   place, {begin, end}, terms);
  }

  Index head_dim_;
  Index value_dim_;
  ScoreRule rule_;
  detail::ScoreUnit<Scalar> unit_;
  Index rows_ = 0;       ///< queries held
  Index first_row_ = 0;  ///< of the block, the first of those held
  Index block_rows_ = 0;
  Index panels_ = 0;
  Index panel_capacity_ = 0;  ///< panels that there is room for
  Index keys_since_join_ = 0;
  double log_factor_ = 0;
  bool joined_ = false;
  detail::AlignedBuffer<Scalar> queries_;                      ///< (panels, head_dim, panel)
  detail::AlignedBuffer<Scalar> sums_;                         ///< (panels, value_dim, panel)
  detail::AlignedBuffer<Scalar> largest_, weights_;            ///< (panels, panel)
  detail::AlignedBuffer<Scalar> scores_;                       ///< (key_step, panel)
  detail::AlignedBuffer<Scalar> seen_bounds_;                  ///< (2, panel)
  detail::AlignedBuffer<Scalar> transposed_;                   ///< (panel, transposed_cols)
  detail::AlignedBuffer<Scalar> packed_keys_, packed_values_;  ///< (key_step, their dim)
  Vector<bool> seen_;                                          ///< whether a row has seen a key
  Partial<Scalar> found_;
  Partial<SumScalar<Scalar>> sum_;
};

}  // namespace twoheads
