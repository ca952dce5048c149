#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "support/arguments.hpp"

namespace programs {

/// What evaluates attention.
enum class EngineWord { oracle, kernel, direct };

inline CLI::Option* add_engine(CLI::App& app, EngineWord& engine,
                               const std::string& help =
                                   "what evaluates attention: calls of an oracle, our own kernel in blocks of "
                                   "--rows, or direct evaluation (default oracle)") {
  return add_choice<EngineWord>(
      app, "--engine", engine,
      {{"oracle", EngineWord::oracle}, {"kernel", EngineWord::kernel}, {"direct", EngineWord::direct}}, help);
}

}  // namespace programs
