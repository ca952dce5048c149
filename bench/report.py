#!/usr/bin/env python3
"""Tables of what scripts/bench.sh has measured: report.py FOLDER [--page FILE]

Writes FOLDER/report.md. With --page the same text replaces what stands between the two marks of that file. Ratios are
taken inside one round, where both sides ran in turns, and quoted as the median of the rounds with the least and the
greatest. Only the standard library is needed.
"""
import collections
import json
import pathlib
import statistics
import sys

BEGIN = "<!-- measured: begin -->"
END = "<!-- measured: end -->"


class Results:
    """Samples of every benchmark, round by round."""

    def __init__(self, folder):
        self.context = {}
        self.failed = []
        # name -> round -> samples
        self.samples = collections.defaultdict(lambda: collections.defaultdict(list))
        for path in sorted(folder.glob("*.json")):
            self._read_benchmarks(path)
        for path in sorted(folder.glob("*.jsonl")):
            self._read_lines(path)

    def _read_benchmarks(self, path):
        try:
            report = json.loads(path.read_text())
        except json.JSONDecodeError:
            self.failed.append(path.name + " is no JSON: its program did not finish")
            return
        self.context = self.context or report["context"]
        for run in report["benchmarks"]:
            if run.get("run_type") == "aggregate":
                continue
            name = run["name"].replace("/real_time", "")
            if run.get("error_occurred"):
                self.failed.append(name + ": " + run.get("error_message", ""))
                continue
            sample = {key: value for key, value in run.items() if isinstance(value, (int, float))}
            sample["seconds"] = run["real_time"] * {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}[run["time_unit"]]
            self.samples[name][self._round_of(path)].append(sample)

    def _read_lines(self, path):
        for line in path.read_text().splitlines():
            run = json.loads(line)
            name = f"{run['name']}/N:{run['N']}/threads:{run['threads']}"
            if "error" in run:
                self.failed.append(name + ": " + run["error"])
                continue
            self.context.setdefault("onnxruntime", run["version"])
            self.samples[name][self._round_of(path)].append(run)

    @staticmethod
    def _round_of(path):
        """attention-short-2.json and onnxruntime-2.jsonl are of one round."""
        return path.stem.rsplit("-", 1)[-1]

    def names(self, *parts):
        return [name for name in self.samples if all(part in name.split("/") for part in parts)]

    def median(self, name, key):
        """Over all samples, or None where there are none."""
        values = [s[key] for samples in self.samples.get(name, {}).values() for s in samples if key in s]
        return statistics.median(values) if values else None

    def ratios(self, name, other, key="gflops"):
        """One for each round that has both."""
        mine, others = self.samples.get(name, {}), self.samples.get(other, {})
        median = lambda samples: statistics.median(s[key] for s in samples)
        return [median(mine[r]) / median(others[r]) for r in mine if r in others]


def field(name, key):
    """field("BM_X/full/N:1024", "N") is 1024."""
    for part in name.split("/"):
        if part.startswith(key + ":"):
            return int(part[len(key) + 1 :])
    return None


def spread(ratios):
    if not ratios:
        return "-"
    middle = f"{statistics.median(ratios):.2f}"
    return middle if len(ratios) == 1 else f"{middle} ({min(ratios):.2f} to {max(ratios):.2f})"


def number(value, digits=3):
    """So many significant digits, and no fewer than those before the point."""
    if value is None:
        return "-"
    if isinstance(value, int) or (value == int(value) and abs(value) < 100):
        return f"{int(value):,}".replace(",", " ")
    if abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:#.{digits}g}".rstrip(".")


def small(value):
    return "-" if value is None else f"{value:.1e}".replace("e-0", "e-")


def megabytes(value):
    return "-" if value is None else number(value / 1e6)


def table(heads, rows):
    if not rows:
        return ""
    lines = ["| " + " | ".join(heads) + " |", "| " + " | ".join("---" for _ in heads) + " |"]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


MASKS = ["full", "causal", "window", "sinks"]


def cases(results, program):
    """(mask, N, threads) of a program, or of all programs, in the order of a table."""
    names = [n for n in results.samples if n.startswith(program) and field(n, "threads") and field(n, "N")]
    found = {(field(n, "threads"), n.split("/")[1], field(n, "N")) for n in names}
    found = [case for case in found if case[1] in MASKS]
    return [(m, n, t) for t, m, n in sorted(found, key=lambda c: (c[0], MASKS.index(c[1]), c[2]))]


