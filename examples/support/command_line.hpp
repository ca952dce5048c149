#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace programs {

/// What is wrong with a command line that could not be parsed: the flag, what it got, and what it takes.
[[nodiscard]] std::string fault_of(const CLI::App& app, const CLI::ParseError& error);

/// The flag of a program that a word may have been meant for; empty where none is like it.
[[nodiscard]] std::string nearest_flag(const CLI::App& app, const std::string& word);

}  // namespace programs
