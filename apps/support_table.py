"""The README's tables of what is read, run and written, made out of the registries.

`python -m rwkv_edge.apps.support_table [README.md]` writes them between the two markers there;
`--check` fails where they are not what it would write.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_edge.apps.console import human_bytes
from rwkv_edge.apps.failures import FAILED, report
from rwkv_edge.apps.inspection.models import memory_in_numba
from rwkv_edge.apps.inspection.words import memory_in_words
from rwkv_edge.arch import Role, architecture_of
from rwkv_edge.atomic_file import atomic_write
from rwkv_edge.errors import InputError, RwkvEdgeError
from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.quant import QUANT_FORMATS, QuantFormat

if TYPE_CHECKING:
    from rwkv_edge.converters.gguf_file import PlannedTensor

MODULE = "rwkv_edge.apps.support_table"
BEGIN = f"<!-- Made by python -m {MODULE}: change the registries, not this. -->"
END = f"<!-- End of what {MODULE} made. -->"
# How namings call themselves in messages.
TITLE = re.compile(r"an RWKV-(?P<version>\S+) (?:of|in) (?P<origin>.+?)(?:'s names)?")
# The shape that sizes are given for: that of the 1.5B World model.
EXAMPLE_LAYERS, EXAMPLE_WIDTH = 24, 2048
EXAMPLE_NAME = "1.5B"
EXAMPLE_VERSION = "7"


def support_tables() -> str:
    """All tables, with a blank line between them; Markdown."""
    parts = (containers(), versions(), weight_types(), conversions())
    return "\n".join(parts)


def containers() -> str:
    """The kinds of files that weights are read from, and whose names their tensors may have."""
    from rwkv_edge.converters.checkpoints import CONTAINERS
    from rwkv_edge.converters.names import NAMINGS

    text = table(
        ("Weights are read from", "Recognised by"),
        ([container.title, container.recognised_by] for container in CONTAINERS),
    )
    versions: dict[str, list[str]] = {}
    for naming in NAMINGS:
        said = TITLE.fullmatch(naming.title)
        assert said is not None, naming.title
        versions.setdefault(said["origin"], []).append(said["version"])
    origins = ", ".join(f"{origin} ({', '.join(found)})" for origin, found in versions.items())
    return f"{text}\nTensors may have RWKV-LM's names, or those of: {origins}.\n"


def versions() -> str:
    """Each version that a checkpoint may hold: its GGUF, and the engines that run it."""
    from rwkv_edge.converters.arch import CHECKPOINT_READERS, NOT_RUN
    from rwkv_edge.runtime.backends.obstacles import OBSTACLES

    rows = []
    for version in CHECKPOINT_READERS:
        hp = example(version)
        engines = [yes_or_no(obstacle(hp, ()) is None) for obstacle in OBSTACLES.values()]
        rows.append([version, f"`{architecture_of(version).name}`", *engines])
    text = table(("RWKV version", "GGUF architecture", *code(OBSTACLES)), rows)
    if NOT_RUN:
        reasons = "; ".join(f"{version}: {why}" for version, why in NOT_RUN.items())
        text += f"\nKnown by name, and not run: {reasons}.\n"
    return text


def weight_types() -> str:
    """Each format that a GGUF's tensors may have: whether it is run by each engine, and written."""
    from rwkv_edge.converters.row_encoder import ENCODERS
    from rwkv_edge.runtime.backends.obstacles import OBSTACLES

    hp = example(EXAMPLE_VERSION)
    written = {quant.__name__ for quant in ENCODERS}
    rows = []
    for name, quant in sorted(QUANT_FORMATS.items(), key=lambda item: bits_of(item[1])):
        engines = [yes_or_no(obstacle(hp, {quant}) is None) for obstacle in OBSTACLES.values()]
        rows.append([name, f"{bits_of(quant):g}", *engines, yes_or_no(name in written)])
    headings = ("Weight type in a GGUF", "Bits a weight", *code(OBSTACLES), "written")
    return table(headings, rows[::-1])


def conversions() -> str:
    """Each weight type that a conversion can be asked for, and what becomes of a model in it."""
    from rwkv_edge.converters.plan import padded_bytes, planned_tensors
    from rwkv_edge.converters.weight_types import FILE_TYPES

    hp = example(EXAMPLE_VERSION)
    rows: list[tuple[int, list[str]]] = []
    for weight_type in FILE_TYPES:
        tensors = planned_tensors(hp, weight_type)
        n_bytes = padded_bytes(tensors)
        memory = memory_in_numba(hp, {t.spec.name: t.quant for t in tensors})
        sizes = (human_bytes(n_bytes), memory_in_words(memory))
        rows.append((n_bytes, [f"`{weight_type}`", matrices_in(tensors), *sizes]))
    rows.sort(key=lambda row: row[0], reverse=True)
    headings = (
        "`convert --type`",
        "Large matrices in",
        f"File of a {EXAMPLE_NAME} model",
        "Memory to run it",
    )
    return table(headings, (cells for _, cells in rows))


def matrices_in(tensors: Sequence["PlannedTensor"]) -> str:
    """What the large matrices are stored as, the format of most of them first."""
    n_bytes: dict[str, int] = {}
    for tensor in tensors:
        if tensor.spec.role is Role.MATRIX:
            name = tensor.quant.__name__
            n_bytes[name] = n_bytes.get(name, 0) + tensor.n_bytes
    return ", ".join(sorted(n_bytes, key=lambda name: -n_bytes[name]))


def example(version: str) -> Hyperparameters:
    """A model of this version, of a shape that all engines take if they take the version."""
    from rwkv_edge.converters.synthetic import synthetic_hyperparameters

    return synthetic_hyperparameters(EXAMPLE_LAYERS, EXAMPLE_WIDTH, version=version)


def bits_of(quant: type[QuantFormat]) -> float:
    """Bits that a weight takes in a file, scales included."""
    return float(quant.block.itemsize * 8 / quant.block_len)


def yes_or_no(is_so: bool) -> str:
    """As a cell says it."""
    return "yes" if is_so else "no"


def code(names: Iterable[str]) -> list[str]:
    """Names as Markdown shows what is typed."""
    return [f"`{name}`" for name in names]


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def with_tables(text: str, path: Path) -> str:
    """A README with the tables of today between its markers; raises InputError."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise InputError(f"{path}: wanted the lines {BEGIN!r} and {END!r}, once and in this order")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{support_tables()}\n{END}{after}"


def update(path: Path, *, only_check: bool) -> None:
    """Write the tables into a file; only_check: raise RwkvEdgeError if that would change it.

    Raises InputError, OSError.
    """
    text = path.read_text(encoding="utf-8")
    wanted = with_tables(text, path)
    if text == wanted:
        return
    if only_check:
        raise RwkvEdgeError(
            f"{path}: its tables are not what the registries say; run python -m {MODULE} {path}"
        )
    with atomic_write(path) as file:
        file.write(wanted.encode("utf-8"))


def main() -> int:
    """Exit code 1 with one line where something is wrong, as everywhere."""
    parser = argparse.ArgumentParser(description="Write the README's tables of what runs.")
    parser.add_argument("path", type=Path, nargs="?", default=Path("README.md"))
    parser.add_argument("--check", action="store_true", help="change nothing; fail if it would")
    args = parser.parse_args()
    try:
        update(args.path, only_check=args.check)
    except (RwkvEdgeError, OSError) as error:
        report(error)
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
