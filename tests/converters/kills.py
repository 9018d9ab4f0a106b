"""Conversions, exports and saved states that are killed at random moments, and what is then there.

By hand: `python -m tests.converters.kills --kills 200`. Each process is killed after a random part
of the time that an undisturbed one takes, by SIGKILL, which nothing can answer.
"""

import argparse
import hashlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx

from rwkv_edge import Model
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.onnx.export import convert_to_onnx
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.model_file import ModelFile
from rwkv_edge.state import digest as digest_of_arrays

# Some are killed after they are through.
LATEST = 1.15
# States that are saved one over the other, until the process is killed.
N_SAVES = 40


def killed_after(action: Callable[[], None], seconds: float | None) -> tuple[bool, float]:
    """Run it in a process of its own, killed after so long; None: not at all.

    Gives whether it was killed, and how long it took. The process is a fork, which has imported
    everything already, so that the time goes into what is tested.
    """
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    if seconds is not None:
        while time.monotonic() - began < seconds:
            time.sleep(0.0005)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    killed = os.WIFSIGNALED(status)
    assert killed or os.WEXITSTATUS(status) == 0, "the process failed by itself"
    return killed, time.monotonic() - began


def kill_conversions(folder: Path, n_kills: int, seed: int) -> Counter[str]:
    """Counts what was found under the final name after each kill; AssertionError for a loss."""
    source, out = folder / "m.pth", folder / "m.gguf"
    hp = synthetic_hyperparameters(3, 256, n_ffn=1024, n_vocab=256, ranks=(32, 32, 32, 32))
    write_synthetic(source, hp)
    wanted, took = undisturbed(source, out)
    # What stands under the final name before: nothing, or another type of the same model.
    convert_alone(source, out, "Q8_0")
    older = out.read_bytes()
    out.unlink()
    before = source.stat(), digest(source)
    rng = random.Random(seed)
    found: Counter[str] = Counter()
    for number in range(n_kills):
        if number % 2:
            out.write_bytes(older)
        killed, _ = killed_after(lambda: write(source, out, "Q4_0"), rng.uniform(0, LATEST) * took)
        contents = out.read_bytes() if out.exists() else None
        assert contents in (None, older, wanted), f"kill {number}: the file is neither old nor new"
        assert contents is not None or not number % 2, f"kill {number}: the older file is gone"
        found["finished before" if not killed else "killed"] += 1
        found[{None: "no file", older: "the older file", wanted: "the new file"}[contents]] += 1
        left = list(leftovers(folder))
        found["left a partial file"] += len(left)
        # That of the kill before is gone: this conversion removed it.
        assert len(left) <= 1, f"kill {number}: {left}"
        if contents is not None:
            ModelFile(out).close()
        after = source.stat(), digest(source)
        assert same_file(before, after), f"kill {number}: the checkpoint was touched"
        out.unlink(missing_ok=True)
    convert_alone(source, out, "Q4_0")
    assert out.read_bytes() == wanted
    assert sorted(path.name for path in folder.iterdir()) == ["m.gguf", "m.pth"]
    return found


def kill_exports(folder: Path, n_kills: int, seed: int) -> Counter[str]:
    """The same for ONNX models with a data file: what the model refers to is there with it."""
    source, out = folder / "m.pth", folder / "m.onnx"
    hp = synthetic_hyperparameters(3, 256, n_ffn=1024, n_vocab=256, ranks=(32, 32, 32, 32))
    write_synthetic(source, hp)

    def export(weight_type: str) -> None:
        convert_to_onnx(source, out, weight_type, threads=2, external_data=True)

    def export_alone(weight_type: str) -> float:
        killed, took = killed_after(lambda: export(weight_type), None)
        assert not killed
        return took

    export_alone("Q8_0")
    older, older_files = model_and_data(out), contents_of(folder)
    assert len(older_files) == 3
    took = min(export_alone("Q4_0") for _ in range(3))
    wanted = model_and_data(out)
    assert len(contents_of(folder)) == 3, "the older data file is not gone"
    rng = random.Random(seed)
    found: Counter[str] = Counter()
    for number in range(n_kills):
        for path in folder.glob("m.*"):
            if path != source:
                path.unlink()
        if number % 2:
            for name, content in older_files.items():
                (folder / name).write_bytes(content)
        killed, _ = killed_after(lambda: export("Q4_0"), rng.uniform(0, LATEST) * took)
        there = model_and_data(out) if out.exists() else None
        assert there in (None, older, wanted), f"kill {number}: the model is neither old nor new"
        assert there is not None or not number % 2, f"kill {number}: the older model is gone"
        found["finished before" if not killed else "killed"] += 1
        found[{None: "no file", older: "the older model", wanted: "the new model"}[there]] += 1
        data = [path for path in folder.glob("m.*.data") if there is None or path.name != there[1]]
        found["left a data file"] += len(data)
        assert len(data) <= 1, f"kill {number}: {data}"
        left = list(leftovers(folder))
        found["left a partial file"] += len(left)
        assert len(left) <= 1, f"kill {number}: {left}"
    return found


