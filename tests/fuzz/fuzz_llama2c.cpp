#include "fuzz/llama2c.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::llama2c({data, size});
  return 0;
}
