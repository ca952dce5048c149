# A port for a checkout: TWOHEADS_SOURCE names it, else the folder that this port lies in. A registry's own port would
# fetch a release here instead.
if(DEFINED ENV{TWOHEADS_SOURCE})
  set(SOURCE_PATH "$ENV{TWOHEADS_SOURCE}")
else()
  get_filename_component(SOURCE_PATH "${CMAKE_CURRENT_LIST_DIR}/../../../.." ABSOLUTE)
endif()

set(compiled OFF)
if("compiled" IN_LIST FEATURES)
  set(compiled ON)
else()
  # Headers alone: one build is both.
  set(VCPKG_BUILD_TYPE release)
endif()

vcpkg_cmake_configure(
  SOURCE_PATH "${SOURCE_PATH}"
  OPTIONS
    -DTWOHEADS_BUILD_TESTS=OFF
    -DTWOHEADS_BUILD_BENCH=OFF
    -DTWOHEADS_BUILD_EXAMPLES=OFF
    -DTWOHEADS_NATIVE=OFF
    -DTWOHEADS_BUILD_COMPILED=${compiled})
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(CONFIG_PATH share/cmake/twoheads)
vcpkg_fixup_pkgconfig()

file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/debug/include" "${CURRENT_PACKAGES_DIR}/debug/share")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
file(INSTALL "${CMAKE_CURRENT_LIST_DIR}/usage" DESTINATION "${CURRENT_PACKAGES_DIR}/share/${PORT}")
