"""Which part may import which: walked over all sources, without running them."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Folders of the repository, and the packages that they are installed as.
PACKAGES = {
    "rwkv_edge": "rwkv_edge",
    "converters": "rwkv_edge.converters",
    "runtime": "rwkv_edge.runtime",
    "apps": "rwkv_edge.apps",
}
# The other parts that each may use.
BELOW = {
    "rwkv_edge": set(),
    "converters": {"rwkv_edge"},
    "runtime": {"rwkv_edge"},
    "apps": {"rwkv_edge", "converters", "runtime"},
}
# Distributions that each may import when it is itself imported ...
EXTERNAL = {
    "rwkv_edge": {"numpy"},
    "converters": {"numpy", "gguf", "safetensors"},
    "runtime": {"numpy", "numba"},
    "apps": {"typer", "rich"},
}
# ... and further ones inside functions, where they cost nothing until they are needed.
EXTERNAL_LATER = {
    "rwkv_edge": {"gguf", "safetensors"},
    "converters": set(),
    "runtime": set(),
    "apps": set(),
}
# Single places, by the beginning of a path, with what they alone may import.
EXCEPTIONS = {
    "rwkv_edge/jit": "numba",
    "rwkv_edge/tokenizers/huggingface.py": "tokenizers",
    "rwkv_edge/tokenizers/sentence_pieces.py": "sentencepiece",
    "converters/onnx/": "onnx",
    "runtime/simd/": "llvmlite",
    "runtime/backends/llama_cpp.py": "llama_cpp",
    "runtime/backends/onnx.py": "onnxruntime",
}
# Inside `runtime`, each imports its own row and those above it.
RUNTIME_ORDER = (
    {"simd"},
    {"kernels"},
    {"team", "batch", "arena", "bandwidth", "reference"},
    {"arch"},
    {"backends"},
)


@dataclass(frozen=True)
class Import:
    """One imported module; later: only when a function runs, or for a type checker."""

    source: str
    line: int
    module: str
    later: bool

    @property
    def part(self) -> str:
        return self.source.split("/")[0]

    def __str__(self) -> str:
        return f"{self.source}:{self.line} imports {self.module}"


def sources() -> list[Path]:
    return sorted(path for folder in PACKAGES for path in (ROOT / folder).rglob("*.py"))


def module_names() -> set[str]:
    names = set()
    for path in sources():
        folder, *rest = path.relative_to(ROOT).with_suffix("").parts
        names.add(".".join([PACKAGES[folder], *(part for part in rest if part != "__init__")]))
    return names


def imports_of(path: Path, known: set[str]) -> Iterator[Import]:
    source = path.relative_to(ROOT).as_posix()

    def walk(node: ast.AST, later: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(source, child.lineno, alias.name, later)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{source}:{child.lineno}: a relative import"
                assert child.module is not None
                for alias in child.names:
                    whole = f"{child.module}.{alias.name}"
                    module = whole if whole in known else child.module
                    yield Import(source, child.lineno, module, later)
            else:
                runs_later = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                yield from walk(child, later or runs_later or is_type_checking(child))

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), False)


def is_type_checking(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


def part_of(module: str) -> str:
    """The folder that a module of ours lies in."""
    for folder, package in PACKAGES.items():
        if folder != "rwkv_edge" and (module == package or module.startswith(package + ".")):
            return folder
    return "rwkv_edge"


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    known = module_names()
    found = [found for path in sources() for found in imports_of(path, known)]
    assert len(found) > 200, "the walk found too little to prove anything"
    return found


def ours(imports: list[Import]) -> list[Import]:
    return [i for i in imports if i.module.split(".")[0] == "rwkv_edge"]


def test_parts_import_only_what_lies_below_them(imports: list[Import]) -> None:
    wrong = []
    for found in ours(imports):
        wanted = part_of(found.module)
        # `Model.load` and the tokenizers reach for the runtime, and `compat` for the converters,
        # but only once they are called.
        reachable = {"runtime"}
        if found.source.startswith("rwkv_edge/compat/"):
            reachable.add("converters")
        reaches_later = found.later and found.part == "rwkv_edge" and wanted in reachable
        if wanted != found.part and wanted not in BELOW[found.part] and not reaches_later:
            wrong.append(str(found))
    assert not wrong


def test_only_listed_distributions_are_imported(imports: list[Import]) -> None:
    wrong = []
    for found in imports:
        top = found.module.split(".")[0]
        if top == "rwkv_edge" or top in sys.stdlib_module_names:
            continue
        allowed = EXTERNAL[found.part] | (
            EXTERNAL_LATER.get(found.part, set()) if found.later else set()
        )
        allowed |= {name for place, name in EXCEPTIONS.items() if found.source.startswith(place)}
        if top not in allowed:
            wrong.append(str(found))
    assert not wrong


def test_numba_is_reached_through_jit_by_compiled_code_alone(imports: list[Import]) -> None:
    wrong = [
        str(found)
        for found in ours(imports)
        if found.module == "rwkv_edge.jit"
        and found.part not in {"runtime", "converters"}
        and not found.later
    ]
    assert not wrong


def test_apps_import_compiled_code_only_inside_functions(imports: list[Import]) -> None:
    wrong = [
        str(found)
        for found in ours(imports)
        if found.part == "apps"
        and part_of(found.module) in {"runtime", "converters"}
        and not found.later
    ]
    assert not wrong


def test_runtime_never_imports_backwards(imports: list[Import]) -> None:
    rank = {name: i for i, names in enumerate(RUNTIME_ORDER) for name in names}
    wrong = []
    for found in ours(imports):
        if found.part != "runtime" or part_of(found.module) != "runtime":
            continue
        importer = found.source.removeprefix("runtime/").removesuffix(".py").split("/")[0]
        imported = found.module.removeprefix("rwkv_edge.runtime.").split(".")[0]
        if rank[imported] > rank[importer]:
            wrong.append(str(found))
    assert not wrong


def test_no_module_is_imported_from_a_string() -> None:
    """A frozen desktop build would miss it."""
    wrong = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called == "__import__" or called.endswith("import_module"):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {called}")
    assert not wrong


def test_every_package_is_listed_for_the_wheel() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for path in sources():
        folder, *rest = path.relative_to(ROOT).parent.parts
        package = ".".join([PACKAGES[folder], *rest])
        assert f'"{package}",' in text, f"pyproject.toml does not list {package}"


@pytest.mark.parametrize(
    "code",
    [
        "import rwkv_edge",
        "from rwkv_edge.apps.cli import main; assert main(['--help']) == 0",
        "from rwkv_edge.apps.cli import main; assert main(['chat', '--help']) == 0",
    ],
)
def test_what_is_slow_to_import_is_not_imported_before_it_is_needed(code: str) -> None:
    heavy = (
        "{'numba', 'llvmlite', 'llama_cpp', 'torch', 'safetensors', 'tokenizers', 'onnx', "
        "'onnxruntime', 'gguf', 'sentencepiece'}"
    )
    script = f"import sys\n{code}\nfound = {heavy} & set(sys.modules)\nassert not found, found"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
