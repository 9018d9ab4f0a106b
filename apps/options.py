"""Arguments and options that several commands share, so that they read the same everywhere."""

from pathlib import Path
from typing import Annotated

import typer

ModelPath = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help="A GGUF or ONNX file; `rwkv-edge convert` makes one."),
]
Backend = Annotated[
    str | None,
    typer.Option(
        help="Engine: numba, reference (plain numpy), llama (llama.cpp) or onnx (onnxruntime; "
        "onnx:cuda and the like are its other providers). Default: onnx for an ONNX file, else "
        "numba.",
    ),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads; by default one per physical core.")
]
TunedState = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Begin with this tuned state, a .pth or .st file for this model."
    ),
]
NoTunedState = Annotated[
    bool,
    typer.Option("--no-tuned-state", help="Begin with zeros, not the file's tuned state, if any."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
Temperature = Annotated[
    float | None, typer.Option(help="0 always takes the likeliest token; 1 is the default.")
]
TopP = Annotated[
    float | None, typer.Option(help="Keep the likeliest tokens that reach this probability.")
]
TopK = Annotated[int | None, typer.Option(help="Keep this many of the likeliest tokens; 0: all.")]
MinP = Annotated[
    float | None, typer.Option(help="Keep tokens with this share of the best one's probability.")
]
PresencePenalty = Annotated[
    float | None, typer.Option(help="Taken off the logit of a token that was used before.")
]
FrequencyPenalty = Annotated[
    float | None, typer.Option(help="Taken off the logit once per earlier, decayed use.")
]
Seed = Annotated[
    int | None, typer.Option(help="The same seed gives the same text; default: a new one.")
]


def engine_names(text: str) -> list[str]:
    """Engines out of "llama,onnx", once each."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
