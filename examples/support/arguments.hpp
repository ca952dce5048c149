#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <csignal>
#include <exception>
#include <iostream>
#include <limits>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <twoheads/base/index.hpp>
#include <twoheads/base/version.hpp>
#include <utility>
#include <vector>

#include "support/command_line.hpp"
#include "support/manual.hpp"

/// What the programs share: flags that say what they got and what they take, and exit codes.
namespace programs {

using twoheads::Index;

/// A flag has a value that it cannot take: exit code 2.
struct ArgumentError : std::runtime_error {
  ArgumentError(const std::string& flag, const std::string& got, const std::string& takes)
      : std::runtime_error(flag + " is '" + got + "', it takes " + takes) {}

  /// Flags that are fine one by one and do not fit together.
  explicit ArgumentError(const std::string& fault) : std::runtime_error("the flags do not fit together: " + fault) {}

  /// None of some flags is there, and one is needed.
  [[nodiscard]] static ArgumentError missing(const std::string& fault) { return {Whole(), fault}; }

 private:
  struct Whole {};
  ArgumentError(Whole, const std::string& fault) : std::runtime_error(fault) {}
};

/// Reads a number that is the whole text, or says why it could not.
template <class Number>
[[nodiscard]] std::errc parse_number(const std::string& text, Number& value) {
  const auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), value);
  return fault == std::errc{} && end != text.data() + text.size() ? std::errc::invalid_argument : fault;
}
template <class Number>
[[nodiscard]] bool read_number(const std::string& text, Number& value) {
  return parse_number(text, value) == std::errc{};
}

/// Reads a whole number of at least `least` and at most `most`.
[[nodiscard]] inline Index read_count(const std::string& flag, const std::string& text, Index least,
                                      Index most = std::numeric_limits<Index>::max()) {
  Index value = 0;
  const std::errc fault = parse_number(text, value);
  const std::string expected = "a whole number of " + std::to_string(least) + " or more";
  if (fault == std::errc::result_out_of_range)
    throw ArgumentError(flag, text, expected + ", up to " + std::to_string(std::numeric_limits<Index>::max()));
  if (fault != std::errc{} || value < least) throw ArgumentError(flag, text, expected);
  if (value > most) throw ArgumentError(flag, text, std::to_string(least) + " to " + std::to_string(most));
  return value;
}

/// Adds a flag for a whole number of at least `least` and at most `most`.
inline CLI::Option* add_count(CLI::App& app, const std::string& flag, Index& target, Index least,
                              const std::string& help, Index most = std::numeric_limits<Index>::max()) {
  return app
      .add_option_function<std::string>(
          flag, [=, &target](const std::string& text) { target = read_count(flag, text, least, most); }, help)
      ->type_name("INT");
}

/// More threads or processes of one program than any machine has.
inline constexpr Index most_workers = 4096;

/// Adds --threads, the number that programs::Executor takes.
inline CLI::Option* add_threads(CLI::App& app, Index& target) {
  const auto read = [&target](const std::string& text) {
#ifdef TWOHEADS_WITH_THREADS
    target = read_count("--threads", text, 1, most_workers);
#else
    target = read_count("--threads", text, 1);
    if (target > 1)
      throw ArgumentError("--threads", text,
                          "1 in this build, which was made without oneTBB: install libtbb-dev (Debian), tbb-devel "
                          "(Fedora) or tbb (Homebrew) and build again");
#endif
  };
  return app.add_option_function<std::string>("--threads", read, "threads (default 1); the result has the same bits")
      ->type_name("INT");
}

/// Adds a flag for several whole numbers of at least `least`, parted by commas.
inline CLI::Option* add_counts(CLI::App& app, const std::string& flag, std::vector<Index>& target, Index least,
                               const std::string& help) {
  const auto read = [flag, &target, least](const std::string& text) {
    target.clear();
    for (std::size_t begin = 0; begin <= text.size();) {
      const std::size_t end = std::min(text.find(',', begin), text.size());
      if (end == begin)
        throw ArgumentError(flag, text,
                            "whole numbers of " + std::to_string(least) + " or more with one comma between them");
      target.push_back(read_count(flag, text.substr(begin, end - begin), least));
      begin = end + 1;
    }
  };
  return app.add_option_function<std::string>(flag, read, help)->type_name("INT,INT,...");
}

