"""A chat template out of a file.

JSON, because Python 3.10 reads no TOML without another package, and because the line ends of a
template are best seen as \\n:

    {
      "system_prefix": "",
      "user_prefix": "Question: ",
      "assistant_prefix": "Answer:",
      "separator": "\\n\\n",
      "stops": ["\\n\\nQuestion:"]
    }
"""

import json
from pathlib import Path

from rwkv_edge.chat_templates import ChatTemplate
from rwkv_edge.errors import FormatError, shown
from rwkv_edge.gguf_reader import require_no_pipe

TEMPLATE_SUFFIX = ".json"
# A template is a few hundred bytes.
MAX_TEMPLATE_BYTES = 1 << 16
TEXTS = ("system_prefix", "user_prefix", "assistant_prefix", "separator")
STOPS, NAME = "stops", "name"
# What a cleaned text never holds.
BLANK_LINE = "\n\n"


def read_chat_template(path: str | Path) -> ChatTemplate:
    """The template in a JSON file: the fields of `ChatTemplate`; the name may be left out.

    Raises FormatError, which says what is wrong with it, or that the file cannot be read.
    """
    path = Path(path)
    fields = read_object(path)
    for name in (*TEXTS, STOPS):
        if name not in fields:
            raise FormatError(f"{path}: {name} is missing; {wanted()}")
    for name, value in fields.items():
        if name not in (*TEXTS, STOPS, NAME):
            raise FormatError(f"{path}: {shown(name)} is no part of a chat template; {wanted()}")
        if name != STOPS and not isinstance(value, str):
            raise FormatError(f"{path}: {name} is not a text")
    stops = fields[STOPS]
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise FormatError(f"{path}: {STOPS} is not a list of texts")
    texts = {name: str(fields[name]) for name in TEXTS}
    separator = texts["separator"]
    if BLANK_LINE not in separator:
        raise FormatError(
            f"{path}: the separator holds no blank line (\\n\\n), so that a text could end its own "
            "turn"
        )
    for stop in stops:
        if not stop.startswith(separator):
            raise FormatError(
                f"{path}: the stop text {shown(stop)} does not begin as the separator"
            )
    if not texts["assistant_prefix"]:
        raise FormatError(f"{path}: assistant_prefix is empty, so that nobody would answer")
    return ChatTemplate(name=str(fields.get(NAME, path.stem)), **texts, stops=tuple(stops))


def read_object(path: Path) -> dict[str, object]:
    """The object in a small JSON file; raises FormatError."""
    require_no_pipe(path)
    try:
        if path.stat().st_size > MAX_TEMPLATE_BYTES:
            raise FormatError(f"{path}: is too large for a chat template")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error
    # Also the UnicodeDecodeError of bytes that are no text; deep nesting recurses.
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: is no JSON: {shown(str(error))}") from None
    if not isinstance(content, dict):
        raise FormatError(f"{path}: is no JSON object; {wanted()}")
    return content


def wanted() -> str:
    """What a file has to hold."""
    return f"wanted are {', '.join((*TEXTS, STOPS))}, and {NAME} if it has another than the file"
