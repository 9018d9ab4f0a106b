"""onnxruntime behind the same protocol, for the ONNX files that `rwkv-edge convert` writes."""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_edge.backend import Float32Array, Int32Array, StateArrays
from rwkv_edge.errors import BackendUnavailableError, FormatError, RwkvEdgeError
from rwkv_edge.onnx_model_file import LOGITS, LOGITS_FROM, NEW, TOKENS, OnnxModelFile
from rwkv_edge.runtime.simd.cpu import physical_cores

Int64Array = npt.NDArray[np.int64]

NAME = "onnx"
CPU = "CPUExecutionProvider"
PROVIDER_ENDING = "ExecutionProvider"
# Weights that a thread must have to itself before its share outweighs meeting at every node.
BYTES_PER_THREAD = 4 << 20
# Tokens that go through the graph together: what lies between its nodes grows with them.
BLOCK_TOKENS = 128
# What the graph takes for `logits_from`: the first token whose logits are wanted; -1 is the last.
# Kept here, as onnxruntime reads the arrays themselves whenever it runs.
FROM_FIRST, FROM_LAST = np.array([0], np.int64), np.array([-1], np.int64)
# onnxruntime's levels of its log, which goes to stderr; all that it says there it raises, too.
LOG_FATAL_ALONE = 4
# Longest message of onnxruntime's that one of ours repeats: some list every node of a graph.
MAX_MESSAGE = 300


class OnnxState:
    """One sequence: the arrays as they are now, and room for those that the next call writes."""

    def __init__(self, arrays: StateArrays) -> None:
        self._sets = [arrays, StateArrays()]
        # Which of the sets the state is in.
        self.turn = 0

    @property
    def arrays(self) -> StateArrays:
        """What the next call reads."""
        return self._sets[self.turn]

    @property
    def spare(self) -> StateArrays:
        """What the next call writes; made when it is first asked for, as many states only wait."""
        spare = self._sets[1 - self.turn]
        if not spare:
            spare.update(empty_like(self.arrays))
        return spare

    def swap(self) -> None:
        """What was written is the state from now on."""
        self.turn = 1 - self.turn


@dataclass(frozen=True)
class Steps:
    """What one token at a time needs, made once a state: a binding for each turn.

    token: (1,) and logits: (1, n_vocab), the memory that both of them read and write.
    """

    token: Int64Array
    logits: Float32Array
    bindings: tuple[Any, Any]


