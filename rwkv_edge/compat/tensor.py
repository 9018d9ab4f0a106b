"""Numpy arrays where the official package gives torch tensors."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_edge.errors import InputError


class Tensor(npt.NDArray[np.float32]):
    """A float32 array that also answers to what published code calls on the tensors of `rwkv`.

    It shares memory as torch does (`numpy`, `detach`, `view`); only `clone` copies. `size` stays
    numpy's number; `shape`, `numel()` and `dim()` are the same in both worlds. torch's own
    functions take it too where torch is installed, see `__torch_function__`.
    """

    def detach(self) -> "Tensor":
        """Itself: nothing here records gradients."""
        return self

    def cpu(self) -> "Tensor":
        """Itself: it is in the CPU's memory."""
        return self

    def numpy(self) -> npt.NDArray[np.float32]:
        """A plain array of the same memory."""
        return np.asarray(self)

    def clone(self) -> "Tensor":
        """A copy."""
        return np.array(self, order="K").view(Tensor)

    def contiguous(self) -> "Tensor":
        """Itself if its rows lie one after the other in memory, else a copy of which they do."""
        return self if self.flags.c_contiguous else np.array(self, order="C").view(Tensor)

    def to(self, *where: object, **options: object) -> "Tensor":
        """Itself: everything here is float32 on the CPU, whatever type is asked for.

        Raises InputError for a device other than the CPU.
        """
        for place in (*where, options.get("device")):
            # A torch.device has a type, a torch.dtype has none.
            device = getattr(place, "type", place)
            if isinstance(device, str) and device.split(":")[0] != "cpu":
                raise InputError(f"tensors cannot be moved to {device}; they stay on the CPU")
        return self

    def numel(self) -> int:
        """How many numbers it holds."""
        return int(np.asarray(self).size)

    def dim(self) -> int:
        """How many axes it has."""
        return self.ndim

    def unsqueeze(self, dim: int) -> "Tensor":
        """A view with an axis of one at `dim`."""
        return np.expand_dims(np.asarray(self), dim).view(Tensor)

    def view(self, *shape: Any) -> Any:  # type: ignore[override]
        """Of numbers: the same memory in another shape; of a type: what numpy's `view` does."""
        sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
        if sizes and all(isinstance(size, (int, np.integer)) for size in sizes):
            seen = self.reshape(tuple(sizes))
            # numpy copies where torch refuses; what is written into a copy would be lost.
            if not np.may_share_memory(seen, self):
                raise InputError("this view needs a copy; call contiguous() first")
            return seen
        return super().view(*shape)

    def argmax(self, dim: int | None = None, keepdim: bool = False, **numpys: Any) -> Any:  # type: ignore[override]
        """The place of the largest number, over all or along `dim`."""
        axis = numpys.pop("axis", dim)
        keepdims = numpys.pop("keepdims", keepdim)
        return np.argmax(np.asarray(self), axis, keepdims=keepdims, **numpys)

    def softmax(self, dim: int = -1) -> "Tensor":
        """Probabilities along `dim`."""
        return softmax(self, dim).view(Tensor)

    def copy_(self, source: npt.ArrayLike) -> "Tensor":
        """Take over the numbers of `source`, in place."""
        np.copyto(self, np.asarray(source, np.float32))
        return self

    def zero_(self) -> "Tensor":
        """Become all zeros, in place."""
        self.fill(0)
        return self

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """What torch calls when a function of its own meets one of these: it gets real tensors.

        So `torch.argmax(logits)` and `F.softmax(logits, dim=-1)` work, and give what torch gives.
        """
        del types
        return function(*map(as_torch, args), **{k: as_torch(v) for k, v in (kwargs or {}).items()})

    # After all others: within the class, its name hides the built-in type.
    def float(self) -> "Tensor":
        """Itself: its numbers are float32."""
        return self


def as_torch(value: Any) -> Any:
    """A torch tensor of the same memory for a `Tensor`; also inside lists and tuples."""
    if isinstance(value, Tensor):
        # Only torch itself leads here, so it is there; nothing of this package imports it.
        return sys.modules["torch"].from_numpy(value.numpy())
    if type(value) in (list, tuple):
        return type(value)(map(as_torch, value))
    return value


def softmax(logits: npt.ArrayLike, axis: int = -1) -> npt.NDArray[np.float32]:
    """Probabilities in float32, as torch computes them: a new plain array."""
    numbers = np.asarray(logits, np.float32)
    # Infinite ones give NaN, which callers look for.
    with np.errstate(invalid="ignore"):
        p: npt.NDArray[np.float32] = np.exp(numbers - numbers.max(axis, keepdims=True))
        p /= p.sum(axis, keepdims=True)
    return p
