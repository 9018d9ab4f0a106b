"""`rwkv-edge compare`."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from rwkv_edge import Model
from rwkv_edge.apps import console, options
from rwkv_edge.apps.loading import open_model, state_to_begin_with
from rwkv_edge.apps.runnable import ONNX, Runnable
from rwkv_edge.comparison import Agreement
from rwkv_edge.comparison import compare as compare_models
from rwkv_edge.errors import BackendUnavailableError, InputError, UnsupportedModelError
from rwkv_edge.model_files import open_model_file
from rwkv_edge.onnx_model_file import OnnxModelFile

REFERENCE = "reference"


def compare(
    model_path: options.ModelPath,
    backends: Annotated[
        str, typer.Option(help="Engines, separated by commas; all but the baseline are compared.")
    ] = "reference,numba,llama,onnx",
    prompt: Annotated[str | None, typer.Option(help="The text they all read.")] = None,
    file: Annotated[
        Path | None, typer.Option("-f", "--file", help="Read the text from a file.")
    ] = None,
    onnx: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The ONNX file of this model that the onnx engine runs; default: the GGUF is "
            "exported for the comparison.",
        ),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("-n", "--max-tokens", min=1, help="Compare at most this many tokens.")
    ] = 200,
    threads: options.Threads = None,
    tuned_state: options.TunedState = None,
    no_tuned_state: options.NoTunedState = False,
    as_json: options.Json = False,
) -> None:
    """Show how closely engines agree.

    The same text goes through each of them.

    The baseline is the reference (plain numpy) where it is among them, else the first. An engine
    that is not installed, or does not know the model's version, is left out. All engines are in
    memory at once, and the reference holds its weights as float32: 6 GB for a model of 1.5 billion
    weights.
    """
    names = baseline_first(options.engine_names(backends))
    if onnx is not None and not any(is_onnx(name) for name in names):
        raise typer.BadParameter("--onnx goes with the engine onnx, which is not in --backends")
    text = comparison_text(prompt, file)
    require_gguf(model_path)
    with contextlib.ExitStack() as stack:
        begin = state_to_begin_with(tuned_state, no_tuned_state)
        models, missing = open_engines(
            stack, model_path, names, threads, tuned_state=begin, onnx=onnx
        )
        for line in missing.values():
            console.note(line)
        if len(models) < 2:
            raise InputError(
                f"only {models[0].backend.name if models else 'none'} of these engines is here; "
                "a comparison needs two"
            )
        tokens = models[0].tokenizer.encode(text)[:max_tokens]
        with console.progress("comparing") as progress:
            agreements = compare_models(models, tokens, progress=progress)
    if as_json:
        console.write_json({"agreements": agreements, "left_out": missing})
    else:
        show(agreements)


def is_onnx(name: str) -> bool:
    """Is it onnxruntime that a name means, with whatever provider?"""
    from rwkv_edge.runtime.backends import engine_of

    return engine_of(name) == ONNX


def require_gguf(path: Path) -> None:
    """Raise InputError for an ONNX, which one engine runs alone."""
    with contextlib.closing(open_model_file(path)) as file:
        if isinstance(file, OnnxModelFile):
            raise InputError(
                f"{path}: one engine alone runs an ONNX; name the GGUF of this model, and this "
                f"file by --onnx {path}"
            )


def baseline_first(names: Sequence[str]) -> list[str]:
    """The reference before the others, where it is among them."""
    return sorted(names, key=lambda name: name != REFERENCE)


def comparison_text(prompt: str | None, file: Path | None) -> str | bytes:
    """What the user wants read, or a piece of text that ships with the package."""
    if prompt is not None and file is not None:
        raise typer.BadParameter("--prompt and --file exclude each other")
    if prompt is not None:
        text: str | bytes = prompt
    elif file is not None:
        text = file.read_bytes()
    else:
        from rwkv_edge.builtin import heldout_path

        text = heldout_path().read_bytes()
    if not text:
        raise InputError("there is no text to compare on; give at least one character")
    return text


def open_engines(
    stack: contextlib.ExitStack,
    path: Path,
    names: Sequence[str],
    threads: int | None,
    *,
    tuned_state: bool | Path = True,
    onnx: Path | None = None,
) -> tuple[list[Model], dict[str, str]]:
    """The model in each engine, and why some are left out, by name.

    onnx: what the onnx engine runs, instead of what is exported for it.
    Raises InputError for an ONNX of another model than the file, UnsupportedModelError for a model
    that none of them runs.
    """
    models: list[Model] = []
    missing: dict[str, str] = {}
    unsupported: UnsupportedModelError | None = None
    runnable = stack.enter_context(Runnable(path, threads, onnx))
    for name in names:
        try:
            file = runnable.for_engine(name)
            model = open_model(file, name, threads, tuned_state=tuned_state)
            models.append(stack.enter_context(model))
        except BackendUnavailableError as error:
            missing[name] = f"{name} is left out: {error}"
        except UnsupportedModelError as error:
            # Not every engine knows every version.
            missing[name] = f"{name} is left out: {error}"
            unsupported = unsupported or error
    if not models and unsupported is not None:
        raise unsupported
    return models, missing


def show(agreements: Sequence[Agreement]) -> None:
    """The table, and what its columns say."""
    first = agreements[0]
    print(f"Logits against {first.baseline}, {first.n_tokens} tokens; KL divergence in nats:")
    console.write_table(
        ("engine", "max difference", "of spread", "mean KL", "max KL", "first other token"),
        [
            (
                agreement.other,
                f"{agreement.max_difference:.2e}",
                f"{agreement.relative_difference:.1e}",
                f"{agreement.mean_kl:.1e}",
                f"{agreement.max_kl:.1e}",
                "none"
                if agreement.first_other_choice is None
                else f"after token {agreement.first_other_choice + 1}",
            )
            for agreement in agreements
        ],
    )
