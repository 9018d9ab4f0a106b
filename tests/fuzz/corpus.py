"""Whole files of every kind, made by script: what the fuzzer damages."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import safetensors.numpy

from rwkv_edge import Model
from rwkv_edge.converters.checkpoints import open_checkpoint
from rwkv_edge.converters.checkpoints.pth_writer import integer, named, pickled_entry, text
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.quant import QUANT_FORMATS
from rwkv_edge.tokenizers.gguf_vocabulary import escape_token
from tests.fuzz import containers, onnx_models

# By version: its ranks. Widths are whole vectors, so that the compiled kernels run the files too.
RANKS: dict[str, tuple[int, ...] | None] = {
    "4": None, "5.0": None, "5.1": None, "5.2": None, "6": (8, 8), "7": (8, 8, 8, 8),
    "7a": (8, 8, 8, 8),
}  # fmt: skip
N_EMBD, N_FFN, HEAD_SIZE, N_LAYER = 32, 64, 16, 2
WORDS = [b".\n", b"\n\nUser", b"a\xc3", b"\xc3\xa9", b"ab", b" the", b"\\n", b"'\"", b"\x00\x7f"]
N_WORDS = 320
# The state files belong to this model.
STATE_MODEL = "state-model.gguf"
# A gadget that came to run would make this file.
CANARY = "canary"


def build_corpus(folder: Path) -> None:
    """Write every file into `folder`/KIND/NAME."""
    for kind, make in MAKERS.items():
        (folder / kind).mkdir(parents=True)
        make(folder / kind, folder)


def models(to: Path, folder: Path) -> None:
    """A GGUF of every version, and of every weight type and tokenizer, made by our converter."""
    sources = folder / "sources"
    sources.mkdir()
    for version, ranks in RANKS.items():
        pth = sources / f"rwkv{version}.pth"
        write_synthetic(pth, shape_of(version, ranks))
        convert(pth, to / f"rwkv{version}-q8.gguf", "Q8_0")
    for weight_type in ("Q4_0", "F16", "BF16", "F32"):
        convert(sources / "rwkv7.pth", to / f"rwkv7-{weight_type}.gguf", weight_type)
    words = sources / "words.pth"
    write_synthetic(words, shape_of("7", RANKS["7"], N_WORDS))
    (sources / "words.vocab.txt").write_bytes(world_text())
    convert(words, to / "words.gguf", "Q4_0")
    convert(words, folder / STATE_MODEL, "Q8_0")


def shape_of(version: str, ranks: tuple[int, ...] | None, n_vocab: int = 256) -> Any:
    return synthetic_hyperparameters(
        N_LAYER, N_EMBD, version=version, n_ffn=N_FFN, n_vocab=n_vocab, head_size=HEAD_SIZE,
        ranks=ranks,
    )  # fmt: skip


def plain_ggufs(to: Path, folder: Path) -> None:
    """Every type of value and of weights, as gguf-py writes them; no model."""
    del folder
    random = np.random.default_rng(1)
    for alignment in (32, 64):
        writer = gguf.GGUFWriter(to / f"plain{alignment}.gguf", "rwkv7")
        writer.add_custom_alignment(alignment)
        for name in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"):
            getattr(writer, f"add_{name}")(f"n.{name}", 100)
        writer.add_float32("n.float32", 0.5)
        writer.add_float64("n.float64", 0.1)
        writer.add_bool("n.bool", True)
        writer.add_string("n.text", "größer\n天地")
        writer.add_array("a.texts", ["", "a", "天"])
        writer.add_array("a.ints", [1, -2, 3])
        writer.add_array("a.floats", [0.5, -0.25])
        writer.add_array("a.bools", [True, False, True])
        for name, quant in QUANT_FORMATS.items():
            kind = gguf.GGMLQuantizationType(quant.ggml_type)
            # gguf-py encodes some formats and decodes all; any bytes are weights of a format.
            row_bytes = quant.row_bytes(256)
            rows = random.integers(0, 256, (2, 3, row_bytes), np.uint8)
            writer.add_tensor(name, rows, raw_dtype=kind)
        finish(writer)


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_tokenizers(to: Path, folder: Path) -> None:
    """Files that hold a tokenizer of each kind and nothing else."""
    del folder

    def write(name: str, model: str, kind: str | None, keys: dict[str, Any]) -> None:
        writer = gguf.GGUFWriter(to / f"{name}.gguf", "rwkv7")
        writer.add_string("tokenizer.ggml.model", model)
        if kind is not None:
            writer.add_string("rwkv_edge.tokenizer", kind)
        for key, value in keys.items():
            if isinstance(value, str):
                writer.add_string(key, value)
            elif isinstance(value, bytes):
                # gguf-py makes an array of bytes out of them.
                writer.add_array(key, value)
            else:
                writer.add_array(key, value)
        finish(writer)

    tokens = [b"<s>", *(bytes([i]) for i in range(256)), *WORDS]
    listed = {
        "tokenizer.ggml.tokens": [escape_token(token) for token in tokens],
        "tokenizer.ggml.token_type": [3] + [1] * (len(tokens) - 1),
    }
    write("world", "rwkv", "world", listed)
    write("llama.cpp", "rwkv", None, listed)
    write("bytes", "rwkv", "bytes", listed)
    for name, content in foreign_jsons().items():
        write(name, "gpt2", None, {"tokenizer.huggingface.json": content})
    for name, model in sentencepiece_files().items():
        write(name, "llama", "sentencepiece", {"rwkv_edge.tokenizer.sentencepiece": model})


def world_text() -> bytes:
    """A vocabulary as RWKV-LM lists it: texts where they are UTF-8, bytes where they are not."""
    lines = []
    for number, token in enumerate([*(bytes([i]) for i in range(256)), *WORDS], 1):
        try:
            literal = repr(token.decode("utf-8"))
        except UnicodeDecodeError:
            literal = repr(token)
        lines.append(f"{number} {literal} {len(token)}\n")
    return "".join(lines).encode("utf-8")


def vocabularies(to: Path, folder: Path) -> None:
    del folder
    (to / "words.txt").write_bytes(world_text())
    lines = [f"{i} {bytes([i])!r} 1\n" for i in range(256)]
    (to / "bytes.txt").write_text("".join(lines), encoding="utf-8")


def foreign_jsons() -> dict[str, str]:
    """As the tokenizers package writes them; none where it is not installed."""
    try:
        from tests.tokenizers.foreign_files import neox_json, spaces_bpe_json, unigram_json
    except ImportError:
        return {}
    return {"neox": neox_json(), "spaces": spaces_bpe_json(), "unigram": unigram_json()}


def sentencepiece_files() -> dict[str, bytes]:
    """As the sentencepiece package writes them; none where it is not installed."""
    try:
        from tests.tokenizers.foreign_files import sentencepiece_model
    except ImportError:
        return {}
    return {
        "unigram-nfkc": sentencepiece_model("unigram", "nmt_nfkc", False),
        "bpe-identity": sentencepiece_model("bpe", "identity"),
    }


def tokenizer_jsons(to: Path, folder: Path) -> None:
    del folder
    for name, content in foreign_jsons().items():
        (to / f"{name}.json").write_text(content, encoding="utf-8")


def sentencepieces(to: Path, folder: Path) -> None:
    del folder
    for name, model in sentencepiece_files().items():
        (to / f"{name}.model").write_bytes(model)


def pickles(to: Path, folder: Path) -> None:
    """Descriptions of tensors, and gadgets for the mutator to splice into them."""
    for name, data in {**good_pickles(), **gadgets(folder / CANARY)}.items():
        (to / f"{name}.pkl").write_bytes(data)


def good_pickles() -> dict[str, bytes]:
    entries = b"".join(
        pickled_entry(name, dtype, (4, 2), str(i), 8)
        for i, (name, dtype) in enumerate(
            (("emb.weight", "float32"), ("blocks.0.ln0.weight", "bfloat16"), ("c", "float16"))
        )
    )
    plain = pickle.PROTO + b"\x02}(" + entries + b"u."
    wrapped = (
        pickle.PROTO + b"\x02}(" + text("epoch") + integer(3)
        + text("state_dict") + b"}(" + entries + b"uu."
    )  # fmt: skip
    memo = (
        b"\x80\x04}\x94(" + text("a") + named("torch._utils", "_rebuild_tensor_v2") + b"\x94("
        + b"(" + text("storage") + named("torch", "FloatStorage") + b"\x94" + text("0")
        + text("cpu") + integer(8) + b"tQK\x00K\x02K\x04\x86\x94K\x04K\x01\x86\x89"
        + named("collections", "OrderedDict") + b")RtR\x94u."
    )  # fmt: skip
    return {"plain": plain, "wrapped": wrapped, "memo": memo}


def gadgets(canary: Path) -> dict[str, bytes]:
    """Programs that would make the canary's file, one for each way of calling something."""
    touch = f"touch {canary}"
    call = f"open({str(canary)!r}, 'w')"
    line = touch.encode() + b"\n"
    return {
        "gadget-reduce": b"\x80\x02cos\nsystem\n" + text(touch) + b"\x85R.",
        "gadget-eval": b"\x80\x02cbuiltins\neval\n" + text(call) + b"\x85R.",
        "gadget-stack-global": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + text(touch) + b"\x85R.",
        "gadget-inst": b"(S'" + touch.encode() + b"'\nios\nsystem\n.",
        "gadget-obj": b"(cos\nsystem\nS'" + touch.encode() + b"'\no.",
        "gadget-newobj": b"\x80\x02cos\nsystem\n" + text(touch) + b"\x85\x81.",
        "gadget-newobj-ex": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + text(touch) + b"\x85}\x92.",
        "gadget-build": b"\x80\x02ctorch\nFloatStorage\n}" + text("__setstate__") + b"cos\nsystem\n"
        + b"sb" + text(touch) + b"b.",
        "gadget-text": b"cos\nsystem\n(V" + line + b"tR.",
    }  # fmt: skip


