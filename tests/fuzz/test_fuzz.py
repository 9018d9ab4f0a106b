"""Some thousands of damaged files through every reader, and whether faults would be seen."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.campaign import Campaign
from tests.fuzz.corpus import build_corpus
from tests.fuzz.mutations import GENERIC, damage
from tests.fuzz.structure import gguf_fields
from tests.fuzz.targets import TARGETS
from tests.fuzz.worker import corpus_of

# Another seed, and hours of cases, by hand: `python -m tests.fuzz --minutes 60 --seed 1`.
SEED = 5
# For each unit of a target's weight.
N_CASES = int(os.environ.get("RWKV_EDGE_FUZZ_CASES", "30"))
# Extras of this package, without which the corpus has no files of these kinds.
FOREIGN_TARGETS = ("tokenizer-json", "sentencepiece", "onnx", "onnx-model")


def require_foreign_packages() -> None:
    for package in ("tokenizers", "sentencepiece", "onnx"):
        pytest.importorskip(package)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "whole"
    build_corpus(folder)
    return folder


@pytest.fixture(scope="module")
def campaign(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    with Campaign(corpus, tmp_path_factory.mktemp("scratch")) as campaign:
        yield campaign


@pytest.mark.parametrize("target", TARGETS)
def test_no_damage_does_worse_than_being_refused(campaign: Campaign, target: str) -> None:
    if target in FOREIGN_TARGETS:
        require_foreign_packages()
    n_cases = N_CASES * TARGETS[target].weight
    result = campaign.run(target, SEED, 0, n_cases)
    assert not result.findings, "\n".join(map(str, result.findings[:10]))
    assert result.n_cases == n_cases
    assert result.outcomes[target]["refused"] > n_cases // 10
    # Some damage does no harm: else nothing behind the first check would be tried.
    assert result.outcomes[target]["refused"] < n_cases


def test_every_kind_of_file_is_damaged_by_some_target(corpus: Path) -> None:
    kinds = {kind for target in TARGETS.values() for kind in target.kinds}
    assert kinds == {path.name for path in corpus.iterdir() if path.is_dir()} - {"sources"}


@pytest.mark.parametrize("target", TARGETS)
def test_a_seed_makes_the_same_damage_each_time(corpus: Path, target: str) -> None:
    if target in FOREIGN_TARGETS:
        require_foreign_packages()
    files = corpus_of(TARGETS[target], corpus)
    special = TARGETS[target].special
    # Whatever was made before, and in whatever order.
    first = [damage(f"0/{target}/{case}", files, special) for case in range(60)]
    again = [damage(f"0/{target}/{case}", files, special) for case in reversed(range(60))]
    assert first == again[::-1]
    assert {one.source for one in first} <= set(files)
    made = {damage(f"0/{target}/{case}", files, special).data for case in range(200)}
    assert len(made) > 150


# Python's own reader of instructions warns of a text's escapes.
@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_every_change_makes_a_difference_to_some_file(corpus: Path) -> None:
    require_foreign_packages()
    seen: set[str] = set()
    for name, target in TARGETS.items():
        files = corpus_of(target, corpus)
        for case in range(600):
            made = damage(f"1/{name}/{case}", files, target.special)
            if made.data != files[made.source] and len(made.changes) == 1:
                seen.add(made.changes[0].partition(":")[2])
    changes = {change.__name__ for target in TARGETS.values() for change in target.special}
    assert seen >= changes | {change.__name__ for change in GENERIC}


def test_the_numbers_of_a_header_are_found_where_they_are(corpus: Path) -> None:
    """Each tensor's offset is the last of its numbers, and a multiple of the alignment."""
    for path in (corpus / "model").iterdir():
        data = path.read_bytes()
        offsets = [field for field in gguf_fields(data) if field[2] == "offset"]
        assert len(offsets) == int.from_bytes(data[8:16], "little")
        assert all(int.from_bytes(data[at : at + n], "little") % 32 == 0 for at, n, _ in offsets)


def test_changes_can_be_left_out_one_by_one(corpus: Path) -> None:
    files = corpus_of(TARGETS["gguf"], corpus)
    seed = next(s for s in map(str, range(100)) if len(damage(s, files, ()).changes) == 3)
    whole = damage(seed, files, ())
    fewer = damage(seed, files, (), frozenset({1}))
    assert fewer.changes == (whole.changes[0], whole.changes[2])
    assert damage(seed, files, (), frozenset({0, 1, 2})).data == files[whole.source]


PLANTED = {
    "crash": "died of SIGABRT",
    "hang": "out of processor time",
    "allocate": "allocated 104,",
    "allocate_too_much": "raised MemoryError",
    "run_code": "event exec",
    "start_program": "event os.system",
    "write_file": "event open .* w",
    "make_canary": "a gadget ran",
    "raise_key_error": "raised KeyError",
    "say_two_lines": "not one printable line",
    "say_too_much": "the message has 1,",
    "fail_later": "running raised AssertionError",
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    folder = tmp_path_factory.mktemp("planted")
    (folder / "plain").mkdir()
    (folder / "plain" / "a").write_bytes(bytes(range(256)))
    with Campaign(folder, tmp_path_factory.mktemp("p"), "tests.fuzz.planted") as campaign:
        yield campaign


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signals and limits are Linux's")
@pytest.mark.parametrize("target", PLANTED)
def test_a_planted_fault_is_found(
    planted: Campaign, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RWKV_EDGE_FUZZ_HANG_S", "2")
    # Some changes change nothing.
    found = planted.run(target, 0, 3, 2).findings
    assert found
    for finding in found:
        assert finding.case in (3, 4)
        assert re.search(PLANTED[target], finding.fault), finding.fault


def test_a_process_that_says_nothing_is_ended_and_the_next_case_runs(planted: Campaign) -> None:
    result = planted.run("sleep", 0, 0, 1, silence_s=10)
    assert result.n_cases == 1
    assert result.findings
    assert all("silent for 10 s" in finding.fault for finding in result.findings)


def test_what_behaves_is_let_be(planted: Campaign) -> None:
    assert planted.run("well", 0, 0, 20).outcomes["well"] == {"opened": 20}
    result = planted.run("refuse", 0, 0, 20)
    assert not result.findings
    assert result.outcomes["refuse"] == {"refused": 20}
