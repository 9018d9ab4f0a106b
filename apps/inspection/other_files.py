"""What lies beside a model and is handed over by mistake: tokenizers, configs, templates."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwkv_edge.apps.inspection.models import missing_for_tokenizer
from rwkv_edge.apps.inspection.schema import FileInfo, TokenizerInfo
from rwkv_edge.chat_template_file import read_chat_template
from rwkv_edge.errors import BackendUnavailableError, FormatError, UnsupportedModelError
from rwkv_edge.tokenizers.files import kind_of, load_tokenizer, text_of
from rwkv_edge.tokenizers.vocabulary_file import read_vocabulary

# Configs and indices are smaller; parsed JSON takes many times its size.
MAX_CONFIG_BYTES = 4 << 20
# The problem of everything here, unless there is another.
ALONE = "it is no model by itself"
NAMES = {
    "world": "vocabulary in the World format",
    "bytes": "vocabulary of bytes",
    "huggingface": "Hugging Face tokenizer",
    "sentencepiece": "sentencepiece tokenizer",
}


@dataclass(frozen=True)
class JsonKind:
    """A JSON file that is no tokenizer: by the keys that it has, what it is and what to do."""

    keys: frozenset[str]
    kind: str
    advice: str


NAME_THE_FOLDER = "name the folder that it lies in: rwkv-edge convert FOLDER"
# Keys of a chat template.
TEMPLATE_KEYS = frozenset({"user_prefix", "assistant_prefix"})
# The first whose keys are all there.
JSON_KINDS = (
    JsonKind(frozenset({"weight_map"}), "index of a checkpoint in parts", NAME_THE_FOLDER),
    JsonKind(frozenset({"model_type"}), "config of a Hugging Face model", NAME_THE_FOLDER),
    JsonKind(frozenset({"architectures"}), "config of a Hugging Face model", NAME_THE_FOLDER),
    JsonKind(
        frozenset({"tokenizer_class"}),
        "config of a Hugging Face tokenizer",
        "give the tokenizer itself, tokenizer.json or tokenizer.model beside it",
    ),
)


def describe_other(path: Path) -> FileInfo | None:
    """A file that lies beside models, or None for one that nobody here knows.

    Raises FormatError for a damaged one.
    """
    try:
        kind = kind_of(path)
    except FormatError:
        return None
    is_large = path.stat().st_size > MAX_CONFIG_BYTES
    content = None if kind != "huggingface" or is_large else json_object(path)
    if kind != "huggingface" or is_large or isinstance((content or {}).get("model"), dict):
        return describe_tokenizer(path, kind)
    return None if content is None else describe_json(path, content)


def describe_json(path: Path, content: dict[str, Any]) -> FileInfo | None:
    """A small JSON file that is no tokenizer, or None. Raises FormatError for a damaged one."""
    for known in JSON_KINDS:
        if known.keys <= content.keys():
            return other(path, known.kind, known.advice)
    if not content.keys() >= TEMPLATE_KEYS:
        return None
    read_chat_template(path)
    advice = f"chat by it: rwkv-edge chat MODEL --template {shlex.quote(str(path))}"
    return other(path, "chat template", advice)


def json_object(path: Path) -> dict[str, Any] | None:
    """The object in a small JSON file; None for anything else."""
    try:
        found = json.loads(text_of(path))
    # Deep nesting recurses.
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def describe_tokenizer(path: Path, kind: str) -> FileInfo:
    """A tokenizer file of this kind, read whole. Raises FormatError."""
    details: dict[str, str] = {}
    missing = missing_for_tokenizer(kind)
    if kind == "world":
        vocabulary = read_vocabulary(path)
        kind = vocabulary.kind
        details["ids"] = f"{vocabulary.n_ids:,}"
    elif missing is None:
        try:
            details["ids"] = f"{load_tokenizer(path).n_vocab:,}"
        except UnsupportedModelError as error:
            return other(path, NAMES[kind], None, str(error).removeprefix(f"{path}: "))
        except BackendUnavailableError as error:
            missing = str(error).removeprefix(f"{path}: ")
    name = shlex.quote(str(path))
    return FileInfo(
        path=path,
        kind=NAMES[kind],
        use="tokenize",
        n_bytes=path.stat().st_size,
        tokenizer=TokenizerInfo(kind, str(path), None, missing),
        problem=ALONE,
        advice="give it to the checkpoint that it belongs to: "
        f"rwkv-edge convert CHECKPOINT --tokenizer {name}",
        details=details,
    )


def other(path: Path, kind: str, advice: str | None, problem: str = ALONE) -> FileInfo:
    """A file of no use by itself."""
    return FileInfo(
        path=path,
        kind=kind,
        use="none",
        n_bytes=path.stat().st_size,
        problem=problem,
        advice=advice,
    )