def kernel_table(results):
    rows = []
    for mask, n, threads in cases(results, "BM_Kernel/"):
        place = f"/{mask}/N:{n}/threads:{threads}"
        name = "BM_Kernel" + place
        rows.append(
            [mask, number(n), threads, number(results.median(name, "gflops"))]
            + [
                spread(results.ratios(name, other))
                for other in (
                    f"BM_OneDnnSgemm/2048/threads:{threads}",
                    "OnnxRuntime" + place,
                    "BM_OneDnnStrips" + place,
                )
            ]
            + [small(results.median(name, "row_error")), megabytes(results.median(name, "peak_bytes"))]
        )
    return table(
        ["mask", "N", "threads", "GFLOP/s", "of sgemm", "of ONNX Runtime", "of oneDNN strips", "row error", "MB"], rows
    )


PEERS = [
    ("BM_Kernel", "kernel"),
    ("BM_OneDnnStrips", "oneDNN strips"),
    ("OnnxRuntime", "ONNX Runtime"),
    ("BM_EigenBlocks", "Eigen blocks"),
    ("BM_EigenNaive", "Eigen naive"),
    ("BM_OracleGrid", "oracle grid"),
]


def peers_table(results):
    rows = []
    for mask, n, threads in cases(results, ""):
        for program, label in PEERS:
            names = [x for x in results.names(mask, f"N:{n}", f"threads:{threads}") if x.startswith(program + "/")]
            for name in sorted(names, key=lambda x: field(x, "M") or 0):
                of_rows = f", M = {field(name, 'M')}" if field(name, "M") else ""
                rows.append(
                    [
                        mask,
                        number(n),
                        threads,
                        label + of_rows,
                        number(results.median(name, "seconds") * 1e3),
                        number(results.median(name, "gflops")),
                        small(results.median(name, "row_error")),
                        megabytes(results.median(name, "peak_bytes")),
                    ]
                )
    return table(["mask", "N", "threads", "program", "ms", "GFLOP/s", "row error", "MB"], rows)


def threads_table(results):
    rows = []
    for mask, n, _ in (case for case in cases(results, "BM_Kernel/") if case[2] == 1):
        cells = []
        for program, _ in PEERS[:3]:
            two, one = (f"{program}/{mask}/N:{n}/threads:{t}" for t in (2, 1))
            cells.append(spread(results.ratios(two, one)))
        rows.append([mask, number(n)] + cells)
    return table(["mask", "N"] + [label for _, label in PEERS[:3]], [row for row in rows if set(row[2:]) != {"-"}])


def window_table(results):
    rows = []
    for mask, n, threads in cases(results, "BM_Kernel/"):
        if mask not in ("window", "sinks"):
            continue
        name = f"BM_Kernel/{mask}/N:%d/threads:{threads}"
        ratios = results.ratios(name % (2 * n), name % n, "seconds")
        if ratios:
            rows.append([mask, f"{number(n)} to {number(2 * n)}", threads, spread(ratios)])
    return table(["mask", "N", "threads", "time(2N) / time(N)"], rows)


def variants_table(results):
    rows = []
    for name in sorted(results.names("N:4096", "threads:1"), key=lambda n: (field(n, "head_dim") or 0, n)):
        label = name.split("/")[1]
        if not name.startswith("BM_Kernel/") or label in MASKS:
            continue
        words = label.replace("_", " ").replace(":", " ")
        rows.append(
            [
                words + (" beside head dim 64" if label.startswith("value_dim") else ""),
                number(results.median(name, "gflops")),
                spread(results.ratios(name, "BM_OneDnnSgemm/2048/threads:1")),
                spread(results.ratios(name, "BM_Kernel/full/N:4096/threads:1")),
                small(results.median(name, "row_error")),
            ]
        )
    return table(["variant", "GFLOP/s", "of sgemm", "of float, head dim 64", "row error"], rows)


def blocks_table(results, mask, estimates):
    rows = []
    names = [n for n in results.names(mask) if n.startswith("BM_Simulate/")]

    def order(name):
        instances = (field(name, "heads") or 1, field(name, "layers") or 1)
        return field(name, "samples") or 0, *instances, name.split("/")[4], field(name, "M")

    for name in sorted((n for n in names if (field(n, "samples") is not None) == estimates), key=order):
        instances = (field(name, "heads") or 1, field(name, "layers") or 1)
        case = [field(name, "M")]
        case += [field(name, "samples")] if estimates else [name.split("/")[4], f"{instances[0]} x {instances[1]}"]
        direct = f"BM_Direct/{mask}/N:{field(name, 'N')}"
        rows.append(
            case
            + [
                number(results.median(name, "calls")),
                number(results.median(name, "paper_calls")),
                number(results.median(name, "seconds") * 1e3),
                spread(results.ratios(name, direct, "seconds")),
                small(results.median(name, "row_error")),
                small(results.median(name, "mean_row_error")),
            ]
        )
    heads = ["M", "samples"] if estimates else ["M", "anchor", "H' x L'"]
    return table(
        heads + ["calls", "calls in the paper", "ms", "of direct, time", "worst row error", "mean row error"], rows
    )


