"""llama.cpp behind the same protocol, through llama-cpp-python: an independent second opinion."""

import ctypes
import logging
import struct
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from rwkv_edge.arch import architecture_of
from rwkv_edge.backend import Float32Array, Int32Array, StateArrays
from rwkv_edge.errors import BackendUnavailableError, FormatError, UnsupportedModelError
from rwkv_edge.model_file import ModelFile
from rwkv_edge.runtime.simd.cpu import physical_cores

logger = logging.getLogger(__name__)

# Versions that llama.cpp knows by the names of our files.
VERSIONS = ("7",)
# Tokens that llama.cpp is given at once.
BATCH_TOKENS = 512
SEQUENCE = 0
# Before each layer's array in a state blob: ggml type, bytes.
BLOB_ARRAY = struct.Struct("<iQ")
GGML_F32 = 0
# A blob begins with magic, sequence, cells, position and layers; releases differ in which.
MAX_BLOB_HEADER = 64
LOG_ERROR = 4


@dataclass(eq=False)
class LlamaState:
    """One sequence: llama.cpp's own blob while it is not in the context; None when fresh."""

    blob: bytes | None = None
    position: int = 0


class LlamaCppBackend:
    """One llama.cpp context with room for one sequence; states are swapped in and out of it."""

    name = "llama"

    def __init__(self, model: ModelFile, threads: int | None = None) -> None:
        self.hyperparameters = model.hyperparameters
        if model.hyperparameters.version not in VERSIONS:
            raise UnsupportedModelError(
                f"{model.path}: llama.cpp has no RWKV-{model.hyperparameters.version}; "
                "use --backend numba"
            )
        self._library = library = import_llama_cpp()
        self._shapes = architecture_of(model.hyperparameters.version).state_shapes(
            model.hyperparameters
        )
        model_options = library.llama_model_default_params()
        # The repacked buffers reach AMX code that GCC 12 compiles wrongly: the process would die.
        model_options.use_extra_bufts = False
        self._model = library.llama_model_load_from_file(str(model.path).encode(), model_options)
        if not self._model:
            raise FormatError(f"{model.path}: llama.cpp could not load it; convert it again")
        options = library.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = BATCH_TOKENS
        options.n_seq_max = 1
        options.n_threads = options.n_threads_batch = threads or physical_cores()
        options.no_perf = True
        self._context = library.llama_init_from_model(self._model, options)
        if not self._context:
            library.llama_model_free(self._model)
            raise BackendUnavailableError(
                f"{model.path}: llama.cpp could not make a context; is there enough memory?"
            )
        self._batch = library.llama_batch_init(BATCH_TOKENS, 0, 1)
        self._lock = threading.Lock()
        # Whose state is in the context; a state that nobody holds any more needs no saving.
        self._resident: weakref.ref[LlamaState] | None = None
        self._finalizer = weakref.finalize(
            self, _free, library, self._batch, self._context, self._model
        )

    def new_state(self) -> LlamaState:
        """A fresh state, as before the first token."""
        return LlamaState()

    def forward(self, tokens: Int32Array, state: object, all_logits: bool) -> Float32Array:
        """Advance the state by the tokens. See `Backend.forward`."""
        assert isinstance(state, LlamaState)
        rows: list[Float32Array] = []
        with self._lock:
            self._make_resident(state)
            for start in range(0, tokens.size, BATCH_TOKENS):
                part = tokens[start : start + BATCH_TOKENS]
                is_last = start + BATCH_TOKENS >= tokens.size
                wanted = [all_logits or (is_last and i == part.size - 1) for i in range(part.size)]
                self._decode(part, state, wanted)
                rows += [self._logits(i) for i, is_wanted in enumerate(wanted) if is_wanted]
        return np.stack(rows) if all_logits else rows[-1]

    def forward_batch(self, tokens: Sequence[Int32Array], states: Sequence[object]) -> Float32Array:
        """One sequence after the other."""
        pairs = zip(tokens, states, strict=True)
        return np.stack([self.forward(part, state, False) for part, state in pairs])

    def _decode(self, tokens: Int32Array, state: LlamaState, wanted: list[bool]) -> None:
        batch = self._batch
        batch.n_tokens = tokens.size
        for i, token in enumerate(tokens.tolist()):
            batch.token[i] = token
            batch.pos[i] = state.position + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = SEQUENCE
            batch.logits[i] = wanted[i]
        code = self._library.llama_decode(self._context, batch)
        if code != 0:
            self._resident = None
            raise BackendUnavailableError(f"llama.cpp failed to decode, with code {code}")
        state.position += tokens.size
        state.blob = None

    def _logits(self, index: int) -> Float32Array:
        pointer = self._library.llama_get_logits_ith(self._context, index)
        row = np.ctypeslib.as_array(pointer, (self.hyperparameters.n_vocab,))
        return np.array(row, np.float32)

    def _make_resident(self, state: LlamaState) -> None:
        """Bring a state into the context, after saving the one that is there."""
        current = self._resident() if self._resident is not None else None
        if current is state:
            return
        if current is not None:
            current.blob = self._read_blob()
        self._resident = None
        memory = self._library.llama_get_memory(self._context)
        self._library.llama_memory_seq_rm(memory, SEQUENCE, -1, -1)
        if state.blob is not None:
            buffer = (ctypes.c_uint8 * len(state.blob)).from_buffer_copy(state.blob)
            n_read = self._library.llama_state_seq_set_data(
                self._context, buffer, len(state.blob), SEQUENCE
            )
            if n_read == 0:
                raise BackendUnavailableError("llama.cpp refused a state of its own shape")
        self._resident = weakref.ref(state)

    def _read_blob(self) -> bytes:
        size = self._library.llama_state_seq_get_size(self._context, SEQUENCE)
        buffer = (ctypes.c_uint8 * size)()
        written = self._library.llama_state_seq_get_data(self._context, buffer, size, SEQUENCE)
        return bytes(buffer[:written])

    def clone_state(self, state: object) -> LlamaState:
        """An independent copy: llama.cpp's blob itself."""
        assert isinstance(state, LlamaState)
        if state.position == 0:
            return LlamaState()
        with self._lock:
            return LlamaState(self._blob_of(state), state.position)

    def _blob_of(self, state: LlamaState) -> bytes:
        """The state's blob, out of the context if it is the one in there."""
        current = self._resident() if self._resident is not None else None
        blob = self._read_blob() if current is state else state.blob
        assert blob is not None
        return blob

    def state_to_arrays(self, state: object) -> StateArrays:
        """Take llama.cpp's blob apart: shift states of each layer (att, ffn), then the matrices."""
        assert isinstance(state, LlamaState)
        if state.position == 0:
            return {name: np.zeros(shape, np.float32) for name, shape in self._shapes.items()}
        with self._lock:
            blob = self._blob_of(state)
        hp = self.hyperparameters
        position = self._header_size(blob)
        shifts: list[Float32Array] = []
        matrices: list[Float32Array] = []
        for rows, width in ((shifts, 2 * hp.n_embd), (matrices, hp.n_embd * hp.head_size)):
            for _ in range(hp.n_layer):
                position += BLOB_ARRAY.size
                rows.append(np.frombuffer(blob, "<f4", width, position))
                position += 4 * width
        shift = np.stack(shifts).reshape(hp.n_layer, 2, hp.n_embd)
        return {
            "att_x": shift[:, 0].copy(),
            "wkv": np.stack(matrices).reshape(self._shapes["wkv"]),
            "ffn_x": shift[:, 1].copy(),
        }

    def state_from_arrays(self, arrays: StateArrays) -> LlamaState:
        """Write llama.cpp's blob; the inverse of `state_to_arrays`."""
        shift = np.stack([arrays["att_x"], arrays["ffn_x"]], axis=1)
        parts = [self._header_after_one_token]
        for rows in (shift, arrays["wkv"]):
            for layer in range(self.hyperparameters.n_layer):
                raw = np.ascontiguousarray(rows[layer], "<f4").tobytes()
                parts += [BLOB_ARRAY.pack(GGML_F32, len(raw)), raw]
        # Only the order of positions matters to llama.cpp: all that came before counts as one.
        return LlamaState(blob=b"".join(parts), position=1)

    @cached_property
    def _header_after_one_token(self) -> bytes:
        """What llama.cpp itself writes before the arrays, when it has seen one token."""
        state = self.new_state()
        self.forward(np.zeros(1, np.int32), state, all_logits=False)
        with self._lock:
            self._make_resident(state)
            blob = self._read_blob()
        return blob[: self._header_size(blob)]

    def _header_size(self, blob: bytes) -> int:
        """Bytes before the arrays of a blob; refuses a blob that holds more or less than ours."""
        hp = self.hyperparameters
        floats = 2 * hp.n_embd + hp.n_embd * hp.head_size
        size = len(blob) - hp.n_layer * (2 * BLOB_ARRAY.size + 4 * floats)
        if not 0 < size <= MAX_BLOB_HEADER:
            raise BackendUnavailableError(
                f"this llama-cpp-python writes states of {len(blob):,} bytes in a format that is "
                "unknown here; states cannot be moved to or from it"
            )
        return size

    def close(self) -> None:
        """Free llama.cpp's memory."""
        self._finalizer()


def import_llama_cpp() -> Any:
    """The llama_cpp module, its chatter sent to our log; or BackendUnavailableError."""
    try:
        import llama_cpp
    except ImportError as error:
        raise BackendUnavailableError(
            f'the llama backend needs llama-cpp-python; pip install "rwkv-edge[llama]" ({error})'
        ) from None
    # Set once for the process; a callback that was collected would crash it.
    if not hasattr(import_llama_cpp, "callback"):
        callback = llama_cpp.llama_log_callback(_log)
        llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
        import_llama_cpp.callback = callback  # type: ignore[attr-defined]
    return llama_cpp


def _log(level: int, text: bytes, user_data: object) -> None:
    del user_data
    severity = logging.ERROR if level == LOG_ERROR else logging.DEBUG
    logger.log(severity, "%s", text.decode("utf-8", "replace").rstrip())


def _free(library: Any, batch: Any, context: Any, model: Any) -> None:
    library.llama_batch_free(batch)
    library.llama_free(context)
    library.llama_model_free(model)
