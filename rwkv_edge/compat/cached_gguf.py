"""Which file `model=` names, and the GGUF that a checkpoint is converted into once.

The GGUF lies beside the checkpoint: `NAME.rwkv-edge-f32-0123456789abcdef.gguf`. The digits are a
digest of what it was made from, so that a changed checkpoint, or another release's idea of the
format, finds no such file; it is then made anew, and its predecessors go.
"""

import contextlib
import errno
import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from rwkv_edge.errors import RwkvEdgeError

log = logging.getLogger(__name__)

# Raise when conversion makes other files of the same checkpoint, so that old ones are not used.
CACHE_FORMAT = 1
DIGEST_LEN = 16

Say = Callable[[str], None]


def find_model_file(name: str) -> Path:
    """What `model=` means: a GGUF, or a checkpoint with or without its `.pth`, or a folder of one.

    Raises FileNotFoundError, which names what was looked for.
    """
    name = name.strip()
    candidates = [Path(name)] if name.endswith((".pth", ".gguf")) else []
    # The official package appends .pth whatever the name is.
    candidates = candidates or [Path(name + ".pth"), Path(name + ".gguf"), Path(name)]
    for path in candidates:
        if path.is_file():
            return path
    # A Hugging Face folder; its name may be that of the folder which we are in.
    if candidates[-1].is_dir():
        return candidates[-1].resolve()
    wanted = ", ".join(map(str, candidates))
    raise FileNotFoundError(errno.ENOENT, "no such model; looked for " + wanted, name)


def gguf_of(path: Path, weight_type: str, say: Say) -> Path:
    """A GGUF of a checkpoint in this weight type, converted unless that was done before.

    It is written beside the checkpoint, or into the user's cache where nothing can be written
    there; `say` gets a line of text before and after. A GGUF stands for itself, whatever its types.
    Raises RwkvEdgeError, OSError.
    """
    if path.suffix == ".gguf":
        return path
    stem = path.name if path.is_dir() else path.stem
    name = f"{stem}.rwkv-edge-{weight_type.lower()}-{digest_of(path, weight_type)}.gguf"
    beside = path.parent / name
    in_cache = user_folder(path) / name
    for made in (beside, in_cache):
        if made.is_file():
            return made
    destination = beside if is_writable(beside.parent) else in_cache
    destination.parent.mkdir(parents=True, exist_ok=True)
    convert_to(path, destination, weight_type, say)
    return destination


def convert_to(path: Path, destination: Path, weight_type: str, say: Say) -> None:
    """Convert, say so, and remove what was made of the checkpoint's earlier contents."""
    from rwkv_edge.converters.convert import convert

    say(f"Converting {path} to {weight_type}, once: {destination}")
    # Before, because two of them may not fit on the disk.
    for old in outdated(destination):
        # Another process may run it, which on Windows keeps it from being removed.
        with contextlib.suppress(OSError):
            old.unlink()
    summary = convert(path, destination, weight_type)
    for note in summary.notes:
        say(note)
    say(f"Converted in {summary.seconds:.1f} s; the file has {summary.n_bytes:,} bytes")


def outdated(destination: Path) -> Iterator[Path]:
    """Files whose names differ from that of `destination` in the digest alone."""
    prefix = destination.name[: -len(".gguf") - DIGEST_LEN]
    name = re.compile(rf"{re.escape(prefix)}[0-9a-f]{{{DIGEST_LEN}}}\.gguf")
    for other in os.listdir(destination.parent):
        if name.fullmatch(other) and other != destination.name:
            yield destination.parent / other


def digest_of(path: Path, weight_type: str) -> str:
    """Names a checkpoint's contents by sizes and times; reading them all would take too long.

    The tokenizer beside it goes into the GGUF, too.
    """
    from rwkv_edge.converters.tokenizers import files_beside

    described = [f"{CACHE_FORMAT} {weight_type}"]
    # A folder holds its tokenizer itself.
    sources = sorted(path.iterdir()) if path.is_dir() else [path, *files_beside(path)]
    for source in sources:
        with contextlib.suppress(FileNotFoundError):
            found = source.stat()
            described.append(f"{source.name} {found.st_size} {found.st_mtime_ns}")
    return hashlib.sha256("\n".join(described).encode()).hexdigest()[:DIGEST_LEN]


def user_folder(path: Path) -> Path:
    """Where the GGUF goes if not beside the checkpoint: a folder for each folder of those."""
    from rwkv_edge.jit import cache_directory

    chosen = os.environ.get("RWKV_EDGE_CACHE")
    caches = Path(chosen) if chosen else cache_directory().parent
    where = hashlib.sha256(os.fsencode(path.parent.resolve())).hexdigest()
    return caches / "models" / where[:DIGEST_LEN]


def is_writable(folder: Path) -> bool:
    """Can a file be made there? Permissions alone do not say, so one is made."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def n_layer_of(path: Path) -> int:
    """How many layers a checkpoint or a GGUF has; raises RwkvEdgeError, OSError."""
    from rwkv_edge.converters.model_source import open_model_source
    from rwkv_edge.model_file import ModelFile

    if path.suffix == ".gguf":
        file = ModelFile(path)
        file.close()
        return file.hyperparameters.n_layer
    with open_model_source(path) as model:
        return model.hyperparameters.n_layer


def refuse_saving(convert_and_save_and_exit: object) -> None:
    """Raise RwkvEdgeError if a caller asks for the official package's converted `.pth`."""
    if convert_and_save_and_exit is not None:
        raise RwkvEdgeError(
            "convert_and_save_and_exit writes files that only the official package reads; leave it "
            "out: here a checkpoint is converted and kept by itself"
        )
