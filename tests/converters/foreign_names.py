"""One model's numbers as other projects' converters would name and lay them out.

Written after those converters: flash-linear-attention's `convert_from_rwkv6.py` and
`convert_from_rwkv7.py`, the Hugging Face scripts of RWKV-4, 5 and 6, and web-rwkv's
`convert_safetensors.py`.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from rwkv_edge.converters.checkpoints import open_checkpoint
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.hyperparameters import Hyperparameters

Tensors = dict[str, np.ndarray[Any, Any]]
NUMPY_DTYPES = {"float32": np.float32, "float16": np.float16}
# Every rank and width differs, so that nothing fits in another's place.
RANKS = {"6": (32, 64), "7": (32, 64, 40, 96)}


def tiny_model(version: str, **changes: Any) -> Hyperparameters:
    shape = {"n_ffn": 320, "n_vocab": 256, "ranks": RANKS.get(version[0])} | changes
    return synthetic_hyperparameters(2, 128, version=version, **shape)


def write_tiny(path: Path, version: str, dtype: str = "float32", **changes: Any) -> Tensors:
    """A random `.pth`, and its tensors as RWKV-LM has them."""
    write_synthetic(path, tiny_model(version, **changes), dtype=dtype)
    with open_checkpoint(path) as checkpoint:
        return {
            name: checkpoint.read(name).astype(NUMPY_DTYPES[dtype]) for name in checkpoint.names()
        }


def huggingface(own: Tensors) -> Tensors:
    """RWKV-4, 5 and 6."""
    found = {}
    for key, tensor in own.items():
        name = key.replace("emb.", "embeddings.") if key.startswith("emb.") else key
        name = name.replace("blocks.0.ln0", "blocks.0.pre_ln")
        name = re.sub(r"blocks\.(\d+)\.att", r"blocks.\1.attention", name)
        name = re.sub(r"blocks\.(\d+)\.ffn", r"blocks.\1.feed_forward", name)
        for letter, word in (("k", "key"), ("v", "value"), ("r", "receptance"), ("g", "gate")):
            if name.endswith(f".time_mix_{letter}"):
                name = name[:-1] + word
        found[name if name == "head.weight" else f"rwkv.{name}"] = tensor
    return found


def fla_7(own: Tensors, fused: bool = False) -> Tensors:
    """fused: the six lerps in one tensor, as its first release had them."""
    outside = {
        "emb.weight": "model.embeddings.weight",
        "ln_out.weight": "model.norm.weight",
        "ln_out.bias": "model.norm.bias",
        "head.weight": "lm_head.weight",
    }
    modules = {
        "att": "attn",
        "ffn": "ffn",
        "ln0": "pre_norm",
        "ln1": "attn_norm",
        "ln2": "ffn_norm",
    }
    matrices = {
        "receptance": "r_proj", "key": "k_proj", "value": "v_proj", "ln_x": "g_norm",
        "output": "o_proj",
    }  # fmt: skip
    parts = {"0": "2.bias", "1": "0.weight", "2": "2.weight"}
    found = {}
    for key, tensor in own.items():
        if key in outside:
            found[outside[key]] = tensor
            continue
        _, layer, module, *rest = key.split(".")
        if module == "att" and layer == "0" and rest[0] in ("v0", "v1", "v2"):
            continue
        kept = tensor
        if re.fullmatch("[wvag][012]", rest[0]):
            letter, part = rest[0]
            rest[0] = f"{letter}_lora.lora.{parts[part]}"
            kept = np.ascontiguousarray(tensor.T) if part != "0" else tensor.reshape(-1)
        elif module == "att" and rest[0] in matrices:
            rest[0] = matrices[rest[0]]
        elif not rest[0].startswith("x_"):
            kept = tensor.squeeze()
        found[".".join(["model.layers", layer, modules[module], *rest])] = kept
    if fused:
        layers = {name.split(".")[2] for name in found if ".attn.x_" in name}
        for layer in layers:
            here = f"model.layers.{layer}.attn.x_"
            found[here + "x"] = np.stack([found.pop(here + i).reshape(-1) for i in "rwkvag"])
    return found


def huggingface_7(own: Tensors) -> Tensors:
    """The names that gguf-py's `tensor_mapping.py` knows beside those of fla."""
    found = {}
    for key, tensor in own.items():
        name = key.replace("emb.", "embeddings.").replace("blocks.0.ln0", "pre_ln")
        name = name.replace("blocks.", "layers.").replace(".att.", ".attention.")
        name = name.replace(".ffn.", ".feed_forward.")
        found[name if name == "head.weight" else f"model.{name}"] = tensor
    return found


