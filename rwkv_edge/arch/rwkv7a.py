"""RWKV-7a: RWKV-7 whose channel mix is modulated by an embedding of the token, DeepEmbed.

k = relu(key x_k)² (s2 ((s1 x) S) + s0), where S is a 32 x 32 matrix of the token and the layer, and
x is not shifted. llama.cpp has no such architecture: the GGUF is this project's own, and holds what
an `rwkv7` file does and four tensors a layer. channel_mix_s_emb has a row for each token, its S row
after row; a checkpoint's second part, LN0(emb) s_emb_x^T, is added already. Tables come last in the
file, since only single rows of them are ever read.
"""

from rwkv_edge.arch.base import Role, Shape, TensorSpec
from rwkv_edge.arch.rwkv7 import Rwkv7
from rwkv_edge.hyperparameters import Hyperparameters

# Rows and columns of a token's matrix: the only ones that there are.
DEEP_EMBED_RANK = 32
TABLE_COLUMNS = DEEP_EMBED_RANK**2


class Rwkv7a(Rwkv7):
    """RWKV-7 with DeepEmbed; its hyperparameters, keys and state are those of RWKV-7."""

    name = "rwkv7a"
    versions = ("7a",)

    def tensors(self, hyperparameters: Hyperparameters) -> list[TensorSpec]:
        """Every tensor of the file, in file order."""
        hp = hyperparameters
        small: list[tuple[str, Shape, Role]] = [
            ("channel_mix_s0.weight", (hp.n_ffn,), Role.VECTOR),
            ("channel_mix_s1.weight", (DEEP_EMBED_RANK, hp.n_embd), Role.LORA),
            ("channel_mix_s2.weight", (hp.n_ffn, DEEP_EMBED_RANK), Role.LORA),
        ]
        table: Shape = (hp.n_vocab, TABLE_COLUMNS)
        layers = range(hp.n_layer)
        return [
            *super().tensors(hp),
            *(
                TensorSpec(f"blk.{i}.{name}", shape, role)
                for i in layers
                for name, shape, role in small
            ),
            *(TensorSpec(f"blk.{i}.channel_mix_s_emb.weight", table, Role.TABLE) for i in layers),
        ]
