#!/usr/bin/env python3
"""Pictures of what scripts/bench.sh has measured: plot.py FOLDER PICTURES [--png]

Needs matplotlib. Colours are those of Okabe and Ito, which colour-blind readers tell apart; lines differ by mark too.
"""
import math
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from report import Results, field

ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = (
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)

plt.rcParams.update(
    {
        "font.family": "sans-serif",
        "font.size": 10,
        "svg.fonttype": "none",
        "svg.hashsalt": "twoheads",
        "figure.facecolor": "white",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e4e4e4",
        "grid.linewidth": 0.7,
        "axes.edgecolor": "#666666",
        "xtick.color": "#333333",
        "ytick.color": "#333333",
    }
)


class Picture:
    """Log-log axes with the legend beside them, in the order in which the lines end."""

    def __init__(self, title, x, y):
        self.figure, self.axes = plt.subplots(figsize=(8, 4.4))
        self.axes.set_title(title, loc="left", fontsize=11.5, pad=12)
        self.axes.set_xlabel(x)
        self.axes.set_ylabel(y)
        self.lines = []

    def line(self, points, label, color, mark, dashed=False, strong=False):
        points = sorted(p for p in points if p[1] is not None and p[1] > 0)
        if not points:
            return
        (line,) = self.axes.plot(
            *zip(*points),
            color=color,
            marker=mark,
            markersize=6,
            markeredgecolor="white",
            markeredgewidth=0.6,
            linewidth=2.6 if strong else 1.6,
            linestyle=(0, (5, 2)) if dashed else "-",
            label=label,
            zorder=3 if strong else 2,
        )
        self.lines.append((points, line))

    def save(self, path, png):
        if not self.lines:
            plt.close(self.figure)
            return
        self.axes.set_xscale("log", base=2)
        self.axes.set_yscale("log")
        ticks = sorted({x for points, _ in self.lines for x, _ in points})
        self.axes.xaxis.set_major_locator(FixedLocator(ticks))
        values = [y for points, _ in self.lines for _, y in points]
        # Few powers of ten would leave the axis nearly without numbers.
        steps = (1, 2, 5) if max(values) / min(values) < 1000 else (1,)
        self.axes.yaxis.set_major_locator(LogLocator(subs=steps, numticks=20))
        for axis in (self.axes.xaxis, self.axes.yaxis):
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(plain))
        end = ticks[-1]
        ordered = sorted(self.lines, key=lambda entry: -self.height(entry[0], end))
        self.axes.legend(
            handles=[line for _, line in ordered],
            loc="center left",
            bbox_to_anchor=(1.02, 0.5),
            frameon=False,
            handlelength=2.6,
            labelspacing=0.9,
        )
        self.figure.savefig(path.with_suffix(".svg"), bbox_inches="tight", metadata={"Date": None, "Creator": None})
        if png:
            self.figure.savefig(path.with_suffix(".png"), bbox_inches="tight", dpi=110)
        plt.close(self.figure)
        print(path.with_suffix(".svg"))

    @staticmethod
    def height(points, end):
        """Where the line would be at the right end, so that the legend reads as the lines end."""
        (x, y), (last_x, last_y) = points[-2:] if len(points) > 1 else points * 2
        slope = math.log(last_y / y) / math.log(last_x / x) if last_x > x else 0
        return math.log(last_y) + slope * math.log(end / last_x)


def plain(value, _=None):
    """16 384, 0.5, or 10⁻⁷ where it is far from 1."""
    if value >= 1000:
        return f"{value:,.0f}".replace(",", "\u2009")
    if value >= 0.001:
        return f"{value:g}"
    exponent = f"{value:.0e}".split("e")
    power = str(int(exponent[1])).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return ("" if exponent[0] == "1" else exponent[0] + "·") + "10" + power


PEERS = [
    ("OnnxRuntime", "ONNX Runtime", VERMILION, "s"),
    ("BM_OneDnnStrips", "oneDNN: product, softmax, product", ORANGE, "D"),
    ("BM_EigenBlocks", "Eigen, blocks of 256", GREEN, "^"),
    ("BM_EigenNaive", "Eigen, all scores at once", PURPLE, "v"),
]


