// What cannot be computed is refused by exceptions.
// expect: needs exceptions
// flags: -fno-exceptions

#include <twoheads/base/index.hpp>

twoheads::Index rows(twoheads::Rows part) { return part.size(); }
