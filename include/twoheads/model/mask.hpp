#pragma once

#include <algorithm>
#include <string>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>

namespace twoheads {

enum class MaskKind { full, causal };

[[nodiscard]] constexpr const char* name(MaskKind kind) { return kind == MaskKind::full ? "full" : "causal"; }

/// Says which (query, key) pairs are visible.
///
///   full     every query sees every key; queries and keys may differ in number (cross-attention)
///   causal   query i sees keys 0..i, itself included; queries and keys are the same tokens
///   Source   Yu & Alman, Definitions 2.1 and 2.3
struct Mask {
  MaskKind kind = MaskKind::full;

  /// The keys that `query` sees, among `keys` of them.
  [[nodiscard]] constexpr Rows visible_keys(Index query, Index keys) const {
    return kind == MaskKind::full ? Rows{0, keys} : Rows{0, std::min(query + 1, keys)};
  }

  /// Throws SpecError if this mask is undefined for so many queries and keys.
  void require_defined(Index queries, Index keys) const {
    if (queries < 1) throw SpecError(detail::text("the number of tokens is ", queries, ", expected 1 or more"));
    if (keys < 1) throw SpecError(detail::text("the number of keys is ", keys, ", expected 1 or more"));
    if (kind == MaskKind::causal && queries != keys)
      throw SpecError(detail::text("a causal mask over ", queries, " queries and ", keys,
                                   " keys is undefined: expected as many keys as queries"));
  }

  friend constexpr bool operator==(const Mask&, const Mask&) = default;
};

}  // namespace twoheads
