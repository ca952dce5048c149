#pragma once

#include <twoheads/base/compiler.hpp>

// The version of these headers, as the package has it; docs/versioning.md says what its numbers promise.
#define TWOHEADS_VERSION_MAJOR 0
#define TWOHEADS_VERSION_MINOR 1
#define TWOHEADS_VERSION_PATCH 0

/// All that is public. What is in twoheads::detail is the library's own and may change with any version.
namespace twoheads {

/// The three numbers as one text.
inline constexpr const char* version = "0.1.0";

}  // namespace twoheads
