"""`rwkv-edge convert`."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rwkv_edge.apps import console
from rwkv_edge.apps.documents import ending_gently
from rwkv_edge.apps.inspection.words import memory_facts, shape_facts, write_types
from rwkv_edge.apps.options import Json
from rwkv_edge.apps.planned_file import PlannedFile, describe_plan
from rwkv_edge.errors import InputError

if TYPE_CHECKING:
    from rwkv_edge.converters.convert import ConversionSummary
    from rwkv_edge.converters.onnx.export import OnnxPlan
    from rwkv_edge.converters.plan import ConversionPlan

    Convert = Callable[..., ConversionSummary]
    Planned = Callable[..., AbstractContextManager[ConversionPlan | OnnxPlan]]

# Those of `converters.weight_types`, written out: help should not wait for an import.
TYPE_NAMES = (
    "F32, F16, BF16, Q8_0, Q6_K, Q5_K_M, Q5_K_S, Q5_1, Q5_0, Q4_K_M, Q4_K_S, Q4_1, Q4_0, "
    "IQ4_NL, IQ4_XS, Q3_K_L, Q3_K_M, Q3_K_S, Q2_K, Q2_K_S"
)

ONNX_TYPE_NAMES = "F32, F16, BF16, Q8_0 or Q4_0"


def convert(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT", help="Weights: .pth, .safetensors, a folder, ..."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Default: beside the checkpoint, as NAME-q4.gguf or NAME-ADAPTER-q4.gguf. A name "
            "that ends in .onnx asks for --onnx.",
        ),
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
    onnx: Annotated[
        bool,
        typer.Option(
            "--onnx",
            help=f"An ONNX model, for onnxruntime: {ONNX_TYPE_NAMES}. A GGUF of these types keeps "
            "its own, and every number, where none is named.",
        ),
    ] = False,
    external_data: Annotated[
        bool,
        typer.Option(
            "--external-data",
            help="With --onnx: the weights in a data file of their own beside it, as always past "
            "2 GB.",
        ),
    ] = False,
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
    adapters: Annotated[
        list[Path] | None,
        typer.Option(
            "--adapter",
            "--lora",
            metavar="FILE",
            help="Merge an adapter of RWKV-PEFT, LoRA, PiSSA or DiSHA: its file says which. May be "
            "given several times; they are merged in this order.",
        ),
    ] = None,
    alphas: Annotated[
        list[float] | None,
        typer.Option(
            "--alpha",
            metavar="N",
            help="The alpha that a LoRA was trained with: one for all of them, or one for each.",
        ),
    ] = None,
    pissa_inits: Annotated[
        list[Path] | None,
        typer.Option(
            "--pissa-init",
            metavar="FILE",
            help="For a PiSSA, instead of --alpha: the init_pissa.pth of its training.",
        ),
    ] = None,
    ignore_orphans: Annotated[
        bool,
        typer.Option(
            "--ignore-orphans",
            help="Leave out what an adapter holds of layers that the model does not have.",
        ),
    ] = False,
    state: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A tuned state: what the model shall begin with instead of zeros."
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads; by default all, but at most 8.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what would be written, and write nothing.")
    ] = False,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="With --plan: list every tensor and its source.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Turn a checkpoint into a small GGUF or ONNX file.

    The GGUF runs here and in llama.cpp, the ONNX model in onnxruntime; both hold the tokenizer too.
    """
    flags = {"Q4_0": q4, "Q8_0": q8, "F16": f16, "BF16": bf16, "F32": f32}
    weight_type = chosen_type([name for name, is_set in flags.items() if is_set], type_name)
    merged = [*(adapters or ()), *([] if state is None else [state])]
    to_onnx = is_onnx_wanted(onnx, external_data, output)
    if weight_type is None and not (to_onnx and is_gguf(checkpoint)):
        weight_type = "Q4_0"
    destination = output or default_output(
        checkpoint, weight_type, merged, ".onnx" if to_onnx else ".gguf"
    )
    if tensors and not plan:
        raise typer.BadParameter("--tensors goes with --plan")

    from rwkv_edge.converters.adapters import TunedState, choose_adapters

    convert_checkpoint, planned = conversion(to_onnx, external_data)
    chosen = choose_adapters(
        adapters or (), alphas or (), pissa_inits or (), ignore_orphans=ignore_orphans
    )
    tuned = [] if state is None else [TunedState(state)]
    if plan:
        with planned(
            checkpoint, destination, weight_type, tokenizer=tokenizer, adapters=[*chosen, *tuned]
        ) as found:
            show_plan(describe_plan(found, destination), tensors, as_json)
        return
    # A conversion that is asked to end removes what it has written.
    with ending_gently(), console.progress(f"writing {destination.name}", "bytes") as progress:
        summary = convert_checkpoint(
            checkpoint,
            destination,
            weight_type,
            tokenizer=tokenizer,
            threads=threads,
            progress=progress,
            adapters=[*chosen, *tuned],
        )
    if as_json:
        console.write_json(summary)
        return
    hp = summary.hyperparameters
    print(
        f"{summary.path}: RWKV-{hp.version}, {hp.n_layer} layers of {hp.n_embd}, "
        f"{summary.weight_type}, {console.human_bytes(summary.n_bytes)}, in {summary.seconds:.1f} s"
    )
    if summary.data_path is not None:
        print(f"{summary.data_path}: its weights, {console.human_bytes(summary.data_bytes)}")
    print(f"tokenizer: {summary.tokenizer}{origin_of(summary.tokenizer, summary.vocabulary)}")
    for line in summary.notes:
        print(f"note: {line}")


