#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <twoheads/attention/partial.hpp>
#include <twoheads/attention/simd.hpp>
#include <twoheads/base/matrix.hpp>
#include <utility>

namespace twoheads {

/// Which keys the rows of a tile see: row i those with i + from <= key < i + to, both counted from the tile's first.
struct KeyBand {
  static constexpr Index unlimited = std::numeric_limits<Index>::max() / 4;
  Index from = -unlimited;
  Index to = unlimited;

  [[nodiscard]] static constexpr KeyBand all() { return {}; }
  /// Lower triangle: keys up to the row's own number.
  [[nodiscard]] static constexpr KeyBand lower() { return {-unlimited, 1}; }
  /// Strict upper triangle: keys after the row's own number.
  [[nodiscard]] static constexpr KeyBand strict_upper() { return {1, unlimited}; }

  /// What row i sees of `keys` keys.
  [[nodiscard]] constexpr Rows seen(Index i, Index keys) const {
    const Index begin = std::clamp<Index>(i + from, 0, keys);
    return {begin, std::clamp<Index>(i + to, begin, keys)};
  }
  /// Of a range of keys, those between the first and the last that one of `rows` rows sees.
  [[nodiscard]] constexpr Rows seen_by_some(Index rows, Rows keys) const {
    return {std::max(keys.begin, from), std::min(keys.end, rows - 1 + to)};
  }
};

/// How scores are made of q . k.
///
///   Math   s = score_scale q . k, or soft_cap tanh(score_scale q . k / soft_cap) where soft_cap > 0
struct ScoreRule {
  double score_scale = 1.0;
  double soft_cap = 0.0;  ///< 0: none
};

namespace detail {

/// Numbers at an address that any vector may be loaded from. New room holds no particular numbers.
template <class Scalar>
class AlignedRoom {
 public:
  explicit AlignedRoom(Index count = 0)
      : numbers_(count > 0
                     ? static_cast<Scalar*>(::operator new(static_cast<std::size_t>(count) * sizeof(Scalar), alignment))
                     : nullptr) {}
  AlignedRoom(AlignedRoom&& other) noexcept : numbers_(std::exchange(other.numbers_, nullptr)) {}
  AlignedRoom& operator=(AlignedRoom&& other) noexcept {
    std::swap(numbers_, other.numbers_);
    return *this;
  }
  ~AlignedRoom() { ::operator delete(numbers_, alignment); }

  [[nodiscard]] Scalar* data() { return numbers_; }
  [[nodiscard]] const Scalar* data() const { return numbers_; }

 private:
  static constexpr std::align_val_t alignment{128};
  Scalar* numbers_;
};

}  // namespace detail

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
///            the scalar's normal numbers are 0.
///   Source   Yu & Alman, Lemma 3.1 joins tiles; the fused pass is FlashAttention's (Dao et al., 2022)
template <RealScalar S, SimdBackend Simd = DefaultSimd<S>>
requires std::same_as<S, typename Simd::Scalar>
class TileKernel {
 public:
  using Scalar = S;
  /// Queries of a panel: a block of a multiple of it leaves no lane idle.
  static constexpr Index panel = 2 * Simd::lanes;

  TileKernel(Index head_dim, Index value_dim, const ScoreRule& rule)
      : head_dim_(head_dim), value_dim_(value_dim), rule_(rule) {
    if (head_dim < 1 || value_dim < 1)
      throw SpecError(detail::text("a tile kernel for head dim ", head_dim, " and value dim ", value_dim,
                                   ": expected 1 or more of each"));
    if (!std::isfinite(rule.score_scale))
      throw SpecError(detail::text("score_scale is ", rule.score_scale, ", expected a finite number"));
    if (!(rule.soft_cap >= 0) || !std::isfinite(rule.soft_cap))
      throw SpecError(detail::text("soft_cap is ", rule.soft_cap, ", expected 0 (none) or a finite number above 0"));
    // Scores are held unscaled, so that queries are not rounded; their order must be that of the scaled ones.
    sign_ = static_cast<Scalar>(rule.score_scale > 0 ? 1 : rule.score_scale < 0 ? -1 : 0);
    unit_ = capped() ? 1.0 : rule.score_scale == 0 ? 1.0 : std::abs(rule.score_scale);
    factor_ = static_cast<Scalar>(unit_ * log2_e);
    scores_ = detail::AlignedRoom<Scalar>(keys_at_once * panel);
    limits_ = detail::AlignedRoom<Scalar>(2 * panel);
  }

