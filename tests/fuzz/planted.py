"""Readers with one fault each: what the judge must see."""

import os
import time
from pathlib import Path

from rwkv_edge import FormatError
from tests.fuzz.corpus import CANARY
from tests.fuzz.targets import Run, Target

Kept: list[bytearray] = []


def well(path: Path, corpus: Path) -> None:
    path.read_bytes()


def refuse(path: Path, corpus: Path) -> None:
    raise FormatError(f"{path}: it is damaged")


def crash(path: Path, corpus: Path) -> None:
    if is_damaged(path, corpus):
        os.abort()


def hang(path: Path, corpus: Path) -> None:
    while is_damaged(path, corpus):
        pass


def sleep(path: Path, corpus: Path) -> None:
    if is_damaged(path, corpus):
        time.sleep(3600)


def allocate(path: Path, corpus: Path) -> None:
    if is_damaged(path, corpus):
        bytearray(100 << 20)


def allocate_too_much(path: Path, corpus: Path) -> None:
    if is_damaged(path, corpus):
        bytearray(1 << 40)


def run_code(path: Path, corpus: Path) -> None:
    if is_damaged(path, corpus):
        exec("pass")


def start_program(path: Path, corpus: Path) -> None:
    if is_damaged(path, corpus):
        os.system("true")


def write_file(path: Path, corpus: Path) -> None:
    if is_damaged(path, corpus):
        path.with_name("other").write_bytes(b"")


def make_canary(path: Path, corpus: Path) -> None:
    if is_damaged(path, corpus):
        # Not `open`, which the audit hook hears.
        os.mkfifo(corpus / CANARY)


def raise_key_error(path: Path, corpus: Path) -> None:
    if is_damaged(path, corpus):
        raise KeyError("general.architecture")


def say_two_lines(path: Path, corpus: Path) -> None:
    if is_damaged(path, corpus):
        raise FormatError(f"{path}: it is\ndamaged")


def say_too_much(path: Path, corpus: Path) -> None:
    if is_damaged(path, corpus):
        raise FormatError(f"{path}: it is damaged" + "!" * 1000)


def fail_later(path: Path, corpus: Path) -> Run | None:
    if not is_damaged(path, corpus):
        return None

    def run() -> None:
        raise AssertionError("NaN")

    return run


def is_damaged(path: Path, corpus: Path) -> bool:
    """True for a file that is none of the corpus, so that planted faults wait for a case."""
    return path.read_bytes() not in [p.read_bytes() for p in (corpus / "plain").iterdir()]


TARGETS = {
    reader.__name__: Target(reader, ("plain",))
    for reader in (
        well, refuse, crash, hang, sleep, allocate, allocate_too_much, run_code, start_program,
        write_file, make_canary, raise_key_error, say_two_lines, say_too_much, fail_later,
    )
}  # fmt: skip
