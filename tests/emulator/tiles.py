"""AMX for an emulator without it: each tile instruction traps and is done here, in numpy.

Encodings, the layout of the configuration and the products follow Intel's Software Developer's
Manual, volume 2 (LDTILECFG, TILELOADD, TDPBSSD ...) and volume 1, chapter 18. What this proves is
that the code asks for the right tiles at the right addresses; that the manual is read rightly it
cannot.
"""

import ctypes
from collections.abc import Callable

import numpy as np

# Bits of XCR0: the configuration of tiles, and their data.
XCR0_TILES = 1 << 17 | 1 << 18
N_TILES, MAX_ROWS, MAX_ROW_BYTES, CONFIG_BYTES = 8, 16, 64, 64
# Fields of the configuration: palette (1 byte), start_row (1), then at these offsets.
ROW_BYTES_AT, ROWS_AT = 16, 48

VEX3, MAP_0F38, VEX_W_AND_L = 0xC4, 2, 0x84
SIB_RM, DISPLACEMENT_RM, REGISTER_MODE = 4, 5, 3
REGISTERS = (
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip
# By VEX.pp: types of the bytes of the first and the second source of a dot product.
DOT_TYPES = {0: ("u1", "u1"), 1: ("u1", "i1"), 2: ("i1", "u1"), 3: ("i1", "i1")}
OPCODE_CONFIG, OPCODE_MOVE, OPCODE_DOT = 0x49, 0x4B, 0x5E
LONGEST, SHORTEST = 10, 5

Register = Callable[[str], int]


class Instruction:
    """A VEX instruction of three bytes of prefix, one of opcode, with its ModRM and address.

    Raises ValueError if these bytes are none of AMX.
    """

    def __init__(self, code: bytes) -> None:
        prefix, first, second, self.opcode, modrm = code[:SHORTEST]
        if prefix != VEX3 or first & 0x1F != MAP_0F38 or second & VEX_W_AND_L:
            raise ValueError("not a VEX instruction of map 0F38 with W and L clear")
        if self.opcode not in (OPCODE_CONFIG, OPCODE_MOVE, OPCODE_DOT):
            raise ValueError("not an instruction of AMX")
        self.prefix = second & 3
        self.mode, self.reg, self.rm = modrm >> 6, modrm >> 3 & 7, modrm & 7
        # VEX stores these inverted: bits that extend index and base, and the third register.
        self._index_high, self._base_high = ~first >> 6 & 1, ~first >> 5 & 1
        self.third = ~second >> 3 & 15
        self._code = code
        has_sib = self.mode != REGISTER_MODE and self.rm == SIB_RM
        self._sib = code[5] if has_sib else None
        self.n_bytes = SHORTEST + has_sib + self._displacement_bytes()

    def _without_base(self) -> bool:
        low = self.rm if self._sib is None else self._sib & 7
        return self.mode == 0 and low == DISPLACEMENT_RM

    def _displacement_bytes(self) -> int:
        return 4 if self._without_base() else {0: 0, 1: 1, 2: 4, REGISTER_MODE: 0}[self.mode]

    def address(self, register: Register, behind: int) -> int:
        """Base plus displacement, and plus the index where it is no stride."""
        start = SHORTEST + (self._sib is not None)
        displacement = int.from_bytes(self._code[start : self.n_bytes], "little", signed=True)
        if self._without_base():
            return displacement + (behind if self._sib is None else 0)
        low = self.rm if self._sib is None else self._sib & 7
        base = register(REGISTERS[low | self._base_high << 3])
        if self.opcode == OPCODE_CONFIG and self._sib is not None:
            base += self.stride(register)
        return base + displacement

    def stride(self, register: Register) -> int:
        """Bytes from row to row: the index times its scale; 4 says that there is none."""
        assert self._sib is not None
        index = self._sib >> 3 & 7 | self._index_high << 3
        if index == SIB_RM:
            return 0
        value = register(REGISTERS[index]) << (self._sib >> 6)
        return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def _memory(address: int, n_bytes: int) -> np.ndarray:
    return np.frombuffer((ctypes.c_uint8 * n_bytes).from_address(address), np.uint8)


class TileUnit:
    """Eight tiles, and what the instructions do to them."""

    def __init__(self) -> None:
        self._release()

    def _release(self) -> None:
        self.tiles = np.zeros((N_TILES, MAX_ROWS, MAX_ROW_BYTES), np.uint8)
        self.config = np.zeros(CONFIG_BYTES, np.uint8)

    def __call__(self, behind: int, register: Register) -> bool:
        """Do the instruction that ends at `behind`; False if it is none of AMX."""
        for n_bytes in range(SHORTEST, LONGEST + 1):
            try:
                instruction = Instruction(ctypes.string_at(behind - n_bytes, n_bytes))
            except (ValueError, IndexError):
                continue
            if instruction.n_bytes == n_bytes:
                return self._execute(instruction, register, behind)
        return False

    def _execute(self, it: Instruction, register: Register, behind: int) -> bool:
        """Which instruction it is, by opcode, mandatory prefix (none, 66, F3, F2) and ModRM."""
        in_registers = it.mode == REGISTER_MODE
        match it.opcode, it.prefix, in_registers:
            case 0x49, 0, True if it.reg == it.rm == 0:  # TILERELEASE
                self._release()
            case 0x49, 3, True if it.rm == 0:  # TILEZERO
                self.tiles[it.reg] = 0
                self._shape(it.reg)
            case 0x49, 0, False if it.reg == 0:  # LDTILECFG
                self._configure(_memory(it.address(register, behind), CONFIG_BYTES))
            case 0x4B, 1 | 3, False:  # TILELOADDT1, TILELOADD
                self._load(it.reg, it.address(register, behind), it.stride(register))
            case 0x4B, 2, False:  # TILESTORED
                self._store(it.reg, it.address(register, behind), it.stride(register))
            case 0x5E, _, True:  # TDPBUUD, TDPBUSD, TDPBSUD, TDPBSSD
                self._dot(it.reg, it.rm, it.third, *DOT_TYPES[it.prefix])
            case _:
                return False
        return True

    def _configure(self, config: np.ndarray) -> None:
        self._release()
        if config[0] == 0:  # palette 0: as after TILERELEASE
            return
        row_bytes = config[ROW_BYTES_AT : ROW_BYTES_AT + 2 * N_TILES].view("<u2")
        rows = config[ROWS_AT : ROWS_AT + N_TILES]
        fits = (row_bytes <= MAX_ROW_BYTES).all() and (rows <= MAX_ROWS).all()
        # The CPU would stop at any of these, too.
        assert config[0] == 1, "palette"
        assert fits, "a tile has at most 16 rows of 64 bytes"
        assert ((row_bytes == 0) == (rows == 0)).all(), "rows without bytes, or bytes without rows"
        assert not config[1:16].any(), "a row to start at, or reserved bytes"
        self.config = config.copy()

    def _shape(self, tile: int) -> tuple[int, int]:
        """Rows, and bytes in each."""
        assert self.config[0], "no tiles are configured"
        row_bytes = self.config[ROW_BYTES_AT:].view("<u2")[tile]
        rows = self.config[ROWS_AT + tile]
        assert rows, f"tile {tile} is not configured"
        return int(rows), int(row_bytes)

    def _load(self, tile: int, address: int, stride: int) -> None:
        rows, row_bytes = self._shape(tile)
        self.tiles[tile] = 0
        for row in range(rows):
            self.tiles[tile, row, :row_bytes] = _memory(address + row * stride, row_bytes)

    def _store(self, tile: int, address: int, stride: int) -> None:
        rows, row_bytes = self._shape(tile)
        for row in range(rows):
            data = self.tiles[tile, row, :row_bytes].tobytes()
            ctypes.memmove(address + row * stride, data, row_bytes)

    def _dot(self, c: int, a: int, b: int, a_type: str, b_type: str) -> None:
        """c[m, n] += the sum over k and the four bytes i of a[m, 4k + i] b[k, 4n + i]."""
        assert len({c, a, b}) == 3, "the three tiles must differ"
        (m, n_bytes), (a_rows, k_bytes), (k, b_bytes) = map(self._shape, (c, a, b))
        assert (a_rows, b_bytes, 4 * k) == (m, n_bytes, k_bytes), "shapes do not fit"
        left = self.tiles[a, :m, :k_bytes].view(a_type).astype(np.int32).reshape(m, k, 4)
        right = self.tiles[b, :k, :n_bytes].view(b_type).astype(np.int32)
        product = np.einsum("mki,kni->mn", left, right.reshape(k, n_bytes // 4, 4))
        total = self.tiles[c, :m, :n_bytes].copy().view(np.int32) + product
        self.tiles[c] = 0
        self.tiles[c, :m, :n_bytes] = np.ascontiguousarray(total.astype(np.int32)).view(np.uint8)
