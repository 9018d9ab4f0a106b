"""What people write for the official package; run as it stands, and with its imports changed.

Whoever runs this text says MODEL, WORD_NAME and STATE_FILE beforehand.
"""
# ruff: noqa: F821

import copy
import os
import pickle

import numpy as np

os.environ["RWKV_V7_ON"] = "1"
os.environ["RWKV_JIT_ON"] = "1"
os.environ["RWKV_CUDA_ON"] = "0"

from rwkv.model import RWKV
from rwkv.utils import PIPELINE, PIPELINE_ARGS

model = RWKV(model=MODEL, strategy="cpu fp32")
pipeline = PIPELINE(model, WORD_NAME)

pieces = []


def show(piece):
    pieces.append(piece)
    print(piece, end="", flush=True)


args = PIPELINE_ARGS(
    temperature=1.0,
    top_p=0.7,
    top_k=100,
    alpha_frequency=0.25,
    alpha_presence=0.25,
    alpha_decay=0.996,
    token_ban=[0],
    token_stop=[],
    chunk_len=16,
)
np.random.seed(3)
text = pipeline.generate(
    "In a shocking finding, the scientists saw that llamas count in French.",
    token_count=60,
    args=args,
    callback=show,
)

# Five tokens at once, and the same five in three parts.
out, state = model.forward([187, 510, 1563, 310, 247], None)
at_once = out.detach().cpu().numpy()
out, state = model.forward([187, 510], None)
out, state = model.forward([1563], state)
out, state = model.forward([310, 247], state)
in_parts = out.detach().cpu().numpy()

# One token after the other, the likeliest each time.
kept = copy.deepcopy(state)
cloned = [array.clone() for array in state]
greedy = []
token = int(out.argmax())
for _ in range(10):
    greedy.append(token)
    out, state = model.forward(token, state)
    token = out.argmax().item()

# Once more from the copies.
again, kept = model.forward(greedy, kept)
once_more, cloned = model.forward(greedy, cloned)

# Saved, and resumed later.
with open(STATE_FILE, "wb") as file:
    pickle.dump(state, file)
with open(STATE_FILE, "rb") as file:
    resumed = pickle.load(file)
out, state = model.forward([11, 12], state)
later, resumed = model.forward([11, 12], resumed)
np.random.seed(4)
continued = pipeline.generate(" The end", token_count=20, state=resumed)
