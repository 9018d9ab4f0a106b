"""The command line: parse, call, show. Every expected failure is one line and an exit code."""

import logging
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rwkv_edge.apps.commands.bench import bench
from rwkv_edge.apps.commands.chat import chat
from rwkv_edge.apps.commands.compare import compare
from rwkv_edge.apps.commands.convert import convert
from rwkv_edge.apps.commands.demo import demo
from rwkv_edge.apps.commands.doctor import doctor
from rwkv_edge.apps.commands.generate import generate
from rwkv_edge.apps.commands.info import info
from rwkv_edge.apps.commands.perplexity import perplexity
from rwkv_edge.apps.console import one_line
from rwkv_edge.apps.failures import USAGE, abandon_stdout, report
from rwkv_edge.apps.loading import noting_compilation
from rwkv_edge.version import __version__

PROGRAM = "rwkv-edge"


class CommandError(Exception):
    """Carries what a command raised past typer, which would end the program in its own way."""


class Commands(TyperGroup):
    """The commands; keeps Ctrl-C and errors of the operating system for `main` to report."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the context names."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, EOFError, OSError) as error:
            raise CommandError from error


app = typer.Typer(
    name=PROGRAM,
    cls=Commands,
    help="Run quantized RWKV language models on a laptop CPU.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
# In the order in which a newcomer needs them.
for command in (demo, convert, chat, generate, info, compare, perplexity, bench, doctor):
    app.command()(command)


def show_version(wanted: bool) -> None:
    """`--version`."""
    if wanted:
        print(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Say which it is."),
    ] = False,
) -> None:
    """Run quantized RWKV language models on a laptop CPU."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit code: 0, 1 (failed), 2 (usage) or 130 (Ctrl-C)."""
    # The library logs what it also raises: said twice, it would be two lines.
    logging.getLogger("rwkv_edge").addHandler(logging.NullHandler())
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A terminal that lacks a character shows a replacement instead of ending the program.
            stream.reconfigure(errors="replace")
    try:
        code = run(sys.argv[1:] if arguments is None else list(arguments))
        # Here rather than at exit, where nobody could report a full disk.
        sys.stdout.flush()
    except BaseException as error:
        raised = error.__cause__ if isinstance(error, CommandError) else error
        assert raised is not None
        if isinstance(raised, OSError) and raised.filename is None:
            abandon_stdout()
        reported = report(raised)
        if reported is None:
            raise
        return reported
    return code


def run(arguments: list[str]) -> int:
    """Parse and call; usage errors are reported here, all others raised."""
    try:
        # Not standalone, because then typer would print and exit in a style of its own.
        with noting_compilation():
            result: Any = app(arguments or ["--help"], prog_name=PROGRAM, standalone_mode=False)
    except Exception as error:
        # Older releases of typer raise click's usage errors, newer ones their own: both know how
        # to say what was wrong.
        if getattr(error, "exit_code", None) != USAGE or not hasattr(error, "format_message"):
            raise
        context = getattr(error, "ctx", None)
        name = context.command_path if context is not None else PROGRAM
        message = one_line(error.format_message()).rstrip(".")
        print(f"{PROGRAM}: {message}; see {name} --help", file=sys.stderr)
        return USAGE
    if not arguments:
        return USAGE
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
