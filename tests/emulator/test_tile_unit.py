"""Tile instructions as the emulator is taught them: addresses, refusals. See also test_tiles.py."""

import ctypes

import numpy as np
import pytest

from tests.emulator.tiles import Instruction, TileUnit

REGISTERS = {"rax": 0x1000, "rdi": 0x2000, "rsi": 64, "r8": 0x8000, "r9": 0x9000, "rbp": 0x5000}
BEHIND = 0x400000


def register(name):
    return REGISTERS.get(name, 0)


@pytest.mark.parametrize(
    ("code", "n_bytes", "address", "stride"),
    [
        ("c4e27b4b0c37", 6, 0x2000, 64),  # tileloadd tmm1, [rdi + rsi]
        ("c4e27b4b4c3740", 7, 0x2040, 64),  # tileloadd tmm1, [rdi + rsi + 64]
        ("c4e27b4b8c37f0ffffff", 10, 0x1FF0, 64),  # tileloadd tmm1, [rdi + rsi - 16]
        ("c4c27b4b0cf0", 6, 0x8000, 64 * 8),  # tileloadd tmm1, [r8 + rsi * 8]
        ("c4a27a4b4c4d00", 7, 0x5000, 2 * 0x9000),  # tilestored [rbp + r9 * 2], tmm1
        ("c4e27a4b0420", 6, 0x1000, 0),  # tilestored [rax], tmm0
        ("c4e2784907", 5, 0x2000, None),  # ldtilecfg [rdi]
        ("c4e278494740", 6, 0x2040, None),  # ldtilecfg [rdi + 64]
        ("c4c278490400", 6, 0x9000, 0x1000),  # ldtilecfg [r8 + rax]
        ("c4e278490510000000", 9, BEHIND + 16, None),  # ldtilecfg [rip + 16]
    ],
)
def test_addresses_are_decoded(code, n_bytes, address, stride):
    instruction = Instruction(bytes.fromhex(code))
    assert instruction.n_bytes == n_bytes
    assert instruction.address(register, BEHIND) == address
    assert stride is None or instruction.stride(register) == stride


def test_a_dot_product_names_three_tiles():
    # tdpbusd tmm0, tmm2, tmm1: sum, left, right.
    instruction = Instruction(bytes.fromhex("c4e2715ec2"))
    assert (instruction.reg, instruction.rm, instruction.third) == (0, 2, 1)
    assert instruction.n_bytes == 5


@pytest.mark.parametrize("code", ["c4e27850c2", "c4e1785ec2", "c4e2f15ec2", "62f2754850"])
def test_other_instructions_are_not_taken_for_tiles(code):
    with pytest.raises(ValueError, match="not a"):
        Instruction(bytes.fromhex(code))


def run(unit, code, address=0):
    memory = ctypes.create_string_buffer(bytes(10) + bytes.fromhex(code))
    behind = ctypes.addressof(memory) + len(memory) - 1
    return unit(behind, lambda name: address)


@pytest.mark.parametrize(
    ("byte", "value", "message"),
    [(0, 2, "palette"), (1, 1, "row to start at"), (16, 65, "64 bytes"), (48, 17, "16 rows")],
)
def test_a_configuration_that_a_cpu_refuses_is_refused(byte, value, message):
    config = np.zeros(64, np.uint8)
    config[[0, 16, 48]] = 1, 4, 1
    assert run(TileUnit(), "c4e2784907", config.ctypes.data)
    config[byte] = value
    with pytest.raises(AssertionError, match=message):
        run(TileUnit(), "c4e2784907", config.ctypes.data)


def test_a_tile_without_a_configuration_is_refused():
    with pytest.raises(AssertionError, match="no tiles are configured"):
        run(TileUnit(), "c4e27b49c0")  # tilezero tmm0


def test_what_is_no_tile_instruction_is_left_alone():
    assert not run(TileUnit(), "0f0b")  # ud2
