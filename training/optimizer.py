"""Muon for the square-ish matrices inside the blocks, AdamW for everything else.

Muon takes the momentum of a matrix to the nearest orthogonal one, so that every direction of the
matrix learns at the same rate; it needs markedly fewer tokens than Adam for a small model.
Source: K. Jordan, https://kellerjordan.github.io/posts/muon/
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # the coefficients of the source above
NEWTON_SCHULZ_STEPS = 5
MOMENTUM = 0.95
MUON_MATRICES = tuple(
    f"{part}.weight"
    for part in ("receptance", "att.key", "att.value", "output", "ffn.key", "ffn.value")
)


def orthogonalized(matrices: Tensor) -> Tensor:
    """(n, rows, columns), rows <= columns: singular values moved to about 1, in bfloat16."""
    a, b, c = NEWTON_SCHULZ
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    x = x.bfloat16()
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.float()


class Muon(torch.optim.Optimizer):
    """Steps of spectral norm about `lr`; matrices of one shape are orthogonalized together."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            by_shape: defaultdict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for param in group["params"]:
                by_shape[param.shape].append(param)
            for (rows, columns), params in by_shape.items():
                updates = []
                for param in params:
                    momentum = self.state[param].setdefault("momentum", torch.zeros_like(param))
                    momentum.lerp_(param.grad, 1 - MOMENTUM)
                    updates.append(param.grad.lerp(momentum, MOMENTUM))
                stacked = torch.stack(updates)
                if rows > columns:
                    stacked = orthogonalized(stacked.mT).mT
                else:
                    stacked = orthogonalized(stacked)
                scale = group["lr"] * max(1.0, rows / columns) ** 0.5
                for param, update in zip(params, stacked, strict=True):
                    param.mul_(1 - group["lr"] * group["weight_decay"])
                    param.add_(update, alpha=-scale)


def optimizers(
    model: nn.Module, adam_lr: float, muon_lr: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """Muon and AdamW over disjoint parameters; each group remembers its `peak_lr`."""
    muon: list[nn.Parameter] = []
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    decays: list[nn.Parameter] = []
    for name, param in model.named_parameters():
        if name.endswith(MUON_MATRICES):
            muon.append(param)
        elif name.endswith("att.w0"):
            decays.append(param)
        elif param.squeeze().dim() == 2 and not name.endswith("r_k"):
            matrices.append(param)
        else:
            vectors.append(param)
    # As in RWKV-LM: w0 learns twice as fast, and only matrices decay.
    groups = [
        {"params": matrices, "lr": adam_lr, "weight_decay": weight_decay},
        {"params": vectors, "lr": adam_lr, "weight_decay": 0.0},
        {"params": decays, "lr": 2 * adam_lr, "weight_decay": 0.0},
    ]
    both: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, betas=(0.9, 0.99), eps=1e-18, fused=True),
        Muon(muon, lr=muon_lr, weight_decay=weight_decay),
    ]
    for optimizer in both:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return both
