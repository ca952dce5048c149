#pragma once

#include <string>
#include <twoheads/model/mask.hpp>

/// Every number of a mask, for messages.
[[nodiscard]] inline std::string text_of(const twoheads::Mask& mask) {
  using twoheads::detail::text;
  std::string ends;
  for (const twoheads::Index end : mask.ends) ends += text(ends.empty() ? "" : ",", end);
  return text(name(mask.kind), " r=", mask.window, " s=", mask.sinks, " left=", mask.left, " right=", mask.right,
              " ends=", ends, mask.causal_documents ? " causal inside" : "");
}