  /// Takes the next block of queries; nothing has been seen yet.
  void begin(const MatrixView<Scalar>& queries) {
    detail::require_shape("the queries of a tile kernel", queries, queries.rows(), head_dim_);
    rows_ = queries.rows();
    panels_ = ceil_div(rows_, panel);
    if (panels_ > room_for_) {
      room_for_ = panels_;
      queries_ = detail::AlignedRoom<Scalar>(panels_ * head_dim_ * panel);
      sums_ = detail::AlignedRoom<Scalar>(panels_ * value_dim_ * panel);
      largest_ = detail::AlignedRoom<Scalar>(panels_ * panel);
      weights_ = detail::AlignedRoom<Scalar>(panels_ * panel);
    }
    for (Index p = 0; p < panels_; ++p) {
      Scalar* const to = queries_.data() + p * head_dim_ * panel;
      for (Index lane = 0; lane < panel; ++lane) {
        const Index row = p * panel + lane;
        if (row < rows_) {
          const Scalar* const from = queries.data() + row * queries.outerStride();
          for (Index d = 0; d < head_dim_; ++d) to[d * panel + lane] = sign_ * from[d];
        } else {
          for (Index d = 0; d < head_dim_; ++d) to[d * panel + lane] = Scalar(0);
        }
      }
    }
    seen_.setZero(rows_);
    joined_ = false;
    clear();
  }

  /// Adds a tile: some rows of the block see some keys.
  ///
  ///   Shapes   keys (m, head_dim), values (m, value_dim), m >= 0, of Scalar or of Eigen's half or bfloat16, which are
  ///            widened before use; `rows` within the block
  ///   Laws     no key of the tile is one that its rows have seen before
  ///   Corner   log_factor: the tile counts exp(log_factor) times. finite_values: false where a value may be NaN or
  ///            infinite, so that it must not be multiplied by the weight 0 of a row that does not see it
  template <class Stored>
  void add(Rows rows, const MatrixView<Stored>& keys, const MatrixView<Stored>& values, const KeyBand& band,
           double log_factor = 0, bool finite_values = true) {
    const Index count = keys.rows();
    detail::require_shape("the keys of a tile", keys, count, head_dim_);
    detail::require_shape("the values of a tile", values, count, value_dim_);
    if (rows.begin < 0 || rows.end > rows_)
      throw ShapeError(detail::text("a tile of rows ", rows.begin, "..", rows.end - 1, " of a block of ", rows_));
    if (rows.empty() || count == 0) return;
    if (keys_since_join_ > 0 && (log_factor != log_factor_ || keys_since_join_ >= keys_of_a_join)) join();
    log_factor_ = log_factor;
    keys_since_join_ += count;
    for (Index row = rows.begin; row < rows.end; ++row)
      if (!band.seen(row - rows.begin, count).empty()) seen_[row] = true;

    const Rows panels{rows.begin / panel, ceil_div(rows.end, panel)};
    for (Index first = 0; first < count; first += keys_at_once) {
      const Rows block{first, std::min(first + keys_at_once, count)};
      const Rows seen = band.seen_by_some(rows.size(), block);
      if (seen.empty()) continue;
      const Strided near_keys = rows_near(keys, seen, panels.size(), near_keys_);
      const Strided near_values = rows_near(values, seen, panels.size(), near_values_);
      // What the next keys are read from comes nearer while these are worked on, a part of it with each panel.
      const Rows next = band.seen_by_some(rows.size(), {block.end, std::min(block.end + keys_at_once, count)});
      for (Index p = panels.begin; p < panels.end; ++p) {
        const Rows part = even_rows(p - panels.begin, panels.size(), std::max<Index>(next.size(), 0));
        prefetch(keys, {next.begin + part.begin, next.begin + part.end});
        prefetch(values, {next.begin + part.begin, next.begin + part.end});
        add_to_panel(p, rows, seen, near_keys, near_values, band, finite_values);
      }
    }
  }

