#pragma once

#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/plan/limits.hpp>

namespace twoheads {

/// How the instances of a call survive the layers that do not run them, on an oracle of more than one layer.
///
///   residual   the oracle's residual stream keeps them; all H' heads of a layer run instances
///   identity   one head of each layer is made the identity and carries them, so that H' - 1 run instances
///   Source     Yu & Alman, Lemma 3.3, whose own way, through the value weights of the heads that run instances, mixes
///              the rows; docs/paper_map.md
enum class Packing { residual, identity };

/// The name as programs take it.
[[nodiscard]] constexpr const char* name(Packing packing) {
  return packing == Packing::residual ? "residual" : "identity";
}

/// Single-head instances that each layer of an oracle runs where `layers` of its layers are used.
///
///   Math     residual H', identity H' - 1; a single layer has nothing to carry and runs H' either way
///   Throws   LimitError if the oracle has no residual stream, or one where none may be, or no head to spare
[[nodiscard]] constexpr Index instances_per_layer(const OracleLimits& limits, Packing packing, Index layers) {
  if (layers <= 1) return limits.heads;
  if (packing == Packing::residual) {
    if (!limits.residual)
      throw LimitError(detail::text("packing residual over ", layers,
                                    " layers needs an oracle with a residual stream, this one has none: such an "
                                    "oracle, or packing identity, would do"));
    return limits.heads;
  }
  if (limits.residual)
    throw LimitError(detail::text("packing identity over ", layers,
                                  " layers needs an oracle without a residual stream, which would add every row to "
                                  "its copy: packing residual would do"));
  if (limits.heads < 2)
    throw LimitError(detail::text("packing identity over ", layers, " layers needs 2 heads or more, the oracle has ",
                                  limits.heads, ": one more head, or a single layer, would do"));
  return limits.heads - 1;
}

/// Single-head instances that one call carries when all layers of the oracle are used.
///
///   Math     L' = 1: H';  residual: H' L';  identity: (H' - 1) L'
///   Corner   more than 63 bits hold counts as OracleLimits::unlimited
///   Throws   LimitError as instances_per_layer
///   Source   Yu & Alman, Lemma 3.3
[[nodiscard]] constexpr Index instances_per_call(const OracleLimits& limits, Packing packing) {
  const Index heads = instances_per_layer(limits, packing, limits.layers);
  if (limits.layers <= 1) return heads;
  return heads > OracleLimits::unlimited / limits.layers ? OracleLimits::unlimited : heads * limits.layers;
}

/// Fewest layers that run so many instances.
///
///   Math     1 up to H', then ceil(instances / instances of a layer)
///   Throws   LimitError if the oracle carries fewer instances
[[nodiscard]] constexpr Index layers_for_instances(const OracleLimits& limits, Packing packing, Index instances) {
  if (instances < 1) throw SpecError(detail::text("a call of ", instances, " instances, expected 1 or more"));
  if (instances <= limits.heads) return 1;
  const Index most = instances_per_call(limits, packing);
  if (instances > most)
    throw LimitError(detail::text("a call of ", instances, " instances, the oracle carries ", most, " with ",
                                  limits.layers, " layers of ", limits.heads, " heads and packing ", name(packing)));
  return ceil_div(instances, instances_per_layer(limits, packing, limits.layers));
}

}  // namespace twoheads
