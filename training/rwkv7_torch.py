"""RWKV-7 in torch, for training; parameter names and shapes are those of BlinkDL's checkpoints.

Source: RWKV-7 paper (arXiv 2503.14456) and RWKV-LM, RWKV-v7/train_temp, for the initial values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.wkv7 import HEAD_SIZE, wkv7

LAYER_NORM_EPS = 1e-5
GROUP_NORM_EPS = 64e-5
DECAY_SCALE = math.exp(-0.5)  # the decay lies in (exp(-exp(-0.5)), 1)


@dataclass(frozen=True)
class Shape:
    """Hyperparameters; the ranks are those of the low-rank pairs w, a, v, g."""

    n_vocab: int = 2048
    n_layer: int = 4
    n_embd: int = 192
    w_rank: int = 32
    a_rank: int = 32
    v_rank: int = 16
    g_rank: int = 64

    @property
    def n_head(self) -> int:
        return self.n_embd // HEAD_SIZE


def token_shift(x: Tensor) -> Tensor:
    """The difference from the previous token, zero before the first; x: (batch, tokens, n_embd)."""
    return functional.pad(x, (0, 0, 1, -1)) - x


def uniform(rows: int, columns: int, bound: float) -> nn.Linear:
    """A bias-free matrix (rows, columns), uniform within +-bound."""
    linear = nn.Linear(columns, rows, bias=False)
    nn.init.uniform_(linear.weight, -bound, bound)
    return linear


def low_rank(n_embd: int, rank: int) -> tuple[nn.Parameter, nn.Parameter]:
    """The pair (n_embd, rank) of zeros and (rank, n_embd), orthogonal, small."""
    second = torch.empty(rank, n_embd)
    nn.init.orthogonal_(second, gain=0.1 * math.sqrt(max(1.0, rank / n_embd)))
    return nn.Parameter(torch.zeros(n_embd, rank)), nn.Parameter(second)


class TimeMix(nn.Module):
    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        n_embd = shape.n_embd
        depth = layer / max(1, shape.n_layer - 1)  # 0 in the first layer, 1 in the last
        rest = 1.0 - layer / shape.n_layer  # 1 in the first layer, nearly 0 in the last
        channel = torch.arange(n_embd) / n_embd
        linear = torch.arange(n_embd) / (n_embd - 1) - 0.5
        zigzag = (torch.arange(n_embd) % HEAD_SIZE) / ((HEAD_SIZE - 1) / 2) - 1.0
        zigzag = zigzag * zigzag.abs()
        ladder = 6.0 * (torch.arange(n_embd) / (n_embd - 1)) ** (1.0 + depth**0.3) - 6.0

        def vector(values: Tensor) -> nn.Parameter:
            return nn.Parameter(values.reshape(1, 1, n_embd).clone())

        self.x_r = vector(1.0 - channel ** (0.2 * rest))
        self.x_w = vector(1.0 - channel ** (0.9 * rest))
        self.x_k = vector(1.0 - channel ** (0.7 * rest))
        self.x_v = vector(1.0 - channel ** (0.7 * rest))
        self.x_a = vector(1.0 - channel ** (0.9 * rest))
        self.x_g = vector(1.0 - channel ** (0.2 * rest))
        self.w0 = vector(ladder + 0.5 + 2.5 * zigzag)
        self.w1, self.w2 = low_rank(n_embd, shape.w_rank)
        self.a0 = vector(-0.19 + 0.3 * zigzag + 0.4 * linear)
        self.a1, self.a2 = low_rank(n_embd, shape.a_rank)
        if layer > 0:  # layer 0 defines v_first and has no v0, v1, v2
            self.v0 = vector(0.73 - 0.4 * linear)
            self.v1, self.v2 = low_rank(n_embd, shape.v_rank)
        self.g1, self.g2 = low_rank(n_embd, shape.g_rank)
        self.k_k = vector(0.71 - 0.1 * linear)
        self.k_a = vector(torch.full((n_embd,), 1.02))
        self.r_k = nn.Parameter(torch.full((shape.n_head, HEAD_SIZE), -0.04))
        bound = 0.5 / math.sqrt(n_embd)
        self.receptance = uniform(n_embd, n_embd, bound)
        self.key = uniform(n_embd, n_embd, 0.1 * bound)
        self.value = uniform(n_embd, n_embd, bound)
        self.output = uniform(n_embd, n_embd, 0.0)
        self.ln_x = nn.GroupNorm(shape.n_head, n_embd, eps=GROUP_NORM_EPS)
        nn.init.constant_(self.ln_x.weight, ((1 + layer) / shape.n_layer) ** 0.7)

    def forward(self, x: Tensor, v_first: Tensor | None) -> tuple[Tensor, Tensor]:
        heads = (*x.shape[:2], -1, HEAD_SIZE)
        xx = token_shift(x)
        r = self.receptance(x + xx * self.x_r)
        w = torch.tanh((x + xx * self.x_w) @ self.w1) @ self.w2
        k = self.key(x + xx * self.x_k).float()
        xv = x + xx * self.x_v
        v = self.value(xv).float()
        a = torch.sigmoid(self.a0 + ((x + xx * self.x_a) @ self.a1) @ self.a2)
        g = torch.sigmoid((x + xx * self.x_g) @ self.g1) @ self.g2
        if v_first is None:
            v_first = v
        else:
            v = v + (v_first - v) * torch.sigmoid(self.v0 + (xv @ self.v1) @ self.v2)
        decay = torch.exp(-DECAY_SCALE * torch.sigmoid(self.w0 + w))
        kk = functional.normalize((k * self.k_k).view(heads), dim=-1, p=2.0)
        k = k * (1 + (a - 1) * self.k_a)
        r, k, v_heads = r.float().view(heads), k.view(heads), v.view(heads)
        y = wkv7(r, decay.view(heads), k, v_heads, -kk, kk * a.view(heads))
        # A layer norm per head is the group norm, and is the faster of the two on a CPU.
        y = functional.layer_norm(y, (HEAD_SIZE,), eps=GROUP_NORM_EPS).view(x.shape)
        y = y * self.ln_x.weight + self.ln_x.bias
        bonus = (r * k * self.r_k).sum(dim=-1, keepdim=True) * v_heads
        return self.output((y + bonus.view(x.shape)) * g), v_first


class ChannelMix(nn.Module):
    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        n_embd = shape.n_embd
        rest = 1.0 - layer / shape.n_layer
        channel = torch.arange(n_embd) / n_embd
        self.x_k = nn.Parameter((1.0 - channel ** (rest**4)).reshape(1, 1, n_embd))
        self.key = uniform(4 * n_embd, n_embd, 0.5 / math.sqrt(n_embd))
        self.value = uniform(n_embd, 4 * n_embd, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.value(functional.relu(self.key(x + token_shift(x) * self.x_k)).square())


class Block(nn.Module):
    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        if layer == 0:
            self.ln0 = nn.LayerNorm(shape.n_embd, eps=LAYER_NORM_EPS)
        self.ln1 = nn.LayerNorm(shape.n_embd, eps=LAYER_NORM_EPS)
        self.ln2 = nn.LayerNorm(shape.n_embd, eps=LAYER_NORM_EPS)
        self.att = TimeMix(shape, layer)
        self.ffn = ChannelMix(shape, layer)

    def forward(self, x: Tensor, v_first: Tensor | None) -> tuple[Tensor, Tensor]:
        y, v_first = self.att(self.ln1(x), v_first)
        x = x + y
        return x + self.ffn(self.ln2(x)), v_first


class RWKV7(nn.Module):
    """Logits (batch, tokens, n_vocab) from tokens (batch, tokens), every state starting at zero."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.emb = nn.Embedding(shape.n_vocab, shape.n_embd)
        nn.init.uniform_(self.emb.weight, -1e-4, 1e-4)
        self.blocks = nn.ModuleList(Block(shape, layer) for layer in range(shape.n_layer))
        self.ln_out = nn.LayerNorm(shape.n_embd, eps=LAYER_NORM_EPS)
        self.head = nn.Linear(shape.n_embd, shape.n_vocab, bias=False)
        nn.init.orthogonal_(self.head.weight, 0.5 * math.sqrt(max(1, shape.n_vocab / shape.n_embd)))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.blocks[0].ln0(self.emb(tokens))
        v_first = None
        for block in self.blocks:
            x, v_first = block(x, v_first)
        return self.head(self.ln_out(x))


def load_rwkv7(weights: dict[str, Tensor]) -> RWKV7:
    """The float32 model of a checkpoint that this package wrote."""
    n_vocab, n_embd = weights["emb.weight"].shape
    ranks = [weights[f"blocks.1.att.{name}1"].shape[1] for name in "wavg"]
    n_layer = 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("blocks."))
    model = RWKV7(Shape(n_vocab, n_layer, n_embd, *ranks))
    model.load_state_dict({key: value.float() for key, value in weights.items()})
    return model
