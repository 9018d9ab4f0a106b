"""Fuzz by hand, for as long as wanted: `python -m tests.fuzz --minutes 60`.

What was done is kept in a folder, and gone on with the next time. A finding names its case:
`python -m tests.fuzz --target NAME --seed S --case N` makes it again, leaves out the changes that
do not matter, and writes the damaged file into the folder.
"""

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.fuzz.campaign import Campaign, Result
from tests.fuzz.corpus import build_corpus
from tests.fuzz.mutations import MAX_CHANGES
from tests.fuzz.targets import TARGETS
from tests.fuzz.worker import corpus_of

# Cases of a target before the next one's turn, for each unit of its weight.
TURN_CASES = 50


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, help="stop after so long; default: one turn")
    parser.add_argument("--target", action="append", choices=TARGETS, help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="make one case again, of one target")
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"))
    args = parser.parse_args()
    corpus = args.folder / "corpus"
    if not corpus.exists():
        # One that was left half-way must not be taken for whole.
        making = args.folder / "corpus-in-the-making"
        if making.exists():
            parser.error(f"{making} was left unfinished; remove it")
        build_corpus(making)
        making.rename(corpus)
    # Without the packages that make them, there are no files of some kinds.
    names = args.target or [name for name in TARGETS if corpus_of(TARGETS[name], corpus)]
    with Campaign(corpus.resolve(), (args.folder / "scratch").resolve()) as campaign:
        if args.case is not None:
            if len(names) != 1:
                parser.error("--case needs one --target")
            return show_case(campaign, names[0], args.seed, args.case, args.folder)
        return go_on(campaign, names, args.seed, args.minutes, args.folder / "progress.json")


def show_case(campaign: Campaign, target: str, seed: int, case: int, folder: Path) -> int:
    """One case again, with as few changes as show the same fault."""
    dump = (folder / f"{target}-{seed}-{case}").resolve()

    def run(without: frozenset[int]) -> Result:
        return campaign.run(target, seed, case, 1, without=sorted(without), dump=str(dump))

    result = run(frozenset())
    for finding in result.findings:
        print(finding)
    if not result.findings:
        print(f"{target}: case {case} of seed {seed}: {dict(result.outcomes[target])}")
    else:
        kind = kind_of(result.findings[0].fault)
        without: frozenset[int] = frozenset()
        for number in range(MAX_CHANGES):
            fewer = run(without | {number}).findings
            if fewer and kind_of(fewer[0].fault) == kind:
                without |= {number}
        for finding in run(without).findings:
            print(f"with fewer changes: {' '.join(finding.changes) or finding.fault}")
    print(f"the file: {dump}")
    return 1 if result.findings else 0


def kind_of(fault: str) -> str:
    """What two faults that are the same have in common."""
    return fault.partition(":")[0][:40]


def go_on(
    campaign: Campaign, names: list[str], seed: int, minutes: float | None, progress: Path
) -> int:
    """Turn after turn until the time is over; prints findings as they come."""
    began = time.monotonic()
    kept: dict[str, Any] = json.loads(progress.read_text()) if progress.exists() else {}
    done = kept.setdefault(str(seed), {})
    n_findings = 0
    while True:
        for name in names:
            entry = done.setdefault(name, {"next": 0, "outcomes": {}, "findings": []})
            n_cases = TURN_CASES * TARGETS[name].weight
            result = campaign.run(name, seed, entry["next"], n_cases)
            for finding in result.findings:
                print(finding, flush=True)
                entry["findings"].append(str(finding))
            n_findings += len(result.findings)
            entry["next"] += n_cases
            entry["outcomes"] = Counter(entry["outcomes"]) + result.outcomes[name]
            progress.write_text(json.dumps(kept, indent=1))
            if minutes is not None and time.monotonic() - began > 60 * minutes:
                report(done)
                return 1 if n_findings else 0
        if minutes is None:
            report(done)
            return 1 if n_findings else 0


def report(done: dict[str, Any]) -> None:
    """Cases and outcomes of every target, all times together."""
    total: Counter[str] = Counter()
    for name, entry in done.items():
        outcomes = Counter(entry["outcomes"])
        total += outcomes
        listed = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(outcomes.items()))
        print(f"{name:16} {entry['next']:>9,} cases: {listed}; {len(entry['findings'])} findings")
    print(f"{'in all':16} {sum(total.values()):>9,} cases")


if __name__ == "__main__":
    sys.exit(main())
