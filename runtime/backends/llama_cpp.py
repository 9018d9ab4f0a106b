"""llama.cpp behind the same protocol, through llama-cpp-python: an independent second opinion."""

import ctypes
import logging
import os
import threading
import weakref
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rwkv_edge.arch import architecture_of
from rwkv_edge.backend import Float32Array, Int32Array, StateArrays
from rwkv_edge.errors import BackendUnavailableError, FormatError, UnsupportedModelError
from rwkv_edge.model_file import ModelFile
from rwkv_edge.runtime.backends.llama_context import BATCH_TOKENS, LlamaContext, LlamaState, Part
from rwkv_edge.runtime.backends.llama_state import LlamaStateFormat
from rwkv_edge.runtime.backends.obstacles import of_llama
from rwkv_edge.runtime.simd.cpu import physical_cores

logger = logging.getLogger(__name__)

# Sequences that a batch's context has room for at least, and at most.
MIN_SLOTS, MAX_SLOTS = 16, 64
LOG_ERROR = 4


class LlamaCppBackend:
    """A model in llama.cpp, in a context for one sequence, and from the first batch one for many.

    repacks: llama.cpp may lay weights out anew for its fastest kernels, see `may_repack`.
    """

    name = "llama"

    def __init__(self, model: ModelFile, threads: int | None = None) -> None:
        self.hyperparameters = model.hyperparameters
        # Its states have a known layout in every version that llama.cpp runs.
        obstacle = of_llama(model.hyperparameters, ())
        if obstacle is not None:
            raise UnsupportedModelError(f"{model.path}: {obstacle}; use --backend numba")
        self._library = library = import_llama_cpp()
        self._path = model.path
        self._n_threads = threads or physical_cores()
        self._shapes = architecture_of(model.hyperparameters.version).state_shapes(
            model.hyperparameters
        )
        release = getattr(library, "__version__", "of an unknown release")
        self._state_format = LlamaStateFormat(model.hyperparameters, release)
        model_options = library.llama_model_default_params()
        self.repacks = may_repack(library.llama_print_system_info(), cpu_libraries(library))
        model_options.use_extra_bufts = self.repacks
        self._model = library.llama_model_load_from_file(str(model.path).encode(), model_options)
        if not self._model:
            raise FormatError(f"{model.path}: llama.cpp could not load it; convert it again")
        # The context for one sequence, then that for many, once there is one.
        self._contexts: list[LlamaContext] = []
        self._finalizer = weakref.finalize(self, _free, library, self._contexts, self._model)
        self._lock = threading.Lock()
        try:
            self._contexts.append(self._new_context(1))
        except BackendUnavailableError:
            self._finalizer()
            raise

    def _new_context(self, n_slots: int) -> LlamaContext:
        n_vocab = self.hyperparameters.n_vocab
        return LlamaContext(
            self._library, self._model, self._path, n_vocab, n_slots, self._n_threads
        )

    def new_state(self) -> LlamaState:
        """A fresh state, as before the first token."""
        return LlamaState()

    def forward(self, tokens: Int32Array, state: object, all_logits: bool) -> Float32Array:
        """Advance the state by the tokens. See `Backend.forward`."""
        assert isinstance(state, LlamaState)
        rows: list[Float32Array] = []
        with self._lock:
            context = self._contexts[0]
            self._leave_others(context, [state])
            for start in range(0, tokens.size, BATCH_TOKENS):
                part = tokens[start : start + BATCH_TOKENS]
                is_last = start + BATCH_TOKENS >= tokens.size
                wanted = [all_logits or (is_last and i == part.size - 1) for i in range(part.size)]
                rows += context.decode([Part(part, state, wanted)])
        return np.stack(rows) if all_logits else rows[-1]

    def forward_batch(self, tokens: Sequence[Int32Array], states: Sequence[object]) -> Float32Array:
        """As many sequences as fit go through llama.cpp together."""
        if len(states) == 1:
            return self.forward(tokens[0], states[0], all_logits=False)[None]
        mine = [state for state in states if isinstance(state, LlamaState)]
        out = np.empty((len(tokens), self.hyperparameters.n_vocab), np.float32)
        with self._lock:
            context = self._context_for(len(mine))
            for start in range(0, len(mine), context.n_slots):
                chosen = range(start, min(start + context.n_slots, len(mine)))
                self._leave_others(context, [mine[i] for i in chosen])
                left = {i: tokens[i] for i in chosen}
                while left:
                    # Each sequence gets an equal part of the tokens that fit.
                    quota = BATCH_TOKENS // len(left)
                    finished = [i for i in left if left[i].size <= quota]
                    rows = context.decode(
                        [
                            Part(rest[:quota], mine[i], last_wanted(rest.size, quota))
                            for i, rest in left.items()
                        ]
                    )
                    for i, row in zip(finished, rows, strict=True):
                        out[i] = row
                    left = {i: rest[quota:] for i, rest in left.items() if rest.size > quota}
        return out

    def _context_for(self, n_sequences: int) -> LlamaContext:
        """The context for batches; a larger one takes its place where it is too small."""
        wanted = MIN_SLOTS
        while wanted < min(n_sequences, MAX_SLOTS):
            wanted *= 2
        if len(self._contexts) > 1:
            if self._contexts[1].n_slots >= wanted:
                return self._contexts[1]
            smaller = self._contexts.pop()
            for slot in range(smaller.n_slots):
                smaller.evict(slot)
            smaller.close()
        self._contexts.append(self._new_context(wanted))
        return self._contexts[1]

    def _leave_others(self, context: LlamaContext, states: Sequence[LlamaState]) -> None:
        """Take the states out of all contexts but the one that will run them."""
        for other in self._contexts:
            if other is not context:
                for state in states:
                    slot = other.slot_of(state)
                    if slot is not None:
                        other.evict(slot)

    def clone_state(self, state: object) -> LlamaState:
        """An independent copy: llama.cpp's blob itself."""
        assert isinstance(state, LlamaState)
        if state.position == 0:
            return LlamaState()
        with self._lock:
            return LlamaState(self._blob_of(state), state.position)

    def _blob_of(self, state: LlamaState) -> bytes:
        """The state's blob, out of the context that it is in, if it is in one."""
        for context in self._contexts:
            slot = context.slot_of(state)
            if slot is not None:
                return context.read(slot)
        assert state.blob is not None
        return state.blob

    def state_to_arrays(self, state: object) -> StateArrays:
        """Take llama.cpp's blob apart; a fresh state has none."""
        assert isinstance(state, LlamaState)
        if state.position == 0:
            return {name: np.zeros(shape, np.float32) for name, shape in self._shapes.items()}
        with self._lock:
            blob = self._blob_of(state)
        return self._state_format.read(blob)

    def state_views(self, state: object) -> None:
        """None: llama.cpp's blob is no array."""
        del state

    def state_from_arrays(self, arrays: StateArrays) -> LlamaState:
        """Write llama.cpp's blob; the inverse of `state_to_arrays`."""
        # Only the order of positions matters to llama.cpp: all that came before counts as one.
        blob = self._state_format.write(arrays, self._header_after_one_token)
        return LlamaState(blob, position=1)

    @cached_property
    def _header_after_one_token(self) -> bytes:
        """What llama.cpp itself writes before the arrays, when it has seen one token."""
        state = self.new_state()
        self.forward(np.zeros(1, np.int32), state, all_logits=False)
        with self._lock:
            return self._state_format.header(self._blob_of(state))

    def close(self) -> None:
        """Free llama.cpp's memory."""
        self._finalizer()


