#pragma once

#include <concepts>
#include <initializer_list>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <twoheads/base/compiler.hpp>
#include <type_traits>

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

/// A file that is not there, or cannot be opened, locked, read or written, for a reason that lies outside of it.
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

/// One part of a message: a text or a number. Messages are many, and a type for all of their parts keeps each of them
/// from costing a compiler what a chain of `operator<<` does.
class MessagePart {
 public:
  MessagePart(std::string_view part) : kind_(Kind::text), text_(part) {}
  MessagePart(const char* part) : kind_(Kind::text), text_(part) {}
  MessagePart(const std::string& part) : kind_(Kind::text), text_(part) {}
  MessagePart(char part) : kind_(Kind::letter), whole_(part) {}
  MessagePart(std::signed_integral auto part) : kind_(Kind::whole), whole_(part) {}
  MessagePart(std::unsigned_integral auto part) : kind_(Kind::natural), natural_(part) {}
  MessagePart(std::floating_point auto part) : kind_(Kind::real), real_(part) {}
  /// What has an `operator<<` of its own. `part` must outlive this.
  template <class T>
  requires(!std::is_arithmetic_v<T> && !std::is_convertible_v<T, std::string_view>) MessagePart(const T& part)
      : kind_(Kind::object),
        object_(&part),
        write_object_([](std::ostream& out, const void* object) { out << *static_cast<const T*>(object); }) {}

  void write(std::ostream& out) const {
    switch (kind_) {
      case Kind::text:
        out << text_;
        return;
      case Kind::letter:
        out << static_cast<char>(whole_);
        return;
      case Kind::whole:
        out << whole_;
        return;
      case Kind::natural:
        out << natural_;
        return;
      case Kind::real:
        out << real_;
        return;
      case Kind::object:
        write_object_(out, object_);
        return;
    }
  }

 private:
  enum class Kind { text, letter, whole, natural, real, object } kind_;
  std::string_view text_ = {};
  long long whole_ = 0;
  unsigned long long natural_ = 0;
  long double real_ = 0;
  const void* object_ = nullptr;
  void (*write_object_)(std::ostream&, const void*) = nullptr;
};

[[nodiscard]] inline std::string joined(std::initializer_list<MessagePart> parts) {
  std::ostringstream out;
  for (const MessagePart& part : parts) part.write(out);
  return out.str();
}

/// Joins its arguments, texts and numbers, into one text as `operator<<` would.
template <class... Parts>
[[nodiscard]] std::string text(const Parts&... parts) {
  return joined({MessagePart(parts)...});
}

/// "1 token", "2 tokens"
[[nodiscard]] inline std::string counted(std::signed_integral auto count, std::string_view thing) {
  return text(count, " ", thing, count == 1 ? "" : "s");
}

[[noreturn]] inline void broken_invariant(const char* condition, const char* file, int line) {
  throw std::logic_error(text("twoheads: broken invariant: ", condition, " at ", file, ":", line));
}

}  // namespace detail
}  // namespace twoheads

/// States what the library itself guarantees. Always on: where it fails, std::logic_error names the condition, and the
/// defect is the library's, or that of a caller who broke a condition that a comment states.
#define TWOHEADS_ASSERT(condition) \
  ((condition) ? static_cast<void>(0) : ::twoheads::detail::broken_invariant(#condition, __FILE__, __LINE__))