def kernel_rows_table(results):
    lengths = sorted({field(n, "rows") for n in results.samples if n.startswith("BM_KernelRows/")})
    rows = []
    for mask in ("full", "causal", "window"):
        times = [results.median(f"BM_KernelRows/{mask}/N:4096/rows:{length}", "seconds") for length in lengths]
        direct = results.median(f"BM_Direct/{mask}/N:4096", "seconds")
        if direct is not None and None not in times:
            rows.append([mask] + [number(t * 1e3) for t in times] + [number(direct * 1e3)])
    return table(["mask"] + [f"{length} rows, ms" for length in lengths] + ["direct, ms"], rows)


def model_table(results):
    rows = []
    for name in results.samples:
        if not name.startswith("BM_Model"):
            continue
        rows_of_call = f", M = {field(name, 'M')}" if field(name, "M") else ""
        rows.append(
            [
                name.split("/")[1],
                number(field(name, "N")),
                field(name, "threads"),
                name.split("/")[0].removeprefix("BM_Model").lower() + rows_of_call,
                number(results.median(name, "tokens_per_second")),
                small(results.median(name, "row_error")),
                megabytes(results.median(name, "peak_bytes")),
            ]
        )
    order = ["direct", "kernel"]
    rows.sort(key=lambda r: (r[0], int(r[1].replace(" ", "")), r[2], order.index(r[3]) if r[3] in order else 2))
    return table(["model", "N", "threads", "attention", "tokens a second", "row error", "MB"], rows)


def machine(results):
    context = results.context
    lines = [
        ("processor", f"{context.get('cpu', '?')}, {context.get('num_cpus', '?')} cores"),
        ("commit", f"`{context.get('commit', '?')}`"),
        ("compiler", f"{context.get('compiler', '?')}, `{context.get('flags', '?')}`"),
        ("Eigen", f"{context.get('eigen', '?')}, {context.get('simd', '?')}"),
        ("date", context.get("date", "?")[:10]),
    ]
    if "onnxruntime" in context:
        lines.append(("ONNX Runtime", f"{context['onnxruntime']}, onnxruntime-node"))
    return table(["", ""], lines)


def report(results):
    parts = [
        ("The machine", "", machine(results)),
        ("The kernel beside its peers", "Ratios of GFLOP/s; above 1 the kernel is faster.", kernel_table(results)),
        ("Two threads beside one", "Ratios of GFLOP/s.", threads_table(results)),
        ("Twice the tokens under a window", "2 is linear.", window_table(results)),
        ("Other shapes of the kernel", "Full mask, N = 4096, one thread.", variants_table(results)),
    ]
    for mask in ("full", "causal", "window"):
        title = f"Calls of M rows, {mask} mask"
        parts.append((title, "One head of 64, N = 4096.", blocks_table(results, mask, False)))
    for mask in ("full", "causal"):
        title = f"The average case, {mask} mask"
        text = "Each query block meets so many key blocks, drawn at random: the rows are estimates. The paper draws one."
        parts.append((title, text, blocks_table(results, mask, True)))
    parts.append(
        ("Query blocks of the kernel", "One head of 64, N = 4096, one thread.", kernel_rows_table(results))
    )
    parts.append(("A whole model", "", model_table(results)))
    parts.append(("Every program", "", peers_table(results)))
    text = [f"## {title}\n\n" + (remark + "\n\n" if remark else "") + body for title, remark, body in parts if body]
    if results.failed:
        text.append("## Failed\n\n" + "".join(f"- {line}\n" for line in sorted(set(results.failed))))
    return "\n".join(text)


def main():
    folder = pathlib.Path(sys.argv[1])
    text = report(Results(folder))
    (folder / "report.md").write_text(text)
    print(folder / "report.md")
    if len(sys.argv) == 4 and sys.argv[2] == "--page":
        page = pathlib.Path(sys.argv[3])
        head, rest = page.read_text().split(BEGIN)
        page.write_text(head + BEGIN + "\n\n" + text + "\n" + END + rest.split(END)[1])
        print(page)


if __name__ == "__main__":
    main()