def last_wanted(n_left: int, quota: int) -> list[bool]:
    """For up to `quota` of `n_left` tokens: the logits after the very last, if it is among them."""
    return [i == n_left - 1 for i in range(min(n_left, quota))]


def may_repack(system_info: bytes, libraries: Iterable[Path]) -> bool:
    """May llama.cpp repack weights for its fastest kernels? Where those are AMX's, ask who made it.

    GCC 12 miscompiles how their tiles are set up: the process would die at the first product. A
    library that has no such code is safe, and so is one that clang compiled, which leaves its
    name in it unless that was stripped. system_info: what llama.cpp says of itself.
    """
    if b"AMX_INT8 = 1" not in system_info:
        return True
    contents = [library.read_bytes() for library in libraries]
    return bool(contents) and all(b"clang version" in content for content in contents)


def cpu_libraries(library: Any) -> list[Path]:
    """The files that llama.cpp's kernels for CPUs are in; llama_cpp looks in the same folder."""
    folder = os.environ.get("LLAMA_CPP_LIB_PATH") or Path(library.__file__).parent / "lib"
    return sorted(Path(folder).glob("*ggml-cpu*"))


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


def _free(library: Any, contexts: list[LlamaContext], model: Any) -> None:
    for context in contexts:
        context.close()
    library.llama_model_free(model)
