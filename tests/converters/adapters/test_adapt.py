"""Adapters laid over a base: merged numbers against float64 sums, whoever reads them and how."""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from rwkv_edge.converters.adapters import Adapter, TunedState, adapt
from rwkv_edge.converters.checkpoints import Checkpoint, open_checkpoint
from rwkv_edge.converters.checkpoints.base import ELEMENT_DTYPES
from rwkv_edge.converters.model_source import recognised
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.errors import FormatError
from tests.converters.adapters.adapter_files import (
    Arrays,
    Float64Array,
    Save,
    lora_of,
    matrices_of,
    numbers,
    weights_of,
    write_pth,
)

# float32 sums of products of numbers about 0.05, a few hundred at most, beside weights about 1.
CLOSE = 1e-5


def opened(base: Path, *adapters: Adapter | TunedState) -> Checkpoint:
    checkpoint = open_checkpoint(base)
    return adapt(checkpoint, recognised(checkpoint)[1], adapters).checkpoint


def wide(array: np.ndarray) -> Float64Array:
    return array.astype(np.float64)


def product(pairs: Arrays, name: str, prefix: str = "") -> Float64Array:
    return wide(pairs[f"{name}.{prefix}lora_B"]) @ wide(pairs[f"{name}.{prefix}lora_A"])


@pytest.mark.parametrize(("rank", "alpha"), [(1, 1.0), (8, 32.0), (8, 0.5), (32, -3.0)])
def test_lora_is_added_times_alpha_over_rank(
    base: Path, save: Save, rank: int, alpha: float
) -> None:
    pairs = lora_of(base, rank)
    with opened(base, Adapter(save("a.pth", pairs), alpha)) as checkpoint:
        for name in matrices_of(base):
            wanted = weights_of(base, f"{name}.weight") + product(pairs, name) * alpha / rank
            assert np.abs(checkpoint.read(f"{name}.weight") - wanted).max() < CLOSE * abs(alpha)


def test_what_is_not_adapted_is_read_from_the_base(base: Path, save: Save) -> None:
    pairs = lora_of(base, 4, part="att.key")
    with (
        open_checkpoint(base) as plain,
        opened(base, Adapter(save("a.pth", pairs), 8)) as checkpoint,
    ):
        assert checkpoint.names() == plain.names()
        assert checkpoint.shapes() == plain.shapes()
        merged = {f"{name}.weight" for name in matrices_of(base, "att.key")}
        for name in plain.names():
            assert checkpoint.dtype(name) == ("float32" if name in merged else "bfloat16")
            is_same = np.array_equal(checkpoint.read(name), plain.read(name))
            assert is_same is (name not in merged)


@pytest.mark.parametrize("rename", ["model.{}", "base_model.model.{}.weight", "module.model.{}"])
def test_names_with_a_prefix_mean_the_same(base: Path, save: Save, rename: str) -> None:
    pairs = lora_of(base, 4, part="ffn")
    renamed = {rename.format(name): array for name, array in pairs.items()}
    with (
        opened(base, Adapter(save("a.pth", pairs), 8)) as plain,
        opened(base, Adapter(save("b.pth", renamed), 8)) as checkpoint,
    ):
        for name in matrices_of(base, "ffn"):
            found = checkpoint.read(f"{name}.weight")
            assert np.array_equal(found, plain.read(f"{name}.weight"))


@pytest.mark.parametrize("with_prefix", [False, True])
def test_pissa_takes_the_place_of_what_it_began_with(
    base: Path, save: Save, with_prefix: bool
) -> None:
    pairs, initial = lora_of(base, 8, seed=100), lora_of(base, 8, prefix="init_")
    prefix = "model." if with_prefix else ""
    init = save("init_pissa.pth", {prefix + name: array for name, array in initial.items()})
    with opened(base, Adapter(save("a.pth", pairs), pissa_init=init)) as checkpoint:
        for name in matrices_of(base):
            wanted = weights_of(base, f"{name}.weight") - product(initial, name, "init_")
            wanted += product(pairs, name)
            assert np.abs(checkpoint.read(f"{name}.weight") - wanted).max() < CLOSE


def test_a_pissa_that_never_learned_is_the_base(base: Path, save: Save) -> None:
    initial = lora_of(base, 8, prefix="init_")
    pairs = {name.replace("init_", ""): array for name, array in initial.items()}
    init = save("init_pissa.pth", initial)
    with opened(base, Adapter(save("a.pth", pairs), pissa_init=init)) as checkpoint:
        for name in matrices_of(base):
            found = checkpoint.read(f"{name}.weight")
            assert np.abs(found - weights_of(base, f"{name}.weight")).max() < CLOSE


