"""What holds for every command: help, exit codes, one line for a failure, nothing left behind."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rwkv_edge import __version__

from .conftest import Run

COMMANDS = (
    "demo", "convert", "chat", "generate", "info", "compare", "perplexity", "bench", "doctor"
)  # fmt: skip
Process = Callable[..., "subprocess.CompletedProcess[str]"]
posix_only = pytest.mark.skipif(sys.platform == "win32", reason="signals and /dev/full are POSIX")


def test_version_is_that_of_the_package(run: Run) -> None:
    assert run("--version").out == f"rwkv-edge {__version__}\n"


def test_help_lists_every_command_whole(run: Run) -> None:
    result = run("--help")
    assert result.code == 0
    for command in COMMANDS:
        assert re.search(rf"^  {command} .*\.$", result.out, re.MULTILINE), command
    assert "..." not in result.out.split("Commands:")[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(run: Run, command: str) -> None:
    result = run(command, "--help")
    assert result.code == 0
    assert result.out.startswith(f"Usage: rwkv-edge {command}")
    assert result.err == ""


def test_no_arguments_show_the_help_and_count_as_wrong_usage(run: Run) -> None:
    result = run()
    assert result.code == 2
    assert "Commands:" in result.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["generate"], "Missing argument 'MODEL'"),
        (["generate", "m.gguf"], "give a prompt"),
        (["generate", "m.gguf", "-", "--file", "b"], "is given itself, not as -"),
        (["generate", "m.gguf", "a", "--resume", "b"], "--resume goes with --file"),
        (["generate", "m.gguf", "--file", "b", "--resume", "b", "--state", "b"], "without --state"),
        (["generate", "m.gguf", "--file", "b", "--checkpoint-every", "9"], "and --save-state"),
        (["generate", "m.gguf", "a", "--nonsense"], "--nonsense"),
        (["generate", "m.gguf", "a", "-n", "-1"], "--max-tokens"),
        (["generate", "m.gguf", "a", "-n", "many"], "--max-tokens"),
        (["generate", "m.gguf", "a", "--threads", "0"], "--threads"),
        (["convert", "m.pth", "--q4", "--q8"], "exclude each other"),
        (["convert", "m.pth", "--q4", "--type", "F16"], "exclude each other"),
        (["compare", "m.gguf", "--prompt", "a", "--file", "b"], "exclude each other"),
        (["bench"], "Missing argument 'MODEL'"),
        (["bench", "m.gguf", "--prefill", "many"], "--prefill takes whole numbers"),
        (["bench", "m.gguf", "--batch", "1,0"], "--batch takes whole numbers"),
        (["bench", "m.gguf", "--rounds", "0"], "--rounds"),
        (["bench", "m.gguf", "--skip", "lunch"], "--skip knows start, memory"),
        (["bench", "m.gguf", "--against", "numba"], "--against numba is the engine"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    run: Run, arguments: list[str], message: str
) -> None:
    result = run(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("rwkv-edge: ")
    assert message in result.err
    assert "--help" in result.err
    assert result.err.count("\n") == 1


READING = ("generate {} a", "chat {}", "compare {}", "perplexity {} {}", "bench {}", "info {}")


@pytest.mark.parametrize("command", [*READING, "convert {}"])
def test_a_missing_file_is_one_line(run: Run, tmp_path: Path, command: str) -> None:
    missing = tmp_path / "missing.gguf"
    result = run(*command.replace("{}", str(missing)).split())
    assert result.failed_with(f"{missing}: ")
    assert "no such file" in result.err.lower()


@pytest.mark.parametrize("command", [*READING, "convert {}"])
def test_a_folder_is_one_line(run: Run, tmp_path: Path, command: str) -> None:
    assert run(*command.replace("{}", str(tmp_path)).split()).failed_with(f"{tmp_path}: ")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("command", [*READING, "convert {}"])
def test_a_pipe_is_one_line_and_no_endless_wait(run: Run, tmp_path: Path, command: str) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # The text to measure may well come out of a pipe; the model may not.
    result = run(*command.replace("{}", str(pipe), 1).replace("{}", __file__).split())
    assert result.failed_with(f"{pipe}: is not a regular file")


@pytest.mark.parametrize("command", READING)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.9])
def test_a_truncated_model_is_one_line(
    run: Run, tmp_path: Path, gguf: Path, command: str, share: float
) -> None:
    whole = gguf.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole[: int(len(whole) * share)])
    assert run(*command.replace("{}", str(cut)).split()).failed_with(f"{cut}: ")


@pytest.mark.parametrize("command", [*READING, "convert {}"])
def test_a_foreign_file_is_one_line(run: Run, tmp_path: Path, command: str) -> None:
    foreign = tmp_path / "notes.txt"
    foreign.write_text("These are notes, and not a model at all. " * 50)
    assert run(*command.replace("{}", str(foreign)).split()).failed_with(f"{foreign}: ")


@pytest.mark.parametrize("command", READING[:-1])
def test_a_checkpoint_where_a_gguf_belongs_is_sent_to_convert(
    run: Run, pth: Path, command: str
) -> None:
    result = run(*command.replace("{}", str(pth)).split())
    assert result.failed_with("this is a .pth checkpoint; run rwkv-edge convert")


@pytest.mark.parametrize("command", ["generate {} a", "chat {}", "perplexity {} {}"])
def test_an_unknown_backend_is_one_line(run: Run, gguf: Path, command: str) -> None:
    result = run(*command.replace("{}", str(gguf)).split(), "--backend", "abacus")
    assert result.failed_with("backend 'abacus' does not exist; there are numba, reference, llama")


def test_a_missing_optional_package_is_one_line_that_says_what_to_install(
    run: Run, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    result = run("generate", gguf, "a", "--backend", "llama")
    assert result.failed_with('pip install "rwkv-edge[llama]"')


def test_control_characters_of_a_name_do_not_reach_the_terminal(run: Run) -> None:
    result = run("info", "evil\x1b[2J\nname.gguf")
    assert result.failed_with("evil")
    assert "\x1b" not in result.err


def test_an_error_that_nobody_expected_is_not_hidden(
    run: Run, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rwkv_edge.Model.load", lambda *arguments, **options: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        run("generate", gguf, "a")


def test_the_installed_program_and_the_module_are_the_same(run_process: Process) -> None:
    result = run_process("--version")
    assert (result.returncode, result.stdout) == (0, f"rwkv-edge {__version__}\n")


def test_output_that_the_terminal_cannot_show_does_not_end_the_program(
    run_process: Process, tmp_path: Path
) -> None:
    path = tmp_path / "ünknown-漢字.gguf"
    result = run_process("info", path, env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert result.returncode == 1
    assert "nknown" in result.stderr
    assert "Traceback" not in result.stderr


@posix_only
def test_a_full_disk_under_stdout_is_one_line(run_process: Process, gguf: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with full.open("w") as out:
        result = run_process("generate", gguf, "The", "-n", "5", stdout=out)
    assert result.returncode == 1
    assert result.stderr == "rwkv-edge: No space left on device\n"


@posix_only
def test_output_that_is_closed_early_is_one_line(
    start_process: Callable[..., "subprocess.Popen[str]"], endless_gguf: Path
) -> None:
    process = start_process("generate", endless_gguf, "The", "-n", "1000000")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(1)
    process.stdout.close()
    assert process.wait(60) == 1
    assert process.stderr.read() == "rwkv-edge: the output was closed before its end\n"


@posix_only
@pytest.mark.parametrize("saves", [False, True])
def test_ctrl_c_is_one_line_and_leaves_no_more_than_was_asked_for(
    start_process: Callable[..., "subprocess.Popen[str]"],
    endless_gguf: Path,
    tmp_path: Path,
    saves: bool,
) -> None:
    state = tmp_path / "a.state"
    saving = ("--save-state", state) if saves else ()
    process = start_process("generate", endless_gguf, "The", "-n", "1000000", *saving)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    told = f"; {state} holds the state after what was written" if saves else ""
    assert process.stderr.read() == f"rwkv-edge: interrupted{told}\n"
    assert list(tmp_path.iterdir()) == ([state] if saves else [])
