"""`RWKV` with the official package's arguments, results and habits."""

import logging
import sys
from collections.abc import Sequence
from os import PathLike, fspath
from types import SimpleNamespace
from typing import Any

import numpy as np

from rwkv_edge.compat.cached_gguf import find_model_file, gguf_of, n_layer_of, refuse_saving
from rwkv_edge.compat.state_list import StateLists
from rwkv_edge.compat.strategy import (
    StrategyPart,
    layers_of,
    parse_strategy,
    runnable_weight_type,
)
from rwkv_edge.compat.tensor import Tensor
from rwkv_edge.errors import InputError
from rwkv_edge.model import Model

__all__ = ["RWKV"]

log = logging.getLogger(__name__)


class RWKV:
    """A model that is called as the official package's is.

    model: a checkpoint, with or without its `.pth`, or a GGUF. A checkpoint is converted to a GGUF
    once, which is kept beside it. strategy: see `rwkv_edge.compat.strategy`; it says what a
    checkpoint's weights are stored in, while a GGUF keeps its types. All computing is in float32.
    verbose: say on stderr what is loaded and converted.

    Beyond the official arguments: backend ("numba" or "reference") and threads, as in `Model.load`;
    in_place: False leaves the list given to `forward` as it is, at the price of a copy.
    Environment variables that the official package reads are not looked at.

    args holds n_layer, n_embd, n_att, n_ffn, n_head, head_size, vocab_size, MODEL_NAME and
    strategy_string; version is a number as in the official package (4, 5.2, 7).
    Raises RwkvEdgeError, OSError.
    """

    def __init__(
        self,
        model: str | PathLike[str],
        strategy: str = "cpu fp32",
        verbose: bool = True,
        convert_and_save_and_exit: str | None = None,
        *,
        backend: str = "numba",
        threads: int | None = None,
        in_place: bool = True,
    ) -> None:
        refuse_saving(convert_and_save_and_exit)
        self._verbose = verbose
        self._in_place = in_place
        name = fspath(model)
        parts = parse_strategy(strategy)
        path = find_model_file(name)
        self.strategy: list[StrategyPart] = layers_of(parts, n_layer_of(path))
        weight_type = runnable_weight_type(strategy, self.strategy)
        self._say(f"Loading {path} ({strategy})")
        #: The model as the rest of this package knows it.
        self.model = Model.load(gguf_of(path, weight_type, self._say), backend, threads)
        try:
            self._lists = StateLists(self.model)
        except BaseException:
            self.model.close()
            raise
        hp = self.model.hyperparameters
        self.version = version_number(hp.version)
        self.n_layer, self.n_embd = hp.n_layer, hp.n_embd
        self.n_head, self.head_size = hp.n_head, hp.head_size
        self.args = SimpleNamespace(
            MODEL_NAME=name,
            strategy_string=strategy,
            n_layer=hp.n_layer,
            n_embd=hp.n_embd,
            n_att=hp.n_embd,
            n_ffn=hp.n_ffn,
            n_head=hp.n_head,
            head_size=hp.head_size,
            vocab_size=hp.n_vocab,
        )

    def generate_zero_state(self) -> list[Tensor]:
        """The state before the first token: what `forward` begins with for None."""
        return self._lists.fresh()

    def forward(
        self,
        tokens: int | Sequence[int],
        state: list[Any] | None = None,
        full_output: bool = False,
    ) -> tuple[Tensor, list[Any]]:
        """Advance the state by a token or a list of tokens; gives logits and the state's list.

        The logits are those after the last token, (vocab_size,), or with full_output and more than
        one token after each, (T, vocab_size). The given list is changed and returned: it then
        holds the new arrays, while arrays that somebody kept stay as they were. Any arrays of the
        right shapes are a state. Raises InputError for no tokens or one out of range,
        StateMismatchError.
        """
        if isinstance(tokens, (int, np.integer)):
            tokens = [int(tokens)]
        checked = self.model.check_tokens(tokens)
        if state is None:
            state = self._lists.fresh()
        elif not self._in_place or not isinstance(state, list):
            if isinstance(state, str) or not isinstance(state, Sequence):
                raise InputError(f"a state is a list of arrays, not {type(state).__name__}")
            state = list(state)
        own = self._lists.state_of(state)
        logits, _ = self.model.forward(checked, own, all_logits=full_output and checked.size > 1)
        return logits.view(Tensor), state

    def close(self) -> None:
        """Give memory and threads back; forward is of no use afterwards."""
        self.model.close()

    def _say(self, line: str) -> None:
        """Tell the log, and whoever looks at stderr."""
        log.info("%s", line)
        if self._verbose:
            # The official package prints too, and code that runs it expects to see what goes on.
            print(line, file=sys.stderr, flush=True)


def version_number(version: str) -> float:
    """4, 5.2 or 7 out of "4", "5.2" or "7a"; whole ones as int, as the official package has."""
    number = float(version.rstrip("ab"))
    return int(number) if number.is_integer() else number
