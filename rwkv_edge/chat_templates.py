"""How a conversation becomes the text that chat models were trained on, and how answers are read.

A template is data: a model with other speakers is one more entry of `CHAT_TEMPLATES`, or a file,
see `chat_template_file`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

from rwkv_edge.errors import InputError

LINE_ENDS = re.compile(r"[\r\n]+")
THINK_BEGIN = "<think>"
THINK_END = "</think>"


class ThinkMode(Enum):
    """How an answer begins; the value is what the prompt ends with, after "Assistant:".

    The last ">" is left to the model: that is how the thinking models were trained.
    Source: the RWKV-7 G1 model card.
    """

    NONE = ""
    THINK = " <think"
    # The model finds its thinking already over, and answers at once.
    FAKE = " <think>\n</think"
    FAKE_SHORT = " <think></think"


class ThinkLength(Enum):
    """A hint at the end of the user's text: how long to think."""

    UNSAID = ""
    THINK = " (think)"
    A_BIT = " (think a bit)"
    A_LOT = " (think a lot)"


@dataclass(frozen=True)
class Message:
    """One turn. role: "system", "user" or "assistant"."""

    role: str
    content: str


@dataclass(frozen=True)
class ChatTemplate:
    """The words around the turns. A prompt ends without a space: the model's first token has it.

    separator: follows every turn, and cannot occur inside a cleaned one.
    stops: texts that end an answer, beside the end-of-document token. They begin with the
    separator, and what they end is the answer: read the separator before the next turn.
    """

    name: str
    system_prefix: str
    user_prefix: str
    assistant_prefix: str
    separator: str
    stops: tuple[str, ...]

    @staticmethod
    def clean(text: str) -> str:
        """A system or user text on consecutive lines, so that it cannot end its turn."""
        return LINE_ENDS.sub("\n", text).strip()

    def system(self, text: str | None) -> str:
        """The beginning of a conversation; nothing without a system text."""
        cleaned = self.clean(text or "")
        return f"{self.system_prefix}{cleaned}{self.separator}" if cleaned else ""

    def turn(
        self,
        text: str,
        think: ThinkMode = ThinkMode.NONE,
        length: ThinkLength = ThinkLength.UNSAID,
    ) -> str:
        """What the user says, up to where the model answers."""
        return f"{self._user(text, length)}{self.assistant_prefix}{think.value}"

    def _user(self, text: str, length: ThinkLength = ThinkLength.UNSAID) -> str:
        return f"{self.user_prefix}{self.clean(text)}{length.value}{self.separator}"

    def prompt(
        self,
        messages: Sequence[Message],
        think: ThinkMode = ThinkMode.NONE,
        length: ThinkLength = ThinkLength.UNSAID,
    ) -> str:
        """A whole conversation, up to where the model answers its last message, the user's.

        Earlier answers keep their paragraphs. Raises InputError for an unknown role, and where
        the last message is not the user's.
        """
        if not messages or messages[-1].role != "user":
            raise InputError("a conversation must end with a message of the user")
        return "".join(map(self._earlier, messages[:-1])) + self.turn(
            messages[-1].content, think, length
        )

    def _earlier(self, message: Message) -> str:
        if message.role == "system":
            return self.system(message.content)
        if message.role == "user":
            return self._user(message.content)
        if message.role == "assistant":
            return f"{self.assistant_prefix} {message.content.strip()}{self.separator}"
        raise InputError(f"role {message.role!r} is unknown; known are system, user and assistant")


# "\n\nUser" is what World models are stopped at everywhere. The colon of the other two keeps a
# paragraph that begins with "Systems" from ending the answer.
WORLD: Final = ChatTemplate(
    name="world",
    system_prefix="System: ",
    user_prefix="User: ",
    assistant_prefix="Assistant:",
    separator="\n\n",
    stops=("\n\nUser", "\n\nSystem:", "\n\nAssistant:"),
)

# Raven, the chat models of RWKV-4 Pile. They know no system text as such: what stands before the
# first turn says who speaks. The colons keep a paragraph about Bob from ending the answer.
RAVEN: Final = ChatTemplate(
    name="raven",
    system_prefix="",
    user_prefix="Bob: ",
    assistant_prefix="Alice:",
    separator="\n\n",
    stops=("\n\nBob:", "\n\nAlice:"),
)

CHAT_TEMPLATES: Final = MappingProxyType({template.name: template for template in (WORLD, RAVEN)})
# This project's key in a GGUF: a name in CHAT_TEMPLATES. Without it, WORLD.
TEMPLATE_KEY: Final = "rwkv_edge.chat_template"


def template_name_in_gguf(metadata: Mapping[str, object]) -> str:
    """Which template a model's metadata name; it may be one that is not known here."""
    name = metadata.get(TEMPLATE_KEY)
    return name if isinstance(name, str) else WORLD.name


def split_answer(text: str, think: ThinkMode = ThinkMode.NONE) -> tuple[str, str]:
    """A finished answer, generated after a prompt with `think`: its thinking, and what to show."""
    splitter = AnswerSplitter(think)
    thinking, shown = splitter.push(text)
    more_thinking, more_shown = splitter.flush()
    return thinking + more_thinking, shown + more_shown


class AnswerSplitter:
    """Parts an answer into thinking and text to show, while it comes.

    Thinking lies between <think> at the very beginning and the first </think>, or the end. Neither
    part ever holds a tag, a piece of one, or white space at its ends.
    """

    def __init__(self, think: ThinkMode = ThinkMode.NONE) -> None:
        """think: the mode of the prompt, which already holds the beginning of the answer."""
        self._thinking: bool | None = None
        self._opening = think.value.strip()
        self._held = ""
        # Whether something of the present part came out: until then, white space is dropped.
        self._begun = False
        self.push(think.value)

    def push(self, text: str) -> tuple[str, str]:
        """Take what was generated; gives (thinking, shown) that are certain by now."""
        self._held += text
        thinking = ""
        if self._thinking is None:
            self._held = self._held.lstrip()
            if self._held != THINK_BEGIN and THINK_BEGIN.startswith(self._held):
                return "", ""
            self._thinking = self._held.startswith(THINK_BEGIN)
            if self._thinking:
                self._held = self._held[len(THINK_BEGIN) :]
        if self._thinking:
            before, tag, after = self._held.partition(THINK_END)
            if not tag:
                return self._release(length_of_possible_tag(before)), ""
            self._held = before
            thinking = self._release(0)
            self._thinking, self._held, self._begun = False, after, False
        return thinking, self._release(0)

    def flush(self) -> tuple[str, str]:
        """What was held back at the end; an unfinished tag of the prompt is nothing."""
        held, self._held = self._held.rstrip(), ""
        if self._thinking is None and held != self._opening:
            return "", held
        return "", ""

    def _release(self, n_held: int) -> str:
        """What of the held text is certain: all but its last `n_held` and white space before."""
        end = len(self._held) - n_held
        text = self._held[:end].rstrip()
        self._held = self._held[len(text) :]
        if not self._begun:
            text = text.lstrip()
            self._begun = bool(text)
        return text


def length_of_possible_tag(text: str) -> int:
    """How many characters at the end of `text` may become </think>."""
    for length in range(len(THINK_END) - 1, 0, -1):
        if text.endswith(THINK_END[:length]):
            return length
    return 0
