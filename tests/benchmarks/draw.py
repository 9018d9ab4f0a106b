"""Tables and plots of two documents, out of the reports of `rwkv-edge bench` and drift.py alone.

Usage: python tests/benchmarks/draw.py docs/performance/*.json
       python tests/benchmarks/draw.py docs/long-documents/*.json

What stands between `<!-- draw NAME -->` and `<!-- end -->` is replaced by the table or plot of
that name, and the rest of the document stays; plots lie in a folder of the document's name. Reports
of `bench --memory` and of drift.py belong to docs/long-documents.md, all others to performance.md.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rwkv_edge.apps.benchmark import FORMAT

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "performance.md"
LONG_DOCUMENTS = ROOT / "docs" / "long-documents.md"
ENGINES = {
    "numba": "rwkv-edge",
    "llama": "llama.cpp",
    "reference": "numpy",
    "onnx": "onnxruntime",
}
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
            versions.get("onnxruntime", NOTHING) if with_onnx(report) else NOTHING,
            report["date"][:10],
        ]
        if row not in rows:
            rows.append(row)
    heads = ("CPU", "tier", "threads", "system", "rwkv-edge", "Python", "llama-cpp-python",
             "onnxruntime", "date")  # fmt: skip
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


def onnx_table(reports: list[Report]) -> list[str]:
    """Prompts and decoding in three engines that took turns."""
    engines = ("numba", "onnx", "llama")
    rows = []
    for report in reports:
        for found in [*find(report, "prefill"), *find(report, "decode")]:
            medians = [found["medians"].get(engine) for engine in engines]
            cells = [NOTHING if median is None else f"{median:.1f}" for median in medians]
            work = f"{found['what']}, {found['size']} tokens"
            share = f"{found['medians']['onnx'] / found['medians']['numba']:.2f}"
            rows.append([*names(report), work, *cells, share])
    heads = [f"{ENGINES[engine]} tok/s" for engine in engines]
    return table((*NAMES, "work", *heads, "onnxruntime / rwkv-edge"), rows)


def start_table(reports: list[Report]) -> list[str]:
    """Loading, starting and memory of the first engine."""
    rows = []
    for report in reports:
        start, memory = report["start"], report["memory"]
        loads = [f"{m['medians'][report['settings']['backend']]:.2f}" for m in find(report, "load")]
        cells = [
            *(loads or [NOTHING]),
            *([f"{start['warm']:.2f}", f"{start['cold']:.1f}"] if start else [NOTHING] * 2),
            *megabytes(memory, "steady", "peak"),
        ]
        if set(cells) != {NOTHING}:
            rows.append([*names(report), *cells])
    heads = ("load s", "first token s", "with compiling s", "memory MB", "at most MB")
    return table((*NAMES, *heads), rows)


def soak_table(reports: list[Report]) -> list[str]:
    """Memory of the first engine before and after many tokens, and the most in between."""
    rows = [
        [*names(report), f"{soak['n_tokens']:,}", *megabytes(soak, "start", "end", "highest")]
        for report in reports
        if (soak := report["soak"])
    ]
    return table((*NAMES, "tokens", "before MB", "after MB", "at most MB"), rows)


def megabytes(sizes: Report | None, *keys: str) -> Iterator[str]:
    """Sizes of a report, where there are some."""
    for key in keys:
        n_bytes = None if sizes is None else sizes[key]
        yield NOTHING if n_bytes is None else f"{n_bytes / 1e6:,.0f}"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of Markdown."""
    rule = ["---"] * len(headings)
    return [f"| {' | '.join(cells)} |" for cells in (headings, rule, *rows)]


def growth_table(reports: list[Report]) -> list[str]:
    """Memory and speed by tokens seen, of a model and of a Transformer of its size."""
    rows = []
    for report in of_kind(reports, "memory"):
        found = [{p["n_tokens"]: p for p in points} for points in report["engines"].values()]
        for n_tokens in found[0]:
            cells = [f"{n_tokens:,}"]
            for points in found:
                cells += growth_cells(points.get(n_tokens))
            rows.append([*names(report)[:2], *cells, *[NOTHING] * 3 * (2 - len(found))])
    heads = [f"{who} {what}" for who in ("RWKV", "Transformer")
             for what in ("MB", "decode tok/s", "prefill tok/s")]  # fmt: skip
    return table((*NAMES[:2], "tokens", *heads), rows)


def growth_cells(point: Report | None) -> list[str]:
    """Memory and speeds after so many tokens."""
    if point is None:
        return [NOTHING] * 3
    return [*megabytes(point, "resident"), f"{point['decode']:.1f}", f"{point['read']:.0f}"]


def drift_table(reports: list[Report]) -> list[str]:
    """How far the logits of a long run are from those of float64."""
    rows = []
    for report in of_kind(reports, "drift"):
        for row in report["rows"]:
            differences = [f"{row['largest']:.1e}", f"{row['median']:.1e}"]
            resident = row["resident"]
            size = NOTHING if resident is None else f"{resident / 1e6:.2f}"
            same = f"{100 * row['same_best']:.2f} %"
            rows.append([*names(report)[:1], f"{row['n_tokens']:,}", *differences, same, size])
    heads = ("up to token", "largest difference", "median", "same likeliest token", "memory MB")
    return table((*NAMES[:1], *heads), rows)