def kill_saves(folder: Path, n_kills: int, seed: int) -> Counter[str]:
    """The same for states: the file under the name is always one that was saved, and loads."""
    source, gguf, path = folder / "s.pth", folder / "s.gguf", folder / "talk.state"
    hp = synthetic_hyperparameters(2, 256, n_ffn=512, n_vocab=256, ranks=(32, 32, 32, 32))
    write_synthetic(source, hp)
    convert_alone(source, gguf, "F32")
    rng = random.Random(seed)
    found: Counter[str] = Counter()
    with Model.load(gguf, "reference") as model:
        state = model.new_state()
        saved = []
        for token in range(4):
            model.forward([token], state)
            saved.append(state.clone())
        state.save(path)
        # safetensors writes its metadata in another order each time.
        known = {digest_of_arrays(one.to_arrays()) for one in saved}

        def save_many() -> None:
            for number in range(N_SAVES):
                saved[number % len(saved)].save(path)

        _, took = killed_after(save_many, None)
        for number in range(n_kills):
            killed, _ = killed_after(save_many, rng.uniform(0, LATEST) * took)
            found["finished before" if not killed else "killed"] += 1
            loaded = model.load_state(path).to_arrays()
            assert digest_of_arrays(loaded) in known, f"kill {number}: a state that nobody saved"
            left = list(leftovers(folder))
            found["left a partial file"] += len(left)
            assert len(left) <= 1, f"kill {number}: {left}"
        state.save(path)
    assert not list(leftovers(folder))
    return found


def write(source: Path, out: Path, weight_type: str) -> None:
    convert(source, out, weight_type, threads=2)


def convert_alone(source: Path, out: Path, weight_type: str) -> float:
    """In a process of its own, because a fork of one that has threads may wait for ever."""
    killed, took = killed_after(lambda: write(source, out, weight_type), None)
    assert not killed
    return took


def undisturbed(source: Path, out: Path) -> tuple[bytes, float]:
    """What a conversion writes, and how long it takes once its kernels are compiled."""
    took = min(convert_alone(source, out, "Q4_0") for _ in range(3))
    contents = out.read_bytes()
    out.unlink()
    return contents, took


def model_and_data(path: Path) -> tuple[str, str, str]:
    """Digest of a model, the name of the one data file that it refers to, and its digest."""
    model = onnx.load_model(path, load_external_data=False)
    (name,) = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return digest(path), name, digest(path.with_name(name))


def contents_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def leftovers(folder: Path) -> Iterator[Path]:
    return folder.glob(".*.partial")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def same_file(before: tuple[os.stat_result, str], after: tuple[os.stat_result, str]) -> bool:
    return (before[0].st_mtime_ns, before[0].st_ino, before[1]) == (
        after[0].st_mtime_ns,
        after[0].st_ino,
        after[1],
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.converters.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name, kill in (
        ("conversions", kill_conversions),
        ("exports", kill_exports),
        ("saved states", kill_saves),
    ):
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            found = kill(Path(folder), args.kills, args.seed)
            listed = ", ".join(f"{n:,} {what}" for what, n in sorted(found.items()))
            print(f"{name}: {args.kills} in {time.monotonic() - began:.0f} s: {listed}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
