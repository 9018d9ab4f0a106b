"""Products of bytes in tiles, against numpy. Where the CPU has none, the emulator runs these."""

import numpy as np
import pytest
from numba.core.errors import TypingError

from rwkv_edge.jit import kernel
from rwkv_edge.runtime.simd import tiles
from rwkv_edge.runtime.simd.cpu import tier
from rwkv_edge.runtime.simd.tiles import (
    tile_config,
    tile_configure,
    tile_dot_s8_s8,
    tile_dot_s8_u8,
    tile_dot_u8_s8,
    tile_load,
    tile_release,
    tile_store,
    tile_zero,
)

needs_tiles = pytest.mark.skipif(
    tier() != "amx", reason="needs AMX: tests/emulator runs it where the CPU has none"
)


@kernel
def u8_s8(config, a, b, k, out):
    tile_configure(config)
    tile_zero(0)
    tile_load(1, a, 0, k)
    tile_load(2, b, 0, 64)
    tile_dot_u8_s8(0, 1, 2)
    tile_store(0, out, 0, 64)
    tile_release()


@kernel
def s8_u8(config, a, b, k, out):
    tile_configure(config)
    tile_zero(3)
    tile_load(4, a, 0, k)
    tile_load(5, b, 0, 64)
    tile_dot_s8_u8(3, 4, 5)
    tile_store(3, out, 0, 64)
    tile_release()


@kernel
def s8_s8(config, a, b, k, out):
    tile_configure(config)
    tile_zero(7)
    tile_load(6, a, 0, k)
    tile_load(2, b, 0, 64)
    tile_dot_s8_s8(7, 6, 2)
    tile_store(7, out, 0, 64)
    tile_release()


PRODUCTS = {"u8_s8": u8_s8, "s8_u8": s8_u8, "s8_s8": s8_s8}


def random_bytes(kind, shape):
    low, high = (0, 255) if kind == "u8" else (-128, 127)
    values = np.random.default_rng(9).integers(low, high + 1, shape)
    values[:2] = [[low], [high]]
    return values.astype(np.uint8 if kind == "u8" else np.int8)


def side_by_side(b):
    """The right matrix as a tile holds it: four rows in one."""
    return np.ascontiguousarray(b.reshape(-1, 4, b.shape[1]).transpose(0, 2, 1))


@needs_tiles
@pytest.mark.parametrize("n_rows", [16, 5])
@pytest.mark.parametrize("k", [64, 32])
@pytest.mark.parametrize("kinds", PRODUCTS)
def test_product_of_bytes_equals_numpy(kinds, k, n_rows):
    left, right = kinds.split("_")
    a, b = random_bytes(left, (n_rows, k)), random_bytes(right, (k, 16))
    out = np.full((16, 16), -1, np.int32)
    # Tiles 1, 4, 6 are left sides here, 2 and 5 right ones, 0, 3, 7 sums.
    shapes = {"a": (n_rows, k), "b": (k // 4, 64), "c": (n_rows, 64)}
    config = tile_config([shapes[role] for role in "cabcabac"])
    PRODUCTS[kinds](config, a, side_by_side(b), k, out)
    np.testing.assert_array_equal(out[:n_rows], a.astype(np.int64) @ b.astype(np.int64))
    assert (out[n_rows:] == -1).all()


@kernel
def blocks(config, a, b, n_blocks, out):
    tile_configure(config)
    tile_load(0, out, 16, 128)
    for block in range(n_blocks):
        tile_load(1, a, block * 64, n_blocks * 64)
        tile_load(2, b, block * 1024, 64)
        tile_dot_u8_s8(0, 1, 2)
    tile_store(0, out, 16, 128)
    tile_release()


@needs_tiles
def test_products_add_up_in_a_part_of_a_larger_matrix():
    n_blocks = 3
    a, b = random_bytes("u8", (16, 64 * n_blocks)), random_bytes("s8", (64 * n_blocks, 16))
    out = np.arange(16 * 32, dtype=np.int32).reshape(16, 32)
    expected = out.copy()
    expected[:, 16:] += a.astype(np.int32) @ b.astype(np.int32)
    blocks(tile_config([(16, 64)] * 3), a, side_by_side(b), n_blocks, out)
    np.testing.assert_array_equal(out, expected)


@kernel
def counted_tile(n):
    for tile in range(n):
        tile_zero(tile)


@kernel
def ninth_tile():
    tile_zero(8)


@pytest.mark.parametrize(("function", "args"), [(counted_tile, (3,)), (ninth_tile, ())])
def test_a_tile_s_number_must_be_a_literal_in_range(function, args):
    with pytest.raises(TypingError, match="a tile's number is a literal int, 0 to 7"):
        function(*args)


@kernel
def seventh_tile():
    tile_zero(6)  # in no other kernel here: numba asks about a verb and its arguments once


def test_tiles_are_refused_on_another_tier(monkeypatch):
    monkeypatch.setattr(tiles, "has", lambda *features: False)
    with pytest.raises(TypingError, match="tiles need the amx tier"):
        seventh_tile()


def test_a_configuration_takes_64_bytes():
    config = tile_config([(16, 64), (4, 32)])
    assert config.shape == (64,)
    assert config[0] == 1
    assert config[16:20].view("<u2").tolist() == [64, 32]
    assert config[48:50].tolist() == [16, 4]
