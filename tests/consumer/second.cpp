// A second file with the whole path: what is not inline would be defined twice and would not link.
#include <twoheads/simulate.hpp>

twoheads::Index blocks_in_second(twoheads::Index total);

twoheads::Index blocks_in_second(twoheads::Index total) { return twoheads::ceil_div(total, 128); }