  /// What the block has found: writes the rows of out, and a log weight in nats for each where `log_weights` is given.
  void finish(MatrixSpan<Scalar> out, double* log_weights = nullptr) {
    detail::require_shape("the output of a tile kernel", out, rows_, value_dim_);
    if (joined_ || log_factor_ != 0) {
      join();
      out = sum_.value.template cast<Scalar>();
      for (Index row = 0; row < rows_; ++row) {
        const bool empty = sum_.log_weight[row] == -std::numeric_limits<double>::infinity();
        if (empty && seen_[row]) mark_undefined(out, row, sum_.log_weight[row]);
        if (log_weights != nullptr) log_weights[row] = sum_.log_weight[row];
      }
      return;
    }
    read(out, [&](Index row, double log_weight) {
      if (log_weight == -std::numeric_limits<double>::infinity() && seen_[row]) mark_undefined(out, row, log_weight);
      if (log_weights != nullptr) log_weights[row] = log_weight;
    });
  }

  /// The same as a partial.
  [[nodiscard]] Partial<Scalar> finish() {
    Partial<Scalar> partial{Matrix<Scalar>(rows_, value_dim_), Vector<double>(rows_)};
    finish(span(partial.value), partial.log_weight.data());
    return partial;
  }

 private:
  using V = typename Simd::Vector;
  static constexpr int vectors = 2;
  static constexpr int lanes = Simd::lanes;
  /// Keys, or columns of values, of a register tile: with two vectors each, the sums leave registers for operands.
  static constexpr int tile_rows = Simd::registers >= 32 ? 8 : 6;
  static constexpr Index keys_at_once = 128;
  static constexpr Index keys_of_a_join = 4096;
  static constexpr double log2_e = 1.4426950408889634074;
  static constexpr Scalar unseen = -std::numeric_limits<Scalar>::infinity();

  [[nodiscard]] bool capped() const { return rule_.soft_cap > 0; }

  /// Largest scores begin at the least finite number: unlike -inf it can be subtracted from a hidden score, which is.
  void clear() {
    std::fill_n(sums_.data(), panels_ * value_dim_ * panel, Scalar(0));
    std::fill_n(largest_.data(), panels_ * panel, std::numeric_limits<Scalar>::lowest());
    std::fill_n(weights_.data(), panels_ * panel, Scalar(0));
    keys_since_join_ = 0;
    log_factor_ = 0;
  }

  /// All scores were -inf: IEEE evaluation subtracts an infinity from itself.
  void mark_undefined(MatrixSpan<Scalar>& out, Index row, double& log_weight) {
    out.row(row).setConstant(std::numeric_limits<Scalar>::quiet_NaN());
    log_weight = std::numeric_limits<double>::quiet_NaN();
  }

