// Eigen with an index of 32 bits.
// expect: counts of numbers pass 32 bits
// flags: -DEIGEN_DEFAULT_DENSE_INDEX_TYPE=int

#include <twoheads/base/matrix.hpp>

twoheads::Index rows(twoheads::Rows part) { return part.size(); }