/// Adds a flag for the name of a file.
inline CLI::Option* add_file(CLI::App& app, const std::string& flag, std::string& target, const std::string& help) {
  const auto read = [flag, &target](const std::string& text) {
    if (text.empty()) throw ArgumentError(flag, text, "the name of a file");
    target = text;
  };
  return app.add_option_function<std::string>(flag, read, help)->type_name("FILE");
}

/// Adds a flag for a finite number above `least`, or from it on.
inline CLI::Option* add_number(CLI::App& app, const std::string& flag, double& target, double least, bool itself,
                               const std::string& expected, const std::string& help) {
  const auto read = [=, &target](const std::string& text) {
    double value = 0;
    if (!read_number(text, value) || !std::isfinite(value) || !(value > least || (itself && value == least)))
      throw ArgumentError(flag, text, expected);
    target = value;
  };
  return app.add_option_function<std::string>(flag, read, help)->type_name("NUMBER");
}

/// Adds a flag for a finite number above 0.
inline CLI::Option* add_positive(CLI::App& app, const std::string& flag, double& target, const std::string& help) {
  return add_number(app, flag, target, 0, false, "a finite number above 0", help);
}

/// Adds a flag for one of some words.
template <class Value>
CLI::Option* add_choice(CLI::App& app, const std::string& flag, Value& target,
                        const std::vector<std::pair<std::string, Value>>& words, const std::string& help) {
  std::string all;
  for (const auto& word : words) all += (all.empty() ? "" : "|") + word.first;
  const auto read = [flag, &target, words, all](const std::string& text) {
    for (const auto& [word, value] : words) {
      if (word != text) continue;
      target = value;
      return;
    }
    throw ArgumentError(flag, text, "one of " + all);
  };
  return app.add_option_function<std::string>(flag, read, help)->type_name(all);
}

/// Says on standard error which of some flags were given though they change nothing.
inline void note_without_effect(const CLI::App& app, const std::vector<std::string>& flags, const std::string& why) {
  for (const std::string& flag : flags)
    if (app.get_option(flag)->count() > 0)
      std::cerr << app.get_name() << ": " << flag << " changes nothing here: " << why << "\n";
}

/// Parses the command line and runs `body`; says on standard error why it could not, and returns the exit code.
template <class Body>
int run(CLI::App& app, int argc, char** argv, const Body& body) {
#ifdef SIGXFSZ
  // A file that grows beyond what is allowed is then a write that fails, and is said to be one.
  std::signal(SIGXFSZ, SIG_IGN);
#endif
  try {
    app.set_version_flag("--version", app.get_name() + " " + twoheads::version, "print the version and exit");
    if (!answer_for_packages(app, argc, argv)) {
      app.parse(argc, argv);
      body();
    }
    if (!std::cout.flush()) throw std::runtime_error("standard output cannot be written");
    return 0;
  } catch (const CLI::ParseError& error) {
    // Help and the version are errors to CLI11, too, of exit code 0.
    if (error.get_exit_code() == 0) {
      app.exit(error);
      if (std::cout.flush()) return 0;
      std::cerr << app.get_name() << ": standard output cannot be written\n";
      return 1;
    }
    std::cerr << app.get_name() << ": " << fault_of(app, error) << "\n" << app.get_name() << " --help says more\n";
    return 2;
  } catch (const ArgumentError& error) {
    std::cerr << app.get_name() << ": " << error.what() << "\n";
    return 2;
  } catch (const std::bad_alloc&) {
    std::cerr << app.get_name() << ": there is not enough memory for this run\n";
    return 1;
  } catch (const std::exception& error) {
    std::cerr << app.get_name() << ": " << error.what() << "\n";
    return 1;
  }
}

/// What --rows auto leaves for a number of rows: the program chooses, see rows_choice.hpp.
inline constexpr Index auto_rows = 0;

/// The flag; `otherwise` says what holds where it is not given, if the program can do without.
inline CLI::Option* add_rows(CLI::App& app, Index& rows, const std::string& otherwise = "") {
  const auto read = [&rows](const std::string& text) {
    rows = text == "auto" ? auto_rows : read_count("--rows", text, 2);
  };
  return app
      .add_option_function<std::string>("--rows", read,
                                        "all rows that a call may have, the synthetic one included; auto: as many as "
                                        "a short calibration finds fastest" +
                                            (otherwise.empty() ? "" : " (" + otherwise + ")"))
      ->type_name("INT|auto");
}

/// Refuses --rows auto on several ranks of MPI.
inline void require_rows_for_ranks(Index rows) {
  if (rows == auto_rows)
    throw ArgumentError("--rows auto measures one machine, and ranks would choose differently: give --rows");
}

}  // namespace programs
