"""Feeds kdrun mutated configs, words, checkpoints, records and data, and reports what is not an error of one line.

    python scripts/fuzz.py --minutes 30 --seed 1 --keep /tmp/found
    python scripts/fuzz.py --only words --iteration 4711 --seed 1      one input again, with what it raises

An input may be taken, or refused by an error of ``kdrun.errors`` in one line. It may not raise anything else, take
more than five seconds or 500 MB, end the process, write elsewhere, or start a program. Inputs follow from seed, target
and iteration alone. Batches run in forked processes, so that one that dies ends nothing. Exits with 1 after a finding.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from battery.cases import complaint, conduct
from battery.many import noted
from battery.runner import Outcome, changes, furnish, snapshot, start, warm
from battery.targets import TARGETS, Target

from kdrun.errors import KdrunError

BATCH = 40
SLOW = 5.0
MEGABYTES = 500


@dataclass(frozen=True)
class Failure:
    """An input that did what none may."""

    target: str
    iteration: int
    why: str

    def line(self, seed: int) -> str:
        return f"{self.target}: {self.why}\n    again: --only {self.target} --iteration {self.iteration} --seed {seed}"


def once(target: Target, seed: int, iteration: int, box: Path) -> str:
    """Feeds the input of an iteration to its target; returns what is wrong, or ""."""
    chance = Random(f"{seed} {target.name} {iteration}")
    peak, began = peak_memory(), time.monotonic()
    try:
        outcome = target.feed(box, chance)
    except KdrunError as error:
        outcome = Outcome(error.exit_code, err=f"kdrun: error: {error}\n" if "\n" not in str(error) else f"{error}\n")
    except BaseException as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"raw {type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}: {str(error)[:120]!r}"
    if time.monotonic() - began > SLOW:
        return f"took {time.monotonic() - began:.0f} s"
    if peak_memory() - peak > MEGABYTES:
        return f"took {peak_memory() - peak:.0f} MB"
    return complaint(outcome, (0, 1, 2, 3, 4))


def peak_memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def batch(target: Target, seed: int, iterations: Sequence[int], top: Path) -> list[Failure]:
    """Runs iterations in one forked process; one that dies or hangs is a finding, and so is what it wrote elsewhere."""
    box = furnish(top)
    target.prepare(box)
    log, before = top / "log.jsonl", snapshot(top)

    def all_of_them() -> None:
        with log.open("w") as file:
            for iteration in iterations:
                file.write(json.dumps([iteration, None]) + "\n")
                file.flush()
                file.write(json.dumps([iteration, once(target, seed, iteration, box)]) + "\n")
                file.flush()
        os._exit(0)

    outcome = start(top, [], patch=all_of_them, space=3 << 30).finish(60 + len(iterations) * target.seconds)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    failures = [Failure(target.name, iteration, why) for iteration, why in rows if why]
    last = rows[-1] if rows else [iterations[0], None]
    if last[1] is None:
        how = "hung" if outcome.timed_out else f"ended the process (exit code {outcome.code})"
        failures.append(Failure(target.name, last[0], how))
    written = [path for path in changes(before, snapshot(top)) if not path.startswith(("box", "log.jsonl"))]
    if did := conduct(top, Outcome(0, noted=noted(top)), written, ()):
        failures.append(Failure(target.name, iterations[0], f"in this batch of {len(iterations)}: {did}"))
    return failures


def fuzz(
    targets: Sequence[Target], seed: int, over: Callable[[int], bool], most: int, scratch: Path
) -> tuple[Counter[str], list[Failure]]:
    """Feeds the targets in turn, a batch of at most ``most`` each, until ``over`` of how many inputs were fed."""
    fed, failures, known = Counter[str](), list[Failure](), set[str]()
    while not over(fed.total()):
        for target in targets:
            top = scratch / "batch"
            count = min(most, target.batch)
            for each in batch(target, seed, range(fed[target.name], fed[target.name] + count), top):
                kind = each.why.partition(":")[0] + each.why.partition(":")[2][:30]
                if (mark := f"{each.target} {kind}") not in known:
                    known.add(mark)
                    failures.append(each)
                    print(each.line(seed), flush=True)
            fed[target.name] += count
            shutil.rmtree(top)
    return fed, failures


def keep(failures: Sequence[Failure], seed: int, folder: Path, scratch: Path) -> None:
    """Writes the input of each finding into ``folder``."""
    for each in failures:
        place = folder / f"{each.target}-{seed}-{each.iteration}"
        target = TARGETS[each.target]
        target.prepare(furnish(scratch / "kept"))
        target.write(scratch / "kept" / "box", Random(f"{seed} {each.target} {each.iteration}"))
        shutil.copytree(scratch / "kept" / "box", place, dirs_exist_ok=True)
        (place / "why.txt").write_text(each.line(seed) + "\n")
        shutil.rmtree(scratch / "kept")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long (default: 1)")
    parser.add_argument("--inputs", type=int, help="how many inputs, in place of --minutes")
    parser.add_argument("--seed", type=int, default=0, help="of all inputs (default: 0)")
    parser.add_argument(
        "--only", nargs="+", choices=list(TARGETS), default=list(TARGETS), help="the targets (default: all)"
    )
    parser.add_argument("--iteration", type=int, help="feed one input again, of one target")
    parser.add_argument("--keep", type=Path, help="a folder for the inputs that were found")
    options = parser.parse_args()
    scratch, began = Path(tempfile.mkdtemp(prefix="fuzz-")), time.monotonic()
    try:
        warm(scratch)
        for name in options.only:
            TARGETS[name].stock(scratch / "stock")
        chosen = [TARGETS[name] for name in options.only]
        if options.iteration is not None:
            failures = [
                each
                for target in chosen
                for each in batch(target, options.seed, [options.iteration], scratch / "batch")
            ]
            print(*(each.line(options.seed) for each in failures), sep="\n")
        else:
            began = time.monotonic()

            def over(fed: int) -> bool:
                return fed >= options.inputs if options.inputs else time.monotonic() - began > 60 * options.minutes

            most = min(BATCH, -(-options.inputs // len(chosen))) if options.inputs else BATCH
            fed, failures = fuzz(chosen, options.seed, over, most, scratch)
            print(", ".join(f"{name} {count}" for name, count in fed.items()))
            print(f"{fed.total()} inputs in {time.monotonic() - began:.0f} s, {len(failures)} kinds of failures")
        if options.keep:
            keep(failures, options.seed, options.keep, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