  /// Divides sums by weights, and calls use(row, log weight).
  template <class Use>
  void read(MatrixSpan<Scalar>& out, const Use& use) {
    Scalar* const block = scores_.data();
    for (Index p = 0; p < panels_; ++p) {
      const Index rows = std::min(panel, rows_ - p * panel);
      const Scalar* const weights = weights_.data() + p * panel;
      for (Index begin = 0; begin < value_dim_; begin += keys_at_once) {
        const Index cols = std::min(keys_at_once, value_dim_ - begin);
        const Scalar* const sums = sums_.data() + (p * value_dim_ + begin) * panel;
        for (Index col = 0; col < cols; ++col)
          for (int v = 0; v < vectors; ++v)
            Simd::store(block + col * panel + v * lanes,
                        Simd::divide(Simd::load(sums + col * panel + v * lanes), Simd::load(weights + v * lanes)));
        for (Index lane = 0; lane < rows; ++lane) {
          Scalar* const to = out.data() + (p * panel + lane) * out.outerStride() + begin;
          const bool empty = weights[lane] == Scalar(0);
          for (Index col = 0; col < cols; ++col) to[col] = empty ? Scalar(0) : block[col * panel + lane];
        }
      }
      for (Index lane = 0; lane < rows; ++lane) {
        const Index row = p * panel + lane;
        const double weight = static_cast<double>(weights[lane]);
        use(row, weight == 0 ? -std::numeric_limits<double>::infinity()
                             : static_cast<double>(largest_.data()[row]) * unit_ + std::log(weight));
      }
    }
  }

  /// Joins what was found since the last time into sums of a wider scalar.
  void join() {
    found_.value.resize(rows_, value_dim_);
    found_.log_weight.resize(rows_);
    MatrixSpan<Scalar> value = span(found_.value);
    read(value, [&](Index row, double log_weight) { found_.log_weight[row] = log_weight; });
    if (!joined_) {
      sum_.value.setZero(rows_, value_dim_);
      sum_.log_weight.setConstant(rows_, -std::numeric_limits<double>::infinity());
    }
    merge_into(sum_, found_, 0, log_factor_);
    joined_ = true;
    clear();
  }

  template <class Stored>
  static void prefetch(const MatrixView<Stored>& matrix, Rows rows) {
#if defined(__GNUC__)
    constexpr Index line = 64;
    for (Index row = rows.begin; row < rows.end; ++row) {
      const char* const from = reinterpret_cast<const char*>(matrix.data() + row * matrix.outerStride());
      const Index bytes = matrix.cols() * static_cast<Index>(sizeof(Stored));
      for (Index byte = 0; byte < bytes; byte += line) __builtin_prefetch(from + byte);
    }
#endif
  }

  /// Rows of numbers, `stride` apart.
  struct Strided {
    const Scalar* first;
    Index stride;
  };

  /// Some rows of keys or values for several panels. Where they lie apart, as those of one head among others do, or are
  /// stored in another scalar, they are copied once: rows a power of two apart would share few places of the cache.
  template <class Stored>
  [[nodiscard]] Strided rows_near(const MatrixView<Stored>& matrix, Rows rows, Index panels,
                                  detail::AlignedRoom<Scalar>& room) const {
    const Index cols = matrix.cols();
    const Stored* const from = matrix.data() + rows.begin * matrix.outerStride();
    if constexpr (std::same_as<Stored, Scalar>)
      if (matrix.outerStride() == cols || panels == 1) return {from, matrix.outerStride()};
    if (room.data() == nullptr) room = detail::AlignedRoom<Scalar>(keys_at_once * cols);
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
                    bool finite_values) {
    // Rows of the panel that the tile has, counted from the tile's first.
    const Index first_row = std::max(p * panel, rows.begin) - rows.begin;
    const Index last_row = std::min({(p + 1) * panel, rows_, rows.end}) - 1 - rows.begin;
    const Index begin = std::max(block.begin, first_row + band.from);
    const Index end = std::min(block.end, last_row + band.to);
    if (begin >= end) return;
    const bool whole_panel = rows.begin <= p * panel && std::min((p + 1) * panel, rows_) <= rows.end;
    const bool all_seen = whole_panel && last_row + band.from <= begin && first_row + band.to >= end;
    const Index count = end - begin;

    Scalar* const scores = scores_.data();
    V largest[vectors];
    TWOHEADS_UNROLL
    for (int v = 0; v < vectors; ++v) largest[v] = Simd::broadcast(unseen);
    score(keys.first + (begin - block.begin) * keys.stride, keys.stride, queries_.data() + p * head_dim_ * panel,
          scores, largest, count);
    if (capped()) cap(scores, count);
    if (!all_seen) {
      set_limits(p, rows, {begin, end}, band);
      hide(scores, count);
    }
    if (capped() || !all_seen) find_largest(scores, largest, count);
    V rescale[vectors];
    weigh(scores, largest_.data() + p * panel, weights_.data() + p * panel, largest, rescale, count);
    const Scalar* const first_value = values.first + (begin - block.begin) * values.stride;
    Scalar* const sums = sums_.data() + p * value_dim_ * panel;
    if (all_seen || finite_values)
      sum_values(first_value, values.stride, scores, sums, rescale, count);
    else
      sum_seen_values(first_value, values.stride, scores, sums, rescale, count);
  }

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
  TWOHEADS_ALWAYS_INLINE void score_keys(const Scalar* keys, Index stride, const Scalar* queries, Scalar* scores,
                                         V* largest) const {
    V sums[Count][vectors];
    TWOHEADS_UNROLL
    for (int i = 0; i < Count; ++i) {
      TWOHEADS_UNROLL
      for (int v = 0; v < vectors; ++v) sums[i][v] = Simd::broadcast(Scalar(0));
    }
    multiply<Count>(sums, keys, stride, 1, queries, head_dim_);
    TWOHEADS_UNROLL
    for (int i = 0; i < Count; ++i) {
      TWOHEADS_UNROLL
      for (int v = 0; v < vectors; ++v) {
        Simd::store(scores + i * panel + v * lanes, sums[i][v]);
        largest[v] = Simd::max(largest[v], sums[i][v]);
      }
    }
  }

