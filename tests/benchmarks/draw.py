"""Tables and plots of docs/performance.md, out of the reports of `rwkv-edge bench` alone.

Usage: python tests/benchmarks/draw.py docs/performance/*.json

What stands between `<!-- draw NAME -->` and `<!-- end -->` is replaced by the table or plot of
that name, and the rest of the document stays; plots lie in the folder `performance` beside it.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rwkv_edge.apps.benchmark import FORMAT

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "performance.md"
ENGINES = {"numba": "rwkv-edge", "llama": "llama.cpp", "reference": "numpy"}
MARKED = re.compile(r"(<!-- draw (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
NOTHING = "-"

Report = dict[str, Any]


def read_reports(paths: Sequence[Path]) -> list[Report]:
    """The reports, small models first; ends the program at one of another format."""
    reports = []
    for path in paths:
        report: Report = json.loads(path.read_text(encoding="utf-8"))
        if report.get("format") != FORMAT:
            raise SystemExit(f"{path}: is no report of format {FORMAT}; measure again")
        reports.append(report)
    return sorted(
        reports,
        key=lambda r: (r["model"]["n_parameters"], r["model"]["file"], r["machine"]["tier"]),
    )


def find(report: Report, what: str) -> list[Report]:
    """Measurements of one kind, by size."""
    found = [m for m in report["measurements"] if m["what"] == what]
    return sorted(found, key=lambda m: m["size"])


def parameters(report: Report) -> str:
    """1.5B."""
    n = report["model"]["n_parameters"]
    return f"{n / 1e9:.2g}B" if n >= 1e8 else f"{n / 1e6:.2g}M"


def names(report: Report) -> list[str]:
    """The first cells of each row."""
    tier = report["machine"]["tier"]
    return [Path(report["model"]["file"]).stem, parameters(report), tier]


NAMES = ("model", "parameters", "tier")


def beside(measurement: Report) -> list[str]:
    """The medians of both engines, and the ratio."""
    medians = [measurement["medians"].get(engine) for engine in ("numba", "llama")]
    ratio = measurement["ratio"]
    cells = [NOTHING if median is None else f"{median:.1f}" for median in medians]
    return [*cells, NOTHING if ratio is None else f"{ratio:.2f}"]


def machine_table(reports: list[Report]) -> list[str]:
    """Each machine with what ran on it, once."""
    rows = []
    for report in reports:
        machine, versions = report["machine"], report["versions"]
        repacks = report["engines"].get("llama", {}).get("repacks")
        llama = versions.get("llama-cpp-python", NOTHING)
        row = [
            machine["cpu"],
            machine["tier"] + (" (forced)" if machine["tier_is_forced"] else ""),
            str(report["settings"]["threads"] or machine["threads"]),
            machine["system"],
            versions["rwkv-edge"],
            versions["python"],
            llama + (", not repacked" if repacks is False else ""),
            report["date"][:10],
        ]
        if row not in rows:
            rows.append(row)
    heads = ("CPU", "tier", "threads", "system", "rwkv-edge", "Python", "llama-cpp-python", "date")
    return table(heads, rows)


def decode_table(reports: list[Report]) -> list[str]:
    """Decode beside the other engine and beside what memory allows."""
    rows = []
    for report in reports:
        for found in find(report, "decode"):
            limit = report["bandwidth"]
            cells = [NOTHING] * 3
            if limit is not None:
                share = limit["decode_share"]
                cells = [
                    f"{limit['bytes_per_second'] / 1e9:.1f}",
                    f"{limit['decode_limit']:.1f}",
                    NOTHING if share is None else f"{100 * share:.0f} %",
                ]
            rows.append([*names(report), *beside(found), *cells])
    speeds = ("rwkv-edge tok/s", "llama.cpp tok/s", "ratio")
    return table((*NAMES, *speeds, "memory GB/s", "dense limit tok/s", "share"), rows)


def prefill_table(reports: list[Report]) -> list[str]:
    """Prompts by their length."""
    return sizes_table(reports, "prefill", "tokens")


def batch_table(reports: list[Report]) -> list[str]:
    """Sequences that are decoded together."""
    return sizes_table(reports, "batch", "sequences")


def sizes_table(reports: list[Report], what: str, size: str) -> list[str]:
    """A row for each size."""
    rows = [
        [*names(report), str(found["size"]), *beside(found)]
        for report in reports
        for found in find(report, what)
    ]
    return table((*NAMES, size, "rwkv-edge tok/s", "llama.cpp tok/s", "ratio"), rows)


def start_table(reports: list[Report]) -> list[str]:
    """Loading, starting and memory of the first engine."""
    rows = []
    for report in reports:
        start, memory, soak = report["start"], report["memory"], report["soak"]
        loads = [f"{m['medians'][report['settings']['backend']]:.2f}" for m in find(report, "load")]
        rows.append([
            *names(report),
            *(loads or [NOTHING]),
            *([f"{start['warm']:.2f}", f"{start['cold']:.1f}"] if start else [NOTHING] * 2),
            *megabytes(memory, "steady", "peak"),
            str(soak["n_tokens"]) if soak else NOTHING,
            *megabytes(soak, "start", "end"),
        ])  # fmt: skip
    heads = ("load s", "first token s", "with compiling s", "memory MB", "at most MB",
             "soak tokens", "before MB", "after MB")  # fmt: skip
    return table((*NAMES, *heads), rows)


def megabytes(sizes: Report | None, *keys: str) -> Iterator[str]:
    """Sizes of a report, where there are some."""
    for key in keys:
        n_bytes = None if sizes is None else sizes[key]
        yield NOTHING if n_bytes is None else f"{n_bytes / 1e6:,.0f}"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of Markdown."""
    rule = ["---"] * len(headings)
    return [f"| {' | '.join(cells)} |" for cells in (headings, rule, *rows)]


