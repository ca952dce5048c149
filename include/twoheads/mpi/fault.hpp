#pragma once

#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <twoheads/base/errors.hpp>

namespace twoheads {

/// A call of MPI that failed, or MPI that is not running.
struct MpiError : Error {
  using Error::Error;
};

namespace detail {

/// An exception as it travels from one rank to the others.
struct Fault {
  enum class Kind : int {
    error,
    shape,
    spec,
    limit,
    format,
    file,
    input,
    oracle,
    anchor,
    mpi,
    memory,
    invariant,
    other
  };
  Kind kind = Kind::other;
  std::string text;
};

/// The exception that is being handled.
[[nodiscard]] inline Fault current_fault() {
  using Kind = Fault::Kind;
  try {
    throw;
  } catch (const ShapeError& e) {
    return {Kind::shape, e.what()};
  } catch (const SpecError& e) {
    return {Kind::spec, e.what()};
  } catch (const LimitError& e) {
    return {Kind::limit, e.what()};
  } catch (const FormatError& e) {
    return {Kind::format, e.what()};
  } catch (const FileError& e) {
    return {Kind::file, e.what()};
  } catch (const InputError& e) {
    return {Kind::input, e.what()};
  } catch (const OracleError& e) {
    return {Kind::oracle, e.what()};
  } catch (const AnchorError& e) {
    return {Kind::anchor, e.what()};
  } catch (const MpiError& e) {
    return {Kind::mpi, e.what()};
  } catch (const Error& e) {
    return {Kind::error, e.what()};
  } catch (const std::bad_alloc&) {
    return {Kind::memory, "out of memory"};
  } catch (const std::logic_error& e) {
    return {Kind::invariant, e.what()};
  } catch (const std::exception& e) {
    return {Kind::other, e.what()};
  } catch (...) {
    return {Kind::other, "an exception that is no std::exception"};
  }
}

/// Throws what it stands for: exceptions of other libraries, and memory that ran out, as an Error with their text.
[[noreturn]] inline void throw_fault(const Fault& fault) {
  switch (fault.kind) {
    case Fault::Kind::shape:
      throw ShapeError(fault.text);
    case Fault::Kind::spec:
      throw SpecError(fault.text);
    case Fault::Kind::limit:
      throw LimitError(fault.text);
    case Fault::Kind::format:
      throw FormatError(fault.text);
    case Fault::Kind::file:
      throw FileError(fault.text);
    case Fault::Kind::input:
      throw InputError(fault.text);
    case Fault::Kind::oracle:
      throw OracleError(fault.text);
    case Fault::Kind::anchor:
      throw AnchorError(fault.text);
    case Fault::Kind::mpi:
      throw MpiError(fault.text);
    case Fault::Kind::invariant:
      throw std::logic_error(fault.text);
    case Fault::Kind::error:
    case Fault::Kind::memory:
    case Fault::Kind::other:
      break;
  }
  throw Error(fault.text);
}

}  // namespace detail
}  // namespace twoheads