@pytest.mark.parametrize("r", [4, 48])
def test_bone_is_tiled_over_the_inputs(base: Path, save: Save, r: int) -> None:
    """48 divides neither 128 nor 320: the last tile is ragged."""
    shares = {
        f"{name}.disha": numbers(i, r, n_out)
        for i, (name, (n_out, _)) in enumerate(matrices_of(base).items())
    }
    with opened(base, Adapter(save("a.pth", shares))) as checkpoint:
        for name, (_, n_in) in matrices_of(base).items():
            tiles = np.stack([wide(shares[f"{name}.disha"])[j % r] for j in range(n_in)], axis=1)
            wanted = weights_of(base, f"{name}.weight") + tiles
            assert np.abs(checkpoint.read(f"{name}.weight") - wanted).max() < CLOSE


@pytest.mark.parametrize("suffix", ["disha", "bone"])
def test_bat_multiplies_block_by_block(base: Path, save: Save, suffix: str) -> None:
    r = 32
    blocks = {
        f"{name}.{suffix}": numbers(i, n_in // r, r, r)
        for i, (name, (_, n_in)) in enumerate(matrices_of(base).items())
    }
    with opened(base, Adapter(save("a.pth", blocks))) as checkpoint:
        for name, (n_out, n_in) in matrices_of(base).items():
            wanted = weights_of(base, f"{name}.weight")
            for i in range(0, n_out, r):
                for b in range(n_in // r):
                    d = wide(blocks[f"{name}.{suffix}"][b])
                    wanted[i : i + r, b * r : (b + 1) * r] += (
                        wanted[i : i + r, b * r : (b + 1) * r] @ d + d
                    )
            assert np.abs(checkpoint.read(f"{name}.weight") - wanted).max() < CLOSE


def test_whole_tensors_take_the_place_of_the_base(base: Path, save: Save) -> None:
    trained = {
        "emb.weight": numbers(1, 256, 128),
        "head.weight": numbers(2, 256, 128).astype(np.float16),
        "blocks.1.ln1.weight": numbers(3, 128),
        # RWKV-PEFT saves vectors as its modules hold them.
        "blocks.2.att.w0": numbers(4, 1, 1, 128),
        "blocks.2.att.w1": numbers(5, 128, 32),
    }
    with opened(base, Adapter(save("a.pth", trained))) as checkpoint:
        for name, array in trained.items():
            found = checkpoint.read(name)
            assert found.shape == checkpoint.shape(name)
            assert np.array_equal(found.ravel(), array.astype(np.float32).ravel())
        assert checkpoint.dtype("head.weight") == "float16"
        rows = np.empty((7, 128), np.float16)
        checkpoint.read_rows("head.weight", 3, 10, rows)
        assert np.array_equal(rows, trained["head.weight"][3:10])


def test_a_pair_is_added_to_the_whole_tensor_beside_it(base: Path, save: Save) -> None:
    pairs = lora_of(base, 4, part="0.att.key")
    whole = numbers(9, 128, 128)
    path = save("a.pth", {**pairs, "blocks.0.att.key.weight": whole})
    with opened(base, Adapter(path, 4)) as checkpoint:
        wanted = wide(whole) + product(pairs, "blocks.0.att.key")
        assert np.abs(checkpoint.read("blocks.0.att.key.weight") - wanted).max() < CLOSE


def test_several_adapters_are_merged_in_their_order(base: Path, save: Save) -> None:
    """D multiplies what is there, and a whole tensor forgets it, so the order shows."""
    name = "blocks.1.att.value"
    pairs = lora_of(base, 4, part=name)
    lora = Adapter(save("lora.pth", pairs), 4)
    d = numbers(7, 4, 32, 32) * 10
    disha = Adapter(save("disha.pth", {f"{name}.disha": d}))
    whole = numbers(8, 128, 128)
    replacing = Adapter(save("whole.pth", {f"{name}.weight": whole}))

    def multiplied(weights: Float64Array) -> Float64Array:
        blocks = weights.reshape(4, 32, 4, 32).transpose(0, 2, 1, 3)
        added = blocks @ wide(d) + wide(d)
        return weights + added.transpose(0, 2, 1, 3).reshape(128, 128)

    plain, delta = weights_of(base, f"{name}.weight"), product(pairs, name)
    for order, wanted in (
        ((lora, disha), multiplied(plain + delta)),
        ((disha, lora), multiplied(plain) + delta),
        ((lora, lora), plain + 2 * delta),
        ((lora, replacing, disha), multiplied(wide(whole))),
    ):
        with opened(base, *order) as checkpoint:
            assert np.abs(checkpoint.read(f"{name}.weight") - wanted).max() < CLOSE


def test_rows_read_by_several_threads_are_those_of_the_whole(
    base: Path, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rwkv_edge.converters.adapters import adapted_checkpoint

    # Several blocks in each chunk.
    monkeypatch.setattr(adapted_checkpoint, "BLOCK_WEIGHTS", 700)
    names = [f"{name}.weight" for name in matrices_of(base)]
    with opened(base, Adapter(save("a.pth", lora_of(base, 8)), 16)) as checkpoint:
        whole = {name: checkpoint.read(name) for name in names}

        def rows(place: tuple[str, int]) -> float:
            name, start = place
            stop = min(start + 50, checkpoint.shape(name)[0])
            out = np.empty((stop - start, checkpoint.shape(name)[1]), np.float32)
            checkpoint.read_rows(name, start, stop, out)
            return float(np.abs(out - whole[name][start:stop]).max())

        places = [(name, start) for start in (0, 50, 100) for name in names]
        with ThreadPoolExecutor(4) as pool:
            assert max(pool.map(rows, places)) == 0


def test_merging_needs_a_block_of_rows_and_the_factors_not_the_matrix(tmp_path: Path) -> None:
    n = 4096
    hp = synthetic_hyperparameters(1, n, n_ffn=32, n_vocab=32, ranks=(8, 8, 8, 8))
    write_synthetic(tmp_path / "base.pth", hp)
    pairs = {
        "blocks.0.att.key.lora_A": numbers(0, 4, n),
        "blocks.0.att.key.lora_B": numbers(1, n, 4),
    }
    adapter = Adapter(write_pth(tmp_path / "a.pth", pairs), 4)
    with opened(tmp_path / "base.pth", adapter) as checkpoint:
        out = np.empty((512, n), ELEMENT_DTYPES["float32"])
        tracemalloc.start()
        for start in range(0, n, 512):
            checkpoint.read_rows("blocks.0.att.key.weight", start, start + 512, out)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # The matrix would be 64 MiB, the factors are 0.1.
    assert peak < 8 << 20


def test_the_digest_is_that_of_the_numbers(base: Path, save: Save, tmp_path: Path) -> None:
    def digest(*adapters: Adapter | TunedState) -> str | None:
        checkpoint = open_checkpoint(base)
        adapted = adapt(checkpoint, recognised(checkpoint)[1], adapters)
        adapted.checkpoint.close()
        return adapted.digest

    pairs = lora_of(base, 4)
    path = save("a.pth", pairs)
    wanted = digest(Adapter(path, 8))
    assert wanted is not None
    assert digest() is None
    renamed = save("b.pth", {f"model.{name}": pairs[name] for name in reversed(pairs)})
    safetensors.numpy.save_file(pairs, tmp_path / "c.safetensors")
    for other in (renamed, tmp_path / "c.safetensors"):
        assert digest(Adapter(other, 8)) == wanted
    assert digest(Adapter(path, 9)) != wanted
    assert digest(Adapter(path, 8), Adapter(path, 8)) != wanted
    changed = {**pairs, "blocks.0.att.key.lora_A": pairs["blocks.0.att.key.lora_A"] + 1}
    assert digest(Adapter(save("d.pth", changed), 8)) != wanted


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["blocks.0.att.key.lora_A", "emb.weight"])
def test_numbers_that_are_not_finite_are_refused_by_name(
    base: Path, save: Save, name: str, value: float
) -> None:
    tensors = {**lora_of(base, 4), "emb.weight": numbers(0, 256, 128)}
    tensors[name] = tensors[name].copy()
    tensors[name][-1, -1] = value
    path = save("a.pth", tensors)
    with pytest.raises(FormatError, match=f"{path}: {name}: holds NaN or infinity"):
        opened(base, Adapter(path, 4))


def test_the_files_are_closed_with_the_checkpoint(base: Path, save: Save) -> None:
    checkpoint = opened(base, Adapter(save("a.pth", lora_of(base, 4)), 4))
    checkpoint.close()
    for name in ("blocks.0.att.key.weight", "emb.weight"):
        with pytest.raises(ValueError, match="closed"):
            checkpoint.read(name)
