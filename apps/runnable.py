"""The file that an engine runs: the one that was named, or an ONNX made of it for a while."""

import contextlib
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from types import TracebackType

from rwkv_edge.apps import console
from rwkv_edge.apps.documents import ending_gently
from rwkv_edge.errors import InputError
from rwkv_edge.model_files import open_model_file
from rwkv_edge.onnx_model_file import OnnxModelFile

ONNX = "onnx"


class Runnable:
    """A model's file, and the ONNX of it, which is exported once the first engine asks for it.

    onnx: an ONNX of the same model, which is run instead of an export. A context: what was exported
    is gone after it, also if the program is asked to end.
    """

    def __init__(self, path: Path, threads: int | None = None, onnx: Path | None = None) -> None:
        self.path = path
        self._threads = threads
        self._given = onnx
        self._found: Path | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Runnable":
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def for_engine(self, name: str | None) -> Path:
        """The file for an engine, by its name for `Model.load`; exports it where that takes one.

        Raises what opening and exporting a model raise, InputError for an ONNX that is of another
        model than the file, BackendUnavailableError for an engine that could not run it anyway.
        """
        from rwkv_edge.runtime.backends import engine_of

        if name is None or engine_of(name) != ONNX:
            return self.path
        if self._found is None:
            self._found = self._onnx_file(name)
        return self._found

    def _onnx_file(self, name: str) -> Path:
        with closing(open_model_file(self.path)) as file:
            if isinstance(file, OnnxModelFile):
                return self.path
            if self._given is not None:
                require_same(file.fingerprint, self.path, self._given)
                return self._given
        from rwkv_edge.runtime.backends import require_onnxruntime

        require_onnxruntime(name)
        return self._export()

    def _export(self) -> Path:
        from rwkv_edge.converters.onnx.export import convert_to_onnx

        self._stack.enter_context(ending_gently())
        folder = tempfile.TemporaryDirectory(prefix="rwkv-edge-", ignore_cleanup_errors=True)
        path = Path(self._stack.enter_context(folder), self.path.name).with_suffix(".onnx")
        if sys.stderr.isatty():
            console.note(
                f"exporting {self.path.name} to ONNX, for this run alone; "
                f"rwkv-edge convert {self.path} --onnx keeps it"
            )
        with console.progress("exporting", "bytes") as progress:
            # Weights beside it are mapped by onnxruntime, of which it would otherwise keep a copy.
            convert_to_onnx(
                self.path,
                path,
                None,
                threads=self._threads,
                progress=progress,
                external_data=True,
            )
        return path


def require_same(fingerprint: str, path: Path, onnx: Path) -> None:
    """Raise InputError unless a file is an ONNX of the model that is in `path`."""
    with closing(open_model_file(onnx)) as file:
        if not isinstance(file, OnnxModelFile):
            raise InputError(
                f"{onnx}: is no ONNX; rwkv-edge convert {path} --onnx makes one of this model"
            )
        if file.fingerprint != fingerprint:
            raise InputError(
                f"{onnx}: is of another checkpoint than {path}; rwkv-edge convert {path} --onnx "
                "makes one of that"
            )
