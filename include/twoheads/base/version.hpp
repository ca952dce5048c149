#pragma once

/// All that is public. What is in twoheads::detail is the library's own and may change with any version.
namespace twoheads {

/// The version of these headers, as the package has it.
inline constexpr const char* version = "0.1.0";

}  // namespace twoheads
