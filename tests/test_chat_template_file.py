import json
import os
from pathlib import Path
from typing import Any

import pytest

from rwkv_edge.chat import find_template
from rwkv_edge.chat_template_file import MAX_TEMPLATE_BYTES, read_chat_template
from rwkv_edge.chat_templates import RAVEN, WORLD, ChatTemplate
from rwkv_edge.errors import FormatError, InputError

FIELDS: dict[str, Any] = {
    "system_prefix": "",
    "user_prefix": "Question: ",
    "assistant_prefix": "Answer:",
    "separator": "\n\n",
    "stops": ["\n\nQuestion:"],
}


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("t") / "quiz.json"


def test_a_template_is_its_fields(path: Path) -> None:
    path.write_text(json.dumps(FIELDS))
    template = read_chat_template(path)
    assert template == ChatTemplate("quiz", "", "Question: ", "Answer:", "\n\n", ("\n\nQuestion:",))
    assert template.turn("Why?") == "Question: Why?\n\nAnswer:"
    path.write_text(json.dumps(FIELDS | {"name": "other", "stops": []}))
    assert (read_chat_template(path).name, read_chat_template(path).stops) == ("other", ())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is no JSON"),
        ("{", "is no JSON"),
        ("[" * 50_000, "is no JSON"),
        ("[]", "no JSON object; wanted are system_prefix"),
        (FIELDS | {"stops": "\n\n"}, "stops is not a list"),
        (FIELDS | {"stops": ["\n\n", 1]}, "stops is not a list of texts"),
        (FIELDS | {"stops": ["Question:"]}, "does not begin as the separator"),
        (FIELDS | {"user_prefix": 1}, "user_prefix is not a text"),
        (FIELDS | {"name": ["x"]}, "name is not a text"),
        (FIELDS | {"prefix": "x"}, "prefix is no part of a chat template; wanted are"),
        (FIELDS | {"\n\x1b": "x"}, "is no part of"),
        (FIELDS | {"separator": "\n"}, "holds no blank line"),
        (FIELDS | {"assistant_prefix": ""}, "nobody would answer"),
        ({"user_prefix": "Q: "}, "system_prefix is missing"),
        (FIELDS | {"user_prefix": "x" * MAX_TEMPLATE_BYTES}, "too large"),
    ],
)
def test_a_file_that_is_no_template_is_refused_in_one_line(
    path: Path, content: Any, message: str
) -> None:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(FormatError, match=message) as caught:
        read_chat_template(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()


def test_a_file_that_cannot_be_read_is_refused(path: Path) -> None:
    with pytest.raises(FormatError, match="cannot be read: No such file"):
        read_chat_template(path)
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(FormatError, match="no JSON"):
        read_chat_template(path)
    if hasattr(os, "mkfifo"):
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(FormatError, match="not a regular file"):
            read_chat_template(path)


def test_templates_are_found_by_name_and_by_file(path: Path) -> None:
    assert find_template("world") is WORLD
    assert find_template("raven") is RAVEN
    assert find_template(RAVEN) is RAVEN
    path.write_text(json.dumps(FIELDS))
    assert find_template(path) == find_template(str(path)) == read_chat_template(path)
    with pytest.raises(InputError, match=r"'rave' does not exist; there are world, raven, and"):
        find_template("rave")