PLOTS = ("decode", "prefill", "batch")
TABLES: dict[str, Callable[[list[Report]], list[str]]] = {
    "machine": machine_table,
    "decode": decode_table,
    "prefill": prefill_table,
    "batch": batch_table,
    "start": start_table,
}


def redraw(text: str, reports: list[Report]) -> str:
    """The document with what is marked made anew; ends the program at a name that is unknown."""

    def replaced(match: "re.Match[str]") -> str:
        name = match[2]
        if name in TABLES:
            lines = TABLES[name](reports)
        elif name.removesuffix("_plot") in PLOTS:
            plotted = name.removesuffix("_plot")
            lines = [f"![{plotted}, tokens a second](performance/{plotted}.svg)"]
        else:
            raise SystemExit(f"there is nothing named {name} to draw")
        return f"{match[1]}{chr(10).join(lines)}\n{match[3]}"

    return MARKED.sub(replaced, text)


def plot(reports: list[Report], folder: Path) -> list[Path]:
    """decode.svg, prefill.svg and batch.svg, with a panel for each weight type and tier."""
    import matplotlib as mpl

    mpl.use("svg")
    # The same picture each time: names inside an SVG are random otherwise.
    mpl.rcParams["svg.hashsalt"] = "rwkv-edge"
    import matplotlib.pyplot as plt

    panels: dict[tuple[str, str], list[Report]] = {}
    for report in reports:
        key = (report["model"]["file_type"], report["machine"]["tier"])
        panels.setdefault(key, []).append(report)
    drawings = {
        "decode": (draw_decode, "parameters"),
        "prefill": (lambda axes, group: draw_sizes(axes, group, "prefill"), "tokens of the prompt"),
        "batch": (lambda axes, group: draw_sizes(axes, group, "batch"), "sequences at once"),
    }
    written = []
    for name, (draw, label) in drawings.items():
        figure, all_axes = plt.subplots(
            1, len(panels), figsize=(5.5 * len(panels), 4), squeeze=False, layout="constrained"
        )
        for axes, ((weight_type, tier), group) in zip(all_axes[0], panels.items(), strict=True):
            draw(axes, group)
            axes.set(title=f"{name}, {weight_type}, {tier}", xlabel=label, ylabel="tok/s")
            axes.set_ylim(bottom=0)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize="small")
        written.append(folder / f"{name}.svg")
        # Without the date, which would change the file each time.
        figure.savefig(written[-1], metadata={"Date": None})
        plt.close(figure)
    return written


def draw_decode(axes: Any, group: list[Report]) -> None:
    """Bars of the engines by model, under a line each for what memory allows."""
    engines = [name for name in ENGINES if any(name in report["engines"] for report in group)]
    width = 0.8 / max(1, len(engines))
    for i, engine in enumerate(engines):
        bars = [
            (x, found["medians"][engine])
            for x, report in enumerate(group)
            for found in find(report, "decode")
            if engine in found["medians"]
        ]
        places = [x - 0.4 + (i + 0.5) * width for x, _ in bars]
        axes.bar(places, [speed for _, speed in bars], width, label=ENGINES[engine])
    limits = [(x, r["bandwidth"]["decode_limit"]) for x, r in enumerate(group) if r["bandwidth"]]
    if limits:
        xs, ys = zip(*limits, strict=True)
        lefts, rights = [x - 0.45 for x in xs], [x + 0.45 for x in xs]
        axes.hlines(ys, lefts, rights, "black", "dashed", label="dense memory limit")
    axes.set_xticks(range(len(group)), [parameters(report) for report in group])


def draw_sizes(axes: Any, group: list[Report], what: str) -> None:
    """A line for each model and engine: full for the first one, dashed for the other."""
    for n, report in enumerate(group):
        found = find(report, what)
        for engine, style in zip(report["engines"], ("o-", "s--"), strict=False):
            axes.plot(
                [m["size"] for m in found],
                [m["medians"][engine] for m in found],
                style,
                color=f"C{n}",
                label=f"{parameters(report)} {ENGINES[engine]}",
            )
    sizes = sorted({m["size"] for report in group for m in find(report, what)})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Redraw docs/performance.md from reports.")
    parser.add_argument("reports", type=Path, nargs="+", metavar="REPORT.json")
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    args = parser.parse_args(arguments)
    reports = read_reports(args.reports)
    text = args.document.read_text(encoding="utf-8")
    folder = args.document.parent / "performance"
    folder.mkdir(exist_ok=True)
    for path in plot(reports, folder):
        print(path)
    args.document.write_text(redraw(text, reports), encoding="utf-8")
    print(args.document)


if __name__ == "__main__":
    main()
