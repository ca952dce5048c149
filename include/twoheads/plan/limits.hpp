#pragma once

#include <limits>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>

namespace twoheads {

/// What a plan is evaluated by: an oracle whose rows see every row (plain) or themselves and the rows before them
/// (causal); or our own tile kernel, which takes rectangles and triangles as they are and needs no synthetic row.
enum class OracleKind { plain, causal, kernel };

[[nodiscard]] constexpr const char* name(OracleKind kind) {
  switch (kind) {
    case OracleKind::plain:
      return "plain";
    case OracleKind::causal:
      return "causal";
    case OracleKind::kernel:
      return "kernel";
  }
  return "";
}

/// What an oracle declares: all that a planner may know of it.
struct OracleLimits {
  static constexpr Index unlimited = std::numeric_limits<Index>::max();

  OracleKind kind = OracleKind::plain;
  Index rows = 0;            ///< most rows of a call, the synthetic one included
  bool fixed_rows = false;   ///< every call must have exactly `rows` rows
  Index heads = 1;           ///< heads of a layer, H'
  Index layers = 1;          ///< layers, L'
  Index width = unlimited;   ///< most columns of a token row
  bool residual = false;     ///< a layer adds its heads' outputs to the row instead of replacing it
  double score_scale = 1.0;  ///< what the oracle multiplies q . k by; queries are multiplied by the model's over it
  Index batch = 1;           ///< calls that it likes to be handed at once

  /// Throws LimitError that names the first limit that no plan can work with.
  void require_valid() const {
    const auto at_least = [](const char* what, Index value, Index least) {
      if (value < least)
        throw LimitError(detail::text("an oracle's ", what, " is ", value, ", expected ", least, " or more"));
    };
    at_least("rows", rows, 2);
    at_least("heads", heads, 1);
    at_least("layers", layers, 1);
    at_least("width", width, 1);
    at_least("batch", batch, 1);
    // Far beyond, anchors and dead keys would leave the range of a float.
    if (!(score_scale >= 1e-9 && score_scale <= 1e9))
      throw LimitError(detail::text("an oracle's score scale is ", score_scale, ", expected 1e-9 to 1e9"));
  }
};

}  // namespace twoheads
