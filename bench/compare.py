#!/usr/bin/env python3
"""compare.py FOLDER [--limit PERCENT]: the tables that scripts/bench_against.sh wrote, before-*-N.json and after-*-N.json.

For each benchmark the ratio of the times, after to before, of each round; their median, and as spread half the range
that holds the middle half of them. Exits 1 where a median is above 1 + limit + spread, or nothing can be compared.
"""
import argparse
import json
import pathlib
import re
import statistics
import sys


def times(path):
    """Real time of each benchmark of one run, in nanoseconds."""
    units = {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9}
    found = {}
    for one in json.loads(path.read_text())["benchmarks"]:
        if one.get("run_type", "iteration") == "iteration" and not one.get("error_occurred"):
            found[one["name"]] = one["real_time"] * units[one["time_unit"]]
    return found


def rounds(folder, side):
    """{(table, round): times} of one side."""
    found = {}
    for path in sorted(folder.glob(f"{side}-*.json")):
        table, number = re.fullmatch(rf"{side}-(.+)-(\d+)\.json", path.name).groups()
        found[table, int(number)] = times(path)
    return found


def ratios(before, after):
    """{benchmark: [after / before of each round]}, and the names that one side alone has."""
    found, alone = {}, set()
    for key in sorted(before.keys() & after.keys()):
        alone |= before[key].keys() ^ after[key].keys()
        for name in before[key].keys() & after[key].keys():
            found.setdefault(name, []).append(after[key][name] / before[key][name])
    return found, sorted(alone)


def spread(values):
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--limit", type=float, default=15.0, help="slowdown that is let pass, in percent")
    arguments = parser.parse_args()
    found, alone = ratios(rounds(arguments.folder, "before"), rounds(arguments.folder, "after"))
    if not found:
        sys.exit(f"{arguments.folder}: no benchmark was run on both sides")
    slower = []
    print(f"{'after / before':>14}  {'spread':>6}  benchmark")
    for name, values in sorted(found.items()):
        middle, wide = statistics.median(values), spread(values)
        bad = middle > 1 + arguments.limit / 100 + wide
        slower += [name] if bad else []
        print(f"{middle:14.3f}  {wide:6.3f}  {name}{'  SLOWER' if bad else ''}")
    for name in alone:
        print(f"{'-':>14}  {'-':>6}  {name}  on one side only")
    if slower:
        sys.exit(f"{len(slower)} of {len(found)} benchmarks are slower by more than {arguments.limit:g} % beyond their spread")
    print(f"none of {len(found)} benchmarks is slower by more than {arguments.limit:g} % beyond its spread")


if __name__ == "__main__":
    main()
