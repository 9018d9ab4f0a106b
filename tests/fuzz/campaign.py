"""Cases in a process of their own, which may die or hang; what it does is counted here."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TABLE = "tests.fuzz.targets"
# By the clock, and so far more than the processor time that ends a case: a machine may be busy.
SILENCE_S = 300.0


@dataclass(frozen=True)
class Finding:
    """A case that a reader did not stand; `python -m tests.fuzz` makes it again."""

    target: str
    seed: int
    case: int
    fault: str
    source: str = ""
    changes: tuple[str, ...] = ()

    def __str__(self) -> str:
        again = f"python -m tests.fuzz --target {self.target} --seed {self.seed} --case {self.case}"
        return f"{self.target}: {self.fault} [{self.source} {' '.join(self.changes)}] {again}"


@dataclass
class Result:
    """outcomes: how many cases of a target were refused, opened, run."""

    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def n_cases(self) -> int:
        return sum(sum(counter.values()) for counter in self.outcomes.values())


class Campaign:
    """Runs cases of the targets of one table; use it in a `with` block.

    corpus: made by `build_corpus`; scratch: a folder for damaged files.
    """

    def __init__(self, corpus: Path, scratch: Path, table: str = TABLE) -> None:
        self._command = [
            sys.executable,
            "-m",
            "tests.fuzz.worker",
            table,
            str(corpus),
            str(scratch),
        ]
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._errors = scratch / "stderr.txt"
        scratch.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "Campaign":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def run(
        self, target: str, seed: int, first: int, n_cases: int, silence_s: float = SILENCE_S,
        **options: Any,
    ) -> Result:  # fmt: skip
        """Cases first to first + n_cases - 1 of a target; a process that died is begun anew."""
        counter: Counter[str] = Counter()
        result = Result({target: counter})
        last = first + n_cases
        while first < last:
            answer = self._ask(
                {"target": target, "seed": seed, "first": first, "n_cases": last - first} | options
            )
            begun = None
            while True:
                try:
                    line = self._lines.get(timeout=silence_s)
                except queue.Empty:
                    line, death = None, f"was silent for {silence_s:.0f} s"
                    self._stop()
                else:
                    death = "" if line else self._death()
                if line is None:
                    case = first - 1 if begun is None else begun
                    result.findings.append(Finding(target, seed, case, f"the process {death}"))
                    counter["died"] += 1
                    # What dies before its first case would do so for ever.
                    first = last if begun is None else begun + 1
                    break
                answer = json.loads(line)
                if "done" in answer:
                    first = last
                    break
                if "outcome" not in answer:
                    begun = answer["case"]
                    continue
                if answer["case"] >= 0:
                    counter[answer["outcome"]] += 1
                if answer["fault"]:
                    result.findings.append(
                        Finding(
                            target, seed, answer["case"], answer["fault"],
                            answer.get("source", ""), tuple(answer.get("changes", ())),
                        )
                    )  # fmt: skip
        return result

    def _ask(self, job: dict[str, Any]) -> None:
        if self._process is None or self._process.poll() is not None:
            self._lines = queue.Queue()
            with open(self._errors, "wb") as errors:
                self._process = subprocess.Popen(
                    self._command, cwd=ROOT, text=True, encoding="utf-8",
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                    env=os.environ | {"PYTHONFAULTHANDLER": "1"},
                )  # fmt: skip
            threading.Thread(
                target=forward, args=(self._process.stdout, self._lines), daemon=True
            ).start()
        assert self._process.stdin is not None
        print(json.dumps(job), file=self._process.stdin, flush=True)

    def _death(self) -> str:
        assert self._process is not None
        code = self._process.wait()
        said = self._errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        shown = next((line for line in said if "Error" in line or "rror:" in line), "")
        if code < 0:
            name = signal.Signals(-code).name
            why = " (out of processor time)" if name == "SIGPROF" else ""
            return f"died of {name}{why}; it said {shown[:200]!r}"
        return f"ended with {code}; it said {(said or [''])[-1][:200]!r}"

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def forward(lines: Iterable[str], to: "queue.Queue[str | None]") -> None:
    """Lines of a process into a queue, which can be waited for with a limit; None at the end."""
    for line in lines:
        to.put(line)
    to.put(None)
