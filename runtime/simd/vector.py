"""Vector types as numba types, and the operators + - * / on them."""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import models, register_model

LLVM_ELEMENTS = {
    "i8": ir.IntType(8),
    "i16": ir.IntType(16),
    "i32": ir.IntType(32),
    "f32": ir.FloatType(),
}


class Vector(types.Type):
    """`n_lanes` values of one element type, held in registers."""

    def __init__(self, element: str, n_lanes: int) -> None:
        self.element = element
        self.n_lanes = n_lanes
        super().__init__(name=f"{element}x{n_lanes}")

    @property
    def llvm(self) -> ir.VectorType:
        """The LLVM type of the value."""
        return ir.VectorType(LLVM_ELEMENTS[self.element], self.n_lanes)


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    """A vector is passed and stored as LLVM's own vector value."""

    def __init__(self, data_model_manager: Any, vector: Vector) -> None:
        super().__init__(data_model_manager, vector, vector.llvm)


f32x16 = Vector("f32", 16)
i32x16 = Vector("i32", 16)
i16x32 = Vector("i16", 32)
# Sixteen groups of four bytes, each group one lane of a dot product.
i8x64 = Vector("i8", 64)


def _define_operator(
    operation: Callable[..., Any], float_verb: str | None, int_verb: str | None
) -> None:
    """Give vectors one operator. Both sides must have the same type: nothing converts silently."""

    @infer_global(operation)
    class VectorOperator(AbstractTemplate):
        def generic(self, args: tuple[Any, ...], kws: dict[str, Any]) -> Any:
            del kws
            same = len(args) == 2 and isinstance(args[0], Vector) and args[0] == args[1]
            verb = float_verb if same and args[0].element == "f32" else int_verb
            return signature(args[0], *args) if same and verb is not None else None

    @lower_builtin(operation, Vector, Vector)
    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        del context
        verb = float_verb if sig.return_type.element == "f32" else int_verb
        return getattr(builder, str(verb))(*args)


_define_operator(operator.add, "fadd", "add")
_define_operator(operator.sub, "fsub", "sub")
_define_operator(operator.mul, "fmul", "mul")
_define_operator(operator.truediv, "fdiv", None)
_define_operator(operator.xor, None, "xor")
_define_operator(operator.or_, None, "or_")
