// No numbers are refused as NaN where the compiler takes it that there is none.
// expect: -ffast-math and its like break roundings
// flags: -ffast-math

#include <twoheads/base/index.hpp>

twoheads::Index rows(twoheads::Rows part) { return part.size(); }
