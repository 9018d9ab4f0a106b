"""Named tuples passed by reference: as one pointer, not as the numbers of all their arrays.

An array is five numbers and two for each dimension. The compiler would take tuples of dozens of
arrays apart and put them together at every call, and the CPU would copy them.
"""

from typing import Any

from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_getattr_generic
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import intrinsic, models, register_model


class Reference(types.Type):
    """Where a named tuple lies. Its members are read when they are named."""

    def __init__(self, members: types.BaseNamedTuple) -> None:
        self.members = members
        super().__init__(name=f"Reference({members})")


@register_model(Reference)
class ReferenceModel(models.PrimitiveModel):
    """A pointer to the tuple as numba holds it in registers."""

    def __init__(self, data_model_manager: Any, reference: Reference) -> None:
        pointee = data_model_manager[reference.members].get_value_type()
        super().__init__(data_model_manager, reference, pointee.as_pointer())


@infer_getattr
class ReferenceAttributes(AttributeTemplate):
    """Those of the tuple; of a tuple within it, a reference."""

    key = Reference

    def generic_resolve(self, reference: Reference, name: str) -> Any:
        """The type of a member, or None if there is no such."""
        if name not in reference.members.fields:
            return None
        member = reference.members[reference.members.fields.index(name)]
        return Reference(member) if isinstance(member, types.BaseNamedTuple) else member


@lower_getattr_generic(Reference)
def read_member(context: Any, builder: Any, reference: Any, value: Any, name: str) -> Any:
    """Load a member, or say where it lies if it is a tuple."""
    del context
    position = reference.members.fields.index(name)
    pointer = cgutils.gep_inbounds(builder, value, 0, position)
    is_tuple = isinstance(reference.members[position], types.BaseNamedTuple)
    return pointer if is_tuple else builder.load(pointer)


@intrinsic
def by_reference(typing_context: Any, members: Any) -> Any:
    """A reference to a copy of a named tuple on the stack of the function that says this.

    It must not outlive that function; nor may a function say this that vanishes into its callers.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return cgutils.alloca_once_value(builder, args[0])

    accepted = isinstance(members, types.BaseNamedTuple)
    return (Reference(members)(members), codegen) if accepted else None


@intrinsic
def by_value(typing_context: Any, members: Any) -> Any:
    """The named tuple that a reference leads to; one that is no reference is what it is."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(args[0]) if isinstance(sig.args[0], Reference) else args[0]

    if isinstance(members, Reference):
        return members.members(members), codegen
    return (members(members), codegen) if isinstance(members, types.BaseNamedTuple) else None
