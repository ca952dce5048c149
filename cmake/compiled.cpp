// The one source of twoheads::compiled.
#define TWOHEADS_COMPILED_HERE
#include <twoheads/compiled.hpp>