class OnnxBackend:
    """A model in an onnxruntime session. provider: "cuda", "DmlExecutionProvider"; None: the CPU.

    What a provider cannot run, the CPU does. Raises BackendUnavailableError, FormatError.
    """

    def __init__(
        self, model: OnnxModelFile, threads: int | None = None, provider: str | None = None
    ) -> None:
        self.hyperparameters = model.hyperparameters
        self._path = model.path
        self._architecture = model.architecture
        self._shapes = model.architecture.state_shapes(model.hyperparameters)
        self._library = library = import_onnxruntime()
        self._errors = errors_of(library)
        providers = providers_for(provider, library.get_available_providers())
        self.name = NAME if provider is None else f"{NAME}:{short_name(providers[0])}"
        options = library.SessionOptions()
        options.intra_op_num_threads = threads or useful_threads(model)
        options.execution_mode = library.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = LOG_FATAL_ALONE
        # It would keep a plan of memory for every length of prompt that ever came.
        options.enable_mem_pattern = False
        try:
            self._session = library.InferenceSession(
                # By its path, as weights may lie in files beside it.
                str(model.path),
                options,
                providers=providers,
                # It would go on without the provider, and print that to stdout.
                enable_fallback=0,
            )
        except self._errors as error:
            raise FormatError(
                f"{model.path}: onnxruntime {library.__version__} could not load it "
                f"({in_words(error)}); export it again, or use a newer onnxruntime"
            ) from None
        if providers[0] not in self._session.get_providers():
            raise BackendUnavailableError(
                f"onnxruntime could not start its {providers[0]}; are its drivers and libraries "
                "installed?"
            )
        self._runs_on_cpu = providers == [CPU]
        self._steps: weakref.WeakKeyDictionary[OnnxState, Steps] = weakref.WeakKeyDictionary()

    def new_state(self) -> OnnxState:
        """A fresh state, as before the first token."""
        initial = self._architecture.state_initial_value
        shapes = self._shapes.items()
        return OnnxState({n: np.full(shape, initial(n), np.float32) for n, shape in shapes})

    def forward(self, tokens: Int32Array, state: object, all_logits: bool) -> Float32Array:
        """Advance the state by the tokens, all of them or none. See `Backend.forward`."""
        assert isinstance(state, OnnxState)
        # What is bound for another device is copied there at once: such bindings serve one call.
        if tokens.size == 1 and self._runs_on_cpu:
            logits = self._step(int(tokens[0]), state)
        else:
            logits = self._run_blocks(tokens.astype(np.int64), state, all_logits)
        last: Float32Array = logits[-1]
        return logits if all_logits else last

    def _step(self, token: int, state: OnnxState) -> Float32Array:
        """One token, by the bindings that are kept for the state: (1, n_vocab) logits."""
        steps = self._steps.get(state)
        if steps is None:
            steps = self._steps[state] = self._bind_steps(state)
        steps.token[0] = token
        self._run(steps.bindings[state.turn])
        state.swap()
        logits: Float32Array = steps.logits.copy()
        return logits

    def _bind_steps(self, state: OnnxState) -> Steps:
        token = np.zeros(1, np.int64)
        logits = np.empty((1, self.hyperparameters.n_vocab), np.float32)
        there = self._bind(token, state.arrays, state.spare, logits, FROM_LAST)
        back = self._bind(token, state.spare, state.arrays, logits, FROM_LAST)
        return Steps(token, logits, (there, back) if state.turn == 0 else (back, there))

    def _run_blocks(self, tokens: Int64Array, state: OnnxState, all_logits: bool) -> Float32Array:
        """Any number of tokens, a block at a time; the state moves when all are through."""
        out = np.empty((tokens.size if all_logits else 1, self.hyperparameters.n_vocab), np.float32)
        starts = range(0, tokens.size, BLOCK_TOKENS)
        # Blocks write to these in turn, the last one where the state has room for it.
        targets = [state.spare]
        if len(starts) > 1:
            targets.append(empty_like(state.arrays))
        before = state.arrays
        for n_left, start in zip(reversed(range(len(starts))), starts, strict=True):
            after = targets[n_left % 2]
            block = tokens[start : start + BLOCK_TOKENS]
            logits = out[start : start + block.size] if all_logits else out
            first = FROM_FIRST if all_logits else FROM_LAST
            self._run(self._bind(block, before, after, logits, first))
            before = after
        state.swap()
        return out

    def _bind(
        self,
        tokens: Int64Array,
        before: StateArrays,
        after: StateArrays,
        logits: Float32Array,
        logits_from: Int64Array,
    ) -> Any:
        """A binding through which onnxruntime reads and writes these arrays themselves."""

        def value(array: Float32Array | Int64Array) -> Any:
            return self._library.OrtValue.ortvalue_from_numpy(array)

        binding = self._session.io_binding()
        binding.bind_ortvalue_input(TOKENS, value(tokens))
        binding.bind_ortvalue_input(LOGITS_FROM, value(logits_from))
        for name in self._shapes:
            binding.bind_ortvalue_input(name, value(before[name]))
            binding.bind_ortvalue_output(NEW + name, value(after[name]))
        binding.bind_ortvalue_output(LOGITS, value(logits))
        return binding

    def _run(self, binding: Any) -> None:
        try:
            self._session.run_with_iobinding(binding)
        except self._errors as error:
            raise RwkvEdgeError(f"{self._path}: onnxruntime failed: {in_words(error)}") from None

    def forward_batch(self, tokens: Sequence[Int32Array], states: Sequence[object]) -> Float32Array:
        """One sequence after the other: the graph takes one."""
        pairs = zip(tokens, states, strict=True)
        return np.stack([self.forward(part, state, False) for part, state in pairs])

    def clone_state(self, state: object) -> OnnxState:
        """An independent copy."""
        return OnnxState(self.state_to_arrays(state))

    def state_to_arrays(self, state: object) -> StateArrays:
        """Copies of the arrays."""
        assert isinstance(state, OnnxState)
        return {name: array.copy() for name, array in state.arrays.items()}

    def state_views(self, state: object) -> None:
        """None: each call leaves the state in other memory than it found it in."""
        del state

    def state_from_arrays(self, arrays: StateArrays) -> OnnxState:
        """Copies of the arrays."""
        return OnnxState({n: np.array(arrays[n], np.float32, order="C") for n in self._shapes})

    def close(self) -> None:
        """Let the session go, and the bindings, which would hold it."""
        del self._steps, self._session


def useful_threads(model: OnnxModelFile) -> int:
    """One thread per physical core, but fewer for a model so small that they would only wait."""
    return max(1, min(physical_cores(), model.bytes_per_token // BYTES_PER_THREAD))


def empty_like(arrays: StateArrays) -> StateArrays:
    """Room for as much again."""
    return {name: np.empty_like(array) for name, array in arrays.items()}


def providers_for(name: str | None, available: Sequence[str]) -> list[str]:
    """The providers of a session, the one that was named first; raises BackendUnavailableError."""
    if name is None:
        return [CPU]
    for provider in available:
        if name.lower() in (provider.lower(), short_name(provider)):
            return list(dict.fromkeys([provider, CPU]))
    raise BackendUnavailableError(
        f"this onnxruntime has no provider {name!r}; it has "
        f"{', '.join(short_name(provider) for provider in available)}"
    )


def available_providers() -> tuple[str, ...]:
    """What this onnxruntime was built with; raises BackendUnavailableError where there is none."""
    return tuple(import_onnxruntime().get_available_providers())


def short_name(provider: str) -> str:
    """What a provider is called on a command line: CUDAExecutionProvider is cuda."""
    return provider.removesuffix(PROVIDER_ENDING).lower()


def in_words(error: BaseException) -> str:
    """What onnxruntime says, on one line and not at length."""
    text = " ".join(str(error).split())
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}..."


def import_onnxruntime() -> Any:
    """The onnxruntime module, or BackendUnavailableError."""
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendUnavailableError(
            f'the onnx backend needs onnxruntime; pip install "rwkv-edge[onnx]" ({error})'
        ) from None
    return onnxruntime


def errors_of(library: Any) -> tuple[type[Exception], ...]:
    """The errors that onnxruntime raises: they have no root of their own."""
    state = library.capi.onnxruntime_pybind11_state
    names = (
        "EPFail", "EngineError", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf",
        "NoModel", "NoSuchFile", "NotImplemented", "RuntimeException",
    )  # fmt: skip
    return (*(getattr(state, name) for name in names), RuntimeError, ValueError)