def of_kind(reports: list[Report], kind: str) -> list[Report]:
    """Those that another program than plain `rwkv-edge bench` wrote."""
    return [report for report in reports if report.get("kind") == kind]


def with_onnx(report: Report) -> bool:
    """Was onnxruntime among the engines? Such a report has a table of its own."""
    return "onnx" in report["engines"]


def of_others(draw: Callable[[list[Report]], list[str]]) -> Callable[[list[Report]], list[str]]:
    """A table of the reports in which llama.cpp alone is the rival."""
    return lambda reports: draw([report for report in reports if not with_onnx(report)])


TABLES: dict[str, Callable[[list[Report]], list[str]]] = {
    "machine": machine_table,
    "decode": of_others(decode_table),
    "prefill": of_others(prefill_table),
    "batch": of_others(batch_table),
    "start": of_others(start_table),
    "soak": of_others(soak_table),
    "onnx": lambda reports: onnx_table([report for report in reports if with_onnx(report)]),
}
LONG_TABLES = {"growth": growth_table, "drift": drift_table}


class Drawing(NamedTuple):
    """What a document can show: tables and captions of plots by name, and what draws the plots."""

    document: Path
    tables: dict[str, Callable[[list[Report]], list[str]]]
    captions: dict[str, str]
    plot: Callable[[list[Report], Path], list[Path]]


def redraw(text: str, reports: list[Report], drawing: Drawing, folder: str) -> str:
    """The document with what is marked made anew; ends the program at a name that is unknown."""

    def replaced(match: "re.Match[str]") -> str:
        name = match[2]
        plotted = name.removesuffix("_plot")
        if name in drawing.tables:
            lines = drawing.tables[name](reports)
        elif plotted in drawing.captions:
            lines = [f"![{drawing.captions[plotted]}]({folder}/{plotted}.svg)"]
        else:
            raise SystemExit(f"there is nothing named {name} to draw")
        return f"{match[1]}{chr(10).join(lines)}\n{match[3]}"

    return MARKED.sub(replaced, text)


def new_pyplot() -> Any:
    """matplotlib that draws the same picture each time: names in an SVG are random otherwise."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "rwkv-edge"
    import matplotlib.pyplot as plt

    return plt


def plot(reports: list[Report], folder: Path) -> list[Path]:
    """decode.svg, prefill.svg and batch.svg, with a panel for each weight type and tier."""
    plt = new_pyplot()
    panels: dict[tuple[str, str], list[Report]] = {}
    for report in reports:
        if with_onnx(report):
            continue
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


def plot_growth(reports: list[Report], folder: Path) -> list[Path]:
    """growth.svg: memory and decoding speed by tokens seen, a row for each model."""
    plt = new_pyplot()
    reports = of_kind(reports, "memory")
    if not reports:
        return []
    figure, all_axes = plt.subplots(
        len(reports), 2, figsize=(11, 4 * len(reports)), squeeze=False, layout="constrained"
    )
    for (left, right), report in zip(all_axes, reports, strict=True):
        for engine, points in report["engines"].items():
            label = "a Transformer of this size" if engine == "transformer" else "RWKV"
            known = [p for p in points if p["resident"] is not None]
            xs, sizes = [p["n_tokens"] for p in known], [p["resident"] / 1e6 for p in known]
            left.plot(xs, sizes, "o-", label=label)
            speeds = [p["decode"] for p in points]
            right.plot([p["n_tokens"] for p in points], speeds, "o-", label=label)
        title = f"{parameters(report)}, {report['model']['file_type']}"
        left.set(title=f"memory, {title}", xlabel="tokens seen", ylabel="resident MB")
        right.set(title=f"decode, {title}", xlabel="tokens seen", ylabel="tok/s")
        for axes in (left, right):
            axes.set_xscale("log", base=2)
            axes.set_ylim(bottom=0)
            axes.legend(fontsize="small")
    path = folder / "growth.svg"
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return [path]


PERFORMANCE = Drawing(
    DOCUMENT,
    TABLES,
    {name: f"{name}, tokens a second" for name in ("decode", "prefill", "batch")},
    plot,
)
LONG = Drawing(
    LONG_DOCUMENTS, LONG_TABLES, {"growth": "memory and speed by tokens seen"}, plot_growth
)


def drawing_of(reports: list[Report]) -> Drawing:
    """What the reports belong to; ends the program if that is not one document."""
    are_long = {"kind" in report for report in reports}
    if len(are_long) != 1:
        raise SystemExit("these reports belong to two documents; draw one at a time")
    return LONG if are_long.pop() else PERFORMANCE


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Redraw a document from reports.")
    parser.add_argument("reports", type=Path, nargs="+", metavar="REPORT.json")
    parser.add_argument("--document", type=Path, help="default: the one that they belong to")
    args = parser.parse_args(arguments)
    reports = read_reports(args.reports)
    drawing = drawing_of(reports)
    document = args.document or drawing.document
    text = document.read_text(encoding="utf-8")
    folder = document.with_suffix("")
    folder.mkdir(exist_ok=True)
    for path in drawing.plot(reports, folder):
        print(path)
    document.write_text(redraw(text, reports, drawing, folder.name), encoding="utf-8")
    print(document)


if __name__ == "__main__":
    main()
