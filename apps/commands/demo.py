"""`rwkv-edge demo`."""

import contextlib
import sys
import tempfile
import time
from pathlib import Path

from rwkv_edge import Model
from rwkv_edge.apps import console, options
from rwkv_edge.apps.commands.compare import open_engines, show
from rwkv_edge.apps.loading import noting_compilation, open_model
from rwkv_edge.sampling import SamplingOptions

# Chosen because what follows reads well; a small model repeats itself unless it is held back.
PROMPT = "If the file does not exist,"
SEED = 4
SAMPLING = SamplingOptions(
    temperature=0.9, top_p=0.75, presence_penalty=0.3, frequency_penalty=0.3, penalty_decay=0.99
)
MAX_TOKENS = 110
# Tokens that the engines are compared on; the reference takes them one at a time.
COMPARED_TOKENS = 200
ENGINES = ("reference", "numba", "llama", "onnx")


def demo(threads: options.Threads = None) -> None:
    """Convert, write and compare: the whole story.

    On a small built-in model; a minute at most.
    """
    from rwkv_edge.builtin import checkpoint_path

    with contextlib.ExitStack() as stack:
        if not sys.stderr.isatty():
            # A minute of silence would make those wonder, too, who read a log.
            stack.enter_context(noting_compilation(everywhere=True))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="rwkv-edge-"))
        gguf = Path(folder) / "rwkv7-builtin-q4.gguf"
        convert_builtin(checkpoint_path(), gguf, threads)
        with open_model(gguf, threads=threads) as model:
            write_text(model)
        compare_engines(gguf, threads)


def convert_builtin(checkpoint: Path, gguf: Path, threads: int | None) -> None:
    """The first act: a checkpoint becomes a Q4_0 file."""
    from rwkv_edge.converters.convert import convert

    print(f"1. Convert {checkpoint.name} to 4 bits a weight", flush=True)
    with console.busy("converting"):
        summary = convert(checkpoint, gguf, "Q4_0", threads=threads)
    hp = summary.hyperparameters
    print(
        f"   RWKV-{hp.version}, {hp.n_layer} layers of {hp.n_embd}: "
        f"{console.human_bytes(checkpoint.stat().st_size)} -> "
        f"{console.human_bytes(summary.n_bytes)} in {summary.seconds:.1f} s\n",
        flush=True,
    )


def write_text(model: Model) -> None:
    """The second act: text out of the numba runtime."""
    print(f'2. Continue "{PROMPT}"', flush=True)
    print(PROMPT, end="", flush=True)
    began = time.perf_counter()
    stream = model.stream(PROMPT, max_tokens=MAX_TOKENS, sampling=SAMPLING, seed=SEED)
    for piece in stream:
        console.write(piece)
    seconds = time.perf_counter() - began
    n_tokens = len(stream.tokens)
    print(f"\n   {n_tokens} tokens, {n_tokens / seconds:,.0f} a second\n", flush=True)


def compare_engines(gguf: Path, threads: int | None) -> None:
    """The third act: every engine that is here, against plain numpy."""
    from rwkv_edge.builtin import heldout_path
    from rwkv_edge.comparison import compare

    print(f"3. The same {COMPARED_TOKENS} tokens through every engine that is installed")
    with contextlib.ExitStack() as stack:
        models, missing = open_engines(stack, gguf, ENGINES, threads)
        text = heldout_path().read_bytes()
        tokens = models[0].tokenizer.encode(text)[:COMPARED_TOKENS]
        with console.progress("comparing") as progress:
            agreements = compare(models, tokens, progress=progress)
    show(agreements)
    for line in missing.values():
        print(f"   {line}")
