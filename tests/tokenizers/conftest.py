"""The World vocabulary, read here once more, and a megabyte of text in many scripts."""

import ast
import random
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def world_file() -> Path:
    package = pytest.importorskip("pyrwkv_tokenizer")
    return Path(package.__file__).parent / "rwkv_vocab_v20230424.txt"


@pytest.fixture(scope="session")
def world_vocabulary(world_file: Path) -> list[bytes]:
    """Text of ids 0 to 65535; b"" for 0 and for the padding from 65530 on."""
    vocabulary = [b""] * 65536
    for line in world_file.read_text(encoding="utf-8").splitlines():
        token, rest = line.split(" ", 1)
        text = ast.literal_eval(rest[: rest.rindex(" ")])
        vocabulary[int(token)] = text.encode("utf-8") if isinstance(text, str) else text
    return vocabulary


PIECES = [
    "The recurrent state is advanced in place, once per token; nothing else grows. ",
    "def forward(tokens, state=None):\n    return [x ** 2 for x in tokens]  # 0x1F\n",
    "for (int i = 0; i < n; ++i) {\r\n\tsum += a[i];\r\n}\r\n",
    "天地玄黄,宇宙洪荒。日月盈昃,辰宿列张。",
    "吾輩は猫である。名前はまだ無い。カタカナとひらがな。",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. ",
    "👩‍👩‍👧‍👦 🇩🇪 🙂🙃 café naïve ﬁn ",
    "1234567890 3.14159 2026-01-01 ",
    "\n\n\n\n",
    " " * 50,
    "=" * 100,
    "안녕하세요 세계 ",
    "\x00\x01\x7f\ufeff\U0010ffff",
]


@pytest.fixture(scope="session")
def mixed_text(world_vocabulary: list[bytes]) -> str:
    """About 1 MB of valid UTF-8: sentences cut anywhere, random characters, words of World."""
    rng = random.Random(20230424)
    words = [text.decode("utf-8", "ignore") for text in world_vocabulary]
    text: list[str] = []
    n_bytes = 0
    while n_bytes < 1_000_000:
        kind = rng.randrange(4)
        if kind == 0:
            piece = rng.choice(PIECES)
            piece = piece[rng.randrange(len(piece)) :]
        elif kind == 1:
            piece = rng.choice(PIECES) * rng.randrange(1, 4)
        elif kind == 2:
            piece = "".join(rng.choices(words, k=rng.randrange(1, 30)))
        else:
            limit = rng.choice([0x80, 0x800, 0xD800, 0x1F700])
            piece = "".join(chr(rng.randrange(limit)) for _ in range(rng.randrange(1, 30)))
            piece = piece.encode("utf-8", "ignore").decode("utf-8")
        text.append(piece)
        n_bytes += len(piece.encode("utf-8"))
    return "".join(text)


@pytest.fixture(scope="session")
def mixed_bytes(mixed_text: str) -> bytes:
    """The mixed text with 2 % of its bytes replaced by any byte, so that it is not UTF-8."""
    rng = random.Random(1)
    damaged = bytearray(mixed_text.encode("utf-8"))
    for position in rng.sample(range(len(damaged)), len(damaged) // 50):
        damaged[position] = rng.randrange(256)
    return bytes(damaged)
