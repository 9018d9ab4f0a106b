"""A GGUF that was checked against its architecture: what the engines of ours run."""

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from rwkv_edge.arch import Role, TensorSpec
from rwkv_edge.errors import FormatError, UnsupportedModelError
from rwkv_edge.fingerprint import Fingerprint
from rwkv_edge.gguf_reader import GgufFile, GgufTensor
from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.model_metadata import ModelMetadata, architecture_in
from rwkv_edge.quant import F32

# A digest of what was merged into the checkpoint's weights while it was converted.
ADAPTERS_KEY = "rwkv_edge.adapters"


class ModelFile(ModelMetadata):
    """An open GGUF: every tensor that its architecture needs is there, with its shape and bytes.

    Raises FormatError, UnsupportedModelError, or OSError.
    """

    def __init__(self, path: str | Path) -> None:
        self.gguf = GgufFile(path)
        self.path = self.gguf.path
        try:
            self.architecture = architecture_in(self.path, self.metadata)
            shapes = {name: t.shape for name, t in self.gguf.tensors.items()}
            self.hyperparameters: Hyperparameters = self.architecture.hyperparameters_from_gguf(
                self.metadata, shapes
            )
            n_layer = self.hyperparameters.n_layer
            if n_layer > len(shapes):
                # Bounded here, before the schema lists the tensors of so many layers.
                raise FormatError(f"it announces {n_layer:,} layers in {len(shapes):,} tensors")
            for spec in self.architecture.tensors(self.hyperparameters):
                self.gguf.tensors[spec.name] = self._checked(spec)
        except FormatError as error:
            self.close()
            # The schema knows keys and tensors, not the file that they came from.
            if str(self.path) in str(error):
                raise
            raise FormatError(f"{self.path}: {error}; convert it again") from None
        except UnsupportedModelError:
            self.close()
            raise

    @property
    def metadata(self) -> Mapping[str, object]:
        """The keys of the file."""
        return self.gguf.metadata

    def _checked(self, spec: TensorSpec) -> GgufTensor:
        """The tensor of this place, in exactly the shape that its place has."""
        tensor = self.gguf.tensors.get(spec.name) or self._joined(spec)
        if tensor is None:
            raise FormatError(f"tensor {spec.name} is missing")
        if without_ones(tensor.shape) != without_ones(spec.shape):
            raise FormatError(
                f"tensor {spec.name} is {list(tensor.shape)}; its place needs {list(spec.shape)}"
            )
        quant_format = tensor.quant_format
        if spec.role is Role.VECTOR and quant_format.block_len > 1:
            raise FormatError(
                f"tensor {spec.name} is {quant_format.__name__}; vectors are not quantized"
            )
        # Ones that stand elsewhere than in the schema would be broadcast where they must not.
        raw = tensor.raw.reshape(-1, quant_format.row_bytes(spec.shape[-1]))
        return GgufTensor(spec.name, spec.shape, quant_format, raw)

    def _joined(self, spec: TensorSpec) -> GgufTensor | None:
        """A small tensor out of the parts that older files hold instead of it, as float32."""
        names = self.architecture.older_parts(spec.name)
        parts = [self.gguf.tensors[name] for name in names if name in self.gguf.tensors]
        if not parts or len(parts) < len(names):
            return None
        for part in parts:
            if without_ones(part.shape) != spec.shape[-1:]:
                raise FormatError(
                    f"tensor {part.name} is {list(part.shape)}; its place needs "
                    f"{list(spec.shape[-1:])}"
                )
        rows = np.stack([part.decode().reshape(-1) for part in parts])
        return GgufTensor(spec.name, spec.shape, F32, F32.encode(rows))

    def tensor(self, name: str) -> GgufTensor:
        """A tensor of the schema, by its GGUF name."""
        return self.gguf.tensors[name]

    @cached_property
    def fingerprint(self) -> str:
        """Names the checkpoint, whichever weight type it was converted to."""
        found = Fingerprint()
        for spec in self.architecture.tensors(self.hyperparameters):
            if spec.role is Role.VECTOR:
                found.add_vector(self.tensor(spec.name).decode())
        adapters = self.metadata.get(ADAPTERS_KEY)
        if adapters is not None:
            if not isinstance(adapters, str):
                raise FormatError(
                    f"{self.path}: key {ADAPTERS_KEY} is not a text; convert it again"
                )
            found.add_adapters(adapters)
        return found.digits

    @cached_property
    def file_type(self) -> str:
        """The weight type that most bytes of matrices are in, for people to read."""
        n_bytes: dict[str, int] = {}
        for spec in self.architecture.tensors(self.hyperparameters):
            if spec.role is Role.MATRIX:
                tensor = self.tensor(spec.name)
                name = tensor.quant_format.__name__
                n_bytes[name] = n_bytes.get(name, 0) + tensor.raw.nbytes
        return max(n_bytes, key=lambda name: n_bytes[name])

    @cached_property
    def bytes_per_token(self) -> int:
        """Bytes of weights that one token reads if it reads each matrix whole.

        That is all of them but the embedding and other tables, of which it needs a row.
        """
        return sum(
            self.tensor(spec.name).raw.nbytes
            for spec in self.architecture.tensors(self.hyperparameters)
            if spec.role in (Role.MATRIX, Role.LORA) and spec.name != "token_embd.weight"
        )

    @property
    def n_parameters(self) -> int:
        """Weights of all tensors, whatever they are stored in."""
        return sum(math.prod(tensor.shape) for tensor in self.gguf.tensors.values())

    def require_whole(self) -> None:
        """Raise FormatError if the file was cut or written over since it was opened."""
        self.gguf.require_whole()

    def close(self) -> None:
        """Unmap the file."""
        self.gguf.close()


def without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without its dimensions of one, which writers of GGUF keep or drop as they like."""
    return tuple(n for n in shape if n != 1)
