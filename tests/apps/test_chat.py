"""`rwkv-edge chat`, from a pipe and on a terminal."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rwkv_edge import Model
from rwkv_edge.chat_templates import ThinkMode
from rwkv_edge.sampling import SamplingOptions

Process = Callable[..., "subprocess.CompletedProcess[str]"]
QUESTION = "What is a database?"
GREEDY = ("-n", "15", "--temperature", "0")


def answers(gguf: Path, *questions: str, system: str | None = None) -> list[str]:
    """What the library answers."""
    with Model.load(gguf) as model:
        greedy = SamplingOptions(temperature=0)
        chat = model.chat(system, sampling=greedy, max_tokens=15)
        return ["".join(chat.send(question)) for question in questions]


def test_piped_lines_are_questions_and_stdout_holds_the_answers_alone(
    run_process: Process, gguf: Path
) -> None:
    result = run_process("chat", gguf, *GREEDY, input=f"{QUESTION}\n\nAnd a file?\n")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "".join(f"{a}\n" for a in answers(gguf, QUESTION, "And a file?"))
    assert result.stderr == ""


def test_a_last_line_without_an_end_is_a_question_too(run_process: Process, gguf: Path) -> None:
    result = run_process("chat", gguf, *GREEDY, input=QUESTION)
    assert result.stdout == answers(gguf, QUESTION)[0] + "\n"


def test_undo_makes_as_if_a_question_had_not_been(run_process: Process, gguf: Path) -> None:
    lines = f"{QUESTION}\nSomething else?\n/undo\n/undo\n/undo\n{QUESTION}\n"
    result = run_process("chat", gguf, *GREEDY, input=lines)
    first, other = answers(gguf, QUESTION, "Something else?")
    assert result.stdout == f"{first}\n{other}\n{first}\n"
    assert result.stderr.splitlines() == [
        "taken back",
        "taken back",
        "there is nothing to take back",
    ]


def test_reset_and_system_begin_anew(run_process: Process, gguf: Path) -> None:
    lines = f"{QUESTION}\n/reset\n{QUESTION}\n/system Be brief.\n{QUESTION}\n"
    result = run_process("chat", gguf, *GREEDY, input=lines)
    (plain,) = answers(gguf, QUESTION)
    (brief,) = answers(gguf, QUESTION, system="Be brief.")
    assert result.stdout == f"{plain}\n{plain}\n{brief}\n"
    given = run_process("chat", gguf, "--system", "Be brief.", *GREEDY, input=QUESTION)
    assert given.stdout == f"{brief}\n"


def test_a_template_can_be_named(run_process: Process, gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "quiz.json"
    fields = {
        "system_prefix": "", "user_prefix": "Q: ", "assistant_prefix": "A:",
        "separator": "\n\n", "stops": ["\n\nQ:"],
    }  # fmt: skip
    path.write_text(json.dumps(fields))
    for template in ("raven", str(path)):
        result = run_process("chat", gguf, "--template", template, *GREEDY, input=QUESTION)
        with Model.load(gguf) as model:
            greedy = SamplingOptions(temperature=0)
            chat = model.chat(template=template, sampling=greedy, max_tokens=15)
            assert result.stdout == "".join(chat.send(QUESTION)) + "\n"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("rave", "'rave' does not exist; there are world, raven"),
        ("nowhere.json", "nowhere.json: cannot be read: No such file"),
    ],
)
def test_a_template_that_does_not_exist_is_one_line(
    run_process: Process, gguf: Path, template: str, message: str
) -> None:
    result = run_process("chat", gguf, "--template", template, input=QUESTION)
    assert (result.returncode, result.stdout) == (1, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_saved_conversation_goes_on(run_process: Process, gguf: Path, tmp_path: Path) -> None:
    kept = tmp_path / "talk.state"
    saved = run_process("chat", gguf, *GREEDY, input=f"{QUESTION}\n/save {kept}\nAnd then?\n")
    loaded = run_process("chat", gguf, *GREEDY, input=f"/load {kept}\nAnd then?\n")
    at_start = run_process("chat", gguf, "--load", kept, *GREEDY, input="And then?\n")
    assert loaded.returncode == 0, loaded.stderr
    assert saved.stdout.splitlines()[-1:] == loaded.stdout.splitlines()[-1:]
    assert at_start.stdout == loaded.stdout != ""


def test_quit_ends_it_at_once(run_process: Process, gguf: Path) -> None:
    result = run_process("chat", gguf, *GREEDY, input=f"/quit\n{QUESTION}\n")
    assert (result.returncode, result.stdout) == (0, "")


def test_think_modes_change_the_prompt(run_process: Process, gguf: Path) -> None:
    result = run_process("chat", gguf, *GREEDY, input=f"/think fake\n{QUESTION}\n")
    with Model.load(gguf) as model:
        chat = model.chat(sampling=SamplingOptions(temperature=0), max_tokens=15)
        wanted = "".join(chat.send(QUESTION, think=ThinkMode.FAKE))
    assert result.stdout == wanted + "\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/nonsense", "/nonsense is no command"),
        ("/load", "/load needs the name of a file"),
        ("/load nowhere.state", "nowhere.state: No such file or directory"),
        ("/save /nowhere/a.state", "/nowhere/a.state"),
        ("/think hard", "think mode 'hard' does not exist"),
    ],
)
def test_a_wrong_command_in_a_script_is_one_line_and_ends_it(
    run_process: Process, gguf: Path, line: str, message: str
) -> None:
    result = run_process("chat", gguf, *GREEDY, input=f"{line}\n{QUESTION}\n")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("rwkv-edge: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


class Terminal:
    """A person at a terminal: the program believes that it has one."""

    def __init__(self, start: Callable[..., "subprocess.Popen[str]"], *arguments: object) -> None:
        import pty

        self.here, there = pty.openpty()
        options = {"stdin": there, "stdout": there, "stderr": there, "text": False}
        self.process = start(*arguments, **options)
        os.close(there)
        self.seen = ""

    def wait_for(self, text: str, timeout_s: float = 60) -> None:
        """Read until this appears; what came before is forgotten."""
        deadline = time.monotonic() + timeout_s
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} did not come; there is {self.seen!r}"
            if select.select([self.here], [], [], left)[0]:
                self.seen += os.read(self.here, 4096).decode("utf-8", "replace")
        self.seen = self.seen.split(text, 1)[1]

    def type(self, line: str) -> None:
        os.write(self.here, line.encode() + b"\n")

    def interrupt(self) -> None:
        self.signal(signal.SIGINT)

    def signal(self, number: int) -> None:
        # The program waits for input by now: a signal just before that waits with it.
        time.sleep(0.5)
        self.process.send_signal(number)


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX")
class TestOnATerminal:
    @pytest.fixture
    def terminal(
        self, start_process: Callable[..., "subprocess.Popen[str]"], endless_gguf: Path
    ) -> Terminal:
        return Terminal(start_process, "chat", endless_gguf, "-n", "1000000", "--seed", "1")

    def test_ctrl_c_ends_the_answer_and_the_conversation_goes_on(self, terminal: Terminal) -> None:
        terminal.wait_for("> ")
        terminal.type(QUESTION)
        terminal.wait_for("\n")
        terminal.interrupt()
        terminal.wait_for(" ...\r\n")
        terminal.wait_for("> ")
        terminal.type("/undo")
        terminal.wait_for("taken back")
        terminal.wait_for("> ")
        terminal.type("/quit")
        assert terminal.process.wait(60) == 0

    def test_ctrl_c_twice_at_the_prompt_leaves(self, terminal: Terminal) -> None:
        terminal.wait_for("> ")
        terminal.interrupt()
        terminal.wait_for("Ctrl-C once more")
        terminal.wait_for("> ")
        terminal.interrupt()
        assert terminal.process.wait(60) == 130

    def test_a_mistyped_command_does_not_end_the_conversation(self, terminal: Terminal) -> None:
        terminal.wait_for("> ")
        terminal.type("/load nowhere.state")
        terminal.wait_for("nowhere.state: No such file")
        terminal.wait_for("> ")
        terminal.type("/help")
        terminal.wait_for("/quit")
        terminal.wait_for("> ")
        terminal.type("/quit")
        assert terminal.process.wait(60) == 0

    def test_ctrl_d_leaves_and_the_template_is_said(self, terminal: Terminal) -> None:
        terminal.wait_for("template world. /help")
        terminal.wait_for("> ")
        os.write(terminal.here, b"\x04")
        assert terminal.process.wait(60) == 0