def conversion(to_onnx: bool, external_data: bool) -> "tuple[Convert, Planned]":
    """What converts, and what says beforehand what that would write."""
    if to_onnx:
        from rwkv_edge.converters.onnx.export import convert_to_onnx, planned_onnx

        return (
            partial(convert_to_onnx, external_data=external_data),
            partial(planned_onnx, external_data=external_data),
        )
    from rwkv_edge.converters.convert import convert as convert_checkpoint
    from rwkv_edge.converters.convert import planned

    return convert_checkpoint, planned


def is_onnx_wanted(onnx: bool, external_data: bool, output: Path | None) -> bool:
    """Whether an ONNX model was asked for, by --onnx or by its name; raises BadParameter."""
    suffix = "" if output is None else output.suffix.lower()
    if onnx and suffix == ".gguf":
        raise typer.BadParameter(f"--onnx writes no GGUF: name {output} otherwise")
    to_onnx = onnx or suffix == ".onnx"
    if external_data and not to_onnx:
        raise typer.BadParameter("--external-data goes with --onnx")
    return to_onnx


def is_gguf(path: Path) -> bool:
    """Whether a file is one, by its first bytes; what cannot be read is none."""
    from rwkv_edge.gguf_reader import MAGIC

    try:
        # A pipe would be waited on for ever.
        if not path.is_file():
            return False
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def show_plan(planned: PlannedFile, list_tensors: bool, as_json: bool) -> None:
    """What would be written, for a person or a program."""
    if as_json:
        console.write_json(planned)
        return
    words = planned.tokenizer + origin_of(planned.tokenizer, planned.vocabulary)
    size, free = console.human_bytes(planned.n_bytes), console.human_bytes(planned.free_bytes)
    facts = {
        "would write": f"{planned.path}{', in place of the one there' if planned.replaces else ''}",
        "size": f"{planned.n_bytes:,} bytes ({size})",
        **data_facts(planned),
        "disk": f"{free} free{'' if planned.fits else ', which is not enough'}",
        "from": str(planned.source),
    }
    facts |= shape_facts(planned.hyperparameters)
    facts |= {"weight type": planned.weight_type, "tokenizer": words}
    facts |= memory_facts(planned.memory)
    console.write_facts(facts)
    for line in planned.notes:
        print(f"note: {line}")
    write_types(planned.types)
    if list_tensors:
        print()
        console.write_table(
            ("tensor", "type", "shape", "bytes", "source"),
            [
                (t.name, t.dtype, " x ".join(map(str, t.shape)), f"{t.n_bytes:,}", t.source)
                for t in planned.tensors
            ],
            last_left=True,
        )


def data_facts(planned: PlannedFile) -> dict[str, str]:
    """What goes beside an ONNX model, if anything does."""
    if not planned.data_bytes:
        return {}
    size = console.human_bytes(planned.data_bytes)
    return {"data file": f"{planned.data_bytes:,} bytes ({size}) beside it"}


def origin_of(kind: str, origin: str) -> str:
    """Where a tokenizer came from, unless its kind says it all."""
    return "" if origin == kind else f", from {origin}"


def chosen_type(flagged: list[str], type_name: str | None) -> str | None:
    """The one weight type that was asked for, if any; raises BadParameter for two, InputError."""
    wanted = flagged + ([type_name.upper()] if type_name else [])
    if len(set(wanted)) > 1:
        raise typer.BadParameter(f"{' and '.join(wanted)} exclude each other")
    if type_name == "":
        raise InputError("--type is empty; name a weight type such as Q8_0")
    return wanted[0] if wanted else None


def default_output(
    checkpoint: Path, weight_type: str | None, merged: Sequence[Path], suffix: str
) -> Path:
    """`model.pth` in Q4_0 becomes `model-q4.gguf`, the folder `model` one beside it.

    With `lora.pth` it is `model-lora-q4.gguf`; `model-q4.gguf` becomes `model-q4.onnx` as it is.
    """
    name = checkpoint.stem
    if checkpoint.is_dir():
        # What stands after a dot in a folder's name is part of it: rwkv7-1.5B-world.
        checkpoint = checkpoint.resolve()
        name = checkpoint.name
    parts = [name, *(path.stem for path in merged)]
    if weight_type is not None:
        parts.append(weight_type.lower().removesuffix("_0"))
    return checkpoint.with_name("-".join(parts) + suffix)