  /// scores (count, panel) = keys queries^T, and the largest of each lane.
  TWOHEADS_NOINLINE void score(const Scalar* keys, Index stride, const Scalar* queries, Scalar* scores, V* found,
                               Index count) const {
    V largest[vectors];
    TWOHEADS_UNROLL
    for (int v = 0; v < vectors; ++v) largest[v] = found[v];
    Index i = 0;
    for (; i + tile_rows <= count; i += tile_rows)
      score_keys<tile_rows>(keys + i * stride, stride, queries, scores + i * panel, largest);
    for (; i + 2 <= count; i += 2) score_keys<2>(keys + i * stride, stride, queries, scores + i * panel, largest);
    for (; i < count; ++i) score_keys<1>(keys + i * stride, stride, queries, scores + i * panel, largest);
    TWOHEADS_UNROLL
    for (int v = 0; v < vectors; ++v) found[v] = largest[v];
  }

  /// Scores become weights exp(score - largest so far); `rescale` is what older sums must be multiplied by.
  TWOHEADS_NOINLINE void weigh(Scalar* scores, Scalar* largest, Scalar* weights, const V* found, V* rescale,
                               Index count) const {
    const V factor = Simd::broadcast(factor_);
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
  TWOHEADS_NOINLINE void sum_values(const Scalar* values, Index stride, const Scalar* weights, Scalar* sums,
                                    const V* rescale, Index count) const {
    Index i = 0;
    for (; i + tile_rows <= value_dim_; i += tile_rows)
      sum_columns<tile_rows>(values + i, stride, weights, sums + i * panel, rescale, count);
    for (; i + 2 <= value_dim_; i += 2) sum_columns<2>(values + i, stride, weights, sums + i * panel, rescale, count);
    for (; i < value_dim_; ++i) sum_columns<1>(values + i, stride, weights, sums + i * panel, rescale, count);
  }

  // --- panels that see a part of the keys, and soft caps: away from the loop that counts ---

  /// For each lane the first and last + 1 of the keys [block.begin, block.end) that it sees, counted from block.begin.
  void set_limits(Index p, Rows rows, Rows block, const KeyBand& band) {
    for (Index lane = 0; lane < panel; ++lane) {
      const Index row = p * panel + lane;
      Rows seen{0, 0};
      if (rows.contains(row)) {
        const Index i = row - rows.begin;
        seen = {std::clamp(i + band.from, block.begin, block.end) - block.begin,
                std::clamp(i + band.to, block.begin, block.end) - block.begin};
      }
      limits_.data()[lane] = static_cast<Scalar>(seen.begin);
      limits_.data()[panel + lane] = static_cast<Scalar>(seen.end);
    }
  }

  TWOHEADS_NOINLINE void hide(Scalar* scores, Index count) const {
    const V hidden = Simd::broadcast(unseen);
    for (int v = 0; v < vectors; ++v) {
      const V first = Simd::load(limits_.data() + v * lanes);
      const V last = Simd::load(limits_.data() + panel + v * lanes);
      for (Index j = 0; j < count; ++j) {
        Scalar* const at = scores + j * panel + v * lanes;
        Simd::store(at, Simd::select(Simd::load(at), hidden, Simd::broadcast(static_cast<Scalar>(j)), first, last));
      }
    }
  }

  TWOHEADS_NOINLINE static void find_largest(const Scalar* scores, V* largest, Index count) {
    for (int v = 0; v < vectors; ++v) {
      V top = Simd::broadcast(unseen);
      for (Index j = 0; j < count; ++j) top = Simd::max(top, Simd::load(scores + j * panel + v * lanes));
      largest[v] = top;
    }
  }

  TWOHEADS_NOINLINE void cap(Scalar* scores, Index count) const {
    const auto cap = static_cast<Scalar>(rule_.soft_cap);
    const auto scale = static_cast<Scalar>(std::abs(rule_.score_scale) / rule_.soft_cap);
    for (Index at = 0; at < count * panel; ++at) scores[at] = cap * std::tanh(scores[at] * scale);
  }

  /// As sum_values, each row over the keys that it sees alone.
  void sum_seen_values(const Scalar* values, Index stride, const Scalar* weights, Scalar* sums, const V* rescale,
                       Index count) const {
    Scalar factors[panel];
    for (int v = 0; v < vectors; ++v)
      std::copy_n(reinterpret_cast<const Scalar*>(&rescale[v]), lanes, factors + v * lanes);
    for (Index col = 0; col < value_dim_; ++col)
      for (Index lane = 0; lane < panel; ++lane) {
        const auto first = static_cast<Index>(limits_.data()[lane]);
        const auto last = std::min(static_cast<Index>(limits_.data()[panel + lane]), count);
        Scalar sum = 0;
        for (Index j = first; j < last; ++j) sum += weights[j * panel + lane] * values[j * stride + col];
        Scalar& total = sums[col * panel + lane];
        total = total * factors[lane] + sum;
      }
  }

  Index head_dim_;
  Index value_dim_;
  ScoreRule rule_;
  Scalar sign_ = 1;
  double unit_ = 1;    ///< nats of a held score
  Scalar factor_ = 1;  ///< the same in powers of two
  Index rows_ = 0;
  Index panels_ = 0;
  Index room_for_ = 0;  ///< panels that there is room for
  Index keys_since_join_ = 0;
  double log_factor_ = 0;
  bool joined_ = false;
  detail::AlignedRoom<Scalar> queries_;                  ///< (panels, head_dim, panel)
  detail::AlignedRoom<Scalar> sums_;                     ///< (panels, value_dim, panel)
  detail::AlignedRoom<Scalar> largest_, weights_;        ///< (panels, panel)
  detail::AlignedRoom<Scalar> scores_;                   ///< (keys_at_once, panel)
  detail::AlignedRoom<Scalar> limits_;                   ///< (2, panel)
  detail::AlignedRoom<Scalar> near_keys_, near_values_;  ///< (keys_at_once, their dim)
  Vector<bool> seen_;                                    ///< whether a row has seen a key
  Partial<Scalar> found_;
  Partial<SumScalar<Scalar>> sum_;
};

}  // namespace twoheads