def series(results, program, mask, key, x="N", more=()):
    names = [n for n in results.names(mask, *more) if n.startswith(program + "/")]
    return [(field(n, x), results.median(n, key)) for n in names if field(n, "samples") is None]


def time_against_tokens(results, folder, png):
    titles = {
        "full": "Attention, full mask: time against length",
        "causal": "Attention, causal mask: time against length",
        "window": "Attention, window of 1024: time against length",
    }
    for mask, title in titles.items():
        picture = Picture(title + "\n8 heads of 64, float32, one thread", "tokens N", "milliseconds")
        thread = ("threads:1",)
        points = lambda program, more=thread: [
            (n, s * 1e3) for n, s in series(results, program, mask, "seconds", more=more)
        ]
        picture.line(points("BM_Kernel"), "twoheads, kernel", BLUE, "o", strong=True)
        for rows, mark in ((257, "P"), (1025, "X")):
            label = f"twoheads, oracle calls of {rows} rows"
            picture.line(points("BM_OracleGrid", thread + (f"M:{rows}",)), label, SKY, mark, dashed=rows == 257)
        for program, label, color, mark in PEERS:
            picture.line(points(program), label, color, mark)
        picture.save(folder / f"time_{mask}", png)


MASKS = [("full", BLUE, "o"), ("causal", VERMILION, "s"), ("window", GREEN, "^")]


def grids(results, mask, key, more=("adaptive",)):
    """(M, value) of the grids that carry one instance a call."""
    names = [n for n in results.names(mask, *more) if n.startswith("BM_Simulate/") and field(n, "heads") is None]
    return [(field(n, "M"), results.median(n, key)) for n in names if field(n, "samples") is None]


MASK_LABELS = {"full": "full", "causal": "causal", "window": "window of 1024"}


def against_rows(results, folder, png):
    remark = "\none head of 64, N = 4096, float32, one thread"
    calls = Picture("Oracle calls against the rows of a call\none head, N = 4096", "rows of a call M", "calls")
    for key, remark_of_key, dashed in (("calls", "", False), ("paper_calls", ", the paper's count", True)):
        points = {mask: sorted(grids(results, mask, key)) for mask, _, _ in MASKS}
        # Lines that coincide are one line.
        same = points["full"] == points["causal"]
        for mask, color, mark in MASKS:
            if mask == "causal" and same:
                continue
            label = "full and causal" if mask == "full" and same else MASK_LABELS[mask]
            calls.line(points[mask], label + remark_of_key, color, mark, dashed=dashed, strong=not dashed)
    calls.save(folder / "calls_rows", png)

    time = Picture("Time against the rows of a call" + remark, "rows of a call M", "milliseconds")
    for mask, color, mark in MASKS:
        time.line([(m, s * 1e3) for m, s in grids(results, mask, "seconds")], MASK_LABELS[mask], color, mark)
        direct = results.median(f"BM_Direct/{mask}/N:4096", "seconds")
        if direct is not None and time.lines:
            ends = [x for x, _ in time.lines[-1][0]]
            level = [(ends[0], direct * 1e3), (ends[-1], direct * 1e3)]
            time.line(level, f"{MASK_LABELS[mask]}, no oracle", color, "", dashed=True)
    time.save(folder / "time_rows", png)

    title = "Error against the rows of a call, full mask\nworst row against float64; one head of 64, N = 4096"
    error = Picture(title, "rows of a call M", "relative error")
    error.line(grids(results, "full", "row_error"), "all blocks: exact", BLUE, "o", strong=True)
    styles = [(1, VERMILION, "s"), (2, ORANGE, "D"), (4, PURPLE, "v")]
    for samples, color, mark in styles:
        names = [n for n in results.names("full", f"samples:{samples}") if n.startswith("BM_Simulate/")]
        points = [(field(n, "M"), results.median(n, "row_error")) for n in names]
        label = f"{samples} random key block{'s' if samples > 1 else ''} a query block"
        error.line(points, label, color, mark)
    error.save(folder / "error_rows", png)


def main():
    results = Results(pathlib.Path(sys.argv[1]))
    folder = pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    png = "--png" in sys.argv
    time_against_tokens(results, folder, png)
    against_rows(results, folder, png)


if __name__ == "__main__":
    main()
