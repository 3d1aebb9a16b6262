"""Stops runs at random moments and resumes them, until so many stops are done; each must end in the same bits.

    python scripts/kill.py --stops 20

A run here is a chain of FitNets, so that it has every kind of stage: a teacher, a student alone, a chain link and a
student with a hint and a distill stage each. It is stopped by SIGKILL at a random step or in the middle of writing a
file, or by SIGTERM at a random step, and resumed, several times over; then its weights and its metrics are compared
with those of a run that nothing disturbed. Exits with 1 if any differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

import kdrun.run.run  # noqa: F401  imported before the forks, which would each pay for it
from kdrun.cli import main
from kdrun.store.faults import planned

JOB = """dataset=synthetic dataset.train_count=200 teacher=cnn teacher.recipe.epochs=3 student=mlp_16 epochs=4
method=takd method.base=fitnets method.base.hint_epochs=3 method.assistants=[mlp_32] batch_size=32
teacher.recipe.batch_size=32 device=cpu name=run""".split()

TIMES = ("time", "seconds")


def attempt(out: Path, fault: str, save_seconds: float) -> tuple[int, Counter[str]]:
    """Starts or resumes the run in ``out`` in a process of its own; returns its exit code and the points passed."""
    begun = (out / "run" / "config.yaml").is_file()
    argv = ["train", f"resume={out / 'run'}"] if begun else ["train", f"out={out}", *JOB]
    passed = out / "passed.json"
    passed.unlink(missing_ok=True)
    if not (child := os.fork()):
        os.environ |= {"KDRUN_TESTING": "1", "KDRUN_FAULT": fault, "KDRUN_SAVE_SECONDS": str(save_seconds)}
        torch.set_num_threads(1)
        with (out / "log").open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        code = main(argv)
        if (plan := planned()) is not None:
            passed.write_text(json.dumps(plan.passed))
        os._exit(code)
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status), Counter(json.loads(passed.read_text()) if passed.is_file() else {})


def outcome(out: Path) -> dict[str, str]:
    """Returns the sha256 of all weights, and of all metrics but for the times."""
    digests = {}
    for path in sorted([*out.rglob("*.safetensors"), *out.rglob("metrics.jsonl")]):
        content = path.read_bytes()
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in content.splitlines()]
            content = json.dumps([{k: v for k, v in row.items() if k not in TIMES} for row in rows]).encode()
        digests[str(path.relative_to(out))] = hashlib.sha256(content).hexdigest()
    return digests


def main_() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stops", type=int, default=20, help="how many to make (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    options = parser.parse_args()
    chance, began = random.Random(options.seed), time.monotonic()
    stops: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as top:
        whole = Path(top) / "whole"
        whole.mkdir()
        code, points = attempt(whole, "kill@nothing:1", 0)
        wanted = outcome(whole)
        if code or not wanted:
            print((whole / "log").read_text())
            return 1
        print(f"undisturbed: {len(wanted)} files, points {dict(points)}")
        trials = same = 0
        while stops.total() < options.stops:
            out = Path(top) / f"trial{trials}"
            out.mkdir()
            code = disturbed(out, chance, points, stops)
            different = [name for name, digest in outcome(out).items() if wanted.get(name) != digest]
            trials, same = trials + 1, same + (code == 0 and outcome(out) == wanted)
            if code or outcome(out) != wanted:
                print(f"trial {trials}: exit code {code}, differs in {different}\n{(out / 'log').read_text()}")
    print(f"{stops.total()} stops in {trials} runs, {same} of them bit-identical, {time.monotonic() - began:.0f} s")
    print(", ".join(f"{point} {count}" for point, count in sorted(stops.items())))
    return int(same != trials)


def disturbed(out: Path, chance: random.Random, points: Counter[str], stops: Counter[str]) -> int:
    """Runs to the end in ``out``, stopped up to four times on the way; returns the last exit code."""
    for _ in range(4):
        point = chance.choice(sorted(points))
        action = chance.choice(("kill", "term")) if "/" in point else "kill"
        plan = f"{action}@{point}:{chance.randint(1, points[point])}"
        code, _ = attempt(out, plan, chance.choice((0, 0.05, 10)))
        if code not in (-9, 143):
            return code  # the point lay behind: it came to its end
        stops[f"{action}@{point}"] += 1
    return attempt(out, "kill@nothing:1", 10)[0]


if __name__ == "__main__":
    sys.exit(main_())
