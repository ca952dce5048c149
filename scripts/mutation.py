#!/usr/bin/python3
"""Breaks the library in chosen places, one at a time, and asks whether the tests notice.

  Needs    python3, g++ (or CXX), Eigen, GoogleTest, nlohmann-json, oneTBB, ICU: what scripts/setup.sh installs
  Usage    scripts/mutation.py [--jobs N] [--only NUMBER,...] [--base] [--list]
  Laws     every break of tests/mutation/breaks.txt must be caught by the test that it names. Exit status 1 where one
           survives, does not compile, or where the text to find stands in its header no longer, or more than once.
           --base runs the named tests without a break first: each has to pass.
  Cost     each break is compiled by itself: its header lies in a folder that is searched before include/, one test
           program is built with -O1, and of twoheads_instances, where the test takes it, what includes the header.
"""
import argparse
import concurrent.futures
import dataclasses
import fcntl
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDE = ROOT / "include"
TABLE = ROOT / "tests/mutation/breaks.txt"
WORK = ROOT / "build/mutation"
SECONDS = 600  # a test that runs longer has noticed: it no longer ends


@dataclasses.dataclass
class Break:
    number: int
    header: str
    test: str
    pattern: str
    slip: str
    find: str = ""
    put: str = ""


def read_table():
    """The breaks of the table; see its first lines for the format."""
    breaks = []
    for number, line in enumerate(TABLE.read_text().splitlines(), 1):
        if line.startswith("== "):
            words = line[3:].split(None, 3)
            if len(words) != 4:
                sys.exit(f"{TABLE}:{number}: expected '== header test filter what it is'")
            breaks.append(Break(len(breaks) + 1, *words))
        elif line.startswith("- ") and breaks:
            breaks[-1].find += ("\n" if breaks[-1].find else "") + line[2:]
        elif line.startswith("+ ") and breaks:
            breaks[-1].put += ("\n" if breaks[-1].put else "") + line[2:]
        elif line and not line.startswith("#"):
            sys.exit(f"{TABLE}:{number}: expected a line that begins with '== ', '- ', '+ ' or '#'")
    return breaks


def compiler_flags():
    def of(*packages):
        found = subprocess.run(["pkg-config", "--cflags", *packages], capture_output=True, text=True, check=False)
        return found.stdout.replace("-I", "-isystem ").split()
    flags = "-std=c++20 -O1 -w -DTWOHEADS_WITH_THREADS -DTWOHEADS_WITH_TEXT".split()
    if os.uname().machine in ("x86_64", "aarch64"):
        flags.append("-march=native")
    flags += [f'-DTWOHEADS_SOURCE_DIR="{ROOT}"', '-DTWOHEADS_SHARED_DIR="none"', '-DTWOHEADS_PROGRAM_DIR="none"']
    return flags + (of("eigen3") or ["-isystem", "/usr/include/eigen3"])


CXX = os.environ.get("CXX", "g++").split()
LIBRARIES = ["-lgtest_main", "-lgtest", "-ltbb", "-licui18n", "-licuuc", "-lpthread"]


