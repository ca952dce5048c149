# twoheads_private_flags: how our own programs, tests and benchmarks are compiled. It is never installed and the public
# targets never link it, so none of this reaches a user.

set(CMAKE_CXX_EXTENSIONS OFF)

# Three ways to build sooner, for machines that build everything often.
set(TWOHEADS_LITTLE_OPTIMISED "" CACHE STRING
    "Regular expression of our tests, benchmarks and programs that are built with -O1")
set(TWOHEADS_NOT_OPTIMISED "" CACHE STRING "Regular expression of those that are built with -O0")
option(TWOHEADS_PRECOMPILED_HEADERS "Build the tests with precompiled headers" OFF)

function(twoheads_optimise target)
  if(TWOHEADS_NOT_OPTIMISED AND target MATCHES "${TWOHEADS_NOT_OPTIMISED}")
    target_compile_options(${target} PRIVATE -O0)
  elseif(TWOHEADS_LITTLE_OPTIMISED AND target MATCHES "${TWOHEADS_LITTLE_OPTIMISED}")
    target_compile_options(${target} PRIVATE -O1)
  endif()
endfunction()

add_library(twoheads_private_flags INTERFACE)

if(CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
  # No -Wconversion: Eigen's expressions make it report our lines for what happens inside Eigen.
  target_compile_options(twoheads_private_flags INTERFACE -Wall -Wextra -Wpedantic -Wshadow)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # GCC 12 reports its own AVX-512 intrinsics (GCC bug 105593) and the branches that a sanitizer adds. Clang's
    # -Wuninitialized and -Wsometimes-uninitialized, parts of -Wall, watch over the same mistakes.
    target_compile_options(twoheads_private_flags INTERFACE -Wno-uninitialized -Wno-maybe-uninitialized)
  endif()
  if(TWOHEADS_WERROR)
    target_compile_options(twoheads_private_flags INTERFACE -Werror)
  endif()
endif()

# MPI's libraries take tens of milliseconds to load: only programs that call them do.
if(TARGET MPI::MPI_CXX AND UNIX AND NOT APPLE)
  target_link_options(twoheads_private_flags INTERFACE LINKER:--as-needed)
endif()

if(TWOHEADS_NATIVE)
  include(CheckCXXCompilerFlag)
  check_cxx_compiler_flag(-march=native TWOHEADS_HAS_MARCH_NATIVE)
  if(TWOHEADS_HAS_MARCH_NATIVE)
    target_compile_options(twoheads_private_flags INTERFACE -march=native)
  endif()
endif()

if(TWOHEADS_SANITIZE AND TWOHEADS_SANITIZE_THREADS)
  message(FATAL_ERROR "TWOHEADS_SANITIZE and TWOHEADS_SANITIZE_THREADS exclude each other: ASan and ThreadSanitizer cannot"
                      " watch one program")
endif()
if(TWOHEADS_SANITIZE_THREADS)
  target_compile_options(twoheads_private_flags INTERFACE -fsanitize=thread -fno-omit-frame-pointer)
  target_link_options(twoheads_private_flags INTERFACE -fsanitize=thread)
endif()
if(TWOHEADS_SANITIZE)
  set(twoheads_sanitizers -fsanitize=address,undefined -fno-sanitize-recover=all)
  # CI leaves out what takes a quarter of the compiler's time: ASan meets each access through such a pointer itself.
  if(TWOHEADS_SANITIZE_LESS)
    list(APPEND twoheads_sanitizers -fno-sanitize=null,vptr,object-size,pointer-overflow)
  endif()
  target_compile_options(twoheads_private_flags INTERFACE ${twoheads_sanitizers} -fno-omit-frame-pointer)
  target_link_options(twoheads_private_flags INTERFACE ${twoheads_sanitizers})
endif()
