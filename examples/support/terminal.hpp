#pragma once

namespace programs {

/// Whether somebody looks on: standard error is a terminal.
[[nodiscard]] bool standard_error_is_terminal();
/// The same of standard output.
[[nodiscard]] bool standard_output_is_terminal();

/// Whether standard output is a terminal that shows colours: not where TERM is dumb or missing, nor where NO_COLOR is
/// set to anything (https://no-color.org).
[[nodiscard]] bool terminal_takes_colour();
/// Whether standard output is a terminal of a locale in UTF-8, by LC_ALL, LC_CTYPE and LANG.
[[nodiscard]] bool terminal_takes_utf8();

}  // namespace programs
