"""`rwkv-edge convert`."""

from pathlib import Path
from typing import Annotated

import typer

from rwkv_edge.apps import console
from rwkv_edge.apps.options import Json
from rwkv_edge.errors import InputError

# Those of `converters.weight_types`, written out: help should not wait for an import.
TYPE_NAMES = (
    "F32, F16, BF16, Q8_0, Q6_K, Q5_K_M, Q5_K_S, Q5_1, Q5_0, Q4_K_M, Q4_K_S, Q4_1, Q4_0, "
    "IQ4_NL, IQ4_XS, Q3_K_L, Q3_K_M, Q3_K_S, Q2_K, Q2_K_S"
)


def convert(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A .pth or .safetensors file.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Default: beside the checkpoint, as NAME-q4.gguf."),
    ] = None,
    q4: Annotated[bool, typer.Option("--q4", help="Q4_0, 4.5 bits a weight (default).")] = False,
    q8: Annotated[bool, typer.Option("--q8", help="Q8_0, 8.5 bits a weight.")] = False,
    f16: Annotated[bool, typer.Option("--f16", help="16-bit floats.")] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="16-bit floats of wide range.")] = False,
    f32: Annotated[bool, typer.Option("--f32", help="32-bit floats.")] = False,
    type_name: Annotated[
        str | None,
        typer.Option("--type", metavar="NAME", help=f"By name: {TYPE_NAMES}."),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            "--tokenizer",
            "--vocab",
            help="A vocabulary in the World format, a Hugging Face tokenizer.json or a "
            "sentencepiece .model; default: NAME.vocab.txt beside the checkpoint, else by the "
            "number of embeddings: World, bytes, or 20B_tokenizer.json beside it.",
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads; by default all, but at most 8.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Turn a checkpoint into a small GGUF file.

    It runs here and in llama.cpp, and holds the tokenizer too.
    """
    flags = {"Q4_0": q4, "Q8_0": q8, "F16": f16, "BF16": bf16, "F32": f32}
    weight_type = chosen_type([name for name, is_set in flags.items() if is_set], type_name)
    destination = output or default_output(checkpoint, weight_type)

    from rwkv_edge.converters.convert import convert as convert_checkpoint

    with console.progress(f"writing {destination.name}", "bytes") as progress:
        summary = convert_checkpoint(
            checkpoint,
            destination,
            weight_type,
            tokenizer=tokenizer,
            threads=threads,
            progress=progress,
        )
    if as_json:
        console.write_json(summary)
        return
    hp = summary.hyperparameters
    print(
        f"{summary.path}: RWKV-{hp.version}, {hp.n_layer} layers of {hp.n_embd}, "
        f"{summary.weight_type}, {console.human_bytes(summary.n_bytes)}, in {summary.seconds:.1f} s"
    )
    print(f"tokenizer: {summary.tokenizer}{origin_of(summary.tokenizer, summary.vocabulary)}")
    for line in summary.notes:
        print(f"note: {line}")


def origin_of(kind: str, origin: str) -> str:
    """Where a tokenizer came from, unless its kind says it all."""
    return "" if origin == kind else f", from {origin}"


def chosen_type(flagged: list[str], type_name: str | None) -> str:
    """The one weight type that was asked for; raises BadParameter for two, InputError."""
    wanted = flagged + ([type_name.upper()] if type_name else [])
    if len(set(wanted)) > 1:
        raise typer.BadParameter(f"{' and '.join(wanted)} exclude each other")
    if type_name == "":
        raise InputError("--type is empty; name a weight type such as Q8_0")
    return wanted[0] if wanted else "Q4_0"


def default_output(checkpoint: Path, weight_type: str) -> Path:
    """`model.pth` in Q4_0 becomes `model-q4.gguf`."""
    return checkpoint.with_name(f"{checkpoint.stem}-{weight_type.lower().removesuffix('_0')}.gguf")
