#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/plan/precision.hpp>
#include <vector>

namespace twoheads {

/// Columns that keep instances apart which share the rows of a call: a query attends to the keys of its own instance.
///
///   Math     instance i has a set S_i of half the columns; its queries carry u_i = -B on S_i, else 0, its keys
///            w_i = B + u_i = B off S_i, else 0. Then u_i . w_i = 0, each term exactly 0, and u_i . w_j <= -B^2 for
///            i != j. A key with the code 0 (the synthetic key, sinks) is seen by every instance.
///   Laws     columns() is the smallest even number r with C(r, r / 2) >= instances; a single instance needs none
///   Source   Yu & Alman, Theorem 4.2
class Codes {
 public:
  explicit Codes(Index instances) : columns_(columns_for(instances)) {
    // Sets of half the columns in increasing order of their bits.
    std::uint64_t bits = (std::uint64_t{1} << (columns_ / 2)) - 1;
    sets_.reserve(static_cast<std::size_t>(instances));
    for (Index i = 0; i < instances; ++i) {
      sets_.push_back(bits);
      if (bits == 0 || i + 1 == instances) continue;
      const std::uint64_t low = bits & (~bits + 1);
      const std::uint64_t ripple = bits + low;
      bits = ripple | (((bits ^ ripple) >> 2) / low);
    }
  }

  [[nodiscard]] Index columns() const { return columns_; }                            ///< columns of a code
  [[nodiscard]] Index instances() const { return static_cast<Index>(sets_.size()); }  ///< codes that are kept apart

  /// Columns that so many instances need.
  ///
  ///   Throws   SpecError if there are none
  [[nodiscard]] static Index columns_for(Index instances) {
    if (instances < 1) throw SpecError(detail::text("codes for ", instances, " instances, expected 1 or more"));
    Index columns = 0;
    // C(r + 2, r / 2 + 1) = C(r, r / 2) (4 r + 4) / (r + 2); 63 bits hold it far beyond any number of instances.
    for (Index sets = 1; sets < instances; columns += 2) sets = sets * (4 * columns + 4) / (columns + 2);
    return columns;
  }

  /// Whether the queries of an instance carry -B in a column; its keys carry B in the others.
  [[nodiscard]] bool in_set(Index instance, Index column) const {
    return ((sets_[static_cast<std::size_t>(instance)] >> column) & 1U) != 0;
  }

  /// Writes u_i, the code of an instance's queries. Shapes: columns (columns()); 0 <= instance < instances().
  template <class Columns>
  void write_query(Index instance, typename std::decay_t<Columns>::Scalar amplitude, Columns&& columns) const {
    using Scalar = typename std::decay_t<Columns>::Scalar;
    for (Index c = 0; c < columns_; ++c) columns[c] = in_set(instance, c) ? -amplitude : Scalar(0);
  }

  /// Writes w_i, the code of an instance's keys. Shapes: columns (columns()); 0 <= instance < instances().
  template <class Columns>
  void write_key(Index instance, typename std::decay_t<Columns>::Scalar amplitude, Columns&& columns) const {
    using Scalar = typename std::decay_t<Columns>::Scalar;
    for (Index c = 0; c < columns_; ++c) columns[c] = in_set(instance, c) ? Scalar(0) : amplitude;
  }

 private:
  Index columns_ = 0;
  std::vector<std::uint64_t> sets_;
};

/// An amplitude B whose square lowers the scores between instances by at least `gap`.
///
///   Units    gap: of the oracle's products q . k, before its own scale
///   Throws   LimitError where the products of codes would leave the range of the scalar, or codes that of the tokens
template <RealScalar Scalar>
[[nodiscard]] Scalar code_amplitude(double gap, Index columns, Precision tokens = Precision::own) {
  const auto most = static_cast<double>(std::numeric_limits<Scalar>::max());
  if (!(gap * static_cast<double>(std::max<Index>(columns, 1)) < most / 4))
    throw LimitError(detail::text("codes that keep instances apart by ", gap,
                                  " exceed the range of the scalar: a wider scalar or one instance a call would do"));
  // Rounding may not leave the square below the gap.
  const double unit = std::max<double>(std::numeric_limits<Scalar>::epsilon(), facts_of(tokens).unit_roundoff);
  const double amplitude = std::sqrt(gap) * (1.0 + 4.0 * unit);
  if (amplitude > facts_of(tokens).largest)
    throw LimitError(detail::text("codes of size ", amplitude, " that keep instances apart exceed tokens of ",
                                  name(tokens), ": wider tokens or one instance a call would do"));
  return static_cast<Scalar>(amplitude);
}

}  // namespace twoheads