def checkpoints(to: Path, folder: Path) -> None:
    """`.pth` files: of our writer, of torch's layout with gadgets, and in the old format."""
    for version in ("4", "5.2", "7"):
        data = (folder / "sources" / f"rwkv{version}.pth").read_bytes()
        (to / f"rwkv{version}.pth").write_bytes(data)
    storages = {str(i): bytes(32) for i in range(3)}
    for name, pickled in good_pickles().items():
        (to / f"{name}.pth").write_bytes(zipped(pickled, storages))
        (to / f"{name}-old.pth").write_bytes(old_format(pickled, storages))
    for name, pickled in gadgets(folder / CANARY).items():
        (to / f"{name}.pth").write_bytes(zipped(pickled, storages))
        (to / f"{name}-old.pth").write_bytes(old_format(pickled, storages))


def zipped(pickled: bytes, storages: dict[str, bytes]) -> bytes:
    """As torch.save lays a zip file out."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("m/data.pkl", pickled)
        for key, data in storages.items():
            archive.writestr(f"m/data/{key}", data)
        archive.writestr("m/byteorder", b"little")
        archive.writestr("m/version", b"3\n")
    return out.getvalue()


def old_format(pickled: bytes, storages: dict[str, bytes]) -> bytes:
    """As torch.save wrote before 1.6: pickles one after the other, then the numbers."""
    magic, protocol = 0x1950A86A20F9469CFC6C, 1001
    system = {"protocol_version": protocol, "little_endian": True, "type_sizes": {"int": 4}}
    parts = [pickle.dumps(value, 2) for value in (magic, protocol, system)]
    parts += [pickled, pickle.dumps(sorted(storages), 2)]
    for key in sorted(storages):
        parts.append(struct.pack("<q", len(storages[key]) // 4) + storages[key])
    return b"".join(parts)


def safetensors_files(to: Path, folder: Path) -> None:
    """A model, and what is none."""
    with open_checkpoint(folder / "sources" / "rwkv7.pth") as checkpoint:
        model = {name: checkpoint.read(name) for name in checkpoint.names()}
    (to / "rwkv7.safetensors").write_bytes(safetensors.numpy.save(model))
    random = np.random.default_rng(2)
    arrays = {
        "blocks.0.att.r_k": random.standard_normal((2, 8)).astype(np.float32),
        "emb.weight": random.standard_normal((9, 16)).astype(np.float16),
        "other": np.arange(5, dtype=np.int64),
        "empty": np.zeros((0, 3), np.float32),
    }
    (to / "mixed.safetensors").write_bytes(safetensors.numpy.save(arrays, {"format": "pt"}))
    (to / "plain.safetensors").write_bytes(safetensors.numpy.save(arrays))


def states(to: Path, folder: Path) -> None:
    with Model.load(folder / STATE_MODEL, "reference") as model:
        model.new_state().save(to / "fresh.state")
        model.forward([1, 2, 3])[1].save(to / "talk.state")
        reading = model.read("some text")
        reading.finish()
        reading.save(to / "reading.state")


def templates(to: Path, folder: Path) -> None:
    del folder
    template = {
        "system_prefix": "",
        "user_prefix": "Question: ",
        "assistant_prefix": "Answer:",
        "separator": "\n\n",
        "stops": ["\n\nQuestion:"],
    }
    (to / "plain.json").write_text(json.dumps(template), encoding="utf-8")
    named_template = {**template, "name": "größer", "stops": ["\n\n天", "\n\n"]}
    (to / "named.json").write_text(json.dumps(named_template, ensure_ascii=False), "utf-8")


MAKERS: dict[str, Callable[[Path, Path], None]] = {
    "model": models,
    "gguf": plain_ggufs,
    "gguf-tokenizer": gguf_tokenizers,
    "vocabulary": vocabularies,
    "tokenizer-json": tokenizer_jsons,
    "sentencepiece": sentencepieces,
    "pickle": pickles,
    "pth": checkpoints,
    "safetensors": safetensors_files,
    "state": states,
    "chat-template": templates,
    **containers.MAKERS,
    **onnx_models.MAKERS,
}
