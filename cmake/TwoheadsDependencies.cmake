# Finds what twoheads needs. Only our own programs, tests and benchmarks may fetch anything.

# Eigen 3.4's version file refuses a request for 5, and 5's refuses one for 3.4: ask for no version and compare here.
# A parent project may have brought its own Eigen already; then no version is known, and its own choice stands.
if(NOT TARGET Eigen3::Eigen)
  find_package(Eigen3 REQUIRED)
  if(Eigen3_VERSION VERSION_LESS 3.4)
    message(FATAL_ERROR "twoheads needs Eigen 3.4 or later, found ${Eigen3_VERSION} in ${Eigen3_DIR}")
  endif()
endif()

include(FetchContent)

# FetchContent learned in 3.25 to keep warnings of fetched headers away from us.
set(twoheads_fetch_system "")
if(CMAKE_VERSION VERSION_GREATER_EQUAL 3.25)
  set(twoheads_fetch_system SYSTEM)
endif()

# Makes `package` available: the installed one, or that tag of its repository where none is installed.
macro(twoheads_require package repository tag)
  FetchContent_Declare(
    ${package}
    GIT_REPOSITORY ${repository}
    GIT_TAG ${tag}
    GIT_SHALLOW ON ${twoheads_fetch_system} FIND_PACKAGE_ARGS)
  FetchContent_MakeAvailable(${package})
endmacro()

if(TWOHEADS_BUILD_TESTS AND NOT TARGET GTest::gtest_main)
  set(INSTALL_GTEST OFF)
  twoheads_require(GTest https://github.com/google/googletest.git v1.14.0)
endif()

# One test draws its cases by RapidCheck, where that is installed; it is never fetched.
if(TWOHEADS_BUILD_TESTS AND NOT TARGET rapidcheck)
  find_package(rapidcheck CONFIG QUIET)
endif()

if(TWOHEADS_BUILD_BENCH AND NOT TARGET benchmark::benchmark_main)
  set(BENCHMARK_ENABLE_TESTING OFF)
  set(BENCHMARK_ENABLE_INSTALL OFF)
  twoheads_require(benchmark https://github.com/google/benchmark.git v1.8.3)
endif()

if((TWOHEADS_BUILD_EXAMPLES OR TWOHEADS_BUILD_BENCH) AND NOT TARGET CLI11::CLI11)
  twoheads_require(CLI11 https://github.com/CLIUtils/CLI11.git v2.4.2)
endif()

# Our own binaries read and write JSON. For everyone else it is optional and decides whether twoheads::io exists.
if(NOT TARGET nlohmann_json::nlohmann_json)
  if(TWOHEADS_BUILD_TESTS OR TWOHEADS_BUILD_BENCH OR TWOHEADS_BUILD_EXAMPLES)
    twoheads_require(nlohmann_json https://github.com/nlohmann/json.git v3.11.3)
  else()
    find_package(nlohmann_json QUIET)
  endif()
endif()

# Optional for everyone, and never fetched: oneTBB decides whether twoheads::threads exists.
if(NOT TARGET TBB::tbb)
  find_package(TBB 2021 QUIET)
  if(NOT TARGET TBB::tbb AND PROJECT_IS_TOP_LEVEL)
    message(STATUS "twoheads: no twoheads::threads without oneTBB (libtbb-dev on Debian, tbb-devel on Fedora, tbb in "
                   "Homebrew)")
  endif()
endif()

# Likewise Boost, of which Asio is used and no library: it decides whether twoheads::remote exists. Boost's own package
# file is asked for, since CMake's module for it is on its way out.
if(NOT TARGET Boost::headers)
  find_package(Boost 1.74 CONFIG QUIET)
  if(NOT TARGET Boost::headers AND PROJECT_IS_TOP_LEVEL)
    message(STATUS "twoheads: no twoheads::remote without Boost (libboost-dev on Debian, boost-devel on Fedora, boost in "
                   "Homebrew)")
  endif()
endif()
if(TARGET Boost::headers AND NOT TARGET Threads::Threads)
  find_package(Threads QUIET)
endif()

# Optional for everyone, and never fetched: ONNX's own C++ library decides whether twoheads::onnx exists. Its package
# names the targets of protobuf without looking for them.
if(NOT TARGET onnx_proto)
  find_package(Protobuf QUIET)
  if(TARGET protobuf::libprotobuf)
    find_package(ONNX QUIET)
  endif()
  if(NOT TARGET onnx_proto AND PROJECT_IS_TOP_LEVEL)
    message(STATUS "twoheads: no twoheads::onnx without ONNX's C++ library (libonnx-dev and libprotobuf-dev on Debian)")
  endif()
endif()

# Optional for everyone, and never fetched: ICU decides whether twoheads::text exists.
if(NOT TARGET ICU::uc OR NOT TARGET ICU::i18n)
  find_package(ICU COMPONENTS uc i18n QUIET)
  if((NOT TARGET ICU::uc OR NOT TARGET ICU::i18n) AND PROJECT_IS_TOP_LEVEL)
    message(STATUS "twoheads: no twoheads::text without ICU (libicu-dev on Debian, libicu-devel on Fedora, icu4c in "
                   "Homebrew)")
  endif()
endif()

# MPI is looked for only where TWOHEADS_WITH_MPI asks: a machine may have several, and who uses none wants none linked.
if(TWOHEADS_WITH_MPI AND NOT TARGET MPI::MPI_CXX)
  find_package(MPI 3.1 QUIET COMPONENTS CXX)
  if(NOT TARGET MPI::MPI_CXX OR NOT MPI_CXX_FOUND)
    string(CONCAT twoheads_mpi_packages
           "libopenmpi-dev and openmpi-bin, or libmpich-dev and mpich, on Debian, openmpi-devel on Fedora, open-mpi in "
           "Homebrew")
    if(NOT TWOHEADS_WITH_MPI STREQUAL "AUTO")
      message(FATAL_ERROR "twoheads: TWOHEADS_WITH_MPI is ${TWOHEADS_WITH_MPI}, and no MPI of version 3.1 or later was "
                          "found (${twoheads_mpi_packages}). -DMPI_CXX_COMPILER= names one by its compiler")
    endif()
    message(STATUS "twoheads: no twoheads::mpi without MPI (${twoheads_mpi_packages})")
  endif()
endif()