def fla_6(own: Tensors) -> Tensors:
    outside = {
        "emb.weight": "model.embeddings.weight",
        "blocks.0.ln0.weight": "model.layers.0.pre_norm.weight",
        "blocks.0.ln0.bias": "model.layers.0.pre_norm.bias",
        "ln_out.weight": "model.norm.weight",
        "ln_out.bias": "model.norm.bias",
        "head.weight": "lm_head.weight",
    }
    found = {new: own[old] for old, new in outside.items()}
    n_layer = 1 + max(int(key.split(".")[1]) for key in own if key.startswith("blocks."))
    for i in range(n_layer):
        block, att, ffn = (f"blocks.{i}.{part}" for part in ("", "att.", "ffn."))
        here = f"model.layers.{i}."
        n_embd = own["emb.weight"].shape[1]
        ww, wk, wv, wr, wg = np.split(own[att + "time_maa_w1"], 5, axis=1)
        first = np.concatenate((wr, ww, wk, wv, wg), -1).T
        ww, wk, wv, wr, wg = own[att + "time_maa_w2"]
        second = np.concatenate((wr, ww, wk, wv, wg), 0).T
        bias = np.stack([own[f"{att}time_maa_{letter}"].reshape(-1) for letter in "rwkvg"])
        assert bias.shape == (5, n_embd)
        found |= {
            f"{here}attn_norm.weight": own[block + "ln1.weight"],
            f"{here}attn_norm.bias": own[block + "ln1.bias"],
            f"{here}ffn_norm.weight": own[block + "ln2.weight"],
            f"{here}ffn_norm.bias": own[block + "ln2.bias"],
            f"{here}attn.x_proj.0.mu": own[att + "time_maa_x"].reshape(-1),
            f"{here}attn.x_proj.0.linear.weight": first,
            f"{here}attn.x_proj.2.weight": second,
            f"{here}attn.x_bias": bias,
            f"{here}attn.r_proj.linear.weight": own[att + "receptance.weight"],
            f"{here}attn.k_proj.linear.weight": own[att + "key.weight"],
            f"{here}attn.v_proj.linear.weight": own[att + "value.weight"],
            f"{here}attn.g_proj.linear.weight": own[att + "gate.weight"],
            f"{here}attn.o_proj.weight": own[att + "output.weight"],
            f"{here}attn.w_proj.linear.lora.0.weight": own[att + "time_decay_w1"].T,
            f"{here}attn.w_proj.linear.lora.2.weight": own[att + "time_decay_w2"].T,
            f"{here}attn.w_proj.linear.lora.2.bias": own[att + "time_decay"].reshape(-1),
            f"{here}attn.bonus": own[att + "time_faaaa"],
            f"{here}attn.g_norm.weight": own[att + "ln_x.weight"],
            f"{here}attn.g_norm.bias": own[att + "ln_x.bias"],
            f"{here}ffn.key.linear.weight": own[ffn + "key.weight"],
            f"{here}ffn.key.mu": own[ffn + "time_maa_k"].reshape(-1),
            f"{here}ffn.receptance.linear.weight": own[ffn + "receptance.weight"],
            f"{here}ffn.receptance.mu": own[ffn + "time_maa_r"].reshape(-1),
            f"{here}ffn.value.weight": own[ffn + "value.weight"],
        }
    return {name: np.ascontiguousarray(tensor) for name, tensor in found.items()}


TURNED = ("time_mix_w1", "time_mix_w2", "time_decay_w1", "time_decay_w2")
TURNED_SINCE_7 = (*TURNED, "w1", "w2", "a1", "a2", "g1", "g2", "v1", "v2")


def web_rwkv(own: Tensors, turned: tuple[str, ...] = TURNED_SINCE_7) -> Tensors:
    """turned: what a converter of some year turned."""
    found = {}
    for key, tensor in own.items():
        name = key.replace("time_faaaa", "time_first").replace("time_maa", "time_mix").lower()
        is_turned = any(part in name for part in turned)
        found[name] = np.ascontiguousarray(np.swapaxes(tensor, -1, -2) if is_turned else tensor)
    return found


def rwkv_cpp(own: Tensors, version: str) -> Tensors:
    """Its converter of 2025, all in float32: the file's writer says which are halved."""
    change = {"4": rwkv_cpp_4, "5": rwkv_cpp_5, "6": rwkv_cpp_6, "7": rwkv_cpp_7}[version[0]]
    found: Tensors = {}
    for key, given in own.items():
        tensor = given.astype(np.float32)
        if version == "7" and ".att.x_" in key:
            joined = key[: key.index(".x_")] + ".x_rwkvag"
            found[joined] = np.concatenate([found[joined], tensor]) if joined in found else tensor
            continue
        if ".time_" in key:
            tensor = tensor.squeeze()
        found[key] = np.ascontiguousarray(change(key, tensor, own))
    return found


def rwkv_cpp_4(key: str, tensor: Any, own: Tensors) -> Any:
    return -np.exp(tensor) if ".time_decay" in key else tensor


def rwkv_cpp_5(key: str, tensor: Any, own: Tensors) -> Any:
    if ".time_decay" in key:
        decay = np.exp(-np.exp(tensor))
        is_gated = "blocks.0.att.gate.weight" in own
        return decay[..., None] if is_gated else decay.reshape(-1, 1, 1)
    if ".time_first" in key:
        return np.exp(tensor).reshape(-1, 1, 1)
    return tensor[..., None] if ".time_faaaa" in key else tensor


def rwkv_cpp_6(key: str, tensor: Any, own: Tensors) -> Any:
    if ".time_faaaa" in key:
        return tensor[..., None]
    if ".time_maa_w1" in key or ".time_decay_w" in key:
        return tensor.T
    if ".time_maa_w2" in key:
        return tensor.transpose(0, 2, 1)
    n_head = own["blocks.0.att.time_faaaa"].shape[0]
    return tensor.reshape(n_head, -1, 1) if ".time_decay" in key else tensor


def rwkv_cpp_7(key: str, tensor: Any, own: Tensors) -> Any:
    return tensor.T if re.search(r"\.[wavg][12]$", key) else tensor
