"""The same calls to the official package and to `rwkv_edge.compat`, and all that came of them.

`python -m tests.compat.probe OUT.npz MODEL [VOCABULARY]` asks the official package, in a process of
its own, because it reads its environment when it is imported. With the [oracle] extra,

    python -m tests.compat.probe tests/compat/official_results.npz BUILTIN.pth BUILTIN.vocab.txt

writes what the tests compare with, where BUILTIN is `rwkv_edge/builtin/rwkv7-builtin`.
"""

import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np

QUICK_START = Path(__file__).with_name("quick_start.py").read_text(encoding="utf-8")
TOKENS = [int(t) for t in np.random.default_rng(8).integers(1, 250, 14)]
# temperature, top_p, top_k, alpha_frequency, alpha_presence, alpha_decay, token_ban, token_stop,
# chunk_len
GENERATIONS = [
    (),
    (1.0, 0.5, 0, 0.0, 0.0, 0.996, [], [], 1),
    (0.3, 0.9, 0, 0.4, 0.1, 0.9, [], [11], 5),
    (2.0, 0.95, 7, 0.0, 0.5, 0.996, [33, 102], [], 256),
    (0, 0.85, 0, 0.5, 0.5, 0.99, [], [], 3),
    (1.3, 0.999, 50, 0.2, 0.2, 0.996, [0], [], 256),
]
PROMPTS = ["Once upon a time,\n\n there were 12 llamas é", "7 8 9 \t", "Über \U0001f999"]
# temperature, top_p, top_k. Not top_p = 1: whether float32 sums reach it hangs on the last bit of
# the softmax, and with it whether the official sampler draws or takes the likeliest.
SAMPLINGS = [
    (1.0, 0.85, 0), (1.0, 0.0, 0), (0, 0.5, 3), (0.4, 0.9, 0), (2.5, 0.99, 0),
    (1.0, 0.95, 1), (1.0, 0.95, 5), (1.5, 0.9, 40), (1.0, 0.9999, 5000),
]  # fmt: skip
CONTEXTS = ["", " \n\n a \r\n\u3000b\u3000 \n \n", "\nx\r", "one line"]
UNDECODABLE = [[195 + 1], [0], [1, 0], [999_999], []]


def quick_start(imports, model, word_name, folder):
    """What the names of quick_start.py stand for at its end."""
    text = QUICK_START
    for old, new in imports.items():
        assert text.count(old) > 0
        text = text.replace(old, new)
    names = {
        "MODEL": str(model),
        "WORD_NAME": str(word_name),
        "STATE_FILE": str(Path(folder) / "quick-start.state"),
    }
    exec(compile(text, "quick_start.py", "exec"), names)
    arrays = ("at_once", "in_parts", "out", "again", "once_more", "later")
    texts = ("text", "pieces", "continued")
    return {
        **{f"quick start: {name}": np.array(names[name]) for name in arrays},
        **{f"quick start: {name}": as_text(names[name]) for name in texts},
        "quick start: greedy": np.array(names["greedy"]),
    }


def as_text(value):
    """Strings as an array that needs no pickle."""
    return np.array(value if isinstance(value, list) else [value])


def model_results(rwkv_class, model, is_7=True):
    """Logits and states of a model; before RWKV-7 the official package offers less."""
    model = rwkv_class(str(model), "cpu fp32")
    found = {}
    logits, state = model.forward(TOKENS, None, full_output=True)
    found["logits"] = logits.float().numpy()
    assert type(state) is list
    found["state: shapes"] = as_text([str(tuple(array.shape)) for array in state])
    # The first and the last layer, to keep the file small.
    for i in (0, 1, 2, len(state) - 3, len(state) - 2, len(state) - 1):
        found[f"state: {i}"] = np.ascontiguousarray(state[i].float().numpy())
    found["logits of the last"] = model.forward(TOKENS, None)[0].float().numpy()
    first = TOKENS[0] if is_7 else TOKENS[:1]
    single, state = model.forward(first, None, True)
    found["logits of a number"] = single.float().numpy()
    found["logits of a list of one"] = model.forward([TOKENS[0]], None, True)[0].float().numpy()
    names = ("n_layer", "n_embd", *(("vocab_size", "head_size") if is_7 else ()))
    found["args"] = as_text([f"{name} {getattr(model.args, name)}" for name in names])
    return found


def pipeline_results(rwkv_class, utils, model, word_name):
    """Texts, and what is drawn from logits."""
    pipeline = utils.PIPELINE(rwkv_class(str(model), "cpu fp32"), str(word_name))
    found = {}
    for i, options in enumerate(GENERATIONS):
        for j, prompt in enumerate(PROMPTS):
            np.random.seed(100 * i + j)
            pieces = []
            text = pipeline.generate(
                prompt, 40, utils.PIPELINE_ARGS(*options), callback=pieces.append
            )
            found[f"generated: {i} {j}"] = as_text([text, *pieces])
    found["encoded"] = np.concatenate([pipeline.encode(prompt) for prompt in PROMPTS])
    found["undecodable"] = as_text([pipeline.decode(tokens) for tokens in UNDECODABLE])
    found["refined"] = as_text([pipeline.refine_context(context) for context in CONTEXTS])
    return found


def sampling_results(pipeline, as_logits):
    """Tokens drawn from random logits, flat and peaked, with and without ties."""
    found = {}
    random = np.random.default_rng(2)
    for n_vocab, scale in ((2048, 3.0), (2048, 0.1), (65536, 4.0)):
        logits = (scale * random.standard_normal(n_vocab)).astype(np.float32)
        for kind, numbers in (("plain", logits), ("ties", np.round(logits * 2) / 2)):
            for options in SAMPLINGS:
                if kind == "ties" and options[2] > 0:
                    # Which of equal ones are among the top k is for numpy and the CPU to say.
                    continue
                if n_vocab == 65536 and options[1] > 0.95:
                    # Among so many, the tail is summed from numbers whose last bits decide.
                    continue
                np.random.seed(6)
                found[f"sampled: {n_vocab} {scale} {kind} {options}"] = np.array(
                    [pipeline.sample_logits(as_logits(numbers), *options) for _ in range(8)]
                )
    return found


def official_results(model, vocabulary, folder):
    """All of it from the official package."""
    os.environ.update(RWKV_JIT_ON="1", RWKV_CUDA_ON="0")
    os.environ.setdefault("RWKV_V7_ON", "1")
    import tokenizers
    import torch
    from rwkv import rwkv_tokenizer, utils
    from rwkv.model import RWKV

    torch.set_num_threads(1)
    name = str(model).removesuffix(".pth")
    found = model_results(RWKV, name, os.environ["RWKV_V7_ON"] == "1")
    if vocabulary is not None:
        # The official package reads files of one format by this function, and World's list by
        # another; the built-in model's list is of the second kind.
        tokenizers.Tokenizer = SimpleNamespace(from_file=rwkv_tokenizer.TRIE_TOKENIZER)
        found |= pipeline_results(RWKV, utils, name, vocabulary)
        found |= sampling_results(utils.PIPELINE.__new__(utils.PIPELINE), torch.from_numpy)
        found |= quick_start({}, name, vocabulary, folder)
    return found


def main():
    out, model, *vocabulary = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        found = official_results(model, vocabulary[0] if vocabulary else None, folder)
    np.savez_compressed(out, **found)


if __name__ == "__main__":
    main()
