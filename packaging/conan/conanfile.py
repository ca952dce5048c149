"""twoheads as a Conan package: conan create packaging/conan, from a checkout."""
import os

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeDeps, CMakeToolchain, cmake_layout
from conan.tools.files import copy

required_conan_version = ">=2.0"


class TwoheadsConan(ConanFile):
    name = "twoheads"
    version = "0.1.0"
    license = "MIT"
    description = "Runs a transformer over many tokens through calls of a small one"
    topics = ("transformer", "attention", "header-only", "eigen")
    settings = "os", "compiler", "build_type", "arch"
    options = {"compiled": [True, False], "io": [True, False], "text": [True, False], "threads": [True, False],
               "remote": [True, False]}
    default_options = {"compiled": False, "io": True, "text": False, "threads": True, "remote": False}

    def export_sources(self):
        root = os.path.join(self.recipe_folder, "..", "..")
        for pattern in ("CMakeLists.txt", "LICENSE", "cmake/*", "include/*"):
            copy(self, pattern, root, self.export_sources_folder)

    def requirements(self):
        self.requires("eigen/3.4.0", transitive_headers=True)
        if self.options.io or self.options.text:
            self.requires("nlohmann_json/3.11.3", transitive_headers=True)
        if self.options.text:
            self.requires("icu/74.2", transitive_headers=True)
        if self.options.threads:
            self.requires("onetbb/2021.12.0", transitive_headers=True)
        if self.options.remote:
            self.requires("boost/1.84.0", transitive_headers=True)

    def validate(self):
        check_min_cppstd(self, 20)

    def package_id(self):
        if not self.info.options.compiled:
            self.info.settings.clear()

    def layout(self):
        cmake_layout(self)

    def generate(self):
        toolchain = CMakeToolchain(self)
        for part in ("TESTS", "BENCH", "EXAMPLES"):
            toolchain.cache_variables[f"TWOHEADS_BUILD_{part}"] = False
        toolchain.cache_variables["TWOHEADS_NATIVE"] = False
        toolchain.cache_variables["TWOHEADS_BUILD_COMPILED"] = bool(self.options.compiled)
        toolchain.generate()
        CMakeDeps(self).generate()

    def build(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.build()

    def package(self):
        CMake(self).install()

    def package_info(self):
        # The package's own files of CMake say what its components need.
        self.cpp_info.set_property("cmake_find_mode", "none")
        self.cpp_info.builddirs.append(os.path.join("share", "cmake", "twoheads"))
        self.cpp_info.bindirs = []
        if not self.options.compiled:
            self.cpp_info.libdirs = []
