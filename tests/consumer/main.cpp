#include <twoheads/base/index.hpp>
#include <twoheads/twoheads.hpp>

twoheads::Index blocks_in_second(twoheads::Index total);

int main() {
  const twoheads::Index here = twoheads::ceil_div(1000, 128);
  return here == 8 && blocks_in_second(1000) == here ? 0 : 1;
}
