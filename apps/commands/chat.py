"""`rwkv-edge chat`."""

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rwkv_edge import Model
from rwkv_edge.apps import console, options, sampling
from rwkv_edge.apps.documents import Terminated
from rwkv_edge.apps.failures import naming, report
from rwkv_edge.apps.loading import open_model, state_to_begin_with
from rwkv_edge.errors import InputError, RwkvEdgeError
from rwkv_edge.sampling import SamplingOptions

if TYPE_CHECKING:
    from rwkv_edge.chat import Chat

HELP = """\
/undo          take back the last question and its answer
/reset         begin anew
/system TEXT   begin anew with instructions for the model
/think MODE    none, think, fake or fake_short: whether answers begin with thinking
/save FILE     keep what the model remembers of this conversation
/load FILE     go on from there
/quit          leave (so does Ctrl-D); Ctrl-C ends an answer"""


def chat(
    model_path: options.ModelPath,
    system: Annotated[
        str | None, typer.Option(help="Instructions that the model reads first.")
    ] = None,
    think: Annotated[
        str, typer.Option(help="How answers begin: none, think, fake or fake_short.")
    ] = "none",
    template: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="How turns are written: world, raven, or a JSON file; default: as the model says.",
        ),
    ] = None,
    load: Annotated[
        Path | None, typer.Option(help="Go on from a conversation that /save kept.")
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("-n", "--max-tokens", min=1, help="Longest answer, in tokens.")
    ] = 2000,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    min_p: options.MinP = None,
    presence_penalty: options.PresencePenalty = None,
    frequency_penalty: options.FrequencyPenalty = None,
    seed: options.Seed = None,
    backend: options.Backend = None,
    threads: options.Threads = None,
    tuned_state: options.TunedState = None,
    no_tuned_state: options.NoTunedState = False,
) -> None:
    """Talk with a model.

    Type /help for commands. From a pipe, every line is a question.
    """
    chosen = sampling.chosen(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
    )
    begin = state_to_begin_with(tuned_state, no_tuned_state)
    with open_model(model_path, backend, threads, tuned_state=begin) as model:
        conversation = Conversation(model, chosen, seed, max_tokens, template)
        conversation.begin(system)
        conversation.set_think(think)
        if load is not None:
            conversation.chat.load(load)
        if is_interactive():
            name = conversation.chat.template.name
            console.note(f"{model.info.name}, template {name}. /help shows commands, /quit leaves.")
        talk(conversation)


def is_interactive() -> bool:
    """True if a person types and reads."""
    return sys.stdin.isatty() and sys.stdout.isatty()


class Conversation:
    """A chat and the commands that change it."""

    def __init__(
        self,
        model: Model,
        options: SamplingOptions,
        seed: int | None,
        max_tokens: int,
        template: str | None,
    ) -> None:
        self.model = model
        self.options = options
        self.seed = seed
        self.max_tokens = max_tokens
        self.template = template
        self.begin(None)
        self.set_think("none")

    def begin(self, system: str | None) -> None:
        """Forget everything, the earlier instructions too."""
        self.chat: Chat = self.model.chat(
            system,
            template=self.template,
            sampling=self.options,
            seed=self.seed,
            max_tokens=self.max_tokens,
        )

    def set_think(self, name: str) -> None:
        """Choose how answers begin; raises InputError for a mode that does not exist."""
        from rwkv_edge.chat_templates import ThinkMode

        modes = {mode.name.lower(): mode for mode in ThinkMode}
        if name.lower() not in modes:
            raise InputError(f"think mode {name!r} does not exist; there are {', '.join(modes)}")
        self.think = modes[name.lower()]

    def answer(self, text: str) -> None:
        """Stream the answer to stdout; Ctrl-C ends it, and what was said so far counts."""
        # A person would wonder what it is waiting for; a program wants the answer alone.
        answer = self.chat.send(text, think=self.think, show_thinking=is_interactive())
        try:
            # Closed by name, so that the chat knows where the answer ended before the next turn.
            with contextlib.closing(answer):
                for piece in answer:
                    console.write(piece)
        except KeyboardInterrupt as error:
            if not is_interactive() or isinstance(error, Terminated):
                raise
            console.write(" ...")
        console.write("\n")

    def command(self, line: str) -> bool:
        """Carry out a /command; False for /quit. Raises RwkvEdgeError, OSError."""
        name, _, argument = line[1:].partition(" ")
        argument = argument.strip()
        if name in {"quit", "exit", "bye"}:
            return False
        actions: dict[str, Callable[[], str]] = {
            "help": lambda: HELP,
            "undo": self._undo,
            "reset": self._reset,
            "system": lambda: self._system(argument),
            "think": lambda: self._think(argument),
            "save": lambda: self._save(argument),
            "load": lambda: self._load(argument),
        }
        if name not in actions:
            raise InputError(f"/{name} is no command; /help shows them")
        print(actions[name](), file=sys.stderr, flush=True)
        return True

    def _undo(self) -> str:
        return "taken back" if self.chat.undo() else "there is nothing to take back"

    def _reset(self) -> str:
        self.chat.reset()
        return "begun anew"

    def _system(self, text: str) -> str:
        self.begin(text or None)
        return "begun anew with these instructions" if text else "begun anew without instructions"

    def _think(self, name: str) -> str:
        self.set_think(name)
        return f"think mode is {name.lower()}"

    def _save(self, name: str) -> str:
        path = required_path(name, "/save")
        with naming(path):
            self.chat.save(path)
        return f"saved to {name}"

    def _load(self, name: str) -> str:
        self.chat.load(required_path(name, "/load"))
        return f"loaded {name}"


def required_path(name: str, command: str) -> Path:
    """The file that a command names; raises InputError if it names none."""
    if not name:
        raise InputError(f"{command} needs the name of a file")
    return Path(name).expanduser()


def talk(conversation: Conversation) -> None:
    """Question and answer until /quit or the end of input."""
    interrupted = False
    while True:
        try:
            line = read_line()
        except KeyboardInterrupt as error:
            if interrupted or not is_interactive() or isinstance(error, Terminated):
                raise
            interrupted = True
            console.note("\n(/quit leaves, and so does Ctrl-C once more)")
            continue
        interrupted = False
        if line is None:
            return
        text = line.strip()
        if not text:
            continue
        try:
            if not text.startswith("/"):
                conversation.answer(text)
            elif not conversation.command(text):
                return
        except (RwkvEdgeError, OSError) as error:
            # A person goes on after a mistyped file name; a script must not.
            if isinstance(error, BrokenPipeError) or not is_interactive():
                raise
            report(error)


def read_line() -> str | None:
    """The next line without its end, None at the end of input."""
    if not is_interactive():
        line = sys.stdin.readline()
        return line if line else None
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives `input` editing and history
    try:
        return input("> ")
    except EOFError:
        print()
        return None
