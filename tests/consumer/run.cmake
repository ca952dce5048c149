# Configures, builds and runs this folder as a project of its own, with nothing to reach but what is installed.
#
# cmake -DCONSUMER=.. -DSOURCE=.. -DBUILD=.. -DWORK=.. -DGENERATOR=.. -DMAKE_PROGRAM=.. -DCOMPILER=.. -DEIGEN=..
#       -DNLOHMANN_JSON=.. -DTBB=.. -DBOOST=.. -DMPI=.. -P run.cmake

function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
endfunction()

file(REMOVE_RECURSE "${WORK}")
set(arguments "")

if(CONSUMER MATCHES "^install")
  run("${CMAKE_COMMAND}" --install "${BUILD}" --prefix "${WORK}/made")

  # An installed tree can be moved and tells nothing of the machine that made it.
  file(RENAME "${WORK}/made" "${WORK}/prefix")
  file(GLOB_RECURSE installed "${WORK}/prefix/*")
  foreach(file IN LISTS installed)
    file(READ "${file}" text)
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
