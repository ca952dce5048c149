# Packages by CPack: `cpack -G DEB` or `cpack -G TGZ` in a build folder of which nothing else needs to be built
# (-DTWOHEADS_BUILD_TESTS=OFF -DTWOHEADS_BUILD_BENCH=OFF -DTWOHEADS_BUILD_EXAMPLES=OFF).

set(CPACK_GENERATOR DEB TGZ)
set(CPACK_PACKAGE_NAME twoheads)
set(CPACK_PACKAGE_VENDOR twoheads)
set(CPACK_PACKAGE_CONTACT "the authors of twoheads")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION}")
set(CPACK_PACKAGE_DESCRIPTION
    "A header-only C++20 library that evaluates a transformer over N tokens by calls of a small one that takes at most
R rows, exactly and at any size of logits: plans, oracles, a tile kernel, sessions and training.")
set(CPACK_RESOURCE_FILE_LICENSE "${PROJECT_SOURCE_DIR}/LICENSE")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES OFF)

# Headers are the same on every architecture; a library of compiled instances is not.
set(CPACK_DEBIAN_PACKAGE_NAME libtwoheads-dev)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION libdevel)
if(NOT TARGET twoheads_compiled)
  set(CPACK_DEBIAN_PACKAGE_ARCHITECTURE all)
endif()
set(CPACK_DEBIAN_PACKAGE_DEPENDS "libeigen3-dev (>= 3.4)")
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "nlohmann-json3-dev, libtbb-dev")
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "libicu-dev, libboost-dev, libonnx-dev, libprotobuf-dev, libopenmpi-dev | libmpich-dev")

include(CPack)
