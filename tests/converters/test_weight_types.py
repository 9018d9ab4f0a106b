"""Which format each tensor gets: beside llama.cpp's own quantizer, and where ours shall differ."""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from rwkv_edge.arch import Role, TensorSpec
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.converters.weight_types import (
    FALLBACKS,
    HEAD,
    WEIGHT_TYPES,
    format_of,
    weight_type_of,
)
from rwkv_edge.errors import InputError
from rwkv_edge.quant import F16, F32, Q4_0, Q8_0, QUANT_FORMATS

VERSIONS = ("6", "7")
# Wide enough for K-quants in all matrices but one, in one matrix alone, and in none.
WIDTHS = {"whole": (256, 896), "one matrix": (192, 768), "none": (48, 80)}
N_VOCAB = 256
QUANTIZED = [name for name, row in WEIGHT_TYPES.items() if row.most.block_len > 1]


def formats_in(path: Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(path).tensors}


@pytest.fixture(scope="module", params=[(v, w) for v in VERSIONS for w in WIDTHS], ids="-".join)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    version, width = request.param
    n_embd, n_ffn = WIDTHS[width]
    hp = synthetic_hyperparameters(
        1, n_embd, version=version, n_ffn=n_ffn, n_vocab=N_VOCAB, head_size=16,
        ranks=(8, 8) if version == "6" else (8, 8, 8, 8),
    )  # fmt: skip
    path = tmp_path_factory.mktemp("m") / "m.pth"
    write_synthetic(path, hp)
    convert(path, path.with_suffix(".gguf"), "F32")
    return path


def quantized_by_llama_cpp(source: Path, destination: Path, file_type: int) -> dict[str, str]:
    """The format of every tensor, once llama.cpp has quantized an F32 file."""
    llama_cpp = pytest.importorskip("llama_cpp")
    llama_cpp.llama_log_set(_quiet(llama_cpp), ctypes.c_void_p(0))
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = file_type, 2
    # It refuses Q2_K_S without knowing which columns matter: all do the same.
    importance = [
        (tensor.name.encode(), np.ones(tensor.shape[0], np.float32))
        for tensor in GGUFReader(source).tensors
    ]
    entries = (llama_cpp.llama_model_imatrix_data * (len(importance) + 1))()
    for entry, (name, data) in zip(entries, importance, strict=False):
        pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.name, entry.data, entry.size = name, pointer, data.size
    if file_type == WEIGHT_TYPES["Q2_K_S"].file_type:
        params.imatrix = entries
    assert llama_cpp.llama_model_quantize(
        str(source).encode(), str(destination).encode(), ctypes.byref(params)
    ) == 0  # fmt: skip
    return formats_in(destination)


def _quiet(llama_cpp: Any) -> Any:
    """llama.cpp prints a line for each tensor. Kept, since C code calls it later."""

    @llama_cpp.llama_log_callback
    def ignore(level: int, text: bytes, user_data: Any) -> None:
        pass

    KEPT.append(ignore)
    return ignore


KEPT: list[Any] = []


@pytest.mark.parametrize("weight_type", QUANTIZED)
def test_formats_are_those_of_llama_cpps_quantizer(
    checkpoint: Path, tmp_path: Path, weight_type: str
) -> None:
    row = WEIGHT_TYPES[weight_type]
    theirs = quantized_by_llama_cpp(
        checkpoint.with_suffix(".gguf"), tmp_path / "theirs.gguf", int(row.file_type)
    )
    ours = formats_in(convert(checkpoint, tmp_path / "ours.gguf", weight_type).path)
    assert ours.keys() == theirs.keys()
    differences = {name: (theirs[name], ours[name]) for name in ours if theirs[name] != ours[name]}
    # It leaves small matrices as they were in the source: float32 here.
    small = {name for name, pair in differences.items() if pair == ("F32", "F16")}
    assert all("time_mix_" in name and name.split(".")[2][-1] in "12" for name in small)
    rest = {name: pair for name, pair in differences.items() if name not in small}
    if weight_type == "Q4_0" and ours[HEAD] == "Q4_0":
        assert rest.pop(HEAD)[0] in ("Q6_K", "Q8_0")
    assert rest == {}


