"""What a person or a program sees: text and JSON on stdout, progress and notes on stderr."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Progress = Callable[[int, int], None]

# Columns; no wider than what it holds, a table takes what it needs of them.
WIDEST_TABLE = 500

# A model can write anything, and a terminal would obey it: only these control characters pass.
HARMLESS = "\n\t"
CONTROL = {
    code: "\N{REPLACEMENT CHARACTER}"
    for code in (*range(0x20), *range(0x7F, 0xA0))
    if chr(code) not in HARMLESS
}


def note(line: str) -> None:
    """A line for a person, beside the output."""
    print(one_line(line), file=sys.stderr, flush=True)


def one_line(text: str) -> str:
    """Text on one line without control characters, as names out of a file may hold any."""
    return " ".join(text.split()).translate(CONTROL)


def write(piece: str) -> None:
    """Output of a model, at once; escape sequences do not reach a terminal."""
    sys.stdout.write(piece.translate(CONTROL) if sys.stdout.isatty() else piece)
    sys.stdout.flush()


def write_json(value: object) -> None:
    """A dataclass or plain value as JSON, alone on stdout."""
    print(json_text(value))


def json_text(value: object) -> str:
    """A dataclass or plain value as JSON."""
    return json.dumps(plain(value), indent=2)


def plain(value: object) -> Any:
    """Dataclasses, paths and sequences as what JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return plain(fields)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def write_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    n_left: int = 1,
    *,
    last_left: bool = False,
) -> None:
    """A table on stdout; the first `n_left` columns to the left, numbers to the right.

    last_left: the last column is text again.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for i, heading in enumerate(headings):
        is_text = i < n_left or (last_left and i == len(headings) - 1)
        table.add_column(Text(heading), justify="left" if is_text else "right", no_wrap=i > 0)
    for row in rows:
        # As Text, because brackets in a name would be read as markup.
        table.add_row(*(Text(one_line(cell)) for cell in row))
    # A terminal folds a long line by itself; rich would cut numbers off.
    Console(file=sys.stdout, width=WIDEST_TABLE).print(table)


def write_facts(facts: Mapping[str, str]) -> None:
    """Names and values, one pair a line."""
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {one_line(value)}")


@contextlib.contextmanager
def progress(title: str, unit: str = "") -> Iterator[Progress]:
    """Gives a callback (done, total) that draws a bar, where somebody looks at stderr.

    unit: "bytes" shows sizes, anything else plain counts.
    """
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    amount: ProgressColumn = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = [TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn()]
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextlib.contextmanager
def busy(title: str) -> Iterator[None]:
    """A spinner for work that cannot be counted, where somebody looks at stderr."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(title):
        yield


def human_bytes(n_bytes: int) -> str:
    """A size as people write it, in powers of ten: 862.3 MB."""
    size = float(n_bytes)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.1f} {unit}" if unit != "bytes" else f"{n_bytes} bytes"
        size /= 1000
    return f"{size:.2f} GB"
