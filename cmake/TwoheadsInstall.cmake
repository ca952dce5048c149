# Install rules. Each optional part has an export set of its own, so that twoheads::twoheads never needs its dependency.

include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# Headers only, so the same for every architecture.
set(twoheads_package_dir "${CMAKE_INSTALL_DATADIR}/cmake/twoheads")

install(TARGETS twoheads EXPORT twoheadsTargets FILE_SET HEADERS)
install(EXPORT twoheadsTargets NAMESPACE twoheads:: DESTINATION "${twoheads_package_dir}")

# A library of this machine's architecture: not in the folder that all share.
set(twoheads_compiled_dir "${CMAKE_INSTALL_LIBDIR}/cmake/twoheads-compiled")
if(TARGET twoheads_compiled)
  install(TARGETS twoheads_compiled EXPORT twoheadsCompiledTargets ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
  install(EXPORT twoheadsCompiledTargets NAMESPACE twoheads:: DESTINATION "${twoheads_compiled_dir}")
endif()

if(TARGET twoheads_io)
  install(TARGETS twoheads_io EXPORT twoheadsIoTargets FILE_SET HEADERS)
  install(EXPORT twoheadsIoTargets NAMESPACE twoheads:: DESTINATION "${twoheads_package_dir}")
endif()

if(TARGET twoheads_threads)
  install(TARGETS twoheads_threads EXPORT twoheadsThreadsTargets FILE_SET HEADERS)
  install(EXPORT twoheadsThreadsTargets NAMESPACE twoheads:: DESTINATION "${twoheads_package_dir}")
endif()

if(TARGET twoheads_remote)
  install(TARGETS twoheads_remote EXPORT twoheadsRemoteTargets FILE_SET HEADERS)
  install(EXPORT twoheadsRemoteTargets NAMESPACE twoheads:: DESTINATION "${twoheads_package_dir}")
endif()

if(TARGET twoheads_onnx)
  install(TARGETS twoheads_onnx EXPORT twoheadsOnnxTargets FILE_SET HEADERS)
  install(EXPORT twoheadsOnnxTargets NAMESPACE twoheads:: DESTINATION "${twoheads_package_dir}")
endif()

if(TARGET twoheads_text)
  install(TARGETS twoheads_text EXPORT twoheadsTextTargets FILE_SET HEADERS)
  install(EXPORT twoheadsTextTargets NAMESPACE twoheads:: DESTINATION "${twoheads_package_dir}")
endif()

if(TARGET twoheads_mpi)
  install(TARGETS twoheads_mpi EXPORT twoheadsMpiTargets FILE_SET HEADERS)
  install(EXPORT twoheadsMpiTargets NAMESPACE twoheads:: DESTINATION "${twoheads_package_dir}")
endif()

configure_package_config_file(
  "${CMAKE_CURRENT_LIST_DIR}/twoheadsConfig.cmake.in" "${PROJECT_BINARY_DIR}/twoheadsConfig.cmake"
  INSTALL_DESTINATION "${twoheads_package_dir}"
  PATH_VARS twoheads_compiled_dir
  NO_SET_AND_CHECK_MACRO)
# Before 1.0 a minor version may change the interface.
write_basic_package_version_file(
  "${PROJECT_BINARY_DIR}/twoheadsConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion
  ARCH_INDEPENDENT)
install(FILES "${PROJECT_BINARY_DIR}/twoheadsConfig.cmake" "${PROJECT_BINARY_DIR}/twoheadsConfigVersion.cmake"
        DESTINATION "${twoheads_package_dir}")
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DOCDIR}")

# For builds without CMake. A folder for headers outside of the prefix has no place in a file that can be moved.
if(NOT IS_ABSOLUTE "${CMAKE_INSTALL_INCLUDEDIR}")
  configure_file("${CMAKE_CURRENT_LIST_DIR}/twoheads.pc.in" "${PROJECT_BINARY_DIR}/twoheads.pc" @ONLY)
  install(FILES "${PROJECT_BINARY_DIR}/twoheads.pc" DESTINATION "${CMAKE_INSTALL_DATADIR}/pkgconfig")
endif()
