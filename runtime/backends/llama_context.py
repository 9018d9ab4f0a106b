"""A llama.cpp context with room for some sequences, whose states are swapped in and out of it."""

import ctypes
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rwkv_edge.backend import Float32Array, Int32Array
from rwkv_edge.errors import BackendUnavailableError

# Tokens that llama.cpp is given at once.
BATCH_TOKENS = 512
# The context's word for "however many tokens of this sequence".
ANY = -1


@dataclass(eq=False)
class LlamaState:
    """One sequence: llama.cpp's own blob while it is in no context; None there, and when fresh."""

    blob: bytes | None = None
    position: int = 0


class Part(NamedTuple):
    """Tokens of one sequence, and after which of them logits are wanted."""

    tokens: Int32Array
    state: LlamaState
    wanted: Sequence[bool]


class LlamaContext:
    """Room for `n_slots` sequences; a state stays in its slot until another one needs it.

    Not for several threads at once. Raises BackendUnavailableError if there is no memory for it.
    """

    def __init__(
        self, library: Any, model: Any, path: Path, n_vocab: int, n_slots: int, n_threads: int
    ) -> None:
        self._library = library
        self._n_vocab = n_vocab
        options = library.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = BATCH_TOKENS
        options.n_seq_max = n_slots
        # Else each sequence would have its own share of the 512 tokens.
        options.kv_unified = True
        options.n_threads = options.n_threads_batch = n_threads
        options.no_perf = True
        self._context = library.llama_init_from_model(model, options)
        if not self._context:
            raise BackendUnavailableError(
                f"{path}: llama.cpp could not make a context; is there enough memory?"
            )
        self._batch = library.llama_batch_init(BATCH_TOKENS, 0, 1)
        # Whose state is in which slot; one that nobody holds any more needs no saving.
        self._residents: list[weakref.ref[LlamaState] | None] = [None] * n_slots

    @property
    def n_slots(self) -> int:
        """Sequences that there is room for."""
        return len(self._residents)

    def decode(self, parts: Sequence[Part]) -> list[Float32Array]:
        """Advance the states by their tokens, at most 512 in all; the logits that are wanted."""
        slots = self._make_resident([part.state for part in parts])
        batch, n = self._batch, 0
        wanted_rows = []
        for (tokens, state, wanted), slot in zip(parts, slots, strict=True):
            for i, token in enumerate(tokens.tolist()):
                batch.token[n] = token
                batch.pos[n] = state.position + i
                batch.n_seq_id[n] = 1
                batch.seq_id[n][0] = slot
                batch.logits[n] = wanted[i]
                if wanted[i]:
                    wanted_rows.append(n)
                n += 1
        batch.n_tokens = n
        code = self._library.llama_decode(self._context, batch)
        if code != 0:
            for slot in slots:
                self._residents[slot] = None
            raise BackendUnavailableError(f"llama.cpp failed to decode, with code {code}")
        for tokens, state, _ in parts:
            state.position += tokens.size
            state.blob = None
        return [self._logits(row) for row in wanted_rows]

    def _logits(self, row: int) -> Float32Array:
        pointer = self._library.llama_get_logits_ith(self._context, row)
        return np.array(np.ctypeslib.as_array(pointer, (self._n_vocab,)), np.float32)

    def slot_of(self, state: LlamaState) -> int | None:
        """Where the state is, if it is here."""
        for slot in range(self.n_slots):
            if self._resident(slot) is state:
                return slot
        return None

    def _resident(self, slot: int) -> LlamaState | None:
        reference = self._residents[slot]
        return None if reference is None else reference()

    def _make_resident(self, states: Sequence[LlamaState]) -> list[int]:
        """The slots of the states, which are brought in; others make way where they must."""
        slots = [self.slot_of(state) for state in states]
        left = [slot for slot in range(self.n_slots) if slot not in slots]
        # Empty ones first.
        left.sort(key=lambda slot: self._resident(slot) is not None)
        found = []
        for state, slot in zip(states, slots, strict=True):
            found.append(self._bring_in(state, left.pop(0)) if slot is None else slot)
        return found

    def _bring_in(self, state: LlamaState, slot: int) -> int:
        self.evict(slot)
        memory = self._library.llama_get_memory(self._context)
        self._library.llama_memory_seq_rm(memory, slot, ANY, ANY)
        if state.blob is not None:
            size = len(state.blob)
            buffer = (ctypes.c_uint8 * size).from_buffer_copy(state.blob)
            taken = self._library.llama_state_seq_set_data(self._context, buffer, size, slot)
            if taken != size:
                raise BackendUnavailableError(
                    f"llama.cpp took {taken:,} of a state's {size:,} bytes; is there enough memory?"
                )
        self._residents[slot] = weakref.ref(state)
        return slot

    def read(self, slot: int) -> bytes:
        """The blob of what is in a slot."""
        size = self._library.llama_state_seq_get_size(self._context, slot)
        buffer = (ctypes.c_uint8 * size)()
        written = self._library.llama_state_seq_get_data(self._context, buffer, size, slot)
        if not 0 < written == size:
            raise BackendUnavailableError(
                f"llama.cpp gave {written:,} of a state's {size:,} bytes; is there enough memory?"
            )
        # Not by a slice, which would be a list of one Python number a byte.
        return bytes(buffer)

    def evict(self, slot: int) -> None:
        """Hand the state of a slot its blob; the slot is free then."""
        state = self._resident(slot)
        if state is not None:
            # A state that no token has reached yet has no blob here either.
            state.blob = self.read(slot) if state.position else None
        self._residents[slot] = None

    def close(self) -> None:
        """Free its memory."""
        self._library.llama_batch_free(self._batch)
        self._library.llama_free(self._context)
