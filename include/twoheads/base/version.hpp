#pragma once

namespace twoheads {

/// The version of these headers, as the package has it.
inline constexpr const char* version = "0.1.0";

}  // namespace twoheads
