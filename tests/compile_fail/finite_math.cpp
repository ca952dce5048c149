// A part of -ffast-math is as bad as all of it.
// expect: -ffast-math and its like break roundings
// flags: -ffinite-math-only

#include <twoheads/base/index.hpp>

twoheads::Index rows(twoheads::Rows part) { return part.size(); }
