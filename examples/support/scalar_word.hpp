#pragma once

#include <CLI/CLI.hpp>

#include "support/arguments.hpp"

namespace programs {

/// The scalar of a run.
enum class ScalarWord { float32, float64 };

inline CLI::Option* add_scalar(CLI::App& app, ScalarWord& scalar) {
  return add_choice<ScalarWord>(app, "--scalar", scalar,
                                {{"float", ScalarWord::float32}, {"double", ScalarWord::float64}},
                                "scalar of the run (default float)");
}

}  // namespace programs
