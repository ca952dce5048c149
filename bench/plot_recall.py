#!/usr/bin/env python3
"""The picture of docs/training.md: plot_recall.py FOLDER PICTURE.svg, with the tables that scripts/recall.sh wrote.

Needs matplotlib.
"""
import csv
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

MIXERS = [
    ("full", "full attention, calls of 129 rows", "#0072B2", "o"),
    ("causal", "causal attention, calls of 129 rows", "#009E73", "s"),
    ("window", "window of 64, calls of 129 rows", "#E69F00", "^"),
    ("linear", "linear attention after a first layer through calls", "#D55E00", "v"),
]

plt.rcParams.update({"font.size": 10, "svg.hashsalt": "twoheads", "svg.fonttype": "none"})


def main(folder, picture):
    figure, axes = plt.subplots(figsize=(8, 4.8))
    lengths = []
    for mixer, label, colour, mark in MIXERS:
        rows = list(csv.DictReader(open(folder / f"{mixer}.csv")))
        steps = [int(row["step"]) for row in rows]
        axes.plot(steps, [100 * float(row["accuracy"]) for row in rows], color=colour, marker=mark, markersize=4, label=label)
        lengths = [(int(row["step"]), int(row["tokens"])) for row in rows]
    before = None
    for step, tokens in lengths:
        if tokens != before:
            axes.axvline(step, color="#b0b0b0", linewidth=0.8, linestyle=":")
            axes.text(step + 4, 104, f"{tokens}", fontsize=8, color="#606060")
        before = tokens
    axes.set_xlabel("steps; numbers above the dotted lines: tokens of a sequence")
    axes.set_ylabel("queries answered right, %")
    axes.set_ylim(0, 110)
    axes.set_yticks(range(0, 101, 20))
    axes.grid(axis="y", color="#e3e6ea")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncol=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(picture, metadata={"Date": None})


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]), sys.argv[2])
