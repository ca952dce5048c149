// An older standard is named, and not guessed from a page of errors.
// expect: needs C++20
// flags: -std=c++17

#include <twoheads/base/index.hpp>

twoheads::Index rows(twoheads::Rows part) { return part.size(); }
