"""What is fuzzed: for each kind of file, how it is damaged and which reader then opens it."""

import contextlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rwkv_edge import FormatError, InputError, Model, RwkvEdgeError
from rwkv_edge.apps.file_info import describe_file
from rwkv_edge.chat_template_file import read_chat_template
from rwkv_edge.compat import RWKV
from rwkv_edge.compat.cached_gguf import gguf_of
from rwkv_edge.converters.checkpoints import open_checkpoint
from rwkv_edge.converters.checkpoints.pickled import load_tensors
from rwkv_edge.converters.model_source import open_model_source
from rwkv_edge.gguf_reader import GgufFile
from rwkv_edge.model_file import ModelFile
from rwkv_edge.reading import load_reading
from rwkv_edge.state import load_state_arrays
from rwkv_edge.tokenizers import Tokenizer, load_tokenizer, tokenizer_from_gguf
from rwkv_edge.tokenizers.vocabulary_file import read_vocabulary
from tests.fuzz import containers, onnx_models, structure
from tests.fuzz.corpus import N_WORDS, STATE_MODEL
from tests.fuzz.judge import MAX_MESSAGE
from tests.fuzz.mutations import Change

# What a file that could be opened goes through next; gives nothing, raises RwkvEdgeError.
Run = Callable[[], None]
# Opens a file with a reader; gives how to go on.
Open = Callable[[Path, Path], Run | None]

# ast.literal_eval compiles to a syntax tree, and no further.
PARSING_LITERALS = frozenset({"compile"})
TEXT = "User: größer 天地\n\nab the\x00 end."
NO_UTF8 = b"\xff\xc3("


@dataclass(frozen=True)
class Target:
    """open: called with the damaged file and the folder of the corpus.

    kinds: folders of the corpus whose files are damaged. special: changes that know this kind.
    weight: how many cases it gets beside the others; those that cost little get many. suffix: of
    the damaged file's name. allowed_events: of `sys.audit`, which are its own business.
    """

    open: Open
    kinds: tuple[str, ...]
    special: Sequence[Change] = ()
    weight: int = 1
    suffix: str = ""
    allowed_events: frozenset[str] = field(default_factory=frozenset)


def open_gguf(path: Path, corpus: Path) -> None:
    """The bare reader: every tensor is decoded, as far as it has bytes."""
    del corpus
    with GgufFile(path) as file:
        for tensor in file.tensors.values():
            assert tensor.decode().shape == tensor.shape
            del tensor


def open_model(path: Path, corpus: Path) -> Run:
    """A model as `Model.load` and `info` read it, and then two tokens through two engines."""
    del corpus
    file = ModelFile(path)
    with contextlib.closing(file):
        assert file.fingerprint
        assert file.file_type
        assert isinstance(file.chat_template, str)
        use_tokenizer(file.tokenizer)
    describe_file(path)
    return lambda: run_model(path)