def compile_one(source, target, includes, precompiled):
    """Compiles a source; what a header in the first of `includes` says goes before what the repository says."""
    command = CXX + compiler_flags() + [f"-I{folder}" for folder in includes]
    if precompiled:
        command += ["-include", str(WORK / "first.hpp")]
    command += ["-MMD", "-MF", str(target) + ".d", "-c", str(source), "-o", str(target)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def parts_of_instances():
    """The files that a test with instances is linked with, as the build says."""
    listed = re.search(r"set\(twoheads_common_parts ([^)]+)\)", (ROOT / "examples/support/CMakeLists.txt").read_text())
    return [pathlib.Path(name).stem for name in listed.group(1).split()]


def prepare():
    """What all breaks share: headers that none of them touches, compiled once."""
    for part in parts_of_instances():
        (WORK / f"{part}.o").unlink(missing_ok=True)
    first = WORK / "first.hpp"
    first.write_text("#include <Eigen/Core>\n#include <gtest/gtest.h>\n#include <map>\n#include <sstream>\n"
                     "#include <random>\n#include <filesystem>\n#include <fstream>\n")
    made = subprocess.run(CXX + compiler_flags() + ["-x", "c++-header", str(first), "-o", str(first) + ".gch"],
                          capture_output=True, text=True, check=False)
    if made.returncode != 0:
        sys.exit(made.stderr)


REPOSITORY = [INCLUDE, ROOT / "tests", ROOT / "examples"]
UNBROKEN = threading.Lock()


def unbroken(part):
    """A part of examples/support without a break, compiled when the first test asks for it."""
    target = WORK / f"{part}.o"
    with UNBROKEN:
        if not target.exists():
            made = compile_one(ROOT / f"examples/support/{part}.cpp", target, REPOSITORY, True)
            if made.returncode != 0:
                raise RuntimeError(made.stderr)
    return target


def build_and_run(test, pattern, folder, includes, header):
    """Builds one test program and runs some of its tests: what came of it, in one word, and what was said."""
    built = compile_one(ROOT / "tests" / f"{test}.cpp", folder / "test.o", includes, True)
    if built.returncode != 0:
        # What a test states at compile time it notices at compile time.
        asserted = re.search(r"(\S+?):\d+:\d+: error: static assertion failed", built.stderr)
        return ("caught", f"static_assert in {asserted.group(1)}") if asserted else ("does not compile", built.stderr)
    objects = [str(folder / "test.o")]
    if "support/instances.hpp" in (folder / "test.o.d").read_text():
        for part in parts_of_instances():
            made = unbroken(part)
            if header and f"twoheads/{header}" in pathlib.Path(f"{made}.d").read_text():
                made = folder / f"{part}.o"
                built = compile_one(ROOT / f"examples/support/{part}.cpp", made, includes, True)
                if built.returncode != 0:
                    return "does not compile", built.stderr
            objects.append(str(made))
    program = folder / "test"
    built = subprocess.run(CXX + objects + ["-o", str(program)] + LIBRARIES, capture_output=True, text=True,
                           check=False)
    if built.returncode != 0:
        return "does not compile", built.stderr
    try:
        run = subprocess.run([str(program), f"--gtest_filter={pattern}", "--gtest_brief=1"], capture_output=True,
                             text=True, errors="replace", check=False, timeout=SECONDS, cwd=folder)
    except subprocess.TimeoutExpired:
        return "caught", f"did not end within {SECONDS} s"
    said = run.stdout + run.stderr
    ran = re.search(r"\[==========\] (\d+) test", said)
    if ran and ran.group(1) == "0":
        return "no such test", said
    if run.returncode == 0:
        return "survived", said
    failed = re.findall(r"^\[  FAILED  \] (\S+?),? ", said, re.M)
    return "caught", failed[0] if failed else f"ended with {run.returncode}"


def try_break(one):
    begin = time.time()
    text = (INCLUDE / "twoheads" / one.header).read_text()
    if text.count(one.find) != 1:
        return one, "text not found" if one.find not in text else "text stands more than once", "", 0.0
    folder = WORK / f"{one.number:02d}"
    shutil.rmtree(folder, ignore_errors=True)
    broken = folder / "include/twoheads" / one.header
    broken.parent.mkdir(parents=True)
    broken.write_text(text.replace(one.find, one.put))
    result, said = build_and_run(one.test, one.pattern, folder, [folder / "include"] + REPOSITORY, one.header)
    if result == "caught":
        shutil.rmtree(folder, ignore_errors=True)
    return one, result, said, time.time() - begin


def try_base(test, pattern):
    folder = WORK / f"base_{test}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    result, said = build_and_run(test, pattern, folder, REPOSITORY, "")
    return result == "survived", said


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1, help="breaks that are tried at once")
    parser.add_argument("--only", default="", help="numbers of breaks, with commas between them")
    parser.add_argument("--base", action="store_true", help="run the tests without a break first")
    parser.add_argument("--list", action="store_true", help="print the table and stop")
    options = parser.parse_args()
    breaks = read_table()
    if options.only:
        chosen = {int(number) for number in options.only.split(",")}
        breaks = [one for one in breaks if one.number in chosen]
    if options.list:
        for one in breaks:
            print(f"{one.number:2d}  {one.header:32} {one.test:24} {one.slip}")
        return 0
    WORK.mkdir(parents=True, exist_ok=True)
    with open(WORK / "lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"another run is at work in {WORK}")
        return try_all(breaks, options)


def try_all(breaks, options):
    prepare()
    failures = 0
    if options.base:
        patterns = {}
        for one in breaks:
            patterns.setdefault(one.test, []).append(one.pattern)
        for test, all_of_it in patterns.items():
            passed, said = try_base(test, ":".join(sorted(set(all_of_it))))
            print(f"{test}: {'passes' if passed else 'FAILS'} without a break", flush=True)
            if not passed:
                failures += 1
                print(said[-2000:])
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for one, result, said, seconds in pool.map(try_break, breaks):
            note = said if result == "caught" else ""
            print(f"{one.number:2d}  {one.header:32} {one.test:24} {result:16} {seconds:4.0f} s  {one.slip}  {note}",
                  flush=True)
            if result != "caught":
                failures += 1
                print(said[-2000:])
    print(f"{len(breaks)} breaks, {failures} faults")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
