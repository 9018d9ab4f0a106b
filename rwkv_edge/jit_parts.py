"""Functions that other compiled functions call: typed on their own, optimised inside their callers.

numba makes machine code of every function that another one calls, and links what it calls into it
to be optimised once more, level by level. Almost all kernels are called by kernels alone. As parts
they stay LLVM's intermediate code; what Python calls, or whose address is taken, is optimised once,
with all its parts.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numba
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.compiler_machinery import register_pass
from numba.core.targetconfig import ConfigStack
from numba.core.typed_passes import NativeLowering


class _PartLibrary(JITCodeLibrary):  # type: ignore[misc]
    """Intermediate code, with that of the parts it calls, which others link into theirs."""

    def _optimize_functions(self, module: Any) -> None:
        """Left to whoever links it, as all of optimising."""
        module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        """The same."""

    def _finalize_final_module(self) -> None:
        # No machine code: it is only ever linked.
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _PartLowering(NativeLowering):  # type: ignore[misc]
    """numba's lowering, but into a library of that kind."""

    _name = "part_lowering"

    def run_pass(self, state: Any) -> bool:
        state.library = _PartLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        # Callers find the code by whatever stands for the function that Python would call.
        entry_point, lowered = object(), state["cr"]
        state.targetctx.insert_user_function(entry_point, lowered.fndesc, [state.library])
        state["cr"] = lowered._replace(cfunc=entry_point)
        return True


class _PartCompiler(Compiler):  # type: ignore[misc]
    """numba's compiler with that lowering in place of its own."""

    def define_pipelines(self) -> list[Any]:
        pipelines: list[Any] = super().define_pipelines()
        for pipeline in pipelines:
            pipeline.passes = [
                (_PartLowering if step is NativeLowering else step, description)
                for step, description in pipeline.passes
            ]
            pipeline.finalize()
        return pipelines


def part(function: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """A dispatcher of a function that compiled functions alone can call; nothing goes to disk."""
    dispatcher = numba.njit(**options, no_cpython_wrapper=True, pipeline_class=_PartCompiler)(
        function
    )
    overloads = dispatcher.overloads
    # numba would also enter it in the table of calls from Python, which takes functions alone.
    dispatcher.add_overload = lambda result: overloads.update({result.signature.args: result})
    return dispatcher


def call_as_part(dispatcher: Any, part_for_caller: Callable[[], Any]) -> None:
    """Have compiled functions that call `dispatcher` take the part that fits them instead."""

    def call_template(args: Sequence[Any], kws: Mapping[str, Any]) -> Any:
        # A constant is a number like any: numba would compile the part once more for each that it
        # is called with, and LLVM already makes of constants what can be made of them.
        return part_for_caller().get_call_template(
            [numba.types.unliteral(kind) for kind in args],
            {name: numba.types.unliteral(kind) for name, kind in kws.items()},
        )

    dispatcher.get_call_template = call_template
    dispatcher.get_overload = lambda signature: part_for_caller().get_overload(signature)


def caller_is_exact() -> bool:
    """Does the function that is being compiled round every operation on its own?"""
    return not ConfigStack.top_or_none().fastmath