def test_the_file_type_is_llama_cpps() -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    for name, row in WEIGHT_TYPES.items():
        prefix = "ALL" if name == "F32" else "MOSTLY"
        assert row.name == name
        assert int(row.file_type) == getattr(llama_cpp, f"LLAMA_FTYPE_{prefix}_{name}")


def test_every_format_is_that_of_most_matrices_of_some_type() -> None:
    assert {row.most for row in WEIGHT_TYPES.values()} == set(QUANT_FORMATS.values())


@pytest.mark.parametrize("weight_type", WEIGHT_TYPES)
def test_small_tensors_keep_their_bits(weight_type: str) -> None:
    def stored(role: Role) -> type:
        return format_of(TensorSpec("blk.0.x.weight", (512, 512), role), weight_type)

    assert stored(Role.VECTOR) is F32
    assert stored(Role.LORA) in QUANT_FORMATS.values()
    assert stored(Role.LORA).block_len == 1
    assert stored(Role.TABLE).block_len == 1 or stored(Role.TABLE) is Q8_0


@pytest.mark.parametrize("weight_type", QUANTIZED)
@pytest.mark.parametrize("name", [HEAD, "token_embd.weight", "blk.0.time_mix_key.weight"])
def test_a_format_that_rows_do_not_fill_gives_way_to_one_of_no_fewer_bits(
    weight_type: str, name: str
) -> None:
    def bits(n_columns: int) -> float:
        quant = format_of(TensorSpec(name, (1, n_columns), Role.MATRIX), weight_type)
        assert n_columns % quant.block_len == 0
        return quant.block.itemsize / quant.block_len

    assert bits(512) <= bits(288) <= bits(33) == 2


def test_fall_backs_end() -> None:
    for quant, fallback in FALLBACKS.items():
        assert fallback.block_len < quant.block_len
        assert fallback not in FALLBACKS


def test_what_fell_back_is_said(tmp_path: Path) -> None:
    hp = synthetic_hyperparameters(1, 96, n_ffn=256, n_vocab=N_VOCAB, head_size=16)
    write_synthetic(tmp_path / "m.pth", hp)
    summary = convert(tmp_path / "m.pth", tmp_path / "m.gguf", "Q4_K_M")
    assert summary.notes == (
        "6 matrices are Q5_0: Q4_K needs rows of a multiple of 256 weights",
        "1 matrix is Q8_0: Q6_K needs rows of a multiple of 256 weights",
    )


def test_four_bits_stay_q4_0_throughout() -> None:
    row = WEIGHT_TYPES["Q4_0"]
    assert (row.most, row.head, row.low_rank, row.table) == (Q4_0, Q4_0, F16, Q8_0)


@pytest.mark.parametrize(
    ("name", "near"), [("Q4_KM", "Q4_K_M"), ("Q6", "Q6_K"), ("IQ4_X", "IQ4_XS"), ("q5_k_s", None)]
)
def test_an_unknown_name_gets_the_choices_and_a_near_one(name: str, near: str | None) -> None:
    with pytest.raises(InputError) as caught:
        weight_type_of(name)
    message = str(caught.value)
    assert message.startswith(f"weight type {name}: wanted one of F32, F16, ")
    assert "\n" not in message
    assert (f"(did you mean {near}?)" in message) == (near is not None)


def test_the_page_on_weight_types_says_what_is_written() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "weight-types.md"
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in page.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    assert [name.strip("`") for name, *_ in rows] == list(WEIGHT_TYPES)
    for name, most, bits, head, _, file_type, _ in rows:
        row = WEIGHT_TYPES[name.strip("`")]
        assert (most, head) == (row.most.__name__, row.head.__name__)
        assert float(bits) == 8 * row.most.block.itemsize / row.most.block_len
        assert int(file_type) == row.file_type
