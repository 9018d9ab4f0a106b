"""A process that damages files and opens them, case by case; `campaign` watches it.

python -m tests.fuzz.worker TABLE CORPUS SCRATCH, then a line of JSON for each job on stdin.
"""

import contextlib
import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.fuzz.corpus import CANARY
from tests.fuzz.judge import Judge, Verdict, limit_memory
from tests.fuzz.mutations import Damaged, damage

# A case that hangs inside a library ends the process after so much processor time.
HANG_S = float(os.environ.get("RWKV_EDGE_FUZZ_HANG_S", "60"))
# Far more than any reader may take, and far less than the machine has.
ADDRESS_SPACE_BYTES = 2 << 30


def corpus_of(target: Any, corpus: Path) -> dict[str, bytes]:
    """The files that a target damages, by KIND/NAME."""
    return {
        f"{kind}/{path.name}": path.read_bytes()
        for kind in target.kinds
        for path in sorted((corpus / kind).iterdir())
        if path.is_file()
    }


def case_seed(target: str, seed: int, case: int) -> str:
    return f"{seed}/{target}/{case}"


class Worker:
    """Runs cases of one table of targets."""

    def __init__(self, table: str, corpus: Path, scratch: Path) -> None:
        self._targets: dict[str, Any] = importlib.import_module(table).TARGETS
        self._corpus = corpus
        self._scratch = scratch
        self._files: dict[str, dict[str, bytes]] = {}
        self._judge = Judge(corpus / CANARY)
        limit_memory(ADDRESS_SPACE_BYTES)

    def damaged(self, target: str, seed: int, case: int, without: frozenset[int]) -> Damaged:
        return damage(
            case_seed(target, seed, case),
            self._files[target],
            self._targets[target].special,
            without,
        )

    def prepare(self, target: str) -> Verdict:
        """Read the target's files; open each as it is, so that nothing is imported later on."""
        if target in self._files:
            return Verdict("opened")
        self._files[target] = corpus_of(self._targets[target], self._corpus)
        for data in self._files[target].values():
            # Twice, because what is imported by the first is not the reader's doing.
            for _ in range(2):
                verdict = self.judged(target, data)
            if verdict.fault:
                return Verdict(verdict.outcome, f"a file that nobody damaged: {verdict.fault}")
        return Verdict("opened")

    def judged(self, name: str, data: bytes) -> Verdict:
        """Open one file, and use what could be opened."""
        target = self._targets[name]
        folder = self._scratch / name
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"damaged{target.suffix}"
        path.write_bytes(data)
        with hang_limit(HANG_S):
            verdict, run = self._judge.read(
                lambda: target.open(path, self._corpus), len(data), target.allowed_events
            )
            if run is None or verdict.fault:
                return verdict
            return self._judge.run(run)


@contextlib.contextmanager
def hang_limit(seconds: float) -> Any:
    """End this process after so much processor time, where the system can."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    # Its default is to end the process, which is all that helps inside a library.
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def main() -> None:
    table, corpus, scratch = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    # Results have a channel of their own: libraries print what they like.
    results = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    worker = Worker(table, corpus, scratch)
    for line in sys.stdin:
        job = json.loads(line)
        target, seed, first, n_cases = job["target"], job["seed"], job["first"], job["n_cases"]
        prepared = worker.prepare(target)
        print(
            json.dumps({"case": -1, "fault": prepared.fault, "outcome": "prepared"}), file=results
        )
        for case in range(first, first + n_cases):
            print(json.dumps({"case": case}), file=results)
            damaged = worker.damaged(target, seed, case, frozenset(job.get("without", ())))
            if "dump" in job:
                Path(job["dump"]).write_bytes(damaged.data)
            verdict = worker.judged(target, damaged.data)
            answer = {"case": case, "outcome": verdict.outcome, "fault": verdict.fault}
            if verdict.fault or "dump" in job:
                answer |= {"source": damaged.source, "changes": damaged.changes}
            print(json.dumps(answer), file=results)
        print(json.dumps({"done": True}), file=results)


if __name__ == "__main__":
    main()
