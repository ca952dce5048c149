#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace twoheads {

/// Base of every exception of the library. Checks of outside values are always on; none depends on NDEBUG.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A matrix has other rows or columns than its use asks for.
struct ShapeError : Error {
  using Error::Error;
};

/// A model, mask or plan that contradicts itself, or asks for what does not exist.
struct SpecError : Error {
  using Error::Error;
};

/// An oracle was asked for more than its limits allow.
struct LimitError : Error {
  using Error::Error;
};

/// A file that does not hold what its format promises.
struct FormatError : Error {
  using Error::Error;
};

/// A file that cannot be opened, locked, read or written, for a reason that lies outside of it.
struct FileError : Error {
  using Error::Error;
};

/// A NaN or an infinity in what the caller gave (weights, tokens, queries, keys or values).
struct InputError : Error {
  using Error::Error;
};

/// An oracle answered with a wrong shape, NaN, infinity, or weights that are no probabilities.
struct OracleError : Error {
  using Error::Error;
};

/// The anchor of a row lies so far from its logits that the row's weight underflows in the oracle's precision.
struct AnchorError : Error {
  using Error::Error;
};

namespace detail {

/// Joins its arguments into one text with `operator<<`.
template <class... Parts>
[[nodiscard]] std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

[[noreturn]] inline void broken_invariant(const char* condition, const char* file, int line) {
  throw std::logic_error(text("twoheads: broken invariant: ", condition, " at ", file, ":", line));
}

}  // namespace detail
}  // namespace twoheads

/// States what the library itself guarantees; a failure is a defect of the library, never of its input.
#define TWOHEADS_ASSERT(condition) \
  ((condition) ? static_cast<void>(0) : ::twoheads::detail::broken_invariant(#condition, __FILE__, __LINE__))
