# Configures, builds and runs this folder as a project of its own, with nothing to reach but what is installed.
#
# cmake -DCONSUMER=.. -DSOURCE=.. -DBUILD=.. -DWORK=.. -DGENERATOR=.. -DMAKE_PROGRAM=.. -DCOMPILER=.. -DEIGEN=..
#       -DNLOHMANN_JSON=.. -DTBB=.. -DBOOST=.. -DMPI=.. -P run.cmake
#
# CONSUMER as CMakeLists.txt here has it, or pkg_config.

function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
endfunction()

file(REMOVE_RECURSE "${WORK}")
set(arguments "")

# Configures the library alone, as someone does who packages it.
macro(configure_library)
  set(BUILD "${WORK}/library")
  run("${CMAKE_COMMAND}"
      -S "${SOURCE}"
      -B "${BUILD}"
      -G "${GENERATOR}"
      "-DCMAKE_MAKE_PROGRAM=${MAKE_PROGRAM}"
      "-DCMAKE_CXX_COMPILER=${COMPILER}"
      "-DEigen3_DIR=${EIGEN}"
      -DTWOHEADS_BUILD_TESTS=OFF
      -DTWOHEADS_BUILD_BENCH=OFF
      -DTWOHEADS_BUILD_EXAMPLES=OFF
      ${ARGN})
endmacro()

if(CONSUMER STREQUAL "install_compiled")
  # Nothing here asks how fast it is, or debugs it.
  configure_library(-DTWOHEADS_BUILD_COMPILED=ON -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-DNDEBUG)
  run("${CMAKE_COMMAND}" --build "${BUILD}")
endif()

if(CONSUMER STREQUAL "package")
  configure_library()
  # dpkg-deb makes the package, and takes it apart where nothing is to be installed.
  run("${CMAKE_CPACK_COMMAND}" -G DEB --config "${BUILD}/CPackConfig.cmake" -B "${WORK}/made")
  file(GLOB package "${WORK}/made/libtwoheads-dev_*.deb")
  run(dpkg-deb --info "${package}")
  run(dpkg-deb --extract "${package}" "${WORK}/root")
  file(RENAME "${WORK}/root/usr" "${WORK}/prefix")
  list(APPEND arguments "-Dtwoheads_ROOT=${WORK}/prefix")
elseif(CONSUMER MATCHES "^install|^pkg_config$")
  run("${CMAKE_COMMAND}" --install "${BUILD}" --prefix "${WORK}/made")

  # An installed tree can be moved and tells nothing of the machine that made it.
  file(RENAME "${WORK}/made" "${WORK}/prefix")
  file(GLOB_RECURSE installed "${WORK}/prefix/*")
  foreach(file IN LISTS installed)
    # The texts in it, where it is a library.
    file(STRINGS "${file}" text)
    foreach(path IN ITEMS "${SOURCE}" "${BUILD}" "${WORK}")
      string(FIND "${text}" "${path}" position)
      if(NOT position EQUAL -1)
        message(FATAL_ERROR "${file} names ${path}")
      endif()
    endforeach()
  endforeach()
  list(APPEND arguments "-Dtwoheads_ROOT=${WORK}/prefix")
else()
  list(APPEND arguments "-DTWOHEADS_SOURCE=${SOURCE}")
endif()

if(CONSUMER STREQUAL "pkg_config")
  # The package's own flags and no other, but for the language.
  set(ENV{PKG_CONFIG_PATH} "${WORK}/prefix/share/pkgconfig")
  execute_process(COMMAND pkg-config --cflags twoheads OUTPUT_VARIABLE flags COMMAND_ERROR_IS_FATAL ANY)
  separate_arguments(flags UNIX_COMMAND "${flags}")
  run("${COMPILER}" -std=c++20 ${flags} "${CMAKE_CURRENT_LIST_DIR}/main.cpp" "${CMAKE_CURRENT_LIST_DIR}/second.cpp" -o
      "${WORK}/consumer")
  run("${WORK}/consumer")
  return()
endif()

# Only install_io may find nlohmann-json: the library itself does without.
if(CONSUMER STREQUAL "install_io")
  list(APPEND arguments "-Dnlohmann_json_DIR=${NLOHMANN_JSON}")
else()
  list(APPEND arguments -DCMAKE_DISABLE_FIND_PACKAGE_nlohmann_json=ON)
endif()

# And only install_threads oneTBB.
if(CONSUMER STREQUAL "install_threads")
  list(APPEND arguments "-DTBB_DIR=${TBB}")
else()
  list(APPEND arguments -DCMAKE_DISABLE_FIND_PACKAGE_TBB=ON)
endif()

# And only install_remote Boost.
if(CONSUMER STREQUAL "install_remote")
  list(APPEND arguments "-DBoost_DIR=${BOOST}")
else()
  list(APPEND arguments -DCMAKE_DISABLE_FIND_PACKAGE_Boost=ON)
endif()

# And only install_mpi MPI: the same of several.
if(CONSUMER STREQUAL "install_mpi")
  list(APPEND arguments "-DMPI_CXX_COMPILER=${MPI}")
else()
  list(APPEND arguments -DCMAKE_DISABLE_FIND_PACKAGE_MPI=ON)
endif()

# None of them uses twoheads::onnx or twoheads::text.
list(APPEND arguments -DCMAKE_DISABLE_FIND_PACKAGE_ONNX=ON -DCMAKE_DISABLE_FIND_PACKAGE_ICU=ON)

# Without a build type no optimisation: this is about what compiles and links.
run("${CMAKE_COMMAND}"
    -S "${CMAKE_CURRENT_LIST_DIR}"
    -B "${WORK}/build"
    -G "${GENERATOR}"
    "-DCMAKE_MAKE_PROGRAM=${MAKE_PROGRAM}"
    "-DCMAKE_CXX_COMPILER=${COMPILER}"
    "-DEigen3_DIR=${EIGEN}"
    "-DTWOHEADS_CONSUMER=${CONSUMER}"
    -DFETCHCONTENT_FULLY_DISCONNECTED=ON
    -DCMAKE_FIND_USE_PACKAGE_REGISTRY=OFF
    -DCMAKE_FIND_USE_SYSTEM_PACKAGE_REGISTRY=OFF
    ${arguments})
run("${CMAKE_COMMAND}" --build "${WORK}/build" --target run)