def run_model(path: Path) -> None:
    """Two tokens through the readable engine and the compiled one."""
    for backend in ("reference", "numba"):
        with Model.load(path, backend, threads=1) as model, np.errstate(all="ignore"):
            last = model.hyperparameters.n_vocab - 1
            logits, state = model.forward([0, last])
            assert np.isfinite(logits).all()
            model.forward([last // 2], state)


def open_tokenizer_in_gguf(path: Path, corpus: Path) -> None:
    del corpus
    with GgufFile(path) as file:
        for key in ("tokenizer.ggml.model", "rwkv_edge.tokenizer"):
            if not isinstance(file.metadata.get(key, ""), str):
                raise FormatError(f"{path}: what ModelFile refuses before")
        use_tokenizer(tokenizer_from_gguf(file.metadata, 1000))


def use_tokenizer(tokenizer: Tokenizer) -> None:
    """Encode, decode, and look at the text of every id."""
    for text in (TEXT, NO_UTF8, ""):
        try:
            tokens = tokenizer.encode(text)
        except InputError as error:
            check_one_line(error)
            continue
        assert all(0 <= token < tokenizer.n_vocab for token in tokens)
        assert isinstance(tokenizer.decode(tokens), str)
        with contextlib.suppress(InputError):
            tokenizer.encode_more(text)
    for token in range(tokenizer.n_vocab):
        assert isinstance(tokenizer.token_bytes(token), bytes)


def check_one_line(error: RwkvEdgeError) -> None:
    assert str(error).isprintable(), repr(str(error))
    assert len(str(error)) < MAX_MESSAGE


def open_tokenizer_file(path: Path, corpus: Path) -> None:
    del corpus
    try:
        tokenizer = load_tokenizer(path, 1000)
    except RwkvEdgeError as error:
        check_one_line(error)
        # It may be one of a larger model; a million ids take their time, too.
        tokenizer = load_tokenizer(path)
    use_tokenizer(tokenizer)


def open_vocabulary(path: Path, corpus: Path) -> None:
    """Also where another reader would say that it is none."""
    del corpus
    use_tokenizer(read_vocabulary(path).tokenizer(N_WORDS))


def open_pickle(path: Path, corpus: Path) -> None:
    del corpus
    load_tensors(path.read_bytes())


def open_any_checkpoint(path: Path, corpus: Path) -> None:
    """Every tensor is read, whole and by rows; `info` and a conversion look at its shapes."""
    del corpus
    with open_checkpoint(path) as checkpoint:
        for name in checkpoint.names():
            shape = checkpoint.shape(name)
            with contextlib.suppress(FormatError):
                assert checkpoint.read(name).shape == shape
    describe_file(path)
    open_model_source(path).__exit__(None, None, None)


_state_models: dict[Path, Model] = {}


def open_state(path: Path, corpus: Path) -> Run:
    """The arrays, and then one more token."""
    model = _state_models.get(corpus)
    if model is None:
        model = _state_models[corpus] = Model.load(corpus / STATE_MODEL, "reference")
    load_state_arrays(path, model)
    describe_file(path)
    with contextlib.suppress(RwkvEdgeError):
        load_reading(path, model)
    state = model.load_state(path)
    return lambda: finite(model, state)


def finite(model: Model, state: object) -> None:
    with np.errstate(all="ignore"):
        assert np.isfinite(model.forward([1], state)[0]).all()  # type: ignore[arg-type]


def open_template(path: Path, corpus: Path) -> None:
    del corpus
    assert read_chat_template(path).name is not None


def open_cached_gguf(path: Path, corpus: Path) -> Run:
    """What `RWKV(model=...)` would use instead of converting a checkpoint again."""
    checkpoint = path.parent / "rwkv7.pth"
    if not checkpoint.exists():
        shutil.copy(corpus / "sources" / "rwkv7.pth", checkpoint)
        gguf_of(checkpoint, "F32", lambda line: None)
    (cached,) = path.parent.glob("rwkv7.rwkv-edge-f32-*.gguf")
    cached.write_bytes(path.read_bytes())
    assert gguf_of(checkpoint, "F32", lambda line: None) == cached
    ModelFile(cached).close()
    return lambda: run_compat(checkpoint)


def run_compat(checkpoint: Path) -> None:
    with np.errstate(all="ignore"):
        model = RWKV(str(checkpoint), "cpu fp32", verbose=False)
        try:
            model.forward([1, 2], None)
        finally:
            model.close()


TARGETS: dict[str, Target] = {
    "gguf": Target(open_gguf, ("gguf",), structure.GGUF, 10),
    "model": Target(open_model, ("model",), structure.GGUF, 4),
    # It puts the file where the cache has it.
    "cached-gguf": Target(
        open_cached_gguf, ("model",), structure.GGUF, allowed_events=frozenset({"open"})
    ),
    "gguf-tokenizer": Target(
        open_tokenizer_in_gguf, ("gguf-tokenizer",), structure.GGUF + structure.LINES, 4
    ),
    "vocabulary": Target(
        open_vocabulary, ("vocabulary",), structure.LINES, 3, ".txt", PARSING_LITERALS
    ),
    "tokenizer-file": Target(
        open_tokenizer_file,
        ("vocabulary", "tokenizer-json", "sentencepiece"),
        (*structure.LINES, *structure.JSON, *structure.PROTOBUF),
        2,
        allowed_events=PARSING_LITERALS,
    ),
    "tokenizer-json": Target(open_tokenizer_file, ("tokenizer-json",), structure.JSON, 2),
    "sentencepiece": Target(open_tokenizer_file, ("sentencepiece",), structure.PROTOBUF, 3),
    "pickle": Target(open_pickle, ("pickle",), structure.PICKLE, 12),
    "pth": Target(open_any_checkpoint, ("pth", "pickle"), structure.PTH, 8, ".pth"),
    "safetensors": Target(
        open_any_checkpoint, ("safetensors",), structure.SAFETENSORS, 10, ".safetensors"
    ),
    "state": Target(open_state, ("state",), structure.SAFETENSORS, 10, ".state"),
    "chat-template": Target(open_template, ("chat-template",), structure.JSON, 8, ".json"),
    "rwkv.cpp": Target(containers.open_source, ("rwkv.cpp",), (), 4, ".bin"),
    "tar": Target(containers.open_tensors, ("tar",), (), 6, ".pth"),
    "foreign-names": Target(
        containers.open_source, ("foreign-names",), structure.SAFETENSORS, 4, ".st"
    ),
    # It puts the index where the folder has it.
    "folder": Target(
        containers.open_folder, ("index",), structure.JSON, 4, ".json", frozenset({"open"})
    ),
    "plain-model": Target(containers.open_source, ("plain-model",), structure.GGUF, 3, ".gguf"),
    "adapter": Target(containers.open_adapter, ("adapter", "pickle"), structure.PTH, 4, ".pth"),
    "onnx": Target(onnx_models.open_onnx, ("onnx",), onnx_models.ONNX, 8, ".onnx"),
    "onnx-model": Target(
        onnx_models.open_onnx_model, ("onnx-model",), onnx_models.ONNX, 4, ".onnx"
    ),
    "tuned-model": Target(open_model, ("tuned-model",), structure.GGUF, 2, ".gguf"),
}
