"""A loaded model: the public API."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from rwkv_edge.arch import Shape, architecture_of
from rwkv_edge.backend import Backend, Float32Array, Int32Array, StateArrays
from rwkv_edge.chat import Chat
from rwkv_edge.chat_templates import ChatTemplate
from rwkv_edge.embedding import PROMPT, embed_texts
from rwkv_edge.errors import InputError, RwkvEdgeError, StateMismatchError
from rwkv_edge.generation import Stream
from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.model_files import open_model_file
from rwkv_edge.model_metadata import ModelMetadata
from rwkv_edge.onnx_model_file import OnnxModelFile
from rwkv_edge.reading import Reading, Text, load_reading
from rwkv_edge.sampling import Sampler, SamplingOptions, unpenalized_tokens
from rwkv_edge.state import State, load_state_arrays
from rwkv_edge.tokenizers import Tokenizer

Tokens = Sequence[int] | npt.NDArray[np.integer]


@dataclass(frozen=True)
class ModelInfo:
    """What a model is. n_bytes: of its file or files; file_type: what most of its matrices are in.

    tuned_state: fresh states begin with one that was tuned, not with zeros.
    """

    path: Path
    name: str
    backend: str
    hyperparameters: Hyperparameters
    file_type: str
    n_parameters: int
    n_bytes: int
    fingerprint: str
    tuned_state: bool


class Model:
    """An RWKV model in one engine. Threads may share it; a `State` belongs to one at a time.

    Use `Model.load`. Close it, or use it as a context, to give its memory back at once.
    """

    def __init__(
        self, file: ModelMetadata, backend: Backend, tuned: StateArrays | None = None
    ) -> None:
        self._file = file
        self.backend = backend
        # Copied for every fresh state; None where the backend's own are as they should be.
        self._tuned = None if tuned is None else backend.state_from_arrays(tuned)
        # Reentrant: a signal's handler may close the model in the middle of `using`.
        self._lock = threading.RLock()
        self._n_users = 0
        self._closed = False
        self.path = file.path
        self.hyperparameters = file.hyperparameters
        self.tokenizer: Tokenizer = file.tokenizer
        self.chat_template: str = file.chat_template
        self.fingerprint = file.fingerprint
        architecture = architecture_of(self.hyperparameters.version)
        self.state_shapes: dict[str, Shape] = architecture.state_shapes(self.hyperparameters)
        self.info = ModelInfo(
            path=file.path,
            name=file.name,
            backend=backend.name,
            hyperparameters=self.hyperparameters,
            file_type=file.file_type,
            n_parameters=file.n_parameters,
            n_bytes=file.n_bytes,
            fingerprint=self.fingerprint,
            tuned_state=tuned is not None,
        )

    @classmethod
    def load(
        cls,
        path: str | Path,
        backend: str | None = None,
        threads: int | None = None,
        *,
        tuned_state: bool = True,
    ) -> "Model":
        """Load a GGUF, or an ONNX that `rwkv-edge convert --onnx` made.

        backend: of a GGUF "numba" (None), "reference" or "llama"; of an ONNX "onnx" (None), or
        "onnx:cuda" and the like for another of onnxruntime's execution providers.
        threads: None for one per physical core.
        tuned_state: fresh states begin with the one that the file holds, if it holds one; False for
        zeros.
        Raises FormatError, UnsupportedModelError, BackendUnavailableError, InputError, OSError.
        """
        from rwkv_edge.runtime.backends import load_backend

        file = open_model_file(path)
        if backend is None:
            backend = "onnx" if isinstance(file, OnnxModelFile) else "numba"
        try:
            # Read here: a damaged vocabulary is found before gigabytes of weights are packed.
            _ = file.tokenizer
            tuned = file.tuned_state() if tuned_state else None
            return cls(file, load_backend(backend, file, threads), tuned)
        except BaseException:
            file.close()
            raise

    def new_state(self) -> State:
        """A fresh state, as before the first token: zeros, or the state that was tuned."""
        with self.using() as backend:
            if self._tuned is not None:
                return State(self, backend.clone_state(self._tuned))
            return State(self, backend.new_state())

    def begin_with(self, state: State | None) -> None:
        """Let all fresh states be copies of this one from now on; None: as usual.

        Raises StateMismatchError for a state of another model.
        """
        # A copy: whoever has the state may go on with it.
        self._tuned = None if state is None else self.check_state(state).clone().handle
        self.info = replace(self.info, tuned_state=state is not None)

    def load_state(self, path: str | Path) -> State:
        """Read a state that `State.save` wrote; from any backend, of the same checkpoint.

        Raises FormatError, StateMismatchError, OSError.
        """
        arrays = load_state_arrays(path, self)
        with self.using() as backend:
            return State(self, backend.state_from_arrays(arrays))

    def state_from_arrays(self, arrays: Mapping[str, Float32Array]) -> State:
        """A state out of canonical arrays, which are copied; raises StateMismatchError."""
        found = {name: array.shape for name, array in arrays.items()}
        if found != self.state_shapes:
            raise StateMismatchError(
                f"arrays of shapes {found} are no state of {self.path}, "
                f"which has {self.state_shapes}"
            )
        copies = {name: np.array(arrays[name], np.float32) for name in self.state_shapes}
        with self.using() as backend:
            return State(self, backend.state_from_arrays(copies))

    def forward(
        self, tokens: Tokens, state: State | None = None, all_logits: bool = False
    ) -> tuple[Float32Array, State]:
        """Advance a state by the tokens (a fresh one for None), in place, and return it.

        Gives logits after the last token, (n_vocab,) float32, or with all_logits after each,
        (T, n_vocab). Many tokens at once or one at a time give the same numbers.
        Raises InputError for no tokens or one out of range, StateMismatchError, and RwkvEdgeError
        for logits that are no numbers: the state is of no use then.
        """
        checked = self.check_tokens(tokens)
        state = self.new_state() if state is None else self.check_state(state)
        with self.using() as backend:
            self._file.require_whole()
            return self._checked(backend.forward(checked, state.handle, all_logits)), state

    def forward_batch(self, tokens: Sequence[Tokens], states: Sequence[State]) -> Float32Array:
        """Advance each state by its own tokens in one pass over the weights; (B, n_vocab) logits.

        Each sequence gets what it would get alone. Raises as `forward` does.
        """
        if len(tokens) != len(states) or not states:
            raise InputError(f"{len(tokens)} sequences came with {len(states)} states")
        if len({id(state.handle) for state in states}) < len(states):
            raise InputError("a state stands for two sequences of one batch; clone it")
        checked = [self.check_tokens(part) for part in tokens]
        handles = [self.check_state(state).handle for state in states]
        with self.using() as backend:
            self._file.require_whole()
            return self._checked(backend.forward_batch(checked, handles))

    def _checked(self, logits: Float32Array) -> Float32Array:
        """The logits; raises RwkvEdgeError if they are none, as weights that are NaN make them."""
        if not np.isfinite(logits).all():
            raise RwkvEdgeError(
                f"{self.path}: its logits are no numbers; its weights are damaged, or too large "
                f"for the {self.backend.name} backend"
            )
        return logits

    def read(self, text: Text, state: State | None = None) -> Reading:
        """Read a text of any size in constant memory; an iterator does it, see `Reading`.

        text: an open file, a Path, or pieces of text. state: what came before, advanced in place;
        None begins anew. Raises StateMismatchError.
        """
        begins = state is None
        return Reading(self, text, self.new_state() if state is None else state, begins=begins)

    def resume(self, path: str | Path, text: Text) -> Reading:
        """Go on reading a text from where `Reading.save` was called; the file is left as it is.

        text: the whole text; it may have become longer. Raises FormatError, OSError, and
        StateMismatchError for another model's state or another text.
        """
        arrays, position = load_reading(path, self)
        with self.using() as backend:
            state = State(self, backend.state_from_arrays(arrays))
        try:
            return Reading(self, text, state, position)
        except StateMismatchError as error:
            raise StateMismatchError(f"{path}: {error}") from None

    def stream(
        self,
        prompt: str | bytes | Tokens,
        *,
        max_tokens: int = 100,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        seed: int | None = None,
        sampling: SamplingOptions | None = None,
        stop: Sequence[str | bytes] = (),
        state: State | None = None,
        logits: Float32Array | None = None,
    ) -> Stream:
        """Continue a prompt; gives an iterator over pieces of text, see `Stream`.

        temperature, top_p and top_k override those of `sampling`; temperature 0 is greedy, and the
        same on every run and for every number of threads. The same seed gives the same text.
        stop: texts that end the answer and are not part of it. state: what came before, advanced
        in place; None begins anew. logits: those after its last token, if the prompt is empty.
        Raises InputError, StateMismatchError.
        """
        options = sampling or SamplingOptions()
        if temperature is not None:
            options = replace(options, temperature=temperature)
        if top_p is not None:
            options = replace(options, top_p=top_p)
        if top_k is not None:
            options = replace(options, top_k=top_k)
        tokens = self._encoded(prompt, begins=state is None)
        if len(tokens) == 0 and logits is None:
            raise InputError("the prompt is empty; give at least one character")
        sampler = Sampler(options, self.hyperparameters.n_vocab, seed, self._unpenalized)
        state = self.new_state() if state is None else state
        return Stream(self, tokens, state, sampler, max_tokens=max_tokens, stop=stop, logits=logits)

    def _encoded(self, prompt: str | bytes | Tokens, *, begins: bool) -> Tokens:
        if not isinstance(prompt, (str, bytes)):
            return prompt
        tokenizer = self.tokenizer
        return tokenizer.encode(prompt) if begins else tokenizer.encode_more(prompt)

    def generate(
        self,
        prompt: str | bytes | Tokens,
        *,
        max_tokens: int = 100,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        seed: int | None = None,
        sampling: SamplingOptions | None = None,
        stop: Sequence[str | bytes] = (),
        state: State | None = None,
    ) -> str:
        """The whole text of `stream`, joined; same arguments, same errors."""
        return "".join(
            self.stream(
                prompt,
                max_tokens=max_tokens,
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                seed=seed,
                sampling=sampling,
                stop=stop,
                state=state,
            )
        )

    def chat(
        self,
        system: str | None = None,
        *,
        template: str | Path | ChatTemplate | None = None,
        sampling: SamplingOptions | None = None,
        seed: int | None = None,
        max_tokens: int = 2000,
    ) -> Chat:
        """A new conversation, see `Chat`; max_tokens bounds one answer.

        template: "world", "raven", a JSON file, or None for the one that the model's file names.
        Raises InputError, FormatError.
        """
        return Chat(
            self,
            system,
            template=template,
            sampling=sampling,
            seed=seed,
            max_tokens=max_tokens,
        )

    def embed(
        self, text: str | bytes | Sequence[str | bytes], *, prompt: str = PROMPT
    ) -> Float32Array:
        """A sentence embedding: (n_embd,) float32 of length 1; of several texts (B, n_embd).

        Many texts run in batches; each gets what it would get alone. prompt: what is said after
        each text before the state is looked at, "" for nothing. Raises InputError for an empty
        text.
        """
        if isinstance(text, (str, bytes)):
            vector: Float32Array = embed_texts(self, [text], prompt)[0]
            return vector
        return embed_texts(self, text, prompt)

    @cached_property
    def _unpenalized(self) -> frozenset[int]:
        return unpenalized_tokens(self.tokenizer)

    def check_tokens(self, tokens: Tokens) -> Int32Array:
        """The tokens as int32; raises InputError unless there are some and all are in range."""
        try:
            given = np.asarray(tokens)
        except ValueError:
            raise InputError("tokens are lists of different lengths; give one at a time") from None
        if given.ndim != 1:
            raise InputError(f"tokens are one list of numbers, not of {given.ndim} dimensions")
        if given.size == 0:
            raise InputError("there are no tokens; give at least one")
        if given.dtype.kind not in "iu":
            raise InputError(f"tokens are whole numbers, not {given.dtype}")
        n_vocab = self.hyperparameters.n_vocab
        outside = (given < 0) | (given >= n_vocab)
        if outside.any():
            raise InputError(
                f"token {given[outside][0]} is outside the vocabulary, 0 to {n_vocab - 1}"
            )
        return np.ascontiguousarray(given, np.int32)

    def check_state(self, state: State) -> State:
        """The state itself; raises StateMismatchError if another model made it."""
        if state.model is not self:
            other = state.model
            raise StateMismatchError(
                f"the state belongs to {other.path} on the {other.backend.name} backend, this "
                f"model is {self.path} on {self.backend.name}; move it with "
                "model.state_from_arrays(state.to_arrays())"
            )
        return state

    @contextmanager
    def using(self) -> Iterator[Backend]:
        """The backend, which lives until the end of the block even if another thread closes it.

        Raises RwkvEdgeError once the model is closed: the backend's memory is no longer its own.
        """
        with self._lock:
            if self._closed:
                raise RwkvEdgeError(f"{self.path}: the model is closed; load it again")
            self._n_users += 1
        try:
            yield self.backend
        finally:
            with self._lock:
                self._n_users -= 1
                is_over = self._closed and self._n_users == 0
            if is_over:
                self._release()

    def close(self) -> None:
        """Give memory and threads back; the model and its states are of no use afterwards.

        What other threads are computing is finished first, but not waited for.
        """
        with self._lock:
            is_over = not self._closed and self._n_users == 0
            self._closed = True
        if is_over:
            self._release()

    def _release(self) -> None:
        self.backend.close()
        self._file.close()

    def __enter__(self) -> "Model":
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
