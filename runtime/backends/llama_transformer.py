"""A Transformer in llama.cpp, for comparison: what it keeps of a text grows with the text."""

import ctypes
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rwkv_edge.backend import Float32Array, Int32Array
from rwkv_edge.errors import BackendUnavailableError, FormatError, InputError
from rwkv_edge.runtime.backends.llama_context import BATCH_TOKENS
from rwkv_edge.runtime.backends.llama_cpp import cpu_libraries, import_llama_cpp, may_repack
from rwkv_edge.runtime.simd.cpu import physical_cores

SEQUENCE = 0


class LlamaTransformer:
    """One sequence of tokens through a model, in a context that is made anew when it is full.

    llama.cpp clears the memory of a context when it makes it, so that all of it is resident from
    the first token on; one that just holds what is needed is the least that it can do with.
    n_tokens: what it has seen. repacks: see `may_repack`.
    Raises FormatError for a file that cannot be loaded, BackendUnavailableError.
    """

    def __init__(self, path: Path, n_vocab: int, threads: int | None = None) -> None:
        self._library = library = import_llama_cpp()
        self._path = path
        self._n_vocab = n_vocab
        self._n_threads = threads or physical_cores()
        options = library.llama_model_default_params()
        self.repacks = may_repack(library.llama_print_system_info(), cpu_libraries(library))
        options.use_extra_bufts = self.repacks
        self._model = library.llama_model_load_from_file(str(path).encode(), options)
        if not self._model:
            raise FormatError(f"{path}: llama.cpp could not load it; make it again")
        self._context: Any = None
        self.n_tokens = self._room = 0
        self._close = weakref.finalize(self, library.llama_model_free, self._model)

    def make_room(self, n_tokens: int) -> None:
        """A context for so many tokens in all, with what is known of those seen so far.

        Raises BackendUnavailableError if there is no memory for it.
        """
        library = self._library
        kept = self._read()
        self._free_context()
        self._room = n_tokens
        options = library.llama_context_default_params()
        options.n_ctx = n_tokens
        options.n_batch = options.n_ubatch = min(BATCH_TOKENS, n_tokens)
        options.n_threads = options.n_threads_batch = self._n_threads
        options.no_perf = True
        self._context = library.llama_init_from_model(self._model, options)
        if not self._context:
            raise BackendUnavailableError(
                f"{self._path}: llama.cpp could not make a context of {n_tokens:,} tokens; "
                "is there enough memory?"
            )
        if kept is not None and not library.llama_state_seq_set_data(
            self._context, kept, len(kept), SEQUENCE
        ):
            raise BackendUnavailableError("llama.cpp refused what it had kept itself")

    def _read(self) -> Any:
        """What the context knows, out of it; None if it has seen nothing."""
        if self._context is None or not self.n_tokens:
            return None
        size = self._library.llama_state_seq_get_size(self._context, SEQUENCE)
        kept = (ctypes.c_uint8 * size)()
        written = self._library.llama_state_seq_get_data(self._context, kept, size, SEQUENCE)
        assert written == size
        return kept

    def forward(self, tokens: Sequence[int] | Int32Array) -> Float32Array:
        """Go on by the tokens; (n_vocab,) logits after the last. Raises InputError without room."""
        if self.n_tokens + len(tokens) > self._room:
            raise InputError(
                f"{self.n_tokens + len(tokens):,} tokens do not fit in a context for {self._room:,}"
            )
        # A batch larger than the context would end the process.
        size = min(BATCH_TOKENS, self._room)
        for start in range(0, len(tokens), size):
            part = np.ascontiguousarray(tokens[start : start + size], np.int32)
            pointer = part.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
            # It numbers the tokens itself, and gives logits after the last.
            batch = self._library.llama_batch_get_one(pointer, part.size)
            code = self._library.llama_decode(self._context, batch)
            if code != 0:
                raise BackendUnavailableError(f"llama.cpp failed to decode, with code {code}")
            self.n_tokens += part.size
        logits = self._library.llama_get_logits_ith(self._context, -1)
        return np.array(np.ctypeslib.as_array(logits, (self._n_vocab,)), np.float32)

    def _free_context(self) -> None:
        if self._context is not None:
            self._library.llama_free(self._context)
            self._context = None

    def close(self) -> None:
        """Free llama.cpp's memory."""
        self._free_context()
        self._close()
