#pragma once

#include <string>
#include <twoheads/base/errors.hpp>
#include <twoheads/io/config_fields.hpp>
#include <twoheads/model/spec.hpp>

namespace twoheads::detail {

/// Reads how rotations are scaled into `rope`: the type and the numbers that it needs.
inline void read_rope_scaling(ConfigFields& scaling, RopeSpec& rope) {
  std::string type = scaling.word_or("rope_type", "");
  const std::string old = scaling.word_or("type", type);
  if (type.empty()) type = old;
  if (type.empty()) scaling.refuse("neither rope_type nor type is there");
  if (type != old)
    scaling.refuse(text("rope_type is '", type, "' and type is '", old, "', expected one word for both"));
  if (type == "default") {
    // Nothing else counts.
    scaling.pass({"factor", "original_max_position_embeddings"});
  } else if (type == "linear") {
    rope.linear_factor = scaling.positive("factor");
    scaling.pass({"original_max_position_embeddings"});
  } else if (type == "ntk") {
    rope.ntk_factor = scaling.positive("factor");
    scaling.pass({"original_max_position_embeddings"});
  } else if (type == "llama3") {
    RopeStretch stretch;
    stretch.factor = scaling.positive("factor");
    stretch.low_factor = scaling.positive("low_freq_factor");
    stretch.high_factor = scaling.positive("high_freq_factor");
    stretch.positions = scaling.positive("original_max_position_embeddings");
    rope.stretch = stretch;
  } else {
    const char* reason = "is not known to this reader";
    if (type == "dynamic") reason = "turns by angles that change with the length of the input, which RopeSpec has not";
    if (type == "yarn") reason = "scales the attention logits beside the angles, which RopeSpec has not";
    if (type == "longrope" || type == "su") reason = "has a factor for each pair, which RopeSpec has not";
    throw SpecError(text(scaling.where(), ": the type '", excerpt(type), "' ", reason,
                         "; expected default, linear, ntk or llama3"));
  }
}

/// Reads the rotary positions of a config.json: rope_theta and rope_scaling,
/// or rope_parameters as newer files have them.
[[nodiscard]] inline RopeSpec read_rope(ConfigFields& fields) {
  RopeSpec rope;
  rope.pairing = RopePairing::halves;
  rope.theta = fields.positive_or("rope_theta", 10000.0);
  for (const std::string_view name : {"rope_scaling", "rope_parameters"}) {
    if (!fields.has(name)) continue;
    if (name == "rope_parameters" && fields.has("rope_scaling"))
      fields.refuse("rope_scaling and rope_parameters are both there, expected one of them");
    ConfigFields scaling = fields.object(name);
    rope.theta = scaling.positive_or("rope_theta", rope.theta);
    read_rope_scaling(scaling, rope);
    scaling.require_nothing_left();
  }
  if (fields.number_or("partial_rotary_factor", 1.0) != 1.0)
    throw SpecError(text(fields.where(), ": partial_rotary_factor is ", fields.number("partial_rotary_factor"),
                         ", expected 1 for this family"));
  return rope;
}

}  // namespace twoheads::detail
